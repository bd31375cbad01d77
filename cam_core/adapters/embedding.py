"""Networks without a head: an image becomes a vector, and a target is a direction in its space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.layer import describe, entries_of
from .base import ExplainableModel
from .outputs import OutputPath, take


class EmbeddingModel(ExplainableModel):
    """A backbone without class scores, such as DINOv2 or a network cut off before its head.

    Explain it with :func:`similarity_target` or :func:`component_target`.
    """

    family = "embedding network"
    plain_scores = False

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this is a network without a head, of timm, torch hub's DINO or transformers."""
        if getattr(module, "num_classes", None) == 0:  # timm
            return True
        kind = type(module)
        if kind.__name__ == "DinoVisionTransformer":
            return isinstance(getattr(module, "head", None), nn.Identity)
        headless = kind.__name__.endswith(("Model", "Backbone"))
        return headless and kind.__module__.startswith("transformers.")

    def embedding(self, outputs: Any) -> Tensor:
        """Returns the (N, D) embeddings in the model's outputs.

        Args:
            outputs: what the model returned
        """
        return pooled_embedding(outputs, self.output)

    def logits(self, outputs: Any) -> Tensor:
        """Raises: there are no class scores.

        Args:
            outputs: what the model returned

        Raises:
            ValueError: always; the message says what can be explained instead
        """
        raise ValueError(
            f"{type(self.module).__name__} returns embeddings ({describe(outputs)}), not class scores: it "
            "predicts no class; pass targets=similarity_target(embedding) or component_target(direction)"
        )

    def probe_score(self, outputs: Any) -> Tensor:
        """Returns (N,) the embedding's component in a fixed direction.

        Args:
            outputs: what the model returned
        """
        embedding = self.embedding(outputs)
        # Not its length: after a layer norm that is the same for every image.
        steps = torch.arange(embedding.shape[1], device=embedding.device)
        return embedding @ steps.add(1).cos().to(embedding.dtype)


def pooled_embedding(outputs: Any, output: OutputPath = None) -> Tensor:
    """Finds one vector per image in a backbone's outputs.

    Args:
        outputs: what the model returned: (N, D), tokens (N, L, D), maps (N, D, h, w), or a container
            with one of the entries ``image_embeds``, ``pooler_output``, ``x_norm_clstoken`` and
            ``last_hidden_state``
        output (None): where the embedding is, if it is not found

    Returns:
        (N, D): of tokens the first, which is the class token; of maps the mean over positions

    Raises:
        ValueError: if there is none; the message says what came out instead
    """
    value = outputs if output is None else take(outputs, output)
    if not isinstance(value, Tensor):
        entries = dict(entries_of(value))
        named = [entries.get(name) for name in _NAMES]
        single = list(entries.values()) if not isinstance(value, Mapping) else []
        value = next((v for v in [*named, *single[:1]] if isinstance(v, Tensor)), value)
    if isinstance(value, Tensor) and value.dim() == 4:
        return value.mean((2, 3))
    if isinstance(value, Tensor) and value.dim() == 3:
        return value[:, 0]
    if isinstance(value, Tensor) and value.dim() == 2:
        return value
    raise ValueError(
        f"the model returned {describe(outputs)}, in which no embedding of shape (N, D) was found; "
        "pass output=a key, an index or a callable that says where it is"
    )


_NAMES = ("image_embeds", "pooler_output", "x_norm_clstoken", "last_hidden_state")


def similarity_target(embedding: Tensor, output: OutputPath = None) -> Callable[[Any], Tensor]:
    """A target: how similar an image's embedding is to a given one ("similar to this image").

    Args:
        embedding: (D,) or (1, D), for example another image's
        output (None): where the embedding is in the model's outputs, if it is not found

    Returns:
        a callable outputs -> (N,) cosine similarities in [-1, 1], for ``explain(targets=...)``

    Raises:
        ValueError: if the embedding is no vector or zero
    """
    direction = _vector("embedding", embedding)

    def similarity(outputs: Any) -> Tensor:
        found = _of_length(pooled_embedding(outputs, output), direction, "embedding")
        return F.cosine_similarity(found, direction.to(found)[None], dim=1)

    return similarity


def component_target(
    direction: Tensor, mean: Tensor | None = None, output: OutputPath = None
) -> Callable[[Any], Tensor]:
    """A target: an image's coordinate along a direction, such as a principal component.

    Args:
        direction: (D,) of any length; it is normalised
        mean (None): (D,) the origin, for example the data set's mean embedding; 0 by default
        output (None): where the embedding is in the model's outputs, if it is not found

    Returns:
        a callable outputs -> (N,) coordinates, for ``explain(targets=...)``

    Raises:
        ValueError: if the direction is no vector or zero, or the mean has another length
    """
    unit = _vector("direction", direction)
    unit = unit / unit.norm()
    if mean is not None and mean.numel() != unit.numel():
        raise ValueError(
            f"mean has {mean.numel()} components, the direction {unit.numel()}; give one of its length"
        )
    origin = torch.zeros_like(unit) if mean is None else mean.detach().flatten()

    def component(outputs: Any) -> Tensor:
        found = _of_length(pooled_embedding(outputs, output), unit, "direction")
        return (found - origin.to(found)) @ unit.to(found)

    return component


def _vector(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != value.shape[-1:].numel():
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a tensor of shape (D,), got {got}")
    vector = value.detach().flatten().float()
    if not bool(vector.isfinite().all()) or not bool(vector.any()):
        raise ValueError(f"{name} must be finite and not zero everywhere")
    return vector


def _of_length(found: Tensor, vector: Tensor, name: str) -> Tensor:
    if found.shape[1] != vector.numel():
        raise ValueError(
            f"targets: the model's embedding has {found.shape[1]} components, the {name} has "
            f"{vector.numel()}; they must come from the same model"
        )
    return found
