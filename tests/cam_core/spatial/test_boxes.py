"""Boxes against torchvision's operators and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision import ops

from cam_core.spatial.boxes import box_iou, corners, enclosing, heat_to_boxes, match_boxes, suppress


def random_boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2) * 40
    return torch.cat([corner, corner + 5 + torch.rand(count, 2) * 30], 1)


def test_iou_is_torchvisions():
    first, second = random_boxes(20), random_boxes(30)
    assert torch.allclose(box_iou(first, second), ops.box_iou(first, second), atol=1e-6)


def test_iou_of_nothing_is_zero():
    boxes = torch.tensor([[0.0, 0, 0, 5], [math.nan] * 4, [5, 5, 1, 1]])
    assert not box_iou(boxes, torch.tensor([[0.0, 0, 10, 10]])).any()
    assert not box_iou(boxes[:1], boxes[:1]).any()
    with pytest.raises(ValueError, match=r"first must be a tensor of shape \(A, 4\)"):
        box_iou(torch.zeros(4), boxes)


def test_suppression_is_torchvisions():
    boxes, scores = random_boxes(60), torch.rand(60)
    labels = torch.randint(3, (60,))
    for iou in (0.2, 0.5):
        expected = ops.batched_nms(boxes, scores, labels, iou)
        assert suppress(boxes, scores, labels, iou).tolist() == expected.tolist()
    assert len(suppress(boxes[:0], scores[:0], labels[:0], 0.5)) == 0


def test_corners_and_enclosing():
    box = torch.tensor([[10.0, 20, 4, 8]])
    assert corners(box).tolist() == [[8, 16, 12, 24]]
    quarter = enclosing(box, torch.tensor([math.pi / 2]))
    assert torch.allclose(quarter, torch.tensor([[6.0, 18, 14, 22]]), atol=1e-5)
    slanted = enclosing(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([math.pi / 4]))
    assert torch.allclose(slanted, torch.tensor([[-1.0, -1, 1, 1]]) * math.sqrt(2), atol=1e-5)


def test_matching_by_hand():
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12], [50, 50, 60, 60]])
    labels = torch.tensor([1, 1, 2])
    found = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]])
    scores = torch.tensor([0.5, 0.9, 0.9])
    # the stronger chooses first: it overlaps the taller object more
    wanted = match_boxes(objects, labels, found, torch.tensor([1, 1, 1]), scores)
    assert wanted.tolist() == [0, 1, -1]
    assert match_boxes(objects, labels, found[:0], labels[:0], scores[:0]).tolist() == [-1, -1, -1]
    assert match_boxes(objects[:0], labels[:0], found, labels, scores).tolist() == []


def test_a_detection_is_used_once():
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    result = match_boxes(
        objects, torch.tensor([1, 1]), objects[:1], torch.tensor([1]), torch.tensor([0.9])
    )
    assert sorted(result.tolist()) == [-1, 0]


class TestHeatToBoxes:
    def test_by_hand(self):
        heat = torch.zeros(10, 12)
        heat[1:3, 2:6] = 0.6
        heat[6:9, 8:11] = 0.9
        heat[7, 9] = 1.0
        heat[0, 11] = 0.3
        found = heat_to_boxes(heat, 0.5)
        expected = torch.tensor([[8, 6, 11, 9, 1.0], [2, 1, 6, 3, 0.6]])
        assert torch.allclose(found, expected)
        assert len(heat_to_boxes(heat, 0.2)) == 3
        assert torch.allclose(heat_to_boxes(heat * 7, 0.5), expected)
        assert heat_to_boxes(heat, 0.5, least_area=9)[:, :4].tolist() == [[8, 6, 11, 9]]

    def test_diagonal_pixels_are_one_part(self):
        assert heat_to_boxes(torch.eye(4)).tolist() == [[0, 0, 4, 4, 1]]

    @pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
    def test_no_map_no_boxes(self, value):
        assert heat_to_boxes(torch.full((4, 4), value)).shape == (0, 5)

    def test_arguments_are_checked(self):
        with pytest.raises(ValueError, match="threshold must be a share"):
            heat_to_boxes(torch.ones(4, 4), 1.0)
        with pytest.raises(ValueError, match="heat must be a tensor of shape"):
            heat_to_boxes(torch.ones(1, 4, 4))
