"""Hugging Face's detectors from tiny configs, against finite differences and their processors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cam_core import adapt, cam_method, detect, explain, explain_objects, list_layers, object_target
from cam_core.adapters.detectors_transformers import TransformersDetector, _FrontGrid, _levels

transformers = pytest.importorskip("transformers")

SIZE = (96, 64)


@cam_method(paper="none")
def plain_gradient(gradients):
    """The gradient summed over channels."""
    return gradients.sum(1)


def resnet(kind: str = "ResNetConfig", out: tuple[str, ...] = ("stage2", "stage3", "stage4")):
    return getattr(transformers, kind)(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=list(out),
    )


def heads(width: int) -> dict:
    return {
        "d_model": width,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "num_queries": 10,
        "num_labels": 3,
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
    }


def real_time() -> dict:
    return {
        "backbone_config": resnet("RTDetrResNetConfig"),
        "encoder_in_channels": [8, 16, 16],
        "encoder_hidden_dim": 16,
        "encoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "d_model": 16,
        "decoder_in_channels": [16, 16, 16],
        "num_queries": 10,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 16,
        "num_labels": 3,
        "freeze_backbone_batch_norms": False,
    }


def build(name: str, toys) -> nn.Module:
    torch.manual_seed(7)
    t = transformers
    one = resnet(out=("stage4",))
    if name == "detr":
        net = t.DetrForObjectDetection(t.DetrConfig(backbone_config=one, **heads(16)))
    elif name == "conditional":
        config = t.ConditionalDetrConfig(backbone_config=one, **heads(16))
        net = t.ConditionalDetrForObjectDetection(config)
    elif name == "deformable":
        config = t.DeformableDetrConfig(backbone_config=resnet(), num_feature_levels=3, **heads(32))
        net = t.DeformableDetrForObjectDetection(config)
    elif name == "two-stage":
        config = t.DeformableDetrConfig(
            backbone_config=resnet(),
            num_feature_levels=3,
            two_stage=True,
            with_box_refine=True,
            two_stage_num_proposals=10,
            **heads(32),
        )
        net = t.DeformableDetrForObjectDetection(config)
    elif name == "rtdetr":
        net = t.RTDetrForObjectDetection(t.RTDetrConfig(**real_time()))
    elif name == "rtdetr-v2":
        net = t.RTDetrV2ForObjectDetection(t.RTDetrV2Config(**real_time()))
    elif name == "dfine":
        net = t.DFineForObjectDetection(t.DFineConfig(**real_time()))
    else:
        config = t.YolosConfig(
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=list(SIZE),
            patch_size=16,
            num_detection_tokens=8,
            num_labels=3,
        )
        net = t.YolosForObjectDetection(config)
    for parameter in net.parameters():  # so that scores differ: as it is initialised they hardly do
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=(1 / parameter[0].numel()) ** 0.5)
    return net.eval() if name == "yolos" else toys.awake(net)


ALL = ("detr", "conditional", "deformable", "two-stage", "rtdetr", "rtdetr-v2", "dfine", "yolos")
LEVELS = {
    "detr": ["model.input_projection"],
    "conditional": ["model.input_projection"],
    "deformable": [f"model.input_proj.{i}" for i in range(3)],
    "two-stage": [f"model.input_proj.{i}" for i in range(3)],
    "rtdetr": [f"model.decoder_input_proj.{i}" for i in range(3)],
    "rtdetr-v2": [f"model.decoder_input_proj.{i}" for i in range(3)],
    "dfine": [f"model.decoder_input_proj.{i}" for i in range(3)],
    "yolos": ["vit.encoder.layer.2.layernorm_before"],
}


@pytest.fixture
def images():
    return torch.rand(2, 3, *SIZE)


@pytest.mark.parametrize("name", ALL)
def test_every_level_explains_a_query(name, images, protect, toys):
    net = build(name, toys)
    model = adapt(net)
    assert type(model) is TransformersDetector
    boxes = [c.boxes[2:3] for c in model.forward(images).candidates]
    net.train()
    check = protect(net)
    result = explain_objects(net, images, boxes, [torch.tensor([1])] * 2, prefer="overlap")
    check()
    assert result.valid.all()
    assert result.candidates.flatten().tolist() == [2, 2]
    assert result.explanation.layers == LEVELS[name]
    assert (result.maps["gradcam_elementwise"].amax((2, 3)) > 0).all()


@pytest.mark.parametrize("name", ["detr", "deformable", "two-stage", "rtdetr", "dfine", "yolos"])
def test_gradient_is_the_whole_derivative(name, images, toys):
    """Finite differences of a query's score, which know nothing of what the model detaches."""
    net = build(name, toys).double()
    images = images[:1].double()
    model = adapt(net)
    candidates = model.forward(images).candidates[0]
    index = int(candidates.logits[:, 0].argmax())
    target = object_target(candidates.boxes[index], 0, prefer="overlap")
    layer = model.default_layers(images)[0]

    directions = {}

    @cam_method(paper="none")
    def slope(gradients, activations):
        """The derivative along a fixed direction."""
        generator = torch.Generator().manual_seed(1)
        directions["one"] = torch.randn(activations.shape, generator=generator)
        return (gradients * directions["one"]).sum((1, 2, 3))[:, None, None]

    result = explain(model, images, slope, target, [layer])
    ours = float(result.maps["slope", layer][0, 0, 0, 0])

    module = net.get_submodule(layer)
    grid = model.grid(layer, _shape(net, module, images), SIZE)
    scores = []
    for step in (1e-5, -1e-5):

        def moved(module, args, output, step=step):
            maps = grid.to_maps(output) + step * directions["one"].double()
            return grid.from_maps(maps, output)

        handle = module.register_forward_hook(moved)
        with torch.no_grad():
            logits = net(images).logits
        handle.remove()
        scores.append(float(logits[0, index, 0]))
    expected = (scores[0] - scores[1]) / 2e-5
    assert abs(expected) > 1e-4
    assert ours == pytest.approx(expected, rel=5e-3)  # two-stage decoders round to float32


