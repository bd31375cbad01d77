"""Gradient methods that need another scalar, a second derivative, noise or several layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cam_core import explain
from cam_core.methods.gradient import refinecam, smoothgradcampp


def close(a, b, rel=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=rel * float(b.abs().max()) + 1e-12)


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 40)


@pytest.fixture
def gap(toys):
    return toys.GapNet().eval()


@pytest.fixture
def deep(toys):
    return toys.DeepNet().eval()


class Curved(nn.Module):
    """The score is a known quadratic form of pooled activations: y = (v . mean A)^2."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.direction = nn.Parameter(torch.randn(2, 4))

    def forward(self, images):
        pooled = self.conv(images).mean((2, 3))
        return (pooled @ self.direction.T) ** 2


# Shapley -----------------------------------------------------------------------------------------


def test_shapleycam_of_a_quadratic_score_by_hand(images):
    net = Curved().eval()
    with torch.no_grad():
        activations = net.conv(images)
    cells = activations[0, 0].numel()
    v = net.direction.detach()[1]
    inner = (activations.mean((2, 3)) * v).sum(1)
    # g = 2 (v.m) v / cells and H A = 2 (v.m) v / cells: half of the gradient is left.
    weights = (inner[:, None] * v) / cells
    expected = torch.einsum("nc,nchw->nhw", weights, activations)
    maps = explain(net, images, ("shapleycam", {"score": "logit"}), 1, ["conv"]).maps
    close(maps["shapleycam", "conv"][:, 0], expected)


def test_shapleycam_equals_gradcam_without_curvature(gap, images):
    maps = explain(gap, images, ["gradcam", ("shapleycam", {"score": "logit"})], 2, ["relu"]).maps
    close(maps["shapleycam", "relu"], maps["gradcam", "relu"])


def test_shapleycam_in_double(deep, images):
    """Against the full Hessian of the tail, in double precision."""
    net, batch = deep.double(), images[:1].double()
    with torch.no_grad():
        activations = net.features(net.stem(batch))

    def score(a):
        logits = net.fc2(torch.tanh(net.fc1(torch.tanh(net.tail(a)).amax((2, 3)))))
        return (logits[:, 1] + logits.log_softmax(1)[:, 1]).sum()

    gradient = torch.autograd.functional.jacobian(score, activations)
    product = torch.autograd.functional.hvp(score, activations, activations)[1]
    weights = (gradient - product / 2).mean((2, 3))
    expected = torch.einsum("nc,nchw->nhw", weights, activations)
    found = explain(net, batch, "shapleycam", 1, ["features"]).maps["shapleycam", "features"]
    close(found[:, 0].double(), expected)
    plain = explain(net, batch, "gradcam", 1, ["features"]).maps["gradcam", "features"]
    assert float((found - plain).abs().max() / plain.abs().max()) > 0.1


@pytest.mark.oracle
def test_shapleycam_is_that_of_pytorch_grad_cam(deep, images):
    from pytorch_grad_cam import ShapleyCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST

    one = images[:1]
    maps = explain(deep, one, "shapleycam", 1, ["features"]).heatmaps((16, 20))
    with ShapleyCAM(deep, [deep.features]) as method:
        weights = {}
        original = method.get_cam_weights
        method.get_cam_weights = lambda *a: weights.setdefault("w", original(*a))
        method(one, [ClassifierOutputReST(1)])
    activations = deep.features(deep.stem(one)).detach()
    theirs = torch.einsum("nc,nchw->nhw", torch.from_numpy(weights["w"]), activations)
    ours = explain(deep, one, "shapleycam", 1, ["features"]).maps["shapleycam", "features"][:, 0]
    close(ours, theirs, rel=1e-4)
    assert maps["shapleycam", "features"].isfinite().all()


# Finer -------------------------------------------------------------------------------------------


def finer_weights(net, images, target, alpha, references, weighting):
    """Closed form before pooling and a linear layer: the gradient is a row of the head's weights."""
    with torch.no_grad():
        logits = net(images)
        rows = []
        for values in logits:
            others = [i for i in range(len(values)) if i != target]
            others.sort(key=lambda i: abs(float(values[i] - values[target])))
            others = others[:references]
            p = values.softmax(0)[others] if weighting == "probability" else torch.ones(references)
            mixed = (p[:, None] * net.fc.weight[others]).sum(0) / p.sum()
            rows.append(net.fc.weight[target] - alpha * mixed)
        return torch.stack(rows)


@pytest.mark.parametrize(("weighting", "alpha"), [("probability", 1.0), ("mean", 0.6)])
@pytest.mark.parametrize("references", [1, 3, 4])
def test_finercam_closed_form(gap, images, weighting, alpha, references):
    options = {"weighting": weighting, "alpha": alpha, "references": references}
    maps = explain(gap, images, ("finercam", options), 2, ["relu"]).maps["finercam", "relu"]
    with torch.no_grad():
        activations = gap.relu(gap.conv(gap.early(images)))
    weights = finer_weights(gap, images, 2, alpha, references, weighting)
    expected = torch.einsum("nc,nchw->nhw", weights, activations) / activations[0, 0].numel()
    close(maps[:, 0], expected)


@pytest.mark.oracle
def test_finercam_is_that_of_torchcam(deep, images):
    from torchcam.methods import FinerCAM

    options = {"weighting": "mean", "alpha": 0.6}
    ours = explain(deep, images, ("finercam", options), 1, ["features"]).maps
    with FinerCAM(deep, "features", input_shape=(3, 32, 40)) as method:
        theirs = method([1, 1, 1], deep(images), normalized=False)[0]
    close(ours["finercam", "features"][:, 0].relu(), theirs, rel=1e-4)


