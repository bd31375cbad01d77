"""Size and speed of stored heatmaps: what the defaults of ``operators/_heatmaps.py`` rest on.

Run ``python -m benchmarks.storage`` from the checkout. The maps are real: five methods on the 24
photos by EfficientNet-Lite0 with its ImageNet weights, on grids of 7, 13 and 14 cells. A size is
what FiftyOne stores: ``zlib(np.save(map))``. ``--write`` also times ways of writing to MongoDB, on a
dataset of its own that is deleted at the end.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import machine
from cam_core import explain
from cam_core.maps import normalise, rectify, upsample
from examples.dataset import load_photos
from examples.lite0 import MEAN, STD, lite0_module

ROOT = Path(__file__).resolve().parents[1]
# input size -> cells of the last grid on a side
INPUTS = {224: 7, 416: 13, 448: 14}
METHODS = ["gradcam", "layercam", "hirescam", "eigencam", "ablationcam"]
CANDIDATES = [(112, 256), (192, 32), (192, 64), (192, 128), (192, 256), (224, 64), (224, 256)]


def plugin_room(name: str):
    """A room of the operators, as FiftyOne loads it."""
    import importlib

    from fiftyone.plugins import PluginDefinition
    from fiftyone.plugins.context import PluginContext

    context = PluginContext(PluginDefinition.from_disk(str(ROOT / "fiftyone.yml")))
    context.register_all()
    return importlib.import_module(f"fiftyone.plugins.orgs.cam51.heatmaps.operators.{name}")


def real_maps(input_size: int) -> list[tuple[torch.Tensor, tuple[int, int]]]:
    """Raw maps (1, 1, h, w) with the (width, height) of their photos."""
    module, found = lite0_module(), []
    for photo in load_photos():
        with Image.open(photo["path"]) as opened:
            size, small = opened.size, opened.convert("RGB").resize((input_size, input_size))
        image = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
        result = explain(module, (image - MEAN) / STD, methods=METHODS)
        found += [(raw, size) for raw in result.maps.values() if raw.amax() > 0]
    return found


def stored_bytes(array: np.ndarray) -> int:
    """What FiftyOne stores for an array."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return len(zlib.compress(buffer.getvalue()))


def sizes(heatmaps) -> None:
    """Prints bytes and encoding time for every candidate and grid."""
    maps = {cells: real_maps(size) for size, cells in INPUTS.items()}
    header = " | ".join(f"{c}x{c}: median, 90 %" for c in maps)
    print(f"Bytes per heatmap, {len(maps[7])} maps per grid; ms to round, save and compress\n")
    print(f"| longest side | levels | {header} | ms |\n|---|---|{'---|' * len(maps)}---|")
    for longest, levels in CANDIDATES:
        row, seconds = [], []
        for group in maps.values():
            counts = []
            for raw, (width, height) in group:
                size = heatmaps.heatmap_size(width, height, longest)
                heat = normalise(upsample(rectify(raw), size))[0, 0].numpy()
                start = time.perf_counter()
                counts.append(stored_bytes(heatmaps.quantise(heat, levels)))
                seconds.append(time.perf_counter() - start)
            row.append(f"{statistics.median(counts):,.0f}, {np.percentile(counts, 90):,.0f}")
        print(f"| {longest} | {levels} | {' | '.join(row)} | {1000 * statistics.median(seconds):.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="also time writing to MongoDB")
    parser.add_argument("--samples", type=int, default=1000, help="samples written per way")
    arguments = parser.parse_args()
    heatmaps = plugin_room("_heatmaps")
    print(machine("cpu") + "\n")
    sizes(heatmaps)


if __name__ == "__main__":
    main()
