"""Targets of detectors: the class score of one object's candidate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..spatial.boxes import box_iou, check_boxes
from .candidates import Candidates, DetectorOutputs

PREFERENCES = ("score", "overlap")


def object_target(
    box: Tensor, label: int | Tensor, *, min_iou: float = 0.5, prefer: str = "score"
) -> ObjectTarget:
    """A target: the class score of a detector's candidate at a box.

    The candidate is looked for in the outputs at hand, so that perturbed images, whose candidates
    are others, are compared by what is there of the object.

    Example::

        explain(detector, images, targets=object_target(torch.tensor([10, 20, 60, 90]), 3))

    Args:
        box: (4,) left, top, right, bottom in the model's input's pixels, for every image; or (N, 4),
            for each its own, NaN where it has none
        label: the class, or (N,) classes
        min_iou (0.5): the least overlap of a candidate with the box, in (0, 1]
        prefer ("score"): which of these candidates: ``"score"``, the one with the highest score of the
            class, or ``"overlap"``, the nearest, as for a detection of the model's own

    Returns:
        a callable outputs -> (N,), for ``explain(targets=...)``; the score of an image without such a
        candidate is no explanation: its map is NaN and ``valid`` false

    Raises:
        ValueError: if an argument is not understood
    """
    boxes = torch.as_tensor(box, dtype=torch.float32).detach()
    boxes = boxes[None] if boxes.dim() == 1 else boxes
    check_boxes("box", boxes)
    labels = torch.as_tensor(label).detach().cpu().reshape(-1)
    if labels.is_floating_point() or len(labels) not in (1, len(boxes)):
        raise ValueError(
            f"label must be one class index or one for each of the {len(boxes)} boxes, got {label!r}"
        )
    if not 0 < min_iou <= 1:
        raise ValueError(f"min_iou must be in (0, 1], got {min_iou}")
    if prefer not in PREFERENCES:
        raise ValueError(f"prefer: {prefer!r} is unknown; choose from {', '.join(PREFERENCES)}")
    return ObjectTarget(boxes, labels.expand(len(boxes)).long(), min_iou, prefer)


def object_targets(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    min_iou: float = 0.5,
    prefer: str = "score",
) -> list[ObjectTarget]:
    """Targets for as many objects as each image has.

    Args:
        boxes: N tensors (K_i, 4) in the model's input's pixels
        labels: N tensors (K_i,) of class indices
        min_iou (0.5): see :func:`object_target`
        prefer ("score"): see :func:`object_target`

    Returns:
        a list of max K_i, but at least one, callables, for ``explain(targets=...)``

    Raises:
        ValueError: if the lists do not fit each other
    """
    if len(boxes) != len(labels) or len(boxes) == 0:
        raise ValueError(
            f"boxes and labels must be as many as the images, got {len(boxes)} and {len(labels)}"
        )
    most = max(1, *(len(b) for b in boxes))
    places = torch.full((len(boxes), most, 4), torch.nan)
    classes = torch.full((len(boxes), most), -1, dtype=torch.long)
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        box, label = torch.as_tensor(box), torch.as_tensor(label)
        if box.shape != (len(label), 4) and box.numel():
            raise ValueError(
                f"boxes of image {i} must have shape ({len(label)}, 4), as it has {len(label)} labels, "
                f"got {tuple(box.shape)}"
            )
        places[i, : len(label)] = box.detach().cpu().float().reshape(-1, 4)
        classes[i, : len(label)] = label.detach().cpu().long()
    columns = zip(places.unbind(1), classes.unbind(1), strict=True)
    return [object_target(b, c, min_iou=min_iou, prefer=prefer) for b, c in columns]


class Match(NamedTuple):
    """The candidate found for an object: its index, its overlap, and whether it overlaps enough."""

    place: int
    iou: float
    enough: bool


class ObjectMatches(NamedTuple):
    """The candidates found for an object in each image, on the CPU.

    Attributes:
        boxes: (N, 4) the object, NaN where an image has none
        labels: (N,) its class, -1 where an image has none
        candidates: (N,) index of the candidate, -1 for none
        found: (N, 4) the candidate's box, NaN for none
        ious: (N,) the overlap of both; NaN for none
        probabilities: (N,) the candidate's confidence in the class; NaN for none
    """

    boxes: Tensor
    labels: Tensor
    candidates: Tensor
    found: Tensor
    ious: Tensor
    probabilities: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class ObjectTarget:
    """What :func:`object_target` returns.

    Attributes:
        boxes: (1 or N, 4) on the CPU, NaN where an image has no object
        labels: (1 or N,) classes, -1 where an image has none
        min_iou: the least overlap
        prefer: ``"score"`` or ``"overlap"``
        nearest: whether the nearest candidate will do where none overlaps enough
    """

    boxes: Tensor
    labels: Tensor
    min_iou: float
    prefer: str
    nearest: bool = False

    @property
    def per_image(self) -> bool:
        """Whether images have boxes of their own, so that a part of a batch needs its rows."""
        return len(self.boxes) > 1

    def __call__(self, outputs: DetectorOutputs, rows: Sequence[int] | None = None) -> Tensor:
        """Returns the (B,) scores; where no candidate overlaps enough, the image's lowest.

        Args:
            outputs: what :meth:`DetectionModel.forward` returned for B images
            rows (None): which of the N images these are; all in order by default

        Raises:
            ValueError: if a class does not exist or the boxes are not as many as the images
        """
        found = self.matches(outputs, rows)
        scores = []
        for candidates, row, match in zip(
            outputs.candidates, self._rows(outputs, rows), found, strict=True
        ):
            label = max(int(self.labels[row]), 0)
            if match.enough:
                scores.append(candidates.logit(match.place, label))
            else:
                # Nothing of the object is left: as weak as the weakest, so that it stays finite.
                scores.append(candidates.weakest(label))
        return torch.stack(scores)

    def valid(self, outputs: DetectorOutputs) -> Tensor:
        """(N,) which images have the object and a candidate for it.

        Args:
            outputs: what :meth:`DetectionModel.forward` returned for the N images
        """
        return torch.tensor([match.enough for match in self.matches(outputs)])

    def class_indices(self, count: int) -> Tensor:
        """(N,) the objects' classes, -1 for none."""
        return self.labels.expand(count)

    def moved(self, flipped: bool, old: tuple[int, int], new: tuple[int, int]) -> ObjectTarget:
        """This target in images that were mirrored, resized or made noisy.

        A mean over these needs a map from each: where no candidate overlaps enough any more, it is
        that of the nearest one.

        Args:
            flipped: whether they were mirrored, left to right
            old: (H, W) they had
            new: (H, W) they have
        """
        across, down = new[1] / old[1], new[0] / old[0]
        boxes = self.boxes * torch.tensor([across, down, across, down])
        if flipped:
            left, top, right, bottom = boxes.unbind(1)
            boxes = torch.stack([new[1] - right, top, new[1] - left, bottom], 1)
        return dataclasses.replace(self, boxes=boxes, nearest=True)

    def details(self, outputs: DetectorOutputs) -> ObjectMatches:
        """What is explained, for the result.

        Args:
            outputs: what :meth:`DetectionModel.forward` returned for the N images
        """
        count = len(outputs.candidates)
        found, numbers = torch.full((count, 4), torch.nan), torch.full((count, 2), torch.nan)
        index = torch.full((count,), -1)
        for i, match in enumerate(self.matches(outputs)):
            if match.enough:
                candidates = outputs.candidates[i]
                label = int(self.labels[i if self.per_image else 0])
                index[i] = match.place
                found[i] = candidates.boxes_of(label)[match.place].detach().cpu()
                sure = candidates.probabilities[match.place, label]
                numbers[i] = torch.tensor([match.iou, float(sure)])
        boxes = self.boxes.expand(count, 4)
        return ObjectMatches(boxes, self.class_indices(count), index, found, *numbers.unbind(1))

    def matches(self, outputs: DetectorOutputs, rows: Sequence[int] | None = None) -> list[Match]:
        """Finds each image's candidate.

        Args:
            outputs: what :meth:`DetectionModel.forward` returned for B images
            rows (None): which of the N images these are
        """
        chosen = self._rows(outputs, rows)
        return [self._match(c, row) for c, row in zip(outputs.candidates, chosen, strict=True)]

    def _match(self, candidates: Candidates, row: int) -> Match:
        label, box = int(self.labels[row]), self.boxes[row]
        classes = candidates.logits.shape[1]
        if label >= classes and not candidates.complete:
            return Match(-1, 0.0, False)  # no box of that class
        if label >= classes:
            raise ValueError(
                f"targets: class index {label} is out of range; the model has {classes} classes"
            )
        if label < 0 or bool(box.isnan().any()) or len(candidates.logits) == 0:
            return Match(-1, 0.0, False)
        places = candidates.boxes_of(label).detach()
        overlap = box_iou(box[None].to(places.device), places)[0]
        rank = candidates.logits[:, label].detach().float()
        overlap = overlap.masked_fill(rank == -torch.inf, 0)  # a box of another class
        near = overlap >= self.min_iou
        if self.prefer == "overlap":
            # Candidates that are cut off at the image's border may have the same box.
            rank = overlap + 1e-4 * candidates.probabilities[:, label].detach().float()
        if self.nearest and not bool(near.any()):
            rank, near = overlap, overlap > 0
        index = int(rank.masked_fill(~near, -torch.inf).argmax())
        return Match(index, float(overlap[index]), bool(near[index]))

    def _rows(self, outputs: DetectorOutputs, rows: Sequence[int] | None) -> list[int]:
        # Not isinstance: the plugin's cam_core is a second copy beside the one that users import.
        if not hasattr(outputs, "candidates"):
            raise ValueError(
                f"targets: object_target needs a detector, whose outputs hold candidates, not "
                f"{type(outputs).__name__}; adapt the model with adapt(model, read=...)"
            )
        count = len(outputs.candidates)
        if not self.per_image:
            return [0] * count
        chosen = list(range(count) if rows is None else rows)
        if rows is None and len(self.boxes) != count:
            raise ValueError(
                f"targets: there are {len(self.boxes)} boxes for {count} images; give one of shape (4,) "
                "for all, or as many as images"
            )
        return chosen
