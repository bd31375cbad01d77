"""What outputs and class names mean in a run: probabilities, masks, the background, dicts, namesakes."""

import importlib

import fiftyone as fo
import numpy as np
import pytest
import torch
import torchvision.transforms as T
from operators_common import PLUGIN, operator
from targets_common import Mean, PerPixel, explain, labelled, samples
from torch import nn

pytestmark = pytest.mark.usefixtures("plugin")
RED, HALF, BLUE = 1.0, 0.5, 0.0


class Then(nn.Module):
    """A network and what comes after it."""

    def __init__(self, net, last):
        super().__init__()
        self.net, self.last = net, last

    @property
    def pixels(self):
        return self.net.pixels

    def forward(self, images):
        return self.last(self.net(images))


@pytest.fixture
def dataset_of(make_dataset, tmp_path):
    """A function: a dataset of pictures, each (share of red, fields)."""
    return lambda *rows: make_dataset(*samples(tmp_path, *rows))


def run(dataset, model, last=None, **arguments):
    model = model if last is None else Then(model, last)
    layer = "pixels" if last is None else "net.pixels"
    return explain(dataset, model, **{"layers": layer, "classes": None, **arguments})


def targets(dataset, field="run_gradcam"):
    return dataset.values(f"{field}.target")


ONE = [[4.0, 0, -4.0]]  # the logit: 4 for red, -4 for blue
THREE = [[4.0, 0, -4.0], [-2, 0, 2], [-1, 0, -1]]


# probabilities


@pytest.mark.parametrize("last", [None, nn.Sigmoid(), lambda z: torch.sigmoid(z)[:, 0]])
def test_one_output(dataset_of, last):
    dataset = dataset_of((RED, {}), (0.625, {}), (BLUE, {}))
    summary = run(dataset, Mean(ONE), last, classes=["lesion"])
    assert targets(dataset) == ["lesion", "lesion", "not lesion"]
    p = torch.tensor([4.0, 1.0, 4.0]).sigmoid()
    assert dataset.values("run_gradcam.score") == pytest.approx([4, 1, 4], abs=1e-4)
    assert dataset.values("run_prediction.confidence") == pytest.approx(p.tolist(), abs=1e-5)
    outputs = summary.settings["outputs"]
    assert outputs["ends_in"] == ("logits" if last is None else "sigmoid")
    assert bool(summary.notes) == (last is not None)
    if last is not None:
        assert "ends in a sigmoid; what is explained is the logit before it" in str(summary)


@pytest.mark.parametrize("last", [None, torch.sigmoid])
def test_the_threshold_of_one_output(dataset_of, last):
    dataset = dataset_of((RED, {}), (0.625, {}), (BLUE, {}))
    run(dataset, Mean(ONE), last, classes=["lesion"], threshold=0.9)
    assert targets(dataset) == ["lesion", "not lesion", "not lesion"]  # sigmoid(1) is .73
    assert dataset.values("run_prediction.label") == targets(dataset)
    p = [float(torch.tensor(4.0).sigmoid()), 1 - float(torch.tensor(1.0).sigmoid())]
    assert dataset.values("run_prediction.confidence")[:2] == pytest.approx(p, abs=1e-5)


def test_a_sigmoid_for_each_label(dataset_of):
    dataset = dataset_of((0.75, {}), (0.25, {}))
    names = ["warm", "cold", "dark"]
    summary = run(dataset, Mean(THREE), torch.sigmoid, classes=names, targets=names)
    assert summary.statuses == {
        "run_gradcam_warm": {"ok": 1, "target_absent": 1},
        "run_gradcam_cold": {"ok": 1, "target_absent": 1},
        "run_gradcam_dark": {"target_absent": 2},
    }
    assert summary.settings["outputs"]["multi_label"] is True
    assert dataset.first()["run_gradcam_warm"].score == pytest.approx(2, abs=1e-4)
    run(dataset, Mean(THREE), torch.sigmoid, classes=names, cam_key="all")
    assert targets(dataset, "all_gradcam_top1") == ["warm", "cold"]
    # one class per image was asked for
    run(dataset, Mean(THREE), torch.sigmoid, classes=names, cam_key="one", multi_label=False)
    assert targets(dataset, "one_gradcam") == ["warm", "cold"]


