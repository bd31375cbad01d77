"""RF-DETR, from the package of its authors (Robinson et al., 2025): each query is a candidate."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from ..spatial.boxes import corners
from .candidates import Candidates, Detections, DetectorOutputs, pick_pairs
from .detection import DetectionModel


class RfDetrDetector(DetectionModel):
    """The network inside ``rfdetr``'s models, boxes or boxes and masks.

    A class is an index of its logits; those of the weights for COCO are COCO's own category numbers.

    Args:
        module: the ``LWDETR``, which takes normalised images (N, 3, H, W)
        **options: of :class:`DetectionModel`
    """

    # What enters the decoder has both signs, as in other DETRs.
    default_method = "gradcam_elementwise"

    def __init__(self, module: nn.Module, **options: Any):
        super().__init__(module, **options)
        if not self.levels:
            names = [name for name, _ in module.named_modules()]
            self.levels = [
                n for n in names if re.fullmatch(r"backbone\.0\.projector\.stages\.\d+", n)
            ]

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this is the network of the package ``rfdetr``."""
        return any(
            kind.__name__ == "LWDETR" and kind.__module__.startswith("rfdetr.")
            for kind in type(module).__mro__
        )

    def read(self, raw: Any, images: Tensor) -> list[Candidates]:
        """Takes the queries' class scores and boxes.

        Args:
            raw: what the module returned, with ``pred_logits`` and ``pred_boxes``
            images: (N, 3, H, W)
        """
        size = images.new_tensor([images.shape[-1], images.shape[-2]]).repeat(2)
        places, logits = corners(raw["pred_boxes"].detach()) * size, raw["pred_logits"]
        sure = logits.detach().sigmoid()
        return [Candidates(*row) for row in zip(places, logits, sure, strict=True)]

    def detections(self, outputs: DetectorOutputs) -> list[Detections]:
        """Returns pairs of a query and a class, as the package does.

        Args:
            outputs: what :meth:`forward` returned
        """
        return [pick_pairs(c, self.confidence, len(c.logits)) for c in outputs.candidates]
