"""The model leaves as it came, whatever happens; layers that say nothing; wrong arguments."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from cam_core import adapt, cam_method, explain, list_layers, list_methods

METHODS = ["gradcam", "eigencam", "ablationcam", "randomcam"]


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64)


class Counting(nn.Module):
    """Changes buffers in every forward, eval or not: one in place, one by assignment."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().mean((0, 2, 3))
        return self.inner(x)


def mixed_modes(net):
    """Some modules in train mode, some not; some parameters frozen, one with a gradient."""
    net.train()
    net.layer2.eval()
    net.layer3[0].bn1.eval()
    for parameter in net.layer1.parameters():
        parameter.requires_grad_(False)
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    net.layer3.register_forward_hook(lambda module, args, output: None)
    return net


@pytest.mark.parametrize("layers", [["layer4"], ["layer2", "layer3.0.conv1"]])
def test_the_model_leaves_as_it_came(toys, images, protect, layers):
    net = mixed_modes(toys.resnet())
    check = protect(net)
    gradient = net.fc.weight.grad
    explain(net, images, METHODS, [0, 1], layers)
    check()
    assert net.fc.weight.grad is gradient
    assert torch.equal(gradient, torch.ones_like(gradient))
    list_layers(net)
    check()


def test_a_model_in_train_mode_is_explained_in_eval(toys, images):
    net = toys.resnet().eval()
    expected = explain(net, images, METHODS, 0, ["layer3"])
    net.train()
    result = explain(net, images, METHODS, 0, ["layer3"])
    assert all(module.training for module in net.modules())
    for key, maps in expected.maps.items():
        assert torch.equal(result.maps[key], maps)


@pytest.mark.parametrize("layers", [["inner.layer4"], ["inner.layer2"], None])
def test_buffers_changed_in_eval_are_restored(toys, images, protect, layers):
    net = Counting(toys.resnet().eval())
    for _ in range(3):
        check = protect(net)
        explain(net, images, METHODS, 0, layers)
        check()
        assert float(net.calls) == 0


def test_buffers_are_restored_when_the_first_forward_did_not_reach_them(toys, images, protect):
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = toys.GapNet()
            self.count = Counting(nn.Identity())

        def forward(self, x):
            if x.shape[-1] != 64:
                raise RuntimeError("wrong size")
            return self.count(self.net(x)[:, :, None, None])[..., 0, 0]

    net = Late().eval()
    with pytest.raises(RuntimeError, match="wrong size"):
        explain(net, images[..., :32], "gradcam", 0, ["net.relu"])
    for _ in range(2):
        check = protect(net)
        explain(net, images, "gradcam", 0, ["net.relu"])
        check()


def test_buffers_changed_now_and_then_are_restored(toys, images, protect):
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = toys.GapNet()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            if x.mean() > 0:
                self.seen += 1
            return self.net(x)

    net = Sometimes().eval()
    for batch in (-images.abs(), images.abs(), -images.abs(), images.abs()):
        check = protect(net)
        explain(net, batch, "gradcam", 0, ["net.relu"])
        check()


# When something raises ---------------------------------------------------------------------------


class Stop(Exception):
    pass


def raise_stop(*args, **kwargs):
    raise Stop


@cam_method
def raising(activations, gradients):
    """Raises."""
    raise Stop


def raise_in_a_replay(net):
    calls = []

    def hook(module, args):
        calls.append(1)
        # 1: what its outputs mean, 2 and 3: where its cells lie, 4: the forward that is explained
        if len(calls) == 5:
            raise Stop

    net.fc.register_forward_pre_hook(hook)
    return net


@pytest.mark.parametrize(
    ("break_it", "methods", "targets"),
    [
        (lambda net: net.fc.register_forward_hook(raise_stop), "gradcam", 0),
        (lambda net: net.layer2.register_forward_pre_hook(raise_stop), METHODS, 0),
        (lambda net: None, ["gradcam", raising], 0),
        (lambda net: None, METHODS, raise_stop),
        (lambda net: None, METHODS, [0, raise_stop]),
        (raise_in_a_replay, METHODS, 0),
    ],
    ids=["forward", "forward_before_tap", "method", "target", "second_target", "replay"],
)
@pytest.mark.parametrize("grad", [True, False])
def test_the_model_leaves_as_it_came_when_something_raises(
    toys, images, protect, break_it, methods, targets, grad
):
    net = Counting(mixed_modes(toys.resnet()))
    break_it(net.inner)
    check = protect(net)
    with torch.set_grad_enabled(grad):
        with pytest.raises(Stop):
            explain(net, images, methods, targets, ["inner.layer3", "inner.layer2"])
        assert torch.is_grad_enabled() is grad
    check()


