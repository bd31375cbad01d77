"""Class activation maps for PyTorch, without FiftyOne.

Example::

    from cam_core import explain

    result = explain(resnet, images, methods=["gradcam", "layercam"], targets="predicted")
    heat = result.heatmaps((224, 224))["gradcam", "layer4"]
"""

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
from .metrics import agreement, disagreement, faithfulness, noise_floor, randomisation
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
