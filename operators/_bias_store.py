"""What ``find_background_bias`` writes: fields, views, tags, and its part of the CAM run's record."""

import datetime
import logging

import fiftyone as fo
import fiftyone.core.odm as fod
from bson import ObjectId
from fiftyone import ViewField as F
from pymongo import UpdateOne
from pymongo.errors import OperationFailure

from . import _label_attributes, _runs
from ._at_work import AtWork, check_free
from ._bias_attributes import (
    ATTRIBUTES,
    LABEL_ATTRIBUTES,
    OBJECT_ATTRIBUTES,
)
from ._record import now
from .data.schema import declare_fields

logger = logging.getLogger(__name__)


def field_names(cam_key):
    """The fields that are written: verdict, dependence, and everything else."""
    return f"{cam_key}_verdict", f"{cam_key}_dependence", f"{cam_key}_bias"


def record_of(dataset, cam_key):
    """What a run's record says of its examination: ``status, settings, views, tags, ...``; or None."""
    if cam_key not in _runs.list_runs(dataset):
        return None
    return getattr(_runs.config_of(dataset, cam_key), "bias", None)


def check_store(dataset, cam_key, overwrite):
    """Raises a ValueError unless an examination may be stored; whatever is in its way is named.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        overwrite: whether an earlier examination may go
    """
    record = record_of(dataset, cam_key)
    if record is None:
        for field in field_names(cam_key):
            if dataset.get_field(field) is not None:
                raise ValueError(
                    f"field {field!r} exists on the dataset and is not ours; choose another cam_key, or "
                    "delete the field"
                )
        return
    check_free(dataset, cam_key, "bias")
    if record["status"] == "finished" and not overwrite:
        raise ValueError(
            f"cam_key: the background of {cam_key!r} was examined already; pass overwrite=True to "
            "delete what that wrote first"
        )


def object_paths(cam_key, field):
    """The attributes of objects' labels that are written, as paths of the dataset."""
    return [f"{field}.detections.{cam_key}_{name}" for name in OBJECT_ATTRIBUTES]


def check_objects_store(dataset, cam_key, field):
    """Raises a ValueError if objects' labels have attributes of these names that are not the run's.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        field: of the objects
    """
    ours = (record_of(dataset, cam_key) or {}).get("object_attributes") or []
    for path in object_paths(cam_key, field):
        if path not in ours and dataset.get_field(path) is not None:
            raise ValueError(
                f"objects: the attribute {path!r} exists and is not ours; choose another cam_key, or "
                "delete the attribute"
            )


def register(dataset, cam_key, settings, object_field=None):
    """Notes in a CAM run's record that it is examined; what an earlier examination wrote is deleted.

    What is written from here on is deleted and renamed with the run.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        settings: what the record says
        object_field (None): of Detections whose labels get attributes of their own

    Returns:
        an :class:`~operators._at_work.AtWork`

    Raises:
        ValueError: if the run is at work, or examined at this moment
    """
    held = AtWork(dataset, cam_key, "bias")
    clear(dataset, cam_key)
    paths = [] if object_field is None else object_paths(cam_key, object_field)
    record = {
        "status": "running",
        "started": now(),
        "settings": settings,
        "views": [],
        "tags": [],
        "labels": _runs.heatmap_fields_of(dataset, cam_key),
        "object_attributes": paths,
        **held.entries(),
    }
    others = getattr(_runs.config_of(dataset, cam_key), "label_attributes", None) or []
    _runs.update(dataset, cam_key, bias=record, label_attributes=[*others, *paths])
    _runs.add_written(dataset, cam_key, fields=field_names(cam_key))
    return held


def update(dataset, cam_key, **changes):
    """Changes entries of the record; new views are deleted with the run."""
    record = record_of(dataset, cam_key)
    if record is None:
        return  # somebody deleted the run meanwhile
    _runs.update(dataset, cam_key, bias={**record, **changes})
    if "views" in changes:
        _runs.add_written(dataset, cam_key, saved_views=changes["views"])


