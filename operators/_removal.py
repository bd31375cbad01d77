"""Taking back what a run wrote, and giving it another name: fields, files, colours, views, record."""

import os
import re

import fiftyone.core.odm as fod

from . import _record, _run_results
from ._colours import forget_fields
from ._lock import writing_schema

_OWN_FILE = re.compile(r"([0-9a-f]{24})-([0-9a-f]{8})\.png(\.part)?")


def clear(dataset, key):
    """Deletes what a run wrote and nothing else: fields, map files, folders, colours, views, record.

    The record goes last and says ``deleting`` meanwhile, so a deletion that was cut short can be called
    again. A key without a run is no error. The copy of a run that a clone or an imported dataset has
    wrote no files, so none are deleted for it.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key

    Raises:
        ValueError: if the run is at work
    """
    if key not in _record.list_runs(dataset):
        return
    config = _record.config_of(dataset, key)
    _record.claim(dataset, key, "deleting")
    dataset._reload(hard=True)  # another process may have added its fields
    if getattr(config, "bias", None) is not None:
        _clear_examination(dataset, key)
        config = _record.config_of(dataset, key)
    if config.own:
        delete_files(dataset, key, config)
    with writing_schema(dataset):
        fields = [f for f in config.fields if dataset.get_field(f) is not None]
        forget_fields(dataset, fields)
        if fields:
            dataset.delete_sample_fields(fields)
    for name in config.saved_views:
        if dataset.has_saved_view(name):
            dataset.delete_saved_view(name)
    _record.delete(dataset, key)


def _clear_examination(dataset, key):
    """Deletes what find_background_bias wrote for a run: attributes and tags that nothing else knows of."""
    from . import _bias_store

    _bias_store.clear(dataset, key)


def delete_files(dataset, key, config):
    """Deletes a run's map files, and the folders that it made if nothing else is in them.

    By the files' names, not by what samples point to: a run that was killed leaves files that no sample
    points to, and what a sample points to may be somebody else's.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        config: its record
    """
    folder = config.settings.get("map_dir")
    if not folder or not os.path.isdir(folder):
        return
    for room, name in _own_files(dataset, key, config, folder):
        os.remove(os.path.join(room, name))
    for field in config.fields:
        _remove_if_empty(os.path.join(folder, field))
    _remove_if_empty(folder)
    above = [f for f in config.made_folders if _is_above(f, folder)]
    for made in sorted(above, key=len, reverse=True):
        _remove_if_empty(made)


def _is_above(folder, below):
    return os.path.commonpath([folder, below]) == folder if os.path.isabs(folder) else False


def _own_files(dataset, key, config, folder):
    """Yields (folder, name) of the files that a run wrote."""
    ids = set(dataset.values("id")) | set(recorded_ids(dataset, key))
    stamps = getattr(config, "stamps", None)
    for field in config.fields:
        room = os.path.join(folder, field)
        if os.path.islink(room) or not os.path.isdir(room):
            continue
        for name in os.listdir(room):
            match = _OWN_FILE.fullmatch(name)
            if match and match[1] in ids and (stamps is None or match[2] in stamps):
                yield room, name


def recorded_ids(dataset, key):
    """Returns the ids of the samples that a run covers, in its order; ``[]`` if none were stored."""
    return _run_results.unpack_ids(_run_results.load_results(dataset, key).get("ids"))


def _remove_if_empty(folder):
    if os.path.isdir(folder) and not os.path.islink(folder) and not os.listdir(folder):
        os.rmdir(folder)


def rename(dataset, key, new_key):
    """Gives a run another key: its fields, attributes, files, colours and record.

    Every step can be repeated: a renaming that was cut short is finished by calling it again.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        new_key: the new key, checked with ``check_key``

    Returns:
        ``{old field: new field}``

    Raises:
        ValueError: if a field of the new name exists, or the run is at work
    """
    config = _record.config_of(dataset, key)
    _record.check_idle(config, key)
    fields = {f: new_key + f[len(key) :] if f.startswith(f"{key}_") else f for f in config.fields}
    moves = {old: new for old, new in fields.items() if old != new}
    status = _status_before(dataset, config, key, new_key, moves)
    _record.claim(dataset, key, "renaming", renaming_to=new_key, renamed_from=status)
    if not getattr(config, "moved", False):
        _move(dataset, key, config, new_key, fields)
    _record.rename(dataset, key, new_key)
    _record.update(dataset, new_key, status=status, moved=False)
    return moves


