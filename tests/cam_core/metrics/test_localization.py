"""Heat against objects: by hand, against naive loops and against other libraries."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from cam_core.metrics import measures
from cam_core.metrics.baselines import centred_gaussian, lift_over_shuffled, shuffled, uniform
from cam_core.metrics.localization import measure
from cam_core.metrics.object_profile import box_coverage, object_profile
from cam_core.spatial.geometry import Window
from cam_core.spatial.masks import box_masks, dilate, grow, resize_heat, resize_masks, split, within

MEASURES = {"obj_energy", "bg_energy", "other_energy", "area", "lift", "log2_lift",
            "density_share", "obj_energy_tol", "density_share_tol", "area_tol", "pix_auc",
            "pointing", "rank_acc", "iou", "border_ratio", "centre_ratio", "entropy", "gini",
            "area50", "energy_top_instance"}  # fmt: skip
OF_HEAT = {"border_ratio", "centre_ratio", "entropy", "gini", "area50"}


def grid(*rows):
    return torch.tensor(rows, dtype=torch.float32)[None]


def rectangle(top, bottom, left, right, size=16):
    mask = torch.zeros(1, size, size)
    mask[:, top:bottom, left:right] = 1
    return mask


def random_maps(n=5, h=9, w=7, seed=0):
    return torch.randn(n, h, w, generator=torch.Generator().manual_seed(seed))


def random_masks(n=5, h=9, w=7, seed=1, soft=True):
    values = torch.rand(n, h, w, generator=torch.Generator().manual_seed(seed))
    return values if soft else (values > 0.6).float()


def close(found, expected, **tolerance):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), **tolerance)


# by hand


def test_energies_by_hand():
    maps = grid([4.0, 1.0, -5.0, 0.0], [2.0, 1.0, 0.0, 2.0])
    objects = grid([1.0, 0, 0, 0], [1, 0, 0, 0])
    found = measure(maps, objects)
    # E_O = 6 on 2 pixels, E_B = 4 on 6
    assert found.obj_energy.item() == pytest.approx(0.6)
    assert found.bg_energy.item() == pytest.approx(0.4)
    assert found.area.item() == pytest.approx(0.25)
    assert found.lift.item() == pytest.approx(2.4)
    assert found.log2_lift.item() == pytest.approx(math.log2(2.4))
    assert found.density_share.item() == pytest.approx(3 / (3 + 4 / 6))
    # one cell further: E_O = 8 on 4, E_B = 2 on 4
    assert found.obj_energy_tol.item() == pytest.approx(0.8)
    assert found.area_tol.item() == pytest.approx(0.5)
    assert found.density_share_tol.item() == pytest.approx(0.8)
    # the two hottest are 4 and one of the 2s: 1 + 1/2 of 2
    assert found.rank_acc.item() == pytest.approx(0.75)
    # 4 and 2 against 1, 0, 1, 0, 0, 2
    assert found.pix_auc.item() == pytest.approx((6 + 5 + 0.5) / 12)
    # at least half of 4: 4, 2 in O and 2 in B
    assert found.iou.item() == pytest.approx(2 / 3)
    assert found.other_energy.isnan()
    assert found.energy_top_instance.isnan()
    assert found.status == ["ok"]
    assert found.reliable.tolist() == [True]


def test_other_objects_and_ignored_regions_are_no_background():
    maps = grid([4.0, 3.0, 2.0, 1.0])
    objects, other, ignore = grid([1.0, 0, 0, 0]), grid([0, 1.0, 0, 0]), grid([0, 0, 1.0, 0])
    found = measure(maps, objects, other=other, ignore=ignore)
    assert found.obj_energy.item() == pytest.approx(4 / 5)
    assert found.other_energy.item() == pytest.approx(3 / 8)
    assert found.area.item() == pytest.approx(0.5)
    # the object grows into neither
    assert found.area_tol.item() == pytest.approx(0.5)
    # without them everything else is background
    assert measure(maps, objects).obj_energy.item() == pytest.approx(4 / 10)
    # where masks overlap the object comes first
    all_over = torch.ones(1, 1, 4)
    assert measure(maps, objects, ignore=all_over).obj_energy.item() == pytest.approx(1)
    assert measure(maps, all_over, other=all_over).other_energy.item() == pytest.approx(0)


def test_what_was_not_seen_counts_nowhere():
    maps = grid([4.0, 3.0, 2.0, 1.0])
    found = measure(maps, grid([1.0, 0, 0, 0]), seen=grid([1.0, 1, 1, 0]))
    assert found.obj_energy.item() == pytest.approx(4 / 9)
    assert found.area.item() == pytest.approx(1 / 3)
    # half of an object that was cut off: only what was seen of it
    found = measure(maps, grid([1.0, 1, 0, 0]), seen=grid([0.0, 1, 1, 1]))
    assert found.obj_energy.item() == pytest.approx(3 / 6)


def test_a_common_border_within_a_pixel_is_no_background():
    regions = split(grid([1.0, 0.4, 0.0]), grid([0.0, 0.6, 0.5]), None, None)
    close(regions.background, grid([0.0, 0.0, 0.5]))
    close(regions.other, grid([0.0, 0.6, 0.5]))


def test_instances():
    maps = grid([4.0, 3.0, 2.0, 1.0])
    own = torch.tensor([[[1.0, 0, 0, 0]], [[0.0, 1, 1, 0]]])
    found = measure(
        maps.repeat(2, 1, 1), own.sum(0).repeat(2, 1, 1), instances=[own, torch.zeros(0, 1, 4)]
    )
    assert found.energy_top_instance[0].item() == pytest.approx(0.5)  # 5 of 10, not 4
    assert found.energy_top_instance[1].isnan()
    assert found.obj_energy[0].item() == pytest.approx(0.9)


# against naive loops


def naive(heat, o, b):
    """The measures of one picture by definition, over every pixel with its share."""
    h, o, b = (t.double().flatten().numpy() for t in (heat.clamp(min=0), o, b))
    pairs = ((h[:, None] > h[None]) + 0.5 * (h[:, None] == h[None])) * o[:, None] * b[None]
    wanted, hits, left = o.sum(), 0.0, o.sum()
    for value in sorted(set(h), reverse=True):
        group = h == value
        mass = (o + b)[group].sum()
        share = min(1.0, left / mass) if mass else 0.0
        hits += share * o[group].sum()
        left -= share * mass
        if left <= 1e-12:
            break
    p = h / h.sum()
    ascending = np.sort(p)
    n = len(p)
    descending = np.cumsum(ascending[::-1])
    full = int((descending < 0.5).sum())
    before = descending[full - 1] if full else 0.0
    return {
        "obj_energy": (h * o).sum() / (h * (o + b)).sum(),
        "area": o.sum() / (o + b).sum(),
        "pix_auc": pairs.sum() / (o.sum() * b.sum()),
        "rank_acc": hits / wanted,
        "entropy": -(p[p > 0] * np.log(p[p > 0])).sum() / math.log(n),
        "gini": sum((2 * (i + 1) - n - 1) * v for i, v in enumerate(ascending)) / n,
        "area50": (full + (0.5 - before) / ascending[::-1][full]) / n,
    }


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("ties", [True, False])
def test_measures_against_loops(soft, ties):
    maps, objects = random_maps(), random_masks(soft=soft) * random_masks(seed=2, soft=False)
    maps = (maps * 2).round() if ties else maps
    ignore = random_masks(seed=3, soft=soft) * random_masks(seed=4, soft=False)
    found = measure(maps, objects, ignore=ignore)
    background = 1 - objects - torch.minimum(ignore, 1 - objects)
    for i in range(len(maps)):
        for name, value in naive(maps[i], objects[i], background[i]).items():
            assert getattr(found, name)[i].item() == pytest.approx(value, abs=2e-5), name


def test_single_functions_are_what_measure_reports():
    maps, objects = random_maps(), random_masks(soft=False)
    found, heat = measure(maps, objects), maps.relu()
    regions = split(objects, None, None, None)
    for name in ("obj_energy", "density_share", "pix_auc", "rank_acc", "pointing", "iou"):
        close(getattr(measures, name)(heat, regions), getattr(found, name))
    for name in OF_HEAT:
        close(getattr(measures, name)(heat, torch.ones_like(heat)), getattr(found, name))


def test_pix_auc_against_sklearn():
    maps, objects = (random_maps() * 3).round(), random_masks(soft=False)
    found = measure(maps, objects)
    for heat, mask, auc in zip(maps.relu(), objects, found.pix_auc, strict=True):
        assert auc.item() == pytest.approx(roc_auc_score(mask.flatten(), heat.flatten()), abs=1e-6)


def test_soft_masks_are_what_their_area_says():
    """A mask on a fine grid, and its area average where heat is constant in every coarse pixel."""
    maps = random_maps(4, 6, 6)
    fine = random_masks(4, 24, 24, soft=False)
    heat = maps.repeat_interleave(4, 1).repeat_interleave(4, 2)
    coarse = measure(maps, resize_masks(fine, (6, 6)))
    for name in ("obj_energy", "area", "density_share", "pix_auc", "rank_acc"):
        close(getattr(coarse, name), getattr(measure(heat, fine), name), atol=2e-5, rtol=1e-4)


def test_many_maps_are_measured_as_one_by_one():
    maps, objects = random_maps(300, 5, 5), random_masks(300, 5, 5, soft=False)
    together = measure(maps, objects)
    for i in (0, 127, 128, 299):
        alone = measure(maps[i : i + 1], objects[i : i + 1])
        for name in MEASURES:
            close(getattr(together, name)[i], getattr(alone, name)[0], equal_nan=True)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter(scale):
    maps, objects = random_maps(), random_masks(soft=False)
    one, other = measure(maps, objects), measure(maps * scale, objects)
    for name in MEASURES:
        close(getattr(one, name), getattr(other, name), equal_nan=True, rtol=1e-4, atol=1e-5)


# the uninformative map, by what it must give


def test_an_almost_uniform_map_gives_the_uniform_values():
    """A tiny slope decides the status, not the energies."""
    maps = 1 + 1e-3 * torch.arange(256.0).view(1, 16, 16) / 256
    found = measure(maps, rectangle(4, 12, 4, 12), size=(64, 64))
    for name, value in {"obj_energy": 0.25, "area": 0.25, "lift": 1, "log2_lift": 0,
                        "density_share": 0.5, "density_share_tol": 0.5, "border_ratio": 1,
                        "centre_ratio": 1, "entropy": 1, "gini": 0, "area50": 0.5}.items():  # fmt: skip
        assert getattr(found, name).item() == pytest.approx(value, abs=2e-3), name


def test_uniform_is_the_area():
    objects, seen = rectangle(0, 4, 0, 16), rectangle(0, 8, 0, 16)
    close(uniform(objects), torch.tensor([0.25]))
    close(uniform(objects, seen=seen), torch.tensor([0.5]))
    assert uniform(torch.zeros(1, 4, 4)).isnan()


def test_heat_on_one_pixel():
    maps = torch.zeros(1, 8, 8)
    maps[0, 3, 3] = 2.0
    found = measure(maps, rectangle(2, 5, 2, 5, 8))
    assert found.entropy.item() == pytest.approx(0, abs=1e-6)
    assert found.gini.item() == pytest.approx(63 / 64)
    assert found.area50.item() == pytest.approx(0.5 / 64)
    assert found.border_ratio.item() == 0
    assert found.obj_energy.item() == found.pointing.item() == found.density_share.item() == 1


def test_no_heat_on_the_object_is_measured_as_such():
    maps = torch.zeros(1, 8, 8)
    maps[0, 0, 0] = 1
    found = measure(maps, rectangle(4, 8, 4, 8, 8))
    assert found.status == ["ok"]
    assert found.obj_energy.item() == found.lift.item() == found.pointing.item() == 0
    assert found.log2_lift.item() == -10  # not -inf: class means of it stay finite


# degenerate cases


@pytest.mark.parametrize(
    ("value", "status"),
    [(0.0, "zero"), (-1.0, "zero"), (3.0, "flat"), (torch.nan, "nan"), (-torch.inf, "nan")],
)
def test_a_map_that_is_none_gives_no_numbers(value, status):
    maps, objects = random_maps(2, 8, 8), rectangle(2, 5, 2, 5, 8).repeat(2, 1, 1)
    maps[0] = value
    found = measure(maps, objects, other=torch.zeros_like(objects))
    assert found.status == [status, "ok"]
    assert found.reliable.tolist() == [False, True]
    for name in MEASURES - {"area", "area_tol"}:
        assert getattr(found, name)[0].isnan(), name
    assert found.area[0] == found.area[1] == pytest.approx(9 / 64)


def test_one_bad_value_makes_a_map_none():
    maps = random_maps(1, 8, 8).abs()
    maps[0, 1, 1] = torch.inf
    assert measure(maps, rectangle(2, 5, 2, 5, 8)).status == ["nan"]


def test_no_object_and_absent_object():
    maps = random_maps(3, 8, 8)
    empty, elsewhere = torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)
    elsewhere[1, :4] = 1
    found = measure(maps, empty, other=elsewhere)
    assert found.status == ["no_object", "object_absent", "no_object"]
    for name in MEASURES - OF_HEAT - {"other_energy"}:
        assert getattr(found, name).isnan().all(), name
    for name in OF_HEAT:  # need no object
        assert getattr(found, name).isfinite().all(), name
    assert found.other_energy[1] > 0
    assert not found.reliable.any()


def test_an_object_that_was_cropped_away_is_absent():
    found = measure(random_maps(1, 8, 8), rectangle(0, 2, 0, 8, 8), seen=rectangle(2, 8, 0, 8, 8))
    assert found.status == ["object_absent"]
    assert found.area.isnan()


def test_heat_only_on_what_is_ignored_is_no_heat():
    maps = torch.zeros(1, 8, 8)
    maps[0, 0, 0] = 1
    found = measure(maps, rectangle(4, 8, 4, 8, 8), ignore=rectangle(0, 2, 0, 2, 8))
    assert found.status == ["zero"]
    for name in MEASURES - OF_HEAT - {"area", "area_tol"}:
        assert getattr(found, name).isnan().all(), name


def test_an_object_that_fills_the_picture_is_unreliable():
    maps = random_maps(2, 8, 8)
    objects = torch.stack([torch.ones(8, 8), rectangle(0, 8, 0, 7, 8)[0]])
    found = measure(maps, objects)
    assert found.status == ["ok", "ok"]
    assert found.reliable.tolist() == [False, True]  # a = 1 and .875
    assert found.obj_energy[0] == 1
    assert found.density_share[0].isnan()  # there is no background
    assert found.pix_auc[0].isnan()


def test_an_object_under_two_cells_is_unreliable():
    maps = random_maps(2, 4, 4)
    objects = torch.cat([rectangle(0, 4, 0, 8), rectangle(0, 4, 0, 7)])  # a cell is 4 x 4 pixels
    assert measure(maps, objects).reliable.tolist() == [True, False]
    assert measure(maps, objects, cell=3).reliable.tolist() == [True, True]


def test_records_have_none_for_what_is_undefined():
    record = measure(torch.zeros(1, 4, 4), torch.ones(1, 4, 4)).records()[0]
    assert set(record) == MEASURES | {"status", "reliable"}
    assert record["obj_energy"] is None
    assert record["area"] == 1.0
    assert record["status"] == "zero"
    assert record["reliable"] is False


def test_no_maps_at_all():
    found = measure(torch.zeros(0, 4, 4), torch.zeros(0, 8, 8))
    assert len(found) == 0
    assert found.obj_energy.shape == (0,)
    assert found.records() == []


# pointing, ring, centre


@pytest.mark.parametrize(("distance", "hit"), [(15, 1), (16, 0)])
@pytest.mark.parametrize("direction", [(0, 1), (1, 0)])
def test_pointing_tolerance_is_15_pixels_of_224(distance, hit, direction):
    objects = rectangle(100, 120, 100, 120, 224)
    maps = torch.zeros(1, 224, 224)
    maps[0, 119 + distance * direction[0], 119 + distance * direction[1]] = 1
    assert measure(maps, objects).pointing.item() == hit
    assert measure(maps, objects, tolerance=16).pointing.item() == 1
    # half the size: half the pixels
    small = torch.zeros(1, 112, 112)
    small[0, 59 + 8 * direction[0], 59 + 8 * direction[1]] = 1
    assert measure(small, rectangle(50, 60, 50, 60, 112)).pointing.item() == 0


def test_pointing_reach_is_round():
    members = torch.zeros(1, 21, 31, dtype=torch.bool)
    members[0, 10, 15] = members[0, 2, 3] = True
    near = within(members, (5.0, 8.0))[0]
    for y in range(21):
        for x in range(31):
            reach = min(((y - a) / 5) ** 2 + ((x - b) / 8) ** 2 for a, b in ((10, 15), (2, 3)))
            assert near[y, x].item() == (reach <= 1 + 1e-9), (y, x)


def test_pointing_of_equal_peaks_is_a_share():
    maps = torch.zeros(1, 224, 224)
    maps[0, 10, 10] = maps[0, 200, 200] = maps[0, 200, 10] = 5
    assert measure(maps, rectangle(190, 210, 190, 210, 224)).pointing.item() == pytest.approx(1 / 3)
    # of those that count
    ignore = rectangle(0, 20, 0, 20, 224)
    found = measure(maps, rectangle(190, 210, 190, 210, 224), ignore=ignore)
    assert found.pointing.item() == pytest.approx(1 / 2)


def test_border_ring_is_12_percent_of_the_sides():
    maps = torch.zeros(1, 100, 50)
    maps[0, 12:88, 6:44] = 1  # the inner 76 x 38
    assert measures.border_ratio(maps, torch.ones_like(maps)).item() == pytest.approx(0, abs=1e-6)
    ring = 5000 - 76 * 38
    found = measures.border_ratio(1 - maps, torch.ones_like(maps)).item()
    assert found == pytest.approx(1 / (ring / 5000), rel=1e-4)


def test_border_and_centre_are_those_of_what_was_seen():
    inner = random_maps(2, 20, 24).relu()
    padded, seen = torch.zeros(2, 30, 40), torch.zeros(2, 30, 40)
    padded[:, 5:25, 3:27], seen[:, 5:25, 3:27] = inner, 1
    for name in OF_HEAT:
        function = getattr(measures, name)
        close(function(padded, seen), function(inner, torch.ones_like(inner)), rtol=1e-4, atol=1e-6)


def test_the_ring_starts_where_seeing_starts_within_a_pixel():
    coarse = random_maps(1, 20, 20).relu()
    fine = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    seen = torch.zeros(1, 40, 40)
    seen[:, 3:39, 5:40] = 1
    expected = measures.border_ratio(fine, seen)
    close(measures.border_ratio(coarse, resize_masks(seen, (20, 20))), expected)


def test_centre_ratio_by_definition():
    heat = random_maps(1, 12, 18).relu()
    y = (np.arange(12) + 0.5 - 6) / (12 / 4.5)
    x = (np.arange(18) + 0.5 - 9) / (18 / 4.5)
    bell = np.exp(-(y[:, None] ** 2 + x[None] ** 2) / 2)
    h = heat[0].numpy()
    expected = (h * bell).sum() / (bell.mean() * h.sum())
    found = measures.centre_ratio(heat, torch.ones_like(heat)).item()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 1.0])
def test_iou_by_definition(threshold):
    maps, objects = random_maps(6), random_masks(6, soft=False)
    found = measure(maps, objects, iou_threshold=threshold).iou
    for heat, mask, value in zip(maps.relu(), objects.bool(), found, strict=True):
        hot = heat >= threshold * heat.max()
        assert value.item() == pytest.approx(((hot & mask).sum() / (hot | mask).sum()).item())


# grids


def test_heat_is_laid_on_masks_bilinearly():
    maps = random_maps(3, 5, 5)
    objects = random_masks(3, 40, 30, soft=False)
    up = torch.nn.functional.interpolate(
        maps.relu()[:, None], (40, 30), mode="bilinear", align_corners=False
    )[:, 0]
    close(measure(maps, objects).obj_energy, measure(up, objects).obj_energy, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(7, 7), (10, 15), (30, 24), (45, 20), (90, 60)])
def test_masks_keep_their_area_on_any_grid(size):
    masks = random_masks(2, 30, 24, soft=False)
    resized = resize_masks(masks, size)
    assert resized.shape == (2, *size)
    close(resized.mean((1, 2)), masks.mean((1, 2)))
    assert resized.min() >= 0
    assert resized.max() <= 1


def test_mask_averages_against_integration():
    """10 pixels on 4: each covers 2.5 of them."""
    mask = torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 0, 1, 1])[None, None]
    close(resize_masks(mask, (1, 4))[0, 0], torch.tensor([1, 1.5 + 0.5 - 0.0, 0, 2]) / 2.5)


def test_a_tiny_object_does_not_vanish():
    maps = torch.zeros(1, 7, 7)
    maps[0, 1, 5] = 1
    objects = torch.zeros(1, 224, 224)
    objects[0, 40:44, 170:174] = 1  # 16 of 50176 pixels; nearest neighbours on 7 x 7 may miss it
    small = measure(maps, objects, size=(7, 7))
    assert small.area.item() == pytest.approx(16 / 50176, rel=1e-4)
    assert small.lift.item() == pytest.approx(49, rel=1e-4)
    assert not small.reliable.item()


def test_shrinking_heat_counts_every_pixel():
    heat = torch.zeros(1, 64, 64)
    heat[0, 1::8, 1::8] = 1  # where nearest and plain bilinear look would decide everything
    assert resize_heat(heat, (8, 8)).mean().item() == pytest.approx(1 / 64, rel=0.2)


# growing


@pytest.mark.parametrize("radius", [1.0, 2.5, 4.571])
def test_growing_a_box_is_exact(radius):
    box = torch.tensor([[0.4, 0.45, 0.5, 0.6]])  # pixels 16-20 and 18-24 of 40
    grown = torch.tensor([[16 - radius, 18 - radius, 20 + radius, 24 + radius]]) / 40
    close(dilate(box_masks(box, (40, 40)), (radius, radius)), box_masks(grown, (40, 40)))


def test_growing_against_a_loop():
    masks = random_masks(2, 9, 11, soft=False) * random_masks(2, 9, 11, seed=5, soft=False)
    grown = dilate(masks, (2.0, 1.0))
    for n in range(2):
        for y in range(9):
            for x in range(11):
                around = masks[n, max(0, y - 2) : y + 3, max(0, x - 1) : x + 2]
                assert grown[n, y, x] == around.max()


def test_growing_what_is_smaller_than_a_pixel():
    masks = torch.zeros(1, 9, 9)
    masks[0, 4, 4] = 0.04
    assert dilate(masks, (1.0, 1.0)).sum().item() == pytest.approx(9)
    assert dilate(torch.zeros(1, 9, 9), (1.0, 1.0)).sum() == 0


def test_every_picture_grows_by_its_own_cell():
    regions = split(rectangle(6, 8, 6, 8).repeat(3, 1, 1), None, None, None)
    grown = grow(regions, [(1.0, 1.0), (2.0, 0.0), (1.0, 1.0)])
    assert grown.object.sum((1, 2)).tolist() == [16, 12, 16]
    close(grown.object + grown.background, torch.ones(3, 16, 16))


def test_cell_is_in_pixels_of_the_masks():
    heat = resize_heat(random_maps(2, 4, 4).relu(), (32, 32))
    objects = rectangle(8, 16, 8, 16, 32).repeat(2, 1, 1)
    close(measure(heat, objects, cell=8).area_tol, torch.full((2,), 24 * 24 / 1024))
    close(measure(heat, objects, cell=(8, 4)).area_tol, torch.full((2,), 24 * 16 / 1024))
    close(measure(heat, objects, cell=8, size=(16, 16)).area_tol, torch.full((2,), 0.5625))


# windows


def test_a_centre_crop_is_pasted_back():
    """Resize to 256 and crop 224, on a picture of 512 x 512: 448 in the middle were seen."""
    window = Window((512, 512), 32.0, 32.0, 480.0, 480.0)
    maps = random_maps(1, 14, 14)
    objects = rectangle(8, 40, 8, 24, 64)
    found = measure(maps, objects, windows=[window])
    # the same in the frame of the crop: pixels 4-60 of 64
    expected = measure(maps, objects[:, 4:60, 4:60])
    for name in MEASURES:
        close(getattr(found, name), getattr(expected, name), equal_nan=True, rtol=1e-4, atol=1e-5)


def test_a_windows_cell_is_measured_on_the_image():
    """The upper half of a picture in 4 x 4 cells: one is 2.5 x 5 pixels of the masks."""
    window = Window((100, 200), 0.0, 0.0, 200.0, 50.0)
    objects = rectangle(4, 6, 8, 12, 20).repeat(2, 1, 1)
    found = measure(random_maps(2, 4, 4), objects, windows=[window, Window.whole(100, 200)])
    close(found.area, torch.tensor([8 / 200, 8 / 400]))
    close(found.area_tol, torch.tensor([7 * 14 / 200, 11 * 14 / 400]))  # cut off at the top


def test_whole_windows_change_nothing():
    maps, objects = random_maps(2, 5, 5), random_masks(2, 20, 20, soft=False)
    whole = [Window.whole(300, 400)] * 2
    one, other = measure(maps, objects), measure(maps, objects, windows=whole)
    for name in MEASURES:
        close(getattr(one, name), getattr(other, name), equal_nan=True, rtol=1e-4, atol=1e-5)


def test_heat_on_a_letterbox_padding_is_no_heat():
    window = Window((100, 200), 0.0, -50.0, 200.0, 150.0)
    maps = torch.zeros(2, 8, 8)
    maps[0, 0, 4] = 1  # above the picture
    maps[1, 3, 4] = 1
    found = measure(maps, rectangle(0, 16, 0, 8).repeat(2, 1, 1), windows=[window] * 2)
    assert found.status == ["zero", "ok"]


# baselines


def test_centred_gaussian():
    bell = centred_gaussian((45, 45))
    assert bell[22, 22] == bell.max() == 1
    assert bell[22, 32].item() == pytest.approx(math.exp(-0.5))  # one sigma is 10
    assert centred_gaussian((45, 45), sigma=5)[22, 27].item() == pytest.approx(math.exp(-0.5))
    assert centred_gaussian((4, 8)).shape == (4, 8)


def test_shuffled_against_a_loop():
    maps, objects = random_maps(6), random_masks(6, soft=False)
    maps[4] = torch.nan  # no map, so nobody's donor
    objects[3] = 0
    found = shuffled(maps, objects)
    for i in range(6):
        others = [j for j in range(6) if j not in (i, 4)]
        energies = [measure(maps[j : j + 1], objects[i : i + 1]).obj_energy.item() for j in others]
        if i == 3:
            assert found[i].isnan()
        else:
            assert found[i].item() == pytest.approx(np.mean(energies), rel=1e-4)


def test_shuffled_draws_donors_by_seed():
    maps, objects = random_maps(40), random_masks(40, soft=False)
    few = shuffled(maps, objects, donors=5, seed=3)
    close(few, shuffled(maps, objects, donors=5, seed=3))
    assert not torch.equal(few, shuffled(maps, objects, donors=5, seed=4))
    # an estimate of all others
    close(shuffled(maps, objects, donors=30), shuffled(maps, objects), atol=0.05, rtol=0.2)


def test_lift_over_shuffled_separates_position_from_content():
    """Heat always in the middle gives 1; heat that follows the object gives more."""
    objects = torch.zeros(8, 16, 16)
    for i in range(8):
        objects[i, 4:8, i : i + 4] = 1
    middle = centred_gaussian((16, 16)).expand(8, -1, -1)
    for maps, follows in ((middle, False), (objects + 0.01, True)):
        energy = measure(maps, objects).obj_energy
        lift = lift_over_shuffled(energy, shuffled(maps, objects))
        assert (lift > 1.5).all() if follows else torch.allclose(lift, torch.ones(8))
    unknown = lift_over_shuffled(torch.tensor([0.5, 0.5]), torch.tensor([0.0, torch.nan]))
    assert unknown.isnan().all()


# boxes


def test_box_masks_by_area():
    masks = box_masks(torch.tensor([[0.125, 0.0, 0.5, 0.5], [-1.0, 0.75, 2.0, 9.0]]), (4, 4))
    close(masks[0], grid([0.5, 1, 0, 0], [0.5, 1, 0, 0], [0.0, 0, 0, 0], [0.0, 0, 0, 0])[0])
    close(masks[1].sum((-2, -1)), torch.tensor(4.0))
    tiny = torch.tensor([0.501, 0.501, 0.502, 0.503])
    assert box_masks(tiny, (56, 56)).sum().item() == pytest.approx(56 * 56 * 2e-6, rel=1e-3)


def test_box_coverage():
    heat = torch.arange(16.0).view(1, 4, 4)
    boxes = torch.tensor([[[0, 0, 0.5, 0.5], [0, 0, 1, 1], [0.5, 0.75, 0.625, 1], [torch.nan] * 4]])
    found = box_coverage(heat, boxes)[0]
    close(found[:3], torch.tensor([0 + 1 + 4 + 5, 120, 14 / 2]) / 120)
    assert found[3].isnan()
    close(box_coverage(heat, boxes[:, 0]), found[:1])
    assert box_coverage(torch.zeros(1, 4, 4), boxes[:, 0]).isnan()


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.1, 0.2, 0.15, 0.3), (0.05, 0.1, 0.95, 0.35)])
@pytest.mark.parametrize("side", [14, 224])
def test_portrait_against_pillow(box, side):
    heat = random_maps(1, side, side).relu()
    pixels = tuple(side * v for v in box)
    picture = Image.fromarray(heat[0].numpy(), "F")
    expected = picture.resize((12, 10), Image.Resampling.BILINEAR, box=pixels)
    found = object_profile(heat, torch.tensor([box]), (10, 12))[0]
    close(found, torch.from_numpy(np.array(expected)), atol=1e-3, rtol=1e-3)


def test_portraits_show_the_same_part_at_the_same_place():
    """Heat on the left third of objects that lie elsewhere and differ in size."""
    boxes = torch.tensor([[0.1, 0.1, 0.7, 0.5], [0.4, 0.5, 0.7, 0.8], [0.0, 0.0, 1.0, 1.0]])
    third = boxes.clone()
    third[:, 2] = boxes[:, 0] + (boxes[:, 2] - boxes[:, 0]) / 3
    mean = object_profile(box_masks(third, (240, 240)), boxes).mean(0)
    assert mean.shape == (48, 48)
    assert mean[1:-1, 1:15].min() > 0.95  # at the rim the surroundings mix in
    assert mean[:, 18:].max() < 0.05


def test_portrait_of_no_box_is_none():
    boxes = torch.tensor([[0.2, 0.2, 0.2, 0.5], [torch.nan] * 4, [0.2, 0.2, 1.4, 1.5]])
    found = object_profile(torch.rand(3, 8, 8), boxes)
    assert found[:2].isnan().all()
    assert found[2].isfinite().all()


# refusals


def test_arguments_that_do_not_fit():
    maps, objects = random_maps(2, 4, 4), torch.zeros(2, 8, 8)
    window = Window.whole(8, 8)
    for call, word in (
        (lambda: measure(maps[None], objects), "maps must be"),
        (lambda: measure(maps, objects[:1]), "objects must be"),
        (lambda: measure(maps, objects, other=torch.zeros(2, 4, 4)), "other has shape"),
        (lambda: measure(maps, objects + 2), "objects must lie"),
        (lambda: measure(maps, objects, ignore=objects * torch.nan), "ignore must lie"),
        (lambda: measure(maps, objects, windows=[window]), "windows: there are 1"),
        (lambda: measure(maps, objects, windows=[window] * 2, cell=3), "leave out"),
        (lambda: measure(maps, objects, instances=[]), "instances: there are 0"),
        (lambda: measure(maps, objects, cell=-1), "cell must be"),
        (lambda: measure(maps, objects, iou_threshold=0), "iou_threshold"),
        (lambda: box_coverage(maps, torch.zeros(1, 4)), "boxes must have shape"),
        (lambda: object_profile(maps, torch.zeros(2, 3, 4)), "boxes must have shape"),
        (lambda: object_profile(maps[0], torch.zeros(2, 4)), "heat must be"),
    ):
        with pytest.raises(ValueError, match=word):
            call()


def test_bool_masks_and_half_maps():
    maps, objects = random_maps(2, 8, 8), rectangle(2, 5, 2, 5, 8).repeat(2, 1, 1)
    found = measure(maps.half(), objects.bool())
    assert found.obj_energy.dtype == torch.float32
    close(found.obj_energy, measure(maps, objects).obj_energy, rtol=1e-2, atol=1e-3)


def test_every_measure_is_tested_here():
    fields = {f.name for f in dataclasses.fields(measure(random_maps(), random_masks()))}
    assert fields == MEASURES | {"status", "reliable"}
