"""Which objects a detector's run explains, and what every one of them is told about itself."""

import fiftyone as fo
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectors_common import CLASSES, SIDE, cell, detector, labels, picture, read, run
from fiftyone import ViewField as V
from operators_common import operator, small_network, transforms

from cam_core import DetectionModel

pytestmark = pytest.mark.usefixtures("plugin")

# Scores of class "light" are 4 * brightness - 2: 2, -0.8 and -1.6; confidences .88, .31 and .17.
BRIGHT, MIDDLE, REST = 1.0, 0.3, 0.1
SCORES = {BRIGHT: 2.0, MIDDLE: -0.8, REST: -1.6}


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


@pytest.fixture
def pictures(make_dataset, tmp_path):
    """Two pictures: with objects that are found, missed, unknown and too large; and an empty one."""
    path = picture(tmp_path / "a.png", {(0, 0): BRIGHT, (1, 3): MIDDLE}, REST)
    objects = labels(
        ("Light", cell(0, 0)),
        ("light", cell(1, 3)),
        ("light", cell(1, 0)),
        ("unicorn", cell(0, 2)),
        ("light", [0.0, 0.0, 1.0, 1.0]),
    )
    full = fo.Sample(filepath=path, ground_truth=objects)
    bare = fo.Sample(filepath=picture(tmp_path / "b.png", {}, REST), ground_truth=labels())
    return make_dataset(full, bare)


def told(dataset, name, field="ground_truth"):
    return [getattr(d, name, None) for d in dataset.first()[field].detections]


def near(found, expected):
    assert [f is None for f in found] == [e is None for e in expected], found
    assert [f for f in found if f is not None] == pytest.approx(
        [e for e in expected if e is not None], abs=0.02
    )


def test_every_object_of_a_field_is_told_its_score_and_where_its_heat_lies(pictures):
    summary = run(pictures, detector(-2.0, dark=-3.0), targets="ground_truth", methods="layercam")
    assert summary.fields == ["run_layercam"]
    assert told(pictures, "run_status") == ["ok", "ok", "ok", "unknown_label", "no_candidate"]
    scores = [SCORES[BRIGHT], SCORES[MIDDLE], SCORES[REST], None, None]
    near(told(pictures, "run_score"), scores)
    near(told(pictures, "run_probability"), [s if s is None else sigmoid(s) for s in scores])
    near(told(pictures, "run_iou"), [1, 1, 1, None, None])
    # LayerCAM of one candidate is its own cell; laid out bilinearly some of it leaves the box. Of
    # what it leaves for the letterbox's padding, above the picture, nothing counts.
    heat = torch.zeros(1, 1, 4, 4)
    heat[0, 0, 1, 0] = 1
    on_picture = F.interpolate(heat, (224, 224), mode="bilinear")[0, 0, 56:168]
    inside = float(on_picture[:56, :56].sum() / on_picture.sum())
    first = pictures.first().ground_truth.detections[0]
    assert first.run_in_box == pytest.approx(inside, abs=0.01)
    # the other boxes cover the rest of the picture
    assert first.run_on_others == pytest.approx(1 - inside, abs=0.01)
    assert first.run_in_box + first.run_on_others + first.run_outside == pytest.approx(1)
    assert told(pictures, "run_in_box")[3:] == [None, None]


def test_the_heatmap_shows_the_objects_together_and_lies_on_them(pictures):
    run(pictures, detector(-2.0, dark=-3.0), targets="ground_truth")
    label = pictures.first().run_layercam
    assert (label.target, label.target_index, label.status) == ("light", 1, "ok")
    # LayerCAM at a candidate is its score without the bias
    assert label.peak == pytest.approx(SCORES[BRIGHT] + 2.0, abs=0.02)
    assert label.score == pytest.approx(2.0, abs=0.02)
    cells = F.adaptive_avg_pool2d(torch.from_numpy(label.map.astype(np.float32))[None], (2, 4))[0]
    hot = cells > 0.5 * cells.max()
    # each map is divided by its own maximum, so the weak object is as hot as the strong one
    assert hot.tolist() == [[True, False, False, False], [True, False, False, True]]
    empty = pictures.last().run_layercam
    assert (empty.status, empty.map) == ("target_absent", None)


