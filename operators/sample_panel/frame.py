"""What the panel shows of one sample: the sentence, the run, and the page in front."""

import sys

import fiftyone.operators.types as types

from ..panel import look_bar
from ..runs import record
from ..runs.look import look_of
from ..runs.run import Run
from ..sample import explain
from ..text import escape_labels, in_markdown, one_line
from . import cards, drawing, explained, multiples, sentence, stored, threshold, what_if

PAGES = {"maps": "Maps", "explain": "Explain", "what_if": "What if"}


def read(dataset, sample_id, chosen):
    """Reads what is shown of a sample.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        sample_id: the open sample, or None
        chosen: the panel's state: what was chosen, and the names of what was found out

    Returns:
        a dict of everything that :func:`draw` draws
    """
    shown = {**chosen, "sample_id": sample_id, "page": chosen.get("page") or "maps"}
    shown["images"] = dataset is None or dataset.media_type != "video"
    if not sample_id or not shown["images"]:
        return shown
    record.refresh(dataset)
    shown["runs"] = run_choices(dataset)
    key = shown["key"] = _chosen_key(shown["runs"], chosen.get("key"))
    shown["share"] = chosen.get("share") or threshold.DEFAULT
    shown |= model_of(dataset, key, chosen)
    asked = key, chosen.get("model")
    shown["found"] = explained.of_sample(chosen.get("explained"), sample_id, *asked)
    shown["model_held"] = explain.is_held(dataset, key, chosen.get("model"))
    if shown["page"] == "what_if":
        shown["regions"] = what_if.choices_of(dataset, sample_id)
    one = stored.read(Run.open(dataset, key), sample_id) if key is not None else None
    if one is not None and one.labels:
        shown["field"] = field_of(one, chosen.get("field"))
        try:
            shown |= _read_maps(dataset, one, shown)
        except OSError as error:  # the photo or a stored map is gone
            shown["error"] = one_line(error)
    return shown


def key_of(dataset, chosen):
    """The run on show: the chosen one where it is still there, else the newest, or None."""
    record.refresh(dataset)
    return _chosen_key(run_choices(dataset), chosen)


def _chosen_key(runs, chosen):
    keys = [run["key"] for run in runs]
    return chosen if chosen in keys else next(iter(keys), None)


def shown_field(dataset, sample_id, chosen):
    """The heatmap field that is shown in large, or None."""
    key = key_of(dataset, chosen.get("key"))
    one = stored.read(Run.open(dataset, key), sample_id) if key is not None else None
    return field_of(one, chosen.get("field")) if one is not None else None


def field_of(one, chosen):
    """The map in large: the chosen one where the sample has it, else its first."""
    return chosen if chosen in one.labels else next(iter(one.labels), None)


def run_choices(dataset):
    """The runs that have heatmaps of samples, the newest first: ``[{"key", "label"}]``."""
    runs = sorted(Run.all(dataset), key=lambda run: run.record.started or "", reverse=True)
    return [
        {"key": run.key, "label": f"{run.key}  ({run.settings.get('model') or 'unknown model'})"}
        for run in runs
    ]


def model_of(dataset, key, chosen):
    """Which model is asked: ``model_from`` is ``"run"``, ``"name"`` or None, then with ``no_model``."""
    if chosen.get("model"):
        return {"model_from": "name", "no_model": None}
    if key is None:
        return {"model_from": None, "no_model": "no run says which model is meant"}
    why = explain.why_not(dataset, key)
    return {"model_from": None if why else "run", "no_model": why}


def _read_maps(dataset, one, shown):
    """The pictures and numbers of the maps, and the sentence, which needs them."""
    methods, others, left_out = multiples.rows_of(one, shown["field"])
    label = one.labels[shown["field"]]
    heat = stored.heat_in(label)
    shares, on_object, agreed = {}, "", {}
    if "torch" in sys.modules:  # else what needs it comes with the next event, see the panel
        agreed = multiples.agreements(one, list(dict.fromkeys([*methods, *others])))
        if heat is not None:
            shares, on_object = threshold.on_object(dataset, one, label, heat)
    found, target = shown["found"], label.target
    if found is not None:  # its own heat: the map on show may be of another class, or model
        shares, target = {name: found[name] for name in ("heat", "uniform")}, None
    said, sure = sentence.of_sample(one, found, shares, target)
    more = {
        "sentence": said,
        "sure": sure,
        "left_out": left_out,
        "methods": methods,
        "others": others,
    }
    if shown["page"] != "maps":
        return more
    look = look_of(dataset)
    for name, fields in (("method_cards", methods), ("other_cards", others)):
        more[name] = [
            (
                drawing.heat_picture(one.path, stored.heat_in(one.labels[field]), look),
                multiples.text_of(
                    one, field, agreed.get(field), methods[0], name == "method_cards"
                ),
            )
            for field in fields
        ]
    if heat is not None:
        kept = threshold.kept_heat(heat, shown["share"] / 100)
        more["kept"] = drawing.kept_picture(one.path, heat, kept, look)
        said = threshold.said(kept, shown["share"] / 100)
        more["kept_text"] = f"{said} {in_markdown(on_object)}"
    return more


