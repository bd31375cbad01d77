"""What is explained: specifications, class names, and their messages."""

from __future__ import annotations

import pytest
import torch

from cam_core import class_index
from cam_core.targets import resolve_targets

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
        ("crane", r"the model has 2 classes named 'crane' \(indices 2, 4\); give the index"),
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