def test_grad_mode_is_the_callers_afterwards(toys, images):
    net = toys.resnet().eval()
    explain(net, images, METHODS, 0, ["layer3"])
    assert torch.is_grad_enabled()
    with torch.no_grad():
        explain(net, images, METHODS, 0, ["layer3"])
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        explain(net, images, METHODS, 0, ["layer3"])
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()


def test_nothing_is_kept(toys, images):
    net = toys.resnet().eval()
    alive = []
    for module in (net.layer2, net.layer3, net.layer4):
        module.register_forward_hook(lambda m, a, out: alive.append(weakref.ref(out)))
    result = explain(
        net, images, ["gradcam", "eigencam", "ablationcam"], [0, 1], ["layer2", "layer4"]
    )
    gc.collect()
    assert alive
    assert not any(ref() is not None for ref in alive)
    model = weakref.ref(net)
    del net
    gc.collect()
    assert model() is None, "a cache keeps the model alive"
    assert result.maps["gradcam", "layer4"].isfinite().all()


def test_the_callers_images_are_not_changed(toys, images):
    before = images.clone()
    explain(toys.resnet(), images, METHODS, 0, ["conv1", "layer3"])
    assert torch.equal(images, before)
    assert not images.requires_grad


# Layers that say nothing -------------------------------------------------------------------------


def vit():
    from torchvision.models import VisionTransformer

    net = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(net.heads.head.weight)
    return net


@pytest.mark.parametrize("name", ["encoder.layers.encoder_layer_1", "encoder.ln", "encoder"])
@pytest.mark.parametrize("method", ["gradcam", "layercam", "eigengradcam"])
def test_a_layer_without_gradient_is_an_error_that_names_it(name, method):
    with pytest.raises(ValueError, match=f"gradient at '{name}' is zero at every position"):
        explain(vit(), torch.randn(2, 3, 32, 32), method, 0, [name])


def test_the_last_norm_before_attention_has_one():
    result = explain(
        vit(), torch.randn(2, 3, 32, 32), "gradcam", 0, ["encoder.layers.encoder_layer_1.ln_1"]
    )
    maps = next(iter(result.maps.values()))
    assert maps.shape == (2, 1, 4, 4)
    assert maps.abs().amax((2, 3)).min() > 0


def test_a_target_that_never_meets_the_layer_is_an_error(toys):
    """Also when another target of the same model does meet it, in an earlier call or beside it."""

    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = toys.GapNet(), toys.GapNet()

        def forward(self, x):
            return {"logits": self.a(x), "other": self.b(x)}

    net, images = TwoHeads().eval(), torch.randn(2, 3, 16, 16)
    assert explain(net, images, "gradcam", 0, ["a.relu"]).maps["gradcam", "a.relu"].any()
    for targets in (lambda out: out["other"][:, 0], [0, lambda out: out["other"][:, 0]]):
        with pytest.raises(ValueError, match=r"computed without layer 'a\.relu'"):
            explain(net, images, "gradcam", targets, ["a.relu"])


def test_a_score_without_a_graph_is_an_error(toys, images):
    with pytest.raises(ValueError, match="targets: the score does not depend on"):
        explain(toys.resnet(), images, "gradcam", lambda out: out[:, 0].detach(), ["layer4"])


