"""One document per sample: the findings as MongoDB stores them."""

import fiftyone as fo

from ..data.samples import read_values
from . import schema as store
from .findings import controlled_gaps, known
from .units import MEASURES

_EFFECTS = ("swap_drop", "same_drop", "bg_gap", "swap_flip", "adopt", "bg_only", "bg_support")
_OF_LABELS = ("swap_drop", "same_drop", "bg_gap", "swap_flip", "bg_only")
_STORED = [name for name in MEASURES if name in store.ATTRIBUTES]


def rows_of(found, units, cam_key, model):
    """What is written of some samples.

    Args:
        found: the :class:`Findings`
        units: ``{sample id: its units}``
        cam_key: the CAM run's key
        model: the :class:`LoadedModel`

    Returns:
        ``{sample id: {path: value}}``; a sample takes the worst of its units
    """
    verdict, dependence, bias = store.field_names(cam_key)
    rows = {}
    for sample_id, own in units.items():
        worst = found.worst(own)
        numbers = numbers_of(found, worst, model)
        if found.scan.slots > 1:
            numbers["verdicts"] = [
                f"{found.names[i]}: {found.verdict(i).verdict}" for i in own if found.classes.has[i]
            ]
        rows[sample_id] = {
            verdict: found.verdict(worst).verdict,
            dependence: None if worst is None else known(found.assessment.dependence[worst]),
            bias: fo.DynamicEmbeddedDocument(**numbers),
        }
    return rows


def add_heat(rows, found, units, plan, dataset):
    """Adds to ``rows`` what the heatmaps' own labels get.

    Args:
        rows: of :func:`rows_of`
        found: the :class:`Findings`
        units: ``{sample id: its units}``
        plan: the :class:`RecordedPlan`
        dataset: the dataset, which is asked which heatmaps exist
    """
    fields = [f for ranked in plan.ranks for f in ranked.values()]
    present = _present(dataset, list(units), fields)
    for sample_id, own in units.items():
        for i in own:
            says = found.verdict(i)
            ranked = plan.ranks[min(int(found.scan.slot[i]), len(plan.ranks) - 1)]
            for key, field in ranked.items():
                if sample_id not in present[field]:
                    continue
                energy, area = (
                    (found.scan.column_at("obj_energy", i), found.scan.area[i])
                    if key == plan.primary
                    else found.scan.other_fields[field][i]
                )
                rows[sample_id][f"{field}.verdict"] = says.verdict
                rows[sample_id][f"{field}.obj_energy"] = known(energy)
                rows[sample_id][f"{field}.object_area"] = known(area)


def _present(dataset, ids, fields):
    """``{heatmap field: ids of the samples that have a label in it}``."""
    present = {}
    view = dataset.select(ids)
    for field in fields:
        columns = read_values(view, ["id", f"{field}.cam_key"])
        present[field] = {i for i, key in zip(*columns, strict=True) if key is not None}
    return present


def numbers_of(found, i, model):
    """Every number of a unit by the names of ``ATTRIBUTES``; None for what is undefined.

    Args:
        found: the :class:`Findings`
        i: the unit, or None where a sample has none
        model: the :class:`LoadedModel`
    """
    values = dict.fromkeys(store.ATTRIBUTES)
    values["reason"] = found.verdict(i).reason
    if i is None:
        return {**values, "tested": False, "object_status": "no_object"}
    scan, tested, place = found.scan, found.tested, found.place[i]
    right = found.correct[i] if not found.of_boxes else None
    values.update(
        tested=bool(found.assessment.tested[i]),
        explained=model.label(int(scan.explained[i])) if scan.explained[i] >= 0 else None,
        prediction=model.label(int(scan.predicted[i])) if scan.predicted[i] >= 0 else None,
        label=found.labels[i],
        correct=None if right is None or right != right else bool(right),
        probability=known(scan.score[i]),
        suspicion=known(found.assessment.suspicion[i]),
        object_area=known(scan.area[i]),
        reliable=bool(scan.reliable[i]) if scan.heat_status[i] else None,
        heat_status=str(scan.heat_status[i]) or None,
        object_status=str(scan.object_status[i]) or None,
        object_source=str(scan.object_source[i]) or None,
        object_scope=str(scan.object_scope[i]) or None,
        **{name: known(scan.column_at(name, i)) for name in _STORED},
    )
    if place >= 0:
        values.update(effects_of(found, i, _EFFECTS), donors=found.donors(i))
        if found.of_boxes:
            values["bg_support"] = None  # a background alone has no score of a box
        if tested.heat_effect is not None:
            values["heat_effect"] = known(tested.heat_effect[place])
        if "context" in tested.regions:
            values["context_drop"] = known(controlled_gaps(tested.regions["context"])[place])
    return values


def effects_of(found, i, names):
    """Fields of :class:`~cam_core.bias.effects.Effects` of a unit; None where it was not tested."""
    place = found.place[i]
    if place < 0:
        return dict.fromkeys(names)
    effects = found.tested.check.effects
    return {name: known(getattr(effects, name)[place]) for name in names}


def attributes_of(found, i):
    """What a box's own label gets, by the names of ``store.OBJECT_ATTRIBUTES``."""
    says = found.verdict(i)
    return {
        "verdict": says.verdict,
        "dependence": known(found.assessment.dependence[i]),
        "swap_score": known(found.scan.score[i]),
        **effects_of(found, i, _OF_LABELS),
        "reason": says.reason,
    }


def labels_of(found, units, cam_key):
    """What is written of the boxes of some samples.

    Args:
        found: the :class:`Findings`
        units: ``{sample id: its units}``
        cam_key: the CAM run's key

    Returns:
        ``{sample id: {label id: {attribute: value}}}``
    """
    return {
        sample_id: {
            found.scan.label_ids[i]: {
                f"{cam_key}_{name}": value for name, value in attributes_of(found, i).items()
            }
            for i in own
        }
        for sample_id, own in units.items()
    }
