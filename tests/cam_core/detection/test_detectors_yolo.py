"""Ultralytics' detectors from their yaml, random weights, against plain autograd and their own NMS."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cam_core import adapt, cam_method, detect, explain, explain_objects, object_target
from cam_core.adapters.detectors_yolo import UltralyticsDetector

tasks = pytest.importorskip("ultralytics.nn.tasks")

SIZE = (96, 64)
BOXES = {
    "yolov5n": tasks.DetectionModel,
    "yolov8n": tasks.DetectionModel,
    "yolo11n": tasks.DetectionModel,
    "yolov10n": tasks.DetectionModel,
    "yolo26n": tasks.DetectionModel,
}
OTHERS = {
    "yolov8n-seg": tasks.SegmentationModel,
    "yolo26n-seg": tasks.SegmentationModel,
    "yolo11n-pose": tasks.PoseModel,
    "yolo26n-pose": tasks.PoseModel,
    "yolo11n-obb": tasks.OBBModel,
    "yolo26n-obb": tasks.OBBModel,
}
END_TO_END = ("yolov10n", "yolo26n", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb")


@cam_method(paper="none")
def plain_gradient(gradients):
    """The gradient summed over channels."""
    return gradients.sum(1)


def build(name: str, end_to_end: bool | None = None) -> nn.Module:
    """A network whose confidences differ: as it is initialised all are the last layer's bias."""
    torch.manual_seed(5)
    net = {**BOXES, **OTHERS}[name](f"{name}.yaml", nc=4, verbose=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.train()
    with torch.no_grad():
        net(torch.rand(4, 3, *SIZE))
    head = net.model[-1]
    for branch in (head.cv3, getattr(head, "one2one_cv3", None) or []):
        for level in branch:
            nn.init.normal_(level[-1].weight, std=0.3)
            nn.init.constant_(level[-1].bias, -1.0)
    for branch in (head.cv2, getattr(head, "one2one_cv2", None) or []):
        for level in branch:  # boxes that have an area
            nn.init.normal_(level[-1].weight, std=0.005 if head.reg_max > 1 else 0)
    if name in END_TO_END:
        net.end2end = end_to_end is not False
    return net.eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, *SIZE)


def raw_parts(net: nn.Module, outputs) -> dict[str, Tensor]:
    parts = outputs[1]
    if "one2one" in parts:
        parts = parts["one2one" if net.model[-1].end2end else "one2many"]
    return parts


@pytest.mark.parametrize(
    ("name", "end_to_end"),
    [*((name, name in END_TO_END) for name in (*BOXES, *OTHERS)), ("yolo26n", False)],
)
def test_gradient_is_plain_autograd_at_the_heads_inputs(name, end_to_end, images, protect):
    net = build(name, end_to_end)
    model = adapt(net)
    assert type(model) is UltralyticsDetector
    assert bool(net.model[-1].end2end) == end_to_end
    candidates = model.forward(images).candidates[0]
    index = int(candidates.logits[:, 2].argmax())
    check = protect(net)
    result = explain(
        net,
        images[:1],
        plain_gradient,
        object_target(candidates.boxes[index], 2, prefer="overlap"),
    )
    check()

    inputs = []
    handle = net.model[-1].register_forward_pre_hook(lambda module, args: inputs.extend(args[0]))
    with torch.enable_grad():
        score = raw_parts(net, net(images[:1]))["scores"][0, 2, index]
        gradients = torch.autograd.grad(score, inputs, allow_unused=True)
    handle.remove()
    assert float(result.scores[0, 0]) == pytest.approx(float(score.detach()), rel=1e-4)
    assert result.layers == model.levels
    last = model.levels[-1]
    expected = gradients[-1][0].sum(0)
    assert expected.abs().max() > 0 or any(g.abs().max() > 0 for g in gradients)
    assert torch.allclose(
        result.maps["plain_gradient", last][0, 0],
        expected,
        atol=1e-4 * float(expected.abs().max() + 1e-9),
    )
    for level, gradient in zip(model.levels, gradients, strict=True):
        # what a level passes on to the coarser ones reaches it too, as it does in autograd
        ours = result.maps["plain_gradient", level][0, 0]
        wanted = gradient[0].sum(0)
        assert torch.allclose(ours, wanted, atol=1e-4 * float(wanted.abs().max() + 1e-9))


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolov8n-seg", "yolo11n-pose", "yolo26n"])
def test_detections_are_those_of_ultralytics_suppression(name, images):
    from ultralytics.utils.nms import non_max_suppression

    net = build(name, end_to_end=False)
    with torch.no_grad():
        predictions = net(images)[0]
    predictions = predictions[0] if isinstance(predictions, tuple) else predictions
    expected, index = non_max_suppression(predictions.clone(), 0.25, 0.7, nc=4, return_idxs=True)
    found = detect(net, images)
    assert sum(len(e) for e in expected) > 5
    for ours, theirs, where in zip(found, expected, index, strict=True):
        assert torch.allclose(ours.boxes, theirs[:, :4], atol=1e-3)
        assert torch.allclose(ours.scores, theirs[:, 4], atol=1e-5)
        assert ours.labels.tolist() == theirs[:, 5].long().tolist()
        assert ours.candidates.tolist() == where.long().flatten().tolist()


