"""One bar for all phases of a job, which only grows, and how long the rest takes."""

import dataclasses
import time

from ..text import duration

# What an item of a phase costs, in forwards of a composite; of a phase that is not here an item is a forward.
# Measured with a ResNet-18 on one busy CPU core (find_background_bias on the demo's photos): an image takes
# 1.2 to 1.7 s where it is decoded and explained, a composite 0.3 s.
_COSTS = {
    "computing heatmaps": 4.0,
    "measuring heat": 5.0,
    "preparing pictures": 0.02,
    "writing": 0.06,
}
# Phases that go beyond their total where what they found leaves something open, and what of their part of the
# bar the total is.
_OPEN, _OPEN_SHARE = ("swapping backgrounds", "swapping surroundings"), 0.8
# Before that an estimate says nothing.
_LEAST_SECONDS, _LEAST_FRACTION = 3.0, 0.03


class WholeBar:
    """Turns the phases of a job into parts of one bar.

    At the beginning of each phase what is left of the bar is shared between it and those that are still
    planned, by their costs: so the bar never goes back, also where a phase was larger than planned, or was not
    planned.

    Args:
        planned: ``{name of a phase: how many items}``, in order; it may lack some
        clock (time.monotonic): seconds
    """

    def __init__(self, planned, clock=time.monotonic):
        self._later, self._clock = dict(planned), clock
        self._name = None
        self._start = self._shown = self._base = 0.0
        self._part = 1.0

    def of(self, phase):
        """The phase with ``whole``, the fraction of the job in [0, 1], and ``left``, text or None.

        Args:
            phase: a :class:`~operators.jobs.base.Phase`; something else is returned as it is
        """
        if not hasattr(phase, "whole"):
            return phase
        if phase.name != self._name:
            self._begin(phase)
        inside = self._part * _fraction_of(phase)
        self._shown = max(self._shown, min(1.0, self._base + inside))
        return dataclasses.replace(phase, whole=self._shown, left=self._left())

    def _begin(self, phase):
        if self._name is None:
            self._start = self._clock()
        self._name, self._base = phase.name, self._shown
        names = list(self._later)
        if phase.name in names:  # those before it were left out
            for name in names[: names.index(phase.name) + 1]:
                items = self._later.pop(name)
        else:
            items = 1
        own = _cost_of(phase.name, items if phase.total is None else phase.total)
        rest = sum(_cost_of(name, count) for name, count in self._later.items())
        self._part = (1.0 - self._base) * (own / (own + rest) if own + rest else 1.0)

    def _left(self):
        seconds = self._clock() - self._start
        if seconds < _LEAST_SECONDS or not _LEAST_FRACTION <= self._shown < 1:
            return None
        return f"~{duration(seconds / self._shown - seconds)} left"


def _cost_of(name, items):
    return _COSTS.get(name, 1.0) * items / (_OPEN_SHARE if name in _OPEN else 1.0)


def _fraction_of(phase):
    """How much of a phase is done, from 0 to 1."""
    if phase.name not in _OPEN or not phase.total:
        return phase.fraction
    if phase.done <= phase.total:
        return _OPEN_SHARE * phase.fraction
    return 1.0 - (1.0 - _OPEN_SHARE) * phase.total / phase.done
