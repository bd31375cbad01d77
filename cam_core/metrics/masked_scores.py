"""What the model says of the image seen through its heatmap.

The heatmap is rectified and divided by its maximum, and multiplies the model's *input*, as the
published code does: what it hides gets the value 0, with the usual transform the mean colour of the
training set. Another baseline b gives ``x * M + b * (1 - M)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ._trial import Trial


def masked_score(trial: Trial, metric: str) -> Tensor:
    """One of the measures that compare a masked image with the whole one, (N, M)."""
    whole = trial.scores[:, None]
    seen = _through(trial, "outside" if metric == "drop_in_deletion" else "inside")
    return _MEASURES[metric](whole, seen)


def _through(trial: Trial, part: str) -> Tensor:
    """(N, M) probabilities with the heatmap as a mask, or with what it leaves."""

    def changed(image: Tensor, map_: Tensor, step: Tensor) -> Tensor:
        mask = trial.masks[image, map_][:, None]
        mask = mask if part == "inside" else 1 - mask
        empty = trial.filled("zero")[image].float()
        return trial.images[image].float() * mask + empty * (1 - mask)

    return trial.once(part, lambda: trial.per_map(1, changed)[..., 0])


def _average_drop(whole: Tensor, seen: Tensor) -> Tensor:
    return (whole - seen).clamp_min(0) / _positive(whole)


def _increase(whole: Tensor, seen: Tensor) -> Tensor:
    return (seen > whole).float().masked_fill(seen.isnan(), torch.nan)


def _confidence_change(whole: Tensor, seen: Tensor) -> Tensor:
    return seen - whole


def _drop_in_deletion(whole: Tensor, seen: Tensor) -> Tensor:
    return (whole - seen) / _positive(whole)


def _positive(whole: Tensor) -> Tensor:
    """A drop is relative to the score: of a score that is not positive there is none."""
    return whole.masked_fill(~(whole > 0), torch.nan)


_MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "average_drop": _average_drop,
    "increase": _increase,
    "confidence_change": _confidence_change,
    "drop_in_deletion": _drop_in_deletion,
}
