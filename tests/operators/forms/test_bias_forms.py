"""The form of ``find_background_bias``, the queue, and ``test_region``."""

import dataclasses
import types

import fiftyone.operators as foo
import numpy as np
import pytest
from bias_common import BACKGROUND, CLASSES, OBJECT, Cues, agreeing, find, inner, to_tensor
from operators_common import operator

pytestmark = pytest.mark.usefixtures("plugin")

# the way in from the App, and what a run leaves behind


def test_the_same_numbers_again(agree):
    dataset = agree(24)
    one = find(dataset, {"red": 8.0, "blue": 30.0})
    before = dataset.values(["run_dependence", "run_bias.swap_drop", "run_bias.donors"])
    two = find(dataset, {"red": 8.0, "blue": 30.0}, overwrite=True, batch_size=5)
    after = dataset.values(["run_dependence", "run_bias.swap_drop", "run_bias.donors"])
    assert before[2] == after[2]
    np.testing.assert_allclose(before[:2], after[:2], atol=1e-5)
    assert one.verdicts == two.verdicts


def test_only_the_views_samples_are_touched(agree):
    dataset = agree(24)
    view = dataset.limit(12)
    find(view)
    assert set(dataset.exists("run_verdict").values("id")) == set(view.values("id"))


def test_the_form_offers_runs_and_says_what_is_wrong(agree):
    dataset = agree(24)
    find(dataset)
    schema = resolve(dataset, {})
    assert "zoo" not in str(schema.get("error", ""))
    assert schema["inputs"]["cam_key"]["default"] == "run"
    warning = schema["inputs"]["from_python"]
    assert warning["invalid"]
    assert "given in Python" in warning["view"]["label"]

    fresh = resolve(dataset, {"cam_key": "a new run", "model": "resnet18-imagenet-torch"})
    label = fresh["inputs"]["notice"]["view"]["label"]
    assert label == "Explains 24 samples and tests 24 of them after computing heatmaps"
    assert fresh["inputs"]["objects"]["view"]["choices"][0]["label"] == "Automatic (ground_truth)"
    assert "ground_truth" in fresh["inputs"]["objects_note"]["view"]["label"]
    bad = {"group_by": "label", "report": f"{__file__}/folder"}
    wrong = resolve(dataset, {"cam_key": "a new run", "model": "resnet18-imagenet-torch", **bad})[
        "inputs"
    ]
    assert wrong["group_by"]["invalid"]
    assert wrong["report"]["invalid"]
    assert "notice" not in wrong


def resolve(dataset, params):
    """The form as the App gets it."""
    import fiftyone.operators.executor as executor

    ctx = executor.ExecutionContext({"dataset_name": dataset.name, "params": params})
    found = operator("find_background_bias").resolve_input(ctx)
    names = found.type.properties
    return {
        "inputs": {
            name: {
                "invalid": prop.invalid,
                "default": prop.default,
                "view": prop.view.to_json() if prop.view is not None else {},
            }
            for name, prop in names.items()
        }
    }


def test_form_parameters_become_arguments():
    forms = inner("forms.bias")
    params = {
        "cam_key": "a new run", "model": "m", "new_key": "k", "objects": "none", "probe": 0, "tags": False,
        "report": "", "view_target": "DATASET",
    }  # fmt: skip
    assert forms.arguments_of(params) == {
        "cam_key": "k", "model": "m", "objects": None, "tags": False,
    }  # fmt: skip


def test_what_cannot_be_delegated_is_said(agree):
    with pytest.raises(ValueError, match="model cannot be sent to another process"):
        operator("find_background_bias")(agree(2), "run", Cues(**BACKGROUND), delegate=True)


def test_delegated_parameters_are_read_back():
    forms = inner("forms.bias")
    given = {
        "cam_key": "k", "model": "m", "objects": None, "labels": "auto", "probe": "auto", "donors": 6,
    }  # fmt: skip
    params = forms.params_of(given, runs=["k"])
    assert (params["cam_key"], "new_key" in params) == ("k", False)
    new = forms.params_of(given)
    assert (new["cam_key"], new["new_key"]) == ("a new run", "k")
    assert forms.arguments_of(new) == forms.arguments_of(params)
    assert forms.arguments_of(params) == {
        "cam_key": "k", "model": "m", "objects": None, "labels": "auto", "donors": 6,
    }  # fmt: skip


# regions


def test_region_that_decides_and_one_that_does_not(make_dataset, tmp_path):
    dataset = make_dataset(*agreeing(tmp_path, 48))
    test = operator("test_region")
    given = {"model": Cues(red=20.0, corner=8), "transforms": to_tensor, "classes": CLASSES}
    given |= {"progress": False, "num_workers": 0}
    corner = test(dataset, [0.75, 0.75, 0.25, 0.25], **given)
    # the network reads nothing but the corner: the score falls from 1 to 0
    assert corner.region_drop["mean"] == pytest.approx(1, abs=0.02)
    assert corner.effect["low"] > 0.8
    assert (corner.n, corner.controlled, corner.flip) == (48, 48, 1.0)
    assert corner.p < 0.001
    assert set(corner.samples) == set(dataset.values("id"))
    assert [row["label"] for row in corner.classes] == ["plus", "minus"] or len(corner.classes) == 2
    said, *numbers = str(corner).splitlines()
    assert said.startswith(
        "The score rests on the box [0.75, 0.75, 0.25, 0.25]: replacing it costs 1.00"
    )
    assert [line.strip().partition(":")[0] for line in numbers[:5]] == [
        "Score lost, region replaced", "Score lost, random regions instead", "Difference of the two",
        "Probability of such a difference by chance (p)", "Predictions that change",
    ]  # fmt: skip
    other = test(dataset, [0, 0, 0.25, 0.25], **given)
    assert abs(other.region_drop["mean"]) < 0.02
    assert other.effect["mean"] < 0.02
    assert str(other).startswith("No sign that the score rests on the box [0, 0, 0.25, 0.25]")
    # nothing is written
    assert set(dataset.get_field_schema()) == set(make_dataset().get_field_schema()) | {
        "ground_truth", "label",
    }  # fmt: skip
    assert dataset.list_runs() == []


