"""*Explain this sample* in the panel: its maps, other backgrounds and peers, drawn where they are asked for."""

from ..data.drawn import data_uri, overlaid
from ..text import in_markdown, lines_in_markdown, number
from . import cards, drawing
from .held import Held

#: shown in this order, each beside what it explains
_TITLES = ("the prediction", "{beside}", "for the prediction", "against it")
#: pictures of the other backgrounds that are shown
_MOST = 8
#: samples of which it is kept
HELD = 12
_HELD = Held(HELD)


def results_of(found, cam_key, model, look):
    """What the panel is sent of an ``Explained``: plain values, pictures as ``data:`` URIs.

    Args:
        found: the :class:`~operators.sample.summary.Explained`
        cam_key: the CAM run that it was explained with, or None
        model: the name of another model, or None
        look: the dataset's look

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
        maps.append((_small(overlaid(found.photo, heat, look)), text))
    swaps = [
        (_small(drawing.image(swap["picture"])), _said(swap, found)) for swap in found.swaps[:_MOST]
    ]
    return {
        "sample_id": found.id, "prediction": found.prediction, "probability": found.probability,
        "kept": sum(_kept(swap, found) for swap in found.swaps), "tried": len(found.swaps),
        "heat": found.heat, "uniform": found.uniform,
        "lines": found.lines()[1:], "maps": maps, "swaps": swaps,
        "no_peers": found.no_peers, "cam_key": cam_key, "model": model,
    }  # fmt: skip


def _said(swap, found):
    """What the model says of the object on another background."""
    text = f"{in_markdown(swap['prediction'])} {number(swap['probability'])}"
    return text if _kept(swap, found) else f"**changed:** {text}"


def _kept(swap, found):
    return swap["prediction"] == found.prediction


def _small(picture):
    small = picture.copy()
    small.thumbnail((drawing.SMALL, drawing.SMALL))
    return data_uri(small)


def hold(found, cam_key, model, look):
    """Keeps what was found; returns what ``explain_sample`` answers to the panel: its name, and the model.

    Args:
        found: the :class:`~operators.sample.summary.Explained`
        cam_key: the CAM run that it was explained with, or None
        model: the name of another model, or None
        look: the dataset's look
    """
    return {"held": _HELD.put(results_of(found, cam_key, model, look)), "model": model}


def of_sample(names, sample_id, cam_key, model):
    """What was found of a sample last with one model; None if nothing is held.

    Args:
        names: under which things are held
        sample_id: the sample
        cam_key: the run on show, or None
        model: the name of another model that is asked instead of the run's, or None

    Returns:
        a dict of :func:`results_of`
    """
    found = [_HELD.get(name) for name in names or []]
    mine = [one for one in found if one is not None and one["sample_id"] == sample_id]
    if model:
        return next((one for one in mine if one["model"] == model), None)
    return next((one for one in mine if not one["model"] and one["cam_key"] == cam_key), None)


def draw(panel, handlers, shown):
    """Draws the page."""
    found = shown["found"]
    if found is None:
        slow = (
            "" if shown["model_held"] else " Loading the model takes some seconds the first time."
        )
        panel.md(
            "Asks the model about this photo: where it looked for its prediction and for the second or true "
            f"class, what tells the two apart, and what it says of the object on other backgrounds.{slow}",
            name="explain_about",
        )
    menu = panel.menu("explain_menu", **cards.MENU)
    if shown["model_from"]:
        menu.btn(
            "explain", label="Explain this sample", icon="psychology_alt", variant="contained",
            on_click=handlers.on_explain, title="With the model of the run, or the one named last",
        )  # fmt: skip
    menu.btn(
        "other", label="With another model", icon="tune", variant="outlined",
        on_click=handlers.on_explain_other, title="Choose a model, and how many backgrounds",
    )  # fmt: skip
    if found is None:
        return
    cards.row(panel, "explained_maps", found["maps"])
    if found["swaps"]:
        panel.md("**The object on other backgrounds**", name="swaps_head")
        cards.row(panel, "explained_swaps", found["swaps"])
    panel.md(lines_in_markdown("\n".join(found["lines"])), name="explained_lines")
    if found["no_peers"]:
        panel.md(in_markdown(found["no_peers"]), name="no_peers_text")
    elif found["cam_key"]:
        panel.menu("peers_menu", **cards.MENU).btn(
            "peers", label="Show peers in the grid", icon="groups", variant="outlined",
            on_click=handlers.on_peers,
            title="Samples of this class that the model predicts right, the most alike first",
        )  # fmt: skip
