"""What holds for every registered method, whatever family: run through the engine."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from method_lists import INFOS
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from cam_core import explain, list_methods
from cam_core.methods.catalogue import resolve_methods
from cam_core.methods.option_ranges import check_options, range_of

# Fewer forwards where the default has hundreds or thousands.
FEWER = {
    "rise": {"samples": 12}, "scorecam": {"top_channels": 6},
    "sscam": {"samples": 2, "top_channels": 6}, "iscam": {"samples": 3, "top_channels": 6},
    "smoothgrad": {"samples": 3}, "smoothgradcampp": {"samples": 3},
    "integrated_gradients": {"steps": 3}, "occlusion": {"window": 24, "stride": 16},
    "deep_feature_factorization": {"concepts": 2, "iterations": 20},
}  # fmt: skip
EVERY = [(name, FEWER.get(name, {})) for name in INFOS]
IDS = list(INFOS)


def close(a, b, rel):
    scale = float(b.nan_to_num(0).abs().max())
    torch.testing.assert_close(a, b, rtol=0, atol=rel * scale + 1e-12, equal_nan=True)


def network(name, toys):
    if INFOS[name].needs_attention:
        net = VisionTransformer(64, 16, 2, 2, 16, 32, num_classes=5).eval()
        nn.init.normal_(net.heads.head.weight)
        return net, None
    net = toys.awake(toys.resnet(classes=5), 64)
    net.fc.weight.data *= 5
    return net, ["layer4"]


@pytest.fixture
def images():
    return torch.randn(3, 3, 64, 64)


def run(net, images, method, targets, layers, **kwargs):
    return explain(net, images, [method], targets, layers, **kwargs)


@pytest.mark.parametrize("method", EVERY, ids=IDS)
def test_through_the_engine(toys, images, protect, method):
    """Shape, range, gaps, the batch, frozen weights, surroundings, and the model afterwards."""
    net, layers = network(method[0], toys)
    info = INFOS[method[0]]
    targets = torch.tensor([[1, 2], [0, -1], [4, 3]])
    check = protect(net)
    result = run(net, images, method, targets, layers)
    check()
    expected_places = {"layer": "layer4", "layers": "layer4"}
    for (key, place), maps in result.maps.items():
        assert key.startswith(method[0])
        assert place == expected_places.get(info.place, info.place)
        assert maps.shape[:2] == (3, 2)
        assert maps.dtype is torch.float32
        assert not maps.requires_grad
        assert maps[1, 1].isnan().all()
        assert maps[result.valid].isfinite().all()
        if info.place == "input":
            assert maps.shape[-2:] == (64, 64)
        assert (
            torch.equal(maps[0, 0], maps[0, 1]) is not info.class_discriminative
            or not maps[0].any()
        )
    assert [k for m in resolve_methods([method]) for k in m.keys(["layer4"])] == list(result.maps)
    alone = run(net, images[2:], method, targets[2:], layers)
    frozen = copy.deepcopy(net)
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    with torch.inference_mode():
        elsewhere = run(frozen.train(), images, method, targets, layers)
    for key, maps in result.maps.items():
        close(alone.maps[key], maps[2:], rel=2e-3)
        close(elsewhere.maps[key], maps, rel=1e-4)


@pytest.mark.parametrize("method", EVERY, ids=IDS)
def test_one_image_that_is_not_finite_leaves_the_others_alone(toys, images, method):
    net, layers = network(method[0], toys)
    expected = run(net, images, method, 1, layers)
    broken = images.clone()
    broken[1] = torch.nan
    found = run(net, broken, method, 1, layers)
    for key, maps in expected.maps.items():
        close(found.maps[key][[0, 2]], maps[[0, 2]], rel=2e-3)
        heat = found.heatmaps()[key][1]
        assert heat.isnan().all() or not heat.any(), "no picture of nothing"


@pytest.mark.parametrize("method", EVERY, ids=IDS)
def test_black_images_and_a_flat_layer(toys, method):
    """Nothing to see: a map that is finite, whatever it says."""
    net, layers = network(method[0], toys)
    result = run(net, torch.zeros(2, 3, 64, 64), method, [0, 1], layers)
    for maps in result.maps.values():
        assert maps.isfinite().all()


@pytest.mark.parametrize("method", [m for m in EVERY if INFOS[m[0]].class_discriminative],
                         ids=[n for n in IDS if INFOS[n].class_discriminative])  # fmt: skip
def test_half_precision(toys, images, corr, method):
    net, layers = network(method[0], toys)
    exact = run(net, images, method, 1, layers)
    half = run(net, images, method, 1, layers, precision="bfloat16")
    for key, maps in exact.maps.items():
        assert half.maps[key].dtype is torch.float32
        assert half.maps[key].isfinite().all()
        # Four cells on the last layer: a rank hardly means anything there, the direction does. A method that takes
        # few of the channels may take another one, which depends on how the CPU rounds.
        assert corr(half.maps[key], maps) > (0.5 if "top_channels" in method[1] else 0.8), key


def test_many_at_once_are_each_alone(toys, images):
    net, layers = network("gradcam", toys)
    methods = [m for m in EVERY if not INFOS[m[0]].needs_attention]
    together = explain(net, images, methods, [1, 3], layers)
    order = [m[0] for m in methods]
    met = [next(n for n in sorted(order, key=len, reverse=True) if k.startswith(n))
           for k, _ in together.maps]  # fmt: skip
    assert list(dict.fromkeys(met)) == order
    for method in methods:
        alone = run(net, images, method, [1, 3], layers)
        for key, maps in alone.maps.items():
            close(together.maps[key], maps, rel=1e-5)


def test_every_name_and_alias_is_one_method():
    seen = {}
    for info in list_methods():
        for name in (info.name, *info.aliases):
            assert resolve_methods(name)[0].info.name == info.name
            assert seen.setdefault(name, info.name) == info.name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("grad-cam", "gradcam"), ("GradCAM++", "gradcampp"), ("gradcam++", "gradcampp"),
        ("Smooth Grad-CAM++", "smoothgradcampp"), ("Saliency", "gradients"),
        ("IG", "integrated_gradients"), ("guided-backprop", "guided_backprop"),
        ("Attention Rollout", "attention_rollout"), ("DFF", "deep_feature_factorization"),
        ("score_cam", "scorecam"), ("CNN-Fixations", "cnn_fixations"),
    ],
)  # fmt: skip
def test_names_as_people_write_them(written, name):
    assert resolve_methods(written)[0].info.name == name


def test_the_list_prints_as_a_table():
    lines = str(list_methods()).splitlines()
    assert len(lines) == 1 + len(INFOS)
    assert lines[0].split()[:3] == ["name", "family", "class"]
    assert any(line.startswith("gradcam ") and "1F+1B" in line for line in lines)


def test_flags_are_what_the_ingredients_say():
    assert {n for n, m in INFOS.items() if m.needs_attention} == {
        "attention_rollout", "chefer", "legrad",
    }  # fmt: skip
    assert INFOS["scorecam"].gradient_free
    assert INFOS["eigencam"].gradient_free
    assert not INFOS["gradients"].gradient_free
    assert not INFOS["chefer"].gradient_free
    classless = {n for n, m in INFOS.items() if not m.class_discriminative}
    assert {"eigencam", "kpcacam", "fem", "randomcam", "attention_rollout", "activations",
            "deep_feature_factorization"} <= classless  # fmt: skip
    assert not {"gradcam", "seg_eigencam", "cnn_fixations", "chefer"} & classless


@pytest.mark.parametrize("count", [0, -1, 1025, 10**9, 2.0, True, "3"])
@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("eigencam", "components"),
        ("eigengradcam", "components"),
        ("deep_feature_factorization", "concepts"),
        ("activations", "top"),
    ],
)
def test_how_many_maps_is_checked_before_they_are_named(method, option, count):
    """A list of 10 ** 9 names would take all memory, also while a form is drawn."""
    message = rf"{option} must be a whole number between 1 and 1024, got {re.escape(repr(count))}"
    with pytest.raises(ValueError, match=message):
        resolve_methods([(method, {option: count})])


# options that are chosen from words, or switched on and off
_WORDS = {
    "base", "center", "gaussian", "head_fusion", "kernel", "noise_on", "path", "pooling", "reduce", "rule",
    "score", "shared", "weighting",
}  # fmt: skip


def test_every_number_has_a_range():
    """One that is added without a row in the table would be taken whatever it is."""
    without = {
        (name, option)
        for name, info in INFOS.items()
        for option in info.options
        if option not in _WORDS and range_of(name, option) is None
    }
    assert not without
    for name, info in INFOS.items():
        check_options(name, info.options, info.options)  # the defaults are in their ranges
        numbers = {o for o, v in info.options.items() if type(v) in (int, float)}
        assert not numbers & _WORDS


@pytest.mark.parametrize("value", [10**9, -(10**9), math.nan, math.inf, True, "7"])
@pytest.mark.parametrize(
    ("method", "option"),
    [(n, o) for n, m in sorted(INFOS.items()) for o in m.options if o not in _WORDS],
)
def test_a_number_out_of_its_range_is_refused_before_anything_is_made(method, option, value):
    with pytest.raises(ValueError, match=rf"{option} must be a (whole )?number between"):
        resolve_methods([(method, {option: value})])


def test_a_list_of_numbers_has_a_most():
    with pytest.raises(ValueError, match="channels takes at most 1,024 numbers, got 2,000"):
        resolve_methods([("activations", {"channels": list(range(2000))})])


def test_the_options_of_an_own_method_are_its_own():
    def own(activations, *, samples=5):
        return activations.mean(1)

    (method,) = resolve_methods([(own, {"samples": 10**6})])
    assert method.options == {"samples": 10**6}
