"""The form of *Explain this sample*, and how its findings are shown."""

import fiftyone.operators.types as types

from . import _runs
from ._explain_one import usable_runs
from ._form_model import add_model, given_model
from ._panel_clusters import data_uri, overlaid

_URI = "@cam51/heatmaps"
_OTHER = "another model"
_TILE, _TEXT = 168, 40


def form(ctx):
    """Which run's model; another model where there is no run."""
    inputs = types.Object()
    _runs.refresh(ctx.dataset)
    keys = usable_runs(ctx.dataset)
    if sample_of(ctx) is None:
        prop = inputs.view(
            "no_sample",
            types.Error(label="No sample is open", description="open or select one sample"),
        )
        prop.invalid = True
        prop.error_message = "no sample is open or selected"
    choices = types.DropdownView()
    for key in keys:
        model = _runs.config_of(ctx.dataset, key).settings.get("model")
        choices.add_choice(key, label=f"{key}  ({model})")
    choices.add_choice(_OTHER, label="Another model")
    default = keys[0] if keys else _OTHER
    inputs.enum(
        "cam_key", choices.values(), default=default, required=True, label="Explain with",
        description="the model, method and findings of a CAM run", view=choices,
    )  # fmt: skip
    if (ctx.params.get("cam_key") or default) == _OTHER:
        add_model(inputs, ctx)
    inputs.int(
        "donors", default=4, min=0, max=16, label="Other backgrounds",
        description="on how many other samples' backgrounds the object is tried; 0 for none",
    )  # fmt: skip
    return types.Property(inputs, view=types.View(label="Explain this sample"))


def sample_of(ctx):
    """The id of the open sample, else of the one that is selected."""
    return ctx.current_sample or next(iter(ctx.selected or []), None)


def arguments_of(ctx):
    """The form's parameters as arguments of ``explain_sample``.

    Raises:
        ValueError: if no sample is open or selected
    """
    sample_id = ctx.params.get("sample_id") or sample_of(ctx)
    if not sample_id:
        raise ValueError("sample: none is open or selected; open one, or select it in the grid")
    given = {"sample_id": sample_id, "donors": int(ctx.params.get("donors", 4))}
    if ctx.params.get("cam_key") not in (None, "", _OTHER):
        return {**given, "cam_key": ctx.params["cam_key"]}
    return {**given, **given_model(ctx.params)}


def results_of(found, cam_key, model):
    """What the App is sent: text and pictures.

    Args:
        found: an ``Explained``
        cam_key: the CAM run that it was explained with, or None
        model: the name of another model, or None
    """
    return {
        "sentence": found.sentence,
        "notes": "\n\n".join(found.notes),
        "heatmaps": heatmaps_of(found),
        "composites": composites_of(found) if found.swaps else None,
        "fields": ", ".join(found.fields),
        "sample_id": found.id,
        "cam_key": cam_key,
        "model": model,
    }


def composites_of(found):
    """The object on other backgrounds, each with its prediction below, as a ``data:`` URI."""
    from PIL import Image

    return sheet(
        [
            (Image.fromarray(s["picture"]), s["prediction"], f"{s['score']:.2f}",
             s["prediction"] != found.prediction)
            for s in found.swaps
        ]
    )  # fmt: skip


def heatmaps_of(found):
    """The sample under each of its new heatmaps, as a ``data:`` URI."""
    beside = "true class" if found.other_is_true else "second class"
    notes = ("predicted class", beside, "contrast for", "contrast against")
    tiles = []
    for label, note in zip(found.labels.values(), notes, strict=True):
        heat = None if label.map is None else label.map / 255
        shown = note if label.status == "ok" else f"{note}: no heat"
        tiles.append((overlaid(found.photo, heat), str(label.target), shown, False))
    return sheet(tiles)


def sheet(tiles):
    """Pictures side by side with two lines of text below each.

    Args:
        tiles: a list of (PIL image, first line, second line, whether it stands out)

    Returns:
        a ``data:`` URI
    """
    from PIL import Image, ImageDraw, ImageFont

    gap = 8
    page = Image.new("RGB", (len(tiles) * (_TILE + gap) - gap, _TILE + _TEXT), (38, 38, 38))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for i, (image, *lines, strong) in enumerate(tiles):
        picture = image.copy()
        picture.thumbnail((_TILE, _TILE))
        left = i * (_TILE + gap)
        page.paste(picture, (left + (_TILE - picture.width) // 2, (_TILE - picture.height) // 2))
        colour = (255, 150, 60) if strong else (200, 200, 200)
        for number, text in enumerate(lines):
            place = (left + 2, _TILE + 3 + 17 * number)
            draw.text(place, _cut(text, draw, font), colour, font)
    return data_uri(page)


def _cut(text, draw, font):
    """A text that fits below a tile."""
    if draw.textlength(text, font) <= _TILE - 4:
        return text
    while text and draw.textlength(f"{text}...", font) > _TILE - 4:
        text = text[:-1]
    return f"{text}..."


def output(ctx):
    """What is shown when it is done."""
    results = ctx.results or {}
    outputs = types.Object()
    outputs.md(f"**{results.get('sentence', '')}**", name="said")
    if results.get("heatmaps"):
        outputs.img("heatmaps", width="100%", alt_text="heatmaps of this sample")
    if results.get("composites"):
        outputs.md(
            "On other backgrounds; orange where the prediction changes:", name="composites_head"
        )
        outputs.img("composites", width="100%", alt_text="the object on other backgrounds")
    if results.get("notes"):
        outputs.md(results["notes"], name="notes_text")
    outputs.md(f"Written: {results.get('fields', '')}", name="fields_text")
    params = {k: results.get(k) for k in ("sample_id", "cam_key", "model") if results.get(k)}
    if params.get("cam_key"):
        outputs.btn(
            "peers",
            label="Show peers",
            icon="groups",
            variant="contained",
            on_click=f"{_URI}/show_peers",
            params=params,
        )
    return types.Property(outputs, view=types.View(label="This sample explained"))
