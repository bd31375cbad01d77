"""Smoothing around any method: what is averaged, and what the names mean."""

from __future__ import annotations

import contextlib

import pytest
import torch
from method_lists import ALL, INFOS
from perturbation_common import QUICK

from cam_core import cam_method, explain
from cam_core.engine.smoothing import GAINS, SAMPLES, SCALES, average, variants
from cam_core.methods.catalogue import resolve_methods
from cam_core.methods.channels import channel_sum, eigen_smoothing
from cam_core.methods.eigen import eigengradcam


def close(a, b, rel=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=rel * float(b.abs().max()) + 1e-12)


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 48)


@pytest.fixture
def net(toys):
    return toys.resnet().eval()


def test_aug_is_the_mean_over_flips_and_gains(net, images):
    target = torch.tensor([3, 7])
    found = explain(net, images, "gradcam+aug", target, ["layer2"]).maps["gradcam_aug", "layer2"]
    total = 0
    for gain in (0.9, 1.0, 1.1):
        for flip in (False, True):
            batch = images * gain
            batch = batch.flip(-1) if flip else batch
            maps = explain(net, batch, "gradcam", target, ["layer2"]).maps["gradcam", "layer2"]
            total = total + (maps.flip(-1) if flip else maps)
    close(found, total / 6)


def test_multiscale_is_the_mean_over_sizes(net, images):
    found = explain(net, images, "hirescam+multiscale", 3, ["layer2"])
    maps = found.maps["hirescam_multiscale", "layer2"]
    total = 0
    for scale in (1.0, 1.25, 1.5):
        batch = torch.nn.functional.interpolate(images, scale_factor=scale, mode="bilinear")
        one = explain(net, batch, "hirescam", 3, ["layer2"]).maps["hirescam", "layer2"]
        total = total + torch.nn.functional.interpolate(one, (4, 6), mode="bilinear")
    assert maps.shape == (2, 1, 4, 6)
    close(maps, total / 3)


def test_noise_is_seeded_and_the_same_for_every_image(net, images):
    one = explain(net, images, "gradcam+noise", 3, ["layer2"], seed=1).maps
    same = explain(net, images, "gradcam+noise", 3, ["layer2"], seed=1).maps
    other = explain(net, images, "gradcam+noise", 3, ["layer2"], seed=2).maps
    alone = explain(net, images[1:], "gradcam+noise", 3, ["layer2"], seed=1).maps
    key = ("gradcam_noise", "layer2")
    assert torch.equal(one[key], same[key])
    assert not torch.allclose(one[key], other[key])
    close(alone[key], one[key][1:], rel=1e-4)


def test_noise_is_in_proportion_to_the_range():
    batch = torch.zeros(2, 3, 64, 64)
    batch[0, 0, 0, 0], batch[1, 0, 0, 0] = 1.0, 10.0
    made = list(variants(batch, ["noise"], 5))
    assert len(made) == SAMPLES
    spread = torch.stack([(v.images - batch).std(dim=(1, 2, 3)) for v in made]).mean(0)
    torch.testing.assert_close(spread, torch.tensor([0.15, 1.5]), rtol=0.02, atol=0)


def test_kinds_are_combined():
    batch = torch.randn(1, 3, 8, 8)
    assert len(list(variants(batch, ["aug"], 0))) == 2 * len(GAINS)
    assert len(list(variants(batch, ["aug", "multiscale"], 0))) == 2 * len(GAINS) * len(SCALES)
    assert len(list(variants(batch, ["aug", "noise"], 0))) == 2 * len(GAINS) * SAMPLES
    first = next(variants(batch, ["multiscale", "aug"], 0))
    assert first.images.shape == batch.shape


def test_average_of_an_equivariant_explanation_changes_nothing(images):
    maps = average(
        variants(images, ["aug"], 0),
        lambda v: {("m", "l"): v.images[:, :1] / v.images[:, :1].abs()},
    )
    torch.testing.assert_close(maps["m", "l"], images[:, :1] / images[:, :1].abs())


def test_eigen_of_hirescam_is_eigengradcam(net, images):
    maps = explain(net, images, ["hirescam+eigen", "eigengradcam"], [1, 2], ["layer2"]).maps
    close(maps["hirescam_eigen", "layer2"], maps["eigengradcam", "layer2"])


def test_eigen_of_weights_by_hand(net, images):
    maps = explain(net, images, ["gradcam+eigen", "fem"], 1, ["layer2"])
    run = {}

    @cam_method
    def keep(activations, gradients):
        run.update(a=activations, g=gradients)
        return activations.sum(1)

    explain(net, images, keep, 1, ["layer2"])
    weights = run["g"].mean((2, 3), keepdim=True).expand_as(run["a"])
    close(maps.maps["gradcam_eigen", "layer2"][:, 0], eigengradcam(run["a"], weights))


def test_eigen_applies_where_channels_are_added_up(net, images):
    @cam_method
    def mine(activations, gradients):
        return channel_sum(gradients, activations)

    @cam_method
    def stubborn(activations):
        return activations.sum(1)

    maps = explain(net, images, [(mine, {"smooth": "eigen"}), "eigengradcam"], 1, ["layer2"]).maps
    close(maps["mine_eigen", "layer2"], maps["eigengradcam", "layer2"])
    with pytest.raises(ValueError, match="smoothing 'eigen' does not apply to 'stubborn_eigen'"):
        explain(net, images, (stubborn, {"smooth": "eigen"}), 1, ["layer2"])
    # and the switch is off again
    close(explain(net, images, mine, 1, ["layer2"]).maps["mine", "layer2"],
          explain(net, images, "hirescam", 1, ["layer2"]).maps["hirescam", "layer2"])  # fmt: skip


