"""The page Test: verdicts, classes, right for the right reason, shortcuts; where the heat is, folded."""

import math

import numpy as np

from ..bias.attributes import OLD_PROBABILITY, probability_of
from ..bias.findings import CLASS_MIN, interval_of
from ..bias.schema import field_names
from ..text import counted, in_chart, in_markdown
from . import analysis, charts, clusters_tab, layout
from .views import BACKGROUND, OBJECT

#: how many classes a chart shows, and how many points
CLASSES, POINTS = 30, 3000
_BINS = 5
_EFFECTS = ("swap_drop", "same_drop", "bg_gap", "bg_support")
_READ = ("label", "explained", "probability", OLD_PROBABILITY, *_EFFECTS)


def class_bars(run, summary):
    """Score lost on other backgrounds per class, the most dependent class first.

    As stored; where samples were accepted as context the classes are judged again without them.

    Args:
        run: the :class:`~operators.runs.run.Run`
        summary: its :class:`BiasSummary`

    Returns:
        a list of dicts ``label, n, mean, low, high, flagged, few`` of the classes with tested
        samples, or objects; ``low`` and ``high`` are a 95 % interval, or None; ``few``: too few samples,
        or scores that could be lost, for a judgement
    """
    accepted = clusters_tab.accepted_ids(run)
    rows = _judged_again(run, accepted) if accepted else summary.classes
    return [
        {
            "label": row["label"], "n": row["n"], "flagged": bool(row["flagged"]),
            "few": bool(row["note"]),
            **{name: row["bg_gap"][name] for name in ("mean", "low", "high")},
        }
        for row in rows
        if row["n"] and row["bg_gap"]["mean"] is not None
    ]  # fmt: skip


def _judged_again(run, accepted):
    """The class rows of the tested samples without some, by the same rule and from stored effects."""
    from ...cam_core.bias.assessment import class_table
    from ...cam_core.bias.effects import Effects

    _, dependence, bias = field_names(run.key)
    scenes = (run.jobs["bias"]["settings"] or {}).get("scenes")
    fields = [f"{bias}.{name}" for name in _READ]
    fields += [dependence, *([scenes] if scenes else [])]
    rows = list(_tested(run, fields, accepted))
    if not rows:
        return []

    def column(name):
        values = [row.get(bias, {}).get(name) for row in rows]
        return np.array([math.nan if v is None else v for v in values], float)

    unknown = np.full(len(rows), math.nan)
    probabilities = [probability_of(row.get(bias)) for row in rows]
    probabilities = np.array([math.nan if v is None else v for v in probabilities], float)
    names = [row[bias].get("label") or row[bias].get("explained") or "" for row in rows]
    effects = Effects(
        score=probabilities, swap_flip=unknown, same_flip=unknown, adopt=unknown, bg_only=unknown,
        swap_variance=unknown, same_variance=unknown, donors=np.zeros(len(rows), int),
        controls=np.zeros(len(rows), int), **{name: column(name) for name in _EFFECTS},
    )  # fmt: skip
    depends = [row.get(dependence) for row in rows]
    table = class_table(
        np.array(names),
        effects,
        np.array([math.nan if d is None else d for d in depends], float),
        [str(row.get(scenes)) for row in rows] if scenes else None,
    )
    return [{**vars(row), "bg_gap": interval_of(row.bg_gap)} for row in table]


def _tested(run, fields, without=(), limit=0):
    """Documents of the tested samples with these fields alone, found in the database."""
    query = {f"{field_names(run.key)[2]}.tested": True}
    if without:
        query["_id"] = {"$nin": list(without)}
    return run.dataset._sample_collection.find(query, dict.fromkeys(fields, True), limit=limit)


def heat_points(run):
    """Share of the heat on the object against the object's share of the image.

    Args:
        run: the :class:`~operators.runs.run.Run`

    Returns:
        a dict of lists of at most 3,000 tested samples: ``ids, area, energy, rests`` (on
        ``"background"`` or ``"object"``, or ``"undecided"``), ``text``
    """
    verdict, dependence, bias = field_names(run.key)
    parts = ("object_area", "obj_energy", "explained")
    fields = [verdict, dependence, *(f"{bias}.{name}" for name in parts)]
    accepted = clusters_tab.accepted_ids(run)
    out = {"ids": [], "area": [], "energy": [], "rests": [], "text": []}
    for row in _tested(run, fields, accepted, POINTS):
        area, energy = row[bias].get("object_area"), row[bias].get("obj_energy")
        if area is None or energy is None:
            continue
        out["ids"].append(str(row["_id"]))
        out["area"].append(round(area, 4))
        out["energy"].append(round(energy, 4))
        out["rests"].append(rests_on(row.get(verdict)))
        out["text"].append(
            f"{in_chart(row[bias].get('explained'))}<br>{in_chart(row.get(verdict))}"
        )
    return out


def rests_on(verdict):
    """What a score rests on by its verdict: ``"background"``, ``"object"``, or ``"undecided"``."""
    if verdict in BACKGROUND:
        return "background"
    return "object" if verdict in OBJECT else "undecided"


