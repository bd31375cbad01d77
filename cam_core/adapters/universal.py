"""Mask-classification networks: queries that each have a class and a mask, for any segmentation task.

Cheng et al., Masked-attention Mask Transformer for universal image segmentation, CVPR 2022;
Jain et al., OneFormer: one transformer to rule universal image segmentation, CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..layers.layer import describe, entries_of
from .base import Candidate
from .segmentation import SegmentationModel


class UniversalSegmentationModel(SegmentationModel):
    """A network of transformers that returns (N, Q, C + 1) class logits and (N, Q, h, w) masks.

    A pixel's score of a class is what the network's own semantic segmentation takes the maximum of:
    the sum over the queries of the class's probability times the mask's.

    Args:
        module: the model
        inputs (None): tensors (1, ...) that the model takes beside ``pixel_values``, such as
            OneFormer's ``task_inputs``
        background (None): the class that is never "predicted"
        **options: of :class:`cam_core.ExplainableModel`
    """

    family = "universal segmentation network"
    plain_scores = False

    def __init__(
        self,
        module: nn.Module,
        inputs: Mapping[str, Tensor] | None = None,
        *,
        background: int | bool | None = None,
        **options: Any,
    ):
        super().__init__(module, background=False if background is None else background, **options)
        self.inputs = dict(inputs or {})

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this is Mask2Former, MaskFormer, OneFormer or EoMT of transformers."""
        return any(
            kind.__module__.startswith("transformers.") and kind.__name__.endswith(_NAMES)
            for kind in type(module).__mro__
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Runs the model on a batch (N, 3, H, W).

        Returns:
            a dict with ``logits``: (N, C, h, w) class scores of pixels in [0, Q]

        Raises:
            ValueError: if the model returned no queries
        """
        extra = {
            name: value.to(images.device).expand(len(images), *value.shape[1:])
            for name, value in self.inputs.items()
        }
        return {"logits": query_scores(self.module(pixel_values=images, **extra))}

    def _backbone(self, images: Tensor) -> list[Candidate]:
        """The layers of the pixel encoder: what comes after it are queries, or decoded already."""
        rows = super()._backbone(images)
        return [row for row in rows if _ENCODER in f"{row.name}."] or rows


_NAMES = ("ForUniversalSegmentation", "MaskFormerForInstanceSegmentation")
_ENCODER = "pixel_level_module.encoder."


def query_scores(outputs: Any) -> Tensor:
    """Turns queries into class scores of pixels.

    Args:
        outputs: with ``class_queries_logits`` (N, Q, C + 1), the last of which is "no object", and
            ``masks_queries_logits`` (N, Q, h, w)

    Returns:
        (N, C, h, w) sums over the queries of class probability times mask probability

    Raises:
        ValueError: if one of them is missing
    """
    entries = dict(entries_of(outputs))
    classes, masks = entries.get("class_queries_logits"), entries.get("masks_queries_logits")
    if classes is None or masks is None:
        raise ValueError(
            f"the model returned {describe(outputs)}, without class_queries_logits and "
            "masks_queries_logits: it is no network of mask classification"
        )
    weights = classes.softmax(-1)[..., :-1].transpose(1, 2)
    return (weights @ masks.sigmoid().flatten(2)).unflatten(2, masks.shape[-2:])
