"""What if: a region of the photo is replaced and the model asked, old score beside new."""

import fiftyone.operators.types as types

from ..bias.regions import A_BOX
from ..compute.recorded_model import GivenModel
from ..sample import evidence, explain
from ..sample import trial as trials
from ..text import in_markdown, number, percent
from . import cards, drawing
from .held import Held
from .stored import heat_of_sample, objects_on

_BOX = "box"
#: what of the panel's state says what is asked
FIELDS = ("region", "fill", "box")
#: trials that are listed, the newest first
LISTED = 6
_HELD = Held(48)


def with_fields(state):
    """The panel's state with what its fields hold now: ``region``, ``fill`` and ``box``."""
    menu = state.get("what_if_menu") or {}
    now = {"region": menu.get("replace"), "fill": menu.get("by"), "box": state.get("numbers")}
    return {**state, **{name: now[name] or state.get(name) for name in FIELDS}}


def choices_of(dataset, sample_id):
    """What can be replaced on a sample: ``[{"value", "label", "box", "field"}]``."""
    plain = [
        {"value": name, "label": text.capitalize(), "box": None, "field": None}
        for name, text in trials.REGIONS.items()
    ]
    boxes = [
        {"value": label_id, "label": f"box {i}: {name} ({field})", "box": box, "field": field}
        for i, (label_id, field, name, box) in enumerate(objects_on(dataset, sample_id), 1)
    ]
    typed = {"value": _BOX, "label": "A box of four numbers", "box": None, "field": None}
    return [*plain, *boxes, typed]


def region_of(chosen, choices):
    """The region that is chosen, as ``trial.ask`` takes it, and in words.

    Args:
        chosen: the panel's state
        choices: of :func:`choices_of`

    Raises:
        ValueError: if the numbers of a box are none
    """
    value = chosen.get("region") or "hottest"
    if value in trials.REGIONS:
        return value, trials.REGIONS[value]
    if value == _BOX:
        return _numbers(chosen.get("box") or ""), "the box"
    own = next((choice for choice in choices if choice["value"] == value), None)
    if own is None:
        raise ValueError("region: that box is of another sample; choose a region of this one")
    return own["box"], own["label"]


def _numbers(text):
    try:
        box = [float(part) for part in text.replace(";", ",").split(",")]
    except ValueError:
        box = []
    if len(box) != 4:
        raise ValueError(
            "region: a box is four numbers, left, top, width, height as shares of the image, such as "
            f"0.1, 0.2, 0.3, 0.3, got {text!r}"
        )
    return box


def asked(dataset, sample_id, named, field, chosen):
    """Asks the model what was chosen.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        sample_id: the open sample
        named: ``cam_key`` and ``model`` as ``explain_sample`` takes them
        field: the heatmap field whose hottest place is meant
        chosen: the panel's state

    Returns:
        the name under which the trial is held

    Raises:
        ValueError: if the region, the picture or the model does not do
    """
    region, words = region_of(chosen, choices_of(dataset, sample_id))
    cam_key = named.get("cam_key")
    model = explain.load(dataset, cam_key, GivenModel(named.get("model")))
    # of other photos the next one each time
    seed = 51 + len(of_sample(chosen.get("trials"), sample_id))
    trial = trials.ask(
        dataset, sample_id, model, cam_key, region, chosen.get("fill") or "other",
        heat_of_sample(dataset, sample_id, field), seed,
    )  # fmt: skip
    held = {"trial": trial, "words": words, "model": model.name, "cam_key": cam_key}
    return _HELD.put({**held, "stored": False})


def of_sample(names, sample_id):
    """The trials of a sample that are held: ``[(name, dict)]``, the newest first."""
    found = [(name, _HELD.get(name)) for name in names or []]
    return [(n, one) for n, one in found if one is not None and one["trial"].id == sample_id]


def keep(dataset, name):
    """Stores a trial as evidence on its sample; raises a ValueError where it was let go."""
    one = _HELD.get(name)
    if one is None:
        raise ValueError("this trial is not in memory any more; ask again, then store it")
    evidence.keep(
        dataset, one["trial"], one["words"], trials.FILLS[one["trial"].fill], one["model"]
    )
    one["stored"] = True