def calibration_bins(run):
    """How often the swap confirms what the heat alone suggests.

    Args:
        run: the :class:`~operators.runs.run.Run`

    Returns:
        a list of dicts ``low, high, n, expected, confirmed``: tested samples by the chance of
        dependence that their heat gives, and the share whose score rests on the background
    """
    verdict, _, bias = field_names(run.key)
    suspicion = f"${bias}.suspicion"
    # of the bin [k/5, (k+1)/5), the last one closed
    bin_number = {"$min": [{"$floor": {"$multiply": [suspicion, _BINS]}}, _BINS - 1]}
    relies = {"$cond": [{"$in": [f"${verdict}", list(BACKGROUND)]}, 1, 0]}
    match = {f"{bias}.tested": True, f"{bias}.suspicion": {"$ne": None}}
    accepted = clusters_tab.accepted_ids(run)
    if accepted:
        match["_id"] = {"$nin": accepted}
    pipeline = [
        {"$match": match},
        {
            "$group": {
                "_id": bin_number,
                "n": {"$sum": 1},
                "expected": {"$avg": suspicion},
                "confirmed": {"$avg": relies},
            }
        },
        {"$sort": {"_id": 1}},
    ]
    return [
        {
            "low": row["_id"] / _BINS, "high": (row["_id"] + 1) / _BINS,
            **{name: row[name] for name in ("n", "expected", "confirmed")},
        }
        for row in run.dataset._sample_collection.aggregate(pipeline)
    ]  # fmt: skip


def blind_spots(summary):
    """What these checks cannot see, in sentences: in general, and in this run.

    Args:
        summary: a :class:`BiasSummary`

    Returns:
        a list of strings
    """
    said = [
        "Heat shows where evidence is, not what it is: colour, texture or blur of the object itself "
        "leave no trace here.",
        "A cue inside the object's box (a collar, a tag on it) counts as object.",
        "No dependence found is not proof that there is none: the swap tries a few backgrounds of "
        "this dataset only.",
    ]
    if summary.skipped:
        total = sum(summary.skipped.values())
        why = ", ".join(f"{n:,} {reason}" for reason, n in summary.skipped.items())
        of = summary.samples if summary.units is None else summary.units
        said.append(f"{total:,} of {of:,} {summary.unit} were not tested ({why}).")
    few = [row["label"] for row in summary.classes if row["note"] == "too few"]
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        named = ", ".join(few[:5])
        said.append(f"Fewer than 20 tested {summary.unit}, so no judgement: {named}{more}.")
    unsure = [row["label"] for row in summary.classes if row["note"] == "unsure"]
    if unsure:
        more = f" and {len(unsure) - 5} more" if len(unsure) > 5 else ""
        named = ", ".join(unsure[:5])
        said.append(f"Scores too low to lose anything, so no judgement: {named}{more}.")
    if summary.calibration and not summary.calibration.get("usable"):
        said.append(f"Heat alone says little here: {summary.calibration.get('reason')}.")
    if summary.telltales:
        named = ", ".join(f"{t['label']} ({t['statistic']})" for t in summary.telltales[:3])
        said.append(f"Whole-image statistics tell classes apart, which no heatmap shows: {named}.")
    return said


def fill(run, chosen, analysed):
    """Reads what the tab shows: (state, data); see :func:`.frame.fill`."""
    if not analysed:
        return {}, {}
    summary = analysis.bias_of(run)
    counts, left_out = analysis.verdict_counts(run)
    bars = class_bars(run, summary)
    judged = [row for row in bars if not row["few"]]
    shown = judged[:CLASSES]
    evidence = analysis.evidence_counts(run, summary)
    clusters, strips = clusters_tab.fill(run, chosen, analysed)
    state = {
        "untested": not summary.tested,
        "verdicts": list(counts),
        "bars_layout": charts.bars_layout([r["label"] for r in shown]) if shown else None,
        "bars_note": bars_note(bars, shown, summary.unit),
        "evidence_sum": evidence_sum(evidence, summary.unit),
        "has_evidence": evidence is not None,
        "accepted": left_out,
        **clusters,
    }
    data = {
        "verdict_rows": analysis.verdict_rows(counts),
        "bars": charts.bars_chart(shown, summary.unit),
        "evidence": evidence_rows(evidence),
        **strips,
    }
    if (chosen.get("open") or {}).get("heat"):
        points, bins = heat_points(run), calibration_bins(run)
        reason = (summary.calibration or {}).get("reason")
        state.update({
            "has_points": bool(points["ids"]),
            "bins": [[b["low"], b["high"]] for b in bins],
            "calibration": f"{reason[0].upper()}{reason[1:]}." if reason else "",
            "blind": blind_spots(summary),
        })  # fmt: skip
        data.update(points=charts.heat_chart(points), calibration=charts.calibration_chart(bins))
    return state, data


