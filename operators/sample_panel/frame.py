"""What the panel shows of one sample: the sentence, the run, and the page in front."""

import sys

import fiftyone.operators.types as types

from ..runs import record
from ..runs.run import Run
from ..sample import explain
from ..text import escape_labels, in_markdown, one_line
from . import cards, drawing, explained, multiples, sentence, stored, threshold, what_if

PAGES = {"maps": "Maps", "explain": "Explain", "what_if": "What if"}


def fill(dataset, sample_id, chosen):
    """Reads what is shown of a sample.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        sample_id: the sample
        chosen: the panel's state: ``key, field, page, share`` and what the pages keep

    Returns:
        (state, data): state is small and comes back with every event, data is pictures
    """
    record.refresh(dataset)
    runs = run_choices(dataset)
    key = chosen.get("key")
    key = key if key in [run["key"] for run in runs] else next((r["key"] for r in runs), None)
    page = chosen.get("page") or "maps"
    state = {
        "sample_id": sample_id, "runs": runs, "key": key, "page": page,
        "share": chosen.get("share") or threshold.DEFAULT, "error": None, "sentence": "", "sure": "",
        "measured": "torch" in sys.modules, "shown": None, "model_held": explain.CACHE.name is not None,
        **model_of(dataset, key, chosen),
    }  # fmt: skip
    if page == "what_if":
        state["regions"] = what_if.choices_of(dataset, sample_id)
    if key is None:
        return state, {}
    found = stored.read(Run.open(dataset, key), sample_id)
    if found is None or not found.labels:
        state["maps"] = []
        return state, {}
    wanted = chosen.get("field")
    field = wanted if wanted in found.labels else next(iter(found.labels))
    state["shown"] = field
    try:
        more, data = _maps(dataset, found, field, state)
    except OSError as error:  # the photo or a stored map is gone
        state["error"] = one_line(error)
        return state, {}
    return {**state, **more}, data


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


def _maps(dataset, found, field, state):
    """The pictures and numbers of the maps, and the sentence, which needs them."""
    methods, others, left_out = multiples.rows_of(found, field)
    label = found.labels[field]
    heat = stored.heat_in(label)
    shares, on_object, agreed = {}, "", {}
    if state["measured"]:
        agreed = multiples.agreements(found, list(dict.fromkeys([*methods, *others])))
        if heat is not None:
            shares, on_object = threshold.on_object(dataset, found, label, heat)
    more = {"heat": shares.get("heat"), "on_object": on_object, "left_out": left_out}
    own = state.get("explained") or {}
    said, sure = sentence.of_sample(
        found, own if own.get("sample_id") == found.id else None, shares
    )
    more |= {"sentence": said, "sure": sure, "maps": methods, "others": others}
    data = {}
    if state["page"] != "maps":
        return more, data
    for name, fields in (("methods", methods), ("others", others)):
        pictures = [
            drawing.heat_picture(found.path, stored.heat_in(found.labels[f])) for f in fields
        ]
        data |= cards.data(name, pictures)
        more[f"{name}_text"] = [
            multiples.text_of(found, f, agreed.get(f), methods[0], name == "methods")
            for f in fields
        ]
    if heat is not None:
        kept = threshold.kept_heat(heat, state["share"] / 100)
        data["kept"] = drawing.kept_picture(found.path, heat, kept)
        more["kept_text"] = threshold.said(kept, state["share"] / 100)
    else:
        more["kept_text"] = None
    return more, data


def draw(handlers, state):
    """Draws the panel.

    Args:
        handlers: the panel, whose methods are called on events
        state: a dict, see :func:`fill`

    Returns:
        a ``types.Property``
    """
    panel = types.Object()
    if not state.get("sample_id"):
        _note(
            panel,
            "nothing",
            "No sample is open",
            "Open a sample of the grid; this panel follows it.",
        )
    else:
        _head(panel, handlers, state)
        _PAGES[state.get("page") or "maps"](panel, handlers, state)
    sx = {"pb": 6, "minWidth": 0}
    view = types.GridView(
        orientation="vertical", gap=1, pad=2, componentsProps={"grid": {"sx": sx}}
    )
    return escape_labels(types.Property(panel, view=view))


def _head(panel, handlers, state):
    """The sentence and how sure it is, the run, and the pages."""
    if state.get("error"):
        _note(panel, "error", "This sample cannot be shown", state["error"], types.Error)
    if state.get("sentence"):
        panel.md(f"**{in_markdown(state['sentence'])}**", name="sentence")
    if state.get("sure"):
        panel.md(in_markdown(state["sure"]), name="sure")
    if state.get("runs"):
        menu = panel.menu("top", gap=2, align_y="center")
        choices = types.DropdownView(label="Run")
        for run in state["runs"]:
            choices.add_choice(run["key"], label=run["label"])
        menu.enum(
            "run", choices.values(), default=state["key"], view=choices, on_change=handlers.on_run
        )
    front, row = state.get("page") or "maps", panel.menu("pages", gap=1, align_y="center")
    for value, label in PAGES.items():
        row.btn(
            f"page_{value}", label=label, on_click=handlers.on_page, params={"page": value},
            variant="contained" if value == front else None,
        )  # fmt: skip
    if state.get("work"):
        panel.md(f"*{in_markdown(state['work'])}*", name="work")
    if front != "maps" and not state.get("model_from"):
        _note(panel, "no_model", "No model to ask", _sentence_of(state.get("no_model")))


def _sentence_of(why):
    return f"{(why or 'no model is known')[:1].upper()}{(why or 'no model is known')[1:]}."


def _draw_maps(panel, handlers, state):
    if not state.get("runs"):
        _note(
            panel, "no_runs", "No heatmaps yet",
            "Compute class activation maps for the dataset, or explain this one sample.",
        )  # fmt: skip
        panel.menu("start_menu").btn(
            "compute", label="Compute class activation maps", icon="local_fire_department",
            variant="contained", on_click=handlers.on_compute,
        )  # fmt: skip
        return
    if not state.get("maps"):
        if not state.get("error"):
            _note(
                panel, "no_maps", "The run has no heatmap of this sample",
                "It was not among the run's samples, or failed. Choose another run, or explain it here.",
            )  # fmt: skip
        return
    if not state.get("methods_text"):
        return
    pick = [{"field": field} for field in state["maps"]]
    cards.row(panel, "methods", state["methods_text"], handlers.on_map, pick)
    if state.get("others_text"):
        panel.md("**Layers and targets of the same method**", name="others_head")
        pick = [{"field": field} for field in state["others"]]
        cards.row(panel, "others", state["others_text"], handlers.on_map, pick)
    if state.get("left_out"):
        panel.md(f"{state['left_out']} more maps are in the sidebar.", name="left_out")
    if not state.get("kept_text"):
        return
    panel.md(
        f"**The map of {in_markdown(state['shown'])}** (click another one above)", name="kept_head"
    )
    panel.float(
        "share", label="Heat kept, in percent", default=state["share"], min=threshold.LEAST,
        max=threshold.MOST, on_change=handlers.on_share,
        view=types.SliderView(
            value_precision=0, label_position="top", view_multiple_of=threshold.STEP,
            min=threshold.LEAST, max=threshold.MOST,
        ),
    )  # fmt: skip
    panel.img("kept", width="100%", alt_text="the heat that is kept, with its outline")
    panel.md(f"{state['kept_text']} {in_markdown(state.get('on_object'))}", name="kept_said")


_PAGES = {"maps": _draw_maps, "explain": explained.draw, "what_if": what_if.draw}


def _note(panel, name, label, text, kind=types.Notice):
    panel.view(name, kind(label=label, description=text))
