"""Replay of the tail: the recorded answers, the perturbed tap, the rest of the model as it is."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import MaxVit, SwinTransformer, VisionTransformer

from cam_core import adapt, cam_method, explain
from cam_core.capture.replay import Recorder, Replay, take_rows
from cam_core.capture.taps import Taps, unchanged
from cam_core.layers.find import find_layers


def classifier(name, **more):
    return torchvision.models.get_model(name, num_classes=10, **more)


def small_vit():
    return VisionTransformer(64, 16, 3, 2, 32, 64, num_classes=10)


class Distilled(nn.Module):
    """A DeiT in small: class and distillation tokens, two heads, averaged."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 32, 16, 16)
        self.tokens = nn.Parameter(torch.randn(1, 2, 32))
        self.pos_embed = nn.Parameter(torch.randn(1, 18, 32) * 0.1)
        self.blocks = nn.Sequential(
            *[nn.TransformerEncoderLayer(32, 2, 64, batch_first=True) for _ in range(3)]
        )
        self.head, self.head_dist = nn.Linear(32, 10), nn.Linear(32, 10)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1) + self.pos_embed
        x = self.blocks(x)
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2


def small_maxvit():
    return MaxVit((64, 64), 16, 2, [16, 32], [1, 1], 16, 0.0, num_classes=10)


def small_swin():
    return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10)


def deeplab():
    return torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )


# Builder, tapped layers (deep, inside a block, early), image size.
NETS = {
    "resnet18": (
        lambda: classifier("resnet18"),
        ["layer4", "layer3.0.conv1", "layer3.1.bn2", "layer1"],
        64,
    ),
    "inception_v3": (
        lambda: classifier("inception_v3", init_weights=False),
        ["Mixed_7c", "Mixed_6a.branch3x3"],
        128,
    ),
    "densenet121": (
        lambda: classifier("densenet121"),
        ["features", "features.denseblock3.denselayer2.conv1"],
        64,
    ),
    "squeezenet1_1": (
        lambda: classifier("squeezenet1_1"),
        ["features", "features.7.expand1x1"],
        64,
    ),
    "googlenet": (
        lambda: classifier("googlenet", init_weights=False),
        ["inception5b", "inception4b.branch2"],
        64,
    ),
    "shufflenet": (lambda: classifier("shufflenet_v2_x0_5"), ["conv5", "stage3.1.branch2.3"], 64),
    "mobilenet_v3": (
        lambda: classifier("mobilenet_v3_small"),
        ["features", "features.4.block.2.fc1"],
        64,
    ),
    "convnext": (lambda: classifier("convnext_tiny"), ["features", "features.3.1.block.0"], 64),
    "maxvit": (small_maxvit, ["blocks.1", "blocks.0.layers.0.layers.window_attention"], 64),
    "swin": (small_swin, ["norm", "features.3.0.norm1", "features.1.1.attn"], 64),
    "vit": (
        small_vit,
        ["encoder.layers.encoder_layer_2.ln_1", "encoder.layers.encoder_layer_0"],
        64,
    ),
    "deit": (Distilled, ["blocks.1", "blocks.0.norm1"], 64),
    "deeplabv3": (deeplab, ["backbone:out", "backbone.6", "classifier.0"], 64),
}


@pytest.fixture
def made(toys):
    """A network of the table, awake, with its layers and a batch of two."""

    def make(name, count=2):
        build, layers, size = NETS[name]
        return toys.awake(build(), size), layers, torch.randn(count, 3, size, size)

    return make


def output_tensor(outputs):
    return outputs["out"] if isinstance(outputs, dict) else outputs


def recorded(net, images, layer):
    """The plain output, a replay of one layer, and the layer's own output."""
    taps = Taps([layer], gradients=False)
    recorder = Recorder(net, [layer], len(images))
    with torch.no_grad():
        with taps:
            outputs = net(images)
        with recorder:
            net(images)
    return output_tensor(outputs), Replay(net, images, layer, recorder), taps.outputs[layer.name]


