"""One document per sample: the findings as MongoDB stores them."""

import math

import fiftyone as fo
import numpy as np

from . import schema as store
from .findings import controlled_gaps
from .scan import MEASURES

_EFFECTS = ("swap_drop", "same_drop", "bg_gap", "swap_flip", "adopt", "bg_only", "bg_support")
_STORED = [name for name in MEASURES if name in store.ATTRIBUTES]


def rows_of(found, indices, plan, model, dataset):
    """What is written of some samples.

    Args:
        found: the :class:`Findings`
        indices: of each sample its rows of the scan
        plan: the :class:`RecordedPlan`
        model: the :class:`LoadedModel`
        dataset: the dataset, which is asked which heatmaps exist

    Returns:
        ``{sample id: {path: value}}``; a sample takes the worst of its classes
    """
    verdict, dependence, bias = store.field_names(plan.cam_key)
    ids = [found.scan.ids[mine[0]] for mine in indices]
    present = _present(dataset, ids, [f for fields in plan.ranks for f in fields.values()])
    rows = {}
    for mine, sample_id in zip(indices, ids, strict=True):
        worst = found.worst(mine)
        numbers = numbers_of(found, worst, model)
        if found.scan.slots > 1:
            numbers["verdicts"] = [
                f"{found.names[i]}: {found.assessment.verdicts[i].verdict}"
                for i in mine
                if found.units.has[i]
            ]
        row = rows[sample_id] = {
            verdict: found.assessment.verdicts[worst].verdict,
            dependence: _number(found.assessment.dependence[worst]),
            bias: fo.DynamicEmbeddedDocument(**numbers),
        }
        for i in mine:
            _add_heat(row, found, i, sample_id, plan, present)
    return rows


def _add_heat(row, found, i, sample_id, plan, present):
    """What the heatmaps' own labels get of a row of the scan."""
    says = found.assessment.verdicts[i]
    fields = plan.ranks[min(int(found.scan.slot[i]), len(plan.ranks) - 1)]
    for key, field in fields.items():
        if sample_id not in present[field]:
            continue
        energy, area = (
            (found.scan.column_at("obj_energy", i), found.scan.area[i])
            if key == plan.primary
            else found.scan.other_fields[field][i]
        )
        row[f"{field}.verdict"] = says.verdict
        row[f"{field}.obj_energy"] = _number(energy)
        row[f"{field}.object_area"] = _number(area)


def numbers_of(found, i, model):
    """Every number of a sample by the names of ``ATTRIBUTES``; None for what is undefined."""
    scan, tested, place = found.scan, found.tested, found.place[i]
    known = scan.explained[i] >= 0
    values = dict.fromkeys(store.ATTRIBUTES)
    values.update(
        reason=found.assessment.verdicts[i].reason,
        tested=bool(found.assessment.tested[i]),
        explained=model.label(int(scan.explained[i])) if known else None,
        prediction=model.label(int(scan.predicted[i])) if scan.predicted[i] >= 0 else None,
        label=found.labels[i],
        correct=bool(found.correct[i]) if np.isfinite(found.correct[i]) else None,
        score=_number(scan.score[i]),
        suspicion=_number(found.assessment.suspicion[i]),
        object_area=_number(scan.area[i]),
        reliable=bool(scan.reliable[i]) if scan.heat_status[i] else None,
        heat_status=str(scan.heat_status[i]) or None,
        object_status=str(scan.object_status[i]) or None,
        object_source=str(scan.object_source[i]) or None,
        object_scope=str(scan.object_scope[i]) or None,
        **{name: _number(scan.column_at(name, i)) for name in _STORED},
    )
    if place >= 0:
        values.update(
            {name: _number(getattr(tested.check.effects, name)[place]) for name in _EFFECTS}
        )
        values["donors"] = _donors(found, place)
        if tested.heat_effect is not None:
            values["heat_effect"] = _number(tested.heat_effect[place])
        if "context" in tested.regions:
            values["context_drop"] = _number(controlled_gaps(tested.regions["context"])[place])
    return values


def _donors(found, place):
    donors = found.tested.check.donors
    rows = [*donors.foreign[place].tolist(), *donors.same[place].tolist()]
    return [found.scan.ids[found.tested.all_rows[j]] for j in rows if j >= 0]


def _number(value):
    return float(value) if np.isfinite(value) else None


def _present(dataset, ids, fields):
    """``{heatmap field: ids of the samples that have a label in it}``."""
    present = {}
    view = dataset.select(ids)
    for field in fields:
        columns = view.values(["id", f"{field}.cam_key"])
        present[field] = {i for i, key in zip(*columns, strict=True) if key is not None}
    return present


def attributes_of(found, unit):
    """What an object's label gets, by the names of ``store.OBJECT_ATTRIBUTES``."""
    says = found.assessment.verdicts[unit]
    effects = ("swap_drop", "same_drop", "bg_gap", "swap_flip", "bg_only")
    return {
        "verdict": says.verdict,
        "dependence": known(found.assessment.dependence[unit]),
        "swap_score": known(found.scan.score[unit]),
        **{name: found.effect(name, unit) for name in effects},
        "reason": says.reason,
    }


def known(value):
    """A number as it is stored: None where it is not finite."""
    return float(value) if math.isfinite(value) else None
