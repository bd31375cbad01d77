"""Sparseness and complexity: how concentrated the heat is, measured on the map alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .measures import entropy, gini
from .registry import metric
from .trial import Trial


@metric(better="higher", label="Sparseness", paper="Chalasani et al., ICML 2020", default=True)
def sparseness(trial: Trial) -> Tensor:
    """Gini index of the heat's magnitude; 0 (even) to 1 (one pixel)."""
    return _of_heat(gini, trial)


@metric(better="lower", label="Complexity", paper="Bhatt et al., IJCAI 2020")
def complexity(trial: Trial) -> Tensor:
    """Entropy of the heat's magnitude over that of an even map; 0 to 1."""
    return _of_heat(entropy, trial)


def _of_heat(measure: Callable[[Tensor, Tensor], Tensor], trial: Trial) -> Tensor:
    """A measure of the map's magnitude; all pixels were seen."""
    heat = trial.heats.abs().double().flatten(0, 1)
    found = measure(heat, torch.ones_like(heat)).view_as(trial.usable).float()
    return found.masked_fill(~trial.usable, torch.nan)
