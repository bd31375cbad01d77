"""Composites by their pixels, donors by their rules, effects by hand, the drivers against a known model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cam_core.bias import composites, effects, swap_test


def box(size, top, bottom, left, right):
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


# masks and pastes


def test_soft_mask_by_distance():
    mask = box((1, 12), 0, 1, 0, 3)
    soft = composites.soft_mask(mask, dilate=1, feather=2)
    # distances to the last object pixel: 1 -> whole, 2 -> half, 3 -> nothing
    np.testing.assert_allclose(soft[0], [1, 1, 1, 1, 0.5, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(composites.soft_mask(mask, 2, 0)[0], [1] * 5 + [0] * 7)
    assert not composites.soft_mask(np.zeros((4, 4))).any()
    with pytest.raises(ValueError, match="feather"):
        composites.soft_mask(mask, feather=-1)


def test_swap_keeps_the_object_and_takes_the_background():
    image, other = np.full((20, 30, 3), 200, np.uint8), np.full((20, 30, 3), 40, np.uint8)
    mask = box((20, 30), 8, 12, 10, 20)
    out = composites.swap_background(image, mask, other, dilate=1, feather=2)
    assert out.dtype == np.uint8
    assert (out[mask] == 200).all()
    assert (out[7, 10:20] == 200).all()  # dilated
    assert (out[6, 10:20] == 120).all()  # feathered: half of each
    assert (out[5, 10:20] == 40).all()
    assert (out[:, :6] == 40).all()


@pytest.mark.parametrize("kind", ["hwc", "chw", "grey", "tensor", "float"])
def test_layout_type_and_dtype_survive(kind):
    rng = np.random.default_rng(0)
    image, other = rng.integers(0, 256, (2, 12, 10, 3)).astype(np.uint8)
    mask = box((12, 10), 2, 6, 3, 7)
    expected = composites.swap_background(image, mask, other)
    if kind == "chw":
        got = composites.swap_background(image.transpose(2, 0, 1), mask, other.transpose(2, 0, 1))
        assert np.array_equal(got, expected.transpose(2, 0, 1))
    elif kind == "grey":
        got = composites.swap_background(image[..., 0], mask, other[..., 0])
        assert np.array_equal(got, expected[..., 0])
    elif kind == "tensor":
        a, b = (torch.from_numpy(x).permute(2, 0, 1) for x in (image, other))
        got = composites.swap_background(a, torch.from_numpy(mask), b)
        assert isinstance(got, torch.Tensor)
        assert got.dtype == torch.uint8
        assert np.array_equal(got.numpy(), expected.transpose(2, 0, 1))
    else:
        got = composites.swap_background(image / 255.0, mask, other / 255.0)
        assert got.dtype == np.float64
        assert np.abs(got - expected / 255).max() <= 0.51 / 255


def test_sizes_and_channels_are_checked():
    image = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(ValueError, match="mask is 5 x 5, the image 10 x 10"):
        composites.swap_background(image, np.ones((5, 5)), image)
    with pytest.raises(ValueError, match="channels"):
        composites.swap_background(image, np.ones((10, 10)), image[..., 0])
    with pytest.raises(ValueError, match="an image must have shape"):
        composites.swap_background(np.zeros((2, 3, 4, 5)), np.ones((10, 10)), image)
    with pytest.raises(ValueError, match="a mask must have shape"):
        composites.soft_mask(np.ones((3, 4, 4)))


def test_fit_frame_covers_and_crops_the_centre():
    donor = np.zeros((10, 40), np.uint8)
    donor[:, 15:25] = 255  # the centre that a square frame sees
    assert (composites.fit_frame(donor, (10, 10)) == 255).all()
    assert (composites.fit_frame(donor, (20, 20))[:, 2:18] == 255).all()
    stretched = composites.fit_frame(donor, (10, 8), keep_aspect=False)
    assert stretched.shape == (10, 8)
    assert (stretched[:, 3:5] == 255).all()
    assert (stretched[:, [0, 7]] == 0).all()
    odd = composites.fit_frame(np.zeros((7, 13, 3), np.uint8), (31, 17))
    assert odd.shape == (31, 17, 3)


# removal


def test_removal_mirrors_the_widest_strip():
    image = np.tile(np.arange(20), (4, 1)).astype(np.uint8)
    out = composites.remove_objects(image, box((4, 20), 0, 4, 3, 9), margin=0)
    # the widest strip is the right one, from column 9: mirrored at the box's right edge
    assert out.image[0].tolist() == [0, 1, 2, 14, 13, 12, 11, 10, 9, *range(9, 20)]
    assert out.status == "ok"
    assert out.free == pytest.approx(1 - 6 / 20)
    left = composites.remove_objects(image, box((4, 20), 0, 4, 14, 19), margin=0).image[0]
    assert left.tolist() == [*range(14), 13, 12, 11, 10, 9, 19]


@pytest.mark.parametrize(("rows", "start"), [((2, 6), 6), ((14, 18), 14)])
def test_removal_from_above_and_below(rows, start):
    image = np.tile(np.arange(20)[:, None], (1, 4)).astype(np.uint8)
    out = composites.remove_objects(image, box((20, 4), *rows, 0, 4), margin=0).image[:, 0]
    expected = list(range(20))
    expected[rows[0] : rows[1]] = [9, 8, 7, 6] if start == 6 else [13, 12, 11, 10]
    assert out.tolist() == expected


def test_a_narrow_strip_is_mirrored_back_and_forth():
    image = np.tile(np.arange(12), (3, 1)).astype(np.uint8)
    out = composites.remove_objects(image, box((3, 12), 0, 3, 0, 9), margin=0).image[0]
    # nearest to the edge first: 9, 10, 11, 11, 10, 9, 9, 10, 11 away from it
    assert out[:9][::-1].tolist() == [9, 10, 11, 11, 10, 9, 9, 10, 11]


def test_objects_apart_are_filled_apart_and_never_from_each_other():
    image = np.zeros((24, 48), np.uint8)
    first, second = box((24, 48), 8, 14, 4, 10), box((24, 48), 8, 14, 30, 36)
    image[first | second] = 255
    out = composites.remove_objects(image, first | second, margin=2)
    assert out.status == "ok"
    assert not out.image.any()
    assert out.free == pytest.approx(1 - 2 * 100 / (24 * 48))


def test_boxes_that_meet_become_one():
    mask = box((30, 30), 4, 10, 4, 10) | box((30, 30), 9, 16, 12, 18)
    out = composites.remove_objects(np.zeros((30, 30), np.uint8), mask, margin=1)
    assert out.free == pytest.approx(1 - (17 - 3) * (19 - 3) / 900)


def test_the_silhouette_is_gone():
    """Two shapes in one box leave the same picture."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    square = box((32, 32), 10, 20, 10, 20)
    cross = box((32, 32), 10, 20, 14, 16) | box((32, 32), 14, 16, 10, 20)
    a = composites.remove_objects(image, square).image
    b = composites.remove_objects(image, cross).image
    assert np.array_equal(a, b)


