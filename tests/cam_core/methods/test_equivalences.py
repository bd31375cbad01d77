"""Library-free equivalences: what the methods must be to each other, and to a changed model."""

from __future__ import annotations

import copy

import pytest
import torch
from method_lists import INFOS
from method_lists import ON_TENSORS as ALL
from torch import nn

from cam_core import explain

TAP = ["relu"]
LINEAR_IN_G = [
    "gradcam",
    "xgradcam",
    "hirescam",
    "layercam",
    "gradcam_elementwise",
    "gradcam_guided",
]


def close(a, b, rel=1e-5):
    torch.testing.assert_close(a, b, rtol=rel, atol=rel * float(b.abs().max()))


@pytest.fixture
def net(toys):
    return toys.GapNet().eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 20, 28)


@pytest.fixture
def parts(net, images):
    """Activations, the explained rows of the linear layer, scores, and the number of positions."""
    with torch.no_grad():
        activations = net.relu(net.conv(net.early(images)))
        logits = net.fc(activations.mean((2, 3)))
    target = torch.tensor([0, 3, 1])
    return (
        activations,
        net.fc.weight.detach()[target],
        logits.gather(1, target[:, None])[:, 0],
        target,
    )


# conv -> ReLU -> global average pooling -> linear ------------------------------------------------


@pytest.mark.parametrize("method", ["gradcam", "xgradcam", "hirescam"])
def test_gradient_methods_are_cam_before_pooling(net, images, parts, method):
    activations, rows, _, target = parts
    positions = activations[0, 0].numel()
    result = explain(net, images, ["cam", method], target, TAP)
    cam = result.maps["cam", "relu"][:, 0]
    close(cam, torch.einsum("nc,nchw->nhw", rows, activations))
    close(positions * result.maps[method, "relu"][:, 0], cam)


def test_positive_parts_before_pooling(net, images, parts):
    """The gradient is W / hw everywhere, so gating it is gating the head."""
    activations, rows, _, target = parts
    positions = activations[0, 0].numel()
    result = explain(
        net, images, ["layercam", "gradcam_elementwise", "gradcam_guided"], target, TAP
    )
    positive = torch.einsum("nc,nchw->nhw", rows.relu() / positions, activations)
    close(result.maps["layercam", "relu"][:, 0], positive)
    close(result.maps["gradcam_elementwise", "relu"][:, 0], positive)
    share = (activations > 0).float().mean((2, 3))
    guided = torch.einsum("nc,nchw->nhw", rows.relu() / positions * share, activations)
    close(result.maps["gradcam_guided", "relu"][:, 0], guided)


def test_gradcampp_weights_before_pooling(net, images, parts):
    activations, rows, _, target = parts
    positions = activations[0, 0].numel()
    gradient = rows / positions
    weights = positions * gradient.relu() / (2 + activations.sum((2, 3)) * gradient)
    result = explain(net, images, "gradcampp", target, TAP)
    close(
        result.maps["gradcampp", "relu"][:, 0], torch.einsum("nc,nchw->nhw", weights, activations)
    )


def test_ablation_weights_before_pooling(net, images, parts):
    activations, rows, score, target = parts
    weights = rows * activations.mean((2, 3)) / score.abs()[:, None]
    result = explain(net, images, "ablationcam", target, TAP)
    close(
        result.maps["ablationcam", "relu"][:, 0], torch.einsum("nc,nchw->nhw", weights, activations)
    )
    close(result.scores[:, 0], score)


def test_ablation_by_replay_is_the_closed_form(net, images, parts):
    target = parts[-1]
    closed = explain(net, images, "ablationcam", target, TAP)
    # A callable hides the head: the tail is replayed.
    for row, index in enumerate(target.tolist()):
        replayed = explain(
            net, images[row : row + 1], "ablationcam", lambda out, i=index: out[:, i], TAP
        )
        close(
            replayed.maps["ablationcam", "relu"][0],
            closed.maps["ablationcam", "relu"][row],
            rel=1e-4,
        )


@pytest.mark.parametrize("layer", ["relu", "conv"])
def test_cam_sees_through_the_activation_after_the_tap(net, images, parts, layer):
    """Tapped before the ReLU that is pooled, the head is found all the same."""
    target = parts[-1]
    maps = explain(net, images, ["cam", "ablationcam"], target, ["relu", "conv"]).maps
    close(maps["cam", layer], maps["cam", "relu"])


def test_hirescam_is_complete(net, images, parts):
    *_, score, target = parts
    maps = explain(net, images, "hirescam", target, TAP).maps["hirescam", "relu"]
    close(maps.sum((1, 2, 3)), score - net.fc.bias.detach()[target])


# Batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GapNet", "DeepNet"])
def test_a_map_does_not_depend_on_its_batch(toys, images, kind):
    net = getattr(toys, kind)().eval()
    layer = "relu" if kind == "GapNet" else "features"
    methods = [m for m in ALL if kind == "GapNet" or m != "cam"]
    target = torch.tensor([2, 0, 4])
    whole = explain(net, images, methods, target, [layer])
    alone = [explain(net, images[i : i + 1], methods, target[i : i + 1], [layer]) for i in range(3)]
    turned = explain(net, images.flip(0), methods, target.flip(0), [layer])
    for key, maps in whole.maps.items():
        close(torch.cat([a.maps[key] for a in alone]), maps, rel=1e-4)
        close(turned.maps[key].flip(0), maps, rel=1e-4)


@pytest.mark.parametrize("method", ALL)
def test_only_class_discriminative_methods_depend_on_the_target(net, images, method):
    maps = next(iter(explain(net, images, method, [0, 1], TAP).maps.values()))
    assert torch.equal(maps[:, 0], maps[:, 1]) is not INFOS[method].class_discriminative


# Changed models ----------------------------------------------------------------------------------


def test_flip_equivariance(images):
    """With mirror-symmetric kernels the map of the mirrored image is the mirrored map."""
    layers = [nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU()]
    for conv in layers[::2]:
        conv.weight.data = (conv.weight.data + conv.weight.data.flip(-1)) / 2
    net = nn.Sequential(
        nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    ).eval()
    straight = explain(net, images, ALL, 2, ["0"])
    mirrored = explain(net, images.flip(-1), ALL, 2, ["0"])
    for key, maps in straight.maps.items():
        close(mirrored.maps[key].flip(-1), maps, rel=1e-4)


@pytest.mark.parametrize("factor", [1e-3, 50.0])
def test_scaled_logits_leave_linear_methods_unchanged(toys, images, factor):
    net = toys.DeepNet().eval()
    scaled = copy.deepcopy(net)
    scaled.fc2.weight.data *= factor
    scaled.fc2.bias.data *= factor
    methods = [*LINEAR_IN_G, "gradcampp"]
    before = explain(net, images, methods, 1, ["features"])
    after = explain(scaled, images, methods, 1, ["features"])
    old, new = before.heatmaps(), after.heatmaps()
    for method in LINEAR_IN_G:
        torch.testing.assert_close(
            new[method, "features"], old[method, "features"], rtol=1e-3, atol=1e-4
        )
        close(after.maps[method, "features"], factor * before.maps[method, "features"], rel=1e-4)
    # Grad-CAM++ is not linear in g: its weights change with the scale of the logits.
    old_pp, new_pp = before.maps["gradcampp", "features"], after.maps["gradcampp", "features"]
    assert not torch.allclose(new_pp, factor * old_pp, rtol=1e-2)


def frozen(net, images, run):
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return run(net, images)


def no_grad(net, images, run):
    with torch.no_grad():
        return run(net, images)


def inference(net, images, run):
    with torch.inference_mode():
        return run(net, images)


def inference_images(net, images, run):
    with torch.inference_mode():
        images = images.clone()
    assert images.is_inference()
    return run(net, images)


def differentiable_images(net, images, run):
    return run(net, images.clone().requires_grad_())


def channels_last(net, images, run):
    return run(
        net.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    )


def training(net, images, run):
    return run(net.train(), images)


def doubled(net, images, run):
    return run(nn.DataParallel(net), images)


SURROUNDINGS = [
    frozen, no_grad, inference, inference_images, differentiable_images, channels_last, training,
    doubled,
]  # fmt: skip


@pytest.mark.parametrize("around", SURROUNDINGS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["GapNet", "DeepNet"])
def test_surroundings_do_not_matter(toys, images, kind, around):
    net = getattr(toys, kind)().eval()
    layers = ["early", "relu"] if kind == "GapNet" else ["stem", "features"]
    methods = [m for m in ALL if m != "cam"]

    def run(model, batch):
        return explain(model, batch, methods, [0, 3], layers)

    expected = run(net, images)
    result = around(copy.deepcopy(net), images, run)
    torch.testing.assert_close(result.scores, expected.scores)
    for key, maps in expected.maps.items():
        assert not result.maps[key].requires_grad
        assert not result.maps[key].is_inference()
        close(result.maps[key], maps, rel=1e-4)


@pytest.mark.parametrize("kind", ["GapNet", "DeepNet"])
def test_inplace_relu_does_not_matter(toys, images, kind):
    """A tap keeps what the layer returned, not what the ReLU after it made of it."""
    plain = getattr(toys, kind)(inplace=False).eval()
    inplace = getattr(toys, kind)(inplace=True).eval()
    inplace.load_state_dict(plain.state_dict())
    layers = ["early.0", "conv", "relu"] if kind == "GapNet" else ["stem", "features.1", "features"]
    methods = [m for m in ALL if m != "cam"]
    expected = explain(plain, images, methods, [0, 3], layers)
    result = explain(inplace, images, methods, [0, 3], layers)
    assert (expected.maps["hirescam", layers[0]] < 0).any()
    for key, maps in expected.maps.items():
        close(result.maps[key], maps, rel=1e-5)
