"""Infidelity, max-sensitivity, coherency and ADCC: changed images and the maps of changed images."""

from __future__ import annotations

import torch
from torch import Tensor

from ..maps import rectify
from ._orders import pearson, seeded
from ._trial import Trial
from .masked_scores import masked_score

# Sides of the squares that are removed for infidelity, as shares of the image's shorter side.
_SQUARES = (1 / 8, 1 / 2)


def infidelity(trial: Trial, metric: str) -> Tensor:
    """How badly the heat of a square foretells what removing the square costs, (N, M).

    ``E[(beta * sum of the heat in the square - (p(x) - p(x without the square)))^2]`` over random
    squares (Yeh et al., NeurIPS 2019, square removal, with the attribution counting as multiplied by
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


def max_sensitivity(trial: Trial, metric: str) -> Tensor:
    """The largest change of the map, relative to it, under small uniform noise, (N, M).

    ``max |h(x + d) - h(x)| / |h(x)|`` over ``repeats`` draws of d, each pixel within ``radius``
    standard deviations of the image (Yeh et al., NeurIPS 2019). Both maps are computed here, so that
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


def coherency(trial: Trial, metric: str) -> Tensor:
    """Correlation of the map with the map of the image seen through it, as (r + 1) / 2, (N, M)."""
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


def adcc(trial: Trial, metric: str) -> Tensor:
    """Harmonic mean of coherency, 1 - mean of the map in [0, 1], and 1 - average drop, (N, M).

    Poppi, Cornia, Baraldi, Cucchiara: Revisiting the Evaluation of Class Activation Mapping for
    Explainability, CVPRW 2021.
    """
    simple = 1 - trial.masks.mean((-2, -1))
    kept = 1 - masked_score(trial, "average_drop")
    parts = torch.stack([coherency(trial, metric), simple, kept])
    mean = len(parts) / parts.clamp_min(torch.finfo(parts.dtype).tiny).reciprocal().sum(0)
    return mean.masked_fill(parts.isnan().any(0), torch.nan)
