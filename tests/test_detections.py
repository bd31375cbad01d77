"""A detector in ``compute_cams``: its own detections, as one map per method."""

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from operators_common import compute, operator
from torch import nn

from cam_core import Candidates, DetectionModel, explain_objects

pytestmark = pytest.mark.usefixtures("plugin")
SIDE, PATCH = 64, 16


class Grid(nn.Module):
    """One candidate box per patch; its score is how bright the patch is."""

    def __init__(self, bias=0.0):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, PATCH, PATCH)
        nn.init.constant_(self.patches.weight, 4 / (3 * PATCH * PATCH))
        nn.init.constant_(self.patches.bias, 0)
        self.head = nn.Conv2d(4, 2, 1)
        nn.init.constant_(self.head.weight, 0.25)
        nn.init.constant_(self.head.bias, bias)

    def forward(self, images):
        return self.head(self.patches(images).relu())


def read(outputs, images):
    corners = torch.cartesian_prod(torch.arange(4), torch.arange(4)).flip(1) * float(PATCH)
    boxes = torch.cat([corners, corners + PATCH], 1)
    rows = outputs.flatten(2).transpose(1, 2)
    return [Candidates(boxes, row, row.detach().sigmoid()) for row in rows]


def detector(bias=0.0):
    return DetectionModel(Grid(bias).eval(), read=read, levels=["patches"])


def run(dataset, model, **arguments):
    transforms = T.Compose([T.Resize((SIDE, SIDE)), T.ToTensor()])
    return compute(
        dataset, model=model, transforms=transforms, classes=["dark", "light"], **arguments
    )


def test_the_field_is_the_maximum_over_the_detections(photo_dataset):
    from PIL import Image

    dataset = photo_dataset(3)
    summary = run(dataset, detector(-3.2), methods=["layercam", "hirescam"], batch_size=2)
    assert summary.fields == ["run_layercam", "run_hirescam"]
    for sample in dataset:
        image = T.ToTensor()(Image.open(sample.filepath).convert("RGB").resize((SIDE, SIDE), 2))
        found = explain_objects(detector(-3.2), image[None], methods="layercam")
        expected = found.all_objects("layercam")[0]
        label = sample.run_layercam
        assert (label.layer, label.status, label.target_index) == ("objects", "ok", None)
        assert label.score == pytest.approx(float(found.scores[0].nan_to_num(-9).max()), abs=0.05)
        cells = torch.nn.functional.adaptive_avg_pool2d(
            torch.from_numpy(label.map.astype(np.float32))[None], (4, 4)
        )[0]
        both = torch.stack([cells.flatten(), expected.flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.9


def test_nothing_detected_is_no_picture(photo_dataset):
    dataset = photo_dataset(2)
    summary = run(dataset, detector(bias=-20.0))
    assert summary.done == 2
    assert summary.statuses["run_layercam"] == {"target_absent": 2}
    assert dataset.first().run_layercam.map is None
    assert dataset.first().run_layercam.score is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": "top_2"}, "a detector's own detections are explained"),
        ({"targets": ["light"]}, "a detector's own detections are explained"),
        ({"fuse": "mean"}, "feature levels are one map already"),
    ],
)
def test_what_detectors_have_no_use_for(photo_dataset, arguments, message):
    dataset = photo_dataset(1)
    with pytest.raises(ValueError, match=message):
        run(dataset, detector(), **arguments)
    assert dataset.list_runs() == []


def test_bias_of_a_detector_is_refused_before_anything_is_computed(photo_dataset):
    dataset = photo_dataset(2)
    with pytest.raises(ValueError, match="tests classifiers"):
        operator("find_background_bias")(
            dataset,
            "det",
            detector(),
            transforms=T.Compose([T.Resize((SIDE, SIDE)), T.ToTensor()]),
            progress=False,
        )
    assert dataset.list_runs() == []
