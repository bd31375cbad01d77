"""The operators and panels that the plugin registers."""

from . import cam_runs
from .cam_model import MakeCamModel
from .compare_cams import CompareCams
from .compute_cams import ComputeCams, ReopenComputeCams
from .explain_sample import ExplainSample, FreeModel, ShowPeers
from .find_background_bias import FindBackgroundBias
from .heat_to_detections import HeatToDetections
from .heatmap_look import SetHeatmapLook, ShowHeatmapLook
from .list_layers import ListLayers
from .panel.panel import CamPanel, OpenCamPanel
from .region import TestRegion
from .register_model import ListModels, RegisterModel, RemoveModel
from .rerun_cams import RerunCams
from .same_scale import SameScale
from .sample_panel.panel import OpenSamplePanel, SamplePanel
from .show_heatmaps import ShowHeatmaps

OPERATORS = [
    ComputeCams, FindBackgroundBias, TestRegion, ShowHeatmaps, ListLayers, *cam_runs.OPERATORS, RerunCams,
    ReopenComputeCams, RegisterModel, RemoveModel, ListModels,
    CompareCams, OpenCamPanel, OpenSamplePanel, SameScale, ExplainSample, ShowPeers, FreeModel,
    HeatToDetections, MakeCamModel, SetHeatmapLook, ShowHeatmapLook,
]  # fmt: skip
PANELS = [CamPanel, SamplePanel]
