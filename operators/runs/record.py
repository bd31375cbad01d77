"""The stored record of a CAM run: read, claimed, kept alive, changed.

A record is one of FiftyOne's custom runs. It is read as plain data, straight from the database: the
copy that a dataset holds in memory is as old as its last reload, and FiftyOne builds a class whose
name the record gives, which is not to happen for a record that came from elsewhere.
"""

import datetime
import math
import types
import uuid

import fiftyone as fo
import fiftyone.core.odm as fod
import gridfs
import numpy as np
from bson import ObjectId, json_util
from pymongo import WriteConcern

from ..text import valid_text
from .level import level_of
from .process import here, is_gone
from .retry import retried, retry_on_disconnect

METHOD = "cam51"

# A run that sent no heartbeat for so long is taken for dead where its process cannot be looked at.
STALE_SECONDS = 180
# What a record may lack: one that an earlier version wrote, or that came from elsewhere.
_EMPTY = {
    "status": "interrupted", "started": None, "ended": None, "settings": {}, "fields": [],
    "dataset_id": None, "token": None, "host": None, "pid": None, "heartbeat": None,
    "progress": {}, "failures": [], "sessions": [], "saved_views": [], "made_folders": [],
    "extended": False, "error": None,
}  # fmt: skip

# Tokens of the runs that this process is working on.
ACTIVE = set()


def db():
    """FiftyOne's database; what is written by this is on disk, with all before it, when it is acknowledged."""
    return fod.get_db_conn().with_options(write_concern=WriteConcern(j=True))


def stored_files():
    """The files of results in the database, by their numbers; FiftyOne keeps them like this."""
    return gridfs.GridFS(db())


@retried
def document_id(dataset, key):
    """The id of the record's document, or None."""
    if not isinstance(key, str) or not key.isidentifier():
        return None
    entry = db().datasets.find_one({"_id": dataset._doc.id}, {f"runs.{key}": True})
    return (entry or {}).get("runs", {}).get(key)


@retried
def list_runs(dataset):
    """Returns the keys of the dataset's CAM runs, sorted.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
    """
    entry = db().datasets.find_one({"_id": dataset._doc.id}, {"runs": True}) or {}
    runs = entry.get("runs") or {}
    query = {"_id": {"$in": list(runs.values())}, "config.method": METHOD}
    ours = {row["_id"] for row in db().runs.find(query, {"_id": True})}
    return sorted(key for key, row in runs.items() if row in ours)


def is_heatmap(dataset, field):
    """Whether a field holds heatmaps; one that does not exist holds none."""
    return getattr(level_of(dataset).field(field), "document_type", None) is fo.Heatmap


@retried
def refresh(dataset):
    """Reloads a dataset if another process, such as the App's, gave it runs or fields meanwhile.

    Only then: reloading also drops what the user changed on samples and has not saved.
    """
    schemas = ("sample_fields", "frame_fields")
    wanted = {"runs": True, **{f"{schema}.name": True for schema in schemas}}
    stored = db().datasets.find_one({"_id": dataset._doc.id}, wanted)
    if stored is None:
        return  # deleted: the first use says so
    known = {schema: {f.name for f in getattr(dataset._doc, schema) or []} for schema in schemas}
    now = {schema: {f["name"] for f in stored.get(schema) or []} for schema in schemas}
    if set(stored.get("runs") or {}) != set(dataset.list_runs()) or known != now:
        dataset.reload()


@retried
def lacks_fields(dataset, fields, coloured):
    """Whether a dataset's stored schema lacks fields, or its stored colours do."""
    level = level_of(dataset)
    parts = {f"{level.schema_entry}.name": True, "app_config.color_scheme.fields.path": True}
    entry = db().datasets.find_one({"_id": dataset._doc.id}, parts) or {}
    schema = {field["name"] for field in entry.get(level.schema_entry, [])}
    scheme = (entry.get("app_config") or {}).get("color_scheme") or {}
    colours = {row.get("path") for row in scheme.get("fields") or []}
    return not (set(fields) <= schema and set(map(level.path, coloured)) <= colours)


def is_there(dataset):
    """Whether a dataset exists, whatever its copy in memory says."""
    return db().datasets.count_documents({"_id": dataset._doc.id}, limit=1) > 0


def is_listed(dataset, key, document):
    """Whether a dataset exists and has a run's document under its key."""
    query = {"_id": dataset._doc.id, f"runs.{key}": document}
    return db().datasets.count_documents(query, limit=1) > 0


