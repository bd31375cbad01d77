"""Pictures of what a model looks at, class by class: the mean heatmap of each, and some photos under theirs."""

import collections
import contextlib

import numpy as np
from bson import ObjectId

from ..runs import results
from ..runs.level import Level, level_of
from ..text import in_markdown
from . import clusters_tab

#: samples that are looked at, spread evenly; classes that are shown; maps that make a mean; photos beside it
SAMPLED, CLASSES, MAPS, PHOTOS = 240, 6, 8, 5
# a mean of fewer is no portrait
_LEAST = 3
_SIDE = 28


def sampled(run):
    """Some samples of a run, spread evenly over it, without their maps.

    Args:
        run: the :class:`~operators.runs.run.Run`

    Returns:
        a list of dicts ``id, filepath, label`` (the class that its heatmap explains) and ``peak``; empty for
        videos, whose frames are not decoded here
    """
    if type(level_of(run.dataset)) is not Level or not run.heatmap_fields:
        return []
    samples = run.dataset._sample_collection
    ids = results.recorded_ids(run.dataset, run.key)
    ids = ids or [
        str(row["_id"])
        for row in samples.find({f"{run.heatmap_fields[0]}.cam_key": run.key}, {"_id": True})
    ]
    chosen = [ids[round(i)] for i in np.linspace(0, len(ids) - 1, min(SAMPLED, len(ids)))]
    heat, guess = run.heatmap_fields[0], f"{run.key}_prediction"
    wanted = ["filepath", f"{heat}.peak", f"{heat}.target", f"{heat}.status", f"{guess}.label"]
    query = {"_id": {"$in": [ObjectId(i) for i in chosen]}}
    found = samples.find(query, dict.fromkeys(wanted, True))
    return [_row(row, heat, guess) for row in found if row.get(heat)]


def _row(row, heat, guess):
    # what the heat explains: another class than the predicted one, where the run's targets say so
    label = row[heat].get("target") or (row.get(guess) or {}).get("label")
    return {
        "id": str(row["_id"]), "filepath": row["filepath"], "label": label,
        "peak": row[heat].get("peak"), "mapped": row[heat].get("status", "ok") == "ok",
    }  # fmt: skip


def portraits(run, rows):
    """The portraits of the classes that are most frequent among some samples.

    Args:
        run: the :class:`~operators.runs.run.Run`
        rows: of :func:`sampled`

    Returns:
        a list of at most 6 dicts ``label, text`` (Markdown) and ``picture``, the source of an image; where no
        class has three of the samples, one of all, whose label is None
    """
    groups = collections.defaultdict(list)
    for row in rows:
        if row["label"] and row["mapped"]:
            groups[row["label"]].append(row["id"])
    frequent = sorted(groups, key=lambda label: (-len(groups[label]), label))
    frequent = [label for label in frequent[:CLASSES] if len(groups[label]) >= _LEAST]
    of = f"{len(rows):,} samples looked at"
    found = [
        {
            "label": label,
            "text": f"**{in_markdown(label)}** · {len(groups[label]):,} of {of}",
            "picture": _picture(run, groups[label]),
        }
        for label in frequent
    ]
    ids = [row["id"] for row in rows if row["mapped"]]
    if not found and ids:
        said = f"**All classes** · no class has {_LEAST} of the {of}"
        found = [{"label": None, "text": said, "picture": _picture(run, ids)}]
    return found


def _picture(run, ids):
    cluster = {"mean_map": _mean_map(run, ids[:MAPS]), "typical": ids[:PHOTOS]}
    return clusters_tab.strip(run, cluster, PHOTOS)


def _mean_map(run, ids):
    """The mean (28, 28) of some samples' heatmaps, 1 where it is hottest."""
    import cv2

    from ..data.heatmap_reader import heat_of

    field = run.heatmap_fields[0]
    view = run.dataset.select(ids).select_fields(field)
    maps = []
    for sample in view:
        with contextlib.suppress(OSError):  # its file is gone: the others are shown
            maps.append(heat_of(sample[field]))
    maps = [heat for heat in maps if heat is not None]
    if not maps:
        return np.zeros((_SIDE, _SIDE))
    size = (_SIDE, _SIDE)
    mean = np.mean([cv2.resize(m, size, interpolation=cv2.INTER_AREA) for m in maps], 0)
    return mean / mean.max() if mean.max() > 0 else mean


def weakest(rows, count=3):
    """Those of some samples whose heatmaps have the lowest peaks.

    Args:
        rows: of :func:`sampled`
        count (3): how many

    Returns:
        a list of rows, the weakest first
    """
    return sorted((r for r in rows if r["peak"] is not None), key=lambda r: r["peak"])[:count]
