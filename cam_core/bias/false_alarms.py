"""How often the evidence rule accuses where nothing depends on the background."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from .assessment import assess
from .effects import SwapTable, effects
from .verdicts import HIDDEN, RELIES, Rule


def false_alarm_rate(
    classes: Any,
    status: Sequence[str],
    table: SwapTable,
    rule: Rule | None = None,
    relative: bool | None = None,
    repeats: int = 5,
    seed: int = 51,
) -> float | None:
    """Share of the samples that would be said to rely on their background if nothing depended on it.

    Where the class of a background does not matter, donors of other classes and of the same one can be
    exchanged: each sample's scores are dealt to the two kinds at random, and the same rule is applied.

    Args:
        classes: (n,) explained classes of the tested samples
        status: n strings of the :class:`~cam_core.bias.swap_test.SwapCheck`
        table: of the n samples, with the control
        rule (None): thresholds; the default ones by default
        relative (None): see :func:`~cam_core.bias.calibration.estimate_dependence`
        repeats (5): how often they are dealt
        seed (51): of the dealing

    Returns:
        a share in [0, 1] of the samples whose swap was run; None without a control
    """
    foreign = table.foreign_scores.shape[1]
    scores = np.concatenate([table.foreign_scores, table.same_scores], 1)
    known = np.isfinite(table.foreign_scores).any(1) & np.isfinite(table.same_scores).any(1)
    if not known.any():
        return None
    winners = np.concatenate([table.foreign_predictions, table.same_predictions], 1)
    rows = np.flatnonzero(known)
    flagged = 0
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        # what is missing stays where it is, so that each kind keeps its number of donors
        order = np.tile(np.arange(scores.shape[1]), (len(scores), 1))
        for row in rows:
            there = np.flatnonzero(np.isfinite(scores[row]))
            order[row, there] = rng.permutation(there)
        dealt = np.take_along_axis(scores, order, 1)
        named = np.take_along_axis(winners, order, 1)
        exchanged = dataclasses.replace(
            table,
            foreign_scores=dealt[:, :foreign],
            same_scores=dealt[:, foreign:],
            foreign_predictions=named[:, :foreign],
            same_predictions=named[:, foreign:],
        )
        found = assess(
            classes,
            np.arange(len(scores)),
            status,
            effects(exchanged),
            None,
            rule,
            relative,
            seed,
        )
        flagged += sum(found.verdicts[row].verdict in (RELIES, HIDDEN) for row in rows)
    return flagged / (repeats * len(rows))
