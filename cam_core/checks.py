"""The loops of the causal checks: images in, scores of composites out, a batch at a time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .causal import (
    Donors,
    Effects,
    RegionEffects,
    SwapTable,
    choose_donors,
    effects,
    other_backgrounds,
    region_effects,
)
from .compose import random_regions, removable, remove_objects, replace_region, swap_background

Predict = Callable[[list], Any]


@dataclasses.dataclass
class SwapCheck:
    """The result of :func:`swap_check`.

    Attributes:
        table: scores and predictions of the n samples tested
        effects: what follows from them
        donors: who lent the backgrounds
        status: n strings: ``"ok"``, ``"no object"``, ``"fills the frame"`` or ``"no donors"``
        targets: (n,) explained classes
        predictions: (N,) predicted classes of all images
        bg_predictions: (n,) predicted class of the background alone, -1 where there is none
    """

    table: SwapTable
    effects: Effects
    donors: Donors
    status: list[str]
    targets: np.ndarray
    predictions: np.ndarray
    bg_predictions: np.ndarray


def swap_check(
    images: Sequence,
    masks: Sequence,
    predict: Predict,
    *,
    samples: Any = None,
    targets: Any = "predicted",
    count: int = 4,
    control: bool = True,
    groups: Sequence | None = None,
    dilate: float = 1,
    feather: float = 2,
    batch_size: int = 64,
    seed: int = 51,
) -> SwapCheck:
    """Puts the object of each sample on other samples' backgrounds and watches its score.

    One forward for every image, then 1 + 2 S for every sample tested. Images and masks may be lazy
    sequences; never more than a batch of composites is held.

    Args:
        images: N images, before the model's transform (:mod:`cam_core.compose` says which layouts)
        masks: N masks (H, W) of the explained objects, on the images' own pixels
        predict: a list of images -> class probabilities (n, C) in 0..1, array or tensor
        samples (None): indices of the samples tested; all by default. All lend backgrounds
        targets ("predicted"): ``"predicted"`` or (N,) class indices
        count (4): donors of each kind, S
        control (True): whether to run the donors of the same class; without it there is no
            ``same_drop`` and no ``bg_gap``
        groups (None): see :func:`~cam_core.causal.choose_donors`
        dilate (1): see :func:`~cam_core.compose.soft_mask`
        feather (2): likewise
        batch_size (64): images per call of ``predict``
        seed (51): of the donors

    Returns:
        a :class:`SwapCheck`

    Raises:
        ValueError: if an argument does not fit; the message names it
    """
    _check_lengths(images, masks=masks)
    tested = np.arange(len(images)) if samples is None else np.asarray(samples, int)
    scores = _collect(predict, (images[i] for i in range(len(images))), batch_size)
    predictions = scores.argmax(1)
    target = _targets(targets, predictions, scores.shape[1])[tested]
    margin = int(np.ceil(dilate + feather))
    plans = [removable(masks[i], margin) for i in range(len(images))]
    free = np.array([share if status != "fills the frame" else 0 for status, share in plans])
    usable = np.array([plans[i][0] == "ok" for i in tested], bool)

    def background(index: int) -> Any:
        return remove_objects(images[index], masks[index], margin).image

    def paste(sample: int, donor: int) -> Any:
        return swap_background(images[sample], masks[sample], background(donor), dilate, feather)

    bare = np.full((len(tested), scores.shape[1]), np.nan)
    bare[usable] = _collect(predict, (background(i) for i in tested[usable].tolist()), batch_size)
    bare_classes = np.where(usable, np.nan_to_num(bare).argmax(1), -1)
    alone = np.full(len(images), -1)
    alone[tested] = bare_classes
    donors = choose_donors(predictions, free, tested, count, groups, alone, seed=seed)
    if not control:
        donors.same[:] = -1
    pasted = []
    for lenders in (donors.foreign, donors.same):
        wanted = np.where(usable[:, None], lenders, -1)
        pasted.append(_fill_table(predict, paste, tested, wanted, target, batch_size))
    (foreign_scores, foreign_predictions), (same_scores, same_predictions) = pasted
    winners = predictions[tested]
    table = SwapTable(
        score=scores[tested, target],
        prediction=winners,
        foreign_scores=foreign_scores,
        foreign_predictions=foreign_predictions,
        donor_classes=np.where(donors.foreign >= 0, predictions[donors.foreign], -1),
        same_scores=same_scores,
        same_predictions=same_predictions,
        bg_only=bare[np.arange(len(tested)), target],
        bg_other=other_backgrounds(bare, target, winners),
    )
    lent = np.any(donors.foreign >= 0, axis=1)
    status = [
        "no donors" if plans[i][0] == "ok" and not any_lent else plans[i][0]
        for i, any_lent in zip(tested.tolist(), lent.tolist(), strict=True)
    ]
    return SwapCheck(table, effects(table), donors, status, target, predictions, bare_classes)


@dataclasses.dataclass
class RegionCheck:
    """The result of :func:`region_check`.

    Attributes:
        effects: of the n samples tested
        donors: (n, S) indices of who lent the region, -1 where there are too few
        status: n strings: ``"ok"``, ``"no region"`` or ``"no donors"``
        targets: (n,) explained classes
        predictions: (N,) predicted classes of all images
        control_overlap: (n,) mean share of the random regions that lies on the region itself, 0..1;
            near 1 the region is so large that there is no control
    """

    effects: RegionEffects
    donors: np.ndarray
    status: list[str]
    targets: np.ndarray
    predictions: np.ndarray
    control_overlap: np.ndarray


def region_check(
    images: Sequence,
    regions: Sequence,
    predict: Predict,
    *,
    samples: Any = None,
    targets: Any = "predicted",
    count: int = 4,
    groups: Sequence | None = None,
    feather: float = 2,
    batch_size: int = 64,
    seed: int = 51,
) -> RegionCheck:
    """Replaces a region by the same region of other classes' images, and random ones as control.

    For images without object boxes: a tag in the corner, the ring along the border, the hottest
    place. One forward for every image, then 2 S for every sample tested.

    Args:
        images: N images, before the model's transform
        regions: N masks (H, W), non-zero in the region; an empty one is no region
        predict: a list of images -> class probabilities (n, C) in 0..1, array or tensor
        samples (None): indices of the samples tested; all by default
        targets ("predicted"): ``"predicted"`` or (N,) class indices
        count (4): donors, and random regions, per sample
        groups (None): see :func:`~cam_core.causal.choose_donors`
        feather (2): see :func:`~cam_core.compose.replace_region`
        batch_size (64): images per call of ``predict``
        seed (51): of donors and random regions

    Returns:
        a :class:`RegionCheck`

    Raises:
        ValueError: if an argument does not fit; the message names it
    """
    _check_lengths(images, regions=regions)
    tested = np.arange(len(images)) if samples is None else np.asarray(samples, int)
    scores = _collect(predict, (images[i] for i in range(len(images))), batch_size)
    predictions = scores.argmax(1)
    target = _targets(targets, predictions, scores.shape[1])[tested]
    donors = choose_donors(predictions, np.ones(len(images)), tested, count, groups, seed=seed)
    usable = np.array([bool(np.asarray(regions[i]).any()) for i in tested], bool)
    wanted = np.where(usable[:, None], donors.foreign, -1)
    moved: dict[int, np.ndarray] = {}  # of the sample at work, for pairs come sample by sample
    overlap = np.full(len(images), np.nan)

    def replace(sample: int, donor: int) -> Any:
        return replace_region(images[sample], regions[sample], images[donor], feather)

    def replace_elsewhere(sample: int, donor: int) -> Any:
        if sample not in moved:
            moved.clear()
            moved[sample] = random_regions(regions[sample], count, [seed, sample])
            region = np.asarray(regions[sample], bool)
            overlap[sample] = (moved[sample] & region).sum() / (count * region.sum())
        turn = lenders[sample].index(donor)
        return replace_region(images[sample], moved[sample][turn], images[donor], feather)

    lenders = dict(zip(tested.tolist(), wanted.tolist(), strict=True))
    region_scores, winners = _fill_table(predict, replace, tested, wanted, target, batch_size)
    control_scores, _ = _fill_table(predict, replace_elsewhere, tested, wanted, target, batch_size)
    found = region_effects(
        scores[tested, target], predictions[tested], region_scores, winners, control_scores
    )
    status = [
        "no region" if not u else "ok" if (row >= 0).any() else "no donors"
        for u, row in zip(usable, wanted, strict=True)
    ]
    return RegionCheck(found, wanted, status, target, predictions, overlap[tested])


def _fill_table(
    predict: Predict,
    make: Callable[[int, int], Any],
    samples: np.ndarray,
    donors: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The target's scores and the predictions (n, S) of the composites of samples and donors."""
    rows, columns = np.nonzero(donors >= 0)
    pairs = zip(samples[rows].tolist(), donors[rows, columns].tolist(), strict=True)
    answers = _collect(predict, (make(*pair) for pair in pairs), batch_size)
    scores, winners = np.full(donors.shape, np.nan), np.full(donors.shape, -1)
    if len(rows):
        scores[rows, columns] = answers[np.arange(len(rows)), targets[rows]]
        winners[rows, columns] = answers.argmax(1)
    return scores, winners


