"""Sharing the database: one writer of a schema at a time, and operations repeated when it goes away.

FiftyOne reads, changes and writes back a dataset's schema and its App settings as a whole.
Two processes that add fields to one dataset at the same moment would else lose one's fields: the
samples keep their values, and nobody sees them.
"""

import contextlib
import functools
import logging
import threading
import time
import uuid

import fiftyone.core.odm as fod
from pymongo.errors import AutoReconnect, DuplicateKeyError, NetworkTimeout

from .process import here, is_gone
from .record import refresh

logger = logging.getLogger(__name__)

# A collection of FiftyOne's database with a document while somebody is writing.
_COLLECTION = "cam51_locks"
# Nobody needs that long; a process that was killed meanwhile leaves its document behind.
_STALE_SECONDS = 60
_HERE = threading.RLock()
# How long a run waits for its database before it stops, resumable.
WAIT_SECONDS = 60
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_AWAY = (AutoReconnect, NetworkTimeout)


class DatabaseAway(ConnectionError):
    """The database did not answer for as long as it is waited for; no sample is to blame."""


@contextlib.contextmanager
def schema_lock(dataset):
    """Waits until nobody else of this plugin changes a dataset's schema, and brings it up to date.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
    """
    with _HERE:
        locks, token = fod.get_db_conn()[_COLLECTION], uuid.uuid4().hex
        _acquire(locks, dataset._doc.id, {"token": token, **here()})
        try:
            _bring_up_to_date(dataset)
            yield
        finally:
            locks.delete_one({"_id": dataset._doc.id, "token": token})


def _acquire(locks, dataset_id, whose):
    while True:
        # The database's own clock: that of another machine may be wrong.
        now = locks.database.command("hello")["localTime"].replace(tzinfo=None)
        try:
            locks.insert_one({"_id": dataset_id, **whose, "since": now})
            return
        except DuplicateKeyError:  # somebody is writing, or was killed while writing
            _drop_dead(locks, dataset_id, now)
        time.sleep(0.05)


def _drop_dead(locks, dataset_id, now):
    held = locks.find_one({"_id": dataset_id})
    if held is None:
        return
    age = (now - held["since"].replace(tzinfo=None)).total_seconds()
    # Of this process one thread at a time comes here, so a document of its own was left behind.
    if is_gone(held) or age > _STALE_SECONDS:
        locks.delete_one({"_id": dataset_id, "token": held["token"]})


def drop_left_locks():
    """Deletes the locks of processes that died while they wrote; returns how many those were."""
    with _HERE:
        locks = fod.get_db_conn()[_COLLECTION]
        before = list(locks.find({}, {"_id": True}))
        now = locks.database.command("hello")["localTime"].replace(tzinfo=None)
        for row in before:
            _drop_dead(locks, row["_id"], now)
        return len(before) - locks.count_documents({"_id": {"$in": [r["_id"] for r in before]}})


def _bring_up_to_date(dataset):
    """Reads what other processes saved; if they saved nothing, what is not saved here stays."""
    refresh(dataset)
    stored = fod.get_db_conn().datasets.find_one(
        {"_id": dataset._doc.id}, {"last_modified_at": True}
    )
    if stored is not None and _moment(stored) != _moment(dataset._doc):
        dataset._reload()


def _moment(document):
    value = document["last_modified_at"]
    return None if value is None else value.replace(tzinfo=None)


def retried(operation):
    """Decorates a database operation that may be repeated: see :func:`retry_on_disconnect`."""

    @functools.wraps(operation)
    def repeated(*args, **kwargs):
        return retry_on_disconnect(operation, *args, **kwargs)

    return repeated


def retry_on_disconnect(operation, *args, **kwargs):
    """Calls a database operation, again while the database does not answer.

    Args:
        operation: what to call; calling it twice must do no harm
        *args: its positional arguments
        **kwargs: its keyword arguments

    Returns:
        what it returns

    Raises:
        DatabaseAway: if the database stays away
    """
    start, pause = time.monotonic(), _FIRST_PAUSE
    while True:
        try:
            return operation(*args, **kwargs)
        except _AWAY as error:
            waited = time.monotonic() - start
            if waited + pause > WAIT_SECONDS:
                raise DatabaseAway(
                    f"MongoDB did not answer for {waited:.0f} s ({type(error).__name__}); what was "
                    "stored stays: call again with resume=True once the database is back"
                ) from error
            logger.warning("MongoDB does not answer (%s); trying again", type(error).__name__)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
