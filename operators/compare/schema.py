"""What ``compare_cams`` writes: attributes, a field, views, and its part of a CAM run's record."""

import hashlib
import math

import fiftyone as fo
from fiftyone import ViewField as F

from ..runs.job_record import JobRecords
from ..runs.schema import attribute, declare_fields

RECORDS = JobRecords("compare")

#: of the samples that were compared, the share that the view of those that split most shows
_MOST = 0.25


def disagreement_field(cam_key):
    """The field of a comparison of methods."""
    return f"{cam_key}_disagreement"


def agreement_field(first, last):
    """The field of a comparison of models."""
    return f"{first}_{last}_agreement"


# What of a comparison's settings changes nothing that it stores.
_OF_A_CALL = ("overwrite", "batch_size", "num_workers", "device", "origin")


def digest_of(ids):
    """Identifies the samples that a comparison draws from."""
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16]


def _same(record, settings):
    """Whether a stored comparison was asked for in the same words, of the same samples."""
    then = (record or {}).get("settings") or {}
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
    taken = (
        f"cam_keys: a comparison is stored with {cam_key!r} already; pass overwrite=True to delete "
        "what that wrote first"
    )
    allowed = overwrite or _same(RECORDS.record_of(dataset, cam_key), settings)
    RECORDS.check_store(dataset, cam_key, [field], allowed, taken, "rename the run")


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
        an :class:`~operators.runs.lease.JobLease`

    Raises:
        ValueError: if one of the runs is running, or compared at this moment
    """
    written = {"fields": [field], "labels": list(labels), "attributes": list(attributes)}
    return RECORDS.register(dataset, cam_key, settings, written, cam_keys)


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
            "fields": [attribute(name, fo.FloatField, text) for name, text in attributes.items()],
        }
    declare_fields(dataset, fields)


def save_disagreement_view(dataset, cam_key, values, held=None):
    """Saves the view of the samples on which methods split most, those first.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the run's key
        values: the numbers of the samples that were compared, without those that have none
        held (None): what :func:`register` returned

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
    return RECORDS.save_views(dataset, cam_key, {name: (view, text)}, held)


def moved_view(dataset, first, last, values):
    """Makes the view of the samples whose maps agree least, those first.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        first: key of a run
        last: key of a run
        values: the agreement of the samples that were compared, without those that have none

    Returns:
        ``{name: (view, description)}``; empty where there is no number
    """
    if not values:
        return {}
    name, field = f"{first} vs {last}: evidence moved", agreement_field(first, last)
    most = sorted(values)[max(0, round(_MOST * len(values)) - 1)]
    view = dataset.match((F(field) != None) & (F(field) <= most)).sort_by(field)  # noqa: E711
    text = f"The quarter of the {len(values)} compared samples whose maps agree least"
    return {name: (view, text)}


def views_by_ids(dataset, views):
    """Makes views of samples by their ids, in their order; empty ones are left out.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        views: ``{name: (ids, description)}``

    Returns:
        ``{name: (view, description)}``
    """
    return {
        name: (dataset.select(ids, ordered=True), description)
        for name, (ids, description) in views.items()
        if ids
    }


def number_or_none(value):
    """A number as the database has it: NaN is missing."""
    return float(value) if math.isfinite(value) else None
