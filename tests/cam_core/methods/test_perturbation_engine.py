"""What holds for every perturbation method when it is explained: batches, memory, models, options."""

from __future__ import annotations

import pytest
import torch
from perturbation_common import (
    ON_PIXELS,
    PERTURBATION,
    QUICK,
    SCORED,
    TARGET,
    close,
    quick,
)
from torch import nn

from cam_core import explain
from cam_core.methods.catalogue import resolve_methods


@pytest.fixture
def net(toys):
    return toys.DeepNet().eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 20, 28)


def test_registered_with_honest_flags():
    infos = {name: resolve_methods(name)[0].info for name in PERTURBATION}
    for name, info in infos.items():
        assert info.family == "perturbation"
        assert info.class_discriminative
        assert info.place == ("input" if name in ON_PIXELS else "layer")
        assert info.gradient_free is (name != "groupcam")
        assert "batch_size" in info.options
    assert [n for n in PERTURBATION if not infos[n].signed] == [*SCORED, "reciprocam"]
    assert resolve_methods("Score-CAM")[0].info.name == "scorecam"


@pytest.mark.parametrize("name", PERTURBATION)
def test_a_map_does_not_depend_on_its_batch(net, images, name):
    run = lambda batch, target: explain(net, batch, quick([name]), target, ["features"])  # noqa: E731
    ((key, whole),) = run(images, TARGET).maps.items()
    alone = [run(images[i : i + 1], TARGET[i : i + 1]).maps[key] for i in range(3)]
    close(torch.cat(alone), whole, rel=1e-3)
    close(run(images.flip(0), TARGET.flip(0)).maps[key].flip(0), whole, rel=1e-3)


@pytest.mark.parametrize("name", PERTURBATION)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_map_does_not_depend_on_the_batch_size(net, images, name, batch_size):
    options = {**QUICK.get(name, {}), "batch_size": batch_size}
    sizes = []
    handle = net.stem.register_forward_hook(lambda m, a, out: sizes.append(len(out)))
    small = explain(net, images, (name, options), TARGET, ["features"]).maps
    handle.remove()
    normal = explain(net, images, quick([name]), TARGET, ["features"]).maps
    for key in normal:
        close(small[key], normal[key], rel=1e-3)
    assert max(sizes) <= max(
        batch_size, 4
    )  # the batch itself has three; a replay is checked with four