def text_of(trial, words, whose):
    """A trial in a few lines of Markdown; ``whose``: the run or the model that was asked."""
    lines = [
        f"**{in_markdown(trial.target)} {number(trial.old)} → {number(trial.new)}**",
        f"{in_markdown(words)}, {percent(trial.share)} of the picture, by {trials.FILLS[trial.fill]}"
        + (f" ({in_markdown(trial.donor)})" if trial.donor else ""),
        _control(trial),
        f"before: {_classes(trial.before)}",
        f"after: {_classes(trial.after)}",
        f"asked: {in_markdown(whose)}",
    ]
    return "  \n".join(lines)


def _control(trial):
    if not trial.controls:
        return "no control: there is no other place of this size"
    mean = sum(trial.controls) / len(trial.controls)
    span = f"{number(min(trial.controls))} to {number(max(trial.controls))}"
    return f"control, {len(trial.controls)} random places: {number(mean)} ({span})"


def _classes(rows):
    return ", ".join(f"{in_markdown(name)} {number(score)}" for name, score in rows)


def prompt_of(name):
    """The parameters of ``test_region`` that ask the same of all samples, with the run of the trial.

    Args:
        name: of the trial

    Returns:
        a dict; None for a region that ``test_region`` does not know, or a trial that was let go
    """
    one = _HELD.get(name)
    return None if one is None else _prompt_of(one["trial"].region, one["cam_key"])


def _prompt_of(region, cam_key):
    run = {"cam_key": cam_key} if cam_key else {}
    if region in ("hottest", "border"):
        return {**run, "region": region}
    if isinstance(region, str):
        return None
    return {**run, "region": A_BOX, "box": ", ".join(f"{value:.3g}" for value in region)}


def draw(panel, handlers, shown):
    """Draws the page."""
    if not shown["model_from"]:
        panel.md(
            "*Explain*, then *With another model* names a model; it is asked here too.",
            name="what_if_no_model",
        )
        return
    regions, fills = types.DropdownView(label="Replace"), types.DropdownView(label="by")
    for choice in shown["regions"]:
        regions.add_choice(choice["value"], label=choice["label"])
    for name, text in trials.FILLS.items():
        fills.add_choice(name, label=text)
    menu = panel.menu("what_if_menu", **cards.MENU)
    menu.enum(
        "replace", regions.values(), default=shown.get("region") or "hottest", view=regions,
        on_change=handlers.on_region,
    )  # fmt: skip
    menu.enum(
        "by", fills.values(), default=shown.get("fill") or "other", view=fills,
        on_change=handlers.on_fill,
    )  # fmt: skip
    menu.btn("ask", label="Ask", icon="help", variant="contained", on_click=handlers.on_ask)
    if shown.get("region") == _BOX:
        panel.str(
            "numbers", label="Box: left, top, width, height as shares of the image",
            default=shown.get("box") or "", view=types.TextFieldView(), on_change=handlers.on_box,
        )  # fmt: skip
    own = of_sample(shown.get("trials"), shown["sample_id"])
    if not own:
        panel.md(
            "The model is asked about the photo as it is, with the region replaced, and with the same at four "
            "random places as a control. A box that you draw with the App's *Annotate* is listed here when "
            "you come back from another page.",
            name="what_if_about",
        )
    for name, one in own:
        _draw_trial(panel, handlers, name, one)


def _draw_trial(panel, handlers, name, one):
    trial, side = one["trial"], types.Object()
    whose = f"the model of the run {one['cam_key']}" if one["cam_key"] else one["model"]
    side.md(text_of(trial, one["words"], whose), name="text")
    buttons = side.menu("buttons", **cards.MENU)
    buttons.btn(
        "keep", label="Stored" if one["stored"] else "Store as evidence", icon="bookmark_add",
        variant="outlined", disabled=one["stored"], on_click=handlers.on_keep, params={"name": name},
        title="As a label of the field explain_evidence on this sample",
    )  # fmt: skip
    if _prompt_of(trial.region, None) is not None:
        buttons.btn(
            "all", label="Test on all samples", icon="crop_free", variant="outlined",
            on_click=handlers.on_test_all, params={"name": name},
            title="Opens Test a region of the images with this region",
        )  # fmt: skip
    picture = drawing.trial_picture(trial.picture, trial.mask)
    cards.beside(panel, f"trial_{name}", picture, "the photo that the model was asked about", side)
