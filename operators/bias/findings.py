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


@dataclasses.dataclass
class Findings:
    """Everything that is known of R units once both passes are through.

    Attributes:
        scan: the :class:`~operators.bias.units.Units`
        tested: the :class:`Probe`
        status: R strings, ``"ok"``, ``"not tested"`` or why a unit could not be tested
        assessment: the :class:`~cam_core.bias.assessment.Assessment` of all units
        place: (R,) position among the tested units, -1 for the others
        labels: R names or None
        truth: (R,) class indices of the labels, -1 without, -2 where the model has no such class
        names: R names of the class a unit counts for: its label, else the explained class
        correct: (R,) 1, 0 or NaN; of a box, whether it is found
        scenes: (R,) array of what is drawn whole, or None
        classes: the :class:`~operators.bias.membership.ClassMembership`; None of boxes
    """

    scan: object
    tested: object
    status: list
    assessment: object
    place: np.ndarray
    labels: list
    truth: np.ndarray
    names: list
    correct: np.ndarray = None
    scenes: object = None
    classes: object = None

    @property
    def of_boxes(self):
        """Whether the units are boxes."""
        return self.scan.boxes is not None

    @property
    def multi_label(self):
        """Whether the units are classes that do not exclude each other."""
        return self.classes is not None and self.classes.multi_label

    @property
    def unit(self):
        """What the units are called."""
        if self.of_boxes:
            return "objects"
        return "predictions" if self.scan.slots > 1 else "samples"

    def counted(self):
        """The units that count: of a sample that shows no class one says so, and is no prediction."""
        units = range(len(self.status))
        return [i for i in units if self.classes.has[i]] if self.scan.slots > 1 else list(units)

    def worst(self, units):
        """The unit that speaks for a sample, of its units; None where there are none."""
        from ...cam_core.bias.object_swap_test import worst_of

        if not units:
            return None
        says = [self.assessment.verdicts[i].verdict for i in units]
        return units[worst_of(says, self.assessment.dependence[units])]

    def verdict(self, unit):
        """The :class:`~cam_core.bias.verdicts.Verdict` of the unit that speaks for a sample."""
        from ...cam_core.bias.verdicts import CANNOT_SAY, Verdict

        if unit is None:
            return Verdict(CANNOT_SAY, "no object is annotated")
        return self.assessment.verdicts[unit]

    def scenes_tested(self):
        """(n,) scenes of the tested units, or None."""
        if self.scenes is None:
            return None
        return self.scenes[self.tested.rows]

    def effect(self, name):
        """(R,) a field of :class:`~cam_core.bias.effects.Effects`; NaN where a unit was not tested."""
        out = np.full(len(self.place), np.nan)
        if self.tested.check is not None:
            known = self.place >= 0
            values = np.asarray(getattr(self.tested.check.effects, name), float)
            out[known] = values[self.place[known]]
        return out

    def donors(self, unit):
        """The ids of the samples whose backgrounds a tested unit was tried on."""
        donors, place = self.tested.check.donors, self.place[unit]
        pictures = [*donors.foreign[place].tolist(), *donors.same[place].tolist()]
        return [self.tested.ids[j] for j in pictures if j >= 0]


def judge(scan, tested, untested, seed, rule=None, **known):
    """Applies the evidence rule.

    Args:
        scan: the :class:`~operators.bias.units.Units`
        tested: the :class:`Probe`
        untested: R strings, the status of each unit that was not tested
        seed: of the folds
        rule (None): thresholds
        known: more attributes of :class:`Findings`

    Returns:
        :class:`Findings`
    """
    from ...cam_core.bias.assessment import assess

    place, status = np.full(len(scan.ids), -1), list(untested)
    if tested.check is not None:
        place[tested.rows] = np.arange(len(tested.rows))
        for i, state in zip(tested.rows.tolist(), tested.check.status, strict=True):
            status[i] = state
    # what cannot be tested has a verdict too, and its reason
    others = [i for i, state in enumerate(status) if place[i] < 0 and state != "not tested"]
    rows = np.concatenate([tested.rows if tested.check is not None else [], others]).astype(int)
    effects, features = _padded(tested, scan, rows), scan.features()
    states = [status[i] for i in rows]
    assessment = assess(scan.explained, rows, states, effects, features, rule=rule, seed=seed)
    return Findings(scan, tested, status, assessment, place, **known)


def _padded(tested, scan, rows):
    """The effects of the tested units, followed by NaN for those that cannot be tested."""
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


def known(value):
    """A number as it is stored: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


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
    if len(found.tested.rows) and found.tested.check is not None:
        members = found.tested.rows
        for row in class_table(
            names[members].astype(str),
            found.tested.check.effects,
            found.assessment.dependence[members],
            found.scenes_tested(),
            support=not found.of_boxes,  # a background alone has no score of a box
            seed=seed,
            unsure=found.assessment.rule.unsure,
        ):
            values = {k: _plain(v) for k, v in vars(row).items()}
            values.update(bg_gap=interval_of(row.bg_gap), bg_support=interval_of(row.bg_support))
            rows.append(values)
    counts = collections.Counter(n for n in found.names if n is not None)
    seen = {row["label"] for row in rows}
    for name in counts:
        if name not in seen:
            rows.append(untested_class(name))
    for row in rows:
        members = names == row["label"]
        row.update(
            samples=counts[row["label"]],
            accuracy=mean_of(found.correct[members]),
            obj_energy=mean_of(
                np.where(found.scan.reliable, found.scan.column("obj_energy"), np.nan)[members]
            ),
            area=mean_of(np.where(found.scan.reliable, found.scan.area, np.nan)[members]),
            zero_maps=int((found.scan.heat_status[members] == "zero").sum()),
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
    if check is None or (found.of_boxes and not np.isfinite(check.effects.swap_drop).any()):
        return None
    rows = found.tested.rows
    if found.multi_label:
        table, alone, classes, truth = _one_by_one(found)
    else:
        table, alone = check.table, check.bg_predictions
        classes = 1 if found.of_boxes else found.scan.classes
        truth = np.maximum(found.truth[rows], -1)
    known = bool((truth >= 0).any())
    line = model_line(
        table, alone, classes, truth if known else None, found.scenes_tested(), seed
    )  # fmt: skip
    values = {
        k: interval_of(v) if dataclasses.is_dataclass(v) else v for k, v in vars(line).items()
    }
    values["null_rate"] = false_alarm_rate(
        found.scan.explained[rows],
        check.status,
        check.table,
        found.assessment.rule,
        found.assessment.relative,
        seed=seed,
    )
    values["sensitivity"] = _sensitivity(found, seed)
    if found.of_boxes:
        # chance and errors have no meaning where there may be nothing
        return {**values, "against": "objects", "chance": None, "majority": None, "evidence": None}
    says = {RELIES: True, HIDDEN: True, OBJECT: False, HARMLESS: False}
    judged = [i for i in range(len(found.names)) if np.isfinite(found.correct[i])]
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
    if found.of_boxes or tested.grids is None or not np.isfinite(scan.column("obj_energy")).any():
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
