"""CAM runs: their keys, the fields they write, and what is known of them.

Built on FiftyOne's custom runs; the run's key begins the name of every field that it writes.
"""

import collections
import re

from .level import level_of
from .record import (
    change,
    check_idle,
    config_of,
    is_heatmap,
    is_taken,
    list_runs,
    percent,
    refresh,
    share,
    status_from,
)
from .resume import counts
from .run import Run


def next_key(dataset, base):
    """Returns ``base``, or ``base_2``, ``base_3``, ... while the key is taken.

    What cannot be part of a field's name becomes ``_``.
    """
    refresh(dataset)
    base = plain_name(base).strip("_") or "cam"
    if base[0].isdigit():
        base = f"m_{base}"
    taken = set(dataset.list_runs()) | set(level_of(dataset).schema())
    key, number = base, 1
    while key in taken or any(f.startswith(f"{key}_") and is_heatmap(dataset, f) for f in taken):
        number += 1
        key = f"{base}_{number}"
    return key


def check_key(dataset, key, overwrite, resume=False, exact=False):
    """Raises a ValueError unless a run may be registered, or resumed, under a key.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the ``cam_key``
        overwrite: whether an earlier CAM run of this key may go
        resume (False): whether an earlier CAM run of this key is resumed
        exact (False): whether to ask the samples how much of it is done, which takes seconds where there
            are many, or only its record
    """
    _check_spelling(key)
    refresh(dataset)
    if not is_taken(dataset, key):
        return
    if key not in list_runs(dataset):
        raise ValueError(
            f"cam_key: {key!r} is the key of another kind of run on this dataset; choose another"
        )
    config = config_of(dataset, key)
    check_idle(config, key)
    if overwrite:
        return
    _check_unbroken(config, key)
    if resume:
        return
    if config.status == "finished":
        raise ValueError(
            f"cam_key: {key!r} is already a CAM run of this dataset (finished); choose another key, "
            "resume=True to add missing samples, or overwrite=True to delete it first"
        )
    done = percent(*counts(Run(dataset, key, config))) if exact else share(config)
    raise ValueError(
        f"cam_key: {key!r} is {done} done ({status_from(config)}): resume=True to resume "
        "it, or overwrite=True to delete what it wrote first"
    )


def check_new_key(dataset, key):
    """Raises a ValueError unless a key is a name that no run of a dataset has yet.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the ``cam_key``
    """
    _check_spelling(key)
    refresh(dataset)
    if is_taken(dataset, key):
        raise ValueError(f"cam_key: {key!r} is already a run of this dataset; choose another key")


def _check_spelling(key):
    if not isinstance(key, str) or not key.isidentifier() or key != plain_name(key).strip("_"):
        raise ValueError(
            "cam_key must be a name of letters, digits and single underscores that begins with a letter "
            f"and does not end with an underscore, got {key!r}"
        )


def _check_unbroken(config, key):
    """Raises a ValueError if a run is half deleted or half renamed."""
    if config.status == "deleting":
        raise ValueError(
            f"cam_key: the deletion of {key!r} was interrupted; pass overwrite=True, or call delete_cam_run, to "
            "finish it"
        )
    if config.status == "renaming":
        new_key = config.renaming_to
        raise ValueError(
            f"cam_key: the renaming of {key!r} was interrupted; rename_cam_run to {new_key!r} finishes it"
        )


def plan_fields(cam_key, maps, targets, classless=(), unnamed=None):
    """Names the heatmap fields of a run.

    Args:
        cam_key: the run's key
        maps: keys ``(method, layer)`` of the maps
        targets: names of the targets
        classless (()): keys of methods whose maps are the same for every target: they get one field
        unnamed (None): a layer that a field's name leaves out, be there several

    Returns:
        ``{(method, layer, target): field}``, in order; a map without a class has the first target

    Raises:
        ValueError: if two of them would share a name, or one that the prediction's field has
    """
    fields = {}
    layers_of = collections.Counter(method for method, _ in maps)
    for method, layer in maps:
        own = targets[:1] if method in classless else targets
        for target in own:
            parts = [cam_key, method]
            parts += [layer] if layers_of[method] > 1 and layer != unnamed else []
            parts += [target] if len(own) > 1 else []
            fields[method, layer, target] = plain_name("_".join(parts)).rstrip("_")
    names = list(fields.values())
    if prediction_field(cam_key) in names:
        raise ValueError(
            f"methods: a heatmap would be written to {prediction_field(cam_key)!r}, the field of "
            "the model's predictions; rename the method"
        )
    check_distinct(fields)
    return fields


def check_distinct(fields):
    """Raises a ValueError where two heatmaps would share a field; the message says which two.

    Args:
        fields: ``{(method, layer, target): field}``
    """
    counts = collections.Counter(fields.values())
    double = next((name for name, count in counts.items() if count > 1), None)
    if double is None:
        return
    one, other = [key for key, name in fields.items() if name == double][:2]
    text = f"fields: two heatmaps would be written to {double!r}"
    if one[:2] != other[:2]:
        raise ValueError(
            f"{text}, those of {_said(one)} and of {_said(other)}; rename a method or target"
        )
    raise ValueError(
        f"{text}, as the targets {one[2]!r} and {other[2]!r} have the same letters and digits; rename them for "
        f"this run, for example class_map={{'first': {one[2]!r}, 'second': {other[2]!r}}} with "
        "targets=['first', 'second']"
    )


def _said(key):
    method, layer, target = key
    return f"{method} at {layer} for {target}"


def plain_name(text):
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
        if owner is None and level_of(dataset).field(field) is not None:
            raise ValueError(
                f"field {field!r} exists on the dataset and belongs to no CAM run; choose "
                "another cam_key, or delete the field"
            )


def fields_of(dataset, key):
    """Returns the fields that a run wrote."""
    return list(config_of(dataset, key).fields)


def heatmap_fields_of(dataset, key):
    """Returns the heatmap fields that a run wrote and that still exist."""
    return Run.open(dataset, key).heatmap_fields


def add_written(dataset, key, fields=(), saved_views=()):
    """Notes in a run's record what else was written for it, so that it is deleted with the run.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key
        fields (()): names of sample fields
        saved_views (()): names of saved views
    """
    config_of(dataset, key)  # says which runs there are if this one is not
    change(dataset, key, add={"fields": fields, "saved_views": saved_views})
