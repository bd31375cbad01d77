"""``find_background_bias`` of detectors whose reasons are known by construction."""

import base64
import csv
import io
import json
import re

import fiftyone as fo
import numpy as np
import pytest
from bias_common import CLASSES, ON_OBJECT, RELIES, agreeing, inner, sample, to_tensor
from operators_common import operator, prepared
from page_common import Page
from PIL import Image
from window_detector_common import BY_BACKGROUND, BY_OBJECT, detector

pytestmark = pytest.mark.usefixtures("plugin")


def find(samples, network, cam_key="run", **arguments):
    return operator("find_background_bias")(
        samples, cam_key, detector(**network), transforms=to_tensor, classes=CLASSES,
        progress=False, num_workers=0, objects="ground_truth",
        **{"targets": {"field": "ground_truth"}, **arguments},
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

    assert summary.report == str(tmp_path / "out" / "run_bias.html")
    found = json.loads((tmp_path / "out" / "run_bias.json").read_text())
    assert found["schema"] == 2
    assert len(found["objects"]) == 48
    assert found["objects"][0]["id"] == first.ground_truth.detections[0].id
    with open(tmp_path / "out" / "run_bias_objects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["verdict"] for row in rows} == {RELIES}
    check_page((tmp_path / "out" / "run_bias.html").read_text(encoding="utf-8"), summary)


def check_page(text, summary):
    """A card for each flagged class, with pictures of what was done."""
    cards = re.findall(r'<section class="card flagged">(.*?)</section>', text, re.S)
    assert len(cards) == 2
    for row, card in zip(summary.flagged, cards, strict=True):
        page = Page(card)
        assert row["label"] in page.text
        assert "score 0.00 instead of 1.00" in page.text
        other = next(name for name in CLASSES if name != row["label"])
        assert f"found there: {other}" in page.text
        assert "0 of 24 tested objects do not depend on their surroundings" in page.text
        pictures = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(p.partition(",")[2]))), float)
            for p in page.pictures
        ]
        # four photos with their heat, and two composites; the box is drawn on all
        assert len(pictures) == 4 * 2 + 2
        red = np.median(pictures[0][..., 0])
        assert np.abs(pictures[0] - pictures[1])[..., 1].max() > 40, "heat is laid over it"
        for composite in pictures[8:]:
            assert abs(np.median(composite[..., 0]) - red) > 200
            orange = np.abs(composite - [255, 120, 20]).max(2) < 60
            assert orange.sum() > 200, "the box"
    page = Page(text)
    assert "48 samples, 48 objects, 48 tested" in page.text
    assert "Objects that depend most on their background" in page.text
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)


