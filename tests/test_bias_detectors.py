"""``find_background_bias`` of detectors whose reasons are known by construction."""

import csv
import json

import fiftyone as fo
import numpy as np
import pytest
import torch
from bias_common import CLASSES, ON_OBJECT, RELIES, SIDE, Cues, agreeing, inner, sample, to_tensor
from operators_common import operator

from cam_core import Candidates, DetectionModel

pytestmark = pytest.mark.usefixtures("plugin")
BOX = 12


class Windows(torch.nn.Module):
    """A candidate at every place of a 12 x 12 window, scored by its own blue and the picture's red."""

    def __init__(self, red=0.0, blue=0.0):
        super().__init__()
        self.features = Cues().features
        self.red, self.blue = red, blue

    def forward(self, images):
        maps = self.features(images).relu()
        signs = maps[:, 0::2] - maps[:, 1::2]
        own = torch.nn.functional.avg_pool2d(signs[:, 1:], BOX, 1)[:, 0]
        whole = signs[:, 0].mean((1, 2))
        evidence = self.blue * own + self.red * whole[:, None, None]
        return torch.stack([evidence, -evidence], -1).flatten(1, 2)


def read(outputs, images):
    steps = torch.arange(SIDE - BOX + 1).float()
    corners = torch.cartesian_prod(steps, steps).flip(1)
    boxes = torch.cat([corners, corners + BOX], 1)
    return [Candidates(boxes, row, row.detach().sigmoid()) for row in outputs]


def detector(red=0.0, blue=0.0):
    return DetectionModel(Windows(red, blue).eval(), read=read, levels=["features"])


BY_BACKGROUND, BY_OBJECT = {"red": 12.0}, {"blue": 8.0}


def find(samples, network, cam_key="run", **arguments):
    return operator("find_background_bias")(
        samples, cam_key, detector(**network), transforms=to_tensor, classes=CLASSES,
        progress=False, num_workers=0, objects="ground_truth", **arguments,
    )  # fmt: skip


def attribute(dataset, name):
    return [v for part in dataset.values(f"ground_truth.detections.run_{name}") for v in part]


