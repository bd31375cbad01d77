"""Concepts and channels: closed forms, hand numbers, other implementations, edge cases."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F

from cam_core import explain
from cam_core.capture.head import Head
from cam_core.linalg import factorise
from cam_core.methods.registry import Components
from cam_core.methods.structure import activations as activation_map
from cam_core.methods.structure import deep_feature_factorization as dff

A = torch.tensor([[[[1.0, 2.0], [0.0, 3.0]], [[0.0, -1.0], [4.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]]])


def relu_layer(count=3, channels=12, height=5, width=6):
    return torch.randn(count, channels, height, width).relu()


def planted(count=2, channels=10, height=6, width=6):
    """A layer made of three concepts that share neither places nor channels."""
    places = torch.zeros(count, 3, height, width)
    places[:, 0, :2] = 1 + torch.rand(count, 2, width)
    places[:, 1, 2:4] = 2 * (1 + torch.rand(count, 2, width))
    places[:, 2, 4:] = 4 * (1 + torch.rand(count, 2, width))
    channels_of = torch.zeros(3, channels)
    channels_of[0, :3], channels_of[1, 3:6], channels_of[2, 6:] = 1.0, 1.0, 1.0
    channels_of = channels_of / channels_of.norm(dim=1, keepdim=True)
    return torch.einsum("njhw,jc->nchw", places, channels_of), places, channels_of


# Non-negative matrix factorisation ---------------------------------------------------------------


def error(matrix, left, right):
    return (matrix - left @ right).flatten(1).norm(dim=1)


def test_factorise_recovers_what_was_planted():
    layer, places, channels = planted()
    left, right = factorise(layer.flatten(2).mT, 3)
    order = [2, 1, 0]  # the strongest first
    torch.testing.assert_close(left, places[:, order].flatten(2).mT, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(right, channels[order].expand(2, -1, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 12, 30), (2, 30, 12)])
def test_factors_have_their_form_and_fit(shape):
    matrix = torch.randn(shape).relu()
    left, right = factorise(matrix, 4)
    assert (left >= 0).all()
    assert (right >= 0).all()
    torch.testing.assert_close(right.norm(dim=2), torch.ones(2, 4))
    assert (left.norm(dim=1).diff(dim=1) <= 0).all()
    # Non-negative factors cannot beat the singular vectors, and one of them is as good.
    best = torch.linalg.svdvals(matrix)[:, 4:].square().sum(1).sqrt()
    assert (error(matrix, left, right) >= best * (1 - 1e-5)).all()
    one = factorise(matrix, 1)
    first = torch.linalg.svdvals(matrix)[:, 1:].square().sum(1).sqrt()
    torch.testing.assert_close(error(matrix, *one), first)


def test_factors_are_stationary():
    """Karush-Kuhn-Tucker: no gradient where a factor is positive, none downhill where it is zero."""
    matrix = torch.rand(2, 15, 8, dtype=torch.float64)
    left, right = factorise(matrix, 3, iterations=3000)
    gradient = (left @ right - matrix) @ right.mT
    assert gradient[left > 1e-6].abs().max() < 1e-4
    assert gradient.min() > -1e-4


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e25])
def test_factorise_at_any_scale(scale):
    matrix = torch.randn(2, 12, 9).relu()
    left, right = factorise(matrix, 3)
    scaled = factorise(matrix * scale, 3)
    torch.testing.assert_close(scaled[0] / scale, left, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scaled[1], right, rtol=1e-3, atol=1e-3)


def test_factors_beyond_the_rank_are_zero():
    matrix = torch.rand(1, 12, 2) @ torch.rand(1, 2, 9)
    left, right = factorise(matrix[:, :, :1] @ matrix[:, :1], 3)
    assert left[..., 0].any()
    assert not left[..., 1:].any()
    assert not right[:, 1:].any()
    assert not any(f.any() for f in factorise(torch.zeros(1, 4, 5), 2))


@pytest.mark.oracle
@pytest.mark.parametrize(("height", "channels", "concepts"), [(7, 64, 5), (6, 16, 6), (10, 40, 4)])
def test_error_is_no_larger_than_sklearn(height, channels, concepts):
    decomposition = pytest.importorskip("sklearn.decomposition")
    for layer in (
        relu_layer(3, channels, height, height),
        relu_layer(3, channels, height, height) ** 3,
    ):
        matrix = layer.flatten(2).mT
        ours = error(matrix, *factorise(matrix, concepts))
        for number, one in enumerate(matrix):
            model = decomposition.NMF(concepts, init="nndsvda", max_iter=400, tol=1e-5)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # 400 rounds are enough to compare with
                model.fit(one.double().numpy())
            assert float(ours[number]) <= 1.02 * model.reconstruction_err_


# Deep feature factorization ----------------------------------------------------------------------


def test_concepts_are_what_was_planted():
    layer, places, _ = planted()
    found = dff(layer, None, concepts=3)
    assert list(found.names) == ["concept_1", "concept_2", "concept_3"]
    torch.testing.assert_close(found.maps, places[:, [2, 1, 0]], rtol=1e-4, atol=1e-4)
    energy = places[:, [2, 1, 0]].square().sum((2, 3))
    torch.testing.assert_close(found.scores, energy / energy.sum(1, keepdim=True))


def test_scores_of_a_linear_head_add_up_to_the_score():
    layer, _, _ = planted()
    weights = torch.randn(2, 10)
    found = dff(layer, Head(weights, layer), concepts=3)
    expected = (weights * layer.mean((2, 3))).sum(1)
    torch.testing.assert_close(found.scores.sum(1), expected, rtol=1e-4, atol=1e-4)
    # Concept 1 is what fills channels 6 to 9.
    first = (weights * layer.mean((2, 3)))[:, 6:].sum(1)
    torch.testing.assert_close(found.scores[:, 0], first, rtol=1e-4, atol=1e-4)


def test_from_explain(toys):
    net, images = toys.GapNet(channels=8).eval(), torch.rand(2, 3, 32, 32)
    result = explain(net, images, ("dff", {"concepts": 8}), 3, ["relu"])
    keys = [(f"deep_feature_factorization_concept_{j}", "relu") for j in range(1, 9)]
    assert list(result.maps) == keys
    scores = torch.stack([result.component_scores[key] for key in keys]).sum(0)
    # As many concepts as channels reproduce the layer, so that they and the bias are the score.
    torch.testing.assert_close(scores + net.fc.bias[3], result.scores, rtol=1e-2, atol=1e-2)
    bare = explain(net, images, ("dff", {"concepts": 8}), lambda out: out.sum(1), ["relu"])
    total = torch.stack([bare.component_scores[key] for key in keys]).sum(0)
    torch.testing.assert_close(total, torch.ones(2, 1))
    for key in keys:
        assert torch.equal(bare.maps[key], result.maps[key])  # a concept is no class


def test_signed_layers_are_shifted_others_are_not():
    layer = relu_layer()
    lifted = layer + 1  # no zero left, and nothing subtracted
    expected = factorise(lifted.flatten(2).mT, 5)[0].mT.reshape(3, 5, 5, 6)
    assert torch.equal(dff(lifted, None).maps, expected)
    signed = layer - torch.linspace(0, 2, 12)[:, None, None]
    low = signed.amin((2, 3), keepdim=True).clamp_max(0)
    torch.testing.assert_close(dff(signed, None).maps, dff(signed - low, None).maps)


def test_the_rest_of_the_batch_does_not_matter_unless_shared():
    layer = relu_layer()
    together = dff(layer, None).maps
    for n in range(3):
        torch.testing.assert_close(
            together[n : n + 1], dff(layer[n : n + 1], None).maps, rtol=1e-3, atol=1e-4
        )
    layer, places, _ = planted()
    layer[0] *= 0.5
    shared = dff(layer, None, concepts=3, shared=True)
    expected = places[:, [2, 1, 0]] * torch.tensor([0.5, 1.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(shared.maps, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(shared.scores.sum(1), torch.ones(2))


def test_shared_concepts_are_the_same_in_every_image():
    """The second image lacks the first concept: the others keep their numbers."""
    layer, places, channels = planted()
    places[1, 2] = 0
    layer = torch.einsum("njhw,jc->nchw", places, channels)
    shared = dff(layer, None, concepts=3, shared=True).maps
    assert shared[1, 0].abs().max() < 1e-3
    assert shared[1, 1:].amax((1, 2)).min() > 1


def test_flip_equivariance():
    layer = relu_layer()
    torch.testing.assert_close(
        dff(layer.flip(-1), None).maps.flip(-1), dff(layer, None).maps, rtol=1e-2, atol=1e-3
    )


def test_a_layer_has_no_more_concepts_than_channels_or_positions():
    assert dff(relu_layer(channels=3), None).maps.shape == (3, 3, 5, 6)
    assert dff(relu_layer(height=1, width=2), None).maps.shape == (3, 2, 1, 2)
    assert dff(relu_layer(height=1, width=2), None, shared=True).maps.shape == (3, 5, 1, 2)


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 7.7, 1e-20, 1e20])
def test_flat_layer(value):
    found = dff(torch.full((2, 6, 4, 4), value), None, concepts=3)
    assert found.maps.isfinite().all()
    assert found.scores.isfinite().all()
    assert not found.maps[:, 1:].any()  # one concept says it all
    spread = found.maps.amax((2, 3)) - found.maps.amin((2, 3))
    assert (spread <= 1e-4 * found.maps.amax((2, 3))).all()
    assert found.maps.any() == (value > 0)


def test_one_nan_image_leaves_the_others_alone():
    layer = relu_layer()
    expected = dff(layer, None)
    layer[1, 0, 0, 0] = torch.nan
    found = dff(layer, None)
    assert found.maps[1].isnan().all()
    torch.testing.assert_close(found.maps[[0, 2]], expected.maps[[0, 2]])
    torch.testing.assert_close(found.scores[[0, 2]], expected.scores[[0, 2]])


def test_state_and_precision(toys, protect, corr):
    net, images = toys.GapNet(channels=8).eval(), torch.rand(2, 3, 32, 32)
    net.requires_grad_(False)
    check = protect(net)
    options = ("dff", {"concepts": 2})
    exact = explain(net, images, options, 1, ["relu"]).maps
    half = explain(net, images, options, 1, ["relu"], precision="bfloat16").maps
    check()
    for key, found in exact.items():
        assert corr(found, half[key]) > 0.98


@pytest.mark.parametrize(
    ("option", "value"),
    [("concepts", 0), ("concepts", 2.5), ("concepts", True), ("iterations", 0)],
)
def test_bad_options(option, value):
    with pytest.raises(ValueError, match=option):
        dff(relu_layer(), None, **{option: value})


@pytest.mark.oracle
def test_gradcam_library_dff():
    """Where their random start gets there, their concepts up to order and scale are ours."""
    theirs = pytest.importorskip(
        "pytorch_grad_cam.feature_factorization.deep_feature_factorization"
    )
    compared = 0
    for seed in range(6):
        torch.manual_seed(seed)
        layer, _, _ = planted(1)
        features, explanations = theirs.dff(layer.numpy().copy(), 3)
        expected = torch.as_tensor(explanations)[0].flatten(1)
        if (
            torch.as_tensor(features) @ expected - layer[0].flatten(1)
        ).norm() > 0.01 * layer.norm():
            continue
        compared += 1
        ours = dff(layer, None, concepts=3).maps[0].flatten(1)
        similar = F.normalize(ours, dim=1) @ F.normalize(expected, dim=1).T
        assert sorted(similar.argmax(1).tolist()) == [0, 1, 2]
        assert similar.amax(1).min() > 0.999
    assert compared >= 2


# Activations -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[1.0, 1.0], [2.0, 5 / 3]]),
        ({"reduce": "max"}, [[2.0, 2.0], [4.0, 3.0]]),
        ({"reduce": "norm"}, [[5**0.5, 3.0], [20**0.5, 13**0.5]]),
        ({"channel": 1}, [[0.0, -1.0], [4.0, 0.0]]),
    ],
)
def test_activations_by_hand(options, expected):
    torch.testing.assert_close(activation_map(A, **options), torch.tensor([expected]))


def test_sheet_of_the_strongest_channels():
    """Means 1.5, 0.75 and 2."""
    found = activation_map(A, top=2)
    assert isinstance(found, Components)
    assert list(found.names) == ["1", "2"]
    assert torch.equal(found.maps, A[:, [2, 0]])
    assert found.scores.tolist() == [[2.0, 0.0]]
    layer = relu_layer(channels=20)
    sheet = activation_map(layer, top=16)
    means = sheet.maps.mean((2, 3))
    assert (means.diff(dim=1) <= 0).all()
    for n in range(3):
        torch.testing.assert_close(sheet.maps[n], layer[n, sheet.scores[n].long()])
        assert set(sheet.scores[n].long().tolist()) == set(
            layer[n].mean((1, 2)).argsort(descending=True)[:16].tolist()
        )


def test_sheet_of_given_channels():
    found = activation_map(A, channels=[2, 1])
    assert list(found.names) == ["2", "1"]
    assert torch.equal(found.maps, A[:, [2, 1]])


def test_activations_from_explain(toys):
    net, images = toys.DeepNet().eval(), torch.rand(2, 3, 32, 32)
    taken = []
    net.features.register_forward_hook(lambda m, a, out: taken.append(out.clone()))
    result = explain(
        net, images, ["activation_map", ("activations", {"top": 3})], "top_2", ["features"]
    )
    assert list(result.maps) == [("activations", "features")] + [
        (f"activations_top3_{n}", "features") for n in (1, 2, 3)
    ]
    expected = taken[-1].mean(1)
    for target in range(2):
        torch.testing.assert_close(result.maps["activations", "features"][:, target], expected)
    assert result.component_scores["activations_top3_1", "features"].shape == (2, 2)


def test_norm_does_not_overflow():
    layer = relu_layer() * 1e30
    expected = layer.double().norm(dim=1).float()
    torch.testing.assert_close(activation_map(layer, reduce="norm"), expected)
    assert not activation_map(torch.zeros(1, 2, 3, 3), reduce="norm").any()


@pytest.mark.parametrize("options", [
    {"reduce": "median"}, {"channel": 3}, {"channel": -1}, {"channel": 1.0}, {"top": 0}, {"top": 4},
    {"channels": []}, {"channels": [0, 3]}, {"channels": [1, 1]}, {"channels": 2},
    {"channels": "01"}, {"top": 2, "channel": 1}, {"channels": [0], "top": 1},
])  # fmt: skip
def test_activations_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        activation_map(A, **options)
