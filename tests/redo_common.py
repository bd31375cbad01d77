"""What the tests of redoing share: a process that dies after its n-th write, and states to go back to.

Every write of the database and every change of a folder counts as a step. Once the chosen one is done
nothing more is written, by no thread and in no ``finally``: what is left is what SIGKILL leaves there.
"""

import contextlib
import os
import re
import shutil
import threading

import fiftyone as fo
import fiftyone.core.odm as fod
import pymongo.collection
from bias_common import inner
from bson import json_util

_WRITES = (
    "update_one", "update_many", "insert_one", "insert_many", "delete_one", "delete_many", "replace_one",
    "find_one_and_update", "find_one_and_replace", "find_one_and_delete", "bulk_write", "create_index",
    "create_indexes", "drop_index", "drop_indexes", "drop",
)  # fmt: skip
_FILES = ("remove", "unlink", "rename", "replace", "mkdir", "rmdir")
_COLLECTIONS = ("datasets", "runs", "views", "fs.files", "fs.chunks", "cam51_locks")
# what says when and by whom, and not what
_MOMENTS = {
    "last_modified_at", "last_loaded_at", "last_deletion_at", "created_at", "timestamp", "started", "ended",
    "heartbeat", "token", "seconds", "images_per_second", "uploadDate", "sessions", "stamps", "origin",
    "predicted_seconds", "prediction_seconds", "seconds_per_image", "overwrite",
}  # fmt: skip
# lists whose order says who wrote first
_UNORDERED = {"paths", "fields", "saved_views", "label_attributes", "made_folders", "shown_before"}


class Killed(BaseException):
    """The process is dead."""


class Steps:
    """Counts the writes of what runs inside it, and dies after the n-th.

    Args:
        last (None): the number of the last write; None lets it live

    Attributes:
        done: a text per write
    """

    def __init__(self, last=None):
        self.last, self.done = last, []
        self._inside, self._lock = threading.local(), threading.Lock()

    def __enter__(self):
        self._before = []
        for name in _WRITES:
            self._wrap(pymongo.collection.Collection, name, lambda a: f"{a[0].name}")
        for name in _FILES:
            self._wrap(os, name, lambda a: os.path.basename(str(a[0])))
        return self

    def __exit__(self, *_):
        for owner, name, real in self._before:
            setattr(owner, name, real)

    @property
    def dead(self):
        """Whether the last write is done."""
        return self.last is not None and len(self.done) >= self.last

    def _wrap(self, owner, name, text):
        real = getattr(owner, name)
        self._before.append((owner, name, real))

        def counted(*arguments, **options):
            if getattr(self._inside, "write", False):
                return real(*arguments, **options)
            heartbeat = threading.current_thread().name == "cam51-heartbeat"
            if self.dead:
                raise pymongo.errors.PyMongoError("dead") if heartbeat else Killed
            self._inside.write = True
            try:
                answer = real(*arguments, **options)
            finally:
                self._inside.write = False
            if not heartbeat:
                with self._lock:
                    self.done.append(f"{name} {text(arguments)}")
                if self.dead:
                    raise Killed
            return answer

        setattr(owner, name, counted)


def forget(dataset):
    """Opens a dataset as another process would; what this one was working on is nobody's work now."""
    fo.Dataset._instances.pop(dataset.name, None)
    inner("runs.record").ACTIVE.clear()
    return fo.load_dataset(dataset.name)


def _indexes(samples):
    return {n: [tuple(k) for k in spec["key"]] for n, spec in samples.index_information().items()}


class State:
    """All that lies in the database and below a folder, to go back to.

    Args:
        dataset: the dataset, of which nothing is unsaved
        folder: that files are written below
    """

    def __init__(self, dataset, folder):
        self._name, self._folder, self._kept = dataset.name, folder, folder.with_name("kept")
        self._samples, db = dataset._sample_collection_name, fod.get_db_conn()
        self._rows = {name: list(db[name].find()) for name in (*_COLLECTIONS, self._samples)}
        self._indexes = _indexes(db[self._samples])
        shutil.rmtree(self._kept, ignore_errors=True)
        if folder.exists():
            shutil.copytree(folder, self._kept)

    def restore(self):
        """Puts everything back; returns the dataset."""
        db = fod.get_db_conn()
        for name, rows in self._rows.items():
            db[name].delete_many({})
            if rows:
                db[name].insert_many(rows)
        now = _indexes(db[self._samples])
        for name in set(now) - set(self._indexes):
            db[self._samples].drop_index(name)
        for name in set(self._indexes) - set(now):
            db[self._samples].create_index(self._indexes[name], name=name)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._kept.exists():
            shutil.copytree(self._kept, self._folder)
        fo.Sample._reset_docs(self._samples)
        return forget(fo.load_dataset(self._name))


