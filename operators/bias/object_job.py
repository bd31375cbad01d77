"""A detector's objects after the test: what is written, and what is said of classes and model."""

import collections
import dataclasses
import math
import time

import numpy as np

from ..data.loader import Failure
from ..jobs.base import Phase
from ..runs.label_attributes import LabelAttributes
from ..runs.locking import schema_lock
from . import schema as store
from .findings import interval_of, mean_of, untested_class
from .object_scan import examine_objects
from .rows import attributes_of, known
from .summary import BiasSummary, undecided_of

_WRITTEN_AT_ONCE = 500


def examine(job):
    """Tests a detector's objects and stores what was found.

    Args:
        job: the :class:`BiasJob`

    Yields:
        a :class:`Phase`, now and then

    Returns:
        a :class:`BiasSummary`
    """
    found = yield from examine_objects(job)
    yield from _write(job, found)
    return _summarise(job, found)


def _write(job, found):
    """Everything of a sample and its objects in one update."""
    dataset, key, field = job.dataset, job.cam_key, job.object_field
    with schema_lock(dataset):
        job.held.check()
        store.declare(dataset, key, [])
    store.declare_objects(dataset, key, field)
    count, start = len(job.rows), time.perf_counter()
    for first in range(0, count, _WRITTEN_AT_ONCE):
        indices = range(first, min(first + _WRITTEN_AT_ONCE, count))
        rows, labels = object_rows(found, indices, key, job.model)
        parts = {i: LabelAttributes(f"{field}.detections", part) for i, part in labels.items()}
        for sample_id in store.write(dataset, rows, parts):
            path = found.scan.paths[found.scan.index[sample_id]]
            job.failures.append(Failure(sample_id, path, "the sample was deleted during the run"))
        yield Phase("writing", indices[-1] + 1, count, time.perf_counter() - start)
    job.show(_by_sample(found), False)


def _by_sample(found):
    ids = found.scan.ids
    return {ids[i]: _verdict(found, found.worst(i)).verdict for i in range(len(ids))}


def _summarise(job, found):
    s, seed = job.settings, job.settings.seed
    a, tested = found.assessment, int(found.assessment.tested.sum())
    skipped = collections.Counter(
        "not in the probe" if state == "not tested" else state for state in found.status
    )
    skipped.pop("ok", None)
    unknown = sorted(
        {n or "" for n, i in zip(found.scan.names, found.scan.labels, strict=True) if i < 0}
    )
    summary = BiasSummary(
        cam_key=job.cam_key,
        samples=len(job.rows),
        tested=tested,
        classes=object_classes(found, seed),
        model=object_model(found, seed),
        calibration={
            "auroc": a.calibration.auroc,
            "usable": a.calibration.usable,
            "reason": _of_heat(found),
            "n": a.calibration.n,
            "positives": a.calibration.positives,
            "relative": a.relative,
        },
        objects=job.objects.described,
        verdicts=dict(collections.Counter(v.verdict for v in a.verdicts)),
        undecided=undecided_of(a.verdicts),
        skipped=dict(skipped.most_common()),
        heat=None,
        regions=[],
        clusters=[],
        telltales=[],
        portraits=[],
        groups=None,
        labels={
            "field": job.object_field,
            "known": int((found.scan.labels >= 0).sum()),
            "unknown": int((found.scan.labels < 0).sum()),
            "names": unknown[:20],
        },
        views=job.views,
        fields=[*store.field_names(job.cam_key), *store.object_paths(job.cam_key, job.object_field)],
        report=None,
        failed=[dataclasses.asdict(f) for f in job.failures],
        seconds=0.0,
        settings=job.used(),
        notes=[job.objects.note, *_notes(s, found)],
        unit="objects",
        units=len(found.status),
    )  # fmt: skip
    if s.report is not None:
        from .report_objects import write_objects_report

        summary.report = write_objects_report(s.report, summary, found, job)
    summary.seconds = job.seconds
    return summary


def _of_heat(found):
    """What is to be said of the heat of objects."""
    if found.heat is None:
        return (
            "the run did not explain these boxes by class, so nothing is claimed from heat; compute_cams with "
            "targets={'field': ...} does"
        )
    return found.assessment.calibration.reason.replace("tested sample", "tested object")


def _notes(settings, found):
    notes = [
        "Of each object everything outside its box was replaced; a sample takes the worst of its objects."
    ]
    if found.check is not None:
        notes.append(f"Heat: {_of_heat(found)}.")
    if not settings.control:
        notes.append("The paste control was not run, so drops may be owed to pasting.")
    if found.check is None:
        notes.append("None of these objects is found by the detector, so nothing was swapped.")
    return notes


