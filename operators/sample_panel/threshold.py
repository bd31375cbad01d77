"""One map in large: the part of its heat that is kept, and what of it lies on the object."""

import threading
import time

import numpy as np

from ..sample.swaps import SampleObjects
from ..text import percent

#: shares of the heat that can be kept, in percent
LEAST, MOST, STEP, DEFAULT = 5, 100, 5, 50
# finding out which field holds objects asks the whole dataset
_KEPT_SECONDS = 60.0
_KEPT, _LOCK = {}, threading.Lock()


def kept_heat(heat, share):
    """The fewest pixels that hold a share of the heat.

    Args:
        heat: (h, w), >= 0
        share: 0 to 1

    Returns:
        (h, w) bool; nothing where there is no heat, never a pixel without heat
    """
    values = np.asarray(heat, np.float64).ravel()
    order = np.argsort(-values, kind="stable")
    total = np.cumsum(values[order])
    kept = np.zeros(values.size, bool)
    if total[-1] > 0:
        # rounding of the sum may miss the last pixels of all heat
        count = int(np.searchsorted(total, share * total[-1] * (1 - 1e-12))) + 1
        kept[order[:count]] = True
    return (kept & (values > 0)).reshape(np.shape(heat))


def said(kept, share):
    """How much of the picture the kept heat takes, in a sentence."""
    return f"The hottest {percent(float(kept.mean()))} of the picture hold {percent(share)} of the heat."


def objects_of(dataset, cam_key):
    """The objects of a dataset and why there are none, found out once a minute."""
    key = (dataset._doc.id, cam_key, tuple(dataset.get_field_schema()))
    with _LOCK:
        for old in [k for k, (_, end) in _KEPT.items() if end < time.monotonic()]:
            del _KEPT[old]
        if key not in _KEPT:
            notes = []
            found = SampleObjects(dataset, cam_key, "auto", notes)
            _KEPT[key] = (found, notes), time.monotonic() + _KEPT_SECONDS
        return _KEPT[key][0]


def on_object(dataset, stored, label, heat):
    """What of a map lies on the object, beside its baselines.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        stored: a :class:`~operators.sample_panel.stored.Stored`
        label: the map's label
        heat: (h, w) of the label

    Returns:
        a dict ``heat, uniform, centred, random`` of shares, or an empty one; and a sentence of it
    """
    objects, notes = objects_of(dataset, stored.key)
    name = getattr(label, "target", None)
    shares, status = objects.measure_stored(stored.id, name, heat)
    if not shares:
        why = notes[0] if notes else f"Heat on the object: not measured, {_WHY[status]}."
        return {}, why
    for own, attribute in (("heat", "obj_energy"), ("uniform", "object_area")):
        # of the analysis, which measured the map before it was stored
        value = getattr(label, attribute, None)
        shares[own] = shares[own] if value is None else value
    beside = [
        f"{percent(shares[key])} of {text}"
        for key, text in (
            ("uniform", "an even map"), ("centred", "a centred blob"), ("random", "a random map"),
        )
        if shares[key] is not None
    ]  # fmt: skip
    return shares, f"On the object: {percent(shares['heat'])} of the heat; {', '.join(beside)}."


_WHY = {
    "no_object": "no object is annotated on this sample; draw a box, or choose the field in Find bias",
    "object_absent": "the annotated objects are of other classes",
    "unreadable": "the annotation cannot be read",
}
