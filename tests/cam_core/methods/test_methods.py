"""Every method on tiny tensors: hand-computed numbers, closed forms, and what holds for all."""

from __future__ import annotations

import inspect

import pytest
import torch
from method_lists import INFOS
from method_lists import ON_TENSORS as ALL

from cam_core.capture.head import Head
from cam_core.methods.baseline import randomcam
from cam_core.methods.catalogue import resolve_methods
from cam_core.methods.eigen import eigencam, eigengradcam, fem
from cam_core.methods.gradient import (
    cam,
    gradcam,
    gradcam_elementwise,
    gradcam_guided,
    gradcampp,
    hirescam,
    layercam,
    xgradcam,
)
from cam_core.methods.perturbation import ablationcam
from cam_core.methods.registry import Components

HERE = {
    "cam", "gradcam", "gradcam_guided", "gradcampp", "xgradcam", "hirescam", "gradcam_elementwise",
    "layercam",
    "eigencam", "eigengradcam", "fem", "ablationcam", "randomcam",
}  # fmt: skip

# A non-negative layer of two channels on a 2x2 grid; the numbers below are by hand.
A = torch.tensor([[[[1.0, 2.0], [0.0, 3.0]], [[0.0, 1.0], [4.0, 0.0]]]])
G = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]], [[-1.0, 0.5], [0.5, 4.0]]]])


def ingredients(activations, gradients, score=None):
    """What the engine would hand to a method; the tail is mean pooling and a linear layer."""
    count, channels = activations.shape[:2]
    weights = torch.linspace(-1, 2, channels).expand(count, -1)
    pooled = (weights * activations.mean((2, 3))).sum(1)
    score = pooled if score is None else score

    def tail(changed, rows):
        rows = list(rows)
        return score[rows] + (weights[rows] * changed.mean((2, 3))).sum(1) - pooled[rows]

    return {
        "activations": activations,
        "gradients": gradients,
        "score": score,
        "head": Head(weights, activations),
        "tail": tail,
        "layers": {"here": (activations, gradients)},
        "rng": torch.Generator().manual_seed(51),
    }


def call(name, activations, gradients, **kwargs):
    method = resolve_methods(name)[0]
    given = ingredients(activations, gradients, **kwargs)
    result = method.function(*[given[need] for need in method.info.needs])
    return result.maps[:, 0] if isinstance(result, Components) else result


def relu_layer(count=3, channels=5, height=4, width=6):
    return torch.randn(count, channels, height, width).relu(), torch.randn(
        count, channels, height, width
    )


def test_list_methods_has_them_all():
    assert set(ALL) >= HERE
    assert len(ALL) == len(set(ALL))


@pytest.mark.parametrize("name", INFOS)
def test_docs_state_formula_and_paper(name):
    info = INFOS[name]
    doc = inspect.getdoc(resolve_methods(name)[0].function)
    assert info.paper
    assert info.summary.endswith(".")
    assert "``" in doc
    assert "M = " in doc or "w_k" in doc
    assert info.cost
    assert info.times >= 1
    assert all(f"``{option}``" in doc for option in info.options)


@pytest.mark.parametrize("name", ALL)
def test_shape_dtype_finite(name):
    result = call(name, *relu_layer())
    assert result.shape == (3, 4, 6)
    assert result.dtype is torch.float32
    assert result.isfinite().all()
    assert result.abs().max() > 0


@pytest.mark.parametrize("name", ALL)
def test_arguments_are_not_changed(name):
    activations, gradients = relu_layer()
    before = activations.clone(), gradients.clone()
    call(name, activations, gradients)
    assert torch.equal(activations, before[0])
    assert torch.equal(gradients, before[1])


@pytest.mark.parametrize("name", [n for n in ALL if "gradients" in INFOS[n].needs])
def test_zero_gradient_gives_zero_map(name):
    activations, _ = relu_layer()
    result = call(name, activations, torch.zeros_like(activations))
    assert torch.equal(result, torch.zeros_like(result))


@pytest.mark.parametrize("name", ALL)
def test_silent_layer_gives_zero_map(name):
    result = call(name, torch.zeros(2, 3, 4, 4), torch.randn(2, 3, 4, 4))
    assert torch.equal(result, torch.zeros_like(result))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 7.7, 1e-20, 1e20])
