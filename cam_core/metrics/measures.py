"""The single measures of heat against regions; each is a pure function of batched tensors.

Heat is (N, H, W) and non-negative, regions are shares of its pixels. What is undefined is NaN. Their
ranges and papers stand at :class:`~cam_core.metrics.localization.Localization`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..spatial.masks import Regions, coverage, resize_masks, within
from .ranking import Ranked

# The border of a picture: this share of its sides, at each edge.
RING = 0.12
# The Gaussian of the centre: side / 4.5, about a ninth of the area within one sigma.
CENTRE = 4.5
# The pointing game's tolerance is given for pictures of this side.
POINTING_SIDE = 224
# log2_lift of a map with no heat on the object at all, so that means of it stay finite.
LOWEST_LOG2_LIFT = -10.0


def obj_energy(heat: Tensor, regions: Regions) -> Tensor:
    """The share of the heat of object and background that lies on the object; (N,) in [0, 1].

    Args:
        heat: (N, H, W) non-negative
        regions: :class:`~cam_core.spatial.masks.Regions` on the same grid
    """
    inside = _sum(heat, regions.object)
    return inside / (inside + _sum(heat, regions.background))


def other_energy(heat: Tensor, regions: Regions) -> Tensor:
    """The share of the heat that lies on other classes' objects; (N,) in [0, 1]."""
    return _sum(heat, regions.other) / _sum(heat, regions.counted)


def object_area(regions: Regions) -> Tensor:
    """The object's share of the area of object and background; (N,) in [0, 1]."""
    inside = regions.object.sum((-2, -1))
    return inside / (inside + regions.background.sum((-2, -1)))


def log2_lift(energy: Tensor, area: Tensor) -> Tensor:
    """log2 of energy over area, at least -10; (N,)."""
    return (energy / area).log2().clamp_min(LOWEST_LOG2_LIFT)


def density_share(heat: Tensor, regions: Regions) -> Tensor:
    """d_O / (d_O + d_B) with d the mean heat of a region; (N,) in [0, 1], NaN where one is empty."""
    inside = _sum(heat, regions.object) / regions.object.sum((-2, -1))
    outside = _sum(heat, regions.background) / regions.background.sum((-2, -1))
    return inside / (inside + outside)


def pix_auc(heat: Tensor, regions: Regions) -> Tensor:
    """P(h(u) > h(v)) + P(=) / 2 for u in the object and v in the background; (N,) in [0, 1]."""
    ranked = Ranked(heat.flatten(1))
    return ranked.auc(regions.object.flatten(1), regions.background.flatten(1))


def rank_acc(heat: Tensor, regions: Regions) -> Tensor:
    """The share of the |O| hottest pixels that lie in O, ties in expectation; (N,) in [0, 1]."""
    ranked = Ranked(heat.flatten(1))
    return ranked.top_share(regions.object.flatten(1), regions.background.flatten(1))


def pointing(heat: Tensor, regions: Regions, tolerance: float = 15.0) -> Tensor:
    """Whether the hottest pixel lies within a tolerance of the object; (N,) in [0, 1].

    Other classes' objects count as a miss; what is ignored or was not seen cannot be hottest.

    Args:
        heat: (N, H, W) non-negative
        regions: :class:`~cam_core.spatial.masks.Regions` on the same grid
        tolerance (15.0): in pixels of a picture of 224 x 224, scaled along each axis
    """
    # an object smaller than a pixel is where it covers most
    peak = regions.object.amax((-2, -1), keepdim=True)
    members = (regions.object >= peak / 2) & (peak > 0)
    scale = tolerance / POINTING_SIDE
    near = within(members, (scale * heat.shape[-2], scale * heat.shape[-1]))
    allowed = regions.counted >= 0.5
    hottest = heat.masked_fill(~allowed, -1)
    hottest = (hottest == hottest.amax((-2, -1), keepdim=True)) & allowed & (heat > 0)
    return (hottest & near).sum((-2, -1)) / hottest.sum((-2, -1))


def iou(heat: Tensor, regions: Regions, threshold: float = 0.5) -> Tensor:
    """Intersection over union of the object and the hot pixels; (N,) in [0, 1].

    Hot is at least ``threshold`` of the map's maximum; other classes' objects and what is ignored
    do not count (Boggust et al., Shared Interest, CHI 2022).
    """
    hot = (heat >= threshold * heat.amax((-2, -1), keepdim=True)).to(heat)
    shared = _sum(hot, regions.object)
    return shared / (regions.object.sum((-2, -1)) + _sum(hot, regions.background))


