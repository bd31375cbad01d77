"""Semantic segmentation: a target is a class summed over pixels."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.layer import describe
from ..targets.composite import predicted_masks
from .base import Candidate, ExplainableModel
from .ending import Ending, are_scored
from .outputs import OutputPath, find_scores, take

# A prediction names at most this many classes of a picture.
_MOST_CLASSES = 2


class SegmentationModel(ExplainableModel):
    """A network that returns (N, C, h, w) class scores, alone, as ``"out"`` or as ``"logits"``.

    A pixel shows the class with the highest score; of one channel, or of channels that are
    probabilities of their own (``multi_label``), every class from the threshold on. (N, h, w) is one
    channel. The score of a class is the sum of its logits over the pixels where it is predicted. Other
    pixels are asked for with :func:`mask_target`.

    Args:
        module: the model
        background (None): the class that is never "predicted". By default class 0 of torchvision's own
            networks of 21 classes, whose class 0 is called so, else none; False for none
        **options: of :class:`cam_core.ExplainableModel`
    """

    family = "segmentation network"
    # Sums over many pixels have gradients that differ from place to place.
    default_method = "layercam"
    score_dims = (4, 3)

    def __init__(self, module: nn.Module, *, background: int | bool | None = None, **options: Any):
        super().__init__(module, **options)
        if background is None:
            background = _background_of(module)
        elif background is False:
            background = None
        elif isinstance(background, bool) or not isinstance(background, int) or background < 0:
            raise ValueError(
                f"background: {background!r} is no class index; give the index of the class that is the "
                "background, or False if there is none"
            )
        self.background: int | None = background

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this is a network of torchvision or transformers for semantic segmentation."""
        for kind in type(module).__mro__:
            if kind.__module__.startswith("torchvision.models.segmentation."):
                return True
            named = kind.__name__.endswith("ForSemanticSegmentation")
            if named and kind.__module__.startswith("transformers."):
                return True
        return False

    def find(self, outputs: Any, dims: int | None = None) -> Tensor | None:
        """Finds the scores of pixels, see :meth:`cam_core.ExplainableModel.find`."""
        known = self.output is None and isinstance(outputs, dict) and "out" in outputs
        # torchvision; "aux" beside it is for training
        return super().find(outputs["out"] if known else outputs, dims)

    def _wanted(self) -> str:
        return "class scores of shape (N, classes, height, width)"

    def _needs_reading(self, ending: Ending) -> bool:
        own = self.multi_label or self.cut != 0 or len(ending.row_shape or ()) == 2
        return super()._needs_reading(ending) or (own and ending.row_shape is not None)

    def pixels(self, outputs: Any) -> Tensor:
        """Returns the (N, C, h, w) logits of the pixels.

        Args:
            outputs: what the model returned

        Raises:
            ValueError: if there are none; the message says what came out instead
        """
        scores = self.raw_scores(outputs)
        return scores[:, None] if scores.dim() == 3 else scores

    def masks(self, pixels: Tensor) -> Tensor:
        """Returns (N, C, h, w) where each class is predicted, 1 or 0.

        Args:
            pixels: (N, C, h, w) logits
        """
        return predicted_masks(pixels, self.cut, self.multi_label)

    def logits(self, outputs: Any) -> Tensor:
        """Returns (N, C): each class's logits summed over its predicted pixels, 0 where it has none.

        Args:
            outputs: what the model returned
        """
        scores = self.pixels(outputs)
        return (scores * self.masks(scores)).sum((2, 3))

    def probabilities(self, outputs: Any) -> Tensor:
        """Returns (N, C) probabilities of the classes.

        Of one channel, and of channels that are probabilities of their own, the highest of the pixels;
        else the softmax of :meth:`logits`.

        Args:
            outputs: what the model returned
        """
        scores = self.pixels(outputs).float()
        if scores.shape[1] == 1 or self.multi_label:
            return scores.sigmoid().amax((2, 3))
        return (scores * self.masks(scores)).sum((2, 3)).softmax(1)

    def candidates(self, outputs: Any) -> Tensor:
        """Returns (N, C) how many pixels each class is predicted for, -1 for the background.

        Args:
            outputs: what the model returned

        Raises:
            ValueError: if the background is no class of the model
        """
        areas = self.masks(self.pixels(outputs).detach()).sum((2, 3)).float()
        if self.background is not None:
            if self.background >= areas.shape[1]:
                raise ValueError(
                    f"background: class index {self.background} is out of range; the model has "
                    f"{areas.shape[1]} classes"
                )
            areas[:, self.background] = -1
        return areas

    def predicted(self, outputs: Any) -> Tensor:
        """Returns (N, K <= 2) the largest predicted classes but the background, -1 for none.

        Args:
            outputs: what the model returned
        """
        areas = self.candidates(outputs)
        values, indices = areas.topk(min(_MOST_CLASSES, areas.shape[1]), dim=1)
        indices = indices.masked_fill(values <= 0, -1)
        keep = [0, *(i for i in range(1, indices.shape[1]) if bool((indices[:, i] >= 0).any()))]
        return indices[:, keep].cpu()

    def probe_score(self, outputs: Any) -> Tensor:
        """Returns (N,) the winning logits summed over all pixels.

        Args:
            outputs: what the model returned
        """
        return self.pixels(outputs).amax(1).sum((1, 2))

    def stages(self, images: Tensor) -> list[str]:
        """Lists the backbone's stages, the finest first.

        Args:
            images: (N, 3, H, W) a batch of the size the model is used with

        Returns:
            names of layers: ``backbone.layer1`` to ``backbone.layer4`` of a ResNet, else the last
            layer of each resolution
        """
        rows = self._backbone(images)
        named = [row.name for row in rows if row.name.rpartition(".")[2] in _RESNET_STAGES]
        if len(named) == len(_RESNET_STAGES):
            return named
        last = {(row.grid.height, row.grid.width): row.name for row in rows if row.grid}
        return [last[size] for size in sorted(last, reverse=True)][-len(_RESNET_STAGES) :]

    def probe_candidates(self, images: Tensor) -> list[Candidate]:
        """Lists the layers of the backbone, in order of completion.

        Args:
            images: (N, 3, H, W)
        """
        return self._backbone(images)

    def _backbone(self, images: Tensor) -> list[Candidate]:
        """The layers before the decoder, but those inside attention; all if it is not known."""
        rows = [
            row
            for row in self.layer_candidates(images)
            if row.entry is None and not self.structure.in_attention(row.name)
        ]
        roots = {"backbone", "encoder", getattr(self.module, "base_model_prefix", None)}
        return [row for row in rows if row.name.partition(".")[0] in roots] or rows


