"""Which objects of an image a run of a detector explains: its own, those of a field, those it misses."""

import dataclasses
import difflib

import fiftyone as fo

from ..data.samples import check_not_nested, read_values
from .spec import Lookup, canonical

#: at most so many objects of an image are explained
MOST_OBJECTS = 20
# ... unless 'most' says another number, up to this
_MOST = 1000
MIN_IOU = 0.5
OUTCOMES = ("tp", "fp", "fn")
_OPTIONS = ("classes", "most", "min_iou", "prefer")
_FORMS = (
    "'predicted'; a field of Detections; class names; ('missed', field); or a dict such as "
    "{'field': 'ground_truth', 'classes': ['cat']}, {'missed': 'ground_truth'} or "
    "{'eval': 'eval_key', 'which': 'fn'}"
)


@dataclasses.dataclass
class ObjectTargets:
    """Which objects are explained.

    Attributes:
        tag: what the heatmaps' ``target`` says
        field: the label field that the objects are in; None for the model's own detections
        missed: whether only those are explained that no detection of the model matches
        eval_key: the evaluation of whose outcomes some are explained, or None
        which: ``"tp"``, ``"fp"`` or ``"fn"``
        classes: indices of the classes of which objects are explained; None for all
        most: at most so many objects per image
        min_iou: the least overlap of an object and the model's candidate for it
        prefer: which candidate: ``"overlap"``, the nearest, or ``"score"``, the strongest there
        index: ``{label of the field: class index}``
        labels: how much of the field's labels the model knows, see :class:`summary.Summary`
        samples: where the field is read from; a view's filters hold
    """

    tag: str
    field: str = None
    missed: bool = False
    eval_key: str = None
    which: str = None
    classes: list = None
    most: int = MOST_OBJECTS
    min_iou: float = MIN_IOU
    prefer: str = "overlap"
    index: dict = dataclasses.field(default_factory=dict)
    labels: list = dataclasses.field(default_factory=list)
    samples: object = None

    def describe(self):
        """JSON-able entries for the run's record."""
        names = ("field", "missed", "eval_key", "which", "classes", "most", "min_iou", "prefer")
        return {name: getattr(self, name) for name in names}


def resolve_objects(spec, samples, model, class_map=None):
    """Says which objects a specification means.

    Args:
        spec: ``targets`` of ``compute_cams``
        samples: the dataset or view of the run
        model: the :class:`LoadedModel` of a detector
        class_map (None): names of a user's own -> classes of the model

    Returns:
        an :class:`ObjectTargets`

    Raises:
        ValueError: if it is not understood, or a field, an evaluation or a class does not exist
    """
    lookup = Lookup(model, class_map)
    entries = _entries(canonical(spec), samples, lookup)
    options = {name: entries.pop(name) for name in _OPTIONS if name in entries}
    if set(entries) == {"eval", "which"}:
        targets = evaluated(entries["eval"], entries["which"], samples)
    elif set(entries) == {"missed"}:
        field = _check_field(entries["missed"], samples)
        targets = ObjectTargets(f"missed {field}", field, missed=True, prefer="score")
    elif set(entries) == {"field"}:
        field = _check_field(entries["field"], samples)
        # A prediction is the model's nearest candidate; of ground truth the strongest one is asked.
        targets = ObjectTargets(field, field, prefer=_preferred(samples, field))
    elif not entries:
        targets = ObjectTargets("predicted")
    else:
        raise ValueError(f"targets: {spec!r} is not understood of a detector; give {_FORMS}")
    _set_options(targets, options, lookup)
    if targets.field is not None:
        targets.samples = samples
        _match_labels(targets, samples, lookup)
    return targets


