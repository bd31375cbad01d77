"""The swap of detectors' objects, with detectors whose reasons are known."""

import numpy as np
import pytest
import torch

from cam_core import Candidates
from cam_core.bias import object_swap_test as swaps
from cam_core.bias.verdicts import CANNOT_SAY, OBJECT, RELIES, UNSTABLE

SIZE = 32


# what a detector makes of a place


def candidates(boxes, probabilities):
    p = torch.tensor(probabilities)
    return Candidates(torch.tensor(boxes), p.logit(), p)


def test_scores_are_of_the_best_candidate_that_overlaps_enough():
    box = [0.0, 0.0, 10.0, 10.0]
    half, third = [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 4.9]
    away = [20.0, 20.0, 30.0, 30.0]
    found = candidates([box, half, third, away], [[0.3, 0.2], [0.6, 0.1], [0.9, 0.1], [0.1, 0.8]])
    scores, winners = swaps.object_scores(
        found, torch.tensor([box, box, away, [40.0, 0, 50, 10]]), torch.tensor([0, 1, 1, 0])
    )
    # the half overlaps by .5 exactly, the third by .49
    np.testing.assert_allclose(scores, [0.6, 0.2, 0.8, 0], atol=1e-6)
    assert winners.tolist() == [0, 0, 1, -1]
    sure = swaps.object_scores(found, torch.tensor([box]), torch.tensor([0]), confidence=0.7)
    assert (sure[0][0], sure[1][0]) == (pytest.approx(0.6), -1)


def test_scores_where_each_class_has_its_own_box_and_one_is_background():
    found = candidates(
        [[[0.0, 0, 10, 10], [0.0, 0, 10, 10], [50.0, 50, 60, 60]]], [[0.7, 0.4, 0.9]]
    )
    box = torch.tensor([[0.0, 0, 10, 10]])
    given = dict(background=0)
    assert swaps.object_scores(found, box, torch.tensor([2]), **given)[0] == [0]
    scores, winners = swaps.object_scores(found, box, torch.tensor([1]), **given)
    assert scores[0] == pytest.approx(0.4)
    assert winners[0] == 1, "the background class is found nowhere"
    with pytest.raises(ValueError, match="labels must lie between 0 and 2"):
        swaps.object_scores(found, box, torch.tensor([3]))
    nothing = Candidates(torch.zeros(0, 4), torch.zeros(0, 2), torch.zeros(0, 2))
    assert swaps.object_scores(nothing, box, torch.tensor([1]))[1].tolist() == [-1]


def test_a_box_covers_the_pixels_it_touches():
    mask = swaps.box_mask([0.25, 0.5, 0.5, 0.51], (8, 8))
    assert mask.sum() == 2
    assert mask[4, 2:4].all()
    assert swaps.box_mask([0, 0, 1, 1], (5, 7)).all()
    assert swaps.box_mask([0.1 * 3, 0, 0.6, 0.5], (10, 10)).sum() == 15


# the check


def scenes(count=40, second=False):
    """A square per image: its grey is its class; the background's grey is the class, too."""
    rng = np.random.default_rng(0)
    classes = np.arange(count) % 2
    images = np.zeros((count, SIZE, SIZE), np.float32)
    boxes = np.zeros((count, 4))
    for i in range(count):
        y, x = rng.integers(10, 18, 2)
        images[i] = 0.1 + 0.2 * classes[i]
        images[i, y : y + 8, x : x + 8] = 0.7 + 0.2 * classes[i]
        boxes[i] = np.array([x, y, x + 8, y + 8]) / SIZE
    return images, boxes, classes


def grey_at(query, k):
    left, top, right, bottom = (query.boxes[k] * SIZE).round().astype(int)
    return query.image[top:bottom, left:right].mean()


def by_object(queries):
    """Finds squares by their grey."""
    answers = []
    for query in queries:
        scores, winners = [], []
        for k, label in enumerate(query.labels):
            grey = grey_at(query, k)
            found = -1 if grey < 0.5 else int(grey > 0.8)
            scores.append(0.9 if found == label else 0.05)
            winners.append(found)
        answers.append((np.array(scores), np.array(winners)))
    return answers


def by_background(queries):
    """Takes every square for what the corner says."""
    answers = []
    for query in queries:
        says = int(query.image[0, 0] > 0.2)
        scores = [
            0.9 if says == label and grey_at(query, k) > 0.5 else 0.05
            for k, label in enumerate(query.labels)
        ]
        answers.append((np.array(scores), np.full(len(scores), says)))
    return answers


def check(images, boxes, classes, predict, **arguments):
    count = len(images)
    given = dict(
        contents=[[int(c)] for c in classes],
        removal_masks=[swaps.box_mask(b, (SIZE, SIZE)) for b in boxes],
        feather=1,
    )
    return swaps.object_swap_check(
        images, np.arange(count), boxes, classes, predict, **{**given, **arguments}
    )


def test_the_swap_tells_object_from_background():
    images, boxes, classes = scenes()
    found = check(images, boxes, classes, by_object)
    assert found.status == ["ok"] * 40
    np.testing.assert_allclose(found.effects.swap_drop, 0, atol=1e-6)
    np.testing.assert_allclose(found.effects.bg_only, 0.05, atol=1e-6)
    assert not found.effects.swap_flip.any()
    found = check(images, boxes, classes, by_background)
    np.testing.assert_allclose(found.effects.swap_drop, 0.85, atol=1e-6)
    np.testing.assert_allclose(found.effects.same_drop, 0, atol=1e-6)
    np.testing.assert_allclose(found.effects.swap_flip, 1)
    np.testing.assert_allclose(found.effects.adopt, 1)
    assert np.isnan(found.effects.bg_support).all()