_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")


def pixel_scores(outputs: Any, output: OutputPath = None) -> Tensor:
    """Finds the (N, C, h, w) class scores in a segmentation network's outputs, as logits where known.

    Args:
        outputs: what the model returned
        output (None): where the scores are, if they are not found

    Raises:
        ValueError: if there are none; the message says what came out instead
    """
    if are_scored(outputs):
        return outputs.logits[:, None] if outputs.logits.dim() == 3 else outputs.logits
    value = outputs if output is None else take(outputs, output)
    if output is None and isinstance(outputs, dict) and "out" in outputs:
        value = outputs["out"]  # torchvision; "aux" beside it is for training
    found = find_scores(value, dims=4)
    if found is None:
        raise ValueError(
            f"the model returned {describe(outputs)}, not class scores of shape (N, classes, height, width); "
            "pass output=a key, an index or a callable that says where they are"
        )
    return found


def _masks_of(outputs: Any, scores: Tensor) -> Tensor:
    """Where each class is predicted, with what is known of the network."""
    if are_scored(outputs):
        return predicted_masks(scores, outputs.cut, outputs.independent)
    return predicted_masks(scores)


def background_index(names: Sequence[str]) -> int | None:
    """Returns the class that is called the background, None if there is none.

    Args:
        names: class names in the order of the outputs

    Raises:
        ValueError: if two are called so
    """
    found = [i for i, name in enumerate(names) if _plain(name) in _BACKGROUNDS]
    if len(found) > 1:
        some = ", ".join(f"{names[i]!r} ({i})" for i in found)
        raise ValueError(
            f"background: several classes are called so, {some}; give the index of the one that is never "
            "predicted, or background=False"
        )
    return found[0] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()


_BACKGROUNDS = {"background", "back ground", "bg", "backgr", "unlabeled", "unlabelled", "void"}


