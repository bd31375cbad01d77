"""The zoo read off its manifest: what can be explained, why the rest cannot, what this machine allows."""

import importlib
import json
import socket
import types
from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import pytest
from fiftyone.operators.executor import ExecutionError
from operators_common import PLUGIN, operator
from processes_common import TESTS, run_python

pytestmark = pytest.mark.usefixtures("plugin")


def part(name):
    return importlib.import_module(f"{PLUGIN}.operators.{name}")


@pytest.fixture
def zoo():
    module = part("models.zoo")
    yield module
    module._entries.cache_clear()
    module._supported.cache_clear()


@pytest.fixture
def no_network(monkeypatch):
    def refused(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


# Written down by hand, one of each wrapper.
KINDS = {
    "resnet18-imagenet-torch": "classifier",
    "vit-base-patch16-224-imagenet-torch": "classifier",
    "swin-v2-tiny-torch": "classifier",
    "yolo26n-cls-imagenet-torch": "classifier",
    "clip-vit-base32-torch": "zero-shot classifier",
    "open-clip-torch": "zero-shot classifier",
    "siglip-base-patch16-224-torch": "zero-shot classifier",
    "group-vit-segmentation-transformer-torch": "zero-shot classifier",
    "deeplabv3-resnet50-coco-torch": "segmentation network",
    "segformer-b0-ade20k-torch": "segmentation network",
    "mask2former-swin-tiny-coco-instance-torch": "segmentation network",
    "oneformer-coco-swin-large-panoptic-torch": "segmentation network",
    "faster-rcnn-resnet50-fpn-coco-torch": "detector",
    "keypoint-rcnn-resnet50-fpn-coco-torch": "detector",
    "yolov8n-seg-coco-torch": "detector",
    "yolo26n-pose-coco-torch": "detector",
    "yolov8n-obb-dotav1-torch": "detector",
    "rtdetr-l-coco-torch": "detector",
    "dfine-nano-coco-torch": "detector",
    "dinov2-vits14-reg-torch": "embedding network",
    "dinov3-vits16-torch": "embedding network",
}
REASONS = {
    "segment-anything-vitb-torch": "has no scores of classes",
    "segment-anything-2-hiera-tiny-video-torch": "it is a video model",
    "depth-anything-v2-small-torch": "it yields depth",
    "depth-anything-v3-base-torch": "it yields depth",
    "vitpose-base-torch": "it yields keypoints",
    "qwen3-vl-2b-instruct-torch": "it is a language model that writes text",
    "apple-sharp-torch": "it yields a 3D scene",
    "paddle-ocr-v6-tiny-torch": "no PyTorch module",
    "yolo-v2-coco-tf1": "it is a TensorFlow model",
    "twelvelabs-pegasus1.2": "it is a video model",
}


@pytest.mark.parametrize("name", KINDS)
def test_what_an_entry_yields(zoo, name):
    assert zoo.kind_of(zoo.entry(name)) == KINDS[name]
    assert zoo.refusal(zoo.entry(name), here=False) is None


@pytest.mark.parametrize("name", REASONS)
def test_why_an_entry_cannot_be_explained(zoo, name):
    assert REASONS[name] in zoo.refusal(zoo.entry(name))
    with pytest.raises(ValueError, match=f"{name}' cannot be explained: "):
        zoo.check(name)


def test_every_entry_is_judged_in_one_sentence(zoo):
    assert len(zoo.entries()) > 300
    for name, model in zoo.entries().items():
        reason = zoo.refusal(model, here=False)
        assert (reason is None) == (zoo.kind_of(model) is not None) or zoo.kind_of(
            model
        ) == "detector"
        assert reason is None or ("\n" not in reason and len(reason) < 120), name
        assert reason is None or "makes of it" not in reason, f"{name} is not known: {reason}"


def test_judging_the_zoo_loads_nothing(zoo, monkeypatch):
    import fiftyone.zoo as foz

    monkeypatch.setattr(foz, "load_zoo_model", lambda *a, **k: pytest.fail("loaded"))
    assert "resnet50-imagenet-torch" in zoo.supported()


def test_misspelt_name(zoo):
    with pytest.raises(ValueError, match="did you mean resnet18-imagenet-torch"):
        zoo.check("resnet18-imagnet-torch")
    with pytest.raises(ValueError, match="choose from"):
        zoo.check("zzzzzz")


def test_names_that_the_server_allows(zoo, monkeypatch):
    monkeypatch.setenv(zoo.NAMES_VARIABLE, "resnet18-imagenet-torch, vgg16-imagenet-torch")
    assert zoo.supported() == ["resnet18-imagenet-torch", "vgg16-imagenet-torch"]
    with pytest.raises(ValueError, match="FIFTYONE_ZOO_ALLOWED_MODEL_NAMES lists; add it there"):
        zoo.check("resnet50-imagenet-torch")
    monkeypatch.delenv(zoo.NAMES_VARIABLE)
    zoo.check("resnet50-imagenet-torch")


def test_licenses_that_the_server_allows(zoo, monkeypatch):
    resnet = zoo.entry("resnet18-imagenet-torch")
    yolo = zoo.entry("yolov8n-coco-torch")
    assert resnet.license != yolo.license
    monkeypatch.setenv(zoo.LICENSES_VARIABLE, f"Nobody's,{resnet.license}")
    assert "resnet18-imagenet-torch" in zoo.supported()
    assert "yolov8n-coco-torch" not in zoo.supported()
    with pytest.raises(ValueError, match="FIFTYONE_ZOO_ALLOWED_MODEL_LICENSES"):
        zoo.check("yolov8n-coco-torch")


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        (["torch", "torchvision"], []),
        (["torch>=1.7.0"], []),
        (["torch>=99"], ["torch>=99"]),
        (["no-such-package-here"], ["no-such-package-here"]),
        (
            ["clipx @ git+https://example.org/clipx.git"],
            ["clipx @ git+https://example.org/clipx.git"],
        ),
        (None, []),
    ],
)
def test_packages_that_are_missing(zoo, packages, expected):
    model = types.SimpleNamespace(requirements=types.SimpleNamespace(packages=packages))
    assert zoo.missing_packages(model) == expected


