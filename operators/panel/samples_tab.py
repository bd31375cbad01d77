"""The samples to look at first, each with its picture: found and sorted in the database."""

import os

from ..bias.attributes import OLD_PROBABILITY, probability_of
from ..bias.schema import field_names
from ..data.drawn import data_uri
from ..runs.level import Level, level_of
from ..text import in_markdown
from . import clusters_tab, layout
from .views import BACKGROUND

#: how many samples are shown, and how many the grid gets
SHOWN, ROWS = 12, 25
#: what can be asked for, with its label and what its order is by
KINDS = {
    "wrong_reason": ("Right for the wrong reason", "dependence on the background"),
    "dependent": ("Most dependent on the background", "dependence on the background"),
    "mistakes": ("Mistakes that follow the background", "dependence on the background"),
    "disagree": ("Methods disagree most", "disagreement"),
    "surest": ("Most confident predictions", "confidence"),
    "weakest": ("Weakest evidence", "peak of the heatmap"),
}


def kinds_of(run):
    """The tables that can be made of a run.

    Returns:
        a list of names of ``KINDS``
    """
    kinds = []
    if run.jobs.get("bias", {}).get("status") == "finished":
        kinds += ["wrong_reason", "dependent", "mistakes"]
    field = level_of(run.dataset).field
    if field(f"{run.key}_disagreement") is not None:
        kinds.append("disagree")
    if field(f"{run.key}_prediction") is not None:
        kinds.append("surest")
    if run.heatmap_fields:
        kinds.append("weakest")
    return kinds


def table(run, kind, rows=ROWS):
    """The most telling samples of a kind.

    Args:
        run: the :class:`~operators.runs.run.Run`
        kind: one of :func:`kinds_of`
        rows (25): how many at most

    Returns:
        a list of dicts ``id``, ``order`` (the number that the order is by) and, as text, ``file, label,
        prediction, score, lost, heat, verdict``
    """
    verdict, dependence, bias = field_names(run.key)
    heat = next(iter(run.heatmap_fields), None)
    match, sort = _query(run.key, kind, heat)
    accepted = clusters_tab.accepted_ids(run)
    if accepted and kind in ("wrong_reason", "dependent", "mistakes"):
        match = {**match, "_id": {"$nin": accepted}}
    guess = [f"{run.key}_prediction.{name}" for name in ("label", "confidence")]
    wanted = ["filepath", verdict, dependence, *guess]
    names = ("label", "prediction", "probability", OLD_PROBABILITY, "obj_energy", "reason")
    wanted += [f"{bias}.{name}" for name in names]
    wanted += [f"{bias}.swap_drop", sort[0]]
    level = level_of(run.dataset)
    found = level.collection.find(match, dict.fromkeys([*wanted, *level.place], True))
    found = level.placed(list(found.sort([(sort[0], sort[1])]).limit(rows)))
    return [_row(row, run.key, sort[0]) for row in found]


def _query(key, kind, heat):
    verdict, dependence, bias = field_names(key)
    relies, guess = {verdict: {"$in": list(BACKGROUND)}}, f"{key}_prediction.confidence"
    return {
        "wrong_reason": ({**relies, f"{bias}.correct": True}, (dependence, -1)),
        "dependent": ({dependence: {"$ne": None}}, (dependence, -1)),
        "mistakes": ({**relies, f"{bias}.correct": False}, (dependence, -1)),
        "disagree": ({f"{key}_disagreement": {"$ne": None}}, (f"{key}_disagreement", -1)),
        "surest": ({guess: {"$ne": None}}, (guess, -1)),
        "weakest": ({f"{heat}.peak": {"$ne": None}}, (f"{heat}.peak", 1)),
    }[kind]


def _row(row, key, order):
    verdict, _, bias = field_names(key)
    numbers, guess = row.get(bias) or {}, row.get(f"{key}_prediction") or {}
    score = probability_of(numbers)
    score = guess.get("confidence") if score is None else score
    return {
        "id": str(row["_id"]),
        "order": _value(row, order),
        "file": os.path.basename(row["filepath"]) + row.get("part", ""),
        "label": numbers.get("label") or "",
        "prediction": numbers.get("prediction") or guess.get("label") or "",
        "score": _number(score),
        "lost": _number(numbers.get("swap_drop")),
        "heat": "" if numbers.get("obj_energy") is None else f"{100 * numbers['obj_energy']:.0f} %",
        "verdict": _verdict(row.get(verdict), numbers.get("reason")),
    }


