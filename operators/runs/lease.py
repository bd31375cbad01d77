"""Who works on a CAM run at this moment, and asking it to stop.

The computation of a run has a lease on the run's record, a comparison or a bias analysis on its own part
of the record, ``compare`` or ``bias``: a token, its process, and a heartbeat. While the heartbeat is
fresh, no other process takes the record over, and the runs that a job reads are neither deleted nor renamed.
A job whose token or runs are gone nevertheless, as it was taken for dead, writes nothing: its fields
would be nobody's.
"""

import contextlib
import datetime
import threading
import time
import types
import uuid

import pymongo
from pymongo.errors import PyMongoError

from . import record
from .process import here
from .retry import retried

#: parts of a run's record, with what is being done while one says ``running``
DOING = {"bias": "analysed by find_background_bias", "compare": "compared by compare_cams"}
#: what a job on that part is called
NAMES = {"bias": "analysis", "compare": "comparison"}
#: what can work on a run -> the part of a record that says so; the computation has the record itself
KINDS = {"computation": None, "comparison": "compare", "analysis": "bias"}
# The record is one document: it names the first failures and counts all; the results have the rest.
FAILURES_KEPT = 100
# Between two heartbeats of a computation, and of a job, which looks more often whether it is to stop.
_RUN_SECONDS = 2.0
_JOB_SECONDS, _LOOK_SECONDS = 20.0, 2.0


class Stopped(Exception):
    """A computation or a job was asked to stop: raised inside it, between two batches or steps."""


class LeaseLost(Exception):
    """The run's record was deleted or taken over while it ran."""


class Heartbeat:
    """Heartbeat thread of what works in this process; as a context it runs.

    A database that does not answer is no reason to stop: the next heartbeat may find it again.

    Args:
        token: what the job's record has; until the end it is one of ``record.ACTIVE``
        seconds: between two heartbeats, at most
    """

    def __init__(self, token, seconds):
        self._token, self._seconds = token, seconds
        self._due, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="cam51-heartbeat", daemon=True)

    def __enter__(self):
        record.ACTIVE.add(self._token)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._due.set()
        self._thread.join()
        record.ACTIVE.discard(self._token)

    def send_now(self):
        """Sends a heartbeat without waiting for its time."""
        self._due.set()

    def _send(self):
        """Sends one heartbeat."""
        raise NotImplementedError

    def _run(self):
        while True:
            self._due.wait(self._seconds)
            self._due.clear()
            if self._end.is_set():
                return
            with contextlib.suppress(PyMongoError), pymongo.timeout(10):
                self._send()


class RunLease(Heartbeat):
    """Lease of the computation of a run: sends its heartbeat and progress to the run's record.

    After each batch, and every two seconds at least, it looks whether the run is to stop or was taken
    away; every two seconds it stores the progress. A database that does not answer is no reason to
    stop here: who writes waits for it.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        token: what :func:`register` or :func:`claim` returned
        state: returns ``(progress, failures)``: a dict, and a list of dicts
    """

    def __init__(self, dataset, key, token, state):
        super().__init__(token, _RUN_SECONDS)
        self._query = {"_id": record.document_id(dataset, key), "config.token": token}
        self._dataset, self._key, self._state = dataset, key, state
        self._stop = self._lost = False
        self._written = time.monotonic()

    def check(self):
        """Called after each batch.

        Raises:
            Stopped: if somebody asked the run to stop, at the latest two batches ago
            LeaseLost: if the record is no longer this run's
        """
        self.send_now()
        if self._lost:
            raise LeaseLost(
                f"the record of the run {self._key!r} was deleted or taken over while it ran: the dataset "
                "is gone, or another process has the run now"
            )
        if self._stop:
            raise Stopped(f"the run {self._key!r} was asked to stop; pass resume=True to resume it")

    def _send(self):
        wanted = {"config.stop": True}
        if time.monotonic() - self._written < _RUN_SECONDS:
            found = record.db().runs.find_one(self._query, wanted)
        else:
            progress, failures = self._state()
            entries = {
                "config.progress": record.jsonable(progress),
                "config.failures": record.jsonable(failures[:FAILURES_KEPT]),
                "config.heartbeat": record.clock(),
            }
            found = record.db().runs.find_one_and_update(self._query, {"$set": entries}, wanted)
            self._written = time.monotonic()
        # Who deletes a dataset deletes the records that it had when they opened it.
        listed = record.is_listed(self._dataset, self._key, self._query["_id"])
        self._lost = found is None or not listed
        self._stop = bool((found or {}).get("config", {}).get("stop"))

    def forget_unlisted(self):
        """Deletes the record if it is this run's and its dataset, which was deleted, lists it no more."""
        number = self._query["_id"]
        if number is None or record.is_listed(self._dataset, self._key, number):
            return
        if record.db().runs.count_documents(self._query, limit=1):
            record.delete_document(number)