def test_missing_package_is_named_with_its_command(zoo, monkeypatch):
    monkeypatch.setattr(zoo, "_installed", lambda package: package == "torch")
    reason = zoo.refusal(zoo.entry("siglip-base-patch16-224-torch"))
    assert reason.endswith("pip install torchvision 'transformers>=4.51'")
    assert "siglip-base-patch16-224-torch" not in zoo.supported()


@pytest.mark.parametrize(
    "name",
    ["resnet34-imagenet-torch", "convnext-tiny-224-torch", "clip-vit-base32-torch",
     "dinov2-vits14-torch"],
)  # fmt: skip
def test_offline_is_said(zoo, name, no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ValueError, match=f"the weights of '{name}' are not on this machine and could not"
    ) as said:
        part("models.load").load_model(name)
    assert "copy the files, or register a model" in str(said.value)


def test_long_reasons_end_at_a_word(zoo):
    ends = r"\(ConnectionError: no network word( word)+ \.\.\.\)$"
    with pytest.raises(ValueError, match=ends), zoo.readable_errors("some-model"):
        raise ConnectionError("no network " + "word " * 80)


def test_broken_weights_are_said(zoo):
    class Broken(Exception):
        pass

    with (
        pytest.raises(ValueError, match="'mine' could not be loaded: Broken: half a file"),
        zoo.readable_errors("mine"),
    ):
        raise Broken("half a\nfile")
    with pytest.raises(KeyboardInterrupt), zoo.readable_errors("mine"):
        raise KeyboardInterrupt


def test_remote_source_is_taken_by_name(zoo, tmp_path, monkeypatch, photo_dataset):
    """A source registered on the server: its code is there already, its models are named in the App."""
    folder = Path(fo.config.model_zoo_dir) / "tests" / "remote"
    folder.mkdir(parents=True)
    manifest = {
        "name": "tests/remote",
        "url": "https://example.org/tests/remote",
        "models": [
            {"base_name": "tests/tiny", "base_filename": "tiny.pt", "tags": ["classification"]}
        ],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "tiny.pt").write_text("its weights")
    (folder / "__init__.py").write_text(REMOTE.format(tests=str(TESTS)))
    zoo._entries.cache_clear()
    zoo._supported.cache_clear()
    try:
        assert zoo.kind_of(zoo.entry("tests/tiny")) == "unknown"
        assert "tests/tiny" in zoo.supported()
        summary = operator()(photo_dataset(1), "tests/tiny", progress=False)
        assert (summary.done, summary.settings["model_source"]) == (1, "zoo")
    finally:
        import shutil

        shutil.rmtree(folder.parent)


