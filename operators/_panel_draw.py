"""The panel's layout: what is where, and which handler a click calls."""

import fiftyone.operators.types as types

from . import _panel_charts as charts
from . import _panel_methods, _panel_samples, _panel_work

TABS = {
    "overview": "Overview",
    "bias": "Bias",
    "methods": "Methods",
    "clusters": "Clusters",
    "samples": "Samples",
}


def draw(handlers, state):
    """Draws the panel.

    Args:
        handlers: the panel, whose methods are called on events
        state: a dict: ``runs, key, tab`` and what the tabs keep

    Returns:
        a ``types.Property``
    """
    panel = types.Object()
    if not state.get("runs"):
        _no_runs(panel, handlers, state)
    else:
        _menu(panel, handlers, state)
        _tabs(panel, handlers, state)
        _DRAW[state.get("tab") or "overview"](panel, handlers, state)
    view = types.GridView(
        orientation="vertical", gap=2, pad=2, componentsProps={"grid": {"sx": {"pb": 6}}}
    )
    return types.Property(panel, view=view)


def _no_runs(panel, handlers, state):
    if state.get("error"):
        _note(panel, "error", "The panel could not be filled", state["error"], types.Error)
    _note(
        panel, "no_runs", "No heatmaps yet",
        "Compute class activation maps first: choose a model, and every image of the view gets a "
        "heatmap of where the model looked. Then come back here."
        if state.get("samples")
        else "This dataset has no samples yet. Add images, then compute class activation maps.",
    )  # fmt: skip
    buttons = panel.menu("start_menu", gap=2)
    buttons.btn(
        "compute", label="Compute class activation maps", icon="local_fire_department",
        variant="contained", on_click=handlers.on_compute, disabled=not state.get("samples"),
    )  # fmt: skip


def _menu(panel, handlers, state):
    """The run, and what can be started; in two rows, which a panel beside the grid has room for."""
    menu = panel.menu("top", gap=2, align_y="center")
    choices = types.DropdownView(label="Run")
    for run in state["runs"]:
        choices.add_choice(run["key"], label=run["label"])
    menu.enum(
        "run", choices.values(), default=state["key"], view=choices, on_change=handlers.on_run
    )
    menu.btn(
        "reset", label="Reset grid", icon="restart_alt", variant="outlined",
        on_click=handlers.on_reset, title="Show all samples again",
    )  # fmt: skip
    menu = panel.menu("actions", gap=2)
    menu.btn(
        "compute", label="Compute", icon="local_fire_department", variant="outlined",
        on_click=handlers.on_compute, title="Compute heatmaps of another run",
    )  # fmt: skip
    menu.btn(
        "examine", label="Find bias", icon="wallpaper", variant="outlined",
        on_click=handlers.on_examine, title="Test this run's model on other backgrounds",
    )  # fmt: skip
    menu.btn(
        "compare", label="Compare methods", icon="leaderboard", variant="outlined",
        on_click=handlers.on_compare, title="Measure which of the run's methods to trust",
    )  # fmt: skip


def _tabs(panel, handlers, state):
    """A row of buttons: the App reports a tab of its own half a second late, and twice."""
    front, row = state.get("tab") or "overview", panel.menu("tabs", gap=1, align_y="center")
    for value, label in TABS.items():
        row.btn(
            f"tab_{value}", label=label, on_click=handlers.on_tab, params={"tab": value},
            variant="contained" if value == front else None,
        )  # fmt: skip


def _note(panel, name, label, text, kind=types.Notice):
    panel.view(name, kind(label=label, description=text))


def _plot(panel, name, layout, on_click):
    """A chart of a fixed height: left alone, its box would be as high as the panel."""
    height = layout["height"]
    panel.plot(
        name, layout=layout, config=charts.CONFIG, on_click=on_click,
        componentsProps={"item": {"sx": {"height": f"{height}px"}}},
    )  # fmt: skip


