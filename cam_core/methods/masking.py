"""Score-CAM and its relatives: channels turned into masks over the image, weighted by the score.

Notation: A activations (N, C, h, w), X the image, ``H_k = minmax(upsample(A_k))`` the mask of channel
k in [0, 1] on the image's pixels, y the score, p the target class's probability. The papers have
A >= 0; where activations are signed (a layer before its ReLU, tokens) negative ones count as zero:
else masks would show what a channel is silent about, and positive weights would add up to negative
maps. Opti-CAM is not here: an optimisation per image, tens of forwards and backwards, for a map much
like Score-CAM's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batching import Chunks, check_count, in_format_of
from .channels import channel_sum
from .registry import cam_method

# (3, H, W) image, (m, 1, H, W) masks -> (m, 3, H, W) what the model sees.
Look = Callable[[Tensor, Tensor], Tensor]

_masking = functools.partial(cam_method, family="perturbation", sums_channels=True, register=True)


@_masking(paper="Wang et al., Score-CAM, CVPRW 2020", cost="(1+C)F", times=1000.0, signed=False)
def scorecam(activations, images, forward, *, weighting="logit", top_channels=None, batch_size=32):
    """Channels weighted by the score of the image seen through them.

    ``w_k = softmax_k(y(X * H_k) - y(0))``, ``M = sum_k w_k A_k`` (Algorithm 1; the score of the
    black image is the same for all channels, cancels in the softmax and is not computed). The mask
    multiplies the preprocessed image: what it hides gets the mean colour. A channel that is constant
    has no mask, the paper's min-max divides zero by zero; it takes no part in the softmax, its weight
    is 0. Where logits are large the softmax leaves one channel or few: the authors' code therefore
    has the probability as weight, ``w_k = p(X * H_k)``, without softmax over channels.

    Options: ``weighting`` ``"logit"``, the paper's softmax over channels, or ``"probability"``, the
    authors' code; ``top_channels`` only so many channels, those with the highest mean activation (all
    by default); ``batch_size`` how many masks run at once; halved where the memory does not suffice.
    """
    return _score_weighted(
        activations, images, forward, [torch.mul], 1.0, weighting, top_channels, batch_size
    )


@_masking(
    paper="Wang et al., SS-CAM, arXiv 2006.14255", cost="(1+n C)F", times=35000.0, signed=False
)
def sscam(
    activations, images, forward, rng, *, samples=35, sigma=2.0, noise_on="mask",
    weighting="logit", top_channels=None, batch_size=32,
):  # fmt: skip
    """Score-CAM with each channel's score averaged over noisy masks.

    ``w_k = softmax_k(mean_i y(X * (H_k + e_i)))``, ``M = sum_k w_k A_k``, e_i Gaussian noise: the
    paper's variant (1). Variant (2) adds the noise to the masked image, ``y(X * H_k + e_i)``. The
    paper's sigma of 2 is twice the mask's whole range; 0.2 leaves the mask visible. The noise is
    seeded and the same for every image and channel, so that channels are compared under equal noise.

    Options: ``samples`` of the noise; ``sigma`` its standard deviation; ``noise_on`` ``"mask"`` or
    ``"image"``; ``weighting``, ``top_channels`` and ``batch_size`` as in Score-CAM.
    """
    check_count("samples", samples)
    if sigma < 0:
        raise ValueError(f"sigma must not be negative, got {sigma}")
    if noise_on not in ("mask", "image"):
        raise ValueError(f"noise_on: {noise_on!r} is unknown; choose 'mask' or 'image'")
    channels = 1 if noise_on == "mask" else images.shape[1]
    shape = (samples, channels, *images.shape[2:])
    noise = sigma * torch.randn(shape, generator=rng, device=images.device)
    looks = [functools.partial(_noisy_look, noise_on, draw) for draw in noise]
    return _score_weighted(
        activations, images, forward, looks, 1 / samples, weighting, top_channels, batch_size
    )


def _noisy_look(noise_on: str, noise: Tensor, image: Tensor, masks: Tensor) -> Tensor:
    return image * (masks + noise) if noise_on == "mask" else image * masks + noise


@_masking(
    paper="Naidu et al., IS-CAM, arXiv 2010.03023", cost="(1+n C)F", times=9000.0, signed=False
)
def iscam(
    activations, images, forward, *, samples=10, path="cumulative", weighting="logit",
    top_channels=None, batch_size=32,
):  # fmt: skip
    """Score-CAM with each channel's score summed along a path from the black to the masked image.

    ``w_k = softmax_k(1/n sum_i y(c_i X * H_k))``, ``M = sum_k w_k A_k``. The paper's steps add up,
    ``c_i = sum_(j < i) j/n = i (i - 1) / 2n`` for i = 0..n: 0.1, 0.3, 0.6, 1, 1.5, ... 4.5 for n = 10,
    past the image to one of higher and higher contrast (torchcam's go on to 5.5). ``path="linear"``
    is the integral that the name promises, ``c_i = i/n`` for i = 1..n. Steps with c = 0 show the
    black image, which cancels in the softmax; they are not computed.

    Options: ``samples`` n, the steps; ``path`` ``"cumulative"`` or ``"linear"``; ``weighting``,
    ``top_channels`` and ``batch_size`` as in Score-CAM.
    """
    check_count("samples", samples)
    if path not in ("cumulative", "linear"):
        raise ValueError(f"path: {path!r} is unknown; choose 'cumulative' or 'linear'")
    if path == "cumulative" and samples < 2:
        raise ValueError(
            "samples must be at least 2 for path='cumulative': its first step is black"
        )
    steps = (
        [i / samples for i in range(1, samples + 1)]
        if path == "linear"
        else [i * (i - 1) / (2 * samples) for i in range(2, samples + 1)]
    )
    looks = [functools.partial(_scaled_look, step) for step in steps]
    return _score_weighted(
        activations, images, forward, looks, 1 / samples, weighting, top_channels, batch_size
    )


def _scaled_look(step: float, image: Tensor, masks: Tensor) -> Tensor:
    return step * (image * masks)


def _score_weighted(
    activations: Tensor,
    images: Tensor,
    forward: Callable[..., Tensor],
    looks: Sequence[Look],
    share: float,
    weighting: str,
    top_channels: int | None,
    batch_size: int,
) -> Tensor:
    """(N, h, w) the sum of channels, each weighted by the score of the image seen through it."""
    if weighting not in ("logit", "probability"):
        raise ValueError(f"weighting: {weighting!r} is unknown; choose 'logit' or 'probability'")
    chunks = Chunks(batch_size)
    activations = activations.relu()
    used = _used_channels(activations, top_channels)

    def score(row: int, masks: Tensor) -> Tensor:
        total = masks.new_zeros(len(masks))
        for look in looks:
            batch = in_format_of(images, look(images[row], masks))
            total += forward(batch, [row] * len(batch), probability=weighting == "probability")
        return share * total

    scores = torch.stack(
        [
            _channel_scores(
                maps, used[row], images.shape[2:], functools.partial(score, row), chunks
            )
            for row, maps in enumerate(activations)
        ]
    )
    weights = scores if weighting == "probability" else _softmax(scores, used)
    return channel_sum(weights, activations)


def _channel_scores(
    maps: Tensor,
    used: Tensor,
    size: Sequence[int],
    score: Callable[[Tensor], Tensor],
    chunks: Chunks,
) -> Tensor:
    """(C,) scores of one image's masks; zero for channels that are not used."""
    channels = used.nonzero()[:, 0]
    scores = maps.new_zeros(len(maps))

    def chunk(start: int, stop: int) -> Tensor:
        large, low, span = _enlarged(maps[channels[start:stop], None], size)
        return score((large - low) / span)

    if len(channels):
        scores[channels] = torch.cat(list(chunks.run(len(channels), chunk)))
    return scores


def _used_channels(activations: Tensor, top_channels: int | None) -> Tensor:
    """(N, C) bool: not constant and, where asked for, among the strongest."""
    used = ~_flat(activations)
    if top_channels is None:
        return used
    check_count("top_channels", top_channels)
    strength = activations.mean((2, 3)).masked_fill(~used, -torch.inf)
    top = strength.topk(min(top_channels, activations.shape[1]), dim=1).indices
    return used & torch.zeros_like(used).scatter(1, top, True)


def _flat(maps: Tensor) -> Tensor:
    """Whether maps (..., h, w) are constant up to rounding; one that is not finite is not."""
    low, high = maps.amin((-2, -1)), maps.amax((-2, -1))
    return high - low <= 1e-6 * torch.maximum(high.abs(), low.abs())


def _softmax(scores: Tensor, used: Tensor) -> Tensor:
    """Over the used channels (N, C); zero where there are none."""
    weights = scores.masked_fill(~used, -torch.inf).softmax(1)
    return torch.where(used.any(1, keepdim=True), weights, 0)


def _enlarged(maps: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (m, 1, h, w) on the image's pixels, their lowest values and their ranges there."""
    large = F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    # A grid finer than the image may have its peaks between the pixels.
    return large, low, torch.where(high == low, 1, high - low)


@_masking(
    paper="Zhang et al., Group-CAM, arXiv 2103.13859",
    cost="(2+G)F+1B, G groups",
    times=34.0,
    sums_channels=False,
)
def groupcam(activations, gradients, images, forward, *, groups=32, percentile=70.0, batch_size=32):
    """Groups of channels as masks over the image, weighted by what they add to a blurred one.

    ``G_l = relu(sum_(k in l) mean_ij(g_k) A_k)``, everything up to its percentile set to zero, min-max
    to H_l on the image's pixels; ``w_l = p(X * H_l + blur(X) * (1 - H_l)) - p(blur(X))``, ``M = sum_l
    w_l H_l``. A cheap relative of Score-CAM: G forwards instead of C. The blur is the authors',
    Gaussian of 51 pixels and a sigma of 50. A target that is no class has its score instead of p.

    Options: ``groups`` of neighbouring channels; ``percentile`` of each group's map that is taken for
    noise; ``batch_size`` how many masks run at once; halved where the memory does not suffice.
    """
    check_count("groups", groups)
    if not 0 <= percentile < 100:
        raise ValueError(f"percentile must be at least 0 and below 100, got {percentile}")
    chunks = Chunks(batch_size)
    masks = _group_masks(activations, gradients, groups, percentile)
    blurred = _blurred(images)
    base = forward(in_format_of(images, blurred), list(range(len(images))), probability=True)

    def uncovered(row: int, masks: Tensor) -> Tensor:
        batch = images[row] * masks + blurred[row] * (1 - masks)
        return forward(in_format_of(images, batch), [row] * len(batch), probability=True)

    maps = []
    for row, group in enumerate(masks):
        used = ~_flat(group)
        score = functools.partial(uncovered, row)
        scores = _channel_scores(group, used, images.shape[2:], score, chunks)
        gains = torch.where(used, scores - base[row], 0)
        # On the layer's grid, in the units of the masks on the pixels: there their sum is the same.
        _, low, span = _enlarged(group[:, None], images.shape[2:])
        maps.append((gains[:, None, None] * ((group - low[:, 0]) / span[:, 0])).sum(0))
    return torch.stack(maps)


def _group_masks(activations: Tensor, gradients: Tensor, groups: int, percentile: float) -> Tensor:
    """(N, G, h, w) Grad-CAM of each group of channels, without what is taken for noise."""
    weighted = gradients.mean((2, 3), keepdim=True) * activations
    parts = weighted.tensor_split(min(groups, activations.shape[1]), 1)
    maps = torch.stack([part.sum(1) for part in parts], 1).relu()
    threshold = maps.flatten(2).quantile(percentile / 100, dim=2)[..., None, None]
    return torch.where(maps <= threshold, 0, maps)


def _blurred(images: Tensor, radius: int = 25, sigma: float = 50.0) -> Tensor:
    """Images (N, 3, H, W) behind a Gaussian of 2 radius + 1 pixels, mirrored at the border."""
    for dim in (-2, -1):
        reach = min(radius, images.shape[dim] - 1)
        position = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
        kernel = torch.exp(-(position**2) / (2 * sigma**2))
        shape = (1, 1, -1, 1) if dim == -2 else (1, 1, 1, -1)
        pad = (0, 0, reach, reach) if dim == -2 else (reach, reach, 0, 0)
        padded = F.pad(images.float(), pad, mode="reflect").flatten(0, 1)[:, None]
        smooth = F.conv2d(padded, (kernel / kernel.sum()).reshape(shape))
        images = smooth[:, 0].unflatten(0, images.shape[:2])
    return images
