"""Sanity check: with weights re-drawn layer by layer, a map of the network must change.

Run ``python -m benchmarks.sanity``. After Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS
2018: EfficientNet-Lite0 with real weights on the 24 photos; its layers are re-drawn from the head
down, each step keeping those before (cascading). Reported is the rank correlation (Spearman) of every
method's map with the map of the intact network, for the class that the intact network predicted:
near 1 after the whole network was re-drawn means the map does not depend on what was learned.
Batch norms of re-drawn layers get the statistics of the photos, so that the signal still passes.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import torch
from torch import nn

from benchmarks.timing import machine
from cam_core import list_methods, randomisation
from examples.lite0 import lite0_module, lite0_tensor
from examples.measure import load_image

PHOTOS = pathlib.Path(__file__).resolve().parents[1] / "examples" / "photos"
# Hundreds of forwards per image and step: left out, or with fewer.
MOST = 60.0
FEWER = {"scorecam": {"top_channels": 32}, "rise": {"samples": 150}}


def stages(module: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    """Lite0's layers from the head to the stem, in about ten steps."""
    blocks = list(module._blocks)
    steps = [("head", [module._fc]), ("last conv", [module._conv_head, module._bn1])]
    for stop in range(len(blocks), 0, -3):
        start = max(0, stop - 3)
        steps.append((f"blocks {start}-{stop - 1}", blocks[start:stop]))
    return [*steps, ("stem", [module._conv_stem, module._bn0])]


def chosen_methods(limit: float) -> list:
    """What runs on a convolutional network and does not take hours."""
    found: list = []
    for info in list_methods():
        if info.needs_attention:
            continue
        options = {k: v for k, v in FEWER.get(info.name, {}).items() if k in info.options}
        if info.times <= limit or (options and limit >= MOST):
            found.append((info.name, options))
    return found


def run(count: int, limit: float, seed: int) -> dict:
    """Returns ``{"steps": [...], "methods": {method: [mean correlation per step]}}``."""
    paths = sorted(PHOTOS.glob("*.jpg"))[:count]
    images = torch.stack([lite0_tensor(load_image(p)) for p in paths])
    module = lite0_module()
    methods = chosen_methods(limit)
    found = randomisation(module, images, methods, stages=stages(module), seed=seed)
    rows = {method: values for (method, _), values in found.means().items()}
    return {"steps": found.steps, "methods": rows, "photos": len(paths)}


def draw(found: dict, path: pathlib.Path) -> None:
    """A line per method over the steps; methods that have no class are dashed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    classless = {m.name for m in list_methods() if not m.class_discriminative}
    figure, axes = plt.subplots(figsize=(11, 6))
    for number, (method, values) in enumerate(found["methods"].items()):
        style = "--" if method in classless else "-"
        axes.plot([1.0, *values], style, label=method, color=plt.cm.tab20(number % 20), lw=1.3)
    axes.set_xticks(range(len(found["steps"]) + 1), ["intact", *found["steps"]], rotation=30)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set_ylabel("rank correlation with the intact network's map")
    axes.set_title("Weights re-drawn from the head down (dashed: maps without a class)")
    axes.legend(fontsize=7, ncols=2, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def table(found: dict) -> str:
    """Markdown: after the head, after half of the network, after all of it."""
    half = len(found["steps"]) // 2
    lines = [
        f"| method | after {found['steps'][0]} | after {found['steps'][half]} | all re-drawn |",
        "|---|---|---|---|",
    ]
    for method, values in found["methods"].items():
        lines.append(f"| {method} | {values[0]:.2f} | {values[half]:.2f} | {values[-1]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table, saves it with a plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--limit", type=float, default=MOST, help="most times a prediction's cost")
    parser.add_argument("--seed", type=int, default=51)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    found = run(args.photos, args.limit, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "sanity.json").write_text(
        json.dumps({"machine": machine("cpu"), **found}, indent=1)
    )
    draw(found, args.out / "sanity.png")
    print(f"\n{table(found)}\n\n{args.out / 'sanity.png'}")


if __name__ == "__main__":
    main()
