"""The form of ``test_region``."""

import dataclasses

import fiftyone.operators.types as types

from ..bias import region_text as words
from ..bias.params import DONORS, PROBE, REGION_ARGUMENTS
from ..bias.regions import A_BOX
from ..data.object_reader import find_object_fields
from ..jobs import params as tables
from ..runs import record
from ..text import counted, in_markdown, lines_in_markdown
from .bias import NEW, add_run
from .cost import add_cost, model_name, seconds_of
from .model import given_model
from .schema import add, add_plain, is_wrong, mark, titled
from .snippet import add_snippet


def arguments_of(params):
    """Turns a form's parameters into the arguments of ``test_region`` that were given."""
    given = {**tables.arguments_of(REGION_ARGUMENTS, params), **given_model(params)}
    if given.get("cam_key") == NEW:
        del given["cam_key"]
    if given.get("region") == A_BOX:
        given["region"] = _numbers(params.get("box") or "")
    return given


def _numbers(text):
    try:
        return [float(part) for part in text.replace(";", ",").split(",")]
    except ValueError:
        raise ValueError(
            f"region: a box is four numbers, left, top, width, height, got {text!r}"
        ) from None


def test_region_form(ctx):
    """Builds the form, a ``types.Property``."""
    inputs = types.Object()
    view = ctx.target_view(require_flat=True)
    if add_run(inputs, ctx, new="No run: choose a model"):
        _add_region(inputs, ctx, view)
        add(inputs, ctx, REGION_ARGUMENTS, "probe")
        add(inputs, ctx, REGION_ARGUMENTS, "donors")
        add_plain(inputs, ctx, REGION_ARGUMENTS)
        _notice(inputs, ctx, view)
    return titled(inputs, "Test a region of the images", "Test")


def _add_region(inputs, ctx, view):
    from ..bias.region_job import validated_region

    values = {
        "hottest": "The hottest tenth of each image", "border": "The border", A_BOX: "A box",
        **{field.name: (field.name, field.kind) for field in find_object_fields(view)},
    }  # fmt: skip
    add(inputs, ctx, REGION_ARGUMENTS, "region", values=values)
    if ctx.params.get("region") != A_BOX:
        return
    prop = inputs.str(
        "box", required=True, label="Box",
        description="Left, top, width, height as shares of the image, such as 0.8, 0.9, 0.2, 0.1",
    )  # fmt: skip
    mark(prop, lambda: validated_region(view, _numbers(ctx.params.get("box") or "")))


def _notice(inputs, ctx, view):
    if is_wrong(inputs):
        return
    given = arguments_of(ctx.params)
    if "model" not in given:
        given.setdefault("cam_key", record.list_runs(ctx.dataset)[-1])
    tested = min(len(view), given.get("probe", PROBE))
    forwards = len(view) + tested * (1 + 2 * given.get("donors", DONORS))
    label = f"Tests {tested:,} of {counted(len(view), 'samples')} and writes nothing"
    name = model_name(ctx, given)
    why = "Fewer samples take less."
    add_cost(inputs, ctx, label, seconds_of(forwards, name), why)
    add_snippet(inputs, ctx, "test_region", given, view, [name])


def output_of(summary):
    """Returns the form that the App shows of a ``RegionSummary``, and its values."""
    region = dataclasses.asdict(summary)
    rows = words.rows(region)
    outputs, table, cells = types.Object(), types.TableView(), types.Object()
    titles = {"what": "", "value": "Mean", "interval": "95 % interval", "n": "Samples"}
    for name, title in titles.items():
        table.add_column(name, label=title)
        cells.str(name)
    for number, row in enumerate(rows):
        table.add_tooltip(number, 0, row.pop("tip"))
    outputs.str("said", view=types.MarkdownView(read_only=True))
    if rows:
        outputs.list("rows", cells, label="Hover over a row to see how it is measured", view=table)
    outputs.str("notes", view=types.MarkdownView(read_only=True))
    shown = types.Property(outputs, view=types.View(label="Test a region of the images"))
    said = f"**{in_markdown(words.said(region))}**"
    notes = lines_in_markdown("\n".join(words.notes(region)))
    return shown.to_json(), {"said": said, "rows": rows, "notes": notes}
