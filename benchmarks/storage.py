"""Size and write speed of ways to store heatmaps; the choice in ``operators/_heatmaps.py`` rests on it.

Run ``python -m benchmarks.storage`` from the checkout; needs FiftyOne and its MongoDB. Makes and
deletes a temporary dataset.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
import uuid
import zlib

import fiftyone as fo
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention

from operators import _heatmaps

SIZES = ((112, 112), (144, 192), (192, 192), (224, 224))


def heats(cells: int, size: tuple[int, int], count: int) -> np.ndarray:
    """Maps as CAMs look: smooth, partly zero, normalised."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(count, 1, cells, cells, generator=generator)
    raw = (F.avg_pool2d(F.pad(raw, (1,) * 4, mode="reflect"), 3, 1) * 2 + 0.1).relu()
    heat = F.interpolate(raw, size, mode="bilinear")[:, 0]
    return (heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-9)).numpy()


def stored_bytes(array: np.ndarray) -> int:
    """What FiftyOne stores of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return len(zlib.compress(buffer.getvalue()))


def size_table(count: int) -> str:
    """Median bytes and encoding time for every size and number of levels."""
    lines = ["| grid | stored | levels | median kB | ms to encode |", "|---|---|---|---|---|"]
    for cells in (7, 14):
        for size in SIZES:
            maps = heats(cells, size, count)
            for levels in (32, 64, 128, 256):
                start = time.perf_counter()
                sizes = [stored_bytes(_heatmaps.quantise(m, levels)) for m in maps]
                spent = (time.perf_counter() - start) / count * 1000
                kept = " **(default)**" if levels == _heatmaps.LEVELS and 192 in size else ""
                row = f"{statistics.median(sizes) / 1000:.1f} | {spent:.2f}"
                lines.append(f"| {cells} x {cells} | {size[0]} x {size[1]} | {levels}{kept} | {row} |")
    return "\n".join(lines)


def label(heat: np.ndarray) -> fo.Heatmap:
    """A label as ``compute_cams`` makes it."""
    source = dict(method="gradcam", layer="layer4", target="cat", target_index=3, cam_key="k")
    return _heatmaps.make_label(heat, score=1.0, peak=1.0, status="ok", **source)


def by_writer(dataset, ids, maps, batch, folder=None):
    """The plugin's writer: encoding in threads, one atomic update per sample."""
    with _heatmaps.Writer(dataset, folder) as writer:
        for start in range(0, len(ids), batch):
            part = range(start, min(start + batch, len(ids)))
            writer.put({ids[i]: {"one": label(maps[i]), "two": label(maps[i])} for i in part})


def by_set_values(dataset, ids, maps, batch):
    """``set_values`` per field and batch."""
    for start in range(0, len(ids), batch):
        part = range(start, min(start + batch, len(ids)))
        for field in ("one", "two"):
            dataset.set_values(field, {ids[i]: label(maps[i]) for i in part}, key_field="id")


def by_save(dataset, ids, maps, batch):
    """``sample.save()`` for each sample, with float maps: the loop that people write."""
    for sample, heat in zip(dataset, maps, strict=True):
        sample["one"] = fo.Heatmap(map=heat, range=[0, 1])
        sample["two"] = fo.Heatmap(map=heat, range=[0, 1])
        sample.save()


def speed_table(count: int, batch: int) -> str:
    """Samples per second, two heatmap fields each, 144 x 192 from a 7 x 7 grid."""
    maps = heats(7, (144, 192), count)
    folder = tempfile.mkdtemp(prefix="cam51-storage-")
    ways = {
        "writer, database": by_writer,
        "writer, PNG files": lambda *a: by_writer(*a, folder=folder),
        "set_values per field": by_set_values,
        "sample.save(), float maps": by_save,
    }
    lines = ["| way | samples/s | x sample.save() |", "|---|---|---|"]
    rates = {name: count / _timed(way, maps, batch) for name, way in ways.items()}
    for name, rate in rates.items():
        lines.append(f"| {name} | {rate:.0f} | {rate / rates['sample.save(), float maps']:.1f} |")
    return "\n".join(lines)


def _timed(way, maps, batch) -> float:
    dataset = fo.Dataset(f"cam51-storage-{uuid.uuid4().hex[:8]}")
    try:
        dataset.add_samples([fo.Sample(filepath=f"/none/{i}.jpg") for i in range(len(maps))], progress=False)
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
    parser.add_argument("--maps", type=int, default=60)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    print(f"{size_table(args.maps)}\n\n{speed_table(args.samples, args.batch)}")


if __name__ == "__main__":
    main()
