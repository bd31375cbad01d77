"""ROAD: remove and debias. Pixels are replaced by noisy linear imputation, solved on the device.

Rong, Leemann, Borisov, Kasneci, Kasneci: A Consistent and Efficient Evaluation Strategy for
Attribution Methods, ICML 2022. A removed pixel becomes the weighted mean of its eight neighbours
(1/6 beside, 1/12 across), removed ones among them: a linear system per image, which is a discrete
Laplace equation. Unlike a grey patch the result has no edge that tells the network where the mask was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .fills import count_of
from .ranking import seeded
from .registry import Parts, Workload, metric
from .trial import Trial

# Below so many pixels a side the equations are relaxed instead of coarsened further.
_COARSEST = 4
_RELAXATIONS = 8


_PAPER = "Rong et al., ROAD, ICML 2022"


def _removals(*orders: str) -> Callable[[Workload], Parts]:
    return lambda work: [(order, work.pairs * len(work.options.percentiles)) for order in orders]


@metric(
    better="lower",
    label="ROAD, most relevant first",
    paper=_PAPER,
    forwards=_removals("road_morf"),
)
def road_morf(trial: Trial) -> Tensor:
    """Mean probability with the hottest pixels imputed from their neighbours; 0 to 1."""
    return _removal(trial, "road_morf")


@metric(
    better="higher",
    label="ROAD, least relevant first",
    paper=_PAPER,
    forwards=_removals("road_lerf"),
)
def road_lerf(trial: Trial) -> Tensor:
    """Mean probability with the coldest pixels imputed from their neighbours; 0 to 1."""
    return _removal(trial, "road_lerf")


@metric(
    better="higher",
    label="ROAD",
    paper=_PAPER,
    forwards=_removals("road_morf", "road_lerf"),
    default=True,
)
def road(trial: Trial) -> Tensor:
    """Half of what imputing the coldest pixels leaves more than imputing the hottest; -.5 to .5."""
    return (_removal(trial, "road_lerf") - _removal(trial, "road_morf")) / 2


def _removal(trial: Trial, order: str) -> Tensor:
    """Mean probability after imputing growing shares of pixels, in one of two orders."""
    return trial.once(order, lambda: _run(trial, order))


def _run(trial: Trial, order: str) -> Tensor:
    height, width = trial.images.shape[-2:]
    pixels = height * width
    shares = trial.options.percentiles
    device = trial.images.device
    counts = [min(count_of(share / 100, pixels), pixels - 1) for share in shares]
    removed = torch.tensor(counts, device=device)
    draw = torch.randn(trial.images.shape[1:], generator=seeded(trial.options.seed)).to(device)

    def changed(image: Tensor, map_: Tensor, step: Tensor) -> Tensor:
        ranks = trial.ranks[image, map_]
        count = removed[step, None]
        missing = ranks < count if order == "road_morf" else ranks >= pixels - count
        missing = missing.view(-1, height, width)
        return impute(trial.images[image], missing, trial.options.noise, draw)

    found = trial.per_map(len(shares), changed)
    whole = trial.scores[:, None, None].expand(*found.shape[:2], 1)
    trial.curves[order] = torch.cat(
        [whole.masked_fill(~trial.usable[..., None], torch.nan), found], -1
    )
    return found.mean(-1)


def impute(
    images: Tensor,
    missing: Tensor,
    noise: float = 0.0,
    draw: Tensor | None = None,
    *,
    tolerance: float = 5e-6,
    most: int = 100,
) -> Tensor:
    """Replaces pixels by the weighted mean of their neighbours, removed ones among them.

    Conjugate gradients preconditioned by a multigrid V-cycle, for all images and channels at once: a
    handful of iterations whatever the mask, where a plain solver needs as many as the image has rows.
    An image is done when its estimated error is below the tolerance; its result does not depend on
    the others in the batch.

    Args:
        images: (B, C, H, W)
        missing: (B, H, W) bool, what is replaced; at least one pixel of each image must remain
        noise (0.0): standard deviation of what is added to replaced pixels; the authors' is 0.01
        draw (None): (C, H, W) or (B, C, H, W) standard normal numbers for it; drawn by default
        tolerance (5e-6): of the estimated error, as a share of the image's range
        most (100): iterations

    Returns:
        (B, C, H, W) of the images' dtype; pixels that are not missing are as they were

    Raises:
        ValueError: if an image has no pixel left
    """
    if bool(missing.flatten(1).all(1).any()):
        raise ValueError("missing: an image without any pixel left cannot be imputed")
    unknown = missing[:, None].float()
    exact = images.float()
    levels = _levels(unknown)
    left = exact * (1 - unknown)
    mean = left.sum((-2, -1), keepdim=True) / (1 - unknown).sum((-2, -1), keepdim=True)
    found = left + mean * unknown
    spread = exact.amax((1, 2, 3)) - exact.amin((1, 2, 3))
    # of an image without contrast what rounding leaves
    spread = spread.maximum(exact.abs().amax((1, 2, 3)) / 10)
    found = found + _solve(levels, found, tolerance * spread, most)
    if noise:
        normal = torch.randn_like(exact) if draw is None else draw.to(exact)
        found = found + noise * normal * unknown
    return torch.where(missing[:, None], found.to(images.dtype), images)


@dataclasses.dataclass
class _Level:
    """The equations on one grid: ``unknown * (degree * x - neighbours(x)) = unknown * r``.

    Attributes:
        unknown: (B, 1, h, w) 1 where a value is looked for
        degree: (1, 1, h, w) weights of a pixel's neighbours inside the picture
        rows: (h, h / 2) interpolation from the next coarser grid, None for the coarsest
        columns: (w, w / 2)
    """

    unknown: Tensor
    degree: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        return self.unknown * (self.degree * x - _neighbours(x))

    def relax(self, residual: Tensor) -> Tensor:
        """One step of Jacobi; it leaves at most a third of what is rough."""
        return residual / self.degree


def _levels(unknown: Tensor) -> list[_Level]:
    levels = []
    while True:
        degree = _neighbours(torch.ones_like(unknown[:1]))
        level = _Level(unknown, degree)
        levels.append(level)
        height, width = unknown.shape[-2:]
        if min(height, width) <= _COARSEST:
            return levels
        level.rows, level.columns = _interpolation(height, unknown), _interpolation(width, unknown)
        # a coarse pixel is unknown where all below it are
        unknown = 1 - F.max_pool2d(1 - unknown, 2, ceil_mode=True)


def _interpolation(size: int, like: Tensor) -> Tensor:
    """(size, ceil(size / 2)) linear interpolation between the centres of pairs of pixels."""
    pairs = torch.eye((size + 1) // 2, device=like.device, dtype=like.dtype)[:, None]
    return F.interpolate(pairs, scale_factor=2, mode="linear", align_corners=False)[:, 0, :size].T


def _neighbours(x: Tensor) -> Tensor:
    """Weighted sums of the eight neighbours: 1/6 beside, 1/12 across, nothing beyond the border."""
    # [1 2 1] along both axes is the wanted stencil times 12 plus 4 times the pixel itself
    rows = 2 * x
    rows[..., 1:, :] += x[..., :-1, :]
    rows[..., :-1, :] += x[..., 1:, :]
    both = 2 * rows
    both[..., 1:] += rows[..., :-1]
    both[..., :-1] += rows[..., 1:]
    return both.sub_(x, alpha=4).div_(12)


def _cycle(levels: list[_Level], residual: Tensor) -> Tensor:
    """A V-cycle: an approximate solution, linear and symmetric in the residual."""
    level = levels[0]
    x = level.relax(residual)
    if level.rows is None or level.columns is None:
        for _ in range(_RELAXATIONS):
            x = x + level.relax(residual - level.apply(x))
        return x
    rest = residual - level.apply(x)
    coarse = levels[1].unknown * (level.rows.T @ rest @ level.columns)
    better = level.rows @ _cycle(levels[1:], coarse) @ level.columns.T
    x = x + level.unknown * better
    return x + level.relax(residual - level.apply(x))


def _solve(levels: list[_Level], start: Tensor, tolerance: Tensor, most: int) -> Tensor:
    """What to add to a start (B, C, H, W); conjugate gradients for every image and channel."""
    level = levels[0]
    found = torch.zeros_like(start)
    residual = level.unknown * (_neighbours(start) - level.degree * start)
    estimate = _cycle(levels, residual)
    direction, energy = estimate, _dot(residual, estimate)
    for _ in range(most):
        active = estimate.abs().amax((1, 2, 3)) > tolerance
        if not bool(active.any()):
            break
        changed = level.apply(direction)
        # an image that is done stays as it is, whoever else is in the batch
        step = energy / _dot(direction, changed).clamp_min(1e-30) * active[:, None, None, None]
        found = found + step * direction
        residual = residual - step * changed
        estimate = _cycle(levels, residual)
        before, energy = energy, _dot(residual, estimate)
        direction = estimate + energy / before.clamp_min(1e-30) * direction
    return found + estimate


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)
