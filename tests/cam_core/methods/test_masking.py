"""Score-CAM and its relatives: numbers by hand, naive references in double, other libraries."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from perturbation_common import (
    ONES,
    SCORED,
    TARGET,
    A,
    Probe,
    after_layer,
    close,
    layer_of,
    pixel,
    rng,
)
from torch import nn

from cam_core import explain
from cam_core.methods.catalogue import resolve_methods
from cam_core.methods.masking import _blurred, groupcam, iscam, scorecam, sscam


@pytest.fixture
def net(toys):
    return toys.DeepNet().eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 20, 28)


def naive_score_weights(net, activations, images, target, looks):
    """One channel and one image at a time, in double: softmax over channels of the mean score."""
    weights = []
    for a, image, t in zip(activations, images, target, strict=True):
        scores = []
        for channel in a:
            mask = F.interpolate(channel[None, None], size=image.shape[1:], mode="bilinear")[0, 0]
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            scores.append(sum(net(look(image, mask)[None])[0, t] for look in looks) / len(looks))
        weights.append(torch.stack(scores).softmax(0))
    return torch.stack(weights)


# Score-CAM ---------------------------------------------------------------------------------------


def test_scorecam_by_hand():
    """H_1 = A_1 / 3 and H_2 = A_2 / 4; the score is twice the first pixel: 2/3 and 0."""
    first = math.exp(2 / 3) / (math.exp(2 / 3) + 1)
    expected = first * A[:, 0] + (1 - first) * A[:, 1]
    torch.testing.assert_close(scorecam(A, ONES, Probe(2 * pixel(0, 0))), expected)


def test_scorecam_probability_by_hand():
    """The authors' code: what the forward returns is the weight, 1/3 and 0."""
    probe = Probe(pixel(0, 0))
    result = scorecam(A, ONES, probe, weighting="probability")
    torch.testing.assert_close(result, A[:, 0] / 3)
    assert probe.probabilities == [True]


def test_scorecam_multiplies_the_image_by_the_mask():
    probe = Probe(pixel(0, 0))
    images = torch.randn(1, 3, 2, 2)
    scorecam(A, images, probe)
    close(torch.cat(probe.seen), images * torch.stack([A[0, 0] / 3, A[0, 1] / 4])[:, None])


def test_scorecam_is_the_naive_loop_in_double(net, images):
    result = explain(net, images, "scorecam", TARGET, ["features"]).maps["scorecam", "features"]
    double = net.double()
    with torch.no_grad():
        activations = layer_of(double, images.double())
        weights = naive_score_weights(
            double, activations, images.double(), TARGET, [lambda image, mask: image * mask]
        )
    expected = torch.einsum("nc,nchw->nhw", weights, activations)
    close(result[:, 0].double(), expected, rel=1e-4)


def test_scorecam_probability_is_the_naive_loop(net, images):
    method = ("scorecam", {"weighting": "probability"})
    result = explain(net, images, method, TARGET, ["features"]).maps["scorecam", "features"]
    activations = layer_of(net, images)
    masks = F.interpolate(activations, size=(20, 28), mode="bilinear")
    low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
    masks = (masks - low) / (high - low)
    with torch.no_grad():
        seen = (images[:, None] * masks[:, :, None]).flatten(0, 1)
        probabilities = net(seen).softmax(1).unflatten(0, masks.shape[:2])
    weights = probabilities[torch.arange(3), :, TARGET]
    close(result[:, 0], torch.einsum("nc,nchw->nhw", weights, activations), rel=1e-4)


def test_scorecam_does_not_depend_on_the_bias():
    """It cancels in the softmax, so that no black image is scored; nor does a negative score matter."""
    expected = scorecam(A, ONES, Probe(pixel(0, 0)))
    probe = Probe(pixel(0, 0), bias=-100.0)
    close(scorecam(A, ONES, probe), expected, rel=1e-4)
    assert len(torch.cat(probe.seen)) == 2


