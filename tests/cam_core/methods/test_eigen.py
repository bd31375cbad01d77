"""Principal components: numbers by hand, double precision, other implementations, edge cases."""

from __future__ import annotations

import types

import pytest
import torch

from cam_core import explain
from cam_core.methods.eigen import eigencam, eigengradcam, kpcacam, seg_eigencam

A = torch.tensor([[[[3.0, 0.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]])


def relu_layer(count=3, channels=12, height=5, width=6):
    shape = count, channels, height, width
    return torch.randn(shape).relu(), torch.randn(shape)


def same_up_to_sign(ours, theirs, rel=1e-4):
    theirs = torch.as_tensor(theirs).to(ours)
    signs = (ours * theirs).sum((1, 2), keepdim=True).sign()
    torch.testing.assert_close(ours, theirs * signs, rtol=rel, atol=rel * float(theirs.abs().max()))


# Several components ------------------------------------------------------------------------------


def test_components_by_hand():
    """Three channels that live in places of their own are the components, the strongest first."""
    found = eigencam(A, components=3)
    assert list(found.names) == ["1", "2", "3"]
    expected = torch.zeros(1, 3, 2, 2)
    expected[0, 0, 0, 0], expected[0, 1, 0, 1], expected[0, 2, 1, 0] = 3, 2, 1
    torch.testing.assert_close(found.maps, expected)


@pytest.mark.parametrize("method", [eigencam, eigengradcam])
def test_components_are_the_single_ones(method):
    given = relu_layer()[: 1 if method is eigencam else 2]
    found = method(*given, components=4).maps
    for number in range(4):
        assert torch.equal(found[:, number], method(*given, component=number + 1))
    assert method(*given).shape == (3, 5, 6)  # a plain call stays one map


def test_components_rebuild_the_layer():
    """All of them together carry the layer's energy, each no more than the one before."""
    activations, _ = relu_layer(2, 4)
    energy = eigencam(activations, components=4).maps.square().sum((2, 3))
    torch.testing.assert_close(energy.sum(1), activations.square().sum((1, 2, 3)))
    assert (energy.diff(dim=1) <= 0).all()


def test_components_from_explain(toys):
    net, images = toys.GapNet().eval(), torch.rand(2, 3, 32, 32)
    result = explain(net, images, [("eigencam", {"components": 2})], "top_2", ["relu"])
    assert list(result.maps) == [("eigencam_1", "relu"), ("eigencam_2", "relu")]
    for found in result.maps.values():
        assert torch.equal(found[:, 0], found[:, 1])  # a component is no class


@pytest.mark.parametrize("method", [eigencam, eigengradcam])
@pytest.mark.parametrize("options", [
    {"components": 0}, {"components": 13}, {"components": 2.0}, {"components": True},
    {"components": 3, "component": 2}, {"component": 13},
])  # fmt: skip
def test_bad_components(method, options):
    given = relu_layer()[: 1 if method is eigencam else 2]
    with pytest.raises(ValueError, match="component"):
        method(*given, **options)


# Seg-Eigen-CAM -----------------------------------------------------------------------------------


def test_seg_eigencam_by_hand():
    """One channel: its weighted activations less their mean, turned so that the peak is positive."""
    activations = torch.tensor([[[[4.0, 4.0], [4.0, 0.0]]], [[[0.0, 0.0], [0.0, 4.0]]]])
    gradients = torch.tensor([[[[-1.0, 1.0], [1.0, 1.0]]], [[[1.0, 1.0], [-1.0, -1.0]]]])
    found = seg_eigencam(activations, gradients)
    expected = torch.tensor([[[-1.0, -1.0], [-1.0, 3.0]], [[-1.0, -1.0], [-1.0, 3.0]]])
    torch.testing.assert_close(found, expected)


def test_seg_eigencam_knows_no_sign_of_the_gradient():
    activations, gradients = relu_layer()
    torch.testing.assert_close(
        seg_eigencam(activations, gradients), seg_eigencam(activations, -gradients)
    )
    found = seg_eigencam(activations, gradients)
    assert (found.amax((1, 2)) >= -found.amin((1, 2))).all()


# KPCA-CAM ----------------------------------------------------------------------------------------


def kernel_pca(features, kernel):
    """The definition, in double precision, one image: features (C, h, w)."""
    x = features.double().flatten(1).T
    x = x - x.mean(0)
    count = len(x)
    k = torch.stack([torch.stack([kernel(a, b) for b in x]) for a in x])
    centre = torch.eye(count).double() - 1 / count
    values, vectors = torch.linalg.eigh(centre @ k @ centre)
    return (vectors[:, -1] * values[-1].sqrt()).reshape(features.shape[1:])


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({}, lambda a, b: torch.tanh(a @ b / 6 + 1)),
        ({"gamma": 0.5, "coef0": 0.3}, lambda a, b: torch.tanh(0.5 * (a @ b) + 0.3)),
        ({"kernel": "rbf", "gamma": 0.2}, lambda a, b: torch.exp(-0.2 * (a - b).square().sum())),
        ({"kernel": "linear"}, lambda a, b: a @ b),
    ],
)
def test_kpcacam_is_its_definition(options, kernel):
    activations, _ = relu_layer(2, 6, 3, 4)
    expected = torch.stack([kernel_pca(a, kernel) for a in activations])
    same_up_to_sign(kpcacam(activations, **options), expected)


def test_kpcacam_with_a_linear_kernel_is_eigencam():
    activations, _ = relu_layer()
    expected = eigencam(activations, center=True)
    torch.testing.assert_close(
        kpcacam(activations, kernel="linear"), expected, rtol=1e-4, atol=1e-4
    )
    small = 1e-3 * activations  # tanh is nearly a line
    assert (
        float(torch.cosine_similarity(kpcacam(small).flatten(1), expected.flatten(1)).min()) > 0.99
    )


