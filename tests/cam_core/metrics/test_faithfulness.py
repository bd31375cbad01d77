"""Faithfulness: known evidence, closed forms, other libraries, ties, missing maps, the model's state."""

from __future__ import annotations

import contextlib
import types

import pytest
import torch
from evidence_common import known_evidence, perfect_maps
from torch import nn

from cam_core import adapt, explain, faithfulness, mask_target
from cam_core.metrics.catalogue import DEFAULT_METRICS, METRICS, planned_forwards
from cam_core.metrics.fills import fill, gaussian
from cam_core.metrics.ranking import ranks_from_top
from cam_core.targets.base import Target

# These ask the model about pixels; the others describe the map, or how stable it is.
ASKING = [
    "deletion", "insertion", "road_morf", "road_lerf", "road", "average_drop", "increase",
    "confidence_change", "drop_in_deletion", "infidelity",
]  # fmt: skip
NOT_EXPLAINING = [name for name, info in METRICS.items() if not info.needs_explain]


def better(name, a, b):
    """Whether values a are better than b for every image."""
    return bool(((a > b) if METRICS[name].better == "higher" else (a < b)).all())


class Share(nn.Module):
    """Scores (N, 2) whose first column is the weighted sum of the pixels: linear, so known."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images):
        value = (images.mean(1) * self.weights).sum((1, 2))
        return torch.stack([value, 1 - value], 1)


def first_score(outputs):
    return outputs[:, 0]


# known evidence


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("baseline", [None, "mean", "blur", "zero"])
def test_the_evidence_itself_is_first_and_its_inverse_last(seed, baseline):
    net, images = known_evidence(seed)
    perfect = perfect_maps(net, images)
    noise = torch.rand(perfect.shape)
    heats = torch.stack([perfect, 0.4 * perfect + 0.6 * noise, noise, 1 - perfect], 1)

    def again(changed, rows):
        now = perfect_maps(net, changed.float())
        spoilt = 0.4 * now + 0.6 * noise[rows]
        return torch.stack([now, spoilt, torch.rand(now.shape), 1 - now], 1)

    names = [*ASKING, "sparseness", "complexity", "coherency", "adcc"]
    found = faithfulness(net, images, heats, 1, names, baseline=baseline, explain_again=again)
    assert bool((found.scores > 0.7).all())
    for name in names:
        values = found.values[name]
        assert values.isfinite().all(), name
        if name == "increase":  # it knows no more than yes and no
            assert values[:, 0].tolist() == [1, 1, 1], name
            assert values[:, 3].tolist() == [0, 0, 0], name
            continue
        if name == "coherency":  # a map and its inverse are as coherent; noise is not
            assert better(name, values[:, [0, 1, 3]], values[:, 2:3]), (name, values)
            continue
        assert better(name, values[:, :1], values[:, 1:]), (name, values)
        others = values[:, :3] if name in ASKING else values[:, :2]
        assert better(name, others, values[:, 3:]), (name, values)


# closed forms


@pytest.fixture
def half():
    """Evidence on the left half of an image of ones; the share of it that is left is the score."""
    weights = torch.zeros(8, 10)
    weights[:, :5] = 1 / 40
    perfect = (weights > 0).float() + 0.1 * torch.rand(8, 10)
    return Share(weights), torch.ones(1, 3, 8, 10), torch.stack([perfect, -perfect])[None]


def test_curves_of_a_linear_score(half):
    net, images, heats = half
    names = ["deletion", "insertion"]
    found = faithfulness(net, images, heats, first_score, names, steps=4, baseline="zero")
    falls, late = [1, 0.5, 0, 0, 0], [1, 1, 1, 0.5, 0]
    wanted = torch.tensor([falls, late])
    assert torch.allclose(found.curves["deletion"][0], wanted, atol=1e-6)
    assert torch.allclose(found.curves["insertion"][0], 1 - found.curves["deletion"][0], atol=1e-6)
    assert torch.allclose(found.values["deletion"], torch.tensor([[0.25, 0.75]]))
    assert torch.allclose(found.values["insertion"], torch.tensor([[0.75, 0.25]]))


def test_masked_scores_of_a_linear_score(half):
    net, images, _ = half
    heats = torch.zeros(1, 3, 8, 10)
    heats[:, 0, :4, :5] = 2  # half of the evidence, whole
    heats[:, 1, :, :5] = 4
    heats[:, 1, :4] *= 0.25  # all of it, the upper half at a quarter
    heats[:, 2] = -1  # nothing is for the class
    names = ["average_drop", "increase", "confidence_change", "drop_in_deletion"]
    found = faithfulness(net, images, heats, first_score, names).values
    kept = torch.tensor([[0.5, 0.625, 0.0]])
    assert torch.allclose(found["average_drop"], 1 - kept)
    assert torch.allclose(found["confidence_change"], kept - 1)
    assert torch.allclose(found["drop_in_deletion"], kept)
    assert found["increase"].tolist() == [[0, 0, 0]]


def test_drops_are_relative_to_the_score(half):
    net, images, heats = half
    names = ["average_drop", "drop_in_deletion", "confidence_change"]
    whole = faithfulness(net, images, heats, first_score, names).values
    small = faithfulness(net, 0.01 * images, heats, first_score, names).values
    assert torch.allclose(whole["average_drop"], small["average_drop"], atol=1e-5)
    assert torch.allclose(whole["drop_in_deletion"], small["drop_in_deletion"], atol=1e-5)
    assert torch.allclose(whole["confidence_change"], 100 * small["confidence_change"], atol=1e-5)
    # of a score that is not positive there is no share
    below = faithfulness(net, images, heats, lambda out: out[:, 0] - 5, names).values
    assert below["average_drop"].isnan().all()
    assert below["drop_in_deletion"].isnan().all()
    assert below["confidence_change"].isfinite().all()


def test_increase_needs_more_than_before():
    weights = torch.full((4, 4), -0.1)
    weights[0] = 0.5
    heat = torch.zeros(1, 2, 4, 4)
    heat[:, 0, 0] = 1  # what is against the class is hidden
    heat[:, 1] = 1  # all is seen: no increase
    found = faithfulness(Share(weights), torch.ones(1, 3, 4, 4), heat, first_score, ["increase"])
    assert found.values["increase"].tolist() == [[1, 0]]


def test_sparseness_and_complexity_by_hand():
    heats = torch.tensor(
        [[[[1.0, 2], [3, 4]], [[0, 0], [0, 5]], [[2, 2], [2, 2]], [[-1, 2], [-3, 4]]]]
    )
    names = ["sparseness", "complexity"]
    net = Share(torch.ones(2, 2))
    found = faithfulness(net, torch.ones(1, 3, 2, 2), heats, first_score, names, steps=2)
    # sum (2 i - n - 1) a_i / (n sum a) = (-3 - 2 + 3 + 12) / 40; magnitudes of the last are the first's
    assert found.values["sparseness"][0].tolist() == pytest.approx([0.25, 0.75, 0, 0.25])
    share = torch.tensor([0.1, 0.2, 0.3, 0.4])
    wanted = float(-(share * share.log()).sum() / torch.tensor(4.0).log())
    assert found.values["complexity"][0].tolist() == pytest.approx([wanted, 0, 1, wanted], abs=1e-6)
    assert found.forwards == {"unperturbed": 1, "sparseness": 0, "complexity": 0}


def test_quantus_sparseness_and_complexity():
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed")
    heats = torch.rand(2, 1, 12, 12)
    names = ["sparseness", "complexity"]
    net, images = Share(torch.rand(12, 12)), torch.rand(2, 3, 12, 12)
    found = faithfulness(net, images, heats, first_score, names).values
    for name, metric in (
        ("sparseness", quantus.Sparseness()),
        ("complexity", quantus.Complexity()),
    ):
        theirs = metric.evaluate_batch(x_batch=images.numpy(), a_batch=heats.numpy())
        scale = torch.tensor(144.0).log() if name == "complexity" else 1
        assert torch.allclose(found[name][:, 0], torch.as_tensor(theirs).float() / scale, atol=1e-4)


# other libraries


def extractor(net, heats):
    """What torchcam's metrics ask of an extractor: a model and given maps."""

    class Given:
        model = net

        def __call__(self, *args, **kwargs):
            return [heats]

        def fuse_cams(self, cams):
            return cams[0]

        def _hooks_off(self):
            return contextlib.nullcontext()

    return Given()


