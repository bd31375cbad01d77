"""Heat inside objects' boxes: how much, and on which part of the object."""

from __future__ import annotations

import torch
from torch import Tensor

from ..spatial.masks import Size, box_weights


def box_coverage(heat: Tensor, boxes: Tensor) -> Tensor:
    """The share of a map's heat that lies in each box.

    Args:
        heat: (N, H, W) non-negative, over the boxes' frame
        boxes: (N, 4) or (N, K, 4) left, top, right, bottom as shares of the frame's width and height;
            pixels at a box's edge count in part

    Returns:
        (N,) or (N, K) in [0, 1]; NaN for a box with a NaN (a padded row, say) and for a map without
        heat

    Raises:
        ValueError: if the shapes do not fit
    """
    _check(heat, boxes, (2, 3))
    rows, columns = box_weights(boxes.to(heat), (heat.shape[-2], heat.shape[-1]))
    if boxes.dim() == 2:
        return _shares(heat, rows[:, None], columns[:, None])[:, 0]
    return _shares(heat, rows, columns)


def _shares(heat: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    inside = ((rows @ heat) * columns).sum(-1)
    return inside / heat.sum((-2, -1))[:, None]


def object_profile(heat: Tensor, boxes: Tensor, size: Size = (48, 48)) -> Tensor:
    """Heat warped into objects' boxes, so that the same part of each lies at the same place.

    The mean of a class's profiles says which part of the object carries the heat. Raw heat weighs
    strong maps more; divide maps by their maximum or sum before, for equal weights.

    Args:
        heat: (N, H, W), over the boxes' frame
        boxes: (N, 4) left, top, right, bottom as shares of the frame's width and height, one per map;
            repeat a map for several boxes. What of a box lies outside the frame repeats its border
        size ((48, 48)): (h, w) of the profiles

    Returns:
        (N, h, w): bilinear, and where a box is larger than the profile antialiased as Pillow does;
        NaN for a box with a NaN or without area

    Raises:
        ValueError: if the shapes do not fit
    """
    _check(heat, boxes, (2,))
    left, top, right, bottom = boxes.to(heat).unbind(-1)
    rows = _warp(top * heat.shape[-2], bottom * heat.shape[-2], heat.shape[-2], size[0])
    columns = _warp(left * heat.shape[-1], right * heat.shape[-1], heat.shape[-1], size[1])
    return rows @ heat @ columns.transpose(1, 2)


def _warp(low: Tensor, high: Tensor, cells: int, size: int) -> Tensor:
    """(N, size, cells) weights that carry the interval of an axis onto ``size`` samples."""
    step = (high - low)[:, None, None] / size
    place = torch.arange(size, device=low.device, dtype=low.dtype)[None, :, None] + 0.5
    # beyond the outermost centres the border's value goes on
    centre = (low[:, None, None] + place * step).clamp(0.5, cells - 0.5)
    pixel = torch.arange(cells, device=low.device, dtype=low.dtype) + 0.5
    weights = (1 - (pixel - centre).abs() / step.clamp_min(1)).clamp_min(0)
    weights = weights / weights.sum(-1, keepdim=True)
    return weights.masked_fill(~(step > 0), torch.nan)


def _check(heat: Tensor, boxes: Tensor, dims: tuple[int, ...]) -> None:
    if heat.dim() != 3 or not heat.is_floating_point():
        raise ValueError(f"heat must be a float tensor of shape (N, H, W), got {tuple(heat.shape)}")
    fits = boxes.dim() in dims and boxes.shape[-1] == 4 and len(boxes) == len(heat)
    if not fits:
        wanted = " or ".join(f"({len(heat)}, {'K, ' if d == 3 else ''}4)" for d in dims)
        raise ValueError(f"boxes must have shape {wanted}, got {tuple(boxes.shape)}")
