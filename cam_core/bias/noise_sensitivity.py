"""Noise on the object against noise on the background: one number per model.

After Moayeri et al., A Comprehensive Study of Image Classification Model Sensitivity to Foregrounds,
Backgrounds, and Visual Attributes (RIVAL10), CVPR 2022.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .composites import add_noise
from .swap_test import collect_probabilities, given_classes

SIGMA, TRIALS = 0.25, 3
_REPEATS = 1000


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Relative foreground sensitivity.

    Attributes:
        value: in [-1, 1]: above 0 noise on the object costs more accuracy than noise on the background;
            NaN without samples
        low, high: bounds of its 95 % interval
        noisy_background: accuracy with noise on the background, 0..1
        noisy_object: accuracy with noise on the object, 0..1
        n: samples
    """

    value: float
    low: float
    high: float
    noisy_background: float
    noisy_object: float
    n: int


def relative_sensitivity(noisy_background: float, noisy_object: float) -> float:
    """(a_bg - a_obj) / (2 min(a, 1 - a)), a being the mean of both accuracies.

    Args:
        noisy_background: accuracy with noise on the background, 0..1
        noisy_object: accuracy with noise on the object, 0..1

    Returns:
        a number in [-1, 1]: the gap beside the largest that this mean accuracy allows; 0 where the mean
        is 0 or 1, which allows none
    """
    mean = (noisy_background + noisy_object) / 2
    room = 2 * min(mean, 1 - mean)
    return (noisy_background - noisy_object) / room if room > 1e-12 else 0.0


def noise_check(
    images: Sequence,
    masks: Sequence,
    predict: Callable[[list], Any],
    classes: Any,
    *,
    sigma: float = SIGMA,
    trials: int = TRIALS,
    batch_size: int = 64,
    seed: int = 51,
    threshold: Any = None,
) -> np.ndarray:
    """Adds noise to the object, and to everything else, and looks whether the class is still given.

    2 x ``trials`` forwards per image.

    Args:
        images: n images, before the model's transform (:mod:`cam_core.bias.composites` says which layouts)
        masks: n masks (H, W) of the objects, on the images' own pixels
        predict: a list of images -> class probabilities (n, C) in 0..1, array or tensor
        classes: (n,) the right classes
        sigma (0.25): of the noise, as a share of the images' range
        trials (3): draws of the noise per image and part
        batch_size (64): images per call of ``predict``
        seed (51): of the noise
        threshold (None): of classes that do not exclude each other, see
            :func:`~cam_core.bias.swap_test.present_classes`

    Returns:
        (n, 2) share of the trials with the right class: noise on the background, noise on the object

    Raises:
        ValueError: if an argument does not fit
    """
    right = np.asarray(classes)
    if not len(images) == len(masks) == len(right):
        raise ValueError(
            f"images, masks and classes must be equally many, got {len(images)}, {len(masks)} and "
            f"{len(right)}"
        )
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}")
    if not len(right):
        return np.empty((0, 2))
    noisy = (
        add_noise(images[i], np.asarray(masks[i], bool) == part, sigma, [seed, i, part, trial])
        for i in range(len(images))
        for part in (0, 1)
        for trial in range(trials)
    )
    answers = collect_probabilities(predict, noisy, batch_size)
    winners = given_classes(answers, np.repeat(right, 2 * trials), threshold)
    return (winners.reshape(len(right), 2, trials) == right[:, None, None]).mean(2)


def summarise_noise(shares: Any, groups: Any = None, seed: int = 51) -> Sensitivity:
    """The relative sensitivity over samples, with a percentile bootstrap.

    Args:
        shares: (n, 2) of :func:`noise_check`
        groups (None): (n,) scenes or videos; whole groups are drawn then
        seed (51): of the draws

    Returns:
        a :class:`Sensitivity`; NaN bounds with fewer than two samples or groups
    """
    values = np.asarray(shares, float).reshape(-1, 2)
    count = len(values)
    if not count:
        return Sensitivity(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    unit = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(unit)
    sums = np.stack([np.bincount(unit, column) for column in values.T], 1)
    background, thing = values.mean(0).tolist()
    low = high = math.nan
    if len(sizes) > 1:
        rng = np.random.default_rng(seed)
        drawn = []
        for _ in range(_REPEATS):
            rows = rng.integers(0, len(sizes), len(sizes))
            drawn.append(relative_sensitivity(*(sums[rows].sum(0) / sizes[rows].sum()).tolist()))
        low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return Sensitivity(relative_sensitivity(background, thing), low, high, background, thing, count)
