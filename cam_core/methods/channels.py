"""From channels to one map: their weighted sum, or their principal component."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import torch
from torch import Tensor

from ..linalg import eigen

_EIGEN: contextvars.ContextVar[list[bool] | None] = contextvars.ContextVar("eigen", default=None)


def channel_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Adds up the channels of a layer, each with its weights: ``M = sum_k w_k A_k``.

    Methods that end in such a sum call this, so that ``smooth="eigen"`` can put the first principal
    component in its place.

    Args:
        weights: (C,), (N, C) or (N, C, h, w)
        activations: (N, C, h, w)

    Returns:
        (N, h, w)
    """
    used = _EIGEN.get()
    if used is None and weights.dim() == 2:
        return torch.einsum("nc,nchw->nhw", weights, activations)
    full = weights if weights.dim() == 4 else weights.reshape(-1, activations.shape[1], 1, 1)
    products = full * activations
    if used is None:
        return products.sum(1)
    used.append(True)
    return principal_map(products, 1, True, products.sum(1))


@contextlib.contextmanager
def eigen_smoothing(method: str) -> Iterator[None]:
    """Inside, :func:`channel_sum` returns the first principal component of the weighted channels.

    Args:
        method: for the message

    Raises:
        ValueError: if nothing inside adds up channels
    """
    used: list[bool] = []
    token = _EIGEN.set(used)
    try:
        yield
    finally:
        _EIGEN.reset(token)
    if not used:
        raise ValueError(
            f"methods: smoothing 'eigen' does not apply to {method!r}, which adds up no channels "
            "(a method of your own does so through cam_core.methods.channels.channel_sum)"
        )


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
        values, vectors = eigen(safe @ safe.transpose(1, 2))
        projected = vectors[..., -component] * values[..., -component].clamp_min(0).sqrt()[:, None]
    else:
        _, vectors = eigen(safe.transpose(1, 2) @ safe)
        projected = (safe @ vectors[..., -component, None])[..., 0]
    projected = oriented(projected, reference.flatten(1)) * scale[..., 0]
    projected = torch.where(finite[:, None], projected, torch.nan)
    return projected.reshape(count, height, width)


def oriented(vectors: Tensor, reference: Tensor) -> Tensor:
    """Fixes the arbitrary sign of eigenvectors.

    Along the reference; where a vector is orthogonal to it, the largest entry is made positive.

    Args:
        vectors: (N, P)
        reference: (N, P)

    Returns:
        (N, P) the vectors, each times 1 or -1
    """
    along = (vectors * reference).sum(1)
    noise = 1e-5 * vectors.norm(dim=1) * reference.norm(dim=1)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))[:, 0]
    sign = torch.where(along.abs() > noise, along, largest).sign()
    return vectors * torch.where(sign == 0, 1, sign)[:, None]
