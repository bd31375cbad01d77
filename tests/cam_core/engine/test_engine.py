"""The engine's face: what explain() takes, what it returns and what it costs."""

from __future__ import annotations

import pytest
import torch
from method_lists import INFOS, ONE_PASS
from torch import nn

from cam_core import Explanation, cam_method, explain, list_methods

GRADIENT_METHODS = [
    m
    for m in ONE_PASS
    if INFOS[m].family == "gradient" and INFOS[m].place == "layer" and m != "cam"
]


@pytest.fixture
def net(toys):
    return toys.resnet().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96)


def logits_of(net, images):
    with torch.no_grad():
        return net(images)


# What comes back ---------------------------------------------------------------------------------


def test_face(net, images):
    result = explain(
        net, images, methods=["gradcam", "layercam"], targets="top_3", layers=["layer4", "layer2"]
    )
    assert isinstance(result, Explanation)
    assert list(result.maps) == [
        (m, y) for m in ("gradcam", "layercam") for y in ("layer4", "layer2")
    ]
    assert result.maps["gradcam", "layer4"].shape == (2, 3, 2, 3)
    assert result.maps["layercam", "layer2"].shape == (2, 3, 8, 12)
    assert all(m.dtype is torch.float32 and not m.requires_grad for m in result.maps.values())
    assert result.scores.shape == result.targets.shape == result.valid.shape == (2, 3)
    assert result.scores.dtype is torch.float32
    assert result.valid.dtype is torch.bool
    assert result.valid.all()
    assert result.input_size == (64, 96)
    logits = logits_of(net, images)
    torch.testing.assert_close(result.logits, logits)
    values, indices = logits.topk(3)
    assert torch.equal(result.targets, indices)
    torch.testing.assert_close(result.scores, values)


def test_defaults(net, images):
    result = explain(net, images)
    assert list(result.maps) == [("gradcam", "layer4")]
    assert torch.equal(result.targets[:, 0], logits_of(net, images).argmax(1))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (7, [[7], [7]]),
        ([1, 7], [[1, 7], [1, 7]]),
        (torch.tensor([4, 2]), [[4], [2]]),
        (torch.tensor([[4, 0, 1], [2, 2, 9]]), [[4, 0, 1], [2, 2, 9]]),
        (torch.tensor([4, 2], dtype=torch.uint8), [[4], [2]]),
        (lambda out: out[:, 3] - out[:, 1], [[-1], [-1]]),
        ([lambda out: out[:, 3], 5], [[-1, 5], [-1, 5]]),
    ],
)
def test_targets(net, images, targets, expected):
    result = explain(net, images, "gradcam", targets)
    assert result.targets.tolist() == expected
    assert result.valid.all()
    logits = logits_of(net, images)
    for k, column in enumerate(result.targets.T):
        if (column >= 0).all():
            torch.testing.assert_close(result.scores[:, k], logits.gather(1, column[:, None])[:, 0])


def test_callables_are_explained(net, images):
    result = explain(
        net, images, "hirescam", [lambda out: out[:, 3] - out[:, 1], lambda out: out[:, 3], 1]
    )
    logits = logits_of(net, images)
    torch.testing.assert_close(result.scores[:, 0], logits[:, 3] - logits[:, 1])
    maps = result.maps["hirescam", "layer4"]
    torch.testing.assert_close(maps[:, 0], maps[:, 1] - maps[:, 2])  # linear in the gradient


@pytest.mark.parametrize("name", ["eigencam", "eigencam+aug", "fem", "activations"])
def test_a_map_without_a_class_is_there_without_a_target(net, images, name):
    none = explain(net, images, [name, "gradcam"], torch.full((2, 2), -1), fuse="mean")
    some = explain(net, images, name, torch.tensor([[4, 0], [2, 1]]), fuse="mean")
    assert list(none.class_free) == list(some.maps)
    for key, maps in some.maps.items():
        assert none.maps[key].isnan().all()
        assert torch.equal(none.class_free[key], maps[:, 0])
        assert torch.equal(some.class_free[key], maps[:, 1])


def test_minus_one_means_nothing_to_explain(net, images):
    methods = ["gradcam", "eigencam", "ablationcam"]
    spec = torch.tensor([[4, -1, 6], [-1, -1, 2]])
    result = explain(net, images, methods, spec)
    expected_valid = [[True, False, True], [False, False, True]]
    assert result.valid.tolist() == expected_valid
    assert result.targets.tolist() == spec.tolist()
    assert result.scores.isnan().logical_not().tolist() == expected_valid
    for key, maps in result.maps.items():
        assert maps.isfinite().all(-1).all(-1).tolist() == expected_valid
        whole = explain(net, images, methods, torch.tensor([[4, 0, 6], [0, 0, 2]])).maps[key]
        assert torch.equal(maps[result.valid], whole[result.valid])
        assert (
            result.heatmaps()[key].isnan().all(-1).all(-1).logical_not().tolist() == expected_valid
        )
        assert result.status()[key][0][1] == "nan"


