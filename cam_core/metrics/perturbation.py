"""Deletion and insertion: the probability while pixels go, or come, in the order of the heat.

Petsiuk, Das, Saenko: RISE, Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .fills import count_of
from .registry import Parts, Workload, metric
from .trial import Trial

_PAPER = "Petsiuk et al., RISE, BMVC 2018"
# As in RISE: a plain colour where pixels go, a blurred picture where they come.
_DELETED, _INSERTED = "mean", "blur"


def _steps(name: str, baseline: str) -> Callable[[Workload], Parts]:
    return lambda work: [
        (name, work.pairs * (work.options.steps - 1)),
        work.emptied(baseline),
    ]


@metric(
    better="lower",
    label="Deletion",
    paper=_PAPER,
    forwards=_steps("deletion", _DELETED),
    default=True,
)
def deletion(trial: Trial) -> Tensor:
    """Area under the probability while the hottest pixels are removed first; 0 to 1."""
    return _curve_area(trial, "deletion", _DELETED)


@metric(
    better="higher",
    label="Insertion",
    paper=_PAPER,
    forwards=_steps("insertion", _INSERTED),
    default=True,
)
def insertion(trial: Trial) -> Tensor:
    """Area under the probability while the hottest pixels are brought back first; 0 to 1.

    It starts with all pixels replaced.
    """
    return _curve_area(trial, "insertion", _INSERTED)


def _curve_area(trial: Trial, name: str, baseline: str) -> Tensor:
    """Area under the curve of the probability over the share of pixels changed, (N, M)."""
    height, width = trial.images.shape[-2:]
    steps = trial.options.steps
    counts = step_counts(height * width, steps)
    empty = trial.filled(baseline)
    inner = torch.tensor(counts[1:-1], device=trial.images.device)

    def changed(image: Tensor, map_: Tensor, step: Tensor) -> Tensor:
        hot = (trial.ranks[image, map_] < inner[step, None]).view(-1, 1, height, width)
        kept = ~hot if name == "deletion" else hot
        return torch.where(kept, trial.images[image], empty[image])

    middle = trial.per_map(steps - 1, changed)
    shape = (*trial.usable.shape, 1)
    whole = trial.scores[:, None, None].expand(shape)
    nothing = trial.emptied(baseline)[:, None, None].expand(shape)
    ends = (whole, nothing) if name == "deletion" else (nothing, whole)
    curve = torch.cat([ends[0], middle, ends[1]], -1)
    curve = curve.masked_fill(~trial.usable[..., None], torch.nan)
    trial.curves[name] = curve
    return torch.trapezoid(curve, torch.tensor(counts).to(curve) / (height * width))


def step_counts(pixels: int, steps: int) -> list[int]:
    """How many pixels have changed after each of ``steps`` steps, from 0 to all."""
    return [count_of(step / steps, pixels) for step in range(steps + 1)]
