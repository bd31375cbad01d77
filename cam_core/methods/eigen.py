"""Methods that read structure from the activations by a principal component or by their statistics.

Eigen-CAM and FEM have no class: they show what dominates the layer, the same for every target.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .registry import cam_method

_eigen = functools.partial(cam_method, family="eigen", register=True)


def principal_map(features: Tensor, component: int, center: bool, reference: Tensor) -> Tensor:
    """Projects features on their n-th principal direction.

    The Gram matrix of the smaller side is decomposed, on the device, in float32; never a full SVD.

    Args:
        features: (N, C, h, w)
        component: 1 for the first
        center: whether the mean over positions is subtracted per channel (PCA) or not (SVD)
        reference: (N, h, w) the map is turned so that its product with this sums to >= 0

    Returns:
        (N, h, w) signed map

    Raises:
        ValueError: if there is no such component
    """
    count, channels, height, width = features.shape
    matrix = features.flatten(2).transpose(1, 2)  # (N, hw, C)
    if center:
        matrix = matrix - matrix.mean(1, keepdim=True)
    if not 1 <= component <= min(height * width, channels):
        raise ValueError(
            f"component must be between 1 and {min(height * width, channels)} "
            f"for a {height}x{width} grid of {channels} channels, got {component}"
        )
    # A scale free of overflow and underflow; the map's scale is restored at the end.
    scale = matrix.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)
    matrix = matrix / scale
    finite = matrix.isfinite().all(-1).all(-1)
    safe = torch.where(finite[:, None, None], matrix, 0)
    if height * width <= channels:
        values, vectors = torch.linalg.eigh(safe @ safe.transpose(1, 2))
        projected = vectors[..., -component] * values[..., -component].clamp_min(0).sqrt()[:, None]
    else:
        _, vectors = torch.linalg.eigh(safe.transpose(1, 2) @ safe)
        projected = (safe @ vectors[..., -component, None])[..., 0]
    projected = _oriented(projected, reference.flatten(1)) * scale[..., 0]
    projected = torch.where(finite[:, None], projected, torch.nan)
    return projected.reshape(count, height, width)


def _oriented(vectors: Tensor, reference: Tensor) -> Tensor:
    """Fixes the arbitrary sign of eigenvectors.

    Along the reference; where a vector is orthogonal to it, the largest entry is made positive.
    """
    along = (vectors * reference).sum(1)
    noise = 1e-5 * vectors.norm(dim=1) * reference.norm(dim=1)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))[:, 0]
    sign = torch.where(along.abs() > noise, along, largest).sign()
    return vectors * torch.where(sign == 0, 1, sign)[:, None]


@_eigen(
    paper="Muhammad & Yeasin, Eigen-CAM, IJCNN 2020",
    class_discriminative=False,
    cost="1F",
)
def eigencam(activations, *, component=1, center=False):
    """The activations' n-th principal component; it has no class and is the same for every target.

    ``M = A v_n`` with v_n the n-th right singular vector of the (hw x C) matrix of activations, not
    centred, as in the paper. The sign is the one that agrees with where the activations are strong.
    The n-th component is no class.

    Options: ``component`` 1 for the first; ``center`` subtracts each channel's mean first (PCA).
    """
    return principal_map(activations, component, center, activations.abs().sum(1))


@_eigen(paper="EigenGradCAM of pytorch-grad-cam (Gildenblat 2021)")
def eigengradcam(activations, gradients, *, component=1, center=True):
    """The first principal component of gradient times activation.

    ``M = PCA_1(g * A)``, centred as by its authors. The sign is that of the sum over channels of
    g * A (HiResCAM), so that positive means evidence for the target.

    Options: ``component`` 1 for the first; ``center`` whether to subtract each channel's mean.
    """
    product = gradients * activations
    return principal_map(product, component, center, product.sum(1))


@_eigen(
    paper="Fuad et al., Features Understanding in 3D CNNs (FEM), IPTA 2020",
    class_discriminative=False,
    cost="1F",
)
def fem(activations, *, k=2.0):
    """Channels weighted by how much of them stands out; it has no class.

    ``w_k`` is the share of positions with ``A_k > mean + k std`` (population), ``M = sum_k w_k A_k``.

    Options: ``k`` how many standard deviations count as standing out.
    """
    mean = activations.mean((2, 3), keepdim=True)
    deviation = activations.std((2, 3), keepdim=True, unbiased=False)
    weights = (activations > mean + k * deviation).float().mean((2, 3))
    return torch.einsum("nc,nchw->nhw", weights, activations)
