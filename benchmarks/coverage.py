"""What of FiftyOne's model zoo can be explained, entry by entry, and a real run of every family.

Run ``python -m benchmarks.coverage``; needs FiftyOne, but neither its database nor a network: what can
be built from code or a configuration runs with random weights, the rest is judged by its entry.
A run explains one image with three methods and checks the shape of the maps, that they are neither
blank nor constant, that the gradient reaches the layer, and that the network is left as it came.

Writes ``bench_output/coverage.json`` and ``.md``; with ``--docs`` also the table in ``docs/models.md``.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import re
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks import networks
from benchmarks.plugin_module import plugin

ROOT = pathlib.Path(__file__).resolve().parents[1]
METHODS = ["gradcam", "layercam", "hirescam"]
KEEP = 5  # text features of the zero-shot families

# Wrappers that yield masks, which is said beside the share: an adapter could exist.
MASKS_WITHOUT_CLASSES = {
    "SegmentAnythingModel", "SegmentAnything2ImageModel", "SegmentAnything3ImageModel",
}  # fmt: skip
ALSO_SCORED = {"FCCLIPModel"}
YIELD_SCORES = {"classifier", "zero-shot classifier", "segmentation network", "detector"}

# family -> (how to build it, side of the input)
BUILDERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ViT, Hugging Face": (networks.vit, 64),
    "ConvNeXt, Hugging Face": (networks.convnext, 64),
    "EfficientNet, Hugging Face": (networks.efficientnet, 64),
    "Swin v2, Hugging Face": (networks.swin_v2, 128),
    "SegFormer, Hugging Face": (networks.segformer, 64),
    "Mask2Former, Hugging Face": (networks.mask2former, 64),
    "OneFormer, Hugging Face": (networks.oneformer, 64),
    "DETR and YOLOS, Hugging Face": (networks.detr, 64),
    "RT-DETR v2, Hugging Face": (networks.rtdetr_v2, 64),
    "D-FINE, Hugging Face": (networks.dfine, 64),
    "OWL-ViT, Hugging Face": (networks.owlvit, 64),
    "Grounding DINO, Hugging Face": (networks.grounding_dino, 128),
    "LLMDet, Hugging Face": (networks.llmdet, 128),
    "OmDet-Turbo, Hugging Face": (networks.omdet, 64),
    "RF-DETR": (networks.rfdetr, 384),
    "CLIP, Hugging Face": (networks.clip, 64),
    "SigLIP, Hugging Face": (networks.siglip, 64),
    "GroupViT, Hugging Face": (networks.group_vit, 64),
    "CLIP, OpenAI": (networks.original_clip, 64),
    "CLIP, open_clip": (networks.open_clip, 64),
    "DINOv2": (networks.dinov2, 56),
    "DINOv3": (networks.dinov3, 64),
}
# the first pattern that an entry's name matches
_BY_NAME = [
    (r"convnext", "ConvNeXt, Hugging Face"),
    (r"efficientnet", "EfficientNet, Hugging Face"),
    (r"swin-v2", "Swin v2, Hugging Face"),
    (r"^vit-base-patch16|^classification-transformer", "ViT, Hugging Face"),
    (r"segformer|^segmentation-transformer", "SegFormer, Hugging Face"),
    (r"mask2former|^universal-segmentation", "Mask2Former, Hugging Face"),
    (r"oneformer", "OneFormer, Hugging Face"),
    (r"rtdetr-v2", "RT-DETR v2, Hugging Face"),
    (r"dfine", "D-FINE, Hugging Face"),
    (r"^rfdetr", "RF-DETR"),
    (r"owlvit|^zero-shot-detection", "OWL-ViT, Hugging Face"),
    (r"grounding-dino", "Grounding DINO, Hugging Face"),
    (r"llmdet", "LLMDet, Hugging Face"),
    (r"omdet", "OmDet-Turbo, Hugging Face"),
    (r"^detection-transformer", "DETR and YOLOS, Hugging Face"),
    (r"siglip", "SigLIP, Hugging Face"),
    (r"group-vit", "GroupViT, Hugging Face"),
    (r"^clip-vit", "CLIP, OpenAI"),
    (r"^open-clip", "CLIP, open_clip"),
    (r"monet|pubmed-clip|^zero-shot-classification", "CLIP, Hugging Face"),
    (r"dinov2", "DINOv2"),
    (r"dinov3", "DINOv3"),
]
_FLOWS = {
    "cls": "classifier", "seg": "boxes and masks", "pose": "poses", "obb": "rotated boxes",
    "world": "boxes of texts",
}  # fmt: skip


def family_of(entry: Any) -> tuple[str, Callable[[], nn.Module] | None, int]:
    """(family, how to build one with random weights or None, side of its input) of a zoo entry."""
    details = (entry.default_deployment_config_dict or {}).get("config") or {}
    wrapper, _ = plugin("operators.models.zoo").wrapper_of(entry)
    if wrapper == "TorchvisionImageModel":
        return _torchvision(details["entrypoint_fcn"])
    if wrapper in ("FiftyOneYOLOModel", "FiftyOneYOLOEVPModel", "FiftyOneRTDETRModel"):
        return _ultralytics(details["entrypoint_args"]["model"])
    label = next((label for pattern, label in _BY_NAME if re.search(pattern, entry.name)), None)
    if label in BUILDERS and plugin("operators.models.zoo").kind_of(entry) is not None:
        return (label, *BUILDERS[label])
    return re.sub(r"(ForImage|Model|FiftyOne)", "", wrapper) or "other", None, 0


def _torchvision(function: str) -> tuple[str, Callable[[], nn.Module], int]:
    import eta.core.utils as etau

    options: dict[str, Any] = {"weights": None}
    name = function.rpartition(".")[2]
    if ".segmentation." in function or ".detection." in function:
        options["weights_backbone"] = None
    if ".detection." in function:
        options.update(min_size=128, max_size=160)
    build = functools.partial(etau.get_function(function), **options)
    return f"{name}, torchvision", lambda: networks.seeded(build), 96 if len(options) > 1 else 224


def _ultralytics(file: str) -> tuple[str, Callable[[], nn.Module] | None, int]:
    stem = file.removesuffix(".pt")
    match = re.fullmatch(r"(yoloe?-?v?\d+|rtdetr)(u?)(-?)([a-z])u?((?:-[a-z]+\d*)*)", stem)
    if match is None:
        return f"{stem}, Ultralytics", None, 0
    generation, task = match[1], match[5].strip("-").split("-")[0].rstrip("0123456789")
    label = f"{generation} {_FLOWS.get(task, 'boxes')}, Ultralytics"
    if "world" in stem:
        return label, networks.yolo_world, 96
    if generation.startswith("yoloe"):
        file, free = f"{generation}{match[4]}-seg.yaml", stem.endswith("-pf")
        build = networks.yoloe_without_prompt if free else networks.yoloe
        what = "of its own vocabulary" if free else "of texts"
        return (
            f"{generation} boxes and masks {what}, Ultralytics",
            functools.partial(build, file),
            96,
        )
    scale = {"yolov9": "c", "rtdetr": "l"}.get(generation, "n")
    dash = "-" if generation == "rtdetr" else ""
    suffix = f"-{task}" if task in ("cls", "seg", "pose", "obb") else ""
    name = f"{generation}{dash}{scale}{suffix}.yaml"
    return label, functools.partial(networks.ultralytics, name), 96


def adapted(module: nn.Module, kind: str) -> Any:
    """The adapter that the plugin would take, with texts where it needs some."""
    core = plugin("cam_core")
    universal = plugin("cam_core.adapters.universal").UniversalSegmentationModel
    if universal.matches(module):
        one = type(module).__name__.startswith("OneFormer")
        return universal(module, {"task_inputs": torch.ones(1, 7)} if one else None)
    zero_shot = plugin("cam_core.adapters.zero_shot_detection").ZeroShotDetector
    if zero_shot.matches(module):
        return zero_shot(module, *networks.asked(module))
    if kind != "zero-shot classifier":
        return core.adapt(module)
    with torch.no_grad():
        found = core.adapt(module)
        width = found.embedding(found.forward(torch.zeros(1, 3, 64, 64))).shape[1]
    texts = torch.randn(KEEP, width, generator=torch.Generator().manual_seed(0))
    return core.adapt(module, text_features=texts)


def state_of(module: nn.Module) -> tuple:
    """What must be the same afterwards."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return (
        [m.training for m in module.modules()],
        [len(getattr(m, name)) for m in module.modules() for name in hooks],
        [(p.requires_grad, p.grad is None, p.sum().item()) for p in module.parameters()],
        [b.double().sum().item() for b in module.buffers()],
    )