def test_regions_of_every_kind(make_dataset, tmp_path):
    dataset = make_dataset(*agreeing(tmp_path, 24))
    test = operator("test_region")
    given = {"model": Cues(**OBJECT), "transforms": to_tensor, "classes": CLASSES}
    given |= {"progress": False, "num_workers": 0}
    drawn = test(dataset, "ground_truth", **given)
    assert drawn.region_drop["mean"] > 0.4
    cluster = np.zeros((14, 14))
    cluster[-3:, -3:] = 1
    assert abs(test(dataset, {"mean_map": cluster.tolist()}, **given).region_drop["mean"]) < 0.3
    hottest = test(dataset, **given)
    assert hottest.region_drop["mean"] > 0.05
    border = test(dataset, "border", **given)
    # the ring has no other place: its control is the ring of the same class
    assert (border.control, hottest.control) == ("same class", "elsewhere")
    assert border.controlled == 24
    assert abs(border.control_drop["mean"]) < 0.2
    assert "replacing it by that of the same class costs" in str(border)
    wide = test(dataset, [0, 0, 1, 0.9], **given)
    assert wide.controlled == 0
    assert wide.effect["mean"] is None
    assert "so large that random regions of its size overlap it" in str(wide)


def test_few_samples_give_no_interval_and_no_test(make_dataset, tmp_path):
    dataset = make_dataset(*agreeing(tmp_path, 8))
    found = operator("test_region")(
        dataset, [0.75, 0.75, 0.25, 0.25], model=Cues(red=20.0, corner=8), transforms=to_tensor,
        classes=CLASSES, progress=False, num_workers=0,
    )  # fmt: skip
    said, *numbers = str(found).splitlines()
    assert "Too few samples to judge (8 of 20)" in said
    assert not any("luck" in line or " to " in line for line in numbers)
    sentence = inner("bias.summary").region_sentence(dataclasses.asdict(found))
    assert "too few samples for an interval or a test (8 of 20)" in sentence
    assert ", p " not in sentence


def test_a_region_is_shown_as_a_sentence_and_a_table(make_dataset, tmp_path):
    dataset = make_dataset(*agreeing(tmp_path, 24))
    found = operator("test_region")(
        dataset, model=Cues(**OBJECT), transforms=to_tensor, classes=CLASSES, progress=False,
        num_workers=0,
    )  # fmt: skip
    outputs, results = inner("forms.region").output_of(found)
    assert results["said"].startswith("**The score rests on the hottest tenth of each image")
    assert results["rows"][0].keys() == {"what", "value", "interval", "n"}
    table = outputs["type"]["properties"]["rows"]["view"]
    assert len(table["tooltips"]) == len(results["rows"]) >= 5
    assert table["tooltips"][0]["value"].startswith("region_drop: ")


def test_a_paste_control_of_two_samples_is_no_finding():
    interval = {"mean": 0.5, "low": 0.0, "high": 1.0, "n": 21}
    names = ("accuracy", "mixed_rand", "mixed_same", "only_bg")
    model = {**dict.fromkeys(names, interval), "chance": 0.1, "majority": 0.1, "against": "labels"}
    words = inner("bias.summary")

    def said(n):
        model["mixed_same"] = {**interval, "n": n}
        return words._model(types.SimpleNamespace(tested=21, model=model))

    assert "same-class control: too few samples (2 of 20)" in said(2)
    assert "n = 2)" not in said(2)
    assert "50 % (0 % to 100 %, n = 20) on backgrounds of its own class" in said(20)
    assert "no two tested samples share a predicted class" in said(0)
    model["against"] = "objects"
    assert "same-class control: too few objects (1 of 20)" in said(1)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("nowhere", "region: the samples have no field 'nowhere'"),
        ([0.9, 0.9, 0.2, 0.1], "a box is .* inside it"),
        ([0.5, 0.5, 0, 0.1], "a box is .* not empty"),
        (np.zeros((3, 3)), "region must be 'hottest'"),
        (7, "region must be 'hottest'"),
    ],
)
def test_wrong_regions(make_dataset, tmp_path, region, message):
    dataset = make_dataset(*agreeing(tmp_path, 4))
    with pytest.raises(ValueError, match=message):
        operator("test_region")(dataset, region, model=Cues(**OBJECT), transforms=to_tensor)


def test_uris():
    for name in ("find_background_bias", "test_region"):
        assert foo.get_operator(f"@cam51/heatmaps/{name}").name == name
