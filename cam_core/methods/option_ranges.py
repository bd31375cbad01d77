"""Ranges of the methods' options: a number is checked before anything is made of it.

An option of many copies, maps or steps takes memory and time in proportion: each has a most that no use
of it comes near, so that one number cannot take the machine's memory.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

#: maps of one method and layer at most: each is stored in a field of its own
MOST_MAPS = 1024


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``.

    Attributes:
        low: the least
        high: the most
        whole (True): whether only whole numbers are meant
        several (0): how many numbers a list of them has at most; 0 where one alone is meant
        or_other (False): whether something that is no number may be given too, such as a tensor
    """

    low: float
    high: float
    whole: bool = True
    several: int = 0
    or_other: bool = False

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:,}"

    def check(self, name: str, value: Any) -> None:
        """Raises a ValueError unless a value, or each in a list where one may be given, is in the range."""
        values = [value]
        if self.several and isinstance(value, (list, tuple)):
            if len(value) > self.several:
                raise ValueError(
                    f"{name} takes at most {self.several:,} numbers, got {len(value):,}"
                )
            values = list(value)
        for number in values:
            if not self._holds(number):
                kind = "a whole number" if self.whole else "a number"
                raise ValueError(
                    f"{name} must be {kind} between {self.low} and {self.high}, got {value!r:.80}"
                )

    def _holds(self, number: Any) -> bool:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            return self.or_other and not isinstance(number, (bool, str))
        if self.whole and not isinstance(number, int):
            return False
        return math.isfinite(number) and self.low <= number <= self.high


_SHARE = Range(0, 1, whole=False)
_ANY = Range(-1e6, 1e6, whole=False)

#: option, or ``method.option`` where that of one method differs -> :class:`Range`
RANGES: Mapping[str, Range] = {
    "alpha": _ANY,
    "baseline": Range(-1e6, 1e6, whole=False, several=64, or_other=True),
    "batch_size": Range(1, 1024),
    "channel": Range(0, 1_000_000),
    "channels": Range(0, 1_000_000, several=MOST_MAPS),
    "coef0": _ANY,
    "component": Range(1, MOST_MAPS),
    "components": Range(1, MOST_MAPS),
    "concepts": Range(1, MOST_MAPS),
    "gamma": Range(0, 1e6, whole=False),
    "grid": Range(1, 32),
    "groups": Range(1, 4096),
    "iterations": Range(1, 10_000),
    "k": _ANY,
    "keep": _SHARE,
    "outliers": _SHARE,
    "percentile": Range(0, 100, whole=False),
    "radius": _SHARE,
    "references": Range(1, 100_000),
    # smoothgrad and sscam hold the noise of all copies
    "samples": Range(1, 1000),
    "rise.samples": Range(1, 50_000),
    "sigma": Range(0, 100, whole=False),
    "cnn_fixations.sigma": _SHARE,
    # the Gauss-Legendre rule decomposes a matrix of steps x steps
    "steps": Range(1, 1000),
    "stride": Range(1, 4096, several=8),
    "top": Range(1, MOST_MAPS),
    "top_channels": Range(1, 1_000_000),
    "window": Range(1, 4096, several=8),
}


def range_of(method: str, option: str) -> Range | None:
    """The range of a method's option; None where it takes no numbers."""
    return RANGES.get(f"{method}.{option}") or RANGES.get(option)


def check_options(method: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Checks the numbers among a method's options, before anything is made of them.

    Args:
        method: the name of one of this package's methods
        options: what was given
        defaults: the options with their defaults; a None that is one is no number and allowed

    Raises:
        ValueError: if one is out of its range
    """
    for name, value in options.items():
        found = range_of(method, name)
        if found is not None and not (value is None and defaults.get(name, 0) is None):
            found.check(name, value)
