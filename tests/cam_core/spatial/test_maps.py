"""From raw maps to heatmaps, by numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cam_core.spatial import maps as m


def as_map(rows):
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def test_rectify_and_normalise():
    raw = as_map([[-2.0, 1.0], [4.0, 0.0]])
    assert m.rectify(raw).tolist() == [[[[0.0, 1.0], [4.0, 0.0]]]]
    assert m.normalise(m.rectify(raw)).tolist() == [[[[0.0, 0.25], [1.0, 0.0]]]]


def test_normalise_is_per_map_and_not_min_max():
    raw = torch.stack([torch.full((3, 3), 5.0), torch.arange(9.0).view(3, 3) + 1])[None]
    unit = m.normalise(raw)
    assert torch.equal(unit[0, 0], torch.ones(3, 3))  # flat stays flat
    assert unit[0, 1, 0, 0] == pytest.approx(1 / 9)
    assert torch.equal(unit.amax((2, 3)), torch.ones(1, 2))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_heatmaps_do_not_depend_on_the_scale(scale):
    raw = torch.randn(2, 3, 5, 4)
    heat = m.heatmaps(raw * scale, (20, 16))
    torch.testing.assert_close(heat, m.heatmaps(raw, (20, 16)), rtol=1e-4, atol=1e-6)
    assert heat.min() >= 0
    assert torch.equal(heat.amax((2, 3)), torch.ones(2, 3))


def test_zero_stays_zero_and_negative_is_no_evidence():
    raw = torch.stack([torch.zeros(4, 4), -torch.rand(4, 4)])[None]
    assert torch.equal(m.heatmaps(raw, (9, 9)), torch.zeros(1, 2, 9, 9))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_nan_everywhere_and_only_there(value):
    raw = torch.rand(2, 1, 4, 4)
    raw[1, 0, 2, 1] = value
    heat = m.heatmaps(raw, (8, 8))
    assert heat[0].isfinite().all()
    assert heat[1].isnan().all()


def test_upsampling_tiles_the_image():
    """Bilinear, align_corners=False: a cell's centre keeps its value, the border is flat."""
    up = m.upsample(as_map([[0.0, 1.0]]), (1, 8))[0, 0, 0]
    torch.testing.assert_close(up, torch.tensor([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1]))


def test_heatmap_by_hand():
    heat = m.heatmaps(as_map([[-1.0, 2.0]]), (1, 4))[
        0, 0, 0
    ]  # rectified first, then 0, 0.5, 1.5, 2
    torch.testing.assert_close(heat, torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_status():
    raw = torch.zeros(1, 6, 3, 3)
    raw[0, 0, 1, 1] = 1
    raw[0, 2] = 3
    raw[0, 3] = 3 + torch.rand(3, 3) * 1e-5  # rounding makes no place
    raw[0, 4, 0, 0] = torch.nan
    raw[0, 5] = -torch.rand(3, 3)
    assert m.status(raw) == [["ok", "zero", "flat", "flat", "nan", "zero"]]
    assert set(m.STATUSES) == {"ok", "zero", "flat", "nan"}


def test_status_of_one_map():
    assert m.status(torch.eye(3)) == "ok"


def test_fuse_layercam_by_hand():
    fine = as_map([[4.0, 0.0, -9.0, 2.0]])  # unit: 1, 0, 0, 0.5
    coarse = as_map([[0.0, 3.0]])  # unit: 0, 1; scaled, then upsampled to 0, 0.25, 0.75, 1
    fused = m.fuse([coarse, fine], "layercam")[0, 0, 0]
    t = torch.tanh(torch.tensor(2.0))
    expected = [t, max(0.25 * t, torch.tensor(0.0)), 0.75 * t, t]
    torch.testing.assert_close(fused, torch.stack(expected))


def test_fuse_mean_by_hand():
    fine = as_map([[4.0, 0.0, -9.0, 2.0]])
    coarse = as_map([[0.0, 3.0]])
    fused = m.fuse([coarse, fine], "mean")[0, 0, 0]
    torch.testing.assert_close(fused, torch.tensor([0.5, 0.125, 0.375, 0.75]))


@pytest.mark.parametrize("rule", ["layercam", "mean"])
def test_fuse_in_general(rule):
    maps = [torch.randn(2, 3, s, s) for s in (2, 7, 4)]
    fused = m.fuse(maps, rule)
    assert fused.shape == (2, 3, 7, 7)
    assert fused.min() >= 0
    assert fused.max() <= 1
    assert torch.equal(m.fuse(maps[::-1], rule), fused) or torch.allclose(
        m.fuse(maps[::-1], rule), fused
    )
    # No layer outweighs another by its scale, and a silent one adds nothing to the maximum.
    torch.testing.assert_close(m.fuse([maps[0] * 1e3, maps[1], maps[2]], rule), fused)
    silent = m.fuse([*maps, torch.zeros(2, 3, 3, 3)], rule)
    torch.testing.assert_close(silent, fused if rule == "layercam" else fused * 3 / 4)


def test_fuse_takes_the_finest_grid_whatever_its_shape():
    maps = [torch.rand(1, 1, 8, 2), torch.rand(1, 1, 3, 5)]
    fused = m.fuse(maps, "mean")
    unit = [x / x.amax() for x in maps]
    up = F.interpolate(unit[1], size=(8, 2), mode="bilinear", align_corners=False)
    torch.testing.assert_close(fused, (unit[0] + up) / 2)


def test_unknown_rule():
    with pytest.raises(ValueError, match="fuse: 'max' is unknown; choose 'layercam' or 'mean'"):
        m.fuse([torch.rand(1, 1, 2, 2)], "max")


def test_maps_on_pixels_are_cut_off_where_few_pixels_stand_above_all():
    raw = torch.rand(2, 1, 20, 20)
    raw[:, :, 3, 4] = 1000.0
    plain, cut = m.normalise(raw), m.normalise(raw, cut=0.99)
    assert plain.flatten(1).median() < 1e-3
    for single, original in zip(cut.flatten(1), raw.flatten(1), strict=True):
        limit = original.sort().values[395]  # 99 % of 400 are up to here
        torch.testing.assert_close(single, (original / limit).clamp_max(1))
    sparse = torch.zeros(1, 1, 20, 20)
    sparse[0, 0, 2, 2] = 3.0
    assert m.normalise(sparse, cut=0.99).max() == 1  # nothing at the quantile: the maximum counts
    assert (m.cut_of("input"), m.cut_of("layer4")) == (0.99, None)
