"""Causal checks: who lends a background, and what the scores of the composites say.

After Xiao et al., Noise or Signal: The Role of Image Backgrounds in Object Recognition, ICLR 2021.
Composing is in :mod:`cam_core.bias.composites`, the loops over images in :mod:`cam_core.bias.swap_test`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


def choose_probe(classes: Any, most: int = 2000, seed: int = 51) -> np.ndarray:
    """Draws the samples that are tested, the same number of each class as far as it has them.

    Args:
        classes: (N,) explained classes
        most (2000): samples
        seed (51): of the draw

    Returns:
        sorted indices, at most ``most``

    Raises:
        ValueError: if ``most`` is not positive
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    rng = np.random.default_rng(seed)
    _, group = np.unique(np.asarray(classes), return_inverse=True)
    order = rng.permutation(len(group))
    by_class = order[np.argsort(group[order], kind="stable")]
    sizes = np.bincount(group)
    turn = np.arange(len(group)) - np.repeat(sizes.cumsum() - sizes, sizes)
    dealt = by_class[np.lexsort([rng.random(len(group)), turn])]  # one of each class in turn
    return np.sort(dealt[:most])


@dataclasses.dataclass
class Donors:
    """Which samples lend their background.

    Attributes:
        samples: (n,) indices of the samples tested
        foreign: (n, S) indices of donors of other predicted classes, -1 where there are too few
        same: (n, S) indices of donors of the same predicted class, the control; -1 likewise
        little_background: (N,) bool over all samples: taken as a donor only where the class has no
            other left
        seed: of the choice
    """

    samples: np.ndarray
    foreign: np.ndarray
    same: np.ndarray
    little_background: np.ndarray
    seed: int


def choose_donors(
    predictions: Any,
    free: Any,
    samples: Any = None,
    count: int = 4,
    groups: Sequence | None = None,
    bg_predictions: Any = None,
    min_free: float = 0.4,
    seed: int = 51,
    *,
    classes: Any = None,
    has: Any = None,
    bg_has: Any = None,
) -> Donors:
    """Draws donors for each sample, spread over the other classes.

    Where classes do not exclude each other, or one is named, ``classes`` says which class each sample
    is asked for and ``has`` which images have which class: a donor of other evidence is then an image
    without that class, whatever else it shows, and one of the same evidence an image with it.

    The draw of a sample depends on the seed and its index only, so a run can be resumed.

    Args:
        predictions: (N,) predicted classes
        free: (N,) shares of each frame that are background (:class:`~cam_core.bias.composites.Removal`);
            0 or NaN where the objects could not be removed: never a donor
        samples (None): indices of the samples tested; all by default
        count (4): donors of each kind per sample
        groups (None): N values, e.g. scene or video; donors never share the sample's own
        bg_predictions (None): (N,) what the model says of each background alone, -1 where it was not
            asked. A donor of another class whose background is read as the sample's own brings no other
            evidence, and one of the same class whose background is read as another class is no
            control of pasting alone, so they come last
        min_free (0.4): donors with less background are avoided
        seed (51): of the draw
        classes (None): (n,) the class that each tested sample is asked for; its prediction by default
        has (None): (N, C) bool, which images have which class; by default the one predicted
        bg_has (None): (N, C) bool, likewise of each background alone, instead of the one class of
            ``bg_predictions``; False where it was not asked, as ``bg_predictions`` says with -1

    Returns:
        a :class:`Donors`; no sample is its own donor, none is drawn twice

    Raises:
        ValueError: if lengths differ or ``count`` is not positive
    """
    predicted, share = np.asarray(predictions), np.asarray(free, float)
    if predicted.ndim != 1 or share.shape != predicted.shape:
        raise ValueError(
            f"predictions and free must be two lists of equal length, got {predicted.shape} and "
            f"{share.shape}"
        )
    total = len(predicted)
    if groups is not None and len(groups) != total:
        raise ValueError(f"groups has {len(groups)} values for {total} samples")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    background_winners = (
        np.full(total, -1) if bg_predictions is None else np.asarray(bg_predictions)
    )
    tested = np.arange(total) if samples is None else np.asarray(samples, int)
    asked = predicted[tested] if classes is None else np.asarray(classes, int)
    if asked.shape != tested.shape:
        raise ValueError(f"classes has {len(asked)} values for {len(tested)} tested samples")
    members = None if has is None else np.asarray(has, bool)
    if members is not None and (members.ndim != 2 or len(members) != total):
        raise ValueError(f"has must be (images, classes) for {total} images, got {members.shape}")
    scene = np.arange(total) if groups is None else np.unique(groups, return_inverse=True)[1]
    pools = {
        c: np.flatnonzero((predicted == c) & (share > 0)) for c in np.unique(predicted).tolist()
    }
    pools = {c: pool for c, pool in pools.items() if len(pool)}
    known_pools: dict[int, tuple[dict, dict]] = {}

    def pools_of(own: int) -> tuple[dict, dict]:
        """Who has other evidence than a class, and who has the same."""
        if own not in known_pools:
            if members is None:
                others = {c: pool for c, pool in pools.items() if c != own}
                same_pools = {own: pools[own]} if own in pools else {}
            else:
                without = {c: pool[~members[pool, own]] for c, pool in pools.items()}
                others = {c: pool for c, pool in without.items() if len(pool)}
                carriers = np.flatnonzero(members[:, own] & (share > 0))
                same_pools = {own: carriers} if len(carriers) else {}
            known_pools[own] = others, same_pools
        return known_pools[own]

    little = share < min_free
    foreign = np.full((len(tested), count), -1)
    same = np.full((len(tested), count), -1)
    for row, sample in enumerate(tested.tolist()):
        rng = np.random.default_rng([seed, sample])
        own = int(asked[row])
        other_pools, own_pools = pools_of(own)
        # of a thousand classes a few are enough to choose from
        others = rng.permutation(list(other_pools))[: 8 * count].astype(int).tolist()
        own_evidence = (
            background_winners == own if bg_has is None else np.asarray(bg_has, bool)[:, own]
        )
        other_evidence = (background_winners >= 0) & ~own_evidence
        for table, lent, names, unfit in (
            (foreign, other_pools, others, own_evidence),
            (same, own_pools, list(own_pools), other_evidence),
        ):
            queues = [rng.permutation(lent[name]) for name in names]
            found = _round_robin(queues, count, scene != scene[sample], little, unfit)
            table[row, : len(found)] = found
    return Donors(tested, foreign, same, little, seed)


