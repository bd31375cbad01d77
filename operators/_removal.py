"""Taking back what a run wrote: fields, files, colours, views, record."""

import os
import re

from . import _label_attributes, _record, _run_results
from ._at_work import check_unread
from ._colours import activate_fields, forget_fields, shown_of
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
        ValueError: if the run is at work, or compared or examined at this moment
    """
    if key not in _record.list_runs(dataset):
        return
    check_unread(dataset, key)
    config = _record.config_of(dataset, key)
    _record.claim(dataset, key, "deleting")
    dataset._reload(hard=True)  # another process may have added its fields
    if getattr(config, "bias", None) is not None:
        _clear_examination(dataset, key)
        config = _record.config_of(dataset, key)
    if getattr(config, "compare", None) is not None:
        _clear_comparison(dataset, key)
        config = _record.config_of(dataset, key)
    if config.own:
        delete_files(dataset, key, config)
    with writing_schema(dataset):
        fields = [f for f in config.fields if dataset.get_field(f) is not None]
        before = getattr(config, "shown_before", None) if shown_of(dataset, fields) else None
        again = [f for f in before or [] if dataset.get_field(f) is not None]
        forget_fields(dataset, fields)
        if again:
            activate_fields(dataset, again)
        if fields:
            dataset.delete_sample_fields(fields)
        _label_attributes.clear(dataset, config, key)
    for name in config.saved_views:
        if dataset.has_saved_view(name):
            dataset.delete_saved_view(name)
    _record.delete(dataset, key)


def _clear_examination(dataset, key):
    """Deletes what find_background_bias wrote for a run: attributes and tags that nothing else knows of."""
    from . import _bias_store

    _bias_store.clear(dataset, key)


def _clear_comparison(dataset, key):
    """Deletes what compare_cams stored with a run: also attributes on other runs' heatmaps."""
    from . import _compare_store

    _compare_store.clear(dataset, key)


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
    for room, name in own_files(dataset, key, config, folder):
        os.remove(os.path.join(room, name))
    for field in config.fields:
        remove_if_empty(os.path.join(folder, field))
    remove_if_empty(folder)
    above = [f for f in config.made_folders if _is_above(f, folder)]
    for made in sorted(above, key=len, reverse=True):
        remove_if_empty(made)


def count_files(dataset, key, config):
    """How many map files :func:`clear` deletes."""
    folder = config.settings.get("map_dir") if config.own else None
    if not folder or not os.path.isdir(folder):
        return 0
    return sum(1 for _ in own_files(dataset, key, config, folder))


def _is_above(folder, below):
    return os.path.commonpath([folder, below]) == folder if os.path.isabs(folder) else False


def own_files(dataset, key, config, folder):
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


def remove_if_empty(folder):
    if os.path.isdir(folder) and not os.path.islink(folder) and not os.listdir(folder):
        os.rmdir(folder)
