"""What the panel says first: which runs there are, what one did, and what was found."""

import dataclasses

from . import _panel_clusters, _runs
from ._bias_store import field_names
from ._bias_summary import BiasSummary
from ._panel_views import BACKGROUND, OBJECT


def run_choices(dataset):
    """The runs that can be looked at, the newest first.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`

    Returns:
        a list of dicts ``key, label``
    """
    configs = {key: _runs.config_of(dataset, key) for key in _runs.list_runs(dataset)}
    order = sorted(configs, key=lambda key: configs[key].started or "", reverse=True)
    return [{"key": key, "label": f"{key}  ({_runs.status_from(configs[key])})"} for key in order]


def facts(dataset, key):
    """What a run is, in the words of a form.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the key of a CAM run

    Returns:
        a list of dicts ``what, value``
    """
    config = _runs.config_of(dataset, key)
    used = config.settings
    summary = _runs.load_results(dataset, key).get("summary") or {}
    done, total = config.progress.get("done", 0), config.progress.get("total", 0)
    failed = len(summary.get("failed") or config.failures)
    rows = [
        ("Model", used.get("model")),
        ("Methods", ", ".join(_name(m) for m in used.get("methods") or [])),
        ("Layers", ", ".join(map(str, used.get("layers") or [])) or "chosen by the model"),
        ("Explained", _targets(used.get("targets"))),
        ("Samples", f"{done:,} of {total:,}" if total else f"{done:,}"),
        ("Failed", f"{failed:,}" if failed else "none"),
        ("Status", _runs.status_from(config)),
        ("Computed", _when(config)),
        ("Fields", ", ".join(_runs.heatmap_fields_of(dataset, key)) or "none left"),
    ]
    return [{"what": what, "value": str(value or "unknown")} for what, value in rows]


def _name(method):
    return method if isinstance(method, str) else str(method[0])


def _targets(targets):
    if isinstance(targets, (list, tuple)):
        return ", ".join(map(str, targets))
    return {"predicted": "the predicted class", None: "the predicted class"}.get(targets, targets)


def _when(config):
    started = (config.started or "")[:16].replace("T", " ")
    return f"{started} UTC, on {config.settings.get('device') or 'unknown device'}"


def bias_of(dataset, key):
    """The stored findings of ``find_background_bias``, or None if there are none.

    Returns:
        a :class:`BiasSummary`
    """
    stored = _runs.load_results(dataset, key).get("bias")
    if not stored:
        return None
    # what an earlier version did not store yet has its default, such as the unit
    plain = {
        field.name: None if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(BiasSummary)
    }
    return BiasSummary(**{name: stored.get(name, value) for name, value in plain.items()})


def sentences(summary):
    """The findings as people read them, the most important first.

    Args:
        summary: a :class:`BiasSummary`

    Returns:
        a list of strings
    """
    # the first three lines are the headline, the classes and the model
    return summary.lines()[:3]


def verdict_counts(dataset, key):
    """How many samples have each verdict; those accepted as context are left out.

    Counted anew: the stored summary of a detector counts objects, while a click shows samples.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the key of an examined run

    Returns:
        a dict of verdict -> count, in the order of the verdicts, and how many were left out
    """
    from ..cam_core.verdicts import VERDICTS

    accepted, samples = _panel_clusters.accepted_ids(dataset, key), dataset._sample_collection
    verdict = field_names(key)[0]

    def count(**which):
        # the verdicts alone: answered from their index
        pipeline = [
            {"$match": {verdict: {"$in": list(VERDICTS)}, **which}},
            {"$group": {"_id": f"${verdict}", "n": {"$sum": 1}}},
        ]
        return {row["_id"]: row["n"] for row in samples.aggregate(pipeline)}

    counts = count()
    without = count(_id={"$in": accepted}) if accepted else {}
    left = {v: counts[v] - without.get(v, 0) for v in VERDICTS if v in counts}
    return {v: n for v, n in left.items() if n > 0}, sum(without.values())


def evidence_counts(dataset, key, summary):
    """Whether predictions are right, against what their score rests on.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the key of an examined run
        summary: its :class:`BiasSummary`

    Returns:
        a dict ``right_object, right_background, wrong_object, wrong_background, unknown``, or None
        where it is not known what is right, or nothing was tested; accepted samples are left out
    """
    if summary.model is None or not summary.model.get("evidence"):
        return None
    counts = dict(summary.model["evidence"])
    if not any(n for name, n in counts.items() if name != "unknown"):
        return None
    accepted = _panel_clusters.accepted_ids(dataset, key)
    group = {"correct": f"${key}_bias.correct", "verdict": f"${key}_verdict"}
    pipeline = [
        {"$match": {"_id": {"$in": accepted}}},
        {"$group": {"_id": group, "n": {"$sum": 1}}},
    ]
    for row in dataset._sample_collection.aggregate(pipeline):
        correct, verdict = row["_id"].get("correct"), row["_id"].get("verdict")
        if correct is None:
            continue
        sure = verdict in BACKGROUND or verdict in OBJECT
        side = "background" if verdict in BACKGROUND else "object"
        name = f"{'right' if correct else 'wrong'}_{side}" if sure else "unknown"
        counts[name] = max(0, counts[name] - row["n"])
    return counts
