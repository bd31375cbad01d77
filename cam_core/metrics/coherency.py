"""Coherency and ADCC: the map of the image seen through its own map.

Poppi, Cornia, Baraldi, Cucchiara: Revisiting the Evaluation of Class Activation Mapping for
Explainability, CVPRW 2021.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from ..spatial.maps import rectify
from .masked_scores import average_drop, inside
from .ranking import pearson
from .registry import Workload, metric
from .trial import Trial

_PAPER = "Poppi et al., ADCC, CVPRW 2021"


def _part(work: Workload) -> tuple[Hashable, int]:
    return "coherency", work.pairs


@metric(
    better="higher",
    label="Coherency",
    paper=_PAPER,
    forwards=lambda work: [_part(work)],
    needs_explain=True,
)
def coherency(trial: Trial) -> Tensor:
    """Correlation with the map of the image seen through the map, (r + 1) / 2; 0 to 1."""
    return trial.once("coherency", lambda: _coherency(trial))


def _coherency(trial: Trial) -> Tensor:
    pairs = trial.usable.nonzero()
    empty = trial.filled("zero")

    def changed(index: Tensor) -> tuple[Tensor, Tensor]:
        image, map_ = pairs[index].unbind(1)
        mask = trial.masks[image, map_][:, None]
        return trial.images[image].float() * mask + empty[image].float() * (1 - mask), image

    def own(maps: Tensor, index: Tensor) -> Tensor:
        return maps[torch.arange(len(maps), device=maps.device), pairs[index, 1]]

    after = rectify(trial.maps_again(len(pairs), changed, own))
    found = torch.full_like(trial.heats[..., 0, 0], torch.nan)
    before = trial.masks[trial.usable]
    found[trial.usable] = (pearson(before.flatten(1), after.flatten(1)) + 1) / 2
    return found


@metric(
    better="higher",
    label="ADCC",
    paper=_PAPER,
    forwards=lambda work: [*inside(work), _part(work)],
    needs_explain=True,
)
def adcc(trial: Trial) -> Tensor:
    """Harmonic mean of coherency, 1 - mean of the map and 1 - average drop; 0 to 1."""
    simple = 1 - trial.masks.mean((-2, -1))
    kept = 1 - average_drop(trial)
    parts = torch.stack([coherency(trial), simple, kept])
    mean = len(parts) / parts.clamp_min(torch.finfo(parts.dtype).tiny).reciprocal().sum(0)
    return mean.masked_fill(parts.isnan().any(0), torch.nan)
