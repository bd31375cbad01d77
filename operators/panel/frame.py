"""The panel's frame: the run, what can be started, and the tab in front."""

import fiftyone.operators.types as types

from ..runs import lease
from ..text import escape_labels
from . import (
    background,
    bias_tab,
    job_status,
    layout,
    look_bar,
    methods_tab,
    overview_tab,
    samples_tab,
    watch,
)

#: pages, named by what one does on them
TABS = {"see": "See", "test": "Test", "compare": "Compare", "samples": "Samples"}
# each has fill(run, chosen, analysed) and draw(panel, handlers, state)
_FILES = {
    "see": overview_tab,
    "test": bias_tab,
    "compare": methods_tab,
    "samples": samples_tab,
}
# what is wide is made narrower, not the panel wider
_FIT = {
    "container": {"sx": {"containerType": "inline-size"}},
    "grid": {"sx": {"pb": 6, "gridTemplateColumns": "minmax(0, 1fr)"}},
}


def fill(run, tab, chosen):
    """Reads what a tab shows.

    Args:
        run: the :class:`~operators.runs.run.Run`
        tab: the name of a tab
        chosen: a dict of what was chosen on it: ``kind``, ``measure``, ``open`` (``{part: whether it is}``)

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
        look_bar.draw(panel, handlers, state.get("look"))
        _tabs(panel, handlers, state)
        _FILES[state.get("tab") or "see"].draw(panel, handlers, state)
    elif not background.is_busy(
        state.get("work")
    ):  # else the first run has begun: it is drawn above
        _no_runs(panel, handlers, state)
    watch.draw(panel, handlers, state.get("work"))
    view = types.GridView(orientation="vertical", gap=2, pad=2, componentsProps=_FIT)
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
    """The run, and what can be started."""
    menu = layout.row(panel, "top")
    runs = {run["key"]: run["label"] for run in state["runs"]}
    layout.choice(menu, "run", "Run", runs, state["key"], handlers.on_run)
    layout.button(
        menu, "reset", "Reset grid", "restart_alt", handlers.on_reset, variant="outlined",
        title="Show all samples again",
    )  # fmt: skip
    menu = layout.row(panel, "actions")
    layout.button(
        menu, "compute", "Compute", "local_fire_department", handlers.on_compute,
        variant="outlined", title="Compute heatmaps of another run",
    )  # fmt: skip
    layout.button(
        menu, "analyse", "Find bias", "wallpaper", handlers.on_examine, variant="outlined",
        title="Test this run's model on other backgrounds",
    )  # fmt: skip
    layout.button(
        menu, "compare", "Compare methods", "leaderboard", handlers.on_compare,
        variant="outlined", title="Measure which of the run's methods to trust",
    )  # fmt: skip


def _tabs(panel, handlers, state):
    """A row of buttons: the App reports a tab of its own half a second late, and twice."""
    front, row = state.get("tab") or "see", layout.row(panel, "tabs")
    for value, label in TABS.items():
        variant = "contained" if value == front else None
        params = {"tab": value}
        layout.button(
            row, f"tab_{value}", label, None, handlers.on_tab, params=params, variant=variant
        )
