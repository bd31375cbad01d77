"""A network whose evidence is known pixel by pixel, and images for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KnownEvidence(nn.Module):
    """One logit: contrast inside a mask speaks for class 1, contrast outside mildly against it.

    The contrast is that with a checkerboard, which neither a plain colour nor a blurred picture nor
    the mean of neighbours has: every way of removing pixels removes evidence.

    Args:
        mask: (H, W) where the evidence is
        strength: (H, W) positive weights of the pixels
    """

    def __init__(self, mask: Tensor, strength: Tensor):
        super().__init__()
        height, width = mask.shape
        board = 1.0 - 2.0 * ((torch.arange(height)[:, None] + torch.arange(width)) % 2)
        self.register_buffer("board", board)
        inside = mask * strength
        outside = (1 - mask) / (1 - mask).sum()
        self.weights = nn.Parameter(board * (6 * inside / inside.sum() - 2 * outside))

    def forward(self, images: Tensor) -> Tensor:
        return (images.mean(1) * self.weights).sum((1, 2))[:, None]

    def contributions(self, images: Tensor) -> Tensor:
        """(N, H, W) what each pixel adds to the logit, where it is for the class."""
        return (images.mean(1) * self.weights.detach()).relu()


def known_evidence(seed: int, count: int = 3, side: int = 32) -> tuple[KnownEvidence, Tensor]:
    """A network and (count, 3, side, side) images in which it finds its evidence."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    mask = torch.zeros(side, side)
    top, left = (int(k) for k in torch.randint(2, side // 2 - 2, (2,), generator=generator))
    mask[top : top + side // 2, left : left + side // 2] = 1
    net = KnownEvidence(mask, 0.85 + 0.3 * draw(side, side)).eval()
    contrast = 0.9 + 0.2 * draw(count, 1, side, side)
    colour = 0.5 * (draw(count, 3, 1, 1) - 0.5)
    return net, (net.board * contrast + colour).expand(count, 3, side, side).contiguous()


def perfect_maps(net: KnownEvidence, images: Tensor) -> Tensor:
    """(N, H, W) the evidence itself, in [0, 1]."""
    evidence = net.contributions(images)
    return evidence / evidence.amax((-2, -1), keepdim=True)
