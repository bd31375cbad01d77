"""What is explained is what FiftyOne predicts with: scores against ``predict``, family by family."""

import importlib
from pathlib import Path

import fiftyone as fo
import models_common as nets
import numpy as np
import pytest
import torch
import torchvision
import torchvision.transforms as T
from operators_common import CLASSES, PLUGIN, operator, small_network, transforms
from PIL import Image
from torch import nn

pytestmark = pytest.mark.usefixtures("plugin")


def part(name):
    return importlib.import_module(f"{PLUGIN}.operators.{name}")


@pytest.fixture(scope="module", autouse=True)
def offline():
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def picture(photos):
    return Image.open(photos[0]["path"]).convert("RGB")


def scores(loaded, picture):
    """(classes,) probabilities, from what the loader's transforms return."""
    images = loaded.transforms(picture)[None]
    with torch.no_grad():
        return loaded.adapted.probabilities(loaded.adapted.forward(images))[0]


def through_explain(loaded, picture):
    """The engine of the plugin's own cam_core on the model, three methods."""
    explain = importlib.import_module(f"{PLUGIN}.cam_core").explain
    images = loaded.transforms(picture)[None]
    return explain(loaded.adapted, images, methods=["gradcam", "layercam", "hirescam"])


def flags(module):
    return (
        [m.training for m in module.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()],
        [p.requires_grad for p in module.parameters()],
        {k: v.clone() for k, v in module.state_dict().items()},
    )


def same(before, after):
    return before[:3] == after[:3] and all(
        torch.equal(v, after[3][k]) for k, v in before[3].items()
    )


HUB = {
    "vit": (nets.vit, "classification-transformer-torch"),
    "convnext": (nets.convnext, "classification-transformer-torch"),
    "clip": (nets.clip, "zero-shot-classification-transformer-torch"),
    "siglip": (nets.siglip, "siglip-base-patch16-224-torch"),
}


@pytest.mark.parametrize("family", HUB)
def test_hugging_face_classifiers_see_what_predict_sees(family, tmp_path, picture):
    make, entry = HUB[family]
    options = {} if family in ("vit", "convnext") else {"classes": ["a cat", "dog", "horse"]}
    model = part("models.zoo").load(entry, name_or_path=make(tmp_path), **options)
    expected = model.predict(picture)
    loaded = part("models.load").load_model(model)
    found = scores(loaded, picture)
    assert loaded.label(int(found.argmax())) == expected.label
    # FiftyOne takes the softmax of whatever a model returns.
    logits = loaded.adapted.logits(loaded.adapted.forward(loaded.transforms(picture)[None]))[0]
    assert float(logits.detach().softmax(0).max()) == pytest.approx(
        float(expected.confidence), abs=1e-5
    )
    assert (
        logits.detach().softmax(0).std() > 1e-4
    )  # classes differ: an equal score would prove nothing
    before = flags(loaded.module)
    result = through_explain(loaded, picture)
    assert all(status == [["ok"]] for status in result.status().values())
    assert same(before, flags(loaded.module))


def test_prompts_are_encoded_once_and_named_by_class(tmp_path, picture):
    model = part("models.zoo").load(
        "zero-shot-classification-transformer-torch", name_or_path=nets.clip(tmp_path)
    )
    with pytest.raises(ValueError, match="classes: this model finds what it is asked for in words"):
        part("models.load").load_model(model)  # LABEL_0 and LABEL_1 are nothing to look for
    plain = part("models.load").load_model(model, classes=["cat", "dog"])
    prompts = {"pet": ["a photo of cat", "a photo of dog"], "other": "horse"}
    named = part("models.load").load_model(model, classes=prompts)
    assert (plain.classes, named.classes) == (["cat", "dog"], ["pet", "other"])
    with torch.no_grad():
        tokens = model.transforms.processor(text=prompts["pet"], padding=True, return_tensors="pt")
        pet = nn.functional.normalize(model._model.get_text_features(**tokens).pooler_output, dim=1)
        expected = nn.functional.normalize(pet.mean(0), dim=0)
    torch.testing.assert_close(named.adapted.text_features[0], expected, atol=1e-5, rtol=1e-5)
    calls = []
    handle = model._model.text_model.register_forward_hook(lambda *a: calls.append(1))
    scores(plain, picture)
    handle.remove()
    assert calls == []


def test_text_prompt_of_the_model_goes_before_the_classes():
    class Wrapper:
        classes = ["cat"]
        config = type(
            "Config", (), {"text_prompt": "A photo of", "class_prompts": {"dog": "my dog"}}
        )

    prompts_of = part("models.unwrap").prompts_of
    assert prompts_of(Wrapper()) == {"cat": ["A photo of cat"]}
    assert prompts_of(Wrapper(), ["dog"]) == {"dog": ["A photo of my dog"]}


