"""Torchvision's detectors with a tiny backbone, against their own parts run by hand."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

from cam_core import adapt, cam_method, detect, explain, explain_objects, list_layers, object_target
from cam_core.adapters.detectors_torchvision import TorchvisionDetector


class Pyramid(nn.Module):
    """Two levels of strides 8 and 16, under the names that torchvision's have."""

    out_channels = 32

    def __init__(self, names: tuple[str, str] = ("0", "1")):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, 8)
        self.fine = nn.Conv2d(16, 32, 3, 1, 1)
        self.coarse = nn.Conv2d(16, 32, 3, 2, 1)
        self.names = names

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images).relu()
        return OrderedDict(zip(self.names, (self.fine(x), self.coarse(x)), strict=True))


def pool(size: int = 3) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(["0", "1"], size, 2)


def anchors(ratios: int = 1) -> AnchorGenerator:
    return AnchorGenerator(((12,), (28,)), (((0.7, 1.4)[:ratios] or (1.0,)),) * 2)


def rcnn_options() -> dict:
    return {
        "num_classes": 4,
        "rpn_anchor_generator": anchors(),
        "box_roi_pool": pool(),
        "rpn_post_nms_top_n_test": 25,
        "box_detections_per_img": 8,
    }


def build(name: str, min_size: int = 64, max_size: int = 200) -> nn.Module:
    torch.manual_seed(3)
    sizes = {"min_size": min_size, "max_size": max_size}
    if name == "faster":
        net = FasterRCNN(Pyramid(), **rcnn_options(), **sizes)
    elif name == "mask":
        net = MaskRCNN(Pyramid(), mask_roi_pool=pool(), **rcnn_options(), **sizes)
    elif name == "keypoint":
        options = {**rcnn_options(), "num_classes": 2}
        net = KeypointRCNN(Pyramid(), keypoint_roi_pool=pool(), num_keypoints=3, **options, **sizes)
    elif name == "retinanet":
        net = RetinaNet(Pyramid(), 4, anchor_generator=anchors(2), **sizes)
    elif name == "fcos":
        net = FCOS(Pyramid(), 4, anchor_generator=anchors(), **sizes)
    else:
        backbone = Pyramid()
        backbone.out_channels = [32, 32]
        net = SSD(backbone, DefaultBoxGenerator([[2], [2]]), (min_size, 96), 4)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    # So that every class is found somewhere, with confidences that differ.
    for bias in [p for n, p in net.named_parameters() if n.endswith("cls_logits.bias")]:
        nn.init.zeros_(bias)
    return net.eval()


ALL = ("faster", "mask", "keypoint", "retinanet", "fcos", "ssd")


@cam_method(paper="none")
def plain_gradient(gradients):
    """The gradient summed over channels."""
    return gradients.sum(1)


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 96)


@pytest.mark.parametrize("name", ALL)
def test_final_detections_are_candidates(name, images):
    """Boxes, classes and confidences are decoded as the model does it, to the last bit."""
    net = build(name, min_size=48)
    model = adapt(net)
    assert type(model) is TorchvisionDetector
    with torch.no_grad():
        own = net(list(images))
    outputs = model.forward(images)
    found = model.detections(outputs)
    assert sum(len(d.boxes) for d in found) > 3
    for candidates, detections, raw in zip(outputs.candidates, found, own, strict=True):
        index, labels = detections.candidates, detections.labels
        for i, label in zip(index.tolist(), labels.tolist(), strict=True):
            assert candidates.boxes_of(label)[i].shape == (4,)
        boxes = torch.stack(
            [
                candidates.boxes_of(c)[i]
                for i, c in zip(index.tolist(), labels.tolist(), strict=True)
            ]
        )
        assert torch.allclose(boxes, raw["boxes"], atol=1e-4)
        assert torch.allclose(candidates.probabilities[index, labels], raw["scores"], atol=1e-6)
        assert torch.equal(labels, raw["labels"])


