"""Which label fields can say where objects are, and which one is meant."""

import dataclasses
import difflib
import re

import fiftyone as fo
import fiftyone.core.aggregations as foa

from .object_masks import KINDS
from .samples import check_not_nested

ROLES = ("object", "other", "context", "ignore")

# Taken without being asked for; hulls of keypoints and heatmaps are only by name.
_BY_DEFAULT = ("box", "polygon", "mask")
PREDICTED_NAME = re.compile(r"(^|_)pred(s|icted|iction|ictions)?(_|$)", re.IGNORECASE)


@dataclasses.dataclass
class ObjectField:
    """A field that can say where objects are.

    Attributes:
        name: of the field
        kind: its label type, such as ``"Detections"``
        predicted: whether a model made it
        reason: how that is known, or None
        by_default: whether it may be taken without being asked for
    """

    name: str
    kind: str
    predicted: bool
    reason: str | None
    by_default: bool


def find_object_fields(samples):
    """Finds the fields that can say where objects are, and which of them a model made.

    A field is a prediction if a run or an evaluation says so, if its labels have confidences, or, for
    kinds of labels that have none, by its name.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`

    Returns:
        a list of :class:`ObjectField`
    """
    kinds = {name: kind for name in samples.get_field_schema() if (kind := kind_of(samples, name))}
    made = made_by_runs(samples)
    paths = {name: _confidence_path(samples, name, kind) for name, kind in kinds.items()}
    asked = [name for name in kinds if name not in made and paths[name]]
    counts = samples.aggregate([foa.Count(paths[name]) for name in asked]) if asked else []
    for name, count in zip(asked, counts, strict=True):
        if count:
            made[name] = "its labels have confidences"
    for name in kinds:
        if name not in made and PREDICTED_NAME.search(name):
            made[name] = "its name"
    return [
        ObjectField(name, kind, name in made, made.get(name), KINDS[kind] in _BY_DEFAULT)
        for name, kind in kinds.items()
    ]


def kind_of(samples, name):
    """Returns the label type of a field that can say where objects are, such as ``"Detections"``.

    Returns:
        the type's name, or None
    """
    document = getattr(samples.get_field(name), "document_type", None)
    kind = getattr(document, "__name__", None)
    return kind if kind in KINDS else None


def _confidence_path(samples, name, kind):
    path = f"{name}.{kind.lower()}.confidence" if kind.endswith("s") else f"{name}.confidence"
    field = samples.get_field(path)
    # of a keypoint, one for each point
    path = f"{path}[]" if isinstance(field, fo.ListField) else path
    return path if field is not None else None


def made_by_runs(samples):
    """Field -> which run says that a model made it."""
    # a view of frames or patches has a dataset of its own, without runs
    dataset = samples._root_dataset
    made = {}
    for key in dataset.list_runs():
        fields = getattr(dataset.get_run_info(key).config, "fields", None)
        for field in fields if isinstance(fields, (list, tuple)) else ():
            made[field] = f"the run {key!r} wrote it"
    for key in dataset.list_evaluations():
        field = getattr(dataset.get_evaluation_info(key).config, "pred_field", None)
        if field is not None:
            made[field] = f"the evaluation {key!r} has it as predictions"
    return made


def choose_object_field(samples, objects=None):
    """Settles which field says where objects are.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        objects (None): a field, or a mapping field -> role, which are checked; None chooses the one
            field with boxes, polygons or masks that is no prediction

    Returns:
        the name of a field, the mapping, or None if there is no such field

    Raises:
        ValueError: if several could be meant, or what is given is no such field
    """
    if objects is not None:
        check_objects(samples, objects)
        return objects
    usable = [f.name for f in find_object_fields(samples) if f.by_default and not f.predicted]
    if len(usable) > 1:
        raise ValueError(
            f"objects: {len(usable)} fields could be meant ({', '.join(usable)}); name one, or give "
            f"a mapping field -> role ({', '.join(ROLES)})"
        )
    return usable[0] if usable else None


def check_objects(samples, objects):
    """Checks the fields that are to say where objects are.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        objects: a field, or a mapping field -> role

    Returns:
        a dict field -> role, one of ``"object"``, ``"other"``, ``"context"``, ``"ignore"``

    Raises:
        ValueError: if a field does not exist or cannot say where something is, or a role is unknown
    """
    roles = {objects: "object"} if isinstance(objects, str) else objects
    if not isinstance(roles, dict) or not roles:
        raise ValueError(f"objects must be a field or a mapping field -> role, got {objects!r}")
    for name, role in roles.items():
        _check_field(samples, name)
        if role not in ROLES:
            raise ValueError(
                f"objects: {role!r} is no role for {name!r}; choose from {', '.join(ROLES)}"
            )
    if "object" not in roles.values():
        raise ValueError("objects: no field has the role 'object'; at least one must")
    return dict(roles)


def _check_field(samples, name):
    schema = samples.get_field_schema()
    usable = [f for f in schema if kind_of(samples, f)]
    hint = f"those that can: {', '.join(usable)}" if usable else "no field of the dataset can"
    if name not in schema:
        check_not_nested(samples, name, "objects")
        near = difflib.get_close_matches(str(name), schema, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"objects: the samples have no field {name!r}{meant} ({hint})")
    if name not in usable:
        field = samples.get_field(name)
        kind = getattr(getattr(field, "document_type", None), "__name__", type(field).__name__)
        raise ValueError(
            f"objects: field {name!r} is a {kind}, which does not say where an object is ({hint})"
        )
