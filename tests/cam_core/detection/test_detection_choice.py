"""Which objects are explained, boxes carried through a window, and the short way of an R-CNN."""

from __future__ import annotations

import pytest
import torch
import torchvision

from cam_core import Candidates, DetectionModel, explain_objects
from cam_core.spatial.boxes import boxes_to_image, boxes_to_input, heat_to_boxes
from cam_core.spatial.geometry import Window


def rcnn() -> torch.nn.Module:
    torch.manual_seed(0)
    net = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, min_size=96, max_size=96,
        rpn_pre_nms_top_n_test=60, rpn_post_nms_top_n_test=40, rpn_score_thresh=0.0,
        box_score_thresh=0.0,
    )  # fmt: skip
    return net.double().eval()


@pytest.fixture
def scene():
    net = rcnn()
    image = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        found = net(list(image))
    boxes = [f["boxes"][:3].float() for f in found]
    labels = [f["labels"][:3] for f in found]
    assert all(len(b) for b in boxes)
    return net, image, boxes, labels


def test_the_head_for_one_proposal_gives_the_maps_of_the_head_for_all(scene, monkeypatch):
    net, image, boxes, labels = scene
    options = {"methods": ["layercam", "gradcam_elementwise"], "min_iou": 0.3}
    short = explain_objects(net, image, boxes, labels, **options)
    used = []
    again = Candidates.logit

    def whole(self, place, label):
        used.append(self.again is not None)
        return self.logits[place, label]

    monkeypatch.setattr(Candidates, "logit", whole)
    long = explain_objects(net, image, boxes, labels, **options)
    assert any(used)
    assert again is not Candidates.logit
    assert torch.equal(short.valid, long.valid)
    assert short.valid.any()
    for method, maps in long.maps.items():
        scale = float(maps.nan_to_num().abs().max())
        assert scale > 0
        torch.testing.assert_close(
            short.maps[method], maps, atol=1e-5 * scale, rtol=0, equal_nan=True
        )
    torch.testing.assert_close(short.scores, long.scores, equal_nan=True)


def test_the_short_way_runs_the_head_for_one_proposal_only(scene):
    net, image, boxes, labels = scene
    sizes = []
    handle = net.roi_heads.box_head.register_forward_hook(
        lambda module, args, output: sizes.append(len(output))
    )
    explain_objects(net, image[:1], boxes[:1], labels[:1], methods="gradcam", min_iou=0.3)
    handle.remove()
    # the whole head once to find the levels and once to find the candidates, then object by object
    assert len([size for size in sizes if size > 1]) <= 2
    assert sizes.count(1) >= 1


def test_without_proposals_there_are_no_candidates():
    net = rcnn()
    net.rpn.score_thresh = 2.0  # nothing passes
    result = explain_objects(net, torch.rand(1, 3, 96, 96).double(), methods="gradcam")
    assert not result.valid.any()


class Cells(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.grid = torch.nn.Conv2d(3, 2, 8, 8)
        torch.nn.init.constant_(self.grid.weight, 6 / (3 * 64))
        torch.nn.init.constant_(self.grid.bias, -2)

    def forward(self, images):
        return self.grid(images)


def cells() -> DetectionModel:
    corner = torch.tensor([[x, y] for y in (0.0, 8.0) for x in (0.0, 8.0)])
    boxes = torch.cat([corner, corner + 8], 1)

    def read(outputs, images):
        rows = outputs.flatten(2).transpose(1, 2)
        return [Candidates(boxes, row, row.detach().sigmoid()) for row in rows]

    return DetectionModel(Cells().eval(), read=read, levels=["grid"])


BOXES = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [0, 0, 16, 16]])


def picture() -> torch.Tensor:
    """Cells of brightness 1, .1, .5 and 0: scores 4, -1.4, 1 and -2."""
    image = torch.zeros(1, 3, 16, 16)
    image[..., :8, :8], image[..., :8, 8:], image[..., 8:, :8] = 1, 0.1, 0.5
    return image


def test_only_what_is_missed_is_explained():
    labels = torch.tensor([0, 0, 1, 0])
    result = explain_objects(cells(), picture(), [BOXES], [labels], methods="gradcam", missed=True)
    # The first is found. Class 1 has the same score as class 0, which is the one that is detected.
    assert result.objects.tolist() == [[1, 2, 3]]
    assert result.valid.tolist() == [[True, True, False]]
    torch.testing.assert_close(result.scores[0, :2], torch.tensor([-1.4, 1.0]), atol=1e-4, rtol=0)
    one = explain_objects(
        cells(), picture(), [BOXES], [labels], methods="gradcam", missed=True, most=1
    )
    assert one.objects.tolist() == [[1]]


def test_objects_of_some_classes_and_the_strongest_only():
    model = cells()
    own = explain_objects(model, picture(), methods="gradcam")
    assert own.objects.tolist() == [[0, 1]]
    assert explain_objects(model, picture(), methods="gradcam", most=1).objects.tolist() == [[0]]
    none = explain_objects(model, picture(), methods="gradcam", classes=[1])
    assert not none.valid.any()
    labels = torch.tensor([0, 1, 0, 1])
    given = explain_objects(model, picture(), [BOXES], [labels], methods="gradcam", classes=[1])
    assert given.objects.tolist() == [[1, 3]]
    assert "predicted" not in vars(model)  # what was chosen is forgotten


def test_missed_needs_objects():
    with pytest.raises(ValueError, match="only known of given ones"):
        explain_objects(cells(), picture(), missed=True)
    with pytest.raises(ValueError, match="boxes of image 0 must have shape"):
        explain_objects(cells(), picture(), [BOXES], [torch.tensor([0])])


@pytest.mark.parametrize(
    ("window", "box", "expected"),
    [
        # the whole of 100 x 50 in 50 x 50
        (Window.whole(50, 100), [20, 10, 60, 30], [10, 10, 30, 30]),
        # a letterbox: 100 x 50 scaled by a half, 12.5 pixels of padding above and below
        (Window((50, 100), 0, -25, 100, 75), [0, 0, 100, 50], [0, 12.5, 50, 37.5]),
        # a crop of the middle 50 x 50: what lies outside is cut off
        (Window((50, 100), 25, 0, 75, 50), [0, 0, 50, 50], [0, 0, 25, 50]),
        (Window((50, 100), 25, 0, 75, 50), [0, 0, 20, 50], [0, 0, 0, 50]),
    ],
)
def test_boxes_in_the_input(window, box, expected):
    found = boxes_to_input(torch.tensor([box], dtype=torch.float32), window, (50, 50))
    assert found.tolist() == [expected]


def test_boxes_come_back():
    window = Window((60, 200), -10.0, -80.0, 210.0, 140.0)
    boxes = torch.tensor([[[5.0, 6, 70, 50], [0, 0, 200, 60]]])
    there = boxes_to_input(boxes, window, (64, 96))
    torch.testing.assert_close(boxes_to_image(there, window, (64, 96)), boxes, atol=1e-3, rtol=0)


def test_equally_hot_parts_come_by_size():
    heat = torch.zeros(6, 6)
    heat[0, 0] = 1
    heat[3:5, 3:6] = 1
    assert heat_to_boxes(heat).tolist() == [[3, 3, 6, 5, 1], [0, 0, 1, 1, 1]]
