"""What takes the place of pixels that are removed, in the space of the model's input."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Baseline = str | Callable[[Tensor], Tensor]

BASELINES = ("mean", "blur", "zero")

# Of the shorter side: 10 pixels of 224. RISE's Gaussian of 5 pixels, cut off at 5, leaves a network
# much of what it needs: on the demo's photos EfficientNet-Lite0 keeps 28 % of its probability, after
# this one 1 %.
_BLUR = 10 / 224


def check_baseline(baseline: object) -> None:
    """Raises a ValueError if a baseline is unknown."""
    if baseline is None or callable(baseline) or baseline in BASELINES:
        return
    raise ValueError(
        f"baseline: {baseline!r} is unknown; choose from {', '.join(BASELINES)}, or pass a callable "
        "images -> images"
    )


def fill(images: Tensor, baseline: Baseline) -> Tensor:
    """The images that stand for "nothing is there".

    Args:
        images: (N, C, H, W) as the model gets them
        baseline: ``"mean"``, the mean of each image's channels; ``"blur"``, a Gaussian of 10
            pixels in a picture of 224; ``"zero"``, with the
            usual transform the mean colour of the training set; or a callable images -> images

    Returns:
        (N, C, H, W) of the images' dtype

    Raises:
        ValueError: if a callable returns something of another shape
    """
    if callable(baseline):
        return _own(images, baseline)
    if baseline == "mean":
        return images.float().mean((-2, -1), keepdim=True).to(images.dtype).expand_as(images)
    if baseline == "zero":
        return torch.zeros_like(images)
    sigma = max(0.5, _BLUR * min(images.shape[-2:]))
    return gaussian(images.float(), sigma, math.ceil(3 * sigma)).to(images.dtype)


def _own(images: Tensor, baseline: Callable[[Tensor], Tensor]) -> Tensor:
    found = baseline(images.clone())
    if not isinstance(found, Tensor) or found.shape != images.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"baseline: the callable must return a tensor of shape {tuple(images.shape)}, got {got}"
        )
    return found.to(images)


def gaussian(images: Tensor, sigma: float, radius: int, *, padded: bool = True) -> Tensor:
    """Weighted means over a square window with Gaussian weights.

    Args:
        images: (..., H, W) float
        sigma: in pixels
        radius: of the window, which has 2 radius + 1 pixels a side
        padded (True): mirrors the border, so that the size stays; else only whole windows count

    Returns:
        (..., H, W), or without padding (..., H - 2 radius, W - 2 radius)
    """
    shape = images.shape
    flat = images.reshape(-1, 1, *shape[-2:])
    offset = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    bell = torch.exp(-(offset**2) / (2 * sigma**2))
    bell = bell / bell.sum()
    if padded:
        # a mirror shows no more than the picture
        rows, columns = (min(radius, side - 1) for side in shape[-2:])
        flat = F.pad(flat, (columns, columns, rows, rows), mode="reflect")
        more = radius - columns, radius - columns, radius - rows, radius - rows
        flat = F.pad(flat, more, mode="replicate")
    # sums of shifted pictures: a convolution on a GPU may round to ten bits
    for dim in (-2, -1):
        length = flat.shape[dim] - 2 * radius
        total = flat.narrow(dim, 0, length) * float(bell[0])
        for shift, weight in enumerate(bell[1:].tolist(), 1):
            total.add_(flat.narrow(dim, shift, length), alpha=weight)
        flat = total
    return flat.reshape(*shape[:-2], *flat.shape[-2:])


def count_of(share: float, pixels: int) -> int:
    """How many pixels a share of them is, halves rounded up."""
    return math.floor(share * pixels + 0.5)