def _entries(spec, samples, lookup):
    """The specification as a dict; of a name it is found out what it names."""
    if isinstance(spec, list) and len(spec) == 1:
        spec = spec[0]  # as a queue brings one name
    if isinstance(spec, dict):
        return dict(spec)
    items = spec if isinstance(spec, list) else [spec]
    if len(items) == 2 and items[0] == "missed":
        return {"missed": items[1]}
    if spec == "predicted":
        return {}
    if isinstance(spec, str) and _is_detections(samples, spec):
        if lookup.find(spec):
            raise ValueError(
                f"targets: {spec!r} is a field and a class of the model; say which: "
                f"{{'field': {spec!r}}} or {{'classes': [{spec!r}]}}"
            )
        return {"field": spec}
    if not items or not all(isinstance(i, (str, int)) and not isinstance(i, bool) for i in items):
        raise ValueError(f"targets: {spec!r} is not understood of a detector; give {_FORMS}")
    if isinstance(spec, str) and spec in samples.get_field_schema() and not lookup.find(spec):
        _check_field(spec, samples)  # says what it is instead
    return {"classes": items}


def _set_options(targets, options, lookup):
    if "classes" in options:
        names = options["classes"] if isinstance(options["classes"], list) else [options["classes"]]
        if not names:
            raise ValueError("targets: 'classes' is empty; leave it out for objects of all classes")
        found = [_classes(name, lookup) for name in names]
        targets.classes = sorted({index for members in found for index in members})
        shown = ", ".join(lookup.label(members) for members in found)
        targets.tag = shown if targets.tag == "predicted" else f"{targets.tag}: {shown}"
    most, min_iou = options.get("most", MOST_OBJECTS), options.get("min_iou", MIN_IOU)
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= _MOST:
        raise ValueError(
            f"targets: 'most' must be an integer between 1 and {_MOST}, got {most!r:.80}"
        )
    if isinstance(min_iou, bool) or not isinstance(min_iou, (int, float)) or not 0 < min_iou <= 1:
        raise ValueError(f"targets: 'min_iou' must be an overlap in (0, 1], got {min_iou!r}")
    prefer = options.get("prefer", targets.prefer)
    if prefer not in ("score", "overlap"):
        raise ValueError(f"targets: 'prefer' must be 'score' or 'overlap', got {prefer!r}")
    targets.most, targets.min_iou, targets.prefer = most, float(min_iou), prefer


def _classes(name, lookup):
    """Indices of the classes that a name or an index stands for."""
    if isinstance(name, int) and not isinstance(name, bool):
        count = None if lookup.names is None else len(lookup.names.classes)
        if name < 0 or (count is not None and name >= count):
            raise ValueError(f"targets: class index {name} is out of range; the model has {count}")
        return (name,)
    if not isinstance(name, str):
        raise ValueError(f"targets: {name!r} is no class name or index")
    if lookup.names is None and not lookup.find(name):
        raise ValueError(f"targets: {name!r} needs class names; pass classes=, or give an index")
    found = lookup.find(name)
    if not found:
        near = lookup.near(name)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise ValueError(f"targets: the model has no class {name!r}{hint}")
    return found


def detection_fields(samples):
    """Lists the fields of Detections.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
    """
    return [name for name in samples.get_field_schema() if _is_detections(samples, name)]


def evaluations(samples):
    """Lists the keys of evaluations of Detections.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
    """
    dataset = samples._dataset
    return [
        key
        for key in dataset.list_evaluations()
        if getattr(dataset.get_evaluation_info(key).config, "type", None) == "detection"
        and _is_detections(samples, dataset.get_evaluation_info(key).config.gt_field)
    ]


def _is_detections(samples, name):
    return getattr(samples.get_field(name), "document_type", None) is fo.Detections


def _check_field(name, samples):
    """Returns a field of Detections; raises a ValueError that lists those there are."""
    schema, usable = samples.get_field_schema(), detection_fields(samples)
    hint = f"fields of Detections: {', '.join(usable) or 'none'}"
    if not isinstance(name, str) or name not in schema:
        check_not_nested(samples, name, "targets")
        near = difflib.get_close_matches(str(name), usable, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"targets: the samples have no field {name!r}{meant} ({hint})")
    if name not in usable:
        field = samples.get_field(name)
        kind = getattr(getattr(field, "document_type", None), "__name__", type(field).__name__)
        raise ValueError(f"targets: the field {name!r} is a {kind}, not Detections ({hint})")
    return name