def _verdict(verdict, reason):
    """A verdict; of a prediction that is hardly one with its score, which fits beside a grid."""
    from ...cam_core.bias.verdicts import CANNOT_SAY

    short = (reason or "").split(":")[0]
    unsure = verdict == CANNOT_SAY and short.startswith("unsure")
    return f"{verdict}: {short}" if unsure else verdict or ""


def _value(row, path):
    for name in path.split("."):
        row = (row or {}).get(name)
    return row


def _number(value):
    return "" if value is None else f"{value:.2f}"


def card_text(number, row, kind):
    """What stands beside a picture, as Markdown.

    Args:
        number: its place in the queue, from 1
        row: one of :func:`table`
        kind: one of :func:`kinds_of`
    """
    said = f"Predicted {in_markdown(row['prediction'])}" if row["prediction"] else ""
    said += f" ({row['score']})" if said and row["score"] else ""
    wrong = row["label"] and row["label"] != row["prediction"]
    said += f", labelled {in_markdown(row['label'])}" if wrong else ""
    facts = [said]
    if row["lost"]:
        facts.append(f"Loses {row['lost']} of its score on other backgrounds")
    if row["heat"]:
        facts.append(f"{row['heat']} of the heat on the object")
    if row["verdict"] and kind not in ("wrong_reason", "mistakes"):
        facts.append(in_markdown(row["verdict"]))
    value = row["order"]
    # a peak is a raw number of any size, the others are shares
    order = f"{KINDS[kind][1].split()[0]} {f'{value:.2g}' if kind == 'weakest' else f'{value:.2f}'}"
    title = f"**{number}. {in_markdown(row['file'])}** · {order}"
    return f"{title}  \n{'. '.join(filter(None, facts))}"


def fill(run, chosen, analysed):
    """Reads what the tab shows: (state, data); see :func:`.frame.fill`."""
    kinds = kinds_of(run)
    kind = chosen.get("kind") if chosen.get("kind") in kinds else next(iter(kinds), None)
    rows = table(run, kind) if kind else []
    shown = rows[:SHOWN]
    cards = [card_text(number, row, kind) for number, row in enumerate(shown, 1)]
    data = {f"card_{i}.picture": uri for i, uri in enumerate(_pictures(run, shown))}
    state = {
        "kinds": kinds, "kind": kind, "sample_ids": [row["id"] for row in rows], "cards": cards,
        "samples_menu.kind": kind, "pictured": [bool(data[name]) for name in data],
    }  # fmt: skip
    return state, data


def _pictures(run, rows):
    """The pictures of rows as sources of images; "" where there is none, as of a frame of a video."""
    if type(level_of(run.dataset)) is not Level:
        return ["" for _ in rows]
    found = clusters_tab.tiles(run, [row["id"] for row in rows])
    pictures = [found.get(row["id"]) for row in rows]
    return ["" if picture is None else data_uri(picture) for picture in pictures]


def draw(panel, handlers, state):
    """Draws the tab."""
    kinds = state.get("kinds") or []
    if not kinds:
        layout.note(
            panel,
            "no_samples",
            "Nothing to list",
            "This run has no heatmaps left; compute them again.",
        )
        return
    menu = layout.row(panel, "samples_menu")
    labels = {kind: KINDS[kind][0] for kind in kinds}
    layout.choice(menu, "kind", "Show", labels, state["kind"], handlers.on_kind)
    if not state.get("sample_ids"):
        layout.note(panel, "none_such", "None", "No sample of this run is of this kind.")
        return
    count = len(state["sample_ids"])
    # as many as are listed at most: there may be more
    which = "the first " if count == ROWS else "all " if count > SHOWN else ""
    layout.button(
        menu, "show_all", f"Show {which}{count} in the grid", "grid_view",
        handlers.on_listed, variant="outlined",
    )  # fmt: skip
    layout.heading(
        panel, "queue_head", "What to look at first",
        f"Ordered by {KINDS[state['kind']][1]}. Click a picture to open its sample.",
    )  # fmt: skip
    for number, text in enumerate(state.get("cards") or []):
        opens = {"on_click": handlers.on_sample, "params": {"row": number}}
        pictured = (state.get("pictured") or [])[number : number + 1] == [True]
        layout.card(panel, f"card_{number}", text, pictured, "Open", **opens)
