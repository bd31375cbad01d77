"""Half precision, shared modules whose calls vary, and the closed form of a linear head."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from method_lists import ON_TENSORS as ALL
from torch import nn

from cam_core import explain


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64)


# Precision ---------------------------------------------------------------------------------------

LAYERS = ["layer2", "layer3"]


@pytest.fixture
def separated(toys):
    """A network whose scores are far apart, as a trained one's are."""
    net = toys.resnet().eval()
    net.fc.weight.data *= 10
    return net


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", [m for m in ALL if m not in ("cam", "ablationcam")])
def test_autocast_maps_correlate_with_float32(separated, images, corr, precision, method):
    exact = explain(separated, images, method, [1, 7], LAYERS)
    half = explain(separated, images, method, [1, 7], LAYERS, precision=precision)
    for key, maps in exact.maps.items():
        assert half.maps[key].dtype is torch.float32
        for ours, theirs in zip(half.maps[key].flatten(0, 1), maps.flatten(0, 1), strict=True):
            assert corr(ours, theirs) >= 0.98, key


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_ablation_by_replay(separated, images, corr, precision, recwarn):
    """The tail runs in the model's own precision, and no fallback is needed."""
    layers = ["layer3", "layer4"]
    exact = explain(separated, images, "ablationcam", lambda out: out[:, 1], layers)
    half = explain(
        separated, images, "ablationcam", lambda out: out[:, 1], layers, precision=precision
    )
    assert not [w for w in recwarn if "full forwards" in str(w.message)]
    for key, maps in exact.maps.items():
        assert half.maps[key].isfinite().all()
        assert corr(half.maps[key], maps) >= 0.98, key


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_closed_form(separated, images, corr, precision):
    exact = explain(separated, images, ["cam", "ablationcam"], [1, 7], ["layer4"])
    half = explain(
        separated, images, ["cam", "ablationcam"], [1, 7], ["layer4"], precision=precision
    )
    for key, maps in exact.maps.items():
        assert corr(half.maps[key], maps) >= 0.98, key


