"""Class activation maps for PyTorch, without FiftyOne.

Example::

    from cam_core import explain

    result = explain(resnet, images, methods=["gradcam", "layercam"], targets="predicted")
    heat = result.heatmaps((224, 224))["gradcam", "layer4"]

Names are imported when they are first asked for: PyTorch takes seconds to load, and the rooms that hold
statistics and words (:mod:`.verdicts`, :mod:`.bias`) work without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters import ExplainableModel, adapt, list_layers
    from .adapters.candidates import Candidates, Detections
    from .adapters.detection import DetectionModel
    from .adapters.embedding import EmbeddingModel, component_target, similarity_target
    from .adapters.object_targets import object_target, object_targets
    from .adapters.regression import Regressor
    from .adapters.segmentation import SegmentationModel, mask_target
    from .adapters.zero_shot import ZeroShotClassifier, encode_texts
    from .boxes import heat_to_boxes
    from .engine import Explanation, explain
    from .layers import Grid, LayerInfo
    from .methods import Components, MethodInfo, cam_method, list_methods
    from .metrics.agreement import agreement, disagreement, noise_floor
    from .metrics.faithfulness import faithfulness
    from .metrics.randomisation import randomisation
    from .objects import ObjectExplanation, detect, explain_objects, missed_objects, object_shares
    from .target_kinds import classes_target, contrast_target
    from .targets import ClassNames, class_index

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
_ROOMS = {
    ".adapters": ("ExplainableModel", "adapt", "list_layers"),
    ".adapters.candidates": ("Candidates", "Detections"),
    ".adapters.detection": ("DetectionModel",),
    ".adapters.embedding": ("EmbeddingModel", "component_target", "similarity_target"),
    ".adapters.object_targets": ("object_target", "object_targets"),
    ".adapters.regression": ("Regressor",),
    ".adapters.segmentation": ("SegmentationModel", "mask_target"),
    ".adapters.zero_shot": ("ZeroShotClassifier", "encode_texts"),
    ".boxes": ("heat_to_boxes",),
    ".engine": ("Explanation", "explain"),
    ".layers": ("Grid", "LayerInfo"),
    ".methods": ("Components", "MethodInfo", "cam_method", "list_methods"),
    ".metrics.agreement": ("agreement", "disagreement", "noise_floor"),
    ".metrics.faithfulness": ("faithfulness",),
    ".metrics.randomisation": ("randomisation",),
    ".objects": (
        "ObjectExplanation", "detect", "explain_objects", "missed_objects", "object_shares",
    ),
    ".target_kinds": ("classes_target", "contrast_target"),
    ".targets": ("ClassNames", "class_index"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a public name from where it lives (PEP 562)."""
    for room, names in _ROOMS.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(room, __name__), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
