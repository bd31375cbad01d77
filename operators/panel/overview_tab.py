"""The page See: three sentences, the next step, class portraits, the weakest evidence, the run."""

import os

import fiftyone.operators.types as types

from ..data.drawn import data_uri
from ..runs.run import Run
from ..text import in_markdown, lines_in_markdown
from . import analysis, clusters_tab, layout, methods_tab, portraits, story


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


def fill(run, chosen, analysed):
    """Reads what the tab shows: (state, data); see :func:`.frame.fill`."""
    summary = analysis.bias_of(run) if analysed else None
    counts, left_out = ({}, 0) if summary is None else analysis.verdict_counts(run)
    compared = methods_tab.comparison_of(run) is not None
    sentences, step = story.tell(run, summary, counts, left_out, compared)
    rows = portraits.sampled(run)
    weakest = portraits.weakest(rows)
    shown = portraits.portraits(run, rows)
    tiles = clusters_tab.tiles(run, [row["id"] for row in weakest]) if weakest else {}
    measured = story.measures(summary)
    state = {
        "sentences": sentences, "step": step, "status": run.status,
        "measured": bool(measured), "lines": [] if summary is None else summary.lines(),
        "scaled": getattr(run.record, "same_scale", None) is not None,
        "portraits": [{"label": p["label"], "text": p["text"]} for p in shown],
        "looked_at": len(rows),
        "weakest": [
            {"id": row["id"], "text": _weak_text(row), "pictured": tiles.get(row["id"]) is not None}
            for row in weakest
        ],
    }  # fmt: skip
    data = {"facts": facts(run), "measures": measured}
    data.update({f"portrait_{i}": p["picture"] for i, p in enumerate(shown)})
    for i, row in enumerate(weakest):
        if tiles.get(row["id"]) is not None:
            data[f"weak_{i}.picture"] = data_uri(tiles[row["id"]])
    return state, data


def _weak_text(row):
    name = in_markdown(os.path.basename(row["filepath"]))
    label = f", explained as {in_markdown(row['label'])}" if row["label"] else ""
    return f"**{name}** · peak {row['peak']:.2g}{label}"


def draw(panel, handlers, state):
    """Draws the tab."""
    sentences = [in_markdown(text) for text in state.get("sentences") or []]
    sentences[1:2] = [f"**{text}**" for text in sentences[1:2]]
    panel.md("\n\n".join(sentences), name="said")
    step = state.get("step")
    if step:
        layout.button(
            layout.row(panel, "step"), "next", step["label"], step["icon"],
            getattr(handlers, step["event"]), params=step["params"], variant="contained",
        )  # fmt: skip
    if state.get("measured"):
        columns = {"what": "Measured", "value": "", "interval": "95 % interval", "n": "n"}
        layout.table(panel, "measures", columns)
    if state.get("portraits"):
        layout.heading(
            panel, "portraits_head", "What it looks at, class by class",
            "The mean heatmap, then photos under theirs. Click a strip to see the class.",
        )  # fmt: skip
    for number, portrait in enumerate(state.get("portraits") or []):
        panel.md(portrait["text"], name=f"portrait_text_{number}")
        panel.img(
            f"portrait_{number}", on_click=handlers.on_portrait, params={"label": portrait["label"]},
            width="100%", alt_text="heatmaps of a class",
        )  # fmt: skip
    if state.get("weakest"):
        layout.heading(
            panel, "weak_head", "Weakest evidence",
            f"The lowest peaks of the {state.get('looked_at', 0):,} samples looked at; a bright map of "
            "theirs may mean nothing.",
        )  # fmt: skip
    for number, row in enumerate(state.get("weakest") or []):
        opens = {"on_click": handlers.on_point, "params": {"id": row["id"]}}
        layout.card(panel, f"weak_{number}", row["text"], row["pictured"], "Open", **opens)
    layout.heading(panel, "facts_head", "The run")
    _run_menu(panel, handlers, state)
    if layout.fold(panel, handlers, state, "details", "Details of the run"):
        layout.table(panel, "facts", {"what": "", "value": ""})
        if state.get("lines"):
            panel.md(lines_in_markdown("\n".join(state["lines"])), name="lines")


def _run_menu(panel, handlers, state):
    """What can be done with the run itself; one that is running can be stopped."""
    running = state.get("status") == "running"
    unfinished = state.get("status") in ("interrupted", "failed")
    menu = layout.row(panel, "run_menu")
    layout.button(
        menu, "run_view", "Show its samples", "grid_view", handlers.on_run_view,
        title="All that it covers, or those done, missing or failed",
    )  # fmt: skip
    if running:
        layout.button(menu, "run_stop", "Stop", "stop", handlers.on_run_stop)
        return
    layout.button(
        menu, "run_again", "Resume" if unfinished else "Run again", "replay", handlers.on_run_again,
        title="Compute what is missing" if unfinished else "The same settings on this view",
    )  # fmt: skip
    if not layout.fold(panel, handlers, state, "more", "More", menu):
        return
    menu = layout.row(panel, "more_menu")
    layout.button(
        menu,
        "run_info",
        "Record",
        "info",
        handlers.on_run_info,
        title="How it was made, what failed",
    )
    layout.button(
        menu, "run_boxes", "Draft boxes", "highlight_alt", handlers.on_run_boxes,
        title="Boxes around the heat, tagged as drafts, for a user to correct",
    )  # fmt: skip
    layout.button(menu, "run_rename", "Rename", "edit", handlers.on_run_rename)
    layout.button(
        menu, "run_delete", "Delete", "delete", handlers.on_run_delete,
        title="Deletes everything that the run wrote, and nothing else",
    )  # fmt: skip
    panel.bool(
        "same_scale", default=bool(state.get("scaled")), label="Same scale for all samples",
        description="Weak evidence looks weak: one scale for all heatmaps of a field, by their peaks, "
        "instead of each map's own",
        view=types.SwitchView(), on_change=handlers.on_same_scale,
    )  # fmt: skip
