"""Methods that read structure from the activations by a principal component or by their statistics.

Eigen-CAM, KPCA-CAM and FEM have no class: they show what dominates the layer, the same for every
target. Notation: A activations (N, C, h, w), g = dy/dA for the score y.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .channels import channel_sum, oriented, principal_map
from .registry import Components, cam_method, numbered

_eigen = functools.partial(cam_method, family="eigen", sums_channels=False, register=True)


def _numbered(*, components: int | None, **others: object) -> list[str] | None:
    return None if components is None else numbered("components", components)


@_eigen(
    paper="Muhammad & Yeasin, Eigen-CAM, IJCNN 2020",
    class_discriminative=False,
    cost="1F",
    component_names=_numbered,
)
def eigencam(activations, *, component=1, components=None, center=False):
    """The activations' n-th principal component; it has no class and is the same for every target.

    ``M = A v_n`` with v_n the n-th right singular vector of the (hw x C) matrix of activations, not
    centred, as in the paper. The sign is the one that agrees with where the activations are strong.
    The n-th component is no class: components are ordered by how much of the layer they describe,
    and naming another class leaves every one of them as it was.

    Options: ``component`` 1 for the first; ``components`` n gives the maps of components 1 to n
    instead, named by their number; ``center`` subtracts each channel's mean first (PCA).

    Raises:
        ValueError: if there is no such component
    """
    return _principal(activations, component, components, center, activations.abs().sum(1))


@_eigen(paper="EigenGradCAM of pytorch-grad-cam (Gildenblat 2021)", component_names=_numbered)
def eigengradcam(activations, gradients, *, component=1, components=None, center=True):
    """The first principal component of gradient times activation.

    ``M = PCA_1(g * A)``, centred as by its authors. The sign is that of the sum over channels of
    g * A (HiResCAM), so that positive means evidence for the target. A further component is part
    of the evidence for the same target, not another class.

    Options: ``component`` 1 for the first; ``components`` n gives the maps of components 1 to n
    instead, named by their number; ``center`` whether to subtract each channel's mean.

    Raises:
        ValueError: if there is no such component
    """
    product = gradients * activations
    return _principal(product, component, components, center, product.sum(1))


@_eigen(
    paper="Chung & Ying, Seg-Eigen-CAM, Applied Sciences 15(13), 2025",
    signed=False,
    aliases=("segeigencam",),
)
def seg_eigencam(activations, gradients, *, center=True):
    """The first principal component of the activations weighted by the gradient's size.

    ``M = PCA_1(|g| * A)`` (eq. 10), turned over where ``|min M| > |max M|`` (eq. 13), so that what
    stands out is positive. The sign of the gradient is lost: a place that speaks against the target
    stands out like one that speaks for it.

    Options: ``center`` whether to subtract each channel's mean.
    """
    product = gradients.abs() * activations
    found = principal_map(product, 1, center, product.sum(1))
    turned = -found.amin((1, 2), keepdim=True) > found.amax((1, 2), keepdim=True)
    return torch.where(turned, -found, found)


_KERNELS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": lambda x, gamma, coef0: (gamma * (x @ x.mT) + coef0).tanh(),
    "rbf": lambda x, gamma, coef0: (-gamma * torch.cdist(x, x).square()).exp(),
    "linear": lambda x, gamma, coef0: x @ x.mT,
}
_KERNEL_ENTRIES = 1 << 24  # of the kernel matrices decomposed at once


@_eigen(
    paper="Karmani et al., KPCA-CAM, arXiv 2410.00267",
    class_discriminative=False,
    cost="1F, and a decomposition of positions x positions",
    times=1.5,
)
def kpcacam(activations, *, kernel="sigmoid", gamma=None, coef0=1.0, center=True):
    """The activations' first kernel principal component; it has no class, as Eigen-CAM has none.

    ``M = sqrt(l_1) a_1`` with l_1 and a_1 the largest eigenvalue and its vector of the centred kernel
    matrix ``K_pq = tanh(gamma a_p . a_q + coef0)`` between positions p and q. The paper leaves the
    sign open; here it is the one that agrees with where the activations are strong. The time grows
    with the cube of the number of positions: meant for late layers.

    Options: ``kernel`` ``"sigmoid"``, ``"rbf"`` (``exp(-gamma |a_p - a_q|^2)``) or ``"linear"`` (PCA);
    ``gamma`` 1 / C by default; ``coef0`` of the sigmoid; ``center`` subtracts each channel's mean
    before the kernel, as its authors do (the kernel matrix is centred in any case).

    Raises:
        ValueError: if the kernel is unknown or ``gamma`` is not positive
    """
    if kernel not in _KERNELS:
        raise ValueError(f"kernel: {kernel!r} is unknown; choose from {', '.join(_KERNELS)}")
    if gamma is not None and not (isinstance(gamma, (int, float)) and gamma > 0):
        raise ValueError(f"gamma must be positive, or None for 1 / channels, got {gamma!r}")
    count, channels, height, width = activations.shape
    matrix = _wide(activations.flatten(2).mT)
    if center:
        matrix = matrix - matrix.mean(1, keepdim=True)
    at_once = max(1, _KERNEL_ENTRIES // (height * width) ** 2)
    parts = [
        _kernel_component(_KERNELS[kernel](part, gamma or 1 / channels, coef0))
        for part in matrix.split(at_once)
    ]
    found = oriented(torch.cat(parts), activations.abs().sum(1).flatten(1))
    return found.to(activations.dtype).reshape(count, height, width)


@_eigen(
    paper="Fuad et al., Features Understanding in 3D CNNs (FEM), IPTA 2020",
    class_discriminative=False,
    cost="1F",
    sums_channels=True,
)
def fem(activations, *, k=2.0):
    """Channels weighted by how much of them stands out; it has no class.

    ``w_k`` is the share of positions with ``A_k > mean + k std`` (population), ``M = sum_k w_k A_k``.

    Options: ``k`` how many standard deviations count as standing out.
    """
    mean = activations.mean((2, 3), keepdim=True)
    deviation = activations.std((2, 3), keepdim=True, unbiased=False)
    weights = (activations > mean + k * deviation).float().mean((2, 3))
    return channel_sum(weights, activations)


def _wide(values: Tensor) -> Tensor:
    """Double precision where there is one: products of large activations stay finite."""
    return values.double() if values.device.type != "mps" else values


def _kernel_component(kernel: Tensor) -> Tensor:
    """(B, hw) scores of the positions along the first component of a kernel matrix (B, hw, hw)."""
    centred = kernel - kernel.mean(1, keepdim=True) - kernel.mean(2, keepdim=True)
    centred = centred + kernel.mean((1, 2), keepdim=True)
    finite = centred.isfinite().all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], centred, 0))
    largest = values[:, -1].clamp_min(0)
    # Positions that are all alike leave nothing but rounding.
    size = kernel.abs().amax((1, 2)) * kernel.shape[-1]
    largest = torch.where(largest > 8 * torch.finfo(kernel.dtype).eps * size, largest, 0)
    found = vectors[..., -1] * largest.sqrt()[:, None]
    return torch.where(finite[:, None], found, torch.nan)


def _principal(
    features: Tensor, component: int, components: int | None, center: bool, reference: Tensor
) -> Tensor | Components:
    """One principal component, or the maps of the first few."""
    if components is None:
        return principal_map(features, component, center, reference)
    if component != 1:
        raise ValueError(
            f"component and components: give one of them, got {component!r} and {components!r}"
        )
    most = min(features.shape[1], features[0, 0].numel())
    if isinstance(components, bool) or not isinstance(components, int):
        raise ValueError(f"components must be a whole number, got {components!r}")
    if not 1 <= components <= most:
        raise ValueError(f"components must be between 1 and {most} at this layer, got {components}")
    numbers = range(1, components + 1)
    maps = [principal_map(features, number, center, reference) for number in numbers]
    return Components(torch.stack(maps, 1), [str(number) for number in numbers])
