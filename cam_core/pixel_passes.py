"""Passes down to the pixels: gradients at the input, under changed rules, and of every bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from .targets import Target

if TYPE_CHECKING:
    from .ingredients import Pass


def input_gradient(
    run: Pass, target: Target, images: Tensor, rows: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Differentiates the score with respect to images.

    Args:
        run: the forward that everything started from
        target: what is explained
        images: (B, 3, H, W)
        rows (None): the B images of the batch these belong to; by default they are the batch

    Returns:
        (B, 3, H, W) gradients and (B,) scores; float32
    """
    raise NotImplementedError


def guided_gradient(
    run: Pass, target: Target, images: Tensor, rows: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


def full_gradient(run: Pass, target: Target) -> tuple[Tensor, list[Tensor]]:
    raise NotImplementedError
