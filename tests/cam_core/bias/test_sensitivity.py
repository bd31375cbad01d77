"""Noise on the object against noise on the background, and objects taken out of lent backgrounds."""

import numpy as np
import pytest

from cam_core.bias import swap_test
from cam_core.bias.composites import add_noise
from cam_core.bias.noise_sensitivity import noise_check, relative_sensitivity, summarise_noise

SIZE = 24


# relative foreground sensitivity


def test_relative_sensitivity_by_hand():
    # mean .75 leaves room for .5: from .5 to 1
    assert relative_sensitivity(1.0, 0.5) == pytest.approx(1)
    assert relative_sensitivity(0.8, 0.7) == pytest.approx(0.1 / 0.5)
    assert relative_sensitivity(0.2, 0.4) == pytest.approx(-0.2 / 0.6)
    assert relative_sensitivity(1.0, 1.0) == relative_sensitivity(0.0, 0.0) == 0


def test_noise_lies_where_it_should_and_stays_in_range():
    where = np.zeros((40, 40), bool)
    where[:, :20] = True
    image = np.full((40, 40, 3), 128, np.uint8)
    noisy = add_noise(image, where, 0.1, 3)
    assert noisy.dtype == np.uint8
    assert np.array_equal(noisy[:, 20:], image[:, 20:])
    assert noisy[:, :20].std() == pytest.approx(25.5, rel=0.05)
    assert noisy[:, :20].mean() == pytest.approx(128, abs=2)
    assert np.array_equal(noisy, add_noise(image, where, 0.1, 3))
    whole = add_noise(np.full((40, 40), 0.9, np.float32), where, 0.5, 1)
    assert whole.max() == 1
    assert whole.min() >= 0
    with pytest.raises(ValueError, match="where is 3 x 3"):
        add_noise(image, np.ones((3, 3)))


def halves(count=30):
    """Left half the object, right half the background, both 0 or 1 by a class of their own."""
    rng = np.random.default_rng(0)
    things, grounds = rng.integers(0, 2, (2, count))
    images = np.zeros((count, SIZE, SIZE), np.float32)
    images[:, :, :12] = things[:, None, None]
    images[:, :, 12:] = grounds[:, None, None]
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:, :12] = True
    return images, [mask] * count, things, grounds


def untouched(columns):
    """A network that knows the class only where its half has no noise, and says class 2 else."""

    def predict(batch):
        out = np.zeros((len(batch), 3))
        for row, image in zip(out, batch, strict=True):
            part = image[:, columns]
            row[int(part[0, 0]) if part.std() == 0 else 2] = 1
        return out

    return predict


def test_noise_check_tells_which_half_is_read():
    images, masks, things, grounds = halves()
    by_object = noise_check(images, masks, untouched(slice(0, 12)), things, batch_size=7)
    assert by_object.tolist() == [[1, 0]] * 30
    found = summarise_noise(by_object)
    assert (found.value, found.noisy_background, found.noisy_object, found.n) == (1, 1, 0, 30)
    assert (found.low, found.high) == (1, 1)
    by_background = noise_check(images, masks, untouched(slice(12, 24)), grounds)
    assert summarise_noise(by_background).value == -1


def test_noise_check_counts_its_forwards_and_checks_its_arguments():
    images, masks, things, _ = halves(5)
    sizes = []

    def predict(batch):
        sizes.append(len(batch))
        return untouched(slice(0, 12))(batch)

    noise_check(images, masks, predict, things, trials=2, batch_size=8)
    assert sum(sizes) == 5 * 2 * 2
    assert max(sizes) == 8
    with pytest.raises(ValueError, match="equally many"):
        noise_check(images, masks, predict, things[:3])
    with pytest.raises(ValueError, match="trials"):
        noise_check(images, masks, predict, things, trials=0)
    nothing = summarise_noise(noise_check(images[:0], [], predict, things[:0]))
    assert nothing.n == 0
    assert np.isnan(nothing.value)