@pytest.mark.parametrize("name", NETS)
def test_unperturbed_replay(made, name):
    """Bit-equal at the recorded batch size; within 1e-5 of a full forward when it is enlarged."""
    net, layers, images = made(name)
    for layer in find_layers(net, layers):
        with unchanged(net):
            outputs, replay, tap = recorded(net, images, layer)
            assert torch.equal(output_tensor(replay.learn_writes()), outputs), layer.name
            assert torch.equal(output_tensor(replay(tap.clone(), [0, 1])), outputs), layer.name
            change = (output_tensor(replay(torch.zeros_like(tap), [0, 1])) - outputs).abs().max()
            assert change > 1e-3 * outputs.abs().max(), "the output does not depend on the tap"
            for rows in ([1, 1, 1, 1, 1], [0, 0, 1, 0]):
                with torch.no_grad():
                    full = output_tensor(net(images[rows]))
                again = output_tensor(replay(take_rows(tap, rows, 2, True), rows))
                error = (again - full).abs().max() / full.abs().max()
                assert error <= 1e-5, (layer.name, rows, float(error))


@pytest.mark.parametrize("name", NETS)
def test_replay_runs_nothing_before_the_tap(made, name):
    net, layers, images = made(name)
    layer = find_layers(net, layers)[0]
    with unchanged(net):
        _, replay, tap = recorded(net, images, layer)
        replay.learn_writes()
        first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))

        def fail(*args):
            raise AssertionError("the first convolution was run again")

        first._conv_forward = fail
        replay(tap.clone(), [0, 1])


@pytest.mark.parametrize("name", [n for n in NETS if n != "deeplabv3"])
def test_ablation_by_replay_needs_no_fallback(made, name):
    net, layers, images = made(name)
    layer = layers[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = explain(net, images, some_channels, 3, [layer]).maps["some_channels", layer]
    torch.testing.assert_close(
        maps, brute_force(net, images, layer, 3), rtol=2e-3, atol=2e-3 * float(maps.abs().max())
    )


@cam_method
def some_channels(activations, score, tail):
    """AblationCAM over the first channels of each image, all in one tail."""
    channels = range(min(6, activations.shape[1]))
    rows = [row for row in range(len(activations)) for _ in channels]
    ablated = activations[rows].clone()
    for number, channel in enumerate(list(channels) * len(activations)):
        ablated[number, channel] = 0
    lost = (score[rows] - tail(ablated, rows)).view(len(activations), -1)
    return torch.einsum("nc,nchw->nhw", lost, activations[:, : len(channels)])


def brute_force(net, images, name, target, function=None):
    """The same by full forwards, one image and one channel at a time."""
    (layer,) = find_layers(net, name)
    result = []
    for image in images.clone():
        with torch.no_grad():
            taps = Taps([layer], gradients=False)
            with taps:
                score = output_tensor(net(image[None].clone()))[0, target]
            tap = taps.outputs[name]
            grid = adapt(net).grid(name, tap.shape, tuple(images.shape[2:]))
            maps = grid.to_maps(tap)
            total = 0
            for channel in range(min(6, maps.shape[1])):
                ablated = maps.clone()
                ablated[:, channel] = 0
                native = grid.from_maps(ablated, tap)
                handle = layer.module.register_forward_hook(
                    lambda m, a, out, v=native: layer.put(out, v.clone())
                )
                lost = score - output_tensor(net(image[None].clone()))[0, target]
                handle.remove()
                total = total + lost * maps[:, channel]
        result.append(total)
    return torch.stack(result)


@pytest.mark.parametrize(
    "layer", ["layer3", "layer4.0.conv1", "layer4.0.bn2", "layer4.0.downsample.0"]
)
def test_ablationcam_equals_full_forwards(toys, layer):
    net, images = toys.resnet().eval(), torch.randn(2, 3, 32, 48)
    result = explain(net, images, "ablationcam", torch.tensor([2, 5]), [layer])
    maps = result.maps["ablationcam", layer][:, 0]
    for row, target in enumerate((2, 5)):
        hold = []
        with torch.no_grad():
            handle = net.get_submodule(layer).register_forward_hook(
                lambda m, a, out, hold=hold: hold.append(out.clone())
            )
            score = net(images[row : row + 1])[0, target]
            handle.remove()
            (tap,) = hold
            ablated = tap.expand(tap.shape[1], -1, -1, -1).clone()
            ablated[range(len(ablated)), range(len(ablated))] = 0
            handle = net.get_submodule(layer).register_forward_hook(
                lambda m, a, out, value=ablated: value.clone()
            )
            lost = score - net(images[row : row + 1].expand(len(ablated), -1, -1, -1))[:, target]
            handle.remove()
        expected = torch.einsum("c,chw->hw", lost / score.abs(), tap[0])
        torch.testing.assert_close(
            maps[row], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
        )


def test_a_callable_on_a_segmentation_networks_output(made):
    net, _, images = made("deeplabv3")
    person = lambda out: out["out"][:, 1].mean((1, 2))  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = explain(
            net, images, [some_channels, "gradcam"], person, ["backbone.6", "backbone:out"]
        )
    assert all(m.isfinite().all() and m.any() for m in result.maps.values())
    assert result.logits.shape == (2, 3)


# Networks that make it hard ----------------------------------------------------------------------


class WritesIntoAnswers(nn.Module):
    """A functional in-place addition onto what a module returned before the tap."""

    def __init__(self):
        super().__init__()
        self.shortcut, self.main = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 3, 2, 1)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x):
        y = self.shortcut(x)
        x = self.main(x)
        y += torch.tanh(x)
        return self.fc(self.relu(y).amax((2, 3)))


