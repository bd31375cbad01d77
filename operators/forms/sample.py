"""The form of *Explain this sample*, and how its findings are shown."""

import fiftyone.operators.types as types

from ..data.drawn import data_uri, overlaid, with_scale
from ..data.samples import check_images
from ..jobs import params as tables
from ..runs import record
from ..sample.explain import usable_runs, warm_up
from ..sample.params import PARAMS
from ..text import escape_labels, in_markdown, lines_in_markdown
from .model import add_model, given_model
from .schema import add, choose, invalid, refused, titled

_URI = "@cam51/heatmaps"
_OTHER = "another model"
_PAPER, _INK = (38, 38, 38), {False: (200, 200, 200), True: (255, 150, 60)}
#: a sheet's tiles in pixels, a row of which is as wide as the dialog
_TILE, _GAP, _COLUMNS, _LINE = 159, 8, 4, 17


def form(ctx):
    """Which run's model; another model where there is no run."""
    try:
        check_images(ctx.dataset)
    except ValueError as error:
        return refused("Explain this sample", str(error))
    warm_up()
    inputs = types.Object()
    record.refresh(ctx.dataset)
    keys = usable_runs(ctx.dataset)
    if sample_of(ctx) is None:
        prop = inputs.view(
            "no_sample",
            types.Error(label="No sample is open", description="Open or select one sample"),
        )
        invalid(prop, "no sample is open or selected")
    models = [record.config_of(ctx.dataset, key).settings.get("model") for key in keys]
    runs = {key: f"{key}  ({model})" for key, model in zip(keys, models, strict=True)}
    default = keys[0] if keys else _OTHER
    choose(
        inputs, "cam_key", {**runs, _OTHER: "Another model"}, default=default, required=True,
        label="Explain with", description="The model and method of a CAM run",
    )  # fmt: skip
    if (ctx.params.get("cam_key") or default) == _OTHER:
        add_model(inputs, ctx)
    add(inputs, ctx, PARAMS, "donors")
    return escape_labels(titled(inputs, "Explain this sample", "Explain"))


def sample_of(ctx):
    """The id of the sample that a program names, else of the open one, else of the one that is selected."""
    return ctx.params.get("sample_id") or ctx.current_sample or next(iter(ctx.selected or []), None)


def arguments_of(ctx):
    """The form's parameters as arguments of ``explain_sample``.

    Raises:
        ValueError: if no sample is open or selected
    """
    sample_id = sample_of(ctx)
    if not sample_id:
        raise ValueError("sample: none is open or selected; open one, or select it in the grid")
    given = {"sample_id": sample_id, **tables.arguments_of(PARAMS, ctx.params)}
    if ctx.params.get("cam_key") not in (None, "", _OTHER):
        return {**given, "cam_key": ctx.params["cam_key"]}
    return {**given, **given_model(ctx.params)}


def results_of(found, look, cam_key, model):
    """What the App is sent: text and pictures.

    Args:
        found: an ``Explained``
        look: how heat is drawn in its dataset
        cam_key: the CAM run that it was explained with, or None
        model: the name of another model, or None
    """
    return {
        "sentence": found.sentence,
        "notes": "\n".join(found.notes),
        "heatmaps": heatmaps_of(found, look),
        "composites": composites_of(found) if found.swaps else None,
        "fields": ", ".join(found.fields),
        "no_peers": found.no_peers,
        "sample_id": found.id,
        "cam_key": cam_key,
        "model": model,
    }


def composites_of(found):
    """The object on other backgrounds, each with its prediction below, as a ``data:`` URI."""
    from PIL import Image

    return data_uri(
        sheet(
            [
                (Image.fromarray(s["picture"]), s["prediction"], f"{s['probability']:.2f}",
                 s["prediction"] != found.prediction)
                for s in found.swaps
            ]
        )
    )  # fmt: skip


