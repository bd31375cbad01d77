"""Adapters: one file per model family turns a module into an :class:`ExplainableModel`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..capture import exclusive, unchanged
from ..layers import LayerInfo
from .base import ExplainableModel
from .cnn import CnnClassifier
from .transformer import TransformerClassifier

# The first that matches adapts; the last takes any module.
FAMILIES: list[type[ExplainableModel]] = [TransformerClassifier, CnnClassifier]

__all__ = ["FAMILIES", "ExplainableModel", "adapt", "list_layers"]


def adapt(model: Any) -> ExplainableModel:
    """Returns the explainable form of a model.

    Args:
        model: a module, or anything with the attributes of :class:`ExplainableModel`

    Raises:
        TypeError: if it is neither
    """
    if not isinstance(model, nn.Module):
        needed = ("module", "forward", "logits", "candidates", "default_layers", "grid")
        if all(hasattr(model, name) for name in needed):
            return model
        raise TypeError(
            f"model must be a torch.nn.Module or an ExplainableModel, got {type(model).__name__}"
        )
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    return next(family for family in FAMILIES if family.matches(model))(model)


def list_layers(model: Any, images: Tensor | None = None) -> list[LayerInfo]:
    """Lists the layers of a model that can be explained, in the order they are computed.

    Args:
        model: a module or an :class:`ExplainableModel`
        images (None): (N, 3, H, W) a batch; by default one random image of 224 x 224 pixels

    Returns:
        a list of :class:`cam_core.LayerInfo`: name, type, channels, grid, whether it is the default
    """
    model = adapt(model)
    if images is None:
        like = next(model.module.parameters())
        images = torch.rand(1, 3, 224, 224, device=like.device, dtype=like.dtype)
    with exclusive(model.module), torch.inference_mode(False), unchanged(model.module):
        return model.list_layers(images)