@retried
def stored_paths(dataset):
    """The paths of a dataset's stored schema, nested ones too; empty if the dataset is gone."""
    schema = level_of(dataset).schema_entry
    entry = db().datasets.find_one({"_id": dataset._doc.id}, {schema: True}) or {}
    return set(_paths_in(entry.get(schema) or [], ""))


def _paths_in(fields, prefix):
    for field in fields:
        path = f"{prefix}{field['name']}"
        yield path
        yield from _paths_in(field.get("fields") or [], f"{path}.")


def is_taken(dataset, key):
    """Whether a key is that of any of the dataset's runs, ours or not."""
    return document_id(dataset, key) is not None


@retried
def config_of(dataset, key):
    """Returns the record of a CAM run as it is stored now.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key

    Returns:
        a ``types.SimpleNamespace`` with ``status``, ``started``, ``settings``, ``fields``, ``progress``,
        ``failures``, ``sessions`` and more, and ``own``: False for the copy that a clone or an imported
        dataset has

    Raises:
        ValueError: if there is no such run; the message lists those there are
    """
    stored = db().runs.find_one({"_id": document_id(dataset, key), "config.method": METHOD})
    if stored is None:
        runs = list_runs(dataset)
        known = f"it has: {', '.join(runs)}" if runs else "it has none yet; compute_cams makes one"
        raise ValueError(f"cam_key: the dataset has no CAM run {key!r}; {known}")
    return complete(stored["config"], stored["config"].get("dataset_id") == str(dataset._doc.id))


@retried
def read_entries(dataset, names):
    """Reads some entries of the records of all of a dataset's CAM runs, in two queries.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        names: of entries, or paths in them

    Returns:
        a list of pairs (key, dict of what the record has of these); none of a dataset that was deleted
    """
    listed = db().datasets.find_one({"_id": dataset._doc.id}, {"runs": True}) or {}
    keys = {number: key for key, number in (listed.get("runs") or {}).items()}
    query = {"_id": {"$in": list(keys)}, "config.method": METHOD}
    rows = db().runs.find(query, {f"config.{name}": True for name in names})
    return [(keys[row["_id"]], row.get("config") or {}) for row in rows]


def complete(stored, own):
    """What :func:`config_of` returns of a stored record.

    Args:
        stored: the record's ``config``
        own: whether the dataset's runs wrote it, and it is no copy
    """
    entries = {**_EMPTY, **stored}
    for name, empty in _EMPTY.items():
        if isinstance(empty, (list, dict)) and not isinstance(entries[name], type(empty)):
            entries[name] = empty
    for name in ("saved_views", "made_folders"):
        entries[name] = [text for text in entries[name] if isinstance(text, str)]
    config = types.SimpleNamespace(**entries)
    # A name that is no field's could lead a deletion out of the run's folder.
    config.fields = [f for f in config.fields if isinstance(f, str) and f.isidentifier()]
    config.own = own
    return config


def register(dataset, key, settings, fields, samples=None, **entries):
    """Registers a run before its first write.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        settings: JSON-able values that say what is computed
        fields: every field that the run writes
        samples (None): the view of the run, whose stages are stored
        **entries: more JSON-able entries

    Returns:
        the token that says whose run it is

    Raises:
        ValueError: if another process registered the key meanwhile
    """
    token = uuid.uuid4().hex
    config = dataset.init_run(
        method=METHOD,
        status="running",
        started=now(),
        settings=jsonable(settings),
        fields=list(fields),
        # A clone has a copy of this record, but the files stay the original's.
        dataset_id=str(dataset._doc.id),
        **retry_on_disconnect(_whose, token),
        progress={},
        failures=[],
        **{name: jsonable(value) for name, value in entries.items()},
    )
    document = fod.runs.RunDocument(
        dataset_id=dataset._doc.id,
        key=key,
        version=fo.__version__,
        timestamp=datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None),
        config=config.serialize(),
        view_stages=_stages(samples),
    )
    document.id = ObjectId()
    ACTIVE.add(token)  # nobody's leftover before the dataset lists it
    try:
        _store(dataset, key, document)
    finally:
        ACTIVE.discard(token)
    return token