def test_labels_are_counted_in_the_summary(pictures):
    summary = run(pictures, detector(-2.0), targets="ground_truth")
    (entry,) = summary.labels
    assert (entry["known"], entry["unknown"]) == (2, 1)
    assert [row["label"] for row in entry["unmapped"]] == ["unicorn"]
    run(pictures, detector(-2.0), targets="ground_truth", cam_key="two",
        class_map={"unicorn": "light"})  # fmt: skip
    assert told(pictures, "two_status")[3] == "ok"


def test_missed_objects_are_explained_by_the_strongest_candidate_there(pictures):
    for spec in (("missed", "ground_truth"), {"missed": "ground_truth"}):
        summary = run(pictures, detector(-2.0, dark=-3.0), targets=spec, overwrite=True)
        assert summary.settings["targets"] in (["missed", "ground_truth"], spec)
        expected = ["found", "found", "ok", "unknown_label", "no_candidate"]
        assert told(pictures, "run_status") == expected
        near(told(pictures, "run_score"), [None, None, SCORES[REST], None, None])
        assert pictures.first().run_layercam.target == "light"


def test_outcomes_of_an_evaluation(pictures):
    sample = pictures.first()
    sample["found"] = labels(
        ("light", cell(0, 0), {"confidence": 0.9}), ("light", cell(0, 1), {"confidence": 0.4})
    )
    sample.save()
    pictures.evaluate_detections("found", gt_field="ground_truth", eval_key="ev", classwise=False)
    outcomes = told(pictures, "ev", "found")
    assert outcomes[1] == "fp"
    model = detector(-2.0, dark=-3.0)
    run(pictures, model, targets={"eval": "ev", "which": "fp"})
    near(told(pictures, "run_score", "found")[1:], [SCORES[REST]])
    assert told(pictures, "run_status", "found")[0] is None or outcomes[0] == "fp"
    assert "run_status" not in pictures.first().ground_truth.detections[0].field_names
    run(pictures, model, targets={"eval": "ev", "which": "fn"}, cam_key="fn")
    missed = [outcome == "fn" for outcome in told(pictures, "ev")]
    assert any(missed)
    assert [status is not None for status in told(pictures, "fn_status")] == missed


def test_own_detections_are_stored_with_their_boxes_on_the_image(pictures):
    summary = run(pictures, detector(-2.0, dark=-3.0), methods=["layercam", "hirescam"])
    assert summary.fields == ["run_layercam", "run_hirescam", "run_detections"]
    strong, weak = pictures.first().run_detections.detections
    assert (strong.label, weak.label) == ("light", "light")
    assert strong.bounding_box == pytest.approx(cell(0, 0), abs=5e-3)
    assert weak.bounding_box == pytest.approx(cell(1, 3), abs=5e-3)
    assert strong.confidence == pytest.approx(sigmoid(2), abs=0.01)
    assert strong.score == pytest.approx(2, abs=0.02)
    # of several methods each has its own shares; here they are the same map
    assert strong.layercam_in_box == pytest.approx(strong.hirescam_in_box)
    assert 0.5 < strong.layercam_in_box < 1
    assert pictures.last().run_detections.detections == []
    bare = run(pictures, detector(-2.0), store_prediction=False, cam_key="bare")
    assert bare.fields == ["bare_layercam"]


def test_objects_of_named_classes(pictures):
    model = detector(-2.0, dark=-3.0)
    run(pictures, model, targets="Light")
    assert len(pictures.first().run_detections.detections) == 2
    assert pictures.first().run_layercam.target == "light"
    run(pictures, model, targets=["dark"], cam_key="none")
    assert pictures.values("none_layercam.status") == ["target_absent"] * 2
    run(pictures, model, targets={"field": "ground_truth", "classes": ["light"], "most": 1},
        cam_key="one")  # fmt: skip
    # the largest first, where there are no confidences
    statuses = ["not_explained"] * 3 + [None, "no_candidate"]
    assert told(pictures, "one_status") == statuses


