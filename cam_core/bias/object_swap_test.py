"""The causal check of detectors: everything outside an object's box is replaced.

After Xiao et al., Noise or Signal: The Role of Image Backgrounds in Object Recognition, ICLR 2021. The
score of an object is that of the best candidate of its class at its box; the unit is the object.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..adapters.candidates import Candidates
from ..spatial.boxes import box_iou
from .composites import removable, remove_objects, swap_background
from .effects import Donors, SwapTable, choose_donors, effects
from .swap_test import SwapCheck, ask_donors
from .verdicts import CANNOT_SAY, HARMLESS, HIDDEN, OBJECT, RELIES, UNSTABLE, UNTESTED, Rule

# The worst first.
_ORDER = (RELIES, HIDDEN, UNTESTED, UNSTABLE, HARMLESS, OBJECT, CANNOT_SAY)


@dataclasses.dataclass(frozen=True)
class Query:
    """A picture, and objects whose scores are asked.

    Attributes:
        image: before the model's transform (:mod:`cam_core.bias.composites` says which layouts)
        boxes: (k, 4) left, top, right, bottom, as shares of the picture's width and height
        labels: (k,) class indices
    """

    image: Any
    boxes: np.ndarray
    labels: np.ndarray


#: queries -> for each, (k,) scores in 0..1 and (k,) classes found there, -1 for none
PredictObjects = Callable[[list[Query]], Sequence[tuple[Any, Any]]]


def object_scores(
    candidates: Candidates,
    boxes: Tensor,
    labels: Tensor,
    min_iou: float = 0.5,
    confidence: float = 0.25,
    background: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Says what a detector makes of places in one image.

    Args:
        candidates: of the image
        boxes: (k, 4) left, top, right, bottom in the input's pixels
        labels: (k,) class indices
        min_iou (0.5): the least overlap of a candidate and a box
        confidence (0.25): from which on a class counts as found
        background (None): a class that is never an object

    Returns:
        (k,) float, the confidence of the best candidate of the class there, in 0..1, 0 without one; and
        (k,) int, the class that is found there with the highest confidence, -1 for none

    Raises:
        ValueError: if the model has no such class
    """
    count, classes = len(boxes), candidates.probabilities.shape[1]
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels must lie between 0 and {classes - 1}; the model has no others")
    scores, winners = np.zeros(count), np.full(count, -1)
    if not len(candidates.probabilities):
        return scores, winners
    sure = candidates.probabilities.detach().float()
    places = candidates.boxes.detach().float()
    overlap = box_iou(boxes.to(places), places.reshape(-1, 4))
    # one box for all classes of a candidate, or one for each
    near = (overlap >= min_iou).unflatten(1, places.shape[:-1])
    near = near[..., None] if places.dim() == 2 else near
    for i in range(count):
        best = sure.masked_fill(~near[i], 0).amax(0)
        scores[i] = float(best[int(labels[i])])
        if background is not None:
            best[background] = 0
        if float(best.max()) >= confidence:
            winners[i] = int(best.argmax())
    return scores, winners


