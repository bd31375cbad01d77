"""Random images that a network runs on, where nobody says what it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..capture.taps import unchanged
from ..network.forward_call import ForwardError, MissingArguments, run_forward
from .base import ExplainableModel

# Tried in this order where a network does not say its size: most take any, the others one of these.
_SIZES = (224, 32, 28, 64, 96, 128, 256, 299, 320, 384, 448, 512)
_CHANNELS = (3, 1)


def trial_images(
    model: ExplainableModel,
    channels: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> Tensor:
    """Returns one random image that a model has been run on.

    What is not given is what the network says of itself, else what is found by trying: the number of
    channels is that of the first convolution or batch norm that runs, or 3, or 1; sizes are 224 and some usual ones.

    Args:
        model: the model
        channels (None): of the image
        image_size (None): (height, width)

    Returns:
        (1, C, H, W) uniform in [0, 1], on the device and in the precision of the weights

    Raises:
        ValueError: if the model ran on none; the message says what was tried and what to do
    """
    like = next((p for p in model.module.parameters() if p.is_floating_point()), torch.zeros(1))
    said = _said_of_itself(model.module)
    sizes = [image_size] if image_size else [*said.sizes, *((side, side) for side in _SIZES)]
    numbers = [channels] if channels else [*said.channels, *_CHANNELS]
    first: tuple[Tensor, Exception] | None = None
    with torch.no_grad(), unchanged(model.module):
        for size in dict.fromkeys(sizes):
            for images, error, fits in _tried(model, like, numbers, size, bool(channels)):
                if error is None:
                    return images
                first = first or (images, error)
                if fits:  # the first layer took them: it is not the channels
                    first = first if len(numbers) == 1 else (images, error)
                    numbers = [images.shape[1]]
                    break
    assert first is not None
    raise ValueError(_nothing_ran(model.module, *first, channels, image_size)) from first[1]


def _tried(
    model: ExplainableModel, like: Tensor, numbers: list[int], size: tuple[int, int], fixed: bool
) -> Iterator[tuple[Tensor, Exception | None, bool]]:
    """Runs images of one size: (images, what was raised, whether a convolution took the channels)."""
    waiting, tried = list(numbers), set()
    while waiting:
        count = waiting.pop(0)
        if count in tried:
            continue
        tried.add(count)
        generator = torch.Generator().manual_seed(51)
        images = torch.rand(1, count, *size, generator=generator).to(like)
        wanted, error = _run(model, images)
        yield images, error, wanted == count
        if wanted is not None and not fixed:
            waiting.insert(0, wanted)


def _run(model: ExplainableModel, images: Tensor) -> tuple[int | None, Exception | None]:
    """The channels that the first convolution or batch norm to run wants, and what the forward raised."""
    seen: list[int] = []

    def note(module: nn.Module, args: tuple) -> None:
        if not seen:
            name = "in_channels" if isinstance(module, _ConvNd) else "num_features"
            seen.append(getattr(module, name))

    handles = [
        module.register_forward_pre_hook(note)
        for module in model.module.modules()
        if isinstance(module, (_ConvNd, _BatchNorm))
    ]
    error: Exception | None = None
    try:
        run_forward(model, images.clone())
    except (MissingArguments, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as raised:  # any: what a network raises where it does not take an image
        error = raised
    finally:
        for handle in handles:
            handle.remove()
    return (seen[0] if seen else None), error


class _Said:
    """Sizes and channels that a network's configuration names."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []
        self.channels: list[int] = []

    def size(self, value: Any) -> None:
        """Takes a size in any of the ways it is written: 224, (224, 224), {"height": 224, ...}."""
        if isinstance(value, dict):
            value = (value.get("height"), value.get("width"))
        if isinstance(value, int):
            value = (value, value)
        sides = value if isinstance(value, (tuple, list)) else ()
        if len(sides) == 2 and all(isinstance(s, int) and 0 < s <= 2048 for s in sides):
            self.sizes.append((sides[0], sides[1]))


def _said_of_itself(module: nn.Module) -> _Said:
    """What timm, transformers and torchvision's transformers keep of the images they are built for."""
    said = _Said()
    shape = (getattr(module, "pretrained_cfg", None) or {}).get("input_size")
    if isinstance(shape, (tuple, list)) and len(shape) == 3:
        said.size(list(shape[1:]))
    config = getattr(module, "config", None)
    for holder in (config, getattr(config, "vision_config", None), module):
        said.size(getattr(holder, "image_size", None))
        count = getattr(holder, "num_channels", None)
        if isinstance(count, int) and count > 0:
            said.channels.append(count)
    return said


def _nothing_ran(
    module: nn.Module,
    images: Tensor,
    error: Exception,
    channels: int | None,
    image_size: tuple[int, int] | None,
) -> str:
    cause = error.__cause__ if isinstance(error, ForwardError) else error
    text = " ".join(str(cause).split())[:200] or "no message"
    shape = " x ".join(map(str, images.shape[1:]))
    more = "" if channels and image_size else ", nor on others that were tried"
    return (
        f"images: {type(module).__name__} does not run on a random image of {shape} "
        f"({type(cause).__name__}: {text}){more}; say what it takes with channels= and image_size=(height, "
        "width), or pass a batch of your images"
    )
