"""What ``compute_cams`` can be asked to explain, against scores and maps worked out by hand."""

import fiftyone as fo
import numpy as np
import pytest
import torch
from targets_common import CLASSES, SIDE, Mean, explain, labelled, logits, samples

pytestmark = pytest.mark.usefixtures("plugin")
RED, BLUE = 0.75, 0.25  # of these, "tabby" and "dog" are predicted


def statuses(dataset, field="run_gradcam"):
    return dataset.values(f"{field}.status")


def scores(dataset, field="run_gradcam"):
    return dataset.values(f"{field}.score")


@pytest.fixture
def pictures(make_dataset, tmp_path):
    """A function: a dataset with ``truth`` labels, all pictures mostly red."""

    def make(*names, red=RED, **fields):
        rows = [(red, {**row, **fields}) for row in labelled(*names)]
        return make_dataset(*samples(tmp_path, *rows))

    return make


# labels -------------------------------------------------------------------------------------------


def test_ground_truth(pictures):
    dataset = pictures("tabby", "Tiger_Cat", "lion", None, "TABBY CAT")
    summary = explain(dataset, targets="truth")
    assert summary.fields == ["run_gradcam", "run_prediction"]
    assert statuses(dataset) == ["ok", "ok", "label_unknown", "no_label", "ok"]
    own = logits(RED).tolist()
    assert scores(dataset) == pytest.approx([own[0], own[1], None, None, own[0]], abs=1e-5)
    assert dataset.values("run_gradcam.target") == [
        CLASSES[0], CLASSES[1], "lion", "label", CLASSES[0]
    ]  # fmt: skip
    assert dataset.values("run_gradcam.target_index") == [0, 1, None, None, 0]
    assert summary.done == 5
    assert summary.statuses["run_gradcam"] == {"ok": 3, "label_unknown": 1, "no_label": 1}
    (labels,) = summary.labels
    assert (labels["field"], labels["labels"], labels["known"]) == ("truth", 4, 3)
    assert labels["unmapped"] == [{"label": "lion", "count": 1, "near": []}]
    assert {m["label"]: m["how"] for m in labels["mapped"]}["tabby"] == "another spelling"
    assert "3 of 4 labels of 'truth' mapped, not 'lion'" in str(summary)
    # none of the labels is drawn without a class
    assert [s.run_gradcam.map is None for s in dataset] == [False, False, True, True, False]


def test_near_names_are_offered_and_not_applied(pictures):
    dataset = pictures("tigre cat", "dog")
    summary = explain(dataset, targets="truth")
    assert statuses(dataset) == ["label_unknown", "ok"]
    assert summary.labels[0]["unmapped"][0]["near"] == ["tiger cat"]
    assert "near: tiger cat (class_map=" in str(summary)


def test_a_field_of_which_nothing_is_known_is_refused(pictures):
    dataset = pictures("lion", "tigre cat")
    with pytest.raises(ValueError, match="none of the 2 labels of field 'truth'.*near tiger cat"):
        explain(dataset, targets="truth")
    with pytest.raises(ValueError, match="'truth' has no labels in these samples"):
        explain(pictures("tabby", None).skip(1), targets={"field": "truth"})
    assert not dataset.list_runs()


def test_a_class_wins_over_a_field_of_its_name(pictures):
    dataset = pictures("tabby", "dog")
    dataset.add_sample_field("crane", fo.StringField)
    dataset.set_values("crane", ["dog", "tiger cat"])
    explain(dataset, targets="crane", methods="hirescam", store_prediction=False)
    assert dataset.values("run_hirescam.target_index") == [3, 3]
    explain(dataset, cam_key="field", targets={"field": "crane"})
    assert dataset.values("field_gradcam.target_index") == [2, 1]


