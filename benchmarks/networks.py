"""Small networks with random weights, one of each family that a model zoo holds.

``python -m benchmarks.coverage`` explains them, and the tests save them as FiftyOne's zoo loads them.
All are built from configurations: nothing is downloaded.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
NAMES = ["tench", "goldfish", "shark", "ray", "cock"]
PLACES = ["wall", "sky", "tree", "road", "bed"]
_ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
_TEXT = {**SMALL, "vocab_size": 8, "max_position_embeddings": 16, **_ENDS}
_SWIN = {
    "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "embed_dim": 16, "window_size": 2,
    "image_size": 64, "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """What ``make`` builds, with the same weights whenever the seed is the same.

    Weights that start at zero are drawn, and those of transformers, whose small start makes all
    classes alike, are enlarged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dim() > 1 and not parameter.any():
                    parameter.normal_(std=0.05)
                elif parameter.dim() > 1 and type(module).__module__.startswith("transformers."):
                    parameter.mul_(3)
        return module.eval()


def _labels(names: list[str] = NAMES) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


def _hub(name: str, config: Any) -> nn.Module:
    import transformers

    return seeded(lambda: getattr(transformers, name)(config))


def vit() -> nn.Module:
    import transformers as t

    config = t.ViTConfig(**SMALL, image_size=64, patch_size=16, **_labels())
    return _hub("ViTForImageClassification", config)


def convnext() -> nn.Module:
    import transformers as t

    config = t.ConvNextConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], **_labels())
    return _hub("ConvNextForImageClassification", config)


def efficientnet() -> nn.Module:
    import transformers as t

    config = t.EfficientNetConfig(
        width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320, **_labels()
    )
    module = _hub("EfficientNetForImageClassification", config)
    with torch.no_grad():
        # Small weights vanish in so deep a network; larger ones need norms that have seen a batch.
        for parameter in module.parameters():
            parameter.mul_(20 if parameter.dim() == 4 else 1)
        module.train()(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return module.eval()


def swin_v2() -> nn.Module:
    import transformers as t

    config = t.Swinv2Config(
        **{**_SWIN, "window_size": 4, "image_size": 128}, patch_size=4, **_labels()
    )
    return _hub("Swinv2ForImageClassification", config)


def segformer() -> nn.Module:
    import transformers as t

    config = t.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 32], decoder_hidden_size=16,
        num_attention_heads=[1, 1, 2, 2], **_labels(PLACES),
    )  # fmt: skip
    return _hub("SegformerForSemanticSegmentation", config)


def mask2former() -> nn.Module:
    import transformers as t

    config = t.Mask2FormerConfig(
        backbone_config=t.SwinConfig(**_SWIN), feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=32, encoder_layers=2, decoder_layers=2, num_attention_heads=2,
        dim_feedforward=32, num_queries=5, **_labels(PLACES[:4]),
    )  # fmt: skip
    return _hub("Mask2FormerForUniversalSegmentation", config)


def oneformer() -> nn.Module:
    import transformers as t

    config = t.OneFormerConfig(
        backbone_config=t.SwinConfig(**_SWIN), conv_dim=32, mask_dim=32, hidden_dim=32,
        encoder_feedforward_dim=32, encoder_layers=2, decoder_layers=3, num_attention_heads=2,
        dim_feedforward=32, num_queries=5, text_encoder_width=16, text_encoder_num_layers=1,
        text_encoder_vocab_size=20, text_encoder_context_length=7, task_seq_len=7, num_labels=4,
        query_dec_layers=1, text_encoder_n_ctx=2, is_training=False,
    )  # fmt: skip
    return _hub("OneFormerForUniversalSegmentation", config)


def dinov2() -> nn.Module:
    import transformers as t

    own = {k: v for k, v in SMALL.items() if k != "intermediate_size"}
    return _hub("Dinov2Model", t.Dinov2Config(**own, image_size=56, patch_size=14))


def dinov3() -> nn.Module:
    import transformers as t

    return _hub("DINOv3ViTModel", t.DINOv3ViTConfig(**SMALL, image_size=64, num_register_tokens=4))


