"""Giving a run another key: fields, attributes, files, colours, views, tags, results and record."""

import os
import re

from . import artifacts, label_attributes
from . import record as run_record
from . import results as run_results
from .artifacts import own_files, remove_if_empty
from .keys import check_new_key
from .lease import check_unread
from .level import level_of
from .run import Run

# What a record says with names of fields, views and tags.
_NAMING = (
    "fields", "heatmap_fields", "prediction_field", "label_attributes", "drafts", "saved_views",
    "sidebar_groups", "bias", "compare",
)  # fmt: skip


def rename_run(dataset, key, new_key, jobs):
    """Gives a run another key, see :func:`rename`; what is in the way is named.

    Raises:
        ValueError: if the new key cannot be given
    """
    if _finish(dataset, key, new_key):
        return {}
    run_record.config_of(dataset, key)
    if new_key == key:
        raise ValueError(f"new_key: the run is called {key!r} already")
    if new_key in run_record.list_runs(dataset):
        raise ValueError(
            f"new_key: {new_key!r} is already a CAM run of this dataset ("
            f"{run_record.status_of(dataset, new_key)}); choose another key, or delete_cam_run it first"
        )
    try:
        check_new_key(dataset, new_key)
    except ValueError as error:
        raise ValueError(str(error).replace("cam_key", "new_key", 1)) from error
    return rename(dataset, key, new_key, jobs)


def _finish(dataset, key, new_key):
    """Ends a renaming that was interrupted right after the record got its new key; returns whether it did."""
    runs = run_record.list_runs(dataset)
    if new_key not in runs or (key in runs and key != new_key):
        return False
    config = run_record.config_of(dataset, new_key)
    if config.status != "renaming" or config.renaming_to != new_key:
        return False
    run_record.finish_renaming(dataset, new_key)
    run_record.update(dataset, new_key, status=config.renamed_from, moved=False)
    return True


def rename(dataset, key, new_key, jobs):
    """Gives a run another key: its fields, attributes, files, colours, views, tags, results and record.

    Views, tags and the sidebar's groups that begin with the key are renamed, and views look at the
    fields' new names. Comparisons with it that are stored with other runs get its new key, too.

    Every step can be repeated: an interrupted renaming is finished by calling it again.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        new_key: the new key, checked with ``check_key``
        jobs: ``{part of a record: module}`` of jobs whose results say more than names, with
            ``renamed(found, key)`` and ``descriptions(found)``, see :mod:`operators.compare.renaming`

    Returns:
        ``{old field: new field}``

    Raises:
        ValueError: if a field of the new name exists, the run is running, or a job reads it at this moment
    """
    run = Run.open(dataset, key)
    config = run.record
    run_record.check_idle(config, key)
    check_unread(dataset, key)
    fields = {f: new_key + f[len(key) :] if f.startswith(f"{key}_") else f for f in config.fields}
    fields.update(label_attributes.renamed(run, new_key))
    fields.update(_agreements(dataset, key, new_key))
    moves = {old: new for old, new in fields.items() if old != new}
    status = _status_before(dataset, config, key, new_key, moves)
    run_record.claim(dataset, key, "renaming", renaming_to=new_key, renamed_from=status)
    if not getattr(config, "moved", False):
        groups = {name: new_key + name[len(key) :] for name in artifacts.groups_of(run)}
        _move(run, moves, _Renamed(key, new_key, {**moves, **groups}, jobs))
    run_record.rename(dataset, key, new_key)
    run_record.update(dataset, new_key, status=status, moved=False)
    return moves


def _status_before(dataset, config, key, new_key, moves):
    """The status to come back to; raises a ValueError if the new name cannot be given."""
    if config.status != "renaming":
        taken = [new for new in moves.values() if level_of(dataset).field(new) is not None]
        if taken:
            raise ValueError(f"new_key: the dataset has a field {taken[0]!r}; choose another key")
        return config.status
    if config.renaming_to != new_key:
        raise ValueError(
            f"new_key: {key!r} was being renamed to {config.renaming_to!r} when that was interrupted; "
            "finish it first"
        )
    return config.renamed_from


def _move(run, moves, renamed):
    """Moves all but the record's key, and says in the record that it is done."""
    dataset, key, config = run.dataset, run.key, run.record
    settings = {**config.settings, "cam_key": renamed.key(key)}
    folder = settings.get("map_dir")
    if config.own and folder:
        settings["map_dir"] = _move_files(run, renamed.key(key), moves)
    _rename_fields(dataset, moves, key, renamed.key(key))
    for kind in ("sidebar group", "tag"):
        names = artifacts.all_of(kind, run)
        artifacts.rename(dataset, kind, {name: renamed.text(name) for name in names})
    _rename_views(dataset, config.saved_views, renamed)
    for other in _compared_with(dataset, key):
        _rename_comparison(dataset, other, renamed)
    _rename_results(dataset, key, renamed)
    run_record.update(
        dataset,
        key,
        moved=True,
        settings=settings,
        made_folders=[settings["map_dir"] if f == folder else f for f in config.made_folders],
        **{name: renamed.entry(name, getattr(config, name, None)) for name in _NAMING},
    )


def _compared_with(dataset, key):
    """The keys of the other runs with which a comparison is stored that a run took part in."""
    return [k for k in run_record.list_runs(dataset) if k != key and key in _compared(dataset, k)]


def _compared(dataset, key):
    """The keys of the runs in the comparison that is stored with one.

    Of its record and of its results: of an interrupted renaming one may be done.
    """
    record = getattr(run_record.config_of(dataset, key), "compare", None) or {}
    results = run_results.load_results(dataset, key).get("compare") or {}
    return {*record.get("cam_keys", []), *results.get("cam_keys", [])}


