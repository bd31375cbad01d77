"""What runs and jobs wrote, by kinds; deleting it knows no job.

A run, and each job on it, says in its record what it writes before it does: fields, saved views and
attributes of labels in the run's own entries ``fields``, ``saved_views`` and ``label_attributes``; the
jobs in their parts of it, see ``_ENTRIES``.
"""

import os
import re

from . import label_attributes, record, results
from .app_style import activate_fields, forget_fields, shown_of
from .lease import check_unread
from .locking import schema_lock
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


def clear(dataset, key):
    """Deletes what a run wrote and nothing else: fields, map files, folders, colours, views, record.

    The record goes last and says ``deleting`` meanwhile, so a deletion that was cut short can be called
    again. A key without a run is no error. The copy of a run that a clone or an imported dataset has
    wrote no files, so none are deleted for it.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key

    Raises:
        ValueError: if the run is at work, or compared or examined at this moment
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
    with schema_lock(dataset):
        fields = [f for f in run.fields if dataset.get_field(f) is not None]
        before = getattr(run.record, "shown_before", None) if shown_of(dataset, fields) else None
        again = [f for f in before or [] if dataset.get_field(f) is not None]
        forget_fields(dataset, fields)
        if again:
            activate_fields(dataset, again)
        if fields:
            dataset.delete_sample_fields(fields)
        _delete_fields(dataset, label_attributes.written_by(run))
    _delete_views(dataset, run.record.saved_views)
    record.delete(dataset, key)


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
    for kind, delete in _DELETE.items():
        paths = [path for path in paths_of(kind, run, part) if path not in kept]
        if paths:
            delete(run.dataset, paths)


def paths_of(kind, run, part):
    """What a job wrote, of a kind.

    Args:
        kind: ``"view"``, ``"tag"``, ``"field"``, ``"attribute"`` or ``"sidebar group"``
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
    return paths


def tags_of(run):
    """The tags that the jobs on a run gave."""
    return [tag for part in run.jobs for tag in paths_of("tag", run, part)]


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


def _delete_views(dataset, names):
    for name in names:
        if dataset.has_saved_view(name):
            dataset.delete_saved_view(name)


def _delete_tags(dataset, tags):
    for tag in tags:
        dataset.match_tags(tag).untag_samples(tag)


def _delete_fields(dataset, paths):
    """Deletes fields and attributes, and with them FiftyOne their indexes."""
    present = [path for path in paths if dataset.get_field(path) is not None]
    if present:
        dataset.delete_sample_fields(present, error_level=1)


def _delete_groups(dataset, names):
    groups = dataset.app_config.sidebar_groups
    if groups:
        dataset.app_config.sidebar_groups = [g for g in groups if g.name not in names]
        dataset.save()


# kind -> what deletes those of it that are there
_DELETE = {
    "view": _delete_views, "tag": _delete_tags, "attribute": _delete_fields, "field": _delete_fields,
    "sidebar group": _delete_groups,
}  # fmt: skip


def delete_files(run):
    """Deletes a run's map files, and the folders that it made if nothing else is in them.

    By the files' names, not by what samples point to: a run that was killed leaves files that no sample
    points to, and what a sample points to may be somebody else's.

    Args:
        run: the :class:`Run`
    """
    folder = run.settings.get("map_dir")
    if not folder or not os.path.isdir(folder):
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
    ids = set(run.dataset.values("id")) | set(results.recorded_ids(run.dataset, run.key))
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
