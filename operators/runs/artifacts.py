"""What runs and jobs wrote, by kinds; deleting and renaming it knows no job.

A run, and each job on it, says in its record what it writes before it does: fields, saved views and
attributes of labels in the run's own entries ``fields``, ``saved_views`` and ``label_attributes``; the
jobs in their parts of it, see ``_ENTRIES``. Indexes are no kind: they go and are renamed with their
fields. Every step may be the last of a process that is killed, and the same call then does the rest.
"""

import os
import re
import typing

from pymongo.errors import OperationFailure

from . import label_attributes, look, record, results, saved_views, sidebar
from .app_style import activate_fields, forget_fields, rename_fields, shown_of
from .lease import check_unread
from .level import level_of
from .locking import change_schema
from .run import Run

_OWN_FILE = re.compile(r"([0-9a-f]{24})-([0-9a-f]{8})\.png(\.part)?")
# The entry of a job's part of a record that has the paths of a kind; attributes have two: names on each
# of the heatmap fields ``labels``, and paths of attributes of other labels.
_ENTRIES = {
    "view": "views", "tag": "tags", "field": "fields", "attribute": "object_attributes",
    "sidebar group": "sidebar_groups",
}  # fmt: skip
# What the part of a bias analysis does not say if version 0.1.0 wrote it: its names after the run's key.
_FIELDS_0_1_0 = ("verdict", "dependence", "bias")
_ATTRIBUTES_0_1_0 = ("verdict", "obj_energy", "object_area")
_GROUP_0_1_0 = "bias"
_NOT_ROLLED_BACK = ("running", "finished")


def clear(dataset, key, replaced=False):
    """Deletes what a run wrote and nothing else: fields, map files, folders, colours, views, record.

    The record goes last and says ``deleting`` meanwhile, so an interrupted deletion can be called
    again. A key without a run is no error. The copy of a run that a clone or an imported dataset has
    wrote no files, so none are deleted for it.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        replaced (False): whether another run takes its place; else with the last run the look goes too

    Raises:
        ValueError: if the run is running, or a job reads it at this moment
    """
    if key not in record.list_runs(dataset):
        return
    check_unread(dataset, key)
    run = Run.open(dataset, key)
    record.claim(dataset, key, "deleting")
    dataset._reload(hard=True)  # another process may have added its fields
    for part in run.jobs:
        delete_of_job(run, part)
    if run.record.own:
        delete_files(run)
    change_schema(dataset, lambda: _delete_fields_of(run))
    delete(dataset, "view", _owned(run, "view", run.record.saved_views))
    if not replaced and record.list_runs(dataset) == [key]:
        look.put_back(dataset)
    record.delete(dataset, key)


def _delete_fields_of(run):
    """Deletes a run's fields and attributes; what the grid showed before the run is shown again."""
    dataset, level = run.dataset, level_of(run.dataset)
    fields = [f for f in _owned(run, "field", run.fields) if _has_field(dataset, f)]
    before = _texts(vars(run.record), "shown_before") if shown_of(dataset, fields) else []
    again = [f for f in before if level.field(f) is not None]
    if again:
        activate_fields(dataset, again, instead=fields)
        for shown in [r for r in Run.all(dataset) if set(again) & set(r.fields)]:
            sidebar.open_run(dataset, shown.key)
    attributes = [p for p in label_attributes.written_by(run) if _has_field(dataset, p)]
    for paths in (fields, attributes):
        if paths:
            _delete_fields_locked(dataset, paths)
    delete(dataset, "sidebar group", groups_of(run))
    level.delete_bare(results.recorded_ids(dataset, run.key))


def delete_of_job(run, part):
    """Deletes what a job wrote; attributes that another job wrote too stay.

    Args:
        run: the :class:`Run` that it is recorded with
        part: the part of the run's record
    """
    kept = {
        path
        for other in Run.all(run.dataset)
        for job, stored in other.jobs.items()
        if (other.key, job) != (run.key, part) and stored.get("status") in _NOT_ROLLED_BACK
        for path in paths_of("attribute", other, job)
    }
    for kind in KINDS:
        delete(run.dataset, kind, [p for p in paths_of(kind, run, part) if p not in kept])


def delete(dataset, kind, paths):
    """Deletes artifacts of one of :data:`KINDS` as far as they are there."""
    present = [path for path in paths if KINDS[kind].exists(dataset, path)]
    if present:
        KINDS[kind].delete(dataset, present)