def test_flat_activation_gives_no_nan_and_no_place(name, value):
    """Where every position is alike no place may stand out, and rounding must not decide."""
    activations = torch.full((2, 3, 7, 7), value)
    gradients = torch.full((2, 3, 7, 7), 0.5)
    result = call(name, activations, gradients)
    assert result.isfinite().all()
    spread = result.amax((1, 2)) - result.amin((1, 2))
    assert (spread <= 1e-4 * result.abs().amax((1, 2))).all()


@pytest.mark.parametrize("name", ALL)
def test_negative_and_zero_score(name):
    activations, gradients = relu_layer()
    positive = call(name, activations, gradients, score=torch.full((3,), 2.0))
    negative = call(name, activations, gradients, score=torch.full((3,), -2.0))
    torch.testing.assert_close(positive, negative)  # a loss stays a loss
    assert call(name, activations, gradients, score=torch.zeros(3)).isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_half_precision_inputs_change_little(name, corr):
    activations, gradients = relu_layer(channels=64, height=8, width=8)
    exact = call(name, activations, gradients)
    half = call(name, activations.bfloat16().float(), gradients.bfloat16().float())
    assert corr(exact, half) > 0.98


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_extreme_gradients_stay_finite(name, scale):
    activations, gradients = relu_layer()
    assert call(name, activations, gradients * scale).isfinite().all()


def test_one_nan_image_leaves_the_others_alone():
    activations, gradients = relu_layer()
    expected = {n: call(n, activations, gradients) for n in ALL}
    activations = activations.clone()
    activations[1, 0, 0, 0] = torch.nan
    for name in ALL:
        result = call(name, activations, gradients)
        torch.testing.assert_close(result[[0, 2]], expected[name][[0, 2]])
        assert result[1].isnan().any(), name


# Numbers by hand ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (gradcam, [[0.5, 2.0], [4.0, 1.5]]),  # w = 0.5, 1
        (gradcam_guided, [[0.25, 0.75], [1.0, 0.75]]),  # w = 1/4, (0.5 + 0.5)/4
        (xgradcam, [[-1 / 6, 1 / 6], [2.0, -0.5]]),  # w = -1/6, 2.5/5
        (hirescam, [[1.0, -1.5], [2.0, 0.0]]),
        (gradcam_elementwise, [[1.0, 0.5], [2.0, 0.0]]),
        (layercam, [[1.0, 0.5], [2.0, 0.0]]),
    ],
)
def test_numbers_by_hand(method, expected):
    torch.testing.assert_close(method(A, G), torch.tensor([expected]))


def test_gradcampp_by_hand():
    first = 1 / (2 + 6 * 1) + 2 / (2 + 6 * 2)
    second = 2 * 0.5 / (2 + 5 * 0.5) + 4 / (2 + 5 * 4)
    torch.testing.assert_close(gradcampp(A, G), first * A[:, 0] + second * A[:, 1])


def test_gradcampp_is_equation_19_in_double():
    activations, gradients = (t.double() for t in relu_layer())
    gradients *= 1e-4  # where other libraries' epsilon of 1e-6 takes over
    total = activations.sum((2, 3), keepdim=True)
    alpha = gradients**2 / (2 * gradients**2 + total * gradients**3)
    weights = (alpha * gradients.relu()).sum((2, 3), keepdim=True)
    expected = (weights * activations).sum(1)
    torch.testing.assert_close(gradcampp(activations, gradients), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradcampp(activations.float(), gradients.float()), expected.float(), rtol=1e-5, atol=0
    )


def test_gradcampp_stays_off_the_pole_of_signed_activations():
    activations = torch.tensor(
        [[[[-1.0, -1.0], [0.5, 0.5]]]]
    )  # S = -1; a gradient of 2 is the pole
    gradients = torch.tensor([[[[2.0, 1.0], [0.0, 0.0]]]])
    torch.testing.assert_close(gradcampp(activations, gradients), activations[:, 0] * 1.5)
    # The same pole where activations are positive: a gradient of -1 and S = 2.
    torch.testing.assert_close(gradcampp(-2 * activations, -gradients / 2), torch.zeros(1, 2, 2))