def heatmaps_of(found, look):
    """The sample under each of its new heatmaps, with their scale, as a ``data:`` URI."""
    wrong = found.missed if found.several else found.right is False
    beside = "true class" if wrong else "second class"
    notes = ("predicted class", beside, "contrast for", "contrast against")
    tiles = []
    for label, note in zip(found.labels.values(), notes, strict=True):
        heat = None if label.map is None else label.map / 255
        shown = note if label.status == "ok" else f"{note}: no heat"
        tiles.append((overlaid(found.photo, heat, look), str(label.target), shown, False))
    return data_uri(with_scale(sheet(tiles), look, _PAPER))


def sheet(tiles):
    """Pictures in rows of four, each with its text below; a long line is broken, not cut.

    Args:
        tiles: a list of (PIL image, first line, second line, whether it stands out)

    Returns:
        a PIL image
    """
    from PIL import Image, ImageFont

    font = ImageFont.load_default(13)
    rows = [tiles[i : i + _COLUMNS] for i in range(0, len(tiles), _COLUMNS)]
    drawn = [_row(row, font) for row in rows]
    height = sum(row.height + _GAP for row in drawn) - _GAP
    page = Image.new("RGB", (_COLUMNS * (_TILE + _GAP) - _GAP, height), _PAPER)
    top = 0
    for row in drawn:
        page.paste(row, (0, top))
        top += row.height + _GAP
    return page


def _row(tiles, font):
    """One row of tiles, as high as its highest picture and its longest text."""
    from PIL import Image, ImageDraw

    pictures = [image.copy() for image, *_ in tiles]
    for picture in pictures:
        picture.thumbnail((_TILE, _TILE))
    texts = [[part for line in lines for part in broken(line, font)] for _, *lines, _ in tiles]
    high = max(picture.height for picture in pictures)
    low = _LINE * max(map(len, texts)) + 6
    row = Image.new("RGB", (_COLUMNS * (_TILE + _GAP) - _GAP, high + low), _PAPER)
    draw = ImageDraw.Draw(row)
    for i, (picture, text, tile) in enumerate(zip(pictures, texts, tiles, strict=True)):
        left = i * (_TILE + _GAP)
        row.paste(picture, (left + (_TILE - picture.width) // 2, (high - picture.height) // 2))
        for number, line in enumerate(text):
            draw.text((left + 2, high + 3 + _LINE * number), line, _INK[tile[-1]], font)
    return row


def broken(text, font, width=_TILE - 4):
    """A text in lines that fit below a tile, broken between words, and within those that are too long."""
    lines, line = [], ""
    for word in text.split():
        joined = f"{line} {word}".lstrip()
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width:
            fits = next(
                n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= width
            )
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    return [*lines, line] if line else lines


def output(ctx):
    """What is shown when it is done."""
    results = ctx.results or {}
    outputs = types.Object()
    outputs.md(f"**{in_markdown(results.get('sentence'))}**", name="said")
    if results.get("heatmaps"):
        outputs.img("heatmaps", width="100%", alt_text="heatmaps of this sample")
    if results.get("composites"):
        outputs.md("On other backgrounds (orange: the prediction changes):", name="composites_head")
        outputs.img("composites", width="100%", alt_text="the object on other backgrounds")
    if results.get("notes"):
        outputs.md(lines_in_markdown(results["notes"]), name="notes_text")
    outputs.md(
        f"Written: {in_markdown(results.get('fields'))}. Reload the page to lay them over the sample.",
        name="fields_text",
    )
    params = {k: results.get(k) for k in ("sample_id", "cam_key", "model") if results.get(k)}
    if results.get("no_peers"):
        outputs.md(in_markdown(results["no_peers"]), name="no_peers_text")
    elif params.get("cam_key"):
        outputs.btn(
            "peers",
            label="Show peers",
            description="Samples of this class that the model predicts right, the most similar first",
            icon="groups",
            variant="contained",
            on_click=f"{_URI}/show_peers",
            params=params,
        )
    return types.Property(outputs, view=types.View(label="This sample explained"))
