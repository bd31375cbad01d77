"""The results of a CAM run: stored beside its record, in a file of the database, as plain data."""

import base64
import contextlib
import zlib

from bson import ObjectId, json_util
from gridfs.errors import CorruptGridFile, NoFile

from . import record
from .process import here
from .record import stored_files
from .retry import retried, retry_on_disconnect

#: the entry of a file of results that says which process wrote it
MARK = "cam51"
_BEGINS = f'{{"{MARK}": '.encode()


#: files that a thread of this process writes, and no record points to yet
BEING_WRITTEN = set()


def save_results(dataset, key, **entries):
    """Stores results of a run beside those it has; a reader finds the old ones or the new ones.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        **entries: JSON-able values
    """
    replace_results(dataset, key, entries)


def replace_results(dataset, key, entries, changes=None, where=None):
    """Stores results of a run beside those it has, and changes its record in the same write.

    Results are one file, written as a whole: it takes the place of the file that was read, and if
    another process has put its own there meanwhile, that one is read and added to.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        entries: ``{name: JSON-able value}``
        changes (None): ``{path of the record: JSON-able value}``
        where (None): a query of the database that the record must match

    Returns:
        whether it did
    """
    values = {f"config.{path}": record.jsonable(v) for path, v in (changes or {}).items()}
    # every file that was read here or written: the record points to one of them at most
    files = set()
    try:
        replaced = retry_on_disconnect(
            _replace, dataset, key, record.jsonable(entries), values, where or {}, files
        )
        retry_on_disconnect(_delete_all_but, dataset, key, files)
    finally:
        BEING_WRITTEN.difference_update(files)
    record.sync(dataset, key)
    dataset._run_cache.pop(key, None)
    return replaced


def _replace(dataset, key, entries, values, where, files):
    document = record.document_id(dataset, key)
    while True:
        stored = record.db().runs.find_one({"_id": document, **where}, {"results": True})
        if stored is None:
            return False
        old, new = stored.get("results"), ObjectId()
        files |= {old, new}  # first: whether it was stored is not always known
        BEING_WRITTEN.add(new)
        values_now = {**_read(dataset, key, old), **entries}
        # First, so that it is in the first part of the file.
        text = {MARK: here(), "cls": "fiftyone.core.runs.RunResults", **values_now}
        kind = {"content_type": "application/json", "metadata": {MARK: here()}}
        stored_files().put(json_util.dumps(text).encode(), _id=new, **kind)
        operation = {"$set": {"results": new, **values}}
        query = {"_id": document, "results": old, **where}
        if record.db().runs.update_one(query, operation).matched_count:
            return True


def _delete_all_but(dataset, key, files):
    """Deletes files of results but for the one that the record points to."""
    for number in files - {None, _number_of(dataset, key)}:
        stored_files().delete(number)


@retried
def load_results(dataset, key):
    """Returns the stored results of a run as plain data, ``{}`` if there are none."""
    return _read(dataset, key, _number_of(dataset, key))


def _number_of(dataset, key):
    """The number of the file with a run's results, or None."""
    query = {"_id": record.document_id(dataset, key)}
    return (record.db().runs.find_one(query, {"results": True}) or {}).get("results")


def _read(dataset, key, number):
    """What a file of results has; if another process replaced it before it was read, what the new one has."""
    while number is not None:
        with contextlib.suppress(NoFile, CorruptGridFile):
            values = json_util.loads(stored_files().get(number).read().decode())
            for name in ("cls", MARK):
                values.pop(name, None)
            return values
        replaced = _number_of(dataset, key)
        if replaced == number:
            raise FileNotFoundError(f"the results of the run {key!r} are not in the database")
        number = replaced
    return {}


def whose(data):
    """The process that wrote the beginning of a file of results, see :data:`MARK`; None if it is no such."""
    if not data.startswith(_BEGINS):
        return None
    end = data.find(b"}", len(_BEGINS)) + 1
    try:
        found = json_util.loads(data[len(_BEGINS) : end].decode())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def pack_ids(ids):
    """Sample ids in order, as short text: 12 bytes each, compressed."""
    joined = b"".join(ObjectId(i).binary for i in ids)
    return base64.b64encode(zlib.compress(joined)).decode()


def unpack_ids(text):
    """The ids of :func:`pack_ids`."""
    joined = zlib.decompress(base64.b64decode(text)) if text else b""
    return [str(ObjectId(joined[i : i + 12])) for i in range(0, len(joined), 12)]


def recorded_ids(dataset, key):
    """Returns the ids of the samples that a run covers, in its order; ``[]`` if none were stored."""
    return unpack_ids(load_results(dataset, key).get("ids"))


def ids_to_redo(dataset, key):
    """Returns the ids of samples of a run that have to be computed again though their heatmaps are there."""
    return unpack_ids(load_results(dataset, key).get("redo"))