def _round_robin(
    queues: Sequence[np.ndarray],
    count: int,
    allowed: np.ndarray,
    little: np.ndarray,
    unfit: np.ndarray,
) -> list[int]:
    """Takes one of each queue in turn; unfit ones and those with little background come last."""
    turns = []
    for number, queue in enumerate(queues):
        queue = queue[allowed[queue]]
        late = 2 * little[queue] + unfit[queue]
        order = np.argsort(late, kind="stable")[:count]
        turns += [(int(late[i]), turn, number, int(queue[i])) for turn, i in enumerate(order)]
    return [donor for *_, donor in sorted(turns)[:count]]


@dataclasses.dataclass
class SwapTable:
    """Scores of the explained target for n samples and S donors, NaN (-1 for classes) where missing.

    Attributes:
        score: (n,) of the image itself, a probability
        prediction: (n,) its predicted class
        foreign_scores: (n, S) on backgrounds of other classes
        foreign_predictions: (n, S)
        donor_classes: (n, S) predicted classes of those donors
        same_scores: (n, S) on backgrounds of the same class
        same_predictions: (n, S)
        bg_only: (n,) of the own background alone
        bg_other: (n,) mean of the sample's target over the backgrounds of other classes alone
    """

    score: np.ndarray
    prediction: np.ndarray
    foreign_scores: np.ndarray
    foreign_predictions: np.ndarray
    donor_classes: np.ndarray
    same_scores: np.ndarray
    same_predictions: np.ndarray
    bg_only: np.ndarray
    bg_other: np.ndarray


@dataclasses.dataclass
class Effects:
    """What the swap did to each sample; NaN where it could not be told.

    Attributes:
        score: (n,) p(x), 0..1
        swap_drop: (n,) p(x) - mean p(object on foreign backgrounds), -1..1
        swap_flip: (n,) share of these that change the prediction, 0..1
        same_drop: (n,) as swap_drop on backgrounds of the same class: what pasting alone costs
        same_flip: (n,) likewise
        bg_gap: (n,) swap_drop - same_drop
        adopt: (n,) share of foreign swaps predicted as the donor's class, 0..1
        bg_only: (n,) p(own background alone), 0..1
        bg_support: (n,) bg_only - the mean over the backgrounds of other classes, -1..1
        swap_variance: (n,) variance of the foreign scores between donors; NaN with fewer than two
        same_variance: (n,) likewise of the control's scores
        donors: (n,) how many foreign donors
        controls: (n,) how many donors of the same class
    """

    score: np.ndarray
    swap_drop: np.ndarray
    swap_flip: np.ndarray
    same_drop: np.ndarray
    same_flip: np.ndarray
    bg_gap: np.ndarray
    adopt: np.ndarray
    bg_only: np.ndarray
    bg_support: np.ndarray
    swap_variance: np.ndarray
    same_variance: np.ndarray
    donors: np.ndarray
    controls: np.ndarray

    def is_relative(self) -> bool:
        """Whether a drop is better read as a share of the score.

        With many classes or an unsure model p(x) is often below .6, so that half of it cannot be lost.
        """
        known = self.score[np.isfinite(self.swap_drop)]
        return bool(len(known) and np.median(known) < 0.6)