def test_plain_and_smoothed_side_by_side(net, images, protect):
    check = protect(net)
    names = ["layercam+aug", "gradcam", "gradcam+aug+eigen", "gradcam++"]
    result = explain(net, images, names, "top_2", ["layer2", "layer4"])
    check()
    keys = ["layercam_aug", "gradcam", "gradcam_aug_eigen", "gradcampp"]
    assert list(result.maps) == [(m, layer) for m in keys for layer in ("layer2", "layer4")]
    alone = explain(net, images, "gradcam", "top_2", ["layer2", "layer4"])
    for layer in ("layer2", "layer4"):
        close(result.maps["gradcam", layer], alone.maps["gradcam", layer])
    assert torch.equal(result.targets, alone.targets)
    torch.testing.assert_close(result.scores, alone.scores)


def test_only_smoothed_methods_still_know_targets_and_scores(net, images):
    result = explain(net, images, ["gradcam+aug"], "predicted")
    assert torch.equal(result.targets[:, 0], net(images).argmax(1))
    assert result.scores.isfinite().all()
    assert list(result.maps) == [("gradcam_aug", "layer4")]


def test_gaps_stay_gaps(net, images):
    result = explain(net, images, ["gradcam+aug"], torch.tensor([[1], [-1]]), ["layer2"])
    maps = result.maps["gradcam_aug", "layer2"]
    assert maps[0].isfinite().all()
    assert maps[1].isnan().all()


@pytest.mark.parametrize(
    ("text", "key", "smooth"),
    [
        ("gradcam+aug", "gradcam_aug", ("aug",)),
        ("GradCAM++ + Noise", "gradcampp_noise", ("noise",)),
        ("gradcam+++aug", "gradcampp_aug", ("aug",)),
        (("gradcam", {"smooth": "aug"}), "gradcam_aug", ("aug",)),
        (("gradcam", {"smooth": ["eigen", "aug"]}), "gradcam_aug_eigen", ("aug", "eigen")),
        (("eigencam", {"component": 2, "smooth": "aug"}), "eigencam_aug", ("aug",)),
        (("gradcam", {"smooth": None}), "gradcam", ()),
    ],
)
def test_names_of_smoothed_methods(text, key, smooth):
    (method,) = resolve_methods([text])
    assert (method.key, method.smooth) == (key, smooth)


def test_unknown_smoothing():
    with pytest.raises(ValueError, match="smoothing 'blur' is unknown; choose from aug, noise"):
        resolve_methods("gradcam+blur")


def test_a_fixed_input_size_refuses_other_scales(images):
    from torchvision.models.vision_transformer import VisionTransformer

    net = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4).eval()
    torch.nn.init.normal_(net.heads.head.weight)
    with pytest.raises(ValueError, match="'multiscale' needs a network .* Wrong image height"):
        explain(net, images[..., :32], "gradcam_elementwise+multiscale", 0)


def test_a_targets_mask_is_mirrored_with_its_image():
    from torch import nn

    from cam_core import SegmentationModel, mask_target

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 3, 1)
            self.a.weight.data = self.a.weight.data + self.a.weight.data.flip(-1)

        def forward(self, x):
            scores = self.b(self.a(x).relu())
            return {"out": nn.functional.interpolate(scores, size=x.shape[-2:], mode="nearest")}

    net, batch, mask = (
        SegmentationModel(Net().eval()),
        torch.randn(2, 3, 16, 16),
        torch.zeros(2, 16, 16),
    )
    mask[:, 2:6, 2:6] = 1
    key = ("gradcam_aug", "a")
    one = explain(net, batch, ["gradcam+aug"], mask_target(1, mask), ["a"]).maps[key]
    other = explain(
        net, batch.flip(-1), ["gradcam+aug"], mask_target(1, mask.flip(-1)), ["a"]
    ).maps[key]
    # An even width on a stride of two: the mirrored grid is half a cell off, so inside only.
    close(other.flip(-1), one, rel=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_whether_eigen_applies_is_declared_right(net, images, name):
    """What a method says of itself, and whether channels are added up when it runs."""
    refused = pytest.raises(ValueError, match="adds up no channels")
    with contextlib.nullcontext() if INFOS[name].sums_channels else refused, eigen_smoothing(name):
        explain(net, images[:1], (name, QUICK.get(name, {})), 1)


EIGHT = [
    "gradcam",
    "gradcampp",
    "xgradcam",
    "layercam",
    "ablationcam",
    "hirescam",
    "eigencam",
    "fem",
]


def test_a_list_with_one_that_has_no_sum_is_smoothed_and_that_one_left(net, images):
    with pytest.warns(UserWarning, match="eigencam: smoothing 'eigen' was left out"):
        result = explain(net, images, [f"{m}+aug+eigen" for m in EIGHT], 1, ["layer2"])
    keys = [method for method, _ in result.maps]
    assert keys == [f"{m}_aug_eigen" if m != "eigencam" else "eigencam_aug" for m in EIGHT]
    alone = explain(net, images, ["eigencam+aug", "gradcam+aug+eigen"], 1, ["layer2"]).maps
    for key in alone:
        close(result.maps[key], alone[key])


def test_eigen_for_none_that_has_a_sum_is_refused(net, images):
    message = "'eigencam', 'rise', which adds up no channels"
    with pytest.raises(ValueError, match=message):
        explain(net, images, ["eigencam+eigen", "rise+aug+eigen", "gradcam"], 1, ["layer2"])
    with pytest.raises(ValueError, match="'eigencam_aug' is given twice"):
        explain(net, images, ["eigencam+aug", "eigencam+aug+eigen", "fem+eigen"], 1, ["layer2"])
