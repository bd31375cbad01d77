"""What the panel's tab on methods shows: the stored result of ``compare_cams`` as plain data."""

from ..runs import record, results
from ..text import in_chart, in_markdown, lines_in_markdown
from . import charts, job_status, layout

#: measures of agreement, with their labels and names
MEASURES = {
    "spearman": ("Same ranking of pixels", "Spearman's rank correlation"),
    "top_iou": ("Same hottest pixels", "overlap (IoU) of the hottest fifth"),
    "ssim": ("Same look", "structural similarity, SSIM"),
}


def comparison_of(run):
    """The stored comparison that a run took part in, or None.

    Args:
        run: the :class:`~operators.runs.run.Run`

    Returns:
        what ``compare_cams`` stored: of this run, else of another that was compared with it
    """
    for key in (run.key, *record.list_runs(run.dataset)):
        found = results.load_results(run.dataset, key).get("compare")
        if found and run.key in found.get("cam_keys", []):
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


#: columns of :func:`checkpoints`
CHECKPOINTS = {
    "model": "Run", "agreement": "Agreement with the last", "score": "Probability",
    "accuracy": "Accuracy", "heat": "Heat on objects",
}  # fmt: skip


def checkpoints(comparison):
    """From checkpoint to checkpoint: rows of text, keys of :data:`CHECKPOINTS`; empty for one model."""
    names = {
        "agreement": "agreement",
        "score": "score",
        "accuracy": "accuracy",
        "heat": "heat_on_objects",
    }
    return [
        {"model": row["cam_key"], **{key: _interval(row.get(name)) for key, name in names.items()}}
        for row in (comparison.get("models") or {}).get("trend") or []
    ]


def field_of_row(comparison, row):
    """The heatmap field of a row of the leaderboard, or None for a baseline."""
    return comparison["leaderboard"][row].get("field")


def matrix(comparison, measure):
    """How far methods agree.

    Args:
        comparison: of :func:`comparison_of`
        measure: one of ``MEASURES``

    Returns:
        a dict ``labels`` as the chart takes them, ``fields, values`` (rows of numbers or None), ``floor``
        (agreement of maps that have nothing to do with each other, or None)
    """
    agreement = comparison["agreement"]
    return {
        "labels": [in_chart(n) for n in _unique(agreement["labels"], agreement["fields"])],
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


def fill(run, chosen, analysed):
    """Reads what the tab shows: (state, data); see :func:`.frame.fill`."""
    comparison = comparison_of(run)
    work = job_status.work_of(run, "compare")
    if comparison is None:
        return {"leader_columns": [], "matrix_layout": None, "compare_work": work}, {}
    columns, rows = leaderboard(comparison)
    measure = chosen.get("measure") or "spearman"
    agreement = matrix(comparison, measure)
    several = len(agreement["fields"]) > 1
    trend = checkpoints(comparison)
    state = {
        "trend": bool(trend),
        "models": list((comparison.get("models") or {}).get("sentences") or []),
        "leader_columns": [list(column) for column in columns],
        "leader_rows": len(rows),
        "metric_help": {f"metric_{n}": m["summary"] for n, m in comparison["metrics"].items()},
        "recommendation": (comparison.get("recommendation") or {}).get("sentence"),
        "cost": cost_sentence(comparison),
        "measure": measure,
        "matrix_menu.measure": measure,
        "matrix_layout": charts.agreement_layout(agreement) if several else None,
        "floor": agreement["floor"],
        "compare_work": work,
    }
    name = MEASURES[measure][0]
    return state, {
        "leaders": rows,
        "trend_rows": trend,
        "matrix": charts.agreement_chart(agreement, name),
    }


def draw(panel, handlers, state):
    """Draws the tab."""
    work = state.get("compare_work")
    working = job_status.draw(panel, "compare_work", work, handlers.on_comparison_stop)
    if not state.get("leader_columns"):
        if not working:
            layout.todo(
                panel, "no_comparison", "The methods were not compared yet",
                "Compare methods measures which heatmaps describe this model faithfully, beside maps "
                "that know nothing, and where methods contradict each other.",
                "Compare methods", "leaderboard", handlers.on_compare,
            )  # fmt: skip
        return
    if state.get("recommendation"):
        panel.md(f"**{in_markdown(state['recommendation'])}**", name="recommended")
    if state.get("models"):
        panel.md(lines_in_markdown("\n".join(state["models"])), name="models")
    if state.get("trend"):
        layout.heading(
            panel, "trend_head", "From checkpoint to checkpoint", "Mean with 95 % interval."
        )
        layout.table(panel, "trend_rows", CHECKPOINTS)
    if not state.get("leader_rows"):
        return
    layout.heading(
        panel, "leaders_head", "Faithfulness",
        f"{state.get('cost', '')} Mean with 95 % interval. Click a row to show its heatmaps in the grid.",
    )  # fmt: skip
    layout.table(
        panel, "leaders", dict(state["leader_columns"]), state.get("metric_help"),
        state.get("leader_rows") or 0, on_click_row=handlers.on_leader,
    )  # fmt: skip
    if state.get("matrix_layout"):
        name, science = MEASURES[state["measure"]]
        floor = state.get("floor")
        beside = f" Unrelated maps agree to {floor:.2f}." if floor is not None else ""
        layout.heading(
            panel, "matrix_head", "Agreement",
            f"{name} ({science}).{beside} Click a cell to see the samples where the two split most.",
        )  # fmt: skip
        labels = {key: label for key, (label, _) in MEASURES.items()}
        menu = layout.row(panel, "matrix_menu")
        layout.choice(
            menu, "measure", "Agreement by", labels, state["measure"], handlers.on_measure
        )
        layout.plot(panel, "matrix", state["matrix_layout"], handlers.on_pair)
