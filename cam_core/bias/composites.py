"""Changing one part of an image: feathered swaps, objects removed, regions replaced.

All of it happens in image space, before the model's transform, on one image at a time: an array or
tensor (H, W, 3), (3, H, W) or (H, W), uint8 or float. What comes back has the type, layout and dtype
of the image that was given; masks are (H, W), non-zero inside.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
from torch import Tensor

# A strip narrower than this share of the frame is too little to tile a background from.
_NARROWEST = 1 / 16


@dataclasses.dataclass(frozen=True)
class Removal:
    """An image without its objects.

    Attributes:
        image: the image, or None where ``status`` is ``"fills the frame"``
        status: ``"ok"``, ``"no object"`` (the image is as it was) or ``"fills the frame"`` (no free
            strip is left beside an object)
        free: share of the frame that is the image's own background, 0..1
    """

    image: Any
    status: str
    free: float


def soft_mask(mask: Any, dilate: float = 0, feather: float = 2) -> np.ndarray:
    """Widens a mask and lets it fade out, so that pasting leaves no hard edge.

    Args:
        mask: (H, W) non-zero inside
        dilate (0): pixels around the object that stay whole; what is kept there is the object's own
            background, which a swap is to replace
        feather (2): pixels over which the rest falls linearly to 0; 0 gives a hard edge

    Returns:
        (H, W) float32 in [0, 1]: 1 on the object and up to ``dilate`` from it (Euclidean), 0 from
        ``dilate + feather`` on
    """
    inside = _as_mask(mask)
    if dilate < 0 or feather < 0:
        raise ValueError(f"dilate and feather must be >= 0, got {dilate} and {feather}")
    if not inside.any():
        return np.zeros(inside.shape, np.float32)
    distance = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if feather == 0:
        return (distance <= dilate).astype(np.float32)
    return ((dilate + feather - distance) / feather).clip(0, 1).astype(np.float32)


def fit_frame(image: Any, size: tuple[int, int], keep_aspect: bool = True) -> Any:
    """Resizes an image to a frame.

    Args:
        image: an image
        size: (H, W)
        keep_aspect (True): resizes until the frame is covered and crops its centre; False stretches,
            so that a corner stays a corner
    """
    array, back = _unpack(image)
    return back(_fit(array, size, keep_aspect))


def _fit(array: np.ndarray, size: tuple[int, int], keep_aspect: bool = True) -> np.ndarray:
    height, width = size
    if array.shape[:2] == (height, width):
        return array
    rows, columns = height, width
    if keep_aspect:
        scale = max(height / array.shape[0], width / array.shape[1])
        rows = max(height, round(array.shape[0] * scale))
        columns = max(width, round(array.shape[1] * scale))
    smaller = rows * columns < array.shape[0] * array.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    out = cv2.resize(array, (columns, rows), interpolation=how)
    out = out.reshape(rows, columns, -1)  # cv2 drops a single channel
    top, left = (rows - height) // 2, (columns - width) // 2
    return out[top : top + height, left : left + width]


def swap_background(
    image: Any, mask: Any, background: Any, dilate: float = 0, feather: float = 2
) -> Any:
    """Puts the object of one image on the background of another.

    Args:
        image: the image whose object is kept
        mask: (H, W) its object
        background: the donor, its own objects removed (:func:`remove_objects`); any size
        dilate (0): see :func:`soft_mask`
        feather (2): see :func:`soft_mask`

    Raises:
        ValueError: if mask and image differ in size
    """
    return _blend(image, soft_mask(mask, dilate, feather), background)


def replace_region(
    image: Any, region: Any, donor: Any, feather: float = 2, keep_aspect: bool = False
) -> Any:
    """Replaces a region by the same region of another image.

    Args:
        image: the image
        region: (H, W) non-zero where it is replaced
        donor: another image, of any size
        feather (2): pixels outside the region over which the two are mixed
        keep_aspect (False): see :func:`fit_frame`

    Raises:
        ValueError: if region and image differ in size
    """
    keep = 1 - soft_mask(region, 0, feather)
    return _blend(image, keep, donor, keep_aspect)


def _blend(image: Any, keep: np.ndarray, other: Any, keep_aspect: bool = True) -> Any:
    """``keep * image + (1 - keep) * other``."""
    array, back = _unpack(image)
    _check_size("mask", keep, array)
    below = _fit(_unpack(other)[0], keep.shape, keep_aspect)
    if below.shape[2] != array.shape[2]:
        raise ValueError(
            f"image has {array.shape[2]} channels, the donor {below.shape[2]}; convert one of them"
        )
    share = keep[..., None]
    mixed = share * array + (1 - share) * below
    return back(mixed)


def remove_objects(image: Any, mask: Any, margin: int = 3) -> Removal:
    """Fills each object's box by mirrored tiles of the widest free strip beside it.

    The box and not the silhouette, whose shape would stay to be seen ("Only-BG-T" of Xiao et al.,
    Noise or Signal, ICLR 2021). Objects that lie apart are filled apart; no strip contains another
    object.

    Args:
        image: the image
        mask: (H, W) its objects
        margin (3): pixels added around each box; at least ``dilate + feather`` of the paste

    Returns:
        a :class:`Removal`

    Raises:
        ValueError: if mask and image differ in size
    """
    array, back = _unpack(image)
    inside = _as_mask(mask)
    _check_size("mask", inside, array)
    status, free, strips = _plan(inside, margin)
    if status != "ok":
        return Removal(image if status == "no object" else None, status, free)
    out = array.copy()
    for strip in strips:
        _fill(out, array, *strip)
    return Removal(back(out), "ok", free)


def removable(mask: Any, margin: int = 3) -> tuple[str, float]:
    """Says what :func:`remove_objects` would, without an image.

    Args:
        mask: (H, W) the objects
        margin (3): see :func:`remove_objects`

    Returns:
        the status and the share of the frame that is free
    """
    status, free, _ = _plan(_as_mask(mask), margin)
    return status, free


def _plan(inside: np.ndarray, margin: int) -> tuple[str, float, list]:
    """The status, the free share, and for each box the side and width of the strip that fills it."""
    if not inside.any():
        return "no object", 1.0, []
    boxes, taken = _object_boxes(inside, margin)
    strips = [(box, *_widest_strip(taken, box)) for box in boxes]
    filled = all(run > 0 for _, _, run in strips)
    return "ok" if filled else "fills the frame", 1 - float(taken.mean()), strips


def _object_boxes(inside: np.ndarray, margin: int) -> tuple[list, np.ndarray]:
    """Disjoint boxes (top, bottom, left, right) around the mask's parts, and their union."""
    height, width = inside.shape
    taken, reach, before = inside.astype(np.uint8), margin, -1
    while True:
        count, _, stats, _ = cv2.connectedComponentsWithStats(taken, connectivity=8)
        boxes = []
        for left, top, columns, rows, _ in stats[1:count].tolist():
            box = (
                max(0, top - reach),
                min(height, top + rows + reach),
                max(0, left - reach),
                min(width, left + columns + reach),
            )
            boxes.append(box)
        taken = np.zeros_like(taken)
        for top, bottom, left, right in boxes:
            taken[top:bottom, left:right] = 1
        if len(boxes) == before:
            return boxes, taken.astype(bool)
        before, reach = len(boxes), 0  # boxes that met are merged in the next turn