def run(build: Callable[[], nn.Module], side: int, kind: str) -> dict[str, Any]:
    """Explains one image with three methods; raises nothing: an error is a result."""
    start = time.perf_counter()
    try:
        model = adapted(build(), kind)
        images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            model.forward(images)  # networks of transformers install hooks of their own in it
        before = state_of(model.module)
        core = plugin("cam_core")
        targets: Any = "top_1"
        if kind == "embedding network":
            with torch.no_grad():
                own = model.embedding(model.forward(images))
            noise = torch.randn(own.shape[1], generator=torch.Generator().manual_seed(1))
            targets = core.similarity_target(own[0] + noise)
        result = core.explain(model, images, methods=METHODS, targets=targets)
    except Exception as error:  # the table says it
        return {"ok": False, "error": f"{type(error).__name__}: {str(error)[:200]}"}
    found: dict[str, Any] = {
        "shape": _every_method(result, lambda m: m.dim() == 3 and min(m.shape[-2:]) > 1),
        "not_blank": _every_method(result, lambda m: bool(m.isfinite().all()) and m.std() > 0),
        "gradient": _every_method(result, lambda m: bool(m.any())),
        "restored": state_of(model.module) == before,
    }
    found["ok"] = all(found.values())
    found["layers"] = result.layers
    found["grids"] = sorted({tuple(m.shape[-2:]) for m in result.maps.values()}, reverse=True)
    found["adapter"] = model.family
    found["seconds"] = round(time.perf_counter() - start, 2)
    return found