def test_donors_hold_no_object_of_the_class_and_are_never_the_own_image():
    images, boxes, classes = scenes()
    # every fifth image also holds the other class
    contents = [[int(c), int(1 - c)] if i % 5 == 0 else [int(c)] for i, c in enumerate(classes)]
    found = check(images, boxes, classes, by_object, contents=contents)
    for unit in range(40):
        lent = found.donors.foreign[unit]
        assert all(int(classes[unit]) not in contents[d] for d in lent)
        assert unit not in lent
        controls = found.donors.same[unit]
        assert all(int(classes[unit]) in contents[d] for d in controls)
        assert unit not in controls


def test_objects_of_one_image_are_tested_one_by_one_and_the_image_asked_once():
    images, boxes, classes = scenes(20)
    images[0, 1:7, 1:7] = 0.9  # a second object, of class 1, in an image of class 0
    owners = np.concatenate([np.arange(20), [0]])
    both = np.vstack([boxes, [1 / 32, 1 / 32, 7 / 32, 7 / 32]])
    labels = np.append(classes, 1)
    masks = [swaps.box_mask(b, (SIZE, SIZE)) for b in boxes]
    masks[0] = masks[0] | swaps.box_mask(both[-1], (SIZE, SIZE))
    queries = []

    def predict(batch):
        queries.extend(batch)
        return by_object(batch)

    found = swaps.object_swap_check(
        images, owners, both, labels, predict, contents=[[int(c)] for c in classes[:1]] + [
            [int(c)] for c in classes[1:]
        ], removal_masks=masks, count=2, batch_size=8, feather=1,
    )  # fmt: skip
    assert len(found.status) == 21
    np.testing.assert_allclose(found.effects.swap_drop, 0, atol=1e-6)
    assert len(queries) == 20 + 21 + 21 * 2 * 2
    assert [len(q.labels) for q in queries[:20]] == [2] + [1] * 19
    # of the second object nothing else of its image is kept
    mine = [q for q in queries if len(q.labels) == 1 and q.boxes[0, 0] == 1 / 32]
    assert all(q.image[12:26, 12:26].max() < 0.5 for q in mine[1:])


def test_what_is_not_found_or_fills_the_frame_has_a_status():
    images, boxes, classes = scenes()
    images[0] = 0.1  # nothing is there
    boxes[1] = [0, 0, 1, 1]
    images[1] = 0.9
    found = check(images, boxes, classes, by_object)
    assert found.status[:3] == ["not found", "fills the frame", "ok"]
    assert np.isnan(found.effects.swap_drop[:2]).all()
    assert 1 not in found.donors.foreign
    alone = check(images[2::2], boxes[2::2], classes[2::2], by_object)
    assert set(alone.status) == {"no donors"}


def test_more_donors_where_few_leave_it_open():
    """Half of the other backgrounds hide the object: four donors may say anything."""
    images, boxes, classes = scenes(80)
    images[1::4, :4, :4] = 0.45  # half of class 1's images hide what stands on them

    def predict(queries):
        out = []
        for (scores, winners), query in zip(by_object(queries), queries, strict=True):
            hidden = (
                query.labels == 0 if abs(query.image[0, 0] - 0.45) < 0.02 else np.zeros(1, bool)
            )
            out.append((np.where(hidden, 0.0, scores), np.where(hidden, -1, winners)))
        return out

    mine = np.flatnonzero(classes == 0)[:8]  # too few for a prior: each speaks for itself
    given = dict(
        contents=[[int(c)] for c in classes], feather=1,
        removal_masks=[swaps.box_mask(b, (SIZE, SIZE)) for b in boxes],
    )  # fmt: skip
    few, many = (
        swaps.object_swap_check(images, mine, boxes[mine], classes[mine], predict, most=m, **given)
        for m in (4, 16)
    )
    assert set(many.effects.donors) <= {4, 8, 16}
    assert many.effects.donors.mean() > 8
    error = np.abs(few.effects.swap_drop - 0.45).mean()
    assert np.abs(many.effects.swap_drop - 0.45).mean() < error


def test_arguments():
    images, boxes, classes = scenes(8)
    with pytest.raises(ValueError, match="owners, boxes and labels"):
        check(images, boxes[:3], classes, by_object)
    with pytest.raises(ValueError, match="images, contents and removal_masks"):
        check(images, boxes, classes, by_object, contents=[[0]])
    with pytest.raises(ValueError, match="must answer"):
        check(images, boxes, classes, lambda queries: [])
    with pytest.raises(ValueError, match="batch_size"):
        check(images, boxes, classes, by_object, batch_size=0)


# who speaks for a sample


def test_the_worst_object_speaks_for_its_sample():
    assert swaps.worst_of([OBJECT, RELIES, RELIES], [0.1, 0.6, 0.8]) == 2
    assert swaps.worst_of([CANNOT_SAY, OBJECT], [np.nan, 0.0]) == 1
    assert swaps.worst_of([UNSTABLE, OBJECT], [0.1, 0.2]) == 0
    assert swaps.worst_of([CANNOT_SAY], [np.nan]) == 0