def test_interval_of_the_sensitivity():
    """Wider for fewer scenes; the value itself is that of the pooled accuracies."""
    rng = np.random.default_rng(1)
    shares = np.stack([rng.random(200) < 0.9, rng.random(200) < 0.6], 1).astype(float)
    found = summarise_noise(shares)
    assert found.value == pytest.approx(relative_sensitivity(*shares.mean(0)))
    assert found.low < found.value < found.high
    scenes = summarise_noise(shares, np.arange(200) // 20)
    assert scenes.value == found.value
    one = summarise_noise(shares, np.zeros(200))
    assert np.isnan(one.low)


# backgrounds are lent without any object


def crowded(count=40):
    """The object's grey is its class; every third image holds another object that costs .4."""
    rng = np.random.default_rng(0)
    classes = np.arange(count) % 2
    images = np.full((count, SIZE, SIZE), 0.2, np.float32)
    own = np.zeros((count, SIZE, SIZE), bool)
    every = own.copy()
    for i in range(count):
        y, x = rng.integers(8, 12, 2)
        own[i, y : y + 7, x : x + 7] = True
        images[i][own[i]] = 0.75 + 0.25 * classes[i]
        every[i] = own[i]
        if i % 3 == 0:
            images[i, 0:4, 0:4] = 0.5
            every[i, 0:4, 0:4] = True
    return images, own, every, classes


def disturbed(batch):
    out = []
    for image in batch:
        p = 0.95 if image.max() > 0.85 else 0.05
        if (np.abs(image - 0.5) < 0.02).sum() > 4:
            p = 0.5 + (p - 0.5) / 9
        out.append([1 - p, p])
    return np.array(out)


def test_lent_backgrounds_hold_no_other_object():
    images, own, every, classes = crowded()
    plain = np.arange(40) % 3 != 0
    given = dict(targets=classes, count=6, feather=1)
    before = swap_test.swap_check(images, own, disturbed, **given)
    # a third of the donors brings its other object along: six donors, .4 each
    assert before.effects.swap_drop[plain].mean() > 0.08
    after = swap_test.swap_check(images, own, disturbed, removal_masks=every, **given)
    np.testing.assert_allclose(after.effects.swap_drop[plain], 0, atol=1e-6)
    np.testing.assert_allclose(after.effects.same_drop[plain], 0, atol=1e-6)
    # the sample's own other object is background: without it the score rises
    np.testing.assert_allclose(after.effects.swap_drop[~plain], -0.4, atol=1e-6)
    assert np.array_equal(before.donors.foreign, after.donors.foreign)


def test_the_own_background_keeps_its_other_objects():
    images, own, every, _ = crowded()
    found = swap_test.swap_check(
        images, own, disturbed, removal_masks=every, targets=np.zeros(40, int), feather=1
    )
    disturbs = np.arange(40) % 3 == 0
    np.testing.assert_allclose(found.effects.bg_only[disturbs], 0.55, atol=1e-6)
    np.testing.assert_allclose(found.effects.bg_only[~disturbs], 0.95, atol=1e-6)
    # what others lend is bare everywhere
    np.testing.assert_allclose(found.table.bg_other, 0.95, atol=1e-6)


def test_masks_of_all_objects_are_asked_for_once_more_only_where_they_differ():
    images, own, every, _ = crowded()
    sizes = []

    def predict(batch):
        sizes.append(len(batch))
        return disturbed(batch)

    swap_test.swap_check(images, own, predict, removal_masks=every, count=2)
    assert sum(sizes) == 40 * (2 + 2 * 2) + int((np.arange(40) % 3 == 0).sum())
    with pytest.raises(ValueError, match="removal_masks must be equally many"):
        swap_test.swap_check(images, own, predict, removal_masks=every[:3])


# a region without room beside it


def test_a_ring_has_its_own_class_as_control():
    """The frame's grey is the class: other classes' frames cost everything, the own class's nothing."""
    from cam_core.bias.composites import border_ring

    classes = np.arange(24) % 2
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.3, (24, SIZE, SIZE)).astype(np.float32)
    ring = border_ring((SIZE, SIZE))
    images[:, ring] = np.where(classes, 0.9, 0.1)[:, None]

    def predict(batch):
        p = np.array([0.95 if image[0, 0] > 0.5 else 0.05 for image in batch])
        return np.stack([1 - p, p], 1)

    elsewhere = swap_test.region_check(images, [ring] * 24, predict)
    assert elsewhere.control_overlap.min() == 1, "a moved ring is the ring itself"
    found = swap_test.region_check(images, [ring] * 24, predict, control="same class")
    np.testing.assert_allclose(found.effects.region_drop, 0.9, atol=1e-6)
    np.testing.assert_allclose(found.effects.control_drop, 0, atol=1e-6)
    np.testing.assert_allclose(found.effects.region_gap, 0.9, atol=1e-6)
    assert (found.control, found.control_overlap.max()) == ("same class", 0)

    with pytest.raises(ValueError, match="control must be 'elsewhere' or 'same class'"):
        swap_test.region_check(images, [ring] * 24, predict, control="none")


# one statement about one thing


def test_the_reason_of_the_calibration_says_what_was_measured_and_gives_no_verdict():
    """One of 22 lost .6: that is no sample that relies on its background, which takes a verdict."""
    from cam_core.bias.calibration import calibrate

    drop = np.zeros(22)
    drop[3] = 0.6
    found = calibrate(np.random.default_rng(0).random((22, 5)), drop)
    assert (found.positives, found.usable) == (1, False)
    assert found.reason == (
        "heat is not used: 1 of 22 tested samples lose 0.50 of the score or more on other backgrounds, too few to "
        "learn from"
    )
    for word in ("rely", "relies", "depend"):
        assert word not in found.reason