def test_semantic_segmentation_is_aligned_by_index(tmp_path, picture):
    model = part("models.zoo").load(
        "segmentation-transformer-torch", name_or_path=nets.segformer(tmp_path)
    )
    mask = model.predict(picture).mask  # FiftyOne counts from 1
    loaded = part("models.load").load_model(model)
    assert loaded.classes == ["wall", "sky", "tree", "road", "bed"]
    assert loaded.adapted.background is None  # a wall is no background
    outputs = loaded.adapted.forward(loaded.transforms(picture)[None])
    areas = loaded.adapted.candidates(outputs)[0]
    assert areas.tolist() == [int((mask == i + 1).sum()) for i in range(5)]
    result = through_explain(loaded, picture)
    assert result.targets[0, 0] == areas.argmax()
    assert all(status[0][0] == "ok" for status in result.status().values())


def test_universal_segmentation_scores_are_those_of_its_own_processor(tmp_path, picture):
    model = part("models.zoo").load(
        "universal-segmentation-transformer-torch",
        name_or_path=nets.mask2former(tmp_path),
        task="semantic",
    )
    loaded = part("models.load").load_model(model)
    images = loaded.transforms(picture)[None]
    with torch.no_grad():
        pixels = loaded.adapted.forward(images)["logits"]
        size = tuple(pixels.shape[-2:])
        processed = model.transforms.processor.post_process_semantic_segmentation(
            model._model(pixel_values=images), target_sizes=[size]
        )[0]
    small = nn.functional.interpolate(pixels, size=(384, 384), mode="bilinear")
    small = nn.functional.interpolate(small, size=size, mode="bilinear").argmax(1)[0]
    assert (small == processed).float().mean() > 0.98
    assert loaded.classes == ["wall", "sky", "tree", "road"]
    result = through_explain(loaded, picture)
    assert result.layers[0].startswith("model.pixel_level_module.encoder.")
    # Random weights: the evidence of a method may all be against the class, so the raw maps count.
    assert all(m.isfinite().all() and m.any() for m in result.maps.values())
    assert result.status()["layercam", result.layers[0]] == [["ok"]]


@pytest.mark.parametrize(("name", "columns"), [("owlvit", [[0], [1]]), ("dino", [[1], [3]])])
def test_boxes_of_texts_are_explained(tmp_path, picture, name, columns):
    import fiftyone.utils.transformers as fout
    import transformers as t

    from benchmarks import networks

    if name == "owlvit":
        images = t.OwlViTImageProcessor(size={"height": 64, "width": 64})
        processor, network = t.OwlViTProcessor(images, nets.tokenizer()), networks.owlvit()
    else:
        images = t.GroundingDinoImageProcessor(size={"height": 128, "width": 128})
        processor, network = (
            t.GroundingDinoProcessor(images, nets.tokenizer()),
            networks.grounding_dino(),
        )
    model = fout.FiftyOneZeroShotTransformerForObjectDetection(
        fout.FiftyOneZeroShotTransformerConfig(
            {"name_or_path": nets.save(tmp_path, network, processor)}
        )
    )
    with pytest.raises(ValueError, match="finds what it is asked for in words"):
        part("models.load").load_model(model)
    loaded = part("models.load").load_model(model, classes=["cat", "dog"])
    assert (loaded.kind, loaded.classes) == ("detector", ["cat", "dog"])
    # of OWL-ViT a column for each text, of Grounding DINO one for each token
    assert loaded.adapted.columns == columns
    image = loaded.transforms(picture)
    with torch.no_grad():
        candidates = loaded.adapted.forward(image[None]).candidates[0]
    assert candidates.logits.shape[1] == 2
    assert candidates.logits.isfinite().all()


