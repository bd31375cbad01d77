"""Images as units: measured, swapped, and judged for one or several of their classes."""

import numpy as np

from ..data.samples import read_values
from ..jobs.base import phased
from .findings import judge
from .membership import ClassMembership
from .params import NOISY, PROBE
from .regions import BorderRegions, HottestRegions
from .scan import Scan, ScanStep
from .swap import CausalTests, choose_probe

#: of a sample that is asked for a class that it does not have
ABSENT = "without the class"
_STATUS = {"no_object": "no object", "object_absent": "object absent"}


def analyse_images(job):
    """Measures every image and runs the causal tests on those that are probed.

    Args:
        job: the :class:`BiasJob`

    Yields:
        a :class:`Phase`, now and then

    Returns:
        :class:`~operators.bias.findings.Findings`
    """
    classes = ClassMembership(job.model, job.plan.target, job.outputs, job.labels)
    scan = yield from _scan(job, classes)
    return (yield from _CausalPass(job, scan, classes).run())


def _scan(job, classes):
    """Scores, maps and measures of every sample."""
    scan = Scan(job.rows, job.plan, job.folder, classes.slots())
    step = ScanStep(job.model, job.plan, job.objects, scan)
    yield from job.over_samples("measuring heat", job.rows, step, scan)
    if not (scan.explained >= 0).any():
        first = job.failures[0].reason if job.failures else "the model's scores are not finite"
        raise ValueError(f"samples: none could be explained; {first}")
    classes.settle(scan)
    return scan


def open_probe(job, scan, classes, precision, usable, objects=None, names=()):
    """Draws the units to be tested, and decodes their pictures.

    Args:
        job: its settings say how many, its stack closes what is opened
        scan: the :class:`Scan`
        classes: the :class:`ClassMembership`
        precision: of the forward
        usable: (R,) bool, which units can be tested
        objects (None): the :class:`AnnotatedObjects` whose masks are drawn
        names (()): of each unit the name of the explained class

    Yields:
        a :class:`Phase`, now and then

    Returns:
        the :class:`CausalTests`, the :class:`Probe`, and the scenes of all units, or None
    """
    s = job.settings
    limit = PROBE if s.probe == "auto" else s.probe
    rows = choose_probe(scan.explained, usable, limit, s.seed)
    lenders = classes.lenders(scan, rows, limit, s.seed)
    check = CausalTests(job.model, s, job.folder, precision)
    job.stack.callback(check.close)
    prepare = check.prepare(scan, rows, objects, names, lenders)
    total = len(rows) + len(lenders)
    tested = yield from phased("preparing pictures", prepare, lambda n: (n, total))
    # units of one sample lend each other nothing, and count as one where several are drawn
    scenes = scan.ids if scan.slots > 1 else None
    if s.scenes is not None:
        scenes = scan.spread(read_values(job.samples, s.scenes))
    return check, tested, None if scenes is None else np.array([str(v) for v in scenes])


class _CausalPass:
    """The causal tests on the probe of a classifier, and what follows for every unit.

    Args:
        job: the :class:`BiasJob`
        scan: the :class:`Scan`
        classes: the :class:`ClassMembership`
    """

    def __init__(self, job, scan, classes):
        self._job, self._scan, self._classes = job, scan, classes
        self._check = self._tested = self._groups = None

    def run(self):
        """Runs them; yields :class:`Phase`, returns :class:`~operators.bias.findings.Findings`."""
        job, scan, classes = self._job, self._scan, self._classes
        names = [job.model.label(int(c)) if c >= 0 else None for c in scan.explained]
        usable = classes.has & (scan.object_status == "ok")
        swaps = bool(usable.any())
        self._check, self._tested, scenes = yield from open_probe(
            job, scan, classes, job.plan.precision, usable if swaps else classes.has,
            job.objects if swaps else None, names,
        )  # fmt: skip
        self._groups = None if scenes is None else scenes[self._tested.all_rows].tolist()
        yield from self._swap() if swaps else self._regions()
        labels, truth = job.labels.read(scan.ids, scan.predicted)
        if classes.multi_label:
            truth = classes.truth(scan)
        if swaps and job.settings.noise:
            yield from self._noise(truth)
        return self._judge(names, labels, truth, scenes)

    def _swap(self):
        s, tested, count = self._job.settings, self._tested, len(self._tested.rows)
        total = count * (2 + s.donors * (1 + s.control))
        swap = self._check.swap(tested, self._classes, self._scan, self._groups)
        yield from phased("swapping backgrounds", swap, lambda n: (n, total))
        if self._job.plan.primary is not None:
            effects = self._check.heat_effects(tested, self._scan)
            yield from phased("removing hot pixels", effects, lambda n: (n, 2 * count))
        if tested.contexts is not None:
            yield from self._region("context", tested.contexts)

    def _noise(self, truth):
        """Noise on objects and on backgrounds, of samples whose class is known, else predicted."""
        from ...cam_core.bias.noise_sensitivity import TRIALS

        tested, scan = self._tested, self._scan
        right = np.where(truth >= 0, truth, -1)[tested.rows]
        if not (right >= 0).any():
            right = np.where(self._classes.predicted, scan.predicted, -1)[tested.rows]
        usable = (right >= 0) & np.array([status == "ok" for status in tested.check.status])
        places = choose_probe(right, usable, NOISY, self._job.settings.seed)
        total = 2 * TRIALS * len(places)
        steps = self._check.noise(tested, right[places], places, self._classes.threshold)
        yield from phased("adding noise", steps, lambda n: (n, total))

    def _regions(self):
        """Without objects: the border and the hottest place."""
        tested = self._tested
        regions = {"border": BorderRegions(tested.pictures)}
        if self._job.plan.primary is not None:
            regions["hottest"] = HottestRegions(tested.pictures, self._scan, tested.rows)
        for name, masks in regions.items():
            yield from self._region(name, masks)

    def _region(self, name, masks):
        tested = self._tested
        total = len(tested.rows) * (1 + 2 * self._job.settings.donors)
        asked = self._classes.arguments(self._scan, tested)
        call = self._check.region(tested.pictures, masks, asked, self._groups)
        tested.regions[name] = yield from phased(
            f"replacing the {name}", call, lambda n: (n, total)
        )

    def _judge(self, names, labels, truth, scenes):
        scan, classes, job = self._scan, self._classes, self._job
        failures = {f.id: f.reason for f in job.failures}
        right = np.where((truth >= 0) & (scan.predicted >= 0), scan.predicted == truth, np.nan)
        right = np.where(truth == -2, 0.0, right)
        right = np.where(scan.explained < 0, np.nan, right)
        meant = [a if a is not None else b for a, b in zip(labels, names, strict=True)]
        if classes.multi_label:
            right, meant = classes.correct(scan), names
        return judge(
            scan, self._tested, _untested(scan, classes, failures), job.settings.seed,
            labels=labels, truth=truth, names=meant, correct=right, scenes=scenes, classes=classes,
        )  # fmt: skip


def _untested(scan, classes, failures):
    """The status of each unit, should it not be tested."""
    status = []
    for i, (sample_id, own) in enumerate(zip(scan.ids, scan.object_status.tolist(), strict=True)):
        reason = scan.object_reasons.get(i, "unknown reason")
        status.append(
            failures.get(sample_id, "the model's scores are not finite") if scan.explained[i] < 0
            else ABSENT if not classes.has[i]
            else "not tested" if own == "ok"
            else f"the annotation cannot be read: {reason}" if own == "unreadable"
            else _STATUS[own]
        )  # fmt: skip
    return status