def test_other_kinds_of_labels(make_dataset, tmp_path):
    def boxes(*pairs):
        return fo.Detections(
            detections=[fo.Detection(label=n, bounding_box=[0, 0, s, s]) for n, s in pairs]
        )

    rows = [
        {
            "tags_": ["lion", "tiger cat", "dog"],
            "several": fo.Classifications(
                classifications=[
                    fo.Classification(label="dog", confidence=0.2),
                    fo.Classification(label="crane", confidence=0.7),
                ]
            ),
            "boxes": boxes(
                ("dog", 0.9), ("crane", 0.1), ("lion", 1), ("crane", 0.1), ("tabby", 0.5)
            ),
            "word": "crane",
        },
        {"tags_": [], "several": None, "boxes": boxes(("tiger cat", 0.5)), "word": ""},
    ]
    dataset = make_dataset(*samples(tmp_path, *((RED, row) for row in rows)))

    def targets(field, *names):
        key = field.strip("_")
        summary = explain(dataset, targets=field, cam_key=key, store_prediction=False)
        assert summary.fields == [f"{key}_gradcam{n}" for n in names or ("",)]
        return [dataset.values(f"{f}.target_index") for f in summary.fields]

    assert targets("word") == [[3, None]]
    assert targets("several", "_label1", "_label2") == [[3, None], [2, None]]
    # the most frequent class first, then the larger; a fourth class has no column
    columns = targets("boxes", "_label1", "_label2", "_label3")
    assert columns == [[3, 1], [2, None], [0, None]]
    assert statuses(dataset, "boxes_gradcam_label2") == ["ok", "no_label"]
    # a list of strings is one truth that goes by several names: any of the classes
    assert targets("tags_") == [[None, None]]
    own = logits(RED)
    expected = float(own[1:3].logsumexp(0))
    assert scores(dataset, "tags_gradcam") == pytest.approx([expected, None], abs=1e-5)


def test_what_a_view_filters_out_is_not_explained(make_dataset, tmp_path):
    boxes = fo.Detections(
        detections=[
            fo.Detection(label="dog", bounding_box=[0, 0, 1, 1], confidence=0.3),
            fo.Detection(label="crane", bounding_box=[0, 0, 0.5, 0.5], confidence=0.9),
        ]
    )
    dataset = make_dataset(*samples(tmp_path, (RED, {"boxes": boxes})))
    view = dataset.filter_labels("boxes", fo.ViewField("confidence") > 0.5)
    explain(view, targets="boxes")
    assert dataset.first().run_gradcam_label1.target_index == 3
    assert dataset.first().run_gradcam_label2.status == "no_label"


def test_resumed_run_is_that_of_one_call(pictures):
    names = ["tabby", "dog", "lion", "tiger cat", None, "crane", "dog"]
    whole, parts = pictures(*names), pictures(*names)
    explain(whole, targets="truth", batch_size=2)
    explain(parts.limit(3), targets="truth", batch_size=2)
    assert len(parts.exists("run_gradcam")) == 3
    summary = explain(parts, targets="truth", batch_size=2, resume=True)
    assert (summary.done, summary.resumed) == (7, 3)
    assert statuses(parts) == statuses(whole)
    assert scores(parts) == scores(whole)
    for one, other in zip(whole, parts, strict=True):
        assert np.array_equal(one.run_gradcam.map, other.run_gradcam.map)
    with pytest.raises(ValueError, match="resume: .*targets: truth then, predicted now"):
        explain(parts, resume=True)


def test_labels_are_read_a_few_times_only(pictures, monkeypatch):
    import importlib

    from operators_common import PLUGIN

    fields = importlib.import_module(f"{PLUGIN}.operators.targets.label_field")
    monkeypatch.setattr(fields, "_AT_ONCE", 4)
    dataset = pictures(*["dog", "tabby"] * 6)
    calls = []
    own = fo.core.collections.SampleCollection.select
    monkeypatch.setattr(
        fo.core.collections.SampleCollection,
        "select",
        lambda self, ids, **kw: calls.append(len(ids)) or own(self, ids, **kw),
    )
    explain(dataset, targets="truth", batch_size=1)
    assert calls == [4, 4, 4]
    assert dataset.values("run_gradcam.target_index") == [2, 0] * 6


# class_map ----------------------------------------------------------------------------------------