def test_signed_activations_tell_the_elementwise_methods_apart():
    activations = torch.tensor([[[[-1.0, 2.0]], [[3.0, -1.0]]]])
    gradients = torch.tensor([[[[-2.0, 1.0]], [[-1.0, 4.0]]]])
    torch.testing.assert_close(hirescam(activations, gradients), torch.tensor([[[-1.0, -2.0]]]))
    torch.testing.assert_close(
        gradcam_elementwise(activations, gradients), torch.tensor([[[2.0, 2.0]]])
    )
    torch.testing.assert_close(layercam(activations, gradients), torch.tensor([[[0.0, -2.0]]]))
    torch.testing.assert_close(
        gradcam_guided(activations, gradients), torch.tensor([[[-0.5, 1.0]]])
    )


def test_xgradcam_ignores_channels_that_cancel():
    activations = torch.tensor([[[[1.0, -1.0]], [[1.0, 3.0]]]])
    gradients = torch.tensor([[[[5.0, -5.0]], [[1.0, 1.0]]]])
    torch.testing.assert_close(xgradcam(activations, gradients), activations[:, 1])


def test_cam_by_hand():
    torch.testing.assert_close(
        cam(Head(torch.tensor([[2.0, -1.0]]), A)), torch.tensor([[[2.0, 3.0], [-4.0, 6.0]]])
    )


def test_cam_without_head_says_what_to_do():
    with pytest.raises(ValueError, match="use 'gradcam'"):
        cam(None)


def test_fem_by_hand():
    # Means 1.5, 1.25; standard deviations 1.118, 1.639; only 3 > 2.618 and only 4 > 2.889.
    torch.testing.assert_close(fem(A, k=1.0), 0.25 * A.sum(1))
    torch.testing.assert_close(fem(A, k=1.2), 0.25 * A.sum(1))  # 3 < 1.5 + 1.2 * 1.291, unbiased
    torch.testing.assert_close(fem(A, k=2.0), torch.zeros(1, 2, 2))


def test_fem_counts_positions():
    activations = torch.zeros(1, 2, 4, 5)
    activations[0, 0, 1, 2] = 1.0
    activations[0, 1, 0, :2] = 3.0
    expected = activations[:, 0] / 20 + activations[:, 1] * 2 / 20
    torch.testing.assert_close(fem(activations), expected)


def test_ablationcam_closed_form_by_hand():
    head = Head(torch.tensor([[2.0, -1.0]]), A)  # losses 2 * 1.5 and -1 * 1.25, of a score of 4
    result = ablationcam(A, torch.tensor([4.0]), head, None)
    torch.testing.assert_close(result, 0.75 * A[:, 0] - 0.3125 * A[:, 1])


