"""Image <-> model input <-> layer grid.

Resize, centre crop, padding and letterbox are all a scale and a shift along each axis, so what the
model saw is one rectangle of the original image: the :class:`Window`. It may be smaller than the
image (a crop) or reach beyond it (padding).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Window:
    """The part of the original image that the model's input covers, in the image's pixels.

    Attributes:
        image: (height, width) of the original image
        left, top, right, bottom: the rectangle; outside ``[0, width] x [0, height]`` is padding
        cells: (left, top, right, bottom) of what the cells of a layer tile, where that is another
            rectangle: a layer's cells may lie within what they see, or beyond it
    """

    image: tuple[int, int]
    left: float
    top: float
    right: float
    bottom: float
    cells: tuple[float, float, float, float] | None = None

    @classmethod
    def whole(cls, height: int, width: int) -> Window:
        """The model saw the whole image and nothing else."""
        return cls((height, width), 0.0, 0.0, float(width), float(height))

    @property
    def covers_image(self) -> bool:
        """Whether the model's input is exactly the image, resized."""
        height, width = self.image
        offsets = (self.left, self.top, self.right - width, self.bottom - height)
        return all(abs(o) < 1e-6 * max(height, width) for o in offsets)


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
    rows = _window_weights(heat.shape[-2], window.top, window.bottom, height, size[0]).to(heat)
    columns = _window_weights(heat.shape[-1], window.left, window.right, width, size[1]).to(heat)
    return rows @ heat @ columns.T


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


Size = tuple[int, int]
# (new size, zoom, shift): pixel p of the result shows pixel p * zoom + shift of what came in.
Effect = tuple[Size, tuple[float, float], tuple[float, float]]


def trace(
    transforms: Any,
    height: int,
    width: int,
    rules: Mapping[str, Callable[[Any, Size], Effect]] | None = None,
) -> Window | None:
    """Reads the window off a pipeline of known transforms, without running it.

    Args:
        transforms: a transform, or a ``Compose``-like object with ``.transforms``
        height: of the original image
        width: of the original image
        rules (None): more steps than torchvision's: class name -> ``(step, size) -> effect``

    Returns:
        a :class:`Window`, or None if a step is not known: then :func:`probe` finds it out
    """
    own = rules or {}
    scale, offset, size = (1.0, 1.0), (0.0, 0.0), (height, width)
    for step in steps_of(transforms):
        kind = type(step)
        # Somebody's own Resize may do something else than torchvision's: it is probed.
        theirs = kind.__module__.startswith(("torchvision.", "fiftyone."))
        rule = own.get(kind.__name__) or (_RULES.get(kind.__name__) if theirs else None)
        if rule is None:
            return None
        size, zoom, shift = rule(step, size)
        offset = (offset[0] + scale[0] * shift[0], offset[1] + scale[1] * shift[1])
        scale = (scale[0] * zoom[0], scale[1] * zoom[1])
    top, left = offset
    return Window((height, width), left, top, left + size[1] * scale[1], top + size[0] * scale[0])


def steps_of(transforms: Any) -> list:
    """Returns the single steps of a ``Compose``-like transform, nested ones included."""
    inner = getattr(transforms, "transforms", None)
    if inner is None or type(transforms).__name__.startswith("Random"):
        return [transforms]  # RandomApply and its like do not run all of theirs
    return [step for t in inner for step in steps_of(t)]


def unmoved(step: Any, size: Size) -> Effect:
    """The effect of a step that changes values, not places."""
    return size, (1.0, 1.0), (0.0, 0.0)


def resized(size: Size, new: Size) -> Effect:
    """The effect of a resize of the whole picture."""
    return new, (size[0] / new[0], size[1] / new[1]), (0.0, 0.0)


