"""A comparison or an examination at work on CAM runs: who deletes or renames one meanwhile is told.

A job puts a token, its process and signs of life into its own part of a run's record: ``compare`` or
``bias``. While they are fresh, the runs that it reads are neither deleted nor renamed. A job whose
token or runs are gone nevertheless, as it was taken for dead, writes nothing: its fields would be
nobody's.
"""

import contextlib
import datetime
import os
import socket
import time
import types
import uuid

from . import _record
from ._heart import Heart
from ._lease import Stopped

#: parts of a run's record, with what is being done while one says ``running``
DOING = {"bias": "examined by find_background_bias", "compare": "compared by compare_cams"}
#: what a job on that part is called
NAMES = {"bias": "examination", "compare": "comparison"}
# between two signs of life, and between two looks whether it is to stop
_BEAT_SECONDS, _LOOK_SECONDS = 20.0, 2.0


class AtWork(Heart):
    """A job's hold on its part of a run's record; as a context it gives signs of life.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the key of the run whose record has the part
        part: ``"bias"`` or ``"compare"``
        cam_keys (None): the keys of all runs that the job reads; None for that one

    Raises:
        ValueError: if one of the runs is at work, or another job holds the part
    """

    def __init__(self, dataset, key, part, cam_keys=None):
        self.cam_keys = list(dict.fromkeys([key, *(cam_keys or [])]))
        for name in self.cam_keys:
            _record.check_idle(_record.config_of(dataset, name), name)
        check_free(dataset, key, part)
        super().__init__(uuid.uuid4().hex, min(_BEAT_SECONDS, _LOOK_SECONDS))
        self._dataset, self._key, self._part = dataset, key, part
        # by their ids: under the key of one that was deleted there may be another
        self._runs = {name: _record.document_id(dataset, name) for name in self.cam_keys}
        self._stop, self._written = False, time.monotonic()

    def entries(self):
        """What the part says of it, as JSON-able values."""
        return {
            "cam_keys": self.cam_keys,
            "token": self._token,
            # a clone of the dataset has a copy, which nobody works on
            "dataset_id": str(self._dataset._doc.id),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "heartbeat": _record.clock().isoformat(),
        }

    def _beat(self):
        wanted = {f"config.{self._part}.stop": True}
        if time.monotonic() - self._written < _BEAT_SECONDS:
            found = _record.db().runs.find_one(self._own(), wanted)
        else:
            beat = {f"config.{self._part}.heartbeat": _record.clock().isoformat()}
            found = _record.db().runs.find_one_and_update(self._own(), {"$set": beat}, wanted)
            self._written = time.monotonic()
        if found is not None:
            self._stop = bool(found.get("config", {}).get(self._part, {}).get("stop"))

    def heed(self):
        """Called between two steps of the job.

        Raises:
            Stopped: if somebody asked it to stop, two seconds ago or more
        """
        if self._stop:
            raise Stopped(
                f"the {NAMES[self._part]} of {self._key!r} was asked to stop; nothing of it is kept"
            )

    def _own(self):
        return {"_id": self._runs[self._key], f"config.{self._part}.token": self._token}

    def holds(self):
        """Whether the part of the record is still this job's."""
        here = _record.document_id(self._dataset, self._key) == self._runs[self._key]
        return here and _record.db().runs.count_documents(self._own(), limit=1) > 0

    def check(self, written="nothing"):
        """Called right before something is written.

        Args:
            written ("nothing"): what the message says was written

        Raises:
            RuntimeError: if a run was deleted or renamed, or if another job holds the part
        """
        lost = [name for name, number in self._runs.items() if not self._is_there(name, number)]
        if lost or not self.holds():
            raise RuntimeError(
                f"the run {(lost or [self._key])[0]!r} was deleted, renamed or examined anew meanwhile; "
                f"{written} was written"
            )

    def _is_there(self, name, number):
        if _record.document_id(self._dataset, name) != number:
            return False
        leaving = {"_id": number, "config.status": {"$in": ["deleting", "renaming"]}}
        return _record.db().runs.count_documents(leaving, limit=1) == 0


def heeding(steps, held):
    """Passes on the steps of a job, and ends it where somebody asks it to stop.

    Args:
        steps: a generator that takes back what it wrote when it is closed
        held: returns the job's :class:`AtWork`, or None before there is one

    Yields:
        what the steps do

    Raises:
        Stopped: if it was asked to stop
    """
    with contextlib.closing(steps):
        for step in steps:
            at_work = held()
            if at_work is not None:
                at_work.heed()
            yield step


def ask_to_stop(dataset, key, part):
    """Asks the job on a part of a run's record to stop, wherever it runs.

    Raises:
        ValueError: if there is none at work
    """
    record = getattr(_record.config_of(dataset, key), part, None)
    if not is_alive(dataset, record):
        raise ValueError(f"cam_key: no {NAMES[part]} of the run {key!r} is at work")
    own = {"_id": _record.document_id(dataset, key), f"config.{part}.token": record["token"]}
    _record.db().runs.update_one(own, {"$set": {f"config.{part}.stop": True}})


def check_free(dataset, key, part):
    """Raises a ValueError if a job holds a part of a run's record.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        part: ``"bias"`` or ``"compare"``
    """
    record = getattr(_record.config_of(dataset, key), part, None)
    if is_alive(dataset, record):
        raise ValueError(_said(key, part, record))


def check_unread(dataset, key):
    """Raises a ValueError if a job reads a run at this moment: its own record, or that of another run.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
    """
    for part in DOING:
        for _, record in jobs_on(dataset, key, part):
            if is_alive(dataset, record):
                raise ValueError(_said(key, part, record))


def jobs_on(dataset, key, part):
    """The records that a run is in: a job on several runs is recorded with the first of them.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        part: ``"bias"`` or ``"compare"``

    Yields:
        (key of the run whose record it is, the part of that record), also of jobs that have ended
    """
    for other in _record.list_runs(dataset):
        record = getattr(_record.config_of(dataset, other), part, None)
        if isinstance(record, dict) and key in (other, *(record.get("cam_keys") or [])):
            yield other, record


def _said(key, part, record):
    where = (
        "this process"
        if record["token"] in _record.ACTIVE
        else f"process {record['pid']} on {record['host']}"
    )
    return (
        f"cam_key: the run {key!r} is being {DOING[part]} in {where}; wait for that, or stop it with "
        "stop_cam_run"
    )


def status_of(dataset, record):
    """How the job on a part of a record stands: as a run, see :func:`_record.status_of`; or None."""
    if not isinstance(record, dict):
        return None
    status = record.get("status")
    return "interrupted" if status == "running" and not is_alive(dataset, record) else status


def is_alive(dataset, record):
    """Whether a job works on a part of a record; what an earlier version wrote does not say so."""
    names = ("status", "token", "dataset_id", "host", "pid", "heartbeat", "cam_keys")
    if not isinstance(record, dict) or not all(name in record for name in names):
        return False
    seen = None
    with contextlib.suppress(TypeError, ValueError):
        seen = datetime.datetime.fromisoformat(record["heartbeat"])
    own = record["dataset_id"] == str(dataset._doc.id)
    return _record.is_alive(types.SimpleNamespace(**{**record, "own": own, "heartbeat": seen}))
