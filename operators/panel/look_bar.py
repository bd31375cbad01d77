"""The look bar: how heatmaps are coloured, how opaque they are, and what of them is hidden.

For any panel: it inherits :class:`LookBar`, calls :func:`show` where it is loaded, and :func:`draw` where
the bar is to be.
"""

import threading

import fiftyone.operators.types as types

from ...cam_core.spatial.overlay import FADE, scale_bar
from ..data.drawn import data_uri
from ..runs import look
from . import layout

_RAMPS = {
    FADE: "Fade", "fire": "Fire", "inferno": "Inferno", "turbo": "Turbo", "viridis": "Viridis",
}  # fmt: skip
_OPACITIES = (30, 50, 70, 85, 100)
_HIDDEN = (0, 10, 20, 33, 50, 70)
_BAR_WIDTH = 420
_CHANGING = threading.Lock()


def show(ctx):
    """Reads the dataset's look for :func:`draw`, and shows one that was changed elsewhere in the App.

    Args:
        ctx: of an event of a panel
    """
    before, now = ctx.panel.get_state("look"), state_of(ctx.dataset)
    _keep(ctx, now)
    if before and now != before:
        look.send(ctx, whole=True)


def _keep(ctx, state):
    if state == ctx.panel.get_state("look"):
        return  # the App draws the panel again for every call
    ctx.panel.set_state("look", state)
    ctx.panel.set_data("look_scale", data_uri(scale_bar(_BAR_WIDTH, look.look_of(ctx.dataset))))


def read(ctx):
    """Keeps the look for :func:`draw` and leaves the App's colours: an open photo is not drawn again."""
    _keep(ctx, state_of(ctx.dataset))


def state_of(dataset):
    """What :func:`draw` shows: a dict ``ramp, opacity, hide_below, own``, the shares in percent."""
    now, is_set, own = look.look_of(dataset), look.is_set(dataset), look.has_own(dataset)
    return {
        "ramp": now.ramp if is_set or not own else look.OWN,
        "opacity": round(100 * now.opacity),
        "hide_below": round(100 * now.hide_below),
        # a look can be taken away wherever one is set
        "own": own or is_set,
    }


def is_shown(ctx):
    """Whether an event of the bar says what is so already: a panel that drew itself for it would get it again."""
    field = (ctx.params.get("__method__") or "").removeprefix("on_")
    fields = fields_of(ctx.dataset) if field.startswith("look_") else {}
    return field in fields and str(ctx.params.get("value")) == fields[field]


def fields_of(dataset):
    """The panel's state of the bar's own fields, for a panel that begins again: ``{field: value}``."""
    now = state_of(dataset)
    names = {"look_ramp": "ramp", "look_opacity": "opacity", "look_hidden": "hide_below"}
    return {field: str(now[name]) for field, name in names.items()}


def draw(panel, handlers, state):
    """Adds the bar to a panel.

    Args:
        panel: a ``types.Object``
        handlers: a panel that is a :class:`LookBar`
        state: of :func:`state_of`; nothing is drawn of None
    """
    if not state:
        return
    menu = layout.row(panel, "look_menu")
    ramps = {**_RAMPS, **({look.OWN: "My own colours"} if state["own"] else {})}
    _choice(menu, "look_ramp", ramps, state["ramp"], handlers.on_look_ramp)
    if state["ramp"] == look.OWN:
        return
    opaque = {n: f"{n} % opaque" for n in sorted({*_OPACITIES, state["opacity"]})}
    _choice(menu, "look_opacity", opaque, state["opacity"], handlers.on_look_opacity)
    if state["ramp"] != FADE:
        hidden = {n: _hidden_text(n) for n in sorted({*_HIDDEN, state["hide_below"]})}
        _choice(menu, "look_hidden", hidden, state["hide_below"], handlers.on_look_hidden)
    panel.img("look_scale", height="22px", alt_text="the colours of heat, from none to the hottest")


def _hidden_text(share):
    return f"hide below {share} %" if share else "hide nothing"


def _choice(menu, name, choices, value, on_change):
    """A list; the App shows no label of it in a menu, so every choice says what it is of."""
    view = types.DropdownView(componentsProps=layout.FREE)
    for key, text in choices.items():
        view.add_choice(str(key), label=text)
    menu.enum(name, view.values(), default=str(value), view=view, on_change=on_change)


class LookBar:
    """The handlers of the bar, for a panel to inherit."""

    def on_look_ramp(self, ctx):
        """Another ramp was chosen, or the user's own colours."""
        ramp = ctx.params.get("value")
        if ramp == look.OWN:
            self._change(ctx, look.put_back)
        else:
            self._change(ctx, look.set_look, ramp=ramp)

    def on_look_opacity(self, ctx):
        """Another opacity was chosen."""
        self._change(ctx, look.set_look, opacity=int(ctx.params["value"]) / 100)

    def on_look_hidden(self, ctx):
        """Another share of the heat is to be hidden."""
        self._change(ctx, look.set_look, hide_below=int(ctx.params["value"]) / 100)

    def _change(self, ctx, change, **values):
        """Changes the look and shows it; an event that says what is so already does nothing."""
        # the App sends each choice twice, and two changes of its colours at once leave photos that it cannot draw
        with _CHANGING:
            before, hidden = state_of(ctx.dataset), look.hidden_of(ctx.dataset)
            change(ctx.dataset, **values)
            now = state_of(ctx.dataset)
            if now == before:
                return
            if look.hidden_of(ctx.dataset) != hidden:
                ctx.ops.reload_dataset()
            if {**now, "hide_below": None} != {**before, "hide_below": None}:
                look.send(ctx, whole=True)
        _keep(ctx, now)
        self.on_look_changed(ctx)

    def on_look_changed(self, ctx):
        """For a panel that draws heat itself: it draws it again."""
