"""The samples that tell most, as a table: found and sorted in the database."""

import os

import fiftyone.operators.types as types

from ..bias.schema import field_names
from ..runs.level import level_of
from . import clusters_tab, layout
from .views import BACKGROUND

ROWS = 25
#: what can be asked for, with its label
KINDS = {
    "wrong_reason": "Right for the wrong reason",
    "dependent": "Most dependent on the background",
    "mistakes": "Mistakes that follow the background",
    "disagree": "Methods disagree most",
    "surest": "Most confident predictions",
    "weakest": "Weakest evidence",
}
COLUMNS = {
    "file": "File", "label": "Label", "prediction": "Prediction", "score": "Score",
    "lost": "Score lost", "heat": "Heat on object", "verdict": "Verdict",
}  # fmt: skip


def columns_of(kind, analysed):
    """The columns of a table: of a bias analysis only where there is one, no verdict all rows share.

    Args:
        kind: one of :func:`kinds_of`
        analysed: whether there is a bias analysis of the run

    Returns:
        a dict key -> label
    """
    hidden = () if analysed else ("label", "lost", "heat", "verdict")
    hidden = (*hidden, "verdict") if kind in ("wrong_reason", "mistakes") else hidden
    # of the right ones it is the prediction
    hidden = (*hidden, "label") if kind == "wrong_reason" else hidden
    return {name: label for name, label in COLUMNS.items() if name not in hidden}


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
        a list of dicts ``id`` and ``COLUMNS``, as text
    """
    verdict, dependence, bias = field_names(run.key)
    heat = next(iter(run.heatmap_fields), None)
    match, sort = _query(run.key, kind, heat)
    accepted = clusters_tab.accepted_ids(run)
    if accepted and kind in ("wrong_reason", "dependent", "mistakes"):
        match = {**match, "_id": {"$nin": accepted}}
    guess = [f"{run.key}_prediction.{name}" for name in ("label", "confidence")]
    wanted = ["filepath", verdict, dependence, *guess]
    names = ("label", "prediction", "score", "obj_energy", "reason")
    wanted += [f"{bias}.{name}" for name in names]
    wanted.append(f"{bias}.swap_drop")
    level = level_of(run.dataset)
    found = level.collection.find(match, dict.fromkeys([*wanted, *level.place], True))
    found = level.placed(list(found.sort([(sort[0], sort[1])]).limit(rows)))
    return [_row(row, run.key) for row in found]


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


def _row(row, key):
    verdict, _, bias = field_names(key)
    numbers, guess = row.get(bias) or {}, row.get(f"{key}_prediction") or {}
    score = guess.get("confidence") if numbers.get("score") is None else numbers["score"]
    return {
        "id": str(row["_id"]),
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


def _number(value):
    return "" if value is None else f"{value:.2f}"


def fill(run, chosen, analysed):
    """Reads what the tab shows: (state, data); see :func:`.frame.fill`."""
    kinds = kinds_of(run)
    kind = chosen.get("kind") if chosen.get("kind") in kinds else next(iter(kinds), None)
    rows = table(run, kind) if kind else []
    state = {"kinds": kinds, "kind": kind, "sample_ids": [row["id"] for row in rows]}
    return state, {"samples": [{k: v for k, v in row.items() if k != "id"} for row in rows]}


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
    choices = types.DropdownView(label="Show")
    for kind in kinds:
        choices.add_choice(kind, label=KINDS[kind])
    menu = panel.menu("samples_menu", gap=2, align_y="center")
    menu.enum(
        "kind", choices.values(), default=state["kind"], view=choices, on_change=handlers.on_kind
    )
    if not state.get("sample_ids"):
        layout.note(panel, "none_such", "None", "No sample of this run is of this kind.")
        return
    menu.btn(
        "show_all",
        label="Show in grid",
        icon="grid_view",
        variant="outlined",
        on_click=handlers.on_listed,
    )
    # Without an icon: beside the grid of a laptop there is no room for both.
    opens = {"name": "open", "on_click": handlers.on_sample, "label": "Open"}
    columns = columns_of(state["kind"], state.get("bias_status"))
    layout.table(panel, "samples", columns, actions=[opens], actions_label=" ")
