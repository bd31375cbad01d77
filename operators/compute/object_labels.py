"""What a detector's run writes on labels: of every object where its heat lies, and what was found there."""

import fiftyone as fo

from ..runs import keys
from ..runs.label_attributes import LabelAttributes

#: what an object's label gets, each with what it says; those of shares for every method
SHARES = {
    "in_box": "Share of the object's heat in its own box, 0 to 1",
    "on_others": "Share of the object's heat outside its box, in boxes of other objects",
    "outside": "Share of the object's heat in no object's box; the three shares sum to 1",
}
NUMBERS = {
    "score": (fo.FloatField, "Score of the object's class at the candidate that is explained"),
    "probability": (fo.FloatField, "The model's confidence in the object there, 0 to 1"),
    "iou": (fo.FloatField, "Overlap of the object and that candidate, 0 to 1"),
    "status": (
        fo.StringField,
        "ok; found: not missed; no_candidate: the model has none there; unknown_label: no class of the "
        "model; not_seen: outside of what the model saw; not_explained: too many objects; zero, flat "
        "or nan: no heat",
    ),
}


def attributes(methods):
    """The attributes that an object's label gets: ``{name: (type, description)}``.

    Args:
        methods: keys of the run's methods; of several, each has its own shares
    """
    shares = {}
    for method in methods:
        for name, description in SHARES.items():
            said = f"{description} ({method})"
            shares[share_name(name, method, methods)] = (fo.FloatField, said)
    return {**shares, **NUMBERS}


def share_name(name, method, methods):
    """Returns the attribute of a share of heat: with the method's name where there are several."""
    return name if len(methods) == 1 else f"{keys.plain_name(method)}_{name}"


def detection_labels(model, result, batch, objects):
    """What is written beside the heatmaps of a batch.

    Args:
        model: the :class:`LoadedModel`
        result: what :func:`explain_detections` returned
        batch: the batch of the loader
        objects: the :class:`ObjectPlan` of the run

    Returns:
        per image ``{field: value}``: attributes for the labels of a field, or the model's detections
    """
    found = result.details[0]
    numbers = _numbers(found, objects, [item.window for item in batch.items])
    rows = []
    for image, item in enumerate(batch.items):
        if objects.targets.field is not None:
            own = _on_labels(found, image, numbers, objects)
            rows.append({objects.path: LabelAttributes(objects.path, own)} if own else {})
        elif objects.own_field is not None:
            own = _own_detections(model, found, image, item, numbers, result.input_size)
            rows.append({objects.own_field: own})
        else:
            rows.append({})
    return rows


def _numbers(found, objects, windows):
    """(N, K) lists of every attribute but the status, and the statuses; shares are of the pictures."""
    result = found.explanation
    values = {}
    for method in objects.methods:
        shares = result.shares(method, found.others, windows=windows)
        named = {
            "in_box": shares.inside, "on_others": shares.on_others, "outside": shares.elsewhere,
        }  # fmt: skip
        for name, share in named.items():
            values[share_name(name, method, objects.methods)] = share.tolist()
    values["score"] = result.scores.tolist()
    values["probability"] = result.probabilities.tolist()
    values["iou"] = result.ious.tolist()
    maps = result.status()[objects.methods[0]]
    values["status"] = [
        [status if ok else "no_candidate" for status, ok in zip(row, valid, strict=True)]
        for row, valid in zip(maps, result.valid.tolist(), strict=True)
    ]
    return values


def _attributes_at(numbers, image, column):
    return {name: _plain(rows[image][column]) for name, rows in numbers.items()}


def _plain(value):
    """MongoDB keeps a NaN, and filters on it behave oddly: it is stored as missing."""
    return None if isinstance(value, float) and value != value else value


def _on_labels(found, image, numbers, objects):
    """``{label id: {attribute: value}}`` of the objects of a field."""
    given, passed = found.given[image], found.passed[image]
    columns = {
        passed[place]: column
        for column, place in enumerate(found.explanation.objects[image].tolist())
        if place >= 0
    }
    blank = dict.fromkeys(numbers)
    rows = {}
    for i, label in enumerate(given):
        if not label.asked:
            continue
        if i in columns:
            values = _attributes_at(numbers, image, columns[i])
        else:
            missed = objects.targets.missed and len(columns) < objects.targets.most
            values = {**blank, "status": _reason(label, found.seen[image][i], missed)}
        rows[label.id] = {f"{objects.prefix}{name}": value for name, value in values.items()}
    return rows


def _reason(label, seen, missed):
    """Why an object was not explained; ``missed``: because only those that are missed are."""
    if label.index < 0:
        return "unknown_label"
    if not seen:
        return "not_seen"
    return "found" if missed else "not_explained"


def _own_detections(model, found, image, item, numbers, size):
    """The model's own detections of an image as labels, each with its numbers."""
    from ...cam_core.spatial.boxes import boxes_to_image

    result = found.explanation
    height, width = item.window.image
    places = boxes_to_image(result.boxes[image], item.window, size).tolist()
    detections = []
    for column, (left, top, right, bottom) in enumerate(places):
        if result.objects[image, column] < 0:
            continue
        values = _attributes_at(numbers, image, column)
        box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        label = model.label(int(result.labels[image, column]))
        confidence = values["probability"]
        detections.append(
            fo.Detection(label=label, bounding_box=box, confidence=confidence, **values)
        )
    return fo.Detections(detections=detections)
