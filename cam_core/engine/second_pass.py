"""Fresh passes through the network for methods that need more than the one forward and backward."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..capture.gradient_path import why_no_gradient
from ..capture.taps import Taps, gradients_of
from ..layers.layer import Layer
from ..targets.base import Target
from .forward_pass import ForwardPass


def gradient_pass(
    run: ForwardPass,
    target: Target,
    layer: Layer,
    images: Tensor,
    rows: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Taps one layer in a new forward and backward.

    Args:
        run: the forward that everything started from
        target: what is explained
        layer: the target layer
        images: (B, 3, H, W)
        rows (None): the B images of the batch these belong to; by default they are the batch

    Returns:
        (B, C, h, w) activations, (B, C, h, w) gradients, (B,) scores; float32

    Raises:
        ValueError: if the score has no gradient at the layer; the message says why
    """
    rows = range(run.images.shape[0]) if rows is None else rows
    with Taps([layer], early=run.model.module) as taps:
        outputs = run.call(images)
    tap = taps.outputs[layer.name]
    with torch.enable_grad():
        score = target.score(outputs, run.model.logits, rows)
    gradient = gradients_of(score, [tap], retain=False)[0] if score.requires_grad else None
    if gradient is None and layer.name not in getattr(run.model, "levels", ()):
        raise ValueError(
            f"targets: the score has no gradient at layer {layer.name!r}: "
            + why_no_gradient(
                run.model,
                images,
                layer,
                lambda found: target.score(found, run.model.logits, rows),
            )
        )
    grid = run.grids[layer.name]
    activations = grid.to_maps(tap.detach()).float()
    found = torch.zeros_like(activations) if gradient is None else grid.to_maps(gradient)
    return activations, found, score.detach().float()


def hessian_product(run: ForwardPass, target: Target, layer: Layer, vector: Tensor) -> Tensor:
    """The score's second derivative at a layer times a vector, by a double backward.

    Runs in the model's own precision. Zero where the gradient does not depend on the layer, as
    behind ReLUs and linear layers.

    Args:
        run: the forward that everything started from
        target: what is explained
        layer: the target layer
        vector: (N, C, h, w)

    Returns:
        (N, C, h, w) float32
    """
    with _twice_differentiable(), Taps([layer], early=run.model.module) as taps:
        outputs = run.exact_call(run.images)
    tap = taps.outputs[layer.name]
    grid = run.grids[layer.name]
    with torch.enable_grad(), torch.autocast(run.images.device.type, enabled=False):
        score = target.score(outputs, run.model.logits, range(run.images.shape[0]))
        if not score.requires_grad:
            return torch.zeros_like(vector)
        (gradient,) = torch.autograd.grad(score.sum(), tap, create_graph=True, allow_unused=True)
        if gradient is None or not gradient.requires_grad:
            return torch.zeros_like(vector)
        product = (grid.to_maps(gradient) * vector.to(gradient.dtype)).sum()
        (second,) = torch.autograd.grad(product, tap, allow_unused=True)
    return torch.zeros_like(vector) if second is None else grid.to_maps(second).float()


def _twice_differentiable() -> contextlib.AbstractContextManager:
    """The fused attention kernels have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH)