def test_single_objects_have_heatmaps_of_their_own(pictures):
    summary = run(pictures, detector(-2.0, dark=-3.0), targets="ground_truth", object_maps=2,
                  methods=["layercam", "eigencam"])  # fmt: skip
    own = ["run_layercam_object1", "run_layercam_object2"]
    assert summary.fields == ["run_layercam", *own, "run_eigencam"]
    sample = pictures.first()
    for field, place, score in zip(own, ((0, 0), (1, 3)), (BRIGHT, MIDDLE), strict=True):
        label = sample[field]
        assert (label.target, label.target_index) == ("light", 1)
        assert label.score == pytest.approx(SCORES[score], abs=0.02)
        pooled = F.adaptive_avg_pool2d(torch.from_numpy(label.map.astype(np.float32))[None], (2, 4))
        assert divmod(int(pooled.argmax()), 4) == place
    assert pictures.last()[own[0]].status == "target_absent"
    assert run(pictures, detector(-9.0), object_maps=True, cam_key="all").fields[5] == (
        "all_layercam_object5"
    )


def test_only_what_a_view_shows_is_explained(pictures):
    view = pictures.filter_labels("ground_truth", V("label") == "Light")
    run(view, detector(-2.0), targets="ground_truth")
    assert told(pictures, "run_status") == ["ok", None, None, None, None]


def test_attributes_are_declared_and_go_with_the_run(pictures):
    before = [d.id for d in pictures.first().ground_truth.detections]
    run(pictures, detector(-2.0), targets="ground_truth")
    field = pictures.get_field("ground_truth.detections.run_in_box")
    assert isinstance(field, fo.FloatField)
    assert "own box" in field.description
    assert len(pictures.filter_labels("ground_truth", V("run_in_box") > 0.5).first()
               .ground_truth.detections) == 3  # fmt: skip
    operator("rename_cam_run")(pictures, "run", "new")
    assert pictures.get_field("ground_truth.detections.run_in_box") is None
    assert told(pictures, "new_status")[0] == "ok"
    operator("delete_cam_run")(pictures, "new")
    assert pictures.get_field("ground_truth.detections.new_in_box") is None
    raw = pictures._sample_collection.find_one({"ground_truth.detections.0": {"$exists": True}})
    assert not [k for d in raw["ground_truth"]["detections"] for k in d if k.startswith("new_")]
    assert [d.id for d in pictures.first().ground_truth.detections] == before


def test_going_on_with_a_run_gives_what_one_call_gives(pictures):
    model = detector(-2.0)
    run(pictures[:1], model, targets="ground_truth")
    summary = run(pictures, model, targets="ground_truth", resume=True)
    assert summary.done == 2
    run(pictures, model, targets="ground_truth", cam_key="once")
    for name in ("score", "in_box", "status"):
        assert told(pictures, f"run_{name}") == told(pictures, f"once_{name}")
    with pytest.raises(ValueError, match="other settings"):
        run(pictures, model, targets=("missed", "ground_truth"), resume=True)


