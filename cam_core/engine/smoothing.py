"""Smoothing that works around any method: the mean of its maps over changed images.

``"aug"``: flips and gains. ``"noise"``: Gaussian noise on the image. ``"multiscale"``: other sizes of
the image. Maps are averaged raw, before anything is rectified or normalised, so that a change the
network does not care about counts as much as one it does. (``"eigen"`` is no pass over images; it
replaces the sum over channels, see :func:`cam_core.methods.channels.eigen_smoothing`.)
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods.registry import Method

# As pytorch-grad-cam's test-time augmentation: gains on the preprocessed tensor.
GAINS = (0.9, 1.0, 1.1)
SCALES = (1.0, 1.25, 1.5)
# Smilkov et al., SmoothGrad: 10-20 % of the image's range.
NOISE, SAMPLES = 0.15, 8


@dataclasses.dataclass(frozen=True)
class Variant:
    """A changed batch of images.

    Attributes:
        images: (N, 3, H', W')
        flipped: whether they are mirrored, so that their maps have to be mirrored back
    """

    images: Tensor
    flipped: bool = False


def passes(method: Method) -> tuple[str, ...]:
    """The smoothings of a method that need passes over changed images."""
    return tuple(name for name in method.smooth if name != "eigen")


def variants(images: Tensor, kinds: Sequence[str], seed: int) -> Iterator[Variant]:
    """Makes the changed batches, one at a time.

    Args:
        images: (N, 3, H, W) preprocessed images
        kinds: names of smoothings; several are combined, each change with each
        seed: of the noise, drawn on the images' device, the same for every image of the batch
    """
    flips = (False, True) if "aug" in kinds else (False,)
    gains = GAINS if "aug" in kinds else (1.0,)
    scales = SCALES if "multiscale" in kinds else (1.0,)
    draws = range(SAMPLES) if "noise" in kinds else (None,)
    span = images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)
    generator = torch.Generator(images.device).manual_seed(seed)
    for draw in draws:
        noisy = images
        if draw is not None:
            # One draw for all images: a map must not depend on the batch it was computed in.
            unit = torch.randn(images.shape[1:], generator=generator, device=images.device)
            noisy = images + (NOISE * span * unit).to(images.dtype)
        for flip, gain, scale in itertools.product(flips, gains, scales):
            changed = noisy * gain
            if scale != 1.0:
                changed = F.interpolate(
                    changed, scale_factor=scale, mode="bilinear", align_corners=False
                )
            yield Variant(changed.flip(-1) if flip else changed, flip)


def average(
    batches: Iterator[Variant], explain: Callable[[Variant], dict[tuple[str, str], Tensor]]
) -> dict[tuple[str, str], Tensor]:
    """Averages maps over changed images.

    Args:
        batches: the changed images; the first of them has the original size
        explain: a changed batch -> ``{(method, layer): (N, K, h, w)}``

    Returns:
        the same keys, on the grids of the original size

    Raises:
        ValueError: if the network takes images of one size only
    """
    size: torch.Size | None = None
    total: dict[tuple[str, str], Tensor] = {}
    count = 0
    for count, variant in enumerate(batches, 1):  # noqa: B007 - the last one is the number
        size = size or variant.images.shape
        try:
            found = explain(variant)
        except (AssertionError, RuntimeError, ValueError) as error:
            if variant.images.shape == size or isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(
                f"methods: smoothing 'multiscale' needs a network that takes images of other sizes: {error}"
            ) from error
        for key, maps in found.items():
            maps = maps.flip(-1) if variant.flipped else maps
            if key in total and maps.shape[-2:] != total[key].shape[-2:]:
                grid = total[key].shape[-2:]
                maps = F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
            total[key] = total[key] + maps if key in total else maps
    return {key: maps / count for key, maps in total.items()}