def centre_cropped(size: Size, new: Size) -> Effect:
    """The effect of torchvision's centre crop; a picture that is too small is padded first."""
    shift = [
        -float((want - have) // 2) if want > have else float(round((have - want) / 2.0))
        for have, want in zip(size, new, strict=True)
    ]
    return new, (1.0, 1.0), (shift[0], shift[1])


def short_side(size: Size, short: int, limit: int | None = None) -> Size:
    """Torchvision's rule for one number: it is the short side, and the long side is truncated."""
    low, high = min(size), max(size)
    new_short, new_long = short, int(short * high / low)
    if limit is not None and new_long > limit:
        new_short, new_long = int(limit * new_short / new_long), limit
    return (new_short, new_long) if size[0] <= size[1] else (new_long, new_short)


def _resize(step: Any, size: Size) -> Effect:
    wanted = step.size
    if isinstance(wanted, Sequence) and len(wanted) == 2:
        return resized(size, (int(wanted[0]), int(wanted[1])))
    limit = getattr(step, "max_size", None)
    if wanted is None and limit is not None:  # only the long side is given
        low, high = min(size), max(size)
        short = int(limit * low / high)
        return resized(size, (short, limit) if size[0] <= size[1] else (limit, short))
    short = int(wanted[0] if isinstance(wanted, Sequence) else wanted)
    return resized(size, short_side(size, short, limit))


def _crop(step: Any, size: Size) -> Effect:
    return centre_cropped(size, _pair(step.size))


def _classification_preset(step: Any, size: Size) -> Effect:
    """``weights.transforms()`` of torchvision's classifiers: resize, centre crop, normalise."""
    middle, zoom, _ = resized(size, short_side(size, _pair(step.resize_size)[0]))
    new, _, shift = centre_cropped(middle, _pair(step.crop_size))
    return new, zoom, (shift[0] * zoom[0], shift[1] * zoom[1])


def _pair(value: Any) -> Size:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


_VALUES_ONLY = (
    "ToTensor", "PILToTensor", "ToPILImage", "ToImage", "ToDtype", "ConvertImageDtype", "Normalize",
    "Grayscale", "ToPureTensor",
)  # fmt: skip
_RULES: dict[str, Callable[[Any, Size], Effect]] = {
    **dict.fromkeys(_VALUES_ONLY, unmoved),
    "Resize": _resize,
    "CenterCrop": _crop,
    "ImageClassification": _classification_preset,
}


def probe(run: Callable[[np.ndarray], Tensor], height: int, width: int) -> Window | None:
    """Finds the window of any deterministic transform by sending ramps through it.

    The value of a ramp says where a pixel came from; two constant images say how the transform maps
    values. Works for code that cannot be read: callables, processors, letterboxes.

    Args:
        run: maps an (H, W, 3) uint8 image to the (C, h, w) model input
        height: of the original image
        width: of the original image

    Returns:
        a :class:`Window`, or None if the transform is no scale and shift (a rotation, say)
    """
    ramps = np.zeros((2, height, width), np.float64)
    ramps[0] = ((np.arange(width) + 0.5) / width)[None, :] * 255
    ramps[1] = ((np.arange(height) + 0.5) / height)[:, None] * 255
    low, high = (_plane(run, np.full((height, width), v)) for v in (0, 255))
    seen = np.abs(high - low) > 1e-6
    if not seen.any():
        return None
    lines = []
    for axis, extent in ((0, width), (1, height)):
        value = (_plane(run, ramps[axis]) - low) / np.where(seen, high - low, 1)
        line = _fit(value, seen, axis)
        if line is None:
            return None
        lines.append((line[0] * extent, line[1] * extent))
    (left, right), (top, bottom) = lines
    return Window((height, width), left, top, right, bottom)


def _plane(run: Callable[[np.ndarray], Tensor], grey: np.ndarray) -> np.ndarray:
    image = np.repeat(np.rint(grey).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(run(image).float().mean(0), np.float64)


def _fit(value: np.ndarray, seen: np.ndarray, axis: int) -> tuple[float, float] | None:
    """Fits a line through a ramp; returns its values at both ends of the input's axis."""
    ramp = np.moveaxis(np.where(seen, value, np.nan), 1 - axis, 1)
    length = ramp.shape[1]
    counts = np.isfinite(ramp).sum(0)
    if (counts > 0).sum() < 2:
        return None
    profile = np.nansum(ramp, 0) / np.maximum(counts, 1)
    # The outermost pixels mix with padding or the border rule of the resize.
    centres = np.arange(length) + 0.5
    usable = (counts > 0) & (profile > 0.02) & (profile < 0.98)
    if usable.sum() < 2:
        usable = counts > 0
    slope, start = np.polyfit(centres[usable], profile[usable], 1)
    spread = np.nanmax(np.abs(ramp[:, usable] - profile[None, usable]))
    error = np.abs(slope * centres[usable] + start - profile[usable]).max()
    if slope <= 0 or error > 0.05 or spread > 0.05:
        return None
    return start, slope * length + start