def finish(dataset, cam_key, status, summary=None, error=None, held=None):
    """Marks an examination as ended, its summary stored first, beside the run's own results.

    Of one that was cut short everything that it wrote is taken back: half of the samples would look
    like all of them.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        status: ``"finished"``, ``"interrupted"`` or ``"failed"``
        summary (None): JSON-able; only of a finished one
        error (None): why it failed, one line
        held (None): what :func:`register` returned; nothing is changed if the record is another's now
    """
    record = record_of(dataset, cam_key)
    if record is None or (held is not None and not held.holds()):
        return  # somebody deleted the run meanwhile, or examines it anew
    if status == "finished":
        _runs.save_results(dataset, cam_key, bias=summary)
        _index(dataset, cam_key)
        update(dataset, cam_key, status=status, ended=now())
        return
    _take_back(dataset, cam_key, record)
    saved = _runs.config_of(dataset, cam_key).saved_views
    _runs.update(dataset, cam_key, saved_views=[v for v in saved if v not in record["views"]])
    update(dataset, cam_key, status=status, error=error, ended=now(), views=[], tags=[])


def _index(dataset, cam_key):
    """Lets counts of verdicts and lists by dependence do without reading whole samples, maps and all.

    FiftyOne renames and deletes the index with its fields.
    """
    verdict, dependence, _ = field_names(cam_key)
    try:
        dataset.create_index([(verdict, 1), (dependence, -1)])
    except OperationFailure as e:
        # 64 indexes at most: a person's own may fill them
        logger.warning("%s: no index of its verdicts, so the panel opens slower: %s", cam_key, e)


def clear(dataset, cam_key):
    """Deletes what an examination wrote: fields, attributes, views, tags, sidebar group and results.

    A run that was not examined is no error. The run's own heatmaps stay.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
    """
    record = record_of(dataset, cam_key)
    if record is None:
        return
    ours = field_names(cam_key)
    _take_back(dataset, cam_key, record)
    config = _runs.config_of(dataset, cam_key)
    _runs.save_results(dataset, cam_key, bias=None)
    _runs.update(
        dataset,
        cam_key,
        bias=None,
        fields=[f for f in config.fields if f not in ours],
        saved_views=[v for v in config.saved_views if v not in record["views"]],
        label_attributes=[
            path
            for path in getattr(config, "label_attributes", None) or []
            if path not in _object_attributes(record)
        ],
    )


def _object_attributes(record):
    return record.get("object_attributes") or []


def _take_back(dataset, cam_key, record):
    """Deletes the views, tags, fields, attributes and sidebar group of an examination."""
    for name in record["views"]:
        if dataset.has_saved_view(name):
            dataset.delete_saved_view(name)
    for tag in record["tags"]:
        dataset.match_tags(tag).untag_samples(tag)
    ours = field_names(cam_key)
    paths = [
        f"{field}.{name}"
        for field in _runs.heatmap_fields_of(dataset, cam_key)
        for name in LABEL_ATTRIBUTES
    ]
    paths += _object_attributes(record)
    present = [f for f in (*paths, *ours) if dataset.get_field(f) is not None]
    if present:
        dataset.delete_sample_fields(present, error_level=1)
    groups = dataset.app_config.sidebar_groups
    if groups:
        dataset.app_config.sidebar_groups = [g for g in groups if g.name != ours[2]]
        dataset.save()


def declare(dataset, cam_key, heat_fields):
    """Declares every field with its type and description, its group in the sidebar collapsed."""
    verdict, dependence, bias = field_names(cam_key)
    fields = {
        verdict: {
            "ftype": fo.StringField,
            "description": "What may be said of the sample: heat finds and shows, the swap confirms",
        },
        dependence: {
            "ftype": fo.FloatField,
            "description": "Best estimate, 0 to 1, of how much of the score rests on the background",
        },
        bias: {
            "ftype": fo.EmbeddedDocumentField,
            "embedded_doc_type": fo.DynamicEmbeddedDocument,
            "description": "Every number behind the verdict",
            "fields": [_field(name, *entry) for name, entry in ATTRIBUTES.items()],
        },
    }
    for field in heat_fields:
        fields[field] = {
            "ftype": fo.EmbeddedDocumentField,
            "embedded_doc_type": fo.Heatmap,
            "fields": [_field(name, *entry) for name, entry in LABEL_ATTRIBUTES.items()],
        }
    declare_fields(dataset, fields)
    _collapse(dataset, bias)