def rename(dataset, kind, moves):
    """Renames artifacts of one of :data:`KINDS` as far as they are there: ``{old: new}``."""
    present = {old: new for old, new in moves.items() if old != new}
    present = {old: new for old, new in present.items() if KINDS[kind].exists(dataset, old)}
    if present:
        KINDS[kind].rename(dataset, present)


def paths_of(kind, run, part):
    """What a job wrote, of a kind.

    Args:
        kind: one of :data:`KINDS`
        run: the :class:`Run` that it is recorded with
        part: the part of the run's record

    Returns:
        a list of names or paths
    """
    stored = _complete(run, run.jobs[part])
    paths = _texts(stored, _ENTRIES[kind])
    if kind == "attribute":
        names = _texts(stored, "attributes")
        paths += [f"{field}.{name}" for field in _texts(stored, "labels") for name in names]
    return _owned(run, kind, paths, _texts(stored, "cam_keys"))


def _owned(run, kind, paths, cam_keys=()):
    """Those of some artifacts whose names say that they are the run's, whatever a record says of others.

    A record may have come with a dataset from elsewhere, and name fields, views and tags of the user's.

    Args:
        run: the :class:`Run`
        kind: one of :data:`KINDS`
        paths: names or paths that its record has
        cam_keys (()): keys of runs that a job on it read, whose heatmaps have attributes of its
    """
    keys = {run.key, *(set(cam_keys) & set(record.list_runs(run.dataset)))}
    begins = tuple(f"{key}_" for key in keys)
    if kind in ("view", "tag"):
        begins = tuple(f"{key}{after}" for key in keys for after in (": ", " vs "))
    if kind == "attribute":  # on a heatmap of the run, or one that bears the run's key
        return [p for p in paths if p.startswith(begins) or p.rpartition(".")[2].startswith(begins)]
    return [path for path in paths if path.startswith(begins)]


def of_jobs(kind, run):
    """What the jobs on a run wrote, of a kind."""
    return [path for part in run.jobs for path in paths_of(kind, run, part)]


def groups_of(run):
    """The groups of the sidebar that a run made itself."""
    return _owned(run, "sidebar group", _texts(vars(run.record), "sidebar_groups"))


def all_of(kind, run):
    """What a run itself (groups of the sidebar) and the jobs on it wrote, of a kind."""
    return [*(groups_of(run) if kind == "sidebar group" else []), *of_jobs(kind, run)]


def entries_of_run(run, stored):
    """What a run's own lists have of a job: ``{entry of the run's record: names}``.

    Args:
        run: the :class:`Run`
        stored: the job's part of the record
    """
    stored = _complete(run, stored)
    lists = {"fields": "fields", "saved_views": "views", "label_attributes": "object_attributes"}
    return {name: _texts(stored, entry) for name, entry in lists.items()}


def _complete(run, stored):
    """A job's part of a record with what version 0.1.0 did not write into it."""
    if "fields" in stored:
        return stored
    return {
        "fields": [f"{run.key}_{name}" for name in _FIELDS_0_1_0],
        "labels": run.heatmap_fields,
        "attributes": list(_ATTRIBUTES_0_1_0),
        "sidebar_groups": [f"{run.key}_{_GROUP_0_1_0}"],
        **stored,
    }


def _texts(stored, name):
    """A list of texts; a record that came from elsewhere may have something else there."""
    values = stored.get(name)
    return [v for v in values if isinstance(v, str)] if isinstance(values, list) else []


class Kind(typing.NamedTuple):
    """What is done with artifacts of a kind: ``exists(dataset, path)`` and two for those that exist."""

    exists: typing.Callable
    delete: typing.Callable
    rename: typing.Callable


def delete_unlisted_views(run):
    """Deletes the saved views of a run that its dataset does not list; returns how many."""
    names = _owned(run, "view", [*run.record.saved_views, *of_jobs("view", run)])
    return saved_views.delete_unlisted(run.dataset, names)


def _has_tag(dataset, tag):
    return bool(dataset.match_tags(tag).limit(1).values("id"))


def _delete_tags(dataset, tags):
    for tag in tags:
        dataset.match_tags(tag).untag_samples(tag)


def _rename_tags(dataset, moves):
    for old, new in moves.items():
        tagged = dataset.match_tags(old)
        tagged.tag_samples(new)
        tagged.untag_samples(old)


def _has_field(dataset, path):
    """Whether there is a field, an index on it, or a value that was written into it."""
    level = level_of(dataset)
    if level.field(path) is not None or any(_indexes_on(dataset, [path])):
        return True
    return level.collection.count_documents({path: {"$exists": True}}, limit=1) > 0


