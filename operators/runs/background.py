"""Records of runs in the background: which process works on what, how far it is, and what became of it.

A run in the background is a process of its own that the App's server started. Its record is there from the
first moment, while its run is registered only once its model is loaded; it stays until somebody dismisses it
or the next one begins.
"""

import json
import os
import threading
import types
import uuid

from . import record
from .lease import Heartbeat, LeaseLost, Stopped
from .process import here
from .retry import retried

#: the environment variable of the App's server that forbids them, by ``0``
VARIABLE = "CAM51_BACKGROUND_RUNS"
# A collection of FiftyOne's database: a document for each.
_COLLECTION = "cam51_background"
_SECONDS = 1.0


def is_allowed():
    """Whether this server may start runs in the background."""
    return os.environ.get(VARIABLE, "1").strip().lower() not in ("0", "false", "no", "off")


def _collection():
    return record.db()[_COLLECTION]


@retried
def register(dataset, number, pid, operator, label, request):
    """Stores the record of a process that was just started.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        number: an ``ObjectId``, the process's own name for its record
        pid: the process's number
        operator: the URI of the operator that it executes
        label: what it does, for users
        request: the JSON-able request of its execution context
    """
    entries = {
        "dataset_id": dataset._doc.id, "operator": operator, "label": label, "request": json.dumps(request),
        "status": "running", "token": uuid.uuid4().hex, **here(), "pid": pid, "heartbeat": record.clock(),
        "started": record.now(), "ended": None, "progress": {"fraction": 0.0, "label": "starting a process"},
        "stop": False, "said": None, "error": None,
    }  # fmt: skip
    _collection().replace_one({"_id": number}, {"_id": number, **entries}, upsert=True)


@retried
def read(number):
    """The record of a run in the background, or None."""
    return _collection().find_one({"_id": number})


@retried
def list_of(dataset):
    """The runs in the background of a dataset, the newest first.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`

    Returns:
        a list of dicts; their ``status`` is ``"running"``, ``"finished"``, ``"failed"`` or ``"interrupted"``,
        which is also that of one whose process is gone
    """
    found = list(_collection().find({"dataset_id": dataset._doc.id}, {"request": False}))
    for row in found:
        if row["status"] == "running" and not _is_alive(row):
            row["status"] = "interrupted"
    return sorted(found, key=lambda row: row["_id"], reverse=True)


def _is_alive(row):
    return record.is_alive(types.SimpleNamespace(**{**row, "own": True}))


def check_free(dataset):
    """Raises a ValueError if a run in the background works on a dataset."""
    for row in list_of(dataset):
        if row["status"] == "running":
            raise ValueError(
                f"A run in the background works on this dataset ({describe(row)}); wait, press Stop in the "
                'panel, or switch on "Start beside the other"'
            )


def describe(row):
    """What a run in the background does and how far it is: ``"Compare heatmaps, 63 %"``."""
    return f"{row['label']}, {int(100 * row['progress']['fraction'])} %"


@retried
def ask_to_stop(dataset, number):
    """Asks a run in the background to stop; one that has ended is not changed."""
    mine = {"_id": number, "dataset_id": dataset._doc.id, "status": "running"}
    _collection().update_one(mine, {"$set": {"stop": True}})


@retried
def delete_ended(dataset, number=None):
    """Deletes the record of one of a dataset's runs in the background, or of all, unless it is running."""
    ended = [row["_id"] for row in list_of(dataset) if row["status"] != "running"]
    chosen = [n for n in ended if number in (None, n)]
    _collection().delete_many({"_id": {"$in": chosen}})


def delete_of_nobody():
    """Deletes the records of datasets that are gone, unless their process lives; returns how many."""
    listed = record.db().datasets.distinct("_id")
    rows = _collection().find({"dataset_id": {"$nin": listed}}, {"request": False})
    gone = [row["_id"] for row in rows if not _is_alive(row)]
    return _collection().delete_many({"_id": {"$in": gone}}).deleted_count


@retried
def finish(number, status, error=None, said=None):
    """Notes how a run in the background ended; the first to say so is believed.

    Args:
        number: of its record
        status: ``"finished"``, ``"failed"`` or ``"interrupted"``
        error (None): why, for users
        said (None): what it found, for users
    """
    entries = {"status": status, "error": error, "said": said, "ended": record.now()}
    _collection().update_one({"_id": number, "status": "running"}, {"$set": entries})


class BackgroundLease(Heartbeat):
    """Lease of a process on its record: sends heartbeat and progress, and learns that it is to stop.

    Args:
        stored: the record, see :func:`read`

    Attributes:
        asked: a ``threading.Event``, set once it is to stop
    """

    def __init__(self, stored):
        super().__init__(stored["token"], _SECONDS)
        self._query = {"_id": stored["_id"], "token": stored["token"]}
        self._progress = stored["progress"]
        self._parent = os.getppid()
        self._why, self._lost = None, False
        self.asked = threading.Event()

    def note_progress(self, _, progress):
        """Takes a ``fiftyone.operators.executor.ExecutionProgress``, which the next heartbeat sends."""
        self._progress = {
            "fraction": float(progress.progress or 0.0),
            "label": progress.label or "",
        }

    def end(self, why):
        """Lets the run end at its next step.

        Args:
            why: for users
        """
        self._why = self._why or why
        self.asked.set()

    @property
    def why(self):
        """Why it was to end, or None."""
        return self._why

    def check(self):
        """Called between two steps.

        Raises:
            Stopped: if it is to end
            LeaseLost: if its record is gone, as its dataset may be
        """
        if self._lost:
            raise LeaseLost("the record of this run in the background was deleted")
        if self.asked.is_set():
            raise Stopped(self._why)

    def _send(self):
        if os.getppid() != self._parent:
            self.end("the App's server ended")
        changes = {"heartbeat": record.clock(), "progress": self._progress}
        found = _collection().find_one_and_update(self._query, {"$set": changes}, {"stop": True})
        self._lost = found is None
        if self._lost or found["stop"]:
            self.end("it was stopped")