def test_a_softmax_in_a_dict(dataset_of):
    dataset = dataset_of((RED, {}), (BLUE, {}))
    run(dataset, Mean(THREE), lambda z: {"probs": z.softmax(1)}, classes=["a", "b", "c"])
    assert targets(dataset) == ["a", "b"]
    p = torch.tensor([4.0, -2, -1]).softmax(0)[0]
    assert dataset.first()["run_prediction"].confidence == pytest.approx(float(p), abs=1e-5)
    assert dataset.values("run_gradcam.score") == pytest.approx([4, 2], abs=1e-4)


def test_what_may_be_probabilities_is_asked_before_anything_is_written(dataset_of):
    dataset = dataset_of((RED, {}), (BLUE, {}))

    def formula(z):
        return 1 / (1 + (-z).exp())

    with pytest.raises(ValueError, match="may be probabilities.*ends_in='sigmoid'"):
        run(dataset, Mean(THREE), formula)
    assert not dataset.list_runs()
    assert "run_gradcam" not in dataset.get_field_schema()
    summary = run(dataset, Mean(THREE), formula, ends_in="sigmoid")
    assert summary.settings["ends_in"] == "sigmoid"
    assert targets(dataset, "run_gradcam_top1") == ["class 0", "class 1"]
    with pytest.raises(ValueError, match="ends_in: 'probs' is unknown"):
        run(dataset, Mean(THREE), formula, ends_in="probs")
    with pytest.raises(ValueError, match="multi_label: the network ends in a softmax"):
        run(dataset, Mean(THREE), lambda z: z.softmax(1), multi_label=True, cam_key="x")
    summary = run(dataset, Mean(ONE), torch.sigmoid, task="regression", cam_key="q")
    assert dataset.values("q_gradcam.score") == pytest.approx(
        torch.tensor([4.0, -4.0]).sigmoid().tolist(), abs=1e-5
    )


# a batch of one image


def test_the_last_batch_of_one_image(dataset_of):
    dataset = dataset_of((RED, {}), (HALF, {}), (0.25, {}))
    for name, last in (("plain", None), ("squeezed", torch.squeeze)):
        run(dataset, Mean(THREE), last, batch_size=2, cam_key=name, classes=["a", "b", "c"])
    for attribute in ("target", "score", "peak", "status"):
        rows = [dataset.values(f"{name}_gradcam.{attribute}") for name in ("plain", "squeezed")]
        assert rows[0] == rows[1]


def test_scores_without_a_batch_are_refused_before_anything_is_written(dataset_of):
    dataset = dataset_of((RED, {}), (HALF, {}), (0.25, {}))
    with pytest.raises(
        ValueError, match=r"returned a tensor of shape \(3,\) for two images|2 images"
    ):
        run(dataset, Mean(THREE), lambda z: z.mean(0))
    with pytest.raises(ValueError, match="fails for one image and works for two"):
        run(dataset, Mean(THREE), lambda z: z.squeeze()[:, :2])
    assert not dataset.list_runs()


# masks and the background


def lesions(last=lambda z: z):
    return Then(PerPixel([[4.0, 0, -4.0]]), lambda outputs: last(outputs["out"]))


@pytest.mark.parametrize("last", [lambda z: z, torch.sigmoid, lambda z: z[:, 0].sigmoid()])
@pytest.mark.parametrize("classes", [["lesion"], {0: "lesion"}, {"lesion": 0}, None])
def test_a_network_with_one_channel(dataset_of, last, classes):
    dataset = dataset_of((HALF, {}), (BLUE, {}))
    run(dataset, lesions(last), classes=classes, task="segmentation", layers="net.pixels")
    field = "run_gradcam" if classes else "run_gradcam_top1"
    assert dataset.values(f"{field}.status") == ["ok", "target_absent"]
    assert targets(dataset, field)[0] == ("lesion" if classes else "class 0")
    assert dataset.first()[field].score == pytest.approx(4 * 128, abs=1e-2)  # half of 16 x 16


def masks(bias=(0.0, 0.0)):
    return Then(PerPixel([[4.0, 0, 0], [0, 0, 4.0]]), lambda outputs: outputs["out"])


