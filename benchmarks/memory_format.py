"""A forward with images in ``channels_last`` against contiguous ones: ``python -m benchmarks.memory_format``.

What ``memory_format="auto"`` of ``compute_cams`` chooses stands beside each network of torchvision (random
weights, 224 pixels); needs torch and torchvision only. Writes ``bench_output/memory_format.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import pathlib
import warnings

import torch
import torchvision

from benchmarks.timing import interleave, save, table
from operators.compute.memory_format import CHANNELS_LAST, faster

NETWORKS = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t",
    "mnasnet1_0", "mobilenet_v3_large", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d",
    "shufflenet_v2_x1_0", "squeezenet1_1", "swin_t", "vgg16", "vit_b_16",
]  # fmt: skip


def measure(name: str, args: argparse.Namespace) -> dict:
    """One network's row: how many times faster its forward is in ``channels_last``."""
    network = torchvision.models.get_model(name, weights=None).eval().to(args.device)
    images = torch.rand(args.batch, 3, 224, 224, device=args.device)
    last = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        timings = interleave(
            {"contiguous": lambda: network(images), CHANNELS_LAST: lambda: network(last)},
            args.rounds,
            args.device,
        )
    median, low, high = timings["contiguous"].ratio(timings[CHANNELS_LAST])
    chosen = faster(network, images.device, "float32")
    return {"model": name, "median": median, "low": low, "high": high, "chosen": chosen}


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    rows = [measure(name, args) for name in NETWORKS]
    text = table(
        ["network", "times faster in channels_last (low-high)", "`auto` takes"],
        [
            [r["model"], f"**{r['median']:.2f}** ({r['low']:.2f}-{r['high']:.2f})", r["chosen"]]
            for r in rows
        ],
    )
    said = f"Batches of {args.batch}, 224 px, {args.device}; {args.rounds} interleaved rounds."
    save("memory_format", "Memory format", rows, f"{said}\n\n{text}", args.out)


if __name__ == "__main__":
    main()
