"""The panel beside an open sample, which follows it."""

import collections
import contextlib
import sys
import threading

import fiftyone.operators as foo
import fiftyone.operators.types as types

from ..panel import look_bar

_URI = "@cam51/heatmaps"
_HELP = (
    "The run's maps on the open sample. *Explain* asks the model about it, *What if* asks about the photo with a "
    "part replaced. The two-column icon beside the tab puts the panel beside the photo; the arrow keys lead to the "
    "next sample, and the choice stays."
)
_FIRST = {"page": "maps", "share": 50, "region": "hottest", "fill": "other"}
_LOADING = "The model is loaded; this takes some seconds the first time."
# What the state knows of each choice: the App sends them all whenever it draws the panel.
_CHOICES = {
    "on_page": "page", "on_run": "key", "on_share": "share", "on_region": "region", "on_fill": "fill",
    "on_box": "box",
}  # fmt: skip


_TURNS = collections.defaultdict(threading.Lock)


class SamplePanel(look_bar.LookBar, foo.Panel):
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
        """Shows the open sample; a panel that was moved begins again, and its fields show what is so."""
        self._begin(ctx)
        self._measure(ctx)

    def on_change_current_sample(self, ctx):
        """Follows the sample; what is drawn is read when it is drawn."""
        self._measure(ctx)

    def on_change_dataset(self, ctx):
        """Begins again."""
        ctx.panel.state.clear()
        self._begin(ctx)

    def _begin(self, ctx):
        """The first choices, as the state knows them and as the fields do."""
        from . import frame

        key = frame.key_of(ctx.dataset, ctx.panel.get_state("key"))
        first = {n: ctx.panel.get_state(n) or v for n, v in _FIRST.items()}
        fields = {
            "top": {"run": key},
            "what_if_menu": {"replace": first["region"], "by": first["fill"]},
            "heat_kept": first["share"],
            "look_menu": look_bar.fields_of(ctx.dataset),
        }
        ctx.panel.set_state({**first, "key": key, **fields})
        look_bar.show(ctx)

    def render(self, ctx):
        """The panel's layout."""
        from . import frame

        state = dict(ctx.panel.state._data)
        return frame.draw(self, frame.read(ctx.dataset, ctx.current_sample, state))

    def execute(self, ctx):
        """Handles an event; one that says what is so already changes and draws nothing.

        Events of a panel are answered one after the other: a late answer would set back what was chosen
        meanwhile. Only loading a model takes so long that others do not wait for it.
        """
        method = ctx.params.get("__method__")
        name = _CHOICES.get(method)
        # of a button or a picture the choice is a parameter of its own
        value = ctx.params.get("page" if method == "on_page" else "value")
        if name is not None and value == ctx.panel.get_state(name):
            return None
        with contextlib.nullcontext() if method == "on_ask_now" else _TURNS[ctx.panel_id]:
            return super().execute(ctx)

    def _measure(self, ctx):
        """Draws again once torch is there: it takes seconds to import, and numbers need it."""
        if "torch" not in sys.modules:
            self._then(ctx, self.on_measure)

    def _then(self, ctx, handler):
        """Handles another event after this one was drawn, with the panel's state of then."""
        ctx.prompt(self.method_to_uri(handler.__name__), skip_prompt=True)

    def on_measure(self, ctx):
        """Measures what is on show."""
        import torch  # noqa: F401 - what is measured needs it

    # choices

    def on_run(self, ctx):
        """Another run was chosen, whose own model is asked from here on."""
        ctx.panel.set_state({"key": ctx.params.get("value"), "model": None})

    def on_page(self, ctx):
        """Another page was chosen."""
        ctx.panel.set_state("page", ctx.params.get("page"))

    def on_map(self, ctx):
        """A map was clicked: it is shown in large."""
        ctx.panel.set_state("field", ctx.params.get("field"))

    def on_share(self, ctx):
        """Another share of the heat is kept."""
        ctx.panel.set_state("share", ctx.params.get("value"))

    def on_region(self, ctx):
        """Another region was chosen."""
        ctx.panel.set_state("region", ctx.params.get("value"))

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
        """A form that was opened here changed something, which is drawn."""

    # explain

    def on_explain(self, ctx):
        """Explains the sample with the model of the run, or with the one that was named last."""
        named = {name: value for name, value in self._model(ctx).items() if value}
        params = {**named, "sample_id": ctx.current_sample, "in_panel": True}
        from ..sample import explain

        said = "" if explain.is_held(ctx.dataset, **self._model(ctx)) else f" {_LOADING}"
        ctx.panel.set_state("work", f"Explaining this sample.{said}")
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
        """Keeps what was found, whichever sample is open by now."""
        from . import explained

        found, known = ctx.params.get("result") or {}, ctx.panel.get_state("explained") or []
        ctx.panel.set_state("work", None)
        if found.get("held"):
            names = [found["held"], *known][: explained.HELD]
            ctx.panel.set_state({"explained": names, "model": found.get("model")})

    def on_failed(self, ctx):
        """Says why nothing was found."""
        from ..text import message_of

        ctx.ops.notify(message_of(ctx.params.get("error")), variant="error")
        ctx.panel.set_state("work", None)

    def on_peers(self, ctx):
        """Shows the samples of the same class that are predicted right."""
        from . import explained

        asked = self._model(ctx)
        held = ctx.panel.get_state("explained")
        found = (
            explained.of_sample(held, ctx.current_sample, asked["cam_key"], asked["model"]) or {}
        )
        params = {k: found.get(k) for k in ("sample_id", "cam_key", "model") if found.get(k)}
        if params:
            ctx.prompt(f"{_URI}/show_peers", params=params, skip_prompt=True)

    def _model(self, ctx):
        """Which model is asked, as arguments of ``explain_sample``."""
        from . import frame

        if ctx.panel.get_state("model"):
            return {"model": ctx.panel.get_state("model"), "cam_key": None}
        return {"model": None, "cam_key": frame.key_of(ctx.dataset, ctx.panel.get_state("key"))}

    # what if

    def on_ask(self, ctx):
        """Asks at once where the model is in memory, else says that it is loaded, and then asks."""
        from ..sample import explain

        if explain.is_held(ctx.dataset, **self._model(ctx)):
            self.on_ask_now(ctx)
        else:
            ctx.panel.set_state("work", _LOADING)
            self._then(ctx, self.on_ask_now)

    def on_ask_now(self, ctx):
        """Replaces the region and asks the model."""
        from . import frame, what_if

        # the App tells of a choice a moment after it was made, so the fields are asked what it is
        state = what_if.with_fields(dict(ctx.panel.state._data))
        ctx.panel.set_state({"work": None, **{n: state[n] for n in what_if.FIELDS}})
        named = self._model(ctx)
        field = frame.shown_field(ctx.dataset, ctx.current_sample, state)
        try:
            name = what_if.asked(ctx.dataset, ctx.current_sample, named, field, state)
        except ValueError as error:
            ctx.ops.notify(str(error), variant="error")
            return
        ctx.panel.set_state("trials", [name, *(state.get("trials") or [])][: what_if.LISTED])

    def on_keep(self, ctx):
        """Stores a trial on its sample."""
        from . import what_if

        try:
            what_if.keep(ctx.dataset, ctx.params.get("name"))
        except ValueError as error:
            ctx.ops.notify(str(error), variant="warning")

    def on_test_all(self, ctx):
        """Opens the form of ``test_region`` with the region of a trial."""
        from . import what_if

        params = what_if.prompt_of(ctx.params.get("name"))
        if params is not None:
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
