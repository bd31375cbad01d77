"""Detectors of one's own: what ``read`` may return, what is refused, and which layers are explained."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from cam_core import Candidates, DetectionModel, adapt, detect, explain, explain_objects
from cam_core.adapters.readings import candidates_of

SIZE, CLASSES = 64, 3


class TwoHeads(nn.Module):
    """A detector in the manner of YOLOv3: a coarse and a fine head, raw predictions of both joined.

    Each position predicts a box of twice its stride around itself, and a logit for each class.
    """

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.stem = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
            )
            self.fine = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
            self.coarse = nn.Sequential(nn.Conv2d(12, 12, 3, 2, 1), nn.ReLU())
            self.coarse_neck = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU())
            self.coarse_head = nn.Conv2d(12, CLASSES, 1)
            self.fine_neck = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU())
            self.fine_head = nn.Conv2d(12, CLASSES, 1)

    def forward(self, images):
        fine = self.fine(self.stem(images))
        coarse = self.coarse(fine)
        rows = [self.coarse_head(self.coarse_neck(coarse)), self.fine_head(self.fine_neck(fine))]
        return torch.cat([r.flatten(2).transpose(1, 2) for r in rows], 1)


def boxes_of(side=SIZE):
    """(Q, 4) in pixels of the input, cut off at its border."""
    rows = []
    for stride in (16, 8):
        cells = side // stride
        y, x = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
        centre = torch.stack([x, y], -1).reshape(-1, 2) * float(stride) + stride / 2
        rows.append(torch.cat([centre - stride, centre + stride], 1).clamp(0, side))
    return torch.cat(rows)


def per_class(outputs):
    return [(boxes_of(), row.sigmoid()) for row in outputs]


def batched(outputs):
    return boxes_of().expand(len(outputs), -1, -1), outputs.sigmoid()


def named(outputs):
    rows = []
    for row in outputs:
        scores, classes = row.sigmoid().max(1)
        rows.append((boxes_of(), scores, classes))
    return rows


def dicts(outputs):
    return [
        dict(zip(("boxes", "scores", "labels"), entry, strict=True)) for entry in named(outputs)
    ]


def after_suppression(outputs):
    rows = []
    for boxes, scores, classes in named(outputs):
        keep = torchvision.ops.batched_nms(boxes, scores, classes, 0.5)
        rows.append((boxes[keep], scores[keep], classes[keep]))
    return rows


@pytest.fixture
def net():
    return TwoHeads().eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("read", [per_class, batched, named, dicts, after_suppression])
def test_every_form_gives_the_same_detections_and_maps(net, images, read):
    expected = [(boxes_of(), *row.sigmoid().max(1)) for row in net(images).detach()]
    model = adapt(net, read=read, threshold=0.05)
    found = detect(model, images)
    for (boxes, scores, classes), own in zip(expected, found, strict=True):
        keep = torchvision.ops.batched_nms(boxes, scores, classes, 0.5)
        keep = keep[scores[keep] >= 0.05]
        assert len(keep) > 3
        expected = {tuple(boxes[k].tolist()): int(classes[k]) for k in keep}
        assert (
            dict(zip(map(tuple, own.boxes.tolist()), own.labels.tolist(), strict=True)) == expected
        )
        torch.testing.assert_close(own.scores, scores[keep])
    result = explain_objects(model, images, layers=["fine.1", "coarse.1"], most=3)
    logits = net(images).detach()
    for i, own in enumerate(found):
        places = [int((boxes_of() == b).all(1).nonzero()[0, 0]) for b in own.boxes[:3]]
        torch.testing.assert_close(
            result.scores[i, :3], logits[i, places, own.labels[:3]], atol=1e-4, rtol=1e-4
        )


def test_the_gradient_is_that_of_the_logit(net, images):
    """The confidence's logit is computed back: maps are those of the head's own output."""
    place, label = 40, 1
    box = boxes_of()[place]
    found = explain_objects(
        adapt(net, read=per_class), images[:1], [box[None]], [torch.tensor([label])],
        "layercam", ["fine.1"], prefer="overlap",
    )  # fmt: skip
    features = net.fine(net.stem(images[:1])).detach().requires_grad_()
    score = net.fine_head(net.fine_neck(features)).flatten(2)[0, label, place - 16]
    (gradient,) = torch.autograd.grad(score, features)
    expected = (gradient.relu() * features).sum(1).detach()[0]
    torch.testing.assert_close(found.maps["layercam"][0, 0], expected, atol=1e-5, rtol=1e-4)


def test_levels_are_measured(net, images):
    """The last layers where a score depends on more than its own cell, for every candidate."""
    model = adapt(net, read=per_class)
    assert model.default_layers(images) == ["fine", "coarse"]
    result = explain_objects(model, images, most=5)
    assert result.explanation.layers == ["fine", "coarse"]
    assert not result.maps["layercam"][result.valid].flatten(1).sum(1).eq(0).any()
    # nothing of the measurement stays
    assert not any(module._forward_hooks for module in net.modules())


def test_levels_where_nothing_is_found(net, images):
    def none(outputs):
        return [
            (torch.zeros(0, 4), row.sum() * torch.zeros(0), torch.zeros(0).long())
            for row in outputs
        ]

    model = adapt(net, read=none)
    result = explain_objects(model, images, methods=["eigencam", "layercam"])
    assert not result.valid.any()
    assert result.class_free["eigencam"].abs().sum() > 0


def test_read_may_take_the_images(net, images):
    def read(outputs, images):
        side = images.shape[-1]
        return [(boxes_of(side), row.sigmoid()) for row in outputs]

    wide = torch.rand(1, 3, 96, 96)
    assert len(adapt(net, read=read).forward(wide).candidates[0].boxes) == 36 + 144


def test_suppression_is_that_of_the_reader(net, images):
    def read(outputs):
        return per_class(outputs)

    counts = []
    for overlap in (None, 0.9, 0.1):
        read.suppression = overlap
        counts.append(len(detect(adapt(net, read=read, threshold=0.05), images)[0].boxes))
    assert counts[0] == len(boxes_of()) >= counts[1] > counts[2] > 0


def test_a_class_that_no_box_has_is_no_candidate(net, images):
    model = adapt(net, read=named)
    for label in (1, 7):
        boxes = [boxes_of()[:1]] * 2
        result = explain_objects(
            model, images, boxes, [torch.tensor([label])] * 2, layers=["fine.1"]
        )
        own = [int(c.probabilities[0].argmax()) == label for c in model.forward(images).candidates]
        assert result.valid[:, 0].tolist() == own or label == 7
    assert not result.valid.any()
    with pytest.raises(ValueError, match="class index 7 is out of range; the model has 3 classes"):
        explain_objects(
            adapt(net, read=per_class), images, boxes, [torch.tensor([7])] * 2, layers=["fine.1"]
        )


BOXES = torch.tensor([[4.0, 4.0, 20.0, 30.0], [10.0, 8.0, 40.0, 60.0]])
SURE = torch.tensor([0.9, 0.4])
KIND = torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((BOXES, torch.tensor([3.0, -2.0]), KIND), r"confidences in \[0, 1\].*go from -2 to 3: apply"),
        ((BOXES, torch.tensor([0.5, torch.nan]), KIND), r"confidences in \[0, 1\]"),
        ((BOXES / 64, SURE, KIND), "lie within 0.94 pixels: multiply shares by the width and height"),
        ((BOXES[:, [2, 3, 0, 1]], SURE, KIND), "ends before it begins: convert from centres or sizes"),
        ((BOXES * 9, SURE, KIND), "2 of 2 of image 0 have their centre outside of it"),
        ((BOXES * torch.inf, SURE, KIND), "2 of 2 boxes of image 0 are not finite"),
        ((BOXES, SURE.numpy(), KIND), "are a ndarray, not a tensor"),
        ((BOXES[:1], SURE, KIND), r"scores of image 0 have shape \(2,\) beside 1 boxes"),
        ((BOXES, SURE, KIND.float()), "not 2 indices from 0 on"),
        ((BOXES, SURE, KIND - 1), "not 2 indices from 0 on"),
        ((BOXES[0], SURE, KIND), r"shape \(4,\), not \(Q, 4\)"),
        ((BOXES, torch.rand(2, 3), KIND), r"shape \(2, 3\) beside 2 boxes and their classes"),
        (BOXES, "the entry of image 0 is"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(entry, message):
    with pytest.raises(ValueError, match=message):
        candidates_of([entry], torch.zeros(1, 3, SIZE, SIZE))


@pytest.mark.parametrize("found", [(BOXES, SURE, KIND), None, [], [(BOXES, SURE, KIND)] * 3])
def test_there_is_an_entry_for_each_image(found):
    with pytest.raises(ValueError, match="for 2 images, and it needs an entry for each"):
        candidates_of(found, torch.zeros(2, 3, SIZE, SIZE))


def test_scores_that_were_cut_off_are_refused(net, images):
    def detached(outputs):
        return [(boxes_of(), row.sigmoid().detach()) for row in outputs]

    def rebuilt(outputs):
        return [(boxes_of(), torch.tensor(row.sigmoid().tolist())) for row in outputs]

    @torch.no_grad()
    def without(outputs):
        return per_class(outputs)

    for read in (detached, rebuilt, without):
        with pytest.raises(ValueError, match="scores of image 0 of the batch carry no graph"):
            explain_objects(adapt(net, read=read), images, layers=["fine.1"])


def test_saturated_and_zero_confidences_stay_finite():
    sure = torch.tensor([[0.0, 1.0], [0.5, 1e-30]], requires_grad=True)
    (found,) = candidates_of([(BOXES, sure)], torch.zeros(1, 3, SIZE, SIZE))
    assert found.logits.isfinite().all()
    (gradient,) = torch.autograd.grad(found.logits.sum(), sure)
    assert gradient.isfinite().all()
    assert float(found.logits[1, 0].detach()) == pytest.approx(0, abs=1e-6)
    assert float(gradient[1, 0]) == pytest.approx(4)


def test_options_that_do_not_fit(net):
    for options, message in (
        ({"task": "classification"}, "read: is of detectors, and task='classification' says"),
        ({"multi_label": True}, "multi_label: is for classifiers, and read= is of detectors"),
        ({"output": 0}, "output: a detector has boxes beside its scores"),
        ({"threshold": 2.0}, "between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            adapt(net, read=per_class, **options)
    with pytest.raises(ValueError, match="read: str is not callable"):
        adapt(net, read="per_class")
    with pytest.raises(ValueError, match="not recognised for 'detection'.*pass read=a callable"):
        adapt(net, task="detection")
    with pytest.raises(ValueError, match="of a detector pass read=a callable"):
        explain(net, torch.rand(1, 3, SIZE, SIZE))
    with pytest.raises(ValueError, match="where TwoHeads has its boxes is not known; pass read="):
        DetectionModel(net).forward(torch.rand(1, 3, SIZE, SIZE))


def test_candidates_are_taken_as_they_are(net, images):
    def read(outputs):
        return [Candidates(boxes_of(), row, row.detach().sigmoid()) for row in outputs]

    model = adapt(net, read=read)
    torch.testing.assert_close(model.logits(model.forward(images)), net(images).amax(1))
