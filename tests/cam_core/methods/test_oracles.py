"""Held against other implementations, where they are right."""

from __future__ import annotations

import types

import pytest
import torch

from cam_core import explain
from cam_core.methods.eigen import eigencam, eigengradcam, fem
from cam_core.methods.gradient import gradcam_elementwise, gradcampp, hirescam, layercam, xgradcam
from cam_core.spatial.maps import fuse

pytestmark = pytest.mark.oracle

LAYER = "layer3"


def close(ours, theirs, rel=1e-5):
    theirs = torch.as_tensor(theirs)
    torch.testing.assert_close(ours, theirs, rtol=rel, atol=rel * float(theirs.abs().max()))


@pytest.fixture
def net(toys):
    return toys.resnet().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64)


TARGET = torch.tensor([3, 7])


# captum ------------------------------------------------------------------------------------------


@pytest.fixture
def captum():
    return pytest.importorskip("captum.attr", reason="captum is not installed")


@pytest.mark.parametrize("name", ["layer2", "layer3.0.conv1", "layer4"])
def test_captum_gradcam(captum, net, images, name):
    layer = net.get_submodule(name)
    theirs = captum.LayerGradCam(net, layer).attribute(images, TARGET, relu_attributions=False)
    ours = explain(net, images, "gradcam", TARGET, [name]).maps["gradcam", name]
    close(ours, theirs.detach())


def test_captum_hirescam(captum, net, images):
    theirs = captum.LayerGradientXActivation(net, net.layer3).attribute(images, TARGET)
    close(
        explain(net, images, "hirescam", TARGET, [LAYER]).maps["hirescam", LAYER][:, 0],
        theirs.detach().sum(1),
    )


def test_captum_ablation_by_replay(captum, net, images):
    """LayerFeatureAblation, a feature per channel and a baseline of 0, gives the score lost."""
    with torch.no_grad():
        hold = []
        handle = net.layer3.register_forward_hook(lambda m, a, out: hold.append(out.clone()))
        scores = net(images).gather(1, TARGET[:, None])
        handle.remove()
    activations = hold[0]
    channels = activations.shape[1]
    mask = torch.arange(channels)[None, :, None, None].expand(1, channels, *activations.shape[2:])
    ablation = captum.LayerFeatureAblation(net, net.layer3)
    lost = ablation.attribute(
        images,
        layer_baselines=0,
        target=TARGET,
        layer_mask=mask.contiguous(),
        perturbations_per_eval=1,
    )[..., 0, 0]
    theirs = torch.einsum("nc,nchw->nhw", lost / scores.abs(), activations)
    close(
        explain(net, images, "ablationcam", TARGET, [LAYER]).maps["ablationcam", LAYER][:, 0],
        theirs,
        rel=1e-3,
    )


# torchcam ----------------------------------------------------------------------------------------


@pytest.fixture
def torchcam():
    return pytest.importorskip("torchcam.methods", reason="torchcam is not installed")


@pytest.mark.parametrize(
    ("name", "theirs"), [("gradcam", "GradCAM"), ("layercam", "LayerCAM"), ("xgradcam", "XGradCAM")]
)
def test_torchcam_gradient_methods(torchcam, net, images, name, theirs):
    with getattr(torchcam, theirs)(net, LAYER, input_shape=(3, 64, 64)) as extractor:
        scores = net(images)
        expected = extractor(TARGET.tolist(), scores, normalized=False)[0]
    ours = explain(net, images, name, TARGET, [LAYER]).maps[name, LAYER][:, 0]
    close(ours.relu(), expected.relu())
    assert (expected > 0).any()


def test_torchcam_cam(torchcam, net, images):
    with torch.no_grad(), torchcam.CAM(net, "layer4", "fc", input_shape=(3, 64, 64)) as extractor:
        scores = net(images)
        expected = extractor(TARGET.tolist(), scores, normalized=False)[0]
    close(explain(net, images, "cam", TARGET, ["layer4"]).maps["cam", "layer4"][:, 0], expected)


def test_torchcam_fusion(torchcam):
    """Their maps are min-max normalised first; ours start at 0 here, so that it is the same."""
    maps = [torch.rand(2, 1, s, s) for s in (4, 8, 16)]
    for m in maps:
        m[..., 0, 0] = 0
    unit = [(m / m.amax((2, 3), keepdim=True))[:, 0] for m in maps]
    close(fuse(maps, "layercam")[:, 0], torchcam.LayerCAM.fuse_cams(unit))


# pytorch-grad-cam: called with arrays, no model needed -------------------------------------------


