"""``find_background_bias`` where something cannot be said, is refused, or is stopped."""

import fiftyone as fo
import pytest
import torch
from bias_common import (
    BACKGROUND,
    CLASSES,
    OBJECT,
    RELIES,
    Cues,
    agreeing,
    find,
    inner,
    sample,
    to_tensor,
)
from fiftyone import ViewField as F
from operators_common import groups_of, operator, prepared

pytestmark = pytest.mark.usefixtures("plugin")

# what cannot be said


def test_a_class_with_too_few_samples(agree):
    dataset = agree(30)
    summary = find(dataset)
    assert summary.flagged == []
    for row in summary.classes:
        assert (row["n"], row["note"], row["q"]) == (15, "too few", None)
        assert row["bg_gap"]["low"] > 0.9, "the interval is shown all the same"
    assert "none of 2 judged: each has fewer than 20 tested samples" in str(summary)


class Unsure(Cues):
    """Eighteen more classes, so that the two that win are hardly predicted."""

    def forward(self, images):
        return torch.nn.functional.pad(super().forward(images), (0, 18))


def test_scores_too_low_to_lose_anything_clear_nothing(agree):
    """They follow the background and lose an eighth each: that is most of them, and no evidence."""
    dataset = agree(48)
    network = Unsure(red=1.3)
    names = [*CLASSES, *(f"other {i}" for i in range(18))]
    summary = operator("find_background_bias")(
        dataset, "run", network, transforms=to_tensor, classes=names, progress=False, num_workers=0,
        layers="features", methods="hirescam",
    )  # fmt: skip
    first = dataset.first()
    assert 0.1 < first.run_bias.probability < 0.2
    assert first.run_bias.swap_flip == 1.0
    assert dataset.distinct("run_verdict") == ["cannot say"]
    assert first.run_bias.reason.startswith(f"unsure ({first.run_bias.probability:.2f})")
    assert first.run_bias.reason.endswith("and on 0 of 4 of its own class")
    assert summary.undecided == {"unsure": 48}
    assert "48 cannot say (of the tested: 48 unsure)" in str(summary)
    flagged = {row["label"]: (row["flagged"], row["note"]) for row in summary.classes}
    assert set(flagged.values()) <= {(True, ""), (False, "unsure")}
    assert "no background dependence" not in str(summary)


def test_without_annotations_regions_are_tested(make_dataset, tmp_path):
    samples = agreeing(tmp_path, 24)
    for one in samples:
        del one["ground_truth"]
    dataset = make_dataset(*samples)
    summary = find(dataset, BACKGROUND)
    assert summary.tested == 0
    assert dataset.distinct("run_verdict") == ["cannot say"]
    assert dataset.distinct("run_bias.reason") == ["no object is annotated for the explained class"]
    assert dataset.values("run_dependence") == [None] * 24
    assert summary.skipped == {"no object": 24}
    assert [r["name"] for r in summary.regions] == ["border", "hottest"]
    assert summary.regions[0]["n"] == 24
    text = str(summary)
    assert "No objects: no field has boxes, polygons or masks." in text
    assert "No background of 24 samples could be swapped" in text
    assert summary.model is None
    # heat alone is still measured where it needs no object
    assert dataset.values("run_bias.entropy")[0] > 0
    assert dataset.values("run_bias.obj_energy") == [None] * 24


def test_an_object_that_fills_the_image(agree, tmp_path):
    dataset = agree(24)
    dataset.add_sample(sample(tmp_path, "full", 1, 1, (0, 0, 32, 32), label="plus"))
    dataset.add_sample(sample(tmp_path, "nearly", 1, 1, (1, 1, 30, 30), label="plus"))
    summary = find(dataset, OBJECT)
    for row in list(dataset)[-2:]:
        assert row.run_verdict == "cannot say"
        assert row.run_bias.reason == "the object fills the image"
        assert row.run_dependence is None
    full = dataset.match(F("run_bias.object_area") > 0.9)
    assert full.values("run_bias.reliable") == [False], "heat says nothing there"
    assert summary.skipped == {"fills the frame": 2}
    assert summary.tested == 24


def test_a_label_that_the_model_lacks(agree, tmp_path):
    dataset = agree(24)
    dataset.add_sample(sample(tmp_path, "axolotl", 1, 1, label="axolotl"))
    summary = find(dataset)
    last = dataset.last()
    assert last.run_bias.label == "axolotl"
    assert last.run_bias.correct is False
    assert last.run_verdict == RELIES
    assert summary.labels == {"field": "label", "known": 24, "unknown": 1, "names": ["axolotl"]}
    assert "Label unknown to the model: 1 sample (axolotl)" in str(summary)
    assert summary.model["accuracy"]["n"] == 24, "left out of the accuracies"
    assert next(r for r in summary.classes if r["label"] == "axolotl")["note"] == "too few"