def _delete_fields(dataset, paths):
    change_schema(dataset, lambda: _delete_fields_locked(dataset, paths))


def _delete_fields_locked(dataset, paths):
    level = level_of(dataset)
    for name, _ in _indexes_on(dataset, paths):
        level.collection.drop_index(name)
    forget_fields(dataset, paths)
    declared = [path for path in paths if level.field(path) is not None]
    if declared:
        level.delete_fields(declared, error_level=1)
    left = [path for path in paths if path not in declared]
    if left:  # values without a field, as of one that was deleted elsewhere while a run wrote it
        level.collection.update_many(
            {"$or": [{path: {"$exists": True}} for path in left]}, [{"$unset": left}]
        )


def _indexes_on(dataset, paths):
    """Yields (name, entry of ``index_information()``) of the indexes on fields or parts of them."""
    below = tuple(f"{path}." for path in paths)
    for name, entry in level_of(dataset).collection.index_information().items():
        if any(path in paths or path.startswith(below) for path, _ in entry["key"]):
            yield name, entry


def _rename_fields(dataset, moves):
    def change():
        rename_fields(dataset, moves)
        _move_indexes(dataset, moves)
        level = level_of(dataset)
        present = {old: new for old, new in moves.items() if level.field(old) is not None}
        if present:
            level.rename_fields(present)

    change_schema(dataset, change)


def _move_indexes(dataset, moves):
    """Makes the indexes on the new names before those on the old ones go, so that none is lost."""
    samples = level_of(dataset).collection
    for name, entry in list(_indexes_on(dataset, list(moves))):
        options = {k: entry[k] for k in ("unique", "sparse") if k in entry}
        moved = [(_moved(path, moves), order) for path, order in entry["key"]]
        try:
            samples.create_index(moved, **options)
        except OperationFailure:  # MongoDB allows 64
            samples.drop_index(name)
            samples.create_index(moved, **options)
        else:
            samples.drop_index(name)


def _moved(path, moves):
    for old, new in moves.items():
        if path == old or path.startswith(f"{old}."):
            return new + path[len(old) :]
    return path


_FIELD = Kind(_has_field, _delete_fields, _rename_fields)
#: kind -> :class:`Kind`, in the order in which they are deleted
KINDS = {
    "view": Kind(
        lambda dataset, name: bool(saved_views.ids_of(dataset, [name])),
        saved_views.delete,
        saved_views.rename,
    ),
    "tag": Kind(_has_tag, _delete_tags, _rename_tags),
    "attribute": _FIELD,
    "field": _FIELD,
    "sidebar group": Kind(sidebar.exists, sidebar.drop, sidebar.rename),
}


def delete_files(run):
    """Deletes a run's map files, and the folders that it made if nothing else is in them.

    By the files' names, not by what samples point to: a run that was killed leaves files that no sample
    points to, and what a sample points to may be another run's.

    Args:
        run: the :class:`Run`
    """
    folder = run.settings.get("map_dir")
    if not folder:
        return
    for field_folder, name in own_files(run):
        os.remove(os.path.join(field_folder, name))
    for field in run.fields:
        remove_if_empty(os.path.join(folder, field))
    remove_if_empty(folder)
    above = [f for f in run.record.made_folders if _is_above(f, folder)]
    for made in sorted(above, key=len, reverse=True):
        remove_if_empty(made)


def count_files(run):
    """How many map files :func:`clear` deletes."""
    return sum(1 for _ in own_files(run)) if run.record.own else 0


def _is_above(folder, below):
    return os.path.commonpath([folder, below]) == folder if os.path.isabs(folder) else False


def own_files(run):
    """Yields (folder, name) of the files that a run wrote."""
    folder = run.settings.get("map_dir")
    if not folder or not os.path.isdir(folder):
        return
    ids = set(level_of(run.dataset).ids()) | set(results.recorded_ids(run.dataset, run.key))
    stamps = getattr(run.record, "stamps", None)
    for field in run.fields:
        field_folder = os.path.join(folder, field)
        if os.path.islink(field_folder) or not os.path.isdir(field_folder):
            continue
        for name in os.listdir(field_folder):
            match = _OWN_FILE.fullmatch(name)
            if match and match[1] in ids and (stamps is None or match[2] in stamps):
                yield field_folder, name


def remove_if_empty(folder):
    """Removes a folder that has nothing in it and is no link."""
    if os.path.isdir(folder) and not os.path.islink(folder) and not os.listdir(folder):
        os.rmdir(folder)