@pytest.mark.parametrize("layer", ["relu", "conv", "early"])
def test_a_layer_that_is_silent_for_these_images_is_a_finding(toys, layer):
    """A black picture: no activation, and before a ReLU no gradient either."""
    net = toys.GapNet().eval()
    net.conv.bias.data.zero_()
    net.early[0].bias.data.zero_()
    result = explain(
        net, torch.zeros(2, 3, 16, 16), ["gradcam", "layercam", "ablationcam"], 0, [layer]
    )
    assert all(s == [["zero"], ["zero"]] for s in result.status().values())


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["layer44"]}, "no layer 'layer44'; did you mean layer4"),
        ({"layers": "layer3.0.conv9"}, "did you mean layer3.0.conv"),
        ({"layers": ["zzzzzz"]}, r"it has conv1, .*list_layers\(model\) names them all"),
        ({"layers": []}, "layers is empty"),
        ({"layers": [3]}, "neither a layer's name nor a module"),
        ({"layers": [nn.ReLU()]}, "ReLU is not a submodule"),
        ({"layers": ["layer9*"]}, "no layer 'layer9\\*'"),
        ({"layers": ["avgpool"]}, "layer 'avgpool' has no spatial grid: its output has shape"),
        ({"layers": ["fc"]}, "layer 'fc' has no spatial grid"),
        ({"methods": "gradcamm"}, "method 'gradcamm' is unknown .did you mean gradcam"),
        ({"methods": ["gradcam", "zzz"]}, "choose from ablationcam, "),
        ({"methods": []}, "methods is empty"),
        ({"methods": [3]}, "methods: 3 is neither a name nor a callable"),
        ({"methods": ["gradcam", "GradCAM"]}, "methods: 'gradcam' is given twice"),
        (
            {"methods": [("eigencam", {"comp": 2})]},
            "no option 'comp'; it has: component",
        ),
        ({"methods": ("gradcam", {"x": 1})}, "has no option 'x'; it has: smooth"),
        ({"targets": "best"}, "targets: 'best' is unknown"),
        ({"targets": "top_11"}, "asks for 11 classes, the model has 10"),
        ({"targets": 10}, "class index 10 is out of range; the model has 10 classes"),
        ({"targets": -1}, "class index -1 is out of range"),
        ({"targets": torch.tensor([0, 1, 2])}, r"must hold integers and have shape \(2,\)"),
        ({"targets": torch.tensor([0.0, 1.0])}, "must hold integers"),
        ({"targets": torch.tensor([0, -2])}, "class index -2 is out of range"),
        ({"targets": []}, "targets is empty"),
        ({"targets": [1.5]}, "targets: 1.5 is neither"),
        ({"targets": lambda out: out}, r"must return a tensor of shape \(2,\), got \(2, 10\)"),
        ({"targets": lambda out: out.sum()}, r"must return a tensor of shape \(2,\), got \(\)"),
        ({"images": torch.randn(3, 64, 64)}, r"images must be a tensor of shape \(N, 3, H, W\)"),
        ({"images": torch.randn(0, 3, 64, 64)}, "with N > 0"),
        ({"images": "cat.jpg"}, "got str"),
        (
            {"precision": "float8"},
            "precision: 'float8' is unknown; choose from float32, bfloat16, float16",
        ),
        ({"fuse": "sum"}, "fuse: 'sum' is unknown"),
    ],
)
def test_wrong_arguments(toys, images, arguments, message):
    net = toys.resnet()
    given = {"images": images, "methods": "gradcam", **arguments}
    with pytest.raises(ValueError, match=message):
        explain(net, **given)


def test_not_a_model():
    with pytest.raises(
        TypeError, match=r"model must be a torch.nn.Module or an ExplainableModel, got str"
    ):
        explain("resnet18", torch.zeros(1, 3, 8, 8))


def test_a_model_made_under_inference_mode_is_refused(toys, images):
    with torch.inference_mode():
        net = toys.resnet()
    with pytest.raises(ValueError, match="inference_mode"):
        explain(net, images)


def test_a_layer_that_is_not_called(toys, images):
    net = toys.resnet()
    net.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="layers: spare is not used in the model's forward"):
        explain(net, images, layers=["spare", "layer4"])


def test_names_globs_and_modules(toys, images):
    net = toys.resnet()
    found = explain(net, images, "fem", 0, ["layer*", net.conv1, "layer2"]).maps
    assert [layer for _, layer in found] == ["layer1", "layer2", "layer3", "layer4", "conv1"]


@pytest.mark.parametrize(
    "name", ["Grad-CAM", "gradcam++", "LayerCAM", "eigen_cam", "GradCAM elementwise"]
)
def test_names_as_people_write_them(toys, images, name):
    (key, _), = explain(toys.resnet(), images, name, 0).maps  # fmt: skip
    assert key in {m.name for m in list_methods()}


def test_an_explainable_model_is_taken_as_it_is(toys, images):
    net = toys.resnet().eval()
    model = adapt(net)
    assert adapt(model) is model
    expected = explain(net, images, "gradcam", 0)
    assert torch.equal(
        explain(model, images, "gradcam", 0).maps["gradcam", "layer4"],
        expected.maps["gradcam", "layer4"],
    )
