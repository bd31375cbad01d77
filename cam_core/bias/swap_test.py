"""The loops of the causal checks: images in, scores of composites out, a batch at a time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .assessment import undecided
from .composites import random_regions, removable, remove_objects, replace_region, swap_background
from .effects import (
    Donors,
    Effects,
    RegionEffects,
    SwapTable,
    choose_donors,
    effects,
    other_backgrounds,
    region_effects,
)
from .verdicts import Rule

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
    most: int | None = None,
    control: bool = True,
    groups: Sequence | None = None,
    removal_masks: Sequence | None = None,
    dilate: float = 0,
    feather: float = 2,
    batch_size: int = 64,
    seed: int = 51,
    classes: Any = None,
    threshold: Any = None,
    labelled: Any = None,
) -> SwapCheck:
    """Puts the object of each sample on other samples' backgrounds and watches its score.

    One forward for every image, then 1 + 2 S for every sample tested, and one more where its
    ``removal_masks`` differ. Images and masks may be lazy sequences; never more than a batch of
    composites is held.

    Args:
        images: N images, before the model's transform (:mod:`cam_core.bias.composites` says which layouts)
        masks: N masks (H, W) of the explained objects, on the images' own pixels
        predict: a list of images -> class probabilities (n, C) in 0..1, array or tensor
        samples (None): indices of the samples tested; all by default. All lend backgrounds
        targets ("predicted"): ``"predicted"`` or (N,) class indices
        count (4): donors of each kind, S
        most (None): up to how many donors of each kind a sample gets whose verdict ``count`` of them
            leave open (:func:`~cam_core.bias.assessment.undecided`), twice as many at a time; ``count`` by default
        control (True): whether to run the donors of the same class; without it there is no
            ``same_drop`` and no ``bg_gap``
        groups (None): see :func:`~cam_core.bias.effects.choose_donors`
        removal_masks (None): N masks (H, W) of all objects, whatever their class: what is taken out of
            an image before it lends its background, so that it lends no object of another class. By
            default ``masks``. What the sample's own background says is asked with its other objects
            in place: they are part of what the swap replaces
        dilate (0): see :func:`~cam_core.bias.composites.soft_mask`
        feather (2): likewise
        batch_size (64): images per call of ``predict``
        seed (51): of the donors
        classes (None): (n,) the class that each tested sample is asked for, instead of ``targets``; the
            donors are then chosen by whether they have that class
        threshold (None): of classes that do not exclude each other: the probability, or one for each
            class (C,), from which on an image has a class; by default it has the strongest alone
        labelled (None): (N, C) bool, classes that images have whatever is predicted

    Returns:
        a :class:`SwapCheck`

    Raises:
        ValueError: if an argument does not fit; the message names it
    """
    lenders = masks if removal_masks is None else removal_masks
    _check_lengths(images, masks=masks, removal_masks=lenders)
    tested, scores, predictions, target = _begin(
        images, predict, samples, targets, batch_size, classes
    )
    has = _members(scores, threshold, labelled, classes)
    own_predictions = given_classes(scores[tested], target, threshold)
    margin = int(np.ceil(dilate + feather))
    lent_plans = [removable(lenders[i], margin) for i in range(len(images))]
    free = np.array([share if status != "fills the frame" else 0 for status, share in lent_plans])
    own_status = [removable(masks[i], margin)[0] for i in tested.tolist()]
    usable = np.array([status == "ok" for status in own_status], bool)

    def background(index: int) -> Any:
        return remove_objects(images[index], lenders[index], margin).image

    def paste(sample: int, donor: int) -> Any:
        return swap_background(images[sample], masks[sample], background(donor), dilate, feather)

    def scores_without_objects(rows: np.ndarray, given: Sequence) -> np.ndarray:
        found = np.full((len(tested), scores.shape[1]), np.nan)
        emptied = (remove_objects(images[i], given[i], margin).image for i in tested[rows].tolist())
        found[rows] = collect_probabilities(predict, emptied, batch_size)
        return found

    background_only = scores_without_objects(usable, masks)
    lent_only = background_only.copy()
    if removal_masks is not None:
        other = [_differ(masks[i], lenders[i]) for i in tested.tolist()]
        other_rows = np.array(other, bool) & (free[tested] > 0)
        lent_only[np.array(other, bool)] = np.nan
        lent_only[other_rows] = scores_without_objects(other_rows, lenders)[other_rows]
    background_classes = _winners(background_only, target, threshold)
    background_winners = np.full(len(images), -1)
    background_winners[tested] = _winners(lent_only)
    bg_has, lent_all = None, lent_only
    if has is not None:
        lent_all = np.full(scores.shape, np.nan)
        lent_all[tested] = lent_only
        lending = np.setdiff1d(np.flatnonzero(free > 0), tested)  # images that are not tested
        emptied = (background(i) for i in lending.tolist())
        lent_all[lending] = collect_probabilities(predict, emptied, batch_size).reshape(
            len(lending), scores.shape[1]
        )
        background_winners[lending] = _winners(lent_all[lending])
        bg_has = (
            present_classes(np.nan_to_num(lent_all), threshold) & (background_winners >= 0)[:, None]
        )
    widest = max(count, most or count)
    donors = choose_donors(
        predictions, free, tested, widest, groups, background_winners, seed=seed,
        classes=None if has is None else target, has=has, bg_has=bg_has,
    )  # fmt: skip
    if not control:
        donors.same[:] = -1
    shape = donors.foreign.shape
    table = SwapTable(
        score=scores[tested, target],
        prediction=own_predictions,
        foreign_scores=np.full(shape, np.nan),
        foreign_predictions=np.full(shape, -1),
        donor_classes=np.where(donors.foreign >= 0, predictions[donors.foreign], -1),
        same_scores=np.full(shape, np.nan),
        same_predictions=np.full(shape, -1),
        bg_only=background_only[np.arange(len(tested)), target],
        bg_other=other_backgrounds(lent_all, target, predictions[tested], has),
    )

    def fill(wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _fill_table(predict, paste, tested, wanted, target, batch_size, threshold)

    ask_donors(fill, table, donors, usable, target, count, seed)
    lent = np.any(donors.foreign >= 0, axis=1)
    status = [
        "no donors" if own == "ok" and not any_lent else own
        for own, any_lent in zip(own_status, lent.tolist(), strict=True)
    ]
    return SwapCheck(table, effects(table), donors, status, target, predictions, background_classes)


def ask_donors(
    fill: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    table: SwapTable,
    donors: Donors,
    usable: np.ndarray,
    targets: np.ndarray,
    count: int,
    seed: int,
    rule: Rule | None = None,
) -> None:
    """Fills a table with what the first donors say, and with more where these leave a verdict open.

    Args:
        fill: (n, S) indices of donors, -1 for none -> scores and predictions (n, S) of the composites
        table: of n samples and as many donors as they may get; its foreign and same columns are filled
        donors: who may be asked; those who were not are taken out
        usable: (n,) bool, which samples are tested
        targets: (n,) explained classes
        count: donors asked at first; then twice as many
        seed: of :func:`~cam_core.bias.assessment.undecided`
        rule (None): likewise
    """
    widest = donors.foreign.shape[1]
    open_, first, last = usable, 0, min(count, widest)
    while open_.any() and first < widest:
        turn = open_[:, None] & (np.arange(widest) >= first) & (np.arange(widest) < last)
        for chosen, values, winners in (
            (donors.foreign, table.foreign_scores, table.foreign_predictions),
            (donors.same, table.same_scores, table.same_predictions),
        ):
            wanted = np.where(turn, chosen, -1)
            known = wanted >= 0
            values[known], winners[known] = (part[known] for part in fill(wanted))
        first, last = last, min(2 * last, widest)
        if first < widest:
            open_ = usable & undecided(effects(table), targets, rule, seed)
    donors.foreign[np.isnan(table.foreign_scores)] = -1
    donors.same[np.isnan(table.same_scores)] = -1


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
            near 1 the region is so large that there is no control; 0 where the control is another
        control: ``"elsewhere"`` or ``"same class"``
    """

    effects: RegionEffects
    donors: np.ndarray
    status: list[str]
    targets: np.ndarray
    predictions: np.ndarray
    control_overlap: np.ndarray
    control: str = "elsewhere"


