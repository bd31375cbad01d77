"""Infidelity and max-sensitivity: what changes of the image do to the score, and to the map.

Yeh, Hsieh, Suggala, Inouye, Ravikumar: On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ranking import seeded
from .registry import metric
from .trial import Trial

_PAPER = "Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019"
# Sides of the squares that are removed for infidelity, as shares of the image's shorter side.
_SQUARES = (1 / 8, 1 / 2)


@metric(
    better="lower",
    label="Infidelity",
    paper=_PAPER,
    forwards=lambda work: [("infidelity", work.images * work.options.samples)],
)
def infidelity(trial: Trial) -> Tensor:
    """Mean squared error of foretelling from the map what removing a random square costs; 0 to 1.

    ``E[(beta * sum of the heat in the square - (p(x) - p(x without the square)))^2]`` over random
    squares (square removal, with the attribution counting as multiplied by
    its input). beta makes it independent of the map's scale as in the authors' code: the best one,
    but not below 0, for a map that foretells the contrary is no good map.
    """
    height, width = trial.images.shape[-2:]
    boxes = random_squares(trial.options.samples, (height, width), trial.options.seed)
    inside = _inside(boxes.to(trial.images.device), (height, width))
    empty = trial.filled("mean")

    def changed(image: Tensor, step: Tensor) -> Tensor:
        return torch.where(inside[step][:, None], empty[image], trial.images[image])

    drop = trial.scores[:, None] - trial.per_image(len(boxes), changed)
    heat = trial.heats.flatten(2) @ inside.flatten(1).float().T
    foretold, found = heat.double(), drop.double()[:, None]
    beta = ((foretold * found).sum(-1) / foretold.square().sum(-1)).clamp_min(0)
    # a map that is zero in every square foretells nothing
    beta = beta.masked_fill(foretold.square().sum(-1) == 0, 0)
    error = (beta[..., None] * foretold - found).square().mean(-1).float()
    return error.masked_fill(~trial.usable, torch.nan)


def random_squares(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Squares of random sides and places inside the image.

    Args:
        count: how many
        size: (H, W)
        seed: of the draw

    Returns:
        (count, 4) int64 top, left, bottom, right; sides are 1/8 to 1/2 of the shorter side
    """
    shorter = min(size)
    low, high = (max(1, round(share * shorter)) for share in _SQUARES)
    draw = seeded(seed)
    side = torch.randint(low, high + 1, (count,), generator=draw)
    place = torch.rand(count, 2, generator=draw, dtype=torch.float64)
    corner = (place * (torch.tensor(size) - side[:, None] + 1)).long()
    return torch.cat([corner, corner + side[:, None]], 1)


def _inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(S, H, W) bool masks of boxes."""
    rows = torch.arange(size[0], device=boxes.device)[:, None]
    columns = torch.arange(size[1], device=boxes.device)
    top, left, bottom, right = boxes[:, :, None, None].unbind(1)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


@metric(
    better="lower",
    label="Max-sensitivity",
    paper=_PAPER,
    forwards=lambda work: [("max_sensitivity", work.images * (work.options.repeats + 1))],
    needs_explain=True,
)
def max_sensitivity(trial: Trial) -> Tensor:
    """Largest relative change of the map under small noise; from 0.

    ``max |h(x + d) - h(x)| / |h(x)|`` over ``repeats`` draws of d, each pixel within ``radius``
    standard deviations of the image. Both maps are computed here, so that
    rounding of stored ones does not count.
    """
    images = trial.images
    repeats = trial.options.repeats
    shape = (repeats, *images.shape[1:])
    draws = (2 * torch.rand(shape, generator=seeded(trial.options.seed)) - 1).to(images.device)
    reach = trial.options.radius * images.float().std((1, 2, 3), keepdim=True)
    rows = trial.usable.any(1).nonzero()[:, 0]
    base = trial.maps_again(len(rows), lambda index: (images[rows[index]], rows[index]))

    def noisy(index: Tensor) -> tuple[Tensor, Tensor]:
        image = rows[index // repeats]
        return images[image].float() + reach[image] * draws[index % repeats], image

    def change(maps: Tensor, index: Tensor) -> Tensor:
        return (maps - base[index // repeats]).flatten(2).norm(dim=-1)

    changes = trial.maps_again(len(rows) * repeats, noisy, change).unflatten(0, (-1, repeats))
    found = torch.full_like(trial.heats[..., 0, 0], torch.nan)
    found[rows] = changes.amax(1) / base.flatten(2).norm(dim=-1)
    # of a map without heat there is no relative change
    return found.masked_fill(~(found.isfinite() & trial.usable), torch.nan)