def test_finercam_beside_others_changes_neither(deep, images):
    together = explain(deep, images, ["finercam", "gradcam", "shapleycam"], "top_2", ["features"])
    for name in ("finercam", "gradcam", "shapleycam"):
        alone = explain(deep, images, name, "top_2", ["features"])
        close(together.maps[name, "features"], alone.maps[name, "features"])
        assert torch.equal(together.scores, alone.scores)
    assert [m for m, _ in together.maps] == ["finercam", "gradcam", "shapleycam"]


def test_finercam_needs_a_class(deep, images):
    with pytest.raises(ValueError, match="method 'finercam' compares classes, so its target"):
        explain(deep, images, "finercam", lambda outputs: outputs[:, 0], ["features"])


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("finercam", {"weighting": "none"}, "weighting: 'none' is unknown"),
        ("finercam", {"references": 0}, "references must be a whole number between 1 and"),
        ("shapleycam", {"score": "prob"}, "score: 'prob' is unknown"),
        ("refinecam", {"base": "cam"}, "base: 'cam' is unknown; choose from gradcampp"),
        (
            "smoothgradcampp",
            {"samples": 0},
            "samples must be a whole number between 1 and 1000, got 0",
        ),
    ],
)
def test_bad_options(deep, images, method, options, message):
    with pytest.raises(ValueError, match=message):
        explain(deep, images, (method, options), 0, ["features"])


# Smooth Grad-CAM++ -------------------------------------------------------------------------------


def test_smoothgradcampp_without_noise_is_gradcampp(deep, images):
    maps = explain(
        deep, images, ["gradcampp", ("smoothgradcampp", {"sigma": 0.0})], 1, ["features"]
    ).maps
    close(maps["smoothgradcampp", "features"], maps["gradcampp", "features"])


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_smoothgradcampp_is_the_formula_in_double(deep, images, batch_size):
    drawn = []

    def gradient_pass(batch, rows):
        assert rows == list(range(3)) * (len(batch) // 3)
        drawn.append(batch)
        tap = deep.features(deep.stem(batch)).detach().requires_grad_()
        logits = deep.fc2(torch.tanh(deep.fc1(torch.tanh(deep.tail(tap)).amax((2, 3)))))
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), tap)
        seen.append(gradient.unflatten(0, (-1, 3)))
        return tap.detach(), gradient, logits[:, 1]

    seen = []
    activations = deep.features(deep.stem(images)).detach()
    found = smoothgradcampp(
        activations, images, gradient_pass, torch.Generator().manual_seed(3),
        samples=5, batch_size=batch_size,
    )  # fmt: skip
    g = torch.cat(seen).double().relu()
    assert len(g) == 5
    first, second, third = (g.pow(p).mean(0) for p in (1, 2, 3))
    total = activations.double().sum((2, 3), keepdim=True).clamp_min(0)
    weights = (second / (2 * second + total * third) * first).nan_to_num(0).sum((2, 3))
    close(found.double(), torch.einsum("nc,nchw->nhw", weights, activations.double()))
    noise = torch.cat(drawn).unflatten(0, (-1, 3)) - images
    span = images.flatten(1).amax(1) - images.flatten(1).amin(1)
    # The same draw for every image, scaled with its range.
    torch.testing.assert_close(noise[:, 0] / span[0], noise[:, 2] / span[2], rtol=0, atol=1e-5)
    assert 0.1 < float((noise / span[:, None, None, None]).std()) < 0.2


@pytest.mark.parametrize("scale", [1e-14, 1e10])
def test_smoothgradcampp_neither_underflows_nor_overflows(scale):
    activations, images = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 8, 8)
    gradients = torch.rand(2, 3, 4, 4) * scale

    def gradient_pass(batch, rows):
        return activations, gradients[list(rows)], None

    found = smoothgradcampp(activations, images, gradient_pass, torch.Generator(), samples=3)
    g, total = gradients.double(), activations.double().sum((2, 3), keepdim=True)
    weights = (g / (2 + total * g)).sum((2, 3))
    close(found.double(), torch.einsum("nc,nchw->nhw", weights, activations.double()))


# RefineCAM ---------------------------------------------------------------------------------------


def test_refinecam_by_hand():
    fine = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]])
    coarse = torch.tensor([[[[3.0]]]])
    ones = torch.ones_like
    layers = {"a": (fine, ones(fine)), "b": (coarse, ones(coarse))}
    expected = torch.tensor([[[0.0, 0.25], [0.5, 1.0]]])
    torch.testing.assert_close(refinecam(layers, base="layercam"), expected)
    dead = {"a": (fine, ones(fine)), "b": (coarse, -ones(coarse))}
    assert not refinecam(dead, base="layercam").any()  # nothing there: nothing anywhere


@pytest.mark.oracle
def test_refinecam_is_that_of_torchcam(deep, images):
    from torchcam.methods import LayerCAM, RefineCAM

    layers = ["stem", "features", "tail"]
    with RefineCAM(deep, layers, input_shape=(3, 32, 40), base_method=LayerCAM) as method:
        theirs = method([1, 1, 1], deep(images), normalized=False)[0]
    ours = explain(deep, images, ("refinecam", {"base": "layercam"}), 1, layers).maps
    assert list(ours) == [("refinecam", "fused")]
    ours = ours["refinecam", "fused"][:, 0]
    close(ours / ours.amax((1, 2), keepdim=True), theirs / theirs.amax((1, 2), keepdim=True), 1e-4)


def test_refinecam_with_one_layer_keeps_its_name(deep, images):
    maps = explain(deep, images, ["refinecam", "gradcampp"], [0, 1], ["features"]).maps
    base = maps["gradcampp", "features"].relu()
    low, high = base.amin((2, 3), keepdim=True), base.amax((2, 3), keepdim=True)
    close(maps["refinecam", "features"], (base - low) / (high - low))
