"""Which of several methods is better on the same samples: ranks, paired differences, intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .resampling import Interval, bootstrap_mean, sign_flip_p


def mean_ranks(values: Mapping[str, Any], better: Mapping[str, str]) -> np.ndarray:
    """The rank of each method on each sample, averaged over metrics.

    A method's rank under a metric is 1 + (M - 1) x the share of the other methods that do better;
    equal values count half. Where a method has no value it has no rank, and the others are compared
    among themselves.

    Args:
        values: metric -> (N, M) of N samples and M methods, NaN where there is none
        better: metric -> ``"higher"`` or ``"lower"``

    Returns:
        (N, M) ranks from 1, the best, to M; NaN where a method has no value or no rival

    Raises:
        ValueError: if there is no metric
    """
    if not values:
        raise ValueError("values is empty; give at least one metric to rank by")
    ranks = []
    for name, table in values.items():
        x = np.asarray(table, float)
        x = -x if better[name] == "lower" else x
        own, others = x[:, :, None], x[:, None, :]
        known = np.isfinite(own) & np.isfinite(others)
        known &= ~np.eye(x.shape[1], dtype=bool)
        worse = np.where(known, (own < others) + 0.5 * (own == others), 0.0).sum(-1)
        rivals = known.sum(-1)
        share = np.divide(worse, rivals, out=np.full(x.shape, np.nan), where=rivals > 0)
        ranks.append(1 + (x.shape[1] - 1) * share)
    return nan_mean(np.stack(ranks), 0)


def nan_mean(values: Any, axis: int) -> np.ndarray:
    """The mean of what is finite along an axis; NaN, without a warning, where nothing is."""
    x = np.asarray(values, float)
    known = np.isfinite(x)
    total, count = np.where(known, x, 0.0).sum(axis), known.sum(axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


@dataclasses.dataclass(frozen=True)
class Paired:
    """What a method is ahead of another on the same samples.

    Attributes:
        mean: mean difference, positive where the first one is better
        low, high: bounds of its 95 % bootstrap interval
        n: samples that both have
        p: two-sided, by random signs
        adjusted: the same, adjusted for how many pairs were looked at (Holm)
    """

    mean: float
    low: float
    high: float
    n: int
    p: float
    adjusted: float

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero and the adjusted p is below .05."""
        apart = self.low > 0 or self.high < 0
        return apart and self.adjusted < 0.05


def paired(first: Any, second: Any, better: str, seed: int = 51) -> Paired:
    """Compares two methods on the samples that both have.

    Args:
        first: (N,) values of one method, NaN where there is none
        second: (N,) of the other
        better: ``"higher"`` or ``"lower"``
        seed (51): of bootstrap and signs

    Returns:
        a :class:`Paired`; NaN without a common sample
    """
    difference = np.asarray(first, float) - np.asarray(second, float)
    difference = -difference if better == "lower" else difference
    found: Interval = bootstrap_mean(difference, seed=seed)
    p = two_sided_p(difference, seed)
    return Paired(found.mean, found.low, found.high, found.n, p, p)


def two_sided_p(differences: Any, seed: int = 51) -> float:
    """The p that a mean is not 0 by random signs, in (0, 1]; NaN without values."""
    x = np.asarray(differences, float)
    x = x[np.isfinite(x)]
    if not len(x):
        return math.nan
    return min(1.0, 2 * sign_flip_p(x if x.mean() >= 0 else -x, seed=seed))


def compare_pairs(
    scores: Any, better: str = "lower", seed: int = 51
) -> dict[tuple[int, int], Paired]:
    """Compares every two methods.

    Args:
        scores: (N, M), such as :func:`mean_ranks`
        better ("lower"): which way is better
        seed (51): of bootstrap and signs

    Returns:
        ``{(i, j): Paired}`` for i < j, positive where i is better; p adjusted over the pairs
    """
    x = np.asarray(scores, float)
    count = x.shape[1]
    keys = [(i, j) for i in range(count) for j in range(i + 1, count)]
    found = [paired(x[:, i], x[:, j], better, seed) for i, j in keys]
    adjusted = holm([pair.p for pair in found])
    return {
        key: dataclasses.replace(pair, adjusted=float(p))
        for key, pair, p in zip(keys, found, adjusted, strict=True)
    }


def holm(p: Any) -> np.ndarray:
    """Adjusts p values for the chance of any false finding; NaN stays NaN.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian J. of Statistics 1979.
    """
    values = np.asarray(p, float)
    adjusted = np.full(values.shape, np.nan)
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    scaled = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(scaled).clip(max=1)
    return adjusted


def wilson(count: int, total: int, level: float = 0.95) -> Interval:
    """Interval of a share.

    Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.

    Args:
        count: how many have it
        total: of how many
        level (0.95): of the interval; .95 or .99

    Returns:
        an :class:`~cam_core.stats.resampling.Interval`; NaN without any
    """
    if not total:
        return Interval(math.nan, math.nan, math.nan, 0)
    z = {0.95: 1.959963984540054, 0.99: 2.5758293035489004}[level]
    share = count / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low = 0.0 if count == 0 else max(0.0, centre - half)
    high = 1.0 if count == total else min(1.0, centre + half)
    return Interval(share, low, high, total)
