"""The panel beside an open sample, which follows it."""

import sys

import fiftyone.operators as foo
import fiftyone.operators.types as types

_URI = "@cam51/heatmaps"
_HELP = (
    "The run's maps on the open sample. *Explain* asks the model about it, *What if* asks about the photo with a "
    "part replaced. The arrow keys lead to the next sample, the choice stays."
)
_KEPT = ("key", "field", "page", "share", "region", "fill", "box", "model", "trials", "explained")
_LOADING = "The model is loaded; this takes some seconds the first time."
# What the state knows of each choice: the App sends them all whenever it draws the panel.
_CHOICES = {
    "on_run": "key", "on_share": "share", "on_region": "region", "on_fill": "fill", "on_box": "box",
}  # fmt: skip


class SamplePanel(foo.Panel):
    """Maps of the open sample side by side, what its score rests on, and what if."""

    @property
    def config(self):
        """The panel's configuration."""
        return foo.PanelConfig(
            name="cam_sample_panel",
            label="Heatmaps of this sample",
            help_markdown=_HELP,
            icon="blur_on",
            category=foo.Categories.ANALYZE if hasattr(foo, "Categories") else None,
            surfaces="modal",
        )

    @property
    def risk_level(self):
        """It explains single samples and keeps trials on them."""
        return types.RiskLevel.MEDIUM

    def on_load(self, ctx):
        """Shows the open sample."""
        self._fill(ctx)
        self._measure(ctx)

    def on_change_current_sample(self, ctx):
        """Follows the sample; one that is closed stays until the next."""
        if ctx.current_sample:
            self._fill(ctx)
            self._measure(ctx)

    def on_change_dataset(self, ctx):
        """Begins again."""
        ctx.panel.state.clear()
        self._fill(ctx)

    def render(self, ctx):
        """The panel's layout."""
        from . import frame

        return frame.draw(self, dict(ctx.panel.state._data))

    def execute(self, ctx):
        """Handles an event; one that says what is so already changes and draws nothing."""
        name = _CHOICES.get(ctx.params.get("__method__"))
        if name is not None and ctx.params.get("value") == ctx.panel.get_state(name):
            return None
        return super().execute(ctx)

    def _fill(self, ctx, **chosen):
        """Reads what the page in front shows; what was chosen is kept."""
        from . import frame

        known = dict(ctx.panel.state._data)
        if not ctx.current_sample:
            ctx.panel.set_state({"sample_id": None, **chosen})
            return
        state = {name: known.get(name) for name in _KEPT} | chosen
        values, data = frame.fill(ctx.dataset, ctx.current_sample, state)
        values = {**chosen, **values}
        changed = {k: v for k, v in values.items() if k not in known or known[k] != v}
        if changed:
            ctx.panel.set_state(changed)
        if data:
            ctx.panel.set_data(data)

    def _measure(self, ctx):
        """Once torch is there: the App's server imports it with the first picture that is measured."""
        if ctx.panel.get_state("key") and "torch" not in sys.modules:
            self._then(ctx, self.on_measure)

    def _then(self, ctx, handler, **params):
        """Handles another event after this one was drawn, with the panel's state of then."""
        ctx.prompt(self.method_to_uri(handler.__name__), params=params, skip_prompt=True)

    def on_measure(self, ctx):
        """Measures what is on show."""
        import torch  # noqa: F401 - what is measured needs it

        self._fill(ctx)

    # choices

    def on_run(self, ctx):
        """Another run was chosen."""
        self._fill(ctx, key=ctx.params.get("value"))

    def on_page(self, ctx):
        """Another page was chosen."""
        self._fill(ctx, page=ctx.params.get("page"))

    def on_map(self, ctx):
        """A map was clicked: it is shown in large."""
        self._fill(ctx, field=ctx.params.get("field"))

    def on_share(self, ctx):
        """Another share of the heat is kept."""
        self._fill(ctx, share=ctx.params.get("value"))

    def on_region(self, ctx):
        """Another region was chosen."""
        self._fill(ctx, region=ctx.params.get("value"))

    def on_fill(self, ctx):
        """Something else takes its place."""
        ctx.panel.set_state("fill", ctx.params.get("value"))

    def on_box(self, ctx):
        """The numbers of a box were typed."""
        ctx.panel.set_state("box", ctx.params.get("value"))

    def on_compute(self, ctx):
        """Opens the form of ``compute_cams``."""
        ctx.prompt(f"{_URI}/compute_cams", on_success=self.on_changed)

    def on_changed(self, ctx):
        """A form that was opened here changed something."""
        self._fill(ctx)

    # explain

    def on_explain(self, ctx):
        """Explains the sample with the model of the run, or with the one that was named last."""
        params = {**self._model(ctx), "sample_id": ctx.current_sample, "in_panel": True}
        ctx.panel.set_state("work", f"Explaining this sample. {_LOADING}")
        ctx.prompt(
            f"{_URI}/explain_sample", params=params, skip_prompt=True, on_success=self.on_explained,
            on_error=self.on_failed,
        )  # fmt: skip

    def on_explain_other(self, ctx):
        """Opens the form of ``explain_sample``."""
        params = {"sample_id": ctx.current_sample, "in_panel": True}
        ctx.prompt(
            f"{_URI}/explain_sample", params=params, on_success=self.on_explained,
            on_error=self.on_failed,
        )  # fmt: skip

    def on_explained(self, ctx):
        """Draws what was found; of a sample that was left meanwhile it is kept until it is seen again."""
        from . import explained

        found = ctx.params.get("result") or {}
        own = {}
        if found.get("sample_id"):
            own["explained"], data = explained.split(found)
            own["model"] = found.get("model")
            ctx.panel.set_data(data)
        self._fill(ctx, work=None, **own)

    def on_failed(self, ctx):
        """Says why nothing was found."""
        from ..text import message_of

        ctx.ops.notify(message_of(ctx.params.get("error")), variant="error")
        self._fill(ctx, work=None)

    def on_peers(self, ctx):
        """Shows the samples of the same class that are predicted right."""
        found = ctx.panel.get_state("explained") or {}
        params = {k: found.get(k) for k in ("sample_id", "cam_key", "model") if found.get(k)}
        ctx.prompt(f"{_URI}/show_peers", params=params, skip_prompt=True)

    def _model(self, ctx):
        """Which model is asked, as arguments of ``explain_sample``."""
        known = ctx.panel.state
        if known.get("model"):
            return {"model": known.get("model"), "cam_key": None}
        return {"cam_key": known.get("key")}

    # what if

    def on_ask(self, ctx):
        """Asks at once where the model is in memory, else says that it is loaded, and then asks."""
        from ..sample import explain

        if explain.CACHE.name is not None:
            self.on_ask_now(ctx)
        else:
            ctx.panel.set_state("work", _LOADING)
            self._then(ctx, self.on_ask_now)

    def on_ask_now(self, ctx):
        """Replaces the region and asks the model."""
        from . import what_if

        state = dict(ctx.panel.state._data)
        try:
            row, trial = what_if.asked(ctx.dataset, ctx.current_sample, self._model(ctx), state)
        except ValueError as error:
            ctx.ops.notify(str(error), variant="error")
            self._fill(ctx, work=None)
            return
        rows = [row, *(state.get("trials") or [])][: what_if.LISTED]
        ctx.panel.set_data(what_if.data(row, trial))
        self._fill(ctx, trials=rows, work=None)

    def on_keep(self, ctx):
        """Stores a trial on its sample."""
        from . import what_if

        rows = [dict(row) for row in ctx.panel.get_state("trials") or []]
        row = next((r for r in rows if r["name"] == ctx.params.get("name")), None)
        try:
            what_if.keep(ctx.dataset, row, self._model(ctx))
        except ValueError as error:
            ctx.ops.notify(str(error), variant="warning")
            return
        row["stored"] = True
        ctx.panel.set_state("trials", rows)

    def on_test_all(self, ctx):
        """Opens the form of ``test_region`` with the region of a trial."""
        from . import what_if

        rows = ctx.panel.get_state("trials") or []
        row = next((r for r in rows if r["name"] == ctx.params.get("name")), None)
        if row is not None:
            params = what_if.prompt_of(row, self._model(ctx).get("cam_key"))
            ctx.prompt(f"{_URI}/test_region", params=params)


class OpenSamplePanel(foo.Operator):
    """The button beside an open sample that shows its panel."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="open_sample_panel",
            label="Heatmaps of this sample",
            description="Maps side by side, what the score rests on, and what if a part were different",
            icon="psychology_alt",
            unlisted=True,
            risk_level=types.RiskLevel.LOW,
        )

    def resolve_placement(self, ctx):
        """A button beside an open sample."""
        return types.Placement(
            types.Places.SAMPLES_VIEWER_ACTIONS,
            types.Button(label="Heatmaps of this sample", icon="psychology_alt", prompt=False),
        )

    def execute(self, ctx):
        """Shows the panel beside the sample."""
        ctx.ops.open_panel("cam_sample_panel", is_active=True, layout="horizontal")
