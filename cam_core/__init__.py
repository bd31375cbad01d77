"""Class activation maps for PyTorch, without FiftyOne.

Example::

    from cam_core import explain

    result = explain(resnet, images, methods=["gradcam", "layercam"], targets="predicted")
    heat = result.heatmaps((224, 224))["gradcam", "layer4"]
"""

from .adapters import ExplainableModel, adapt, list_layers
from .adapters.embedding import EmbeddingModel, component_target, similarity_target
from .adapters.regression import Regressor
from .adapters.segmentation import SegmentationModel, mask_target
from .adapters.zero_shot import ZeroShotClassifier, encode_texts
from .engine import Explanation, explain
from .layers import Grid, LayerInfo
from .methods import Components, MethodInfo, cam_method, list_methods
from .targets import class_index

__all__ = [
    "Components",
    "EmbeddingModel",
    "ExplainableModel",
    "Explanation",
    "Grid",
    "LayerInfo",
    "MethodInfo",
    "Regressor",
    "SegmentationModel",
    "ZeroShotClassifier",
    "adapt",
    "cam_method",
    "class_index",
    "component_target",
    "encode_texts",
    "explain",
    "list_layers",
    "list_methods",
    "mask_target",
    "similarity_target",
]