@retried
def _store(dataset, key, document):
    """Stores a new record under its key; storing it twice does no harm."""
    db().runs.replace_one({"_id": document.id}, document.to_mongo(), upsert=True)
    # One operation of the database: of two processes that come at once, one gets the key.
    free = {"_id": dataset._doc.id, f"runs.{key}": {"$exists": False}}
    given = db().datasets.update_one(free, {"$set": {f"runs.{key}": document.id}}).matched_count
    if not given and document_id(dataset, key) != document.id:
        db().runs.delete_one({"_id": document.id})
        raise ValueError(
            f"cam_key: another process registered {key!r} at this moment; choose another key"
        )
    dataset._doc.runs[key] = fod.runs.RunDocument.objects.get(id=document.id)
    dataset.save()
    dataset._run_cache.pop(key, None)


def _stages(samples):
    if not isinstance(samples, fo.DatasetView):
        return None
    return [json_util.dumps(stage) for stage in samples._serialize(include_uuids=False)]


def _whose(token):
    return {"token": token, **here(), "heartbeat": clock()}


def clock():
    """The database's time in UTC: the clocks of two machines differ."""
    return naive(db().command("hello")["localTime"])


def claim(dataset, key, status, **changes):
    """Takes a run over from the process that had it last, unless that is still running.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        status: what it becomes: ``"running"``, ``"deleting"`` or ``"renaming"``
        **changes: JSON-able entries to change at the same time

    Returns:
        the token that says whose run it is now

    Raises:
        ValueError: if it is running, or if another process took it at the same moment
    """
    token = uuid.uuid4().hex
    _take(dataset, key, token, {"status": status, **jsonable(changes)})
    return token


@retried
def _take(dataset, key, token, entries):
    """Gives an idle run a new token; taking it twice by the same one does no harm."""
    config = config_of(dataset, key)
    if config.token != token:
        check_idle(config, key)
    # of the owner that was seen, or of none, as in a record of another version
    query = {"_id": document_id(dataset, key), "config.token": config.token}
    entries = {**entries, **_whose(token)}
    operation = {
        "$set": {f"config.{name}": value for name, value in entries.items()},
        "$unset": {"config.stop": ""},
    }
    if not db().runs.update_one(query, operation).matched_count:
        raise ValueError(f"cam_key: another process took the run {key!r} at this moment")
    sync(dataset, key)


@retried
def holds(dataset, key, token):
    """Whether a run is still that of a token."""
    query = {"_id": document_id(dataset, key), "config.token": token}
    return db().runs.count_documents(query, limit=1) > 0


def check_idle(config, key):
    """Raises a ValueError if a run is running."""
    if is_alive(config):
        where = (
            "this process" if config.token in ACTIVE else f"process {config.pid} on {config.host}"
        )
        raise ValueError(
            f"cam_key: the run {key!r} is running in {where} ({share(config)} done); wait, or press Stop in "
            "the panel (from Python: stop_cam_run)"
        )


def is_alive(config):
    """Whether a run is being worked on: in this process, in another one, on another machine.

    Args:
        config: what :func:`config_of` returns
    """
    if not config.own or config.status not in ("running", "deleting", "renaming"):
        return False
    if config.token in ACTIVE:
        return True
    if is_gone(vars(config)):
        return False
    if not isinstance(config.heartbeat, datetime.datetime):
        return False
    return (clock() - naive(config.heartbeat)).total_seconds() < STALE_SECONDS


def naive(moment):
    """A time in UTC without its zone: FiftyOne's setting decides whether the database gives one."""
    if moment.tzinfo is None:
        return moment
    return moment.astimezone(datetime.timezone.utc).replace(tzinfo=None)


def status_of(dataset, key):
    """Returns the status of a run.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key

    Returns:
        ``"running"``, ``"finished"``, ``"interrupted"`` (stopped, or its process died), ``"failed"`` (an
        error ended it), ``"deleting"`` or ``"renaming"`` (that was begun and can be called again)
    """
    return status_from(config_of(dataset, key))


def status_from(config):
    """The status of a record that was read, see :func:`status_of`."""
    return "interrupted" if config.status == "running" and not is_alive(config) else config.status


def share(config):
    """How much of a run is done by its own count, which may be some seconds old: ``"63 %"``."""
    return percent(config.progress.get("done", 0), config.progress.get("total", 0))


def percent(done, total):
    """A share as text, never rounded up: 100 % is all of it."""
    return f"{math.floor(100 * done / total) if total else 0} %"


