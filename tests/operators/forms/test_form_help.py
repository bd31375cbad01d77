"""What a form helps with: layers that it knows, errors in its own words, and being opened again."""

import ast
import importlib
import re

import fiftyone.operators as foo
import fiftyone.operators.executor as executor
import pytest
from operators_common import CLASSES, PLUGIN, compute, operator, small_network, transforms
from processes_common import ROOT
from videos_common import video_samples

pytestmark = pytest.mark.usefixtures("plugin")
ZOO_MODEL = "resnet18-imagenet-torch"
NAMED = "operators_common:loaded_by_name"
ROOM = ROOT / "operators"


def part(name):
    foo.get_operator("@cam51/heatmaps/compute_cams")
    return importlib.import_module(f"{PLUGIN}.operators.{name}")


def context(dataset, params):
    request = {"dataset_name": dataset.name, "params": params}
    return executor.ExecutionContext(request, executor=executor.Executor())


def resolve(dataset, name="compute_cams", **params):
    """The form as the App gets it."""
    return operator(name).resolve_input(context(dataset, params)).type.properties


@pytest.fixture
def named(monkeypatch):
    """A model that the server allows by the name of its function; nothing is known of it yet."""
    import operators_common

    def loaded_by_name():
        return small_network(), transforms(), CLASSES

    monkeypatch.setattr(operators_common, "loaded_by_name", loaded_by_name, raising=False)
    monkeypatch.setenv("CAM51_ALLOWED_MODELS", NAMED)
    seen = part("models.preview")._SEEN
    seen.pop(NAMED, None)
    yield NAMED
    seen.pop(NAMED, None)


def test_what_a_loaded_model_told_is_in_the_form(photo_dataset, named):
    dataset = photo_dataset(2)
    form = resolve(dataset, model=named, layers=["layr4"])
    assert not form["layers"].view.choices
    assert not form["layers"].invalid, (
        "its layers are not known, and nothing is loaded to know them"
    )
    assert "the last layer with a spatial map" in form["layers"].view.description

    with pytest.raises(ValueError, match="no layer 'layr4'; did you mean layer4.*list_layers"):
        compute(dataset, model=named, layers=["layr4"])
    form = resolve(dataset, model=named, layers=["layr4"])
    assert "did you mean layer4" in form["layers"].error_message
    assert "layer3.0.conv1" in [choice.value for choice in form["layers"].view.choices]
    assert "notice" not in form
    named_classes = resolve(dataset, model=named, targets="classes")["class_names"]
    assert [choice.value for choice in named_classes.view.choices] == CLASSES

    compute(dataset, model=named)
    form = resolve(dataset, model=named)
    assert form["layers"].view.description.endswith("default of this network, layer4")


def test_a_default_that_a_run_found_is_named(photo_dataset, named):
    outlines = part("models.preview")
    part("models.load").load_model(named)
    outlines._SEEN[named].default = None
    assert outlines.layers_of(named)[1] is None
    outlines.remember_default(named, ["layer3"])
    assert outlines.layers_of(named)[1] == "layer3"
    outlines._SEEN[named].stamp = "another model by now"
    assert outlines.layers_of(named) == ([], None)


def test_a_name_that_is_like_no_layer(photo_dataset):
    with pytest.raises(ValueError, match=r"'zzz'; it has conv1, bn1, .* inside them \(list_layers"):
        compute(photo_dataset(1), layers=["zzz"])


def test_objects_are_asked_of_what_may_be_a_detector(photo_dataset, named):
    dataset = photo_dataset(1)
    assert "object_maps" not in resolve(dataset, model=named)
    assert "object_maps" in resolve(dataset, model=named, targets="boxes")
    assert "object_maps" in resolve(dataset, model=named, advanced=True)
    part("models.load").load_model(named)  # a classifier
    assert "object_maps" not in resolve(dataset, model=named, advanced=True)


def test_what_to_do_with_an_earlier_run_is_asked_below_its_key(photo_dataset):
    dataset = photo_dataset(2)
    compute(dataset)
    free = resolve(dataset, model=ZOO_MODEL, cam_key="free", advanced=True)
    assert not {"overwrite", "resume"} & set(free)
    form = resolve(dataset, model=ZOO_MODEL, cam_key="run")
    assert form["cam_key"].error_message.startswith("Key: 'run' is already a CAM run")
    assert 'switch on "Resume this run" to add' in form["cam_key"].error_message
    assert 'switch on "Overwrite" to delete' in form["cam_key"].error_message
    assert {"overwrite", "resume"} <= set(form)
    assert not resolve(dataset, model=ZOO_MODEL, cam_key="run", overwrite=True)["cam_key"].invalid
    # of another operator's new run, the advice would be wrong
    bias = resolve(
        dataset, "find_background_bias", cam_key="a new run", model=ZOO_MODEL, new_key="run"
    )
    assert bias["new_key"].error_message == (
        "Key: 'run' is already a run of this dataset; choose another key"
    )


