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
    return importlib.import_module(f"{PLUGIN}.operators.forms.targets")


def inner(name):
    return importlib.import_module(f"{PLUGIN}.operators.{name}")


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
    assert form["targets"].view.choices[4].label == "Prediction against label"
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
    assert forms.target_params("tench") == {"targets": ["tench"]}
    for wrong in (3, len, [lambda out: out], "top_9", ["predicted", "tench"]):
        with pytest.raises(ValueError, match="delegate: targets cannot be sent"):
            forms.target_params(wrong)


def test_class_names_of_a_model_without_its_weights(plugin):
    classes_of = inner("forms.classes").classes_of
    assert len(classes_of(ZOO_MODEL)) == 1000
    assert classes_of("clip-vit-base32-torch", {"classes": "cat; dog"}) == ["cat", "dog"]
    assert classes_of("torchvision:resnet18") is None


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


# detectors ----------------------------------------------------------------------------------------

DETECTOR = "retinanet-resnet50-fpn-coco-torch"


@pytest.fixture
def boxed(make_dataset, tmp_path):
    """Two pictures with boxes, predictions, and an evaluation of these."""

    def boxes(*labels, **values):
        where = [0.1, 0.1, 0.5, 0.5]
        return fo.Detections(
            detections=[fo.Detection(label=n, bounding_box=where, **values) for n in labels]
        )

    rows = [
        (0.5, {"ground_truth": boxes("Cat", "unicorn"), "found": boxes("cat", confidence=0.9)}),
        (0.5, {"ground_truth": boxes("dog"), "found": boxes("zebra", confidence=0.8)}),
    ]
    dataset = make_dataset(*samples(tmp_path, *rows))
    dataset.evaluate_detections("found", gt_field="ground_truth", eval_key="ev")
    return dataset


@pytest.fixture
def registered(plugin):
    """A detector under a name that another process can load."""
    from pathlib import Path

    own = inner("models.registered")
    Path(own.path()).unlink(missing_ok=True)
    operator("register_model")("grid", "detectors_common:registered")
    inner("models.preview")._SEEN.pop("grid", None)  # as on a server that was just started
    yield "grid"
    Path(own.path()).unlink(missing_ok=True)


def problem(form):
    wrong = [p.error_message for p in form.values() if p.invalid]
    assert len(wrong) <= 1, wrong
    return wrong[0] if wrong else None


def said(form):
    """The label of the notice, which is there only if the form can be sent, and the code shown."""
    code = next(p.default for name, p in form.items() if name.startswith("python_"))
    return form["notice"].view.label, code


def test_a_detector_is_asked_which_objects(boxed, dataset):
    form = resolve(boxed, model=DETECTOR)
    assert choices(form["targets"]) == [
        "predicted", "classes", "boxes", "missed", "fn", "fp", "tp"
    ]  # fmt: skip
    assert form["targets"].view.choices[0].label == "Its own detections"
    assert (form["object_maps"].type.min, form["object_maps"].type.max) == (0, 5)
    label, code = said(form)
    assert label == "1 heatmap field over 2 samples: run_layercam"
    assert "object_maps" not in code
    # other models have none, and what was chosen of a detector is not sent on with them
    assert "object_maps" not in resolve(boxed)
    assert "choose what to explain" in problem(resolve(boxed, targets="boxes"))
    assert "only detectors have objects" in problem(resolve(boxed, object_maps=2))
    assert "choose what" in problem(resolve(boxed, model=DETECTOR, targets="contrast"))


def test_a_model_of_unknown_kind_is_asked_both(boxed, registered):
    form = resolve(boxed, model=registered)
    assert choices(form["targets"]) == [
        "predicted", "top_2", "top_3", "label", "contrast", "classes", "boxes", "missed", "fn", "fp",
        "tp",
    ]  # fmt: skip
    assert form["targets"].view.choices[6].label == "Detector: The boxes of a field"
    given = {"targets": "missed", "object_field": "found", "object_maps": 1}
    assert "run_gradcam" in said(resolve(boxed, model=registered, **given))[0]


@pytest.mark.parametrize("chosen", ["boxes", "missed"])
def test_objects_of_a_field(boxed, chosen):
    form = resolve(boxed, model=DETECTOR, targets=chosen)
    assert choices(form["object_field"]) == ["ground_truth", "found"]
    assert problem(form) == "choose one"
    form = resolve(boxed, model=DETECTOR, targets=chosen, object_field="ground_truth")
    assert form["mapped"].view.label == "2 of 3 labels are classes of the model"
    assert "'unicorn'" in form["mapped"].view.description
    label, code = said(form)
    assert label.endswith("run_layercam")
    key = {"boxes": "field", "missed": "missed"}[chosen]
    assert f"    targets={{'{key}': 'ground_truth'}},\n" in code
    gone = resolve(boxed, model=DETECTOR, targets=chosen, object_field="gone")
    assert problem(gone) == "the dataset has no 'gone'; choose another"


def test_a_dataset_without_boxes(dataset):
    form = resolve(dataset, model=DETECTOR, targets="boxes")
    assert problem(form) == "the dataset has no Detections field"
    form = resolve(dataset, model=DETECTOR, targets="fn")
    assert "dataset.evaluate_detections(..., eval_key=...)" in problem(form)