def _heading(panel, name, label, text=None):
    panel.view(name, types.HeaderView(label=label, description=text))


def _todo(panel, name, label, text, button, icon, on_click):
    """An empty state: what is missing, why one would want it, and the button that does it."""
    _note(panel, name, label, text)
    menu = panel.menu(f"{name}_menu")
    menu.btn(f"{name}_button", label=button, icon=icon, variant="contained", on_click=on_click)


def _needs_bias(panel, handlers, state):
    """Says how to get findings where there are none; returns whether there are."""
    if state.get("bias_status") == "finished":
        return True
    if _panel_work.draw(panel, "bias_work", state.get("bias_work"), handlers.on_examination_stop):
        return False
    _todo(
        panel, "no_bias", "The background was not examined yet",
        "Find background bias puts each object on other backgrounds and watches the score: "
        "which classes and samples rest on the surroundings.",
        "Find background bias", "wallpaper", handlers.on_examine,
    )  # fmt: skip
    return False


def _overview(panel, handlers, state):
    if state.get("sentences"):
        panel.md("\n\n".join(state["sentences"]), name="said")
    if state.get("verdicts"):
        _heading(
            panel, "verdict_head", "Verdicts",
            "What may be said of each sample. Click a row to see its samples." + _accepted(state),
        )  # fmt: skip
        columns = {"verdict": "Verdict", "samples": "Samples", "share": "Share", "bar": ""}
        _table(panel, "verdict_rows", columns, on_click_row=handlers.on_verdict)
    _heading(panel, "facts_head", "The run")
    _table(panel, "facts", {"what": "", "value": ""})
    _run_menu(panel, handlers, state)
    if not state.get("sentences"):
        _needs_bias(panel, handlers, state)
    panel.bool(
        "same_scale", default=bool(state.get("scaled")), label="Same scale for all samples",
        description="Weak evidence looks weak: one scale for all heatmaps of a field, by their peaks, "
        "instead of each map's own",
        view=types.SwitchView(), on_change=handlers.on_same_scale,
    )  # fmt: skip


def _run_menu(panel, handlers, state):
    """What can be done with the run itself; what a run at work allows is to be stopped."""
    at_work = state.get("status") == "running"
    unfinished = state.get("status") in ("interrupted", "failed")
    menu = panel.menu("run_menu", gap=2)
    menu.btn(
        "run_view", label="Show its samples", icon="grid_view", on_click=handlers.on_run_view,
        title="All that it covers, or those done, missing or failed",
    )  # fmt: skip
    if at_work:
        menu.btn("run_stop", label="Stop", icon="stop", on_click=handlers.on_run_stop)
        return
    menu.btn(
        "run_again", label="Go on" if unfinished else "Do again", icon="replay",
        on_click=handlers.on_run_again,
        title="Compute what is missing" if unfinished else "The same settings on this view",
    )  # fmt: skip
    menu.btn(
        "run_boxes", label="Draft boxes", icon="highlight_alt", on_click=handlers.on_run_boxes,
        title="Boxes around the heat, tagged as drafts, for a person to correct",
    )  # fmt: skip
    menu = panel.menu("record_menu", gap=2)
    menu.btn("run_info", label="Details", icon="info", on_click=handlers.on_run_info)
    menu.btn("run_rename", label="Rename", icon="edit", on_click=handlers.on_run_rename)
    menu.btn(
        "run_delete", label="Delete", icon="delete", on_click=handlers.on_run_delete,
        title="Deletes everything that the run wrote, and nothing else",
    )  # fmt: skip


def _accepted(state):
    count = state.get("accepted") or 0
    return f" {count:,} samples accepted as context are left out." if count else ""


