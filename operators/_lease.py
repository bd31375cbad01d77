"""A run at work: its record kept alive, and told when to stop."""

import time

from . import _record
from ._heart import Heart

_BEAT_SECONDS = 2.0
# The record is one document: it names the first failures and counts all; the results have the rest.
FAILURES_KEPT = 100


class Stopped(Exception):
    """A run was asked to stop: raised inside it, between two batches."""


class Lost(Exception):
    """The run's record was deleted or taken over while it ran."""


class Lease(Heart):
    """Keeps a run's record alive while it is worked on, in a thread of its own.

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
        super().__init__(token, _BEAT_SECONDS)
        self._query = {"_id": _record.document_id(dataset, key), "config.token": token}
        self._key, self._state = key, state
        self._stop = self._lost = False
        self._written = time.monotonic()

    def check(self):
        """Called after each batch.

        Raises:
            Stopped: if somebody asked the run to stop, at the latest two batches ago
            Lost: if the record is no longer this run's
        """
        self.wake()
        if self._lost:
            raise Lost(
                f"the record of the run {self._key!r} was deleted or taken over while it ran: the dataset "
                "is gone, or another process has the run now"
            )
        if self._stop:
            raise Stopped(
                f"the run {self._key!r} was asked to stop; pass resume=True to go on with it"
            )

    def _beat(self):
        wanted = {"config.stop": True}
        if time.monotonic() - self._written < _BEAT_SECONDS:
            found = _record.db().runs.find_one(self._query, wanted)
        else:
            progress, failures = self._state()
            entries = {
                "config.progress": _record.jsonable(progress),
                "config.failures": _record.jsonable(failures[:FAILURES_KEPT]),
                "config.heartbeat": _record.clock(),
            }
            found = _record.db().runs.find_one_and_update(self._query, {"$set": entries}, wanted)
            self._written = time.monotonic()
        self._lost = found is None
        self._stop = bool((found or {}).get("config", {}).get("stop"))


def ask_to_stop(dataset, key):
    """Asks a run to stop after its batch, wherever it runs.

    Raises:
        ValueError: if it is not at work
    """
    config = _record.config_of(dataset, key)
    if not _record.is_alive(config):
        raise ValueError(
            f"cam_key: the run {key!r} is not at work, it is {_record.status_from(config)}"
        )
    query = {"_id": _record.document_id(dataset, key), "config.token": config.token}
    _record.db().runs.update_one(query, {"$set": {"config.stop": True}})