def test_kpcacam_agrees_with_where_the_layer_is_strong():
    activations, _ = relu_layer()
    assert ((kpcacam(activations) * activations.sum(1)).sum((1, 2)) >= 0).all()


def test_kpcacam_splits_what_is_too_large(monkeypatch):
    from cam_core.methods import eigen

    activations, _ = relu_layer()
    expected = kpcacam(activations)
    monkeypatch.setattr(eigen, "_KERNEL_ENTRIES", 1)
    torch.testing.assert_close(kpcacam(activations), expected)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 7.7, 1e-20, 1e20])
@pytest.mark.parametrize("center", [True, False])
def test_kpcacam_of_a_flat_layer_is_zero(value, center):
    found = kpcacam(torch.full((2, 3, 7, 7), value), center=center)
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1.0, 1e3, 1e15])
def test_kpcacam_stays_finite(scale):
    assert kpcacam(relu_layer()[0] * scale).isfinite().all()


@pytest.mark.parametrize("options", [{"kernel": "cubic"}, {"gamma": 0}, {"gamma": "auto"}])
def test_kpcacam_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        kpcacam(relu_layer()[0], **options)


# What holds for both new ones --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kpcacam", "seg_eigencam"])
def test_the_rest_of_the_batch_does_not_matter(name, toys):
    net, images = toys.DeepNet().eval(), torch.rand(3, 3, 32, 32)
    together = explain(net, images, name, 1, ["features"]).maps[name, "features"]
    for n in range(3):
        alone = explain(net, images[n : n + 1], name, 1, ["features"]).maps[name, "features"]
        torch.testing.assert_close(together[n : n + 1], alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["kpcacam", "seg_eigencam"])
def test_state_precision_and_nan(name, toys, protect, corr):
    net, images = toys.GapNet().eval(), torch.rand(3, 3, 32, 32)
    net.requires_grad_(False)
    check = protect(net)
    exact = explain(net, images, name, 1, ["relu"]).maps[name, "relu"]
    half = explain(net, images, name, 1, ["relu"], precision="bfloat16").maps[name, "relu"]
    check()
    assert corr(exact, half) > 0.98
    spoiled = images.clone()
    spoiled[1] = torch.nan
    found = explain(net, spoiled, name, 1, ["relu"]).maps[name, "relu"]
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], exact[[0, 2]], rtol=1e-3, atol=1e-6)


def test_seg_eigencam_scales_with_the_logits():
    activations, gradients = relu_layer()
    torch.testing.assert_close(
        seg_eigencam(activations, gradients * 7), 7 * seg_eigencam(activations, gradients)
    )
    assert not seg_eigencam(activations, 0 * gradients).any()


@pytest.mark.parametrize("method", [seg_eigencam, lambda a, g: kpcacam(a)])
def test_flip_equivariance(method):
    activations, gradients = relu_layer()
    flipped = method(activations.flip(-1), gradients.flip(-1)).flip(-1)
    torch.testing.assert_close(flipped, method(activations, gradients), rtol=1e-3, atol=1e-5)


# Other implementations ---------------------------------------------------------------------------


def library(name):
    module = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    if not hasattr(module, name):
        module = pytest.importorskip(f"pytorch_grad_cam.{name.lower()}")
    instance = getattr(module, name).__new__(getattr(module, name))
    instance.activations_and_grads = types.SimpleNamespace(release=lambda: None)
    instance.kernel, instance.gamma = "sigmoid", None
    return instance


@pytest.mark.oracle
def test_gradcam_library_seg_eigencam():
    pytest.importorskip("pytorch_grad_cam.seg_eigen_cam", reason="an older grad-cam")
    activations, gradients = relu_layer(4, 16, 7, 9)
    theirs = library("SegEigenCAM").get_cam_image(
        None, None, None, activations.numpy(), gradients.numpy(), False
    )
    torch.testing.assert_close(
        seg_eigencam(activations, gradients), torch.as_tensor(theirs), rtol=1e-3, atol=1e-3
    )


@pytest.mark.oracle
def test_gradcam_library_kpcacam():
    activations, _ = relu_layer(4, 16, 7, 9)
    theirs = library("KPCA_CAM").get_cam_image(None, None, None, activations.numpy(), None, False)
    same_up_to_sign(kpcacam(activations), theirs)


@pytest.mark.oracle
@pytest.mark.parametrize(("kernel", "gamma"), [("sigmoid", 0.05), ("rbf", 0.02), ("linear", None)])
def test_sklearn_kernel_pca(kernel, gamma):
    decomposition = pytest.importorskip("sklearn.decomposition")
    activations, _ = relu_layer(2, 16, 5, 5)
    theirs = [
        torch.as_tensor(
            decomposition.KernelPCA(1, kernel=kernel, gamma=gamma, eigen_solver="dense")
            .fit_transform(a.double().flatten(1).T.numpy())
            .reshape(5, 5)
        )
        for a in activations
    ]
    ours = kpcacam(activations, kernel=kernel, gamma=gamma, center=False)
    same_up_to_sign(ours, torch.stack(theirs))


def test_decomposition_that_does_not_converge_is_done_in_double_precision(monkeypatch):
    activations, _ = relu_layer(2, 8, 5, 5)
    expected = eigencam(activations)
    real, tried = torch.linalg.eigh, []

    def failing(matrix):
        tried.append(matrix.dtype)
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("failed to converge")
        return real(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    found = eigencam(activations)
    assert tried == [torch.float32, torch.float64]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