def _table(panel, name, columns, help_of=None, rows=0, actions=(), **options):
    """A table; what it shows is the panel's data of the same name.

    Args:
        panel: where to add it
        name: of the data
        columns: a dict key -> label
        help_of (None): a dict key -> the tooltip of a column's cells
        rows (0): how many rows have tooltips
        actions (()): keyword arguments of row actions
        **options: of ``types.TableView``
    """
    # the App's own least width is more than a panel beside the grid has
    table = types.TableView(componentsProps={"table": {"sx": {"minWidth": 0}}}, **options)
    for number, (key, label) in enumerate(columns.items()):
        table.add_column(key, label=label)
        for row in range(rows if key in (help_of or {}) else 0):
            table.add_tooltip(row, number, help_of[key])
    for action in actions:
        table.add_row_action(**action)
    # the last step: what is added afterwards would not be seen
    panel.obj(name, view=table)


def _bias(panel, handlers, state):
    if not _needs_bias(panel, handlers, state):
        return
    if state.get("bars_layout"):
        _heading(
            panel, "bars_head", "Score lost on other backgrounds, per class",
            "Beyond what pasting alone costs, with 95 % intervals; orange classes are flagged. Click "
            "a bar to see the class, the most dependent samples first." + _accepted(state),
        )  # fmt: skip
        _plot(panel, "bars", state["bars_layout"], handlers.on_class)
        if state.get("bars_note"):
            panel.md(state["bars_note"], name="bars_note")
    elif state.get("accepted"):
        _note(
            panel, "all_accepted", "Nothing left to judge",
            "All tested samples were accepted as context; Clusters takes that back.",
        )  # fmt: skip
    else:
        _note(
            panel, "untested", "No class could be tested",
            "The background of no sample could be swapped: this needs objects (boxes, polygons or "
            "masks) in a label field.",
        )  # fmt: skip
    _evidence(panel, handlers, state)
    if state.get("has_points"):
        _heading(
            panel, "points_head", "Where the heat is",
            "Each point is a tested sample. On the dashed line a map knows nothing of the object; "
            "below it the heat avoids the object. Click a point to open its sample.",
        )  # fmt: skip
        _plot(panel, "points", charts.heat_layout(), handlers.on_point)
    if state.get("bins"):
        _heading(
            panel, "bins_head", "Can the heat be believed?",
            "Bars: how often the swap confirms it. Marks: what the heat alone suggests. "
            + (state.get("calibration") or "") + " Click a bar to see its samples.",
        )  # fmt: skip
        _plot(panel, "calibration", charts.calibration_layout(), handlers.on_bin)
    _heading(panel, "blind_head", "What this cannot see")
    panel.md("\n".join(f"- {text}" for text in state.get("blind") or []), name="blind_text")


def _evidence(panel, handlers, state):
    if not state.get("has_evidence"):
        return
    unsure = state.get("unsure") or 0
    left_out = (
        f" {unsure:,} tested samples are in neither column: their verdict is another one."
        if unsure
        else ""
    )
    _heading(
        panel, "evidence_head", "Right, and for the right reason?",
        "Predictions against what their score rests on. Click a number to see its samples."
        + left_out,
    )  # fmt: skip
    columns = {
        "prediction": "Prediction",
        "object": "rests on object",
        "background": "rests on background",
    }
    _table(panel, "evidence", columns, on_click_cell=handlers.on_evidence)