@pytest.mark.parametrize("value", [0.0, 0.3, -7.7, 1e-20, 1e20])
def test_constant_channels_take_no_part(value):
    probe = Probe(pixel(0, 0))
    more = torch.cat([A, torch.full((1, 1, 2, 2), value)], 1)
    assert torch.equal(scorecam(more, ONES, probe), scorecam(A, ONES, Probe(pixel(0, 0))))
    assert len(probe.rows) == 2


@pytest.mark.parametrize("weighting", ["logit", "probability"])
def test_all_channels_constant_gives_zero_without_a_forward(weighting):
    probe = Probe(pixel(0, 0))
    result = scorecam(
        torch.full((2, 4, 3, 3), 0.3), torch.ones(2, 3, 6, 6), probe, weighting=weighting
    )
    assert torch.equal(result, torch.zeros(2, 3, 3))
    assert probe.rows == []


def test_one_image_without_channels_leaves_the_other_alone():
    activations = torch.cat([A, torch.zeros_like(A)])
    result = scorecam(activations, ONES.expand(2, 3, 2, 2), Probe(pixel(0, 0)))
    assert torch.equal(result[1], torch.zeros(2, 2))
    torch.testing.assert_close(result[:1], scorecam(A, ONES, Probe(pixel(0, 0))))


def test_top_channels_are_the_strongest():
    activations = (
        torch.rand(2, 6, 4, 4) * torch.tensor([3.0, 1.0, 9.0, 2.0, 8.0, 0.1])[:, None, None]
    )
    activations[:, 5, 0, 0] = 12.0  # the highest peak, but not the highest mean
    activations = torch.cat([activations, torch.full((2, 1, 4, 4), 100.0)], 1)  # constant: no mask
    images, weights = torch.randn(2, 3, 4, 4), torch.randn(3, 4, 4)
    probe = Probe(weights)
    result = scorecam(activations, images, probe, top_channels=3)
    torch.testing.assert_close(result, scorecam(activations[:, [0, 2, 4]], images, Probe(weights)))
    assert sorted(probe.rows) == [0, 0, 0, 1, 1, 1]
    every = scorecam(activations, images, Probe(weights), top_channels=99)
    assert torch.equal(every, scorecam(activations, images, Probe(weights)))


@pytest.mark.parametrize("name", SCORED)
def test_signed_activations_count_where_they_are_positive(name):
    function, own = resolve_methods(name)[0].function, [rng()] if name == "sscam" else []
    signed = torch.cat([A - 1.5, -A], 1)  # two channels that are positive somewhere, two nowhere
    images, weights = torch.randn(1, 3, 2, 2), torch.randn(3, 2, 2)
    probe = Probe(weights)
    result = function(signed, images, probe, *own)
    own = [rng()] if name == "sscam" else []
    expected = function((A - 1.5).relu(), images, Probe(weights), *own)
    torch.testing.assert_close(result, expected)
    assert (result >= 0).all()
    assert len(torch.cat(probe.seen)) % 2 == 0


def test_scorecam_before_and_after_a_relu_is_the_same(toys, images):
    maps = explain(toys.GapNet().eval(), images, "scorecam", TARGET, ["conv", "relu"]).maps
    torch.testing.assert_close(maps["scorecam", "conv"], maps["scorecam", "relu"])


def test_a_grid_finer_than_the_image_makes_no_nan():
    activations = torch.zeros(1, 2, 8, 8)
    activations[0, 0, 0, 0] = 1.0  # lies between the sampled positions
    activations[0, 1] = torch.rand(8, 8)
    assert scorecam(activations, ONES, Probe(pixel(0, 0))).isfinite().all()


# SS-CAM and IS-CAM -------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_on", ["mask", "image"])
def test_sscam_without_noise_is_scorecam(noise_on):
    result = sscam(A, ONES, Probe(pixel(0, 0)), rng(), samples=2, sigma=0.0, noise_on=noise_on)
    torch.testing.assert_close(result, scorecam(A, ONES, Probe(pixel(0, 0))))


