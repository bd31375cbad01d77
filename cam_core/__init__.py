"""Class activation maps for PyTorch, without FiftyOne.

Example::

    from cam_core import explain

    result = explain(resnet, images, methods=["gradcam", "layercam"], targets="predicted")
    heat = result.heatmaps((224, 224))["gradcam", "layer4"]
"""

from .adapters import ExplainableModel, adapt, list_layers
from .engine import Explanation, explain
from .layers import Grid, LayerInfo
from .methods import MethodInfo, cam_method, list_methods
from .targets import class_index

__all__ = [
    "ExplainableModel",
    "Explanation",
    "Grid",
    "LayerInfo",
    "MethodInfo",
    "adapt",
    "cam_method",
    "class_index",
    "explain",
    "list_layers",
    "list_methods",
]
