"""From raw maps to heatmaps: rectify, normalise, upsample, fuse layers.

A *map* is raw: signed, float32, on the layer's grid. A *heatmap* is rectified, upsampled bilinearly
and divided by its maximum, so that 0 means "no evidence for the target".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .extent import WHOLE, Extent
from .geometry import Window, project

STATUSES = ("ok", "zero", "flat", "nan")

# A map whose values differ by less than this share of its maximum carries no place.
_FLAT = 1e-4


def rectify(maps: Tensor) -> Tensor:
    """Keeps the evidence for the target: ``max(0, map)``."""
    return maps.relu()


def normalise(maps: Tensor, cut: float | None = None) -> Tensor:
    """Divides each map by its maximum; the range is [0, 1] and zero stays zero.

    Not min-max: subtracting the minimum would turn a flat map into a spiky one.

    Args:
        maps: (..., h, w) non-negative maps
        cut (None): divides by this quantile instead and cuts off what is above: in a map of single
            pixels a few are so much stronger than the rest that nothing else would be seen
    """
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    if cut is not None:
        flat = maps.flatten(-2)
        rank = max(1, math.ceil(cut * flat.shape[-1]))
        high = flat.kthvalue(rank, dim=-1).values[..., None, None]
        peak = torch.where(high > 0, high, peak)
    return (maps / peak.clamp_min(torch.finfo(maps.dtype).tiny)).clamp_max(1)


def cut_of(layer: str) -> float | None:
    """The quantile at which the maps of a layer are cut off for display: those on pixels at 99 %.

    As the authors of SmoothGrad do (Smilkov et al., arXiv 1706.03825, section 3.1).
    """
    return 0.99 if layer == "input" else None


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, ``align_corners=False``: the cells of the grid tile the image.

    Args:
        maps: (N, K, h, w)
        size: (H, W)
    """
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def heatmaps(
    maps: Tensor, size: tuple[int, int], cut: float | None = None, extent: Extent = WHOLE
) -> Tensor:
    """Rectified, upsampled and normalised maps, over the model's input.

    Args:
        maps: (N, K, h, w) raw maps
        size: (H, W)
        cut (None): see :func:`normalise`
        extent (WHOLE): where the maps' cells lie on the input; they tile it by default

    Returns:
        (N, K, H, W) in [0, 1]; all zero for a map without positive evidence, NaN for a map that is
        not finite
    """
    positive = rectify(maps)
    if extent == WHOLE:
        heat = upsample(positive, size)
    else:
        heat = project(positive, extent.on_image(Window.whole(*size)), size)
    heat = normalise(heat, cut)
    # Rectifying would hide a -inf, and a maximum of inf would make a picture of one point.
    return heat.masked_fill(~_finite(maps)[..., None, None], torch.nan)


def _finite(maps: Tensor) -> Tensor:
    return maps.isfinite().all(-1).all(-1)


def status(maps: Tensor) -> Any:
    """Says of each map whether it is one.

    Args:
        maps: (..., h, w) raw maps

    Returns:
        nested lists of ``"ok"``, ``"zero"`` (no positive evidence), ``"flat"`` (no place stands
        out) or ``"nan"`` (not finite)
    """
    positive = rectify(maps)
    high, low = positive.amax((-2, -1)), positive.amin((-2, -1))
    code = torch.zeros_like(high, dtype=torch.long)
    code = torch.where(high - low <= _FLAT * high, 2, code)
    code = torch.where(high <= 0, 1, code)
    code = torch.where(_finite(maps), code, 3)
    return _named(code.tolist())


def _named(codes: list | int) -> Any:
    return [_named(c) for c in codes] if isinstance(codes, list) else STATUSES[codes]


def fuse(maps: Sequence[Tensor], rule: str) -> Tensor:
    """Fuses one method's maps of several layers.

    Args:
        maps: (N, K, h, w) raw maps, one per layer
        rule: ``"layercam"``: tanh(2 x / max x), then the maximum over layers (LayerCAM, eq. 9);
            ``"mean"``: the mean of the maps divided by their maxima

    Returns:
        (N, K, h, w) on the finest grid, in [0, 1]

    Raises:
        ValueError: if the rule is unknown
    """
    check_rule(rule)
    size = max(((m.shape[-2], m.shape[-1]) for m in maps), key=lambda s: s[0] * s[1])
    unit = [normalise(rectify(m)) for m in maps]
    if rule == "layercam":
        return torch.stack([upsample(torch.tanh(2 * m), size) for m in unit]).amax(0)
    return torch.stack([upsample(m, size) for m in unit]).mean(0)


def check_rule(rule: str) -> None:
    """Raises a ValueError if a fusion rule is unknown."""
    if rule not in ("layercam", "mean"):
        raise ValueError(f"fuse: {rule!r} is unknown; choose 'layercam' or 'mean'")
