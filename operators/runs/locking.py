"""Sharing the database: one writer of a schema at a time.

FiftyOne reads, changes and writes back a dataset's schema and its App settings as a whole.
Two processes that add fields to one dataset at the same moment would else lose one's fields: the
samples keep their values, and nobody sees them.
"""

import contextlib
import threading
import time
import uuid

from pymongo.errors import DuplicateKeyError

from .process import here, is_gone
from .record import db, refresh
from .retry import retry_on_disconnect

# A collection of FiftyOne's database with a document while somebody is writing.
_COLLECTION = "cam51_locks"
# Nobody needs that long; a process that was killed meanwhile leaves its document behind.
_STALE_SECONDS = 60
_HERE = threading.RLock()


def change_schema(dataset, change):
    """Changes a dataset's schema or its App settings while nobody else of this plugin does.

    Where the database goes away in the middle, the change is made again, on what is stored by then.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        change: a function without arguments; calling it twice must do no harm

    Returns:
        what it returns
    """
    begun = False

    def once():
        nonlocal begun
        with schema_lock(dataset):
            if begun:  # the copy in memory may have what was never stored
                dataset._reload(hard=True)
            begun = True
            return change()

    return retry_on_disconnect(once)


@contextlib.contextmanager
def schema_lock(dataset):
    """Waits until nobody else of this plugin changes a dataset's schema, and brings it up to date.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
    """
    with _HERE:
        locks, token = db()[_COLLECTION], uuid.uuid4().hex
        _acquire(locks, dataset._doc.id, {"token": token, **here()})
        try:
            _bring_up_to_date(dataset)
            yield
        finally:
            # journaled, and with it all that was changed before
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
        locks = db()[_COLLECTION]
        before = list(locks.find({}, {"_id": True}))
        now = locks.database.command("hello")["localTime"].replace(tzinfo=None)
        for row in before:
            _drop_dead(locks, row["_id"], now)
        return len(before) - locks.count_documents({"_id": {"$in": [r["_id"] for r in before]}})


def _bring_up_to_date(dataset):
    """Reads what other processes saved; if they saved nothing, what is not saved here stays."""
    refresh(dataset)
    stored = db().datasets.find_one({"_id": dataset._doc.id}, {"last_modified_at": True})
    if stored is not None and _moment(stored) != _moment(dataset._doc):
        dataset._reload()


def _moment(document):
    value = document["last_modified_at"]
    return None if value is None else value.replace(tzinfo=None)
