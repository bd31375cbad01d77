"""Files that are broken, odd or huge: recorded with their reason, and the run goes on."""

import importlib
import os
import re
import shutil
import tempfile
import threading
import tracemalloc
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
import torchvision
from faults_common import (
    CLASSES,
    LAYER,
    METHODS,
    compute_tiny,
    picture_transforms,
    tiny_network,
    write_pictures,
)
from operators_common import PLUGIN, prepared
from PIL import Image

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def good(tmp_path):
    """Two pictures that are all right, so that there is something to work with."""
    return write_pictures(tmp_path / "good", 2)


def run_with(make_dataset, good, *odd, **arguments):
    """The summary of a run over good pictures and odd ones, and the dataset."""
    paths = [good[0], *map(str, odd), good[1]]
    dataset = make_dataset(*(fo.Sample(filepath=p) for p in paths))
    return compute_tiny(dataset, **arguments), dataset


def corrupt(path, good):
    Path(path).write_bytes(b"<html>not found</html>")


def truncated(path, good):
    data = Path(good).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])


def empty(path, good):
    Path(path).write_bytes(b"")


def missing(path, good):
    pass


def folder(path, good):
    os.mkdir(path)


def wrong_chunk(path, good):
    data = bytearray(Path(good).read_bytes())
    data[60:80] = bytes(20)
    Path(path).write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (corrupt, "cannot identify image"),
        (truncated, "truncated|broken"),
        (empty, "cannot identify image"),
        (missing, "the file does not exist"),
        (folder, "the file does not exist"),
        (wrong_chunk, "broken|corrupt|error|CRC|truncated|decod"),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_broken_file(make_dataset, good, tmp_path, spoil, reason, workers):
    path = tmp_path / "odd.png"
    spoil(str(path), good[0])
    summary, dataset = run_with(make_dataset, good, path, num_workers=workers)
    assert (summary.status, summary.done) == ("finished", 2)
    assert [f["filepath"] for f in summary.failed] == [str(path)]
    assert re.search(reason, summary.failed[0]["reason"], re.IGNORECASE), summary.failed
    assert len(dataset.exists("run_gradcam")) == 2
    assert dataset.get_run_info("run").config.failures == summary.failed


@pytest.fixture
def nobody():
    """A user who is not asked for by name and may not read everything; who is root becomes that one."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that every user may look into, as pytest's own are root's."""
    folder = Path(tempfile.mkdtemp(prefix="heatmaps-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.name != "posix", reason="permissions are other things there")
def test_file_without_permission(make_dataset, open_folder, request):
    good = write_pictures(open_folder, 3)
    path = open_folder / "locked.png"
    shutil.copy(good[2], path)
    path.chmod(0)
    dataset = make_dataset(*(fo.Sample(filepath=str(p)) for p in (good[0], path, good[1])))
    compute_tiny(dataset, cam_key="first")  # what is loaded late may be root's
    settings = importlib.import_module(f"{PLUGIN}.operators.compute.params").Settings(
        cam_key="run", methods=METHODS, layers=LAYER
    )
    job = importlib.import_module(f"{PLUGIN}.operators.compute.job").CamJob
    job = prepared(job, dataset, settings, tiny_network(), picture_transforms(), CLASSES)
    request.getfixturevalue("nobody")
    with pytest.raises(PermissionError):
        path.open("rb")
    assert list(job.run())
    assert (job.summary.status, job.summary.done) == ("finished", 2)
    assert [f["filepath"] for f in job.summary.failed] == [str(path)]
    assert "PermissionError: [Errno 13] Permission denied" in job.summary.failed[0]["reason"]


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_animation_counts_by_its_first_frame(make_dataset, good, tmp_path, kind):
    frames = [Image.open(p).convert("RGB") for p in good]
    path, first = tmp_path / f"moving.{kind}", tmp_path / f"first.{kind}"
    options = {"lossless": True} if kind == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, **options)
    frames[0].save(first, **options)
    summary, dataset = run_with(make_dataset, good, path, first)
    assert (summary.done, summary.failed) == (4, [])
    moving, still = dataset.values("run_gradcam.map")[1:3]
    # palettes of animations may round colours a little differently
    assert np.abs(moving.astype(int) - still).max() <= (0 if kind != "gif" else 40)


def test_one_pixel(make_dataset, good, tmp_path):
    Image.new("RGB", (1, 1), (200, 10, 60)).save(tmp_path / "dot.png")
    summary, dataset = run_with(make_dataset, good, tmp_path / "dot.png")
    assert (summary.done, summary.failed) == (3, [])
    label = dataset.skip(1).first().run_gradcam
    assert label.status in ("ok", "flat", "zero")
    assert label.map is None or label.map.shape == (192, 192)


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000)])
def test_one_pixel_high(make_dataset, good, tmp_path, size):
    """Both sides resized, it is explained; its short side resized to 256, it is refused before it is made."""
    line = tmp_path / "line.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8)).save(line)
    summary, dataset = run_with(make_dataset, good, line)
    assert (summary.done, summary.failed) == (3, [])
    label = dataset.skip(1).first().run_gradcam
    assert label.status in ("ok", "flat", "zero")
    assert label.map is None or label.map.shape == ((2, 192) if size[1] == 1 else (192, 2))
    usual = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(256),
            torchvision.transforms.CenterCrop(64),
            torchvision.transforms.ToTensor(),
        ]
    )
    summary, _ = run_with(make_dataset, good, line, transforms=usual)
    assert summary.done == 2
    assert re.search(r"the transforms make [\d,]+ x [\d,]+ pixels", summary.failed[0]["reason"])


