"""The results of a CAM run: stored beside its record, in a file of the database, as plain data."""

import base64
import zlib

from bson import ObjectId, json_util

from . import _record
from ._record import stored_file


def save_results(dataset, key, **entries):
    """Stores results of a run beside those it has; a reader finds the old ones or the new ones.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        **entries: JSON-able values
    """
    values = {**load_results(dataset, key), **_record.jsonable(entries)}
    text = json_util.dumps({"cls": "fiftyone.core.runs.RunResults", **values})
    new = stored_file()
    new.put(text.encode(), content_type="application/json")
    query = {"_id": _record.document_id(dataset, key)}
    old = _record.db().runs.find_one_and_update(query, {"$set": {"results": new.grid_id}})
    if old is not None and old.get("results") is not None:
        stored_file(old["results"]).delete()
    _record.sync(dataset, key)
    dataset._run_cache.pop(key, None)


def load_results(dataset, key):
    """Returns the stored results of a run as plain data, ``{}`` if there are none."""
    stored = (
        _record.db().runs.find_one({"_id": _record.document_id(dataset, key)}, {"results": True})
        or {}
    )
    if stored.get("results") is None:
        return {}
    values = json_util.loads(stored_file(stored["results"]).read().decode())
    values.pop("cls", None)
    return values


def pack_ids(ids):
    """Sample ids in order, as short text: 12 bytes each, compressed."""
    joined = b"".join(ObjectId(i).binary for i in ids)
    return base64.b64encode(zlib.compress(joined)).decode()


def unpack_ids(text):
    """The ids of :func:`pack_ids`."""
    joined = zlib.decompress(base64.b64decode(text)) if text else b""
    return [str(ObjectId(joined[i : i + 12])) for i in range(0, len(joined), 12)]
