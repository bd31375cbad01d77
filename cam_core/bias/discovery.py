"""Cues that nobody annotated: clusters of heatmaps, and what the whole image gives away."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..stats.clustering import best_kmeans, spectral
from ..stats.resampling import auroc, benjamini_hochberg
from .composites import border_ring

# CAM grids are small; finer maps are averaged down to this before they are compared.
_GRID = 14
# Fewer maps than this are shown as one cluster.
_FEWEST = 8
# Images are compared at this longest side, so that blur does not measure resolution.
_SIDE = 256


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Samples whose heat lies alike.

    Attributes:
        label: the class; None where classes were not told apart
        members: (n,) indices of samples, the most typical first
        share: of the class's maps, in (0, 1]
        mean_map: (h, w) mean of the members' maps, each of sum 1
        concentration: the peak of the mean map, in (0, 1]; 1/(h w) for a uniform one
        outside: mean share of the members' heat outside their objects, in 0..1; None without objects
        rank: concentration x outside (if known) x (1 - share): small tight clusters off the object
            come first
    """

    label: Any
    members: np.ndarray
    share: float
    mean_map: np.ndarray
    concentration: float
    outside: float | None
    rank: float


def cluster_maps(
    maps: Tensor,
    classes: Any = None,
    objects: Tensor | None = None,
    method: str = "spectral",
    most: int = 8,
    shift_invariant: bool = False,
    seed: int = 51,
) -> list[Cluster]:
    """Clusters heatmaps on the layer's grid, per class: SpRAy.

    Lapuschkin et al., Unmasking Clever Hans predictors and assessing what machines really learn,
    Nature Communications 2019. Finds cues with a place, as a watermark; a cue that is everywhere has
    no cluster of its own.

    Args:
        maps: (N, h, w) raw maps; those without positive or with infinite values are left out
        classes (None): (N,) class per sample; None clusters all maps together, which finds a cue
            that most of one class carries
        objects (None): (N, H, W) masks in [0, 1], on any grid over the same frame
        method ("spectral"): or ``"kmeans"``; the number of clusters follows from the eigengap or the
            silhouette
        most (8): clusters per class
        shift_invariant (False): compares Fourier magnitudes, so that a cue may move
        seed (51): of the clustering

    Returns:
        :class:`Cluster`, highest ``rank`` first

    Raises:
        ValueError: if an argument does not fit
    """
    if not isinstance(maps, Tensor) or maps.dim() != 3:
        raise ValueError("maps must be a tensor of shape (N, h, w)")
    if method not in ("spectral", "kmeans"):
        raise ValueError(f"method: {method!r} is unknown; choose 'spectral' or 'kmeans'")
    if classes is not None and len(classes) != len(maps):
        raise ValueError(f"classes has {len(classes)} values for {len(maps)} maps")
    if objects is not None and (objects.dim() != 3 or len(objects) != len(maps)):
        raise ValueError(f"objects must be ({len(maps)}, H, W), got {tuple(objects.shape)}")
    heat, known = _unit_maps(maps)
    outside = None if objects is None else _outside(heat, objects)
    names = np.zeros(len(maps), int) if classes is None else np.asarray(classes)
    found: list[Cluster] = []
    for name in np.unique(names[known]):
        rows = np.flatnonzero(known & (names == name))
        features = _features(heat[rows], shift_invariant)
        if len(rows) < _FEWEST:
            labels = np.zeros(len(rows), int)
        elif method == "spectral":
            labels = spectral(features, most, seed=seed)
        else:
            labels = best_kmeans(features, most, seed)
        label = None if classes is None else name.item()
        for number in range(labels.max() + 1):
            members = labels == number
            if members.any():
                found.append(
                    _cluster(label, rows[members], features[members], heat, outside, len(rows))
                )
    return sorted(found, key=lambda c: -c.rank)