def test_group_vit_is_explained_by_prompt(tmp_path, picture):
    model = part("models.zoo").load(
        "group-vit-segmentation-transformer-torch",
        name_or_path=nets.group_vit(tmp_path),
        classes=["cat", "dog"],
    )
    loaded = part("models.load").load_model(model)
    with torch.no_grad():
        inputs = model.transforms.processor(
            text=["cat", "dog"], images=picture, return_tensors="pt", padding=True
        )
        expected = model._model(**inputs).logits_per_image[0]
        found = loaded.adapted.logits(loaded.adapted.forward(loaded.transforms(picture)[None]))[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert all(
        status[0][0] == "ok" for status in through_explain(loaded, picture).status().values()
    )


def test_backbones_have_no_prediction(tmp_path, picture):
    model = part("models.load").load_model(f"hf:{nets.backbone(tmp_path)}")
    assert (model.kind, model.classes) == ("embedding network", None)
    with pytest.raises(ValueError, match="predicts no class; pass targets=similarity_target"):
        through_explain(model, picture)
    core = importlib.import_module(f"{PLUGIN}.cam_core")
    images = model.transforms(picture)[None]
    target = core.similarity_target(torch.arange(32.0))
    result = core.explain(model.adapted, images, targets=target)
    assert [s for rows in result.status().values() for row in rows for s in row] == ["ok"]


@pytest.fixture(scope="module")
def zoo_folder():
    folder = Path(fo.config.model_zoo_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_ultralytics_classifier(zoo_folder, picture):
    pytest.importorskip("ultralytics")
    path = nets.yolo(zoo_folder / "yolo26n-cls-imagenet.pt", "yolo26n-cls.yaml")
    try:
        models = part("models.load")
        loaded = models.load_model("yolo26n-cls-imagenet-torch")
        import fiftyone.zoo as foz

        shared = foz.load_zoo_model("yolo26n-cls-imagenet-torch")
        assert loaded.module is shared._model.model
        expected = shared.predict(picture)
        found = scores(loaded, picture)
        # With random weights 1000 classes are nearly alike: the whole vector is compared.
        assert float(np.abs(found.numpy() - expected.logits).max()) < 1e-6
        assert loaded.transforms(picture).shape == (3, 640, 640)
    finally:
        path.unlink()


def test_ultralytics_object_of_ones_own(picture):
    ultralytics = pytest.importorskip("ultralytics")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(51)  # of some random weights no evidence reaches the layer
        own = ultralytics.YOLO("yolo26n-cls.yaml", verbose=False)
    before = [m.training for m in own.model.modules()]
    loaded = part("models.load").load_model(own)
    assert loaded.module is own.model
    assert loaded.name == "YOLO"
    assert [m.training for m in own.model.modules()] == before
    result = through_explain(loaded, picture)
    assert result.maps["gradcam", result.layers[0]].shape[-2:] == (20, 20)
    assert all(status == [["ok"]] for status in result.status().values())


def test_torchvision_segmentation_of_the_zoo(zoo_folder, tmp_path, monkeypatch, picture):
    """Weights under the names that the zoo looks for; VOC's classes by index, not sorted."""
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, aux_loss=True
    )
    torch.save(network.state_dict(), hub / "fcn_resnet50_coco-1167a1af.pth")
    marker = zoo_folder / "fcn_resnet50_coco-1167a1af.pth"
    marker.write_text("only its existence is looked at")
    try:
        loaded = part("models.load").load_model("fcn-resnet50-coco-torch")
    finally:
        marker.unlink()
    assert len(loaded.classes) == 21
    assert (loaded.classes[0], loaded.classes[1], loaded.classes[15]) == (
        "background", "aeroplane", "person",
    )  # fmt: skip
    assert loaded.adapted.background == 0
    assert loaded.kind == "segmentation network"


class Collating(nn.Module):
    """A network and a FiftyOne model around it whose batches are made by its own function."""

    def __init__(self):
        super().__init__()
        self.network = small_network()

    def forward(self, x):
        return self.network(x)


def collating_model():
    import fiftyone.utils.torch as fout

    class Model(fout.TorchImageModel):
        has_collate_fn = True

        @staticmethod
        def collate_fn(batch):
            return {"images": torch.stack([item["tensor"] for item in batch])}

    class Plain:
        def __call__(self, image):
            return {"tensor": transforms()(image), "size": image.size}

    return Model(
        fout.TorchImageModelConfig(
            {
                "model": Collating().eval(),
                "classes": CLASSES,
                "transforms": Plain(),
                "ragged_batches": False,
                "output_processor_cls": "fiftyone.utils.torch.ClassifierOutputProcessor",
            }
        )
    )


def test_collate_function_of_ones_own_model(picture):
    loaded = part("models.load").load_model(collating_model())
    torch.testing.assert_close(loaded.transforms(picture), transforms()(picture))
    assert loaded.classes == CLASSES


class Elsewhere(nn.Module):
    """Scores beside something else of the same shape."""

    def __init__(self):
        super().__init__()
        self.network = small_network()

    def forward(self, x):
        logits = self.network(x)
        return {"head": [logits, logits.flip(1)]}


def test_output_path_reaches_the_adapter(picture):
    models = part("models.load")
    plain = models.load_model(Elsewhere(), transforms=transforms(), classes=CLASSES)
    with pytest.raises(ValueError, match="say where they are"):
        through_explain(plain, picture)
    loaded = models.load_model(
        Elsewhere(), transforms=transforms(), classes=CLASSES, output="head.1"
    )
    expected = small_network()(transforms()(picture)[None]).softmax(1).flip(1)[0]
    torch.testing.assert_close(scores(loaded, picture), expected)


def test_adapted_model_is_taken_as_it_is(picture):
    from cam_core import adapt  # a user's own copy beside the plugin's

    adapted = adapt(Elsewhere(), output="head.0")
    loaded = part("models.load").load_model(adapted, transforms=transforms(), classes=CLASSES)
    assert loaded.adapted is adapted
    assert loaded.name == "Elsewhere"
    assert through_explain(loaded, picture).scores.isfinite().all()


def test_one_channel_float_images_by_their_path(tmp_path):
    grey = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    values = np.linspace(0, 4000, 32 * 32, dtype=np.float32).reshape(32, 32)
    path = tmp_path / "depth.npy"
    np.save(path, values)
    loaded = part("models.load").load_model(
        grey, preprocess=lambda p: torch.from_numpy(np.load(p))[None] / 4000
    )
    assert loaded.transforms.takes_path
    image = loaded.transforms.from_path(str(path))
    assert image.shape == (1, 32, 32)
    result = importlib.import_module(f"{PLUGIN}.cam_core").explain(loaded.adapted, image[None])
    assert result.maps["gradcam", "1"].shape[-2:] == (30, 30)


def test_path_transforms_can_be_given_a_picture(picture):
    transform = part("models.unwrap").PathTransforms(lambda p: T.ToTensor()(Image.open(p)))
    torch.testing.assert_close(transform(picture), T.ToTensor()(picture))


def test_hugging_face_module_of_ones_own_stays_as_it_is(tmp_path, picture):
    transformers = pytest.importorskip("transformers")
    module = transformers.ViTForImageClassification.from_pretrained(nets.vit(tmp_path)).train()
    loaded = part("models.load").load_model(module)
    assert loaded.module is module
    assert all(m.training for m in module.modules())
    assert loaded.classes == nets.NAMES
    result = through_explain(loaded, picture)
    assert all(m.training for m in module.modules())
    assert all(status == [["ok"]] for status in result.status().values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": None}, "model is required"),
        ({"model": nn.Linear(2, 2)}, "transforms is required"),
        ({"model": nn.Linear(2, 2), "transforms": 3}, "transforms: int is not callable"),
        ({"model": 3}, "model: int is not understood"),
        ({"model": small_network(), "transforms": len, "task": "cooking"}, "task: 'cooking'"),
        ({"model": small_network(), "transforms": len, "preprocess": len}, "preprocess: give transforms or"),
        ({"model": small_network(), "transforms": len, "device": "toaster"}, "device: 'toaster'"),
    ],
)  # fmt: skip
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        part("models.load").load_model(**arguments)


