"""One scale for all heatmaps of a field, so that weak evidence looks weak.

A stored map is normalised: its 255 is its own peak. The App scales colours by the label's ``range``, so
widening it to what 255 would be on the common scale dims the weak ones; its lower end, below which heat is
hidden, moves with it. No map is touched.

Maps of single pixels (layer ``"input"``) keep their own scale: they are cut off at a quantile, so that
their 255 is not their peak, and what it stands for is not stored.
"""

import math

from ..runs import keys, record
from ..runs.level import level_of
from ..runs.look import hidden_of

#: share of the heatmaps whose peak may lie above the scale: one outlier would make all others dark
OUTLIERS = 0.01
_TOP = 255
# the layer of maps of single pixels
_PIXELS = "input"


def scale_of(dataset, field):
    """The common scale of a field: the peak that all but the highest hundredth stay below.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        field: a heatmap field

    Returns:
        a positive number, with fewer than 100 heatmaps the highest peak; None without heatmaps, and
        for maps of single pixels, whose 255 is not their peak
    """
    documents, path = level_of(dataset).collection, f"{field}.peak"
    query = {**_with_map(field), f"{field}.layer": {"$ne": _PIXELS}}
    count = documents.count_documents(query)
    if not count:
        return None
    above = math.floor(OUTLIERS * count)
    found = documents.find(query, {path: True}).sort(path, -1).skip(above).limit(1)
    return float(next(found)[field]["peak"])


def _with_map(field):
    return {f"{field}.peak": {"$gt": 0}, f"{field}.range": {"$ne": None}, f"{field}.status": "ok"}


def set_scale(dataset, cam_key, on=True):
    """Gives all heatmaps of each field of a run one scale, or each map its own again.

    Every heatmap there is now gets it, whatever the record says: labels may have been added since.
    Fields of methods that explain single pixels (layer ``"input"``) have each map's own scale always.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the key of a CAM run
        on (True): whether there is one scale; False gives each map its own

    Returns:
        ``{field: scale}`` of the fields with a common scale; fields of single pixels are not in it

    Raises:
        ValueError: if there is no such run
    """
    record.refresh(dataset)
    return _apply(dataset, cam_key, on)


def renew_scale(dataset, cam_key):
    """Gives heatmaps that were added to a run the scale that its others have, if they have one.

    A run that goes on writes each map with its own scale, and its peaks may change the common one.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the key of a CAM run
    """
    if getattr(record.config_of(dataset, cam_key), "same_scale", None):
        _apply(dataset, cam_key, True)


def _apply(dataset, cam_key, on):
    scales, hidden = {}, hidden_of(dataset)
    for field in keys.heatmap_fields_of(dataset, cam_key):
        scale = scale_of(dataset, field) if on else None
        top = _TOP
        if scale is not None:
            scales[field] = scale
            # what 255 stands for on the common scale; a map above it saturates
            top = {"$max": [_TOP, {"$divide": [_TOP * scale, f"${field}.peak"]}]}
        ends = [{"$multiply": [hidden, top]} if hidden else {"$literal": 0}, top]
        change = {"$set": {f"{field}.range": ends, "last_modified_at": "$$NOW"}}
        level_of(dataset).collection.update_many(_with_map(field), [change])
    record.update(dataset, cam_key, same_scale=scales or None)
    level_of(dataset).reload()
    return scales
