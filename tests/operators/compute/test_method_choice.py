"""Methods as the form offers them, and what other places, several maps and smoothing write."""

import importlib

import fiftyone as fo
import fiftyone.operators as foo
import pytest
import torch
from operators_common import PLUGIN, compute
from torchvision.models.vision_transformer import VisionTransformer

from cam_core import list_methods

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def form(plugin):
    foo.get_operator("@cam51/heatmaps/compute_cams")
    return importlib.import_module(f"{PLUGIN}.operators.forms.methods")


def test_sets(form):
    assert form.methods_of({}) == ["gradcam"]
    assert form.methods_of({"method_set": "recommended"}, transformer=True) == [
        "gradcam_elementwise"
    ]
    assert len(form.methods_of({"method_set": "compare"})) == 5
    names = {m.name for m in list_methods()}
    every = form.methods_of({"method_set": "all"})
    assert set(every) == {m.name for m in list_methods() if not m.needs_attention}
    tokens = form.methods_of({"method_set": "all"}, transformer=True)
    assert {"chefer", "legrad", "attention_rollout", "ablationcam"} <= set(tokens) <= names
    assert not {"cam", "guided_backprop", "cnn_fixations"} & set(tokens)
    # an old form's or a queue's parameters have methods and no set
    assert form.methods_of({"methods": ["fem", '["eigencam", {"component": 2}]']}) == [
        "fem",
        ("eigencam", {"component": 2}),
    ]
    chosen = {"method_set": "chosen", "methods": ["fem", '["eigencam", {"component": 2}]']}
    assert form.methods_of({**chosen, "smooth": ["aug"]}) == [
        "fem+aug",
        ("eigencam", {"component": 2, "smooth": ["aug"]}),
    ]


def test_costs_are_said(form):
    from cam_core.methods.catalogue import resolve_methods

    assert form.times_text(1.05) == "1 prediction"
    assert form.times_text(500) == "500 predictions"
    assert form.times_text(47375) == "47,000 predictions"
    one = "about as long as one prediction per image"
    assert form.cost_text(resolve_methods(["gradcam", "layercam"])) == one
    several = "about as long as 7 predictions per image"
    assert form.cost_text(resolve_methods("gradcam+aug")) == several


def test_several_maps_and_places(photo_dataset):
    dataset = photo_dataset(2)
    summary = compute(
        dataset,
        methods=[
            "gradcam",
            "gradcam+aug",
            ("eigencam", {"components": 2}),
            "gradients",
            "refinecam",
        ],
        layers=["layer3", "layer4"],
        targets="top_2",
        max_fields=30,
    )
    both = [f"run_{m}_{layer}_{t}" for m in ("gradcam", "gradcam_aug")
            for layer in ("layer3", "layer4") for t in ("top1", "top2")]  # fmt: skip
    classless = [f"run_eigencam_{j}_{layer}" for layer in ("layer3", "layer4") for j in (1, 2)]
    pixels = ["run_gradients_top1", "run_gradients_top2"]
    refined = ["run_refinecam_top1", "run_refinecam_top2"]
    assert summary.fields == [*both, *classless, *pixels, *refined, "run_prediction"]
    sample = dataset.first()
    assert sample.run_eigencam_1_layer4.target is None
    assert sample.run_eigencam_1_layer4.score is None
    assert sample.run_gradients_top1.layer == "input"
    assert sample.run_refinecam_top1.layer == "fused"
    assert summary.settings["layers"] == ["layer3", "layer4"]
    assert ["gradcam", {"smooth": ["aug"]}] in summary.settings["methods"]


def test_pixel_methods_alone_need_no_layer(photo_dataset):
    dataset = photo_dataset(2)
    summary = compute(dataset, methods=["gradients"])
    assert summary.settings["layers"] == []
    assert dataset.first().run_gradients.status == "ok"


def test_concepts_have_scores(photo_dataset):
    dataset = photo_dataset(2)
    compute(dataset, methods=[("deep_feature_factorization", {"concepts": 2}), "gradcam"])
    field = "run_deep_feature_factorization_concept_1"
    assert isinstance(dataset.first()[field].component_score, float)
    assert dataset.get_field(f"{field}.component_score").__class__ is fo.FloatField
    assert dataset.get_field("run_gradcam.component_score") is None


def test_attention_methods_on_a_transformer(photo_dataset):
    import torchvision.transforms as T

    net = VisionTransformer(64, 16, 2, 2, 16, 32, num_classes=4).eval()
    torch.nn.init.normal_(net.heads.head.weight)
    dataset = photo_dataset(2)
    compute(
        dataset,
        model=net,
        transforms=T.Compose([T.Resize((64, 64)), T.ToTensor()]),
        methods=["chefer", "attention_rollout"],
        targets=[0, 1],
    )
    sample = dataset.first()
    assert sample.run_chefer_class_0.layer == "attention"
    assert sample.run_attention_rollout.status == "ok"


def test_what_cannot_run_stops_before_the_first_sample(photo_dataset):
    dataset = photo_dataset(1)
    with pytest.raises(ValueError, match="no attention blocks were found"):
        compute(dataset, methods="chefer")
    with pytest.raises(ValueError, match="smoothing 'blur' is unknown"):
        compute(dataset, methods="gradcam+blur")
    assert dataset.list_runs() == []
