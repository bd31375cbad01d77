"""Networks whose classes do not exclude each other: each sample is asked for the classes that it has."""

import fiftyone as fo
import numpy as np
import pytest
import torch
from multi_label_common import CLASSES, TAG, Films, films, see
from operators_common import operator

pytestmark = pytest.mark.usefixtures("plugin")
GIVEN = {"transforms": see, "classes": CLASSES, "progress": False, "num_workers": 0}
HIGH, LOW = torch.tensor([12 * 0.8 - 5, 12 * 0.1 - 5]).sigmoid().tolist()


@pytest.fixture
def shelf(make_dataset, tmp_path):
    """Makes a dataset of films."""

    def make(count=72, **options):
        return make_dataset(*films(tmp_path, count, **options))

    return make


def compute(dataset, net=None, **given):
    """A CAM run of the multi-label network."""
    given = {"cam_key": "run", "multi_label": True, **GIVEN, **given}
    return operator()(dataset, net or Films().eval(), **given)


def region(dataset, box=TAG, net=None, **given):
    """``test_region`` of a multi-label network."""
    given = {"multi_label": True, **GIVEN, **given}
    return operator("test_region")(dataset, box, model=net or Films().eval(), **given)


def tagged(dataset):
    """How many films have the tag."""
    return sum("tag" in shown for shown in dataset.values("shown"))


# what is stored


def test_predictions_are_all_classes_from_the_threshold_on(shelf):
    dataset = shelf(16)
    compute(dataset)
    for sample in dataset:
        label = sample.run_prediction
        assert isinstance(label, fo.Classifications)
        given = {row.label: row.confidence for row in label.classifications}
        assert set(given) == set(sample.shown)
        assert all(value == pytest.approx(HIGH, abs=0.01) for value in given.values())
        # the strongest class stays known where none reaches the threshold
        assert label.confidence == pytest.approx(HIGH if given else LOW, abs=0.02)
    strict = operator()(
        dataset, Films().eval(), cam_key="strict", multi_label=True, threshold=0.995, **GIVEN
    )
    assert strict.settings["threshold"] == 0.995
    assert dataset.count("strict_prediction.classifications") == 0


def test_single_label_predictions_stay_as_they_are(shelf):
    dataset = shelf(4)
    compute(dataset, multi_label=None)
    assert isinstance(dataset.first().run_prediction, fo.Classification)


def test_panel_and_peers_read_stored_predictions(shelf):
    dataset = shelf(24)
    compute(dataset)
    sample = next(s for s in dataset if s.shown == ["left", "tag"])
    found = operator("show_peers")(dataset, sample.id, "run", model=Films().eval(), transforms=see)
    name = sample.run_prediction.label
    peers = [s for s in found if s.id != sample.id]
    assert peers
    assert all(name in s.shown for s in peers)


# labelled and missed classes


@pytest.mark.parametrize("targets", ["ground_truth", {"field": "shown"}])
def test_the_labelled_class_has_its_map_although_it_is_missed(shelf, targets):
    dataset = shelf(16)
    summary = compute(dataset, Films(blind=["tag"]).eval(), targets=targets)
    assert summary.fields[:3] == [f"run_gradcam_label{i}" for i in (1, 2, 3)]
    for sample in dataset:
        maps = [sample[field] for field in summary.fields[:3]]
        assert [m.target for m in maps if m.status == "ok"] == sample.shown
        assert [m.status for m in maps[len(sample.shown) :]] == ["no_label"] * (
            3 - len(sample.shown)
        )


@pytest.mark.parametrize("targets", ["missed", ("missed", "shown"), {"missed": "truth"}])
def test_missed(shelf, targets):
    dataset = shelf(16)
    summary = compute(dataset, Films(blind=["tag"]).eval(), targets=targets)
    assert summary.fields[0] == "run_gradcam_missed1"
    for sample in dataset:
        first = sample.run_gradcam_missed1
        if "tag" in sample.shown:
            assert (first.status, first.target, first.target_index) == ("ok", "tag", 1)
            assert first.score == pytest.approx(12 * 0.8 - 105, abs=0.3)
        else:
            assert first.status == ("correct" if sample.shown else "no_label")
        assert sample.run_gradcam_missed2.status != "ok"


def test_missed_and_ground_truth_name_what_is_wrong(shelf):
    dataset = shelf(4, labels=False)
    with pytest.raises(
        ValueError, match=r"'missed' alone means the one field of true labels.*shown"
    ):
        compute(dataset, targets="missed")
    with pytest.raises(ValueError, match="'ground_truth' alone means"):
        compute(dataset, targets="ground_truth")
    with pytest.raises(ValueError, match="asks for a detector's objects"):
        compute(dataset, targets={"missed": "shown"}, multi_label=None)


# the region test