@pytest.fixture
def scene(toys):
    net = toys.awake(toys.resnet(), 32)
    net.fc.weight.data *= 8
    return types.SimpleNamespace(
        net=net, images=torch.randn(3, 3, 32, 32), heats=torch.rand(3, 2, 32, 32)
    )


@pytest.mark.oracle
@pytest.mark.parametrize("steps", [4, 16])
def test_torchcam_deletion_and_insertion(scene, steps):
    metrics = pytest.importorskip("torchcam.metrics", reason="torchcam is not installed")
    names = ["deletion", "insertion"]
    ours = faithfulness(
        scene.net, scene.images, scene.heats, [4], names, steps=steps, baseline="zero"
    ).values
    for m in range(2):
        theirs = metrics.DeletionInsertionMetric(
            extractor(scene.net, scene.heats[:, m]), lambda z: z.softmax(-1), steps=steps
        )
        theirs.update(scene.images, 4)
        summary = theirs.summary()
        for name in names:
            assert float(ours[name][:, m].mean()) == pytest.approx(summary[f"{name}_auc"], abs=1e-5)


@pytest.mark.oracle
def test_torchcam_average_drop_and_increase(scene):
    metrics = pytest.importorskip("torchcam.metrics", reason="torchcam is not installed")
    heats = scene.heats / scene.heats.amax((-2, -1), keepdim=True)
    found = faithfulness(scene.net, scene.images, heats, "predicted", ["average_drop", "increase"])
    for m in range(2):
        theirs = metrics.ClassificationMetric(
            extractor(scene.net, heats[:, m]), lambda z: z.softmax(-1)
        )
        theirs.update(scene.images)
        summary = theirs.summary()
        drop, gain = (found.values[name][:, m].mean() for name in ("average_drop", "increase"))
        assert float(drop) == pytest.approx(summary["avg_drop"], abs=1e-5)
        assert float(gain) == pytest.approx(summary["conf_increase"], abs=1e-6)


