"""What if: the scores before and after against the network's closed form, and what was changed where."""

import fiftyone as fo
import numpy as np
import pytest
from bias_common import (
    BACKGROUND,
    CLASSES,
    OBJECT,
    SIDE,
    Cues,
    agreeing,
    find,
    inner,
    probability,
    to_tensor,
)  # fmt: skip
from operators_common import operator
from PIL import Image

# of the first picture of agreeing(): left, top, width, height in pixels
LEFT, TOP, WIDE = 2, 3, 12
FEATHER = 2


@pytest.fixture
def dataset(make_dataset, tmp_path, plugin):
    return make_dataset(*agreeing(tmp_path, 12))


def ask(dataset, network, region, fill, cam_key=None, heat=None, **arguments):
    given = inner("compute.recorded_model").GivenModel(Cues(**network), to_tensor, None, CLASSES)
    model = inner("sample.explain").load(dataset, cam_key, given)
    sample = dataset.first()
    trial = inner("sample.trial").ask(
        dataset, sample.id, model, cam_key, region, fill, heat, **arguments
    )
    return trial, np.asarray(Image.open(sample.filepath))


def box():
    inside = np.zeros((SIDE, SIDE), bool)
    inside[TOP : TOP + WIDE, LEFT : LEFT + WIDE] = True
    return inside


def near(inside):
    """The pixels that may be mixed: up to the feather around a region."""
    y, x = np.nonzero(inside)
    grid = np.stack(np.mgrid[:SIDE, :SIDE], -1).reshape(-1, 1, 2)
    distance = np.sqrt(((grid - np.stack([y, x], -1)[None]) ** 2).sum(-1)).min(1)
    return (distance < FEATHER).reshape(SIDE, SIDE)


@pytest.mark.parametrize("network", [OBJECT, BACKGROUND])
def test_old_and_new_score_are_the_networks(dataset, network):
    trial, picture = ask(dataset, network, "object", "mean")
    assert trial.target == "plus"
    assert trial.old == pytest.approx(probability(network, picture), abs=1e-6)
    assert trial.new == pytest.approx(probability(network, trial.picture), abs=1e-6)
    np.testing.assert_array_equal(trial.mask, box())
    inside = trial.picture[box()].astype(int)
    assert abs(inside - picture.reshape(-1, 3).mean(0)).max() <= 1
    np.testing.assert_array_equal(trial.picture[~near(box())], picture[~near(box())])
    assert trial.share == pytest.approx(WIDE**2 / SIDE**2)
    assert trial.before[0] == ("plus", pytest.approx(trial.old))
    assert dict(trial.after) == pytest.approx({"plus": trial.new, "minus": 1 - trial.new}, abs=1e-6)


def test_the_control_tells_the_object_from_any_place(dataset):
    trial, _ = ask(dataset, OBJECT, "object", "mean")
    assert trial.old > 0.99
    assert len(trial.controls) == inner("sample.trial").CONTROLS
    # elsewhere there is no blue to be lost
    assert min(trial.controls) > trial.new + 0.05


@pytest.mark.parametrize("fill", ["blur", "mean", "inpaint", "other"])
@pytest.mark.parametrize("region", ["border", [0.5, 0.25, 0.25, 0.5]])
def test_every_replacement_changes_its_region_alone(dataset, region, fill):
    trial, picture = ask(dataset, BACKGROUND, region, fill)
    changed = (trial.picture != picture).any(-1)
    assert changed[trial.mask].any()
    assert not changed[~near(trial.mask)].any()
    assert trial.new == pytest.approx(probability(BACKGROUND, trial.picture), abs=1e-6)
    assert (trial.donor is not None) == (fill == "other")
    if region != "border":
        expected = np.zeros((SIDE, SIDE), bool)
        expected[8:24, 16:24] = True
        np.testing.assert_array_equal(trial.mask, expected)
    else:
        assert trial.controls == [], "a border has no other place"


def test_the_object_on_another_photos_background(dataset):
    find(dataset, BACKGROUND)
    trial, picture = ask(dataset, BACKGROUND, "background", "other", "run")
    # the run knows who is predicted otherwise: the donor is a minus, whose red is the opposite
    assert trial.old > 0.99
    assert trial.new < 0.01
    assert trial.after[0][0] == "minus"
    np.testing.assert_array_equal(trial.picture[box()], picture[box()])
    donor = next(s for s in dataset if s.filename == trial.donor)
    assert donor.label.label == "minus"
    again = ask(dataset, BACKGROUND, "background", "other", "run", seed=52)[0]
    assert again.new < 0.01


def test_the_hottest_tenth_is_where_the_heat_is(dataset):
    heat = np.zeros((8, 8))
    heat[:2] = 1
    trial, _ = ask(dataset, BACKGROUND, "hottest", "mean", heat=heat)
    assert trial.mask.sum() == round(0.1 * SIDE * SIDE)
    assert not trial.mask[12:].any()


@pytest.mark.parametrize(
    ("region", "fill", "said"),
    [
        ("hottest", "mean", "has no heat here"),
        ("nose", "mean", "'nose' is unknown"),
        ([0.5, 0.5, 0.9, 0.1], "mean", "a box is"),
        ("border", "paint", "fill: 'paint' is unknown; choose from other, blur"),
    ],
)
def test_bad_questions_are_named(dataset, region, fill, said):
    with pytest.raises(ValueError, match=said):
        ask(dataset, BACKGROUND, region, fill)


def test_no_object_and_no_file_are_named(dataset, tmp_path):
    first = dataset.first()
    first["ground_truth"] = fo.Detections()
    first.save()
    with pytest.raises(ValueError, match="no object is annotated here"):
        ask(dataset, BACKGROUND, "object", "mean")
    dataset.set_values("filepath", {first.id: str(tmp_path / "gone.png")}, key_field="id")
    with pytest.raises(ValueError, match="gone.png cannot be read"):
        ask(dataset, BACKGROUND, "border", "mean")


def test_evidence_is_a_label_of_the_region_and_never_an_object(dataset):
    trial, _ = ask(dataset, OBJECT, "object", "mean")
    evidence = inner("sample.evidence")
    for _ in range(2):
        evidence.keep(dataset, trial, "the object", "the mean colour", "cues")
    dataset.reload()
    labels = dataset.first()["explain_evidence"].detections
    assert len(labels) == 2
    label = labels[0]
    assert (label.label, label.region, label.model) == ("plus", "the object", "cues")
    assert label.probability_before == pytest.approx(trial.old)
    assert label.probability_after == label.confidence == pytest.approx(trial.new)
    assert label.probability_control == pytest.approx(np.mean(trial.controls))
    np.testing.assert_allclose(
        np.array(label.bounding_box) * SIDE, [LEFT, TOP, WIDE, WIDE], atol=1e-6
    )
    assert label.mask.all()
    assert inner("data.object_fields").choose_object_field(dataset) == "ground_truth"
    # and it stands in no run's way
    operator("explain_sample")(
        dataset, dataset.first().id, model=Cues(**OBJECT), transforms=to_tensor, classes=CLASSES
    )
