"""From both passes to what may be said: verdicts, classes, the model, heat beside its baselines."""

import collections
import dataclasses
import math

import numpy as np

#: a class with fewer tested samples is never flagged; the rule itself is in cam_core.bias.assessment
CLASS_MIN = 20
#: a score below can hardly lose enough for a loss to show beside chance
LOSABLE = 0.25

# A random region that lies on the region itself is no control.
_MOST_OVERLAP = 0.5

#: of a sample that is asked for a class that it does not have
ABSENT = "without the class"
_STATUS = {"no_object": "no object", "object_absent": "object absent"}


@dataclasses.dataclass
class Findings:
    """Everything that is known of N samples once both passes are through.

    Attributes:
        scan: the :class:`Scan`
        tested: the :class:`Probe`
        status: N strings, ``"ok"``, ``"not tested"`` or why a sample could not be tested
        assessment: the :class:`~cam_core.bias.assessment.Assessment` of all samples
        place: (N,) position among the tested samples, -1 for the others
        labels: N names or None
        truth: (N,) class indices of the labels, -1 without, -2 where the model has no such class
        names: N names of the class a sample counts for: its label, else the explained class
        correct: (N,) 1, 0 or NaN
        scenes: N values or None
        check: the :class:`CausalTests`, whose pictures and model can still be used
        units: the :class:`~operators.bias.units.ClassUnits`
    """

    scan: object
    tested: object
    status: list
    assessment: object
    place: np.ndarray
    labels: list
    truth: np.ndarray
    names: list
    correct: np.ndarray
    scenes: list
    check: object = None
    units: object = None

    def worst(self, rows):
        """The row that speaks for a sample, of its rows of the scan."""
        from ...cam_core.bias.object_swap_test import worst_of

        says = [self.assessment.verdicts[i].verdict for i in rows]
        return rows[worst_of(says, self.assessment.dependence[rows])]

    def scenes_tested(self):
        """(n,) scenes of the tested samples, or None."""
        if self.scenes is None:
            return None
        return np.array([str(self.scenes[i]) for i in self.tested.rows])

    def effect(self, name):
        """(N,) a field of :class:`~cam_core.bias.effects.Effects`; NaN where a sample was not tested."""
        out = np.full(len(self.place), np.nan)
        if self.tested.check is not None:
            known = self.place >= 0
            values = np.asarray(getattr(self.tested.check.effects, name), float)
            out[known] = values[self.place[known]]
        return out


def find(scan, tested, units, labels, truth, explained_names, scenes, failures, seed):
    """Applies the evidence rule.

    Args:
        scan: the :class:`Scan`
        tested: the :class:`Probe`
        units: the :class:`~operators.bias.units.ClassUnits`
        labels: N names or None
        truth: (N,) class indices
        explained_names: N names of the explained classes, None where a sample failed
        scenes: N values, or None
        failures: ``{index: reason}`` of samples that could not be explained
        seed: of the folds

    Returns:
        :class:`Findings`
    """
    from ...cam_core.bias.assessment import assess

    place = np.full(len(scan.ids), -1)
    place[tested.rows] = np.arange(len(tested.rows))
    if tested.check is None:
        place[:] = -1
    status = [_status(scan, tested, units, place, i, failures) for i in range(len(scan.ids))]
    # what cannot be tested has a verdict too, and its reason
    others = [i for i, s in enumerate(status) if place[i] < 0 and s != "not tested"]
    rows = np.concatenate([tested.rows if tested.check is not None else [], others]).astype(int)
    assessment = assess(
        scan.explained,
        rows,
        [status[i] for i in rows],
        _padded(tested, scan, rows),
        scan.features(),
        seed=seed,
    )
    right = np.where((truth >= 0) & (scan.predicted >= 0), scan.predicted == truth, np.nan)
    right = np.where(truth == -2, 0.0, right)
    right = np.where(scan.explained < 0, np.nan, right)
    names = [a if a is not None else b for a, b in zip(labels, explained_names, strict=True)]
    if units.multi_label:
        right, names = units.correct(scan), list(explained_names)
    return Findings(
        scan, tested, status, assessment, place, labels, truth, names, right, scenes, units=units
    )


def _status(scan, tested, units, place, i, failures):
    if scan.explained[i] < 0:
        return failures.get(i, "the model's scores are not finite")
    if place[i] >= 0:
        return tested.check.status[place[i]]
    if not units.has[i]:
        return ABSENT
    own = str(scan.object_status[i])
    if own == "ok":
        return "not tested"
    if own == "unreadable":
        return f"the annotation cannot be read: {scan.object_reasons.get(i, 'unknown reason')}"
    return _STATUS[own]


