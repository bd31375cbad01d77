"""The plugin's operators and panels: the only room that imports FiftyOne.

Importing this package imports no torch: FiftyOne does so whenever the App starts or an operator is
looked up. Every operator imports what it computes with inside the function that needs it.
"""

from .compute_cams import ComputeCams
from .list_layers import ListLayers
from .show_heatmaps import ShowHeatmaps

OPERATORS = [ComputeCams, ShowHeatmaps, ListLayers]
PANELS = []