def sent(dataset, **params):
    """What the App gets from a run that is executed from the form, up to the error."""
    op, ctx, messages = operator("compute_cams"), context(dataset, params), []
    with pytest.raises(ValueError):
        for message in op.messages(ctx):
            messages.append(message)
    return [(m.body.operator_uri, m.body.params) for m in messages]


def test_input_that_cannot_run_opens_the_form_again_as_it_was(photo_dataset, named):
    filled = {"model": named, "layers": ["layr4"], "cam_key": "mine"}
    (bar, _), (_, said), (_, ended), (uri, params) = sent(photo_dataset(1), **filled)
    assert bar.endswith("set_progress")
    assert ended["label"] == f"Not started: {said['message']}"
    assert said["message"].startswith("Layers: the model has no layer 'layr4'; did you mean")
    assert (uri, params) == ("@cam51/heatmaps/reopen_compute_cams", {"filled": filled})


def test_the_form_is_opened_with_what_was_filled_in(photo_dataset, monkeypatch):
    monkeypatch.setattr(part("compute_cams"), "_CLOSES_SECONDS", 0)
    ctx = context(photo_dataset(1), {"filled": {"cam_key": "mine"}})
    operator("reopen_compute_cams").execute(ctx)
    (request,) = ctx.executor._requests
    assert request.params["operator_uri"] == "@cam51/heatmaps/compute_cams"
    assert request.params["params"] == {"cam_key": "mine"}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("cam_key: 'run' is taken; pass overwrite=True to go", 'Key: \'run\' is taken; switch on "Overwrite" to go'),
        ("it stops: call again with resume=True", 'it stops: call again with "Resume this run" switched on'),
        ("Use storage='disk', a smaller heatmap_size", 'Set "Storage" to disk, a smaller "Heatmap size"'),
        ("max_fields: more than 12; pass max_fields=14",
         'Most new fields: more than 12; set "Most new fields" to 14'),
        ("cam_key must be a name, got 'cam_key'", '"Key" must be a name, got \'cam_key\''),
        ("x (class_map= says which)", 'x ("My names for the classes" says which)'),
        ("give labels=['a'] or seed=3", "give labels=['a'] or seed=3"),
        ("the layers are many", "the layers are many"),
    ],
)  # fmt: skip
def test_arguments_become_fields(message, said):
    assert part("forms.messages").in_app(message, "compute_cams") == said


def labels(dataset, name, *fillings):
    forms = [resolve(dataset, name, **params) for params in fillings]
    return {getattr(prop.view, "label", None) for form in forms for prop in form.values()}


def test_every_field_that_a_message_names_is_in_the_form(
    photo_dataset, make_dataset, tmp_path, monkeypatch
):
    words = part("forms.messages").LABELS
    dataset = photo_dataset(2)
    compute(dataset)
    compute(dataset, cam_key="other")
    monkeypatch.setattr(part("compute.recorded_model"), "is_reloadable", lambda used: True)
    new = {"cam_key": "a new run", "model": ZOO_MODEL}
    filled = {
        "compute_cams": [
            {"model": ZOO_MODEL, "advanced": True, "storage": "disk", "targets": "label",
             "layers": ["layer3", "layer4"], "overwrite": True},
            {"model": "clip-vit-base32-torch"},
            {"model": "faster-rcnn-resnet50-fpn-coco-torch"},
        ],
        "rerun_cams": [{"resume": False}],
        "compare_cams": [{}, {"what": "models"}],
        "find_background_bias": [new, {**new, "model": "clip-vit-base32-torch"}],
        "test_region": [new, {**new, "model": "clip-vit-base32-torch"}],
        "heat_to_detections": [{}],
    }  # fmt: skip
    assert set(filled) == set(words)
    of_videos = labels(make_dataset(*video_samples(tmp_path / "v", 2)), "compute_cams", new)
    assert "Every n-th frame" in of_videos - labels(dataset, "compute_cams", new)
    for name, fillings in filled.items():
        drawn = labels(dataset, name, *fillings)
        drawn |= of_videos if name == "compute_cams" else set()
        assert not set(words[name].values()) - drawn, name


def test_every_switch_that_a_message_names_has_a_field():
    known = {name for labels in part("forms.messages").LABELS.values() for name in labels}
    # to be scheduled is asked for beside Execute, not in a form; a model is registered from Python
    only_python = {"delegate"}
    named = set()
    for path in ROOM.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise):
                for text in ast.walk(node):
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        named |= set(re.findall(r"\b([a-z_]+)=(?:True|False)", text.value))
    assert {"overwrite", "resume"} <= named
    assert named <= known | only_python
