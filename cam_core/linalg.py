"""Eigenvectors and non-negative factors of many small matrices at once, on their device."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny


def eigen(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Decomposes symmetric matrices, in double precision where float32 does not converge.

    It fails to on some matrices of very low rank, such as few weighted channels on many positions.

    Args:
        matrices: (N, P, P)

    Returns:
        (N, P) eigenvalues, ascending, and (N, P, P) eigenvectors in columns
    """
    try:
        values, vectors = torch.linalg.eigh(matrices)
    except torch.linalg.LinAlgError:
        values, vectors = torch.linalg.eigh(matrices.double())
    return values.to(matrices.dtype), vectors.to(matrices.dtype)


@torch.no_grad()
def factorise(matrix: Tensor, rank: int, iterations: int = 200) -> tuple[Tensor, Tensor]:
    """Factors non-negative matrices into non-negative factors: ``V = H W`` with least squared error.

    Started from the singular vectors (NNDSVD, Boutsidis & Gallopoulos 2008), so that nothing is
    random, and refined by hierarchical alternating least squares (Cichocki & Phan 2009): each
    column and row in turn is set to its exact optimum. It minimises what Lee & Seung's
    multiplicative updates minimise and gets there in far fewer rounds. Every matrix gets the same
    number of rounds, so that no result depends on what else is in the batch.

    Args:
        matrix: (B, P, C) non-negative, finite
        rank: the number of factors J, at most min(P, C)
        iterations (200): rounds

    Returns:
        H (B, P, J) and W (B, J, C) whose rows have length 1, ordered by their share of the energy;
        a factor that carries nothing beyond rounding is zero
    """
    # A scale free of overflow and underflow, put back at the end.
    scale = matrix.amax((1, 2), keepdim=True).clamp_min(_TINY)
    values = matrix / scale
    left, right = _start(values, rank)
    for _ in range(iterations):
        right = _updated(right.mT, left.mT @ left, values.mT @ left).mT
        left = _updated(left, right @ right.mT, values @ right.mT)
    length = right.norm(dim=2, keepdim=True)
    right = right / length.clamp_min(_TINY)
    left = left * length.mT
    energy = left.square().sum(1)  # (B, J), as the rows of W have length 1
    energy = torch.where(energy > 1e-10 * values.square().sum((1, 2))[:, None], energy, 0)
    order = energy.argsort(dim=1, descending=True, stable=True)
    kept = (energy.gather(1, order) > 0).to(matrix.dtype)
    left = left.gather(2, order[:, None].expand_as(left)) * kept[:, None] * scale
    right = right.gather(1, order[..., None].expand_as(right)) * kept[..., None]
    return left, right


def _updated(factor: Tensor, gram: Tensor, target: Tensor) -> Tensor:
    """Sets each column of a factor (B, P, J) to its optimum, given the others."""
    factor = factor.clone()
    for j in range(factor.shape[2]):
        weight = gram[:, j, j, None]
        wanted = target[..., j] - (factor @ gram[:, :, j, None])[..., 0]
        better = (factor[..., j] + wanted / weight.clamp_min(_TINY)).relu()
        factor[..., j] = torch.where(weight > 0, better, factor[..., j])
    return factor


def _start(values: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The positive or the negative part of each pair of singular vectors, whichever is larger."""
    positions, channels = values.shape[1:]
    small = values @ values.mT if positions <= channels else values.mT @ values
    squares, vectors = eigen(small)
    squares = squares[:, -rank:].flip(1).clamp_min(0)
    vectors = vectors[..., -rank:].flip(2)
    singular = squares.sqrt()[:, None]
    # The other side's vectors; those of a zero singular value are zero.
    inverse = torch.where(squares > 1e-12 * squares[:, :1], singular[:, 0].reciprocal(), 0)[:, None]
    other = (values.mT if positions <= channels else values) @ vectors * inverse
    u, v = (vectors, other) if positions <= channels else (other, vectors)
    parts = [(u.relu(), v.relu()), ((-u).relu(), (-v).relu())]
    sizes = [a.norm(dim=1, keepdim=True) * b.norm(dim=1, keepdim=True) for a, b in parts]
    first = sizes[0] >= sizes[1]
    amount = (singular * torch.maximum(*sizes)).sqrt()
    left, right = (torch.where(first, a, b) for a, b in zip(*parts, strict=True))
    left = left / left.norm(dim=1, keepdim=True).clamp_min(_TINY) * amount
    right = right / right.norm(dim=1, keepdim=True).clamp_min(_TINY) * amount
    return left, right.mT
