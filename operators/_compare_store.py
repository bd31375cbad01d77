"""What ``compare_cams`` writes: attributes, a field, views, and its part of a CAM run's record."""

import contextlib
import hashlib
import math

import fiftyone as fo
from fiftyone import ViewField as F

from . import _record, _runs
from ._at_work import AtWork, check_free
from ._bias_store import _field, write  # noqa: F401 - write also from here
from ._images import one_line
from .data.schema import declare_fields

#: of the samples that were compared, the share that the view of those that split most shows
_MOST = 0.25


def disagreement_field(cam_key):
    """The field of a comparison of methods."""
    return f"{cam_key}_disagreement"


def agreement_field(first, last):
    """The field of a comparison of models."""
    return f"{first}_{last}_agreement"


def record_of(dataset, cam_key):
    """What a run's record says of its comparison: ``status, settings, fields, labels, ...``; or None."""
    if cam_key not in _runs.list_runs(dataset):
        return None
    return getattr(_runs.config_of(dataset, cam_key), "compare", None)


# What of a comparison's settings changes nothing that it stores.
_OF_A_CALL = ("overwrite", "batch_size", "num_workers", "device", "origin")


def digest_of(ids):
    """Identifies the samples that a comparison draws from."""
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16]


def _same(record, settings):
    """Whether a stored comparison was asked for in the same words, of the same samples."""
    then = record.get("settings") or {}
    return settings is not None and all(
        name in then and then[name] == value
        for name, value in settings.items()
        if name not in _OF_A_CALL
    )


def check_store(dataset, cam_key, field, overwrite, settings=None):
    """Raises a ValueError unless a comparison may be stored; whatever is in its way is named.

    The same comparison once more needs no ``overwrite``: it stores the same again.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the key of the run that it is stored with
        field: the field that it writes
        overwrite: whether an earlier comparison may go
        settings (None): of this one, with ``samples_digest``
    """
    record = record_of(dataset, cam_key)
    if record is not None:
        check_free(dataset, cam_key, "compare")
    finished = record is not None and record["status"] == "finished"
    if finished and not overwrite and not _same(record, settings):
        raise ValueError(
            f"cam_keys: a comparison is stored with {cam_key!r} already; pass overwrite=True to delete "
            "what that wrote first"
        )
    ours = record["fields"] if record is not None else []
    if dataset.get_field(field) is not None and field not in ours:
        raise ValueError(
            f"field {field!r} exists on the dataset and is not ours; rename the run, or delete the field"
        )


def register(dataset, cam_key, settings, field, labels, attributes, cam_keys=None):
    """Notes in a CAM run's record that it is compared; what an earlier comparison wrote is deleted.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the run's key
        settings: JSON-able
        field: the field that is written
        labels: the heatmap fields that get attributes
        attributes: their names
        cam_keys (None): the keys of all runs that are compared; None for that one

    Returns:
        an :class:`~operators._at_work.AtWork`

    Raises:
        ValueError: if one of the runs is at work, or compared at this moment
    """
    held = AtWork(dataset, cam_key, "compare", cam_keys)
    clear(dataset, cam_key)
    record = {
        "status": "running", "started": _record.now(), "settings": settings, "views": [],
        "fields": [field], "labels": list(labels), "attributes": list(attributes),
        **held.entries(),
    }  # fmt: skip
    _runs.update(dataset, cam_key, compare=record)
    _runs.add_written(dataset, cam_key, fields=[field])
    return held


def update(dataset, cam_key, **changes):
    """Changes entries of the record; new views are deleted with the run."""
    record = record_of(dataset, cam_key)
    if record is None:
        return  # somebody deleted the run meanwhile
    _runs.update(dataset, cam_key, compare={**record, **changes})
    if "views" in changes:
        _runs.add_written(dataset, cam_key, saved_views=changes["views"])


def finish(dataset, cam_key, status, results=None, held=None, error=None):
    """Marks a comparison as ended, what it found stored first, beside the run's own results.

    Of one that was cut short everything that it wrote is taken back: half of the samples would look
    like all of them.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the key of the run that it is stored with
        status: ``"finished"``, ``"interrupted"`` or ``"failed"``
        results (None): JSON-able; only of a finished one
        held (None): what :func:`register` returned; nothing is changed if the record is another's now
        error (None): why it failed, one line
    """
    record = record_of(dataset, cam_key)
    if record is None or (held is not None and not held.holds()):
        return  # somebody deleted the run meanwhile, or compares it anew
    if status == "finished":
        _runs.save_results(dataset, cam_key, compare=results)
        update(dataset, cam_key, status=status, ended=_record.now())
        return
    _take_back(dataset, cam_key, record)
    saved = _runs.config_of(dataset, cam_key).saved_views
    _runs.update(dataset, cam_key, saved_views=[v for v in saved if v not in record["views"]])
    update(dataset, cam_key, status=status, error=error, ended=_record.now(), views=[])