class Cramped(nn.Module):
    """A network on a device that holds no more than four images."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.tried = []

    def forward(self, images):
        self.tried.append(len(images))
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.net(images)


@pytest.mark.parametrize("name", PERTURBATION)
def test_out_of_memory_halves_the_batch(net, images, name, protect):
    cramped = Cramped(net)
    unchanged = protect(cramped)
    small = explain(cramped, images, quick([name]), TARGET, ["net.features"]).maps
    unchanged()
    normal = explain(net, images, quick([name]), TARGET, ["features"]).maps
    assert max(cramped.tried) > 4
    for (_, theirs), (_, ours) in zip(normal.items(), small.items(), strict=True):
        close(ours, theirs, rel=1e-3)


@pytest.mark.parametrize("name", PERTURBATION)
def test_the_model_stays_as_it_was(net, images, name, protect):
    net.train()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    unchanged = protect(net)
    before = images.clone()
    explain(net, images, quick([name]), TARGET, ["features"])
    unchanged()
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", PERTURBATION)
def test_the_model_stays_as_it_was_when_something_raises(net, images, name, protect):
    calls = []

    def breaking(outputs):
        calls.append(len(outputs))
        if len(calls) > 5:
            raise ZeroDivisionError
        return outputs[:, 1]

    unchanged = protect(net)
    options = {**QUICK.get(name, {}), "batch_size": 2}
    with pytest.raises(ZeroDivisionError):
        explain(net, images, (name, options), breaking, ["features"])
    unchanged()


@pytest.mark.parametrize("name", PERTURBATION)
def test_bfloat16_changes_little(toys, name, corr):
    net = toys.awake(toys.DeepNet(channels=16), 32)
    with torch.no_grad():
        net.fc2.weight *= 20  # scores that differ by more than bfloat16 rounds off
    images = torch.randn(2, 3, 32, 32)
    options = {**QUICK.get(name, {})}
    exact = explain(net, images, (name, options), 2, ["features"]).maps
    half = explain(net, images, (name, options), 2, ["features"], precision="bfloat16").maps
    for key, maps in exact.items():
        assert half[key].dtype is torch.float32
        assert corr(half[key], maps) > 0.9, key


@pytest.mark.parametrize("name", PERTURBATION)
def test_a_bfloat16_model_is_explained(net, images, name):
    maps = explain(net.bfloat16(), images.bfloat16(), quick([name]), 2, ["features"]).maps
    for result in maps.values():
        assert result.dtype is torch.float32
        assert result.isfinite().all()


@pytest.mark.filterwarnings("ignore:layer 'features'. only full forwards")  # NaN is not itself
@pytest.mark.parametrize("name", PERTURBATION)
def test_a_nan_image_is_nan_and_leaves_the_others_alone(net, images, name):
    expected = explain(net, images, quick([name]), TARGET, ["features"]).maps
    images[1, 0, 3, 3] = torch.nan
    for key, result in explain(net, images, quick([name]), TARGET, ["features"]).maps.items():
        close(result[[0, 2]], expected[key][[0, 2]], rel=1e-3)
        assert result[1].isnan().any()


@pytest.mark.parametrize("name", ["scorecam", "iscam", "groupcam", "reciprocam", "occlusion"])
def test_flip_equivariance(name):
    """With mirror-symmetric kernels the map of the mirrored image is the mirrored map."""
    layers = [nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU()]
    for conv in layers[::2]:
        conv.weight.data = (conv.weight.data + conv.weight.data.flip(-1)) / 2
    net = nn.Sequential(
        nn.Sequential(*layers), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    ).eval()
    net[-1].weight.data[2].abs_()  # evidence for the class everywhere: Group-CAM has groups to show
    images = torch.randn(2, 3, 12, 12)
    method = (name, {"window": 4, "stride": 2}) if name == "occlusion" else quick([name])[0]
    ((_, straight),) = explain(net, images, method, 2, ["0"]).maps.items()
    ((_, mirrored),) = explain(net, images.flip(-1), method, 2, ["0"]).maps.items()
    assert straight.abs().max() > 0
    close(mirrored.flip(-1), straight, rel=1e-3)


@pytest.mark.parametrize("name", ["scorecam", "sscam", "iscam", "occlusion", "reciprocam"])
def test_a_negative_score_is_no_different(net, images, name):
    """These look at differences of scores: an offset of the logits changes nothing."""
    before = explain(net, images, quick([name]), TARGET, ["features"]).maps
    with torch.no_grad():
        net.fc2.bias -= 3.0
    result = explain(net, images, quick([name]), TARGET, ["features"])
    assert (result.scores < 0).all()
    for key, maps in before.items():
        close(result.maps[key], maps, rel=5e-3)


@pytest.mark.parametrize("factor", [0.01, 30.0])
def test_differences_of_scores_scale_with_the_logits(net, images, factor):
    names = ["reciprocam", "occlusion"]
    before = explain(net, images, names, TARGET, ["features"]).maps
    with torch.no_grad():
        net.fc2.weight *= factor
        net.fc2.bias *= factor
    after = explain(net, images, names, TARGET, ["features"]).maps
    for key, maps in before.items():
        close(after[key], factor * maps, rel=1e-3)


@pytest.mark.parametrize("name", [*SCORED, "groupcam", *ON_PIXELS])
def test_channels_last_images_reach_the_network_as_such(net, images, name):
    expected = explain(net, images, quick([name]), TARGET, ["features"]).maps
    layouts = []
    last = torch.channels_last
    handle = net.stem.register_forward_pre_hook(
        lambda m, args: layouts.append(args[0].is_contiguous(memory_format=last))
    )
    images = images.contiguous(memory_format=last)
    result = explain(net.to(memory_format=last), images, quick([name]), TARGET, ["features"]).maps
    handle.remove()
    assert all(layouts)
    for key, maps in expected.items():
        close(result[key], maps, rel=1e-3)


def test_a_callable_target_has_its_score_for_a_probability(net, images):
    names = quick(["scorecam", "groupcam", "rise"])
    maps = explain(net, images, names, lambda outputs: outputs[:, 1], ["features"]).maps
    assert all(m.isfinite().all() and m.abs().max() > 0 for m in maps.values())


def test_eigen_smoothing_applies_where_channels_are_added_up(net, images):
    smooth = explain(net, images, ["scorecam+eigen", "ablationcam+eigen"], TARGET, ["features"])
    assert all(m.isfinite().all() for m in smooth.maps.values())
    with pytest.raises(ValueError, match="eigen"):
        explain(net, images, "reciprocam+eigen", TARGET, ["features"])


BAD = [
    ("scorecam", {"weighting": "softmax"}, "weighting: 'softmax' is unknown; choose 'logit'"),
    ("scorecam", {"top_channels": 0}, "top_channels must be"),
    ("scorecam", {"batch_size": 0}, "batch_size must be"),
    ("sscam", {"samples": 0}, "samples must be"),
    ("sscam", {"sigma": -1.0}, "sigma must be a number between 0 and 100, got -1.0"),
    ("sscam", {"noise_on": "both"}, "noise_on: 'both' is unknown; choose 'mask' or 'image'"),
    ("iscam", {"samples": 1}, "samples must be at least 2"),
    ("iscam", {"samples": 2.5}, "samples must be a whole number"),
    ("iscam", {"path": "quadratic"}, "path: 'quadratic' is unknown"),
    ("groupcam", {"groups": 0}, "groups must be"),
    ("groupcam", {"percentile": 100}, "percentile must be at least 0 and below 100"),
    ("reciprocam", {"batch_size": -3}, "batch_size must be"),
    ("ablationcam", {"batch_size": 0}, "batch_size must be"),
    ("occlusion", {"window": 21}, "window must not exceed the image's height of 20"),
    ("occlusion", {"window": (5, 29)}, "window must not exceed the image's width of 28"),
    ("occlusion", {"window": 4, "stride": 5}, "stride must not exceed the window's height of 4"),
    ("occlusion", {"window": (1, 2, 3)}, "window must be a whole number or"),
    ("occlusion", {"stride": 0}, "stride must be"),
    ("occlusion", {"baseline": [0.0, 1.0]}, "baseline must be a number or one for each of the 3"),
    ("rise", {"samples": 0}, "samples must be"),
    ("rise", {"grid": 0}, "grid must be"),
    ("rise", {"keep": 1.0}, "keep must lie between 0 and 1"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_options(net, images, name, options, message):
    with pytest.raises(ValueError, match=message):
        explain(net, images, (name, options), TARGET, ["features"])