def _preferred(samples, field):
    path = f"{field}.detections.confidence"
    return "overlap" if samples.get_field(path) is not None and samples.count(path) else "score"


def evaluated(key, which, samples):
    """The objects with an outcome of ``evaluate_detections``.

    Args:
        key: of the evaluation
        which: one of ``OUTCOMES``
        samples: a :class:`fiftyone.core.collections.SampleCollection`

    Returns:
        an :class:`ObjectTargets`

    Raises:
        ValueError: if there is no such evaluation, or its labels have no outcomes
    """
    dataset = samples._dataset
    if which not in OUTCOMES:
        raise ValueError(f"targets: which={which!r} is unknown; choose from {', '.join(OUTCOMES)}")
    known = dataset.list_evaluations()
    if key not in known:
        raise ValueError(
            f"targets: the dataset has no evaluation {key!r}; it has: {', '.join(known) or 'none'}; "
            "evaluate_detections(..., eval_key=...) makes one"
        )
    config = dataset.get_evaluation_info(key).config
    field = config.gt_field if which == "fn" else config.pred_field
    if config.type != "detection" or not _is_detections(samples, field):
        raise ValueError(
            f"targets: the evaluation {key!r} is of {config.type} in {field!r}, not of Detections"
        )
    if samples.get_field(f"{field}.detections.{key}") is None:
        raise ValueError(
            f"targets: the labels of {field!r} have no outcomes of the evaluation {key!r}; evaluate again"
        )
    prefer = "score" if which == "fn" else "overlap"
    return ObjectTargets(f"{key} {which}", field, eval_key=key, which=which, prefer=prefer)


def _match_labels(targets, samples, lookup):
    """Finds the model's class of every label of the field."""
    from .label_field import LabelField

    known = LabelField(samples, targets.field, lookup)  # refuses a field of which none is known
    for entry in known.summary["mapped"]:
        members = lookup.find(entry["label"])
        if len(members) > 1:
            raise ValueError(
                f"class_map: {entry['label']!r} stands for {len(members)} classes, and an object of "
                f"{targets.field!r} has one; map it to one class"
            )
        targets.index[entry["label"]] = members[0]
    targets.labels = [known.summary]


# Reading -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Given:
    """An object that a field has.

    Attributes:
        id: of its label
        box: left, top, right, bottom as shares of the image's sides
        index: the class of the model, -1 if it has none
        strength: by which the objects of an image are ordered: confidence, else area
        asked: whether it is to be explained
    """

    id: str
    box: list
    index: int
    strength: float
    asked: bool


def read_objects(targets, ids):
    """Reads the objects of some samples, with one query.

    Args:
        targets: the :class:`ObjectTargets`
        ids: of the samples

    Returns:
        ``{sample id: [Given, ...]}``, the strongest first; empty lists for those that the view lacks
    """
    path = f"{targets.field}.detections"
    columns = ["id", "label", "bounding_box", "confidence"]
    columns += [targets.eval_key] if targets.eval_key else []
    there = [c for c in columns if targets.samples.get_field(f"{path}.{c}") is not None]
    view = targets.samples.select(list(ids))
    found = {sample_id: [] for sample_id in ids}
    values = read_values(view, ["id", *(f"{path}.{c}" for c in there)])
    for sample_id, *lists in zip(*values, strict=True):
        if lists[0]:
            rows = (dict(zip(there, row, strict=True)) for row in zip(*lists, strict=True))
            given = [_given(row, targets) for row in rows if row["bounding_box"]]
            found[sample_id] = sorted(given, key=lambda g: -g.strength)
    return found


def _given(row, targets):
    left, top, width, height = row["bounding_box"]
    index = targets.index.get(row["label"], -1)
    asked = targets.classes is None or index in targets.classes
    if targets.eval_key:
        asked = asked and row[targets.eval_key] == targets.which
    confidence = row.get("confidence")
    return Given(
        id=str(row["id"]),
        box=[left, top, left + width, top + height],
        index=index,
        strength=width * height if confidence is None else 1 + confidence,
        asked=asked,
    )
