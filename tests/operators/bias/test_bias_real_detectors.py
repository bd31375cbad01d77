"""``find_background_bias`` of detectors as people have them, with random weights, on photos."""

import re

import fiftyone as fo
import numpy as np
import pytest
import torch
from operators_common import operator
from PIL import Image

from benchmarks import networks
from cam_core import adapt
from examples.dataset import photo_sample

pytestmark = pytest.mark.usefixtures("plugin")
ANIMALS = ["cat", "dog", "horse", "sheep"]


def faster_rcnn():
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    anchors = AnchorGenerator(((12,), (28,)), ((0.7, 1.4),) * 2)
    return FasterRCNN(
        Pyramid(), 5, min_size=64, max_size=96, rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 3, 2), rpn_post_nms_top_n_test=25,
        box_detections_per_img=8,
    )  # fmt: skip


def retinanet():
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    anchors = AnchorGenerator(((12,), (28,)), ((0.7, 1.4),) * 2)
    return RetinaNet(Pyramid(), 5, min_size=64, max_size=96, anchor_generator=anchors)


class Pyramid(torch.nn.Module):
    """Two levels, as torchvision's detectors take them."""

    out_channels = 16

    def __init__(self):
        super().__init__()
        self.fine = torch.nn.Conv2d(3, 16, 8, 8)
        self.coarse = torch.nn.Conv2d(16, 16, 3, 2, 1)

    def forward(self, images):
        fine = self.fine(images).relu()
        return {"0": fine, "1": self.coarse(fine)}


def yolo(name="yolov8n.yaml"):
    pytest.importorskip("ultralytics")
    return networks.ultralytics(name)


NETWORKS = {
    "Faster R-CNN": (faster_rcnn, ["background", *ANIMALS], (64, 96)),
    "RetinaNet": (retinanet, ["background", *ANIMALS], (64, 96)),
    "YOLOv8": (yolo, ANIMALS, (160, 192)),
    "YOLO26": (lambda: yolo("yolo26n.yaml"), ANIMALS, (64, 96)),
    "DETR": (networks.detr, ANIMALS, (64, 96)),
}


def surest(model, image, count):
    """The place of an image that a network is surest of: class, box and confidence."""
    with torch.no_grad():
        found = model.forward(image[None]).candidates[0]
    confidences = found.probabilities[:, :count].clone()
    if model.background is not None:
        confidences[:, model.background] = 0
    size = torch.tensor([image.shape[2], image.shape[1]] * 2)
    for place in confidences.flatten().argsort(descending=True).tolist():
        candidate, label = divmod(place, count)
        whole = found.boxes_of(label)[candidate]
        box = whole.clamp_min(0).minimum(size)
        sides, full = box[2:] - box[:2], whole[2:] - whole[:2]
        share = sides.prod() / image[0].numel()
        if sides.min() >= 6 and sides.prod() > 0.7 * full.prod() and share < 0.6:
            left, top, right, bottom = (box / size).tolist()
            return (
                label,
                [left, top, right - left, bottom - top],
                float(confidences[candidate, label]),
            )
    raise AssertionError("no candidate has a box on the picture")


@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks(make_dataset, photos, name):
    """Whatever a network with random weights finds: every object has a verdict with its reason."""
    import torchvision.transforms as T

    build, classes, size = NETWORKS[name]
    model = adapt(networks.seeded(build))
    transforms = T.Compose([T.Resize(size), T.ToTensor()])
    pictures, sure = [photo_sample(photo) for photo in photos[:4]], []
    with Image.open(pictures[0].filepath) as picture:
        favourite = surest(model, transforms(picture.convert("RGB")), len(classes))[0]
    others = [name for name in ANIMALS if name != classes[favourite]]
    for i, one in enumerate(pictures):
        detections = one.ground_truth.detections[:1]
        detections[0].label = ["axolotl", *others][i]
        if i < 2:  # beside the photo's own box, the place of which the network is surest
            with Image.open(one.filepath) as picture:
                image = transforms(picture.convert("RGB"))
            label, box, confidence = surest(model, image, len(classes))
            detections.append(fo.Detection(label=classes[label], bounding_box=box))
            sure.append(confidence)
        one.ground_truth = fo.Detections(detections=detections)
    dataset = make_dataset(*pictures)
    given = {
        "transforms": transforms, "classes": classes, "objects": "ground_truth", "donors": 2,
        "most_donors": 2, "progress": False, "num_workers": 0,
    }  # fmt: skip
    find_bias = operator("find_background_bias")
    model.confidence = 0.9 * min(sure)
    summary = find_bias(dataset, "run", model, **given)
    assert summary.units == 6
    assert summary.tested >= 2
    check_attributes_of_objects(dataset, {"the model has no class of this name"})

    model.confidence = 0.9999
    summary = find_bias(dataset, "run", model, overwrite=True, **given)
    assert summary.tested == 0
    assert "No background of 6 objects could be swapped" in str(summary)
    assert "the detector finds none of these objects" in str(summary)
    assert summary.verdicts == {"cannot say": 6}
    not_found = "the detector does not find it"
    check_attributes_of_objects(dataset, {not_found, "the model has no class of this name"})
    assert dataset.distinct("run_verdict") == ["cannot say"]


def told(dataset, name):
    return [v for part in dataset.values(f"ground_truth.detections.run_{name}") for v in part]


def check_attributes_of_objects(dataset, reasons):
    """Every object says something, those that were swapped with numbers."""
    assert reasons <= set(told(dataset, "reason"))
    scores = np.array(told(dataset, "swap_score"), float)
    assert ((scores >= 0) & (scores <= 1)).all()
    drops = told(dataset, "swap_drop")
    for verdict, reason, drop in zip(
        told(dataset, "verdict"), told(dataset, "reason"), drops, strict=True
    ):
        assert verdict
        assert bool(re.search("the score (falls|rises|stays)", reason)) == (drop is not None)