def _status_before(dataset, config, key, new_key, moves):
    """The status to come back to; raises a ValueError if the new name cannot be given."""
    if config.status != "renaming":
        taken = [new for new in moves.values() if dataset.get_field(new) is not None]
        if taken:
            raise ValueError(f"new_key: the dataset has a field {taken[0]!r}; choose another key")
        return config.status
    if config.renaming_to != new_key:
        raise ValueError(
            f"new_key: {key!r} was being renamed to {config.renaming_to!r} when that was cut short; "
            "finish it first"
        )
    return config.renamed_from


def _move(dataset, key, config, new_key, fields):
    """Moves all but the record's key, and says in the record that it is done."""
    moves = {old: new for old, new in fields.items() if old != new}
    settings = {**config.settings, "cam_key": new_key}
    folder = settings.get("map_dir")
    if config.own and folder:
        settings["map_dir"] = _move_files(dataset, key, config, new_key, moves)
    _rename_fields(dataset, moves, key, new_key)
    _rename_results(dataset, key, new_key, fields)
    prediction = getattr(config, "prediction_field", None)
    _record.update(
        dataset,
        key,
        moved=True,
        settings=settings,
        fields=[fields[f] for f in config.fields],
        heatmap_fields=[fields.get(f, f) for f in getattr(config, "heatmap_fields", [])],
        prediction_field=fields.get(prediction, prediction),
        made_folders=[settings["map_dir"] if f == folder else f for f in config.made_folders],
    )


def _move_files(dataset, key, config, new_key, moves):
    """Moves a run's files into the new key's folder; returns it."""
    folder = config.settings["map_dir"]
    target = os.path.join(os.path.dirname(folder), new_key)
    for room, name in list(_own_files(dataset, key, config, folder)):
        field = os.path.basename(room)
        new_room = os.path.join(target, moves.get(field, field))
        os.makedirs(new_room, exist_ok=True)
        os.replace(os.path.join(room, name), os.path.join(new_room, name))
    for old in config.fields:
        old_room = os.path.join(folder, old) + os.sep
        new_room = os.path.join(target, moves.get(old, old)) + os.sep
        for field in {old, moves.get(old, old)}:  # renamed already, if this is the second attempt
            _point_elsewhere(dataset, field, old_room, new_room)
        _remove_if_empty(old_room)
    _remove_if_empty(folder)
    return target


def _point_elsewhere(dataset, field, old_room, new_room):
    path = f"{field}.map_path"
    moved = {"$replaceOne": {"input": f"${path}", "find": old_room, "replacement": new_room}}
    begins = {path: {"$regex": f"^{re.escape(old_room)}"}}
    dataset._sample_collection.update_many(begins, [{"$set": {path: moved}}])


def _rename_fields(dataset, moves, key, new_key):
    dataset._reload(hard=True)
    with writing_schema(dataset):
        left = {old: new for old, new in moves.items() if dataset.get_field(old) is not None}
        _rename_in_app(dataset, moves)
        if left:
            dataset.rename_sample_fields(left)
    for field in moves.values():
        path = f"{field}.cam_key"
        dataset._sample_collection.update_many({path: key}, {"$set": {path: new_key}})
    dataset.reload()


def _rename_in_app(dataset, moves):
    """Lets the fields keep their colours and their place in the grid."""
    scheme, active = dataset.app_config.color_scheme, dataset.app_config.active_fields
    if scheme and scheme.fields:
        scheme.fields = [
            {**e, "path": moves.get(e.get("path"), e.get("path"))} for e in scheme.fields
        ]
    if active and active.paths:
        paths = [moves.get(p, p) for p in active.paths]
        dataset.app_config.active_fields = fod.ActiveFields(paths=paths, exclude=active.exclude)
    dataset.save()


def _rename_results(dataset, key, new_key, fields):
    summary = _run_results.load_results(dataset, key).get("summary")
    if summary is None:
        return
    summary["cam_key"] = new_key
    summary["fields"] = [fields.get(f, f) for f in summary["fields"]]
    summary["statuses"] = {fields.get(f, f): n for f, n in summary["statuses"].items()}
    _run_results.save_results(dataset, key, summary=summary)
