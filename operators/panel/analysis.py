"""The stored bias analysis of a run, and its verdicts counted without what was accepted as context."""

import dataclasses

from ..bias.schema import field_names
from ..bias.summary import BiasSummary
from . import clusters_tab
from .views import BACKGROUND, OBJECT

# characters of the longest bar
_BAR = 16


def bias_of(run):
    """The stored findings of ``find_background_bias``, or None if there are none.

    Returns:
        a :class:`BiasSummary`
    """
    stored = run.results.get("bias")
    if not stored:
        return None
    # what an earlier version did not store yet has its default, such as the unit
    plain = {
        field.name: None if field.default is dataclasses.MISSING else field.default
        for field in dataclasses.fields(BiasSummary)
    }
    return BiasSummary(**{name: stored.get(name, value) for name, value in plain.items()})


def verdict_counts(run):
    """How many samples have each verdict; those accepted as context are left out.

    Counted again: the stored summary of a detector counts objects, while a click shows samples.

    Args:
        run: the :class:`~operators.runs.run.Run`

    Returns:
        a dict of verdict -> count, in the order of the verdicts, and how many were left out
    """
    from ...cam_core.bias.verdicts import VERDICTS

    accepted, samples = clusters_tab.accepted_ids(run), run.dataset._sample_collection
    verdict = field_names(run.key)[0]

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


def evidence_counts(run, summary):
    """Whether predictions are right, against what their score rests on.

    Args:
        run: the :class:`~operators.runs.run.Run`
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
    accepted = clusters_tab.accepted_ids(run)
    group = {"correct": f"${run.key}_bias.correct", "verdict": f"${run.key}_verdict"}
    pipeline = [
        {"$match": {"_id": {"$in": accepted}}},
        {"$group": {"_id": group, "n": {"$sum": 1}}},
    ]
    for row in run.dataset._sample_collection.aggregate(pipeline):
        correct, verdict = row["_id"].get("correct"), row["_id"].get("verdict")
        if correct is None:
            continue
        sure = verdict in BACKGROUND or verdict in OBJECT
        side = "background" if verdict in BACKGROUND else "object"
        name = f"{'right' if correct else 'wrong'}_{side}" if sure else "unknown"
        counts[name] = max(0, counts[name] - row["n"])
    return counts


def verdict_rows(counts):
    """The table of verdicts. No chart: the App takes a second and more to load its charts."""
    total, most = sum(counts.values()), max(counts.values(), default=1)
    return [
        {
            "verdict": verdict,
            "samples": f"{n:,}",
            "share": f"{100 * n / total:.0f} %" if n >= total / 200 else "< 1 %",
            "bar": "━" * max(1, round(_BAR * n / most)),
        }
        for verdict, n in counts.items()
    ] + [{"verdict": "in all", "samples": f"{total:,}", "share": "", "bar": ""}] * (len(counts) > 1)
