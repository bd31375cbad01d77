"""A detector in ``compute_cams``: its own detections, as one map per method."""

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from detectors_common import SIDE, detector, read
from operators_common import compute
from PIL import Image

from cam_core import DetectionModel, explain, explain_objects

pytestmark = pytest.mark.usefixtures("plugin")


def run(dataset, model, **arguments):
    transforms = T.Compose([T.Resize((SIDE, SIDE)), T.ToTensor()])
    return compute(
        dataset, model=model, transforms=transforms, classes=["dark", "light"], **arguments
    )


def test_the_field_is_the_maximum_over_the_detections(photo_dataset):
    dataset = photo_dataset(3)
    summary = run(dataset, detector(-3.2), methods=["layercam", "hirescam"], batch_size=2)
    assert summary.fields == ["run_layercam", "run_hirescam", "run_detections"]
    for sample in dataset:
        image = T.ToTensor()(Image.open(sample.filepath).convert("RGB").resize((SIDE, SIDE), 2))
        found = explain_objects(detector(-3.2), image[None], methods="layercam")
        expected = found.all_objects("layercam")[0]
        label = sample.run_layercam
        assert (label.layer, label.status) == ("patches", "ok")
        assert label.peak == pytest.approx(
            float(found.maps["layercam"].nan_to_num(0).max()), rel=1e-2
        )
        assert label.target == ", ".join(
            dict.fromkeys(d.label for d in sample.run_detections.detections)
        )
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


def test_a_map_without_a_class_needs_no_detection(photo_dataset):
    """Eigen-CAM of a detector that finds nothing is that of one that finds something."""
    dataset = photo_dataset(2)
    methods = ["eigencam", "activations", "layercam"]
    for key, bias in (("none", -20.0), ("some", -3.2)):
        summary = run(dataset, detector(bias), methods=methods, cam_key=key)
        assert summary.statuses[f"{key}_eigencam"] == {"ok": 2}
    assert summary.statuses["some_layercam"] == {"ok": 2}
    for sample in dataset:
        for method in methods[:2]:
            np.testing.assert_array_equal(
                sample[f"none_{method}"].map, sample[f"some_{method}"].map
            )
            assert sample[f"none_{method}"].target is None
            assert sample[f"none_{method}"].layer == "patches"
        assert sample.none_layercam.status == "target_absent"
        assert sample.none_detections.detections == []


def test_named_layers_have_a_map_each_of_methods_without_a_class(photo_dataset):
    dataset = photo_dataset(1)
    model = DetectionModel(Levels().eval(), read=lambda out, images: read(out[0], images))
    fields = ["run_eigencam", "run_eigencam_fine", "run_eigencam_coarse", "run_layercam"]
    summary = run(dataset, model, methods=["eigencam", "layercam"], layers=["fine", "coarse"])
    assert summary.fields == [*fields, "run_detections"]
    sample = dataset.first()
    assert [sample[f].layer for f in fields] == ["fused", "fine", "coarse", "fused"]
    peaks = [sample[f].peak for f in fields[:3]]
    assert peaks[0] == pytest.approx(max(peaks[1:]))
    image = T.ToTensor()(Image.open(sample.filepath).convert("RGB").resize((SIDE, SIDE), 2))
    for layer in ("fine", "coarse"):
        own = explain(model, image[None], "eigencam", layers=[layer]).maps["eigencam", layer]
        assert sample[f"run_eigencam_{layer}"].peak == pytest.approx(float(own.max()), rel=1e-3)
    # one map where layers were not named
    model = DetectionModel(Levels().eval(), read=model.read, levels=["fine", "coarse"])
    summary = run(dataset, model, methods="eigencam", cam_key="two")
    assert summary.fields == ["two_eigencam", "two_detections"]


class Levels(torch.nn.Module):
    """Two feature levels; candidates come from the coarse one."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.fine = torch.nn.Conv2d(3, 8, 8, 8)
            self.coarse = torch.nn.Conv2d(8, 8, 2, 2)
            self.head = torch.nn.Conv2d(8, 2, 1)

    def forward(self, images):
        fine = self.fine(images).relu()
        return self.head(self.coarse(fine).relu()), fine


def test_object_maps_of_a_mixed_list_are_written_for_those_that_have_some(photo_dataset):
    dataset = photo_dataset(1)
    methods = ["eigencam", "layercam"]
    summary = run(dataset, detector(0.0), methods=methods, object_maps=1)
    assert "run_layercam_object1" in summary.fields
    assert "run_eigencam_object1" not in summary.fields
    assert "object_maps: eigencam is the same for every object" in str(summary)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": "top_2"}, "no class 'top_2'"),
        ({"fuse": "mean"}, "feature levels are one map already"),
        ({"methods": "eigencam", "object_maps": 2}, "object_maps: eigencam is the same for every"),
        ({"targets": {"most": 1}, "object_maps": 2}, "2 objects cannot have maps of their own"),
    ],
)
def test_what_detectors_have_no_use_for(photo_dataset, arguments, message):
    dataset = photo_dataset(1)
    with pytest.raises(ValueError, match=message):
        run(dataset, detector(), **arguments)
    assert dataset.list_runs() == []