def _unit_maps(maps: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Maps (N, h, w) of sum 1 on a grid of at most 14 x 14, and which of them exist."""
    values = maps.detach().float().cpu()
    finite = values.isfinite().all(-1).all(-1)
    heat = torch.where(finite[:, None, None], values, torch.zeros(())).relu()
    size = (min(_GRID, heat.shape[-2]), min(_GRID, heat.shape[-1]))
    heat = F.adaptive_avg_pool2d(heat[:, None], size)[:, 0]
    # by the maximum first: the sum of tiny or huge values would not be a number
    heat = heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
    total = heat.sum((1, 2))
    known = finite & (total > 0)
    unit = heat / total.clamp_min(torch.finfo(heat.dtype).tiny)[:, None, None]
    return unit.double().numpy(), known.numpy()


def _outside(heat: np.ndarray, objects: Tensor) -> np.ndarray:
    masks = F.adaptive_avg_pool2d(objects.detach().float().cpu()[:, None], heat.shape[-2:])[:, 0]
    return 1 - (heat * masks.numpy()).sum((1, 2))


def _features(heat: np.ndarray, shift_invariant: bool) -> np.ndarray:
    compared: Any = np.abs(np.fft.rfft2(heat)) if shift_invariant else heat
    return compared.reshape(len(heat), -1)


def _cluster(
    label: Any,
    members: np.ndarray,
    features: np.ndarray,
    heat: np.ndarray,
    outside: np.ndarray | None,
    total: int,
) -> Cluster:
    mean = heat[members].mean(0)
    typical = np.argsort(((features - features.mean(0)) ** 2).sum(1), kind="stable")
    share, concentration = len(members) / total, float(mean.max())
    off = None if outside is None else float(outside[members].mean())
    rank = concentration * (1.0 if off is None else off) * (1 - share)
    return Cluster(label, members[typical], share, mean, concentration, off, rank)


#: what :func:`image_statistics` returns, in order
STATISTICS = (
    "brightness", "contrast", "saturation", "hue_red_cyan", "hue_green_magenta", "sharpness",
    "aspect_ratio", "log_pixels", "border_red", "border_green", "border_blue", "border_contrast",
)  # fmt: skip


def image_statistics(image: Any) -> np.ndarray:
    """Measures a whole image: cues that no heatmap shows.

    Args:
        image: (H, W, 3) or (H, W), uint8 or float in [0, 1]

    Returns:
        (12,) in the order of ``STATISTICS``: mean and standard deviation of the luma (0..1), mean
        saturation (0..1), the two directions of the mean hue weighted by saturation (-1..1), log of
        the variance of the Laplacian at 256 pixels' longest side, width / height, log of the number
        of pixels, mean colour and luma deviation (0..1) of the outer 5 % ring

    Raises:
        ValueError: if the shape is another
    """
    array = np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, 2)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"an image must have shape (H, W, 3) or (H, W), got {array.shape}")
    height, width = array.shape[:2]
    pixels: Any = array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
    if max(height, width) > _SIDE:
        scale = _SIDE / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    high, low = pixels.max(2), pixels.min(2)
    saturation = np.where(high > 0, (high - low) / np.maximum(high, 1e-6), 0)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    sharpness = math.log10(float(cv2.Laplacian(luma, cv2.CV_32F).var()) + 1e-6)
    ring = border_ring(luma.shape, 0.05)
    border = pixels[ring].mean(0)
    return np.array(
        [
            luma.mean(),
            luma.std(),
            saturation.mean(),
            (red - (green + blue) / 2).mean(),
            ((green - blue) * math.sqrt(3) / 2).mean(),
            sharpness,
            width / height,
            math.log(height * width),
            *border,
            luma[ring].std(),
        ],
        dtype=np.float64,
    )


@dataclasses.dataclass(frozen=True)
class GlobalCue:
    """How well one statistic of the whole image tells a class from the rest.

    Attributes:
        label: the class
        statistic: its name
        auroc: .5 tells nothing; above, the class has larger values
        p: two-sided, Mann-Whitney
        q: Benjamini-Hochberg over all classes and statistics; NaN where there are too few samples
        n: samples of the class
    """

    label: Any
    statistic: str
    auroc: float
    p: float
    q: float
    n: int


def global_cues(
    values: Any, labels: Any, names: Sequence[str] = STATISTICS, least: int = 20
) -> list[GlobalCue]:
    """Compares statistics of whole images between each class and the rest.

    A class that brightness alone gives away can be told without looking at the object; that says
    what the dataset offers, not what the model uses.

    Args:
        values: (N, F) e.g. of :func:`image_statistics`; NaN is left out
        labels: (N,) true classes
        names (STATISTICS): F names
        least (20): classes with fewer samples, or fewer others, get no p

    Returns:
        one :class:`GlobalCue` per class and statistic, the most telling first

    Raises:
        ValueError: if lengths differ
    """
    table, classes = np.asarray(values, float), np.asarray(labels)
    if table.ndim != 2 or table.shape != (len(classes), len(names)):
        raise ValueError(
            f"values must be ({len(classes)} labels, {len(names)} names), got {table.shape}"
        )
    rows = []
    for label in np.unique(classes):
        for column, name in zip(table.T, names, strict=True):
            known = np.isfinite(column)
            members = classes[known] == label
            count, others = int(members.sum()), int((~members).sum())
            area = auroc(column[known], members)
            enough = min(count, others) >= least
            p = _mann_whitney_p(column[known], members) if enough else math.nan
            rows.append((label.item(), name, area, p, count))
    q = benjamini_hochberg([row[3] for row in rows])
    found = [
        GlobalCue(*row[:4], float(adjusted), row[4]) for row, adjusted in zip(rows, q, strict=True)
    ]
    return sorted(found, key=lambda t: -abs(t.auroc - 0.5) if math.isfinite(t.auroc) else 1)


def _mann_whitney_p(values: np.ndarray, chosen: np.ndarray) -> float:
    """Two-sided p from the normal approximation with ties; from 20 a side it is good."""
    from scipy.stats import mannwhitneyu

    if np.ptp(values) == 0:
        return 1.0
    found = mannwhitneyu(values[chosen], values[~chosen], use_continuity=False, method="asymptotic")
    return float(found.pvalue)