def object_classes(found, seed):
    """Describes every class of object, as :func:`class_rows` does of samples."""
    from ...cam_core.bias.assessment import class_table

    names = np.array([n or "" for n in found.scan.names], dtype=object).astype(str)
    rows, counts = [], collections.Counter(names.tolist())
    if found.check is not None and len(found.units):
        homes = found.scan.homes[found.units]
        groups = homes if found.scenes is None else [str(found.scenes[i]) for i in homes]
        for row in class_table(
            names[found.units], found.check.effects, found.assessment.dependence[found.units],
            groups, support=False, seed=seed, unsure=found.assessment.rule.unsure,
        ):  # fmt: skip
            values = {k: v if not _is_nan(v) else None for k, v in vars(row).items()}
            values.update(bg_gap=interval_of(row.bg_gap), bg_support=interval_of(row.bg_support))
            rows.append(values)
    rows += [untested_class(name) for name in counts if name not in {r["label"] for r in rows}]
    for row in rows:
        mine = names == row["label"]
        seen = np.array([s not in ("not found", "no class") for s in found.status])
        row.update(
            samples=counts[row["label"]],
            accuracy=mean_of(np.where(np.isfinite(found.scan.score), seen, np.nan)[mine]),
            obj_energy=None if found.heat is None else mean_of(found.heat.in_box[mine]),
            area=mean_of(_areas(found.scan)[mine]),
            zero_maps=0,
        )
    return rows


def _areas(scan):
    return (scan.boxes[:, 2] - scan.boxes[:, 0]) * (scan.boxes[:, 3] - scan.boxes[:, 1])


def _is_nan(value):
    return isinstance(value, float) and not math.isfinite(value)


def object_model(found, seed):
    """The model line of objects: how many are found where they were; None where nothing was swapped."""
    from ...cam_core.bias.assessment import model_line
    from ...cam_core.bias.false_alarms import false_alarm_rate

    if found.check is None or not np.isfinite(found.check.effects.swap_drop).any():
        return None
    homes = found.scan.homes[found.units]
    groups = homes if found.scenes is None else [str(found.scenes[i]) for i in homes]
    truth = found.scan.labels[found.units]
    line = model_line(
        found.check.table, found.check.bg_predictions, int(truth.max()) + 1, truth, groups, seed
    )
    values = {
        k: interval_of(v) if dataclasses.is_dataclass(v) else v for k, v in vars(line).items()
    }
    values.update(against="objects", chance=None, majority=None, evidence=None, sensitivity=None)
    a = found.assessment
    values["null_rate"] = false_alarm_rate(
        truth, found.check.status, found.check.table, a.rule, a.relative, seed=seed
    )
    return values


def object_rows(found, indices, cam_key, model):
    """What is written of some samples and their objects.

    Returns:
        ``{sample id: {path: value}}`` and ``{sample id: {label id: {attribute: value}}}``
    """
    import fiftyone as fo

    verdict, dependence, bias = store.field_names(cam_key)
    rows, labels = {}, {}
    for i in indices:
        sample_id, unit = found.scan.ids[i], found.worst(i)
        numbers = object_numbers(found, unit, model)
        rows[sample_id] = {
            verdict: _verdict(found, unit).verdict,
            dependence: known(found.assessment.dependence[unit]) if unit is not None else None,
            bias: fo.DynamicEmbeddedDocument(**numbers),
        }
        labels[sample_id] = {
            found.scan.label_ids[u]: {
                f"{cam_key}_{name}": value for name, value in attributes_of(found, u).items()
            }
            for u in found.scan.mine[i]
        }
    return rows, labels


def _verdict(found, unit):
    from ...cam_core.bias.verdicts import CANNOT_SAY, Verdict

    if unit is None:
        return Verdict(CANNOT_SAY, "no object is annotated")
    return found.assessment.verdicts[unit]


def object_numbers(found, unit, model):
    """Every number of the object that speaks for a sample, by the names of ``store.ATTRIBUTES``."""
    values = dict.fromkeys(store.ATTRIBUTES)
    values["reason"] = _verdict(found, unit).reason
    if unit is None:
        values.update(tested=False, object_status="no_object")
        return values
    label = int(found.scan.labels[unit])
    effects = ("swap_drop", "same_drop", "bg_gap", "swap_flip", "adopt", "bg_only")
    values.update(
        tested=bool(found.assessment.tested[unit]),
        explained=model.label(label) if label >= 0 else None,
        label=found.scan.names[unit],
        score=known(found.scan.score[unit]),
        object_area=float(_areas(found.scan)[unit]),
        suspicion=known(found.assessment.suspicion[unit]),
        obj_energy=None if found.heat is None else known(found.heat.in_box[unit]),
        density_share=None if found.heat is None else known(1 - found.heat.features[unit, 0]),
        object_status="ok",
        object_source="box",
        object_scope="its worst object",
        donors=_donors(found, unit),
        **{name: found.effect(name, unit) for name in effects},
    )
    return values


def _donors(found, unit):
    place = np.flatnonzero(found.units == unit)
    if not len(place):
        return None
    d = found.check.donors
    lent = [*d.foreign[place[0]].tolist(), *d.same[place[0]].tolist()]
    return [found.scan.ids[found.rows[j]] for j in lent if j >= 0]