def test_a_region_that_one_of_several_classes_rests_on(shelf):
    dataset = shelf()
    count = tagged(dataset)
    assert count >= 20
    found = region(dataset, targets="tag")
    # films with the tag alone are tested, each loses what the closed form says
    assert (found.n, found.able, found.target) == (count, count, "tag")
    assert found.region_drop["mean"] == pytest.approx(HIGH - LOW, abs=0.01)
    assert abs(found.control_drop["mean"]) < 0.03
    assert found.flip == 1
    assert found.skipped == {"without the class": len(dataset) - count}
    assert str(found).startswith("The score rests on the box")
    assert "0.97 of the score of 'tag'" in str(found)
    assert set(found.samples) == {s.id for s in dataset if "tag" in s.shown}


def test_a_large_loss_of_a_few_is_no_all_clear(shelf):
    dataset = shelf(48)
    assert 12 <= tagged(dataset) < 20
    said = str(region(dataset, targets="tag"))
    assert said.startswith("The score rests on the box")
    assert "too few for an interval" in said
    other = str(region(dataset, [0, 0, 0.2, 0.2], targets="tag"))
    assert "Too few samples" in other
    assert "No sign" not in other


def test_every_class_of_a_sample_is_asked_for(shelf):
    dataset = shelf()
    shown = dataset.values("shown")
    found = region(dataset)
    assert found.n == sum(map(len, shown))
    assert found.unit == "predictions"
    rows = {row["label"]: row for row in found.classes}
    assert rows["tag"]["rests"]
    assert rows["tag"]["effect"]["mean"] == pytest.approx(HIGH - LOW, abs=0.03)
    assert not rows["left"]["rests"]
    assert not rows["right"]["rests"]
    assert "most clearly that of tag" in str(found)
    # the other classes' films do not cancel or thin out what the tag costs
    assert rows["tag"]["n"] == tagged(dataset)


def test_a_region_that_no_score_rests_on(shelf):
    found = region(shelf(), [0, 0, 0.2, 0.2], targets="tag")
    assert found.able >= 20
    assert str(found).startswith("No sign that the score rests on the box")


def test_what_could_not_show_is_no_all_clear(shelf):
    dataset = shelf()
    found = region(dataset, net=Films(blind=["tag"]).eval(), targets="tag")
    # labelled films are asked although the network misses the tag: they have nothing to lose
    assert found.n == tagged(dataset)
    assert found.able == 0
    assert "No sign" not in str(found)
    assert "Too few samples to judge: 0 of" in str(found)


def test_no_sample_has_the_class(shelf):
    dataset = shelf(12, labels=False)
    with pytest.raises(
        ValueError, match="none has the class 'tag', by its prediction or its label"
    ):
        region(dataset, net=Films(blind=["tag"]).eval(), targets="tag")


def test_a_threshold_that_everything_reaches(shelf):
    dataset = shelf(72, labels=False)
    found = region(dataset, targets="tag", threshold=1e-6)
    assert found.n == tagged(dataset)
    assert str(found).startswith("The score rests on the box")
    assert any("from the threshold 1e-06 on" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["binary", "two"])
def test_one_logit_and_two_classes_with_a_named_one(shelf, kind):
    dataset = shelf(72, labels=False)
    classes = ["tag"] if kind == "binary" else ["no tag", "tag"]
    found = region(
        dataset, net=Films(kind=kind).eval(), targets="tag", multi_label=None, classes=classes
    )
    assert found.n == tagged(dataset)
    assert found.region_drop["mean"] == pytest.approx(HIGH - LOW, abs=0.01)
    assert str(found).startswith("The score rests on the box")
    # and the predicted class, which is "no tag" of the others
    both = region(dataset, net=Films(kind=kind).eval(), multi_label=None, classes=classes)
    assert both.n == len(dataset)
    assert str(both).startswith("The score rests on the box")


def test_logits_in_a_dict(shelf):
    dataset = shelf()
    found = region(dataset, net=Films(kind="dict").eval(), targets="tag", output="logits")
    assert found.region_drop["mean"] == pytest.approx(HIGH - LOW, abs=0.01)


# the background test


def test_background_bias_asks_the_samples_that_have_the_class(shelf):
    dataset = shelf()
    compute(dataset, targets="tag")
    summary = operator("find_background_bias")(
        dataset, "run", Films().eval(), transforms=see, objects="body", noise=False, progress=False,
        num_workers=0,
    )  # fmt: skip
    count = tagged(dataset)
    assert summary.tested == count
    for sample in dataset:
        if "tag" not in sample.shown:
            assert sample.run_verdict == "cannot say"
            assert sample.run_bias.reason == "without the class"
            continue
        # the tag lies off the body: other backgrounds take it away
        assert sample.run_verdict == "relies on background"
        assert sample.run_bias.probability == pytest.approx(HIGH, abs=0.01)
        assert sample.run_bias.swap_drop == pytest.approx(HIGH - LOW, abs=0.03)
        assert abs(sample.run_bias.same_drop) < 0.03
        assert sample.run_bias.correct
    row = next(r for r in summary.classes if r["label"] == "tag")
    assert row["flagged"]
    assert row["bg_support"]["mean"] == pytest.approx(HIGH - LOW, abs=0.03)
    assert summary.model["chance"] == 0.5


