"""What heat is worth on a dataset, and the best estimate per sample.

Heat is calibrated against the swap on the tested samples; where it does not predict it, nothing is
claimed from heat. The estimate shrinks each sample's drop by the noise of its few donors.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ..stats.resampling import Logistic, auroc, auroc_error, cross_predict, fit_logistic
from .effects import Effects

#: heat predicts the swap at least so well, or nothing is claimed from it
GATE = 0.65
# Fewer positives or negatives than this calibrate nothing.
_FEWEST = 10


def heat_features(
    density_share_tol: Any, obj_energy: Any, entropy: Any, area: Any, score: Any
) -> np.ndarray:
    """Stacks what heat is calibrated on; (N, 5), a row of NaN where a measure is undefined."""
    columns = [1 - np.asarray(density_share_tol, float), obj_energy, entropy, area, score]
    features = np.column_stack([np.asarray(c, float) for c in columns])
    features[~np.isfinite(features).all(1)] = np.nan
    return features


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How well heat predicts the swap on this dataset, and the curves that follow.

    Attributes:
        auroc: of the cross-validated probabilities against the swap, in [0, 1]; None if it could not
            be measured
        auroc_without_heat: likewise from area and score alone; None likewise
        usable: whether anything may be claimed from heat: ``auroc`` reaches the gate, is above chance
            beyond its own error, and above ``auroc_without_heat``
        reason: a sentence about it
        n: tested samples with heat
        positives: those of them whose own swaps lost at least the threshold: what was measured, and no
            verdict, which also asks how sure that is
        probability: (n tested,) cross-validated P(relies on background | heat); NaN where not
            ``usable`` or without heat
        curve: gives P(relies on background | heat) of other samples; None if not ``usable``
        amount: gives their expected dependence; None if not ``usable``
    """

    auroc: float | None
    auroc_without_heat: float | None
    usable: bool
    reason: str
    n: int
    positives: int
    probability: np.ndarray
    curve: Logistic | None = None
    amount: Logistic | None = None

    def predict(self, features: Any) -> tuple[np.ndarray, np.ndarray]:
        """Estimates samples that were not tested.

        Args:
            features: (N, 5) of :func:`heat_features`

        Returns:
            P(relies on background | heat) and the expected dependence, each (N,) in 0..1; all NaN
            if heat is not usable
        """
        if self.curve is None or self.amount is None:
            return np.full(len(features), np.nan), np.full(len(features), np.nan)
        return self.curve.predict(features), self.amount.predict(features)


def calibrate(
    features: Any,
    drop: Any,
    threshold: float = 0.5,
    gate: float = GATE,
    covariates: int = 2,
    seed: int = 51,
) -> Calibration:
    """Learns from the tested samples what heat means on this dataset.

    Args:
        features: (n, F) heat measures of tested samples; rows of NaN are left out
        drop: (n,) their swap_drop, or its share of the score; NaN is left out
        threshold (0.5): from which drop on a sample relies on its background
        gate (0.65): the AUROC below which nothing is claimed from heat
        covariates (2): the last columns, which are no heat: what they predict alone is not its merit
        seed (51): of the folds

    Returns:
        a :class:`Calibration`
    """
    x, y = np.asarray(features, float), np.asarray(drop, float)
    known = np.isfinite(x).all(1) & np.isfinite(y)
    x, amount = x[known], y[known].clip(0, 1)
    positive = y[known] >= threshold
    count, positives = len(positive), int(positive.sum())
    probability = np.full(len(known), np.nan)
    if min(positives, count - positives) < _FEWEST:
        amount_of = "few" if positives < _FEWEST else "many"
        reason = (
            f"heat is not used: {positives} of {count} tested samples lose {threshold:.2f} of the score or more on "
            f"other backgrounds, too {amount_of} to learn from"
            if count
            else "heat is not used: no tested sample has any"
        )
        return Calibration(None, None, False, reason, count, positives, probability)
    estimates = cross_predict(x, positive, seed=seed)
    area = auroc(estimates, positive)
    plain = 0.5
    if 0 < covariates < x.shape[1]:
        plain = auroc(cross_predict(x[:, -covariates:], positive, seed=seed), positive)
    doubt = _why_not(area, plain, gate, positives, count - positives)
    if doubt:
        reason = f"{doubt}, so heat is not used"
        return Calibration(area, plain, False, reason, count, positives, probability)
    probability[known] = estimates
    return Calibration(
        area,
        plain,
        True,
        f"heat predicts the swap here (AUROC {area:.2f})",
        count,
        positives,
        probability,
        fit_logistic(x, positive),
        fit_logistic(x, amount),
    )


def _why_not(area: float, plain: float, gate: float, positives: int, negatives: int) -> str:
    """What speaks against an AUROC, or nothing."""
    if area < gate:
        return f"heat does not predict the swap here (AUROC {area:.2f} < {gate:.2f})"
    if area - 1.96 * auroc_error(area, positives, negatives) <= 0.5:
        return f"{positives} positives are too few for an AUROC of {area:.2f} to mean anything"
    if area <= plain:
        return f"area and score predict the swap as well without heat (AUROC {plain:.2f})"
    return ""


