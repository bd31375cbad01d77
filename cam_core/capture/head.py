"""The linear head after global average pooling, where a network has one.

Found by its numbers, not by its names: the input of the last linear layer equals the mean over
positions of the target layer's output, possibly after one activation function.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Head:
    """``score = bias + sum_k weights_k mean_ij features_k``, exactly.

    Attributes:
        weights: (N, C) the target class's row of the linear layer, for each image
        features: (N, C, h, w) what is pooled: the activations, or an activation function of them
    """

    weights: Tensor
    features: Tensor


@contextlib.contextmanager
def watch_linear_layers(module: nn.Module) -> Iterator[list[tuple[nn.Linear, Tensor, Tensor]]]:
    """Records ``(layer, input, output)`` of every linear layer that sees one vector per image."""
    seen: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def record(layer, args, output):
        if args and isinstance(args[0], Tensor) and args[0].dim() == 2:
            seen.append((layer, args[0].detach(), output.detach()))

    handles = [
        m.register_forward_hook(record) for m in module.modules() if isinstance(m, nn.Linear)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


# What networks put between their last layer and the pooling. Each maps 0 to 0, so that a channel
# set to zero is a feature set to zero.
_BETWEEN: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    F.relu,
    F.relu6,
    F.silu,
    F.hardswish,
    F.gelu,
)


def find_head(
    seen: list[tuple[nn.Linear, Tensor, Tensor]],
    logits: Tensor,
    activations: Tensor,
    indices: Tensor,
) -> Head | None:
    """Finds the head behind a target layer.

    Args:
        seen: what :func:`watch_linear_layers` recorded
        logits: (N, classes) the model's class scores
        activations: (N, C, h, w) of the target layer
        indices: (N,) explained classes

    Returns:
        a :class:`Head`, or None if pooling and one linear layer are not what follows
    """
    for layer, pooled, output in reversed(seen):
        if output.shape != logits.shape or pooled.shape != activations.shape[:2]:
            continue
        # An image that is not finite says nothing about the others.
        finite = logits.detach().isfinite().all(1) & pooled.isfinite().all(1)
        if not torch.equal(output[finite].float(), logits[finite].detach().float()):
            continue
        features = _before_pooling(activations, pooled.float(), finite)
        if features is not None:
            rows = layer.weight.detach().float()[indices.clamp_min(0).to(layer.weight.device)]
            return Head(rows, features)
    return None


def _before_pooling(activations: Tensor, pooled: Tensor, finite: Tensor) -> Tensor | None:
    """The activations under the function whose mean is what was pooled; None if there is none."""
    # The first that fits to rounding, else the one that fits best: ReLU and ReLU6 differ in a few
    # positions only, and small inputs look alike to SiLU and Hardswish.
    pooled = pooled[finite]
    size = pooled.norm()
    if not bool(size > 0):
        return None
    best, least = None, _TOLERANCE
    for function in _BETWEEN:
        features = function(activations)
        error = float((features[finite].mean((2, 3)) - pooled).norm() / size)
        if error <= _ROUNDING:
            return features
        if error < least:
            best, least = features, error
    return best


# Float32 pools to 1e-6; half precision with 8 to 11 bits.
_ROUNDING, _TOLERANCE = 1e-5, 1e-2
