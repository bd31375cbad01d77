"""Small statistics: ranks, intervals, permutation tests, a logistic fit."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

# Random numbers drawn at a time in resampling: bounds the memory, not the result.
_DRAWS = 4_000_000


def ranks(values: Any) -> np.ndarray:
    """Returns the ranks (N,) from 1; equal values share their mean rank."""
    from scipy.stats import rankdata

    return rankdata(np.asarray(values))


def auroc(scores: Any, positive: Any) -> float:
    """P(score of a positive > score of a negative) + P(=) / 2.

    Args:
        scores: (N,) finite
        positive: (N,) bool

    Returns:
        a number in [0, 1], .5 for scores that say nothing; NaN without positives or negatives
    """
    values, chosen = np.asarray(scores, float), np.asarray(positive, bool)
    count = int(chosen.sum())
    rest = len(values) - count
    if not count or not rest:
        return float("nan")
    return float((ranks(values)[chosen].sum() - count * (count + 1) / 2) / (count * rest))


def auroc_error(area: float, positives: int, negatives: int) -> float:
    """Standard error of an AUROC (Hanley and McNeil, Radiology 1982)."""
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (positives - 1) * (one - area**2) + (negatives - 1) * (two - area**2)
    return float(np.sqrt(max(0.0, area * (1 - area) + spread) / (positives * negatives)))


def spearman(a: Any, b: Any) -> float:
    """Rank correlation in [-1, 1]; NaN where one side does not vary."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else float("nan")


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its interval.

    Attributes:
        mean: of the values
        low: lower bound
        high: upper bound
        n: how many values
    """

    mean: float
    low: float
    high: float
    n: int


def bootstrap_mean(
    values: Any, groups: Any = None, repeats: int = 1000, level: float = 0.95, seed: Any = 51
) -> Interval:
    """Percentile bootstrap of a mean.

    Args:
        values: (N,); NaN is left out
        groups (None): (N,) scenes or videos; whole groups are drawn then
        repeats (1000): how often
        level (0.95): of the interval
        seed (51): of the draws

    Returns:
        an :class:`Interval`; NaN bounds with fewer than two values
    """
    x = np.asarray(values, float)
    known = np.isfinite(x)
    x = x[known]
    if len(x) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(x.mean())
    sums, counts = x, np.ones(len(x))
    if groups is not None:
        _, unit = np.unique(np.asarray(groups)[known], return_inverse=True)
        sums, counts = np.bincount(unit, x), np.bincount(unit).astype(float)
    if len(sums) < 2:
        return Interval(mean, float("nan"), float("nan"), len(x))
    rng = np.random.default_rng(seed)
    means = []
    for rows in _chunks(repeats, len(sums)):
        drawn = rng.integers(0, len(sums), (rows, len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(mean, float(low), float(high), len(x))


def sign_flip_p(values: Any, repeats: int = 9999, seed: Any = 51) -> float:
    """One-sided p that a mean is above 0: how often random signs give as large a mean.

    Args:
        values: (N,) paired differences; NaN is left out
        repeats (9999): how often; the smallest p is 1 / (repeats + 1)
        seed (51): of the signs

    Returns:
        p in (0, 1]; NaN without values
    """
    x = np.asarray(values, float)
    x = x[np.isfinite(x)]
    if not len(x):
        return float("nan")
    rng = np.random.default_rng(seed)
    observed = x.sum() - 1e-12 * np.abs(x).sum()  # sums of the same numbers may differ by rounding
    hits = 0
    for rows in _chunks(repeats, len(x)):
        signs = rng.integers(0, 2, (rows, len(x)), dtype=np.int8) * 2 - 1
        hits += int((signs @ x >= observed).sum())
    return (hits + 1) / (repeats + 1)


def _chunks(repeats: int, width: int) -> list[int]:
    step = max(1, _DRAWS // max(1, width))
    return [min(step, repeats - start) for start in range(0, repeats, step)]


def minority_chance(hits: int, trials: int) -> float:
    """P(rate < 1/2 | hits in trials) under a uniform prior of the rate.

    Args:
        hits: 0..trials
        trials: at least 0

    Returns:
        a number in (0, 1), 1/2 without trials: the mass of Beta(1 + hits, 1 + trials - hits) below 1/2,
        which is that of a binomial of trials + 1 fair coins above hits
    """
    coins = trials + 1
    return sum(math.comb(coins, k) for k in range(hits + 1, coins + 1)) / 2**coins


def more_often_p(hits: int, trials: int, others: int, other_trials: int) -> float:
    """One-sided p that hits are more frequent here than elsewhere: Fisher's exact test.

    Args:
        hits: 0..trials
        trials: at least 0
        others: hits elsewhere, 0..other_trials
        other_trials: at least 0

    Returns:
        p in (0, 1]: how often so many of all hits fall here when they are dealt to all trials at random
    """
    every = hits + others
    ways = [
        math.comb(trials, k) * math.comb(other_trials, every - k)
        for k in range(hits, min(trials, every) + 1)
    ]
    return sum(ways) / math.comb(trials + other_trials, every)


def benjamini_hochberg(p: Any) -> np.ndarray:
    """Returns q values (N,): p adjusted for the false discovery rate; NaN stays NaN.

    Benjamini and Hochberg, Controlling the False Discovery Rate, JRSS B 1995.
    """
    values = np.asarray(p, float)
    known = np.flatnonzero(np.isfinite(values))
    q = np.full(values.shape, np.nan)
    order = known[np.argsort(values[known])]
    scaled = values[order] * len(order) / np.arange(1, len(order) + 1)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1)
    return q


def shrink(means: Any, counts: Any, weight: float = 20) -> np.ndarray:
    """Draws means of few values toward the mean of all: for ranking.

    Args:
        means: (N,) NaN where there is none
        counts: (N,) values behind each
        weight (20): a mean of so many values is drawn half way

    Returns:
        (N,) n/(n + weight) * mean + weight/(n + weight) * mean of all values
    """
    x, n = np.asarray(means, float), np.asarray(counts, float)
    known = np.isfinite(x) & (n > 0)
    if not known.any():
        return np.full(x.shape, np.nan)
    centre = float((x[known] * n[known]).sum() / n[known].sum())
    return np.where(known, (n * x + weight * centre) / (n + weight), np.nan)


@dataclasses.dataclass(frozen=True)
class Logistic:
    """A fitted logistic curve over standardised features.

    Attributes:
        coefficients: (F,) per standard deviation of a feature
        intercept: of the curve
        mean: (F,) of the features
        scale: (F,) their standard deviation
    """

    coefficients: np.ndarray
    intercept: float
    mean: np.ndarray
    scale: np.ndarray

    def predict(self, features: Any) -> np.ndarray:
        """Returns (N,) values in (0, 1); NaN where a feature is NaN."""
        x = (np.asarray(features, float) - self.mean) / self.scale
        return _sigmoid(x @ self.coefficients + self.intercept)


def fit_logistic(features: Any, target: Any, ridge: float = 1.0) -> Logistic:
    """Fits a ridge-penalised logistic curve by Newton's method.

    Args:
        features: (N, F) finite; standardised here
        target: (N,) in [0, 1]; shares between 0 and 1 give the fractional logit of Papke and
            Wooldridge, 1996
        ridge (1.0): penalty, 1/2 ridge |coefficients|^2; the intercept is free

    Returns:
        a :class:`Logistic`

    Raises:
        ValueError: if shapes or values do not fit
    """
    x, y = np.asarray(features, float), np.asarray(target, float)
    if x.ndim != 2 or y.shape != (len(x),) or not len(x):
        raise ValueError(f"features must be (N, F) and target (N,), got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or y.min() < 0 or y.max() > 1:
        raise ValueError("features must be finite and target in [0, 1]; leave other rows out")
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    design = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    penalty = np.diag([ridge] * x.shape[1] + [1e-6])  # finite also when all targets are 0 or all 1

    def loss(w: np.ndarray) -> float:
        z = design @ w
        return float((np.logaddexp(0, z) - y * z).sum() + 0.5 * w @ penalty @ w)

    weights = np.zeros(design.shape[1])
    for _ in range(100):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - y) + penalty @ weights
        curvature = (design * (p * (1 - p))[:, None]).T @ design + penalty
        step = np.linalg.solve(curvature, gradient)
        length = 1.0
        while loss(weights - length * step) > loss(weights) and length > 1e-6:
            length /= 2
        weights = weights - length * step
        if np.abs(length * step).max() < 1e-8:
            break
    return Logistic(weights[:-1], float(weights[-1]), mean, scale)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z.clip(-500, 500)))


def cross_predict(
    features: Any, target: Any, folds: int = 5, ridge: float = 1.0, seed: int = 51
) -> np.ndarray:
    """Predicts each row by a logistic curve fitted without it.

    Args:
        features: (N, F) finite
        target: (N,) in [0, 1]
        folds (5): as many as the fits; rows are dealt to them in the order of the target, so that
            each has its share of positives
        ridge (1.0): see :func:`fit_logistic`
        seed (51): of the dealing

    Returns:
        (N,) in (0, 1)

    Raises:
        ValueError: if there are fewer rows than folds
    """
    x, y = np.asarray(features, float), np.asarray(target, float)
    if len(y) < folds:
        raise ValueError(f"{folds} folds need as many rows, got {len(y)}")
    rng = np.random.default_rng(seed)
    order = np.lexsort([rng.random(len(y)), y])
    fold = np.empty(len(y), int)
    for start in range(0, len(y), folds):
        rows = order[start : start + folds]
        fold[rows] = rng.permutation(folds)[: len(rows)]
    out = np.empty(len(y))
    for number in range(folds):
        held = fold == number
        out[held] = fit_logistic(x[~held], y[~held], ridge).predict(x[held])
    return out
