"""What is explained: specifications, class names, and their messages."""

from __future__ import annotations

import pytest
import torch

from cam_core import ClassNames, class_index, classes_target, contrast_target, explain
from cam_core.targets.base import resolve_targets
from cam_core.targets.composite import RegionTarget

CLASSES = [
    "tabby cat",
    "Tiger_cat",
    "crane",
    "golden retriever",
    "crane",
    "T-shirt",
    "Paper  towel",
]
LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 1.0, 2.0, 0.0]])


def indices(spec):
    return torch.stack(
        [t.class_indices(2) for t in resolve_targets(spec, lambda: LOGITS, 2)], 1
    ).tolist()


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("tabby cat", 0),
        ("Tabby_Cat", 0),
        ("tiger cat", 1),
        ("tiger-cat", 1),
        ("GOLDEN RETRIEVER", 3),
        ("t shirt", 5),
        (" paper towel ", 6),
    ],
)
def test_class_index(name, index):
    assert class_index(name, CLASSES) == index


def test_the_exact_name_wins():
    assert class_index("cat", ["CAT", "cat"]) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "crane",
            r"two classes are called 'crane': 'crane \(2\)', 'crane \(4\)'; give one of these, or the",
        ),
        ("tabby cats", "no class 'tabby cats'; near: tabby cat"),
        ("tiger", "no class 'tiger'"),
        ("xyz", "no class 'xyz'$"),
    ],
)
def test_class_index_messages(name, message):
    with pytest.raises(ValueError, match=message):
        class_index(name, CLASSES)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("predicted", [[1], [0]]),
        ("top_1", [[1], [0]]),
        ("top3", [[1, 3, 2], [0, 2, 1]]),
        ("top-2", [[1, 3], [0, 2]]),
        (2, [[2], [2]]),
        ([3, 0], [[3, 0], [3, 0]]),
        ((3, 0), [[3, 0], [3, 0]]),
        (range(2), [[0, 1], [0, 1]]),
        (torch.tensor([3, -1]), [[3], [-1]]),
        (torch.tensor([[3, 1], [-1, 2]], dtype=torch.int32), [[3, 1], [-1, 2]]),
    ],
)
def test_specifications(spec, expected):
    assert indices(spec) == expected


@pytest.mark.parametrize(
    "spec",
    [
        "top_0",
        "top_5",
        "top",
        "top_x",
        "",
        True,
        None,
        1.0,
        [True],
        ["predicted"],
        [[1, 2]],
        {"a": 1},
    ],
)
def test_specifications_that_are_none(spec):
    with pytest.raises(ValueError, match=r"^targets"):
        indices(spec)


def test_scores():
    (target,) = resolve_targets(torch.tensor([3, -1]), lambda: LOGITS, 2)
    assert target.valid(2).tolist() == [True, False]
    assert target.score(LOGITS, lambda out: out, range(2))[0] == 2
    # Rows of a perturbed batch: each keeps the class of its image.
    many = LOGITS[[1, 0, 0]]
    assert target.score(many, lambda out: out, [1, 0, 0]).tolist()[1:] == [2, 2]


def test_callables_get_the_outputs_as_they_are():
    outputs = {"logits": LOGITS, "extra": LOGITS * 2}
    (target,) = resolve_targets(lambda out: out["extra"][:, 1], lambda: LOGITS, 2)
    assert target.score(outputs, None, range(2)).tolist() == [6, 2]
    assert target.class_indices(2).tolist() == [-1, -1]
    assert target.valid(2).all()


def test_half_precision_logits_rank_in_float32():
    (target,) = resolve_targets("predicted", lambda: LOGITS.to(torch.bfloat16), 2)
    assert target.indices.tolist() == [1, 0]
    assert target.indices.device.type == "cpu"


# names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("tabby", [0]),
        ("Tabby_cat", [0]),
        ("tabby, tabby cat", [0]),
        ("grey tabby, tabby", [0]),  # any of its names
        ("cock", [1, 2]),  # both: it is not clear
        ("rooster", [2]),
        ("cat", []),
        ("", []),
    ],
)
def test_any_of_the_names_that_commas_part(name, found):
    names = ["tabby, tabby cat", "hen, cock", "cock, rooster"]
    assert ClassNames(names).find(name) == found


def test_the_whole_name_wins_over_a_part():
    names = ["maillot", "maillot, tank suit"]
    assert class_index("maillot", names) == 0
    assert class_index("tank suit", names) == 1
    assert class_index("Maillot, tank_suit", ClassNames(names)) == 1


