"""What ``docs/differences.md`` says of pytorch-grad-cam, run with both libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cam_core import explain

theirs = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")

TARGET, LAYERS = 3, ["layer2", "layer3"]


@pytest.fixture
def net(toys):
    return toys.resnet().eval()


@pytest.fixture
def images():
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def picture(name, net, images, layers=("layer3",), **options):
    """Their finished pictures (N, H, W)."""
    chosen = [net.get_submodule(layer) for layer in layers]
    with getattr(theirs, name)(net, chosen) as cam:
        return cam(images, [targets.ClassifierOutputTarget(TARGET)] * len(images), **options)


def raw(name, activations, gradients, eigen_smooth=False):
    """Their raw map (N, h, w) of given activations and gradients."""
    kind = getattr(theirs, name)
    cam = kind.__new__(kind)
    cam.activations_and_grads = type("Nothing", (), {"release": lambda self: None})()
    return cam.get_cam_image(None, None, [], activations, gradients, eigen_smooth)


def minmax(heat):
    low, high = heat.min((1, 2), keepdims=True), heat.max((1, 2), keepdims=True)
    return (heat - low) / (high - low)


def correlation(a, b):
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def parts_of(net, images, layer="layer3"):
    """(activations, gradients) at a layer, by plain autograd."""
    hold = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, a, out: hold.append(out))
    score = net(images.clone().requires_grad_())[:, TARGET].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, hold[0])
    return hold[0].detach(), gradient


@pytest.mark.parametrize("ours", ["gradcam", "hirescam", "layercam", "gradcam_elementwise", "fem"])
def test_same_maps(net, images, ours):
    name = {
        "gradcam": "GradCAM", "hirescam": "HiResCAM", "layercam": "LayerCAM",
        "gradcam_elementwise": "GradCAMElementWise", "fem": "FEM",
    }[ours]  # fmt: skip
    heat = explain(net, images, ours, TARGET, ["layer3"]).heatmaps()[ours, "layer3"][:, 0].numpy()
    seen = heat.max((1, 2)) > 0
    assert seen.any()
    np.testing.assert_allclose(minmax(heat[seen]), picture(name, net, images)[seen], atol=2e-3)


def test_eigencam_is_centred_there(net, images):
    activations, _ = parts_of(net, images)
    other = raw("EigenCAM", activations.numpy(), None)
    methods = ["eigencam", ("eigencam", {"center": True})]
    plain, centred = (
        m[:, 0].numpy() for m in explain(net, images, methods, TARGET, ["layer3"]).maps.values()
    )
    for i in range(len(images)):
        assert abs(correlation(centred[i], other[i])) > 0.9999
        assert abs(correlation(plain[i], other[i])) < 0.999
    # the layer ends in ReLU: not centred, the map is nowhere negative; centred it sums to 0
    assert plain.min() >= -1e-5 * plain.max()
    assert np.abs(other.sum((1, 2))).max() < 1e-3 * np.abs(other).max()


def test_their_sign_is_arbitrary():
    """Of 40 layers, a part is turned away from where the activations are strong; here none is."""
    away = {"theirs": 0, "ours": 0}
    from cam_core.methods.eigen import eigencam

    for seed in range(40):
        activations = torch.rand(1, 8, 6, 6, generator=torch.Generator().manual_seed(seed))
        activations[:, :, 2:4, 2:4] += 3  # something that stands out
        strong = activations.sum(1)[0].numpy()
        away["theirs"] += correlation(raw("EigenCAM", activations.numpy(), None)[0], strong) < 0
        away["ours"] += correlation(eigencam(activations, center=True)[0], strong) < 0
    assert 0 < away["theirs"] < 40
    assert away["ours"] == 0


def test_sign_of_eigengradcam_is_evidence(net, images):
    activations, gradients = parts_of(net, images)
    product = (gradients * activations).sum(1).numpy()
    ours = explain(net, images, "eigengradcam", TARGET, ["layer3"]).maps["eigengradcam", "layer3"]
    other = raw("EigenGradCAM", activations.numpy(), gradients.numpy())
    for i, own in enumerate(ours[:, 0].numpy()):
        assert abs(correlation(own, other[i])) > 0.9999
        assert float((own * product[i]).sum()) >= 0


def test_their_gradcampp_depends_on_the_size_of_the_gradient(net, images):
    """A score that is divided by 10^4 has the same explanation."""
    from cam_core.methods.gradient import gradcampp

    activations, gradients = parts_of(net, images)
    gradients = gradients / gradients.abs().amax()
    small = gradients * 1e-4

    def other(g):
        return raw("GradCAMPlusPlus", activations.numpy(), g.numpy())

    for i in range(len(images)):
        assert correlation(gradcampp(activations, gradients)[i], other(gradients)[i]) > 0.999
    # of small gradients S g is small beside 2, and every weight is half of the positive gradients
    weights = small.relu().sum((2, 3)) / 2
    limit = torch.einsum("nc,nchw->nhw", weights, activations)
    ours = gradcampp(activations, small)
    torch.testing.assert_close(ours, limit, rtol=2e-2, atol=1e-3 * float(limit.max()))
    # theirs are the cubes of the gradients, by 10^6: hardly anything is left of them
    cubes = torch.einsum("nc,nchw->nhw", (small.relu() ** 3).sum((2, 3)) / 1e-6, activations)
    np.testing.assert_allclose(
        other(small), cubes.numpy(), rtol=0.05, atol=1e-3 * float(cubes.max())
    )
    assert float(other(small).max()) < 0.05 * float(ours.max())


def test_channels_of_a_negative_sum():
    """Their alpha is larger than the 1/2 that it is at most in the paper, at the pole without bound."""
    from cam_core.methods.gradient import gradcampp

    activations = torch.tensor([[[[-1.0, -0.9]]]])  # sums to -1.9
    gradients = torch.tensor([[[[1.0, 1.0]]]])  # 2 + S g = 0.1
    assert raw("GradCAMPlusPlus", activations.numpy(), gradients.numpy())[0, 0, 0] == pytest.approx(
        -2 / 0.1, rel=1e-3
    )
    assert float(gradcampp(activations, gradients)[0, 0, 0]) == pytest.approx(-2 / 2)


def test_minmax_makes_a_place_of_a_flat_map(net, images):
    """An activation that is nearly the same everywhere: a finished picture there, ``flat`` here."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    from cam_core.spatial import maps

    flat = torch.ones(1, 1, 4, 4)
    flat[..., 1, 2] = 1 + 5e-5
    other = scale_cam_image(flat[0].numpy())
    assert (other.min(), round(float(other.max()), 2)) == (0, 1)
    assert maps.status(flat) == [["flat"]]
    assert float(maps.heatmaps(flat, (4, 4)).min()) > 0.999


