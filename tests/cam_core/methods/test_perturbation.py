"""Recipro-CAM, Ablation-CAM, occlusion, RISE: numbers by hand, identities, naive references."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from perturbation_common import (
    TARGET,
    A,
    Probe,
    after_layer,
    close,
    layer_of,
    pixel,
    rng,
)

from cam_core import explain
from cam_core.capture.head import Head
from cam_core.methods.perturbation import _shifted_masks, ablationcam, occlusion, reciprocam, rise


@pytest.fixture
def net(toys):
    return toys.DeepNet().eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 20, 28)


# Recipro-CAM -------------------------------------------------------------------------------------


def gap_tail(weights, bias=0.0):
    return lambda changed, rows: (weights * changed.mean((2, 3))).sum(1) + bias


@pytest.mark.parametrize("bias", [0.0, -50.0])
def test_reciprocam_by_hand(bias):
    """Alone, a position scores (2 A_1 - A_2) / 4: 0.5, 0.75, -1, 1.5; the least is subtracted."""
    expected = torch.tensor([[[1.5, 1.75], [0.0, 2.5]]])
    weights = torch.tensor([[2.0, -1.0]])
    close(reciprocam(A, None, gap_tail(weights, bias)), expected, rel=1e-4)
    torch.testing.assert_close(reciprocam(A, Head(weights, A), None), expected)


def test_reciprocam_gaussian_by_hand():
    """Of a position 4/16, of those beside 2/16, at the corners 1/16; then the mean over four."""
    tail = gap_tail(torch.tensor([[1.0, 0.0]]))
    expected = torch.tensor([[[11.0, 16.0], [10.0, 17.0]]]) / 64
    close(reciprocam(A, None, tail, gaussian=True), expected - 10 / 64)
    head = Head(torch.tensor([[1.0, 0.0]]), A)  # its closed form is for masks of one position
    close(reciprocam(A, head, tail, gaussian=True), expected - 10 / 64)


def test_reciprocam_before_pooling_is_cam(toys, images):
    net = toys.GapNet().eval()
    maps = explain(net, images, ["cam", "reciprocam"], TARGET, ["relu"]).maps
    cam = maps["cam", "relu"] / maps["cam", "relu"][0, 0].numel()
    close(maps["reciprocam", "relu"], cam - cam.amin((2, 3), keepdim=True), rel=1e-4)
    for row, index in enumerate(TARGET.tolist()):  # a callable hides the head: the tail is replayed
        replayed = explain(net, images, "reciprocam", lambda out, i=index: out[:, i], ["relu"]).maps
        close(replayed["reciprocam", "relu"][row], maps["reciprocam", "relu"][row], rel=1e-3)


@pytest.mark.parametrize("gaussian", [False, True])
def test_reciprocam_is_the_naive_loop(net, images, gaussian):
    result = explain(net, images, ("reciprocam", {"gaussian": gaussian}), TARGET, ["features"])
    layer = layer_of(net, images).detach()
    height, width = layer.shape[2:]
    expected = torch.zeros(3, height, width)
    line = {-1: 0.5, 0: 1.0, 1: 0.5} if gaussian else {0: 2.0}
    for i in range(height):
        for j in range(width):
            mask = torch.zeros(height, width)
            for down, a in line.items():
                for across, b in line.items():
                    if 0 <= i + down < height and 0 <= j + across < width:
                        mask[i + down, j + across] = a * b / 4
            with torch.no_grad():
                expected[:, i, j] = after_layer(net, layer * mask)[torch.arange(3), TARGET]
    expected = expected - expected.amin((1, 2), keepdim=True)
    close(result.maps["reciprocam", "features"][:, 0], expected, rel=1e-4)


def test_reciprocam_flat_layer_has_no_place():
    layer = torch.full((2, 3, 5, 5), 1 / 3)
    weights = torch.randn(2, 3)
    assert torch.equal(reciprocam(layer, Head(weights, layer), None), torch.zeros(2, 5, 5))


def test_reciprocam_takes_rounding_for_none():
    """Scores that differ in their last bit only would make a map of noise."""

    def tail(changed, rows):
        return torch.tensor([5.0, 5.0000005]).repeat(8)[: len(changed)]

    assert torch.equal(reciprocam(torch.rand(1, 2, 4, 4), None, tail), torch.zeros(1, 4, 4))


# Occlusion ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [0.0, 0.5, [0.1, -0.2, 0.3]])
def test_occlusion_of_single_pixels_is_the_linear_models_attribution(baseline):
    images, weights = torch.randn(2, 3, 5, 6), torch.randn(3, 5, 6)
    probe = Probe(weights, bias=-3.0)
    score = probe(images, [0, 1])
    result = occlusion(images, score, probe, window=1, stride=1, baseline=baseline)
    cover = torch.as_tensor(baseline).reshape(-1, 1, 1)
    close(result, (weights * (images - cover)).sum(1), rel=1e-4)


def test_occlusion_by_hand():
    """One row 1 2 3 4, the score its sum; windows of 3 by 2: (1 2 3), then (3 4), cut off."""
    images = torch.zeros(1, 3, 1, 4)
    images[0, 0, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    probe = Probe(torch.ones(3, 1, 4))
    result = occlusion(images, torch.tensor([10.0]), probe, window=(1, 3), stride=(1, 2))
    torch.testing.assert_close(result, torch.tensor([[[6.0, 6.0, 6.5, 7.0]]]))
    assert len(probe.rows) == 2


def test_occlusion_covers_every_pixel_by_default():
    probe = Probe(torch.ones(3, 224, 230))
    images = torch.ones(1, 3, 224, 230)
    result = occlusion(images, probe(images, [0]), probe, batch_size=13)
    assert result.isfinite().all()
    assert (result > 0).all()
    assert 165 < len(probe.rows) < 190


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("window", "stride", "baseline"), [((7, 5), (3, 4), 0.0), (6, 6, 0.3), ((20, 9), (2, 5), 0.0)]
)
def test_captum_occlusion(net, images, window, stride, baseline):
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    pair = lambda v: (v, v) if isinstance(v, int) else v  # noqa: E731
    theirs = captum.Occlusion(net).attribute(
        images,
        sliding_window_shapes=(3, *pair(window)),
        strides=(3, *pair(stride)),
        baselines=baseline,
        target=TARGET,
        perturbations_per_eval=4,
    )
    options = {"window": window, "stride": stride, "baseline": baseline}
    ours = explain(net, images, ("occlusion", options), TARGET).maps["occlusion", "input"][:, 0]
    # Small differences of scores: float32 leaves four digits of them.
    close(ours, theirs[:, 0].detach(), rel=2e-3)
    assert (theirs[:, 0] == theirs[:, 2]).all()


# RISE --------------------------------------------------------------------------------------------


def test_rise_masks_are_the_authors():
    """cv2 enlarges a grid to one cell more than the image has; a window is cut at the shift."""
    size, grid = (20, 31), 4
    cells, shifts = (torch.rand(9, 1, grid, grid) < 0.5).float(), torch.rand(9, 2)
    masks = _shifted_masks(cells, shifts, size)
    cell = (math.ceil(20 / grid), math.ceil(31 / grid))
    for mask, own, shift in zip(masks, cells[:, 0].numpy(), shifts, strict=True):
        large = cv2.resize(own, ((grid + 1) * cell[1], (grid + 1) * cell[0]))
        y, x = int(shift[0] * cell[0]), int(shift[1] * cell[1])
        np.testing.assert_allclose(mask, large[y : y + 20, x : x + 31], atol=1e-5)


@pytest.mark.parametrize("center", [False, True])
def test_rise_is_the_naive_sum_in_double(net, images, center):
    options = {"samples": 30, "grid": 5, "keep": 0.4, "center": center, "batch_size": 7}
    result = explain(net, images, ("rise", options), TARGET, seed=3).maps["rise", "input"][:, 0]
    generator = rng(3)
    cells = (torch.rand(30, 1, 5, 5, generator=generator) < 0.4).float()
    shifts = torch.rand(30, 2, generator=generator)
    masks = _shifted_masks(cells, shifts, (20, 28)).double()
    double = net.double()
    with torch.no_grad():
        for row, target in enumerate(TARGET.tolist()):
            p = double(images[row].double() * masks[:, None]).softmax(1)[:, target]
            p = p - p.mean() if center else p
            expected = (p[:, None, None] * masks).sum(0) / masks.sum(0)
            close(result[row].double(), expected, rel=1e-3)


def test_rise_of_a_constant_score():
    options = {"samples": 20, "grid": 3}
    probe = Probe(torch.zeros(3, 9, 9), bias=0.25)
    images = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(rise(images, probe, rng(), **options), torch.zeros(2, 9, 9))
    plain = rise(images, probe, rng(), center=False, **options)
    torch.testing.assert_close(plain, torch.full((2, 9, 9), 0.25))
    assert all(probe.probabilities)


def test_rise_finds_the_one_pixel_that_counts():
    probe = Probe(pixel(15, 6, (21, 21)))
    result = rise(torch.ones(1, 3, 21, 21), probe, rng(), samples=600)[0]
    y, x = divmod(int(result.argmax()), 21)
    assert abs(y - 15) <= 1
    assert abs(x - 6) <= 1
    # Conditional on the pixel being fully shown its mask is 1, on average about keep.
    assert 0.1 < float(result.max()) < 0.5
    assert float(result[:8, 12:].abs().max()) < 0.25 * float(result.max())


@pytest.mark.parametrize("keep", [0.2, 0.7])
def test_rise_masks_keep_that_share(keep):
    shares = []

    def forward(batch, rows, probability):
        shares.append(batch.mean((1, 2, 3)))
        return batch.new_zeros(len(batch))

    rise(torch.ones(1, 3, 28, 28), forward, rng(), samples=400, keep=keep)
    assert float(torch.cat(shares).mean()) == pytest.approx(keep, abs=0.02)


def test_rise_where_no_mask_shows_a_pixel_is_zero():
    result = rise(
        torch.ones(1, 3, 14, 14), Probe(torch.ones(3, 14, 14)), rng(), samples=1, keep=0.05
    )
    assert result.isfinite().all()


# Ablation-CAM ------------------------------------------------------------------------------------


def test_ablationcam_by_tail_survives_little_memory():
    """The row that is not ablated comes with every chunk, however small."""
    activations = torch.rand(1, 9, 3, 3)
    weights = torch.randn(1, 9)

    def cramped(changed, rows):
        if len(changed) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return (weights * changed.mean((2, 3))).sum(1)

    score = (weights * activations.mean((2, 3))).sum(1)
    closed = ablationcam(activations, score, Head(weights, activations), None)
    torch.testing.assert_close(
        ablationcam(activations, score, None, cramped), closed, rtol=1e-4, atol=1e-5
    )
