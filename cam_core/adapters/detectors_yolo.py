"""Ultralytics' detectors: boxes, masks, poses, rotated boxes, end-to-end heads, RT-DETR."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.layer import describe
from ..spatial.boxes import corners, enclosing, suppress
from .candidates import Candidates, Detections, DetectorOutputs, pick, trace
from .detection import DetectionModel

# What a head remembers of the sizes it has seen; it is left as it came.
_REMEMBERED = ("anchors", "strides", "shape", "shapes", "valid_mask", "angle")


class UltralyticsDetector(DetectionModel):
    """YOLO from v5u to 26 with a box, mask, pose or rotated-box head, and Ultralytics' RT-DETR.

    The score is the logit of a class at one of the head's positions; of end-to-end models, at one of
    the branch that they predict with. Rotated boxes are seen as the upright ones around them.

    Args:
        module: the network, or the ``YOLO`` object around it
        suppression (0.7): overlap in (0, 1) from which on the weaker of two detections of a class is
            dropped; Ultralytics' default
        **options: of :class:`DetectionModel`
    """

    def __init__(self, module: nn.Module, *, suppression: float = 0.7, **options: Any):
        network = module if _head(module) is not None else module.model
        assert isinstance(network, nn.Module)
        super().__init__(network, **options)
        if not 0 < suppression < 1:
            raise ValueError(f"suppression must be an overlap in (0, 1), got {suppression}")
        self.suppression = suppression
        self.head: Any = _head(network)
        self.decoder = _is(self.head, "RTDETRDecoder")
        self.levels = [f"model.{i if i >= 0 else self.head.i + i}" for i in self.head.f]

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this is a detector of Ultralytics, or the object around one."""
        inner = getattr(module, "model", None)
        wrapper = _is(module, "Model") and isinstance(inner, nn.Module) and _head(inner) is not None
        return _head(module) is not None or wrapper

    def forward(self, images: Tensor) -> DetectorOutputs:
        """Runs the model on a batch (N, 3, H, W) with sides that are multiples of its stride."""
        with self._fresh():
            return super().forward(images)

    @property
    def _end_to_end(self) -> bool:
        return bool(getattr(self.head, "end2end", False))

    @contextlib.contextmanager
    def _fresh(self) -> Iterator[None]:
        """Lets the head lay out its positions again: those of an inference tensor have no gradient."""
        own = self.head.__dict__
        before = {name: own.pop(name) for name in _REMEMBERED if name in own}
        try:
            yield
        finally:
            for name in _REMEMBERED:
                own.pop(name, None)
            own.update(before)

    def read(self, raw: Any, images: Tensor) -> list[Candidates]:
        """Takes the predictions of the branch that the model predicts with.

        Args:
            raw: what the module returned in eval mode: the predictions and what they are made of
            images: (N, 3, H, W)

        Raises:
            ValueError: if it returned something else, as an exported or changed head does
        """
        if not isinstance(raw, tuple) or len(raw) != 2:
            raise ValueError(
                f"model: {type(self.head).__name__} returned {describe(raw)}, not a pair of predictions "
                "and what they are made of; set its `export` to False, or pass "
                "DetectionModel(model, read=a callable)"
            )
        boxes, logits = self._decoded(raw[1], images) if self.decoder else self._dense(raw[1])
        probabilities = logits.detach().sigmoid()
        return [Candidates(*row) for row in zip(boxes, logits, probabilities, strict=True)]

    def _decoded(self, parts: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, Q, 4) boxes and (N, Q, C) logits of a decoder's last layer."""
        size = images.new_tensor([images.shape[-1], images.shape[-2]]).repeat(2)
        return corners(parts[0][-1].detach()) * size, parts[1][-1]

    def _dense(self, parts: Any) -> tuple[Tensor, Tensor]:
        """(N, A, 4) boxes and (N, A, C) logits of all positions."""
        if isinstance(parts, Mapping) and "one2many" in parts:
            parts = parts["one2one" if self._end_to_end else "one2many"]
        if isinstance(parts, Mapping):
            logits = parts["scores"]
        else:  # before 8.4: one tensor per level, boxes before classes
            joined = torch.cat([level.flatten(2) for level in parts], 2)
            logits = joined[:, 4 * self.head.reg_max : 4 * self.head.reg_max + self.head.nc]
        with torch.no_grad():
            boxes = self.head._inference(parts)[:, :4].transpose(1, 2)
            if _is(self.head, "OBB"):
                angle = parts["angle"] if isinstance(parts, Mapping) else self.head.angle
                boxes = enclosing(boxes, angle[:, 0])
            elif not self._end_to_end and not getattr(self.head, "xyxy", False):
                boxes = corners(boxes)
        return boxes.detach(), logits.transpose(1, 2)

    def detections(self, outputs: DetectorOutputs) -> list[Detections]:
        """Returns the candidates from the confidence on, suppressed as Ultralytics' predictor does.

        End-to-end models and RT-DETR choose on their own. The overlap of rotated boxes is that of the
        upright ones around them.

        Args:
            outputs: what :meth:`forward` returned
        """
        if self.decoder or self._end_to_end:
            return self._own(outputs)
        rows = []
        for candidates in outputs.candidates:
            d = self._without_suppression(candidates)
            keep = suppress(d.boxes, d.scores, d.labels, self.suppression)[: self.head.max_det]
            rows.append(Detections(*(value[keep] for value in d)))
        return rows

    def _own(self, outputs: DetectorOutputs) -> list[Detections]:
        """What the model itself has chosen: places and classes, up to its limit."""
        chosen = outputs.raw[0]
        chosen = (chosen[0] if isinstance(chosen, tuple) else chosen).detach()
        boxes, rows = chosen[..., :4], []
        if self.decoder:
            height, width = outputs.input_size
            boxes = corners(boxes) * boxes.new_tensor([width, height, width, height])
        elif _is(self.head, "OBB"):
            boxes = enclosing(boxes, chosen[..., -1])
        for candidates, box, row in zip(outputs.candidates, boxes, chosen, strict=True):
            sure = row[:, 4] >= self.confidence
            places, scores, labels = box[sure], row[sure, 4], row[sure, 5].long()
            rows.append(
                Detections(places, labels, scores, trace(candidates, places, labels, scores))
            )
        return rows

    def _without_suppression(self, candidates: Candidates) -> Detections:
        scores, labels = candidates.probabilities.max(1)
        return pick(candidates, labels, scores, self.confidence, most=30_000)


def _is(module: Any, name: str) -> bool:
    """Whether a class of Ultralytics has this name among its bases."""
    return any(
        kind.__name__ == name and kind.__module__.startswith("ultralytics.")
        for kind in type(module).__mro__
    )


def _head(module: nn.Module) -> Any:
    """The detection head at the end of a network, or None."""
    layers = getattr(module, "model", None)
    if not isinstance(layers, nn.Sequential) or len(layers) == 0:
        return None
    head = layers[-1]
    return head if _is(head, "Detect") or _is(head, "RTDETRDecoder") else None