def clip() -> nn.Module:
    import transformers as t

    vision = {**SMALL, "image_size": 64, "patch_size": 16}
    config = t.CLIPConfig(text_config=_TEXT, vision_config=vision, projection_dim=16)
    return _hub("CLIPModel", config)


def siglip() -> nn.Module:
    import transformers as t

    text = {**SMALL, "vocab_size": 8, "max_position_embeddings": 64, "projection_size": 32}
    vision = {**SMALL, "image_size": 64, "patch_size": 16}
    return _hub("SiglipModel", t.SiglipConfig(text_config=text, vision_config=vision))


def group_vit() -> nn.Module:
    import transformers as t

    vision = {
        "hidden_size": 32, "depths": [2, 2, 2], "num_group_tokens": [8, 4, 0], "image_size": 64,
        "num_output_groups": [8, 4, 4], "num_attention_heads": 2, "intermediate_size": 64,
    }  # fmt: skip
    config = t.GroupViTConfig(
        text_config=_TEXT, vision_config={**vision, "patch_size": 16}, projection_dim=16,
        projection_intermediate_dim=32,
    )  # fmt: skip
    return _hub("GroupViTModel", config)


def original_clip() -> nn.Module:
    """OpenAI's own network, of which FiftyOne carries a copy."""
    from fiftyone.utils.clip.model import CLIP

    return seeded(lambda: CLIP(16, 64, 2, 64, 16, 16, 8, 32, 2, 2))


def open_clip() -> nn.Module:
    library = importlib.import_module("open_clip")

    vision = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16}
    text = {"context_length": 16, "vocab_size": 8, "width": 32, "heads": 2, "layers": 2}
    return seeded(lambda: library.CLIP(16, vision_cfg=vision, text_cfg=text))


def detr() -> nn.Module:
    import transformers as t

    backbone = t.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    config = t.DetrConfig(
        backbone_config=backbone, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=5, **_labels(),
    )  # fmt: skip
    return _hub("DetrForObjectDetection", config)


_RTDETR = {
    "encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "encoder_attention_heads": 2, "d_model": 32,
    "encoder_in_channels": [16, 16, 32], "decoder_in_channels": [32, 32, 32], "decoder_layers": 2,
    "decoder_ffn_dim": 32, "decoder_attention_heads": 2, "num_queries": 20,
    "num_denoising": 0,
}  # fmt: skip


def rtdetr_v2() -> nn.Module:
    import transformers as t

    backbone = t.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = t.RTDetrV2Config(backbone_config=backbone, **_RTDETR, **_labels())
    return _hub("RTDetrV2ForObjectDetection", config)


def dfine() -> nn.Module:
    import transformers as t

    backbone = t.HGNetV2Config(
        stem_channels=[3, 8, 8], embedding_size=8, hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1], stage_in_channels=[8, 8, 16, 16], stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 16, 16, 32], stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2], out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = t.DFineConfig(backbone_config=backbone, **_RTDETR, **_labels())
    return _hub("DFineForObjectDetection", config)


def owlvit() -> nn.Module:
    import transformers as t

    vision = {**SMALL, "image_size": 64, "patch_size": 16}
    config = t.OwlViTConfig(text_config=_TEXT, vision_config=vision, projection_dim=32)
    return _hub("OwlViTForObjectDetection", config)


_GROUNDED = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 12,
    "num_feature_levels": 4, "max_text_len": 16, "disable_custom_kernels": True,
    "positional_embedding_temperature": 20,
}  # fmt: skip


def _grounded(kind: str) -> nn.Module:
    import transformers as t

    backbone = t.SwinConfig(**{**_SWIN, "out_features": ["stage2", "stage3", "stage4"]})
    words = t.BertConfig(**{k: v for k, v in _TEXT.items() if k not in _ENDS})
    config = getattr(t, f"{kind}Config")(backbone_config=backbone, text_config=words, **_GROUNDED)
    return _hub(f"{kind}ForObjectDetection", config)


def grounding_dino() -> nn.Module:
    return _grounded("GroundingDino")


def llmdet() -> nn.Module:
    return _grounded("MMGroundingDino")


