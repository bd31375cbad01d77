"""What every adapter offers to the engine."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import Grid, LayerInfo, describe, infer_grid, is_passive, observe


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A layer that could be explained, in order of completion."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    grid: Grid


# Default layers found by probing, per module and image size: a probe costs a forward and a backward.
_PROBED: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()


class ExplainableModel:
    """A model seen as: images in, one score per image out, target layers with a grid in between.

    Subclasses override what differs in their family.

    Args:
        module: the model
    """

    #: what a person would call the family, for tables and messages
    family = "network"
    #: the method that is right for this family unless the user chooses
    default_method = "gradcam"

    def __init__(self, module: nn.Module):
        self.module = module

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this adapter understands the module."""
        return True

    def forward(self, images: Tensor) -> Any:
        """Runs the model on a batch (N, 3, H, W)."""
        return self.module(images)

    def logits(self, outputs: Any) -> Tensor:
        """Returns the (N, classes) scores before softmax in the model's outputs.

        Args:
            outputs: what the model returned

        Raises:
            ValueError: if there are none; the message says what came out instead
        """
        value = outputs
        if isinstance(outputs, Mapping) and "logits" in outputs:
            value = outputs["logits"]
        elif hasattr(outputs, "logits"):
            value = outputs.logits
        if not isinstance(value, Tensor) or value.dim() != 2:
            raise ValueError(
                f"the model returned {describe(value)}, not class scores of shape (N, classes); "
                "pass targets=a callable that maps the outputs to one score per image"
            )
        return value

    def candidates(self, outputs: Any) -> Tensor:
        """Returns (N, classes): what "predicted" and "top_k" are read from."""
        return self.logits(outputs)

    def token_grid(self, image_size: tuple[int, int]) -> tuple[int, int] | None:
        """Returns (rows, columns) of the patch embedding, or None if the model has no tokens."""
        return None

    def grid(self, name: str, shape: tuple[int, ...], image_size: tuple[int, int]) -> Grid:
        """Returns how the output of a layer lies on the image.

        Args:
            name: the layer
            shape: of its output
            image_size: (height, width) of the model's input

        Raises:
            ValueError: if the layer has no spatial grid
        """
        grid = infer_grid(shape, image_size, self.token_grid(image_size))
        if grid is None:
            raise ValueError(
                f"layer {name!r} has no spatial grid: its output has shape {tuple(shape)}; "
                "list_layers(model) shows the layers that have one"
            )
        return grid

    def named_default(self) -> str | None:
        """Returns the family's default layer by name, or None to have it probed."""
        return None

    def default_layers(self, images: Tensor) -> list[str]:
        """Returns the names of the layers explained unless the user names some.

        Args:
            images: (N, 3, H, W), used only where the layer has to be probed for
        """
        name = self.named_default()
        if name is not None:
            return [name]
        known = _PROBED.setdefault(self.module, {})
        key = tuple(images.shape[-2:])
        if key not in known:
            known[key] = self._probe(images[:2])
        return [known[key]]

    def layer_candidates(self, images: Tensor) -> list[Candidate]:
        """Lists the layers with a spatial grid, in order of completion."""
        size = (images.shape[-2], images.shape[-1])
        with torch.no_grad():
            seen = observe(self.module, lambda: self.forward(images))
        rows = []
        for name, module, shape in seen:
            grid = infer_grid(shape, size, self.token_grid(size))
            if grid is not None and not is_passive(module):
                rows.append(Candidate(name, module, shape, grid))
        return rows

    def _probe(self, images: Tensor) -> str:
        """The last layer with a spatial grid whose positions have a non-zero gradient."""
        from .probe import last_layer_with_gradient

        return last_layer_with_gradient(self, images)

    def list_layers(self, images: Tensor) -> list[LayerInfo]:
        """Lists the layers that can be explained.

        Args:
            images: (N, 3, H, W) a batch of the size the model is used with
        """
        try:
            default = self.default_layers(images)
        except ValueError:
            default = []  # none is known: what this list is then asked for
        return [
            LayerInfo(
                name=c.name,
                type=type(c.module).__name__,
                channels=c.shape[1] if c.grid.layout == "NCHW" else c.shape[-1],
                grid=(c.grid.height, c.grid.width),
                default=c.name in default,
            )
            for c in self.layer_candidates(images)
        ]
