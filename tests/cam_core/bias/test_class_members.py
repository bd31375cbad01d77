"""Checks of images that may have several classes: who is a donor, what a prediction is, what is lost."""

import numpy as np
import pytest

from cam_core.bias import effects, noise_sensitivity, swap_test

SIDE = 24
# The place of each of three classes: bright where an image has it.
PLACES = (np.s_[0:8, 0:8], np.s_[0:8, 16:24], np.s_[16:24, 0:8])


def picture(shown, level=200):
    """A dark image with a bright place for each class that it shows."""
    image = np.full((SIDE, SIDE, 3), 20, np.uint8)
    for number in shown:
        image[PLACES[number]] = level
    return image


def predict(images):
    """(n, 3) probabilities: .9 where a class's own place is bright, .1 where it is dark."""
    grey = [[float(np.asarray(image)[place].mean()) for place in PLACES] for image in images]
    return 0.1 + 0.8 * np.clip((np.array(grey) - 20) / 180, 0, 1)


def mixed(count=48, seed=0):
    """Sets of classes, drawn one by one: about an eighth of each of the eight combinations."""
    rng = np.random.default_rng(seed)
    return [tuple(c for c in range(3) if rng.random() < 0.5) for _ in range(count)]


def test_present_and_given_classes():
    rows = np.array([[0.9, 0.2, 0.6], [0.1, 0.2, 0.3]])
    assert swap_test.present_classes(rows).tolist() == [[True, False, False], [False, False, True]]
    assert swap_test.present_classes(rows, 0.5).tolist() == [[True, False, True], [False] * 3]
    assert swap_test.present_classes(rows, [0.95, 0.1, 0.5]).tolist() == [
        [False, True, True], [False, True, False],
    ]  # fmt: skip
    # without a threshold the strongest; with one the class that is asked for, or the strongest other
    assert swap_test.given_classes(rows, [2, 2]).tolist() == [0, 2]
    assert swap_test.given_classes(rows, [2, 2], 0.5).tolist() == [2, 1]
    assert swap_test.given_classes(rows[:, :1], [0, 0], 0.5).tolist() == [0, -1]


def test_donors_have_the_class_or_have_it_not():
    shown = mixed()
    has = np.array([[c in s for c in range(3)] for s in shown])
    strongest = np.array([s[0] if s else 0 for s in shown])
    rows = np.flatnonzero(has[:, 1])
    found = effects.choose_donors(
        strongest, np.ones(len(shown)), rows, 5, classes=np.ones(len(rows), int), has=has
    )
    assert (found.foreign >= 0).all()
    assert not has[found.foreign, 1].any(), "whatever else they show"
    assert has[found.same, 1].all()
    assert (found.same != rows[:, None]).all()
    # those that lack the class are spread over what they show instead
    assert len({strongest[d] for d in found.foreign.ravel()}) > 1


def test_without_members_the_draw_is_what_it_was():
    classes = np.arange(30) % 3
    plain = effects.choose_donors(classes, np.ones(30), count=4)
    told = effects.choose_donors(
        classes, np.ones(30), count=4, classes=classes, has=classes[:, None] == np.arange(3)
    )
    assert (plain.foreign == told.foreign).all()
    assert set(classes[told.same[0]]) == {0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": [0]}, "classes has 1 values for 4"),
        ({"has": np.zeros((3, 2))}, r"has must be \(images, classes\) for 4"),
    ],
)
def test_wrong_members(given, message):
    with pytest.raises(ValueError, match=message):
        effects.choose_donors([0, 1, 0, 1], np.ones(4), **given)


def test_region_of_one_class_among_several():
    shown = mixed()
    images = [picture(s) for s in shown]
    region = np.zeros((SIDE, SIDE), bool)
    region[PLACES[1]] = True
    having = [i for i, s in enumerate(shown) if 1 in s]
    found = swap_test.region_check(
        images, [region] * len(images), predict, samples=having, classes=np.ones(len(having), int),
        threshold=0.5, feather=0,
    )  # fmt: skip
    assert found.effects.region_drop == pytest.approx(np.full(len(having), 0.8), abs=0.01)
    assert found.effects.region_flip == pytest.approx(np.ones(len(having)))
    # another class's place takes nothing of this one's score
    other = np.zeros((SIDE, SIDE), bool)
    other[PLACES[2]] = True
    still = swap_test.region_check(
        images, [other] * len(images), predict, samples=having, classes=np.ones(len(having), int),
        threshold=0.5, feather=0,
    )  # fmt: skip
    assert np.abs(still.effects.region_drop).max() < 0.01
    assert still.effects.region_flip.max() == 0


def test_labels_count_where_a_class_is_missed():
    shown = mixed()
    images = [picture(s) for s in shown]

    def blind(pictures):
        found = predict(pictures)
        found[:, 1] = 0.1
        return found

    labelled = np.array([[c in s for c in range(3)] for s in shown])
    having = np.flatnonzero(labelled[:, 1])
    region = np.zeros((SIDE, SIDE), bool)
    region[PLACES[1]] = True
    found = swap_test.region_check(
        images, [region] * len(images), blind, samples=having, classes=np.ones(len(having), int),
        threshold=0.5, labelled=labelled, feather=0,
    )  # fmt: skip
    assert found.status == ["ok"] * len(having)
    assert not labelled[found.donors, 1].any()
    assert np.abs(found.effects.region_drop).max() < 1e-6
    with pytest.raises(ValueError, match="labelled must be"):
        swap_test.region_check(images, [region] * len(images), blind, labelled=labelled[:, :2])


def test_swap_takes_the_background_of_images_without_the_class():
    shown = mixed()
    images = [picture(s) for s in shown]
    body = np.zeros((SIDE, SIDE), bool)
    body[12:, :] = True  # class 2 is on the object, 0 and 1 are in the background
    for own, drop in ((0, 0.8), (2, 0.0)):
        having = np.array([i for i, s in enumerate(shown) if own in s])
        found = swap_test.swap_check(
            images, [body] * len(images), predict, samples=having,
            classes=np.full(len(having), own), threshold=0.5, feather=0,
        )  # fmt: skip
        assert found.effects.swap_drop == pytest.approx(np.full(len(having), drop), abs=0.06)
        assert np.abs(found.effects.same_drop).max() < 0.06
        if own == 0:  # against backgrounds of images without it, which are not tested themselves
            assert found.effects.bg_support == pytest.approx(np.full(len(having), 0.8), abs=0.06)


def test_noise_asks_each_class_by_itself():
    images = [picture((0, 1, 2)), picture((1,))]
    masks = [np.zeros((SIDE, SIDE), bool)] * 2
    for mask in masks:
        mask[PLACES[1]] = True
    alone = noise_sensitivity.noise_check(images, masks, predict, [1, 1], sigma=0.0, trials=1)
    assert alone.tolist() == [[0, 0], [1, 1]], "the strongest of three alike is the first"
    each = noise_sensitivity.noise_check(
        images, masks, predict, [1, 1], sigma=0.0, trials=1, threshold=0.5
    )
    assert each.tolist() == [[1, 1], [1, 1]]
