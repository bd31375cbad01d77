"""Size and write speed of ways to store heatmaps: what ``operators/_heatmaps.py`` rests on.

Run ``python -m benchmarks.storage`` from the checkout; needs FiftyOne and its MongoDB. Makes and
deletes a temporary dataset. The maps are real: five methods on the 24 photos by EfficientNet-Lite0
with its ImageNet weights, on grids of 7, 13 and 14 cells.
"""

from __future__ import annotations

import argparse
import functools
import io
import statistics
import tempfile
import time
import uuid
import zlib

import fiftyone as fo
import numpy as np
import torch
from PIL import Image

from benchmarks.timing import machine
from cam_core import explain
from cam_core.maps import normalise, rectify, upsample
from examples.dataset import load_photos
from examples.lite0 import MEAN, STD, lite0_module
from operators import _heatmaps

# cells of the last grid on a side -> input size of the network
INPUTS = {7: 224, 13: 416, 14: 448}
METHODS = ["gradcam", "layercam", "hirescam", "eigencam", "ablationcam"]
# longest side, levels
CANDIDATES = (
    (112, 256), (192, 32), (192, 64), (192, 128), (192, 256), (224, 64), (224, 256),
)  # fmt: skip


@functools.cache
def raw_maps(cells: int) -> list[tuple[torch.Tensor, tuple[int, int]]]:
    """Maps (1, 1, cells, cells), each with the width and height of its photo."""
    module, found = lite0_module(), []
    for photo in load_photos():
        with Image.open(photo["path"]) as opened:
            size, small = opened.size, opened.convert("RGB").resize((INPUTS[cells],) * 2)
        image = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
        result = explain(module, (image - MEAN) / STD, methods=METHODS)
        found += [(raw, size) for raw in result.maps.values() if raw.amax() > 0]
    return found


def heats(cells: int, longest: int) -> list[np.ndarray]:
    """Heatmaps of the photos, before they are rounded."""
    return [
        normalise(upsample(rectify(raw), _heatmaps.heatmap_size(*size, longest)))[0, 0].numpy()
        for raw, size in raw_maps(cells)
    ]


def stored_bytes(array: np.ndarray) -> int:
    """What FiftyOne stores of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return len(zlib.compress(buffer.getvalue()))


def size_table() -> str:
    """Bytes and time to encode for every candidate and grid."""
    grids = " | ".join(f"{c} x {c}: median kB | 90 %" for c in INPUTS)
    lines = [
        f"| longest side | levels | {grids} | ms to encode |",
        "|---" * (3 + 2 * len(INPUTS)) + "|",
    ]
    for longest, levels in CANDIDATES:
        row, seconds = [], []
        for cells in INPUTS:
            sizes = []
            for heat in heats(cells, longest):
                start = time.perf_counter()
                sizes.append(stored_bytes(_heatmaps.quantise(heat, levels)) / 1000)
                seconds.append(time.perf_counter() - start)
            row.append(f"{statistics.median(sizes):.1f} | {np.percentile(sizes, 90):.1f}")
        default = (longest, levels) == (_heatmaps.LONGEST_SIDE, _heatmaps.LEVELS)
        kept = " **(default)**" if default else ""
        spent = 1000 * statistics.median(seconds)
        lines.append(f"| {longest} | {levels}{kept} | {' | '.join(row)} | {spent:.2f} |")
    return "\n".join(lines)


def label(heat: np.ndarray) -> fo.Heatmap:
    """A label as ``compute_cams`` makes it."""
    source = dict(method="gradcam", layer="layer4", target="cat", target_index=3, cam_key="k")
    return _heatmaps.make_label(heat, score=1.0, peak=1.0, status="ok", **source)


def by_writer(dataset, ids, maps, batch, folder=None, threads=None):
    """The plugin's writer: encoding in threads, one atomic update per sample."""
    with _heatmaps.Writer(dataset, folder, threads) as writer:
        for start in range(0, len(ids), batch):
            part = range(start, min(start + batch, len(ids)))
            writer.put({ids[i]: {"one": label(maps[i]), "two": label(maps[i])} for i in part})


def by_set_values(dataset, ids, maps, batch):
    """``set_values`` per field and batch."""
    for start in range(0, len(ids), batch):
        part = range(start, min(start + batch, len(ids)))
        for field in ("one", "two"):
            dataset.set_values(field, {ids[i]: label(maps[i]) for i in part}, key_field="id")


def by_save_context(dataset, ids, maps, batch):
    """FiftyOne's batched saving of samples."""
    rows = dict(zip(ids, maps, strict=True))
    with dataset.save_context(batch_size=batch) as context:
        for sample in dataset.select_fields().iter_samples():
            sample["one"], sample["two"] = label(rows[sample.id]), label(rows[sample.id])
            context.save(sample)


def by_save(dataset, ids, maps, batch):
    """``sample.save()`` for each sample, with float maps: the loop that people write."""
    for sample, heat in zip(dataset, maps, strict=True):
        sample["one"] = fo.Heatmap(map=heat, range=[0, 1])
        sample["two"] = fo.Heatmap(map=heat, range=[0, 1])
        sample.save()


def speed_table(count: int, batch: int, rounds: int = 3) -> str:
    """Samples per second, two heatmap fields each, 192 pixels long from a 7 x 7 grid."""
    real = heats(7, _heatmaps.LONGEST_SIDE)
    maps = [real[i % len(real)] for i in range(count)]
    with tempfile.TemporaryDirectory(prefix="cam51-storage-") as folder:
        ways = {
            "sample.save(), float maps": by_save,
            "save_context": by_save_context,
            "set_values per field": by_set_values,
            "writer, one thread": functools.partial(by_writer, threads=1),
            "writer": by_writer,
            "writer, PNG files": functools.partial(by_writer, folder=folder),
        }
        rates = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                rates[name].append(count / _timed(way, maps, batch))
    base = statistics.median(rates["sample.save(), float maps"])
    lines = ["| way | samples/s, median | lowest | highest | x sample.save() |", "|---" * 5 + "|"]
    for name, found in rates.items():
        middle = statistics.median(found)
        lines.append(
            f"| {name} | {middle:.0f} | {min(found):.0f} | {max(found):.0f} | {middle / base:.1f} |"
        )
    return "\n".join(lines)


def _timed(way, maps, batch) -> float:
    dataset = fo.Dataset(f"cam51-storage-{uuid.uuid4().hex[:8]}")
    try:
        dataset.add_samples(
            [fo.Sample(filepath=f"/none/{i}.jpg") for i in range(len(maps))], progress=False
        )
        _heatmaps.declare_schema(dataset, ["one", "two"])
        ids = dataset.values("id")
        start = time.perf_counter()
        way(dataset, ids, maps, batch)
        return time.perf_counter() - start
    finally:
        dataset.delete()


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    print(f"{machine('cpu')}\n\n{size_table()}\n\n{speed_table(args.samples, args.batch)}")


if __name__ == "__main__":
    main()