def candidate_by_hand(name: str, net: nn.Module, images: Tensor, index: int, label: int):
    """The candidate's logit and its gradient at each level, from the model's parts."""
    batch, _ = net.transform(list(images))
    features = {k: v.detach().requires_grad_() for k, v in net.backbone(batch.tensors).items()}
    if hasattr(net, "roi_heads"):
        proposals, _ = net.rpn(batch, features)
        heads = net.roi_heads
        pooled = heads.box_roi_pool(features, proposals, batch.image_sizes)
        logits, _ = heads.box_predictor(heads.box_head(pooled))
        score = logits.split([len(p) for p in proposals])[0][index, label]
    else:
        score = net.head(list(features.values()))["cls_logits"][0, index, label]
    return score, torch.autograd.grad(score, list(features.values()), allow_unused=True)


@pytest.mark.parametrize("name", ALL)
def test_gradient_is_plain_autograd_through_the_parts(name, images):
    net = build(name)
    model = adapt(net)
    found = detect(model, images)[0]
    index, label = int(found.candidates[0]), int(found.labels[0])
    target = object_target(found.boxes[0], label, prefer="overlap")
    result = explain(model, images[:1], plain_gradient, target)
    score, gradients = candidate_by_hand(name, net, images, index, label)
    assert float(result.scores[0, 0]) == pytest.approx(float(score.detach()), rel=1e-5)
    assert any(g is not None and g.any() for g in gradients)
    for level, gradient in zip(("backbone:0", "backbone:1"), gradients, strict=True):
        ours = result.maps["plain_gradient", level][0, 0]
        expected = torch.zeros_like(ours) if gradient is None else gradient[0].sum(0)
        assert torch.allclose(ours, expected, atol=1e-5 * float(expected.abs().max() + 1e-9))


@pytest.mark.parametrize("name", ALL)
def test_objects_of_each_model(name, images, protect):
    net = build(name)
    net.train()
    net.backbone.fine.weight.requires_grad_(False)
    check = protect(net)
    model = adapt(net)
    model.confidence = 0.1
    result = explain_objects(model, images)
    check()
    assert result.valid.any()
    valid = result.valid
    assert torch.allclose(result.ious[valid], torch.ones(int(valid.sum())), atol=1e-4)
    assert result.explanation.layers == ["backbone:0", "backbone:1"]
    # LayerCAM of signed features may be zero for an object, not for all of them
    assert (result.maps["layercam"][valid].amax((1, 2)) > 0).any()
    if name not in ("retinanet", "fcos"):
        assert not (result.labels == 0).any()


def test_own_resizing_is_undone_in_boxes():
    small = torch.rand(1, 3, 64, 96)
    large = nn.functional.interpolate(small, scale_factor=2, mode="nearest")
    net = build("fcos", min_size=64)
    one = adapt(net).forward(small).candidates[0]
    two = adapt(net).forward(large).candidates[0]
    assert one.boxes.shape == two.boxes.shape
    assert float(two.boxes[:, 2].max()) <= 192.0
    # the anchors' centres: the level of stride 8 begins with a cell at (4, 4) of 64 x 96 pixels
    assert torch.equal(adapt(net)._scale((128, 192)), torch.full((4,), 2.0))
    middle = (two.boxes[:, :2] + two.boxes[:, 2:]) / 2
    assert float(middle[:, 0].max()) > 96


def test_own_padding_is_cut_off():
    """60 x 90 becomes 64 x 96 and, in steps of 32, stays; 64 x 90 is padded from 90 to 96 columns."""
    model = adapt(build("retinanet"))
    ramp = torch.arange(12).expand(1, 1, 8, 12) + 0.5  # in cells of 8 pixels, of the padded width
    assert model._geometry((64, 90)) == ((64, 90), (64, 96))
    cut = model.on_input(ramp, (64, 90))
    assert cut.shape == (1, 1, 8, 11)
    centres = (torch.arange(11) + 0.5) * (90 / 11) / 8
    assert torch.allclose(cut[0, 0, 3], centres, atol=1e-5)
    same = torch.rand(1, 1, 8, 12)
    assert model.on_input(same, (64, 96)) is same


