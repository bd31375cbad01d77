"""A detector in ``compute_cams``: its own detections, as one map per method."""

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from detectors_common import SIDE, detector
from operators_common import compute

from cam_core import explain_objects

pytestmark = pytest.mark.usefixtures("plugin")


def run(dataset, model, **arguments):
    transforms = T.Compose([T.Resize((SIDE, SIDE)), T.ToTensor()])
    return compute(
        dataset, model=model, transforms=transforms, classes=["dark", "light"], **arguments
    )


def test_the_field_is_the_maximum_over_the_detections(photo_dataset):
    from PIL import Image

    dataset = photo_dataset(3)
    summary = run(dataset, detector(-3.2), methods=["layercam", "hirescam"], batch_size=2)
    assert summary.fields == ["run_layercam", "run_hirescam", "run_detections"]
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
        ({"targets": "top_2"}, "no class 'top_2'"),
        ({"fuse": "mean"}, "feature levels are one map already"),
    ],
)
def test_what_detectors_have_no_use_for(photo_dataset, arguments, message):
    dataset = photo_dataset(1)
    with pytest.raises(ValueError, match=message):
        run(dataset, detector(), **arguments)
    assert dataset.list_runs() == []
