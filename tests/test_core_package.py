"""``cam_core`` as a package of its own: ``pip install <this repository>``."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml
from processes_common import ROOT
from sources_common import imports, sources

tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXPLAIN = """
import sys

sys.modules["fiftyone"] = sys.modules["eta"] = None  # as where it is not installed
import torch, cam_core
from cam_core import explain, list_methods

print(cam_core.__file__)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5),
).eval()
images = torch.rand(2, 3, 32, 32)
result = explain(net, images, methods=["gradcam", "layercam"], layers=["1"])
maps = result.maps["gradcam", "1"][:, 0]
activations = net[:2](images)  # the score is linear in their means, so the gradient is known
weights = net[4].weight[result.targets[:, 0]] / activations[0, 0].numel()
expected = torch.einsum("nc,nchw->nhw", weights, activations)
print(tuple(maps.shape), torch.allclose(maps, expected, atol=1e-6), len(list_methods()) > 30)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that pip builds of this repository; built from a copy, as building leaves folders."""
    pytest.importorskip("setuptools", "77")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "LICENSE", "README.md", "__init__.py"):
        shutil.copy(ROOT / name, copy / name)
    leave = shutil.ignore_patterns("__pycache__")
    for room in ("cam_core", "operators", "tools", "examples"):
        shutil.copytree(ROOT / room, copy / room, ignore=leave)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run(
        [*command, "-w", str(folder), str(copy)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_has_the_core_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    own = {str(path.relative_to(ROOT)) for path in sources("cam_core")}
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == own


def test_it_explains_where_there_is_no_fiftyone(wheel, tmp_path):
    target = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    environ = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", EXPLAIN],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    where, what = done.stdout.strip().splitlines()
    assert where.startswith(str(target))
    assert what == "(2, 15, 15) True True"


def test_it_requires_what_it_imports():
    names = {"cv2": "opencv-python-headless", "sklearn": "scikit-learn"}
    listed = {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower() for line in PROJECT["dependencies"]}
    found = {module.partition(".")[0] for path in sources("cam_core") for module in imports(path)}
    optional = {
        "timm",
        "transformers",
        "ultralytics",
        "rfdetr",
        "PIL",
    }  # with torchvision, or only recognised
    third = {
        names.get(n, n) for n in found - set(sys.stdlib_module_names) - {"cam_core"} - optional
    }
    assert third == listed
    for name in listed:
        assert importlib.metadata.version(name)


def test_the_versions_are_the_same_in_both_places():
    manifest = yaml.safe_load((ROOT / "fiftyone.yml").read_text(encoding="utf-8"))
    assert PROJECT["version"] == manifest["version"]
    floors = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in PROJECT["dependencies"] if line in floors} >= {
        "torch>=2.4",
        "numpy>=1.26",
    }
