"""Vision transformers of torchvision: token grids with a class token, and Swin's channels-last maps."""

from __future__ import annotations

from torch import nn

from .base import ExplainableModel

_NAMES = {"VisionTransformer", "SwinTransformer"}


class TransformerClassifier(ExplainableModel):
    """A vision transformer that returns class scores."""

    family = "transformer classifier"
    # Plain Grad-CAM can be inverted on tokens; element-wise products are not averaged over them.
    default_method = "gradcam_elementwise"

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this is one of torchvision's transformers, or a subclass."""
        return any(
            c.__name__ in _NAMES and c.__module__.startswith("torchvision.")
            for c in type(module).__mro__
        )

    def token_grid(self, image_size: tuple[int, int]) -> tuple[int, int] | None:
        """Returns (rows, columns) of the patch embedding, None for Swin."""
        patch = getattr(self.module, "patch_size", None)
        if not isinstance(patch, int):
            return None
        return image_size[0] // patch, image_size[1] // patch

    def named_default(self) -> str | None:
        """Returns the last norm before attention: after it the patch tokens carry no gradient."""
        if hasattr(self.module, "encoder"):
            last = list(self.module.get_submodule("encoder.layers").named_children())[-1][0]
            return f"encoder.layers.{last}.ln_1"
        return "norm"