def region_check(
    images: Sequence,
    regions: Sequence,
    predict: Predict,
    *,
    samples: Any = None,
    targets: Any = "predicted",
    count: int = 4,
    control: str = "elsewhere",
    groups: Sequence | None = None,
    feather: float = 2,
    batch_size: int = 64,
    seed: int = 51,
    classes: Any = None,
    threshold: Any = None,
    labelled: Any = None,
) -> RegionCheck:
    """Replaces a region by the same region of other classes' images, beside a control.

    For images without object boxes: a tag in the corner, the ring along the border, the hottest
    place. One forward for every image, then 2 S for every sample tested.

    Args:
        images: N images, before the model's transform
        regions: N masks (H, W), non-zero in the region; an empty one is no region
        predict: a list of images -> class probabilities (n, C) in 0..1, array or tensor
        samples (None): indices of the samples tested; all by default
        targets ("predicted"): ``"predicted"`` or (N,) class indices
        count (4): donors, and controls, per sample
        control ("elsewhere"): ``"elsewhere"``: random regions of its size, from the same donors;
            ``"same class"``: the region itself from donors of the same predicted class, for regions
            that leave no room beside them, such as a ring along the border
        groups (None): see :func:`~cam_core.bias.effects.choose_donors`
        feather (2): see :func:`~cam_core.bias.composites.replace_region`
        batch_size (64): images per call of ``predict``
        seed (51): of donors and random regions
        classes (None): see :func:`swap_check`
        threshold (None): likewise
        labelled (None): likewise

    Returns:
        a :class:`RegionCheck`

    Raises:
        ValueError: if an argument does not fit; the message names it
    """
    _check_lengths(images, regions=regions)
    if control not in ("elsewhere", "same class"):
        raise ValueError(f"control must be 'elsewhere' or 'same class', got {control!r}")
    tested, scores, predictions, target = _begin(
        images, predict, samples, targets, batch_size, classes
    )
    has = _members(scores, threshold, labelled, classes)
    donors = choose_donors(
        predictions, np.ones(len(images)), tested, count, groups, seed=seed,
        classes=None if has is None else target, has=has,
    )  # fmt: skip
    usable = np.array([bool(np.asarray(regions[i]).any()) for i in tested], bool)
    wanted = np.where(usable[:, None], donors.foreign, -1)
    moved: dict[int, np.ndarray] = {}  # of the current sample, for pairs come sample by sample
    overlap = np.full(len(images), np.nan if control == "elsewhere" else 0.0)

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
    region_scores, winners = _fill_table(
        predict, replace, tested, wanted, target, batch_size, threshold
    )
    if control == "elsewhere":
        make, controls = replace_elsewhere, wanted
    else:
        make, controls = replace, np.where(usable[:, None], donors.same, -1)
    control_scores, _ = _fill_table(predict, make, tested, controls, target, batch_size, threshold)
    own_predictions = given_classes(scores[tested], target, threshold)
    found = region_effects(
        scores[tested, target], own_predictions, region_scores, winners, control_scores
    )
    status = [
        "no region" if not u else "ok" if (row >= 0).any() else "no donors"
        for u, row in zip(usable, wanted, strict=True)
    ]
    return RegionCheck(found, wanted, status, target, predictions, overlap[tested], control)