def everything(dataset, folder=None):
    """All that a run may change, as plain data that two runs of the same have in common."""
    db = fod.get_db_conn()
    stored = db.datasets.find_one({"_id": dataset._doc.id})
    views, runs = stored.pop("saved_views", None) or [], stored.pop("runs", None) or {}
    fields = stored.pop("sample_fields")
    samples = list(db[dataset._sample_collection_name].find().sort("_id"))
    found = {
        "dataset": stored,
        "fields": {field["name"]: field for field in fields},
        "samples": {os.path.basename(row["filepath"]): row for row in samples},
        "views": {v["name"]: v for v in db.views.find({"_id": {"$in": views}})},
        "dangling views": len(views) - db.views.count_documents({"_id": {"$in": views}}),
        "runs": {key: _run(db, number) for key, number in runs.items()},
        "indexes": sorted(_indexes(db[dataset._sample_collection_name]).values()),
        "files": _files(folder),
    }
    return _plain(found)


def leftovers(dataset):
    """What nobody points to: ``{kind: how many}``."""
    found = {
        name: fod.get_db_conn()[collection].count_documents(query)
        for name, (collection, query) in _of_nobody().items()
    }
    return {name: count for name, count in found.items() if count}


def clear_all_leftovers():
    """Deletes what tests before this one left behind: they killed processes, too."""
    for collection, query in _of_nobody().values():
        fod.get_db_conn()[collection].delete_many(query)
    for collection, query in _of_nobody().values():  # the parts of the files just deleted
        fod.get_db_conn()[collection].delete_many(query)


def _of_nobody():
    db = fod.get_db_conn()
    runs = [
        n for row in db.datasets.find({}, {"runs": 1}) for n in (row.get("runs") or {}).values()
    ]
    views = [
        n for row in db.datasets.find({}, {"saved_views": 1}) for n in row["saved_views"] or []
    ]
    results = [row.get("results") for row in db.runs.find({"_id": {"$in": runs}}, {"results": 1})]
    files = [row["_id"] for row in db["fs.files"].find({}, {"_id": 1})]
    return {
        "runs": ("runs", {"_id": {"$nin": runs}}),
        "views": ("views", {"_id": {"$nin": views}}),
        "results": ("fs.files", {"_id": {"$nin": results}}),
        "chunks": ("fs.chunks", {"files_id": {"$nin": files}}),
        "locks": ("cam51_locks", {}),
    }


def _run(db, number):
    row = db.runs.find_one({"_id": number})
    if row is None:
        return None
    results, text = row.pop("results", None), b""
    if results is not None:
        chunks = db["fs.chunks"].find({"files_id": results}).sort("n")
        text = b"".join(bytes(chunk["data"]) for chunk in chunks)
    return {**row, "results": json_util.loads(text) if text else None}


def _files(folder):
    if folder is None or not folder.exists():
        return []
    return sorted(_plain(str(p.relative_to(folder))) for p in folder.rglob("*"))


def _plain(value):
    """Data without ids that are drawn, moments, and the stamps in the names of files."""
    if isinstance(value, dict):
        names = [k for k in value if k not in _MOMENTS and k not in ("_id", "id", "_dataset_id")]
        plain = {k: _plain(value[k]) for k in names if value[k] is not None}
        return {k: _in_order(v) if k in _UNORDERED else v for k, v in plain.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        return re.sub(r"-[0-9a-f]{8}\.png", "-stamp.png", value)
    return value


def _in_order(value):
    if not isinstance(value, list):
        return value
    if all(isinstance(v, dict) and "name" in v for v in value):
        return {v["name"]: v for v in value}
    return sorted(value, key=str)


def difference(one, other):
    """The paths at which two values differ, for a message that can be read."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = [(k, difference(one.get(k), other.get(k))) for k in sorted({*one, *other})]
        return {k: d for k, d in found if d}
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        found = [difference(a, b) for a, b in zip(one, other, strict=True)]
        return [d for d in found if d]
    return None if one == other else (one, other)


def kill_after(step, operation, dataset):
    """Runs an operation that dies after a step; returns what the step was, None if it got through first."""
    steps = Steps(step)
    with steps, contextlib.suppress(Killed):
        operation(dataset)
        return None
    return steps.done[-1]


def count_steps(operation, dataset):
    """How many steps an operation takes when nothing happens."""
    steps = Steps()
    with steps:
        operation(dataset)
    return len(steps.done)


def wait_for_threads():
    """Waits for the threads of a run that died."""
    for thread in [t for t in threading.enumerate() if t.name.startswith("cam51-")]:
        thread.join(10)