REMOTE = """
import sys; sys.path.insert(0, {tests!r})

def load_model(model_name, model_path, **kwargs):
    import fiftyone.utils.torch as fout
    from operators_common import CLASSES, small_network, transforms
    return fout.TorchImageModel(fout.TorchImageModelConfig(dict(
        model=small_network(), classes=CLASSES, transforms=transforms(), ragged_batches=False,
        output_processor_cls="fiftyone.utils.torch.ClassifierOutputProcessor", **kwargs)))
"""


OUTLINES = {
    "resnet18-imagenet-torch": ("gradcam", "layer4"),
    "deeplabv3-resnet50-coco-torch": ("layercam", None),
    "timm:vit_tiny_patch16_224": ("gradcam_elementwise", None),
    "torchvision:vit_b_16": ("gradcam_elementwise", "encoder.layers.encoder_layer_11.ln_1"),
    "torchvision:fcn_resnet50": ("layercam", None),
}


@pytest.mark.parametrize("name", OUTLINES)
def test_outline_without_weights(name, no_network):
    outlines = part("models.preview")
    method, layer = OUTLINES[name]
    names, default = outlines.layers_of(name)
    assert (outlines.default_method(name), default) == (method, layer)
    assert len(names) > 20


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("hf:somebody/never-downloaded", "gradcam_elementwise"),
        ("hf:somebody/convnext-never-downloaded", "gradcam"),
        ("swin-v2-tiny-torch", "gradcam_elementwise"),
        ("efficientnet-b0-imagenet-torch", "gradcam"),
        ("segformer-b0-ade20k-torch", "layercam"),
        ("yolo26n-cls-imagenet-torch", "gradcam"),
    ],
)
def test_default_method_where_nothing_is_downloaded(name, method, no_network, monkeypatch):
    outlines = part("models.preview")
    monkeypatch.setattr(outlines, "_SEEN", {})  # what other tests loaded
    assert outlines.default_method(name) == method
    assert outlines.layers_of(name) == ([], None)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("resnet50-imagenet-torch", "resnet50"),
        ("hf:google/vit-base-patch16-224", "vit_base_patch16_224"),
        ("timm:resnet50@/models/best one.safetensors", "resnet50"),
        ("birds.models:best", "best"),
        ("My birds", "my_birds"),
    ],
)
def test_default_key(name, key):
    assert part("models.load").default_key(name) == key


def form(dataset, **params):
    from fiftyone.operators.executor import ExecutionContext

    ctx = ExecutionContext(request_params={"dataset_name": dataset.name, "params": params})
    made = part("forms.compute").compute_cams_form(ctx)
    return made.type.properties


def test_form_offers_the_zoo(photo_dataset):
    names = [c.value for c in form(photo_dataset(1))["model"].view.choices]
    assert {"resnet18-imagenet-torch", "deeplabv3-resnet50-coco-torch"} <= set(names)
    assert "depth-anything-v2-small-torch" not in names
    assert names[-1] == part("forms.model").OTHER


def test_form_takes_another_name(photo_dataset):
    dataset, other = photo_dataset(1), part("forms.model").OTHER
    refused = form(dataset, model=other, other_model="os:system")["other_model"]
    assert refused.invalid
    assert "CAM51_ALLOWED_MODELS='os:system'" in refused.error_message
    named = form(dataset, model=other, other_model="timm:resnet18")
    assert not named["other_model"].invalid
    assert "resnet18" in named["cam_key"].default
    assert part("forms.compute").arguments_of(
        {"model": other, "other_model": " timm:resnet18 "}
    ) == {"model": "timm:resnet18"}


