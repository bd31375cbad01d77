"""*Explain this sample* in the panel: its maps, other backgrounds and peers, drawn where they are asked for."""

from ..data.drawn import data_uri, overlaid
from ..text import in_markdown, lines_in_markdown, number
from . import cards, drawing

#: shown in this order, each beside what it explains
_TITLES = ("the prediction", "{beside}", "for the prediction", "against it")
#: pictures of the other backgrounds that are shown
_MOST = 8


def results_of(found, cam_key, model):
    """What the panel is sent of an ``Explained``: plain values, pictures as ``data:`` URIs.

    Args:
        found: the :class:`~operators.sample.summary.Explained`
        cam_key: the CAM run that it was explained with, or None
        model: the name of another model, or None

    Returns:
        a dict
    """
    wrong = found.missed if found.several else found.right is False
    beside = "the true class" if wrong else "the second class"
    maps = []
    for label, title in zip(found.labels.values(), _TITLES, strict=True):
        heat = None if label.map is None else label.map / 255
        text = f"**{title.format(beside=beside)}**  \n{in_markdown(label.target)}"
        if label.status != "ok":
            text += f"  \nno heat: the map is {label.status}"
        maps.append({"picture": _small(overlaid(found.photo, heat)), "text": text})
    swaps = [
        {
            "picture": _small(drawing.image(swap["picture"])),
            "text": f"{'' if _kept(swap, found) else '**changed:** '}"
            f"{in_markdown(swap['prediction'])} {number(swap['score'])}",
        }
        for swap in found.swaps[:_MOST]
    ]
    return {
        "sample_id": found.id, "prediction": found.prediction, "score": found.score,
        "kept": sum(_kept(swap, found) for swap in found.swaps), "tried": len(found.swaps),
        "heat": found.heat, "uniform": found.uniform,
        "lines": found.lines()[1:], "maps": maps, "swaps": swaps,
        "no_peers": found.no_peers, "cam_key": cam_key, "model": model,
    }  # fmt: skip


def _kept(swap, found):
    return swap["prediction"] == found.prediction


def _small(picture):
    small = picture.copy()
    small.thumbnail((drawing.SMALL, drawing.SMALL))
    return data_uri(small)


def split(results):
    """What of the results is the panel's state, and what its data.

    Args:
        results: of :func:`results_of`

    Returns:
        (state, data)
    """
    state = {**results, "maps": None, "swaps": None}
    data = {}
    for row in ("maps", "swaps"):
        state[row] = [card["text"] for card in results[row]]
        data |= cards.data(f"explained_{row}", [card["picture"] for card in results[row]])
    return state, data


def draw(panel, handlers, state):
    """Draws the page."""
    found = state.get("explained") or {}
    if found.get("sample_id") != state["sample_id"]:
        panel.md(
            "Tries the model on this photo: where it looked for its prediction and for the second or true class, "
            "what tells the two apart, and what it says of the object on other backgrounds. "
            f"{_first_time(state)}",
            name="explain_about",
        )
    menu = panel.menu("explain_menu", gap=2)
    if state.get("model_from"):
        menu.btn(
            "explain", label="Explain this sample", icon="psychology_alt", variant="contained",
            on_click=handlers.on_explain, title="With the model of the run on show",
        )  # fmt: skip
    menu.btn(
        "other", label="With another model", icon="tune", variant="outlined",
        on_click=handlers.on_explain_other, title="Choose a model, and how many backgrounds",
    )  # fmt: skip
    if found.get("sample_id") != state["sample_id"]:
        return
    cards.row(panel, "explained_maps", found["maps"])
    if found["swaps"]:
        panel.md("**The object on other backgrounds**", name="explained_swaps_head")
        cards.row(panel, "explained_swaps", found["swaps"])
    panel.md(lines_in_markdown("\n".join(found["lines"])), name="explained_lines")
    if found.get("no_peers"):
        panel.md(in_markdown(found["no_peers"]), name="explained_no_peers")
    elif found.get("cam_key"):
        panel.menu("peers_menu").btn(
            "peers", label="Show peers in the grid", icon="groups", variant="outlined",
            on_click=handlers.on_peers,
            title="Samples of this class that the model predicts right, the most alike first",
        )  # fmt: skip


def _first_time(state):
    return (
        ""
        if state.get("model_held")
        else "The first time the model is loaded, which takes some seconds."
    )