def _begin(
    images: Sequence, predict: Predict, samples: Any, targets: Any, batch_size: int, classes: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Who is tested, the probabilities of all images, their classes, and the tested ones' targets."""
    tested = np.arange(len(images)) if samples is None else np.asarray(samples, int)
    scores = collect_probabilities(predict, (images[i] for i in range(len(images))), batch_size)
    predictions = scores.argmax(1)
    if classes is None:
        return tested, scores, predictions, _targets(targets, predictions, scores.shape[1])[tested]
    if len(np.atleast_1d(classes)) != len(tested):
        raise ValueError(f"classes must be one for each of the {len(tested)} tested samples")
    return tested, scores, predictions, _targets(classes, predictions[tested], scores.shape[1])


def present_classes(probabilities: np.ndarray, threshold: Any = None) -> np.ndarray:
    """Which classes images have by their scores.

    Args:
        probabilities: (n, C)
        threshold (None): from which on a class is there, one for all or (C,) of each class; without
            one classes exclude each other, and an image has the strongest alone

    Returns:
        (n, C) bool
    """
    if threshold is not None:
        return probabilities >= np.asarray(threshold)
    strongest = probabilities.argmax(1)[:, None]
    return strongest == np.arange(probabilities.shape[1])


def given_classes(probabilities: np.ndarray, classes: Any, threshold: Any = None) -> np.ndarray:
    """The class that a model gives each image, asked for one: whether that is given is ``== classes``.

    Args:
        probabilities: (n, C)
        classes: (n,) the class that is asked for
        threshold (None): see :func:`present_classes`

    Returns:
        (n,) the strongest class; with a threshold the class asked for from there on, else the
        strongest of the others, -1 where there is none
    """
    if threshold is None:
        return probabilities.argmax(1)
    asked, rows = np.asarray(classes, int), np.arange(len(probabilities))
    there = present_classes(probabilities, threshold)[rows, asked]
    others = probabilities.copy()
    others[rows, asked] = -1
    strongest = others.argmax(1) if probabilities.shape[1] > 1 else np.full(len(rows), -1)
    return np.where(there, asked, strongest)


def _members(scores: np.ndarray, threshold: Any, labelled: Any, classes: Any) -> np.ndarray | None:
    """(N, C) which images have which class; None where every image has what it is predicted as."""
    if threshold is None and labelled is None and classes is None:
        return None
    has = present_classes(scores, threshold)
    if labelled is None:
        return has
    known = np.asarray(labelled, bool)
    if known.shape != has.shape:
        raise ValueError(f"labelled must be (images, classes), {has.shape} here, got {known.shape}")
    return has | known


def _winners(
    scores: np.ndarray, classes: np.ndarray | None = None, threshold: Any = None
) -> np.ndarray:
    """(n,) classes that are given, see :func:`given_classes`; -1 for a row of NaN."""
    known = np.isfinite(scores).all(1)
    values = np.nan_to_num(scores)
    asked = values.argmax(1) if classes is None else classes
    return np.where(known, given_classes(values, asked, threshold), -1)


def _differ(mask: Any, other: Any) -> bool:
    return not np.array_equal(np.asarray(mask, bool), np.asarray(other, bool))


def _fill_table(
    predict: Predict,
    make: Callable[[int, int], Any],
    samples: np.ndarray,
    donors: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    threshold: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The target's scores and the predictions (n, S) of the composites of samples and donors."""
    rows, columns = np.nonzero(donors >= 0)
    pairs = zip(samples[rows].tolist(), donors[rows, columns].tolist(), strict=True)
    answers = collect_probabilities(predict, (make(*pair) for pair in pairs), batch_size)
    scores, winners = np.full(donors.shape, np.nan), np.full(donors.shape, -1)
    if len(rows):
        scores[rows, columns] = answers[np.arange(len(rows)), targets[rows]]
        winners[rows, columns] = given_classes(answers, targets[rows], threshold)
    return scores, winners


def collect_probabilities(predict: Predict, images: Iterable, batch_size: int) -> np.ndarray:
    """Runs a model on images, a batch at a time.

    Args:
        predict: a list of images -> class probabilities (n, C) in 0..1, array or tensor
        images: may be lazy
        batch_size: images per call

    Returns:
        (n, C) float32; (0, 1) if there is no image

    Raises:
        ValueError: if these are no probabilities
    """
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