def test_layers_are_averaged_there(net, images):
    other = picture("LayerCAM", net, images, LAYERS)
    each = [picture("LayerCAM", net, images, [layer]) for layer in LAYERS]
    # each of these was stretched to [0, 1] once more after upsampling, which changes little
    np.testing.assert_allclose(other, minmax(np.mean(each, 0)), atol=0.03)
    result = explain(net, images, "layercam", TARGET, LAYERS, fuse="mean")
    assert [layer for _, layer in result.maps] == [*LAYERS, "fused"]
    fused = result.heatmaps()["layercam", "fused"][:, 0].numpy()
    for i in range(len(images)):
        assert correlation(fused[i], other[i]) > 0.97


def test_negative_evidence_is_kept_here(net, images):
    maps = explain(net, images, "hirescam", TARGET, ["layer3"]).maps["hirescam", "layer3"]
    assert float(maps.min()) < 0
    assert picture("HiResCAM", net, images).min() >= 0


def test_augmented_pictures_are_averaged_there(net, images):
    views = []
    for flip in (False, True):
        for gain in (0.9, 1.0, 1.1):
            batch = (images.flip(-1) if flip else images) * gain
            heat = explain(net, batch, "gradcam", TARGET, ["layer3"]).heatmaps()[
                "gradcam", "layer3"
            ]
            views.append(minmax((heat.flip(-1) if flip else heat)[:, 0].numpy()))
    other = picture("GradCAM", net, images, aug_smooth=True)
    seen = np.isfinite(views).all((0, 2, 3))
    assert seen.any()
    np.testing.assert_allclose(other[seen], np.mean(views, 0)[seen], atol=5e-3)


def test_eigen_smooth_of_eigencam_is_ignored_there(net, images):
    plain = picture("EigenCAM", net, images)
    np.testing.assert_array_equal(picture("EigenCAM", net, images, eigen_smooth=True), plain)
    with pytest.raises(ValueError, match="smoothing 'eigen' does not apply to 'eigencam'"):
        explain(net, images, "eigencam+eigen", TARGET, ["layer3"])


def test_the_network_afterwards(net, images):
    net.train()
    explain(net, images, "gradcam", TARGET, ["layer3"])
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    picture("GradCAM", net, images)
    assert not net.training
    assert any(p.grad is not None for p in net.parameters())