def test_statuses_of_removal():
    image = np.zeros((20, 20, 3), np.uint8)
    full = composites.remove_objects(image, np.ones((20, 20)))
    assert (full.image, full.status, full.free) == (None, "fills the frame", 0)
    nearly = composites.remove_objects(image, box((20, 20), 1, 20, 1, 20), margin=0)
    assert nearly.status == "fills the frame"
    none = composites.remove_objects(image, np.zeros((20, 20)))
    assert none.status == "no object"
    assert none.image is image
    mask = box((20, 20), 5, 9, 5, 9)
    assert composites.removable(mask, 2) == ("ok", composites.remove_objects(image, mask, 2).free)


# regions


def test_replace_region():
    image, donor = np.full((10, 10), 100, np.uint8), np.full((20, 40), 200, np.uint8)
    region = box((10, 10), 0, 3, 0, 3)
    out = composites.replace_region(image, region, donor, feather=0)
    assert (out[region] == 200).all()
    assert (out[~region] == 100).all()


def test_a_corner_stays_a_corner():
    donor = np.zeros((10, 40), np.uint8)
    donor[:, -4:] = 255
    out = composites.replace_region(np.zeros((10, 10)), np.ones((10, 10)), donor)
    assert (out[:, -1] == 255).all()


def test_random_regions_are_whole_seeded_and_elsewhere():
    region = box((40, 40), 2, 8, 30, 38)
    region[2, 30] = False
    copies = composites.random_regions(region, 16, seed=1)
    assert (copies.sum((1, 2)) == region.sum()).all()
    assert not (copies & region).any()
    assert np.array_equal(copies, composites.random_regions(region, 16, seed=1))
    assert len({copy.tobytes() for copy in copies}) > 8
    assert (composites.random_regions(np.ones((5, 5)), 2) == 1).all()  # no other place
    with pytest.raises(ValueError, match="region is empty"):
        composites.random_regions(np.zeros((5, 5)), 2)