# ties


def test_ranks_are_a_permutation_in_the_order_of_the_heat():
    heats = torch.randint(0, 4, (5, 60)).float()
    ranks = ranks_from_top(heats, 51)
    assert torch.equal(ranks.sort(-1).values, torch.arange(60).expand(5, 60))
    assert bool((heats.gather(-1, ranks.argsort(-1)).diff(dim=-1) <= 0).all())
    assert torch.equal(ranks[2], ranks_from_top(heats[2], 51))
    assert not torch.equal(ranks, ranks_from_top(heats, 52))


def test_ties_do_not_favour_reading_order():
    """The score is what is left of the upper half: reading order would remove it first."""
    weights = torch.zeros(20, 20)
    weights[:10] = 1 / 200
    heats = torch.zeros(1, 2, 20, 20)
    heats[:, 1, :, :10] = 1  # binary: in each value as much of the upper as of the lower half
    found = faithfulness(
        Share(weights), torch.ones(1, 3, 20, 20), heats, first_score, ["deletion"], baseline="zero"
    )
    assert torch.allclose(found.values["deletion"], torch.full((1, 2), 0.5), atol=0.03)
    line = torch.linspace(1, 0, 21).expand(1, 2, 21)
    assert torch.allclose(found.curves["deletion"], line, atol=0.1)


def test_a_constant_map_is_measured_as_a_random_order(scene):
    heats = torch.stack([torch.zeros(3, 32, 32), torch.full((3, 32, 32), 0.5)], 1)
    found = faithfulness(scene.net, scene.images, heats, 0, ["deletion", "road", "infidelity"])
    for name in ("deletion", "road"):
        assert found.values[name].isfinite().all()
        assert torch.equal(found.values[name][:, 0], found.values[name][:, 1])
    # nothing is foretold: the error is the mean square of the drops
    assert bool((found.values["infidelity"][:, 0] >= found.values["infidelity"][:, 1]).all())


# missing maps and targets


def test_a_missing_map_is_nan_and_costs_nothing(scene):
    heats = scene.heats.clone()
    heats[1, 0, 3, 4] = torch.nan
    heats[2] = torch.inf
    whole = faithfulness(scene.net, scene.images, scene.heats, 0, NOT_EXPLAINING)
    found = faithfulness(scene.net, scene.images, heats, 0, NOT_EXPLAINING)
    missing = torch.tensor([[False, False], [True, False], [True, True]])
    for name, values in found.values.items():
        assert torch.equal(values.isnan(), missing), name
        assert torch.allclose(values[~missing], whole.values[name][~missing], atol=1e-5), name
    for name, curve in found.curves.items():
        assert torch.equal(curve.isnan().any(-1), missing), name
    assert found.forwards["deletion"] == 3 * 19 + 2
    assert found.forwards["infidelity"] == 2 * 50


