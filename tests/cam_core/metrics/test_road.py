"""ROAD: the imputer against a dense solution and pytorch-grad-cam's, exact shares, ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cam_core import adapt, faithfulness
from cam_core.metrics.road import impute

WEIGHTS = torch.tensor([[1.0, 2, 1], [2, 0, 2], [1, 2, 1]]) / 12


def dense_solution(image, missing):
    """Every removed pixel as an equation, solved in double precision."""
    channels, height, width = image.shape
    places = [tuple(p.tolist()) for p in missing.nonzero()]
    index = {place: k for k, place in enumerate(places)}
    matrix = torch.zeros(len(places), len(places), dtype=torch.float64)
    right = torch.zeros(len(places), channels, dtype=torch.float64)
    for (row, column), k in index.items():
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                near = row + i, column + j
                weight = float(WEIGHTS[i + 1, j + 1])
                if not (0 <= near[0] < height and 0 <= near[1] < width) or weight == 0:
                    continue
                matrix[k, k] += weight
                if near in index:
                    matrix[k, index[near]] -= weight
                else:
                    right[k] += weight * image[:, near[0], near[1]].double()
    found = image.double().clone()
    for place, value in zip(places, torch.linalg.solve(matrix, right), strict=True):
        found[:, place[0], place[1]] = value
    return found.float()


def removed(heats, share):
    """(B, H, W) the hottest share of heats (B, H, W) without ties."""
    count = round(share * heats[0].numel())
    ranks = heats.flatten(1).argsort(1, descending=True).argsort(1)
    return (ranks < count).view_as(heats)


def smooth_heats(count, height, width):
    return F.interpolate(torch.rand(count, 1, 5, 5), (height, width), mode="bicubic")[:, 0]


# the imputer


@pytest.mark.parametrize("size", [(12, 15), (9, 9), (3, 17), (4, 2)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputed_pixels_solve_their_equations(size, share):
    images = torch.randn(2, 3, *size) + 3
    for heats in (torch.rand(2, *size), smooth_heats(2, *size)):
        missing = removed(heats, share)
        found = impute(images, missing)
        for image, mask, ours in zip(images, missing, found, strict=True):
            assert torch.allclose(ours, dense_solution(image, mask), atol=1e-4)
        assert torch.equal(
            found[~missing[:, None].expand_as(found)], images[~missing[:, None].expand_as(found)]
        )


@pytest.mark.oracle
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_imputer_of_pytorch_grad_cam(share):
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    images = F.avg_pool2d(torch.randn(2, 3, 64, 50), 3, 1, 1) * 3 + torch.randn(2, 3, 1, 1)
    for heats in (torch.rand(2, 64, 50), smooth_heats(2, 64, 50)):
        missing = removed(heats, share)
        found = impute(images, missing)
        for image, mask, ours in zip(images, missing, found, strict=True):
            theirs = road.NoisyLinearImputer(noise=0)(image, (~mask).float())
            assert torch.allclose(ours, theirs, atol=1e-4)


def test_one_pixel_is_the_mean_of_its_neighbours():
    image = torch.arange(9.0).view(1, 1, 3, 3).square()
    middle = torch.zeros(1, 3, 3, dtype=torch.bool)
    middle[0, 1, 1] = True
    corner = torch.zeros_like(middle)
    corner[0, 0, 0] = True
    assert float(impute(image, middle)[0, 0, 1, 1]) == pytest.approx(
        (0 + 4 + 36 + 64) / 12 + (1 + 9 + 25 + 49) / 6, rel=1e-5
    )
    # at a corner the three neighbours that there are
    wanted = (1 / 6 + 9 / 6 + 16 / 12) / (1 / 6 + 1 / 6 + 1 / 12)
    assert float(impute(image, corner)[0, 0, 0, 0]) == pytest.approx(wanted, rel=1e-5)


def test_a_plane_is_imputed_exactly():
    """A linear picture is its own interpolation: nothing is lost inside its border."""
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(33.0), indexing="ij")
    image = torch.stack([rows - 2 * columns, rows, 5 - columns])[None]
    missing = torch.zeros(1, 40, 33, dtype=torch.bool)
    missing[:, 3:36, 2:30] = True
    assert torch.allclose(impute(image, missing), image, atol=2e-3)


def test_an_image_does_not_depend_on_its_batch():
    images, heats = torch.randn(4, 3, 30, 30), smooth_heats(4, 30, 30)
    missing = torch.stack(
        [removed(h[None], s)[0] for h, s in zip(heats, (0.05, 0.3, 0.6, 0.95), strict=True)]
    )
    together = impute(images, missing)
    for k in range(4):
        alone = impute(images[k : k + 1], missing[k : k + 1])
        assert torch.allclose(together[k : k + 1], alone, atol=2e-6)


def test_a_flat_image_stays_flat():
    image = torch.full((1, 3, 20, 20), 2.5)
    assert torch.allclose(impute(image, removed(torch.rand(1, 20, 20), 0.7)), image, atol=1e-5)
    black = torch.zeros(1, 3, 20, 20)
    assert torch.equal(impute(black, removed(torch.rand(1, 20, 20), 0.7)), black)


def test_noise_falls_on_what_is_imputed_alone():
    images, missing = torch.randn(2, 3, 40, 40), removed(torch.rand(2, 40, 40), 0.5)
    plain, noisy = impute(images, missing), impute(images, missing, 0.01)
    difference = (noisy - plain).masked_select(missing[:, None])
    assert float(difference.std()) == pytest.approx(0.01, rel=0.05)
    assert torch.equal(
        noisy.masked_select(~missing[:, None]), images.masked_select(~missing[:, None])
    )


def test_nothing_left_is_refused():
    missing = torch.ones(2, 8, 8, dtype=torch.bool)
    missing[0, 0, 0] = False
    with pytest.raises(ValueError, match="without any pixel left"):
        impute(torch.rand(2, 3, 8, 8), missing)
    assert torch.allclose(impute(torch.ones(1, 3, 8, 8), missing[:1]), torch.ones(1, 3, 8, 8))


# the scores


class Watch(nn.Module):
    """Remembers the images it sees."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.seen = []

    def forward(self, images):
        self.seen.append(images.clone())
        return self.net(images)