def bars_note(bars, shown, unit="samples"):
    """What the chart of classes leaves out, or why there is none, in a sentence.

    Args:
        bars: of :func:`class_bars`
        shown: those that are shown
        unit ("samples"): what was tested
    """
    few = [row for row in bars if row["few"]]
    judged = len(bars) - len(few)
    named = ", ".join(f"{row['label']} {row['n']:,}" for row in few[:6])
    named += f" and {len(few) - 6} more" if len(few) > 6 else ""
    if not bars:
        return ""
    if not judged:
        return (
            f"It takes {CLASS_MIN} tested {unit} of a class, with scores that can be lost, to say something "
            f"about it. Tested so far: {named}."
        )
    said = (
        [f"The {len(shown)} most dependent of {judged:,} classes."] if judged > len(shown) else []
    )
    said += [f"Too little to say of: {named}."] if few else []
    return " ".join(said)


def evidence_sum(counts, unit="samples"):
    """How the numbers of the table add up, in a sentence."""
    if counts is None:
        return ""
    listed = sum(n for name, n in counts.items() if name != "unknown")
    unsure = counts["unknown"]
    if not unsure:
        return f"The four numbers add up to the {counted(listed, f'tested {unit}')}."
    return (
        f"{counted(listed + unsure, f'tested {unit}')}: {listed:,} in the table, {unsure:,} undecided, as "
        "the test could not tell what their score rests on."
    )


def evidence_rows(counts):
    """The table of right and wrong against object and background, as text."""
    if counts is None:
        return []
    return [
        {
            "prediction": name,
            "object": f"{counts[f'{name}_object']:,}",
            "background": f"{counts[f'{name}_background']:,}",
        }
        for name in ("right", "wrong")
    ]


def draw(panel, handlers, state):
    """Draws the tab."""
    if not layout.needs_bias(panel, handlers, state):
        return
    if state.get("untested"):
        layout.note(
            panel, "untested", "Nothing could be tested",
            "The background of no sample could be swapped: this needs objects (boxes, polygons or "
            "masks) in a label field.",
        )  # fmt: skip
    _verdicts(panel, handlers, state)
    _classes(panel, handlers, state)
    _evidence(panel, handlers, state)
    clusters_tab.draw(panel, handlers, state)
    if layout.fold(panel, handlers, state, "heat", "Can the heat be believed?"):
        _heat(panel, handlers, state)


def _verdicts(panel, handlers, state):
    if state.get("verdicts"):
        layout.heading(
            panel, "verdict_head", "Verdicts",
            "What may be said of each sample. Click a row to see its samples." + layout.accepted_text(state),
        )  # fmt: skip
        columns = {"verdict": "Verdict", "samples": "Samples", "share": "Share", "bar": ""}
        layout.table(panel, "verdict_rows", columns, on_click_row=handlers.on_verdict)
    elif state.get("accepted"):
        layout.note(
            panel, "all_accepted", "No verdict is left to count",
            f"All {counted(state['accepted'], 'tested samples')} are in groups that were accepted as "
            "context. Undo that below to count them again.",
        )  # fmt: skip


def _classes(panel, handlers, state):
    note = state.get("bars_note")
    if state.get("bars_layout"):
        layout.heading(
            panel, "bars_head", "Score lost on other backgrounds, per class",
            "Beyond what pasting alone costs, with 95 % intervals; orange classes are flagged. Click "
            "a bar to see the class, the most dependent samples first.",
        )  # fmt: skip
        layout.plot(panel, "bars", state["bars_layout"], handlers.on_class)
        if note:
            panel.md(in_markdown(note), name="bars_note")
    elif note and state.get("verdicts"):
        layout.note(panel, "few_classes", "Too little to say about classes", note)


def _evidence(panel, handlers, state):
    if not state.get("has_evidence"):
        return
    layout.heading(
        panel, "evidence_head", "Right, and for the right reason?",
        f"{state.get('evidence_sum') or ''} Click a number to see its samples.".strip(),
    )  # fmt: skip
    columns = {
        "prediction": "Prediction",
        "object": "rests on object",
        "background": "rests on background",
    }
    layout.table(panel, "evidence", columns, on_click_cell=handlers.on_evidence)


def _heat(panel, handlers, state):
    if state.get("has_points"):
        layout.heading(
            panel, "points_head", "Where the heat is",
            "Each point is a tested sample. On the dashed line a map knows nothing of the object; "
            "below it the heat avoids the object. Click a point to open its sample.",
        )  # fmt: skip
        layout.plot(panel, "points", charts.heat_layout(), handlers.on_point)
    if state.get("bins"):
        layout.heading(
            panel, "bins_head", "How often the test confirms the heat",
            "Bars: how often the swap confirms it. Marks: what the heat alone suggests. "
            + (state.get("calibration") or "") + " Click a bar to see its samples.",
        )  # fmt: skip
        layout.plot(panel, "calibration", charts.calibration_layout(), handlers.on_bin)
    layout.heading(panel, "blind_head", "What this cannot see")
    blind = [f"- {in_markdown(text)}" for text in state.get("blind") or []]
    panel.md("\n".join(blind), name="blind_text")
