"""Cost of the engine as a multiple of a forward, beside pytorch-grad-cam and torchcam.

Run ``python -m benchmarks.engine`` from the checkout; needs torch and torchvision, not FiftyOne.
The base is a forward of the same model under ``inference_mode``, in the same memory format and
precision, on the same batch and in the same process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import warnings

import torch
import torchvision

from benchmarks.timing import interleave, machine
from cam_core import explain

ONE_PASS = [
    "gradcam", "gradcam_guided", "gradcampp", "xgradcam", "hirescam", "gradcam_elementwise", "layercam",
    "cam", "eigencam", "eigengradcam", "fem", "randomcam",
]  # fmt: skip


def build(name: str, device: str, channels_last: bool) -> torch.nn.Module:
    """Builds a network with random weights; a head initialised to zero is drawn again."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval().to(device)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear) and not layer.weight.any():
            torch.nn.init.normal_(layer.weight, std=0.02)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def ours(model, images, methods, precision):
    """A call of the engine."""
    return lambda: explain(model, images, methods=methods, targets="predicted", precision=precision)


def reference_libraries(model, images, layer: str) -> dict:
    """Grad-CAM as the other libraries compute it, where they are installed."""
    found = {}
    target = model.get_submodule(layer)
    with contextlib.suppress(ImportError):
        from pytorch_grad_cam import GradCAM

        def grad_cam():
            with GradCAM(model=model, target_layers=[target]) as cam:
                return cam(input_tensor=images, targets=None)

        found["pytorch-grad-cam GradCAM"] = grad_cam
    with contextlib.suppress(ImportError):
        from torchcam.methods import GradCAM as TorchCam

        def torch_cam():
            with TorchCam(model, target_layer=target) as extractor:
                scores = model(images)
                return extractor(scores.argmax(1).tolist(), scores)

        found["torchcam GradCAM"] = torch_cam
    return found


def contenders(name: str, model, images, precision: str, device: str) -> dict:
    """Everything timed for one network, the base first."""
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]

    def forward():
        with (
            torch.inference_mode(),
            torch.autocast(device, dtype=dtype, enabled=precision != "float32"),
        ):
            return model(images)

    vit = name.startswith("vit")
    many = [m for m in ONE_PASS if m != "cam"] if vit else ONE_PASS
    runs = {
        "forward only": forward,
        "gradcam": ours(model, images, "gradcam", precision),
        f"{len(many)} one-pass methods": ours(model, images, many, precision),
    }
    if not vit:
        runs["ablationcam (closed form)"] = ours(model, images, "ablationcam", precision)
        if precision == "float32":
            runs.update(reference_libraries(model, images, "layer4"))
    return runs


def measure(
    name: str, device: str, batch: int, precision: str, channels_last: bool, rounds: int
) -> list[dict]:
    """Rows of one table."""
    model = build(name, device, channels_last)
    images = torch.randn(batch, 3, 224, 224, device=device)
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    timings = interleave(contenders(name, model, images, precision, device), rounds, device)
    base = timings["forward only"]
    rows = []
    for timing in timings.values():
        middle, low, high = timing.ratio(base)
        rows.append(
            {
                "model": name, "precision": precision, "batch": batch,
                "memory_format": "channels_last" if channels_last else "contiguous",
                "what": timing.name, "ratio": middle, "low": low, "high": high,
                "ms_per_image": 1000 * timing.median / batch,
            }
        )  # fmt: skip
    return rows


def replay_cost(device: str, rounds: int) -> list[dict]:
    """AblationCAM through the replayed tail, on a network without a linear head behind its pooling."""
    model = build("vgg11", device, False)
    images = torch.randn(1, 3, 224, 224, device=device)

    def forward():
        with torch.inference_mode():
            return model(images)

    timings = interleave(
        {
            "forward only": forward,
            "ablationcam (replay, 512 channels)": ours(model, images, "ablationcam", None),
        },
        rounds,
        device,
    )
    middle, low, high = timings["ablationcam (replay, 512 channels)"].ratio(timings["forward only"])
    return [
        {
            "model": "vgg11", "precision": "float32", "batch": 1, "memory_format": "contiguous",
            "what": "ablationcam (replay, 512 channels)", "ratio": middle, "low": low, "high": high,
            "ms_per_image": 1000 * timings["ablationcam (replay, 512 channels)"].median,
        }
    ]  # fmt: skip


def table(rows: list[dict]) -> str:
    """A Markdown table, ratios first."""
    lines = [
        "| network | precision | batch | memory format | what | x forward (low-high) | ms/image |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['precision']} | {r['batch']} | {r['memory_format']} | {r['what']} | "
            f"**{r['ratio']:.2f}** ({r['low']:.2f}-{r['high']:.2f}) | {r['ms_per_image']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs on the CPU and, where there is one, on the GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8, help="images per batch on the CPU")
    parser.add_argument("--gpu-batch", type=int, default=64)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("bench_output/engine.json")
    )
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    saved = {}
    for device in devices:
        batch = args.batch if device == "cpu" else args.gpu_batch
        rows = []
        for name in ("resnet50", "vit_b_16"):
            precisions = ["float32"] if device == "cpu" else ["float32", "bfloat16"]
            for precision in precisions:
                for channels_last in [False] if name.startswith("vit") else [False, True]:
                    rows += measure(name, device, batch, precision, channels_last, args.rounds)
        rows += replay_cost(device, max(3, args.rounds // 3))
        saved[device] = {"machine": machine(device), "rows": rows}
        print(f"\n{machine(device)}; {args.rounds} interleaved rounds\n\n{table(rows)}")
    if "cuda" not in devices:
        print("\nNo GPU was found: GPU ratios were not measured.")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(saved, indent=1))


if __name__ == "__main__":
    main()