def test_border_ring():
    ring = composites.border_ring((20, 40), 0.1)
    assert ring.sum() == 800 - 16 * 32
    assert not ring[2:18, 4:36].any()
    with pytest.raises(ValueError, match="share"):
        composites.border_ring((20, 20), 0.5)


def test_heat_regions_take_the_hottest_and_equally_many():
    heat = np.arange(100.0).reshape(10, 10)
    objects = box((10, 10), 9, 10, 4, 10)  # values 94..99
    background, inside = composites.heat_regions(heat, objects, share=0.04)
    assert heat[background].tolist() == [90, 91, 92, 93]
    assert heat[inside].tolist() == [96, 97, 98, 99]
    wide, few = composites.heat_regions(heat, objects, share=0.5)
    assert wide.sum() == few.sum() == 6
    with pytest.raises(ValueError, match="not finite"):
        composites.heat_regions(np.full((10, 10), np.nan), objects)
    with pytest.raises(ValueError, match="leave some background"):
        composites.heat_regions(heat, np.ones((10, 10)))


# probe and donors


def test_the_probe_is_stratified_seeded_and_bounded():
    classes = np.repeat(["a", "b", "c"], [500, 100, 5])
    probe = effects.choose_probe(classes, 65)
    assert len(set(probe)) == 65
    assert (np.diff(probe) > 0).all()
    assert [int((classes[probe] == c).sum()) for c in "abc"] == [30, 30, 5]
    assert np.array_equal(probe, effects.choose_probe(classes, 65))
    assert not np.array_equal(probe, effects.choose_probe(classes, 65, seed=1))
    assert np.array_equal(effects.choose_probe(classes), np.arange(605))
    assert len(effects.choose_probe([], 5)) == 0
    with pytest.raises(ValueError, match="most"):
        effects.choose_probe(classes, 0)


def test_donors_follow_their_rules():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 5, 200)
    free = rng.uniform(0.5, 1, 200)
    free[:10] = [0, np.nan] * 5  # cannot lend
    scene = rng.integers(0, 40, 200)
    donors = effects.choose_donors(classes, free, count=4, groups=scene)
    rows = np.arange(200)[:, None]
    assert (donors.foreign >= 10).all()
    assert (donors.same[donors.same >= 0] >= 10).all()
    assert (classes[donors.foreign] != classes[rows]).all()
    for i in range(200):
        assert len(set(classes[donors.foreign[i]])) == 4  # spread over the four other classes
        mine = donors.same[i][donors.same[i] >= 0]
        assert (classes[mine] == classes[i]).all()
        assert i not in mine
        assert len(set(mine)) == len(mine)
        assert scene[i] not in set(scene[mine]) | set(scene[donors.foreign[i]])