@pytest.fixture
def gc():
    module = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")

    def bare(name):
        """An instance without a model; its destructor wants something to release."""
        instance = getattr(module, name).__new__(getattr(module, name))
        instance.activations_and_grads = types.SimpleNamespace(release=lambda: None)
        instance.k = 2  # FEM's default
        return instance

    return bare


@pytest.fixture
def layer():
    return torch.randn(3, 16, 7, 9).relu() + 0.01, torch.randn(3, 16, 7, 9)


@pytest.mark.parametrize(
    ("method", "theirs"),
    [(hirescam, "HiResCAM"), (gradcam_elementwise, "GradCAMElementWise"), (layercam, "LayerCAM")],
    ids=lambda m: getattr(m, "__name__", m),
)
def test_gradcam_library_maps(gc, layer, method, theirs):
    activations, gradients = layer
    close(
        method(*layer),
        gc(theirs).get_cam_image(None, None, None, activations.numpy(), gradients.numpy(), False),
    )


def test_gradcam_library_xgradcam(gc, layer):
    activations, gradients = layer
    weights = gc("XGradCAM").get_cam_weights(
        None, None, None, activations.numpy(), gradients.numpy()
    )
    close(xgradcam(*layer), torch.einsum("nc,nchw->nhw", torch.as_tensor(weights), activations))


def test_gradcam_library_gradcampp(gc, layer):
    """Their epsilon of 1e-6 vanishes only beside large gradients."""
    activations, gradients = layer[0], layer[1] * 1e3
    weights = gc("GradCAMPlusPlus").get_cam_weights(
        None, None, None, activations.numpy(), gradients.numpy()
    )
    close(
        gradcampp(activations, gradients),
        torch.einsum("nc,nchw->nhw", torch.as_tensor(weights), activations),
        1e-3,
    )


def test_gradcam_library_fem(gc, layer):
    activations = layer[0]
    expected = gc("FEM").get_cam_image(None, None, None, activations.numpy(), None, False)
    close(fem(activations).double(), expected)


def abs_correlation(ours, theirs, corr):
    return min(abs(corr(a, b)) for a, b in zip(ours, torch.as_tensor(theirs), strict=True))


def test_gradcam_library_eigencam(gc, layer, corr):
    activations = layer[0]
    expected = gc("EigenCAM").get_cam_image(None, None, None, activations.numpy(), None, False)
    assert abs_correlation(eigencam(activations, center=True), expected, corr) >= 0.9999


def test_gradcam_library_eigengradcam(gc, layer, corr):
    activations, gradients = layer
    expected = gc("EigenGradCAM").get_cam_image(
        None, None, None, activations.numpy(), gradients.numpy(), False
    )
    assert abs_correlation(eigengradcam(activations, gradients), expected, corr) >= 0.9999


@pytest.mark.parametrize("name", ["layer3", "layer4"])
def test_gradcam_library_ablationcam(toys, name):
    """Only with a layer that ends in ReLU (its minimum is 0) and one image at a time."""
    module = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    ablation = pytest.importorskip("pytorch_grad_cam.ablation_layer")
    net, image = toys.resnet().eval(), torch.randn(1, 3, 64, 64)
    result = explain(net, image, "ablationcam", 3, [name])
    ours = (
        result.maps["ablationcam", name][:, 0] * result.scores[0, 0].sign()
    )  # they divide by y, not |y|
    layer = net.get_submodule(name)
    cam = module.AblationCAM(net, [layer], ablation_layer=ablation.AblationLayer(), batch_size=128)
    cam.model = net
    hold = []
    handle = layer.register_forward_hook(lambda m, a, out: hold.append(out.detach().clone()))
    with torch.no_grad():
        net(image)
    handle.remove()
    assert float(hold[0].min()) == 0
    cam.outputs = net(image)
    with torch.no_grad():
        weights = cam.get_cam_weights(
            image, layer, [targets.ClassifierOutputTarget(3)], hold[0].numpy(), None
        )
    theirs = torch.einsum("nc,nchw->nhw", torch.as_tensor(weights).reshape(1, -1), hold[0])
    cam.activations_and_grads.release()
    close(ours, theirs, rel=1e-3)


def test_gradcam_library_gradcam_heatmap(net, images):
    """The finished picture: ours is divided by the maximum after upsampling, theirs min-max."""
    module = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    ours = explain(net, images, "gradcam", TARGET, [LAYER]).heatmaps()["gradcam", LAYER][:, 0]
    with module.GradCAM(net, [net.layer3]) as cam:
        theirs = torch.as_tensor(
            cam(images, [targets.ClassifierOutputTarget(int(t)) for t in TARGET])
        )
    low, high = ours.amin((1, 2), keepdim=True), ours.amax((1, 2), keepdim=True)
    close((ours - low) / (high - low), theirs, rel=1e-4)
