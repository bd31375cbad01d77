"""What the tests of faults share: many small pictures, a tiny network, what is stored."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision.transforms as T
from PIL import Image

CLASSES = [f"kind {i}" for i in range(4)]
METHODS = ["gradcam", "layercam"]
LAYER = "3"


def tiny_network(seed=0):
    """Two convolutions and a linear layer: a heatmap in a millisecond."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(16, len(CLASSES)),
        )
    # evidence for every class everywhere: no map is zero
    network[-1].weight.data.abs_()
    return network.eval()


def picture_transforms():
    """The whole picture on 32 x 32 pixels."""
    return T.Compose([T.Resize((32, 32)), T.ToTensor()])


def registered():
    """A loader for ``register_model``."""
    return tiny_network(), picture_transforms(), CLASSES


def write_pictures(folder, count, size=(40, 30)):
    """Writes pictures of noise that depend on their number only; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
        path = folder / f"{number:05}.png"
        Image.fromarray(pixels).save(path, compress_level=1)
        paths.append(str(path))
    return paths


def compute_tiny(samples, **arguments):
    """``compute_cams`` with the tiny network."""
    from operators_common import compute

    given = dict(model=tiny_network(), transforms=picture_transforms(), classes=CLASSES)
    return compute(samples, **{**given, "methods": METHODS, "layers": LAYER, **arguments})


def stored(dataset, key="run"):
    """What a run stored per picture, as it lies in the database; ids of labels are random."""
    found = {}
    for row in dataset._sample_collection.find():
        labels = {}
        for field in (f for f in row if f.startswith(f"{key}_")):
            label = dict(row[field] or {})
            label.pop("_id", None)
            if label.get("map_path"):
                label["map"] = Path(label.pop("map_path")).read_bytes()
            labels[field] = label
        found[os.path.basename(row["filepath"])] = labels
    return found


class Worker:
    """The process that forks, see ``worker.py``."""

    def __init__(self):
        tests = Path(__file__).resolve().parent
        path = os.pathsep.join([str(tests), str(tests.parent)])
        self.process = subprocess.Popen(
            [sys.executable, str(tests / "faults" / "worker.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.read() == ["ready"]

    def read(self):
        """One line that it said, in two words at most."""
        return self.process.stdout.readline().split(maxsplit=1)

    def send(self, dataset, **arguments):
        """Starts a run."""
        given = {"methods": METHODS, "layers": LAYER, "cam_key": "run", **arguments}
        self.process.stdin.write(json.dumps({"dataset": dataset.name, "arguments": given}) + "\n")
        self.process.stdin.flush()

    def begin(self, dataset, **arguments):
        """Starts a run; returns the process id just before the call."""
        self.send(dataset, **arguments)
        said, pid = self.read()
        assert said == "go", pid
        return int(pid)

    def end(self):
        """Waits for the run; returns its seconds, or None if it was killed."""
        seconds = None
        while (line := self.read())[0] != "ended":
            assert line[0] == "done", line
            seconds = float(line[1])
        return seconds

    def close(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait(30)
