"""Heat against objects: where the heat of a map lies relative to annotated masks.

Notation: heat h = max(0, map); O the object, B the background (neither object, nor another class's
object, nor ignored), E the heat summed over a region, a = |O| / (|O| + |B|). The level of such a
measure means little by itself: a map that carries nothing gives ``obj_energy = a``, and one that
carries only position may give more; see :mod:`.baselines`. What is undefined is NaN with a status
that says why, never 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..spatial.geometry import Window
from ..spatial.maps import normalise, rectify, status
from ..spatial.masks import Regions, Size, grow, on_images, resize_heat, resize_masks, split
from . import measures
from .ranking import Ranked

# Beyond these the numbers are computed, but say little: the object fills the picture, or is smaller
# than this many cells of the map.
LARGEST_AREA, SMALLEST_CELLS = 0.9, 2.0

STATUSES = ("ok", "zero", "flat", "nan", "no_object", "object_absent")

# So many maps at a time: what they need fits the processor's cache.
_CHUNK = 128


@dataclasses.dataclass
class Localization:
    """Measures of N maps; each a (N,) float tensor, NaN where it is undefined.

    Attributes:
        obj_energy: E_O / (E_O + E_B), in [0, 1]; a uniform map gives ``area`` (energy-based pointing
            game, Wang et al., Score-CAM, CVPRW 2020; relevance mass accuracy, Arras et al., 2022)
        bg_energy: 1 - obj_energy
        other_energy: E_other / (E_O + E_B + E_other), in [0, 1]; NaN without ``other``
        area: a, the object's share of what counts, in [0, 1]
        lift: obj_energy / a, from 0 to 1/a; uniform gives 1 (Kohlbrenner et al., IJCNN 2020)
        log2_lift: log2 of it, at least -10; to be averaged instead of ``lift``
        density_share: d_O / (d_O + d_B) with d = E / area of the region, in [0, 1]; uniform gives .5
            (a bounded form of Moayeri et al., Hard ImageNet, NeurIPS 2022)
        obj_energy_tol, density_share_tol, area_tol: the same with O grown by one cell of the map
        pix_auc: P(h(u) > h(v)) + P(=) / 2 for u in O and v in B, in [0, 1]; uniform gives .5
        pointing: 1 if the hottest pixel lies within the tolerance of O, else 0; of several equally
            hot ones, the share that does (Zhang et al., Excitation Backprop, ECCV 2016)
        rank_acc: the share of the |O| hottest pixels that lie in O, in [0, 1], ties in expectation
            (relevance rank accuracy, Arras et al., 2022)
        iou: of O and the pixels with at least ``iou_threshold`` of the map's maximum, in [0, 1]
        border_ratio: mean heat of the outer 12 % ring / mean heat; uniform gives 1
        centre_ratio: heat weighted by a centred Gaussian of side/4.5 / the same of a uniform map
        entropy: -sum p log p / log N of the heat as a distribution, in [0, 1]; uniform gives 1
        gini: of the heat, in [0, 1); uniform gives 0 (Chalasani et al., ICML 2020)
        area50: the smallest share of pixels that holds half of the heat, in (0, .5]
        energy_top_instance: the largest E of one instance / (E_O + E_B); NaN without ``instances``
        status: N of "ok", "zero" (no positive heat), "flat" (the map has no place), "nan" (the map is
            not finite), "no_object" (no mask), "object_absent" (other classes' masks, or a mask
            where the model saw nothing, but none of this class). Of the last two the measures that
            need no object are defined, of the others only ``area``
        reliable: (N,) bool; False where the status is not "ok", a > .9, or O is under 2 cells
    """

    obj_energy: Tensor
    bg_energy: Tensor
    other_energy: Tensor
    area: Tensor
    lift: Tensor
    log2_lift: Tensor
    density_share: Tensor
    obj_energy_tol: Tensor
    density_share_tol: Tensor
    area_tol: Tensor
    pix_auc: Tensor
    pointing: Tensor
    rank_acc: Tensor
    iou: Tensor
    border_ratio: Tensor
    centre_ratio: Tensor
    entropy: Tensor
    gini: Tensor
    area50: Tensor
    energy_top_instance: Tensor
    status: list[str]
    reliable: Tensor

    def __len__(self) -> int:
        return len(self.status)

    def records(self) -> list[dict[str, Any]]:
        """Returns N dicts of plain values; None for what is undefined."""
        columns = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {k: v.tolist() if isinstance(v, Tensor) else v for k, v in columns.items()}
        return [
            {k: None if isinstance(v[i], float) and math.isnan(v[i]) else v[i] for k, v in plain.items()}
            for i in range(len(self))
        ]  # fmt: skip


def measure(
    maps: Tensor,
    objects: Tensor,
    *,
    other: Tensor | None = None,
    ignore: Tensor | None = None,
    seen: Tensor | None = None,
    instances: Sequence[Tensor] | None = None,
    windows: Sequence[Window] | None = None,
    size: Size | None = None,
    cell: Any = None,
    tolerance: float = 15.0,
    iou_threshold: float = 0.5,
) -> Localization:
    """Measures where the heat of maps lies relative to objects.

    Masks and heat are brought to one grid: heat bilinearly, masks by area averaging. About 56 x 56 is
    enough for maps of up to 28 x 28 cells; ranks cost a sort of it.

    Args:
        maps: (N, h, w) raw, signed maps on any grid; they tile the masks' frame, or with ``windows``
            the model's input
        objects: (N, H, W) masks of the explained class in [0, 1], float or bool; all zero: none
        other (None): (N, H, W) masks of other classes' objects; they are no background, nor do they
            help or hurt
        ignore (None): (N, H, W) crowd and void; counted nowhere
        seen (None): (N, H, W) what the model saw, for maps that were laid back on the image already;
            what it never saw (cropped away) counts nowhere
        instances (None): N tensors (k, H, W), one mask per instance of the class; k may be 0
        windows (None): N :class:`~cam_core.spatial.geometry.Window`; maps are laid on the image through
            them, and say themselves what was seen
        size (None): (H, W) of the grid to measure on; None: that of the masks
        cell (None): the size of one cell of the layer's grid in pixels of the masks, which the
            tolerant versions grow the object by: a number, or (height, width); None: a cell of
            ``maps``. Say it if the maps were upsampled before
        tolerance (15.0): reach of the pointing game in pixels of a picture of 224 x 224; it is scaled
            with the grid's height and width
        iou_threshold (0.5): for ``iou``, as a share of the map's maximum

    Returns:
        :class:`Localization`

    Raises:
        ValueError: if shapes do not fit, masks are not in [0, 1] or an option is out of range
    """
    maps = _checked_maps(maps)
    masks: dict[str, Any] = {"objects": objects, "other": other, "ignore": ignore, "seen": seen}
    masks = {k: _checked_masks(k, m, maps, objects) for k, m in masks.items()}
    if windows is not None and (seen is not None or cell is not None):
        raise ValueError("windows: they say what was seen and how large a cell is; leave out "
                         "seen and cell")  # fmt: skip
    for name, given in (("windows", windows), ("instances", instances)):
        if given is not None and len(given) != len(maps):
            raise ValueError(f"{name}: there are {len(given)} for {len(maps)} maps")
    if not (tolerance >= 0 and 0 < iou_threshold <= 1):
        raise ValueError("tolerance must not be negative, and iou_threshold lie in (0, 1]")
    cells = _checked_cell(cell, masks["objects"], size)
    parts = []
    for start in range(0, max(len(maps), 1), _CHUNK):
        rows = slice(start, start + _CHUNK)
        chunk = {k: None if m is None else m[rows] for k, m in masks.items()}
        own = None if instances is None else instances[rows]
        eyes = None if windows is None else windows[rows]
        parts.append(_measure(maps[rows], chunk, own, eyes, size, cells, tolerance, iou_threshold))
    return _joined(parts)


def _measure(
    maps: Tensor,
    masks: dict[str, Any],
    instances: Sequence[Tensor] | None,
    windows: Sequence[Window] | None,
    size: Size | None,
    cell: tuple[float, float] | None,
    tolerance: float,
    iou_threshold: float,
) -> Localization:
    size = size or (masks["objects"].shape[-2], masks["objects"].shape[-1])
    small: dict[str, Any] = {
        k: None if m is None else resize_masks(m, size) for k, m in masks.items()
    }
    codes = status(maps)
    maps = maps.masked_fill(~maps.isfinite(), 0)
    if windows is None:
        heat = normalise(resize_heat(normalise(rectify(maps)), size))
        cells = [cell or (size[0] / maps.shape[-2], size[1] / maps.shape[-1])] * len(maps)
    else:
        heat, small["seen"], cells = on_images(normalise(rectify(maps)), windows, size)
        heat = normalise(heat)
    regions = split(small["objects"], small["other"], small["ignore"], small["seen"])
    wide = grow(regions, cells)
    heat_ok, measured, states = _states(codes, heat, regions, small["other"], small["objects"])

    energy, area = measures.obj_energy(heat, regions), measures.object_area(regions)
    ranked = Ranked(heat.flatten(1))
    o, b, seen = (part.flatten(1) for part in (regions.object, regions.background, regions.seen))
    of_object = {
        "obj_energy": energy,
        "bg_energy": 1 - energy,
        "lift": energy / area,
        "log2_lift": measures.log2_lift(energy, area),
        "density_share": measures.density_share(heat, regions),
        "obj_energy_tol": measures.obj_energy(heat, wide),
        "density_share_tol": measures.density_share(heat, wide),
        "pix_auc": ranked.auc(o, b),
        "pointing": measures.pointing(heat, regions, tolerance),
        "rank_acc": ranked.top_share(o, b),
        "iou": measures.iou(heat, regions, iou_threshold),
        "energy_top_instance": measures.top_instance(heat, regions, instances),
    }
    of_heat = {
        "other_energy": measures.other_energy(heat, regions)
        if small["other"] is not None
        else torch.full_like(area, torch.nan),
        "border_ratio": measures.border_ratio(heat, regions.seen),
        "centre_ratio": measures.centre_ratio(heat, regions.seen),
        "entropy": measures.entropy(heat, regions.seen),
        "gini": ranked.gini(seen),
        "area50": ranked.area_holding(seen, 0.5),
    }
    values = {k: _where(measured, v) for k, v in of_object.items()}
    values |= {k: _where(heat_ok, v) for k, v in of_heat.items()}
    values["area"] = _where(area > 0, area)
    values["area_tol"] = _where(area > 0, measures.object_area(wide))
    least = SMALLEST_CELLS * torch.tensor([h * w for h, w in cells]).to(area)
    fine = (area <= LARGEST_AREA) & (o.sum(-1) >= least * (1 - 1e-5))
    ok = torch.tensor([s == "ok" for s in states], dtype=torch.bool, device=maps.device)
    return Localization(**values, status=states, reliable=fine & ok)


def _states(
    codes: list[str], heat: Tensor, regions: Regions, other: Tensor | None, objects: Tensor
) -> tuple[Tensor, Tensor, list[str]]:
    """Which maps have heat where it was seen, which can be measured, and the status of each."""
    present = regions.object.sum((-2, -1)) > 0
    elsewhere = objects.sum((-2, -1)) > 0
    if other is not None:
        elsewhere |= other.sum((-2, -1)) > 0
    # the heat may all lie on what is ignored or on the padding of the model's input
    warm = (heat * regions.seen).sum((-2, -1)) > 0
    there = (heat * (regions.object + regions.background)).sum((-2, -1)) > 0
    heat_ok = warm & torch.tensor([c == "ok" for c in codes], dtype=torch.bool, device=heat.device)
    states = []
    for i, code in enumerate(codes):
        if code != "ok":
            states.append(code)
        elif not present[i]:
            states.append("object_absent" if elsewhere[i] else "no_object")
        else:
            states.append("ok" if there[i] else "zero")
    return heat_ok, heat_ok & present & there, states


def _where(known: Tensor, values: Tensor) -> Tensor:
    return values.masked_fill(~(known & values.isfinite()), torch.nan)


def _checked_maps(maps: Any) -> Tensor:
    if not isinstance(maps, Tensor) or maps.dim() != 3 or (not maps.numel() and len(maps)):
        got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"maps must be a tensor of shape (N, h, w), got {got}")
    return maps.detach() if maps.dtype == torch.float64 else maps.detach().float()


def _checked_masks(name: str, masks: Any, maps: Tensor, objects: Any) -> Tensor | None:
    if masks is None and name != "objects":
        return None
    if not isinstance(masks, Tensor) or masks.dim() != 3 or len(masks) != len(maps):
        got = tuple(masks.shape) if isinstance(masks, Tensor) else type(masks).__name__
        raise ValueError(f"{name} must be a tensor of shape ({len(maps)}, H, W), got {got}")
    if masks.shape != objects.shape:
        raise ValueError(
            f"{name} has shape {tuple(masks.shape)} and objects {tuple(objects.shape)}; give both on "
            "one grid"
        )
    masks = masks.to(maps.device, maps.dtype)
    if masks.numel() and not (masks.amin() >= 0 and masks.amax() <= 1):
        raise ValueError(
            f"{name} must lie in [0, 1] and be finite; it is the covered share of pixels"
        )
    return masks


def _checked_cell(cell: Any, objects: Any, size: Size | None) -> tuple[float, float] | None:
    if cell is None:
        return None
    pair = (cell, cell) if isinstance(cell, (int, float)) else tuple(cell)
    if len(pair) != 2 or not all(math.isfinite(c) and c > 0 for c in pair):
        raise ValueError(
            f"cell must be a positive number of pixels or (height, width), got {cell!r}"
        )
    height, width = objects.shape[-2:]
    size = size or (height, width)
    return float(pair[0] * size[0] / height), float(pair[1] * size[1] / width)


def _joined(parts: list[Localization]) -> Localization:
    columns: dict[str, Any] = {}
    for field in dataclasses.fields(Localization):
        own = [getattr(part, field.name) for part in parts]
        if field.name == "status":
            columns["status"] = [state for states in own for state in states]
        else:
            columns[field.name] = torch.cat(own)
    return Localization(**columns)