def test_no_map_at_all(scene):
    heats = torch.full_like(scene.heats, torch.nan)
    found = faithfulness(
        scene.net, scene.images, heats, 0, list(METRICS), explain_again=lambda x, rows: heats[rows]
    )
    assert all(values.isnan().all() for values in found.values.values())
    assert sum(found.forwards.values()) == 3


def test_an_image_without_a_target_is_nan(scene):
    found = faithfulness(scene.net, scene.images, scene.heats, torch.tensor([1, -1, 2]))
    assert found.scores.isnan().tolist() == [False, True, False]
    for values in found.values.values():
        assert values.isnan().any(1).tolist() == [False, True, False]


# targets and models


def test_targets_in_every_form(scene):
    scores = scene.net(scene.images).softmax(1).detach()
    classes = scores.argmax(1)

    def score(targets):
        return faithfulness(scene.net, scene.images, scene.heats, targets, ["sparseness"]).scores

    best = scores.amax(1)
    for targets in ("predicted", classes, "top_1", [Target(indices=classes)], Target(classes)):
        assert torch.allclose(score(targets), best, atol=1e-6)
    assert torch.allclose(score(3), scores[:, 3], atol=1e-6)
    raw = scene.net(scene.images).detach()
    assert torch.allclose(score(lambda out: out[:, 5]), raw[:, 5], atol=1e-5)


def test_probabilities_are_the_adapters(toys):
    net, images, heats = toys.GapNet(classes=4), torch.randn(2, 3, 16, 16), torch.rand(2, 1, 16, 16)
    labels = faithfulness(adapt(net, multi_label=True), images, heats, 2, ["increase"])
    assert torch.allclose(labels.scores, net(images)[:, 2].sigmoid().detach(), atol=1e-6)
    many = faithfulness(adapt(net, multi_label=True, threshold=0.01), images, heats)
    assert torch.allclose(many.scores, net(images).amax(1).sigmoid().detach(), atol=1e-6)
    single = toys.GapNet(classes=1)
    found = faithfulness(single, images, heats, 0, ["increase"])
    assert torch.allclose(found.scores, (-single(images)[:, 0]).sigmoid().detach(), atol=1e-6)


def test_a_target_with_a_mask_for_each_image():
    """Perturbed images are scored on the mask of the image that they come from."""

    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2, 3, 1, 1))

        def forward(self, images):
            return torch.nn.functional.conv2d(images, self.scale)

    masks = torch.zeros(2, 8, 8)
    masks[0, :4] = masks[1, 4:] = 1
    net = adapt(Pixels(), task="segmentation")
    images = torch.ones(2, 3, 8, 8)
    heats = torch.stack([masks, 1 - masks], 1) + 0.01 * torch.rand(2, 2, 8, 8)
    for targets in (mask_target(1, masks), [mask_target(1, masks)]):
        found = faithfulness(
            net, images, heats, targets, ["deletion"], steps=4, baseline="zero", batch_size=3
        )
        fall = found.curves["deletion"] / found.scores[:, None, None]
        wanted = torch.tensor([[1, 0.5, 0, 0, 0], [1, 1, 1, 0.5, 0]]).expand(2, 2, 5)
        assert torch.allclose(fall, wanted, atol=1e-6)


# independence of the batch, and the cost


def everything(scene, images, heats, **options):
    def again(changed, rows):
        result = explain(scene.net, changed, ["gradcam", "layercam"], 0, ["layer3"])
        return torch.cat(list(result.heatmaps().values()), 1)

    return faithfulness(
        scene.net,
        images,
        heats,
        0,
        list(METRICS),
        explain_again=again,
        samples=6,
        repeats=2,
        **options,
    )


def test_values_do_not_depend_on_what_is_beside(scene):
    whole = everything(scene, scene.images, scene.heats, steps=5)
    for size in (1, 7):
        other = everything(scene, scene.images, scene.heats, steps=5, batch_size=size)
        for name, values in whole.values.items():
            assert torch.allclose(values, other.values[name], atol=2e-4), (name, size)
        assert other.forwards == whole.forwards
    alone = everything(scene, scene.images[1:2], scene.heats[1:2], steps=5)
    for name, values in whole.values.items():
        assert alone.values[name].shape == (1, 2)
        assert torch.allclose(values[1:2], alone.values[name], atol=2e-4), name
    names = ["deletion", "road", "infidelity", "average_drop"]
    single = faithfulness(scene.net, scene.images, scene.heats[:, 1:], 0, names, steps=5, samples=6)
    for name in names:
        assert torch.allclose(whole.values[name][:, 1:], single.values[name], atol=1e-5), name


