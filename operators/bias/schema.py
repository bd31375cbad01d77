"""What ``find_background_bias`` writes: fields, views, tags, and its part of the CAM run's record."""

import logging

import fiftyone as fo
from fiftyone import ViewField as F
from pymongo.errors import OperationFailure

from ...cam_core.bias import verdicts
from ..runs import keys, label_attributes, sidebar
from ..runs.job_record import JobRecords
from ..runs.schema import attribute, declare_fields
from .attributes import ATTRIBUTES, LABEL_ATTRIBUTES, OBJECT_ATTRIBUTES

logger = logging.getLogger(__name__)

RECORDS = JobRecords("bias")
#: orange where the score may rest on the background, green where it does not, grey where nothing is known
VERDICT_COLOURS = {
    verdicts.RELIES: "#ff6d00",
    verdicts.HIDDEN: "#ff9e40",
    verdicts.UNTESTED: "#ffcc80",
    verdicts.HARMLESS: "#9ccc65",
    verdicts.OBJECT: "#43a047",
    verdicts.UNSTABLE: "#b39ddb",
    verdicts.CANNOT_SAY: "#9e9e9e",
}


def field_names(cam_key):
    """The fields that are written: verdict, dependence, and everything else."""
    return f"{cam_key}_verdict", f"{cam_key}_dependence", f"{cam_key}_bias"


def check_store(dataset, cam_key, overwrite):
    """Raises a ValueError unless an analysis may be stored; names whatever is in its way.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        overwrite: whether an earlier analysis may be deleted
    """
    taken = (
        f"cam_key: the background of {cam_key!r} was analysed already; pass overwrite=True to "
        "delete what that wrote first"
    )
    remedy = "choose another cam_key"
    RECORDS.check_store(dataset, cam_key, field_names(cam_key), overwrite, taken, remedy)


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
    ours = (RECORDS.record_of(dataset, cam_key) or {}).get("object_attributes") or []
    for path in object_paths(cam_key, field):
        if path not in ours and dataset.get_field(path) is not None:
            raise ValueError(
                f"objects: the attribute {path!r} exists and is not ours; choose another cam_key, or "
                "delete the attribute"
            )


def register(dataset, cam_key, settings, object_field=None):
    """Notes in a CAM run's record that it is analysed; deletes what an earlier analysis wrote.

    What is written from here on is deleted and renamed with the run.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        settings: what the record says
        object_field (None): of Detections whose labels get attributes of their own

    Returns:
        an :class:`~operators.runs.lease.JobLease`

    Raises:
        ValueError: if the run is being computed, or analysed at this moment
    """
    fields = field_names(cam_key)
    written = {
        "fields": list(fields),
        "tags": [],
        "labels": keys.heatmap_fields_of(dataset, cam_key),
        "attributes": list(LABEL_ATTRIBUTES),
        "object_attributes": [] if object_field is None else object_paths(cam_key, object_field),
        "sidebar_groups": [fields[2]],
    }
    return RECORDS.register(dataset, cam_key, settings, written)


def add_index(dataset, cam_key):
    """Lets counts of verdicts and lists by dependence do without reading whole samples, maps and all.

    FiftyOne renames and deletes the index with its fields.
    """
    verdict, dependence, _ = field_names(cam_key)
    try:
        dataset.create_index([(verdict, 1), (dependence, -1)])
    except OperationFailure as e:
        # MongoDB allows 64 indexes, and the user's own may be as many
        logger.warning("%s: no index of its verdicts, so the panel opens slower: %s", cam_key, e)


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
            "fields": [attribute(name, *entry) for name, entry in ATTRIBUTES.items()],
        },
    }
    for field in heat_fields:
        fields[field] = {
            "ftype": fo.EmbeddedDocumentField,
            "embedded_doc_type": fo.Heatmap,
            "fields": [attribute(name, *entry) for name, entry in LABEL_ATTRIBUTES.items()],
        }
    declare_fields(dataset, fields)
    paths = [f"{bias}.{name}" for name in ATTRIBUTES]
    grouped = sidebar.group_run(dataset, cam_key, [verdict, dependence])
    sidebar.group_fields(dataset, bias, paths, others=[] if grouped else [verdict, dependence])


def declare_objects(dataset, cam_key, field):
    """Declares the attributes of objects' labels.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        field: of Detections
    """
    named = {f"{cam_key}_{name}": entry for name, entry in OBJECT_ATTRIBUTES.items()}
    label_attributes.declare(dataset, f"{field}.detections", named)


def save_views(dataset, cam_key, labelled, held=None):
    """Saves the three views over the whole dataset, the most dependent samples first.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        labelled: whether it is known which predictions are right
        held (None): what :func:`register` returned

    Returns:
        their names
    """
    from ...cam_core.bias.verdicts import HARMLESS, HIDDEN, RELIES, UNTESTED

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
    named = {f"{cam_key}: {name}": entry for name, entry in views.items()}
    return RECORDS.save_views(dataset, cam_key, named, held)


def save_tags(dataset, cam_key, verdicts, held=None):
    """Tags samples with what their verdict is, the harmless ones left out.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        verdicts: ``{sample id: verdict}``
        held (None): what :func:`register` returned
    """
    from ...cam_core.bias.verdicts import OBJECT

    members = {}
    for sample_id, verdict in verdicts.items():
        if verdict != OBJECT:
            members.setdefault(f"{cam_key}: {verdict}", []).append(sample_id)
    RECORDS.update(dataset, cam_key, held, tags=sorted(members))  # first, as with the views
    for tag, ids in members.items():
        for start in range(0, len(ids), 10_000):
            dataset.select(ids[start : start + 10_000]).tag_samples(tag)
