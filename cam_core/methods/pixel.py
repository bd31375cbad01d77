"""Methods on the pixels of the model's input: gradients that go all the way down.

Notation: x images (N, C, H, W) as the model gets them, preprocessed; R = dy/dx for the score y. They
show what single pixels do to the score: edges and texture rather than regions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..batching import Chunks, check_count, in_format_of
from .channels import channel_sum
from .registry import cam_method

_pixel = functools.partial(
    cam_method, family="pixel", place="input", sums_channels=False, register=True
)

_RULES = ("gausslegendre", "riemann_right", "riemann_middle")


@_pixel(
    paper="Simonyan et al., Deep Inside Convolutional Networks, arXiv 1312.6034",
    signed=False,
    cost="2F+1B",
    times=3,
    aliases=("saliency", "vanilla_gradients"),
)
def gradients(images, input_gradient):
    """How much each pixel would change the score: the size of the plain gradient.

    ``M = max_c |R_c|``, the maximum over the colour channels, as in the paper.
    """
    return _largest(_once(images, input_gradient))


@_pixel(
    paper="Shrikumar et al., Not Just a Black Box, arXiv 1605.01713",
    cost="2F+1B",
    times=3,
    aliases=("gradient_x_input", "ixg"),
)
def input_x_gradient(images, input_gradient):
    """Gradient times pixel, signed: what each pixel adds to the score of a linear network.

    ``M = sum_c x_c R_c``. x is preprocessed: a pixel of the dataset's mean colour counts nothing. In a
    network without biases that is linear between ReLUs, the map sums to the score.
    """
    return (images.float() * _once(images, input_gradient)).sum(1)


@_pixel(
    paper="Springenberg et al., Striving for Simplicity, ICLR workshop 2015",
    signed=False,
    cost="2F+1B",
    times=3,
    aliases=("gbp", "guided_backpropagation"),
)
def guided_backprop(images, guided_gradient):
    """The gradient with only positive signals let through ReLUs: sharp, hardly about the class.

    ``M = max_c |R'_c|`` where R' is the gradient that every ReLU masks with ``1[a > 0] 1[g > 0]``, for
    its input a and the gradient g that arrives. Mostly it restores edges of the image (Adebayo et al.,
    Sanity Checks, NeurIPS 2018). Functional and in-place ReLUs are found as well.

    Raises:
        ValueError: if the network has no ReLU
    """
    return _largest(_once(images, guided_gradient))


@_pixel(
    paper="Selvaraju et al., Grad-CAM, ICCV 2017 (Guided Grad-CAM)",
    signed=False,
    cost="2F+2B",
    times=3,
    sums_channels=True,
)
def guided_gradcam(images, guided_gradient, layers):
    """Guided backpropagation where Grad-CAM of the last target layer is positive.

    ``M = max_c |R'_c| Up(relu(sum_k w_k A_k))`` with ``w_k = mean_ij g_k`` and R' of `guided_backprop`;
    bilinear, as in the paper.

    Raises:
        ValueError: if the network has no ReLU
    """
    activations, layer_gradients = list(layers.values())[-1]
    cam = channel_sum(layer_gradients.mean((2, 3)), activations).relu()
    return _largest(_once(images, guided_gradient)) * _upsampled(cam, images)


@_pixel(
    paper="Smilkov et al., SmoothGrad, arXiv 1706.03825",
    signed=False,
    cost="1F+n(1F+1B)",
    times=50,
)
def smoothgrad(images, input_gradient, rng, *, samples=25, sigma=0.15, batch_size=32):
    """The gradient averaged over noisy copies of the image, which cancels its fluctuations.

    ``M = max_c |mean_n R_c(x + e_n)|`` with ``e_n`` Gaussian. The noise is the same for every image, so
    that a map does not depend on the batch it was computed in.

    Options: ``samples`` noisy copies; ``sigma`` of the noise as a share of the image's range, 0.1 to 0.2
    in the paper; ``batch_size`` how many images pass at once.
    """
    check_count("samples", samples)
    check_count("batch_size", batch_size)
    if not isinstance(sigma, (int, float)) or not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be a share of the image's range, 0 or more, got {sigma!r}")
    span = images.amax((1, 2, 3)) - images.amin((1, 2, 3))
    # One draw at a time: the noise of a sample does not depend on how many there are.
    shape, device = images.shape[1:], images.device
    noise = torch.stack([torch.randn(shape, generator=rng, device=device) for _ in range(samples)])

    def noisy(rows: list[int], draws: list[int]) -> Tensor:
        return images[rows] + sigma * span[rows][:, None, None, None] * noise[draws]

    weights = torch.full((samples,), 1 / samples, device=device)
    return _largest(_weighted_gradients(images, input_gradient, noisy, weights, batch_size))


@_pixel(
    paper="Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017",
    cost="1F+n(1F+1B)",
    times=100,
    aliases=("ig",),
)
def integrated_gradients(
    images, input_gradient, *, steps=50, baseline=0.0, rule="gausslegendre", batch_size=32
):
    """Gradients along the way from a baseline to the image: what each pixel adds, signed.

    ``M = sum_c (x_c - x'_c) sum_n w_n R_c(x' + a_n (x - x'))``. The map sums to ``y(x) - y(x')`` but for
    the error of the quadrature, which falls with ``steps``.

    Options: ``steps`` n of the quadrature; ``baseline`` x', a number or a tensor that broadcasts to the
    images, in the preprocessed space, where 0 is the dataset's mean colour; ``rule`` of the quadrature,
    ``"gausslegendre"``, ``"riemann_right"`` (the paper's sum) or ``"riemann_middle"``; ``batch_size``
    how many images pass at once.
    """
    check_count("steps", steps)
    check_count("batch_size", batch_size)
    positions, weights = _quadrature(rule, steps)
    start = _baseline(baseline, images)
    way = images.float() - start
    alphas = torch.tensor(positions, device=images.device)

    def between(rows: list[int], draws: list[int]) -> Tensor:
        return start[rows] + alphas[draws][:, None, None, None] * way[rows]

    weight = torch.tensor(weights, device=images.device)
    mean = _weighted_gradients(images, input_gradient, between, weight, batch_size)
    return (way * mean).sum(1)


@_pixel(
    paper="Srinivas & Fleuret, Full-Gradient Representation, NeurIPS 2019",
    signed=False,
    cost="2F+1B",
    times=4,
)
def fullgrad(images, full_gradient):
    """Gradient times input plus gradient times bias of every layer: all that makes up the score.

    ``M = sum_c psi(x R)_c + sum_l sum_c psi(b_l g_l)_c`` over all layers l with a bias and a grid, where
    psi takes the size, rescales it to [0, 1] per image and layer, and upsamples it bilinearly. As in the
    paper psi is applied to the input's term too; the authors' code adds 1e-6 to the range, which makes
    small gradients count less, and aligns corners. What else counts as a bias: see
    :func:`cam_core.engine.input_gradients.full_gradient`.
    """
    gradient, terms = full_gradient
    result = _rescaled(images.float() * gradient)
    for term in terms:
        if term.dim() == 4:
            result = result + _upsampled(_rescaled(term), images)
    return result


def _largest(gradient: Tensor) -> Tensor:
    return gradient.abs().amax(1)


def _upsampled(maps: Tensor, images: Tensor) -> Tensor:
    """(N, h, w) -> (N, H, W)."""
    size = images.shape[-2:]
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _rescaled(term: Tensor) -> Tensor:
    """Psi without its upsampling, which is linear: (N, C, h, w) -> (N, h, w)."""
    size = term.abs()
    low, high = size.amin((1, 2, 3), keepdim=True), size.amax((1, 2, 3), keepdim=True)
    span = high - low
    return ((size - low) / torch.where(span == 0, 1, span)).sum(1)


def _once(images: Tensor, differentiate: Callable) -> Tensor:
    """The gradient at the images themselves: the whole batch at once, if memory allows."""
    count = images.shape[0]

    def part(start: int, stop: int) -> Tensor:
        return differentiate(images[start:stop], range(start, stop))[0]

    return torch.cat(list(Chunks(count).run(count, part)))


def _weighted_gradients(
    images: Tensor,
    differentiate: Callable,
    variant: Callable[[list[int], list[int]], Tensor],
    weights: Tensor,
    batch_size: int,
) -> Tensor:
    """(N, C, H, W) weighted sums of the gradients at ``variant(rows, draws)``, one draw per weight."""
    draws = len(weights)
    total = torch.zeros_like(images, dtype=torch.float32)

    def part(start: int, stop: int) -> tuple[int, int, Tensor]:
        rows = [number // draws for number in range(start, stop)]
        here = [number % draws for number in range(start, stop)]
        found = differentiate(in_format_of(images, variant(rows, here)), rows)[0]
        return start, stop, found * weights[here][:, None, None, None]

    for start, stop, found in Chunks(batch_size).run(images.shape[0] * draws, part):
        # Image by image: one that is not finite leaves the others alone, and sums keep their order.
        for row in range(start // draws, (stop - 1) // draws + 1):
            first = max(row * draws - start, 0)
            total[row] += found[first : (row + 1) * draws - start].sum(0)
    return total


def _quadrature(rule: str, steps: int) -> tuple[Sequence[float], Sequence[float]]:
    """Positions in [0, 1] and weights that sum to 1."""
    if rule == "gausslegendre":
        positions, weights = np.polynomial.legendre.leggauss(steps)
        return ((positions + 1) / 2).tolist(), (weights / 2).tolist()
    if rule not in _RULES:
        raise ValueError(f"rule: {rule!r} is unknown; choose from {', '.join(_RULES)}")
    shift = 1.0 if rule == "riemann_right" else 0.5
    return [(n + shift) / steps for n in range(steps)], [1 / steps] * steps


def _baseline(baseline: float | Tensor, images: Tensor) -> Tensor:
    """The baseline in the shape of the images, float32."""
    if isinstance(baseline, (int, float)):
        return torch.full_like(images, baseline, dtype=torch.float32)
    if isinstance(baseline, Tensor):
        pairs = zip(reversed(baseline.shape), reversed(images.shape), strict=False)
        if baseline.dim() <= 4 and all(have in (1, want) for have, want in pairs):
            return baseline.detach().to(images.device, torch.float32).expand_as(images)
    got = tuple(baseline.shape) if isinstance(baseline, Tensor) else repr(baseline)
    raise ValueError(
        f"baseline must be a number or a tensor that broadcasts to the images {tuple(images.shape)}, "
        f"got {got}"
    )