def test_near_names_are_those_of_the_model():
    names = ClassNames(["tabby, tabby cat", "tiger cat", "dog"])
    assert names.near("taby") == ["tabby, tabby cat"]
    assert names.near("tigercat") == ["tiger cat"]
    assert names.near("aeroplane") == []


# groups and contrasts ---------------------------------------------------------------------------------


def test_group_of_classes():
    (target,) = resolve_targets(classes_target([0, 2]), lambda: LOGITS, 2)
    expected = torch.logsumexp(LOGITS[:, [0, 2]], 1)
    torch.testing.assert_close(target.score(LOGITS, lambda out: out, range(2)), expected)
    probability = target.probability(LOGITS, lambda out: out.softmax(1), range(2))
    torch.testing.assert_close(probability, LOGITS.softmax(1)[:, [0, 2]].sum(1))
    assert target.class_indices(2).tolist() == [-1, -1]
    # rows of a perturbed batch
    many = LOGITS[[1, 1, 0]]
    torch.testing.assert_close(target.score(many, lambda out: out, [1, 1, 0]), expected[[1, 1, 0]])


def test_groups_of_each_image():
    members = torch.tensor([[3, -1, -1], [0, 1, 2], [-1, -1, -1]])
    logits = torch.cat([LOGITS, LOGITS[:1]])
    (target,) = resolve_targets(classes_target(members), lambda: logits, 3)
    assert target.valid(3).tolist() == [True, True, False]
    assert target.class_indices(3).tolist() == [3, -1, -1]
    scores = target.score(logits, lambda out: out, range(3))
    assert scores[0] == 2
    torch.testing.assert_close(scores[1], LOGITS[1, :3].logsumexp(0))
    assert scores[2].isfinite()


def test_a_group_of_one_is_the_class_itself():
    (target,) = resolve_targets(classes_target([3]), lambda: LOGITS, 2)
    assert target.indices.tolist() == [3, 3]


def test_classes_that_an_image_does_not_show():
    spec = classes_target([1, 3], present=lambda scores: scores > 2.5)
    (target,) = resolve_targets(spec, lambda: LOGITS, 2)
    assert target.valid(2).tolist() == [True, False]
    (one,) = resolve_targets(classes_target(0, lambda scores: scores > 2.5), lambda: LOGITS, 2)
    assert one.indices.tolist() == [-1, 0]


def test_contrast():
    # predicted 1 and 0; labels 3 and 0
    spec = contrast_target(torch.tensor([3, 0]))
    (target,) = resolve_targets(spec, lambda: LOGITS, 2)
    assert target.valid(2).tolist() == [True, False]
    assert target.class_indices(2).tolist() == [1, -1]
    scores = target.score(LOGITS, lambda out: out, range(2))
    assert scores[0] == 3 - 2
    probabilities = LOGITS.softmax(1)
    found = target.probability(LOGITS, lambda out: out.softmax(1), range(2))
    torch.testing.assert_close(found[0], probabilities[0, 1] - probabilities[0, 3])
    # what was predicted stays what it was, whatever a perturbed image would be
    assert target.score(LOGITS.flip(1), lambda out: out, range(2))[0] == 1 - 0


def test_contrast_with_the_runner_up_and_with_groups():
    (target,) = resolve_targets(contrast_target(), lambda: LOGITS, 2)
    assert target.score(LOGITS, lambda out: out, range(2)).tolist() == [3 - 2, 5 - 2]
    spec = contrast_target([2, 3], chosen=0)
    (target,) = resolve_targets([spec, 1], lambda: LOGITS, 2)[:1]
    expected = LOGITS[:, 0] - LOGITS[:, 2:].logsumexp(1)
    torch.testing.assert_close(target.score(LOGITS, lambda out: out, range(2)), expected)
    overlapping = contrast_target([1, 3], chosen="predicted")
    (target,) = resolve_targets(overlapping, lambda: LOGITS, 2)
    assert target.valid(2).tolist() == [False, True]


def test_no_label_has_nothing_to_contrast():
    (target,) = resolve_targets(contrast_target(torch.tensor([-1, 1])), lambda: LOGITS, 2)
    assert target.valid(2).tolist() == [False, True]
    assert target.score(LOGITS, lambda out: out, range(2)).isfinite().all()


class Linear(torch.nn.Module):
    """Class scores are sums over pixels, so that Grad-CAM is the pixels' own sum."""

    def __init__(self, weights):
        super().__init__()
        self.pixels = torch.nn.Conv2d(3, 3, 1, bias=False)
        self.pixels.weight.data = torch.eye(3)[..., None, None]
        self.weights = torch.nn.Parameter(weights)

    def forward(self, images):
        return self.pixels(images).mean((2, 3)) @ self.weights.T


