"""Methods that change the activations and run the tail again."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .channels import channel_sum
from .registry import cam_method

_perturbation = functools.partial(cam_method, family="perturbation", register=True)


@_perturbation(
    paper="Desai & Ramaswamy, Ablation-CAM, WACV 2020", cost="1F+C T (1F before a linear head)"
)
def ablationcam(activations, score, head, tail, *, batch_size=64):
    """Channels weighted by the score that is lost without them.

    ``w_k = (y - y_k) / |y|`` with ``y_k`` the score after ``A_k`` is set to zero, ``M = sum_k w_k
    A_k``. The paper divides by y; |y| is the same for y > 0 and keeps a loss a loss for y < 0. Before
    global average pooling and one linear layer the weights are a closed form, ``W[c, k] mean(A_k) /
    |y|``; elsewhere the tail is replayed for each channel that is not silent.

    Options: ``batch_size`` how many ablations run through the tail at once.
    """
    if head is not None:
        lost = head.weights * head.features.mean((2, 3))
    else:
        lost = torch.stack([_losses(a, tail, row, batch_size) for row, a in enumerate(activations)])
    size = score.abs()
    weights = lost / torch.where(size > 0, size, 1)[:, None]
    return channel_sum(weights, activations)


def _losses(activations: Tensor, tail: Callable[..., Tensor], row: int, batch_size: int) -> Tensor:
    """(C,) the score lost by ablating each channel of one image; silent channels lose nothing."""
    lost = activations.new_zeros(activations.shape[0])
    live = activations.flatten(1).any(1).nonzero()[:, 0]
    if not len(live):
        return lost
    for channels in live.split(max(1, batch_size - 1)):
        # The first row is not ablated: the loss is a small difference, and kernels round differently
        # for other batch sizes.
        batch = activations.expand(len(channels) + 1, *activations.shape).clone()
        batch[torch.arange(1, len(channels) + 1, device=batch.device), channels] = 0
        scores = tail(batch, [row] * len(batch))
        lost[channels] = scores[0] - scores[1:]
    return lost