def _widest_strip(taken: Any, box: tuple) -> tuple[str, int]:
    """The side of the widest free strip beside a box and its width; 0 where it is too narrow."""
    top, bottom, left, right = box
    height, width = taken.shape
    rows, columns = np.any(taken[top:bottom], axis=0), np.any(taken[:, left:right], axis=1)
    # per side: the free run next to the box, and the frame's extent in that direction
    runs = {
        "left": (_run(rows[:left][::-1]), width),
        "right": (_run(rows[right:]), width),
        "top": (_run(columns[:top][::-1]), height),
        "bottom": (_run(columns[bottom:]), height),
    }
    side, (run, extent) = max(runs.items(), key=lambda item: item[1][0])
    return side, run if run >= max(2, _NARROWEST * extent) else 0


def _fill(out: np.ndarray, array: np.ndarray, box: tuple, side: str, run: int) -> None:
    """Fills a box of ``out`` with the strip beside it, mirrored at the box's edge and back."""
    top, bottom, left, right = box
    if side in ("left", "right"):
        near = left - 1 - np.arange(run) if side == "left" else right + np.arange(run)
        index = _mirrored(near, right - left)
        out[top:bottom, left:right] = array[top:bottom, index if side == "left" else index[::-1]]
    else:
        near = top - 1 - np.arange(run) if side == "top" else bottom + np.arange(run)
        index = _mirrored(near, bottom - top)
        out[top:bottom, left:right] = array[index if side == "top" else index[::-1], left:right]


def _run(occupied: np.ndarray) -> int:
    """How many are free before the first that is not."""
    return int(np.argmax(occupied)) if occupied.any() else len(occupied)


def _mirrored(index: np.ndarray, length: int) -> np.ndarray:
    return np.resize(np.concatenate([index, index[::-1]]), length)


def add_noise(image: Any, where: Any, sigma: float = 0.25, seed: Any = 51) -> Any:
    """Adds Gaussian noise to a part of an image.

    Args:
        image: the image; 0..255 if its dtype is an integer, else 0..1
        where: (H, W) non-zero inside
        sigma (0.25): standard deviation, as a share of the range; values are clipped to the range
        seed (51): of the noise

    Raises:
        ValueError: if the sizes differ
    """
    array, back = _unpack(image)
    inside = _as_mask(where)
    _check_size("where", inside, array)
    top = 255 if np.issubdtype(array.dtype, np.integer) else 1
    noise = np.random.default_rng(seed).normal(0, sigma * top, array.shape)
    return back(np.where(inside[..., None], (array + noise).clip(0, top), array))


