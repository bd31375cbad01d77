"""Pictures side by side, each with its text below, as many in a row as the panel has room for."""

import fiftyone.operators.types as types

#: least width of a card in pixels: two fit into a panel of 360
_LEAST = 140
_ROW = {
    "display": "grid", "gap": "12px", "alignItems": "start",
    "gridTemplateColumns": f"repeat(auto-fill, minmax({_LEAST}px, 1fr))",
}  # fmt: skip

#: a picture with its text beside it, below it where the panel is narrow
BESIDE = {
    "display": "grid", "gap": "12px", "alignItems": "start",
    "gridTemplateColumns": "repeat(auto-fit, minmax(200px, 1fr))",
}  # fmt: skip


def row(panel, name, texts, on_click=None, params=None):
    """Adds a row of cards.

    Args:
        panel: where to add it
        name: of the row; its pictures are the panel's data, see :func:`data`
        texts: of each card, in Markdown
        on_click (None): a handler of clicks on a picture
        params (None): of each card what the handler is given
    """
    grid = panel.grid(name, gap=2, componentsProps={"grid": {"sx": _ROW}})
    for i, text in enumerate(texts):
        card = types.Object()
        options = {"on_click": on_click, "params": params[i]} if on_click else {}
        card.img("picture", width="100%", alt_text=_plain(text), **options)
        card.md(text, name="text")
        grid.define_property(f"card_{i}", card, view=types.GridView(orientation="vertical", gap=0))


def data(name, pictures):
    """The panel's data of a row: ``{path: data URI}``."""
    return {f"{name}.card_{i}.picture": picture for i, picture in enumerate(pictures)}


def _plain(text):
    return text.replace("*", "").replace("  \n", ", ")
