"""What of a run is stored already, and which images must be looked at again for the rest.

What is done is asked of the samples, not of a counter: a process that is killed has no time to count.
"""

import os

from bson import ObjectId

from . import _removal, _run_results
from ._loader import Block

_IDS_AT_ONCE = 10_000


def done_ids(dataset, key, config, ids=None):
    """Returns the ids of the samples that have everything of a run.

    A sample is done when each of the run's heatmaps is on it with the run's key, its file is there if it
    has one, and the prediction too if the run stores it.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        config: its record
        ids (None): the samples to look at; all by default

    Returns:
        a set
    """
    return {str(row["_id"]) for row in _done_rows(dataset, key, config, ids)}


def _done_rows(dataset, key, config, ids):
    fields = getattr(config, "heatmap_fields", None) or []
    if not fields:
        return
    query = {f"{field}.cam_key": key for field in fields}
    if config.prediction_field:
        query[config.prediction_field] = {"$ne": None}
    if ids is not None:
        query["_id"] = {"$in": [ObjectId(i) for i in ids]}
    paths = {f"{field}.map_path": True for field in fields}
    folders = {}
    for row in dataset._sample_collection.find(query, {"_id": True, **paths}):
        files = [row[field].get("map_path") for field in fields]
        if all(_exists(path, folders) for path in files if path):
            yield row


def _exists(path, folders):
    """Whether a file exists; each folder is read once, not each file looked at."""
    folder, name = os.path.split(path)
    if folder not in folders:
        folders[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    return name in folders[folder]


def covered(dataset, key):
    """Returns the samples that a run covers, in its order, as lists of ids.

    A list for the call that began the run, and one for each later call that added samples to it.
    """
    results = _run_results.load_results(dataset, key)
    ids, lists, start = _run_results.unpack_ids(results.get("ids")), [], 0
    for length in results.get("segments") or ([len(ids)] if ids else []):
        lists.append(ids[start : start + length])
        start += length
    return lists


def save_covered(dataset, key, lists):
    """Stores what :func:`covered` returns."""
    ids = [i for part in lists for i in part]
    lengths = [len(part) for part in lists]
    _run_results.save_results(dataset, key, ids=_run_results.pack_ids(ids), segments=lengths)


def counts(dataset, key, config):
    """Returns (done, total) of a run, as its samples tell; deleted samples do not count."""
    ids = set(_removal.recorded_ids(dataset, key))
    there = {str(i) for i in present(dataset, ids)}
    return len(done_ids(dataset, key, config) & there), len(there)


def present(dataset, ids):
    """Yields those of some ids, as ``ObjectId``, whose samples exist."""
    ids = [ObjectId(i) for i in ids]
    for start in range(0, len(ids), _IDS_AT_ONCE):
        query = {"_id": {"$in": ids[start : start + _IDS_AT_ONCE]}}
        yield from (row["_id"] for row in dataset._sample_collection.find(query, {"_id": True}))


def plan_blocks(dataset, rows, lists, todo, size):
    """Cuts a run into blocks, and leaves out those with nothing to do.

    Batches form within a block only. So a block that is looked at again makes the same batches as the
    first time, and the same numbers to the last bit: those depend a little on a batch's size.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        rows: ``(id, filepath)`` of this call's samples
        lists: the samples that the run covers, as :func:`covered` returns them
        todo: ids of the samples that lack something
        size: rows of a block

    Returns:
        a list of :class:`Block`
    """
    chunks = [part[i : i + size] for part in lists for i in range(0, len(part), size)]
    chunks = [chunk for chunk in chunks if any(i in todo for i in chunk)]
    paths = dict(rows)
    paths.update(_paths(dataset, [i for chunk in chunks for i in chunk if i not in paths]))
    return [_block(chunk, paths, todo) for chunk in chunks]


def _block(chunk, paths, todo):
    rows = [(i, paths[i]) for i in chunk if i in paths]  # the others were deleted
    wanted = {i for i, _ in rows if i in todo}
    return Block(rows, None if len(wanted) == len(rows) else wanted)


def _paths(dataset, ids):
    """``(id, filepath)`` of samples that are not in this call's view."""
    for start in range(0, len(ids), _IDS_AT_ONCE):
        part = [ObjectId(i) for i in ids[start : start + _IDS_AT_ONCE]]
        found = dataset._sample_collection.find({"_id": {"$in": part}}, {"filepath": True})
        yield from ((str(row["_id"]), row["filepath"]) for row in found)


def statuses(dataset, key, fields):
    """Counts the statuses of a run's stored heatmaps: ``{field: {status: count}}``."""
    found = {}
    for field in fields:
        steps = [
            {"$match": {f"{field}.cam_key": key}},
            {"$group": {"_id": f"${field}.status", "count": {"$sum": 1}}},
        ]
        rows = dataset._sample_collection.aggregate(steps)
        found[field] = {row["_id"]: row["count"] for row in rows}
    return found
