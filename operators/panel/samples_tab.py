"""The samples that tell most, as a table: found and sorted in the database."""

import os

import fiftyone.operators.types as types

from ..bias.schema import field_names, record_of
from ..runs import keys
from . import clusters_tab, layout
from .views import BACKGROUND

ROWS = 25
#: what can be asked for, with what people call it
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


def columns_of(kind, examined):
    """The columns of a table: of the examination only where there is one, no verdict all rows share.

    Args:
        kind: one of :func:`kinds_of`
        examined: whether the run's background was examined

    Returns:
        a dict key -> label
    """
    hidden = () if examined else ("label", "lost", "heat", "verdict")
    hidden = (*hidden, "verdict") if kind in ("wrong_reason", "mistakes") else hidden
    # of the right ones it is the prediction
    hidden = (*hidden, "label") if kind == "wrong_reason" else hidden
    return {name: label for name, label in COLUMNS.items() if name not in hidden}


def kinds_of(dataset, key):
    """The tables that can be made of a run.

    Returns:
        a list of names of ``KINDS``
    """
    kinds = []
    if _examined(dataset, key):
        kinds += ["wrong_reason", "dependent", "mistakes"]
    if dataset.get_field(f"{key}_disagreement") is not None:
        kinds.append("disagree")
    if dataset.get_field(f"{key}_prediction") is not None:
        kinds.append("surest")
    if keys.heatmap_fields_of(dataset, key):
        kinds.append("weakest")
    return kinds


def _examined(dataset, key):
    record = record_of(dataset, key)
    return record is not None and record["status"] == "finished"


def table(dataset, key, kind, rows=ROWS):
    """The most telling samples of a kind.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the key of a CAM run
        kind: one of :func:`kinds_of`
        rows (25): how many at most

    Returns:
        a list of dicts ``id`` and ``COLUMNS``, as text
    """
    verdict, dependence, bias = field_names(key)
    heat = next(iter(keys.heatmap_fields_of(dataset, key)), None)
    match, sort = _query(key, kind, heat)
    accepted = clusters_tab.accepted_ids(dataset, key)
    if accepted and kind in ("wrong_reason", "dependent", "mistakes"):
        match = {**match, "_id": {"$nin": accepted}}
    guess = [f"{key}_prediction.{name}" for name in ("label", "confidence")]
    wanted = ["filepath", verdict, dependence, *guess]
    names = ("label", "prediction", "score", "obj_energy", "reason")
    wanted += [f"{bias}.{name}" for name in names]
    wanted.append(f"{bias}.swap_drop")
    found = dataset._sample_collection.find(match, dict.fromkeys(wanted, True))
    return [_row(row, key) for row in found.sort([(sort[0], sort[1])]).limit(rows)]


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
        "file": os.path.basename(row["filepath"]),
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


def fill(dataset, key, chosen, examined):
    """Reads what the tab shows: (state, data); see :func:`.frame.fill`."""
    kinds = kinds_of(dataset, key)
    kind = chosen.get("kind") if chosen.get("kind") in kinds else next(iter(kinds), None)
    rows = table(dataset, key, kind) if kind else []
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
