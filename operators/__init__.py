"""The plugin's operators and panels: the only room that imports FiftyOne.

Importing this package imports no torch: FiftyOne does so whenever the App starts or an operator is
looked up. Every operator imports what it computes with inside the function that needs it.
"""

from . import cam_runs
from .cam_panel import CamPanel, OpenCamPanel
from .compare_cams import CompareCams
from .compute_cams import ComputeCams, ReopenComputeCams
from .explain_sample import ExplainSample, FreeModel, ShowPeers
from .find_background_bias import FindBackgroundBias
from .heat_to_detections import HeatToDetections
from .list_layers import ListLayers
from .register_model import ListModels, RegisterModel, RemoveModel
from .rerun_cams import RerunCams
from .same_scale import SameScale
from .show_heatmaps import ShowHeatmaps
from .test_region import TestRegion

OPERATORS = [
    ComputeCams, FindBackgroundBias, TestRegion, ShowHeatmaps, ListLayers, *cam_runs.OPERATORS, RerunCams,
    ReopenComputeCams, RegisterModel, RemoveModel, ListModels,
    CompareCams, OpenCamPanel, SameScale, ExplainSample, ShowPeers, FreeModel,
    HeatToDetections,
]  # fmt: skip
PANELS = [CamPanel]
