"""Listing the layers of a model, on images or on a random one that it runs on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..capture.taps import exclusive, unchanged
from ..layers.find import LayerInfo
from ..layers.listing import LayerList
from ..network.forward_call import check_network
from .adapt import adapt
from .trial_images import trial_images


def list_layers(
    model: Any,
    images: Tensor | None = None,
    *,
    channels: int | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> list[LayerInfo]:
    """Lists the layers of a model that can be explained, in the order they are computed.

    Args:
        model: a module or an :class:`ExplainableModel`
        images (None): (N, C, H, W) a batch, or one image (C, H, W), preprocessed; grids are those of this
            size. By default one random image that the model was tried on: of the size and the channels
            that it says it takes, that its first convolution takes, or 3 x 224 x 224 where it takes any
        channels (None): of such a random image
        image_size (None): (height, width) of such a random image, or one number

    Returns:
        a list of :class:`cam_core.LayerInfo`: name, type, channels, grid, whether it is the default;
        printed, it is a table of the network's blocks

    Raises:
        ValueError: if the model does not run on these images, or on none that was tried
    """
    model = adapt(model)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    _check_trial(images, channels, size)
    check_network(model.module, ["list_layers"])
    with exclusive(model.module), torch.inference_mode(False):
        tried = images is None
        if images is None:
            images = trial_images(model, channels, None if size is None else (size[0], size[1]))
        elif images.dim() == 3:
            images = images[None]
        with unchanged(model.module):
            rows = model.list_layers(images)
        return LayerList(rows, tuple(images.shape[1:]) if tried else None)


def _check_trial(images: Any, channels: Any, size: Any) -> None:
    if images is not None:
        if not isinstance(images, Tensor) or images.dim() not in (3, 4) or not images.numel():
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"images must be a tensor (N, C, H, W) or (C, H, W), got {got}")
        if channels is not None or size is not None:
            raise ValueError("channels, image_size: the images have theirs; leave them out")
    numbers = [("channels", channels)] if channels is not None else []
    if size is not None:
        if not isinstance(size, (tuple, list)) or len(size) != 2:
            raise ValueError(f"image_size must be (height, width) or one number, got {size!r}")
        numbers += [("image_size", side) for side in size]
    for name, value in numbers:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number from 1 on, got {value!r}")
