"""What processes that were killed left behind and nobody points to: found, and deleted if it is ours.

Each kind says whose it is: a lock, a record and a file of results have the process that made them in
them, a view has the name that a run's record gives it, a map's file the stamp of its run, and a
temporary folder a note. What is not said to be ours, or is of a process that may live, stays.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import time

from ..text import counted
from . import artifacts, background, lease, locking, record, results, saved_views
from .level import level_of
from .plain_data import PlainData
from .process import here, is_gone
from .run import Run

# Between the writing of a file of results and the moment in which a record points to it there is less.
_NOBODY_TAKES_SECONDS = 3600
# Until a dataset that is being deleted is gone.
_DELETION_SECONDS = 5
_PREFIX, _NOTE = "cam51-", ".cam51"


@dataclasses.dataclass
class Leftovers(PlainData):
    """What was deleted, as numbers.

    Attributes:
        locks: of processes that died while they changed a dataset's schema
        records: of runs that no dataset lists, and of runs in the background of datasets that are gone
        results: files of results that no record points to
        views: saved views of runs that their dataset does not list, or whose dataset is gone
        files: of maps that no sample points to, also half-written ones
        folders: temporary ones
    """

    kind = "leftovers"

    locks: int = 0
    records: int = 0
    results: int = 0
    views: int = 0
    files: int = 0
    folders: int = 0

    def __str__(self):
        """One line."""
        words = {"results": "result files", "views": "saved views", "files": "map files"}
        words["folders"] = "temporary folders"
        found = [counted(n, words.get(k, k)) for k, n in self.values().items() if n]
        return f"deleted what was left behind: {', '.join(found)}" if found else "nothing is left"


def clear(dataset):
    """Deletes what was left behind in the database, by this dataset's runs, and in the temporary folder.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`

    Returns:
        :class:`Leftovers`
    """
    runs = Run.all(dataset)
    idle = [run for run in runs if not lease.running_on(dataset, run.key)]
    found = clear_database()
    found.results += _clear_chunks()
    found.views += sum(artifacts.delete_unlisted_views(run) for run in idle)
    found.files = sum(clear_files(run) for run in idle)
    found.folders = _clear_folders()
    return found


def clear_database():
    """Deletes locks, records, results and views that nobody points to; returns :class:`Leftovers`."""
    return Leftovers(
        locks=locking.drop_left_locks(), records=_clear_records() + background.delete_of_nobody(),
        results=_clear_results(),
        views=saved_views.delete_of_nobody(),
    )  # fmt: skip


def _clear_records():
    db, count = record.db(), 0
    listed = [n for row in db.datasets.find({}, {"runs": 1}) for n in _runs_of(row)]
    query = {"config.method": record.METHOD, "_id": {"$nin": listed}}
    for row in db.runs.find(query, {"config": True, "_dataset_id": True}):
        if not _is_left(row):
            continue
        # once more: it may have been listed meanwhile
        if not any(row["_id"] in _runs_of(d) for d in db.datasets.find({}, {"runs": 1})):
            record.delete_document(row["_id"])
            count += 1
    return count


def _runs_of(row):
    return list((row.get("runs") or {}).values())


def _is_left(row):
    """Whether a record that no dataset lists is nobody's: not of a run that begins, nor of a copy."""
    config, dataset = row["config"], row.get("_dataset_id")
    own = config.get("dataset_id") == str(dataset)
    if own:
        return not record.is_alive(record.complete(config, own))
    # The copy in a clone or an import, which FiftyOne lists after it wrote it.
    return record.db().datasets.count_documents({"_id": dataset}, limit=1) == 0


def _clear_results():
    db = record.db()
    now, mark, count = record.clock(), f"metadata.{results.MARK}", 0
    rows = list(db["fs.files"].find({mark: {"$exists": True}}))
    used = set(db.runs.distinct("results"))
    for row in rows:
        if row["_id"] in used:
            continue
        age = (now - record.naive(row["uploadDate"])).total_seconds()
        if not (is_gone(row["metadata"][results.MARK]) or age > _NOBODY_TAKES_SECONDS):
            continue
        if row["_id"] in results.BEING_WRITTEN:
            continue
        if not db.runs.count_documents({"results": row["_id"]}, limit=1):
            record.stored_files().delete(row["_id"])
            count += 1
    return count


def _clear_chunks():
    """Deletes parts of files of results whose process died before the file was whole."""
    db, count = record.db(), 0
    files = {"from": "fs.files", "localField": "files_id", "foreignField": "_id", "as": "file"}
    steps = [{"$match": {"n": 0}}, {"$lookup": files}, {"$match": {"file": []}}]
    for row in db["fs.chunks"].aggregate([*steps, {"$project": {"files_id": 1, "data": 1}}]):
        whose = results.whose(bytes(row["data"]))
        if row["files_id"] not in results.BEING_WRITTEN and whose is not None and is_gone(whose):
            db["fs.chunks"].delete_many({"files_id": row["files_id"]})
            count += 1
    return count


def clear_deleted(dataset, key):
    """Deletes what a job wrote for a dataset that somebody deleted meanwhile, who does not know of it.

    Does nothing where the dataset exists.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: of the job's run
    """
    end = time.monotonic() + _DELETION_SECONDS
    while _is_going(dataset, key) and time.monotonic() < end:
        time.sleep(0.02)
    if record.is_there(dataset):
        return
    db = record.db()
    query = {"_dataset_id": dataset._doc.id, "config.method": record.METHOD}
    for row in db.runs.find(query, {"_id": True}):
        record.delete_document(row["_id"])
    saved_views.delete_of_nobody()
    # an index that is made on a collection makes the collection, too
    for name in (dataset._doc.sample_collection_name, dataset._doc.frame_collection_name):
        if name is not None and name.endswith(str(dataset._doc.id)):
            db.drop_collection(name)


def _is_going(dataset, key):
    """Whether a dataset is being deleted: FiftyOne deletes samples, then records, and the dataset last."""
    number = record.document_id(dataset, key)
    return number is not None and not record.db().runs.count_documents({"_id": number}, limit=1)


def clear_files(run):
    """Deletes a run's files of maps that no sample points to; returns how many.

    Args:
        run: the :class:`~operators.runs.run.Run`, which nobody else works on
    """
    if not run.record.own or not run.settings.get("map_dir"):
        return 0
    # The files first: one that is written meanwhile is not among them.
    files = [os.path.join(folder, name) for folder, name in artifacts.own_files(run)]
    shown, samples = set(), level_of(run.dataset).collection
    for field in run.fields if files else ():
        path = f"{field}.map_path"
        rows = samples.find({path: {"$exists": True}}, {path: True})
        shown.update((row[field] or {}).get("map_path") for row in rows)
    left = [file for file in files if file not in shown]
    for file in left:
        os.remove(file)
    return len(left)


@contextlib.contextmanager
def temporary_folder():
    """A folder of temporary files that says whose it is; it is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        with open(os.path.join(folder, _NOTE), "w", encoding="utf-8") as file:
            json.dump(here(), file)
        yield folder


def _clear_folders():
    count, above = 0, tempfile.gettempdir()
    for name in os.listdir(above):
        folder = os.path.join(above, name)
        if not name.startswith(_PREFIX) or os.path.islink(folder):
            continue
        with contextlib.suppress(OSError, ValueError, AttributeError):
            with open(os.path.join(folder, _NOTE), encoding="utf-8") as file:
                whose = json.load(file)
            if is_gone(whose) and whose["pid"] != os.getpid():
                shutil.rmtree(folder)
                count += 1
    return count
