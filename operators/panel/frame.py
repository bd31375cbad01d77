"""The panel's frame: the run, what can be started, and the tab in front."""

import fiftyone.operators.types as types

from ..runs import lease
from ..text import escape_labels
from . import (
    background,
    bias_tab,
    clusters_tab,
    job_status,
    layout,
    methods_tab,
    overview_tab,
    samples_tab,
    watch,
)

TABS = {
    "overview": "Overview",
    "bias": "Bias",
    "methods": "Methods",
    "clusters": "Clusters",
    "samples": "Samples",
}
# each has fill(run, chosen, analysed) and draw(panel, handlers, state)
_FILES = {
    "overview": overview_tab,
    "bias": bias_tab,
    "methods": methods_tab,
    "clusters": clusters_tab,
    "samples": samples_tab,
}


def fill(run, tab, chosen):
    """Reads what a tab shows.

    Args:
        run: the :class:`~operators.runs.run.Run`
        tab: the name of a tab
        chosen: a dict of what was chosen on it: ``kind``, ``measure``

    Returns:
        (state, data): state is small and comes back with every event, data is what charts, tables
        and pictures show
    """
    status = lease.job_status_of(run.dataset, run.jobs.get("bias"))
    state, data = _FILES[tab].fill(run, chosen, status == "finished")
    work = job_status.work_of(run, "bias")
    return {"bias_status": status, "bias_work": work, **state}, data


def draw(handlers, state):
    """Draws the panel.

    Args:
        handlers: the panel, whose methods are called on events
        state: a dict: ``runs, key, tab`` and what the tabs keep

    Returns:
        a ``types.Property``
    """
    panel = types.Object()
    background.draw(panel, handlers, state.get("work"))
    if state.get("runs"):
        _menu(panel, handlers, state)
        _tabs(panel, handlers, state)
        _FILES[state.get("tab") or "overview"].draw(panel, handlers, state)
    elif not background.is_busy(
        state.get("work")
    ):  # else the first run has begun, and is drawn above
        _no_runs(panel, handlers, state)
    watch.draw(panel, handlers, state.get("work"))
    view = types.GridView(
        orientation="vertical", gap=2, pad=2, componentsProps={"grid": {"sx": {"pb": 6}}}
    )
    return escape_labels(types.Property(panel, view=view))


def _no_runs(panel, handlers, state):
    if state.get("error"):
        layout.note(panel, "error", "The panel could not be filled", state["error"], types.Error)
    layout.note(
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
        "analyse", label="Find bias", icon="wallpaper", variant="outlined",
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