def _shape(net, module, images):
    seen = []
    handle = module.register_forward_hook(lambda m, a, output: seen.append(tuple(output.shape)))
    with torch.no_grad():
        net(images)
    handle.remove()
    return seen[-1]


@pytest.mark.parametrize(
    ("name", "processor"),
    [
        ("detr", "DetrImageProcessor"),
        ("rtdetr", "RTDetrImageProcessor"),
        ("yolos", "YolosImageProcessor"),
    ],
)
def test_detections_are_the_processors(name, processor, images, toys):
    net = build(name, toys)
    with torch.no_grad():
        outputs = net(images)
    expected = getattr(transformers, processor)().post_process_object_detection(
        outputs, threshold=0.25, target_sizes=[SIZE, SIZE]
    )
    found = detect(net, images)
    assert sum(len(e["boxes"]) for e in expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        order = theirs["scores"].argsort(descending=True)
        assert torch.allclose(ours.scores, theirs["scores"][order], atol=1e-6)
        assert ours.labels.tolist() == theirs["labels"][order].tolist()
        assert torch.allclose(ours.boxes, theirs["boxes"][order], atol=1e-3)


def test_detection_tokens_stay_where_they_are():
    grid = _FrontGrid("NLC", 2, 3, 1, 4)
    tokens = torch.rand(2, 1 + 6 + 4, 5)
    maps = grid.to_maps(tokens)
    assert maps.shape == (2, 5, 2, 3)
    assert torch.equal(maps[0, :, 1, 2], tokens[0, 6])
    assert torch.equal(grid.from_maps(maps, tokens), tokens)
    changed = grid.from_maps(torch.zeros_like(maps), tokens)
    assert torch.equal(changed[:, 7:], tokens[:, 7:])
    assert torch.equal(changed[:, :1], tokens[:, :1])
    assert not changed[:, 1:7].any()


@pytest.mark.parametrize("name", ["rtdetr", "yolos"])
def test_ablation_runs(name, images, toys):
    net = build(name, toys)
    model = adapt(net)
    boxes = [c.boxes[2:3] for c in model.forward(images).candidates]
    result = explain_objects(
        net, images, boxes, [torch.tensor([1])] * 2, "ablationcam", prefer="overlap"
    )
    assert result.maps["ablationcam"].isfinite().all()


def test_yolos_layers_are_listed(images, toys):
    rows = list_layers(build("yolos", toys), images)
    assert {row.grid for row in rows} == {(6, 4)}
    assert [row.name for row in rows if row.default] == LEVELS["yolos"]


def test_a_model_that_needs_text_is_none_of_them():
    kind = transformers.OwlViTForObjectDetection
    assert not TransformersDetector.matches(kind.__new__(kind))


@pytest.mark.parametrize(
    ("path", "count"), [("backbone.projector.scale_layers", 2), ("backbone.projector", 1)]
)
def test_levels_of_projectors(path, count):
    """As LW-DETR and RF-DETR name them."""
    model = nn.Module()
    inner = model
    for name in path.split("."):
        inner.add_module(name, nn.Module() if name != "scale_layers" else nn.ModuleList())
        inner = getattr(inner, name)
    if isinstance(inner, nn.ModuleList):
        inner.extend([nn.Conv2d(1, 1, 1) for _ in range(count)])
    found = _levels(model)
    assert found == ([f"{path}.{i}" for i in range(count)] if count > 1 else [path])