def test_maps_of_a_contrast_are_differences_of_maps():
    torch.manual_seed(0)
    net = Linear(torch.randn(5, 3)).eval()
    images = torch.rand(3, 3, 4, 6)
    labels = torch.tensor([0, 1, 2])
    predicted = net(images).argmax(1)
    own = explain(net, images, "hirescam", targets=predicted, layers="pixels")
    other = explain(net, images, "hirescam", targets=labels, layers="pixels")
    found = explain(net, images, "hirescam", targets=contrast_target(labels), layers="pixels")
    key = ("hirescam", "pixels")
    differ = predicted != labels
    assert differ.any()
    torch.testing.assert_close(found.maps[key][differ], (own.maps[key] - other.maps[key])[differ])
    torch.testing.assert_close(found.scores[differ], (own.scores - other.scores)[differ])
    assert found.valid[:, 0].tolist() == differ.tolist()
    assert found.maps[key][~differ].isnan().all()


def test_maps_of_a_group_are_weighted_by_shares():
    torch.manual_seed(1)
    net = Linear(torch.randn(5, 3)).eval()
    images = torch.rand(2, 3, 4, 6)
    key = ("hirescam", "pixels")
    group = explain(net, images, "hirescam", targets=classes_target([1, 4]), layers="pixels")
    single = explain(net, images, "hirescam", targets=[1, 4], layers="pixels").maps[key]
    shares = net(images)[:, [1, 4]].softmax(1)
    expected = (single * shares[..., None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(group.maps[key], expected.detach())


def test_one_that_compares_classes_says_so():
    net = Linear(torch.randn(5, 3)).eval()
    with pytest.raises(ValueError, match="its target must be a class"):
        explain(
            net, torch.rand(1, 3, 4, 4), "finercam", targets=classes_target([0, 1]), layers="pixels"
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: classes_target([4]), "class index 4 is out of range; the model has 4 classes"),
        (lambda: classes_target([]), "is no class index"),
        (lambda: classes_target([True]), "is no class index"),
        (lambda: classes_target(-1), "is no class index"),
        (lambda: classes_target(torch.zeros(3, dtype=torch.long)), r"of shape \(2,\) or \(2, M\)"),
        (lambda: classes_target(torch.zeros(2)), "must be integers"),
        (lambda: contrast_target("label"), "against: 'label' is unknown"),
        (lambda: contrast_target(7), "class index 7 is out of range"),
    ],
)  # fmt: skip
def test_wrong_classes(make, message):
    with pytest.raises(ValueError, match=message):
        resolve_targets(make(), lambda: LOGITS, 2)


# regions ----------------------------------------------------------------------------------------------


def test_regions_are_sums_over_their_pixels():
    torch.manual_seed(2)
    scores = torch.randn(2, 4, 3, 5)
    masks = torch.zeros(2, 3, 5)
    masks[0, 1, 2:] = 1
    masks[1, 0, 0] = 0.5
    region = RegionTarget(torch.tensor([[2], [3]]), lambda out: out, masks)
    expected = [scores[0, 2, 1, 2:].sum(), 0.5 * scores[1, 3, 0, 0]]
    torch.testing.assert_close(region(scores), torch.stack(expected))
    torch.testing.assert_close(region(scores[[1, 0]], [1, 0]), torch.stack(expected[::-1]))
    torch.testing.assert_close(
        region.moved(True, (3, 5), (3, 5))(scores.flip(-1)), torch.stack(expected)
    )


def test_where_a_group_is_predicted():
    scores = torch.zeros(1, 3, 1, 4)
    scores[0, 0, 0, :2] = 5
    scores[0, 1, 0, 2] = 7
    scores[0, 2, 0, 3] = 9
    region = RegionTarget(torch.tensor([[0, 1]]), lambda out: out)
    each = scores[0, :2, 0].logsumexp(0)
    torch.testing.assert_close(region(scores)[0], each[:3].sum())
    assert region.valid(scores).tolist() == [True]
    alone = RegionTarget(torch.tensor([[2], [-1]]), lambda out: out)
    nowhere = torch.cat([scores[..., :3], scores[..., :3]])
    assert alone.valid(nowhere).tolist() == [False, False]


def test_masks_of_another_size_are_averaged_onto_the_scores():
    masks = torch.zeros(1, 4, 4)
    masks[0, :2, :2] = 1
    masks[0, 0, 2] = 1
    region = RegionTarget(torch.tensor([[0]]), lambda out: out, masks)
    scores = torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]])
    assert region(scores).tolist() == [1 + 10 / 4]