def test_form_offers_what_the_list_of_allowed_models_names(photo_dataset, zoo, monkeypatch):
    dataset, other = photo_dataset(1), part("forms.model").OTHER
    monkeypatch.setenv(
        zoo.NAMES_VARIABLE, "resnet18-imagenet-torch,timm:resnet18,torchvision:x/../y"
    )
    offered = [c.value for c in form(dataset)["model"].view.choices]
    assert "timm:resnet18" in offered
    assert "resnet18-imagenet-torch" in offered
    assert not {other, "resnet50-imagenet-torch", "torchvision:x/../y"} & set(offered)
    refused = form(dataset, model=other, other_model="timm:resnet50")["other_model"]
    assert refused.invalid
    assert zoo.NAMES_VARIABLE in refused.error_message
    # out of a queue it comes as a choice that the form offers
    assert part("forms.compute").params_of({"model": "timm:resnet18"})["model"] == "timm:resnet18"


def test_form_takes_no_path_and_no_address(photo_dataset, tmp_path):
    dataset, other = photo_dataset(1), part("forms.model").OTHER
    for name, said in (
        (f"hf:{tmp_path}", "from the App only files in FiftyOne's folder of models"),
        ("hf:http://127.0.0.1/net", "addresses are not fetched"),
    ):
        refused = form(dataset, model=other, other_model=name)["other_model"]
        assert refused.invalid
        assert said in refused.error_message
        with pytest.raises(ExecutionError, match=said):
            foo.execute_operator(
                "@cam51/heatmaps/compute_cams", {"dataset": dataset},
                params={"model": other, "other_model": name, "cam_key": "x"},
            )  # fmt: skip
    assert not dataset.list_runs()


def test_form_takes_a_name_that_is_typed(photo_dataset):
    """A program gives it: of hundreds of choices it is told a few."""
    dataset = photo_dataset(1)
    typed = form(dataset, model="timm:resnet18")
    assert not typed["model"].invalid
    assert "resnet18" in typed["cam_key"].default
    near = form(dataset, model="resnet-18-imagenet-torch")["model"]
    assert near.invalid
    assert "did you mean resnet18-imagenet-torch" in near.error_message
    assert (
        part("forms.compute").arguments_of({"model": " timm:resnet18"})["model"] == "timm:resnet18"
    )


def test_form_asks_what_to_look_for(photo_dataset):
    asked = form(photo_dataset(1), model="siglip-base-patch16-224-torch", classes="a cat; dog;")
    assert "classes" in asked
    arguments = part("forms.compute").arguments_of(
        {"model": "siglip-base-patch16-224-torch", "classes": "a cat; dog;"}
    )
    assert arguments["classes"] == ["a cat", "dog"]


def test_form_says_that_an_embedding_has_no_classes(photo_dataset):
    warning = form(photo_dataset(1), model="dinov3-vits16-torch")["no_classes"]
    assert warning.invalid
    assert '{"like": sample_id}' in warning.error_message


def test_names_and_prompts_go_into_a_queue_and_back():
    forms = part("forms.compute")
    given = {"model": "timm:resnet18", "classes": ["a", "b c"], "targets": "predicted"}
    back = forms.arguments_of(forms.params_of(given))
    assert {k: back[k] for k in given} == given
    with pytest.raises(ValueError, match="classes cannot be sent to another process"):
        forms.params_of({"model": "timm:resnet18", "classes": ["a; b"]})


def test_app_is_told_why(photo_dataset):
    params = {"model": "depth-anything-v2-small-torch"}
    with pytest.raises(foo.executor.ExecutionError):
        foo.execute_operator(
            "@cam51/heatmaps/compute_cams", ctx={"dataset": photo_dataset(1), "params": params}
        )
    with pytest.raises(ValueError, match="it yields depth"):
        operator()(photo_dataset(1), model="depth-anything-v2-small-torch")


LISTED = """
import importlib, sys
import fiftyone.operators as foo

foo.get_operator("@cam51/heatmaps/compute_cams")
zoo = importlib.import_module("fiftyone.plugins.orgs.cam51.heatmaps.operators.models.zoo")
print(len(zoo.supported()) > 50, "torch" in sys.modules)
"""


def test_listing_the_models_imports_no_torch():
    """A form that names them would stay empty for seconds, in a server that was just started."""
    assert run_python(LISTED).splitlines()[-1] == "True False"


def test_every_detector_of_the_zoo_has_an_adapter(zoo):
    from cam_core.adapters.adapt import FAMILIES

    assert set(zoo.DETECTORS.values()) <= {family.__name__ for family in FAMILIES}
