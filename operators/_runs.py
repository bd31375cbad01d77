"""The record of a CAM run: registered before its first write, finished with its results.

Built on FiftyOne's custom runs; the run's key begins the name of every field that it writes.
"""

import datetime
import os
import re

import fiftyone as fo

from ._heatmaps import forget_fields

METHOD = "cam51"


def next_key(dataset, base):
    """Returns ``base``, or ``base_2``, ``base_3``, ... while the key is taken."""
    base = re.sub(r"\W+", "_", base).strip("_") or "cam"
    if base[0].isdigit():
        base = f"m_{base}"
    taken = set(dataset.list_runs()) | set(dataset.get_field_schema())
    key, number = base, 1
    while key in taken or any(f.startswith(f"{key}_") and _is_heat(dataset, f) for f in taken):
        number += 1
        key = f"{base}_{number}"
    return key


def _is_heat(dataset, field):
    return getattr(dataset.get_field(field), "document_type", None) is fo.Heatmap


def check_key(dataset, key, overwrite):
    """Raises a ValueError unless a run may be registered under a key.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the ``cam_key``
        overwrite: whether an earlier CAM run of this key may go
    """
    if not isinstance(key, str) or not key.isidentifier() or key.startswith("_"):
        raise ValueError(
            f"cam_key must be a name of letters, digits and underscores that begins with a letter, got {key!r}"
        )
    if key not in dataset.list_runs():
        return
    if key not in list_runs(dataset):
        raise ValueError(f"cam_key: {key!r} is the key of another kind of run on this dataset; choose another")
    if not overwrite:
        raise ValueError(
            f"cam_key: {key!r} is already a CAM run of this dataset ({status_of(dataset, key)}); choose "
            "another key, or overwrite=True to delete what it wrote first"
        )


def plan_fields(cam_key, methods, layers, targets):
    """Names the heatmap fields of a run.

    Args:
        cam_key: the run's key
        methods: keys of the methods
        layers: names of the layers
        targets: names of the targets

    Returns:
        ``{(method, layer, target): field}``, in order

    Raises:
        ValueError: if two of them would share a name
    """
    fields = {}
    for method in methods:
        for layer in layers:
            for target in targets:
                parts = [cam_key, method]
                parts += [layer] if len(layers) > 1 else []
                parts += [target] if len(targets) > 1 else []
                fields[method, layer, target] = re.sub(r"\W+", "_", "_".join(parts)).rstrip("_")
    names = list(fields.values())
    doubles = [n for n in dict.fromkeys(names) if names.count(n) > 1]
    if doubles:
        raise ValueError(f"fields: two heatmaps would be written to {doubles[0]!r}; rename a method or target")
    return fields


def check_fields(dataset, fields, cam_key, overwrite):
    """Raises a ValueError if a field exists that is not this run's to write.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        fields: names of the fields
        cam_key: the run's key
        overwrite: whether the fields of an earlier run of this key will be deleted first
    """
    owners = {f: key for key in list_runs(dataset) for f in fields_of(dataset, key)}
    for field in fields:
        owner = owners.get(field)
        if owner is not None and owner != cam_key:
            raise ValueError(f"field {field!r} belongs to the CAM run {owner!r}; choose another cam_key")
        if owner is None and dataset.get_field(field) is not None:
            raise ValueError(
                f"field {field!r} exists on the dataset and was not written by a CAM run; choose another "
                "cam_key, or delete the field"
            )


def register(dataset, key, settings, fields):
    """Registers a run before its first write.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        settings: JSON-able values that say what is computed
        fields: every field that the run writes
    """
    config = dataset.init_run(
        method=METHOD,
        status="running",
        started=_now(),
        settings=settings,
        fields=list(fields),
    )
    dataset.register_run(key, config)


def finish(dataset, key, status, results):
    """Marks a run as ended and stores its results.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        status: ``"finished"`` or ``"interrupted"``
        results: JSON-able values
    """
    config = dataset.get_run_info(key).config
    config.status = status
    config.ended = _now()
    dataset.update_run_config(key, config)
    stored = dataset.init_run_results(key)
    stored.summary = results
    dataset.save_run_results(key, stored, overwrite=True)


def _now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def list_runs(dataset):
    """Returns the keys of the dataset's CAM runs."""
    return dataset.list_runs(method=METHOD)


def config_of(dataset, key):
    """Returns the record of a CAM run.

    Raises:
        ValueError: if there is none; the message lists those there are
    """
    runs = list_runs(dataset)
    if key not in runs:
        known = f"it has: {', '.join(runs)}" if runs else "it has none yet; compute_cams makes one"
        raise ValueError(f"cam_key: the dataset has no CAM run {key!r}; {known}")
    return dataset.get_run_info(key).config


def fields_of(dataset, key):
    """Returns the fields that a run wrote."""
    return list(config_of(dataset, key).fields)


def heatmap_fields_of(dataset, key):
    """Returns the heatmap fields that a run wrote and that still exist."""
    return [f for f in fields_of(dataset, key) if _is_heat(dataset, f)]


def status_of(dataset, key):
    """Returns ``"running"``, ``"finished"`` or ``"interrupted"``."""
    return config_of(dataset, key).status


def clear(dataset, key):
    """Deletes what a run wrote: fields, map files, colours and its record.

    A key without a run is no error.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
    """
    if key not in list_runs(dataset):
        return
    config = config_of(dataset, key)
    fields = [f for f in config.fields if dataset.get_field(f) is not None]
    _delete_files(dataset, fields, config.settings.get("map_dir"))
    forget_fields(dataset, fields)
    if fields:
        dataset.delete_sample_fields(fields)
    dataset.delete_run(key)


def _delete_files(dataset, fields, folder):
    """Deletes map files, and only those below the run's own folder."""
    if not folder:
        return
    root = os.path.realpath(folder)
    for field in fields:
        if not _is_heat(dataset, field):
            continue
        for path in dataset.values(f"{field}.map_path"):
            if path and os.path.realpath(path).startswith(root + os.sep) and os.path.isfile(path):
                os.remove(path)
        _remove_if_empty(os.path.join(root, field))
    _remove_if_empty(root)


def _remove_if_empty(folder):
    if os.path.isdir(folder) and not os.listdir(folder):
        os.rmdir(folder)