def test_a_thin_picture_that_the_transforms_would_blow_up(make_dataset, good, tmp_path):
    """Resize(256) makes 256 x 1,280,000 pixels of 1 x 5000: it is refused before it is made."""
    steps = torchvision.transforms
    usual = steps.Compose([steps.Resize(256), steps.CenterCrop(64), steps.ToTensor()])
    for high in (64, 5000):
        Image.new("RGB", (1, high), (200, 10, 60)).save(tmp_path / f"{high}.png")
    thin, thinner = tmp_path / "64.png", tmp_path / "5000.png"
    summary, _ = run_with(make_dataset, good, thin, thinner, transforms=usual)
    assert summary.done == 3
    assert [(f["filepath"], f["reason"]) for f in summary.failed] == [
        (
            str(thinner),
            "ValueError: the transforms make 256 x 1,280,000 pixels of this picture of 1 x 5,000, more "
            "than 50,000,000; pad it, or resize to both sides",
        )
    ]


@pytest.mark.timeout(240)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_waited_for_by_nobody(make_dataset, good, tmp_path):
    """As an image of the run, as a mask, and as any picture that a job opens."""
    os.mkfifo(tmp_path / "pipe.png")
    summary, _ = run_with(make_dataset, good, tmp_path / "pipe.png")
    assert summary.done == 2
    assert [f["reason"] for f in summary.failed] == ["OSError: it is no regular file"]
    rooms = f"{PLUGIN}.operators.data."
    pipe = str(tmp_path / "pipe.png")
    with pytest.raises(OSError, match="it is no regular file"):
        importlib.import_module(rooms + "images").decode_image(pipe)
    masks = importlib.import_module(rooms + "object_masks")
    label = fo.Detection(bounding_box=[0, 0, 1, 1], mask_path=pipe)
    with pytest.raises(masks.Unreadable, match=r"pipe\.png: OSError: it is no regular file"):
        masks.read_mask(label.get_mask, label.mask_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hundred_megapixels(make_dataset, good, tmp_path):
    Image.new("L", (12_500, 8_000), 90).save(tmp_path / "huge.png", compress_level=1)
    summary, dataset = run_with(make_dataset, good, tmp_path / "huge.png")
    assert (summary.done, summary.failed) == (3, [])
    label = dataset.skip(1).first().run_gradcam
    assert label.map is None or label.map.shape == (123, 192)


def test_more_pixels_than_pillow_allows(make_dataset, good, tmp_path):
    """A small file that unfolds to gigabytes is refused before it is unfolded."""
    bomb = tmp_path / "bomb.png"
    Image.new("1", (13_500, 13_500)).save(bomb)  # 182 million, which is 547 MB in RGB
    assert bomb.stat().st_size < 1e6
    tracemalloc.start()
    try:
        summary, _ = run_with(make_dataset, good, bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert summary.done == 2
    assert "DecompressionBombError" in summary.failed[0]["reason"]
    assert peak < 200e6


def test_large_pictures_are_decoded_one_at_a_time(plugin, tmp_path, monkeypatch):
    images = importlib.import_module(f"{PLUGIN}.operators.data.images")
    loader = importlib.import_module(f"{PLUGIN}.operators.data.loader")
    monkeypatch.setattr(images, "_LARGE_PIXELS", 100)
    at_once, most, lock = [0], [0], threading.Lock()
    decoded = images.as_rgb

    def counted(image):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        try:
            threading.Event().wait(0.02)
            return decoded(image)
        finally:
            with lock:
                at_once[0] -= 1

    monkeypatch.setattr(images, "as_rgb", counted)
    rows = [(str(i), p) for i, p in enumerate(write_pictures(tmp_path, 8))]
    assert sum(len(b) for b in loader.Loader(rows, picture_transforms(), 2, 4)) == 8
    assert most[0] == 1