def _methods(panel, handlers, state):
    work = state.get("compare_work")
    working = _panel_work.draw(panel, "compare_work", work, handlers.on_comparison_stop)
    if not state.get("leader_columns"):
        if not working:
            _todo(
                panel, "no_comparison", "The methods were not compared yet",
                "Compare methods measures which heatmaps describe this model faithfully, beside maps "
                "that know nothing, and where methods contradict each other.",
                "Compare methods", "leaderboard", handlers.on_compare,
            )  # fmt: skip
        return
    if state.get("recommendation"):
        panel.md(f"**{state['recommendation']}**", name="recommended")
    _heading(
        panel, "leaders_head", "Faithfulness",
        f"{state.get('cost', '')} Mean with 95 % interval. Click a row to show its heatmaps in the grid.",
    )  # fmt: skip
    _table(
        panel, "leaders", dict(state["leader_columns"]), state.get("metric_help"),
        state.get("leader_rows") or 0, on_click_row=handlers.on_leader,
    )  # fmt: skip
    if state.get("matrix_layout"):
        name, science = _panel_methods.MEASURES[state["measure"]]
        floor = state.get("floor")
        beside = f" Unrelated maps agree to {floor:.2f}." if floor is not None else ""
        _heading(
            panel, "matrix_head", "Agreement",
            f"{name} ({science}).{beside} Click a cell to see the samples where the two split most.",
        )  # fmt: skip
        choices = types.DropdownView(label="Agreement by")
        for key, (label, _) in _panel_methods.MEASURES.items():
            choices.add_choice(key, label=label)
        menu = panel.menu("matrix_menu")
        menu.enum(
            "measure", choices.values(), default=state["measure"], view=choices,
            on_change=handlers.on_measure,
        )  # fmt: skip
        _plot(panel, "matrix", state["matrix_layout"], handlers.on_pair)


def _clusters(panel, handlers, state):
    if not _needs_bias(panel, handlers, state):
        return
    shown = state.get("clusters") or []
    if not shown:
        _note(
            panel, "no_clusters", "No clusters",
            "Fewer than eight tested samples have a heatmap with a place, so there is nothing to group.",
        )  # fmt: skip
        return
    _heading(
        panel, "clusters_head", "Where heatmaps look alike",
        "Small tight groups off the object first: the mean map, then typical samples. Click a strip to "
        "see its samples. What is fair context can be accepted; its samples no longer count.",
    )  # fmt: skip
    for cluster in shown:
        number = cluster["number"]
        panel.md(cluster["text"], name=f"cluster_text_{number}")
        panel.img(
            f"strip_{number}", on_click=handlers.on_cluster, params={"number": number},
            width="100%", alt_text=cluster["text"],
        )  # fmt: skip
        line = panel.menu(f"cluster_{number}", gap=2, align_y="center")
        line.str(
            "name", default=cluster["name"], label="Name", view=types.TextFieldView(),
            on_change=handlers.on_cluster_name,
        )  # fmt: skip
        line.btn(
            "show", label="Show samples", icon="visibility", variant="outlined",
            on_click=handlers.on_cluster, params={"number": number},
        )  # fmt: skip
        line.btn(
            "accept", label="Count again" if cluster["accepted"] else "Accept as context",
            icon="undo" if cluster["accepted"] else "check", variant="outlined",
            on_click=handlers.on_accept,
            params={"number": number, "accepted": not cluster["accepted"]},
        )  # fmt: skip


def _samples(panel, handlers, state):
    kinds = state.get("kinds") or []
    if not kinds:
        _note(
            panel,
            "no_samples",
            "Nothing to list",
            "This run has no heatmaps left; compute them again.",
        )
        return
    choices = types.DropdownView(label="Show")
    for kind in kinds:
        choices.add_choice(kind, label=_panel_samples.KINDS[kind])
    menu = panel.menu("samples_menu", gap=2, align_y="center")
    menu.enum(
        "kind", choices.values(), default=state["kind"], view=choices, on_change=handlers.on_kind
    )
    if not state.get("sample_ids"):
        _note(panel, "none_such", "None", "No sample of this run is of this kind.")
        return
    menu.btn(
        "show_all",
        label="Show in grid",
        icon="grid_view",
        variant="outlined",
        on_click=handlers.on_listed,
    )
    # Without an icon: beside the grid of a laptop there is no room for both.
    opens = {"name": "open", "on_click": handlers.on_sample, "label": "Open"}
    columns = _panel_samples.columns_of(state["kind"], state.get("bias_status"))
    _table(panel, "samples", columns, actions=[opens], actions_label=" ")


_DRAW = {
    "overview": _overview,
    "bias": _bias,
    "methods": _methods,
    "clusters": _clusters,
    "samples": _samples,
}
