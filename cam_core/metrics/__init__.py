"""Measures of maps: pure functions of tensors."""

from .baselines import centred_gaussian, lift_over_shuffled, shuffled, uniform
from .localization import Localization, measure
from .portrait import box_coverage, object_portrait

__all__ = [
    "Localization",
    "box_coverage",
    "centred_gaussian",
    "lift_over_shuffled",
    "measure",
    "object_portrait",
    "shuffled",
    "uniform",
]
