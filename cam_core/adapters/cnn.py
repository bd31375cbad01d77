"""Convolutional classifiers: torchvision's families by name, any other network by a probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..layers.find import is_passive
from .base import ExplainableModel


def _before_pooling(name: str) -> Callable[[nn.Module], str]:
    """The last layer of a Sequential that is not its pooling: the grid is twice as fine there."""

    def find(module: nn.Module) -> str:
        children = list(module.get_submodule(name).named_children())
        return f"{name}." + next(n for n, child in reversed(children) if not is_passive(child))

    return find


# Class name of the network -> its last spatial layer; a callable where it depends on the variant.
# DenseNet's last layer is `features` before the functional ReLU that follows it.
_LAST_SPATIAL: dict[str, str | Callable[[Any], str]] = {
    "AlexNet": _before_pooling("features"),
    "ConvNeXt": "features",
    "DenseNet": "features",
    "EfficientNet": "features",
    "GoogLeNet": "inception5b",
    "Inception3": "Mixed_7c",
    "MNASNet": "layers",
    "MaxVit": lambda m: f"blocks.{len(m.blocks) - 1}",
    "MobileNetV2": "features",
    "MobileNetV3": "features",
    "RegNet": "trunk_output",
    "ResNet": "layer4",
    "ShuffleNetV2": "conv5",
    "SqueezeNet": "features",
    "VGG": _before_pooling("features"),
}


class CnnClassifier(ExplainableModel):
    """A network of convolutions that returns class scores."""

    family = "CNN classifier"

    def named_default(self) -> str | None:
        """Returns the family's last spatial layer; None for a network that is not known."""
        for cls in type(self.module).__mro__:
            name = _LAST_SPATIAL.get(cls.__name__)
            if name is None or not cls.__module__.startswith("torchvision."):
                continue
            found = name if isinstance(name, str) else name(self.module)
            if found in dict(self.module.named_modules()):
                return found
        return None
