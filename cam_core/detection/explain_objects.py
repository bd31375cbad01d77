"""A detector's objects, one by one: a map for each from all feature levels, and what it lies on."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..adapters.adapt import adapt
from ..adapters.base import ExplainableModel
from ..adapters.candidates import Detections
from ..adapters.detection import MOST_OBJECTS, DetectionModel
from ..adapters.object_targets import object_targets
from ..adapters.readings import CONTRACT
from ..capture.taps import exclusive, unchanged
from ..engine.explain import Explanation, explain
from ..metrics.object_profile import box_coverage
from ..places.place import Place
from ..spatial import maps as maps_
from ..spatial.boxes import boxes_to_image
from ..spatial.extent import WHOLE
from ..spatial.geometry import Window, project
from ..spatial.masks import box_masks
from .object_choice import ObjectChoice, missed_objects

__all__ = [
    "ObjectExplanation",
    "ObjectShares",
    "detect",
    "explain_objects",
    "fuse_levels",
    "missed_objects",
    "object_shares",
]

Size = tuple[int, int]


class ObjectShares(NamedTuple):
    """Where an object's heat lies, as shares that sum to 1; NaN without heat or object.

    Attributes:
        inside: (N, K) in the object's own box
        on_others: (N, K) outside of it, in the boxes of other objects
        elsewhere: (N, K) in no box
    """

    inside: Tensor
    on_others: Tensor
    elsewhere: Tensor


@dataclasses.dataclass
class ObjectExplanation:
    """The result of :func:`explain_objects`; K is the largest number of objects in an image.

    Attributes:
        maps: ``{method: (N, K, h, w)}`` non-negative maps, the maximum over all feature levels, on the
            finest level's grid, which tiles the input; in units of the method, so that objects can be
            compared; NaN where ``valid`` is false
        boxes: (N, K, 4) the objects, left, top, right, bottom in the input's pixels; NaN for none
        labels: (N, K) their classes, -1 for none
        valid: (N, K) which objects exist and have a candidate
        scores: (N, K) the class logit of the candidate; NaN where ``valid`` is false
        probabilities: (N, K) its confidence in the class, in [0, 1]
        found: (N, K, 4) its box
        ious: (N, K) how far that and the object overlap, in [0, 1]
        candidates: (N, K) its index among the image's candidates, -1 for none
        class_free: ``{method: (N, h, w)}`` the maps of methods that have no class, the maximum over all
            feature levels, also of images without an object
        objects: (N, K) which object of the image it is: an index into the boxes that were given, or
            into the model's own detections, the strongest first; -1 for none
        explanation: the :class:`cam_core.Explanation` with the signed maps of each level
    """

    maps: dict[str, Tensor]
    boxes: Tensor
    labels: Tensor
    valid: Tensor
    scores: Tensor
    probabilities: Tensor
    found: Tensor
    ious: Tensor
    candidates: Tensor
    objects: Tensor
    explanation: Explanation
    class_free: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def heatmaps(self, size: Size | None = None) -> dict[str, Tensor]:
        """Upsampled maps, each divided by its maximum.

        Args:
            size (None): (H, W); the input's size by default

        Returns:
            ``{method: (N, K, H, W)}`` in [0, 1]; NaN where ``valid`` is false
        """
        shape = size or self.explanation.input_size
        return {method: maps_.heatmaps(m, shape) for method, m in self.maps.items()}

    def status(self) -> dict[str, list[list[str]]]:
        """Says of each map whether it is ``"ok"``, ``"zero"``, ``"flat"`` or ``"nan"``."""
        return {method: maps_.status(m) for method, m in self.maps.items()}

    def class_maps(self, method: str, equal: bool = True) -> dict[int, Tensor]:
        """One map per class: the maximum over its objects.

        Args:
            method: a key of ``maps``
            equal (True): whether each object's map is divided by its maximum before, so that weak ones
                are seen beside strong ones

        Returns:
            ``{class: (N, h, w)}``; NaN for an image without an object of the class

        Raises:
            ValueError: if the method was not computed
        """
        return {
            int(label): self._maximum(method, equal, self.labels == label)
            for label in self.labels[self.valid].unique()
        }

    def all_objects(self, method: str, equal: bool = True) -> Tensor:
        """(N, h, w) the maximum over all objects; see :meth:`class_maps`."""
        return self._maximum(method, equal, torch.ones_like(self.valid))

    def _maximum(self, method: str, equal: bool, among: Tensor) -> Tensor:
        maps = self._of(method)
        wanted = (self.valid & among).to(maps.device) & maps.isfinite().flatten(2).all(2)
        values = maps_.normalise(maps) if equal else maps
        top = values.masked_fill(~wanted[..., None, None], -torch.inf).amax(1)
        return top.masked_fill(~wanted.any(1)[:, None, None], torch.nan)

    def shares(
        self,
        method: str,
        others: Sequence[Tensor] | None = None,
        size: Size = (224, 224),
        windows: Sequence[Window] | None = None,
    ) -> ObjectShares:
        """Says of each object's heat how much lies in its box, on other objects and elsewhere.

        Args:
            method: a key of ``maps``
            others (None): N tensors (M_i, 4) of all objects in the images, in the input's pixels, the
                explained ones among them or not; by default the explained ones
            size ((224, 224)): of the heat that is measured, which covers the picture whatever its aspect
            windows (None): what the model saw of each picture: shares are then of the heat on the
                picture, without what lies on a letterbox's padding. By default the input is the picture

        Returns:
            :class:`ObjectShares`

        Raises:
            ValueError: if the method was not computed
        """
        height, width = self.explanation.input_size
        maps, rest = self._of(method), None if others is None else _padded(others)
        seen = list(windows or [Window.whole(height, width)] * len(maps))
        shares = []
        for i, window in enumerate(seen):
            # Boxes and heat of one image at a time: each has its own window.
            frame = torch.tensor([*reversed(window.image)] * 2, dtype=torch.float32)
            sides = (height, width)
            own = boxes_to_image(self.boxes[i : i + 1], window, sides) / frame
            every = None if rest is None else boxes_to_image(rest[i : i + 1], window, sides) / frame
            shares.append(object_shares(project(maps[i : i + 1], window, size), own, every))
        return ObjectShares(*(torch.cat(column) for column in zip(*shares, strict=True)))

    def _of(self, method: str) -> Tensor:
        if method not in self.maps:
            raise ValueError(
                f"method {method!r} was not computed; choose from {', '.join(self.maps)}"
            )
        return self.maps[method]


def explain_objects(
    model: nn.Module | ExplainableModel,
    images: Tensor,
    boxes: Sequence[Tensor] | None = None,
    labels: Sequence[Tensor] | None = None,
    methods: Any = None,
    layers: Any = None,
    *,
    min_iou: float = 0.5,
    prefer: str = "score",
    missed: bool = False,
    classes: Sequence[int] | None = None,
    most: int | None = MOST_OBJECTS,
    precision: str | None = None,
    seed: int = 51,
) -> ObjectExplanation:
    """Explains a detector's objects one by one: one forward, and a backward of the head for each.

    The score of an object is the logit of its class at one candidate, before suppression, so that an
    object that the model has missed can be explained as well as one it has found. With ``"hirescam"``
    the maps are ODAM's (Zhao and Chan, ICLR 2023) but for its smoothing of the gradient.

    Example::

        result = explain_objects(detector, images)                      # its own detections
        result = explain_objects(detector, images, boxes, labels)       # given ones
        explain_objects(detector, images, boxes, labels, missed=True)   # of these, what it misses
        result.heatmaps()["layercam"]                                   # (N, K, H, W)
        result.shares("layercam").inside                                # (N, K)

    Args:
        model: a detector that is recognised, or a :class:`DetectionModel`
        images: (N, 3, H, W), as the detector takes them
        boxes (None): N tensors (K_i, 4): left, top, right, bottom in the input's pixels; by default the
            model's own detections from its confidence on
        labels (None): N tensors (K_i,) of class indices of the model
        methods (None): see :func:`cam_core.explain`; by default ``"layercam"``, and for DETR and its
            relatives, whose features have both signs, ``"gradcam_elementwise"``
        layers (None): names, globs or modules; all feature levels by default
        min_iou (0.5): the least overlap of an object and its candidate, in (0, 1]
        prefer ("score"): which candidate of those: ``"score"``, the strongest of the class, for ground
            truth; ``"overlap"``, the nearest, for predictions, as always for the model's own
        missed (False): whether of the given objects only those are explained that no detection of
            their class matches, from the model's confidence on
        classes (None): only objects of these classes
        most (20): at most so many of the model's own detections per image, the strongest, or of the
            missed objects, the first; None for all
        precision (None): see :func:`cam_core.explain`
        seed (51): of methods that draw random numbers

    Raises:
        ValueError: if an argument is not understood, or the model is no detector
    """
    adapted = adapt(model)
    _check_detector(adapted)
    _check_given(images, boxes, labels, missed)
    detector = cast(DetectionModel, adapted)
    choice = ObjectChoice(
        detector.detections,
        detector.confidence,
        boxes,
        labels,
        missed,
        classes,
        most,
        min_iou,
        prefer,
    )
    # A copy that predicts what was chosen: which objects these are is known after the forward only.
    chooser: Any = copy.copy(adapted)
    chooser.predicted = choice
    named = adapted.default_method if methods is None else methods
    result = explain(chooser, images, named, "predicted", layers, precision=precision, seed=seed)
    rows = result.details
    free = {key: maps[:, None] for key, maps in result.class_free.items()}
    return ObjectExplanation(
        maps=_fused(result.maps, result.places),
        boxes=torch.stack([row.boxes for row in rows], 1),
        labels=torch.stack([row.labels for row in rows], 1),
        valid=result.valid,
        scores=result.scores,
        probabilities=torch.stack([row.probabilities for row in rows], 1),
        found=torch.stack([row.found for row in rows], 1),
        ious=torch.stack([row.ious for row in rows], 1),
        candidates=torch.stack([row.candidates for row in rows], 1),
        objects=choice.indices(),
        explanation=result,
        class_free={m: maps[:, 0] for m, maps in _fused(free, result.places).items()},
    )


def _check_given(images: Tensor, boxes: Any, labels: Any, missed: bool) -> None:
    if boxes is None and labels is None:
        if missed:
            raise ValueError(
                "missed: which objects are missed is only known of given ones; give boxes"
            )
        return
    if boxes is None or labels is None:
        raise ValueError("boxes and labels belong together; give both, or none")
    if len(boxes) != len(images):
        raise ValueError(f"boxes must be {len(images)}, one per image, got {len(boxes)}")
    object_targets(boxes, labels)  # says what does not fit


def _check_detector(model: ExplainableModel) -> None:
    # Not isinstance: the plugin's cam_core is a second copy beside the one that users import.
    if not hasattr(model, "detections"):
        raise ValueError(
            f"model: {type(model.module).__name__} is no detector that is recognised; pass "
            f"adapt(model, read=a callable): {CONTRACT}"
        )


def _fused(
    levels: Mapping[tuple[str, str], Tensor], places: Mapping[str, Place]
) -> dict[str, Tensor]:
    """The maximum over levels."""
    # Not of maps divided by their maxima: a level on which the object is not found would count as
    # much as the one on which it is.
    by_method: dict[str, list[Tensor]] = {}
    for (method, layer), maps in levels.items():
        if layer in places and places[layer].extent != WHOLE:
            raise ValueError(
                f"layers: the cells of {layer!r} do not tile the input (the detector pads or crops on its own: "
                f"{places[layer].describe()}); pad or crop in the transforms instead"
            )
        by_method.setdefault(method, []).append(maps_.rectify(maps))
    return {method: fuse_levels(maps) for method, maps in by_method.items()}


def fuse_levels(maps: Sequence[Tensor]) -> Tensor:
    """The maximum of a pyramid's maps, on the finest grid.

    Args:
        maps: (N, K, h, w) per level, each grid tiling the same image

    Returns:
        (N, K, h, w) in the units of the maps
    """
    size = max(((m.shape[-2], m.shape[-1]) for m in maps), key=lambda s: s[0] * s[1])
    return torch.stack([maps_.upsample(m, size) for m in maps]).amax(0)


def object_shares(heat: Tensor, boxes: Tensor, others: Tensor | None = None) -> ObjectShares:
    """Says of each object's heat how much lies in its box, on other objects and elsewhere.

    Args:
        heat: (N, K, H, W) non-negative, a map per object
        boxes: (N, K, 4) left, top, right, bottom as shares of the frame's width and height; NaN for none
        others (None): (N, M, 4) all objects of the images; the explained ones by default. What of
            another box lies in the object's own is the object's

    Returns:
        :class:`ObjectShares` of (N, K); NaN for an object without a box and a map without heat

    Raises:
        ValueError: if the shapes do not fit
    """
    if heat.dim() != 4 or boxes.shape != (*heat.shape[:2], 4):
        raise ValueError(
            f"boxes must have shape (N, K, 4) for heat of shape (N, K, H, W), got {tuple(boxes.shape)} "
            f"and {tuple(heat.shape)}"
        )
    count, objects = heat.shape[:2]
    boxes = boxes.to(heat)
    flat, own = heat.flatten(0, 1), boxes.flatten(0, 1)
    inside = box_coverage(flat, own).unflatten(0, (count, objects)).clamp(0, 1)
    every = boxes if others is None else others.to(heat)
    size = (heat.shape[-2], heat.shape[-1])
    mine = box_masks(boxes, size)
    rest = box_masks(every, size).nan_to_num(0)
    on_others = torch.full_like(inside, torch.nan)
    for k in range(objects):
        apart = rest
        if others is None:
            apart = rest.clone()
            apart[:, k] = 0
        covered = apart.amax(1) if apart.shape[1] else torch.zeros_like(heat[:, 0])
        # Not covered * (1 - mine): of a pixel at the edge of the object's own box, which is among
        # all boxes, a part would count as another's.
        outside = (covered - mine[:, k]).clamp_min(0)
        on_others[:, k] = (heat[:, k] * outside).sum((1, 2)) / heat[:, k].sum((1, 2))
    on_others = torch.minimum(on_others.clamp_min(0), 1 - inside)
    return ObjectShares(inside, on_others, (1 - inside - on_others).clamp(0, 1))


def _padded(boxes: Sequence[Tensor]) -> Tensor:
    """(N, M, 4) of ragged lists, NaN where an image has fewer."""
    most = max((len(b) for b in boxes), default=0)
    result = torch.full((len(boxes), most, 4), torch.nan)
    for i, box in enumerate(boxes):
        result[i, : len(box)] = torch.as_tensor(box).detach().cpu().float().reshape(-1, 4)
    return result


def detect(model: nn.Module | ExplainableModel, images: Tensor) -> list[Detections]:
    """Runs a detector and leaves it as it came.

    Args:
        model: a detector that is recognised, or a :class:`DetectionModel`
        images: (N, 3, H, W), as the detector takes them

    Returns:
        its final :class:`Detections` in each image

    Raises:
        ValueError: if the model is no detector
    """
    adapted = adapt(model)
    _check_detector(adapted)
    adapted = cast(DetectionModel, adapted)
    with exclusive(adapted.module), torch.no_grad(), unchanged(adapted.module):
        return adapted.detections(adapted.forward(images))