def test_donors_of_a_sample_do_not_depend_on_the_others_tested():
    classes, free = np.arange(60) % 3, np.ones(60)
    every = effects.choose_donors(classes, free)
    some = effects.choose_donors(classes, free, samples=[7, 41])
    assert np.array_equal(some.foreign, every.foreign[[7, 41]])
    assert np.array_equal(some.same, every.same[[7, 41]])
    other = effects.choose_donors(classes, free, seed=52)
    assert not np.array_equal(other.foreign, every.foreign)


def test_little_background_only_where_there_is_no_other():
    classes = np.array([0, 0, 1, 1, 1])
    donors = effects.choose_donors(classes, [1, 1, 0.1, 0.9, 0.8], samples=[0], count=2)
    assert set(donors.foreign[0]) == {3, 4}
    assert donors.little_background.tolist() == [False, False, True, False, False]
    three = effects.choose_donors(classes, [1, 1, 0.1, 0.9, 0.8], samples=[0], count=4)
    assert three.foreign[0].tolist()[2:] == [2, -1]
    assert three.same[0].tolist() == [1, -1, -1, -1]


def test_a_control_whose_background_says_another_class_comes_last():
    classes = np.array([0, 0, 0, 0, 1, 1, 1])
    alone = np.array([0, 1, 0, -1, 0, 1, -1])
    two = effects.choose_donors(classes, np.ones(7), [0], 2, bg_predictions=alone)
    assert set(two.same[0]) == {2, 3}
    three = effects.choose_donors(classes, np.ones(7), [0], 3, bg_predictions=alone)
    assert three.same[0, 2] == 1
    plain = effects.choose_donors(classes, np.ones(7), [0], 3)
    assert np.array_equal(three.foreign, plain.foreign)


def test_donor_arguments():
    with pytest.raises(ValueError, match="equal length"):
        effects.choose_donors([0, 1], [1.0])
    with pytest.raises(ValueError, match="groups"):
        effects.choose_donors([0, 1], [1, 1], groups=[0])
    with pytest.raises(ValueError, match="count"):
        effects.choose_donors([0, 1], [1, 1], count=0)


# effects


def table(**changes):
    values = {
        "score": np.array([0.9, 0.8]),
        "prediction": np.array([0, 1]),
        "foreign_scores": np.array([[0.1, 0.3, 0.5, np.nan], [np.nan] * 4]),
        "foreign_predictions": np.array([[1, 2, 0, -1], [-1] * 4]),
        "donor_classes": np.array([[1, 1, 2, -1], [-1] * 4]),
        "same_scores": np.array([[0.8, 0.9], [0.7, np.nan]]),
        "same_predictions": np.array([[0, 0], [0, -1]]),
        "bg_only": np.array([0.6, np.nan]),
        "bg_other": np.array([0.2, 0.1]),
    }
    return effects.SwapTable(**{**values, **changes})


def test_effects_by_hand():
    e = effects.effects(table())
    np.testing.assert_allclose(e.swap_drop, [0.6, np.nan])
    np.testing.assert_allclose(e.swap_flip, [2 / 3, np.nan])
    np.testing.assert_allclose(e.same_drop, [0.05, 0.1])
    np.testing.assert_allclose(e.same_flip, [0, 1])
    np.testing.assert_allclose(e.bg_gap, [0.55, np.nan])
    np.testing.assert_allclose(e.adopt, [1 / 3, np.nan])
    np.testing.assert_allclose(e.bg_support, [0.4, np.nan])
    np.testing.assert_allclose(e.swap_variance, [0.04, np.nan])
    np.testing.assert_allclose(e.same_variance, [0.005, np.nan])
    assert e.donors.tolist() == [3, 0]
    assert e.controls.tolist() == [2, 1]
    assert not e.is_relative()
    assert effects.effects(table(score=np.array([0.5, 0.9]))).is_relative()