class WritesIntoTap(nn.Module):
    """The tap itself is written to by what follows."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = self.conv(x)
        x.mul_(2).sigmoid_()
        return self.fc(x.amax((2, 3)))


class Windows(nn.Module):
    """Folds windows into dimension 0, image-major, before and after the tap."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.local = nn.Conv2d(4, 4, 3, 1, 1)
        self.last = nn.Conv2d(4, 4, 3, 1, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        n = len(x)
        x = self.stem(x)
        windows = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 4, 4, 4)
        local = self.local(windows)  # (n * windows, 4, 4, 4)
        x = torch.tanh(self.last(x))
        pooled = local.reshape(n, -1, 4, 4, 4).amax((1, 3, 4))
        return self.fc(x.amax((2, 3)) * pooled)


class Tables(nn.Module):
    """A module that returns a table without a batch, another one an image list."""

    def __init__(self):
        super().__init__()
        self.table, self.split = nn.Embedding(4, 4), nn.Identity()
        self.conv, self.last, self.fc = (
            nn.Conv2d(3, 4, 3, 2, 1),
            nn.Conv2d(4, 4, 3, 2, 1),
            nn.Linear(4, 3),
        )
        self.lists = ToList()

    def forward(self, x):
        scale = self.table(torch.tensor([2]))
        images = torch.stack(self.lists(x))
        x = self.conv(images) * scale[..., None, None]
        return self.fc(torch.tanh(self.last(x)).amax((2, 3)))


class ToList(nn.Module):
    def forward(self, x):
        return list(x.unbind(0))


class WritesIntoImages(nn.Module):
    """Normalises its input in place."""

    def __init__(self):
        super().__init__()
        self.conv, self.last, self.fc = (
            nn.Conv2d(3, 4, 3, 2, 1),
            nn.Conv2d(4, 4, 3, 2, 1),
            nn.Linear(4, 3),
        )

    def forward(self, x):
        x.sub_(0.5).div_(2)
        return self.fc(
            torch.tanh(self.last(self.conv(x))).amax((2, 3)) + x.mean((1, 2, 3))[:, None]
        )


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (WritesIntoImages, "last"),
        (WritesIntoAnswers, "main"),
        (WritesIntoAnswers, "shortcut"),
        (WritesIntoTap, "conv"),
        (Windows, "last"),
        (Windows, "stem"),
        (Tables, "last"),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_networks_that_make_it_hard(build, layer, count):
    net, images = build().eval(), torch.randn(count, 3, 32, 32)
    before = images.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = explain(net, images, some_channels, 1, [layer]).maps["some_channels", layer]
    assert torch.equal(images, before)
    expected = brute_force(net, images, layer, 1)
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("layer", ["conv", "main"])
def test_the_tail_does_not_write_into_the_activations_it_is_given(layer):
    net = (WritesIntoTap if layer == "conv" else WritesIntoAnswers)().eval()

    @cam_method
    def whole(activations, score, tail):
        """The unperturbed tail."""
        before = activations.clone()
        again = tail(activations)
        assert torch.equal(activations, before)
        torch.testing.assert_close(again, score)
        return activations.sum(1)

    explain(net, torch.randn(2, 3, 16, 16), [whole, "hirescam"], 1, [layer])
