"""A detector's objects after the test: what is written, and what is said of classes and model."""

import collections
import dataclasses
import time

from ..data.loader import Failure
from ..jobs.base import Phase
from ..runs.label_attributes import LabelAttributes
from ..runs.locking import schema_lock
from . import schema as store
from .boxes import analyse_boxes
from .findings import class_rows, model_numbers
from .rows import labels_of, rows_of
from .summary import BiasSummary, undecided_of

_WRITTEN_AT_ONCE = 500


def examine(job, folder, stack, start):
    """Tests a detector's objects and stores what was found.

    Args:
        job: the :class:`BiasJob`
        folder: a temporary folder
        stack: closes what is opened
        start: when the run began

    Yields:
        a :class:`Phase`, now and then

    Returns:
        a :class:`BiasSummary`
    """
    found = yield from analyse_boxes(job, folder, stack)
    yield from _write(job, found)
    return _summarise(job, found, start)


def _write(job, found):
    """Everything of a sample and its objects in one update."""
    dataset, key, field = job.dataset, job.cam_key, job.object_field
    with schema_lock(dataset):
        job.held.check()
        store.declare(dataset, key, [])
    store.declare_objects(dataset, key, field)
    count, start, mine = len(job.rows), time.perf_counter(), found.scan.of_samples()
    for first in range(0, count, _WRITTEN_AT_ONCE):
        indices = range(first, min(first + _WRITTEN_AT_ONCE, count))
        units = {job.rows[i][0]: mine[i] for i in indices}
        rows, labels = rows_of(found, units, key, job.model), labels_of(found, units, key)
        parts = {i: LabelAttributes(f"{field}.detections", part) for i, part in labels.items()}
        for sample_id in store.write(dataset, rows, parts):
            path = dict(job.rows)[sample_id]
            job.failures.append(Failure(sample_id, path, "the sample was deleted during the run"))
        yield Phase("writing", indices[-1] + 1, count, time.perf_counter() - start)
    worst = map(found.worst, mine)
    ids = [row[0] for row in job.rows]
    job.show({i: found.verdict(unit).verdict for i, unit in zip(ids, worst, strict=True)}, False)


def _summarise(job, found, start):
    s, seed = job.settings, job.settings.seed
    a, tested = found.assessment, int(found.assessment.tested.sum())
    skipped = collections.Counter(
        "not in the probe" if state == "not tested" else state for state in found.status
    )
    skipped.pop("ok", None)
    unknown = sorted({n or "" for n, i in zip(found.scan.names, found.truth, strict=True) if i < 0})
    summary = BiasSummary(
        cam_key=job.cam_key,
        samples=len(job.rows),
        tested=tested,
        classes=class_rows(found, seed),
        model=model_numbers(found, seed),
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
            "known": int((found.truth >= 0).sum()),
            "unknown": int((found.truth < 0).sum()),
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
        from .report import write_report

        summary.report = write_report(s.report, summary, found, job.model, job.dataset)
    summary.seconds = time.perf_counter() - start
    return summary


def _of_heat(found):
    """What is to be said of the heat of objects."""
    if found.scan.heat is None:
        return (
            "the run did not explain these boxes by class, so nothing is claimed from heat; compute_cams with "
            "targets={'field': ...} does"
        )
    return found.assessment.calibration.reason.replace("tested sample", "tested object")


def _notes(settings, found):
    notes = [
        "Of each object everything outside its box was replaced; a sample takes the worst of its objects."
    ]
    if found.tested.check is not None:
        notes.append(f"Heat: {_of_heat(found)}.")
    if not settings.control:
        notes.append("The paste control was not run, so drops may be owed to pasting.")
    if found.tested.check is None:
        notes.append("None of these objects is found by the detector, so nothing was swapped.")
    return notes
