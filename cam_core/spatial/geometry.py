"""Image <-> model input <-> layer grid.

Resize, centre crop, padding and letterbox are all a scale and a shift along each axis, so what the
model saw is one rectangle of the original image: the :class:`Window`. It may be smaller than the
image (a crop) or reach beyond it (padding), and be flipped or transposed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of the original image that the model's input covers, in the image's pixels.

    Attributes:
        image: (height, width) of the original image
        left, top, right, bottom: the rectangle; outside ``[0, width] x [0, height]`` is padding
        flipped: whether the model sees it upside down, and left to right
        transposed: whether the image's columns are the rows of the model's input, as some readers of
            medical files have it; the flips are the image's, after it was transposed back
        cells: (left, top, right, bottom) of what the cells of a layer tile, where that is another
            rectangle: a layer's cells may lie within what they see, or beyond it
    """

    image: tuple[int, int]
    left: float
    top: float
    right: float
    bottom: float
    flipped: tuple[bool, bool] = (False, False)
    transposed: bool = False
    cells: tuple[float, float, float, float] | None = None

    @classmethod
    def whole(cls, height: int, width: int) -> Window:
        """The model saw the whole image and nothing else."""
        return cls((height, width), 0.0, 0.0, float(width), float(height))

    def places(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Where the centres of the model's pixels lie on the image.

        Args:
            size: (h, w) of the model's input

        Returns:
            y of each of its rows and x of each of its columns, in the image's pixels; of a transposed
            window y of each column and x of each row
        """
        down, across = size[::-1] if self.transposed else size
        y = self.top + (np.arange(down) + 0.5) / down * (self.bottom - self.top)
        x = self.left + (np.arange(across) + 0.5) / across * (self.right - self.left)
        return (y[::-1] if self.flipped[0] else y), (x[::-1] if self.flipped[1] else x)

    def upright(self, maps: Tensor) -> Tensor:
        """Turns (..., h, w) maps of the model's input as the image is."""
        maps = maps.transpose(-1, -2) if self.transposed else maps
        dims = [dim for dim, flip in zip((-2, -1), self.flipped, strict=True) if flip]
        return maps.flip(dims) if dims else maps

    def as_seen(self, maps: Tensor) -> Tensor:
        """Turns (..., h, w) maps as the model sees the image: the way back of :meth:`upright`."""
        dims = [dim for dim, flip in zip((-2, -1), self.flipped, strict=True) if flip]
        maps = maps.flip(dims) if dims else maps
        return maps.transpose(-1, -2) if self.transposed else maps

    def upright_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the model's input, as the image is; the same the other way round."""
        return size[::-1] if self.transposed else size


def axis_weights(
    cells: int,
    low: float,
    high: float,
    extent: float,
    size: int,
    seen: tuple[float, float] | None = None,
) -> Tensor:
    """Bilinear weights that carry a grid axis onto an image axis.

    Args:
        cells: cells of the grid along this axis; they tile ``[low, high]``
        low: where the grid begins on the image, in pixels
        high: where it ends
        extent: the image's length along this axis, in pixels
        size: samples to produce along the image's axis
        seen (None): what the cells see of the image, if more or less than they tile

    Returns:
        (size, cells) weights; rows outside the window are zero: what the model never saw is no heat
    """
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * (extent / size)
    position = (centres - low) / (high - low) * cells - 0.5
    first, last = seen or (low, high)
    inside = (centres >= first) & (centres <= last)
    position = position.clamp(0, cells - 1)
    base = position.floor().clamp(max=max(cells - 2, 0)).long()
    fraction = position - base
    weights = torch.zeros(size, cells, dtype=torch.float64)
    weights.scatter_(1, base[:, None], (1 - fraction)[:, None])
    if cells > 1:
        weights.scatter_(1, base[:, None] + 1, fraction[:, None])
    return (weights * inside[:, None]).float()


def project(maps: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Lays maps of the model's input onto the original image.

    Args:
        maps: (..., h, w) maps whose grid tiles the model's input
        window: what the model saw of the image
        size: (H, W) of the result, which covers the whole original image

    Returns:
        (..., H, W), bilinear; zero where the model saw nothing
    """
    height, width = window.image
    left, top, right, bottom = window.cells or (
        window.left,
        window.top,
        window.right,
        window.bottom,
    )
    maps = window.upright(maps)
    down, across = (window.top, window.bottom), (window.left, window.right)
    rows = axis_weights(maps.shape[-2], top, bottom, height, size[0], down).to(maps)
    columns = axis_weights(maps.shape[-1], left, right, width, size[1], across).to(maps)
    return rows @ maps @ columns.T


def to_input(heat: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Cuts out of heat on an image what the model saw of it: the way back of :func:`project`.

    Args:
        heat: (..., H, W) heat that covers the whole original image
        window: what the model saw of the image
        size: (h, w) of the result, which covers the model's input

    Returns:
        (..., h, w): bilinear, averaged over the input's pixels where there are fewer of them; zero on
        padding
    """
    height, width = window.image
    down, across = window.upright_size(size)
    rows = _window_weights(heat.shape[-2], window.top, window.bottom, height, down).to(heat)
    columns = _window_weights(heat.shape[-1], window.left, window.right, width, across).to(heat)
    return window.as_seen(rows @ heat @ columns.T)


def _window_weights(cells: int, low: float, high: float, extent: float, size: int) -> Tensor:
    """Weights (size, cells) that carry an image's cells onto the pixels of ``[low, high]``."""
    step = (high - low) / extent * cells / size
    if step <= 1:
        weights = axis_weights(cells, -low, extent - low, high - low, size)
        # rounding must not tell apart what is equal: metrics rank these values
        return weights.masked_fill(weights < 1e-6, 0)
    # several cells in one pixel: their mean, by how much of each lies in it
    starts = low / extent * cells + torch.arange(size, dtype=torch.float64)[:, None] * step
    edges = torch.arange(cells, dtype=torch.float64)
    covered = torch.minimum(starts + step, edges + 1) - torch.maximum(starts, edges)
    return (covered.clamp_min(0) / step).float()
