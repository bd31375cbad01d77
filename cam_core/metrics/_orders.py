"""Orders of pixels and random numbers that do not depend on which batch an image is in."""

from __future__ import annotations

import torch
from torch import Tensor

from ._ranks import Ranked


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU: numbers drawn with it are the same on every device."""
    return torch.Generator().manual_seed(seed)


def ranks_from_top(heats: Tensor, seed: int) -> Tensor:
    """Ranks pixels by heat, the hottest first; each rank is given once.

    Pixels of equal heat are ordered by one random permutation, the same for every map of a size: any
    of them is as likely to be first, while reading order would favour the top of the picture (the
    sky), and two maps that tie in the same place are compared under the same order.

    Args:
        heats: (..., P) without NaN
        seed: of the permutation

    Returns:
        (..., P) int64, 0 for the hottest pixel
    """
    count = heats.shape[-1]
    order = torch.randperm(count, generator=seeded(seed)).to(heats.device)
    place = torch.arange(count, device=heats.device)
    sorted_ = heats[..., order].argsort(dim=-1, descending=True, stable=True)
    ranks = torch.empty_like(sorted_).scatter_(-1, sorted_, place.expand_as(sorted_))
    return ranks[..., order.argsort()]


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation over the last dimension, ties sharing their mean rank.

    Args:
        a: (R, P)
        b: (R, P)

    Returns:
        (R,) in [-1, 1]; NaN where either does not vary or is not finite
    """
    return pearson(standing(a), standing(b))


def standing(values: Tensor) -> Tensor:
    """The ranks (R, P) of values; a row that is not finite is NaN."""
    ranks = Ranked(values).ranks().double()
    return ranks.masked_fill(~values.isfinite().all(-1, keepdim=True), torch.nan)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation over the last dimension; NaN where either does not vary.

    Args:
        a: (..., P)
        b: (..., P)

    Returns:
        (...,) float32 in [-1, 1]
    """
    x, y = _centred(a), _centred(b)
    scale = (x.square().sum(-1) * y.square().sum(-1)).sqrt()
    found = ((x * y).sum(-1) / scale).clamp(-1, 1)
    return found.masked_fill(~(scale > 0), torch.nan).float()


def _centred(values: Tensor) -> Tensor:
    double = values.double()
    # a constant row stays exactly zero: its mean may differ from it by rounding
    constant = double.amax(-1, keepdim=True) == double.amin(-1, keepdim=True)
    return (double - double.mean(-1, keepdim=True)).masked_fill(constant, 0)