def test_maps_without_heat(agree):
    dataset = agree(24)
    summary = find(dataset, {**BACKGROUND, "negative": True})
    # the swap needs no heat
    assert dataset.distinct("run_verdict") == [RELIES]
    assert dataset.distinct("run_bias.heat_status") == ["zero"]
    for name in ("obj_energy", "entropy", "heat_effect", "suspicion"):
        assert dataset.values(f"run_bias.{name}") == [None] * 24, name
    assert summary.classes[0]["zero_maps"] == 12
    assert not summary.calibration["usable"]
    assert summary.clusters == []


def test_maps_without_heat_of_samples_that_were_not_tested(agree):
    dataset = agree(24)
    find(dataset, {**BACKGROUND, "negative": True}, probe=10)
    rest = dataset.match(F("run_bias.tested") == False)  # noqa: E712
    assert rest.distinct("run_bias.reason") == ["not tested; its heat is inconclusive"]


def test_objects_of_another_class_only(agree, tmp_path):
    dataset = agree(24)
    other = sample(tmp_path, "other", 1, 1, label="plus")
    other.ground_truth.detections[0].label = "minus"
    dataset.add_sample(other)
    find(dataset, object_classes="explained")
    assert dataset.last().run_verdict == "cannot say"
    assert dataset.last().run_bias.reason == ("only other classes are annotated")
    assert dataset.last().run_bias.object_status == "object_absent"
    find(dataset, overwrite=True)
    assert dataset.last().run_verdict == RELIES
    assert dataset.last().run_bias.object_scope == "all"
    assert dataset.first().run_bias.object_scope == "explained"


def test_one_predicted_class_leaves_no_donors(make_dataset, tmp_path):
    dataset = make_dataset(*agreeing(tmp_path, 12)[::2])
    summary = find(dataset)
    assert summary.skipped == {"no donors": 6}
    assert "The model predicts plus for every sample" in str(summary)
    assert dataset.distinct("run_verdict") == ["cannot say"]


def test_a_broken_image_fails_alone(agree, tmp_path):
    dataset = agree(24)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    dataset.add_sample(fo.Sample(filepath=str(tmp_path / "broken.png")))
    summary = find(dataset)
    assert len(summary.failed) == 1
    assert dataset.last().run_verdict == "cannot say"
    assert "UnidentifiedImageError" in dataset.last().run_bias.reason
    assert summary.tested == 24


# what is refused, before anything is written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objects": "boxes"}, "objects: the samples have no field 'boxes'"),
        ({"objects": "label"}, "'label' is a Classification, which does not say where"),
        ({"object_classes": "everything"}, "classes: 'everything' is unknown"),
        ({"labels": "ground_truth"}, "labels: 'ground_truth' is no field of classifications"),
        ({"aliases": {"axolotl": "pet"}}, "aliases: the model has no class 'axolotl'"),
        ({"group_by": "label"}, "group_by: 'label' is no field with one string"),
        ({"scenes": "nowhere"}, "scenes: 'nowhere' is no field"),
        ({"probe": 1}, "probe must be an integer between 2 and 1000000000"),
        ({"donors": 0}, "donors must be an integer between 1 and 64"),
        ({"seed": -1}, "seed must be an integer between 0 and 9223372036854775807"),
        ({"feather": "soft"}, "feather must be a number of pixels"),
        ({"report": "/proc/nowhere"}, "report: nothing can be written"),
        ({"targets": lambda out: out[:, 0]}, "explains a function of the outputs"),
        (
            {"targets": "ground_truth"},
            "the causal check watches the predicted class or a named one",
        ),
        ({"cam_key": "bad-key"}, "cam_key must be a name of letters"),
    ],
)
def test_wrong_arguments(agree, arguments, message):
    dataset = agree(4)
    key = arguments.pop("cam_key", "run")
    with pytest.raises(ValueError, match=message):
        find(dataset, cam_key=key, **arguments)
    assert "run_verdict" not in dataset.get_field_schema()
    assert dataset.list_saved_views() == []


def test_a_misspelt_key_without_a_model(agree):
    with pytest.raises(ValueError, match="cam_key: there is no CAM run 'rnu' .there are: none yet"):
        operator("find_background_bias")(agree(4), "rnu")


def test_several_object_fields_are_asked_about(agree):
    dataset = agree(4)
    dataset.clone_sample_field("ground_truth", "people")
    with pytest.raises(ValueError, match=r"2 fields could be meant \(ground_truth, people\)"):
        find(dataset)


def test_a_detector_without_class_names_is_refused(agree):
    import torchvision

    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None
    ).eval()
    dataset = agree(2)
    with pytest.raises(ValueError, match=r"classes: the names of the detector's classes"):
        operator("find_background_bias")(
            dataset, "det", detector, transforms=to_tensor, progress=False, num_workers=0
        )
    assert dataset.list_runs() == []