def test_detectors_go_through(tmp_path, picture):
    model = part("models.zoo").load("detection-transformer-torch", name_or_path=nets.detr(tmp_path))
    loaded = part("models.load").load_model(model)
    assert (loaded.kind, loaded.classes) == ("detector", nets.NAMES)
    images = loaded.transforms(picture)[None]
    with torch.no_grad():
        boxes = loaded.adapted.forward(images).candidates[0].boxes
        expected = model._model(pixel_values=images).pred_boxes[0]
    torch.testing.assert_close(
        (boxes[:, :2] + boxes[:, 2:]) / 2 / 64, expected[:, :2], atol=1e-4, rtol=1e-4
    )


def test_a_run_by_name_on_a_dataset(tmp_path, photo_dataset):
    """The window of a processor is found, and the prediction stored is FiftyOne's own."""
    dataset = photo_dataset(3)
    name = f"hf:{nets.convnext(tmp_path / 'tiny-net')}"
    summary = operator()(dataset, name, progress=False)
    assert (summary.cam_key, summary.done) == ("tiny_net", 3)
    assert summary.settings["model_source"] == "name"
    model = part("models.zoo").load("classification-transformer-torch", name_or_path=name[3:])
    dataset.apply_model(model, label_field="own", num_workers=0)
    for sample in dataset:
        assert sample.tiny_net_prediction.label == sample.own.label
        assert sample.tiny_net_prediction.confidence == pytest.approx(
            sample.own.confidence, abs=1e-3
        )


def test_layers_by_name(tmp_path):
    layers = operator("list_layers")(f"hf:{nets.vit(tmp_path)}", image_size=64)
    assert [row.grid for row in layers if row.default] == [(4, 4)]