def _agreements(dataset, key, new_key):
    """``{old: new}`` of the fields of other runs that are named after a pair with this run."""
    moves = {}
    for other in _compared_with(dataset, key):
        field = f"{other}_{key}_agreement"
        if field in run_record.config_of(dataset, other).fields:
            moves[field] = f"{other}_{new_key}_agreement"
    return moves


def _rename_comparison(dataset, key, renamed):
    """Gives a comparison that is stored with another run the new names, and its views."""
    config = run_record.config_of(dataset, key)
    _rename_views(dataset, config.saved_views, renamed)
    _rename_results(dataset, key, renamed, ["compare"])
    known = {n: getattr(config, n, None) for n in ("fields", "saved_views", "compare")}
    run_record.update(dataset, key, **{n: renamed.entry(n, value) for n, value in known.items()})


class _Renamed:
    """Plain data with every name of a run replaced: its key, its fields, and what begins with the key."""

    def __init__(self, key, new_key, moves, jobs):
        self._key, self._new_key, self._moves, self.jobs = key, new_key, moves, jobs
        # Longest first: run_gradcam would be found in run_gradcam_layer4.
        names = sorted(map(re.escape, moves), key=len, reverse=True)
        self._fields = re.compile(rf"(?<!\w)({'|'.join(names)})(?!\w)") if names else None

    def __call__(self, value):
        """Returns a copy of JSON-able data with the new names."""
        if isinstance(value, dict):
            return {self(k): self.entry(k, v) for k, v in value.items()}
        if isinstance(value, list):
            return [self(v) for v in value]
        return self.text(value) if isinstance(value, str) else value

    def entry(self, name, value):
        """The key itself is only replaced where a key stands: a class may have the same name."""
        if name == "cam_key":
            return self.key(value)
        if name == "cam_keys" and isinstance(value, list):
            return [self.key(self(v)) for v in value]
        if name in self.jobs and isinstance(value, dict):
            return self.jobs[name].renamed(self(value), self.key)
        return self(value)

    def key(self, value):
        """Returns the new key for the old one, and anything else as it is."""
        return self._new_key if value == self._key else value

    def text(self, value):
        """Returns a text with the new names of fields and the new key at its beginning."""
        start, colon, rest = value.partition(": ")
        keys = start.split(" vs ")  # of a view of two runs
        if colon and len(keys) <= 2:
            value = " vs ".join(map(self.key, keys)) + colon + rest
        return self.fields(value)

    def fields(self, value):
        """Returns a text with the new names of fields."""
        if self._fields is None:
            return value
        return self._fields.sub(lambda match: self._moves[match[1]], value)


def _move_files(run, new_key, moves):
    """Moves a run's files into the new key's folder; returns it."""
    folder = run.settings["map_dir"]
    target = os.path.join(os.path.dirname(folder), new_key)
    for field_folder, name in list(own_files(run)):
        field = os.path.basename(field_folder)
        new_folder = os.path.join(target, moves.get(field, field))
        os.makedirs(new_folder, exist_ok=True)
        os.replace(os.path.join(field_folder, name), os.path.join(new_folder, name))
    for old in run.fields:
        old_folder = os.path.join(folder, old) + os.sep
        new_folder = os.path.join(target, moves.get(old, old)) + os.sep
        for field in {old, moves.get(old, old)}:  # renamed already, if this is the second attempt
            _point_elsewhere(run.dataset, field, old_folder, new_folder)
        remove_if_empty(old_folder)
    remove_if_empty(folder)
    return target


def _point_elsewhere(dataset, field, old_folder, new_folder):
    path = f"{field}.map_path"
    moved = {"$replaceOne": {"input": f"${path}", "find": old_folder, "replacement": new_folder}}
    begins = {path: {"$regex": f"^{re.escape(old_folder)}"}}
    level_of(dataset).collection.update_many(begins, [{"$set": {path: moved}}])


def _rename_fields(dataset, moves, key, new_key):
    dataset._reload(hard=True)
    artifacts.rename(dataset, "field", moves)
    for field in moves.values():
        path = f"{field}.cam_key"
        level_of(dataset).collection.update_many({path: key}, {"$set": {path: new_key}})
    dataset.reload()


def _rename_views(dataset, names, renamed):
    """Renames a run's saved views, and lets them look at the fields' new names."""
    dataset._doc.reload("saved_views")
    moves = {name: renamed.text(name) for name in names}
    artifacts.rename(dataset, "view", moves)
    for name in moves.values():
        if dataset.has_saved_view(name):  # the user may have deleted it
            view = dataset._get_saved_view_doc(name)
            view.view_stages = [renamed.fields(stage) for stage in view.view_stages]
            view.save()


def _rename_results(dataset, key, renamed, names=None):
    """Renames in the results that are stored with a run: in all of them, or in those of some names."""
    results = run_results.load_results(dataset, key)
    names = [name for name in results if name != "ids"] if names is None else names
    changed = {name: renamed.entry(name, results[name]) for name in names if name in results}
    if changed:
        run_results.save_results(dataset, key, **changed)
    for part, job in renamed.jobs.items():
        if changed.get(part):
            _describe(dataset, job.descriptions(changed[part]))


def _describe(dataset, descriptions):
    """Gives fields and saved views, where there are such, the descriptions with the new keys."""
    for name, description in descriptions.items():
        field = level_of(dataset).field(name)
        if field is not None:
            field.description = description
            field.save()
        elif dataset.has_saved_view(name):
            dataset.update_saved_view_info(name, {"description": description})
