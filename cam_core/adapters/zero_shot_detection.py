"""Zero-shot detectors of transformers: OWL-ViT, Grounding DINO and LLMDet, OmDet-Turbo.

A class is a text, or several; the texts are encoded once. Minderer et al., Simple open-vocabulary
object detection, ECCV 2022; Liu et al., Grounding DINO, ECCV 2024; Zhao et al., OmDet-Turbo, 2024.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..spatial.boxes import corners, suppress
from .candidates import Candidates, Detections, DetectorOutputs, pick_pairs
from .detectors_transformers import TransformersDetector

# class -> where its text tower is; OmDet-Turbo remembers its texts itself
_TOWERS = {
    "OwlViTForObjectDetection": "owlvit.text_model",
    "Owlv2ForObjectDetection": "owlv2.text_model",
    "GroundingDinoForObjectDetection": "model.text_backbone",
    "MMGroundingDinoForObjectDetection": "model.text_backbone",
    "OmDetTurboForObjectDetection": None,
}
# OmDet-Turbo's processor suppresses boxes of a class from this overlap on.
_SUPPRESSION = 0.5


class ZeroShotDetector(TransformersDetector):
    """A network that finds what it is asked for in words: each query is a candidate.

    The score of a class is the largest logit of its columns: those of its prompts, or of its tokens
    where the network scores every token of the text.

    Args:
        module: the detector
        texts (None): what the network's processor made of the texts for one image: a mapping of
            tensors, such as ``input_ids`` and ``attention_mask``
        columns (None): for each class the columns of the logits that are its own; by default each
            column is a class
        **options: of :class:`DetectionModel`

    Raises:
        ValueError: if the texts hold no tensors, or a class has no column
    """

    family = "zero-shot detector"

    def __init__(
        self,
        module: nn.Module,
        texts: Mapping[str, Any] | None = None,
        columns: Sequence[Sequence[int]] | None = None,
        **options: Any,
    ):
        super().__init__(module, **options)
        self.texts = {k: v for k, v in (texts or {}).items() if isinstance(v, Tensor)}
        if texts is not None and not self.texts:
            raise ValueError(
                "texts: must map names such as input_ids to tensors, and none is there"
            )
        if columns is not None and not all(len(own) for own in columns):
            raise ValueError("columns: each class needs at least one column of the logits")
        self.columns = None if columns is None else [list(own) for own in columns]
        self._name = _kind(module) or ""
        self._answers: dict[Any, Any] = {}

    @classmethod
    def matches(cls, module: nn.Module) -> bool:
        """Whether this is a detector of transformers that takes texts beside images."""
        return _kind(module) is not None

    def run(self, images: Tensor) -> Any:
        """Calls the module with the same texts for every image.

        Args:
            images: (N, 3, H, W)

        Raises:
            ValueError: if no texts were given
        """
        if not self.texts:
            raise ValueError(
                f"{type(self.module).__name__} finds what it is asked for in words; pass "
                "ZeroShotDetector(model, texts=what its processor makes of them, columns=...)"
            )
        count = images.shape[0]
        texts = {k: _tiled(v.to(images.device), count) for k, v in self.texts.items()}
        with self._remembered(count):
            return self.module(pixel_values=images, **texts)

    @contextlib.contextmanager
    def _remembered(self, count: int) -> Iterator[None]:
        """Lets the text tower answer what it said the first time; the module is left as it came."""
        path = _TOWERS.get(self._name)
        if path is None:
            yield
            return
        tower = self.module.get_submodule(path)
        like = next(tower.parameters())
        key = (like.device, like.dtype, torch.is_autocast_enabled(like.device.type))
        forward = tower.forward

        def answer(*args: Any, **kwargs: Any) -> Any:
            if key not in self._answers:
                own = [_first(a, count) for a in args]
                named = {k: _first(v, count) for k, v in kwargs.items()}
                with torch.no_grad():
                    self._answers[key] = forward(*own, **named)
            return _tiled(self._answers[key], count)

        before = tower.__dict__.get("forward")
        tower.__dict__["forward"] = answer
        try:
            yield
        finally:
            if before is None:
                del tower.__dict__["forward"]
            else:
                tower.__dict__["forward"] = before

    def read(self, raw: Any, images: Tensor) -> list[Candidates]:
        """Takes the queries' scores of each class and boxes.

        Args:
            raw: what the module returned
            images: (N, 3, H, W)
        """
        if self._suppresses:
            logits, boxes = raw.decoder_class_logits, raw.decoder_coord_logits
        else:
            logits, boxes = raw.logits, raw.pred_boxes
        if self.columns is not None:
            logits = torch.stack([logits[..., own].amax(-1) for own in self.columns], -1)
        size = images.new_tensor([images.shape[-1], images.shape[-2]]).repeat(2)
        places = corners(boxes.detach()) * size
        sure = logits.detach().sigmoid()
        return [Candidates(*row) for row in zip(places, logits, sure, strict=True)]

    def detections(self, outputs: DetectorOutputs) -> list[Detections]:
        """Returns each query's best class; of OmDet-Turbo pairs of both, suppressed.

        Args:
            outputs: what :meth:`forward` returned
        """
        if not self._suppresses:
            return [self._without_suppression(c) for c in outputs.candidates]
        rows = []
        for candidates in outputs.candidates:
            d = pick_pairs(candidates, self.confidence, len(candidates.logits))
            keep = suppress(d.boxes, d.scores, d.labels, _SUPPRESSION)
            rows.append(Detections(*(value[keep] for value in d)))
        return rows

    @property
    def _suppresses(self) -> bool:
        return self._name == "OmDetTurboForObjectDetection"


def _kind(module: nn.Module) -> str | None:
    for kind in type(module).__mro__:
        if kind.__name__ in _TOWERS and kind.__module__.startswith("transformers."):
            return kind.__name__
    return None


def _first(value: Any, count: int) -> Any:
    """What belongs to the first of the images, the same texts being repeated for each."""
    if isinstance(value, Tensor) and value.dim() and value.shape[0] % count == 0:
        return value[: value.shape[0] // count]
    return value


def _tiled(value: Any, count: int) -> Any:
    """Tensors repeated for each image, also those in a tuple or a model's output."""
    if isinstance(value, Tensor):
        return value.repeat(count, *[1] * (value.dim() - 1)) if count > 1 else value.clone()
    if isinstance(value, Mapping):
        return type(value)(**{k: _tiled(v, count) for k, v in value.items()})
    if isinstance(value, tuple):
        return tuple(_tiled(v, count) for v in value)
    return value


def columns_of_tokens(
    input_ids: Sequence[int], prompts: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Finds each prompt's tokens in the tokens of all of them, one after the other.

    Args:
        input_ids: of the text that all prompts make together
        prompts: the token ids of each prompt alone, without special tokens

    Returns:
        for each prompt the places of its tokens

    Raises:
        ValueError: if a prompt is not found
    """
    ids, start, found = list(input_ids), 0, []
    for number, prompt in enumerate(prompts):
        own = list(prompt)
        places = (i for i in range(start, len(ids) - len(own) + 1) if ids[i : i + len(own)] == own)
        place = next(places, None) if own else None
        if place is None:
            raise ValueError(
                f"texts: prompt {number + 1} is not found among the text's {len(ids)} tokens; where the "
                "tokeniser cuts long texts, give shorter or fewer prompts"
            )
        found.append(list(range(place, place + len(own))))
        start = place + len(own)
    return found