def test_background_bias_of_every_class(shelf):
    dataset = shelf()
    compute(dataset)
    summary = operator("find_background_bias")(
        dataset, "run", Films().eval(), transforms=see, objects="body", noise=False, progress=False,
        num_workers=0,
    )  # fmt: skip
    shown = dataset.values("shown")
    assert (summary.unit, summary.units) == ("predictions", sum(map(len, shown)))
    assert summary.tested == summary.units
    rows = {row["label"]: row for row in summary.classes}
    assert rows["tag"]["flagged"]
    assert not rows["left"]["flagged"]
    assert not rows["right"]["flagged"]
    assert rows["left"]["swap_drop"] == pytest.approx(0, abs=0.03)
    for sample in dataset:
        if "tag" in sample.shown:  # a sample takes the worst of its classes
            assert sample.run_verdict.startswith("relies on background")
            assert sample.run_bias.explained == "tag"
        assert len(sample.run_bias.verdicts) == len(sample.shown)
        for rank, row in enumerate(sample.run_prediction.classifications, 1):
            verdict = sample[f"run_gradcam_top{rank}"].verdict
            assert verdict.startswith("relies on background") == (row.label == "tag")


@pytest.mark.parametrize("kind", ["binary", "two"])
def test_background_bias_of_a_named_class(shelf, kind):
    dataset = shelf(72, labels=False)
    classes = ["tag"] if kind == "binary" else ["no tag", "tag"]
    net = Films(kind=kind).eval()
    compute(dataset, net, targets="tag", multi_label=None, classes=classes)
    summary = operator("find_background_bias")(
        dataset,
        "run",
        net,
        transforms=see,
        objects="body",
        noise=False,
        progress=False,
        num_workers=0,
    )
    assert summary.tested == tagged(dataset)
    verdicts = {s.run_verdict for s in dataset if "tag" in s.shown}
    assert verdicts <= {"relies on background", "relies on background, not visible in heat"}
    assert {s.run_verdict for s in dataset if "tag" not in s.shown} == {"cannot say"}


def test_without_objects_and_with_a_report(shelf, tmp_path):
    dataset = shelf(48)
    compute(dataset)
    summary = operator("find_background_bias")(
        dataset, "run", Films().eval(), transforms=see, objects=None, progress=False, num_workers=0,
        report=str(tmp_path / "none"),
    )  # fmt: skip
    assert {r["name"] for r in summary.regions} == {"border", "hottest"}
    whole = operator("find_background_bias")(
        dataset, "run", Films().eval(), transforms=see, objects="body", progress=False, num_workers=0,
        report=str(tmp_path / "body"), overwrite=True, group_by="id",
    )  # fmt: skip
    page = next((tmp_path / "body").glob("*.html")).read_text()
    assert "class -1" not in page
    assert whole.model["sensitivity"]["n"] > 0


def test_the_hottest_place_of_every_class(shelf):
    dataset = shelf(48)
    found = region(dataset, "hottest")
    assert found.n == sum(map(len, dataset.values("shown")))
    assert set(found.samples) == {s.id for s in dataset if s.shown}


# one sample


def test_explain_sample_says_what_is_missed(shelf):
    dataset = shelf(24)
    net = Films(blind=["tag"]).eval()
    compute(dataset, net)
    sample = next(s for s in dataset if s.shown == ["left", "tag"])
    found = operator("explain_sample")(
        dataset, sample.id, "run", net, transforms=see, objects="body", donors=3
    )
    assert (found.prediction, found.other, found.missed) == ("left", "tag", True)
    assert found.right is False
    assert found.probability == pytest.approx(HIGH, abs=0.01)
    assert found.other_probability < 1e-6
    assert "tag (0.00), labelled and missed" in str(found)
    # on other films' backgrounds the body stays, and with it "left"
    assert {s["prediction"] for s in found.swaps} == {"left"}
    assert all(s["probability"] == pytest.approx(HIGH, abs=0.02) for s in found.swaps)


def test_compare_models_by_the_class_that_is_compared(shelf):
    dataset = shelf(24)
    nets = {"old": Films().eval(), "new": Films(blind=["tag"]).eval()}
    for key, net in nets.items():
        compute(dataset, net, targets="tag", cam_key=key, threshold=1e-60, methods="hirescam")
    summary = operator("compare_cams")(
        dataset, ["old", "new"], models=nets, target="tag", transforms=see, progress=False,
        num_workers=0,
    )  # fmt: skip
    moved = summary.models["predictions"]
    assert moved["labelled"] == 24
    assert summary.models["first_last"]["n"] > 0
    assert np.isfinite(summary.models["first_last"]["mean"])