@contextlib.contextmanager
def recorded(dataset, cam_key, held):
    """Marks a comparison as ended, however it ends.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the key of the run that it is stored with
        held: what :func:`register` returned

    Yields:
        a function that takes the results of a comparison that has come to its end

    Raises:
        RuntimeError: if a run that is compared was deleted or renamed meanwhile
    """
    status, results, error = "interrupted", None, None

    def done(found):
        nonlocal status, results
        held.check("nothing more")
        status, results = "finished", found

    try:
        yield done
    except Exception as failed:
        status, error = "failed", one_line(failed)
        if isinstance(failed, ValueError):
            held.check()  # says why, where it could not read a run that is gone
        raise
    finally:
        finish(dataset, cam_key, status, results, held, error)


def clear(dataset, cam_key):
    """Deletes what a comparison wrote: its field, attributes, views and results.

    A run that was not compared is no error. Attributes that another comparison wrote too stay.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the key of the run that it is stored with
    """
    record = record_of(dataset, cam_key)
    if record is None:
        return
    _take_back(dataset, cam_key, record)
    config = _runs.config_of(dataset, cam_key)
    if _runs.load_results(dataset, cam_key).get("compare") is not None:
        _runs.save_results(dataset, cam_key, compare=None)
    _runs.update(
        dataset,
        cam_key,
        compare=None,
        fields=[f for f in config.fields if f not in record["fields"]],
        saved_views=[v for v in config.saved_views if v not in record["views"]],
    )


def _take_back(dataset, cam_key, record):
    """Deletes the views, the field and the attributes of a comparison."""
    for name in record["views"]:
        if dataset.has_saved_view(name):
            dataset.delete_saved_view(name)
    paths = [*_own_attributes(dataset, cam_key, record), *record["fields"]]
    present = [p for p in paths if dataset.get_field(p) is not None]
    if present:
        dataset.delete_sample_fields(present, error_level=1)


def _own_attributes(dataset, cam_key, record):
    """Paths of the attributes that no other run's comparison wrote."""
    others = set()
    for key in _runs.list_runs(dataset):
        other = None if key == cam_key else record_of(dataset, key)
        if other is not None:
            others |= {
                f"{field}.{name}" for field in other["labels"] for name in other["attributes"]
            }
    paths = [f"{field}.{name}" for field in record["labels"] for name in record["attributes"]]
    return [path for path in paths if path not in others]


def declare(dataset, field, description, labels, attributes):
    """Declares the field and the attributes with their descriptions.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        field: of one number per sample
        description: what it says
        labels: heatmap fields
        attributes: ``{name: description}`` of numbers on each of them
    """
    fields = {field: {"ftype": fo.FloatField, "description": description}}
    for label in labels:
        fields[label] = {
            "ftype": fo.EmbeddedDocumentField,
            "embedded_doc_type": fo.Heatmap,
            "fields": [_field(name, fo.FloatField, text) for name, text in attributes.items()],
        }
    declare_fields(dataset, fields)


def save_disagreement_view(dataset, cam_key, values):
    """Saves the view of the samples on which methods split most, those first.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the run's key
        values: the numbers of the samples that were compared, without those that have none

    Returns:
        a list with its name; empty where there is no number
    """
    if not values:
        return []
    name, field = f"{cam_key}: methods disagree", disagreement_field(cam_key)
    ordered = sorted(values, reverse=True)
    least = ordered[max(0, round(_MOST * len(ordered)) - 1)]
    view = dataset.match(F(field) >= least).sort_by(field, reverse=True)
    text = f"The quarter of the {len(ordered)} compared samples on which methods disagree most"
    dataset.save_view(name, view, description=text, overwrite=True)
    return [name]


def save_moved_view(dataset, first, last, values):
    """Saves the view of the samples whose maps agree least, those first.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        first: key of a run
        last: key of a run
        values: the agreement of the samples that were compared, without those that have none

    Returns:
        a list with its name; empty where there is no number
    """
    if not values:
        return []
    name, field = f"{first} vs {last}: evidence moved", agreement_field(first, last)
    most = sorted(values)[max(0, round(_MOST * len(values)) - 1)]
    view = dataset.match((F(field) != None) & (F(field) <= most)).sort_by(field)  # noqa: E711
    text = f"The quarter of the {len(values)} compared samples whose maps agree least"
    dataset.save_view(name, view, description=text, overwrite=True)
    return [name]


def save_views(dataset, views):
    """Saves views of samples by their ids, in their order; empty ones are left out.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        views: ``{name: (ids, description)}``

    Returns:
        the names of those saved
    """
    saved = []
    for name, (ids, description) in views.items():
        if ids:
            view = dataset.select(ids, ordered=True)
            dataset.save_view(name, view, description=description, overwrite=True)
            saved.append(name)
    return saved


def number_or_none(value):
    """A number as the database has it: NaN is missing."""
    return float(value) if math.isfinite(value) else None