@pytest.mark.parametrize("name", ["yolov10n", "yolo26n"])
def test_end_to_end_detections_are_the_models_own(name, images):
    net = build(name)
    with torch.no_grad():
        own = net(images)[0]
    for ours, theirs in zip(detect(net, images), own, strict=True):
        sure = theirs[theirs[:, 4] >= 0.25]
        assert len(sure) > 0
        assert torch.allclose(ours.boxes, sure[:, :4])
        assert torch.allclose(ours.scores, sure[:, 4])
        assert ours.labels.tolist() == sure[:, 5].long().tolist()


def test_chosen_places_are_traced_to_their_candidates(images):
    for name in ("yolo26n", "yolo26n-obb", "yolo26n-seg"):
        model = adapt(build(name))
        outputs = model.forward(images)
        for candidates, found in zip(outputs.candidates, model.detections(outputs), strict=True):
            assert len(found.boxes) > 0
            assert torch.allclose(candidates.boxes[found.candidates], found.boxes, atol=1e-3)
            own = candidates.probabilities[found.candidates, found.labels]
            assert torch.allclose(own, found.scores, atol=1e-6)


def test_rotated_boxes_are_seen_from_outside(images):
    net = build("yolo11n-obb")
    with torch.no_grad():
        predictions = net(images)[0]
    boxes = adapt(net).forward(images).candidates[1].boxes
    x, y, width, height, angle = (predictions[1, c] for c in (0, 1, 2, 3, -1))
    corner = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    across = corner[:, :1] * width * angle.cos() - corner[:, 1:] * height * angle.sin() + x
    down = corner[:, :1] * width * angle.sin() + corner[:, 1:] * height * angle.cos() + y
    expected = torch.stack([across.amin(0), down.amin(0), across.amax(0), down.amax(0)], 1)
    assert torch.allclose(boxes, expected, atol=1e-3)


class TestDetachingHeads:
    """Older heads, and heads in training, cut the gradient of the end-to-end branch."""

    def test_the_gradient_arrives(self, images):
        net = build("yolo26n")
        candidates = adapt(net).forward(images).candidates[0]
        target = object_target(candidates.boxes[3], 1, prefer="overlap")
        expected = explain(net, images[:1], plain_gradient, target)

        head = net.model[-1]

        class Detaching(type(head)):
            def forward(self, x):
                one2one = self.forward_head([level.detach() for level in x], **self.one2one)
                predictions = self.postprocess(self._inference(one2one).permute(0, 2, 1))
                return predictions, {"one2many": None, "one2one": one2one}

        head.__class__ = Detaching
        features = torch.rand(1, 3, *SIZE)
        net(features)[1]["one2one"]["scores"].sum().backward()
        assert all(p.grad is None for p in net.model[0].parameters())  # it does cut
        net.zero_grad(set_to_none=True)

        result = explain(net, images[:1], plain_gradient, target)
        assert expected.maps["plain_gradient", "model.16"].any()
        for key, maps in expected.maps.items():
            assert torch.allclose(result.maps[key], maps, atol=1e-6)

    def test_lists_of_levels_as_heads_before_84_return_them(self, images):
        net = build("yolov8n")
        expected = explain_objects(net, images)
        head = net.model[-1]

        class Older(type(head)):
            def forward(self, x):
                levels = [
                    torch.cat([box(f), cls(f)], 1)
                    for box, cls, f in zip(self.cv2, self.cv3, x, strict=True)
                ]
                return self._inference(levels), levels

            def _inference(self, levels):
                if isinstance(levels, dict):
                    return super()._inference(levels)
                joined = torch.cat([level.flatten(2) for level in levels], 2)
                boxes, scores = joined.split([4 * self.reg_max, self.nc], 1)
                return super()._inference({"boxes": boxes, "scores": scores, "feats": levels})

        head.__class__ = Older
        result = explain_objects(net, images)
        assert torch.equal(result.candidates, expected.candidates)
        assert torch.allclose(
            result.maps["layercam"].nan_to_num(-1),
            expected.maps["layercam"].nan_to_num(-1),
            atol=1e-5,
        )


