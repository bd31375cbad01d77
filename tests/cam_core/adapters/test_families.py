"""Small networks with random weights of every family: default layer, grid, and maps by hand."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cam_core import adapt, explain, list_layers
from cam_core.adapters.cnn import CnnClassifier
from cam_core.adapters.transformer import TransformerClassifier

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
SWIN = {
    "embed_dim": 16,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 2, 2],
    "window_size": 2,
    "num_labels": 5,
}
STAGES = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "num_labels": 5}


def timm(name, **more):
    return pytest.importorskip("timm").create_model(name, pretrained=False, **more)


def hf(kind, **more):
    t = pytest.importorskip("transformers")
    head = next(
        s
        for s in ("ForImageClassificationWithTeacher", "ForImageClassification", "Model")
        if kind.endswith(s)
    )
    config = getattr(t, kind.removesuffix(head) + "Config")(**more)
    return getattr(t, kind)(config)


def yolo(name):
    os.environ.setdefault("YOLO_OFFLINE", "True")
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())  # not the user's settings
    return pytest.importorskip("ultralytics").YOLO(name, verbose=False).model


def tensor(outputs):
    return outputs


def logits(outputs):
    return outputs.logits


@dataclass
class Family:
    """What a network must come out as; written down by hand, not read off the adapter."""

    make: Callable[[], nn.Module]
    size: tuple[int, int]
    layer: str  # the default
    layout: Any  # (prefix, h, w) of tokens, "NCHW" or "NHWC"
    grid: tuple[int, int]
    scores: Callable[[Any], Tensor] = tensor
    kind: type = TransformerClassifier
    early: str | None = None  # a layer before tokens have met: a patch of the image is one token


FAMILIES = {
    # timm: class token, distilled, non-square, mean-pooled, registers, attention pooling
    "timm_vit": Family(
        lambda: timm(
            "vit_tiny_patch16_224",
            img_size=(64, 96),
            depth=2,
            embed_dim=32,
            num_heads=2,
            num_classes=5,
        ),
        (64, 96),
        "blocks.1.norm1",
        (1, 4, 6),
        (4, 6),
        early="blocks.0.norm1",
    ),
    "timm_vit_dynamic": Family(
        lambda: timm(
            "vit_tiny_patch16_224",
            img_size=64,
            depth=2,
            embed_dim=32,
            num_heads=2,
            num_classes=5,
            dynamic_img_size=True,
        ),
        (96, 48),
        "blocks.1.norm1",
        (1, 6, 3),
        (6, 3),
        early="blocks.0.norm1",
    ),
    "timm_vit_padded": Family(
        lambda: timm(
            "vit_tiny_patch16_224",
            img_size=64,
            depth=2,
            embed_dim=32,
            num_heads=2,
            num_classes=5,
            dynamic_img_size=True,
            dynamic_img_pad=True,
        ),
        (60, 90),
        "blocks.1.norm1",
        (1, 4, 6),
        (4, 6),
        early="blocks.0.norm1",
    ),
    "timm_deit_distilled": Family(
        lambda: timm(
            "deit_tiny_distilled_patch16_224",
            img_size=64,
            depth=2,
            embed_dim=32,
            num_heads=2,
            num_classes=5,
        ),
        (64, 64),
        "blocks.1.norm1",
        (2, 4, 4),
        (4, 4),
        early="blocks.0.norm1",
    ),
    "timm_vit_mean": Family(
        lambda: timm(
            "vit_tiny_patch16_224",
            img_size=(96, 64),
            depth=2,
            embed_dim=32,
            num_heads=2,
            num_classes=5,
            global_pool="avg",
            class_token=False,
        ),
        (96, 64),
        "blocks.1",
        (0, 6, 4),
        (6, 4),
        early="blocks.0.norm1",
    ),
    "timm_dinov2_registers": Family(
        lambda: timm(
            "vit_small_patch14_reg4_dinov2",
            img_size=(56, 84),
            depth=2,
            embed_dim=32,
            num_heads=2,
            num_classes=5,
        ),
        (56, 84),
        "blocks.1.norm1",
        (5, 4, 6),
        (4, 6),
        early="blocks.0.norm1",
    ),
    "timm_dinov3": Family(
        lambda: timm("vit_small_patch16_dinov3", depth=2, embed_dim=64, num_heads=2, num_classes=5),
        (64, 96),
        "blocks.1",
        (5, 4, 6),
        (4, 6),
        early="blocks.0.norm1",
    ),
    "timm_siglip": Family(
        lambda: timm(
            "vit_base_patch16_siglip_224",
            img_size=64,
            depth=2,
            embed_dim=32,
            num_heads=2,
            num_classes=5,
        ),
        (64, 64),
        "blocks.1",
        (0, 4, 4),
        (4, 4),
        early="blocks.0.norm1",
    ),
    "timm_swin": Family(
        lambda: timm(
            "swin_tiny_patch4_window7_224",
            img_size=(64, 96),
            window_size=2,
            embed_dim=16,
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 2, 2),
            num_classes=5,
        ),
        (64, 96),
        "norm",
        "NHWC",
        (2, 3),
        early="patch_embed",
    ),
    "timm_swinv2": Family(
        lambda: timm(
            "swinv2_tiny_window8_256",
            img_size=64,
            window_size=2,
            embed_dim=16,
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 2, 2),
            num_classes=5,
        ),
        (64, 64),
        "norm",
        "NHWC",
        (2, 2),
        early="patch_embed",
    ),
    "timm_maxvit": Family(
        lambda: timm("maxvit_rmlp_pico_rw_256", img_size=64, num_classes=5),
        (64, 64),
        "norm",
        "NCHW",
        (2, 2),
        kind=CnnClassifier,
    ),
    "timm_convnext": Family(
        lambda: timm("convnext_atto", num_classes=5),
        (64, 96),
        "stages",
        "NCHW",
        (2, 3),
        kind=CnnClassifier,
    ),
    "timm_efficientnet": Family(
        lambda: timm("efficientnet_b0", num_classes=5),
        (64, 96),
        "bn2",
        "NCHW",
        (2, 3),
        kind=CnnClassifier,
    ),
    "timm_resnet": Family(
        lambda: timm("resnet10t", num_classes=5),
        (64, 96),
        "layer4",
        "NCHW",
        (2, 3),
        kind=CnnClassifier,
    ),
    # Hugging Face
    "hf_vit": Family(
        lambda: hf(
            "ViTForImageClassification", **SMALL, image_size=(64, 96), patch_size=16, num_labels=5
        ),
        (64, 96),
        "vit.layers.1.layernorm_before",
        (1, 4, 6),
        (4, 6),
        logits,
        early="vit.layers.0.layernorm_before",
    ),
    "hf_deit": Family(
        lambda: hf(
            "DeiTForImageClassification", **SMALL, image_size=64, patch_size=16, num_labels=5
        ),
        (64, 64),
        "deit.layers.1.layernorm_before",
        (2, 4, 4),
        (4, 4),
        logits,
        early="deit.layers.0.layernorm_before",
    ),
    "hf_deit_teacher": Family(
        lambda: hf(
            "DeiTForImageClassificationWithTeacher",
            **SMALL,
            image_size=64,
            patch_size=16,
            num_labels=5,
        ),
        (64, 64),
        "deit.layers.1.layernorm_before",
        (2, 4, 4),
        (4, 4),
        lambda out: (out.cls_logits + out.distillation_logits) / 2,
        early="deit.layers.0.layernorm_before",
    ),
    "hf_beit_mean": Family(
        lambda: hf(
            "BeitForImageClassification", **SMALL, image_size=64, patch_size=16, num_labels=5
        ),
        (64, 64),
        "beit.layers.1",
        (1, 4, 4),
        (4, 4),
        logits,
        early="beit.layers.0.layernorm_before",
    ),
    "hf_dinov2": Family(
        lambda: hf(
            "Dinov2ForImageClassification",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
            num_labels=5,
        ),
        (56, 84),
        "dinov2.encoder.layer.1",
        (1, 4, 6),
        (4, 6),
        logits,
        early="dinov2.encoder.layer.0.norm1",
    ),
    "hf_dinov2_registers": Family(
        lambda: hf(
            "Dinov2WithRegistersForImageClassification",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
            num_labels=5,
        ),
        (56, 84),
        "dinov2_with_registers.encoder.layer.1",
        (5, 4, 6),
        (4, 6),
        logits,
        early="dinov2_with_registers.encoder.layer.0.norm1",
    ),
    "hf_siglip": Family(
        lambda: hf(
            "SiglipForImageClassification",
            vision_config=dict(SMALL, image_size=64, patch_size=16),
            text_config=dict(SMALL, vocab_size=99),
            num_labels=5,
        ),
        (64, 64),
        "vision_model.encoder.layers.1",
        (0, 4, 4),
        (4, 4),
        logits,
        early="vision_model.encoder.layers.0.layer_norm1",
    ),
    "hf_swin": Family(
        lambda: hf("SwinForImageClassification", **SWIN, image_size=(64, 96)),
        (64, 96),
        "swin.layernorm",
        (0, 2, 3),
        (2, 3),
        logits,
        early="swin.embeddings.norm",
    ),
    "hf_swin_padded": Family(  # 62 x 94 is padded to 16 x 24 patches
        lambda: hf("SwinForImageClassification", **SWIN, image_size=(64, 96)),
        (62, 94),
        "swin.layernorm",
        (0, 2, 3),
        (2, 3),
        logits,
        early="swin.embeddings.norm",
    ),
    "hf_swinv2": Family(
        lambda: hf("Swinv2ForImageClassification", **SWIN, image_size=(96, 64)),
        (96, 64),
        "swinv2.layernorm",
        (0, 3, 2),
        (3, 2),
        logits,
        early="swinv2.embeddings.norm",
    ),
    "hf_convnext": Family(
        lambda: hf("ConvNextForImageClassification", **STAGES),
        (64, 96),
        "convnext.encoder.stages.3",
        "NCHW",
        (2, 3),
        logits,
        CnnClassifier,
    ),
    "hf_convnextv2": Family(
        lambda: hf("ConvNextV2ForImageClassification", **STAGES),
        (64, 96),
        "convnextv2.encoder.stages.3",
        "NCHW",
        (2, 3),
        logits,
        CnnClassifier,
    ),
    "hf_efficientnet": Family(
        lambda: hf(
            "EfficientNetForImageClassification",
            width_coefficient=0.25,
            depth_coefficient=0.3,
            hidden_dim=320,
            num_labels=5,
        ),
        (64, 96),
        "efficientnet.encoder.top_activation",
        "NCHW",
        (2, 3),
        logits,
        CnnClassifier,
    ),
    "hf_resnet": Family(
        lambda: hf("ResNetForImageClassification", embedding_size=8, **STAGES),
        (64, 96),
        "resnet.encoder.stages.3",
        "NCHW",
        (2, 3),
        logits,
        CnnClassifier,
    ),
    # Ultralytics: (probabilities, logits) in eval mode
    "yolo_cls": Family(
        lambda: yolo("yolov8n-cls.yaml"),
        (64, 96),
        "model.9.conv",
        "NCHW",
        (2, 3),
        lambda out: out[1],
        CnnClassifier,
    ),
    # torchvision: Inception's auxiliary head is off in eval mode, on in train mode
    "inception_aux": Family(
        lambda: torchvision.models.inception_v3(
            weights=None, init_weights=False, aux_logits=True, num_classes=5
        ),
        (128, 96),
        "Mixed_7c",
        "NCHW",
        (2, 1),
        kind=CnnClassifier,
    ),
}


@pytest.fixture(scope="module")
def built():
    """Each network is built once: most of a test's time is its initialisation."""
    nets: dict[str, nn.Module] = {}

    def get(name):
        if name not in nets:
            torch.manual_seed(51)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                nets[name] = redrawn(FAMILIES[name].make())
        return nets[name]

    return get