def test_a_run_of_a_model_from_python_needs_it_again(agree):
    dataset = agree(4)
    find(dataset)
    with pytest.raises(ValueError, match=r"'Cues' was given from Python.*pass model= again"):
        operator("find_background_bias")(dataset, "run", overwrite=True)


def test_a_field_that_is_not_ours_is_left_alone(agree):
    dataset = agree(4, run_verdict="mine")
    with pytest.raises(
        ValueError, match="field 'run_verdict' exists on the dataset and is not ours"
    ):
        find(dataset)
    assert dataset.distinct("run_verdict") == ["mine"]


# stopping


@pytest.mark.parametrize(
    "phase", ["measuring heat", "swapping backgrounds", "replacing the context"]
)
def test_a_run_that_is_closed_writes_nothing(make_dataset, tmp_path, phase):
    samples = agreeing(tmp_path, 24)
    for one in samples:
        one["tags_there"] = fo.Detections(
            detections=[fo.Detection(label="tag", bounding_box=[0.8, 0.8, 0.2, 0.2])]
        )
    dataset = make_dataset(*samples)
    job, settings = inner("bias.job"), inner("bias.params")
    objects = {"ground_truth": "object", "tags_there": "context"}
    given = settings.BiasSettings(
        cam_key="run", objects=objects, layers="features", methods="hirescam", batch_size=4,
        num_workers=0,
    )  # fmt: skip
    network = Cues(**BACKGROUND)
    flags = [m.training for m in network.modules()]
    one = prepared(job.BiasJob, dataset, given, network, to_tensor, CLASSES)
    steps = one.run()
    for state in steps:
        if state.name == phase:
            break
    assert state.name == phase
    steps.close()
    assert inner("bias.schema").RECORDS.record_of(dataset, "run")["status"] == "interrupted"
    assert "run_verdict" not in dataset.get_field_schema()
    assert dataset.list_saved_views() == []
    assert [m.training for m in network.modules()] == flags
    # nothing is in the way of another go
    summary = find(dataset, objects=objects)
    assert summary.tested == 24


def test_closing_while_writing_takes_back_what_was_written(agree, monkeypatch):
    dataset = agree(24)
    job, settings = inner("bias.job"), inner("bias.params")
    monkeypatch.setattr(job, "_WRITTEN_AT_ONCE", 10)
    given = settings.BiasSettings(
        cam_key="run", layers="features", methods="hirescam", num_workers=0
    )
    steps = prepared(job.BiasJob, dataset, given, Cues(**BACKGROUND), to_tensor, CLASSES).run()
    for state in steps:
        if state.name == "writing":
            break
    fields = ["run_verdict", "run_dependence", "run_bias.reason", "run_hirescam.verdict"]
    for parts in zip(*dataset.values(fields), strict=True):
        assert all(p is None for p in parts) or all(p is not None for p in parts)
    assert dataset.count("run_verdict") == 10
    steps.close()
    assert inner("bias.schema").RECORDS.record_of(dataset, "run")["status"] == "interrupted"
    dataset.reload()
    names = dataset.get_field_schema(flat=True)
    assert not {"run_verdict", "run_dependence", "run_bias", "run_hirescam.verdict"} & set(names)
    assert groups_of(dataset) == {
        "run_heatmaps": ["run_hirescam", "run_prediction"]
    }  # as before the analysis
    assert dataset.count("run_hirescam.map") == 24, "the heatmaps stay"
    assert getattr(dataset.load_run_results("run"), "bias", None) is None
    assert find(dataset).tested == 24, "and nothing is in the way of another go"


def test_an_error_after_writing_takes_back_views_and_tags(agree, monkeypatch):
    dataset = agree(24)
    store = inner("bias.schema")
    tagged = store.save_tags

    def fails(*arguments):
        tagged(*arguments)
        raise RuntimeError("the database is gone")

    monkeypatch.setattr(store, "save_tags", fails)
    with pytest.raises(RuntimeError, match="the database is gone"):
        find(dataset, tags=True)
    record = store.RECORDS.record_of(dataset, "run")
    assert (record["status"], record["views"], record["tags"]) == ("failed", [], [])
    assert "the database is gone" in record["error"]
    assert dataset.list_saved_views() == []
    assert dataset.count_sample_tags() == {}
    assert dataset.get_run_info("run").config.saved_views == []


def test_an_error_in_the_check_is_raised_and_recorded(agree, monkeypatch):
    dataset = agree(24)
    swap = inner("jobs.inference")

    def fails(self, pictures):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(swap.Predictor, "__call__", fails)
    with pytest.raises(RuntimeError, match="the device is gone"):
        find(dataset)
    record = inner("bias.schema").RECORDS.record_of(dataset, "run")
    assert record["status"] == "failed"
    assert "the device is gone" in record["error"]
