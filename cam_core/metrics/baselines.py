"""What a map would get that knows nothing, or only where objects tend to be.

Needed before any claim: on pictures with centred objects a Gaussian in the middle beats the heat of a
good network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..spatial.maps import normalise, rectify, status
from ..spatial.masks import Regions, Size, resize_heat, split
from .measures import CENTRE, object_area

_CHUNK = 256


def uniform(
    objects: Tensor,
    other: Tensor | None = None,
    ignore: Tensor | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """The ``obj_energy`` of a map that carries nothing: the object's share of the area.

    Args:
        objects: (N, H, W) masks in [0, 1]
        other (None): (N, H, W) other classes' objects
        ignore (None): (N, H, W) crowd and void
        seen (None): (N, H, W) what the model saw

    Returns:
        (N,) in [0, 1]; NaN without an object
    """
    area = object_area(split(objects.float(), other, ignore, seen))
    return area.masked_fill(area == 0, torch.nan)


def centred_gaussian(size: Size, sigma: float | None = None) -> Tensor:
    """A map that knows only that objects are in the middle.

    Args:
        size: (H, W)
        sigma (None): in pixels, for both axes; None: a 4.5th of each side

    Returns:
        (H, W) in (0, 1]; ``.expand(N, -1, -1)`` of it can be measured as any map
    """
    bells = []
    for cells in size:
        offset = torch.arange(cells) + 0.5 - cells / 2
        bells.append(torch.exp(-((offset / (sigma or cells / CENTRE)) ** 2) / 2))
    return bells[0][:, None] * bells[1][None, :]


def shuffled(
    maps: Tensor,
    objects: Tensor,
    *,
    other: Tensor | None = None,
    ignore: Tensor | None = None,
    seen: Tensor | None = None,
    donors: int = 256,
    seed: int = 51,
) -> Tensor:
    """The mean ``obj_energy`` of other samples' maps on this sample's object.

    What of a map's energy is owed to where heat and objects usually are, rather than to this picture
    (the idea of the shuffled AUC of fixation prediction: Tatler et al., Vision Research 2005).

    Args:
        maps: (N, h, w) raw maps, in one frame with the masks
        objects: (N, H, W) masks in [0, 1]
        other (None): (N, H, W) other classes' objects
        ignore (None): (N, H, W) crowd and void
        seen (None): (N, H, W) what the model saw
        donors (256): so many maps, drawn with ``seed``, serve as "others"; all of them if there are
            no more. Memory is constant in N, time is N x donors
        seed (51): of the draw

    Returns:
        (N,) in [0, 1]; NaN without an object, or without another sample's map that is one
    """
    size = (objects.shape[-2], objects.shape[-1])
    usable = torch.tensor([i for i, code in enumerate(status(maps)) if code == "ok"]).long()
    if len(usable) > donors:
        draw = torch.randperm(len(usable), generator=torch.Generator().manual_seed(seed))
        usable = usable[draw[:donors]].sort().values
    usable = usable.to(maps.device)
    heat = normalise(resize_heat(normalise(rectify(maps[usable].float())), size)).flatten(1)
    masks: list[Any] = [objects.to(heat), other, ignore, seen]
    parts = []
    for start in range(0, len(maps), _CHUNK):
        rows = slice(start, start + _CHUNK)
        own: list[Any] = [None if m is None else m[rows].to(heat) for m in masks]
        regions = split(*own)
        is_own = torch.arange(len(maps), device=maps.device)[rows, None] == usable
        parts.append(_mean_share(regions, heat, is_own))
    return torch.cat(parts) if parts else heat.new_zeros(0)


def _mean_share(regions: Regions, heat: Tensor, skipped: Tensor) -> Tensor:
    inside = regions.object.flatten(1) @ heat.T
    total = inside + regions.background.flatten(1) @ heat.T
    share = (inside / total).masked_fill(skipped, torch.nan).nanmean(1)
    return share.masked_fill(regions.object.sum((-2, -1)) == 0, torch.nan)


def lift_over_shuffled(energy: Tensor, baseline: Tensor) -> Tensor:
    """How many times more energy a map has on its object than other samples' maps have.

    Near 1 the map carries only position, however large its lift is.

    Args:
        energy: (N,) ``obj_energy``
        baseline: (N,) of :func:`shuffled`

    Returns:
        (N,), NaN where the baseline is 0 or unknown
    """
    return (energy / baseline).masked_fill(~(baseline > 0), torch.nan)