def omdet() -> nn.Module:
    import transformers as t

    backbone = t.TimmBackboneConfig(
        backbone="swin_tiny_patch4_window7_224", out_indices=[1, 2, 3], features_only=True,
        use_pretrained_backbone=False, img_size=64, always_partition=True,
    )  # fmt: skip
    config = t.OmDetTurboConfig(
        backbone_config=backbone, text_config=t.CLIPTextConfig(**_TEXT), image_size=64,
        encoder_hidden_dim=64, decoder_hidden_dim=64, vision_features_channels=[64, 64, 64],
        encoder_in_channels=[192, 384, 768], class_embed_dim=32, task_encoder_hidden_dim=64,
        text_projection_in_dim=32, text_projection_out_dim=32, encoder_dim_feedforward=32,
        decoder_dim_feedforward=32, encoder_attention_heads=2, decoder_num_heads=2, num_queries=12,
        decoder_num_layers=2, num_projection_layers=1, encoder_layers=1,
    )  # fmt: skip
    return _hub("OmDetTurboForObjectDetection", config)


def asked(module: nn.Module) -> tuple[dict[str, torch.Tensor], list[list[int]] | None]:
    """Two texts for a zero-shot detector, as numbers, and the columns of each where these are tokens."""
    words = torch.tensor([[2, 5, 1], [2, 6, 1]])
    kind = type(module).__name__
    if kind.startswith("Owl"):
        return {"input_ids": words, "attention_mask": torch.ones_like(words)}, None
    if kind.startswith("OmDet"):
        task = torch.tensor([[2, 3, 4, 1]])
        return {
            "classes_input_ids": words, "classes_attention_mask": torch.ones_like(words),
            "tasks_input_ids": task, "tasks_attention_mask": torch.ones_like(task),
            "classes_structure": torch.tensor([2]),
        }, None  # fmt: skip
    text = torch.tensor([[2, 5, 3, 6, 7, 3]])
    same = {"attention_mask": torch.ones_like(text), "token_type_ids": torch.zeros_like(text)}
    return {"input_ids": text, **same}, [[1], [3, 4]]


def rfdetr() -> nn.Module:
    """The network of the package ``rfdetr``, its smallest; 384 pixels."""
    library = importlib.import_module("rfdetr")
    return seeded(lambda: library.RFDETRNano(pretrain_weights=None, device="cpu").model.model)


def ultralytics(name: str) -> nn.Module:
    """The network of one of Ultralytics' own configurations, such as ``yolo11n-seg.yaml``."""
    offline_ultralytics()
    from ultralytics import RTDETR, YOLO

    rtdetr = name.startswith("rtdetr")
    kind, quiet = (RTDETR, {}) if rtdetr else (YOLO, {"verbose": False})
    return seeded(lambda: kind(name, **quiet).model)


def yolo_world() -> nn.Module:
    """YOLO-World; its texts are placeholders until some are encoded."""
    return ultralytics("yolov8s-world.yaml")


def yoloe(name: str) -> nn.Module:
    """YOLOE, asked for five texts that are drawn instead of encoded."""
    return seeded(lambda: _asked(name, NAMES))


def yoloe_without_prompt(name: str) -> nn.Module:
    """YOLOE with a vocabulary built in: what its ``-pf`` weights make of it."""

    def build() -> nn.Module:
        words, filtering = _asked(name, NAMES), _asked(name, ["object"])
        for network in (words, filtering):
            network.model[-1].fuse(network.pe)
        head = words.model[-1]
        towers = head.one2one_cv3 if head.end2end else head.cv3
        filtering.args = {"imgsz": 96}
        filtering.set_vocab(nn.ModuleList(tower[-1] for tower in towers), NAMES)
        return filtering

    return seeded(build)


def _asked(name: str, names: list[str]) -> nn.Module:
    offline_ultralytics()
    from ultralytics import YOLO

    network = YOLO(name, verbose=False).model.eval()
    texts = torch.nn.functional.normalize(torch.randn(1, len(names), 512), dim=-1)
    network.set_classes(names, texts)
    return network


def offline_ultralytics() -> None:
    """Keeps Ultralytics from the network and from the user's own settings."""
    os.environ.setdefault("YOLO_OFFLINE", "True")
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.gettempdir())