def test_a_crop_hides_objects(make_dataset, tmp_path):
    import torchvision.transforms as T

    path = picture(tmp_path / "a.png", {(0, 0): BRIGHT, (0, 1): BRIGHT}, REST)
    objects = labels(("light", cell(0, 0)), ("light", [0.25, 0.0, 0.125, 0.25]))
    dataset = make_dataset(fo.Sample(filepath=path, ground_truth=objects))
    crop = T.Compose([T.Resize(SIDE), T.CenterCrop(SIDE), T.ToTensor()])
    run(dataset, detector(-2.0), targets="ground_truth", transforms=crop)
    assert told(dataset, "run_status") == ["not_seen", "ok"]
    near(told(dataset, "run_iou"), [None, 1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": "ground_trut"}, "no class 'ground_trut'"),
        ({"targets": {"field": "ground_trut"}}, "did you mean 'ground_truth'"),
        ({"targets": {"field": "subject"}}, "is a StringField, not Detections"),
        ({"targets": "subject"}, "is a StringField, not Detections"),
        ({"targets": "top_2"}, "no class 'top_2'"),
        ({"targets": {"eval": "ev", "which": "fn"}}, "no evaluation 'ev'"),
        ({"targets": {"eval": "ev", "which": "xx"}}, "choose from tp, fp, fn"),
        ({"targets": {"missed": "ground_truth", "field": "a"}}, "is not understood of a detector"),
        ({"targets": {"field": "ground_truth", "most": 0}}, "'most' must be an integer"),
        ({"targets": {"field": "ground_truth", "min_iou": 2}}, "'min_iou' must be an overlap"),
        ({"targets": {"field": "ground_truth", "prefer": "x"}}, "'prefer' must be"),
        ({"targets": ["lihgt"]}, "near: light"),
        ({"targets": [7]}, "class index 7 is out of range"),
        ({"targets": lambda outputs: outputs}, "is not understood of a detector"),
        ({"targets": "ground_truth", "class_map": {"unicorn": ["dark", "light"]}}, "has one; map"),
        ({"targets": "ground_truth", "classes": ["a", "b"]}, "none of the 3 labels"),
        ({"object_maps": 6}, "object_maps must be True or a number from 0 to 5"),
        ({"fuse": "mean"}, "feature levels are one map already"),
    ],
)
def test_bad_arguments_stop_a_run_before_the_first_sample(pictures, arguments, message):
    pictures.add_sample_field("subject", fo.StringField)
    with pytest.raises(ValueError, match=message):
        run(pictures, detector(-2.0), **arguments)
    assert pictures.list_runs() == []


def test_a_field_that_has_a_class_name_has_to_be_told_apart(pictures):
    pictures.clone_sample_field("ground_truth", "light")
    with pytest.raises(ValueError, match="is a field and a class of the model"):
        run(pictures, detector(-2.0), targets="light")
    assert run(pictures, detector(-2.0), targets={"field": "light"}).done == 2


def test_attributes_of_others_are_not_written_over(pictures):
    pictures.add_sample_field("ground_truth.detections.run_score", fo.FloatField)
    with pytest.raises(ValueError, match="have an attribute .* which is no run's"):
        run(pictures, detector(-2.0), targets="ground_truth")


def test_object_maps_are_for_detectors(pictures):
    with pytest.raises(ValueError, match="object_maps: is for detectors"):
        run(pictures, small_network(), object_maps=1, transforms=transforms(),
            classes=[f"{c} {i}" for i in range(5) for c in CLASSES])  # fmt: skip


def test_no_heat_is_on_others_where_there_are_none(make_dataset, tmp_path):
    """The one object of a picture is among all of its objects: its own edge is no other's."""
    path = picture(tmp_path / "one.png", {(0, 1): BRIGHT}, REST)
    box = [0.26, 0.03, 0.22, 0.45]  # on no pixel's border
    dataset = make_dataset(fo.Sample(filepath=path, ground_truth=labels(("light", box))))
    run(dataset, detector(-2.0, dark=-3.0), targets="ground_truth")
    (inside,), (others,) = told(dataset, "run_in_box"), told(dataset, "run_on_others")
    assert 0 < inside < 1
    assert others == 0


@pytest.mark.parametrize("threshold", [0.15, 0.6, 0.9])
def test_threshold_is_the_confidence_of_a_detection(pictures, threshold):
    net = DetectionModel(detector(-2.0, dark=-9.0).module, read=read, threshold=threshold)
    run(pictures, net, cam_key="t")
    sure = [d.confidence for d in pictures.first().t_detections.detections]
    expected = [s for s in map(sigmoid, SCORES.values()) if s >= threshold]
    assert len(set(np.round(sure, 2))) == len(set(np.round(expected, 2)))
    assert all(s >= threshold for s in sure)