@pytest.mark.parametrize(
    "names",
    [
        list(METRICS),
        list(DEFAULT_METRICS),
        ["road", "road_morf"],
        ["road_lerf", "road"],
        ["adcc", "increase"],
        ["insertion", "deletion"],
        ["adcc"],
    ],
)
@pytest.mark.parametrize("baseline", [None, "blur"])
def test_the_cost_is_what_was_planned(scene, names, baseline):
    seen = []
    scene.net.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    adapt(scene.net).read_outputs(scene.images)  # once per network, not per measurement
    seen.clear()
    options = {
        "steps": 4,
        "samples": 5,
        "repeats": 2,
        "percentiles": (30, 60),
        "baseline": baseline,
    }
    found = faithfulness(
        scene.net, scene.images, scene.heats, 0, names, **options,
        explain_again=lambda x, rows: (seen.append(len(x)), torch.rand(len(x), 2, 32, 32))[1],
    )  # fmt: skip
    assert found.forwards == planned_forwards(names, 3, 2, **options)
    assert sum(found.forwards.values()) == sum(seen)
    assert list(found.values) == names


def test_the_caller_is_told_of_every_batch_and_may_end_it(scene):
    images, heats, net, told = scene.images, scene.heats, scene.net, []
    found = faithfulness(
        net, images, heats, 0, ["deletion", "road"], batch_size=8, on_forwards=told.append
    )
    assert sum(told) == sum(found.forwards.values())
    assert told[0] == len(images)
    assert max(told) == 8
    assert len(told) > 10

    def enough(count):
        told.append(count)
        raise KeyboardInterrupt

    told.clear()
    net.train()
    with pytest.raises(KeyboardInterrupt):
        faithfulness(net, images, heats, 0, ["deletion"], on_forwards=enough)
    assert told == [len(images)]
    assert net.training, "as it came"


def test_stated_costs_are_those_of_one_map():
    for name, info in METRICS.items():
        assert info.cost == planned_forwards([name], 1, 1)[name]
        assert info.name == name
        assert info.better in ("higher", "lower")


# the model and its precision


@pytest.mark.parametrize("raises", [False, True])
def test_the_model_leaves_as_it_came(scene, protect, raises):
    scene.net.train()
    scene.net.layer2.eval()
    for parameter in scene.net.layer1.parameters():
        parameter.requires_grad_(False)
    check = protect(scene.net)
    images, heats = scene.images.clone(), scene.heats.clone()

    def again(changed, rows):
        if raises:
            raise RuntimeError("no map")
        return torch.rand(len(rows), 2, 32, 32)

    with pytest.raises(RuntimeError, match="no map") if raises else contextlib.nullcontext():
        faithfulness(
            scene.net, images, heats, 0, list(METRICS), steps=3, samples=4, repeats=1,
            explain_again=again,
        )  # fmt: skip
    check()
    assert torch.equal(images, scene.images)
    assert torch.equal(heats, scene.heats)


def test_callers_inside_inference_mode(scene):
    wanted = faithfulness(scene.net, scene.images, scene.heats, 0, steps=4)
    with torch.inference_mode():
        images, heats = scene.images * 1, scene.heats * 1
        found = faithfulness(scene.net, images, heats, 0, steps=4)
    for name, values in wanted.values.items():
        assert torch.allclose(values, found.values[name], atol=1e-6)


def test_half_precision(scene):
    wanted = everything(scene, scene.images, scene.heats, steps=4).values
    half = everything(scene, scene.images, scene.heats, steps=4, precision="bfloat16").values
    for name in ("deletion", "insertion", "road"):
        assert torch.allclose(wanted[name], half[name], atol=0.05), name
        assert half[name].dtype == torch.float32
        assert not torch.equal(wanted[name], half[name])
    # a target that computes something runs in the model's precision
    rows = torch.rand(10, 3)
    own = faithfulness(
        scene.net, scene.images, scene.heats, lambda out: (out @ rows)[:, 0], ["deletion"],
        steps=4, precision="bfloat16",
    )  # fmt: skip
    assert own.values["deletion"].isfinite().all()
    # a model and images that are of half precision themselves
    net, images = scene.net.bfloat16(), scene.images.bfloat16()
    own = faithfulness(net, images, scene.heats, 0, NOT_EXPLAINING, steps=4).values
    assert all(values.isfinite().all() for values in own.values())