def test_positions_cached_under_inference_mode_do_not_matter(images):
    net = build("yolov8n")
    expected = explain_objects(adapt(net), images)
    with torch.inference_mode():
        net(images)
    cached = net.model[-1].anchors
    assert cached.is_inference()
    result = explain_objects(adapt(net), images)
    assert net.model[-1].anchors is cached
    assert torch.equal(result.scores.nan_to_num(0), expected.scores.nan_to_num(0))


def test_the_object_around_a_network(images):
    ultralytics = pytest.importorskip("ultralytics")
    yolo = ultralytics.YOLO("yolov8n.yaml", verbose=False)
    model = adapt(yolo)
    assert model.module is yolo.model
    result = explain(yolo, images[:1], plain_gradient, 3)
    assert result.valid.all()


@pytest.mark.filterwarnings("error:layer")
def test_ablation_is_a_forward_without_the_channel(images):
    net = build("yolov8n")
    model = adapt(net)
    found = detect(model, images[:1])[0]
    target = object_target(found.boxes[0], int(found.labels[0]))
    name = model.levels[0]
    result = explain(model, images[:1], "ablationcam", target, [name])
    module = net.get_submodule(name)
    kept = {}
    handle = module.register_forward_hook(lambda m, a, output: kept.update(level=output))
    with torch.no_grad():
        whole = target(model.forward(images[:1]))
    handle.remove()
    weights = []
    for channel in range(kept["level"].shape[1]):
        mask = torch.ones(1, kept["level"].shape[1], 1, 1)
        mask[:, channel] = 0
        handle = module.register_forward_hook(lambda m, a, output, mask=mask: output * mask)
        with torch.no_grad():
            weights.append((whole - target(model.forward(images[:1]))) / whole.abs())
        handle.remove()
    expected = (torch.stack(weights, 1)[:, :, None, None] * kept["level"]).sum(1)
    ours = result.maps["ablationcam", name][0]
    assert torch.allclose(ours, expected, atol=1e-3 * float(expected.abs().max()))


def test_rtdetr(images, protect):
    net = tasks.RTDETRDetectionModel("rtdetr-resnet50.yaml", nc=4, verbose=False).eval()
    model = adapt(net)
    outputs = model.forward(images)
    own = outputs.raw[0]
    detections = model.detections(outputs)
    with torch.no_grad():
        best = own[0, :, 4].max()
    assert float(outputs.candidates[0].probabilities.max()) == pytest.approx(float(best), abs=1e-6)
    assert len(detections) == 2
    boxes = [c.boxes[:1] for c in outputs.candidates]
    check = protect(net)
    result = explain_objects(net, images, boxes, [torch.tensor([1])] * 2, prefer="overlap")
    check()
    assert result.valid.all()
    assert (result.maps["layercam"].amax((2, 3)) > 0).all()


def test_an_exported_head_is_refused(images):
    net = build("yolov8n")
    net.model[-1].export = True
    with pytest.raises(ValueError, match="set its `export` to False"):
        explain(net, images, "layercam")
    with pytest.raises(ValueError, match="suppression must be an overlap"):
        UltralyticsDetector(net, suppression=70)