def draw(handlers, shown):
    """Draws the panel.

    Args:
        handlers: the panel, whose methods are called on events
        shown: of :func:`read`

    Returns:
        a ``types.Property``
    """
    panel = types.Object()
    if not shown.get("sample_id"):
        _note(
            panel,
            "nothing",
            "No sample is open",
            "Open a sample of the grid; this panel follows it.",
        )
    elif not shown["images"]:
        _note(
            panel, "video", "This panel shows images",
            "The heatmaps of a video are on its frames: play it, with the run's fields chosen in the sidebar.",
        )  # fmt: skip
    else:
        _head(panel, handlers, shown)
        _PAGES[shown["page"]](panel, handlers, shown)
    sx = {"pb": 6, **_NARROW}
    view = types.GridView(
        orientation="vertical", gap=1, pad=2, componentsProps={"grid": {"sx": sx}}
    )
    return escape_labels(types.Property(panel, view=view))


# nothing makes the panel wider than its place
_NARROW = {"gridTemplateColumns": "minmax(0, 1fr)"}


# Names of properties are no names of the state: what the state says would be drawn instead.
def _head(panel, handlers, shown):
    """The sentence and how sure it is, the run, and the pages."""
    if shown.get("error"):
        _note(panel, "failed", "This sample cannot be shown", shown["error"], types.Error)
    if shown.get("sentence"):
        panel.md(f"**{in_markdown(shown['sentence'])}**", name="said")
    if shown.get("sure"):
        panel.md(in_markdown(shown["sure"]), name="how_sure")
    if shown["runs"]:
        menu = panel.menu("top", **cards.MENU)
        choices = types.DropdownView(label="Run")
        for run in shown["runs"]:
            choices.add_choice(run["key"], label=run["label"])
        menu.enum(
            "run", choices.values(), default=shown["key"], view=choices, on_change=handlers.on_run
        )
    row = panel.menu("pages", **cards.MENU)
    for value, label in PAGES.items():
        row.btn(
            f"page_{value}", label=label, on_click=handlers.on_page, params={"page": value},
            variant="contained" if value == shown["page"] else None,
        )  # fmt: skip
    if shown.get("work"):
        panel.md(f"*{in_markdown(shown['work'])}*", name="working")
    if shown["page"] != "maps" and not shown["model_from"]:
        _note(panel, "no_model", "No model to ask", _capital(shown["no_model"]))


def _capital(text):
    return f"{text[:1].upper()}{text[1:]}."


def _draw_maps(panel, handlers, shown):
    if not shown["runs"]:
        _note(
            panel, "no_runs", "No heatmaps yet",
            "Compute class activation maps for the dataset, or explain this one sample.",
        )  # fmt: skip
        panel.menu("start_menu", **cards.MENU).btn(
            "compute", label="Compute class activation maps", icon="local_fire_department",
            variant="contained", on_click=handlers.on_compute,
        )  # fmt: skip
        return
    if not shown.get("method_cards"):
        if not shown.get("error"):
            _note(
                panel, "no_maps", "The run has no heatmap of this sample",
                "It was not among the run's samples, or failed. Choose another run, or explain it here.",
            )  # fmt: skip
        return
    look_bar.draw(panel, handlers, shown.get("look"))
    for name, fields in (("method_cards", shown["methods"]), ("other_cards", shown["others"])):
        if not fields:
            continue
        if name == "other_cards":
            panel.md("**Other layers and targets of this method**", name="others_head")
        cards.row(panel, name, shown[name], handlers.on_map, [{"field": field} for field in fields])
    if shown["left_out"]:
        panel.md(f"{shown['left_out']} more maps are in the sidebar.", name="more_maps")
    if shown.get("kept"):
        _draw_kept(panel, handlers, shown)


def _draw_kept(panel, handlers, shown):
    """The map in large, with the slider."""
    head = f"**{in_markdown(shown['field'])}** in large; click a picture above for another one"
    panel.md(head, name="kept_head")
    panel.float(
        "heat_kept", label="Heat kept, in percent", default=shown["share"], min=threshold.LEAST,
        max=threshold.MOST, on_change=handlers.on_share,
        view=types.SliderView(
            value_precision=0, label_position="top", view_multiple_of=threshold.STEP,
            min=threshold.LEAST, max=threshold.MOST,
        ),
    )  # fmt: skip
    wide = {"container": {"sx": {"maxWidth": drawing.LARGE}}}
    cards.image(
        panel, "kept_picture", shown["kept"], "the heat that is kept, with its outline",
        componentsProps=wide,
    )  # fmt: skip
    panel.md(shown["kept_text"], name="kept_said")


_PAGES = {"maps": _draw_maps, "explain": explained.draw, "what_if": what_if.draw}


def _note(panel, name, label, text, kind=types.Notice):
    panel.view(name, kind(label=label, description=text))
