"""What if: a region of the photo is replaced and the model asked, old score beside new."""

import collections
import threading
import uuid

import fiftyone.operators.types as types

from ..bias.regions import A_BOX
from ..compute.recorded_model import GivenModel
from ..runs import record
from ..sample import evidence, explain
from ..sample import trial as trials
from ..text import in_markdown, number, percent
from . import cards, drawing
from .stored import heat_of_sample, objects_on

_BOX = "box"
#: trials that are listed, the newest first; and those that can still be stored
LISTED, _HELD = 6, 48
_TRIALS, _LOCK = collections.OrderedDict(), threading.Lock()


def hold(trial):
    """Keeps a trial in this process, so that it can be stored later; returns its name."""
    name = uuid.uuid4().hex
    with _LOCK:
        _TRIALS[name] = trial
        while len(_TRIALS) > _HELD:
            _TRIALS.popitem(last=False)
    return name


def held(name):
    """The trial of a name, or None if it was let go."""
    with _LOCK:
        return _TRIALS.get(name)


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


def region_of(state):
    """The region that is chosen, as ``trial.ask`` takes it, and in words.

    Raises:
        ValueError: if the numbers of a box are none
    """
    value = state.get("region") or "hottest"
    if value in trials.REGIONS:
        return value, trials.REGIONS[value]
    if value == _BOX:
        return _numbers(state.get("box") or ""), "the box"
    chosen = next((c for c in state.get("regions") or [] if c["value"] == value), None)
    if chosen is None:
        raise ValueError("region: this box is not on the sample any more; choose another")
    return chosen["box"], chosen["label"]


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


def asked(dataset, sample_id, named, state):
    """Asks the model what was chosen.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        sample_id: the open sample
        named: ``cam_key`` and ``model`` as ``explain_sample`` takes them
        state: the panel's state

    Returns:
        (row, trial): what the state keeps, and the :class:`~operators.sample.trial.Trial`

    Raises:
        ValueError: if the region, the picture or the model does not do
    """
    region, words = region_of(state)
    cam_key = named.get("cam_key")
    model = explain.load(dataset, cam_key, GivenModel(named.get("model")))
    heat = heat_of_sample(dataset, sample_id, state.get("shown"))
    before = sum(t["sample_id"] == sample_id for t in state.get("trials") or [])
    trial = trials.ask(
        dataset, sample_id, model, cam_key, region, state.get("fill") or "other", heat,
        # of another photo the next one each time
        seed=51 + before,
    )  # fmt: skip
    return row_of(trial, words), trial


def keep(dataset, row, named):
    """Stores a trial as evidence on its sample; raises a ValueError where it was let go."""
    trial = held((row or {}).get("name"))
    if trial is None:
        raise ValueError("this trial is not in memory any more; ask again, then store it")
    used = named.get("model") or record.config_of(dataset, named["cam_key"]).settings.get("model")
    evidence.keep(dataset, trial, row["words"], trials.FILLS[trial.fill], used)


def row_of(trial, words):
    """What the panel's state keeps of a trial.

    Args:
        trial: the :class:`~operators.sample.trial.Trial`
        words: the region in words
    """
    return {
        "name": hold(trial), "sample_id": trial.id, "region": trial.region, "words": words,
        "fill": trial.fill, "text": text_of(trial, words), "stored": False,
    }  # fmt: skip


def text_of(trial, words):
    """A trial in a few lines of Markdown."""
    lines = [
        f"**{in_markdown(trial.target)} {number(trial.old)} → {number(trial.new)}**",
        f"{in_markdown(words)}, {percent(trial.share)} of the picture, by {trials.FILLS[trial.fill]}"
        + (f" ({in_markdown(trial.donor)})" if trial.donor else ""),
        _control(trial),
        f"before: {_classes(trial.before)}",
        f"after: {_classes(trial.after)}",
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


def prompt_of(row, cam_key):
    """The parameters of ``test_region`` that ask the same of all samples.

    Args:
        row: of :func:`row_of`
        cam_key: the run's key, or None

    Returns:
        a dict; None for a region that ``test_region`` does not know
    """
    region = row["region"]
    run = {"cam_key": cam_key} if cam_key else {}
    if region in ("hottest", "border"):
        return {**run, "region": region}
    if isinstance(region, str):
        return None
    return {**run, "region": A_BOX, "box": ", ".join(f"{value:.3g}" for value in region)}


def data(row, trial):
    """The picture of a trial, for the panel's data."""
    return {f"trial_{row['name']}.picture": drawing.trial_picture(trial.picture, trial.mask)}


def draw(panel, handlers, state):
    """Draws the page."""
    if not state.get("model_from"):
        panel.md(
            "The model of this run has to be loaded to be asked; use *Explain: With another model* to name one.",
            name="what_if_no_model",
        )
        return
    regions = types.DropdownView(label="Replace")
    for choice in state.get("regions") or []:
        regions.add_choice(choice["value"], label=in_markdown(choice["label"]))
    fills = types.DropdownView(label="by")
    for name, text in trials.FILLS.items():
        fills.add_choice(name, label=text)
    menu = panel.menu("what_if_menu", gap=2, align_y="center")
    menu.enum(
        "region", regions.values(), default=state.get("region") or "hottest", view=regions,
        on_change=handlers.on_region,
    )  # fmt: skip
    menu.enum(
        "fill", fills.values(), default=state.get("fill") or "other", view=fills,
        on_change=handlers.on_fill,
    )  # fmt: skip
    menu.btn("ask", label="Ask", icon="help", variant="contained", on_click=handlers.on_ask)
    if state.get("region") == _BOX:
        panel.str(
            "box", label="Box: left, top, width, height as shares of the image",
            default=state.get("box") or "", view=types.TextFieldView(), on_change=handlers.on_box,
        )  # fmt: skip
    own = [t for t in state.get("trials") or [] if t["sample_id"] == state["sample_id"]]
    if not own:
        panel.md(
            "The model is asked about the photo as it is and with the region replaced, and with the same at "
            "four random places as a control. Boxes that you draw with the App's *Annotate* are listed here "
            "once this page is opened again.",
            name="what_if_about",
        )
    for row in own:
        _draw_trial(panel, handlers, state, row)


def _draw_trial(panel, handlers, state, row):
    name = f"trial_{row['name']}"
    line = panel.grid(name, gap=2, componentsProps={"grid": {"sx": cards.BESIDE}})
    line.img("picture", width="100%", alt_text="the photo that the model was asked about")
    side = types.Object()
    side.md(row["text"], name="text")
    buttons = side.menu("buttons", gap=1)
    buttons.btn(
        "keep", label="Stored" if row["stored"] else "Store as evidence", icon="bookmark_add",
        variant="outlined", disabled=row["stored"], on_click=handlers.on_keep,
        params={"name": row["name"]}, title="As a label of the field explain_evidence on this sample",
    )  # fmt: skip
    if prompt_of(row, state.get("key")) is not None:
        buttons.btn(
            "all", label="Test on all samples", icon="crop_free", variant="outlined",
            on_click=handlers.on_test_all, params={"name": row["name"]},
            title="Opens Test a region with this region",
        )  # fmt: skip
    line.define_property("side", side, view=types.GridView(orientation="vertical", gap=1))