def test_heatmaps(net, images):
    result = explain(net, images, ["gradcam", "hirescam"], [3, 4], ["layer3"])
    for size, heat in (((64, 96), result.heatmaps()), ((30, 20), result.heatmaps((30, 20)))):
        for key, maps in heat.items():
            assert maps.shape == (2, 2, *size)
            assert maps.min() >= 0
            positive = result.maps[key].amax((2, 3)) > 0
            assert torch.equal(maps.amax((2, 3)), positive.float())


def test_status_names_findings(net, images):
    @cam_method
    def odd(activations):
        """Four images: a map, none, a flat one, a broken one."""
        maps = activations.new_zeros(4, *activations.shape[2:])
        maps[0, 0, 0] = 1
        maps[1] = -1
        maps[2] = 3
        maps[3, 0, 0] = -torch.inf
        return maps

    result = explain(net, torch.randn(4, 3, 64, 96), odd, 0)
    assert result.status()["odd", "layer4"] == [["ok"], ["zero"], ["flat"], ["nan"]]
    heat = result.heatmaps()["odd", "layer4"]
    assert heat[0].max() == 1
    assert torch.equal(heat[1], torch.zeros_like(heat[1]))
    assert heat[3].isnan().all()


def test_fuse(net, images):
    result = explain(
        net, images, ["layercam", "hirescam"], [1, 2], ["layer2", "layer4"], fuse="layercam"
    )
    for method in ("layercam", "hirescam"):
        fused = result.maps[method, "fused"]
        assert fused.shape == result.maps[method, "layer2"].shape
        assert fused.min() >= 0
        assert fused.max() <= 1
    with pytest.raises(ValueError, match="fuse: 'max' is unknown"):
        explain(net, images, fuse="max")


# What it costs -----------------------------------------------------------------------------------


def test_one_forward_and_one_backward_per_target(net, images, monkeypatch):
    forwards, backwards = [], []
    for module in net.modules():
        module.register_forward_hook(lambda m, a, out: forwards.append(m) or None)
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: backwards.append(1) or grad(*a, **k)
    )
    explain(net, images, "gradcam", 0)  # the first call may look at the layers once more
    forwards.clear()
    backwards.clear()
    methods = ONE_PASS  # closed forms at layer4: no tail either
    explain(net, images, methods, [0, 1, 2], ["layer4"])
    assert forwards.count(net) == 1
    assert forwards.count(net.layer4) == 1
    assert len(backwards) == 3
    forwards.clear()
    backwards.clear()
    explain(net, images, ["eigencam", "fem", "randomcam"], [0, 1, 2], ["layer4"])
    assert (forwards.count(net), len(backwards)) == (1, 0)


def test_no_graph_below_the_first_tap(net, images):
    seen = {}
    for name in ("layer2", "layer3", "layer4", "fc"):
        net.get_submodule(name).register_forward_hook(
            lambda m, a, out, name=name: seen.update(
                {name: (out.requires_grad, torch.is_grad_enabled())}
            )
        )
    explain(net, images, "gradcam", 0, ["layer3"])
    assert seen["layer2"] == (False, False)
    assert seen["fc"] == (True, True)
    explain(net, images, "eigencam", 0, ["layer3"])
    assert seen["fc"] == (False, False)


# The gradients -----------------------------------------------------------------------------------

TAPS = [
    "layer1",
    "layer2.0.conv1",
    "layer2.0.bn1",
    "layer2.0.downsample",
    "layer3",
    "layer4.0.conv2",
    "layer4",
]


