"""Which objects of an image are explained: a detector's own, given ones, those it has missed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..adapters.candidates import Detections, DetectorOutputs
from ..adapters.detection import MOST_OBJECTS, above
from ..adapters.object_targets import ObjectTarget, object_targets
from ..spatial.boxes import match_boxes


@dataclasses.dataclass
class ObjectChoice:
    """Chooses objects once a detector's outputs are known, and remembers which.

    Attributes:
        detections: the model's final detections in its outputs
        confidence: from which on one of them counts
        boxes: N tensors (K_i, 4) of given objects in the input's pixels; None for the model's own
        labels: N tensors (K_i,) of their classes
        missed: whether only the given ones are explained that no detection of their class matches
        classes: of which classes objects are explained; None for all
        most: at most so many of the model's own per image, the strongest, or of the missed ones, the
            first; None explains all
        min_iou: the least overlap of an object and its candidate, and of a match
        prefer: which candidate of a given object, see :func:`cam_core.explain_objects`
        chosen: N tensors of indices into ``boxes``, or into the model's own detections, the strongest
            first; known once the choice was made
    """

    detections: Callable[[DetectorOutputs], list[Detections]]
    confidence: float
    boxes: Sequence[Tensor] | None = None
    labels: Sequence[Tensor] | None = None
    missed: bool = False
    classes: Sequence[int] | None = None
    most: int | None = MOST_OBJECTS
    min_iou: float = 0.5
    prefer: str = "score"
    chosen: list[Tensor] = dataclasses.field(default_factory=list)

    def __call__(self, outputs: DetectorOutputs) -> list[ObjectTarget]:
        """Returns one target for each object, see :func:`cam_core.object_targets`.

        Args:
            outputs: what :meth:`DetectionModel.forward` returned
        """
        if self.boxes is None or self.labels is None:
            own = [
                above(_of_classes(found, self.classes), self.confidence, self.most or len(found[0]))
                for found in self.detections(outputs)
            ]
            boxes, labels = [d.boxes for d in own], [d.labels for d in own]
            self.chosen = [torch.arange(len(d.boxes)) for d in own]
            return object_targets(boxes, labels, min_iou=self.min_iou, prefer="overlap")
        self.chosen = self._among_given(outputs)
        rows = list(zip(self.boxes, self.labels, self.chosen, strict=True))
        boxes = [torch.as_tensor(box).reshape(-1, 4)[index] for box, _, index in rows]
        labels = [torch.as_tensor(label)[index] for _, label, index in rows]
        return object_targets(boxes, labels, min_iou=self.min_iou, prefer=self.prefer)

    def _among_given(self, outputs: DetectorOutputs) -> list[Tensor]:
        assert self.boxes is not None
        assert self.labels is not None
        if self.missed:
            found = self.detections(outputs)
            rows = missed_objects(found, self.boxes, self.labels, self.min_iou, self.confidence)
            rows = [row[: self.most] for row in rows]
        else:
            rows = [torch.arange(len(box)) for box in self.boxes]
        if self.classes is None:
            return rows
        wanted = torch.tensor(list(self.classes), dtype=torch.long)
        return [
            row[torch.isin(label.cpu()[row], wanted)]
            for row, label in zip(rows, self.labels, strict=True)
        ]

    def indices(self) -> Tensor:
        """(N, K) ``chosen`` as a table, -1 where an image has fewer; K is at least 1."""
        width = max(1, *(len(row) for row in self.chosen))
        table = torch.full((len(self.chosen), width), -1)
        for i, row in enumerate(self.chosen):
            table[i, : len(row)] = row
        return table


def _of_classes(found: Detections, classes: Sequence[int] | None) -> Detections:
    if classes is None:
        return found
    wanted = torch.tensor(list(classes), dtype=torch.long, device=found.labels.device)
    keep = torch.isin(found.labels, wanted)
    return Detections(*(value[keep] for value in found))


def missed_objects(
    found: Sequence[Detections],
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    iou: float = 0.5,
    confidence: float = 0.25,
) -> list[Tensor]:
    """Finds the objects that no detection of their class matches.

    ``explain_objects`` explains them: by the strongest candidate of the class there, with its score.

    Args:
        found: N :class:`Detections`, as :func:`detect` returns them
        boxes: N tensors (K_i, 4) of ground truth, in the input's pixels
        labels: N tensors (K_i,) of class indices
        iou (0.5): the least overlap of a match
        confidence (0.25): the least confidence of a detection that counts

    Returns:
        N tensors of indices into the image's boxes

    Raises:
        ValueError: if the lists are not as many
    """
    if not len(found) == len(boxes) == len(labels):
        raise ValueError(
            f"found, boxes and labels must be as many as the images, got {len(found)}, {len(boxes)} "
            f"and {len(labels)}"
        )
    rows = []
    for detections, box, label in zip(found, boxes, labels, strict=True):
        sure = detections.scores >= confidence
        where, classes, scores = (value[sure] for value in detections[:3])
        matched = match_boxes(box, label, where, classes, scores, iou)
        rows.append((matched < 0).nonzero()[:, 0])
    return rows