def _padded(tested, scan, rows):
    """The effects of the tested samples, followed by NaN for those that cannot be tested."""
    from ...cam_core.bias.effects import Effects

    count = len(rows)
    columns = {}
    for field in dataclasses.fields(Effects):
        whole = field.name in ("donors", "controls")
        column = np.zeros(count, int) if whole else np.full(count, np.nan)
        if tested.check is not None:
            values = getattr(tested.check.effects, field.name)
            column[: len(values)] = values
        columns[field.name] = column
    columns["score"] = scan.score[rows] if tested.check is None else columns["score"]
    return Effects(**columns)


def interval_of(interval):
    """An interval as a dict of plain values, None for what is not known."""
    values = dataclasses.asdict(interval)
    return {k: _plain(v) for k, v in values.items()}


def _plain(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value


def mean_of(values):
    """The mean of what is known, or None."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else None


def class_rows(found, seed):
    """Describes every class.

    Args:
        found: the :class:`Findings`
        seed: of bootstrap and permutations

    Returns:
        a list of dicts, the most dependent class first: those of
        :class:`~cam_core.bias.assessment.ClassRow`, and ``samples, accuracy, obj_energy, area, zero_maps``
    """
    from ...cam_core.bias.assessment import class_table

    names = np.array([n if n is not None else "" for n in found.names], dtype=object)
    rows = []
    if found.tested.check is not None:
        mine = found.tested.rows
        for row in class_table(
            names[mine].astype(str),
            found.tested.check.effects,
            found.assessment.dependence[mine],
            found.scenes_tested(),
            seed=seed,
        ):
            values = {k: _plain(v) for k, v in vars(row).items()}
            values.update(bg_gap=interval_of(row.bg_gap), bg_support=interval_of(row.bg_support))
            rows.append(values)
    counts = collections.Counter(names.tolist())
    counts.pop("", None)
    seen = {row["label"] for row in rows}
    for name in counts:
        if name not in seen:
            rows.append(untested_class(name))
    for row in rows:
        mine = names == row["label"]
        row.update(
            samples=counts[row["label"]],
            accuracy=mean_of(found.correct[mine]),
            obj_energy=mean_of(
                np.where(found.scan.reliable, found.scan.column("obj_energy"), np.nan)[mine]
            ),
            area=mean_of(np.where(found.scan.reliable, found.scan.area, np.nan)[mine]),
            zero_maps=int((found.scan.heat_status[mine] == "zero").sum()),
        )
    return rows


def untested_class(name):
    """The row of a class of which nothing was tested."""
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    numbers = ("swap_drop", "same_drop", "dependence", "rank_score", "p", "q")
    return {
        "label": name,
        "n": 0,
        "bg_gap": dict(nothing),
        "bg_support": dict(nothing),
        **dict.fromkeys(numbers),
        "flagged": False,
        "note": "too few",
    }


def model_numbers(found, seed):
    """The model line as plain values; None where nothing was tested."""
    from ...cam_core.bias.assessment import evidence_table, model_line
    from ...cam_core.bias.false_alarms import false_alarm_rate
    from ...cam_core.bias.verdicts import HARMLESS, HIDDEN, OBJECT, RELIES

    check = found.tested.check
    if check is None:
        return None
    rows = found.tested.rows
    if found.units.multi_label:
        table, alone, classes, truth = _one_by_one(found)
    else:
        table, alone, classes = check.table, check.bg_predictions, found.scan.classes
        truth = np.maximum(found.truth[rows], -1)
    known = bool((truth >= 0).any())
    line = model_line(
        table, alone, classes, truth if known else None, found.scenes_tested(), seed
    )  # fmt: skip
    values = {
        k: interval_of(v) if dataclasses.is_dataclass(v) else v for k, v in vars(line).items()
    }
    says = {RELIES: True, HIDDEN: True, OBJECT: False, HARMLESS: False}
    judged = [i for i in range(len(found.names)) if np.isfinite(found.correct[i])]
    values["null_rate"] = false_alarm_rate(
        found.scan.explained[rows],
        check.status,
        check.table,
        relative=found.assessment.relative,
        seed=seed,
    )
    values["sensitivity"] = _sensitivity(found, seed)
    values["evidence"] = evidence_table(
        [bool(found.correct[i]) for i in judged],
        [says.get(found.assessment.verdicts[i].verdict) for i in judged],
    )
    return values


def _one_by_one(found):
    """Each class by itself: 1 where it is given, 0 where not; for :func:`~cam_core.bias.assessment.model_line`."""
    rows, check = found.tested.rows, found.tested.check
    own = found.scan.explained[rows]

    def given(names):
        column = own if names.ndim == 1 else own[:, None]
        return np.where(names == -1, -1, names == column).astype(int)

    table = dataclasses.replace(
        check.table,
        prediction=given(check.table.prediction),
        foreign_predictions=given(check.table.foreign_predictions),
        same_predictions=given(check.table.same_predictions),
    )
    truth = found.truth[rows]
    return table, given(check.bg_predictions), 2, np.where(truth == -1, -1, truth >= 0).astype(int)


def _sensitivity(found, seed):
    """Relative foreground sensitivity as plain values; None where it was not measured."""
    from ...cam_core.bias.noise_sensitivity import summarise_noise

    tested = found.tested
    if tested.noise is None or not len(tested.noise):
        return None
    scenes = found.scenes_tested()
    groups = None if scenes is None else scenes[tested.noise_rows]
    return interval_of(summarise_noise(tested.noise, groups, seed))


def heat_numbers(found, seed):
    """Mean heat on the objects of the tested samples beside what maps get that know nothing.

    Returns:
        a dict of shares in [0, 1]: ``obj_energy, uniform, shuffled, gaussian``, the ``median`` of
        obj_energy, ``n`` and ``zero``, the number of maps without heat; None without objects
    """
    import torch

    from ...cam_core.metrics.baselines import centred_gaussian, shuffled
    from ...cam_core.metrics.localization import measure
    from .scan import KEPT

    tested, scan = found.tested, found.scan
    if tested.grids is None or not np.isfinite(scan.column("obj_energy")).any():
        return None
    rows = tested.rows
    energy = np.where(scan.reliable[rows], scan.column("obj_energy")[rows], np.nan)
    good = np.isfinite(energy)
    if not good.any():
        return None
    objects = torch.from_numpy(tested.grids[good])
    heat = torch.from_numpy(scan.maps[rows[good]].astype(np.float32))
    bell = centred_gaussian((KEPT, KEPT)).expand(len(objects), -1, -1)
    return {
        "obj_energy": float(energy[good].mean()),
        "median": float(np.median(energy[good])),
        "uniform": float(scan.area[rows][good].mean()),
        "shuffled": mean_of(shuffled(heat, objects, seed=seed).numpy()),
        "gaussian": mean_of(measure(bell, objects).obj_energy.numpy()),
        "n": int(good.sum()),
        "zero": int((scan.heat_status == "zero").sum()),
    }


def region_numbers(check, seed, groups=None):
    """The effect of a region as plain values.

    Args:
        check: a :class:`~cam_core.bias.swap_test.RegionCheck`
        seed: of bootstrap and permutations
        groups (None): n scenes

    Returns:
        a dict: ``effect`` (region_gap: mean and 95 % interval; of samples whose random regions lie
        mostly beside the region, for else there is no control), ``region_drop``, ``control_drop``,
        ``flip``, ``p``, ``n``, ``skipped`` by reason, ``control`` (``"elsewhere"`` or ``"same class"``),
        and ``controlled``, how many had a control
    """
    from ...cam_core.stats.resampling import bootstrap_mean, sign_flip_p

    e = check.effects
    reasons = collections.Counter(s for s in check.status if s != "ok")
    gaps = controlled_gaps(check)
    return {
        "effect": interval_of(bootstrap_mean(gaps, groups, seed=seed)),
        "region_drop": interval_of(bootstrap_mean(e.region_drop, groups, seed=seed)),
        "control_drop": interval_of(bootstrap_mean(e.control_drop, groups, seed=seed)),
        "flip": mean_of(e.region_flip),
        "p": _plain(sign_flip_p(by_group(gaps, groups), seed=seed)),
        "n": int(np.isfinite(e.region_drop).sum()),
        "skipped": dict(reasons),
        "control": check.control,
        "controlled": int(np.isfinite(gaps).sum()),
    }


def controlled_gaps(check):
    """(n,) region_gap; NaN where most of the random regions lies on the region itself."""
    overlap = np.nan_to_num(check.control_overlap, nan=0)
    return np.where(overlap <= _MOST_OVERLAP, check.effects.region_gap, np.nan)


def by_group(values, groups):
    """Values, or their sums over each group where there are groups."""
    if groups is None:
        return values
    known = np.isfinite(values)
    _, unit = np.unique(np.asarray(groups)[known], return_inverse=True)
    return np.bincount(unit, values[known]) if known.any() else values
