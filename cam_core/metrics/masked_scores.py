"""What the model says of the image seen through its heatmap.

The heatmap is rectified and divided by its maximum, and multiplies the model's *input*, as the
published code does: what it hides gets the value 0, with the usual transform the mean colour of the
training set. Another baseline b gives ``x * M + b * (1 - M)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .registry import Parts, Workload, metric
from .trial import Trial

_PAPER = "Chattopadhay et al., Grad-CAM++, WACV 2018"


def inside(work: Workload) -> Parts:
    """The images seen through their maps: one for each map."""
    return [("inside", work.pairs)]


@metric(better="lower", label="Average drop", paper=_PAPER, forwards=inside, default=True)
def average_drop(trial: Trial) -> Tensor:
    """Share of the probability lost in the image seen through the map; 0 to 1."""
    whole = trial.scores[:, None]
    return (whole - _through(trial, "inside")).clamp_min(0) / _positive(whole)


@metric(
    better="higher", label="Increase in confidence", paper=_PAPER, forwards=inside, default=True
)
def increase(trial: Trial) -> Tensor:
    """Whether the probability is higher in the image seen through the map; 0 or 1."""
    seen = _through(trial, "inside")
    return (seen > trial.scores[:, None]).float().masked_fill(seen.isnan(), torch.nan)


@metric(better="higher", label="Change of confidence", paper=_PAPER, forwards=inside)
def confidence_change(trial: Trial) -> Tensor:
    """Probability of the image seen through the map minus the image's; -1 to 1."""
    return _through(trial, "inside") - trial.scores[:, None]


@metric(
    better="higher",
    label="Drop in deletion",
    paper="Jung and Oh, LIFT-CAM, ICCV 2021",
    forwards=lambda work: [("outside", work.pairs)],
)
def drop_in_deletion(trial: Trial) -> Tensor:
    """Share of the probability lost in the image without what the map shows; at most 1."""
    whole = trial.scores[:, None]
    return (whole - _through(trial, "outside")) / _positive(whole)


def _through(trial: Trial, part: str) -> Tensor:
    """(N, M) probabilities with the heatmap as a mask, or with what it leaves."""

    def changed(image: Tensor, map_: Tensor, step: Tensor) -> Tensor:
        mask = trial.masks[image, map_][:, None]
        mask = mask if part == "inside" else 1 - mask
        empty = trial.filled("zero")[image].float()
        return trial.images[image].float() * mask + empty * (1 - mask)

    return trial.once(part, lambda: trial.per_map(1, changed)[..., 0])


def _positive(whole: Tensor) -> Tensor:
    """A drop is relative to the score: of a score that is not positive there is none."""
    return whole.masked_fill(~(whole > 0), torch.nan)
