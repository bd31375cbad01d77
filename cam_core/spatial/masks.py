"""Masks on a pixel grid: coverage, resampling, growing, and the parts a picture falls into.

Masks are soft: a value is the share of its pixel that is covered, so that an object smaller than a
pixel of a coarse grid keeps its area. Nothing here samples the nearest pixel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import Window, project
from .maps import rectify

Size = tuple[int, int]


def coverage(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """How much of each unit cell of an axis an interval covers.

    Args:
        low: (...) where the intervals begin; cell ``i`` is ``[i, i + 1]``
        high: (...) where they end
        cells: the number of cells

    Returns:
        (..., cells) in [0, 1]
    """
    edges = torch.arange(cells, dtype=low.dtype, device=low.device)
    covered = torch.minimum(high[..., None], edges + 1) - torch.maximum(low[..., None], edges)
    return covered.clamp(0, 1)


def box_masks(boxes: Tensor, size: Size) -> Tensor:
    """Rasterises boxes by area.

    Args:
        boxes: (..., 4) left, top, right, bottom as shares of the frame's width and height; what lies
            outside the frame is cut off
        size: (H, W) of the masks

    Returns:
        (..., H, W) share of each pixel that the box covers, in [0, 1]; NaN for a box with a NaN
    """
    rows, columns = box_weights(boxes, size)
    return rows[..., :, None] * columns[..., None, :]


def box_weights(boxes: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """The (..., H) rows' and (..., W) columns' shares that boxes cover; see :func:`box_masks`."""
    left, top, right, bottom = boxes.unbind(-1)
    rows = coverage(top * size[0], bottom * size[0], size[0])
    return rows, coverage(left * size[1], right * size[1], size[1])


def resize_masks(masks: Tensor, size: Size) -> Tensor:
    """Resamples soft masks by exact area averaging, so that the covered share of the frame stays.

    Args:
        masks: (..., H, W) in [0, 1]
        size: (h, w), smaller or larger

    Returns:
        (..., h, w) float masks in [0, 1]
    """
    masks = masks if masks.is_floating_point() else masks.float()
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    rows = _area_weights(masks.shape[-2], size[0]).to(masks)
    columns = _area_weights(masks.shape[-1], size[1]).to(masks)
    return (rows @ masks @ columns.T).clamp(0, 1)


def _area_weights(cells: int, size: int) -> Tensor:
    step = cells / size
    low = torch.arange(size, dtype=torch.float64) * step
    return coverage(low, low + step, cells) / step


def resize_heat(heat: Tensor, size: Size) -> Tensor:
    """Resamples heat bilinearly; where it shrinks, every pixel still counts (antialiased).

    Args:
        heat: (N, h, w)
        size: (H, W)

    Returns:
        (N, H, W)
    """
    if tuple(heat.shape[-2:]) == tuple(size):
        return heat
    shrinks = heat.shape[-2] > size[0] or heat.shape[-1] > size[1]
    resized = F.interpolate(
        heat[:, None], size=size, mode="bilinear", align_corners=False, antialias=shrinks
    )
    return resized[:, 0]


def _sides(window: Window) -> tuple[float, float, float, float]:
    return window.left, window.top, window.right, window.bottom


def on_images(
    maps: Tensor, windows: Sequence[Window], size: Size
) -> tuple[Tensor, Tensor, list[tuple[float, float]]]:
    """Lays maps of the model's input onto the images they were made from.

    Args:
        maps: (N, h, w) raw maps whose grid tiles the model's input
        windows: N windows: which part of its image the model saw
        size: (H, W) of the result; it covers the whole image, whatever the image's aspect

    Returns:
        a tuple of

        - (N, H, W) heat: rectified, bilinear, zero where the model saw nothing
        - (N, H, W) share of each pixel that the model saw, in [0, 1]
        - N pairs: (height, width) of one cell of the map in pixels of the result
    """
    heat, seen = maps.new_zeros(len(maps), *size), maps.new_zeros(len(maps), *size)
    cells: list[tuple[float, float]] = [(1.0, 1.0)] * len(maps)
    for window in dict.fromkeys(windows):
        rows = [i for i, other in enumerate(windows) if other == window]
        heat[rows] = project(rectify(maps[rows]), window, size)
        height, width = window.image
        corners, tiled = (
            (left / width, top / height, right / width, bottom / height)
            for left, top, right, bottom in (_sides(window), window.cells or _sides(window))
        )
        seen[rows] = box_masks(torch.tensor(corners, dtype=torch.float64), size).to(maps)
        down, across = window.upright_size((maps.shape[-2], maps.shape[-1]))
        cell = (
            (tiled[3] - tiled[1]) * size[0] / down,
            (tiled[2] - tiled[0]) * size[1] / across,
        )
        for row in rows:
            cells[row] = cell
    return heat, seen, cells


def dilate(masks: Tensor, radius: tuple[float, float]) -> Tensor:
    """Grows soft masks by a rectangle; exact for boxes, also by parts of a pixel.

    Args:
        masks: (N, H, W) in [0, 1]
        radius: pixels that an edge moves, vertically and horizontally

    Returns:
        (N, H, W). An object smaller than a pixel counts as a whole one, else it could not grow
    """
    peak = masks.amax((-2, -1), keepdim=True)
    grown = masks / peak.clamp_min(torch.finfo(masks.dtype).tiny)
    grown = _dilate_axis(grown, radius[0], vertical=True)
    return _dilate_axis(grown, radius[1], vertical=False)


def _dilate_axis(masks: Tensor, radius: float, vertical: bool) -> Tensor:
    whole = int(radius)
    grown = _max_filter(masks, whole, vertical)
    part = radius - whole
    return grown + part * (_max_filter(grown, 1, vertical) - grown) if part > 1e-6 else grown


def _max_filter(masks: Tensor, radius: int, vertical: bool) -> Tensor:
    """The maximum over ``2 radius + 1`` pixels of an axis; windows double, so it costs log(radius)."""
    if radius == 0:
        return masks
    axis = -2 if vertical else -1
    pad = (0, 0, radius, radius) if vertical else (radius, radius)
    highest, reach, window = F.pad(masks, pad), 1, 2 * radius + 1
    while reach < window:
        step = min(reach, window - reach)
        length = highest.shape[axis] - step
        highest = torch.maximum(highest.narrow(axis, 0, length), highest.narrow(axis, step, length))
        reach += step
    return highest


def within(members: Tensor, radius: tuple[float, float]) -> Tensor:
    """Which pixels lie within an ellipse's reach of a member.

    Args:
        members: (N, H, W) bool
        radius: of the ellipse in pixels, vertically and horizontally; between centres of pixels

    Returns:
        (N, H, W) bool
    """
    height, width = members.shape[-2:]
    near = torch.zeros_like(members)
    for step in range(min(int(radius[0]), height - 1) + 1):
        share = step / radius[0] if step else 0.0
        # the small allowance keeps what is exactly at the rim
        half = int(radius[1] * math.sqrt(max(0.0, 1 - share**2)) + 1e-6)
        row = _max_filter(members.float(), min(half, width), vertical=False) > 0
        near[:, step:] |= row[:, : height - step]
        near[:, : height - step] |= row[:, step:]
    return near


@dataclasses.dataclass(frozen=True)
class Regions:
    """The parts of a picture, as (N, H, W) shares of each pixel; they add up to at most 1.

    Attributes:
        object: O, the objects of the explained class, as far as the model saw them
        background: B, what is neither object, nor other, nor ignored, as far as it was seen
        other: objects of other classes
        seen: what the model saw
    """

    object: Tensor
    background: Tensor
    other: Tensor
    seen: Tensor

    @property
    def counted(self) -> Tensor:
        """What is not ignored and was seen."""
        return self.object + self.background + self.other


def split(
    objects: Tensor, other: Tensor | None, ignore: Tensor | None, seen: Tensor | None
) -> Regions:
    """Divides pictures into object, other objects, ignored and background.

    Where they overlap, the object comes first, then other objects, then what is ignored. In a pixel
    that several cover in part, the shares add up: at a common border there is no background.

    Args:
        objects: (N, H, W) masks in [0, 1]
        other (None): (N, H, W) objects of other classes
        ignore (None): (N, H, W) crowd, void
        seen (None): (N, H, W) what the model saw; None: everything

    Returns:
        :class:`Regions`
    """
    rest = 1 - objects
    shares = []
    for mask in (other, ignore):
        share = torch.zeros_like(objects) if mask is None else torch.minimum(mask, rest)
        rest = rest - share
        shares.append(share)
    eyes = torch.ones_like(objects) if seen is None else seen
    return Regions(objects * eyes, rest * eyes, shares[0] * eyes, eyes)


def grow(regions: Regions, radius: Sequence[tuple[float, float]]) -> Regions:
    """Lets the objects grow into the background, not into other objects or what is ignored.

    Args:
        regions: :class:`Regions` of N pictures
        radius: N pairs of pixels, vertically and horizontally

    Returns:
        :class:`Regions`
    """
    distinct = dict.fromkeys(radius)
    if len(distinct) == 1:
        grown = dilate(regions.object, radius[0])
    else:
        grown = torch.empty_like(regions.object)
        for pair in distinct:
            rows = [i for i, other in enumerate(radius) if other == pair]
            grown[rows] = dilate(regions.object[rows], pair)
    both = regions.object + regions.background
    larger = torch.maximum(regions.object, torch.minimum(grown, both))
    return dataclasses.replace(regions, object=larger, background=both - larger)