def test_gradients_are_those_of_a_plain_autograd_run(net, images):
    """N=2, K=3, taps one below another, inside residual blocks and on their shortcuts."""
    targets = torch.tensor([[1, 5, 9], [0, 2, 2]])
    kept = {}

    @cam_method
    def keep(activations, gradients, layers, score):
        """Keeps what the engine hands out."""
        kept.setdefault("score", []).append(score)
        if len(kept["score"]) % len(TAPS) == 1:
            kept.setdefault("layers", []).append(layers)
        return (activations * gradients).sum(1)

    result = explain(net, images, keep, targets, TAPS)
    outputs, handles = {}, []
    for name in TAPS:

        def hold(module, args, output, name=name):
            outputs[name] = output
            return output.clone()  # the in-place ReLUs that follow must not write into it

        handles.append(net.get_submodule(name).register_forward_hook(hold))
    logits = net(images)
    for handle in handles:
        handle.remove()
    for k in range(3):
        score = logits.gather(1, targets[:, k, None]).sum()
        plain = torch.autograd.grad(score, [outputs[n] for n in TAPS], retain_graph=True)
        for name, gradient in zip(TAPS, plain, strict=True):
            activations, ours = kept["layers"][k][name]
            assert torch.equal(activations, outputs[name].detach())
            torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-7)
            expected = (outputs[name] * gradient).sum(1).detach()
            torch.testing.assert_close(
                result.maps["keep", name][:, k], expected, rtol=1e-4, atol=1e-6
            )
        torch.testing.assert_close(
            kept["score"][k * len(TAPS)], logits.gather(1, targets[:, k, None])[:, 0].detach()
        )


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_several_layers_at_once_are_each_alone(net, images, method):
    together = explain(net, images, method, [0, 1], TAPS)
    for name in TAPS:
        alone = explain(net, images, method, [0, 1], [name]).maps[method, name]
        torch.testing.assert_close(together.maps[method, name], alone, rtol=1e-4, atol=1e-6)


def test_a_shared_module_is_explained_at_its_last_call():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.relu = nn.ReLU(inplace=True)
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            x = self.relu(self.conv2(self.relu(self.conv1(x))))
            return self.fc(x.mean((2, 3)))

    net, images = Shared().eval(), torch.randn(2, 3, 16, 16)
    methods = ["gradcam", "hirescam", "eigencam", "ablationcam", "cam"]
    result = explain(net, images, methods, 1, ["relu"])
    with torch.no_grad():
        last = net.conv2(net.conv1(images).relu()).relu()
    torch.testing.assert_close(
        result.maps["cam", "relu"][:, 0], torch.einsum("c,nchw->nhw", net.fc.weight[1], last)
    )
    for method in ("gradcam", "hirescam"):
        torch.testing.assert_close(
            result.maps[method, "relu"], result.maps["cam", "relu"] / last[0, 0].numel()
        )


def test_an_entry_of_a_dict_output():
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)

        def forward(self, x):
            x = self.a(x).relu()
            return {"low": x, "high": self.b(x).relu()}

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.fc = Backbone(), nn.Linear(10, 5)

        def forward(self, x):
            out = self.backbone(x)
            return self.fc(torch.cat([out["low"].mean((2, 3)), out["high"].mean((2, 3))], 1))

    net, images = Net().eval(), torch.randn(2, 3, 16, 16)
    methods = ["gradcam", "hirescam", "ablationcam"]
    result = explain(net, images, methods, [1, 2], ["backbone:high", "backbone:low"])
    plain = explain(net, images, methods, [1, 2], ["backbone.b", "backbone.a"])
    assert result.maps["gradcam", "backbone:low"].shape == (2, 2, 8, 8)
    high = (
        torch.einsum("kc,nchw->nkhw", net.fc.weight[1:3, 4:], net.backbone(images)["high"]).detach()
        / 16
    )
    torch.testing.assert_close(result.maps["gradcam", "backbone:high"], high)
    assert plain.maps["gradcam", "backbone.b"].shape == (2, 2, 4, 4)
    with pytest.raises(ValueError, match="name an entry, for example 'backbone:low'"):
        explain(net, images, layers=["backbone"])
    with pytest.raises(ValueError, match="no entry 'middle'"):
        explain(net, images, layers=["backbone:middle"])


def test_a_users_method_with_options(net, images):
    def mine(activations, gradients, *, power=1.0):
        """Grad-CAM to a power."""
        return (gradients.mean((2, 3), keepdim=True) * activations).sum(1).relu() ** power

    result = explain(net, images, ["gradcam", mine, (mine, {"power": 2.0})], 3)
    first, second = result.maps["mine", "layer4"], result.maps["mine_power2_0", "layer4"]
    torch.testing.assert_close(first, result.maps["gradcam", "layer4"].relu())
    torch.testing.assert_close(second, first**2)
    assert "mine" not in [m.name for m in list_methods()]
    assert not hasattr(mine, "cam_info")


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (
            lambda activations: activations,
            r"must return a map of shape \(2, 2, 3\), got \(2, 512, 2, 3\)",
        ),
        (lambda activations: None, "got NoneType"),
        (lambda activations: activations.sum((1, 2)), "got"),
        (lambda activations: activations[:1].sum(1), "got"),
    ],
)
def test_a_method_must_return_a_map(net, images, function, problem):
    with pytest.raises(ValueError, match=problem):
        explain(net, images, function, 0)