def _background_of(module: nn.Module) -> int | None:
    """The background as the network itself says it: by the names in its configuration, or its family."""
    # All weights of torchvision's networks of 21 classes have Pascal VOC's, the first of which is
    # ``"__background__"``.
    for kind in type(module).__mro__:
        if kind.__module__.startswith("torchvision.models.segmentation."):
            wide = (m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d))
            return 0 if _VOC_CLASSES in wide else None
    names = getattr(getattr(module, "config", None), "id2label", None)
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        return background_index([names[i] for i in sorted(names)])
    return None


_VOC_CLASSES = 21


def mask_target(
    class_index: int, mask: Tensor | str | None = "predicted", output: OutputPath = None
) -> MaskTarget:
    """A target: a class summed over pixels.

    Example::

        explain(deeplab, images, targets=mask_target(15))
        explain(deeplab, images, targets=[mask_target(15, mask), mask_target(12, None)])

    Args:
        class_index: the class
        mask ("predicted"): over which pixels: ``"predicted"``, where the class is predicted in the
            outputs at hand; None, all of them; or a tensor (H, W) for every image, (N, H, W) for
            each its own, of booleans or weights >= 0. A mask of another size than the scores is
            averaged onto their grid
        output (None): where the scores are in the model's outputs, if they are not found

    Returns:
        a callable outputs -> (N,), for ``explain(targets=...)``

    Raises:
        ValueError: if the class is negative or the mask is not understood
    """
    if isinstance(class_index, bool) or not isinstance(class_index, int) or class_index < 0:
        raise ValueError(f"class_index must be an integer from 0 on, got {class_index!r}")
    if isinstance(mask, Tensor):
        if mask.dim() not in (2, 3):
            raise ValueError(f"mask must have shape (H, W) or (N, H, W), got {tuple(mask.shape)}")
        mask = mask.detach().reshape(-1, *mask.shape[-2:])
    elif mask not in (None, "predicted"):
        raise ValueError(f"mask: {mask!r} is unknown; choose 'predicted', None or a tensor")
    return MaskTarget(class_index, mask, output)


@dataclasses.dataclass(frozen=True, eq=False)
class MaskTarget:
    """What :func:`mask_target` returns.

    Attributes:
        class_index: the class
        mask: None, ``"predicted"`` or (1 or N, H, W) weights
        output: where the scores are in the model's outputs
    """

    class_index: int
    mask: Tensor | str | None
    output: OutputPath
    #: it is given what is known of the outputs, not only what the module returned
    reads_scores = True

    @property
    def per_image(self) -> bool:
        """Whether images have masks of their own, so that a part of a batch needs its rows."""
        return isinstance(self.mask, Tensor) and len(self.mask) > 1

    def moved(self, flipped: bool, old: tuple[int, int], new: tuple[int, int]) -> MaskTarget:
        """The same target for mirrored or resized images; masks are resized where they are used."""
        if not flipped or not isinstance(self.mask, Tensor):
            return self
        return dataclasses.replace(self, mask=self.mask.flip(-1))

    def __call__(self, outputs: Any, rows: Sequence[int] | None = None) -> Tensor:
        """Returns the (B,) scores.

        Args:
            outputs: what the model returned for B images
            rows (None): which of the N masks belong to them; all in order by default

        Raises:
            ValueError: if the class does not exist or the masks are not as many as the images
        """
        scores = pixel_scores(outputs, self.output)
        if self.class_index >= scores.shape[1]:
            raise ValueError(
                f"targets: class index {self.class_index} is out of range; "
                f"the model has {scores.shape[1]} classes"
            )
        mine = scores[:, self.class_index]
        if self.mask is None:
            return mine.sum((1, 2))
        if isinstance(self.mask, Tensor):
            return (mine * self._weights(scores, rows)).sum((1, 2))
        return (mine * _masks_of(outputs, scores)[:, self.class_index]).sum((1, 2))

    def _weights(self, scores: Tensor, rows: Sequence[int] | None) -> Tensor:
        assert isinstance(self.mask, Tensor)
        mask = self.mask if rows is None or not self.per_image else self.mask[list(rows)]
        if len(mask) not in (1, len(scores)):
            raise ValueError(
                f"targets: there are {len(mask)} masks for {len(scores)} images; give one of shape "
                "(H, W) for all, or as many as images"
            )
        mask = mask.to(scores)[:, None]
        if mask.shape[-2:] != scores.shape[-2:]:
            mask = F.interpolate(mask, scores.shape[-2:], mode="area")
        return mask[:, 0]
