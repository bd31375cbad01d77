"""What to explain, as the form asks for it, and what the App or a queue makes of the answer."""

import importlib

import fiftyone as fo
import fiftyone.operators as foo
import fiftyone.operators.executor as executor
import pytest
import torch
import torchvision
from operators_common import PLUGIN, operator
from targets_common import labelled, samples

pytestmark = pytest.mark.usefixtures("plugin")
ZOO_MODEL = "resnet18-imagenet-torch"


@pytest.fixture
def forms(plugin):
    foo.get_operator("@cam51/heatmaps/compute_cams")
    return importlib.import_module(f"{PLUGIN}.operators._form_targets")


@pytest.fixture
def dataset(make_dataset, tmp_path):
    names = ("tench", "Gold_fish", "goldfish", None)
    rows = [(0.5, {**row, "number": 1.0}) for row in labelled(*names)]
    return make_dataset(*samples(tmp_path, *rows))


def resolve(dataset, **params):
    """The form as the App gets it."""
    given = {"model": ZOO_MODEL, "cam_key": "run", **params}
    ctx = executor.ExecutionContext({"dataset_name": dataset.name, "params": given})
    return operator("compute_cams").resolve_input(ctx).type.properties


def choices(prop):
    return [choice.value for choice in prop.view.choices]


def test_choices(dataset):
    form = resolve(dataset)
    assert choices(form["targets"]) == [
        "predicted", "top_2", "top_3", "label", "contrast", "classes"
    ]  # fmt: skip
    assert form["targets"].view.choices[4].label == "Why not the label"
    # classes of pixels are not contrasted
    pixels = resolve(dataset, model="deeplabv3-resnet50-coco-torch")
    assert "contrast" not in choices(pixels["targets"])


def test_a_label_field(dataset):
    form = resolve(dataset, targets="label")
    assert choices(form["label_field"]) == ["truth"]
    assert form["label_field"].error_message == "choose a field"
    form = resolve(dataset, targets="label", label_field="truth")
    assert not form["label_field"].invalid
    assert form["mapped"].view.label == "2 of 3 labels are classes of the model"
    assert "'Gold_fish' (near: goldfish" in form["mapped"].view.description
    assert "run_gradcam" in form["notice"].view.label
    assert resolve(dataset, targets="label", label_field="number")["label_field"].invalid
    mapped = resolve(
        dataset, targets="label", label_field="truth", class_map="Gold_fish = goldfish; tench"
    )
    assert mapped["mapped"].view.label == "3 of 3 labels are classes of the model"
    wrong = resolve(dataset, targets="label", label_field="truth", class_map="Gold_fish = goldfsh")
    assert "no class 'goldfsh'" in wrong["class_map"].error_message
    assert "near: goldfish" in wrong["class_map"].error_message
    assert resolve(dataset, targets="label", class_map="no sign")["class_map"].invalid
    assert "notice" not in wrong


def test_labels_of_which_none_is_known(dataset):
    dataset.set_values("truth.label", ["tanch"] * 4)
    form = resolve(dataset, targets="label", label_field="truth")
    assert form["label_field"].error_message.startswith(
        "the model has none of these labels: 'tanch' (near: tench"
    )


def test_why_not_the_label(dataset):
    form = resolve(dataset, targets="contrast")
    assert choices(form["contrast_with"]) == ["runner_up", "truth"]
    for chosen in ("runner_up", "truth"):
        form = resolve(dataset, targets="contrast", contrast_with=chosen)
        assert not form["contrast_with"].invalid
        assert "run_gradcam" in form["notice"].view.label
        assert ("mapped" in form) == (chosen == "truth")


def test_class_names_are_offered_and_checked(dataset):
    form = resolve(dataset, targets="classes")
    assert form["class_names"].error_message == "name at least one class"
    assert len(choices(form["class_names"])) > 990
    form = resolve(dataset, targets="classes", class_names=["tench", "goldfsh"])
    assert "no class 'goldfsh'; did you mean goldfish" in form["class_names"].error_message
    form = resolve(dataset, targets="classes", class_names=["tench", "goldfish"])
    assert "2 heatmap fields" in form["notice"].view.label


