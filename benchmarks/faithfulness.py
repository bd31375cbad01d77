"""What faithfulness costs, and which methods are faithful on real photos.

Run ``python -m benchmarks.faithfulness``. First the cost of every metric on ResNet-18: images pushed
through the network per image and map, and seconds beside a forward of as many images. Then
EfficientNet-Lite0 with real weights on the 24 photos: every method by every metric for the predicted
class, its paired difference to ``randomcam`` with a bootstrap interval (95 %), the agreement of the
methods and its noise floor.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import numpy as np
import torch

from benchmarks.engine import build
from benchmarks.sanity import PHOTOS, chosen_methods
from benchmarks.timing import interleave, machine
from cam_core import agreement, explain, faithfulness, list_methods, noise_floor
from cam_core.metrics.catalogue import METRICS, planned_forwards
from cam_core.stats.resampling import bootstrap_mean, sign_flip_p
from examples.lite0 import lite0_module, lite0_tensor
from examples.measure import load_image

METHODS = ["gradcam", "layercam"]
BASE = "randomcam"
# what the table has unless all methods are asked for
KNOWN = [
    "gradcam", "gradcampp", "xgradcam", "hirescam", "layercam", "gradcam_elementwise", "ablationcam",
    "reciprocam", "fullgrad", "eigengradcam", "eigencam", BASE,
]  # fmt: skip
# what the table of methods shows; max-sensitivity explains every image eleven times more
SHOWN = [name for name in METRICS if name not in ("max_sensitivity", "road_morf", "road_lerf")]
# maps of the grid of seven by seven are compared on it
GRID = (7, 7)


def heats_of(model, images, methods, targets) -> tuple[list[str], torch.Tensor]:
    """Names of the methods and (N, M, H, W) heatmaps, NaN for a map without positive evidence."""
    result = explain(model, images, methods, targets)
    heats = {method: h[:, 0] for (method, _), h in result.heatmaps().items()}
    stacked = torch.stack(list(heats.values()), 1)
    empty = stacked.amax((-2, -1), keepdim=True) <= 0
    return list(heats), stacked.masked_fill(empty, torch.nan)


def maps_again(model, methods, targets):
    """``explain_again`` for the targets of the intact images."""
    return lambda images, rows: heats_of(model, images, methods, targets[rows])[1].nan_to_num()


def costs(batch: int, rounds: int, device: str) -> list[dict]:
    """Images and seconds of each metric alone, beside a forward."""
    model = build("resnet18", device, False)
    images = torch.randn(batch, 3, 224, 224, device=device)
    targets = torch.zeros(batch, dtype=torch.long)
    _, heats = heats_of(model, images, METHODS, targets)
    heats = heats.nan_to_num()
    again = maps_again(model, METHODS, targets)

    def forward():
        with torch.inference_mode():
            return model(images)

    def measured(name):
        return lambda: faithfulness(
            model, images, heats, targets, [name], batch_size=32, explain_again=again
        )

    rows = []
    for name in METRICS:
        timing = interleave({"forward": forward, name: measured(name)}, rounds, device)
        middle, low, high = timing[name].ratio(timing["forward"])
        planned = planned_forwards([name], batch, len(METHODS))[name]
        rows.append(
            {
                "metric": name, "images_per_map": planned / batch / len(METHODS),
                "milliseconds": 1000 * timing[name].median / batch / len(METHODS),
                "forwards": middle / len(METHODS), "low": low / len(METHODS),
                "high": high / len(METHODS),
            }
        )  # fmt: skip
        print(cost_table(rows[-1:]).splitlines()[-1], flush=True)
    return rows


def cost_table(rows: list[dict]) -> str:
    """Markdown, per image and map."""
    lines = [
        f"| metric | images through the network | ms | x forward (low-high), {len(METHODS)} maps |",
        "|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['metric']} | {r['images_per_map']:g} | {r['milliseconds']:.0f} | "
            f"**{r['forwards']:.1f}** ({r['low']:.1f}-{r['high']:.1f}) |"
        )
    return "\n".join(lines)


def methods_on_photos(count: int, methods: list) -> dict:
    """Every method by every metric, its difference to the base, and the agreement of methods."""
    paths = sorted(PHOTOS.glob("*.jpg"))[:count]
    images = torch.stack([lite0_tensor(load_image(p)) for p in paths])
    module = lite0_module()
    with torch.inference_mode():
        targets = module(images).argmax(1)
    start = time.perf_counter()
    names, heats = heats_of(module, images, methods, targets)
    explained = time.perf_counter() - start
    again = maps_again(module, methods, targets)
    start = time.perf_counter()
    found = faithfulness(module, images, heats, targets, SHOWN, explain_again=again)
    seconds = time.perf_counter() - start
    compared = agreement(heats, grid=GRID)
    mean, known = compared.matrix()
    floor = noise_floor(heats, grid=GRID)["spearman"]
    return {
        "photos": len(paths), "names": names, "explain_seconds": explained, "seconds": seconds,
        "forwards": found.forwards, "maps": heats[:, :, 0, 0].isfinite().sum(0).tolist(),
        "values": {name: values.tolist() for name, values in found.values.items()},
        "agreement": mean.tolist(), "known": known.tolist(), "floor": floor.nanmean(0).tolist(),
    }  # fmt: skip


def differences(found: dict) -> dict[str, dict[str, dict]]:
    """{method: {metric: mean, and gain over the base: positive where the method is better}}."""
    base = found["names"].index(BASE)
    rows: dict[str, dict[str, dict]] = {name: {} for name in found["names"]}
    for metric, values in found["values"].items():
        table = np.array(values, float)
        sign = 1 if METRICS[metric].better == "higher" else -1
        for column, name in enumerate(found["names"]):
            gain = sign * (table[:, column] - table[:, base])
            interval = bootstrap_mean(gain)
            rows[name][metric] = {
                "mean": float(np.nanmean(table[:, column])), "gain": interval.mean,
                "low": interval.low, "high": interval.high, "n": interval.n,
                "p": sign_flip_p(gain),
            }  # fmt: skip
    return rows


def methods_table(rows: dict[str, dict[str, dict]]) -> str:
    """Markdown: means, bold where the gain's interval excludes zero, struck where it is worse."""
    metrics = list(next(iter(rows.values())))
    head = " | ".join(f"{m} {'↑' if METRICS[m].better == 'higher' else '↓'}" for m in metrics)
    lines = [f"| method | {head} |", "|---" * (len(metrics) + 1) + "|"]
    for name, row in rows.items():
        cells = []
        for metric in metrics:
            r = row[metric]
            text = f"{r['mean']:.3f} ({r['gain']:+.3f}: {r['low']:+.3f} to {r['high']:+.3f})"
            mark = "**" if r["low"] > 0 else "~~" if r["high"] < 0 else ""
            cells.append(f"{r['mean']:.3f}" if name == BASE else f"{mark}{text}{mark}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def agreement_table(found: dict) -> str:
    """Markdown: mean rank correlation of every pair, and the floor of each method."""
    names = found["names"]
    lines = [f"| | {' | '.join(names)} | another photo's map |", "|---" * (len(names) + 2) + "|"]
    for name, row, floor in zip(names, found["agreement"], found["floor"], strict=True):
        lines.append(f"| {name} | {' | '.join(f'{v:.2f}' for v in row)} | {floor:.2f} |")
    return "\n".join(lines)


def summary(rows: dict[str, dict[str, dict]]) -> str:
    """Which class-discriminative methods beat the base, per metric."""
    discriminative = {m.name for m in list_methods() if m.class_discriminative}
    names = [name for name in rows if name in discriminative and name != BASE]
    lines = []
    for metric in next(iter(rows.values())):
        better = [name for name in names if rows[name][metric]["low"] > 0]
        rest = [name for name in names if name not in better]
        line = f"{metric}: {len(better)} of {len(names)} class-discriminative methods above {BASE}"
        lines.append(f"{line}; not: {', '.join(rest)}" if rest else line)
    return "\n".join(lines)


def main() -> None:
    """Prints the tables and saves the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--all", action="store_true", help="every method that is not slow")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cost = costs(args.batch, args.rounds, device)
    found = methods_on_photos(args.photos, chosen_methods(5.0) if args.all else KNOWN)
    rows = differences(found)
    args.out.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(device), "costs": cost, "photos": found, "methods": rows}
    (args.out / "faithfulness.json").write_text(json.dumps(document, indent=1))
    images = sum(found["forwards"].values())
    print(f"\n{machine(device)}\n\n{cost_table(cost)}\n")
    print(f"{found['photos']} photos x {len(found['names'])} methods: explained in "
          f"{found['explain_seconds']:.0f} s; {images} forwards in {found['seconds']:.0f} s\n")  # fmt: skip
    print(f"{methods_table(rows)}\n\n{summary(rows)}\n\n{agreement_table(found)}")


if __name__ == "__main__":
    main()
