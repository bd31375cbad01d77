"""Decompositions of symmetric matrices."""

from __future__ import annotations

import torch
from torch import Tensor


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
