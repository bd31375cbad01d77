"""Methods that weight activations with gradients: one forward, one backward through the tail.

Notation: A activations (N, C, h, w), g = dy/dA for the score y, S_k the sum of A_k over positions.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .registry import cam_method

_gradient = functools.partial(cam_method, family="gradient", register=True)


def _weighted(weights: Tensor, activations: Tensor) -> Tensor:
    """sum_k w_k A_k for weights (N, C)."""
    return torch.einsum("nc,nchw->nhw", weights, activations)


@_gradient(paper="Selvaraju et al., Grad-CAM, ICCV 2017")
def gradcam(activations, gradients):
    """Channels weighted by their mean gradient.

    ``w_k = mean_ij g_k``, ``M = sum_k w_k A_k``. The paper's final ReLU is applied when the map
    becomes a heatmap.
    """
    return _weighted(gradients.mean((2, 3)), activations)


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
    return _weighted(head.weights, head.features)


@_gradient(paper="Gradient gating of tf-explain and statworx, after Selvaraju et al., ICCV 2017")
def gradcam_guided(activations, gradients):
    """Grad-CAM with the gradient counted only where it and the activation are positive.

    ``w_k = mean_ij 1[A > 0] 1[g > 0] g``. Not guided backpropagation: only the target layer is gated.
    """
    gated = gradients.relu() * (activations > 0)
    return _weighted(gated.mean((2, 3)), activations)


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
    return _weighted((positive / (2 + total * positive)).sum((2, 3)), activations)


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
    return _weighted(torch.where(usable, product / torch.where(usable, total, 1), 0), activations)


@_gradient(paper="Draelos & Carin, HiResCAM, arXiv 2011.08891")
def hirescam(activations, gradients):
    """Gradient times activation, summed over channels: exact where a linear layer follows.

    ``M = sum_k g_k A_k``, signed: with global average pooling and one linear layer after it, the map
    sums to the score minus the bias.
    """
    return (gradients * activations).sum(1)


@_gradient(paper="GradCAMElementWise of pytorch-grad-cam (Gildenblat 2021)", signed=False)
def gradcam_elementwise(activations, gradients):
    """Gradient times activation, positive products only.

    ``M = sum_k relu(g_k A_k)``.
    """
    return (gradients * activations).relu().sum(1)


@_gradient(paper="Jiang et al., LayerCAM, IEEE TIP 2021")
def layercam(activations, gradients):
    """Every position weighted by its own positive gradient; fine-grained at early layers.

    ``M = sum_k relu(g_k) A_k``.
    """
    return (gradients.relu() * activations).sum(1)