def random_regions(region: Any, count: int, seed: Any = 51, avoid: Any = None) -> np.ndarray:
    """Moves a region to random places: the control that has its size and shape.

    Args:
        region: (H, W) non-zero inside
        count: how many
        seed (51): of the places
        avoid (None): (H, W) where copies should not lie; the region itself by default

    Returns:
        (count, H, W) bool. Each copy is whole; of eight places drawn, the one that covers least of
        ``avoid`` is taken, so an overlap is left only where there is hardly another place

    Raises:
        ValueError: if the region is empty
    """
    inside = _as_mask(region)
    if not inside.any():
        raise ValueError("region is empty; give a mask with at least one pixel")
    shunned: np.ndarray = inside if avoid is None else _as_mask(avoid)
    _check_size("avoid", shunned, inside)
    rows = np.flatnonzero(np.any(inside, axis=1))
    columns = np.flatnonzero(np.any(inside, axis=0))
    patch = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    room = (inside.shape[0] - patch.shape[0] + 1, inside.shape[1] - patch.shape[1] + 1)
    rng = np.random.default_rng(seed)
    out = np.zeros((count, *inside.shape), bool)
    for copy in out:
        places = np.stack([rng.integers(0, limit, 8) for limit in room], 1).tolist()
        windows = [np.s_[y : y + patch.shape[0], x : x + patch.shape[1]] for y, x in places]
        covered = [np.count_nonzero(shunned[window] & patch) for window in windows]
        copy[windows[int(np.argmin(covered))]] = patch
    return out


def border_ring(size: tuple[int, int], share: float = 0.15) -> np.ndarray:
    """Returns the (H, W) bool ring along the frame; its width is a share of each side.

    Raises:
        ValueError: if the share is not in (0, .5)
    """
    if not 0 < share < 0.5:
        raise ValueError(f"share must lie between 0 and .5, got {share}")
    height, width = size
    ring = np.ones(size, bool)
    y, x = max(1, round(share * height)), max(1, round(share * width))
    ring[y : height - y, x : width - x] = False
    return ring


def heat_regions(heat: Any, objects: Any, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """The hottest pixels of the background, and as many of the object.

    Replacing the one and the other (:func:`replace_region`) says whether the heat on the background
    was used: drop_background / (drop_background + drop_object).

    Args:
        heat: (H, W) heat over the image, >= 0
        objects: (H, W) non-zero on the object
        share (0.1): of the background; fewer where the object has fewer pixels

    Returns:
        two (H, W) bool masks with equally many pixels

    Raises:
        ValueError: if object or background is empty, or the heat is not finite
    """
    values = np.asarray(heat, np.float64)
    inside = _as_mask(objects)
    _check_size("objects", inside, values)
    if not inside.any() or inside.all():
        raise ValueError("objects must leave some background and have at least one pixel")
    if not np.isfinite(values).all():
        raise ValueError("heat has values that are not finite; such a map has no hottest pixels")
    wanted = max(1, round(share * int((~inside).sum())))
    pixels = min(wanted, int(inside.sum()))
    return _hottest(values, ~inside, pixels), _hottest(values, inside, pixels)


def _hottest(values: np.ndarray, where: np.ndarray, pixels: int) -> np.ndarray:
    out = np.zeros(values.size, bool)
    candidates = np.flatnonzero(where)
    order = np.argsort(-values.ravel()[candidates], kind="stable")
    out[candidates[order[:pixels]]] = True
    return out.reshape(values.shape)


def _as_mask(mask: Any) -> np.ndarray:
    array: np.ndarray = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
    if array.ndim != 2:
        raise ValueError(f"a mask must have shape (H, W), got {array.shape}")
    return array.astype(bool)


def _check_size(name: str, mask: np.ndarray, image: np.ndarray) -> None:
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"{name} is {mask.shape[0]} x {mask.shape[1]}, the image "
            f"{image.shape[0]} x {image.shape[1]}; draw it on the image's own pixels"
        )


def _unpack(image: Any) -> tuple[np.ndarray, Any]:
    """An image as (H, W, C), and the way back to its type, layout and dtype."""
    tensor = isinstance(image, Tensor)
    array = image.detach().cpu().numpy() if tensor else np.asarray(image)
    flat = array.ndim == 2
    first = array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4)
    if (not flat and array.ndim != 3) or (array.ndim == 3 and not first and array.shape[2] > 4):
        raise ValueError(
            f"an image must have shape (H, W, 3), (3, H, W) or (H, W), got {array.shape}"
        )
    dtype = array.dtype

    def back(out: np.ndarray) -> Any:
        if np.issubdtype(dtype, np.integer) and not np.issubdtype(out.dtype, np.integer):
            out = np.rint(out)
        out = out.astype(dtype, copy=False)
        out = out[..., 0] if flat else out.transpose(2, 0, 1) if first else out
        out = np.ascontiguousarray(out)
        return image.new_tensor(out) if tensor else out

    return array[..., None] if flat else array.transpose(1, 2, 0) if first else array, back