def test_a_detector_that_reads_the_surroundings(agree, tmp_path):
    dataset = agree()
    summary = find(dataset, BY_BACKGROUND, report=str(tmp_path / "out"))
    assert set(attribute(dataset, "verdict")) == {RELIES}
    assert dataset.distinct("run_verdict") == [RELIES]
    np.testing.assert_allclose(attribute(dataset, "swap_score"), 1, atol=0.01)
    np.testing.assert_allclose(attribute(dataset, "swap_drop"), 1, atol=0.02)
    np.testing.assert_allclose(attribute(dataset, "same_drop"), 0, atol=0.02)
    assert set(attribute(dataset, "swap_flip")) == {1.0}
    assert min(dataset.values("run_dependence")) > 0.95
    assert (summary.unit, summary.units, summary.tested, summary.samples) == ("objects", 48, 48, 48)
    assert {row["label"] for row in summary.flagged} == set(CLASSES)
    m = summary.model
    assert (m["against"], m["accuracy"]["mean"], m["mixed_rand"]["mean"]) == ("objects", 1, 0)
    assert m["mixed_same"]["mean"] == m["only_bg"]["mean"] == 1
    text = str(summary)
    assert "the score of 48 of 48 tested objects depends on the background" in text
    assert "found and named right; 0 %" in text
    # what is written is declared, and described
    schema = dataset.get_field_schema(flat=True)
    drop = schema["ground_truth.detections.run_swap_drop"]
    assert isinstance(drop, fo.FloatField)
    assert "surroundings of other classes" in drop.description
    first = dataset.first()
    assert first.run_bias.explained == first.run_bias.label == "plus"
    donors = dataset.select(first.run_bias.donors)
    assert sorted(donors.values("label.label")) == ["minus"] * 4 + ["plus"] * 4
    assert len(dataset.load_saved_view("run: relies on background")) == 48

    assert summary.report == str(tmp_path / "out" / "run_bias.json")
    found = json.loads((tmp_path / "out" / "run_bias.json").read_text())
    assert found["schema"] == 1
    assert len(found["objects"]) == 48
    assert found["objects"][0]["id"] == first.ground_truth.detections[0].id
    with open(tmp_path / "out" / "run_bias_objects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["verdict"] for row in rows} == {RELIES}


def test_a_detector_that_reads_the_object(agree):
    dataset = agree()
    summary = find(dataset, BY_OBJECT)
    assert set(attribute(dataset, "verdict")) == {ON_OBJECT}
    np.testing.assert_allclose(attribute(dataset, "swap_drop"), 0, atol=0.02)
    # without the object the window says nothing: neither class, .5
    np.testing.assert_allclose(attribute(dataset, "bg_only"), 0.5, atol=0.02)
    assert summary.flagged == []
    assert summary.model["null_rate"] == 0
    assert "no background dependence of the 2 classes judged" in str(summary)


def test_a_sample_takes_the_worst_of_its_objects(make_dataset, tmp_path):
    samples = agreeing(tmp_path, 24)
    # a second box on plain background: the object reader finds nothing of its class there
    one = samples[0]
    one.ground_truth.detections += [
        fo.Detection(label="minus", bounding_box=[20 / 32, 20 / 32, 12 / 32, 12 / 32]),
        fo.Detection(label="axolotl", bounding_box=[0.6, 0.0, 0.3, 0.3]),
    ]
    dataset = make_dataset(*samples)
    summary = find(dataset, BY_BACKGROUND)
    first = dataset.first()
    verdicts = [d.run_verdict for d in first.ground_truth.detections]
    assert verdicts == [RELIES, "cannot say", "cannot say"]
    reasons = [d.run_reason for d in first.ground_truth.detections]
    assert reasons[1] == "the detector does not find it, so there is no score to lose"
    assert reasons[2] == "the model has no class of this name"
    assert first.run_verdict == RELIES
    assert first.run_bias.label == "plus"
    assert summary.skipped == {"not found": 1, "no class": 1}
    assert summary.labels["names"] == ["axolotl"]
    assert "1 objects have a label that the model lacks (axolotl)" in str(summary)
    # it lends its background without any of its objects, and to no object of a class that it holds
    minus = dataset.match({"label.label": "minus"})
    assert all(first.id not in d[:4] for d in minus.values("run_bias.donors"))


def test_a_sample_without_objects_can_lend_but_says_nothing(agree, tmp_path):
    dataset = agree(24)
    dataset.add_sample(sample(tmp_path, "empty", 1, 0, boxed=False))
    find(dataset, BY_BACKGROUND)
    last = dataset.last()
    assert last.run_verdict == "cannot say"
    assert last.run_bias.reason == "no object is annotated"
    assert last.run_dependence is None


def test_deleting_and_overwriting_leave_the_labels_as_they_were(agree):
    dataset = agree(24)
    before = set(dataset.get_field_schema(flat=True))
    stored = [d.to_dict() for part in dataset.values("ground_truth.detections") for d in part]
    find(dataset, BY_BACKGROUND, tags=True)
    with pytest.raises(ValueError, match="examined already"):
        find(dataset, BY_OBJECT)
    find(dataset, BY_OBJECT, overwrite=True, views=False)
    operator("delete_cam_run")(dataset, "run")
    dataset.reload()
    left = set(dataset.get_field_schema(flat=True)) - before
    assert not {name for name in left if "run_" in name}
    after = [d.to_dict() for part in dataset.values("ground_truth.detections") for d in part]
    assert after == stored
    assert dataset.count_sample_tags() == {}


def test_closing_leaves_nothing_on_the_labels(agree, monkeypatch):
    dataset = agree(24)
    job, settings = inner("_bias_job"), inner("_bias_settings")
    monkeypatch.setattr(inner("_bias_detector_job"), "_WRITTEN_AT_ONCE", 10)
    given = settings.BiasSettings(cam_key="run", objects="ground_truth", num_workers=0)
    steps = job.BiasJob(dataset, detector(**BY_OBJECT), given, to_tensor, CLASSES).run()
    for state in steps:
        if state.name == "writing":
            break
    assert dataset.count("ground_truth.detections.run_verdict") == 10
    steps.close()
    assert inner("_bias_store").record_of(dataset, "run")["status"] == "interrupted"
    dataset.reload()
    assert "ground_truth.detections.run_verdict" not in dataset.get_field_schema(flat=True)
    assert "run_verdict" not in dataset.get_field_schema()
    assert find(dataset, BY_OBJECT).tested == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objects": None}, "tested on the boxes of one field of Detections"),
        ({"group_by": "filepath"}, "groups are compared of classifiers only"),
    ],
)
def test_what_a_detector_has_no_use_for(agree, arguments, message):
    dataset = agree(4)
    given = {"objects": "ground_truth", **arguments}
    with pytest.raises(ValueError, match=message):
        operator("find_background_bias")(
            dataset, "run", detector(**BY_OBJECT), transforms=to_tensor, classes=CLASSES,
            progress=False, num_workers=0, **given,
        )  # fmt: skip
    assert dataset.list_runs() == []


def test_an_attribute_of_somebody_else_is_left_alone(agree):
    dataset = agree(4)
    for one in dataset:
        one.ground_truth.detections[0]["run_swap_drop"] = 7.0
        one.save()
    dataset.add_dynamic_sample_fields()
    with pytest.raises(ValueError, match=r"run_swap_drop' exists and is not ours"):
        find(dataset, BY_OBJECT)
    assert dataset.list_runs() == []


def test_renaming_the_run_renames_what_is_on_the_labels(agree):
    dataset = agree(24)
    find(dataset, BY_OBJECT)
    operator("rename_cam_run")(dataset, "run", "other")
    dataset.reload()
    names = set(dataset.get_field_schema(flat=True))
    assert "ground_truth.detections.other_verdict" in names
    assert not {n for n in names if n.startswith("ground_truth.detections.run_")}
    assert dataset.count("ground_truth.detections.other_verdict") == 24
    operator("delete_cam_run")(dataset, "other")
    dataset.reload()
    left = set(dataset.get_field_schema(flat=True))
    assert not {n for n in left if n.startswith("ground_truth.detections.other_")}