def test_other_backgrounds_by_a_loop():
    rng = np.random.default_rng(1)
    scores, targets, predictions = (
        rng.random((30, 4)),
        rng.integers(0, 4, 30),
        rng.integers(0, 3, 30),
    )
    scores[5] = np.nan
    got = effects.other_backgrounds(scores, targets, predictions)
    for i in range(30):
        rest = [
            scores[j, targets[i]] for j in range(30) if predictions[j] != predictions[i] and j != 5
        ]
        assert got[i] == pytest.approx(np.mean(rest))
    assert np.isnan(effects.other_backgrounds(scores, targets, np.zeros(30))).all()


def test_region_and_heat_effects():
    e = effects.region_effects(
        np.array([0.9]),
        np.array([2]),
        np.array([[0.1, 0.3]]),
        np.array([[2, 0]]),
        np.array([[0.8, 0.9]]),
    )
    assert e.region_drop == pytest.approx([0.7])
    assert e.control_drop == pytest.approx([0.05])
    assert e.region_gap == pytest.approx([0.65])
    assert e.region_flip == pytest.approx([0.5])
    shares = effects.heat_effect([0.9, 0.9, 0.9], [0.3, 0.95, 0.89], [0.7, 0.4, 0.9])
    np.testing.assert_allclose(shares, [0.75, 0, np.nan])


# drivers, with models whose reasons are known

SIZE = 24


def scenes(count=40, seed=0):
    """Squares: the grey of the object is one bit, that of the background another."""
    rng = np.random.default_rng(seed)
    objects, grounds = rng.integers(0, 2, (2, count))
    images = np.zeros((count, SIZE, SIZE), np.float32)
    masks = np.zeros((count, SIZE, SIZE), bool)
    for i in range(count):
        y, x = rng.integers(4, 11, 2)
        masks[i, y : y + 9, x : x + 9] = True
        images[i] = 0.1 + 0.3 * grounds[i]
        images[i][masks[i]] = 0.7 + 0.3 * objects[i]
    return images, masks, objects, grounds


def by_object(batch):
    """Looks at the brightest pixel: that is the object, where there is one."""
    p = np.array([0.95 if image.max() > 0.85 else 0.05 for image in batch])
    return np.stack([1 - p, p], 1)


def by_background(batch):
    """Looks at a corner, which is the background."""
    p = np.array([0.95 if image[0, 0] > 0.25 else 0.05 for image in batch])
    return np.stack([1 - p, p], 1)


def test_swap_check_tells_object_from_background():
    images, masks, objects, grounds = scenes()
    found = swap_test.swap_check(images, masks, by_object, batch_size=7)
    assert found.status == ["ok"] * 40
    assert np.array_equal(found.predictions, objects)
    np.testing.assert_allclose(found.effects.swap_drop, 0, atol=1e-6)
    np.testing.assert_allclose(found.effects.same_drop, 0, atol=1e-6)
    assert not found.effects.swap_flip.any()

    found = swap_test.swap_check(images, masks, by_background, batch_size=7)
    assert np.array_equal(found.predictions, grounds)
    np.testing.assert_allclose(found.effects.swap_drop, 0.9, atol=1e-6)
    np.testing.assert_allclose(found.effects.same_drop, 0, atol=1e-6)
    np.testing.assert_allclose(found.effects.adopt, 1)
    np.testing.assert_allclose(found.effects.bg_only, 0.95, atol=1e-6)
    np.testing.assert_allclose(found.effects.bg_support, 0.9, atol=1e-6)
    assert np.array_equal(found.bg_predictions, grounds)


def test_swap_check_of_some_samples_and_given_targets():
    images, masks, _, grounds = scenes()
    every = swap_test.swap_check(images, masks, by_background, targets=1 - grounds)
    np.testing.assert_allclose(every.effects.swap_drop, -0.9, atol=1e-6)
    some = swap_test.swap_check(
        images, masks, by_background, samples=[3, 30], control=False, count=2
    )
    assert some.table.foreign_scores.shape == (2, 2)
    np.testing.assert_allclose(some.effects.swap_drop, 0.9, atol=1e-6)
    assert np.isnan(some.effects.same_drop).all()
    assert np.isnan(some.effects.bg_gap).all()