@pytest.mark.parametrize(
    ("arguments", "found", "background"),
    [
        ({"classes": ["_background_", "cold"]}, ["cold", "cold"], "_background_"),
        ({"classes": ["warm", "BG"]}, ["warm", "warm"], "BG"),
        ({"classes": ["warm", "cold"]}, ["warm", "cold"], None),
        ({"classes": ["warm", "cold"], "background": "Warm"}, ["cold", "cold"], "warm"),
        ({"classes": ["warm", "cold"], "background": 1}, ["warm", "warm"], "cold"),
        ({"classes": ["bg", "cold"], "background": False}, ["bg", "cold"], None),
        ({"classes": None}, ["class 0", "class 1"], None),
        ({"classes": None, "background": 0}, ["class 1", "class 1"], "class 0"),
    ],
)
def test_which_class_is_the_background(dataset_of, arguments, found, background):
    dataset = dataset_of((0.75, {}), (0.25, {}))
    summary = run(dataset, masks(), task="segmentation", layers="net.pixels", **arguments)
    field = next(f for f in summary.fields if f.startswith("run_gradcam"))
    assert dataset.values(f"{field}.status") == ["ok", "ok"]
    assert targets(dataset, field) == found
    assert summary.settings["outputs"]["background"] == background


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"background": "sky"}, "background: the model has no class 'sky'"),
        ({"background": "sky", "classes": None}, "background: 'sky' needs class names"),
        ({"background": 2}, "background: class index 2 is out of range"),
        ({"background": True}, "background must be a class name, a class index, or False"),
        ({"classes": ["bg", "void"]}, "several classes are called so"),
        ({"background": 0, "task": None}, "background: is for segmentation networks"),
    ],
)
def test_backgrounds_that_are_none(dataset_of, arguments, message):
    dataset = dataset_of((RED, {}))
    given = {"task": "segmentation", "classes": ["warm", "cold"], **arguments}
    with pytest.raises(ValueError, match=message):
        run(dataset, masks(), layers="net.pixels", **given)
    assert not dataset.list_runs()


def test_a_rerun_keeps_the_background_and_the_ending(dataset_of):
    dataset = dataset_of((0.75, {}), (0.25, {}))
    model = masks()
    run(
        dataset,
        model,
        task="segmentation",
        layers="net.pixels",
        classes=["warm", "cold"],
        background="warm",
    )
    rerun = operator("rerun_cams")
    again = rerun(
        dataset, "run", "again", model=model, transforms=T.ToTensor(),
        classes=["warm", "cold"], progress=False,
    )  # fmt: skip
    assert again.settings["background"] == "warm"
    assert targets(dataset, "again_gradcam") == ["cold", "cold"]


# class names


@pytest.mark.parametrize(
    "classes",
    [
        ["a", "b", "c"],
        ("a", "b", "c"),
        np.array(["a", "b", "c"]),
        {0: "a", 1: "b", 2: "c"},
        {2: "c", 0: "a", 1: "b"},
        {np.int64(1): "b", np.int64(0): "a", np.int64(2): "c"},
        {"0": "a", "1": "b", "2": "c"},
        {"c": 2, "a": 0, "b": 1},
        dict.fromkeys(["a", "b", "c"]).keys(),
    ],
    ids=repr,
)
def test_classes_in_every_form(dataset_of, classes):
    dataset = dataset_of((RED, {}), (BLUE, {}))
    run(dataset, Mean(THREE), classes=classes)
    assert targets(dataset) == ["a", "b"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["a"], "classes has 1 name, the model has 3 outputs"),
        (["a", "b"], "classes has 2 names, the model has 3 outputs"),
        ({0: "a", 1: "b"}, "classes has 2 names, the model has 3 outputs"),
        ({0: "a", 1: "b", 3: "c"}, r"indices up to 3, and index 2 has no name"),
        ({1: "a", 2: "b", 3: "c"}, "index 0 has no name"),
        ({-1: "a", 0: "b", 1: "c"}, "index -1 is negative"),
        ({"a": 0, "b": 1, "c": 1}, "'b' and 'c' have the same index 1"),
        ({"a": 0, "b": 2, "c": 3}, "index 1 has no name"),
        ({0: 1, 1: 2, 2: 3}, "has numbers on both sides"),
        ({0: "a", "b": 1}, "is not understood"),
        ({"a": "b", "c": "d", "e": "f"}, "which only a zero-shot model reads"),
        ({"0": "a", "1": "b", "3": "c"}, "index 2 has no name"),
        ({"0": "a", "00": "b", "1": "c"}, "gives an index twice"),
        ({"a", "b", "c"}, "set is not understood, which has no order"),
        ("abc", "classes: str is not understood"),
        ([None, "b", "c"], "classes: None is no name"),
        ([0.5, "b", "c"], "classes: 0.5 is no name"),
        ([], "classes is empty"),
        ({}, "classes is empty"),
        (3, "classes: int is not understood"),
    ],
)
def test_classes_that_are_refused(dataset_of, classes, message):
    dataset = dataset_of((RED, {}))
    with pytest.raises(ValueError, match=message):
        run(dataset, Mean(THREE), classes=classes)
    assert not dataset.list_runs()


