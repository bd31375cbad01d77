"""The record of a CAM run: registered before its first write, finished with its results.

Built on FiftyOne's custom runs; the run's key begins the name of every field that it writes.
"""

import datetime
import math
import os
import re

import fiftyone as fo
import fiftyone.core.odm as fod
import numpy as np

from ._colours import forget_fields

METHOD = "cam51"


def refresh(dataset):
    """Reloads a dataset if another process, such as the App's, gave it runs or fields meanwhile.

    Only then: reloading also drops what a person changed on samples and has not saved.
    """
    known = {"runs": True, "sample_fields.name": True}
    stored = fod.get_db_conn().datasets.find_one({"_id": dataset._doc.id}, known)
    if stored is None:
        return  # deleted: the first use says so
    runs, fields = (
        set(stored.get("runs") or {}),
        {field["name"] for field in stored["sample_fields"]},
    )
    if runs != set(dataset.list_runs()) or fields != {
        field.name for field in dataset._doc.sample_fields
    }:
        dataset.reload()


def next_key(dataset, base):
    """Returns ``base``, or ``base_2``, ``base_3``, ... while the key is taken.

    What cannot be part of a field's name becomes ``_``.
    """
    refresh(dataset)
    base = _plain(base).strip("_") or "cam"
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
    if not isinstance(key, str) or not key.isidentifier() or key != _plain(key).strip("_"):
        raise ValueError(
            "cam_key must be a name of letters, digits and single underscores that begins with a letter "
            f"and does not end with an underscore, got {key!r}"
        )
    refresh(dataset)
    if key not in dataset.list_runs():
        return
    if key not in list_runs(dataset):
        raise ValueError(
            f"cam_key: {key!r} is the key of another kind of run on this dataset; choose another"
        )
    if not overwrite:
        raise ValueError(
            f"cam_key: {key!r} is already a CAM run of this dataset ({status_of(dataset, key)}); "
            "choose another key, or overwrite=True to delete what it wrote first"
        )


def plan_fields(cam_key, maps, targets, classless=()):
    """Names the heatmap fields of a run.

    Args:
        cam_key: the run's key
        maps: keys ``(method, layer)`` of the maps
        targets: names of the targets
        classless (()): keys of methods whose maps are the same for every target: they get one field

    Returns:
        ``{(method, layer, target): field}``, in order; a map without a class has the first target

    Raises:
        ValueError: if two of them would share a name, or one that the prediction's field has
    """
    fields = {}
    methods = [method for method, _ in maps]
    for method, layer in maps:
        own = targets[:1] if method in classless else targets
        for target in own:
            parts = [cam_key, method]
            parts += [layer] if methods.count(method) > 1 else []
            parts += [target] if len(own) > 1 else []
            fields[method, layer, target] = _plain("_".join(parts)).rstrip("_")
    names = list(fields.values())
    if prediction_field(cam_key) in names:
        raise ValueError(
            f"methods: a heatmap would be written to {prediction_field(cam_key)!r}, the field of "
            "the model's predictions; rename the method"
        )
    doubles = [n for n in dict.fromkeys(names) if names.count(n) > 1]
    if doubles:
        raise ValueError(
            f"fields: two heatmaps would be written to {doubles[0]!r}; rename a method or target"
        )
    return fields


def _plain(text):
    """What can be part of a field's name: FiftyOne's database layer reads ``__`` as a separator."""
    return re.sub(r"_+", "_", re.sub(r"\W+", "_", text))


def prediction_field(cam_key):
    """Names the field of the model's predictions."""
    return f"{cam_key}_prediction"


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
            raise ValueError(
                f"field {field!r} belongs to the CAM run {owner!r}; choose another cam_key"
            )
        if owner is None and dataset.get_field(field) is not None:
            raise ValueError(
                f"field {field!r} exists on the dataset and belongs to no CAM run; choose "
                "another cam_key, or delete the field"
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
        settings=jsonable(settings),
        fields=list(fields),
        # A clone has a copy of this record, but the files stay the original's.
        dataset_id=str(dataset._doc.id),
    )
    dataset.register_run(key, config)


def update(dataset, key, **changes):
    """Changes entries of a run's record, such as its status or counters: one small write.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        **changes: JSON-able values
    """
    config = config_of(dataset, key)
    for name, value in changes.items():
        setattr(config, name, jsonable(value))
    dataset.update_run_config(key, config)


def finish(dataset, key, status, results):
    """Marks a run as ended and stores its results.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        status: ``"finished"`` or ``"interrupted"``
        results: JSON-able values
    """
    # The results first: a run that is marked as ended has them.
    stored = dataset.init_run_results(key)
    stored.summary = jsonable(results)
    dataset.save_run_results(key, stored, overwrite=True)
    update(dataset, key, status=status, ended=_now())


def jsonable(value):
    """Returns a value as JSON has it.

    Arrays become lists and NaN becomes None; a function is its name, and what JSON has no word for
    is its text.
    """
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((jsonable(v) for v in value), key=str)
    if isinstance(value, (np.ndarray, np.generic)):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return getattr(value, "__name__", None) or str(value)


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
    if getattr(config, "dataset_id", None) == str(dataset._doc.id):
        _delete_files(dataset, config.fields, config.settings.get("map_dir"))
    forget_fields(dataset, fields)
    if fields:
        dataset.delete_sample_fields(fields)
    dataset.delete_run(key)


_OWN_FILE = re.compile(r"([0-9a-f]{24})-[0-9a-f]{8}\.png(\.part)?")


def _delete_files(dataset, fields, folder):
    """Deletes the map files of this dataset's samples, and only those in the run's own folder.

    By their names, not by what the samples point to: a run that was killed leaves files that no
    sample points to.
    """
    if not folder or not os.path.isdir(folder):
        return
    ids = set(dataset.values("id"))
    for field in fields:
        room = os.path.join(folder, field)
        if os.path.islink(room) or not os.path.isdir(room):
            continue
        for name in os.listdir(room):
            match = _OWN_FILE.fullmatch(name)
            if match and match[1] in ids:
                os.remove(os.path.join(room, name))
        _remove_if_empty(room)
    _remove_if_empty(folder)


def _remove_if_empty(folder):
    if not os.listdir(folder):
        os.rmdir(folder)
