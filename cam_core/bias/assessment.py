"""Which samples, which classes, and the model: from effects to what may be said.

The unit is the sample, or the scene where ``groups`` are given. Everything random is seeded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..stats.resampling import (
    Interval,
    benjamini_hochberg,
    bootstrap_mean,
    minority_chance,
    shrink,
    sign_flip_p,
)
from .calibration import Calibration, calibrate, estimate_dependence, estimate_paste_loss
from .effects import Effects, SwapTable
from .verdicts import Rule, Verdict, verdicts

# A class with fewer tested samples is shown, never flagged.
_CLASS_MIN = 20
# Half the width of a 90 % interval, in standard deviations.
_Z90 = 1.645


@dataclasses.dataclass(frozen=True)
class Assessment:
    """The evidence rule applied to a dataset.

    Attributes:
        verdicts: N :class:`~cam_core.bias.verdicts.Verdict`
        dependence: (N,) the best single estimate in 0..1 of how much of the score rests on the
            background: causal where tested, from calibrated heat where not; NaN where neither is
            known
        tested: (N,) bool, whether the swap was run
        suspicion: (N,) P(relies on background | heat); NaN where heat says nothing
        calibration: of heat against the swap
        relative: whether dependence is a share of the score
        rule: the thresholds
    """

    verdicts: list[Verdict]
    dependence: np.ndarray
    tested: np.ndarray
    suspicion: np.ndarray
    calibration: Calibration
    relative: bool
    rule: Rule = Rule()  # noqa: RUF009 - frozen


def assess(
    classes: Any,
    samples: Any,
    status: Sequence[str],
    effects: Effects,
    heat: Any = None,
    rule: Rule | None = None,
    relative: bool | None = None,
    seed: int = 51,
) -> Assessment:
    """Calibrates heat, estimates every sample's dependence and gives the verdicts.

    Args:
        classes: (N,) explained classes of the whole dataset
        samples: (n,) indices of the samples tested
        status: n strings of the :class:`~cam_core.bias.swap_test.SwapCheck`
        effects: of the n samples
        heat (None): (N, F) of :func:`~cam_core.bias.calibration.heat_features`; rows of NaN where a map
            is degenerate. None without maps
        rule (None): thresholds; the default ones by default
        relative (None): see :func:`~cam_core.bias.calibration.estimate_dependence`
        seed (51): of the folds

    Returns:
        an :class:`Assessment`

    Raises:
        ValueError: if lengths differ
    """
    rows, names = np.asarray(samples, int), np.asarray(classes)
    if not len(rows) == len(status) == len(effects.score):
        raise ValueError(
            f"samples, status and effects must be equally many, got {len(rows)}, {len(status)} and "
            f"{len(effects.score)}"
        )
    thresholds = rule or Rule()
    measures = np.full((len(names), 1), np.nan) if heat is None else np.asarray(heat, float)
    shared = effects.is_relative() if relative is None else relative
    drop = effects.swap_drop / np.maximum(effects.score, 1e-6) if shared else effects.swap_drop
    limit = thresholds.relative_dependence if shared else thresholds.dependence
    calibration = calibrate(measures[rows], drop, limit, seed=seed)
    usable = measures[rows] if calibration.usable else None
    estimate = estimate_dependence(effects, names[rows], usable, shared, seed)
    suspicion, dependence = calibration.predict(measures)
    suspicion[rows] = calibration.probability
    dependence[rows] = estimate.value
    state = np.full(len(names), "not tested", dtype=object)
    state[rows] = status

    def column(values: Any) -> np.ndarray:
        out = np.full(len(names), np.nan)
        out[rows] = values
        return out

    e = effects
    drops = column(e.swap_drop)
    found = verdicts(
        state.tolist(),
        dependence,
        column(estimate_paste_loss(e, names[rows], shared, seed).value),
        drops,
        column(e.same_drop),
        column(e.bg_support),
        suspicion,
        shared,
        thresholds,
        object_share=column((e.score - e.bg_only) / np.maximum(e.score, 1e-6)),
        error=column(estimate.error),
        score=column(e.score),
        swap_flip=column(e.swap_flip),
        same_flip=column(e.same_flip),
        donors=column(e.donors),
        controls=column(e.controls),
    )
    tested = np.isfinite(drops)
    return Assessment(found, dependence, tested, suspicion, calibration, shared, thresholds)


def undecided(
    effects: Effects, classes: Any, rule: Rule | None = None, seed: int = 51
) -> np.ndarray:
    """Says which samples more donors may still decide.

    Args:
        effects: of n tested samples
        classes: (n,) explained classes
        rule (None): thresholds; the default ones by default
        seed (51): of the folds

    Returns:
        (n,) bool: dependence lies within its 90 % interval of the threshold, or it may exceed it and the
        cost of pasting within its own of what makes a sample unstable, or the score stays and it is open
        whether the prediction does; False where nothing was swapped, and of scores too low for a verdict
    """
    limits = rule or Rule()
    found = estimate_dependence(effects, classes, seed=seed)
    pasted = estimate_paste_loss(effects, classes, found.relative, seed)
    limit = limits.needed_dependence(effects.score, found.relative)
    reach = _Z90 * found.error
    open_ = np.abs(found.value - limit) < reach
    margin = _Z90 * np.hypot(pasted.error, limits.control * found.error)
    unstable = np.abs(pasted.value - limits.control * found.value) < margin
    partial = limits.partial * (1.0 if found.relative else effects.score)
    changing = (found.value < partial) & _may_change(effects, limits.confidence)
    decided_by_score = effects.score < limits.unsure
    return (open_ | (unstable & (found.value > limit - reach)) | changing) & ~decided_by_score


def _may_change(effects: Effects, confidence: float) -> np.ndarray:
    """Where neither staying nor changing on most backgrounds is probable enough for the prediction."""
    flips = np.nan_to_num(effects.swap_flip)
    pairs = zip(flips.tolist(), effects.donors.tolist(), strict=True)
    stays = np.array([minority_chance(round(share * of), int(of)) for share, of in pairs])
    return (stays > 1 - confidence) & (stays < confidence)


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """One class of :func:`class_table`.

    Attributes:
        label: the class
        n: tested samples
        bg_gap: mean and 95 % interval
        bg_support: likewise
        swap_drop: mean
        same_drop: mean
        dependence: mean, 0..1
        rank_score: the mean dependence drawn toward that of all by n / (n + 20), for ranking
        p: sign-flip permutation, the larger of those of bg_gap and bg_support
        q: Benjamini-Hochberg over the classes with at least 20 samples; NaN for others
        flagged: n >= 20, both lower bounds > .05 and q < .05
        note: ``"too few"`` tested samples, ``"unsure"`` where too few of them have a score that could be
            lost, so that no dependence would have been seen; else empty, and of a flagged class
    """

    label: Any
    n: int
    bg_gap: Interval
    bg_support: Interval
    swap_drop: float
    same_drop: float
    dependence: float
    rank_score: float
    p: float
    q: float
    flagged: bool
    note: str


def class_table(
    classes: Any,
    effects: Effects,
    dependence: Any,
    groups: Any = None,
    least: float = 0.05,
    level: float = 0.05,
    support: bool = True,
    seed: int = 51,
    unsure: float = Rule.unsure,
) -> list[ClassRow]:
    """Says which classes rest on the background.

    Both bg_gap and bg_support must do: bg_gap alone flags every class as soon as one owns a watermark
    that misleads the others when pasted.

    Args:
        classes: (n,) the class of each tested sample
        effects: of the tested samples; those without a swap are left out
        dependence: (n,) in 0..1
        groups (None): (n,) scenes or videos; intervals and permutations then work on these
        least (0.05): what the lower bounds must exceed
        level (0.05): what q must stay below
        support (True): whether bg_support must do, too; False where a background alone has no score, as
            with detectors
        seed (51): of bootstrap and permutations
        unsure (0.25): a lower score could not be lost

    Returns:
        :class:`ClassRow`, highest ``rank_score`` first
    """
    names, index = np.unique(np.asarray(classes), return_inverse=True)
    known = np.isfinite(effects.swap_drop)
    estimates = np.asarray(dependence, float)
    scenes = None if groups is None else np.unique(groups, return_inverse=True)[1]
    rows = []
    for number in range(len(names)):
        members = (index == number) & known
        unit = None if scenes is None else scenes[members]
        intervals, p = [], []
        for offset, values in enumerate((effects.bg_gap[members], effects.bg_support[members])):
            source = [seed, number, offset]
            intervals.append(bootstrap_mean(values, unit, seed=source))
            p.append(
                sign_flip_p(values if unit is None else _scene_sums(values, unit), seed=source)
            )
        means = [_mean(v[members]) for v in (effects.swap_drop, effects.same_drop, estimates)]
        needed = p if support else p[:1]
        worst = max(needed) if np.isfinite(needed).all() else np.nan
        rows.append((int(members.sum()), intervals, means, worst))
    counts = np.array([row[0] for row in rows])
    p_values = np.array([row[3] for row in rows])
    q = benjamini_hochberg(np.where(counts >= _CLASS_MIN, p_values, np.nan))
    ranked = shrink([row[2][2] for row in rows], counts)
    table = []
    for i, (count, (gap, own), (drop, same, mean), p_value) in enumerate(rows):
        enough = gap.low > least and (own.low > least or not support)
        flagged = bool(q[i] < level and enough)
        sure = int((effects.score[(index == i) & known] >= unsure).sum())
        note = "" if sure >= _CLASS_MIN or flagged else "unsure"
        note = note if count >= _CLASS_MIN else "too few"
        row = ClassRow(
            names[i].item(), count, gap, own, drop, same, mean, float(ranked[i]),
            float(p_value), float(q[i]), flagged, note,
        )  # fmt: skip
        table.append(row)
    return sorted(table, key=lambda r: -np.nan_to_num(r.rank_score, nan=-1))


def _scene_sums(values: np.ndarray, scenes: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    _, unit = np.unique(scenes[known], return_inverse=True)
    return np.bincount(unit, values[known]) if known.any() else values[known]


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


@dataclasses.dataclass(frozen=True)
class ModelLine:
    """The model on the tested samples; shares in 0..1 with 95 % intervals.

    Attributes:
        accuracy: on the images themselves
        mixed_rand: objects on backgrounds of other classes
        mixed_same: objects on backgrounds of their own class, the paste control
        bg_gap: mixed_same - mixed_rand, paired
        only_bg: backgrounds alone
        chance: 1 / number of classes
        majority: share of the most frequent label among those of ``only_bg``
        against: ``"labels"``, or ``"predictions"`` where there are none: agreement then
    """

    accuracy: Interval
    mixed_rand: Interval
    mixed_same: Interval
    bg_gap: Interval
    only_bg: Interval
    chance: float
    majority: float
    against: str


def model_line(
    table: SwapTable,
    bg_predictions: Any,
    n_classes: int,
    labels: Any = None,
    groups: Any = None,
    seed: int = 51,
) -> ModelLine:
    """Accuracy as it is, with foreign backgrounds, with the control and without objects.

    Args:
        table: of the tested samples
        bg_predictions: (n,) predicted classes of the backgrounds alone, -1 where there is none
        n_classes: classes of the model
        labels (None): (n,) true class indices, -1 where unknown; None takes the predictions instead
        groups (None): (n,) scenes or videos to draw whole
        seed (51): of the bootstrap

    Returns:
        a :class:`ModelLine`; samples without a swap are left out everywhere
    """
    truth = np.asarray(table.prediction if labels is None else labels)
    tested = np.isfinite(table.foreign_scores).any(1) & (truth >= 0)
    background_winners = np.asarray(bg_predictions)

    def share(right: np.ndarray, known: np.ndarray) -> np.ndarray:
        count = known.sum(1)
        return np.where((count > 0) & tested, (right & known).sum(1) / np.maximum(count, 1), np.nan)

    column = truth[:, None]
    rand = share(table.foreign_predictions == column, table.foreign_predictions >= 0)
    same = share(table.same_predictions == column, table.same_predictions >= 0)
    original = np.where(tested, table.prediction == truth, np.nan)
    background_only = np.where(
        tested & (background_winners >= 0), background_winners == truth, np.nan
    )
    frequent = (
        np.bincount(truth[np.isfinite(background_only)])
        if np.isfinite(background_only).any()
        else np.zeros(1)
    )

    def interval(values: np.ndarray) -> Interval:
        return bootstrap_mean(values, groups, seed=seed)

    return ModelLine(
        accuracy=interval(original),
        mixed_rand=interval(rand),
        mixed_same=interval(same),
        bg_gap=interval(same - rand),
        only_bg=interval(background_only),
        chance=1 / n_classes,
        majority=float(frequent.max() / max(1, frequent.sum())),
        against="predictions" if labels is None else "labels",
    )


def evidence_table(correct: Sequence[bool], relies: Sequence[bool | None]) -> dict[str, int]:
    """Counts correctness x evidence.

    Args:
        correct: N, whether the prediction is right
        relies: N, whether the score relies on the background; None where it cannot be said

    Returns:
        counts under ``right_object``, ``right_background`` (right for the wrong reason),
        ``wrong_object``, ``wrong_background`` and ``unknown``

    Raises:
        ValueError: if lengths differ
    """
    names = {True: "background", False: "object"}
    counts = {f"{a}_{b}": 0 for a in ("right", "wrong") for b in ("object", "background")}
    counts["unknown"] = 0
    for right, rests in zip(correct, relies, strict=True):
        key = (
            "unknown" if rests is None else f"{'right' if right else 'wrong'}_{names[bool(rests)]}"
        )
        counts[key] += 1
    return counts