def test_maps_tile_the_image_whatever_the_padding():
    """The gradient of a candidate lies where its anchor is, not where padding has moved it to."""
    net = build("retinanet", min_size=64)
    images = torch.rand(1, 3, 64, 72)  # padded to 96 columns, a quarter of it nothing
    model = adapt(net)
    outputs = model.forward(images)
    boxes = outputs.candidates[0].boxes
    # the rightmost column of cells of the fine level that lies on the image: 64 to 72
    wanted = int(((boxes[:, 2] > 71) & (boxes[:, 0] > 50)).nonzero()[0])
    result = explain_objects(
        model, images, [boxes[wanted][None]], [torch.tensor([1])], plain_gradient, prefer="overlap"
    )
    heat = result.explanation.maps["plain_gradient", "backbone:0"][0, 0].abs()
    assert heat.shape == (8, 9)
    if heat.any():
        columns = torch.arange(9) + 0.5
        assert float((heat.sum(0) * columns).sum() / heat.sum()) > 4.5


def test_classes_do_not_need_boxes(images):
    net = build("faster")
    result = explain(net, images, "hirescam", 2)
    outputs = adapt(net).forward(images)
    expected = torch.stack([c.logits[:, 2].max() for c in outputs.candidates])
    assert torch.allclose(result.scores[:, 0], expected, atol=1e-5)
    top = explain(net, images, "hirescam", "top_2")
    assert (top.targets > 0).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["retinanet", "faster"])
def test_ablation_is_a_forward_without_the_channel(name, images):
    """Replayed tails against the model with a channel of the level set to zero."""
    net = build(name)
    model = adapt(net)
    found = detect(model, images[:1])[0]
    target = object_target(found.boxes[0], int(found.labels[0]))
    result = explain(model, images[:1], "ablationcam", target, ["backbone:0"])

    activations = {}
    handle = net.backbone.register_forward_hook(
        lambda module, args, output: activations.update(level=output["0"])
    )
    with torch.no_grad():
        whole = target(model.forward(images[:1]))
    handle.remove()
    drops = []
    for channel in range(32):

        def without(module, args, output, channel=channel):
            output = OrderedDict(output)
            output["0"] = output["0"].clone()
            output["0"][:, channel] = 0
            return output

        handle = net.backbone.register_forward_hook(without)
        with torch.no_grad():
            drops.append((whole - target(model.forward(images[:1]))) / whole.abs())
        handle.remove()
    expected = (torch.stack(drops, 1)[:, :, None, None] * activations["level"]).sum(1)
    ours = result.maps["ablationcam", "backbone:0"][0]
    assert torch.allclose(ours, expected, atol=1e-3 * float(expected.abs().max()))


def test_model_is_left_as_it_came_after_an_error(images, protect):
    net = build("faster")
    check = protect(net)

    def broken(outputs, rows=None):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        explain(net, images, "layercam", broken)
    with pytest.raises(ValueError, match="out of range"):
        explain_objects(net, images, [torch.zeros(1, 4)] * 2, [torch.tensor([9])] * 2)
    check()


def test_layers_are_listed(images):
    rows = list_layers(build("faster"), images)
    assert [row.name for row in rows if row.default] == ["backbone:0", "backbone:1"]
    assert {row.grid for row in rows if row.default} == {(8, 12), (4, 6)}


def test_one_backbone_without_a_pyramid(images):
    """A backbone that returns a tensor: one level."""
    net = _plain_faster()
    result = explain_objects(adapt(net), images)
    assert result.explanation.layers == ["backbone"]
    assert result.maps["layercam"][result.valid].amax() > 0


def _plain_faster() -> nn.Module:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())
    backbone.out_channels = 8
    net = FasterRCNN(
        backbone,
        num_classes=3,
        min_size=64,
        rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 2),
    )
    for parameter in net.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
    return net.eval()


def test_an_inference_mode_around_it_does_not_matter(images):
    net = build("faster")
    expected = explain_objects(adapt(net), images)
    with torch.inference_mode():
        result = explain_objects(adapt(net), images)
    assert torch.equal(
        result.maps["layercam"].nan_to_num(-1), expected.maps["layercam"].nan_to_num(-1)
    )
