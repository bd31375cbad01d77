"""Clusters against planted ones and scikit-learn; whole-image statistics against what was drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from cam_core.bias import discovery
from cam_core.stats import clustering


def blobs(sizes=(40, 30, 20), seed=0, spread=0.3):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    centres = rng.normal(0, 4, (len(sizes), 6))
    return centres[truth] + rng.normal(0, spread, (len(truth), 6)), truth


@pytest.mark.oracle
def test_kmeans_is_as_good_as_sklearns():
    points = np.random.default_rng(1).normal(size=(200, 4))

    def cost(labels):
        return sum(
            ((points[labels == c] - points[labels == c].mean(0)) ** 2).sum() for c in range(5)
        )

    reference = KMeans(5, n_init=10, random_state=0).fit(points)
    assert cost(clustering.kmeans(points, 5, restarts=20)) <= 1.02 * reference.inertia_
    assert np.array_equal(clustering.kmeans(points, 5), clustering.kmeans(points, 5))


@pytest.mark.parametrize("find", [clustering.spectral, clustering.best_kmeans])
def test_the_number_of_clusters_is_found(find):
    points, truth = blobs()
    assert adjusted_rand_score(truth, find(points)) == 1


def test_spectral_follows_shapes_that_kmeans_cannot():
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    ring = np.column_stack([np.cos(angle), np.sin(angle)])
    points = np.concatenate([ring, 4 * ring])
    truth = np.repeat([0, 1], 120)
    assert adjusted_rand_score(truth, clustering.spectral(points, most=2)) == 1
    assert adjusted_rand_score(truth, clustering.kmeans(points, 2)) < 0.5


def test_many_points_are_assigned_to_a_sample(monkeypatch):
    monkeypatch.setattr(clustering, "_SPECTRAL_MAX", 60)
    points, truth = blobs()
    assert adjusted_rand_score(truth, clustering.spectral(points)) == 1
    assert adjusted_rand_score(truth, clustering.best_kmeans(points)) == 1


def test_clusters_of_hardly_anything():
    assert clustering.spectral(np.zeros((1, 3))).tolist() == [0]
    assert clustering.spectral(np.zeros((12, 3))).shape == (12,)  # all equal
    assert set(clustering.best_kmeans(np.zeros((5, 2)))) == {0}
    with pytest.raises(ValueError, match="k must lie"):
        clustering.kmeans(np.zeros((3, 2)), 4)


def planted_maps(seed=0):
    """Class 0: heat on an object in the middle, but 15 of 60 maps in a corner; class 1: middle."""
    rng = np.random.default_rng(seed)
    maps = rng.random((120, 8, 8)) * 0.1
    corner = np.zeros(120, bool)
    corner[:60:4] = True
    maps[~corner, 2:6, 2:6] += rng.uniform(0.5, 1, ((~corner).sum(), 1, 1))
    maps[corner, 7, 7] += 3
    objects = torch.zeros(120, 32, 32)
    objects[:, 8:24, 8:24] = 1
    return torch.from_numpy(maps).float(), np.repeat([0, 1], 60), corner, objects


@pytest.mark.parametrize("method", ["spectral", "kmeans"])
@pytest.mark.parametrize("invariant", [False, True])
def test_the_corner_comes_first(method, invariant):
    maps, classes, corner, objects = planted_maps()
    found = discovery.cluster_maps(
        maps, classes, objects, method=method, most=4, shift_invariant=invariant
    )
    first = found[0]
    assert first.label == 0
    assert corner[first.members].mean() > 0.9
    assert corner[first.members].sum() >= 14
    assert first.share == pytest.approx(0.25, abs=0.03)
    assert np.unravel_index(first.mean_map.argmax(), (8, 8)) == (7, 7)
    assert first.outside > 0.8
    assert first.rank == pytest.approx(first.concentration * first.outside * (1 - first.share))
    assert sorted(np.concatenate([c.members for c in found])) == list(range(120))


def test_the_most_typical_member_comes_first():
    maps, classes, _, _ = planted_maps()
    heat = maps.relu()
    heat = (heat / heat.sum((1, 2), keepdim=True)).flatten(1).numpy()
    for cluster in discovery.cluster_maps(maps, classes):
        middle = heat[cluster.members].mean(0)
        distance = ((heat[cluster.members] - middle) ** 2).sum(1)
        assert distance.argmin() == 0
        assert cluster.mean_map.sum() == pytest.approx(1)


def test_maps_of_any_scale_and_degenerate_ones():
    maps, classes, _, _ = planted_maps()
    scaled = maps * torch.logspace(-30, 30, 120)[:, None, None]
    ours = discovery.cluster_maps(maps, classes)
    theirs = discovery.cluster_maps(scaled, classes)
    assert [sorted(c.members) for c in ours] == [sorted(c.members) for c in theirs]
    maps[3], maps[4], maps[5, 0, 0] = 0, -1, torch.nan
    members = np.concatenate([c.members for c in discovery.cluster_maps(maps, classes)])
    assert sorted(members) == [0, 1, 2, *range(6, 120)]
    assert discovery.cluster_maps(torch.zeros(4, 7, 7)) == []


def test_large_grids_few_maps_and_no_classes():
    found = discovery.cluster_maps(torch.rand(5, 28, 21))
    assert len(found) == 1
    assert found[0].mean_map.shape == (14, 14)
    assert (found[0].label, found[0].share, found[0].outside) == (None, 1, None)


def test_cluster_arguments():
    maps = torch.rand(9, 4, 4)
    with pytest.raises(ValueError, match="method: 'dbscan'"):
        discovery.cluster_maps(maps, method="dbscan")
    with pytest.raises(ValueError, match="classes has 2"):
        discovery.cluster_maps(maps, [0, 1])
    with pytest.raises(ValueError, match="objects must be"):
        discovery.cluster_maps(maps, objects=torch.rand(2, 4, 4))
    with pytest.raises(ValueError, match="maps must be"):
        discovery.cluster_maps(maps[0])


# whole images


def stat(image):
    return dict(zip(discovery.STATISTICS, discovery.image_statistics(image), strict=True))


def test_image_statistics_of_flat_colours():
    red = stat(np.full((20, 40, 3), [255, 0, 0], np.uint8))
    assert red["brightness"] == pytest.approx(0.299, abs=1e-3)
    assert red["saturation"] == 1
    assert red["hue_red_cyan"] == pytest.approx(1)
    assert red["hue_green_magenta"] == pytest.approx(0)
    assert red["aspect_ratio"] == 2
    assert red["log_pixels"] == pytest.approx(np.log(800))
    assert (red["border_red"], red["border_green"]) == (1, 0)
    green = stat(np.full((20, 40, 3), [0, 255, 0], np.uint8))
    assert green["hue_green_magenta"] == pytest.approx(np.sqrt(3) / 2)
    grey = stat(np.full((30, 30), 0.5))
    assert (grey["saturation"], grey["hue_red_cyan"], grey["contrast"]) == (0, 0, 0)


def test_sharpness_sees_blur_and_the_border_a_letterbox():
    import cv2

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (200, 200, 3)).astype(np.uint8)
    blurred = cv2.GaussianBlur(image, (0, 0), 2)
    assert stat(image)["sharpness"] > stat(blurred)["sharpness"] + 1
    boxed = image.copy()
    boxed[discovery.border_ring((200, 200), 0.1)] = 0
    assert stat(boxed)["border_red"] == 0
    assert stat(image)["border_red"] > 0.4
    with pytest.raises(ValueError, match="an image must have"):
        discovery.image_statistics(np.zeros((2, 3, 4, 5)))


def test_uint8_and_float_agree_at_any_size():
    image = np.random.default_rng(1).integers(0, 256, (300, 500, 3)).astype(np.uint8)
    np.testing.assert_allclose(
        discovery.image_statistics(image), discovery.image_statistics(image / 255.0), atol=1e-5
    )


def test_the_planted_statistic_tells_its_class():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 4, 300)
    values = rng.normal(size=(300, 3))
    values[labels == 2, 1] += 2
    values[5, 0] = np.nan
    found = discovery.global_cues(values, labels, ["a", "b", "c"])
    assert (found[0].label, found[0].statistic) == (2, "b")
    assert found[0].auroc > 0.85
    assert found[0].q < 1e-6
    assert sum(t.q < 0.05 for t in found) <= 4  # b of the other classes is lower, nothing else
    assert {t.statistic for t in found if t.q < 0.05} == {"b"}
    assert len(found) == 12


@pytest.mark.oracle
def test_p_agrees_with_scipy_also_with_ties():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [30, 50])
    values = np.column_stack([rng.normal(size=80), rng.integers(0, 4, 80)])
    found = discovery.global_cues(values, labels, ["x", "y"])
    for t in found:
        column = values[:, ["x", "y"].index(t.statistic)]
        mine = labels == t.label
        reference = stats.mannwhitneyu(
            column[mine], column[~mine], method="asymptotic", use_continuity=False
        )
        assert t.p == pytest.approx(reference.pvalue, rel=1e-6)


def test_statistics_of_few_samples_and_constant_ones():
    labels = np.array([0] * 5 + [1] * 60)
    rng = np.random.default_rng(4)
    values = np.column_stack([rng.normal(size=65), np.ones(65)])
    found = discovery.global_cues(values, labels, ["x", "flat"])
    assert all(np.isnan(t.q) for t in found)  # one of the two sides has five samples
    labels[:30] = 0
    flat = [
        t for t in discovery.global_cues(values, labels, ["x", "flat"]) if t.statistic == "flat"
    ]
    assert all((t.auroc, t.p) == (0.5, 1) for t in flat)
    with pytest.raises(ValueError, match="values must be"):
        discovery.global_cues(values, labels, ["x"])