def test_class_map(pictures):
    dataset = pictures("Cat", "hound", "crane")
    given = {"cat": ["tabby", "tiger_cat"], "hound": "dog"}
    summary = explain(dataset, targets="truth", class_map=given)
    own = logits(RED)
    expected = [float(own[:2].logsumexp(0)), float(own[2]), float(own[3])]
    assert scores(dataset) == pytest.approx(expected, abs=1e-5)
    assert dataset.values("run_gradcam.target") == ["Cat", "dog", "crane"]
    how = {m["label"]: (m["how"], m["classes"]) for m in summary.labels[0]["mapped"]}
    assert how["Cat"] == ("class_map", CLASSES[:2])
    assert how["crane"] == ("same name", ["crane"])
    # by name: each class's own map, weighted by its share of the sum
    explain(dataset, targets="cat", class_map=given, cam_key="named")
    sample = dataset.first()
    assert sample.named_gradcam.target == "cat"
    share = own[:2].softmax(0)
    peak = (share[0] * 2 + share[1] * 1) / SIDE**2
    assert sample.named_gradcam.peak == pytest.approx(float(peak), rel=1e-5)
    # done again from the record alone, except for the module
    from operators_common import operator
    from targets_common import T

    again = operator("rerun_cams")(
        dataset,
        "run",
        "again",
        model=Mean(),
        transforms=T.ToTensor(),
        classes=CLASSES,
        progress=False,
    )
    assert again.settings["class_map"] == {"cat": ["tabby", "tiger_cat"], "hound": "dog"}
    assert scores(dataset, "again_gradcam") == scores(dataset)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cat": ["tabbby"]}, "class_map: the model has no class 'tabbby', which 'cat' is mapped to; near: tabby"),
        ({"cat": []}, "class_map must map names"),
        ({}, "class_map must map names"),
        (["cat"], "class_map must map names"),
        ({"cat": [9]}, "index 9 of 'cat' is out of range"),
        ({"cat": 1.5}, "1.5 of 'cat' is no class name"),
    ],
)  # fmt: skip
def test_wrong_class_map(pictures, given, message):
    with pytest.raises(ValueError, match=message):
        explain(pictures("tabby"), targets="truth", class_map=given)


def test_class_map_without_effect(pictures):
    with pytest.raises(ValueError, match="class_map: has no effect with targets='predicted'"):
        explain(pictures("tabby"), class_map={"cat": "tabby"})


# contrast -----------------------------------------------------------------------------------------


def test_contrast_with_the_label(pictures):
    dataset = pictures("dog", "tabby", "lion", None)
    summary = explain(
        dataset, targets=("contrast", "truth"), methods=["gradcam", "gradcam_elementwise"]
    )
    assert summary.fields == [
        "run_gradcam_for", "run_gradcam_against", "run_gradcam_elementwise", "run_prediction"
    ]  # fmt: skip
    for field in summary.fields[:3]:
        assert statuses(dataset, field) == ["ok", "correct", "label_unknown", "no_label"]
    own = logits(RED)
    label, other = dataset.first().run_gradcam_for, dataset.first().run_gradcam_against
    assert label.score == pytest.approx(float(own[0] - own[2]), abs=1e-5)
    assert (label.target, label.target_index) == ("tabby, tabby cat, not dog", 0)
    # tabby counts red twice and blue once, dog blue thrice: red +2, blue -2
    assert label.peak == pytest.approx(2 / SIDE**2, rel=1e-5)
    assert other.peak == pytest.approx(2 / SIDE**2, rel=1e-5)
    half = round(RED * label.map.shape[1])
    assert label.map[:, : half - 8].min() == 255
    assert label.map[:, half + 8 :].max() == 0
    assert other.map[:, : half - 8].max() == 0
    assert other.map[:, half + 8 :].min() == 255
    assert summary.settings["targets"] == {"contrast": "truth"}


