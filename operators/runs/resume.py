"""What of a run is stored already.

What is done is asked of the samples, not of a counter: a process that is killed has no time to count.
"""

import functools
import os

from bson import ObjectId

from . import results as run_results
from .level import level_of

_IDS_AT_ONCE = 10_000
# the last chunk of every PNG file, with its length and checksum
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


def done_ids(run, ids=None, whole=False):
    """Returns the ids of the samples, or of a video's frames, that have everything of a run.

    A sample is done when each of the run's heatmaps is on it with the run's key, its file is there if it
    has one, and the prediction too if the run stores it.

    Args:
        run: the :class:`~operators.runs.run.Run`
        ids (None): the samples to look at; all by default
        whole (False): whether each file is opened, to see that it is whole, and not only listed

    Returns:
        a set
    """
    again = run_results.ids_to_redo(run.dataset, run.key) if getattr(run.record, "redo", 0) else ()
    return stored_ids(run, ids, whole).difference(again)


def stored_ids(run, ids=None, whole=False):
    """As :func:`done_ids`, with the samples that a call found to lack something else, such as an attribute."""
    is_there = _is_whole if whole else functools.partial(_exists, {})
    return {str(row["_id"]) for row in _done_rows(run, ids, is_there)}


def lacking(run, ids, beside):
    """Finds the samples that were written and do not have everything any more.

    Args:
        run: the :class:`~operators.runs.run.Run`
        ids: of the samples that were written
        beside: ``{path: ids}`` of what was written on some of them beside heatmaps and prediction

    Returns:
        (ids of samples that exist and lack a heatmap, its file or the prediction, ids of those that lack one of
        the paths, what they lack in words)
    """
    there = present(run.dataset, run.key, ids)
    lost = there - stored_ids(run, list(there))
    again, words = set(), _lacked(run, lost)
    for path, written in beside.items():
        whose = there.intersection(written)
        has = {str(i) for i in _having(run.dataset, whose, path)}
        words = words or (repr(path) if whose - has else None)
        again |= whose - has
    return lost, again, words


def _having(dataset, ids, path):
    ids = [ObjectId(i) for i in ids]
    for start in range(0, len(ids), _IDS_AT_ONCE):
        query = {"_id": {"$in": ids[start : start + _IDS_AT_ONCE]}, path: {"$exists": True}}
        yield from (row["_id"] for row in level_of(dataset).collection.find(query, {"_id": True}))


def _lacked(run, lost):
    """What the first of some samples lacks, in words; None if there are none."""
    if not lost:
        return None
    row = level_of(run.dataset).collection.find_one({"_id": ObjectId(min(lost))}) or {}
    for field in run.record.heatmap_fields:
        if (row.get(field) or {}).get("cam_key") != run.key:
            return repr(field)
    field = run.record.prediction_field
    return repr(field) if field and row.get(field) is None else "files of heatmaps"


def _done_rows(run, ids, is_there):
    fields = getattr(run.record, "heatmap_fields", None) or []
    if not fields:
        return
    query = {f"{field}.cam_key": run.key for field in fields}
    if run.record.prediction_field:
        query[run.record.prediction_field] = {"$ne": None}
    if ids is not None:
        query["_id"] = {"$in": [ObjectId(i) for i in ids]}
    paths = {f"{field}.map_path": True for field in fields}
    for row in level_of(run.dataset).collection.find(query, {"_id": True, **paths}):
        files = [row[field].get("map_path") for field in fields]
        if all(is_there(path) for path in files if path):
            yield row


def _exists(folders, path):
    """Whether a file exists; each folder is read once, not each file looked at."""
    folder, name = os.path.split(path)
    if folder not in folders:
        folders[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    return name in folders[folder]


def _is_whole(path):
    """Whether a PNG file ends as one does: after a power failure a file may be empty or cut off."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:  # it is not there, or shorter than that
        return False


def covered(dataset, key):
    """Returns the samples that a run covers, in its order, as lists of ids.

    A list for the call that began the run, and one for each later call that added samples to it.
    """
    results = run_results.load_results(dataset, key)
    ids, lists, start = run_results.unpack_ids(results.get("ids")), [], 0
    for length in results.get("segments") or ([len(ids)] if ids else []):
        lists.append(ids[start : start + length])
        start += length
    return lists


def save_covered(dataset, key, lists, of_videos=None):
    """Stores what :func:`covered` returns, and :func:`videos`.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        lists: of ids
        of_videos (None): ``{id of a frame: id of its video}`` of those that this call covers
    """
    ids, more = [i for part in lists for i in part], {}
    if of_videos:
        known = {**videos(dataset, key), **of_videos}
        more["videos"] = run_results.pack_ids([known[i] for i in ids])
    lengths = [len(part) for part in lists]
    run_results.save_results(dataset, key, ids=run_results.pack_ids(ids), segments=lengths, **more)


def videos(dataset, key):
    """Returns ``{id of a frame: id of its video}`` of the frames that a run covers, in its order."""
    results = run_results.load_results(dataset, key)
    packed = [run_results.unpack_ids(results.get(name)) for name in ("ids", "videos")]
    return dict(zip(*packed, strict=False))


def counts(run):
    """Returns (done, total) of a run, as its samples tell; deleted samples do not count."""
    there = present(run.dataset, run.key, run_results.recorded_ids(run.dataset, run.key))
    return len(done_ids(run) & there), len(there)


def present(dataset, key, ids):
    """Those of some ids that a run covers whose samples exist, or of frames their videos.

    A frame is there before it was written: the run makes it.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        ids: of samples, or of frames

    Returns:
        a set
    """
    of_videos = videos(dataset, key) if level_of(dataset).place else None
    if not of_videos:
        return {str(row["_id"]) for row in rows_of(dataset, ids, {"_id": True})}
    query = {"_id": {"$in": [ObjectId(i) for i in set(of_videos.values())]}}
    there = {str(i) for i in dataset._sample_collection.distinct("_id", query)}
    return {i for i in ids if of_videos.get(i) in there}


def rows_of(dataset, ids, wanted):
    """Yields what is stored of those of some samples that exist.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        ids: of the samples
        wanted: a projection of the database
    """
    ids = [ObjectId(i) for i in ids]
    for start in range(0, len(ids), _IDS_AT_ONCE):
        query = {"_id": {"$in": ids[start : start + _IDS_AT_ONCE]}}
        yield from level_of(dataset).collection.find(query, wanted)


def statuses(dataset, key, fields):
    """Counts the statuses of a run's stored heatmaps: ``{field: {status: count}}``."""
    found = {}
    for field in fields:
        steps = [
            {"$match": {f"{field}.cam_key": key}},
            {"$group": {"_id": f"${field}.status", "count": {"$sum": 1}}},
        ]
        rows = level_of(dataset).collection.aggregate(steps)
        found[field] = {row["_id"]: row["count"] for row in rows}
    return found
