"""Deletion and insertion: the probability while pixels go, or come, in the order of the heat.

Petsiuk, Das, Saenko: RISE, Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._fills import count_of
from ._trial import Trial

# As in RISE: a plain colour where pixels go, a blurred picture where they come.
DEFAULT_BASELINES = {"deletion": "mean", "insertion": "blur"}


def curve_area(trial: Trial, metric: str) -> Tensor:
    """Area under the curve of the probability over the share of pixels changed, (N, M).

    ``deletion`` replaces the hottest pixels first, ``insertion`` starts with all pixels replaced and
    brings the hottest back first.
    """
    height, width = trial.images.shape[-2:]
    steps = trial.options.steps
    counts = step_counts(height * width, steps)
    baseline = DEFAULT_BASELINES[metric]
    empty = trial.filled(baseline)
    inner = torch.tensor(counts[1:-1], device=trial.images.device)

    def changed(image: Tensor, map_: Tensor, step: Tensor) -> Tensor:
        hot = (trial.ranks[image, map_] < inner[step, None]).view(-1, 1, height, width)
        kept = ~hot if metric == "deletion" else hot
        return torch.where(kept, trial.images[image], empty[image])

    middle = trial.per_map(steps - 1, changed)
    shape = (*trial.usable.shape, 1)
    whole = trial.scores[:, None, None].expand(shape)
    nothing = trial.emptied(baseline)[:, None, None].expand(shape)
    ends = (whole, nothing) if metric == "deletion" else (nothing, whole)
    curve = torch.cat([ends[0], middle, ends[1]], -1)
    curve = curve.masked_fill(~trial.usable[..., None], torch.nan)
    trial.curves[metric] = curve
    return torch.trapezoid(curve, torch.tensor(counts).to(curve) / (height * width))


def step_counts(pixels: int, steps: int) -> list[int]:
    """How many pixels have changed after each of ``steps`` steps, from 0 to all."""
    return [count_of(step / steps, pixels) for step in range(steps + 1)]
