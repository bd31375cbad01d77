"""What a module's type says for certain about the dimensions of what it returns."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..layers.grid import Grid

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._LPPoolNd,
    nn.Upsample,
    nn.PixelShuffle,
    nn.Dropout2d,
)


def is_channels_first(module: nn.Module | None) -> bool:
    """Whether a module returns (N, C, h, w) or (N, C, L), whatever the sizes look like.

    Args:
        module: the module, or None where there is none
    """
    return isinstance(module, _CHANNELS_FIRST)


def is_recurrent(module: nn.Module | None) -> bool:
    """Whether a module returns the steps of a sequence, which are no places.

    Args:
        module: the module, or None where there is none
    """
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase))


def certain_grid(module: nn.Module | None, shape: Sequence[int]) -> Grid | None:
    """Returns the grid of an output as its module's type says it, or None if that says nothing.

    Args:
        module: the module that returned it
        shape: of the output
    """
    if not is_channels_first(module):
        return None
    if len(shape) == 4 and shape[2] * shape[3] > 1:
        return Grid("NCHW", shape[2], shape[3])
    if len(shape) == 3 and shape[2] > 1:
        return Grid("NCL", 1, shape[2])
    return None