def effects(table: SwapTable) -> Effects:
    """From scores to effects per sample.

    Args:
        table: scores and predictions; rows may be of a whole dataset or of one batch

    Returns:
        an :class:`Effects`
    """
    foreign, same = np.isfinite(table.foreign_scores), np.isfinite(table.same_scores)
    original = table.prediction[:, None]
    swap_drop = table.score - _mean(table.foreign_scores, foreign)
    same_drop = table.score - _mean(table.same_scores, same)
    adopted = (table.foreign_predictions == table.donor_classes) & (table.donor_classes != original)
    return Effects(
        score=table.score,
        swap_drop=swap_drop,
        swap_flip=_mean(table.foreign_predictions != original, foreign),
        same_drop=same_drop,
        same_flip=_mean(table.same_predictions != original, same),
        bg_gap=swap_drop - same_drop,
        adopt=_mean(adopted, foreign),
        bg_only=table.bg_only,
        bg_support=table.bg_only - table.bg_other,
        swap_variance=_variance(table.foreign_scores, foreign),
        same_variance=_variance(table.same_scores, same),
        donors=foreign.sum(1),
        controls=same.sum(1),
    )


@dataclasses.dataclass
class RegionEffects:
    """What replacing a region did to each sample; NaN where it could not be told.

    Attributes:
        score: (n,) p(x), 0..1
        region_drop: (n,) p(x) - mean p(region taken from donors), -1..1
        control_drop: (n,) likewise for random regions of equal size and shape
        region_gap: (n,) region_drop - control_drop
        region_flip: (n,) share of the region's swaps that change the prediction, 0..1
    """

    score: np.ndarray
    region_drop: np.ndarray
    control_drop: np.ndarray
    region_gap: np.ndarray
    region_flip: np.ndarray


def region_effects(
    score: np.ndarray,
    prediction: np.ndarray,
    region_scores: np.ndarray,
    region_predictions: np.ndarray,
    control_scores: np.ndarray,
) -> RegionEffects:
    """From scores to the effect of a region per sample.

    Args:
        score: (n,) of the images themselves
        prediction: (n,) their predicted classes
        region_scores: (n, S) with the region from donors, NaN where missing
        region_predictions: (n, S)
        control_scores: (n, S) with random regions from the same donors

    Returns:
        a :class:`RegionEffects`
    """
    known = np.isfinite(region_scores)
    drop = score - _mean(region_scores, known)
    control = score - _mean(control_scores, np.isfinite(control_scores))
    flip = _mean(region_predictions != prediction[:, None], known)
    return RegionEffects(score, drop, control, drop - control, flip)


def heat_effect(score: Any, without_background: Any, without_object: Any) -> np.ndarray:
    """Share of the loss that the background's hottest pixels cause, beside as many of the object.

    Args:
        score: (n,) p(x)
        without_background: (n,) with the hottest background pixels replaced
        without_object: (n,) with the hottest object pixels replaced; both regions come from
            :func:`~cam_core.bias.composites.heat_regions`

    Returns:
        (n,) drop_background / (drop_background + drop_object) in 0..1, drops below 0 counting as 0;
        NaN where neither lost .02, for then there is nothing to share
    """
    whole = np.asarray(score, float)
    background = (whole - np.asarray(without_background, float)).clip(0)
    total = background + (whole - np.asarray(without_object, float)).clip(0)
    return np.where(total >= 0.02, background / np.maximum(total, 0.02), np.nan)


def _mean(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Row means of what is known, NaN for a row without."""
    count = known.sum(1)
    total = np.where(known, values, 0).sum(1, dtype=float)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _variance(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Row variances of what is known, NaN for a row with fewer than two."""
    count = known.sum(1)
    squares = np.where(known, (values - _mean(values, known)[:, None]) ** 2, 0).sum(1)
    return np.where(count > 1, squares / np.maximum(count - 1, 1), np.nan)


def other_backgrounds(
    background_scores: Any, targets: Any, predictions: Any, has: Any = None
) -> np.ndarray:
    """Mean score of each sample's target over the object-free backgrounds of other predicted classes.

    Args:
        background_scores: (n, C) the model's scores on each sample's background alone; rows of NaN
            where there is none. With ``has`` (N, C), of all images
        targets: (n,) explained classes
        predictions: (n,) predicted classes of the images themselves
        has (None): (N, C) bool, which images have which class; the backgrounds are then those of the
            images without the target

    Returns:
        (n,) NaN where no other class has a background
    """
    scores = np.asarray(background_scores, float)
    if has is not None:
        return _backgrounds_without(scores, np.asarray(targets), np.asarray(has, bool))
    _, group = np.unique(predictions, return_inverse=True)
    known = np.isfinite(scores).all(1)
    sums = np.zeros((group.max(initial=0) + 1, scores.shape[1]))
    np.add.at(sums, group[known], scores[known])
    count = np.bincount(group[known], minlength=len(sums))
    others = known.sum() - count[group]
    column = np.asarray(targets)
    total = sums.sum(0)[column] - sums[group, column]
    return np.where(others > 0, total / np.maximum(others, 1), np.nan)


def _backgrounds_without(scores: np.ndarray, targets: np.ndarray, has: np.ndarray) -> np.ndarray:
    """(n,) mean score of each target over the object-free backgrounds of images that lack it."""
    known = np.isfinite(scores).all(1)
    found = np.full(len(targets), np.nan)
    for own in np.unique(targets).tolist():
        without = known & ~has[:, own]
        if without.any():
            found[targets == own] = scores[without, own].mean()
    return found