def test_two_names_of_one_logit(dataset_of):
    dataset = dataset_of((RED, {}), (BLUE, {}))
    run(dataset, Mean(ONE), classes={"healthy": 0, "ill": 1})
    assert targets(dataset) == ["ill", "healthy"]
    with pytest.raises(ValueError, match="classes has 1 name, the model has 2 outputs"):
        run(dataset, Mean(ONE + ONE), classes=["ill"], cam_key="two")


# two classes of one name


CRANES = ["crane", "dog", "crane"]


def test_namesakes_are_told_apart(dataset_of):
    dataset = dataset_of((RED, {}), (BLUE, {}))
    weights = [[4.0, 0, 0], [-9, 0, -9], [0, 0, 4.0]]
    run(dataset, Mean(weights), classes=CRANES)
    assert targets(dataset) == ["crane (0)", "crane (2)"]
    assert dataset.values("run_prediction.label") == ["crane (0)", "crane (2)"]
    summary = run(dataset, Mean(weights), classes=CRANES, targets=["crane (2)", 0], cam_key="k")
    assert summary.fields[:2] == ["k_gradcam_crane_2", "k_gradcam_crane_0"]
    assert targets(dataset, "k_gradcam_crane_2") == ["crane (2)"] * 2
    with pytest.raises(
        ValueError, match=r"two classes are called 'crane': 'crane \(0\)', 'crane \(2"
    ):
        run(dataset, Mean(weights), classes=CRANES, targets="crane", cam_key="x")
    with pytest.raises(ValueError, match=r"no class 'crane \(1\)'"):
        run(dataset, Mean(weights), classes=CRANES, targets="crane (1)", cam_key="x")


def test_a_label_that_two_classes_share(dataset_of):
    weights = [[4.0, 0, 0], [0, 0, 4.0], [0, 0, 2.0]]
    rows = labelled("crane", "dog", "crane (2)", "cat")
    dataset = dataset_of(*((0.75, row) for row in rows))
    summary = run(dataset, Mean(weights), classes=CRANES, targets="truth")
    assert dataset.values("run_gradcam.status") == ["label_ambiguous", "ok", "ok", "label_unknown"]
    assert targets(dataset)[1:3] == ["dog", "crane (2)"]
    assert "two classes are called 'crane': 'crane (0)', 'crane (2)'" in str(summary)
    only = dataset.match(fo.ViewField("truth.label") == "crane")
    with pytest.raises(ValueError, match="two classes are called 'crane'.*|class_map="):
        run(only, Mean(weights), classes=CRANES, targets="truth", cam_key="k")
    run(
        only, Mean(weights), classes=CRANES, targets="truth", class_map={"crane": "crane (2)"}, cam_key="m"
    )  # fmt: skip
    assert targets(only, "m_gradcam") == ["crane (2)"]
    with pytest.raises(ValueError, match="class_map: two classes are called 'crane'"):
        run(
            only,
            Mean(weights),
            classes=CRANES,
            targets="truth",
            class_map={"x": "crane"},
            cam_key="n",
        )


def test_the_form_and_the_queue_have_them_too(dataset_of):
    part = importlib.import_module(f"{PLUGIN}.operators.forms.compute")
    sent = part.params_of({"model": "a", "classes": {1: "b", 0: "a"}, "background": False})
    back = part.arguments_of(sent)
    assert (back["classes"], back["background"]) == (["a", "b"], False)
    names = importlib.import_module(f"{PLUGIN}.operators.forms.classes")
    lookup = importlib.import_module(f"{PLUGIN}.operators.targets.spec").Lookup(
        names._Classes(CRANES)
    )
    assert lookup.names.labels == ["crane (0)", "dog", "crane (2)"]
    assert names._lacking("crane", lookup).startswith("two classes are called 'crane'")
    assert names._lacking("crane (2)", lookup) is None


def test_true_labels_of_namesakes_are_not_guessed():
    index = importlib.import_module(f"{PLUGIN}.operators.targets.true_labels").index_of_names
    assert index(CRANES, {}) == {"dog": 1, "crane (0)": 0, "crane (2)": 2}
    assert index(CRANES, {"crane (2)": "bird"})["bird"] == 2
    with pytest.raises(ValueError, match="aliases: two classes are called 'crane'"):
        index(CRANES, {"crane": "bird"})