def redrawn(net):
    """Heads and scales that are initialised to zero or nearly so get something to say."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if (
                parameter.dim() < 2
                and (not parameter.any() or parameter.abs().max() < 1e-3 or "gamma" in name)
            ) or not parameter.any():
                parameter.normal_(std=0.2)
    return net


def maps_by_hand(tensor, layout, grid):
    """(N, C, h, w); written out, not the adapter's."""
    if layout == "NCHW":
        return tensor
    if layout == "NHWC":
        return torch.stack([tensor[..., c] for c in range(tensor.shape[-1])], 1)
    prefix, height, width = layout
    assert tensor.shape[1] == prefix + height * width
    out = tensor.new_zeros(tensor.shape[0], tensor.shape[2], height, width)
    for row in range(height):
        for column in range(width):
            out[:, :, row, column] = tensor[:, prefix + row * width + column]
    return out


def gradcam_by_hand(net, call, layer, layout, grid, index):
    """Grad-CAM (Selvaraju et al., ICCV 2017) by a plain backward; also scores and liveness."""
    kept = {}

    def keep(module, args, output):
        output.retain_grad()
        kept["out"] = output

    handle = net.get_submodule(layer).register_forward_hook(keep)
    with torch.enable_grad():
        scores = call()
        scores[:, index].sum().backward()
    handle.remove()
    net.zero_grad()
    gradients = maps_by_hand(kept["out"].grad, layout, grid)
    activations = maps_by_hand(kept["out"].detach(), layout, grid)
    weights = gradients.mean((2, 3), keepdim=True)
    return (weights * activations).sum(1), scores.detach()