def test_contrast_finds_the_labels_itself(pictures):
    dataset = pictures("dog")
    explain(dataset, targets="contrast", methods="gradients")
    assert dataset.first().run_gradients.target.endswith("not dog")
    dataset.add_sample_field("more", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
    explain(dataset, targets="contrast", methods="gradients", cam_key="empty")  # it says nothing
    dataset.set_values("more", [fo.Classification(label="dog")])
    with pytest.raises(
        ValueError, match="several fields could be meant .*Name the field.*truth.*runner_up"
    ):
        explain(dataset, targets="contrast", cam_key="two")


def test_contrast_of_two_classes_and_with_the_runner_up(pictures):
    dataset = pictures("dog", None, red=0.625)
    own = logits(0.625)  # 1.625, 0.625, 1.125, 0
    explain(dataset, targets=("contrast", "tiger cat", "dog"), methods="hirescam")
    assert scores(dataset, "run_hirescam_for") == pytest.approx([-0.5, -0.5], abs=1e-5)
    assert dataset.first().run_hirescam_for.target == "tiger cat, not dog"
    explain(dataset, targets=("contrast", "runner_up"), cam_key="second")
    gap = float(own[0] - own[2])
    assert scores(dataset, "second_gradcam_for") == pytest.approx([gap, gap], abs=1e-5)
    explain(
        dataset,
        cam_key="group",
        targets=("contrast", "cat", "dog"),
        class_map={"cat": ["tabby", 1]},
    )
    expected = float(own[:2].logsumexp(0) - own[2])
    assert dataset.first().group_gradcam_for.score == pytest.approx(expected, abs=1e-5)


def test_contrast_beside_a_class(pictures):
    dataset = pictures("dog")
    summary = explain(dataset, targets=["crane", {"contrast": "truth"}, "truth"], max_fields=9)
    assert summary.fields[:-1] == [
        "run_gradcam_crane", "run_gradcam_contrast_for", "run_gradcam_contrast_against",
        "run_gradcam_label",
    ]  # fmt: skip
    assert len(summary.labels) == 1


def test_every_label_right_is_no_error(pictures):
    dataset = pictures("tabby", "tabby")
    summary = explain(dataset, targets=("contrast", "truth"))
    assert summary.statuses["run_gradcam_for"] == {"correct": 2}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"field": "truht"}, "no field 'truht', did you mean 'truth'"),
        ({"field": "number"}, "field 'number' is a FloatField, which has no labels"),
        ({"field": 3}, "no field 3"),
        ("tigre cat", "no class 'tigre cat'; near: tiger cat.*label fields are truth"),
        (("contrast", "dog"), "a contrast needs two classes; 'dog' is one"),
        (("contrast", "dog", "dog"), "the same class"),
        (("missed", "truth"), "detector's objects, and this is a classifier.*give 'predicted'"),
        ({"missed": "truth"}, "detector's objects, and this is a classifier.*choose a detector"),
        ({"eval": "ev", "which": "fn"}, "detector's objects, and this is a classifier"),
        (("contrast", "dog", "dgo"), "no class 'dgo'; near: dog"),
        (("contrast", "dog", "crane", "dog"), "needs two classes, got"),
        (("contrast", "truht"), "no field 'truht'"),
        ({"text": "a cat"}, "text is for models that compare images with texts.*this is a classifier"),
        ({"text": ""}, "text must be a prompt"),
        ({"text": []}, "text must be a prompt"),
        ({"like": "0" * 24}, "like compares embeddings, and this is a classifier"),
        ({"mask": "truth", "class": "dog"}, "chooses pixels of a segmentation network"),
        ({"box": [0, 0, 1, 1], "class": "dog"}, "chooses pixels of a segmentation network"),
        ({"label": "truth"}, "is not understood; give 'predicted'"),
        ({"field": "truth", "class": "dog"}, "is not understood"),
        ([], "targets is empty"),
        (["truth", {"field": "truth"}], "given twice"),
        (["predicted", "truth"], "stands alone"),
    ],
)  # fmt: skip
def test_wrong_targets(pictures, targets, message):
    dataset = pictures("tabby", number=1.0)
    with pytest.raises(ValueError, match=message):
        explain(dataset, targets=targets)
    assert not dataset.list_runs()


def test_classes_are_needed_for_names(pictures):
    with pytest.raises(ValueError, match="none of the 1 labels|needs class names"):
        explain(pictures("tabby"), targets="truth", classes=None)


# heads --------------------------------------------------------------------------------------------


