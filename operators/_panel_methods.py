"""What the panel's tab on methods shows: the stored result of ``compare_cams`` as plain data."""

from . import _runs

#: measures of agreement, with what people call them
MEASURES = {
    "spearman": ("Same ranking of pixels", "Spearman's rank correlation"),
    "top_iou": ("Same hottest pixels", "overlap (IoU) of the hottest fifth"),
    "ssim": ("Same look", "structural similarity, SSIM"),
}


def comparison_of(dataset, key):
    """The stored comparison that a run took part in, or None.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the key of a CAM run

    Returns:
        what ``compare_cams`` stored: of this run, else of another that was compared with it
    """
    keys = [key, *(k for k in _runs.list_runs(dataset) if k != key)]
    for other in keys:
        found = _runs.load_results(dataset, other).get("compare")
        if found and key in found.get("cam_keys", []):
            return found
    return None


def leaderboard(comparison):
    """The table of methods, the most faithful first.

    Args:
        comparison: of :func:`comparison_of`

    Returns:
        (columns, rows): columns are pairs (key, label); rows are dicts of text, in the order of the
        stored leaderboard
    """
    metrics = comparison["metrics"]
    several = len(comparison["cam_keys"]) > 1
    columns = [("rank", "Rank"), ("method", "Method"), *([("run", "Run")] if several else [])]
    columns += [(f"metric_{name}", _metric_label(m)) for name, m in metrics.items()]
    columns.append(("seconds", "Seconds per image"))
    rows = []
    for entry in comparison["leaderboard"]:
        row = {
            "rank": "floor" if entry.get("baseline") else _text(entry.get("rank"), "{}"),
            "method": _method(entry),
            "run": entry.get("cam_key") or "",
            "seconds": _text(entry.get("seconds_per_image"), "{:.3f}"),
        }
        for name in metrics:
            row[f"metric_{name}"] = _interval((entry.get("metrics") or {}).get(name))
        rows.append({name: row[name] for name, _ in columns})
    return columns, rows


def _metric_label(metric):
    better = {"lower": "lower is better", "higher": "higher is better"}[metric["better"]]
    return f"{metric['label']} ({better})"


def _method(entry):
    layer = f", {entry['layer']}" if entry.get("layer") else ""
    return f"{entry['method']}{layer}"


def _text(value, form):
    return "" if value is None else form.format(value)


def _interval(values):
    if not values or values.get("mean") is None:
        return ""
    text = f"{values['mean']:.3f}"
    if values.get("low") is None or values.get("high") is None:
        return text
    return f"{text} ({values['low']:.3f} to {values['high']:.3f})"


def field_of_row(comparison, row):
    """The heatmap field of a row of the leaderboard, or None for a baseline."""
    return comparison["leaderboard"][row].get("field")


def matrix(comparison, measure):
    """How far methods agree.

    Args:
        comparison: of :func:`comparison_of`
        measure: one of ``MEASURES``

    Returns:
        a dict ``labels, fields, values`` (rows of numbers or None), ``floor`` (agreement of maps that
        have nothing to do with each other, or None)
    """
    agreement = comparison["agreement"]
    return {
        "labels": _unique(agreement["labels"], agreement["fields"]),
        "fields": agreement["fields"],
        "values": agreement[measure],
        "floor": (agreement.get("noise_floor") or {}).get(measure),
    }


def _unique(labels, fields):
    return list(labels) if len(set(labels)) == len(labels) else list(fields)


def pair_ids(comparison, first, second):
    """The samples on which two fields split most, the widest split first; ``[]`` if none is stored."""
    pairs = comparison.get("pairs") or {}
    return pairs.get(f"{first}|{second}") or pairs.get(f"{second}|{first}") or []


def cost_sentence(comparison):
    """What the comparison took, in one sentence."""
    cost = comparison.get("cost") or {}
    forwards, seconds = cost.get("forwards"), cost.get("seconds")
    probe = comparison.get("probe") or {}
    text = f"Measured on {comparison['samples']:,} samples"
    if probe.get("of"):
        text += f" of {probe['of']:,}"
    if forwards:
        text += f", {forwards:,} forward passes"
    if seconds:
        text += f", {seconds:,.0f} s"
    return f"{text}."