@pytest.mark.parametrize("name", FAMILIES)
def test_family(built, protect, name):
    family, net = FAMILIES[name], built(name).train()
    images = torch.randn(2, 3, *family.size)
    check = protect(net)
    model = adapt(net)
    assert type(model) is family.kind
    transformer = family.kind is TransformerClassifier
    assert model.default_method == ("gradcam_elementwise" if transformer else "gradcam")
    result = explain(net, images, ["gradcam", "layercam", "gradcam_elementwise"], targets=3)
    check()
    assert [row.name for row in list_layers(net, images) if row.default] == [family.layer]
    check()
    assert {layer for _, layer in result.maps} == {family.layer}
    for key, maps in result.maps.items():
        assert maps.shape == (2, 1, *family.grid), key
        assert maps.isfinite().all(), key
    assert (result.maps["gradcam", family.layer].abs().amax((2, 3)) > 0).all()

    net.eval()
    expected, scores = gradcam_by_hand(
        net,
        lambda: family.scores(net(images)),
        family.layer,
        family.layout,
        family.grid,
        3,
    )
    torch.testing.assert_close(result.scores[:, 0], scores[:, 3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.logits, scores, rtol=1e-4, atol=1e-5)
    scale = expected.abs().max()
    torch.testing.assert_close(
        result.maps["gradcam", family.layer][:, 0] / scale,
        expected / scale,
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.early])
@pytest.mark.parametrize("cell", [(0, 1), (2, 2), (3, 0)])
def test_a_patch_of_the_image_is_the_token_that_the_grid_says(built, name, cell):
    """Other pixels in one patch change one cell, where tokens have not met yet."""
    family, net = FAMILIES[name], built(name).eval()
    patch = 4 if "swin" in name else 14 if "dinov2" in name else 16
    rows, columns = (-(-f // patch) for f in family.size)
    images = torch.randn(1, 3, *family.size)
    other = images.clone()
    r, c = cell
    other[..., r * patch + 1 : (r + 1) * patch, c * patch + 1 : (c + 1) * patch] += 1.0
    model = adapt(net)
    layer = {row.name: row for row in model.layer_candidates(images)}[family.early]
    outs = []
    handle = net.get_submodule(family.early).register_forward_hook(lambda m, a, o: outs.append(o))
    with torch.no_grad():
        net(images)
        net(other)
    handle.remove()
    assert (layer.grid.height, layer.grid.width) == (rows, columns)
    change = layer.grid.to_maps(outs[1] - outs[0]).abs().sum(1)[0]
    assert change.nonzero().tolist() == [[r, c]]


@pytest.mark.parametrize(
    "name", ["timm_vit", "timm_swin", "hf_deit_teacher", "hf_swin", "yolo_cls"]
)
def test_perturbing_the_tail_of_a_family(built, name):
    """A channel set to zero, against a hook that sets it to zero."""
    family, net = FAMILIES[name], built(name).eval()
    images = torch.randn(2, 3, *family.size)

    def drops(activations, tail, score):
        changed = activations.clone()
        changed[:, 0] = 0
        return (score - tail(changed))[:, None, None].expand(-1, *activations.shape[2:])

    result = explain(net, images, drops, targets=1)
    prefix = family.layout[0] if isinstance(family.layout, tuple) else 0

    def zero(module, args, output):
        output = output.clone()
        if family.layout == "NCHW":
            output[:, 0] = 0
        elif family.layout == "NHWC":
            output[..., 0] = 0
        else:
            output[:, prefix:, 0] = 0
        return output

    with torch.no_grad():
        before = family.scores(net(images))[:, 1]
        handle = net.get_submodule(family.layer).register_forward_hook(zero)
        after = family.scores(net(images))[:, 1]
        handle.remove()
    drop = result.maps["drops", family.layer][:, 0, 0, 0]
    torch.testing.assert_close(drop, before - after, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer", "grid"),
    [
        ("coat_lite_tiny", "serial_blocks4.1.norm1", (7, 7)),  # a class token in every stage
        ("pit_ti_224", "transformers.2.blocks.3.norm1", (7, 7)),  # pooled between stages
        ("convit_tiny", "blocks.11.norm1", (14, 14)),  # attention by another name
        ("pvt_v2_b0", "stages", (7, 7)),  # a patch embedding per stage
        ("hiera_tiny_224", "blocks.11", (7, 7)),  # tokens in an order of its own, which is measured
    ],
)
def test_networks_with_stages_or_names_of_their_own(name, layer, grid):
    net = redrawn(timm(name, num_classes=5)).eval()
    result = explain(net, torch.randn(1, 3, 224, 224), "gradcam_elementwise")
    ((_, found),) = result.maps
    assert found == layer
    assert result.maps["gradcam_elementwise", layer].shape == (1, 1, *grid)
    assert result.maps["gradcam_elementwise", layer].any()


def test_windows_folded_into_the_batch_are_no_layers(built):
    """Four tokens of a window of 2 x 2 look like the last stage's grid of 64 x 64 pixels."""
    model = adapt(built("hf_swin").eval())
    rows = model.layer_candidates(torch.randn(3, 3, 64, 64))
    assert (2, 2) in {(row.grid.height, row.grid.width) for row in rows}
    assert {row.shape[0] for row in rows} == {3}