@pytest.mark.parametrize("noise_on", ["mask", "image"])
def test_sscam_is_the_naive_loop_in_double(net, images, noise_on):
    options = {"samples": 4, "sigma": 0.5, "noise_on": noise_on}
    result = explain(net, images, ("sscam", options), TARGET, ["features"], seed=7)
    shape = (4, 1 if noise_on == "mask" else 3, 20, 28)
    noise = 0.5 * torch.randn(shape, generator=rng(7)).double()

    def look(draw, image, mask):
        return image * (mask + draw) if noise_on == "mask" else image * mask + draw

    double = net.double()
    with torch.no_grad():
        activations = layer_of(double, images.double())
        looks = [functools.partial(look, draw) for draw in noise]
        weights = naive_score_weights(double, activations, images.double(), TARGET, looks)
    expected = torch.einsum("nc,nchw->nhw", weights, activations)
    close(result.maps["sscam", "features"][:, 0].double(), expected, rel=1e-4)


def test_sscam_is_seeded(net, images):
    run = lambda seed: explain(net, images, ("sscam", {"samples": 2}), 1, ["features"], seed=seed)  # noqa: E731
    first, again, other = (run(seed).maps["sscam", "features"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def scales(probe):
    """The first channel's mask is 1 at the last pixel: what the image was multiplied by there."""
    return [float(batch[0, 0, 1, 1]) for batch in probe.seen]


def test_iscam_steps_of_the_paper():
    probe = Probe(pixel(1, 1))
    iscam(A, ONES, probe)
    assert scales(probe) == pytest.approx([0.1, 0.3, 0.6, 1.0, 1.5, 2.1, 2.8, 3.6, 4.5])


def test_iscam_linear_steps():
    probe = Probe(pixel(1, 1))
    iscam(A, ONES, probe, samples=4, path="linear")
    assert scales(probe) == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_iscam_by_hand():
    """Linear scores: the sum of the steps over n times the score, 16.5 / 10 and 2.5 / 4."""
    for options, factor in (({}, 1.65), ({"samples": 4, "path": "linear"}, 0.625)):
        expected = scorecam(A, ONES, Probe(factor * pixel(0, 0)))
        torch.testing.assert_close(iscam(A, ONES, Probe(pixel(0, 0)), **options), expected)


def test_iscam_of_one_linear_step_is_scorecam(net, images):
    methods = ["scorecam", ("iscam", {"samples": 1, "path": "linear"})]
    maps = explain(net, images, methods, TARGET, ["features"]).maps
    torch.testing.assert_close(maps["iscam", "features"], maps["scorecam", "features"])


# Group-CAM ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 70), (51, 52)])
def test_blur_is_torchvisions(size):
    transforms = pytest.importorskip("torchvision.transforms.functional")
    images = torch.randn(2, 3, *size)
    expected = transforms.gaussian_blur(images, [51, 51], [50.0, 50.0])
    torch.testing.assert_close(_blurred(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (20, 28)])
def test_blur_of_small_images(size):
    assert _blurred(torch.randn(1, 3, *size)).shape == (1, 3, *size)
    flat = torch.full((1, 3, *size), 0.7)
    torch.testing.assert_close(_blurred(flat), flat)


def naive_groupcam(activations, gradients, image, forward, groups, percentile):
    """As the authors' code, one group at a time; their sum is on the image's pixels."""
    weighted = gradients.mean((1, 2), keepdim=True) * activations
    base = forward(_blurred(image[None]))[0]
    total = torch.zeros(image.shape[1:], dtype=image.dtype)
    for group in weighted.chunk(groups, 0):
        mask = group.sum(0).relu()
        threshold = float(np.percentile(mask.numpy(), percentile))
        mask = torch.where(mask > threshold, mask, torch.zeros_like(mask))
        mask = F.interpolate(mask[None, None], size=image.shape[1:], mode="bilinear")[0, 0]
        if mask.max() == mask.min():
            continue
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        mixed = image * mask + _blurred(image[None])[0] * (1 - mask)
        total += (forward(mixed[None])[0] - base) * mask
    return total


@pytest.mark.parametrize(("groups", "percentile"), [(3, 70.0), (2, 0.0), (6, 40.0)])
def test_groupcam_is_the_authors_code(net, images, groups, percentile):
    options = {"groups": groups, "percentile": percentile}
    result = explain(net, images, ("groupcam", options), TARGET, ["features"])
    ours = F.interpolate(result.maps["groupcam", "features"], size=(20, 28), mode="bilinear")[:, 0]
    activations = layer_of(net, images).requires_grad_()
    score = after_layer(net, activations).gather(1, TARGET[:, None]).sum()
    (gradients,) = torch.autograd.grad(score, activations)
    for row, target in enumerate(TARGET.tolist()):
        with torch.no_grad():
            expected = naive_groupcam(
                activations[row].detach(),
                gradients[row],
                images[row],
                lambda batch, t=target: net(batch).softmax(1)[:, t],
                groups,
                percentile,
            )
        assert expected.abs().max() > 0
        close(ours[row], expected, rel=1e-3)


def test_groupcam_zero_gradient_is_zero():
    probe = Probe(torch.randn(3, 6, 6))
    result = groupcam(
        torch.rand(2, 5, 3, 3), torch.zeros(2, 5, 3, 3), torch.rand(2, 3, 6, 6), probe
    )
    assert torch.equal(result, torch.zeros(2, 3, 3))
    assert len(probe.seen) == 1  # the blurred images only


def test_groupcam_signed():
    """A group whose place lowers the score counts against; nothing to say for an unchanged score."""
    activations = torch.zeros(1, 1, 4, 4)
    activations[0, 0, 1, 1] = 1.0
    image, gradients = torch.rand(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    image[0, 0, 1, 1] = 9.0
    against = groupcam(activations, gradients, image, Probe(-pixel(1, 1, (4, 4))))
    assert against[0, 1, 1] < 0
    unchanged = groupcam(activations, gradients, image, Probe(torch.zeros(3, 4, 4), bias=0.4))
    assert torch.equal(unchanged, torch.zeros(1, 4, 4))


# Other libraries ---------------------------------------------------------------------------------


@pytest.fixture
def same_size():
    """The layer is as large as the image: then it does not matter how others enlarge their masks."""
    layer = nn.Sequential(nn.Conv2d(3, 7, 3, 1, 1), nn.ReLU())
    head = nn.Sequential(nn.Conv2d(7, 5, 3, 2, 1), nn.Tanh(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    return nn.Sequential(layer, head, nn.Linear(5, 4)).eval()


@pytest.mark.oracle
def test_torchcam_scorecam(same_size):
    torchcam = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    images, target = torch.randn(2, 3, 16, 16), torch.tensor([1, 3])
    with torch.no_grad(), torchcam.ScoreCAM(same_size, "0", input_shape=(3, 16, 16)) as extractor:
        theirs = extractor(target.tolist(), same_size(images), normalized=False)[0]
    ours = explain(same_size, images, "scorecam", target, ["0"]).maps["scorecam", "0"][:, 0]
    close(ours, theirs, rel=1e-4)


@pytest.mark.oracle
def test_torchcam_sscam_under_the_same_noise(same_size):
    torchcam = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    images = torch.randn(1, 3, 16, 16)
    noise = 0.7 * torch.randn((3, 1, 16, 16), generator=rng())
    with (
        torch.no_grad(),
        torchcam.SSCAM(same_size, "0", num_samples=3, input_shape=(3, 16, 16)) as cam,
    ):
        draws = iter(noise)
        cam._distrib.sample = lambda size: next(draws).expand(size)
        theirs = cam([2], same_size(images), normalized=False)[0]
    options = {"samples": 3, "sigma": 0.7}
    ours = explain(same_size, images, ("sscam", options), 2, ["0"]).maps["sscam", "0"][:, 0]
    close(ours, theirs, rel=1e-4)


@pytest.mark.oracle
def test_gradcam_library_scorecam(same_size):
    module = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    image = torch.randn(1, 3, 16, 16)
    layer = same_size[0]
    with torch.no_grad():
        activations = layer(image)
    with module.ScoreCAM(same_size, [layer]) as cam:
        weights = cam.get_cam_weights(
            image, layer, [targets.ClassifierOutputTarget(2)], activations.numpy(), None
        )
    theirs = torch.einsum("nc,nchw->nhw", torch.as_tensor(weights).reshape(1, -1), activations)
    close(explain(same_size, image, "scorecam", 2, ["0"]).maps["scorecam", "0"][:, 0], theirs, 1e-4)
