"""Vision transformers with class scores: torchvision, timm, Hugging Face and everybody's own.

What they have in common is found in their structure (:mod:`.tokens`): patches, prefix tokens,
attention. Their default layer is the last block's output, or where that has no gradient (only the
class token is read) the norm before its attention.
"""

from __future__ import annotations

from torch import nn

from .base import ExplainableModel
from .tokens import token_structure

_TORCHVISION = {"VisionTransformer", "SwinTransformer"}


class TransformerClassifier(ExplainableModel):
    """A vision transformer that returns class scores."""

    family = "transformer classifier"
    # Plain Grad-CAM can be inverted on tokens; element-wise products are not averaged over them.
    default_method = "gradcam_elementwise"

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether patches of the image attend to each other in this network."""
        return _of_torchvision(module) or token_structure(module).transformer

    def named_default(self) -> str | None:
        """Returns the layer of torchvision's transformers; None for others, which are probed."""
        if not _of_torchvision(self.module):
            return None
        if hasattr(self.module, "encoder"):
            last = list(self.module.get_submodule("encoder.layers").named_children())[-1][0]
            return f"encoder.layers.{last}.ln_1"
        return "norm"


def _of_torchvision(module: nn.Module) -> bool:
    return any(
        c.__name__ in _TORCHVISION and c.__module__.startswith("torchvision.")
        for c in type(module).__mro__
    )
