"""Torchvision's detectors: candidates are read off the modules before the suppression."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..capture.taps import unchanged
from ..layers.grid import Grid
from ..spatial.geometry import Window, project
from .base import Candidate
from .candidates import Candidates, Detections, DetectorOutputs, trace
from .detection import DetectionModel

Size = tuple[int, int]


class Parts(NamedTuple):
    """What a detector and its parts returned.

    Attributes:
        found: the module's own result, a dict per image
        sizes: N (height, width) the images were resized to
        head: the class and box predictions
        anchors: what these are relative to: anchors of each image, or the proposals' network's result
        pooled: of an R-CNN the levels, proposals and sizes that its box head saw, to compute the
            scores of one proposal again; None where rules are around the forward
    """

    found: list[dict[str, Tensor]]
    sizes: list[Size]
    head: Any
    anchors: Any
    pooled: tuple | None = None


class TorchvisionDetector(DetectionModel):
    """Faster, Mask and Keypoint R-CNN, RetinaNet, FCOS, SSD.

    They take images of any size with values in [0, 1], and normalise, resize and pad them on their
    own, which is undone: boxes are in the input's pixels and maps tile the input. A class is the
    label that the model returns; of R-CNNs and SSD, 0 is the background.

    Args:
        module: the detector
        **options: of :class:`DetectionModel`
    """

    def __init__(self, module: nn.Module, **options: Any):
        self.two_stage = hasattr(module, "roi_heads")
        self.softmax = self.two_stage or _kind(module) == "SSD"
        super().__init__(module, **{"background": 0 if self.softmax else None, **options})
        self._sizes: dict[Size, tuple[Size, Size]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this is a detector of ``torchvision.models.detection``."""
        return _kind(module) is not None

    def run(self, images: Tensor) -> Parts:
        """Calls the module with a list of images, and keeps what its parts return."""
        head = "roi_heads.box_predictor" if self.two_stage else "head"
        anchors = "rpn" if self.two_stage else "anchor_generator"
        with (
            self._watched("transform", "backbone", head, anchors) as seen,
            self._pooling() as pooled,
            self._down_to_threshold(),
        ):
            raw = self.module(list(images))
        features = seen["backbone"]
        if isinstance(features, Mapping):
            # Of an R-CNN's levels the objects are cut from some, the others make proposals only.
            heads: Any = getattr(self.module, "roi_heads", None)
            cut = heads.box_roi_pool.featmap_names if self.two_stage else features
            self._shapes = {
                f"backbone:{k}": tuple(f.shape) for k, f in features.items() if k in cut
            }
        else:
            self._shapes = {"backbone": tuple(features.shape)}
        self.levels = list(self._shapes)
        # Where gradients go to the pixels, rules and watchers belong to the one forward.
        own = pooled[-1] if pooled and not images.requires_grad else None
        return Parts(raw, seen["transform"][0].image_sizes, seen[head], seen[anchors], own)

    @contextlib.contextmanager
    def _down_to_threshold(self) -> Iterator[None]:
        """Lets the module return what lies between its own least score and a lower threshold."""
        owner: Any = self.module.get_submodule("roi_heads") if self.two_stage else self.module
        before = owner.score_thresh
        owner.score_thresh = min(before, self.threshold)
        try:
            yield
        finally:
            owner.score_thresh = before

    @contextlib.contextmanager
    def _pooling(self) -> Iterator[list[tuple]]:
        """Keeps what the box head of an R-CNN is given."""
        seen: list[tuple] = []
        if not self.two_stage:
            yield seen
            return
        pool = self.module.get_submodule("roi_heads.box_roi_pool")
        handle = pool.register_forward_pre_hook(lambda module, args: seen.append(args))
        try:
            yield seen
        finally:
            handle.remove()

    @contextlib.contextmanager
    def _watched(self, *names: str) -> Iterator[dict[str, Any]]:
        seen: dict[str, Any] = {}
        handles = []
        try:
            for name in names:
                handles.append(
                    self.module.get_submodule(name).register_forward_hook(
                        lambda module, args, output, name=name: seen.__setitem__(name, output)
                    )
                )
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def read(self, raw: Parts, images: Tensor) -> list[Candidates]:
        """Decodes every anchor or proposal, as the module does for those that survive.

        Args:
            raw: what :meth:`run` returned
            images: (N, 3, H, W)
        """
        scale = self._scale((images.shape[-2], images.shape[-1]))
        decode = self._two_stage if self.two_stage else self._one_stage
        found = decode(raw.head, raw.anchors)
        rows = []
        for i, ((boxes, logits, probabilities), size) in enumerate(
            zip(found, raw.sizes, strict=True)
        ):
            height, width = size
            limit = boxes.new_tensor([width, height, width, height])
            inside = torch.minimum(boxes.clamp_min(0), limit)
            own = functools.partial(self._again, raw.pooled, i) if raw.pooled else None
            rows.append(Candidates(inside * scale.to(boxes), logits, probabilities, own))
        return rows

    def _again(self, pooled: tuple, image: int, place: int) -> Tensor:
        """(C,) the class scores of one proposal of an image, by the head for it alone."""
        # Proposals do not see each other in the head, so these are the scores that it has among
        # all; a backward through the head of a thousand takes seconds.
        levels, proposals, sizes = pooled
        heads: Any = self.module.get_submodule("roi_heads")
        chosen = [p[place : place + 1] if i == image else p[:0] for i, p in enumerate(proposals)]
        return heads.box_predictor(heads.box_head(heads.box_roi_pool(levels, chosen, sizes)))[0][0]

    def _two_stage(self, head: Any, rpn: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        logits, deltas = head
        proposals = rpn[0]
        counts = [len(p) for p in proposals]
        coder: Any = self.module.get_submodule("roi_heads").box_coder
        with torch.no_grad():
            # without any proposal the coder leaves the boxes of the classes in one row
            boxes = coder.decode(deltas.detach(), proposals).reshape(*logits.shape, 4)
            probabilities = logits.detach().softmax(-1)
        return zip(
            boxes.split(counts), logits.split(counts), probabilities.split(counts), strict=True
        )

    def _one_stage(self, head: Mapping, anchors: Sequence) -> Iterator:
        logits, deltas = head["cls_logits"], head["bbox_regression"].detach()
        centre = head.get("bbox_ctrness")
        coder: Any = self.module.box_coder
        decode = getattr(coder, "decode_single", coder.decode)
        with torch.no_grad():
            boxes = [decode(d, a) for d, a in zip(deltas, anchors, strict=True)]
            values = logits.detach()
            probabilities = values.softmax(-1) if self.softmax else values.sigmoid()
            if centre is not None:
                probabilities = (probabilities * centre.detach().sigmoid()).sqrt()
        return zip(boxes, logits, probabilities, strict=True)

    def detections(self, outputs: DetectorOutputs) -> list[Detections]:
        """Returns what the module returned, and which candidate each came from.

        Args:
            outputs: what :meth:`forward` returned
        """
        rows = []
        for candidates, found in zip(outputs.candidates, outputs.raw.found, strict=True):
            boxes, labels = found["boxes"].detach(), found["labels"]
            scores = found["scores"].detach()
            rows.append(Detections(boxes, labels, scores, trace(candidates, boxes, labels, scores)))
        return rows

    def default_layers(self, images: Tensor) -> list[str]:
        """Returns all levels of the backbone's pyramid that objects are found on.

        Args:
            images: (N, 3, H, W)
        """
        if not self.levels:
            with torch.no_grad(), unchanged(self.module):
                self.run(images[:1])
        return list(self.levels)

    def layer_candidates(self, images: Tensor) -> list[Candidate]:
        """Lists the layers with a spatial grid, the levels of the pyramid under their own names.

        Args:
            images: (N, 3, H, W)
        """
        rows = super().layer_candidates(images)
        known = {row.name for row in rows}
        backbone = self.module.get_submodule("backbone")
        for name, shape in self._shapes.items():
            grid = Grid("NCHW", shape[2], shape[3])
            if name not in known:
                entry = name.partition(":")[2] or None
                rows.append(Candidate(name, backbone, shape, grid, entry))
        return rows

    def assumed_grid(self, name: str, shape: tuple[int, ...], image_size: Size) -> Grid | None:
        """Returns how a layer's output lies on the image by its shape and type; None if it has no grid."""
        return super().assumed_grid(name, shape, self._geometry(image_size)[1])

    def on_input(self, maps: Tensor, image_size: Size) -> Tensor:
        """Cuts off what the module pads its resized images with.

        Args:
            maps: (..., h, w) on a layer's grid
            image_size: (H, W) of the model's input
        """
        (height, width), padded = self._geometry(image_size)
        if (height, width) == padded:
            return maps
        window = Window((height, width), 0.0, 0.0, float(padded[1]), float(padded[0]))
        rows = max(1, round(maps.shape[-2] * height / padded[0]))
        columns = max(1, round(maps.shape[-1] * width / padded[1]))
        return project(maps, window, (rows, columns))

    def _scale(self, image_size: Size) -> Tensor:
        (height, width), _ = self._geometry(image_size)
        across, down = image_size[1] / width, image_size[0] / height
        return torch.tensor([across, down, across, down])

    def _geometry(self, image_size: Size) -> tuple[Size, Size]:
        """The sizes that the module resizes an image to, and then pads it to."""
        if image_size not in self._sizes:
            like = next(self.module.parameters())
            blank = torch.zeros(3, *image_size, device=like.device, dtype=like.dtype)
            with torch.no_grad(), unchanged(self.module):
                batch, _ = self.module.transform([blank])  # type: ignore[operator]
            height, width = batch.image_sizes[0]
            padded = (int(batch.tensors.shape[-2]), int(batch.tensors.shape[-1]))
            self._sizes[image_size] = ((int(height), int(width)), padded)
        return self._sizes[image_size]


_KINDS = ("GeneralizedRCNN", "RetinaNet", "FCOS", "SSD")


def _kind(module: nn.Module) -> str | None:
    for kind in type(module).__mro__:
        if kind.__module__.startswith("torchvision.models.detection.") and kind.__name__ in _KINDS:
            return kind.__name__
    return None