class JobLease(Heartbeat):
    """Lease of a job on its part of a run's record.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the key of the run whose record has the part
        part: ``"bias"`` or ``"compare"``
        cam_keys (None): the keys of all runs that the job reads; None for that one

    Raises:
        ValueError: if one of the runs is running, or another job holds the part
    """

    def __init__(self, dataset, key, part, cam_keys=None):
        self.cam_keys = list(dict.fromkeys([key, *(cam_keys or [])]))
        for name in self.cam_keys:
            record.check_idle(record.config_of(dataset, name), name)
        check_free(dataset, key, part)
        super().__init__(uuid.uuid4().hex, min(_JOB_SECONDS, _LOOK_SECONDS))
        self._dataset, self._key, self._part = dataset, key, part
        # by their ids: under the key of one that was deleted there may be another
        self._runs = {name: record.document_id(dataset, name) for name in self.cam_keys}
        self._stop, self._lost, self._written = False, False, time.monotonic()
        self._declared = []

    def entries(self):
        """What the part says of it, as JSON-able values."""
        return {
            "cam_keys": self.cam_keys,
            "token": self._token,
            # a clone of the dataset has a copy, which nobody works on
            "dataset_id": str(self._dataset._doc.id),
            **here(),
            "heartbeat": record.clock().isoformat(),
        }

    def _send(self):
        wanted = {f"config.{self._part}.stop": True}
        if time.monotonic() - self._written < _JOB_SECONDS:
            found = record.db().runs.find_one(self.query(), wanted)
        else:
            sent = {f"config.{self._part}.heartbeat": record.clock().isoformat()}
            found = record.db().runs.find_one_and_update(self.query(), {"$set": sent}, wanted)
            self._written = time.monotonic()
        number = self._runs[self._key]
        self._lost = found is None or not record.is_listed(self._dataset, self._key, number)
        if found is not None:
            self._stop = bool(found.get("config", {}).get(self._part, {}).get("stop"))

    def raise_if_stopped(self):
        """Called between two steps of the job.

        Raises:
            Stopped: if somebody asked it to stop, two seconds ago or more
            RuntimeError: if the run was deleted or renamed then, or another job holds the part
        """
        if self._lost:
            self.check()
        if self._stop:
            raise Stopped(
                f"the {NAMES[self._part]} of {self._key!r} was asked to stop; nothing of it is kept"
            )

    def query(self):
        """What a run's record must match to be this job's."""
        return {"_id": self._runs[self._key], f"config.{self._part}.token": self._token}

    @retried
    def holds(self):
        """Whether the part of the record is still this job's."""
        here = record.document_id(self._dataset, self._key) == self._runs[self._key]
        return here and record.db().runs.count_documents(self.query(), limit=1) > 0

    @retried
    def check(self, written="nothing"):
        """Called right before something is written.

        Args:
            written ("nothing"): what the message says was written

        Raises:
            RuntimeError: if a run was deleted or renamed, if another job holds the part, or if a field or an
                attribute is gone that was there, see :meth:`expect`
        """
        lost = [name for name, number in self._runs.items() if not self._is_there(name, number)]
        if lost or not self.holds():
            raise RuntimeError(
                f"the run {(lost or [self._key])[0]!r} was deleted, renamed or analysed again meanwhile; "
                f"{written} was written"
            )
        stored = record.stored_paths(self._dataset)
        gone = [path for path in self._declared if path not in stored]
        if gone:
            raise RuntimeError(
                f"{gone[0]!r} was deleted during the {NAMES[self._part]} of {self._key!r}; nothing of it is "
                "kept: call again"
            )

    @retried
    def expect(self, paths):
        """Notes which of some paths are in the dataset's schema: they have to stay, see :meth:`check`."""
        stored = record.stored_paths(self._dataset)
        self._declared += [path for path in paths if path in stored]

    def _is_there(self, name, number):
        if record.document_id(self._dataset, name) != number:
            return False
        leaving = {"_id": number, "config.status": {"$in": ["deleting", "renaming"]}}
        return record.db().runs.count_documents(leaving, limit=1) == 0


def stop_on_request(steps, held):
    """Passes on the steps of a job, and ends it where somebody asks it to stop.

    Args:
        steps: a generator that rolls back what it wrote when it is closed
        held: returns the job's :class:`JobLease`, or None before there is one

    Yields:
        what the steps do

    Raises:
        Stopped: if it was asked to stop
    """
    with contextlib.closing(steps):
        for step in steps:
            lease = held()
            if lease is not None:
                lease.raise_if_stopped()
            yield step


