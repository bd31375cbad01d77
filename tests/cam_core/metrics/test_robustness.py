"""Infidelity, max-sensitivity, coherency and ADCC by hand and against captum; re-drawn weights."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from cam_core import explain, faithfulness, randomisation
from cam_core.adapters.adapt import adapt
from cam_core.metrics.randomisation import default_stages
from cam_core.metrics.ranking import pearson, seeded, spearman
from cam_core.metrics.robustness import random_squares


@pytest.fixture
def scene(toys):
    net = toys.awake(toys.resnet(), 32)
    net.fc.weight.data *= 8
    return types.SimpleNamespace(net=net, images=torch.randn(2, 3, 32, 32))


def again(scene, target=4, methods=("gradcam", "layercam")):
    def maps(images, rows):
        result = explain(scene.net, images, list(methods), target, ["layer2"])
        return torch.cat(list(result.heatmaps().values()), 1)

    return maps


class Linear(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images):
        return (images * self.weights).sum((1, 2, 3))[:, None].expand(-1, 2)


# infidelity


def test_squares_lie_inside_and_vary():
    boxes = random_squares(500, (24, 40), 51)
    top, left, bottom, right = boxes.unbind(1)
    assert torch.equal(bottom - top, right - left)
    assert (int((bottom - top).min()), int((bottom - top).max())) == (3, 12)
    assert int(top.min()) == 0
    assert int(bottom.max()) == 24
    assert int(left.min()) == 0
    assert int(right.max()) == 40
    assert torch.equal(boxes, random_squares(500, (24, 40), 51))


@pytest.mark.oracle
def test_captum_infidelity(scene):
    captum = pytest.importorskip("captum.metrics", reason="captum is not installed")
    heats = torch.rand(2, 1, 32, 32)
    top = scene.net(scene.images).argmax(1)
    ours = faithfulness(
        scene.net, scene.images, heats, top, ["infidelity"], samples=12, baseline="zero"
    )
    boxes = random_squares(12, (32, 32), 51)
    inside = torch.zeros(12, 3, 32, 32)
    for square, (up, left, down, right) in zip(inside, boxes.tolist(), strict=True):
        square[:, up:down, left:right] = 1

    def remove(inputs):
        removed = inside.repeat(2, 1, 1, 1)  # image-major, as captum repeats
        return removed, inputs * (1 - removed)

    theirs = captum.infidelity(
        lambda x: scene.net(x).softmax(1), remove, scene.images, heats.expand(-1, 3, -1, -1) / 3,
        target=top, n_perturb_samples=12, normalize=True,
    )  # fmt: skip
    assert torch.allclose(ours.values["infidelity"][:, 0], theirs, rtol=1e-4, atol=1e-8)


def test_infidelity_of_a_linear_score_is_zero_for_its_contributions():
    weights, images = torch.randn(3, 16, 16), torch.randn(2, 3, 16, 16)
    exact = (weights * images).sum(1)
    heats = torch.stack([exact, 7 * exact, -exact, torch.zeros_like(exact)], 1)
    found = faithfulness(
        Linear(weights), images, heats, lambda out: out[:, 0], ["infidelity"], baseline="zero"
    ).values["infidelity"]
    spread = found[:, 3:]  # foretelling nothing: the mean square of what squares cost
    assert bool((found[:, :2] < 1e-8 * spread).all())
    # the contrary is no better than nothing, whatever its scale
    assert torch.allclose(found[:, 2:3], spread)


# maps of changed images


@pytest.mark.oracle
def test_captum_max_sensitivity(scene):
    captum = pytest.importorskip("captum.metrics", reason="captum is not installed")
    maps = again(scene)
    ours = faithfulness(
        scene.net, scene.images, torch.rand(2, 2, 32, 32), 4, ["max_sensitivity"],
        repeats=5, radius=0.1, explain_again=maps,
    ).values["max_sensitivity"]  # fmt: skip
    noise = 2 * torch.rand(5, 3, 32, 32, generator=seeded(51)) - 1
    reach = 0.1 * scene.images.std((1, 2, 3)).repeat_interleave(5)[:, None, None, None]
    for m in range(2):
        theirs = captum.sensitivity_max(
            lambda x, column=m: (maps(x[0] if isinstance(x, tuple) else x, None)[:, column],),
            scene.images, lambda x: x + reach * noise.repeat(2, 1, 1, 1), n_perturb_samples=5,
        )  # fmt: skip
        assert torch.allclose(ours[:, m], theirs, rtol=1e-4)


def test_a_map_that_does_not_depend_on_the_image_is_not_sensitive(scene):
    fixed = torch.rand(1, 2, 32, 32)
    found = faithfulness(
        scene.net, scene.images, fixed.expand(2, -1, -1, -1), 4, ["max_sensitivity", "coherency"],
        explain_again=lambda x, rows: fixed.expand(len(x), -1, -1, -1),
    ).values  # fmt: skip
    assert torch.equal(found["max_sensitivity"], torch.zeros(2, 2))
    assert torch.allclose(found["coherency"], torch.ones(2, 2))


def test_coherency_and_adcc_by_hand(scene):
    maps = again(scene)
    heats = maps(scene.images, None)
    found = faithfulness(
        scene.net, scene.images, heats, 4, ["adcc", "coherency", "average_drop"], explain_again=maps
    ).values
    for m in range(2):
        mask = heats[:, m] / heats[:, m].amax((-2, -1), keepdim=True)
        seen = scene.images * mask[:, None]
        own = maps(seen, None)[:, m]
        coherent = torch.stack([torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
                                for a, b in zip(mask, own, strict=True)]) / 2 + 0.5  # fmt: skip
        assert torch.allclose(found["coherency"][:, m], coherent, atol=1e-4)
        before, after = (scene.net(x).softmax(1)[:, 4] for x in (scene.images, seen))
        drop = (before - after).clamp_min(0) / before
        parts = torch.stack([coherent, 1 - mask.mean((1, 2)), 1 - drop])
        assert torch.allclose(found["adcc"][:, m], 3 / (1 / parts).sum(0), atol=1e-4)


def test_coherency_of_a_map_that_vanishes_is_unknown(scene):
    heats = torch.rand(2, 1, 32, 32)
    found = faithfulness(
        scene.net, scene.images, heats, 4, ["coherency", "adcc", "max_sensitivity"],
        explain_again=lambda x, rows: torch.zeros(len(x), 1, 32, 32),
    ).values  # fmt: skip
    assert all(values.isnan().all() for values in found.values())


def test_explain_again_knows_whose_images_these_are(scene):
    asked = []

    def maps(images, rows):
        asked.append(list(rows))
        for image, row in zip(images, rows, strict=True):
            # noise is small: the image is closest to its own
            nearest = (image - scene.images).square().sum((1, 2, 3)).argmin()
            assert int(nearest) == row
        assert torch.is_grad_enabled()
        return torch.rand(len(rows), 1, 32, 32)

    heats = torch.ones(2, 1, 32, 32)
    heats[0] = torch.nan
    faithfulness(
        scene.net, scene.images, heats, 4, ["max_sensitivity", "coherency"], repeats=3,
        batch_size=2, explain_again=maps,
    )  # fmt: skip
    assert asked == [[1], [1, 1], [1], [1]]


# correlations


def test_spearman_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    a, b = torch.randint(0, 9, (4, 50)).float(), torch.rand(4, 50)
    b[1] = a[1] + 0.5 * b[1]
    for x, y, ours in zip(a, b, spearman(a, b), strict=True):
        assert float(ours) == pytest.approx(float(stats.spearmanr(x, y)[0]), abs=1e-6)


def test_correlations_without_an_answer():
    a = torch.rand(3, 20)
    b = a.clone()
    b[0] = 0.1  # a mean of twenty of these is not 0.1
    b[1, 3] = torch.nan
    assert spearman(a, b).isnan().tolist() == [True, True, False]
    assert float(spearman(a, b)[2]) == pytest.approx(1)
    assert pearson(a[:1], b[:1]).isnan().all()
    assert float(pearson(a, -2 * a + 3)[0]) == pytest.approx(-1)


# weights drawn again


@pytest.mark.parametrize("mode", ["cascading", "independent"])
@pytest.mark.parametrize("training", [False, True])
def test_the_network_comes_back_bit_for_bit(scene, protect, mode, training):
    scene.net.train(training)
    scene.net.layer1.requires_grad_(False)
    check = protect(scene.net)
    state = torch.random.get_rng_state()
    found = randomisation(
        scene.net, scene.images, ["gradcam", "eigencam"], layers=["layer2"], mode=mode
    )
    check()
    assert torch.equal(state, torch.random.get_rng_state())
    assert found.mode == mode
    assert len(found.steps) == len(set(found.steps))
    for rows in found.correlations.values():
        assert rows.shape == (len(found.steps), 2)


def test_the_network_comes_back_when_something_raises(scene, protect):
    check = protect(scene.net)
    broken = nn.Linear(2, 2)
    broken.reset_parameters = lambda: 1 / 0
    stages = [("head", [scene.net.fc]), ("broken", [broken])]
    with pytest.raises(ZeroDivisionError):
        randomisation(scene.net, scene.images, layers=["layer2"], stages=stages)
    check()


def test_what_is_drawn_matters_and_what_is_not_does_not(scene):
    """The head decides Grad-CAM's weights but no activation; the layer behind decides neither."""
    stages = [("head", [scene.net.fc]), ("stem", [scene.net.conv1, scene.net.bn1])]
    found = randomisation(
        scene.net, scene.images, ["gradcam", "eigencam"], 4, ["layer3"], stages=stages,
        mode="independent", compare="signed",
    )  # fmt: skip
    head, stem = found.correlations["eigencam", "layer3"]
    assert torch.allclose(head, torch.ones(2))
    assert bool((stem < 0.99).all())
    assert bool((found.correlations["gradcam", "layer3"] < 0.99).all())
    assert found.steps == ["head", "stem"]
    means = found.means()["eigencam", "layer3"]
    assert means[0] == pytest.approx(1)