@pytest.mark.parametrize("which", ["fn", "fp", "tp"])
def test_objects_of_an_evaluation(boxed, which):
    form = resolve(boxed, model=DETECTOR, targets=which)
    assert choices(form["evaluation"]) == ["ev"]
    assert problem(form) == "choose one"
    form = resolve(boxed, model=DETECTOR, targets=which, evaluation="ev", object_maps=2)
    label, code = said(form)
    assert label == (
        "3 heatmap fields over 2 samples: run_layercam, run_layercam_object1, run_layercam_object2"
    )
    assert f"targets={{'eval': 'ev', 'which': '{which}'}}" in code
    assert "object_maps=2" in code
    known = {"fn": "2 of 3", "fp": "2 of 2", "tp": "2 of 2"}[which]
    assert form["mapped"].view.label.startswith(known)
    too_many = resolve(boxed, model=DETECTOR, targets=which, evaluation="ev", object_maps=9)
    assert "a number from 0 to 5" in problem(too_many)
    boxed.delete_sample_fields(["ground_truth.detections.ev", "found.detections.ev"])
    form = resolve(boxed, model=DETECTOR, targets=which, evaluation="ev")
    assert "have no outcomes of the evaluation 'ev'; evaluate again" in problem(form)


def test_only_some_classes_of_them(boxed):
    given = {"model": DETECTOR, "targets": "missed", "object_field": "ground_truth"}
    _, code = said(resolve(boxed, **given, object_classes=["cat", "dog"]))
    assert "targets={'missed': 'ground_truth', 'classes': ['cat', 'dog']}" in code
    wrong = resolve(boxed, **given, object_classes="cat; zebbra")
    assert "no class 'zebbra'; did you mean zebra" in problem(wrong)
    own = resolve(boxed, model=DETECTOR, targets="classes", class_names=["cat"])
    assert "targets=['cat']" in said(own)[1]
    none = resolve(boxed, model=DETECTOR, targets="classes")
    assert problem(none) == "name at least one class"


def test_a_label_of_a_box_means_one_class(boxed):
    given = {"model": DETECTOR, "targets": "boxes", "object_field": "ground_truth"}
    mapped = resolve(boxed, **given, class_map="unicorn = horse")
    assert mapped["mapped"].view.label == "3 of 3 labels are classes of the model"
    assert "class_map={'unicorn': ['horse']}" in said(mapped)[1]
    several = resolve(boxed, **given, class_map="unicorn = horse; zebra")
    assert "map 'unicorn' to one class" in problem(several)


def test_objects_become_arguments(forms):
    given = forms.given_targets
    field = {"targets": "boxes", "object_field": "truth"}
    assert given(field) == {"targets": {"field": "truth"}}
    assert given({**field, "object_classes": "cat; dog"}) == {
        "targets": {"field": "truth", "classes": ["cat", "dog"]}
    }
    assert given({**field, "evaluation": "ev", "targets": "fp"}) == {
        "targets": {"eval": "ev", "which": "fp"}
    }
    assert given({"targets": "missed"}) == {}
    # what was typed for objects is not sent on with the model's own
    assert given({**field, "targets": "predicted", "object_classes": "cat"}) == {
        "targets": "predicted"
    }


@pytest.mark.parametrize(
    "targets",
    [
        {"field": "ground_truth", "classes": ["cat"], "most": 3}, {"missed": "ground_truth"},
        {"eval": "ev", "which": "fn"}, {"classes": ["cat", "dog"], "min_iou": 0.3},
    ],
)  # fmt: skip
def test_objects_on_their_way_into_a_queue(plugin, targets):
    forms = inner("forms.compute")
    sent = forms.params_of({"model": DETECTOR, "targets": targets, "object_maps": 3})
    arguments = forms.arguments_of(sent)
    assert (arguments["targets"], arguments["object_maps"]) == (targets, 3)
    assert "object_maps" not in forms.arguments_of(forms.params_of({"object_maps": 0}))


@pytest.mark.parametrize(
    "targets",
    ["ground_truth", ("missed", "ground_truth"), {"field": "ground_truth", "classes": ["light"]}],
)
def test_a_queue_runs_a_detector(make_dataset, tmp_path, registered, targets):
    """``delegate=True`` gives what the call gives."""
    from detectors_common import cell, labels, picture
    from fiftyone.operators.delegated import DelegatedOperationService

    path = picture(tmp_path / "a.png", {(0, 0): 1.0, (1, 3): 0.3})
    truth = labels(("light", cell(0, 0)), ("light", cell(1, 3)), ("light", cell(1, 0)))
    dataset = make_dataset(fo.Sample(filepath=path, ground_truth=truth))
    given = {"methods": "layercam", "targets": targets, "object_maps": 2}
    operator()(dataset, registered, cam_key="now", progress=False, num_workers=0, **given)
    operator()(dataset, registered, cam_key="later", num_workers=0, delegate=True, **given)
    service = DelegatedOperationService()
    service.execute_queued_operations(operator="@cam51/heatmaps/compute_cams", limit=1)
    dataset.reload()
    schema = dataset.get_field_schema()
    assert {"later_layercam", "later_layercam_object1", "later_layercam_object2"} <= set(schema)
    for name in ("status", "score", "in_box"):
        now, later = (
            dataset.values(f"ground_truth.detections.{key}_{name}") for key in ("now", "later")
        )
        assert now == later
    assert any(dataset.values("ground_truth.detections.now_score")[0])


def test_a_queue_takes_a_field_by_its_name_alone(dataset, forms):
    """A zoo model's class names are known; what is no class may be a label field."""
    form = resolve(dataset, **forms.target_params("truth"))
    assert problem(form) is None
    assert forms.given_targets(forms.target_params("truth")) == {"targets": ["truth"]}
