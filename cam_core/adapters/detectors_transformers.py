"""Hugging Face's detectors: queries of DETR and its relatives, detection tokens of YOLOS."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.grid import Grid
from ..spatial.boxes import corners
from .candidates import Candidates, Detections, DetectorOutputs, pick_pairs
from .detection import DetectionModel

# Where the features enter the encoder or decoder, all of them maps; the first that exists.
_LEVELS = (
    r"decoder_input_proj\.\d+",
    r"input_proj(_vision)?\.\d+",
    r"decoder\.channel_projection_layers\.\d+",
    r"input_projection",
    r"backbone\.projector\.scale_layers\.\d+",
    r"backbone\.projector",
)


class TransformersDetector(DetectionModel):
    """DETR, its relatives up to RT-DETR, D-FINE and RF-DETR, YOLOS: each query is a candidate.

    A class is an index of ``config.id2label``; "no object" is none.

    Args:
        module: the detector
        **options: of :class:`DetectionModel`
    """

    # What enters their decoders has both signs: contributions by place, not activations, are summed.
    default_method = "gradcam_elementwise"

    def __init__(self, module: nn.Module, **options: Any):
        super().__init__(module, **options)
        if not self.levels:
            self.levels = _levels(module)

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this is a detector of transformers that takes nothing but images."""
        for kind in type(module).__mro__:
            named = kind.__name__.endswith(("ForObjectDetection", "DetrForSegmentation"))
            if named and kind.__module__.startswith("transformers."):
                needed = inspect.signature(type(module).forward).parameters
                return "pixel_values" in needed and "input_ids" not in needed
        return False

    def read(self, raw: Any, images: Tensor) -> list[Candidates]:
        """Takes the queries' class scores and boxes.

        Args:
            raw: what the module returned, with ``logits`` and ``pred_boxes``
            images: (N, 3, H, W)

        Raises:
            ValueError: if it returned none
        """
        logits, boxes = getattr(raw, "logits", None), getattr(raw, "pred_boxes", None)
        if logits is None or boxes is None:
            raise ValueError(
                f"model: {type(self.module).__name__} returned no logits and pred_boxes; pass "
                "DetectionModel(model, read=a callable (outputs, images) -> one Candidates per image)"
            )
        if self._softmax(logits):
            classes = logits.shape[-1] - 1
            probabilities = logits.detach().softmax(-1)[..., :classes]
            logits = logits[..., :classes]
        else:
            probabilities = logits.detach().sigmoid()
        size = images.new_tensor([images.shape[-1], images.shape[-2]]).repeat(2)
        places = corners(boxes.detach()) * size
        return [Candidates(*row) for row in zip(places, logits, probabilities, strict=True)]

    def _softmax(self, logits: Tensor) -> bool:
        """Whether there is a last class "no object", and classes exclude each other."""
        config: Any = self.module.config
        return logits.shape[-1] == config.num_labels + 1

    def detections(self, outputs: DetectorOutputs) -> list[Detections]:
        """Returns what the models' processors do: queries, or pairs of a query and a class.

        Args:
            outputs: what :meth:`forward` returned
        """
        if self._softmax(outputs.raw.logits):
            return super().detections(outputs)
        return [pick_pairs(c, self.confidence, len(c.logits)) for c in outputs.candidates]

    def assumed_grid(
        self, name: str, shape: tuple[int, ...], image_size: tuple[int, int]
    ) -> Grid | None:
        """Returns how a layer's output lies on the image by its shape and type; None if it has no grid."""
        config: Any = self.module.config
        behind = getattr(config, "num_detection_tokens", 0)
        if behind and len(shape) == 3:
            patch = config.patch_size
            rows, columns = (
                side // (patch if isinstance(patch, int) else patch[i])
                for i, side in enumerate(image_size)
            )
            if shape[1] == 1 + rows * columns + behind and rows * columns > 1:
                return _FrontGrid("NLC", rows, columns, 1, behind=behind)
            return None
        return super().assumed_grid(name, shape, image_size)


@dataclasses.dataclass(frozen=True)
class _FrontGrid(Grid):
    """A sequence whose patch tokens are followed by detection tokens.

    Attributes:
        behind: how many these are
    """

    behind: int = 0

    def to_maps(self, output: Tensor) -> Tensor:
        """Brings a layer's output to (N, C, h, w); the other tokens are left out."""
        return super().to_maps(output[:, : output.shape[1] - self.behind])

    def from_maps(self, maps: Tensor, like: Tensor) -> Tensor:
        """Brings (N, C, h, w) back to the layer's own layout, with the other tokens of ``like``."""
        end = like.shape[1] - self.behind
        return torch.cat([super().from_maps(maps, like[:, :end]), like[:, end:]], 1)


def _levels(module: nn.Module) -> list[str]:
    names = [name for name, _ in module.named_modules()]
    for pattern in _LEVELS:
        found = [n for n in names if re.fullmatch(rf"(.*\.)?{pattern}", n) and "encoder" not in n]
        if found:
            return found
    return []
