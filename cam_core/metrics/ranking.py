"""Orders of pixels, and random numbers, that do not depend on which batch an image is in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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


class Ranked:
    """Pixels in ascending order of their heat, with groups of equal heat; one sort serves all measures.

    Args:
        heat: (N, P)
    """

    def __init__(self, heat: Tensor):
        self.heat, self._order = heat.sort(dim=-1)
        position = torch.arange(heat.shape[-1], device=heat.device).expand_as(heat)
        rises = F.pad(self.heat[:, 1:] != self.heat[:, :-1], (1, 1), value=True)
        # where the group of each pixel starts, and where it ends (exclusive)
        self._start = torch.where(rises[:, :-1], position, 0).cummax(-1).values
        ends = torch.where(rises[:, 1:], position + 1, heat.shape[-1])
        self._end = ends.flip(-1).cummin(-1).values.flip(-1)

    def sorted(self, weights: Tensor) -> Tensor:
        """(N, P) weights of the pixels, in their order."""
        return weights.gather(-1, self._order)

    def ranks(self) -> Tensor:
        """(N, P) ranks from 0, in the pixels' own order; equal heat shares its mean rank."""
        mean = (self._start + self._end - 1) / 2
        return torch.empty_like(mean).scatter_(-1, self._order, mean)

    def _sums(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of sorted weights below each pixel's group, and up to its end."""
        total = F.pad(weights.cumsum(-1), (1, 0))
        return total.gather(-1, self._start), total.gather(-1, self._end)

    def auc(self, positive: Tensor, negative: Tensor) -> Tensor:
        """P(heat of a positive > heat of a negative) + P(equal) / 2; (N,), NaN where one is empty."""
        below, upto = self._sums(self.sorted(negative))
        wins = (self.sorted(positive) * (below + upto)).sum(-1) / 2
        return wins / (positive.sum(-1) * negative.sum(-1))

    def top_share(self, positive: Tensor, negative: Tensor) -> Tensor:
        """The share of positives among as many of the hottest; of equal ones, in expectation."""
        hits, mass = self.sorted(positive), self.sorted(positive + negative)
        below, upto = self._sums(mass)
        wanted = positive.sum(-1, keepdim=True)
        above = mass.sum(-1, keepdim=True) - upto
        group = upto - below
        taken = ((wanted - above) / group).masked_fill(group <= 0, 0).clamp(0, 1)
        return (hits * taken).sum(-1) / wanted[:, 0]

    def gini(self, weights: Tensor) -> Tensor:
        """Gini index of the heat over pixels that count with their weight; (N,)."""
        share = self.sorted(weights)
        total = share.sum(-1, keepdim=True)
        # of one pixel: 2 i - N - 1 with i = its rank
        rank = 2 * share.cumsum(-1) - share - total
        mass = self.heat * share
        return (rank * mass).sum(-1) / (total[:, 0] * mass.sum(-1))

    def area_holding(self, weights: Tensor, part: float) -> Tensor:
        """The smallest share of the area that holds a part of the heat; (N,)."""
        share = self.sorted(weights)
        mass = self.heat * share
        total = mass.sum(-1, keepdim=True)
        hotter = total - mass.cumsum(-1)
        # cold pixels take no part; dividing by their zero would have either sign
        taken = ((part * total - hotter) / mass).masked_fill(mass <= 0, 0).clamp(0, 1)
        return (share * taken).sum(-1) / share.sum(-1)
