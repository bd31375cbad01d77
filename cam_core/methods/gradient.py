"""Methods that weight activations with gradients: one forward, one backward through the tail.

Notation: A activations (N, C, h, w), g = dy/dA for the score y, S_k the sum of A_k over positions.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from .channels import channel_sum
from .registry import cam_method

_gradient = functools.partial(cam_method, family="gradient", sums_channels=True, register=True)


@_gradient(paper="Selvaraju et al., Grad-CAM, ICCV 2017")
def gradcam(activations, gradients):
    """Channels weighted by their mean gradient.

    ``w_k = mean_ij g_k``, ``M = sum_k w_k A_k``. The paper's final ReLU is applied when the map
    becomes a heatmap.
    """
    return channel_sum(gradients.mean((2, 3)), activations)


@_gradient(
    paper="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016",
    cost="1F",
)
def cam(head):
    """The class's weights of the linear head, applied at every position; needs such a head.

    ``M = sum_k W[c, k] A_k``, signed as in the paper. Only for networks that end in global average
    pooling and one linear layer.

    Raises:
        ValueError: if the target layer is not followed by pooling and one linear layer
    """
    if head is None:
        raise ValueError(
            "method 'cam' needs a target layer followed by global average pooling and one linear "
            "layer, and a class as target; use 'gradcam', which equals it there and works anywhere"
        )
    return channel_sum(head.weights, head.features)


@_gradient(paper="Gradient gating of tf-explain and statworx, after Selvaraju et al., ICCV 2017")
def gradcam_guided(activations, gradients):
    """Grad-CAM with the gradient counted only where it and the activation are positive.

    ``w_k = mean_ij 1[A > 0] 1[g > 0] g``. Not guided backpropagation: only the target layer is gated.
    """
    gated = gradients.relu() * (activations > 0)
    return channel_sum(gated.mean((2, 3)), activations)


@_gradient(paper="Chattopadhay et al., Grad-CAM++, WACV 2018")
def gradcampp(activations, gradients):
    """Grad-CAM with each positive gradient weighted by how much of the score it stands for.

    ``alpha = g^2 / (2 g^2 + S_k g^3)`` (eq. 19) and ``w_k = sum_ij alpha relu(g)``, which is exactly
    ``w_k = sum_ij relu(g) / (2 + S_k g)``: no power of g, no epsilon. The factor exp(y) of the paper
    cancels when the map is normalised. The paper has A >= 0; where activations are signed, a
    negative S_k counts as zero, which keeps alpha within [0, 1/2] and off the pole.
    """
    total = activations.sum((2, 3), keepdim=True).clamp_min(0)
    positive = gradients.relu()
    return channel_sum((positive / (2 + total * positive)).sum((2, 3)), activations)


@_gradient(paper="Fu et al., Axiom-based Grad-CAM (XGrad-CAM), BMVC 2020")
def xgradcam(activations, gradients):
    """Channels weighted by their gradient, averaged with the activations as weights.

    ``w_k = sum_ij g_k A_k / S_k``. A channel whose activations cancel (``|S_k| <= 1e-6 sum |A_k|``, a
    silent one among them) has weight zero: the paper has A >= 0, where that is the silent channel.
    """
    total = activations.sum((2, 3))
    size = activations.abs().sum((2, 3))
    usable = total.abs() > 1e-6 * size
    product = (gradients * activations).sum((2, 3))
    return channel_sum(torch.where(usable, product / torch.where(usable, total, 1), 0), activations)


@_gradient(paper="Draelos & Carin, HiResCAM, arXiv 2011.08891")
def hirescam(activations, gradients):
    """Gradient times activation, summed over channels: exact where a linear layer follows.

    ``M = sum_k g_k A_k``, signed: with global average pooling and one linear layer after it, the map
    sums to the score minus the bias.
    """
    return channel_sum(gradients, activations)


@_gradient(paper="GradCAMElementWise of pytorch-grad-cam (Gildenblat 2021)", signed=False)
def gradcam_elementwise(activations, gradients):
    """Gradient times activation, positive products only.

    ``M = sum_k relu(g_k A_k)``.
    """
    products = gradients * activations
    return channel_sum((products > 0).to(products.dtype), products)


@_gradient(paper="Jiang et al., LayerCAM, IEEE TIP 2021")
def layercam(activations, gradients):
    """Every position weighted by its own positive gradient; fine-grained at early layers.

    ``M = sum_k relu(g_k) A_k``.
    """
    return channel_sum(gradients.relu(), activations)


@_gradient(
    paper="Omeiza et al., Smooth Grad-CAM++, arXiv 1908.01224",
    cost="(1+n)F+nB",
    times=10.0,
    aliases=("smoothgradcam++",),
)
def smoothgradcampp(
    activations, images, gradient_pass, rng, *, samples=8, sigma=0.15, batch_size=32
):
    """Grad-CAM++ with its gradients averaged over noisy copies of the image.

    With D_p the mean over the copies of ``relu(g)^p``: ``alpha = D_2 / (2 D_2 + S_k D_3)``, ``w_k =
    sum_ij alpha D_1``, ``M = sum_k w_k A_k``, A of the image itself. Without noise it is Grad-CAM++.
    Negative S_k counts as zero, as there. The noise is Gaussian, seeded, the same for every image.

    Options: ``samples`` copies; ``sigma`` of the noise as a share of the image's range; ``batch_size``
    how many copies run at once.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    count, span = images.shape[0], images.flatten(1).amax(1) - images.flatten(1).amin(1)
    orders = [torch.zeros_like(activations) for _ in range(3)]
    for start in range(0, samples, max(1, batch_size // count)):
        here = min(max(1, batch_size // count), samples - start)
        noise = torch.randn(here, 1, *images.shape[1:], generator=rng, device=images.device)
        noisy = images + (sigma * span[:, None, None, None] * noise).to(images.dtype)
        _, gradients, _ = gradient_pass(noisy.flatten(0, 1), list(range(count)) * here)
        positive = gradients.relu().unflatten(0, (here, count))
        if start == 0:
            # Powers of small gradients underflow; the scale is put back into the denominator.
            scale = positive.amax((0, 2, 3, 4))[:, None, None, None]
            safe = torch.where(scale > 0, scale, 1)
        for power, order in enumerate(orders, 1):
            order += (positive / safe).pow(power).sum(0) / samples
    first, second, third = orders
    total = activations.sum((2, 3), keepdim=True).clamp_min(0) * safe
    denominator = 2 * second + total * third
    alpha = torch.where(denominator > 0, second / torch.where(denominator > 0, denominator, 1), 0)
    return channel_sum((alpha * first * safe).sum((2, 3)), activations)


def _rest(logits: Tensor, index: Tensor, *, score: str) -> Tensor:
    """ReST, the residual softmax target of ShapleyCAM's authors: logit plus log-probability."""
    if score not in ("rest", "logit"):
        raise ValueError(f"score: {score!r} is unknown; choose 'rest' or 'logit'")
    values = logits if score == "logit" else logits + logits.log_softmax(1)
    return values.gather(1, index[:, None])[:, 0]


@_gradient(
    paper="Cai, CAMs as Shapley Value-based Explainers, arXiv 2501.06261",
    cost="2F+3B",
    times=2.0,
    target_transform=_rest,
)
def shapleycam(activations, gradients, hvp, *, score="rest"):
    """Grad-CAM with the second-order term of the score's Taylor expansion.

    ``w_k = mean_ij (g - H A / 2)``, ``M = sum_k w_k A_k`` with ``H A`` a Hessian-vector product at the
    layer. Behind ReLUs and a linear head a logit has no curvature, so that it equals Grad-CAM there;
    the authors' target, the default, is curved.

    Options: ``score`` ``"rest"``, the logit plus the log-probability, or ``"logit"``.
    """
    return channel_sum((gradients - hvp(activations) / 2).mean((2, 3)), activations)


def _finer(
    logits: Tensor, index: Tensor, *, weighting: str, alpha: float, references: int
) -> Tensor:
    """The target's score minus those of the classes nearest to it."""
    if weighting not in ("probability", "mean"):
        raise ValueError(f"weighting: {weighting!r} is unknown; choose 'probability' or 'mean'")
    if logits.shape[1] < 2 or references < 1:
        raise ValueError(
            f"references must be at least 1 and the model must have two classes or more, got "
            f"references={references} for {logits.shape[1]} classes"
        )
    column = index[:, None]
    own = logits.gather(1, column)
    with torch.no_grad():
        distance = (logits - own).abs().scatter(1, column, torch.inf)
        others = distance.topk(min(references, logits.shape[1] - 1), largest=False).indices
        weights = torch.full_like(others, 1.0, dtype=logits.dtype)
        if weighting == "probability":
            # Relative to the likeliest of them, so that rare classes do not divide by zero.
            weights = logits.gather(1, others).softmax(1)
        weights = weights / weights.sum(1, keepdim=True)
    return own[:, 0] - alpha * (weights * logits.gather(1, others)).sum(1)


@_gradient(
    paper="Zhang et al., Finer-CAM, CVPR 2025", cost="1F+1B", times=1.1, target_transform=_finer
)
def finercam(activations, gradients, *, weighting="probability", alpha=1.0, references=3):
    """Grad-CAM of what sets the target apart from the classes nearest to it.

    ``w_k = mean_ij d/dA (y_c - alpha sum_d p_d y_d / sum_d p_d)``, ``M = sum_k w_k A_k`` over the
    classes d whose scores are nearest to the target's. The weights p are constants; the authors' code
    differentiates them too.

    Options: ``weighting`` ``"probability"``, as the authors', or ``"mean"`` of the classes (torchcam's,
    with ``alpha=0.6``); ``alpha`` how much is subtracted; ``references`` how many classes.
    """
    return channel_sum(gradients.mean((2, 3)), activations)


@_gradient(
    paper="Domeniconi et al., How to Evaluate and Refine your CAM (RefineCAM), arXiv 2605.14641",
    signed=False,
    place="layers",
)
def refinecam(layers, *, base="gradcampp"):
    """One map from all target layers: what every one of them shows.

    ``M = prod_l minmax(relu(m_l))`` with m_l the base method's map at layer l, on the finest grid. Name
    two layers or more: with one it is the base method's own map.

    Options: ``base`` the method at each layer, one that takes activations and gradients.
    """
    if base not in _BASES:
        raise ValueError(f"base: {base!r} is unknown; choose from {', '.join(_BASES)}")
    maps = [_BASES[base](*layer).relu() for layer in layers.values()]
    size = max((m.shape[-2:] for m in maps), key=lambda s: s[0] * s[1])
    product = torch.ones(1, device=maps[0].device)
    for single in maps:
        low, high = single.amin((1, 2), keepdim=True), single.amax((1, 2), keepdim=True)
        flat = high - low <= 1e-6 * high
        unit = torch.where(
            flat, (high > 0).to(high.dtype), (single - low) / torch.where(flat, 1, high - low)
        )
        product = product * F.interpolate(unit[:, None], size=size, mode="bilinear")[:, 0]
    return product


_BASES = {
    fn.__name__: fn
    for fn in (
        gradcampp, gradcam, gradcam_guided, xgradcam, hirescam, gradcam_elementwise, layercam,
    )
}  # fmt: skip