@dataclasses.dataclass(frozen=True)
class Dependence:
    """The best single estimate of how much of a score rests on the background.

    Attributes:
        value: (n,) in [0, 1]; NaN where the swap was not run
        prior: (n,) what samples like it would make one expect
        weight: (n,) of the sample's own swaps against the prior, in [0, 1]
        error: (n,) standard deviation of what it may be, given its swaps and the prior
        relative: whether it is a share of the score, and not a probability lost
    """

    value: np.ndarray
    prior: np.ndarray
    weight: np.ndarray
    error: np.ndarray
    relative: bool


def estimate_dependence(
    effects: Effects,
    classes: Any,
    heat: Any = None,
    relative: bool | None = None,
    seed: int = 51,
) -> Dependence:
    """Shrinks each sample's drop toward what samples like it lose, by the noise of its few donors.

    Empirical Bayes: the prior is a cross-validated curve over score, ``bg_only``, ``bg_support`` and
    usable heat, moved by the class's other samples; its spread and the noise are read from the data.

    Args:
        effects: of the tested samples
        classes: (n,) explained classes
        heat (None): (n, F) :func:`heat_features`, only if their calibration is usable
        relative (None): measures the drop as a share of the score; by default where at least half of
            the scores are below .6, as with many classes
        seed (51): of the folds

    Returns:
        a :class:`Dependence`
    """
    known = np.isfinite(effects.swap_drop)
    shared = effects.is_relative() if relative is None else relative
    score = np.maximum(effects.score, 1e-6)
    unit = score if shared else np.ones_like(score)
    drop = (effects.swap_drop / unit)[known]
    value, prior, weight, error = (np.full(known.shape, np.nan) for _ in range(4))
    if not known.any():
        return Dependence(value, prior, weight, error, shared)
    expected = _expected(effects, np.asarray(classes), heat, known, drop.clip(0, 1), seed)
    noise = _noise(effects, known, unit, expected)
    spread = max(1e-4, float(((drop - expected) ** 2).mean() - noise.mean()))
    own = spread / (spread + noise) if len(drop) >= _FEWEST else np.ones_like(noise)
    prior[known], weight[known], error[known] = expected, own, np.sqrt(own * noise)
    value[known] = (expected + own * (drop - expected)).clip(0, 1)
    return Dependence(value, prior, weight, error, shared)


def estimate_paste_loss(
    effects: Effects, classes: Any, relative: bool | None = None, seed: int = 51
) -> Dependence:
    """Likewise what pasting alone costs: ``same_drop``, shrunk by the noise of its few donors.

    Args:
        effects: of the tested samples
        classes: (n,) explained classes
        relative (None): see :func:`estimate_dependence`
        seed (51): of the folds

    Returns:
        a :class:`Dependence`, on the scale of the dependence; NaN where the control was not run
    """
    shared = effects.is_relative() if relative is None else relative
    control = dataclasses.replace(
        effects,
        swap_drop=effects.same_drop,
        swap_variance=effects.same_variance,
        donors=effects.controls,
    )
    return estimate_dependence(control, classes, None, shared, seed)


def _expected(
    effects: Effects, classes: np.ndarray, heat: Any, known: np.ndarray, drop: np.ndarray, seed: int
) -> np.ndarray:
    """What samples like it lose: a curve over covariates, then the class's other samples."""
    columns = [effects.score[known], effects.bg_only[known], effects.bg_support[known]]
    if heat is not None:
        measures = np.asarray(heat, float)[known]
        missing = ~np.isfinite(measures).all(1)
        middle = measures[~missing].mean(0) if not missing.all() else np.zeros(measures.shape[1])
        columns += [*np.where(missing[:, None], middle, measures).T, missing]
    features = np.nan_to_num(np.column_stack(columns).astype(float))
    enough = len(drop) >= 4 * features.shape[1]
    expected = (
        cross_predict(features, drop, seed=seed) if enough else np.full(len(drop), drop.mean())
    )
    rest = drop - expected
    _, group = np.unique(classes[known], return_inverse=True)
    others = np.bincount(group, rest)[group] - rest
    return (expected + others / (np.bincount(group)[group] - 1 + 5)).clip(0, 1)


def _noise(
    effects: Effects, known: np.ndarray, unit: np.ndarray, expected: np.ndarray
) -> np.ndarray:
    """Variance of each mean over donors: the sample's own, steadied by that of all."""
    # Few donors that happen to agree would claim no noise. Scores between 0 and p scatter most in
    # the middle, so the pooled part follows q (1 - q) of the expected loss q.
    count = effects.donors[known].astype(float)
    own = (effects.swap_variance / unit**2)[known]
    shape = (expected * (1 - expected)).clip(0.01)
    several = np.isfinite(own)
    factor = float(own[several].mean() / shape[several].mean()) if several.any() else 1.0
    pooled = factor * shape
    steadied = np.where(
        several, ((count - 1) * np.nan_to_num(own) + 2 * pooled) / (count + 1), pooled
    )
    return steadied / count