@retried
def update(dataset, key, **changes):
    """Changes entries of a run's record: one small write.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        **changes: JSON-able values
    """
    config_of(dataset, key)  # says which runs there are if this one is not
    entries = {f"config.{name}": jsonable(value) for name, value in changes.items()}
    db().runs.update_one({"_id": document_id(dataset, key)}, {"$set": entries})
    sync(dataset, key)


@retried
def change(dataset, key, values=None, add=None, remove=None, where=None):
    """Changes single paths of a run's record in one write of the database.

    What another process writes at the same moment on other paths, or into the same lists, stays.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        values (None): ``{path: JSON-able value}``
        add (None): ``{path: values}`` that lists get unless they have them
        remove (None): ``{path: values}`` that lists lose
        where (None): a query of the database that the record must match

    Returns:
        whether there is such a record
    """
    steps = [{f"config.{path}": {"$literal": jsonable(v)} for path, v in (values or {}).items()}]
    steps += [{f"config.{path}": _with(path, list(new))} for path, new in (add or {}).items()]
    steps += [{f"config.{path}": _without(path, list(old))} for path, old in (remove or {}).items()]
    query = {"_id": document_id(dataset, key), "config.method": METHOD, **(where or {})}
    changed = db().runs.update_one(query, [{"$set": step} for step in steps if step])
    if not changed.matched_count:
        return False
    sync(dataset, key)
    return True


def _with(path, values):
    """The expression of a list with values added."""
    kept = _list_at(path)
    new = _filtered({"$literal": values}, {"$not": [{"$in": ["$$this", kept]}]})
    return {"$concatArrays": [kept, new]}


def _without(path, values):
    """The expression of a list with values removed."""
    return _filtered(_list_at(path), {"$not": [{"$in": ["$$this", {"$literal": values}]}]})


def _filtered(values, condition):
    return {"$filter": {"input": values, "cond": condition}}


def _list_at(path):
    """The expression of a list; a record that came from elsewhere may have something else there."""
    return {"$cond": [{"$isArray": [f"$config.{path}"]}, f"$config.{path}", []]}


@retried
def sync(dataset, key):
    """Lets the dataset in memory, which FiftyOne's own functions read, know what is stored."""
    held = dataset._doc.runs.get(key)
    if isinstance(held, fod.runs.RunDocument):
        held.reload()


@retried
def rename(dataset, key, new_key):
    """Gives a record another key; doing so twice does no harm.

    Raises:
        ValueError: if the new key is taken
    """
    document = document_id(dataset, key)
    if document is None:  # it has been moved, and the answer was lost
        document = document_id(dataset, new_key)
    free = {"_id": dataset._doc.id, f"runs.{new_key}": {"$exists": False}}
    move = {"$rename": {f"runs.{key}": f"runs.{new_key}"}}
    moved = db().datasets.update_one(free, move).matched_count
    if not moved and document_id(dataset, new_key) != document:
        raise ValueError(f"new_key: {new_key!r} is the key of another run of this dataset")
    dataset._run_cache.pop(key, None)
    finish_renaming(dataset, new_key)


def finish_renaming(dataset, key):
    """Writes a record's new key into the record itself, after the dataset's list has it."""
    db().runs.update_one({"_id": document_id(dataset, key)}, {"$set": {"key": key}})
    dataset._run_cache.pop(key, None)
    # Not dataset.reload(), which drops what the user changed on samples and has not saved.
    dataset._reload()


def delete(dataset, key):
    """Deletes a record and its results, nothing else."""
    document = document_id(dataset, key)
    db().datasets.update_one({"_id": dataset._doc.id}, {"$unset": {f"runs.{key}": ""}})
    delete_document(document)
    dataset._run_cache.pop(key, None)
    # Not dataset.reload(), which drops what the user changed on samples and has not saved.
    dataset._reload()


def delete_document(number):
    """Deletes a record's document, which no dataset lists any more, with its results."""
    stored = db().runs.find_one({"_id": number}, {"results": True}) or {}
    if stored.get("results") is not None:
        stored_files().delete(stored["results"])
    db().runs.delete_one({"_id": number})


def jsonable(value):
    """Returns a value as JSON has it.

    Arrays become lists and NaN becomes None; a function is its name, and what JSON has no word for
    is its text, in which what UTF-8 cannot hold is replaced.
    """
    if isinstance(value, dict):
        return {valid_text(str(k)): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((jsonable(v) for v in value), key=str)
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return valid_text(value)  # the database refuses a document with any other
    return valid_text(getattr(value, "__name__", None) or str(value))


def now():
    """The time, for records that are shown."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
