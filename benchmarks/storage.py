"""Size, write and read speed of ways to store heatmaps: what ``operators/data/heatmap_writer.py`` rests on.

Run ``python -m benchmarks.storage`` from the checkout; needs FiftyOne and its MongoDB. Makes and
deletes a temporary dataset. The maps are real: five methods on the 24 photos by EfficientNet-Lite0
with its ImageNet weights, on grids of 7, 13 and 14 cells.

Writes ``bench_output/storage.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import pathlib
import statistics
import tempfile
import time
import uuid
import zlib

import fiftyone as fo
import numpy as np
import torch
from PIL import Image

from benchmarks.plugin_module import plugin
from benchmarks.timing import save, spread, table
from cam_core import explain
from cam_core.spatial.maps import normalise, rectify, upsample
from examples.dataset import load_photos
from examples.lite0 import MEAN, STD, lite0_module

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


def writer_module():
    """``operators.data.heatmap_writer``, loaded when it is first needed."""
    return plugin("operators.data.heatmap_writer")


def heats(cells: int, longest: int) -> list[np.ndarray]:
    """Heatmaps of the photos, before they are rounded."""
    return [
        normalise(upsample(rectify(raw), writer_module().heatmap_size(*size, longest)))[
            0, 0
        ].numpy()
        for raw, size in raw_maps(cells)
    ]


def stored_bytes(array: np.ndarray) -> int:
    """What FiftyOne stores of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return len(zlib.compress(buffer.getvalue()))


def sizes_found(grids: list[int]) -> list[dict]:
    """Bytes and time to encode for every candidate and grid."""
    found = []
    for longest, levels in CANDIDATES:
        row, seconds = {}, []
        for cells in grids:
            sizes = []
            for heat in heats(cells, longest):
                start = time.perf_counter()
                sizes.append(stored_bytes(writer_module().quantise(heat, levels)) / 1000)
                seconds.append(time.perf_counter() - start)
            row[cells] = [statistics.median(sizes), float(np.percentile(sizes, 90))]
        spent = 1000 * statistics.median(seconds)
        found.append({"longest": longest, "levels": levels, "kb": row, "ms_to_encode": spent})
    return found


def size_table(found: list[dict], grids: list[int]) -> str:
    """What :func:`sizes_found` returned, as Markdown."""
    lines = []
    for row in found:
        default = (row["longest"], row["levels"]) == (
            writer_module().LONGEST_SIDE,
            writer_module().LEVELS,
        )
        name = f"{row['longest']} @ {row['levels']}" + (" **(default)**" if default else "")
        sizes = [f"{row['kb'][c][0]:.1f} / {row['kb'][c][1]:.1f}" for c in grids]
        lines.append([name, *sizes, f"{row['ms_to_encode']:.2f}"])
    header = ["longest side @ levels", *(f"{c} x {c}: kB, median / 90 %" for c in grids)]
    return table([*header, "ms to encode"], lines)


def label(heat: np.ndarray) -> fo.Heatmap:
    """A label as ``compute_cams`` makes it."""
    source = dict(method="gradcam", layer="layer4", target="cat", target_index=3, cam_key="k")
    return writer_module().make_label(heat, score=1.0, peak=1.0, status="ok", **source)


def by_writer(dataset, ids, maps, batch, folder=None, threads=None):
    """The plugin's writer: encoding in threads, one atomic update per sample."""
    with writer_module().Writer(dataset, folder, threads) as writer:
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


def read(dataset) -> None:
    """Reads every heatmap back as an array, as a script would."""
    for sample in dataset.iter_samples():
        for name in ("one", "two"):
            sample[name].get_map()


def bytes_per_map(dataset, folder: str) -> float:
    """Bytes of a heatmap: its label in the database, and its file where it has one."""
    labels = [{"$bsonSize": {"$ifNull": [f"${name}", {}]}} for name in ("one", "two")]
    steps = [{"$group": {"_id": None, "all": {"$sum": {"$add": labels}}}}]
    stored = next(iter(dataset._sample_collection.aggregate(steps)))["all"]
    files = [os.path.join(where, f) for where, _, names in os.walk(folder) for f in names]
    return (stored + sum(map(os.path.getsize, files))) / (2 * dataset.count())


def speeds_found(count: int, batch: int, rounds: int) -> list[dict]:
    """Samples per second, two heatmap fields each, 192 pixels long from a 7 x 7 grid."""
    real = heats(7, writer_module().LONGEST_SIDE)
    maps = [real[i % len(real)] for i in range(count)]
    ways = {
        BASE: by_save,
        "save_context": by_save_context,
        "set_values per field": by_set_values,
        "writer, one thread": functools.partial(by_writer, threads=1),
        "writer": by_writer,
        "writer, PNG files": by_writer,
    }
    found = {name: {"way": name, "write": [], "read": []} for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory(prefix="cam51-storage-") as folder:
                files = folder if name.endswith("files") else None
                given = functools.partial(way, folder=files) if files else way
                write, back, size = _timed(given, maps, batch, folder)
            found[name]["write"].append(count / write)
            found[name]["read"].append(count / back)
            found[name]["bytes_per_map"] = size
    return list(found.values())


BASE = "sample.save(), float maps"


def speed_table(found: list[dict]) -> str:
    """What :func:`speeds_found` returned, as Markdown, ratios first."""
    base, lines = found[0], []
    for row in found:
        cells = [row["way"]]
        for kind in ("write", "read"):
            each = [a / b for a, b in zip(row[kind], base[kind], strict=True)]
            cells.append(spread(each, 1, bold=True))
            cells.append(f"{statistics.median(row[kind]):.0f}")
        lines.append([*cells, f"{row['bytes_per_map'] / 1000:.1f}"])
    header = [
        "way", f"writing, x {BASE}", "samples/s", f"reading, x {BASE}", "samples/s",
        "kB per map with its attributes",
    ]  # fmt: skip
    return table(header, lines)


def _timed(way, maps, batch, folder) -> tuple[float, float, float]:
    """Seconds to write, seconds to read, bytes of a map."""
    dataset = fo.Dataset(f"cam51-storage-{uuid.uuid4().hex[:8]}")
    try:
        dataset.add_samples(
            [fo.Sample(filepath=f"/none/{i}.jpg") for i in range(len(maps))], progress=False
        )
        writer_module().declare_schema(dataset, ["one", "two"])
        ids = dataset.values("id")
        start = time.perf_counter()
        way(dataset, ids, maps, batch)
        written = time.perf_counter() - start
        dataset.reload()  # what is still in memory is not read
        start = time.perf_counter()
        read(dataset)
        return written, time.perf_counter() - start, bytes_per_map(dataset, folder)
    finally:
        dataset.delete()


def main() -> None:
    """Prints and saves both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one grid, 100 samples, two rounds")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    grids = list(INPUTS)
    if args.quick:
        grids, args.samples, args.rounds = grids[:1], 100, 2
    sizes = sizes_found(grids)
    speeds = speeds_found(args.samples, args.batch, args.rounds)
    said = f"{args.samples} samples with two heatmap fields each; {args.rounds} interleaved rounds."
    text = f"{size_table(sizes, grids)}\n\n{said}\n\n{speed_table(speeds)}"
    save("storage", "Storage", [*sizes, *speeds], text, args.out)


if __name__ == "__main__":
    main()
