"""What a field of the dataset has to do with the model's answers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..stats.resampling import Interval, bootstrap_mean


@dataclasses.dataclass(frozen=True)
class GroupRow:
    """One value of a field in :func:`group_statistics`.

    Attributes:
        value: of the field
        n: samples
        accuracy: mean and 95 % interval
        effect: likewise, of swap_drop or whatever was given
    """

    value: Any
    n: int
    accuracy: Interval
    effect: Interval


@dataclasses.dataclass(frozen=True)
class FieldReport:
    """What a field has to do with the model's answers.

    Attributes:
        groups: one :class:`GroupRow` per value, most samples first
        explained: share of the score's variance within a class that the field explains, adjusted
            for the number of its values (omega squared), at most 1; 0 or below: none
        p: of that, by permuting the field within classes; NaN where it cannot be told
    """

    groups: list[GroupRow]
    explained: float
    p: float


def group_statistics(
    field: Sequence,
    correct: Any,
    effect: Any,
    score: Any,
    classes: Any,
    repeats: int = 999,
    seed: int = 51,
) -> FieldReport:
    """Compares the values of a field, e.g. the hospital a picture comes from.

    Args:
        field: N values; None for unknown. Numbers with more than ten values are cut into quartiles
        correct: (N,) bool or 0/1, NaN where there is no label
        effect: (N,) e.g. swap_drop; NaN where not tested
        score: (N,) of the explained class
        classes: (N,) explained classes
        repeats (999): permutations
        seed (51): of intervals and permutations

    Returns:
        a :class:`FieldReport`
    """
    values = _binned(field)
    known = np.array([v is not None for v in values], bool)
    names = sorted({v for v in values if v is not None}, key=str)
    code = np.array([names.index(v) if v is not None else -1 for v in values])
    right, drop = np.asarray(correct, float), np.asarray(effect, float)
    groups = []
    for number, name in enumerate(names):
        members = code == number
        row = GroupRow(
            name,
            int(members.sum()),
            bootstrap_mean(right[members], seed=[seed, number, 0]),
            bootstrap_mean(drop[members], seed=[seed, number, 1]),
        )
        groups.append(row)
    known &= np.isfinite(np.asarray(score, float))
    strata = np.unique(np.asarray(classes)[known], return_inverse=True)[1]
    share, p = _explained(np.asarray(score, float)[known], code[known], strata, repeats, seed)
    return FieldReport(sorted(groups, key=lambda g: -g.n), share, p)


def _binned(field: Sequence) -> list:
    values = [None if v is None or v != v else v for v in field]
    numbers = [
        v for v in values if isinstance(v, (int, float, np.number)) and not isinstance(v, bool)
    ]
    known = [v for v in values if v is not None]
    if len(numbers) < len(known) or len(set(numbers)) <= 10:
        return values
    edges = np.unique(np.percentile(np.array(numbers, float), [0, 25, 50, 75, 100])).tolist()
    labels = [f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)]
    inner = edges[1:-1]
    return [None if v is None else labels[int(np.searchsorted(inner, v, "right"))] for v in values]


def _explained(
    score: np.ndarray, code: np.ndarray, strata: np.ndarray, repeats: int, seed: int
) -> tuple[float, float]:
    """Omega squared of a field on scores centred within their class, and its permutation p."""
    nothing = float("nan"), float("nan")
    if len(score) < 3 or len(np.unique(code)) < 2:
        return nothing
    centred = score - (np.bincount(strata, score) / np.bincount(strata))[strata]
    total = float((centred**2).sum())
    values, free = len(np.unique(code)), len(score) - len(np.unique(strata))
    if total <= 0 or free <= values:
        return nothing

    def between(codes: np.ndarray) -> float:
        return float((np.bincount(codes, centred) ** 2 / np.maximum(np.bincount(codes), 1)).sum())

    observed = between(code)
    error = (total - observed) / (free - values + 1)
    share = (observed - (values - 1) * error) / (total + error)
    rng = np.random.default_rng(seed)
    order = np.argsort(strata, kind="stable")
    sizes = np.bincount(strata)
    hits = 0
    for _ in range(repeats):
        mixed = np.concatenate(
            [rng.permutation(part) for part in np.split(code[order], sizes.cumsum()[:-1])]
        )
        moved = np.empty_like(code)
        moved[order] = mixed
        hits += between(moved) >= observed - 1e-12
    return share, (hits + 1) / (repeats + 1)
