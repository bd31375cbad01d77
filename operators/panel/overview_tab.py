"""What the panel says first: which runs there are, what one did, and what was found."""

import dataclasses

import fiftyone.operators.types as types

from ..bias.schema import field_names
from ..bias.summary import BiasSummary
from ..runs.run import Run
from ..text import counted, lines_in_markdown
from . import clusters_tab, layout
from .views import BACKGROUND, OBJECT

# characters of the longest bar
_BAR = 16


def run_choices(dataset):
    """The runs that can be looked at, the newest first.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`

    Returns:
        a list of dicts ``key, label``
    """
    runs = sorted(Run.all(dataset), key=lambda run: run.record.started or "", reverse=True)
    return [{"key": run.key, "label": f"{run.key}  ({run.status})"} for run in runs]


def facts(run):
    """What a run is, in the words of a form.

    Args:
        run: the :class:`~operators.runs.run.Run`

    Returns:
        a list of dicts ``what, value``
    """
    config, used = run.record, run.settings
    summary = run.results.get("summary") or {}
    done, total = config.progress.get("done", 0), config.progress.get("total", 0)
    failed = len(summary.get("failed") or config.failures)
    rows = [
        ("Model", used.get("model")),
        ("Methods", ", ".join(_name(m) for m in used.get("methods") or [])),
        ("Layers", ", ".join(map(str, used.get("layers") or [])) or "chosen by the model"),
        ("Explained", _targets(used.get("targets"))),
        ("Samples", f"{done:,} of {total:,}" if total else f"{done:,}"),
        ("Failed", f"{failed:,}" if failed else "none"),
        ("Status", run.status),
        ("Computed", _when(config)),
        ("Fields", ", ".join(run.heatmap_fields) or "none left"),
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


def sentences(summary):
    """The findings as they are shown, the most important first.

    Args:
        summary: a :class:`BiasSummary`

    Returns:
        a list of strings
    """
    # the first three lines are the headline, the classes and the model
    return summary.lines()[:3]


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


def fill(run, chosen, analysed):
    """Reads what the tab shows: (state, data); see :func:`.frame.fill`."""
    summary = bias_of(run) if analysed else None
    state = {
        "sentences": [], "verdicts": [], "accepted": 0,
        "status": run.status,
        "scaled": getattr(run.record, "same_scale", None) is not None,
    }  # fmt: skip
    data = {"facts": facts(run)}
    if summary is not None:
        counts, left_out = verdict_counts(run)
        state.update(sentences=sentences(summary), accepted=left_out)
        state["verdicts"] = list(counts)
        data["verdict_rows"] = verdict_rows(counts)
    return state, data


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


def draw(panel, handlers, state):
    """Draws the tab."""
    if state.get("sentences"):
        panel.md(lines_in_markdown("\n".join(state["sentences"])), name="said")
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
            f"All {counted(state['accepted'], 'tested samples')} are in clusters that were accepted as "
            "context. Clusters > Count again takes that back.",
        )  # fmt: skip
    layout.heading(panel, "facts_head", "The run")
    layout.table(panel, "facts", {"what": "", "value": ""})
    _run_menu(panel, handlers, state)
    if not state.get("sentences"):
        layout.needs_bias(panel, handlers, state)
    panel.bool(
        "same_scale", default=bool(state.get("scaled")), label="Same scale for all samples",
        description="Weak evidence looks weak: one scale for all heatmaps of a field, by their peaks, "
        "instead of each map's own",
        view=types.SwitchView(), on_change=handlers.on_same_scale,
    )  # fmt: skip


def _run_menu(panel, handlers, state):
    """What can be done with the run itself; one that is running can be stopped."""
    running = state.get("status") == "running"
    unfinished = state.get("status") in ("interrupted", "failed")
    menu = panel.menu("run_menu", gap=2)
    menu.btn(
        "run_view", label="Show its samples", icon="grid_view", on_click=handlers.on_run_view,
        title="All that it covers, or those done, missing or failed",
    )  # fmt: skip
    if running:
        menu.btn("run_stop", label="Stop", icon="stop", on_click=handlers.on_run_stop)
        return
    menu.btn(
        "run_again", label="Resume" if unfinished else "Do again", icon="replay",
        on_click=handlers.on_run_again,
        title="Compute what is missing" if unfinished else "The same settings on this view",
    )  # fmt: skip
    menu.btn(
        "run_boxes", label="Draft boxes", icon="highlight_alt", on_click=handlers.on_run_boxes,
        title="Boxes around the heat, tagged as drafts, for a user to correct",
    )  # fmt: skip
    menu = panel.menu("record_menu", gap=2)
    menu.btn("run_info", label="Details", icon="info", on_click=handlers.on_run_info)
    menu.btn("run_rename", label="Rename", icon="edit", on_click=handlers.on_run_rename)
    menu.btn(
        "run_delete", label="Delete", icon="delete", on_click=handlers.on_run_delete,
        title="Deletes everything that the run wrote, and nothing else",
    )  # fmt: skip