def running_on(dataset, key):
    """What works on a run at this moment.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key

    Returns:
        a list of pairs (one of ``KINDS``, key of the run whose record says so): a comparison of several
        runs is recorded with the first of them
    """
    return [
        (kind, owner) for kind, owner, _ in _tokens_on(dataset, key, record.config_of(dataset, key))
    ]


def _tokens_on(dataset, key, config):
    """What works on a run: (one of ``KINDS``, key of the run whose record says so, its token)."""
    found = [("computation", key, config.token)] if record.is_alive(config) else []
    for kind, part in KINDS.items():
        jobs = jobs_on(dataset, key, part) if part is not None else ()
        found += [(kind, k, job["token"]) for k, job in jobs if is_job_alive(dataset, job)]
    return found


def ask_to_stop(dataset, key, what=None):
    """Asks what works on a run to stop, wherever it runs.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        what (None): one of ``KINDS``; None for whatever is running

    Returns:
        a list of what was asked, of ``KINDS``

    Raises:
        ValueError: if there is no such run, or nothing of the kind is running on it
    """
    if what is not None and what not in KINDS:
        raise ValueError(f"what: {what!r} is unknown; choose from {', '.join(KINDS)}")
    if key not in record.list_runs(dataset):
        there = ", ".join(record.list_runs(dataset)) or "none"
        raise ValueError(
            f"cam_key: there is no CAM run {key!r} to stop (there are: {there}); one that still loads its model "
            "is registered a moment before its first image: ask again then, or stop it where it was started, "
            "by Ctrl-C or by closing the App's tab"
        )
    config = record.config_of(dataset, key)
    chosen = [row for row in _tokens_on(dataset, key, config) if what in (None, row[0])]
    if not chosen and what in (None, "computation"):
        status = record.status_from(config)
        raise ValueError(f"cam_key: the run {key!r} is not running, it is {status}")
    if not chosen:
        raise ValueError(f"cam_key: no {what} of the run {key!r} is running")
    for kind, owner, token in chosen:
        place = "config" if KINDS[kind] is None else f"config.{KINDS[kind]}"
        own = {"_id": record.document_id(dataset, owner), f"{place}.token": token}
        record.db().runs.update_one(own, {"$set": {f"{place}.stop": True}})
    return [kind for kind, *_ in chosen]


def check_free(dataset, key, part):
    """Raises a ValueError if a job works on a part of a run's record.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        part: ``"bias"`` or ``"compare"``
    """
    stored = _part_of(dataset, key, part)
    if is_job_alive(dataset, stored):
        raise ValueError(_message(key, part, stored))


def check_unread(dataset, key):
    """Raises a ValueError if a job reads a run at this moment: its own record, or that of another run.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
    """
    for part in DOING:
        for _, stored in jobs_on(dataset, key, part):
            if is_job_alive(dataset, stored):
                raise ValueError(_message(key, part, stored))


def jobs_on(dataset, key, part):
    """The records that a run is in: a job on several runs is recorded with the first of them.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        part: ``"bias"`` or ``"compare"``

    Yields:
        (key of the run whose record it is, the part of that record), also of jobs that have ended
    """
    for other in record.list_runs(dataset):
        stored = _part_of(dataset, other, part)
        if isinstance(stored, dict) and key in (other, *(stored.get("cam_keys") or [])):
            yield other, stored


def _part_of(dataset, key, part):
    return getattr(record.config_of(dataset, key), part, None)


def _message(key, part, stored):
    where = (
        "this process"
        if stored["token"] in record.ACTIVE
        else f"process {stored['pid']} on {stored['host']}"
    )
    return (
        f"cam_key: the run {key!r} is being {DOING[part]} in {where}; wait for that, or stop it with "
        "stop_cam_run"
    )


def job_status_of(dataset, stored):
    """How the job on a part of a record stands, see :func:`record.status_of`; None if there is none."""
    if not isinstance(stored, dict):
        return None
    status = stored.get("status")
    return "interrupted" if status == "running" and not is_job_alive(dataset, stored) else status


def is_job_alive(dataset, stored):
    """Whether a job works on a part of a record; what an earlier version wrote does not say so."""
    names = ("status", "token", "dataset_id", "host", "pid", "heartbeat", "cam_keys")
    if not isinstance(stored, dict) or not all(name in stored for name in names):
        return False
    seen = None
    with contextlib.suppress(TypeError, ValueError):
        seen = datetime.datetime.fromisoformat(stored["heartbeat"])
    own = stored["dataset_id"] == str(dataset._doc.id)
    return record.is_alive(types.SimpleNamespace(**{**stored, "own": own, "heartbeat": seen}))