def object_swap_check(
    images: Sequence,
    owners: Any,
    boxes: Any,
    labels: Any,
    predict: PredictObjects,
    *,
    contents: Sequence[Sequence[int]],
    removal_masks: Sequence,
    count: int = 4,
    most: int | None = None,
    control: bool = True,
    groups: Sequence | None = None,
    feather: float = 2,
    confidence: float = 0.25,
    batch_size: int = 32,
    seed: int = 51,
) -> SwapCheck:
    """Puts the box of each object on other images' backgrounds and watches its score.

    One forward for every image, one for every object without it, then 2 S for every object: S donors
    that hold no object of its class, and S that do, as the control; all objects of a donor are taken
    out of its background.

    Args:
        images: N images, before the model's transform; may be lazy
        owners: (n,) which image each object is in
        boxes: (n, 4) left, top, right, bottom, as shares of the image's width and height
        labels: (n,) class indices
        predict: a list of :class:`Query` -> for each, what :func:`object_scores` says
        contents: N lists of class indices, the largest object's first: what each image holds
        removal_masks: N masks (H, W) of all objects
        count (4): donors of each kind, S
        most (None): see :func:`~cam_core.bias.swap_test.swap_check`
        control (True): whether to run the donors that hold the class
        groups (None): N scenes or videos; donors never share the object's own
        feather (2): pixels outside the box over which it fades out
        confidence (0.25): an object with a lower score is ``"not found"``: it has none to lose
        batch_size (32): queries per call of ``predict``
        seed (51): of the donors

    Returns:
        a :class:`~cam_core.bias.swap_test.SwapCheck` of the n objects: ``donors`` are images, predictions the
        class found at the box, -1 for none; ``bg_support`` is NaN, for no background has a score of its
        own

    Raises:
        ValueError: if lengths differ
    """
    image_index, classes = np.asarray(owners, int), np.asarray(labels, int)
    places = np.asarray(boxes, float).reshape(-1, 4)
    if not len(image_index) == len(places) == len(classes) or not len(image_index):
        raise ValueError(
            f"owners, boxes and labels must be equally many and not empty, got {len(image_index)}, {len(places)} "
            f"and {len(classes)}"
        )
    if not len(images) == len(contents) == len(removal_masks):
        raise ValueError(
            f"images, contents and removal_masks must be equally many, got {len(images)}, {len(contents)} "
            f"and {len(removal_masks)}"
        )
    margin = int(np.ceil(feather))
    own, winners = _originals(images, image_index, places, classes, predict, batch_size)
    frames = [np.asarray(removal_masks[i]).shape for i in range(len(images))]
    masks = [
        box_mask(box, frames[index])
        for box, index in zip(places, image_index.tolist(), strict=True)
    ]
    plans = [removable(removal_masks[i], margin) for i in range(len(images))]
    free = np.array([share if status != "fills the frame" else 0 for status, share in plans])
    status = [
        "not found" if score < confidence else removable(mask, margin)[0]
        for score, mask in zip(own.tolist(), masks, strict=True)
    ]
    usable = np.array([s == "ok" for s in status], bool)

    def one(unit: int, image: Any) -> Query:
        return Query(image, places[unit : unit + 1], classes[unit : unit + 1])

    def paste(unit: int, donor: int) -> Query:
        below = remove_objects(images[donor], removal_masks[donor], margin).image
        return one(unit, swap_background(images[image_index[unit]], masks[unit], below, 0, feather))

    def fill(wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = np.nonzero(wanted >= 0)
        pairs = zip(rows.tolist(), wanted[rows, columns].tolist(), strict=True)
        found = _asked(predict, (paste(*pair) for pair in pairs), batch_size)
        scores, named = np.full(wanted.shape, np.nan), np.full(wanted.shape, -1)
        for row, column, (score, winner) in zip(rows, columns, found, strict=True):
            scores[row, column], named[row, column] = score[0], winner[0]
        return scores, named

    units = np.flatnonzero(usable).tolist()
    without = (
        one(u, remove_objects(images[image_index[u]], masks[u], margin).image) for u in units
    )
    background_only, background_winners = (
        np.full(len(image_index), np.nan),
        np.full(len(image_index), -1),
    )
    for unit, (score, winner) in zip(units, _asked(predict, without, batch_size), strict=True):
        background_only[unit], background_winners[unit] = score[0], winner[0]
    donors, lead = _object_donors(
        image_index, classes, contents, free, max(count, most or count), groups, seed
    )
    if not control:
        donors.same[:] = -1
    shape = donors.foreign.shape
    table = SwapTable(
        score=own,
        prediction=winners,
        foreign_scores=np.full(shape, np.nan),
        foreign_predictions=np.full(shape, -1),
        donor_classes=np.where(donors.foreign >= 0, lead[donors.foreign], -2),
        same_scores=np.full(shape, np.nan),
        same_predictions=np.full(shape, -1),
        bg_only=background_only,
        bg_other=np.full(len(image_index), np.nan),
    )
    ask_donors(fill, table, donors, usable, classes, count, seed, object_rule(confidence))
    lent = np.any(donors.foreign >= 0, axis=1)
    status = [
        "no donors" if s == "ok" and not any_lent else s
        for s, any_lent in zip(status, lent.tolist(), strict=True)
    ]
    return SwapCheck(table, effects(table), donors, status, classes, winners, background_winners)


def box_mask(box: Any, size: tuple[int, ...]) -> np.ndarray:
    """Draws a box.

    Args:
        box: (4,) left, top, right, bottom, as shares of the frame
        size: (H, W)

    Returns:
        (H, W) bool, every pixel that the box touches
    """
    height, width = size
    left, top, right, bottom = np.clip(np.asarray(box, float), 0, 1)
    mask = np.zeros((height, width), bool)
    # a pixel that is touched by less than a millionth is rounding
    rows = slice(int(top * height + 1e-6), int(np.ceil(bottom * height - 1e-6)))
    columns = slice(int(left * width + 1e-6), int(np.ceil(right * width - 1e-6)))
    mask[rows, columns] = True
    return mask


def _originals(
    images: Sequence,
    image_index: np.ndarray,
    places: np.ndarray,
    classes: np.ndarray,
    predict: PredictObjects,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and classes found of all objects, each image asked once."""
    units_of_image = [np.flatnonzero(image_index == i) for i in range(len(images))]
    asked = [i for i, units in enumerate(units_of_image) if len(units)]
    queries = (
        Query(images[i], places[units_of_image[i]], classes[units_of_image[i]]) for i in asked
    )
    own, winners = np.zeros(len(image_index)), np.full(len(image_index), -1)
    for i, (score, winner) in zip(asked, _asked(predict, queries, batch_size), strict=True):
        own[units_of_image[i]], winners[units_of_image[i]] = score, winner
    return own, winners


def _asked(predict: PredictObjects, queries: Iterable[Query], batch_size: int) -> list:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    stream, found = iter(queries), []
    while batch := list(itertools.islice(stream, batch_size)):
        answers = list(predict(batch))
        if len(answers) != len(batch):
            raise ValueError(f"predict must answer {len(batch)} queries, got {len(answers)}")
        found += answers
    return found


def _object_donors(
    image_index: np.ndarray,
    classes: np.ndarray,
    contents: Sequence[Sequence[int]],
    free: np.ndarray,
    count: int,
    groups: Sequence | None,
    seed: int,
) -> tuple[Donors, np.ndarray]:
    """Images without an object of the class, spread over what they hold; and images with one."""
    lead = np.array([held[0] if len(held) else -1 for held in contents])
    foreign, same = np.full((len(image_index), count), -1), np.full((len(image_index), count), -1)
    little = np.zeros(len(contents), bool)
    for label in np.unique(classes).tolist():
        members = np.flatnonzero(classes == label)
        holds = np.array([label in held for held in contents])
        holds[image_index[members]] = True
        found = choose_donors(
            np.where(holds, label, lead), free, image_index[members], count, groups, seed=seed
        )
        foreign[members], same[members], little = found.foreign, found.same, found.little_background
    return Donors(image_index, foreign, same, little, seed), lead


def object_heat_features(in_box: Any, area: Any, score: Any) -> np.ndarray:
    """Stacks what the heat of objects is calibrated on (:func:`~cam_core.bias.calibration.calibrate`).

    Args:
        in_box: (n,) share of an object's heat in its own box, in 0..1
        area: (n,) the box's share of the image
        score: (n,) confidence in the object

    Returns:
        (n, 4): heat per area outside against that inside, in 0..1, .5 where it is even; ``in_box``;
        and the last two, which are no heat. A row of NaN where a measure is undefined
    """
    share, size = np.asarray(in_box, float), np.asarray(area, float)
    with np.errstate(invalid="ignore", divide="ignore"):
        inside, outside = share / size, (1 - share) / (1 - size)
        features = np.column_stack([outside / (inside + outside), share, size, score])
    features[~np.isfinite(features).all(1)] = np.nan
    return features


def object_rule(confidence: float) -> Rule:
    """The evidence rule of objects: none that a detector finds is called unsure.

    Args:
        confidence: from which on the detector counts an object as found; a lower score is ``"not found"``

    Returns:
        the default :class:`~cam_core.bias.verdicts.Rule`, whose ``unsure`` is at most ``confidence``
    """
    rule = Rule()
    return dataclasses.replace(rule, unsure=min(rule.unsure, confidence))


def worst_of(verdicts: Sequence[str], dependence: Any) -> int:
    """Which object of a sample speaks for it: the worst verdict, then the highest dependence.

    Args:
        verdicts: of at least one object
        dependence: of each, NaN where it is not known

    Returns:
        its index; an object of which nothing can be said speaks only where there is no other
    """
    values = np.nan_to_num(np.asarray(dependence, float), nan=-1).tolist()
    return max(range(len(verdicts)), key=lambda i: (-_ORDER.index(verdicts[i]), values[i]))


def tensor_boxes(boxes: Any, size: tuple[int, int]) -> Tensor:
    """Boxes given as shares, in pixels of a picture (H, W)."""
    height, width = size
    scale = torch.tensor([width, height, width, height], dtype=torch.float32)
    return torch.as_tensor(np.asarray(boxes, np.float32)).reshape(-1, 4) * scale