def test_memory_that_does_not_suffice(scene):
    def forward(images):
        if len(images) > 5:
            raise torch.OutOfMemoryError("too many")
        return type(scene.net).forward(scene.net, images)

    wanted = faithfulness(scene.net, scene.images, scene.heats, 0, steps=4).values
    scene.net.forward = forward
    found = faithfulness(scene.net, scene.images, scene.heats, 0, steps=4).values
    for name, values in wanted.items():
        assert torch.allclose(values, found[name], atol=1e-5), name


# what replaces pixels


def test_fills():
    images = torch.rand(2, 3, 24, 40)
    assert torch.allclose(
        fill(images, "mean"), images.mean((-2, -1), keepdim=True).expand_as(images)
    )
    assert not fill(images, "zero").any()
    own = fill(images, lambda x: x.flip(-1))
    assert torch.equal(own, images.flip(-1))
    blurred = fill(images, "blur")
    assert blurred.shape == images.shape
    assert float(blurred.std()) < 0.7 * float(images.std())
    flat = torch.full((1, 3, 24, 40), 2.0)
    assert torch.allclose(fill(flat, "blur"), flat)
    assert fill(torch.rand(1, 3, 2, 3), "blur").shape == (1, 3, 2, 3)


def test_gaussian_is_torchvisions():
    functional = pytest.importorskip("torchvision.transforms.functional")
    images = torch.rand(2, 3, 24, 40)
    ours = gaussian(images, 2.0, 5)
    assert torch.allclose(ours, functional.gaussian_blur(images, [11, 11], [2.0, 2.0]), atol=1e-6)
    inner = gaussian(images, 2.0, 5, padded=False)
    assert torch.allclose(inner, ours[..., 5:-5, 5:-5], atol=1e-6)


@pytest.mark.parametrize("baseline", ["mean", "zero", "blur"])
def test_curves_end_in_the_baseline(scene, baseline):
    found = faithfulness(
        scene.net,
        scene.images,
        scene.heats,
        2,
        ["deletion", "insertion"],
        steps=3,
        baseline=baseline,
    )
    empty = scene.net(fill(scene.images, baseline)).softmax(1)[:, 2, None].expand(3, 2)
    whole = scene.net(scene.images).softmax(1)[:, 2, None].expand(3, 2)
    for name, order in (("deletion", (whole, empty)), ("insertion", (empty, whole))):
        assert torch.allclose(found.curves[name][..., 0], order[0], atol=1e-6)
        assert torch.allclose(found.curves[name][..., -1], order[1], atol=1e-6)


# wrong arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ["deletion", "roads"]}, "metrics: 'roads' is unknown; choose from deletion,"),
        ({"metrics": "deletion"}, "metrics must be a list"),
        ({"metrics": []}, "metrics must be a list"),
        ({"metrics": ["adcc"]}, "metrics: 'adcc' explains changed images; pass explain_again="),
        ({"heats": torch.rand(3, 32, 32)}, r"heats must be a tensor of shape \(3, M, 32, 32\)"),
        ({"heats": torch.rand(3, 2, 7, 7)}, "on the pixels of the images"),
        ({"heats": torch.rand(2, 2, 32, 32)}, "heats must be a tensor"),
        ({"images": torch.rand(3, 32, 32)}, "images must be a tensor"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"samples": 0}, "samples must be"),
        ({"percentiles": (20, 100)}, "percentiles must be"),
        ({"percentiles": (0, 50)}, "percentiles must be"),
        ({"percentiles": ()}, "percentiles must be"),
        ({"noise": -1.0}, "noise must not be negative"),
        ({"baseline": "grey"}, "baseline: 'grey' is unknown; choose from mean, blur, zero"),
        ({"baseline": lambda x: x[:, :1]}, "baseline: the callable must return"),
        ({"targets": [0, 1]}, "targets: 2 per image"),
        ({"targets": 99}, "targets: class index 99 is out of range"),
        ({"precision": "int8"}, "precision: 'int8' is unknown"),
    ],
)
def test_wrong_arguments(scene, change, message):
    given = {"images": scene.images, "heats": scene.heats, **change}
    with pytest.raises(ValueError, match=message):
        faithfulness(scene.net, **given)


def test_explain_again_that_returns_something_else(scene):
    with pytest.raises(
        ValueError, match=r"explain_again must return maps of shape \(\d, 2, 32, 32\)"
    ):
        faithfulness(
            scene.net, scene.images, scene.heats, 0, ["coherency"],
            explain_again=lambda x, rows: torch.rand(len(x), 1, 32, 32),
        )  # fmt: skip