def _every_method(result: Any, holds: Callable[[torch.Tensor], Any]) -> bool:
    """Whether something holds for every method on at least one of its layers.

    An object is found on one of a detector's feature levels; the others may have no part in it.
    """
    return all(
        any(holds(maps[:, 0]) for (method, _), maps in result.maps.items() if method == name)
        for name in METHODS
    )


def judge(runs: bool, only: str | None) -> list[dict[str, Any]]:
    """One row per zoo entry that is a PyTorch model."""
    zoo, rows = plugin("operators.models.zoo"), []
    done: dict[str, dict[str, Any]] = {}
    for name, entry in zoo.entries().items():
        if not entry.has_tag("torch") or (only and not re.search(only, name)):
            continue
        kind, reason = zoo.kind_of(entry), zoo.refusal(entry, here=False)
        wrapper, _ = zoo._wrapper(entry)
        label, build, side = family_of(entry)
        if runs and reason is None and build is not None and label not in done:
            done[label] = run(build, side, kind)
            print(f"{label:42} {_short(done[label])}", flush=True)
        packages = getattr(entry.requirements, "packages", None) or []
        rows.append(
            {
                "name": name,
                "family": label,
                "yields": kind,
                "supported": reason is None,
                "reason": reason,
                "wrapper": wrapper,
                "run": done.get(label),
                "packages": list(packages),
            }
        )
    return rows


def _short(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not run here"
    if "error" in found:
        return found["error"]
    bad = [k for k in ("shape", "not_blank", "gradient", "restored") if not found[k]]
    grids = ", ".join(f"{h}x{w}" for h, w in found["grids"])
    return f"{'ok' if not bad else 'NOT ' + ', '.join(bad)} ({grids})"


def shares(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many of the entries that yield scores are supported."""
    scored = [r for r in rows if r["yields"] in YIELD_SCORES or r["wrapper"] in ALSO_SCORED]
    masks = [r for r in rows if r["wrapper"] in MASKS_WITHOUT_CLASSES]
    good = sum(r["supported"] for r in scored)
    ran = {r["family"]: r["run"]["ok"] for r in rows if r["run"]}
    return {
        "entries": len(rows),
        "supported": sum(r["supported"] for r in rows),
        "yield_scores": len(scored),
        "yield_scores_supported": good,
        "share": round(good / max(1, len(scored)), 4),
        "share_with_masks_without_classes": round(good / max(1, len(scored) + len(masks)), 4),
        "families_run": len(ran),
        "families_ok": sum(ran.values()),
        "entries_of_families_that_ran": sum(bool(r["run"] and r["run"]["ok"]) for r in rows),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """One line per family, in Markdown."""
    lines = [
        "| family | entries | yields | supported | run with random weights |",
        "|---|---|---|---|---|",
    ]
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(row["family"] if row["supported"] else row["reason"], []).append(row)
    for label, group in sorted(families.items(), key=lambda item: (not item[1][0]["supported"],
                                                                   item[1][0]["yields"] or "")):  # fmt: skip
        first = group[0]
        named = label if first["supported"] else ", ".join(sorted({r["family"] for r in group}))
        said = "yes" if first["supported"] else f"no: {first['reason']}"
        yields = first["yields"] or "no scores"
        lines.append(
            f"| {named} | {len(group)} | {yields} | {said} | "
            f"{_short(first['run']) if first['supported'] else ''} |"
        )
    return "\n".join(lines)


def summary(found: dict[str, Any]) -> str:
    return (
        f"{found['entries']} PyTorch entries; {found['yield_scores_supported']} of the "
        f"{found['yield_scores']} that yield scores of classes, masks, boxes or prompts are supported "
        f"({found['share']:.1%}; {found['share_with_masks_without_classes']:.1%} if Segment Anything, whose "
        f"masks have no class, is counted); {found['families_ok']} of {found['families_run']} families that "
        "can be built here ran without a fault."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-runs", action="store_true", help="only judge the entries")
    parser.add_argument("--only", help="entries whose name matches")
    parser.add_argument("--docs", action="store_true", help="also write docs/models.md")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "bench_output")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = judge(not args.no_runs, args.only)
    found = shares(rows)
    text = f"{summary(found)}\n\n{table(rows)}\n"
    args.output.mkdir(exist_ok=True)
    (args.output / "coverage.json").write_text(json.dumps({**found, "models": rows}, indent=1))
    (args.output / "coverage.md").write_text(text)
    print(f"\n{text}")
    if args.docs:
        write_docs(text)


def write_docs(text: str) -> None:
    """Replaces what is between the two marks of docs/models.md."""
    path = ROOT / "docs" / "models.md"
    begin, end = "<!-- coverage -->", "<!-- /coverage -->"
    before, _, rest = path.read_text().partition(begin)
    path.write_text(f"{before}{begin}\n{text}{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
