"""CNN Fixations: the pixels that a class's neuron is traced back to."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...adapters.base import ExplainableModel
from ...batching import Chunks
from ..registry import cam_method
from .tape import POOLINGS, Tape

_PAIRS = 1 << 24  # distances between fixations held at once


@cam_method(
    paper="Mopuri, Garg & Babu, CNN Fixations, IEEE TIP 2018",
    family="structure",
    sums_channels=False,
    signed=False,
    cost="2F, and the way back",
    times=6.0,
    place="input",
    aliases=("fixations",),
    register=True,
)
def cnn_fixations(
    model,
    images,
    target,
    *,
    sigma=0.05,
    pooling="strongest",
    outliers=0.05,
    radius=0.1,
    batch_size=8,
):
    """The pixels found by going back from the class's neuron to what contributed most, layer by layer.

    ``M = G * sum_f 1[pixel f]``, the density of the fixations f smoothed by a Gaussian G. From a
    neuron of a fully connected layer to all neurons that contribute, ``w_k a_k > 0``; where these are
    positions of a map, to the one that contributes most. Through a convolution to the channel whose
    contributions in the receptive field add up to most, and in it to the strongest position; through
    pooling to the strongest position; through an addition to the larger branch; through a
    concatenation by the channel's number; through a product to the features, not to the gate. Paths
    end where they meet; each neuron is followed once. No gradient is computed.

    An average that a single path of the image leads to, as the class's own map in SqueezeNet, is
    followed to all its positions: one path would find one pixel.

    The authors' code takes a neuron to be positive. Here a path through a negative weight asks for
    what makes the neuron small, which is the same behind ReLUs and right without them, and a path
    ends where a bias alone made the neuron.

    Options: ``sigma`` of the Gaussian as a share of the shorter side, 0 for the bare number of
    fixations per pixel; ``pooling`` ``"strongest"`` as the authors, or ``"all"``: through averages to
    every position that contributes; ``outliers`` drops fixations with no more than this share of all
    within ``radius`` (a share of the diagonal), 0 keeps all; ``batch_size`` images at once, fewer
    where the memory does not suffice.

    Raises:
        ValueError: if the target is no class, an option is out of range, or a path meets an
            operation that is not understood (attention, for example); the message names it
    """
    if target is None:
        raise ValueError(
            "method 'cnn_fixations' starts from a class's neuron, and this target is no class; "
            "choose a class, or use 'gradcam'"
        )
    if pooling not in POOLINGS:
        raise ValueError(f"pooling: {pooling!r} is unknown; choose from {', '.join(POOLINGS)}")
    _check_share("sigma", sigma, 1)
    _check_share("outliers", outliers, 1)
    _check_share("radius", radius, 1)

    def part(start: int, stop: int) -> Tensor:
        counts = _count(model, images[start:stop], target[start:stop], pooling)
        if outliers > 0:
            distance = radius * math.hypot(*images.shape[2:])
            counts = torch.stack([_without_outliers(c, outliers, distance) for c in counts])
        return counts

    counts = torch.cat(list(Chunks(batch_size).run(len(images), part)))
    density = _smoothed(counts, sigma * min(images.shape[2:]))
    return torch.where((target >= 0)[:, None, None], density, torch.nan)


def find_fixations(
    model: ExplainableModel, images: Tensor, target: Tensor, pooling: str = "strongest"
) -> Tensor:
    """Finds the pixels that a class's neuron is traced back to.

    Args:
        model: the model, in eval mode
        images: (N, 3, H, W)
        target: (N,) class indices; images with a negative one have no fixations
        pooling ("strongest"): through averages to the ``"strongest"`` position or to ``"all"``

    Returns:
        (F, 4) int64 image, channel, row and column of each fixation

    Raises:
        ValueError: if a path meets an operation that is not understood
    """
    own = images.clone()  # a model may write into its input
    with torch.no_grad(), Tape(own, model.module, pooling) as tape:
        scores = model.logits(model.forward(own))
    rows = (target >= 0).nonzero()[:, 0]
    index = tape.trace(scores, rows * scores.shape[1] + target[rows])
    return torch.stack(torch.unravel_index(index, images.shape), 1)


def _count(model: ExplainableModel, images: Tensor, target: Tensor, pooling: str) -> Tensor:
    """(N, H, W) how many fixations a pixel has, one per colour channel at most."""
    found = find_fixations(model, images, target, pooling)
    counts = torch.zeros(len(images), *images.shape[2:], device=images.device)
    image, _, row, column = found.unbind(1)
    ones = torch.ones(len(found), device=images.device)
    counts.index_put_((image, row, column), ones, accumulate=True)
    return counts


def _without_outliers(counts: Tensor, share: float, distance: float) -> Tensor:
    """Keeps the fixations of one image (H, W) that have more than a share of all of them near."""
    pixels = counts.nonzero()
    here = counts[pixels[:, 0], pixels[:, 1]]
    places = pixels.float()
    rows = max(1, _PAIRS // max(1, len(places)))
    near = [
        ((part[:, None] - places).square().sum(2) < distance**2).float() @ here
        for part in places.split(rows)
    ]
    kept = pixels[torch.cat(near) > share * here.sum()] if near else pixels
    result = torch.zeros_like(counts)
    result[kept[:, 0], kept[:, 1]] = counts[kept[:, 0], kept[:, 1]]
    return result


def _smoothed(counts: Tensor, sigma: float) -> Tensor:
    """Convolves (N, H, W) with a Gaussian of a width in pixels; every fixation weighs 1."""
    if sigma <= 0:
        return counts
    reach = math.ceil(4 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=counts.device, dtype=torch.float32)
    kernel = (-0.5 * (offsets / sigma).square()).exp()
    kernel = (kernel / kernel.sum())[None, None]
    rows = F.conv2d(counts[:, None], kernel[..., None], padding=(reach, 0))
    return F.conv2d(rows, kernel[:, :, None], padding=(0, reach))[:, 0]


def _check_share(name: str, value: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise ValueError(f"{name} must be a number from 0 to {most}, got {value!r}")
