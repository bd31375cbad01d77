"""Cost per sample and resident memory of a run, from a thousand samples to fifty thousand.

Run ``python -m benchmarks.growth`` from the checkout; needs FiftyOne with its MongoDB. A tiny network on tiny
images, so that what is not the network shows. Every size runs in processes of its own, interleaved; the
time is the whole call's, from checking to the summary. ``--quick`` goes up to five thousand.

Writes ``bench_output/growth.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

import numpy as np
from PIL import Image

from benchmarks.timing import save, spread, table

SIZES = [1000, 5000, 20_000, 50_000]
_PICTURES = 50
_SIDE = 24
# What the growth of the cost per sample may be.
TARGET = 1.10


def one_run(count: int, folder: pathlib.Path) -> dict:
    """Seconds and memory of one run, in this process."""
    import fiftyone as fo
    import fiftyone.operators as foo
    import psutil
    import torch

    from examples.plugin_link import link_plugin

    link_plugin()
    compute_cams, process = foo.get_operator("@cam51/heatmaps/compute_cams"), psutil.Process()
    network, prepare = tiny_network(torch), to_tensor(torch)
    given = dict(model=network, transforms=prepare, layers="2", cam_key="bench", batch_size=32)
    with_samples(fo, folder, 64, lambda d: compute_cams(d, progress=False, **given))  # warm
    seen = {}

    def timed(dataset):
        start = time.perf_counter()
        summary = compute_cams(dataset, progress=False, **given)
        seen["seconds"] = time.perf_counter() - start
        seen["resident_mb"] = process.memory_info().rss / 1e6
        if summary.done != count:
            raise RuntimeError(f"not everything was explained: {summary}")

    before = process.memory_info().rss / 1e6
    with_samples(fo, folder, count, timed)
    return {"samples": count, "before_mb": before, "peak_mb": peak_mb(), **seen}


def peak_mb() -> float:
    """The most memory that this process had so far."""
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most / 1e3


def with_samples(fo, folder: pathlib.Path, count: int, use) -> None:
    """Calls a function with a dataset of so many samples, and deletes it."""
    dataset = fo.Dataset(f"cam51-bench-{uuid.uuid4().hex[:8]}")
    try:
        for start in range(0, count, 5000):
            numbers = range(start, min(count, start + 5000))
            rows = [fo.Sample(filepath=str(folder / f"{i % _PICTURES}.png")) for i in numbers]
            dataset.add_samples(rows, progress=False)
            del rows
        use(dataset)
    finally:
        dataset.delete()


def tiny_network(torch):
    """A heatmap in a fraction of a millisecond."""
    torch.manual_seed(0)
    layers = torch.nn
    return layers.Sequential(
        layers.Conv2d(3, 8, 3, stride=2, padding=1),
        layers.ReLU(),
        layers.Conv2d(8, 8, 3, stride=2, padding=1),
        layers.ReLU(),
        layers.AdaptiveAvgPool2d(1),
        layers.Flatten(),
        layers.Linear(8, 4),
    ).eval()


def to_tensor(torch):
    """The whole picture as it is."""
    from torchvision import transforms

    return transforms.Compose([transforms.Resize((_SIDE, _SIDE)), transforms.ToTensor()])


def write_pictures(folder: pathlib.Path) -> None:
    """Pictures of noise."""
    for number in range(_PICTURES):
        pixels = np.random.default_rng(number).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def measure(sizes: list[int], rounds: int) -> list[dict]:
    """Every size once per round, each in a process of its own."""
    found: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="cam51-growth-") as name:
        write_pictures(pathlib.Path(name))
        for _ in range(rounds):
            for count in sizes:
                command = [sys.executable, "-m", "benchmarks.growth", "--one", str(count)]
                done = subprocess.run(
                    [*command, "--folder", name], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise RuntimeError(f"the run of {count} samples failed:\n{done.stderr[-3000:]}")
                found.append(json.loads(done.stdout.strip().splitlines()[-1]))
                print(found[-1], file=sys.stderr, flush=True)
    return found


def report(found: list[dict], sizes: list[int], rounds: int) -> str:
    """One row per size, the ratio to the smallest first."""
    by_size = {n: [r for r in found if r["samples"] == n] for n in sizes}
    cost = {n: [1000 * r["seconds"] / n for r in rows] for n, rows in by_size.items()}
    lines = []
    for n in sizes:
        each = [a / b for a, b in zip(cost[n], cost[sizes[0]], strict=True)]
        memory = statistics.median(r["resident_mb"] for r in by_size[n])
        grown = statistics.median(r["resident_mb"] - r["before_mb"] for r in by_size[n])
        lines.append(
            [
                f"{n:,}",
                spread(each, bold=True),
                spread(cost[n]),
                f"{memory:.0f}",
                f"{grown:+.0f}",
            ]
        )
    largest = statistics.median(cost[sizes[-1]]) / statistics.median(cost[sizes[0]])
    met = "met" if largest <= TARGET else "missed"
    header = [
        "samples",
        f"x cost at {sizes[0]:,} (low-high)",
        "ms per sample",
        "resident MB",
        "grown by",
    ]
    said = f"{rounds} rounds; target: at most x{TARGET:.2f} at {sizes[-1]:,} samples: {met}"
    return f"{said}\n\n{table(header, lines)}"


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="up to 5,000 samples, one round")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one_run(args.one, args.folder)))
        return
    if args.quick:
        args.sizes, args.rounds = [n for n in args.sizes if n <= 5000], 1
    found = measure(args.sizes, args.rounds)
    save("growth", "Growth", found, report(found, args.sizes, args.rounds), args.out)


if __name__ == "__main__":
    main()
