"""Baselines that a method has to beat."""

from __future__ import annotations

import torch

from .channels import channel_sum
from .registry import cam_method


@cam_method(
    paper="RandomCAM of pytorch-grad-cam: a sanity baseline",
    family="baseline",
    sums_channels=True,
    class_discriminative=False,
    cost="1F",
    register=True,
)
def randomcam(activations, rng):
    """Channels weighted at random: what a map shows without knowing the class.

    ``w_k`` uniform in [-1, 1], seeded, the same for every image, so that a map does not depend on
    the batch it was computed in.
    """
    channels = activations.shape[1]
    weights = torch.rand(channels, generator=rng, device=activations.device) * 2 - 1
    return channel_sum(weights, activations)
