"""The panel: what was computed, what it says, and the samples behind every number."""

import fiftyone.operators as foo
import fiftyone.operators.types as types

from . import look_bar
from .background import WorkEvents, work_on
from .look_bar import LookBar

_URI = "@cam51/heatmaps"
_HELP = (
    "Everything here is about the whole dataset; clicks change the grid only. "
    "*Reset grid* shows all samples again."
)

# What the state knows of each choice: the App sends them all whenever it draws the panel.
_CHOICES = {
    "on_run": "key", "on_kind": "kind", "on_measure": "measure", "on_same_scale": "scaled",
}  # fmt: skip

_UNKNOWN = object()

# what needs no run; everything else acts on the one that the selector shows
_ANY_RUN = (
    "on_load", "on_unload", "on_change_dataset", "on_run", "on_changed", "on_renamed", "on_compute",
    "on_reset", "on_tab", "on_watch", "on_work_stop", "on_work_dismiss", "on_work_show",
    "on_look_ramp", "on_look_opacity", "on_look_hidden",
)  # fmt: skip


class CamPanel(LookBar, WorkEvents, foo.Panel):
    """Runs of the dataset: what they show, what was tested, compared, and which samples to look at."""

    @property
    def config(self):
        """The panel's configuration."""
        return foo.PanelConfig(
            name="cam_panel",
            label="Class activation maps",
            help_markdown=_HELP,
            # the App draws no picture of a plugin's own in the tab of a Python panel
            icon="blur_on",
            category=foo.Categories.ANALYZE if hasattr(foo, "Categories") else None,
            surfaces="grid",
        )

    @property
    def risk_level(self):
        """It stops jobs and keeps names of clusters; a panel's configuration takes no risk."""
        return types.RiskLevel.MEDIUM

    def on_load(self, ctx):
        """Chooses the newest run and fills the first tab."""
        look_bar.show(ctx)
        self._fill(ctx)

    def on_change_dataset(self, ctx):
        """Begins again."""
        ctx.panel.state.clear()
        look_bar.show(ctx)
        self._fill(ctx)

    def render(self, ctx):
        """The panel's layout."""
        from . import frame

        return frame.draw(self, dict(ctx.panel.state._data))

    def _fill(self, ctx, **chosen):
        """Reads what the tab in front shows; what was chosen is kept."""
        from ..runs import record
        from ..runs.run import Run
        from . import frame, overview_tab, watch

        seen = watch.stamp(ctx.dataset)  # first: what changes while this reads is noticed next time
        names = ("tab", "kind", "measure", "open")
        state = {name: ctx.panel.get_state(name) for name in names}
        state.update({"key": self._key(ctx), **chosen})
        record.refresh(ctx.dataset)
        runs = overview_tab.run_choices(ctx.dataset)
        keys = [run["key"] for run in runs]
        key = state["key"] if state["key"] in keys else next(iter(keys), None)
        tab = state["tab"] or "see"
        # the selector's own value: the App takes its default only until somebody chose
        values = {"runs": runs, "key": key, "tab": tab, "top.run": key, "seen": seen}
        values["work"] = work_on(ctx.dataset)
        values["samples"] = bool(ctx.dataset.count())
        if look_bar.state_of(ctx.dataset) != ctx.panel.get_state("look"):  # a first run sets one
            look_bar.show(ctx)
        data = {}
        if key is not None:
            more, data = frame.fill(Run.open(ctx.dataset, key), tab, state)
            values.update(more)
        # a late answer must not set back what was chosen meanwhile, such as the tab
        changed = {k: v for k, v in values.items() if ctx.panel.get_state(k, _UNKNOWN) != v}
        # at once: the App draws the panel again for every call
        if changed:
            ctx.panel.set_state(changed)
        if data:
            ctx.panel.set_data(data)

    def execute(self, ctx):
        """Handles an event; one that says what is so already changes and draws nothing."""
        if self._known(ctx):
            return None
        if ctx.params.get("__method__") not in _ANY_RUN and self._is_gone(ctx):
            return None
        return super().execute(ctx)

    def _is_gone(self, ctx):
        """Whether the run that an event is about was deleted or renamed elsewhere; says so then."""
        from ..runs import record

        record.refresh(ctx.dataset)
        key = self._key(ctx)
        if key is None or key in record.list_runs(ctx.dataset):
            return False
        ctx.ops.notify(f"The run {key} is gone; nothing was done", variant="warning")
        self.on_changed(ctx)
        return True

    def _known(self, ctx):
        """Whether an event's value is what the panel showed when the App sent it."""
        method, value = ctx.params.get("__method__"), ctx.params.get("value")
        if method == "on_watch":
            from . import watch

            return watch.changes(ctx) is None
        if method == "on_cluster_name":
            from . import clusters_tab

            shown = ctx.panel.get_state("clusters") or []
            names = {cluster["number"]: cluster["name"] for cluster in shown}
            return names.get(_cluster_number(ctx), "") == clusters_tab.tidy(value)
        name = _CHOICES.get(method)
        return name is not None and value == ctx.panel.get_state(name)

    def on_watch(self, ctx):
        """Something changed since the panel was filled: in another tab, by a run, from Python."""
        from . import watch

        if watch.changes(ctx) == "work":
            self.show_work(ctx)
            return
        self._fill(ctx)

    def on_look_changed(self, ctx):
        """Draws the pictures of the page in the new colours."""
        self._fill(ctx)

    # choices

    def on_run(self, ctx):
        """Another run was chosen: the panel and the grid show it."""
        self._fill(ctx, key=ctx.params.get("value"))
        self._keep_run(ctx)

    def on_tab(self, ctx):
        """Another tab was chosen."""
        self._fill(ctx, tab=ctx.params.get("tab"))

    def on_kind(self, ctx):
        """Another table of samples was chosen."""
        self._fill(ctx, kind=ctx.params.get("value"))

    def on_measure(self, ctx):
        """Another measure of agreement was chosen."""
        self._fill(ctx, measure=ctx.params.get("value"))

    def on_fold(self, ctx):
        """A part of the page is opened, or closed."""
        part, opened = ctx.params.get("part"), dict(ctx.panel.get_state("open") or {})
        opened[part] = not opened.get(part)
        ctx.panel.set_state(f"open.{part}", opened[part])  # one by one: two clicks may overlap
        self._fill(ctx, open=opened)

    def on_queue(self, ctx):
        """The queue of samples of a kind."""
        self._fill(ctx, tab="samples", kind=ctx.params.get("kind"))

    # operators

    def on_compute(self, ctx):
        """Opens the form of ``compute_cams``."""
        self._prompt(ctx, "compute_cams")

    def on_examine(self, ctx):
        """Opens the form of ``find_background_bias`` for this run."""
        self._prompt(ctx, "find_background_bias", cam_key=self._key(ctx))

    def on_compare(self, ctx):
        """Opens the form of ``compare_cams`` for this run."""
        self._prompt(ctx, "compare_cams", cam_keys=[self._key(ctx)])

    def on_region(self, ctx):
        """Opens the form of ``test_region`` for this run."""
        self._prompt_run(ctx, "test_region")

    def on_run_view(self, ctx):
        """Opens the form of ``load_cam_view``."""
        self._prompt_run(ctx, "load_cam_view")

    def on_run_again(self, ctx):
        """Opens the form of ``rerun_cams``."""
        self._prompt_run(ctx, "rerun_cams")

    def on_run_info(self, ctx):
        """Opens the form of ``get_cam_run_info``."""
        self._prompt_run(ctx, "get_cam_run_info")

    def on_run_boxes(self, ctx):
        """Opens the form of ``heat_to_detections``."""
        self._prompt_run(ctx, "heat_to_detections")

    def on_run_rename(self, ctx):
        """Opens the form of ``rename_cam_run``."""
        params = {"cam_key": self._key(ctx)}
        ended = {"on_success": self.on_renamed, "on_error": self.on_changed}
        ctx.prompt(f"{_URI}/rename_cam_run", params=params, **ended)

    def on_run_delete(self, ctx):
        """Opens the form of ``delete_cam_run``, which says what goes."""
        self._prompt_run(ctx, "delete_cam_run")

    def on_run_stop(self, ctx):
        """Asks the run to stop."""
        self._stop(ctx, "computation")

    def on_comparison_stop(self, ctx):
        """Asks the run's comparison to stop."""
        self._stop(ctx, "comparison")

    def on_analysis_stop(self, ctx):
        """Asks the run's bias analysis to stop."""
        self._stop(ctx, "analysis")

    def _stop(self, ctx, what):
        from ..runs import lease

        try:
            lease.ask_to_stop(ctx.dataset, self._key(ctx), what)
        except ValueError as error:  # it ended before the click arrived
            ctx.ops.notify(str(error), variant="info")
        self._fill(ctx)

    def _prompt_run(self, ctx, name):
        self._prompt(ctx, name, cam_key=self._key(ctx))

    def _prompt(self, ctx, name, **params):
        ended = {"on_success": self.on_changed, "on_error": self.on_changed}
        ctx.prompt(f"{_URI}/{name}", params=params, **ended)

    def on_changed(self, ctx):
        """A form that was opened here changed something, or failed, which is told too."""
        before = ctx.panel.get_state("key")
        self._fill(ctx)
        if ctx.panel.get_state("key") not in (None, before):
            self._keep_run(ctx)

    def on_renamed(self, ctx):
        """The run has another key: it stays the one that is shown."""
        self._fill(ctx, key=(ctx.params.get("result") or {}).get("cam_key"))

    def on_reset(self, ctx):
        """Shows all samples again, and what is true by now."""
        ctx.ops.clear_view()
        self._fill(ctx)

    def on_same_scale(self, ctx):
        """One scale for all heatmaps of a field, or each map's own again."""
        from ..data import same_scale

        on = bool(ctx.params.get("value"))
        scales = same_scale.set_scale(ctx.dataset, self._key(ctx), on)
        if on and not scales:
            ctx.ops.notify("No heatmap here has a common scale", variant="info")
        ctx.ops.reload_dataset()
        self._fill(ctx)

    # clicks

    def on_portrait(self, ctx):
        """A portrait of a class: its samples."""
        from . import views

        self._show(ctx, views.explained_view(self._run(ctx), ctx.params.get("label")))

    def on_verdict(self, ctx):
        """A row of the verdicts: its samples."""
        from . import views

        verdicts, row = ctx.panel.get_state("verdicts") or [], ctx.params.get("row")
        if not isinstance(row, int) or not 0 <= row < len(verdicts):
            return  # the heading
        view = views.verdict_view(self._run(ctx), verdicts[row])
        self._show(ctx, view)

    def on_class(self, ctx):
        """A bar of the classes: its samples, the most dependent first."""
        from ..text import of_chart
        from . import views

        label = of_chart(ctx.params.get("y") or "")
        self._show(ctx, views.class_view(self._run(ctx), label))

    def on_evidence(self, ctx):
        """A cell of right and wrong against object and background."""
        from . import views

        row, column = ctx.params.get("row"), ctx.params.get("column")
        if row not in (0, 1) or column not in (1, 2):
            return  # a heading
        view = views.evidence_view(self._run(ctx), row == 0, column == 2)
        if not view.limit(1).count():
            ctx.ops.notify("No sample is there; the grid stays as it is", variant="info")
            return
        self._show(ctx, view)

    def on_point(self, ctx):
        """A point: its sample."""
        if ctx.params.get("id"):
            self._open(ctx, ctx.params["id"])

    def on_bin(self, ctx):
        """A bar of the calibration: its samples."""
        from . import views

        bins, index = ctx.panel.get_state("bins") or [], ctx.params.get("idx")
        if isinstance(index, int) and index < len(bins):
            low, high = bins[index]
            self._show(ctx, views.suspicion_view(self._run(ctx), low, high))

    def on_leader(self, ctx):
        """A row of the leaderboard: its heatmaps alone."""
        from . import methods_tab

        comparison = methods_tab.comparison_of(self._run(ctx))
        row = ctx.params.get("row")
        if comparison is None or not isinstance(row, int) or row < 0:
            return
        field = methods_tab.field_of_row(comparison, row)
        if field is not None:
            self._activate(ctx, [field])
        else:
            said = "A floor is made up while methods are compared; it has no heatmaps to show"
            ctx.ops.notify(said, variant="info")

    def on_pair(self, ctx):
        """A cell of the matrix: the samples where two methods split most, with both heatmaps."""
        from . import methods_tab, views

        comparison = methods_tab.comparison_of(self._run(ctx))
        matrix = methods_tab.matrix(comparison, ctx.panel.get_state("measure") or "spearman")
        names = dict(zip(matrix["labels"], matrix["fields"], strict=True))
        first, second = names.get(ctx.params.get("y")), names.get(ctx.params.get("x"))
        if first is None or second is None or first == second:
            return
        ids = methods_tab.pair_ids(comparison, first, second)
        if not ids:
            ctx.ops.notify("No samples were stored for this pair of methods", variant="info")
            return
        self._activate(ctx, [first, second])
        ctx.ops.set_view(views.chosen_view(ctx.dataset, ids))

    def on_cluster(self, ctx):
        """A cluster: its samples."""
        from . import clusters_tab, views

        clusters = clusters_tab.clusters_of(self._run(ctx))
        ids = clusters[ctx.params["number"]]["ids"]
        self._show(ctx, views.chosen_view(ctx.dataset, ids))

    def on_cluster_name(self, ctx):
        """A cluster got a name."""
        from . import clusters_tab

        number, name = _cluster_number(ctx), ctx.params.get("value")
        clusters_tab.name_cluster(self._run(ctx), number, name)
        self._fill_clusters(ctx)

    def on_accept(self, ctx):
        """A cluster is fair context, or counts again."""
        from . import clusters_tab

        number, accepted = ctx.params["number"], ctx.params["accepted"]
        clusters_tab.accept(self._run(ctx), number, accepted)
        self._fill(ctx)  # verdicts and classes are counted again

    def _fill_clusters(self, ctx):
        """What is stored by now: a name and a click right after it are answered in any order."""
        from . import clusters_tab

        rows = clusters_tab.cluster_rows(self._run(ctx))
        ctx.panel.set_state("clusters", rows)

    def on_sample(self, ctx):
        """A picture of the queue: opens its sample."""
        ids, row = ctx.panel.get_state("sample_ids") or [], ctx.params.get("row")
        if isinstance(row, int) and 0 <= row < len(ids):
            self._open(ctx, ids[row])

    def on_listed(self, ctx):
        """All samples of the table, in its order."""
        from . import views

        ids = ctx.panel.get_state("sample_ids") or []
        self._show(ctx, views.chosen_view(ctx.dataset, ids))

    def _key(self, ctx):
        """The run that the selector shows, which the App knows a moment before the panel does."""
        shown = (ctx.panel.get_state("top") or {}).get("run")
        listed = [run["key"] for run in ctx.panel.get_state("runs") or []]
        return shown if shown in listed else ctx.panel.get_state("key")

    def _run(self, ctx):
        from ..runs.run import Run

        return Run.open(ctx.dataset, self._key(ctx))

    def _show(self, ctx, view):
        """Lets the grid show a view, with the run's first heatmaps and its verdicts."""
        self._show_run(ctx)
        ctx.ops.set_view(view)

    def _open(self, ctx, sample_id):
        """Opens a sample, with what the grid shows of the run."""
        self._show_run(ctx)
        ctx.ops.open_sample(id=sample_id)

    def _keep_run(self, ctx):
        """Shows the run in the grid, now and when the dataset is opened again.

        The dataset is not reloaded, which would put back the App's own colours.
        """
        from ..runs import sidebar
        from ..runs.app_style import activate_fields
        from ..runs.run import Run

        fields = self._fields_of_run(ctx)
        if fields:
            others = [f for run in Run.all(ctx.dataset) for f in run.fields if f not in fields]
            activate_fields(ctx.dataset, fields, instead=others)
            sidebar.open_run(ctx.dataset, self._key(ctx))
            self._activate(ctx, fields)

    def _show_run(self, ctx):
        """Shows the run's first heatmaps and its verdicts, instead of another run's."""
        fields = self._fields_of_run(ctx)
        if fields:
            self._activate(ctx, fields)

    def _fields_of_run(self, ctx):
        from ..bias.schema import field_names

        if self._key(ctx) is None:
            return []
        run = self._run(ctx)
        verdict = field_names(run.key)[0]
        return [*run.heatmap_fields[:1], *([verdict] if ctx.dataset.get_field(verdict) else [])]

    def _activate(self, ctx, fields):
        """Shows these of our fields, and of the others what was shown before."""
        from ..runs.level import level_of
        from ..runs.run import Run

        level = level_of(ctx.dataset)
        there = [level.path(f) for f in fields if level.field(f) is not None]
        if not there:
            ctx.ops.notify("These heatmaps were deleted since the comparison", variant="warning")
            return
        ours = {level.path(field) for run in Run.all(ctx.dataset) for field in run.fields}
        active = [f for f in ctx.active_fields or [] if f not in ours]
        # not again: the App decodes every map of the grid anew
        if {*active, *there} != set(ctx.active_fields or []):
            ctx.ops.set_active_fields([*active, *there])


def _cluster_number(ctx):
    """The number of the cluster whose name an event gives."""
    return int(ctx.params["path"].partition("cluster_")[2].partition(".")[0])


class OpenCamPanel(foo.Operator):
    """The button above the grid that opens the panel."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="open_cam_panel",
            label="Class activation maps",
            description="Open the panel with runs, findings and samples",
            icon="/assets/icon-dark.svg",
            light_icon="/assets/icon-light.svg",
            dark_icon="/assets/icon-dark.svg",
            unlisted=True,
            risk_level=types.RiskLevel.LOW,
        )

    def resolve_placement(self, ctx):
        """The plugin's one button above the grid: the panel has those of the other operators."""
        return types.Placement(
            types.Places.SAMPLES_GRID_SECONDARY_ACTIONS,
            types.Button(label="Class activation maps", icon="/assets/icon-dark.svg", prompt=False),
        )

    def execute(self, ctx):
        """Opens the panel beside the grid."""
        ctx.ops.open_panel("cam_panel", is_active=True, layout="horizontal")