def _collect(predict: Predict, images: Iterable, batch_size: int) -> np.ndarray:
    """The probabilities of all images, (n, C) float32; (0, 1) if there is no image."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    parts = [_probabilities(predict(batch), len(batch)) for batch in _batches(images, batch_size)]
    return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


def _batches(images: Iterable, size: int) -> Iterator[list]:
    stream = iter(images)
    while batch := list(itertools.islice(stream, size)):
        yield batch


def _probabilities(answer: Any, count: int) -> np.ndarray:
    array = answer.detach().cpu().numpy() if isinstance(answer, Tensor) else np.asarray(answer)
    if array.ndim != 2 or len(array) != count:
        raise ValueError(
            f"predict must return probabilities of shape ({count}, classes), got {array.shape}"
        )
    if not np.isfinite(array).all() or array.min() < -1e-3 or array.max() > 1 + 1e-3:
        raise ValueError(
            "predict must return probabilities between 0 and 1; apply softmax or sigmoid to the logits"
        )
    return array.astype(np.float32)


def _targets(targets: Any, predictions: np.ndarray, classes: int) -> np.ndarray:
    if isinstance(targets, str) and targets == "predicted":
        return predictions
    chosen = np.asarray(targets)
    if chosen.shape != predictions.shape or chosen.dtype.kind not in "iu":
        raise ValueError(
            f"targets must be 'predicted' or {len(predictions)} class indices, got {targets!r:.80}"
        )
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < classes:
        raise ValueError(f"targets must lie between 0 and {classes - 1}; the model has no others")
    return chosen


def _check_lengths(images: Sequence, **others: Sequence) -> None:
    for name, values in others.items():
        if len(values) != len(images) or not len(images):
            raise ValueError(
                f"images and {name} must be equally many and not empty, got {len(images)} and "
                f"{len(values)}"
            )