def test_cascading_keeps_what_was_drawn(scene):
    stages = [("head", [scene.net.fc]), ("last", [scene.net.layer4])]
    one, two = (
        randomisation(
            scene.net, scene.images, "gradcam", 4, ["layer1"], stages=stages, mode=mode
        ).correlations["gradcam", "layer1"]
        for mode in ("cascading", "independent")
    )
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])


def test_the_intact_networks_class_is_explained(scene):
    classes = scene.net(scene.images).argmax(1)
    named, predicted = (
        randomisation(scene.net, scene.images, "gradcam", targets, ["layer2"])
        for targets in (classes, "predicted")
    )
    for key, rows in named.correlations.items():
        assert torch.allclose(rows, predicted.correlations[key], equal_nan=True)


def test_default_stages_go_from_the_head_to_the_stem(scene):
    stages = default_stages(adapt(scene.net), scene.images, count=5)
    assert len(stages) == 5
    assert stages[0] == ("fc", [scene.net.fc])
    assert stages[-1][0].endswith(" to conv1")
    drawn = [id(m) for _, modules in stages for m in modules]
    owners = [id(m) for m in scene.net.modules() if list(m.parameters(recurse=False))]
    assert sorted(drawn) == sorted(owners)


def test_a_transformers_own_parameters_are_drawn_too(protect):
    from torchvision.models import VisionTransformer

    net = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4).eval()
    nn.init.normal_(net.heads.head.weight)
    images = torch.randn(2, 3, 32, 32)
    check = protect(net)
    stages = default_stages(adapt(net), images)
    drawn = [id(m) for _, modules in stages for m in modules]
    owners = [id(m) for m in net.modules() if list(m.parameters(recurse=False))]
    assert sorted(drawn) == sorted(owners)
    # class token and positions are at the stem, not at the head
    assert stages[0][0] == "heads.head"
    assert net in stages[-1][1]
    found = randomisation(net, images, "gradcam", 1)
    check()
    ((_, rows),) = found.correlations.items()
    assert bool((rows[-1].abs() < 0.9).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "all"}, "mode: 'all' is unknown; choose from cascading, independent"),
        ({"compare": "raw"}, "compare: 'raw' is unknown; choose from shown, absolute, signed"),
        ({"targets": [0, 1]}, "targets: 2 per image"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_wrong_arguments(scene, options, message):
    with pytest.raises(ValueError, match=message):
        randomisation(scene.net, scene.images, layers=["layer2"], **options)
