"""Adapters: one file per model family turns a module into an :class:`ExplainableModel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..capture import exclusive, unchanged
from ..layer_list import LayerList
from ..layers import LayerInfo
from .base import ExplainableModel
from .candidates import Candidates, Detections, DetectorOutputs
from .cnn import CnnClassifier
from .detection import DetectionModel
from .detectors_rfdetr import RfDetrDetector
from .detectors_torchvision import TorchvisionDetector
from .detectors_transformers import TransformersDetector
from .detectors_yolo import UltralyticsDetector
from .embedding import EmbeddingModel, component_target, similarity_target
from .object_targets import object_target, object_targets
from .outputs import OutputPath
from .readings import CONTRACT
from .regression import Regressor
from .segmentation import SegmentationModel, mask_target
from .transformer import TransformerClassifier
from .universal import UniversalSegmentationModel
from .zero_shot import ZeroShotClassifier, encode_texts
from .zero_shot_detection import ZeroShotDetector

# The first that matches adapts; the last takes any module.
FAMILIES: list[type[ExplainableModel]] = [
    ZeroShotClassifier,
    UniversalSegmentationModel,
    SegmentationModel,
    TorchvisionDetector,
    UltralyticsDetector,
    ZeroShotDetector,
    RfDetrDetector,
    TransformersDetector,
    EmbeddingModel,
    TransformerClassifier,
    CnnClassifier,
]

# What a person may say a model is for, where its class does not.
_TASKS: dict[str, list[type[ExplainableModel]]] = {
    "classification": [TransformerClassifier, CnnClassifier],
    "regression": [Regressor],
    "segmentation": [SegmentationModel],
    "embedding": [EmbeddingModel],
    "detection": [
        TorchvisionDetector,
        UltralyticsDetector,
        ZeroShotDetector,
        RfDetrDetector,
        TransformersDetector,
    ],
}

# Overlap of two detections of a class from which on the weaker goes, unless `read` says another.
_SUPPRESSION = 0.5

__all__ = [
    "FAMILIES",
    "Candidates",
    "DetectionModel",
    "Detections",
    "DetectorOutputs",
    "EmbeddingModel",
    "ExplainableModel",
    "Regressor",
    "SegmentationModel",
    "ZeroShotClassifier",
    "ZeroShotDetector",
    "adapt",
    "component_target",
    "encode_texts",
    "list_layers",
    "mask_target",
    "object_target",
    "object_targets",
    "similarity_target",
]


def adapt(
    model: Any,
    output: OutputPath = None,
    *,
    task: str | None = None,
    multi_label: bool = False,
    threshold: float | None = None,
    text_features: Tensor | None = None,
    encode_image: Callable[[Tensor], Any] | None = None,
    read: Callable | None = None,
) -> ExplainableModel:
    """Returns the explainable form of a model.

    Example::

        explain(adapt(model, output="head.0"), images)
        explain(adapt(model, multi_label=True, threshold=0.3), images)
        explain(adapt(clip, text_features=encode_texts(clip, tokens)), images, targets=0)

    Args:
        model: a module, or anything with the attributes of :class:`ExplainableModel`
        output (None): where the scores are in what the model returns: a key, an index, an attribute's
            name, a path such as ``"head.0"``, or a callable of the outputs. None finds them
        task (None): ``"classification"``, ``"regression"``, ``"segmentation"`` or ``"embedding"``;
            recognised by default
        multi_label (False): whether an image may have several classes, each with its own sigmoid
        threshold (None): probability in (0, 1) from which on such a class is predicted, 0.5 by default;
            of a detector the confidence of a detection, 0.25 by default
        text_features (None): (K, D) encoded texts, the classes of a zero-shot classifier
        encode_image (None): images -> (N, D) features of a zero-shot classifier, if not recognised
        read (None): of a detector that is not recognised: what it returned -> boxes, scores and classes
            for each image, before or after suppression; see :class:`DetectionModel`. Detections of a
            class that overlap by more than half are dropped but for the strongest; an attribute
            ``suppression`` of the callable says another overlap, or None for none

    Raises:
        TypeError: if the model is neither
        ValueError: if an option is not understood or does not fit the model
    """
    options: dict[str, Any] = {"output": output, "multi_label": multi_label}
    if threshold is not None:
        options["threshold"] = threshold
    texts = text_features is not None or encode_image is not None
    if not isinstance(model, nn.Module):
        given = task or output is not None or multi_label or texts or read is not None
        return _checked(model, bool(given))
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    if read is not None:
        return _read_detector(model, read, task, texts, options)
    if texts:
        if task is not None:
            raise ValueError(
                "task: text_features and encode_image make a zero-shot classifier; leave task out"
            )
        return ZeroShotClassifier(model, text_features, encode_image, **options)
    if task is not None and task not in _TASKS:
        raise ValueError(f"task: {task!r} is unknown; choose from {', '.join(_TASKS)}")
    families = FAMILIES if task is None else _TASKS[task]
    # Of a task with one family the person knows better than the class of the model shows.
    matching = families if len(families) == 1 else [f for f in families if f.matches(model)]
    if not matching:
        raise ValueError(
            f"task: {type(model).__name__} is not recognised for {task!r}; known are "
            f"{', '.join(f.family for f in families)}"
            + (
                f"; for one of your own pass read=a callable: {CONTRACT}"
                if task == "detection"
                else ""
            )
        )
    family = matching[0]
    if multi_label and not issubclass(family, (TransformerClassifier, CnnClassifier)):
        raise ValueError(
            f"multi_label: is for classifiers, and this is a {family.family}; leave it out"
        )
    return family(model, **options)


def _read_detector(
    model: nn.Module, read: Callable, task: str | None, texts: bool, options: dict[str, Any]
) -> DetectionModel:
    if task not in (None, "detection") or texts:
        other = "texts" if texts else f"task={task!r}"
        raise ValueError(
            f"read: is of detectors, and {other} says that this is none; leave one out"
        )
    if options.pop("multi_label"):
        raise ValueError(
            "multi_label: is for classifiers, and read= is of detectors; leave one out"
        )
    return DetectionModel(
        model, read=read, suppression=getattr(read, "suppression", _SUPPRESSION), **options
    )


def _checked(model: Any, options: bool) -> ExplainableModel:
    needed = ("module", "forward", "logits", "candidates", "default_layers", "grid")
    if not all(hasattr(model, name) for name in needed):
        raise TypeError(
            f"model must be a torch.nn.Module or an ExplainableModel, got {type(model).__name__}"
        )
    if options:
        raise ValueError(
            "options such as output= and task= belong to a module, this model is adapted already"
        )
    return model


def list_layers(model: Any, images: Tensor | None = None) -> list[LayerInfo]:
    """Lists the layers of a model that can be explained, in the order they are computed.

    Args:
        model: a module or an :class:`ExplainableModel`
        images (None): (N, 3, H, W) a batch; by default one random image of 224 x 224 pixels

    Returns:
        a list of :class:`cam_core.LayerInfo`: name, type, channels, grid, whether it is the default;
        printed, it is a table of the network's blocks
    """
    model = adapt(model)
    if images is None:
        like = next(model.module.parameters())
        images = torch.rand(1, 3, 224, 224, device=like.device, dtype=like.dtype)
    with exclusive(model.module), torch.inference_mode(False), unchanged(model.module):
        return LayerList(model.list_layers(images))