@pytest.fixture
def net(toys):
    found = toys.awake(toys.resnet(), 32)
    found.fc.weight.data *= 8
    return found


@pytest.mark.oracle
def test_road_of_pytorch_grad_cam(net):
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    perturb = pytest.importorskip("pytorch_grad_cam.metrics.perturbation_confidence")
    images, heats = torch.randn(2, 3, 32, 32), smooth_heats(2, 32, 32)
    heats = heats + 1e-3 * torch.rand(2, 32, 32)  # no ties
    shares = (20, 40, 60, 80)
    names = ["road_morf", "road_lerf", "road"]
    found = faithfulness(net, images, heats[:, None], 3, names, percentiles=shares, noise=0.0)
    targets = [lambda out: out.softmax(-1)[3]] * 2
    theirs = {}
    for name, remove in (
        ("road_morf", perturb.RemoveMostRelevantFirst),
        ("road_lerf", perturb.RemoveLeastRelevantFirst),
    ):
        rows = []
        for share in shares:
            # theirs is the percentile of the heat above which pixels go
            change = remove(100 - share, road.NoisyLinearImputer(noise=0))
            metric = perturb.PerturbationConfidenceMetric(change)
            rows.append(metric(images, heats.numpy(), targets, net, return_diff=False))
        theirs[name] = torch.tensor(np.array(rows)).mean(0)
        assert torch.allclose(found.values[name][:, 0], theirs[name], atol=1e-4), name
    half = (theirs["road_lerf"] - theirs["road_morf"]) / 2
    assert torch.allclose(found.values["road"][:, 0], half, atol=1e-4)
    assert found.curves["road_morf"].shape == (2, 1, 5)
    assert torch.allclose(found.curves["road_morf"][..., 1:].mean(-1), found.values["road_morf"])
    assert torch.allclose(found.curves["road_lerf"][..., 0], found.scores[:, None])


@pytest.mark.parametrize("kind", ["zero", "binary", "third", "distinct"])
def test_ties_remove_exactly_the_share(toys, kind):
    heat = torch.rand(1, 1, 20, 20)
    if kind == "zero":
        heat.zero_()
    elif kind == "binary":
        heat = (heat > 0.5).float()
    elif kind == "third":
        heat[heat < 0.3] = 0  # other libraries then impute all pixels at 20 %
    watch = Watch(toys.GapNet())
    images = torch.randn(1, 3, 20, 20)
    adapt(watch).read_outputs(images)  # once per network, not per measurement
    watch.seen.clear()
    faithfulness(watch, images, heat, 0, ["road_morf", "road_lerf"], percentiles=(20, 55, 80))
    batches = torch.cat(watch.seen[1:])
    changed = (batches != images).any(1)
    assert changed.flatten(1).sum(1).tolist() == [80, 220, 320] * 2
    # what goes first is hotter, or as hot, as what stays; and the other way round
    for k, mask in enumerate(changed):
        gone, stays = heat[0, 0][mask], heat[0, 0][~mask]
        assert gone.min() >= stays.max() if k < 3 else gone.max() <= stays.min()


def test_imputation_stays_exact_where_the_model_does_not(net):
    """Autocast is for the model: what it is shown is the same to the last bit."""
    images, heats = torch.randn(1, 3, 32, 32), smooth_heats(1, 32, 32)[:, None]
    seen = []
    for precision in (None, "bfloat16"):
        watch = Watch(net)
        faithfulness(watch, images, heats, 0, ["road"], precision=precision)
        seen.append(torch.cat(watch.seen))
    assert torch.equal(*seen)
