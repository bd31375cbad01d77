"""Agreement of maps: identities, scikit-image and SciPy, missing and constant maps, noise floors."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cam_core import agreement, disagreement, noise_floor
from cam_core.metrics.agreement import MEASURES, derangement


@pytest.fixture
def heats():
    """(4, 3, 40, 44) smooth maps: of the first two methods alike, the third on its own."""
    coarse = torch.rand(4, 3, 6, 6)
    coarse[:, 1] = coarse[:, 0] + 0.2 * coarse[:, 1]
    return F.interpolate(coarse, (40, 44), mode="bilinear")


def test_a_map_agrees_with_itself_and_pairs_are_symmetric(heats):
    found = agreement(heats)
    for name in MEASURES:
        values = getattr(found, name)
        assert values.shape == (4, 3, 3)
        assert values.dtype == torch.float32
        assert torch.allclose(values.diagonal(dim1=1, dim2=2), torch.ones(4, 3), atol=1e-6)
        assert torch.equal(values, values.transpose(1, 2))
        assert bool((values[:, 0, 1] > values[:, 0, 2]).all())


def test_spearman_is_scipys(heats):
    stats = pytest.importorskip("scipy.stats")
    heats = (heats * 9).round() / 9  # ties
    found = agreement(heats).spearman
    for n in range(4):
        theirs = stats.spearmanr(heats[n].flatten(1).T.numpy())[0]
        assert np.allclose(found[n].numpy(), theirs, atol=1e-6)


def test_ssim_is_scikit_images(heats):
    metrics = pytest.importorskip("skimage.metrics")
    unit = heats / heats.amax((-2, -1), keepdim=True)
    found = agreement(heats).ssim
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for n in range(4):
            theirs = metrics.structural_similarity(
                unit[n, i].numpy(), unit[n, j].numpy(), gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False, data_range=1.0,
            )  # fmt: skip
            assert float(found[n, i, j]) == pytest.approx(theirs, abs=1e-5)


def test_overlap_by_hand():
    heats = torch.zeros(1, 3, 10, 10)
    heats[0, 0, :2] = 1 + torch.rand(2, 10)  # rows 0 and 1: the hottest fifth
    heats[0, 1, 1:3] = 1 + torch.rand(2, 10)  # rows 1 and 2
    heats[0, 2, 9] = 1 + torch.rand(10)  # a tenth; what has no heat does not fill it up
    found = agreement(heats).top_iou[0]
    assert float(found[0, 1]) == pytest.approx(10 / 30)
    assert float(found[0, 2]) == 0
    assert float(found[2, 2]) == 1
    half = agreement(heats, top=0.1).top_iou[0]
    wanted = set(heats[0, 0].flatten().topk(10).indices.tolist())
    other = set(heats[0, 1].flatten().topk(10).indices.tolist())
    assert float(half[0, 1]) == pytest.approx(len(wanted & other) / len(wanted | other))


def test_only_positive_heat_counts(heats):
    signed = torch.cat([heats - 0.5, (heats - 0.5).relu()], 1)
    found = agreement(signed)
    for name in MEASURES:
        values = getattr(found, name)
        assert torch.allclose(values[:, 0, 3], torch.ones(4), atol=1e-6)


def test_scale_does_not_matter(heats):
    one, two = agreement(heats), agreement(heats * torch.tensor([1.0, 7, 0.01]).view(1, 3, 1, 1))
    for name in MEASURES:
        assert torch.allclose(getattr(one, name), getattr(two, name), atol=1e-5)


def test_missing_and_constant_maps(heats):
    heats[0, 1, 3, 3] = torch.nan
    heats[1, 2] = 0.1
    heats[2, 0] = 0
    found = agreement(heats)
    missing = torch.zeros(4, 3, 3, dtype=torch.bool)
    missing[0, 1], missing[0, :, 1] = True, True
    constant = missing.clone()
    constant[1, 2], constant[1, :, 2], constant[2, 0], constant[2, :, 0] = (True,) * 4
    assert torch.equal(found.spearman.isnan(), constant)
    assert torch.equal(found.top_iou.isnan(), constant)
    assert torch.equal(found.ssim.isnan(), missing)
    mean, count = found.matrix()
    assert count.tolist() == [[3, 2, 2], [2, 3, 2], [2, 2, 3]]
    known = found.spearman[[1, 3], 0, 1]
    assert float(mean[0, 1]) == pytest.approx(float(known.mean()))


def test_an_infinite_map_is_missing(heats):
    heats[0, 0, 0, 0] = torch.inf
    found = agreement(heats)
    for name in MEASURES:
        assert getattr(found, name)[0, 0].isnan().all()
        assert getattr(found, name)[0, 1:, 1:].isfinite().all()


def test_ranks_on_a_grid():
    """Seven by seven cells enlarged say what the cells say."""
    cells = torch.rand(3, 2, 7, 7)
    large = F.interpolate(cells, (56, 56), mode="nearest")
    assert torch.allclose(
        agreement(cells).spearman, agreement(large, grid=(7, 7)).spearman, atol=1e-5
    )


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (11, 40)])
def test_small_maps(size):
    found = agreement(torch.rand(2, 2, *size))
    assert found.ssim.isfinite().all()
    assert bool((found.ssim.diagonal(dim1=1, dim2=2) > 0.999).all())


def test_one_image_one_method():
    found = agreement(torch.rand(1, 1, 8, 8))
    assert found.spearman.tolist() == [[[1]]]
    floor = noise_floor(torch.rand(1, 1, 8, 8))
    assert all(values.isnan().all() for values in floor.values())


@pytest.mark.parametrize("count", [2, 3, 10, 57])
def test_nobody_stays_in_place(count):
    for seed in range(20):
        order = derangement(count, seed)
        assert order.sort().values.tolist() == list(range(count))
        assert not bool((order == torch.arange(count)).any())
    assert derangement(1, 0).tolist() == [0]


def test_noise_floor_is_the_agreement_with_another_image(heats):
    floor = noise_floor(heats, seed=5)
    other = heats[derangement(4, 5)]
    for m in range(3):
        pairs = agreement(torch.stack([heats[:, m], other[:, m]], 1), seed=5)
        for name in MEASURES:
            assert torch.allclose(floor[name][:, m], getattr(pairs, name)[:, 0, 1], atol=1e-6)
    same = noise_floor(heats, heats)
    assert torch.allclose(same["spearman"], torch.ones(4, 3))
    assert float(floor["spearman"].abs().mean()) < 0.5


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_slices_change_nothing(batch_size):
    """Neither the numbers nor whose map each image is compared with for the floor."""
    heats = torch.rand(11, 3, 9, 7)
    heats[2, 1] = torch.nan
    heats[6, 0] = 0.5
    heats[7, :, :4] = 0.25  # equal heat
    options = {"grid": (4, 4), "seed": 3}
    whole = agreement(heats, batch_size=11, **options)
    parts = agreement(heats, batch_size=batch_size, **options)
    calls = [(heats, None), (heats, heats.flip(0))]
    floors = [
        (
            noise_floor(*call, batch_size=11, **options),
            noise_floor(*call, batch_size=batch_size, **options),
        )
        for call in calls
    ]
    for name in MEASURES:
        pairs = [(getattr(whole, name), getattr(parts, name))]
        pairs += [(one[name], two[name]) for one, two in floors]
        for one, two in pairs:
            assert torch.allclose(one, two, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(("count", "side", "most"), [(700, 28, 512), (40, 224, 32)])
def test_memory_does_not_grow_with_the_images(monkeypatch, count, side, most):
    """All maps of a scan were prepared at once: 0.3 MB each, 20 GB for 10,000 samples of 7 methods."""
    module = importlib.import_module("cam_core.metrics.agreement")
    prepared, sizes = module._prepared, []

    def counted(heats, *others):
        maps = prepared(heats, *others)
        sizes.append((heats.shape[0] * heats.shape[1], maps.picture.numel()))
        return maps

    monkeypatch.setattr(module, "_prepared", counted)
    heats = torch.rand(count, 2, side, side)
    agreement(heats)
    noise_floor(heats)
    maps, pixels = zip(*sizes, strict=True)
    assert sum(maps) == 3 * 2 * count, (
        "once for the pairs; and twice, one for another, for the floor"
    )
    assert max(maps) == most
    assert max(pixels) <= 512 * 56 * 56


def test_disagreement(heats):
    found = agreement(heats)
    s = found.spearman
    assert torch.allclose(disagreement(found), 1 - (s[:, 0, 1] + s[:, 0, 2] + s[:, 1, 2]) / 3)
    assert torch.allclose(disagreement(found, [2, 0]), 1 - s[:, 0, 2])
    heats[1, 0] = torch.nan
    heats[2, :2] = torch.nan
    found = agreement(heats)
    assert disagreement(found).isnan().tolist() == [False, False, True, False]
    assert torch.allclose(disagreement(found)[1], 1 - found.spearman[1, 1, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: agreement(h[0]), r"heats must be a float tensor of shape \(N, M, h, w\)"),
        (lambda h: agreement(h.int()), "heats must be a float tensor"),
        (lambda h: agreement(h, top=0), "top must be a share"),
        (lambda h: agreement(h, batch_size=0), "batch_size must be a whole number of at least 1"),
        (lambda h: agreement(h).matrix("iou"), "measure: 'iou' is unknown; choose from spearman"),
        (lambda h: disagreement(agreement(h), [1]), "at least two methods"),
        (lambda h: noise_floor(h, h[:2]), "others must have the shape of heats"),
    ],
)
def test_wrong_arguments(heats, call, message):
    with pytest.raises(ValueError, match=message):
        call(heats)