def _field(name, kind, description):
    options = {"field": fo.StringField()} if kind is fo.ListField else {}
    field = kind(description=description, **options)
    field.name = field.db_field = name
    return field


def _collapse(dataset, bias):
    config = dataset.app_config
    groups = config.sidebar_groups or fo.DatasetAppConfig.default_sidebar_groups(dataset)
    paths = [f"{bias}.{name}" for name in ATTRIBUTES]
    for group in groups:
        group.paths = [p for p in group.paths if p != bias and not p.startswith(f"{bias}.")]
    groups = [g for g in groups if g.name != bias]
    groups.append(fo.SidebarGroupDocument(name=bias, paths=paths, expanded=False))
    config.sidebar_groups = groups
    dataset.save()


def declare_objects(dataset, cam_key, field):
    """Declares the attributes of objects' labels.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        field: of Detections
    """
    named = {f"{cam_key}_{name}": entry for name, entry in OBJECT_ATTRIBUTES.items()}
    _label_attributes.declare(dataset, f"{field}.detections", named)


def write(dataset, rows, labels=None):
    """Writes a batch: all fields of a sample in one update, so that it has all of them or none.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        rows: ``{sample id: {path: value}}``; the path of an attribute has a dot
        labels (None): ``{sample id: LabelAttributes}`` of its objects' labels

    Returns:
        ids of samples that no longer exist
    """
    moment = datetime.datetime.now(datetime.timezone.utc)
    operations = []
    for sample_id, values in rows.items():
        document = {k: v.to_mongo() if hasattr(v, "to_mongo") else v for k, v in values.items()}
        document["last_modified_at"] = moment
        own, filters = labels[sample_id].operations() if labels else ({}, [])
        change = {"$set": {**document, **own}}
        operations.append(
            UpdateOne({"_id": ObjectId(sample_id)}, change, array_filters=filters or None)
        )
    answers = fod.bulk_write(operations, dataset._sample_collection, ordered=False, batcher=False)
    fo.Sample._reload_docs(dataset._sample_collection_name, sample_ids=list(rows))
    if sum(a.matched_count for a in answers) == len(operations):
        return []
    ids = [ObjectId(i) for i in rows]
    found = {str(i) for i in dataset._sample_collection.distinct("_id", {"_id": {"$in": ids}})}
    return [i for i in rows if i not in found]


def save_views(dataset, cam_key, labelled):
    """Saves the three views over the whole dataset, the most dependent samples first.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        labelled: whether it is known which predictions are right

    Returns:
        their names
    """
    from ..cam_core.verdicts import HARMLESS, HIDDEN, RELIES, UNTESTED

    verdict, dependence, bias = field_names(cam_key)
    relies = dataset.match(F(verdict).is_in([RELIES, HIDDEN])).sort_by(dependence, reverse=True)
    outside = dataset.match(F(verdict).is_in([UNTESTED, HARMLESS]))
    views = {"relies on background": (relies, "The score depends on the background")}
    if labelled:
        views["right for the wrong reason"] = (
            relies.match(F(f"{bias}.correct") == True),  # noqa: E712 - a query, not a comparison
            "The prediction is right, and its score depends on the background",
        )
    views["heat only"] = (
        outside.sort_by(f"{bias}.suspicion", reverse=True),
        "The heat is suspicious; the swap was not run, or found no effect",
    )
    names = [f"{cam_key}: {name}" for name in views]
    update(dataset, cam_key, views=names)  # first: what is cut short is taken back by the record
    for name, (view, description) in views.items():
        dataset.save_view(f"{cam_key}: {name}", view, description=description, overwrite=True)
    return names


def save_tags(dataset, cam_key, verdicts):
    """Tags samples with what their verdict is, the harmless ones left out.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        verdicts: ``{sample id: verdict}``
    """
    from ..cam_core.verdicts import OBJECT

    members = {}
    for sample_id, verdict in verdicts.items():
        if verdict != OBJECT:
            members.setdefault(f"{cam_key}: {verdict}", []).append(sample_id)
    update(dataset, cam_key, tags=sorted(members))  # first, as with the views
    for tag, ids in members.items():
        for start in range(0, len(ids), 10_000):
            dataset.select(ids[start : start + 10_000]).tag_samples(tag)