def test_parameters_become_arguments(forms):
    given = forms.given_targets
    assert given({}) == {}
    assert given({"targets": "top_2", "class_map": "cat = dog"}) == {"targets": "top_2"}
    assert given({"targets": "label", "label_field": "truth"}) == {"targets": {"field": "truth"}}
    assert given({"targets": "label"}) == {}
    assert given({"targets": "contrast", "contrast_with": "runner_up"}) == {
        "targets": {"contrast": "runner_up"}
    }
    typed = {"targets": "classes", "class_names": " a; b ;", "class_map": "a = x; y\n\nb=z"}
    assert given(typed) == {"targets": ["a", "b"], "class_map": {"a": ["x", "y"], "b": ["z"]}}


@pytest.mark.parametrize(
    "targets",
    [
        "predicted", "top_3", ["tench", "goldfish"], {"field": "truth"}, {"contrast": ["a", "b"]},
        ["tench", {"text": "a fish"}], {"mask": "things", "class": "red"},
    ],
)  # fmt: skip
def test_the_way_into_a_queue_and_back(forms, targets):
    assert forms.given_targets(forms.target_params(targets)) == {"targets": targets}


def test_what_a_queue_is_sent(forms):
    assert forms.target_params(("contrast", "truth")) == {"targets": {"contrast": "truth"}}
    assert forms.target_params("tench") == {"targets": "classes", "class_names": "tench"}
    for wrong in (3, len, [lambda out: out], "top_9", ["predicted", "tench"]):
        with pytest.raises(ValueError, match="delegate: targets cannot be sent"):
            forms.target_params(wrong)


def test_class_names_of_a_model_without_its_weights(forms):
    known = forms.classes_of(ZOO_MODEL)
    assert len(known) == 1000
    assert forms.classes_of("clip-vit-base32-torch", {"classes": "cat; dog"}) == ["cat", "dog"]
    assert forms.classes_of("torchvision:resnet18") is None


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    """Random weights under the name that the zoo looks for."""
    from pathlib import Path

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    weights = torchvision.models.resnet18().state_dict()
    torch.save(weights, tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    marker = Path(fo.config.model_zoo_dir) / "resnet18-5c106cde.pth"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text("only its existence is looked at")
    yield
    marker.unlink()


def test_as_the_app_and_a_queue_run_it(dataset, zoo):
    from fiftyone.operators.delegated import DelegatedOperationService

    params = {
        "model": ZOO_MODEL, "methods": ["gradcam"], "targets": "contrast", "contrast_with": "truth",
        "class_map": "Gold_fish = goldfish; tench", "cam_key": "app",
    }  # fmt: skip
    foo.execute_operator(
        "@cam51/heatmaps/compute_cams", ctx={"view": dataset.view(), "params": params}
    )
    assert dataset.values("app_gradcam_for.status") == ["ok", "ok", "ok", "no_label"]
    settings = dataset.get_run_info("app").config.settings
    given = {"targets": settings["targets"], "class_map": settings["class_map"]}
    assert given == {
        "targets": {"contrast": "truth"}, "class_map": {"Gold_fish": ["goldfish", "tench"]}
    }  # fmt: skip
    operator()(dataset, ZOO_MODEL, cam_key="later", methods="gradcam", delegate=True, **given)
    service = DelegatedOperationService()
    service.execute_queued_operations(operator="@cam51/heatmaps/compute_cams", limit=1)
    assert dataset.values("later_gradcam_for.score") == dataset.values("app_gradcam_for.score")
    # and once more from its record
    operator("rerun_cams")(dataset, "app", "again", progress=False)
    assert dataset.values("again_gradcam_for.score") == dataset.values("app_gradcam_for.score")