def test_the_callers_autocast_is_left_alone(separated, images):
    with torch.autocast("cpu", torch.bfloat16):
        inherited = explain(separated, images, ["gradcam", "ablationcam"], 1, ["layer3"])
        exact = explain(
            separated, images, ["gradcam", "ablationcam"], 1, ["layer3"], precision="float32"
        )
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
    bf16 = explain(
        separated, images, ["gradcam", "ablationcam"], 1, ["layer3"], precision="bfloat16"
    )
    plain = explain(separated, images, ["gradcam", "ablationcam"], 1, ["layer3"])
    for key, maps in plain.maps.items():
        assert torch.equal(exact.maps[key], maps)
        assert torch.equal(inherited.maps[key], bf16.maps[key])
        assert not torch.equal(inherited.maps[key], maps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_dtype(separated, images, corr, dtype):
    methods = ["gradcam", "gradcampp", "eigencam", "layercam"]
    exact = explain(separated, images, methods, 1, LAYERS)
    other = explain(separated.to(dtype), images.to(dtype), methods, 1, LAYERS)
    assert other.scores.dtype is torch.float32
    for key, maps in exact.maps.items():
        assert other.maps[key].dtype is torch.float32
        assert corr(other.maps[key], maps) >= (0.9 if dtype is torch.bfloat16 else 0.999999), key


def test_small_float16_gradients_do_not_underflow(corr):
    """A gradient of 5e-8 is below float16's smallest number; scaled up it is not."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU())
    net = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    net[3].weight.data *= 5e-4
    images = torch.randn(2, 3, 256, 256)
    exact = explain(net, images, "gradcam", 0, ["0"]).maps["gradcam", "0"]
    half = explain(net, images, "gradcam", 0, ["0"], precision="float16").maps["gradcam", "0"]
    assert 0 < exact.abs().max() < 1e-6
    assert corr(half, exact) >= 0.98


# Shared modules ----------------------------------------------------------------------------------


class Steps(nn.Module):
    """Calls one activation as often as the image says."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.conv = nn.Conv2d(4, 4, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        steps = 1 if x.mean() < 0 else 3
        x = self.stem(x)
        for _ in range(steps):
            x = self.relu(self.conv(x))
        return self.fc(x.mean((2, 3)))


def test_a_shared_module_whose_calls_vary():
    net = Steps().eval()
    short, long = -torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    for images, steps in ((long, 3), (short, 1), (long, 3), (long, 3), (short, 1)):
        result = explain(net, images, ["hirescam", "ablationcam", "cam"], 1, ["relu", "conv"])
        with torch.no_grad():
            x = net.stem(images)
            for _ in range(steps):
                x = net.conv(x).relu()
            expected = torch.einsum("c,nchw->nhw", net.fc.weight[1], x)
        torch.testing.assert_close(result.maps["cam", "relu"][:, 0], expected)
        torch.testing.assert_close(result.maps["hirescam", "relu"][:, 0], expected / 64)


def test_no_graph_before_the_last_call_of_a_shared_module():
    net, images = Steps().eval(), torch.rand(2, 3, 8, 8)
    explain(net, images, "gradcam", 1, ["relu"])  # how often it is called is known from here on
    recorded = []
    net.conv.register_forward_hook(lambda m, a, out: recorded.append(out.requires_grad))
    explain(net, images, "gradcam", 1, ["relu"])  # a hook more: its places are measured again
    recorded.clear()
    explain(net, images, "gradcam", 1, ["relu"])
    assert recorded == [False, False, False]


# The linear head after global average pooling ----------------------------------------------------

BUILDERS = {
    "alexnet": (False, "features.11"),
    "convnext_tiny": (False, "features"),
    "densenet121": (True, "features"),
    "efficientnet_b0": (True, "features"),
    "efficientnet_v2_s": (True, "features"),
    "googlenet": (True, "inception5b"),
    "mnasnet0_5": (True, "layers"),
    "mobilenet_v2": (True, "features"),
    "mobilenet_v3_small": (False, "features"),
    "regnet_y_400mf": (True, "trunk_output"),
    "resnet18": (True, "layer4"),
    "shufflenet_v2_x0_5": (True, "conv5"),
    "swin_t": (True, "norm"),
    "vgg11": (False, "features.19"),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_which_families_have_the_closed_form(name):
    closed, layer = BUILDERS[name]
    more = {"init_weights": False} if name == "googlenet" else {}
    net = torchvision.models.get_model(name, num_classes=7, **more).eval()
    for linear in (m for m in net.modules() if isinstance(m, nn.Linear)):
        nn.init.normal_(linear.weight, std=0.05)
    images = torch.randn(2, 3, 64, 64)
    if not closed:
        with pytest.raises(
            ValueError, match="method 'cam' needs a target layer followed by global average"
        ):
            explain(net, images, "cam", [1, 2])
        return
    result = explain(net, images, ["cam", "gradcam"], torch.tensor([[1, 2], [3, 0]]))
    assert [key[1] for key in result.maps] == [layer, layer]
    maps = result.maps["cam", layer]
    # The class's map sums to its score, less the bias, and so does the head's claim.
    head = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    scores = result.scores - (head.bias.detach()[result.targets] if head.bias is not None else 0)
    torch.testing.assert_close(maps.mean((2, 3)), scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "function", [F.relu, F.relu6, F.silu, F.hardswish, F.gelu], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("scale", [0.05, 1.0, 4.0])
def test_the_function_before_pooling_is_recognised(function, scale):
    """Also where activations are so small that several functions look alike."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 6, 3, 1, 1), nn.Linear(6, 4)

        def forward(self, x):
            return self.fc(function(self.conv(x) * 1.0).mean((2, 3)))

    net, images = Net().eval(), torch.randn(2, 3, 12, 12) * scale
    result = explain(net, images, "cam", 1, ["conv"])
    with torch.no_grad():
        expected = torch.einsum("c,nchw->nhw", net.fc.weight[1], function(net.conv(images)))
    torch.testing.assert_close(
        result.maps["cam", "conv"][:, 0], expected, rtol=1e-4, atol=1e-5 * scale
    )


@pytest.mark.parametrize("change", ["temperature", "max_pooling", "two_layers"])
def test_what_only_looks_like_a_head_is_none(change):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc1, self.fc = (
                nn.Conv2d(3, 6, 3, 1, 1),
                nn.Linear(6, 6),
                nn.Linear(6, 4),
            )

        def forward(self, x):
            x = self.conv(x).relu()
            x = x.amax((2, 3)) if change == "max_pooling" else x.mean((2, 3))
            x = self.fc1(x) if change == "two_layers" else x
            return self.fc(x) / (2 if change == "temperature" else 1)

    net, images = Net().eval(), torch.randn(2, 3, 12, 12)
    with pytest.raises(ValueError, match="method 'cam' needs"):
        explain(net, images, "cam", 1, ["conv"])
    maps = explain(net, images, "ablationcam", 1, ["conv"]).maps["ablationcam", "conv"]
    with torch.no_grad():
        activations, score = net.conv(images), net(images)[:, 1]
        weights = torch.stack(
            [(score - tail_without(net, activations, k, change)) / score.abs() for k in range(6)], 1
        )
    torch.testing.assert_close(
        maps[:, 0], torch.einsum("nc,nchw->nhw", weights, activations), rtol=1e-3, atol=1e-4
    )


def tail_without(net, activations, channel, change):
    ablated = activations.clone()
    ablated[:, channel] = 0
    x = ablated.relu()
    x = x.amax((2, 3)) if change == "max_pooling" else x.mean((2, 3))
    x = net.fc1(x) if change == "two_layers" else x
    return (net.fc(x) / (2 if change == "temperature" else 1))[:, 1]