def test_one_logit(make_dataset, tmp_path):
    """Red speaks for the class, blue against it; the negative class has the negated logit."""
    dataset = make_dataset(*samples(tmp_path, (RED, {}), (BLUE, {})))
    net = Mean(torch.tensor([[4.0, 0, -4]]))
    explain(dataset, net, classes=["red"], methods="hirescam")
    assert dataset.values("run_hirescam.target") == ["red", "not red"]
    assert scores(dataset, "run_hirescam") == pytest.approx([2, 2], abs=1e-5)
    half = 0.5 * dataset.first().run_hirescam.map.shape[1]
    red, blue = (s.run_hirescam.map.argmax(1)[0] for s in dataset)
    assert red < half
    assert blue < half  # of the second picture the first blue column: a quarter is red
    assert dataset.last().run_hirescam.map[0, 0] == 0
    confidence = dataset.values("run_prediction.confidence")
    assert confidence == pytest.approx([1 / (1 + np.exp(-2))] * 2, abs=1e-5)


def test_multi_label(make_dataset, tmp_path):
    """The classes from the threshold on, at most three, else the top one."""
    dataset = make_dataset(*samples(tmp_path, (RED, {}), (BLUE, {}), (0.0, {})))
    weights = torch.tensor([[4.0, 0, -4], [2, 0, -2], [-1, 0, -1], [1, 0, -2]])
    summary = explain(dataset, Mean(weights), multi_label=True, threshold=0.6)
    assert summary.fields[:3] == [f"run_gradcam_top{i}" for i in (1, 2, 3)]
    found = [dataset.values(f"{f}.target_index") for f in summary.fields[:3]]
    # of the first 2, 1, -1, 0.25; of the second -2, -1, -1, -1.25; of the third -4, -2, -1, -2
    assert found == [[0, found[0][1], 2], [1, None, None], [None, None, None]]
    assert found[0][1] in (1, 2)
    assert statuses(dataset, "run_gradcam_top2") == ["ok", "target_absent", "target_absent"]
    explain(dataset, Mean(weights), multi_label=True, targets="tiger cat", cam_key="named")
    assert statuses(dataset, "named_gradcam") == ["ok", "target_absent", "target_absent"]
    assert dataset.last().named_gradcam.target == "tiger cat"
    assert summary.settings["multi_label"] is True
    assert summary.settings["threshold"] == 0.6


def test_a_named_class_of_a_single_label_network_is_always_explained(pictures):
    dataset = pictures("tabby")
    explain(dataset, targets="dog", store_prediction=False)
    assert statuses(dataset) == ["ok"]


def test_regression(make_dataset, tmp_path):
    dataset = make_dataset(*samples(tmp_path, (RED, {})))
    net = Mean(torch.tensor([[3.0, 0, 1]]))
    summary = explain(dataset, net, task="regression", classes=None)
    assert summary.fields == ["run_gradcam"]  # no class is predicted
    assert scores(dataset) == pytest.approx([2.5], abs=1e-5)
    with pytest.raises(ValueError, match="2 quantities, of which none is predicted"):
        explain(dataset, Mean(torch.eye(3)[:2]), task="regression", classes=["a", "b"], cam_key="b")
    explain(
        dataset, Mean(torch.eye(3)[[0, 2]]), task="regression", classes=["r", "b"], cam_key="b",
        targets="b",
    )  # fmt: skip
    assert scores(dataset, "b_gradcam") == pytest.approx([0.25], abs=1e-5)


def test_output(make_dataset, tmp_path):
    class Two(Mean):
        def forward(self, images):
            found = super().forward(images)
            return {"main": [found], "other": [found * 0]}

    dataset = make_dataset(*samples(tmp_path, (RED, {})))
    with pytest.raises(ValueError, match="say where they are"):
        explain(dataset, Two())
    summary = explain(dataset, Two(), output="main.0")
    assert summary.settings["output"] == "main.0"
    assert scores(dataset) == pytest.approx([float(logits(RED)[0])], abs=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "cooking"}, "task: 'cooking' is unknown"),
        ({"threshold": 2}, "threshold must be a probability"),
        ({"multi_label": "yes"}, "multi_label must be True or False"),
        ({"output": "nowhere"}, "output: 'nowhere'"),
    ],
)
def test_wrong_model_options(pictures, given, message):
    with pytest.raises(ValueError, match=message):
        explain(pictures("tabby"), **given)