def test_ablationcam_by_tail_by_hand():
    def tail(activations, rows):  # a product: either channel's loss is the whole score
        assert rows == [0] * len(activations)
        return activations[:, 0].sum((1, 2)) * activations[:, 1].sum((1, 2))

    torch.testing.assert_close(ablationcam(A, torch.tensor([30.0]), None, tail), A.sum(1))


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_ablationcam_tail_equals_head(batch_size):
    activations, gradients = relu_layer()
    activations[1, 2] = 0  # a silent channel loses nothing and is not run
    given = ingredients(activations, gradients)
    closed = ablationcam(activations, given["score"], given["head"], None)
    rows_seen = []

    def tail(changed, rows):
        assert len(changed) == len(rows) <= max(2, batch_size)
        assert torch.equal(changed[0], activations[rows[0]])
        rows_seen.extend(rows)
        return given["tail"](changed, rows)

    replayed = ablationcam(activations, given["score"], None, tail, batch_size=batch_size)
    torch.testing.assert_close(replayed, closed, rtol=1e-4, atol=1e-5)
    # and in each batch one row that is not ablated
    batches = [-(-live // max(1, batch_size - 1)) for live in (5, 4, 5)]
    assert [rows_seen.count(i) for i in range(3)] == [
        5 + batches[0],
        4 + batches[1],
        5 + batches[2],
    ]


def test_randomcam_is_seeded_and_independent_of_the_batch():
    activations, _ = relu_layer()
    draw = lambda a, seed: randomcam(a, torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(draw(activations, 1), draw(activations, 1))
    assert not torch.equal(draw(activations, 1), draw(activations, 2))
    torch.testing.assert_close(draw(activations[1:2], 1), draw(activations, 1)[1:2])
    weights = draw(
        torch.eye(50)[None, :, None, :], 1
    )  # channel k is 1 at column k: the weights themselves
    assert weights.min() < -0.5
    assert weights.max() > 0.5
    assert weights.abs().max() <= 1


# Principal components ----------------------------------------------------------------------------


def svd_map(features, component, center):
    """(N, h, w) in double, sign arbitrary."""
    matrix = features.double().flatten(2).transpose(1, 2)
    if center:
        matrix = matrix - matrix.mean(1, keepdim=True)
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    projected = left[..., component - 1] * values[:, component - 1, None]
    return projected.reshape(features.shape[0], *features.shape[2:])


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("component", [1, 2, 3])
@pytest.mark.parametrize(
    "shape", [(2, 40, 4, 5), (2, 7, 6, 5), (2, 20, 4, 5)]
)  # hw < C, hw > C, hw = C
def test_eigencam_is_the_svd(shape, component, center):
    activations = torch.randn(shape).relu()
    result = eigencam(activations, component=component, center=center).double()
    expected = svd_map(activations, component, center)
    for ours, theirs in zip(result, expected, strict=True):
        sign = (ours * theirs).sum().sign()
        torch.testing.assert_close(
            ours, sign * theirs, rtol=0, atol=1e-4 * float(theirs.abs().max())
        )


@pytest.mark.parametrize("shape", [(1, 40, 4, 5), (1, 7, 6, 5)])
def test_eigencam_of_rank_one_by_hand(shape):
    """A_k = c_k P: the only component is |c| P, on both sides of the Gram matrix."""
    pattern = torch.rand(shape[2:])
    channels = torch.randn(shape[1])
    activations = (channels[:, None, None] * pattern)[None]
    torch.testing.assert_close(
        eigencam(activations)[0], channels.norm() * pattern, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("component", [1, 2, 3])
@pytest.mark.parametrize("shape", [(4, 40, 4, 5), (4, 7, 6, 5)])
def test_eigencam_sign_follows_the_activations(shape, component):
    activations = torch.randn(shape)
    result = eigencam(activations, component=component)
    assert ((result * activations.abs().sum(1)).sum((1, 2)) > 0).all()
    torch.testing.assert_close(
        eigencam(-activations, component=component), result, rtol=1e-3, atol=1e-3
    )


def test_eigengradcam_sign_follows_the_evidence():
    activations, gradients = relu_layer()
    positive = eigengradcam(activations, gradients)
    assert ((positive * hirescam(activations, gradients)).sum((1, 2)) > 0).all()
    torch.testing.assert_close(
        eigengradcam(activations, -gradients), -positive, rtol=1e-3, atol=1e-4
    )


def test_eigengradcam_is_the_centred_svd_of_the_product():
    activations, gradients = relu_layer()
    result = eigengradcam(activations, gradients).double()
    expected = svd_map(gradients * activations, 1, center=True)
    torch.testing.assert_close(
        result.abs(), expected.abs(), rtol=0, atol=1e-4 * float(expected.max())
    )


def test_eigencam_does_not_depend_on_the_batch():
    activations, _ = relu_layer(count=4)
    whole = eigencam(activations, component=2)
    for row in range(4):
        torch.testing.assert_close(eigencam(activations[row : row + 1], component=2)[0], whole[row])


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_eigencam_neither_overflows_nor_underflows(scale):
    activations, _ = relu_layer()
    torch.testing.assert_close(
        eigencam(activations * scale) / scale, eigencam(activations), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("component", [0, 6, -1])
def test_eigencam_without_such_a_component(component):
    with pytest.raises(ValueError, match="component must be between 1 and 5"):
        eigencam(relu_layer()[0], component=component)
