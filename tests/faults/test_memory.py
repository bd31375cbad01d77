"""Memory does not grow with the number of samples."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = """
import sys; sys.path[:0] = [{tests!r}, {root!r}]
import json, pathlib
import fiftyone as fo
import psutil
from faults_common import CLASSES, LAYER, picture_transforms, tiny_network, write_pictures
from operators_common import PLUGIN, operator, prepared
import importlib

if __name__ == "__main__":
    paths = write_pictures(pathlib.Path({folder!r}), 50, size=(24, 24))
    dataset = fo.Dataset({name!r})
    count = {count}
    for start in range(0, count, 5000):
        rows = [fo.Sample(filepath=paths[i % 50]) for i in range(start, min(count, start + 5000))]
        dataset.add_samples(rows, progress=False)
        del rows
    operator()
    rooms = PLUGIN + ".operators."
    Settings = importlib.import_module(rooms + "compute.params").Settings
    CamJob = importlib.import_module(rooms + "compute.job").CamJob
    settings = Settings(cam_key="run", methods="gradcam", layers=LAYER, heatmap_size=24, batch_size=32)
    job = prepared(CamJob, dataset, settings, tiny_network(), picture_transforms(), CLASSES)
    process, seen = psutil.Process(), []
    for state in job.run():
        seen.append((state.done, process.memory_info().rss / 1e6))
    print(json.dumps({{"done": job.summary.done, "seen": seen}}))
    dataset.delete()
"""


def resident(tmp_path, name, count):
    """(samples done, resident MB) after each batch of a run in a process of its own."""
    tests = Path(__file__).resolve().parents[1]
    text = SCRIPT.format(
        tests=str(tests), root=str(tests.parent), folder=str(tmp_path), name=name, count=count
    )
    script = tmp_path / "memory.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True, text=True, timeout=1500, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["done"] == count
    return said["seen"]


def growth(seen, warm):
    """MB between what it was once warm and the most after that."""
    return max(mb for done, mb in seen if done >= warm) - next(
        mb for done, mb in seen if done >= warm
    )


def test_two_thousand_images(plugin, tmp_path):
    seen = resident(tmp_path, "cam51-memory", 2000)
    assert growth(seen, warm=640) < 40, seen[::8]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_thousand_images(plugin, tmp_path):
    seen = resident(tmp_path, "cam51-memory-long", 50_000)
    print("grew by", round(growth(seen, warm=2000), 1), "MB from", seen[62], "to", seen[-1])
    assert growth(seen, warm=2000) < 100, seen[:: len(seen) // 20]


DECODED = """
import resource, sys
sys.path.insert(0, {root!r})
from operators.data.images import decode_image

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = peak()
picture = decode_image({path!r})
print((peak() - before) / (picture.width * picture.height))
"""


@pytest.mark.parametrize(
    ("values", "most"),
    [
        (lambda rng, size: rng.random(size, np.float32), 13),  # 4 of them are the file's
        (lambda rng, size: (rng.random(size) * 65535).astype(np.uint16), 11),  # 2
        (lambda rng, size: (rng.random(size) * 2e9).astype(np.int32), 13),  # 4
        (
            lambda rng, size: (rng.random((*size, 3)) * 255).astype(np.uint8),
            11,
        ),  # 4, as Pillow has them
    ],
)
def test_bytes_a_pixel_of_a_decoded_picture(tmp_path, values, most):
    """A float TIFF took 33, of 36 megapixels 1.2 GB; as float64 in one piece it is 8 for each step."""
    path = tmp_path / "large.tif"
    Image.fromarray(values(np.random.default_rng(0), (3000, 4000))).save(path)
    root = str(Path(__file__).resolve().parents[2])
    script = DECODED.format(root=root, path=str(path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout) < most
