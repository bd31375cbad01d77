"""Class activation maps for PyTorch, without FiftyOne.

Example::

    from cam_core import explain

    result = explain(resnet, images, methods=["gradcam", "layercam"], targets="predicted")
    heat = result.heatmaps((224, 224))["gradcam", "layer4"]

Names are imported when they are first asked for: PyTorch takes seconds to load, and the folders that hold
statistics and words (:mod:`cam_core.bias`, :mod:`cam_core.stats`) work without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters.adapt import adapt
    from .adapters.base import ExplainableModel
    from .adapters.candidates import Candidates, Detections
    from .adapters.detection import DetectionModel
    from .adapters.embedding import EmbeddingModel, component_target, similarity_target
    from .adapters.list_layers import list_layers
    from .adapters.object_targets import object_target, object_targets
    from .adapters.regression import Regressor
    from .adapters.segmentation import SegmentationModel, mask_target
    from .adapters.zero_shot import ZeroShotClassifier, encode_texts
    from .detection.explain_objects import (
        ObjectExplanation,
        detect,
        explain_objects,
        missed_objects,
        object_shares,
    )
    from .engine.explain import Explanation, explain
    from .layers.find import LayerInfo
    from .layers.grid import Grid
    from .methods.catalogue import Components, MethodInfo, cam_method, list_methods
    from .metrics.agreement import agreement, disagreement, noise_floor
    from .metrics.faithfulness import faithfulness
    from .metrics.randomisation import randomisation
    from .spatial.boxes import heat_to_boxes
    from .targets.base import ClassNames, class_index
    from .targets.composite import classes_target, contrast_target

__all__ = [
    "Candidates",
    "ClassNames",
    "Components",
    "DetectionModel",
    "Detections",
    "EmbeddingModel",
    "ExplainableModel",
    "Explanation",
    "Grid",
    "LayerInfo",
    "MethodInfo",
    "ObjectExplanation",
    "Regressor",
    "SegmentationModel",
    "ZeroShotClassifier",
    "adapt",
    "agreement",
    "cam_method",
    "class_index",
    "classes_target",
    "component_target",
    "contrast_target",
    "detect",
    "disagreement",
    "encode_texts",
    "explain",
    "explain_objects",
    "faithfulness",
    "heat_to_boxes",
    "list_layers",
    "list_methods",
    "mask_target",
    "missed_objects",
    "noise_floor",
    "object_shares",
    "object_target",
    "object_targets",
    "randomisation",
    "similarity_target",
]

# Where each of them lives, as above.
_PUBLIC = {
    ".adapters.adapt": ("adapt",),
    ".adapters.base": ("ExplainableModel",),
    ".adapters.candidates": ("Candidates", "Detections"),
    ".adapters.detection": ("DetectionModel",),
    ".adapters.embedding": ("EmbeddingModel", "component_target", "similarity_target"),
    ".adapters.list_layers": ("list_layers",),
    ".adapters.object_targets": ("object_target", "object_targets"),
    ".adapters.regression": ("Regressor",),
    ".adapters.segmentation": ("SegmentationModel", "mask_target"),
    ".adapters.zero_shot": ("ZeroShotClassifier", "encode_texts"),
    ".spatial.boxes": ("heat_to_boxes",),
    ".engine.explain": ("Explanation", "explain"),
    ".layers.find": ("LayerInfo",),
    ".layers.grid": ("Grid",),
    ".methods.catalogue": ("Components", "MethodInfo", "cam_method", "list_methods"),
    ".metrics.agreement": ("agreement", "disagreement", "noise_floor"),
    ".metrics.faithfulness": ("faithfulness",),
    ".metrics.randomisation": ("randomisation",),
    ".detection.explain_objects": (
        "ObjectExplanation", "detect", "explain_objects", "missed_objects", "object_shares",
    ),
    ".targets.composite": ("classes_target", "contrast_target"),
    ".targets.base": ("ClassNames", "class_index"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a public name from where it lives (PEP 562)."""
    for module, names in _PUBLIC.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(module, __name__), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
