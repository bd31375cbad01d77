"""Zero-shot classifiers: CLIP, SigLIP and open_clip; a class is a text that was encoded once.

Radford et al., Learning transferable visual models from natural language supervision, ICML 2021;
Zhai et al., Sigmoid loss for language image pre-training, ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .embedding import EmbeddingModel, pooled_embedding
from .outputs import OutputPath


class ZeroShotClassifier(EmbeddingModel):
    """An image tower and encoded texts: class scores are scaled cosine similarities.

    ``logits[n, k] = scale * cos(image_n, text_k) + bias``, as the networks themselves compute them.

    Args:
        module: the network; it is hooked into, and only its image tower is run
        text_features (None): (K, D) encoded texts, one per class, or (K, T, D): T prompts per class,
            whose mean is taken. None makes it a network of embeddings
        encode_image (None): images -> (N, D) features; found for CLIP and SigLIP of transformers,
            and for open_clip and the original CLIP
        scale (None): by default the exponential of the network's ``logit_scale``, or 1
        bias (None): by default the network's ``logit_bias``, or 0
        **options: of :class:`cam_core.ExplainableModel`

    Raises:
        ValueError: if the text features have another shape, or no image tower is found
    """

    family = "zero-shot classifier"

    def __init__(
        self,
        module: nn.Module,
        text_features: Tensor | None = None,
        encode_image: Callable[[Tensor], Any] | None = None,
        scale: float | None = None,
        bias: float | None = None,
        **options: Any,
    ):
        super().__init__(module, **options)
        self.encode_image = encode_image or _image_tower(module)
        self.text_features = None if text_features is None else _unit_texts(text_features)
        learned = getattr(module, "logit_scale", None)
        self.scale = scale if scale is not None else 1 if learned is None else learned.exp()
        learned = getattr(module, "logit_bias", None)
        self.bias = bias if bias is not None else 0 if learned is None else learned
        if self.structure.transformer:
            self.default_method = "gradcam_elementwise"

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether a module encodes images and texts, as CLIP does."""
        return hasattr(module, "logit_scale") and any(hasattr(module, name) for name in _TOWERS)

    def forward(self, images: Tensor) -> Tensor:
        """Encodes a batch (N, 3, H, W).

        Returns:
            (N, D) features, not normalised
        """
        return pooled_embedding(self.encode_image(images), self.output)

    def embedding(self, outputs: Any) -> Tensor:
        """Returns the (N, D) features."""
        return outputs

    def logits(self, outputs: Any) -> Tensor:
        """Returns the (N, K) scaled similarities of images and texts.

        Args:
            outputs: (N, D) features

        Raises:
            ValueError: if no texts were given, or texts of another network
        """
        if self.text_features is None:
            raise ValueError(
                f"{type(self.module).__name__} has no classes without texts; encode them once and pass "
                "adapt(model, text_features=encode_texts(model, tokens)), or targets=similarity_target(embedding)"
            )
        if outputs.shape[1] != self.text_features.shape[1]:
            raise ValueError(
                f"text_features have {self.text_features.shape[1]} components, the image features "
                f"{outputs.shape[1]}; encode the texts with the same network"
            )
        texts = self.text_features.to(outputs)
        return self.scale * F.normalize(outputs, dim=1) @ texts.T + self.bias


#: methods of a network that encode images; the first takes ``pixel_values`` (transformers)
_TOWERS = ("get_image_features", "encode_image")


def _image_tower(module: nn.Module) -> Callable[[Tensor], Any]:
    if hasattr(module, _TOWERS[0]):
        return lambda images: module.get_image_features(pixel_values=images)  # type: ignore[operator]
    if hasattr(module, _TOWERS[1]):
        return module.encode_image  # type: ignore[return-value]
    raise ValueError(
        f"encode_image: {type(module).__name__} has neither get_image_features nor encode_image; pass "
        "encode_image=a callable that maps images (N, 3, H, W) to features (N, D)"
    )


def _unit_texts(features: Any) -> Tensor:
    if not isinstance(features, Tensor) or features.dim() not in (2, 3) or features.numel() == 0:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"text_features must be a tensor of shape (K, D) or (K, T, D), got {got}; "
            "encode_texts(model, tokens) makes one"
        )
    features = F.normalize(features.detach().clone(), dim=-1)
    return F.normalize(features.mean(1), dim=1) if features.dim() == 3 else features


def encode_texts(module: nn.Module, tokens: Tensor | Mapping, output: OutputPath = None) -> Tensor:
    """Encodes texts with a network's text tower, without a graph.

    Args:
        module: CLIP or SigLIP of transformers, or open_clip's or the original CLIP
        tokens: what the network's tokeniser returned: (K, L) token ids, or a mapping with
            ``input_ids``
        output (None): where the features are in what the tower returns, if they are not found

    Returns:
        (K, D) features of length 1

    Raises:
        ValueError: if the network has no text tower
    """
    with torch.no_grad():
        if hasattr(module, "get_text_features"):
            inputs = dict(tokens) if isinstance(tokens, Mapping) else {"input_ids": tokens}
            features = module.get_text_features(**inputs)  # type: ignore[operator]
        elif hasattr(module, "encode_text"):
            ids = tokens["input_ids"] if isinstance(tokens, Mapping) else tokens
            features = module.encode_text(ids)  # type: ignore[operator]
        else:
            raise ValueError(
                f"{type(module).__name__} has neither get_text_features nor encode_text; encode the texts "
                "yourself and pass text_features="
            )
        return F.normalize(pooled_embedding(features, output), dim=1)