def test_the_page_without_anything_found_is_escaped_and_says_so(agree, tmp_path):
    dataset = agree(6)
    evil = "<script>alert('x')</script>"
    dataset.set_values("ground_truth.detections.label", [[evil]] * 6)
    summary = find(dataset, BY_OBJECT, targets="predicted", report=str(tmp_path / "out"))
    page = Page((tmp_path / "out" / "run_bias.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert evil in page.text
    assert "No background of 6 objects could be swapped" in page.text
    assert summary.skipped == {"no class": 6}


# without any cue neither class is found, with one the confidence is 1 to the last digit
HEAT = {"red": 30.0, "blue": 60.0, "less": 3.0}


def test_heat_counts_where_the_run_explained_the_boxes(make_dataset, tmp_path):
    # every other class of cue: in the surroundings, or on the object
    pictures = []
    for i in range(60):
        sign, outside = (1, -1)[i % 2], i % 4 < 2
        cues = (sign, 0) if outside else (0, sign)
        box = (2 + 3 * (i % 5), 3 + 2 * (i % 7), 12, 12)
        pictures.append(sample(tmp_path, f"one{i}", *cues, box, outside=outside))
    dataset = make_dataset(*pictures)
    model = detector(**HEAT)
    operator()(
        dataset, model, cam_key="run", methods="hirescam", targets="ground_truth", progress=False,
        transforms=to_tensor, classes=CLASSES, num_workers=0,
    )  # fmt: skip
    outside = np.array(dataset.values("outside"))
    in_box = np.array(attribute(dataset, "in_box"))
    assert in_box[outside].max() < 0.05
    assert in_box[~outside].min() > 0.9
    summary = find(dataset, HEAT, probe=44)
    assert summary.calibration["usable"]
    assert summary.calibration["auroc"] == 1
    assert "Heat: heat predicts the swap here (AUROC 1.00)." in summary.notes
    verdicts, tested = np.array(dataset.values("run_verdict")), dataset.values("run_bias.tested")
    tested = np.array(tested)
    assert tested.sum() == 44
    assert set(verdicts[tested & outside]) == {RELIES}
    assert set(verdicts[tested & ~outside]) == {ON_OBJECT}
    # who was not tested is judged by heat, and only as far as that goes
    assert set(verdicts[~tested & outside]) == {"heat outside, untested"}
    assert set(verdicts[~tested & ~outside]) == {"cannot say"}
    np.testing.assert_allclose(dataset.values("run_bias.obj_energy"), in_box)
    assert min(np.array(dataset.values("run_bias.suspicion"))[outside]) > 0.5
    assert max(np.array(dataset.values("run_bias.density_share"))[outside]) < 0.5


def test_heat_of_the_models_own_detections_says_nothing_of_these_boxes(agree):
    dataset = agree(6)
    summary = find(dataset, BY_BACKGROUND, targets="predicted")
    assert not summary.calibration["usable"]
    assert any("did not explain these boxes" in note for note in summary.notes)


def test_a_detector_that_reads_the_object(agree):
    dataset = agree()
    summary = find(dataset, BY_OBJECT)
    assert set(attribute(dataset, "verdict")) == {ON_OBJECT}
    np.testing.assert_allclose(attribute(dataset, "swap_drop"), 0, atol=0.02)
    # without the object the window says nothing: neither class, .5
    np.testing.assert_allclose(attribute(dataset, "bg_only"), 0.5, atol=0.02)
    assert summary.flagged == []
    assert not any("should that one have been meant" in note for note in summary.notes)
    assert summary.model["null_rate"] == 0
    assert "no sign of background dependence in the 2 classes judged" in str(summary)


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
    assert reasons[1] == "the detector does not find it"
    assert reasons[2] == "the model has no class of this name"
    assert first.run_verdict == RELIES
    assert first.run_bias.label == "plus"
    assert summary.skipped == {"not found": 1, "no class": 1}
    assert summary.labels["names"] == ["axolotl"]
    assert "Label unknown to the model: 1 object (axolotl)" in str(summary)
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
    with pytest.raises(ValueError, match="analysed already"):
        find(dataset, BY_OBJECT)
    find(dataset, BY_OBJECT, overwrite=True, views=False)
    deleted = operator("delete_cam_run")(dataset, "run")
    assert deleted.attributes, "those on the objects' own labels, which stay"
    assert all(path.startswith("ground_truth.detections.run_") for path in deleted.attributes)
    dataset.reload()
    left = set(dataset.get_field_schema(flat=True)) - before
    assert not {name for name in left if "run_" in name}
    after = [d.to_dict() for part in dataset.values("ground_truth.detections") for d in part]
    assert after == stored
    assert dataset.count_sample_tags() == {}


def test_closing_leaves_nothing_on_the_labels(agree, monkeypatch):
    dataset = agree(24)
    job, settings = inner("bias.job"), inner("bias.params")
    monkeypatch.setattr(inner("bias.job"), "_WRITTEN_AT_ONCE", 10)
    given = settings.BiasSettings(
        cam_key="run", objects="ground_truth", targets={"field": "ground_truth"}, num_workers=0
    )
    steps = prepared(job.BiasJob, dataset, given, detector(**BY_OBJECT), to_tensor, CLASSES).run()
    for state in steps:
        if state.name == "writing":
            break
    assert dataset.count("ground_truth.detections.run_verdict") == 10
    steps.close()
    assert inner("bias.schema").RECORDS.record_of(dataset, "run")["status"] == "interrupted"
    dataset.reload()
    assert "ground_truth.detections.run_verdict" not in dataset.get_field_schema(flat=True)
    assert "run_verdict" not in dataset.get_field_schema()
    assert find(dataset, BY_OBJECT).tested == 24
    mistyped = find(dataset, BY_OBJECT, "rum")
    assert any("there is a run 'run', should that one have" in note for note in mistyped.notes)


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