def test_no_more_than_a_batch_is_asked_and_every_composite_once():
    images, masks, _, _ = scenes()
    sizes = []

    def predict(batch):
        sizes.append(len(batch))
        return torch.from_numpy(by_background(batch))

    swap_test.swap_check(images, masks, predict, count=3, batch_size=16)
    assert max(sizes) == 16
    assert sum(sizes) == 40 * (2 + 2 * 3)


def test_degenerate_samples_have_a_status_and_no_numbers():
    images, masks, _, _ = scenes()
    masks[0] = False
    masks[1] = True
    found = swap_test.swap_check(images, masks, by_background)
    assert found.status[:3] == ["no object", "fills the frame", "ok"]
    assert np.isnan(found.effects.swap_drop[:2]).all()
    assert np.isnan(found.effects.bg_only[:2]).all()
    assert np.isfinite(found.effects.swap_drop[2:]).all()
    assert 1 not in found.donors.foreign
    alone = swap_test.swap_check(images[2:], masks[2:], lambda b: np.tile([0.3, 0.7], (len(b), 1)))
    assert set(alone.status) == {"no donors"}
    assert np.isnan(alone.effects.swap_drop).all()


def test_swap_check_of_images_of_different_sizes():
    images, masks, _, grounds = scenes(20)
    wide = [
        np.pad(image, ((0, 0), (0, 8 * (i % 3))), mode="edge") for i, image in enumerate(images)
    ]
    shapes = [np.pad(mask, ((0, 0), (0, 8 * (i % 3)))) for i, mask in enumerate(masks)]
    found = swap_test.swap_check(wide, shapes, by_background)
    assert np.array_equal(found.predictions, grounds)
    np.testing.assert_allclose(found.effects.swap_drop, 0.9, atol=1e-6)


def test_driver_arguments():
    images, masks, _, _ = scenes(8)
    with pytest.raises(ValueError, match="masks must be equally many"):
        swap_test.swap_check(images, masks[:3], by_object)
    with pytest.raises(ValueError, match="softmax"):
        swap_test.swap_check(images, masks, lambda b: np.full((len(b), 2), 3.0))
    with pytest.raises(ValueError, match="predict must return"):
        swap_test.swap_check(images, masks, lambda b: np.zeros((1, 2)))
    with pytest.raises(ValueError, match="targets must be"):
        swap_test.swap_check(images, masks, by_object, targets="label")
    with pytest.raises(ValueError, match="between 0 and 1;"):
        swap_test.swap_check(images, masks, by_object, targets=np.full(8, 5))
    with pytest.raises(ValueError, match="batch_size"):
        swap_test.swap_check(images, masks, by_object, batch_size=0)


def test_region_check_finds_the_tag():
    """A bright tag in the corner decides; random places of its size do not."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.5, (30, SIZE, SIZE)).astype(np.float32)
    tagged = np.arange(30) % 2
    images[tagged == 1, :4, -4:] = 1
    region = box((SIZE, SIZE), 0, 4, SIZE - 4, SIZE)

    def predict(batch):
        p = np.array([0.9 if image[:4, -4:].mean() > 0.75 else 0.1 for image in batch])
        return np.stack([1 - p, p], 1)

    regions = [region] * 29 + [np.zeros_like(region)]
    found = swap_test.region_check(images, regions, predict, batch_size=8)
    assert found.status == ["ok"] * 29 + ["no region"]
    np.testing.assert_allclose(found.effects.region_drop[:29], 0.8, atol=1e-6)
    np.testing.assert_allclose(found.effects.control_drop[:29], 0, atol=1e-6)
    np.testing.assert_allclose(found.effects.region_flip[:29], 1)
    assert np.isnan(found.effects.region_gap[29])
    assert found.control_overlap[0] == 0