def border_ratio(heat: Tensor, seen: Tensor) -> Tensor:
    """Mean heat of the outer 12 % ring over the mean heat; (N,), uniform gives 1.

    Args:
        heat: (N, H, W) non-negative
        seen: (N, H, W) what the model saw, a rectangle; the ring runs along its border
    """
    inner = [
        coverage(start + RING * length, start + (1 - RING) * length, cells)
        for start, length, cells in _sides(seen)
    ]
    ring = (1 - inner[0][:, :, None] * inner[1][:, None, :]) * seen
    return (_sum(heat, ring) / ring.sum((-2, -1))) / (_sum(heat, seen) / seen.sum((-2, -1)))


def centre_ratio(heat: Tensor, seen: Tensor) -> Tensor:
    """Heat weighted by a centred Gaussian, over the same of a uniform map; (N,), uniform gives 1.

    Args:
        heat: (N, H, W) non-negative
        seen: (N, H, W) what the model saw, a rectangle; sigma is a 4.5th of its sides
    """
    bells = []
    for start, length, cells in _sides(seen):
        centres = torch.arange(cells, device=heat.device, dtype=heat.dtype) + 0.5
        offset = (centres - (start + length / 2)[:, None]) * (CENTRE / length)[:, None]
        bells.append(torch.exp(-(offset**2) / 2))
    bell = bells[0][:, :, None] * bells[1][:, None, :]
    mean = _sum(bell, seen) / seen.sum((-2, -1))
    return _sum(heat * bell, seen) / (mean * _sum(heat, seen))


def entropy(heat: Tensor, seen: Tensor) -> Tensor:
    """-sum p log p / log N with p the heat's share of each of N pixels seen; (N,) in [0, 1]."""
    share = heat * seen
    p = share / share.sum((-2, -1), keepdim=True)
    # a pixel seen in part is so much smaller a pixel
    surprise = torch.xlogy(p, p / seen.clamp_min(torch.finfo(seen.dtype).tiny))
    return -surprise.sum((-2, -1)) / seen.sum((-2, -1)).log()


def gini(heat: Tensor, seen: Tensor) -> Tensor:
    """Sum (2i - N - 1) p_(i) / N, p ascending, over the N pixels seen; (N,) in [0, 1)."""
    return Ranked(heat.flatten(1)).gini(seen.flatten(1))


def area50(heat: Tensor, seen: Tensor) -> Tensor:
    """The smallest share of the pixels seen that holds half of the heat; (N,) in (0, .5]."""
    return Ranked(heat.flatten(1)).area_holding(seen.flatten(1), 0.5)


def top_instance(heat: Tensor, regions: Regions, instances: Sequence[Tensor] | None) -> Tensor:
    """The largest share of the heat that one instance holds; (N,) in [0, 1].

    Args:
        heat: (N, H, W) non-negative
        regions: :class:`~cam_core.spatial.masks.Regions` on the same grid
        instances: N tensors (k, H', W') of masks in [0, 1], on any grid
    """
    best = torch.full_like(heat[:, 0, 0], torch.nan)
    total = _sum(heat, regions.object + regions.background)
    for i, masks in enumerate(instances or ()):
        if len(masks):
            own = resize_masks(masks.to(heat), (heat.shape[-2], heat.shape[-1]))
            own = torch.minimum(own, regions.object[i])
            best[i] = (own * heat[i]).sum((-2, -1)).amax() / total[i]
    return best


def _sum(heat: Tensor, region: Tensor) -> Tensor:
    return (heat * region).sum((-2, -1))


def _sides(seen: Tensor) -> list[tuple[Tensor, Tensor, int]]:
    """Where the rectangle that was seen starts, and its length, along the vertical and horizontal."""
    sides = []
    for other in (-1, -2):
        profile = seen.amax(other)
        first = (profile > 0).to(torch.uint8).argmax(-1)
        # a first pixel that was seen in part: the rectangle starts within it
        start = first + 1 - profile.gather(-1, first[:, None])[:, 0]
        sides.append((start, profile.sum(-1), profile.shape[-1]))
    return sides
