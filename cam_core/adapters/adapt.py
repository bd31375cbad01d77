"""What makes a module an :class:`ExplainableModel`: the families it may be of, and :func:`adapt`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..network.plain_run import unwrapped
from .base import ExplainableModel
from .cnn import CnnClassifier
from .detection import DetectionModel
from .detectors_rfdetr import RfDetrDetector
from .detectors_torchvision import TorchvisionDetector
from .detectors_transformers import TransformersDetector
from .detectors_yolo import UltralyticsDetector
from .embedding import EmbeddingModel
from .outputs import OutputPath
from .readings import CONTRACT
from .regression import Regressor
from .segmentation import SegmentationModel
from .transformer import TransformerClassifier
from .universal import UniversalSegmentationModel
from .zero_shot import ZeroShotClassifier
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

# What a user may say a model is for, where its class does not.
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


def adapt(
    model: Any,
    output: OutputPath = None,
    *,
    task: str | None = None,
    multi_label: bool | None = None,
    threshold: float | None = None,
    ends_in: str | None = None,
    background: int | bool | None = None,
    text_features: Tensor | None = None,
    encode_image: Callable[[Tensor], Any] | None = None,
    read: Callable | None = None,
) -> ExplainableModel:
    """Returns the explainable form of a model.

    Example::

        explain(adapt(model, output="head.0"), images)
        explain(adapt(model, multi_label=True, threshold=0.3), images)
        explain(adapt(unet, task="segmentation", background=0), images)
        explain(adapt(clip, text_features=encode_texts(clip, tokens)), images, targets=0)

    Args:
        model: a module, or anything with the attributes of :class:`ExplainableModel`
        output (None): where the scores are in what the model returns: a key, an index, an attribute's
            name, a path such as ``"head.0"``, or a callable of the outputs. None finds them
        task (None): ``"classification"``, ``"regression"``, ``"segmentation"`` or ``"embedding"``;
            recognised by default
        multi_label (None): whether an image, or a pixel of a segmentation, may have several classes,
            each with its own sigmoid; by default it may where the network ends in a sigmoid for each of
            several outputs
        threshold (None): probability in (0, 1) from which on such a class, or the class of a single
            output, is predicted, 0.5 by default; of a detector the confidence of a detection, 0.25 by
            default
        ends_in (None): what the scores are: ``"logits"``, or the probabilities of a ``"sigmoid"`` or a
            ``"softmax"``; a network's last operation says it by default
        background (None): of a segmentation network, the index of the class that is never "predicted";
            False for none. None is known of but torchvision's own networks
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
    given = {"threshold": threshold, "ends_in": ends_in, "background": background}
    options.update({name: value for name, value in given.items() if value is not None})
    texts = text_features is not None or encode_image is not None
    if not isinstance(model, nn.Module):
        said = (task, output, multi_label, ends_in, background, read)
        return _checked(model, texts or any(value is not None for value in said))
    model = unwrapped(model)
    if read is not None:
        return _read_detector(model, read, task, texts, options)
    if texts:
        if task is not None:
            raise ValueError(
                "task: text_features and encode_image make a zero-shot classifier; leave task out"
            )
        _check_options(ZeroShotClassifier, options)
        return ZeroShotClassifier(model, text_features, encode_image, **options)
    if task is not None and task not in _TASKS:
        raise ValueError(f"task: {task!r} is unknown; choose from {', '.join(_TASKS)}")
    families = FAMILIES if task is None else _TASKS[task]
    # Of a task with one family the user knows better than the class of the model shows.
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
    _check_options(family, options)
    return family(model, **options)


def _check_options(family: type[ExplainableModel], options: dict[str, Any]) -> None:
    """Raises a ValueError where an option has no effect on a family."""
    scores = family.plain_scores and not family.quantities
    if options["multi_label"] and not scores and family is not ZeroShotClassifier:
        raise ValueError(
            f"multi_label: is for classifiers and segmentation networks, and this is a {family.family}; leave "
            "it out"
        )
    if "ends_in" in options and not scores:
        raise ValueError(
            f"ends_in: is for class scores, and this is a {family.family}; leave it out"
        )
    if "background" in options and not issubclass(family, SegmentationModel):
        raise ValueError(
            f"background: is for segmentation networks, and this is a {family.family}; leave it out, or say "
            "task='segmentation'"
        )


def _read_detector(
    model: nn.Module, read: Callable, task: str | None, texts: bool, options: dict[str, Any]
) -> DetectionModel:
    if task not in (None, "detection") or texts:
        other = "texts" if texts else f"task={task!r}"
        raise ValueError(
            f"read: is of detectors, and {other} says that this is none; leave one out"
        )
    for name, what in (
        ("multi_label", "classifiers"),
        ("ends_in", "class scores"),
        ("background", "segmentation"),
    ):
        if options.pop(name, None) is not None:
            raise ValueError(f"{name}: is for {what}, and read= is of detectors; leave one out")
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
