"""Detectors: a target is the class score of one object's candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..layers.grid import Grid
from ..spatial.boxes import suppress
from .base import ExplainableModel
from .candidates import Candidates, Detections, DetectorOutputs, nothing, pick
from .levels import measured_levels
from .object_targets import object_targets
from .readings import CONTRACT, call_reader, candidates_of, check_graph, rooted, tensors_in

# An explanation without a choice of objects shows at most this many detections of an image.
MOST_OBJECTS = 20

# Takes what a module returned, and the images where it has a second argument; see `readings`.
Reader = Callable[..., Any]


class DetectionModel(ExplainableModel):
    """A detector: its candidates' class scores are explained, over all feature levels.

    Families know where a model has its candidates; for a detector of one's own ``read`` says it::

        def read(outputs):  # (N, Q, 4 + C): centre, size, and the logit of each class
            boxes = torchvision.ops.box_convert(outputs[..., :4], "cxcywh", "xyxy")
            return boxes, outputs[..., 4:].sigmoid()

        explain_objects(DetectionModel(net, read=read), images)

    ``"predicted"`` explains the model's own detections; a class index explains its strongest
    candidate in each image.

    Args:
        module: the detector
        read (None): what the module returned -> for each image (boxes, scores, classes): boxes (Q, 4)
            left, top, right, bottom in the input's pixels; scores (Q,) confidences in [0, 1] that carry
            the graph; classes (Q,) indices. Or (boxes, scores) with scores (Q, C), one per class; a dict
            with ``boxes``, ``scores`` and ``labels``; :class:`Candidates`. A pair of batched tensors
            (N, Q, 4) and (N, Q, C) will do. It may take the images (N, C, H, W) as a second argument.
            Known of the families
        levels (None): names of the layers that hold the feature levels; measured by default
        suppression (None): overlap in (0, 1] from which on the weaker of two detections of a class is
            dropped; None where ``read`` returns what is left after it, or a set predictor's
        background (None): a class that is never an object
        confidence (0.25): confidence in (0, 1) from which on a detection counts as predicted
        threshold (None): the same under the name that it has of other models
        **options: of :class:`cam_core.ExplainableModel`

    Raises:
        ValueError: if an option does not fit a detector
    """

    family = "detector"
    plain_scores = False
    # The score of an object depends on a few places only: weights by place, not their mean.
    default_method = "layercam"

    def __init__(
        self,
        module: nn.Module,
        *,
        read: Reader | None = None,
        levels: Sequence[str] | None = None,
        suppression: float | None = None,
        background: int | None = None,
        confidence: float = 0.25,
        threshold: float | None = None,
        **options: Any,
    ):
        confidence = confidence if threshold is None else threshold
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be a number between 0 and 1, got {confidence}")
        super().__init__(module, threshold=confidence, **options)
        if self.output is not None:
            raise ValueError(
                "output: a detector has boxes beside its scores; pass read=a callable that returns both: "
                f"{CONTRACT}"
            )
        if read is not None and not callable(read):
            raise ValueError(f"read: {type(read).__name__} is not callable")
        if suppression is not None and not 0 < suppression <= 1:
            raise ValueError(f"suppression must be an overlap in (0, 1], got {suppression}")
        self.background = background
        #: the layers that hold the feature levels, once they are known; an object is found on one of
        #: them, and its score need not depend on the others
        self.levels: list[str] = list(levels or ())
        self._overlap = suppression
        #: what reads the module's outputs, or None where the family knows
        self.reader = read
        #: how many classes ``read`` has told of, and whether these are all: it may name those it has
        #: found. Changed in place, as is ``levels``: a copy that explains finds out for all
        self.told: dict[str, int] = {"classes": 0, "complete": True}

    @property
    def confidence(self) -> float:
        """The confidence from which on a detection counts as predicted: its threshold."""
        return self.threshold

    @confidence.setter
    def confidence(self, value: float) -> None:
        self.threshold = value

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this adapter understands the module: a family has to, this one is asked for."""
        return False

    def forward(self, images: Tensor) -> DetectorOutputs:
        """Runs the model on a batch (N, 3, H, W).

        The gradient of a candidate's score goes all the way: where a model detaches features that
        the score depends on, as end-to-end heads do for training, it is attached again.
        """
        with _Attached():
            raw = self.run(images)
        return DetectorOutputs(
            raw, self.read(raw, images), (int(images.shape[-2]), int(images.shape[-1]))
        )

    def run(self, images: Tensor) -> Any:
        """Calls the module."""
        return self.module(images)

    def read(self, raw: Any, images: Tensor) -> list[Candidates]:
        """Finds every image's candidates in what the module returned.

        Args:
            raw: what :meth:`run` returned
            images: (N, 3, H, W)

        Raises:
            ValueError: if they are not where they are expected
        """
        if self.reader is None:
            raise ValueError(
                f"model: where {type(self.module).__name__} has its boxes is not known; pass read=a callable: "
                f"{CONTRACT}"
            )
        found = candidates_of(call_reader(self.reader, raw, images), images, self.told["classes"])
        check_graph(found, raw)
        if torch.is_grad_enabled():
            found = rooted(found, raw)
        self.told["classes"] = max(self.told["classes"], *(c.logits.shape[1] for c in found))
        self.told["complete"] = all(c.complete for c in found)
        return found

    def logits(self, outputs: DetectorOutputs) -> Tensor:
        """Returns (N, classes): the score of each class's strongest candidate; -inf without any.

        Args:
            outputs: what :meth:`forward` returned
        """
        return torch.stack([_strongest(c.logits, -torch.inf) for c in outputs.candidates])

    def probabilities(self, outputs: DetectorOutputs) -> Tensor:
        """Returns (N, classes): the confidence of each class's strongest candidate; 0 without any.

        Args:
            outputs: what :meth:`forward` returned
        """
        return torch.stack([_strongest(c.probabilities, 0.0) for c in outputs.candidates]).float()

    def candidates(self, outputs: DetectorOutputs) -> Tensor:
        """Returns (N, classes) what "top_k" is read from: confidences, -1 for the background.

        Args:
            outputs: what :meth:`forward` returned
        """
        scores = self.probabilities(outputs).detach().clone()
        if self.background is not None:
            scores[:, self.background] = -1
        return scores

    def detections(self, outputs: DetectorOutputs) -> list[Detections]:
        """Returns the model's final detections in each image, after its own suppression.

        Without one, as in a set predictor, each candidate from the confidence on is a detection.

        Args:
            outputs: what :meth:`forward` returned
        """
        found = [self._without_suppression(c) for c in outputs.candidates]
        if self._overlap is None:
            return found
        kept = [suppress(d.boxes, d.scores, d.labels, self._overlap) for d in found]
        return [
            Detections(*(value[keep] for value in d)) for d, keep in zip(found, kept, strict=True)
        ]

    def _without_suppression(self, candidates: Candidates) -> Detections:
        """Every candidate's best class, from the confidence on; the strongest of them."""
        probabilities = candidates.probabilities.detach()
        if probabilities.numel() == 0:
            return nothing(probabilities)
        if self.background is not None:
            probabilities = probabilities.clone()
            probabilities[:, self.background] = -1
        scores, labels = probabilities.max(1)
        return pick(candidates, labels, scores, self.confidence)

    def predicted(self, outputs: DetectorOutputs) -> Any:
        """Returns a target for each of an image's detections from the confidence on, at most 20.

        Args:
            outputs: what :meth:`forward` returned

        Returns:
            a list of K :class:`ObjectTarget`, K being the largest number of objects in an image
        """
        kept = [above(found, self.confidence) for found in self.detections(outputs)]
        return object_targets([d.boxes for d in kept], [d.labels for d in kept], prefer="overlap")

    def probe_score(self, outputs: DetectorOutputs) -> Tensor:
        """Returns (N,) a score that every candidate has a part in.

        Args:
            outputs: what :meth:`forward` returned
        """
        if not any(len(c.logits) for c in outputs.candidates):
            # Nothing was found on the probed images: what the outputs are made of is looked for.
            return sum((t.float().sum() for t in tensors_in(outputs.raw)), torch.zeros(()))[None]
        finite = [c.logits[c.logits != -torch.inf] for c in outputs.candidates]
        return torch.stack([values.sum() for values in finite])

    @property
    def knows_places(self) -> bool:
        """Where feature levels lie on the input is a part of what is known of a family."""
        return getattr(self, "reader", None) is None

    def default_layers(self, images: Tensor) -> list[str]:
        """Returns all feature levels that the candidates are made of.

        Args:
            images: (N, 3, H, W)
        """
        if not self.levels and self.reader is not None:
            self.levels.extend(measured_levels(self, images))
        return list(self.levels or super().default_layers(images))

    def on_input(self, maps: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Cuts maps to what shows the input, where the model pads or resizes it on its own.

        Args:
            maps: (..., h, w) on a layer's grid
            image_size: (H, W) of the model's input

        Returns:
            (..., h', w') on a grid that tiles the input
        """
        return maps

    def assumed_grid(
        self, name: str, shape: tuple[int, ...], image_size: tuple[int, int]
    ) -> Grid | None:
        """Returns how a layer's output lies on the image by its shape and type; None if it has no grid."""
        if len(shape) == 4 and name in self.levels:
            return Grid("NCHW", shape[2], shape[3])  # be it a single cell
        return super().assumed_grid(name, shape, image_size)


class _Attached(TorchFunctionMode):
    """Lets the gradient through where a model detaches what it computes with.

    A tensor outside of any graph is detached as ever.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.detach and args[0].requires_grad and torch.is_grad_enabled():
            return args[0]
        return func(*args, **(kwargs or {}))


def _strongest(values: Tensor, empty: float) -> Tensor:
    return values.amax(0) if len(values) else values.sum(0) + empty


def above(found: Detections, confidence: float, most: int = MOST_OBJECTS) -> Detections:
    """The detections from a confidence on, the strongest, at most so many."""
    order = found.scores.argsort(descending=True, stable=True)
    keep = order[found.scores[order] >= confidence][:most]
    return Detections(*(value[keep] for value in found))
