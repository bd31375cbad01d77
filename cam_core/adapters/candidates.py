"""What a detector considered and what it decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Candidates:
    """What a detector considered in one image, before suppression.

    Attributes:
        boxes: (Q, 4) left, top, right, bottom in the input's pixels, or (Q, C, 4) where each class
            has a box of its own
        logits: (Q, C) class scores, with the graph they were computed in
        probabilities: (Q, C) the confidences that the detector makes of them, in [0, 1]
        again: one candidate's index -> its (C,) logits, computed again from the features for it alone:
            the backward of one object does not go through the head of all candidates then. None where
            there is no shorter way than ``logits``
        complete: whether every class of the model has a column; False where only the class of each box
            is known, whose score at other classes is -inf
    """

    boxes: Tensor
    logits: Tensor
    probabilities: Tensor
    again: Callable[[int], Tensor] | None = None
    complete: bool = True

    def logit(self, place: int, label: int) -> Tensor:
        """The class score of a candidate, with the shortest graph that there is."""
        if self.again is not None and torch.is_grad_enabled():
            return self.again(place)[label]
        return self.logits[place, label]

    def weakest(self, label: int) -> Tensor:
        """The lowest class score of all candidates, of any class where none has one of this; 0 of none."""
        finite = self.logits[self.logits != -torch.inf]
        own = self.logits[:, label] if label < self.logits.shape[1] else finite
        own = own[own != -torch.inf]
        own = own if len(own) else finite
        return own.amin() if len(own) else self.logits.sum()

    def boxes_of(self, label: int) -> Tensor:
        """(Q, 4) the candidates' boxes for a class."""
        return self.boxes if self.boxes.dim() == 2 else self.boxes[:, label]


class Detections(NamedTuple):
    """A detector's final detections in one image, the strongest first.

    Attributes:
        boxes: (D, 4) in the input's pixels
        labels: (D,) classes
        scores: (D,) confidences in [0, 1]
        candidates: (D,) which candidate each came from
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    candidates: Tensor


@dataclasses.dataclass
class DetectorOutputs:
    """What :meth:`DetectionModel.forward` returns.

    Attributes:
        raw: what the module returned
        candidates: one :class:`Candidates` per image
        input_size: (H, W) of the images
    """

    raw: Any
    candidates: list[Candidates]
    input_size: tuple[int, int]


def pick(
    candidates: Candidates, labels: Tensor, scores: Tensor, confidence: float, most: int = 300
) -> Detections:
    """Makes detections of candidates.

    Args:
        candidates: of one image
        labels: (Q,) each candidate's class
        scores: (Q,) its confidence
        confidence: the least
        most (300): how many to keep
    """
    index = (scores >= confidence).nonzero()[:, 0]
    index = index[scores[index].argsort(descending=True, stable=True)][:most]
    boxes = candidates.boxes[index]
    if boxes.dim() == 3:
        boxes = boxes[torch.arange(len(index), device=boxes.device), labels[index]]
    return Detections(boxes, labels[index], scores[index], index)


def pick_pairs(candidates: Candidates, confidence: float, most: int) -> Detections:
    """Makes detections of candidates that may have several classes each.

    Args:
        candidates: of one image
        confidence: the least
        most: how many to keep
    """
    values = candidates.probabilities.detach()
    index, labels = (values >= confidence).nonzero().unbind(1)
    order = values[index, labels].argsort(descending=True, stable=True)[:most]
    index, labels = index[order], labels[order]
    boxes = (
        candidates.boxes[index] if candidates.boxes.dim() == 2 else candidates.boxes[index, labels]
    )
    return Detections(boxes, labels, values[index, labels], index)


def trace(candidates: Candidates, boxes: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """Finds the candidate that each final detection came from.

    Args:
        candidates: of one image
        boxes: (D, 4)
        labels: (D,)
        scores: (D,) confidences

    Returns:
        (D,) indices of candidates: of those of the class the one nearest in confidence and place
    """
    result = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    for label in labels.unique().tolist():
        own = (labels == label).nonzero()[:, 0]
        away = torch.cdist(boxes[own].float(), candidates.boxes_of(label).float(), p=torch.inf)
        other = (scores[own, None] - candidates.probabilities.detach()[None, :, label]).abs()
        # A pixel weighs as much as a confidence of 0.001: candidates share neither exactly.
        result[own] = (away + 1000 * other.float()).argmin(1)
    return result


def nothing(like: Tensor) -> Detections:
    """No detections, of the type and on the device of a tensor."""
    index = torch.zeros(0, dtype=torch.long, device=like.device)
    return Detections(like.new_zeros(0, 4), index, like.new_zeros(0), index)
