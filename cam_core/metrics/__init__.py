"""Measures of maps: pure functions of tensors, and measures that ask the model."""

from .agreement import Agreement, agreement, disagreement, noise_floor
from .baselines import centred_gaussian, lift_over_shuffled, shuffled, uniform
from .faithfulness import (
    DEFAULT_METRICS,
    METRICS,
    Faithfulness,
    MetricInfo,
    faithfulness,
    planned_forwards,
)
from .localization import Localization, measure
from .portrait import box_coverage, object_portrait
from .randomisation import Randomisation, randomisation
from .road import impute

__all__ = [
    "DEFAULT_METRICS",
    "METRICS",
    "Agreement",
    "Faithfulness",
    "Localization",
    "MetricInfo",
    "Randomisation",
    "agreement",
    "box_coverage",
    "centred_gaussian",
    "disagreement",
    "faithfulness",
    "impute",
    "lift_over_shuffled",
    "measure",
    "noise_floor",
    "object_portrait",
    "planned_forwards",
    "randomisation",
    "shuffled",
    "uniform",
]
