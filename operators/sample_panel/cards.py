"""Pictures side by side, each with its text below, as many in a row as the panel has room for."""

import fiftyone.operators.types as types

#: of every menu: as wide as its parts are, and what has no room goes on in the next line
MENU = {
    "orientation": "2d", "gap": 1, "align_y": "center",
    "componentsProps": {"grid": {"sx": {"&& > *": {"width": "auto", "maxWidth": "100%"}}}},
}  # fmt: skip
# two beside each other in a panel of 360 pixels
_ROW = {
    "display": "flex", "flexWrap": "wrap", "gap": "12px",
    "& > *": {"flex": "1 1 150px", "minWidth": 0, "maxWidth": "260px"},
}  # fmt: skip
# the text beside the picture, below it where the panel is narrow
_BESIDE = {
    "display": "flex", "flexWrap": "wrap", "gap": "12px",
    "& > *": {"flex": "1 1 200px", "minWidth": 0, "maxWidth": "520px"},
    "& > *:first-of-type": {"maxWidth": "260px"},
}  # fmt: skip


def row(panel, name, cards, on_click=None, params=None):
    """Adds a row of cards.

    A picture is part of the drawing, not of the panel's data: the App sends that along with every event
    once a field of the panel was touched.

    Args:
        panel: where to add it
        name: of the row
        cards: list of (picture as a ``data:`` URI, text in Markdown)
        on_click (None): a handler of clicks on a picture
        params (None): of each card what the handler is given
    """
    grid = panel.grid(name, gap=2, componentsProps={"grid": {"sx": _ROW}})
    for i, (picture, text) in enumerate(cards):
        card = types.Object()
        options = {"on_click": on_click, "params": params[i]} if on_click else {}
        image(card, "picture", picture, _plain(text), **options)
        card.md(text, name="text")
        grid.define_property(f"card_{i}", card, view=types.GridView(orientation="vertical", gap=0))


def beside(panel, name, picture, alt, side):
    """Adds a picture with an object of further properties beside it."""
    line = panel.grid(name, gap=2, componentsProps={"grid": {"sx": _BESIDE}})
    image(line, "picture", picture, alt)
    line.define_property("side", side, view=types.GridView(orientation="vertical", gap=1))


def image(panel, name, picture, alt, on_click=None, **options):
    """Adds a picture as wide as there is room."""
    view = types.ImageView(width="100%", alt=alt, operator=on_click, **options)
    panel.str(name, default=picture, view=view)


def _plain(text):
    return text.replace("*", "").replace("  \n", ", ")
