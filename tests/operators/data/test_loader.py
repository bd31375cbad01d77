"""Decoding, geometry and batching of the loader, on files as people have them."""

import importlib
import io
import threading
import time
import weakref

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image, UnidentifiedImageError

PLUGIN = "fiftyone.plugins.orgs.cam51.heatmaps"


@pytest.fixture(scope="module")
def loader(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.data.loader")


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


def gradient(width=40, height=30):
    """Red grows to the right, green downwards: orientation and scale can be read off."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8))


def test_exif_orientation_is_honoured(loader, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    path = save(tmp_path / "turned.jpg", gradient(), exif=exif, quality=95)
    upright = loader.decode_image(path)
    assert upright.size == (30, 40)
    red = np.asarray(upright)[..., 0]
    assert red[-1].mean() > 240
    assert red[0].mean() < 15


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr"])
def test_every_mode_becomes_rgb(loader, tmp_path, mode):
    image = gradient().convert(mode)
    suffix = ".tif" if mode in ("CMYK", "YCbCr") else ".png"
    decoded = loader.decode_image(save(tmp_path / f"image{suffix}", image))
    assert decoded.mode == "RGB"
    assert decoded.size == (40, 30)
    assert np.abs(np.asarray(decoded).mean() - np.asarray(image.convert("RGB")).mean()) < 3


def test_transparent_palette_keeps_its_colours(loader, tmp_path):
    image = gradient().convert("P")
    path = save(tmp_path / "palette.png", image, transparency=0)
    assert np.array_equal(np.asarray(loader.decode_image(path)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 32768, 65535]], np.uint16), [0, 128, 255]),
        (np.array([[0, 255, 1000]], np.uint16), [0, 1, 4]),  # a dark picture stays dark
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
    ],
)
def test_wide_channels_are_scaled_by_their_kind(loader, tmp_path, values, expected):
    path = save(tmp_path / "wide.tif", Image.fromarray(values))
    pixels = np.asarray(loader.decode_image(path))[0, :, 0]
    assert pixels.tolist() == expected


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("scale", [1.0, 255.0, 65535.0, 1e9, -1.0])
def test_a_large_float_picture_is_scaled_as_a_whole(plugin, tmp_path, scale, orientation):
    """It is scaled in pieces, whose range is that of all of them."""
    values = np.random.default_rng(0).random((1500, 1900), np.float32) * np.float32(scale)
    values[0, :3], values[-1, 5] = [np.nan, 0.25, scale], np.nan
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(tmp_path / "f.tif", exif=exif)
    whole = np.nan_to_num(values.astype(np.float64))
    high = whole.max()
    by = 255.0 if scale == 1 else 1.0 if high <= 255 else 255 / (65535 if scale == 65535 else high)
    expected = np.clip(np.rint(whole * by), 0, 255).astype(np.uint8)
    expected = np.rot90(expected, -1) if orientation == 6 else expected
    picture = importlib.import_module(f"{PLUGIN}.operators.data.images").decode_image(
        tmp_path / "f.tif"
    )
    np.testing.assert_array_equal(np.asarray(picture), np.dstack([expected] * 3))


@pytest.mark.parametrize("workers", [0, 2, 6])
def test_images_ahead_are_bounded_by_their_bytes(loader, tmp_path, monkeypatch, workers):
    """Whatever the batch size: of 4,096 all of these would be decoded before the first is used."""
    rows = rows_of(tmp_path, [(300, 200)] * 90)
    size = 300 * 200 * 3 * 4
    monkeypatch.setattr(loader, "_AHEAD_BYTES", 20 * size)
    monkeypatch.setattr(loader, "_WAITING_BYTES", 10 * size)
    lock, alive, most = threading.Lock(), 0, 0

    def gone():
        nonlocal alive
        with lock:
            alive -= 1

    def decoded(picture):
        nonlocal alive, most
        image = T.ToTensor()(picture)
        weakref.finalize(image, gone)
        with lock:
            alive += 1
            most = max(most, alive)
        return image

    seen = []
    for batch in loader.Loader(rows, decoded, batch_size=4096, num_workers=workers):
        time.sleep(0.05)  # a slow model, which the threads would run ahead of
        assert batch.images.nbytes <= 11 * size
        seen += [item.id for item in batch.items]
    assert seen == [sample_id for sample_id, _ in rows]
    assert most <= 20 + 11 + workers + 2


def test_batches_do_not_depend_on_how_far_is_looked_ahead(loader, tmp_path, monkeypatch):
    rows = rows_of(tmp_path, [(40, 30), (30, 40), (64, 64)] * 10)

    def batches():
        return [
            [item.id for item in batch.items]
            for batch in loader.Loader(rows, T.ToTensor(), batch_size=4, num_workers=3)
        ]

    first = batches()
    monkeypatch.setattr(loader, "_AHEAD_BYTES", 1)
    assert batches() == first


def test_first_frame_of_an_animation(loader, tmp_path):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    path = save(tmp_path / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    assert np.asarray(loader.decode_image(path))[0, 0].tolist() == [255, 0, 0]


def test_truncated_file_is_an_error(loader, tmp_path):
    buffer = io.BytesIO()
    gradient(200, 200).save(buffer, "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(buffer.getvalue()[:400])
    with pytest.raises(OSError):
        loader.decode_image(str(path))


def rows_of(tmp_path, sizes):
    return [(str(i), save(tmp_path / f"{i}.png", gradient(w, h))) for i, (w, h) in enumerate(sizes)]


@pytest.mark.parametrize("workers", [0, 3])
def test_equal_sizes_are_batched_together(loader, tmp_path, workers):
    rows = rows_of(tmp_path, [(40, 30), (30, 40)] * 5)
    batches = list(loader.Loader(rows, T.ToTensor(), batch_size=4, num_workers=workers))
    assert sorted(len(b) for b in batches) == [1, 1, 4, 4]
    for batch in batches:
        assert batch.images.shape[0] == len(batch)
        assert {i.window.image for i in batch.items} == {tuple(batch.images.shape[-2:])}
    assert sorted(i.id for b in batches for i in b.items) == sorted(r[0] for r in rows)


def test_many_sizes_keep_memory_bounded(loader, tmp_path):
    rows = rows_of(tmp_path, [(20 + i, 20) for i in range(30)])
    sizes = [len(b) for b in loader.Loader(rows, T.ToTensor(), batch_size=2, num_workers=0)]
    assert sum(sizes) == 30  # each image its own size: still every one of them comes out


def test_bad_files_are_failures_and_the_rest_goes_on(loader, tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    rows = [
        ("empty", str(tmp_path / "empty.jpg")),
        ("good", save(tmp_path / "good.png", gradient())),
        ("text", str(tmp_path / "text.jpg")),
        ("gone", str(tmp_path / "gone.jpg")),
    ]
    outcomes = list(loader.Loader(rows, T.ToTensor(), batch_size=4, num_workers=2))
    failures = {o.id: o.reason for o in outcomes if isinstance(o, loader.Failure)}
    assert set(failures) == {"empty", "text", "gone"}
    assert "does not exist" in failures["gone"]
    assert "cannot identify" in failures["text"]
    assert [i.id for o in outcomes if not isinstance(o, loader.Failure) for i in o.items] == [
        "good"
    ]


def test_transform_that_returns_no_tensor_is_named(loader, tmp_path):
    rows = rows_of(tmp_path, [(40, 30)])
    (failure,) = loader.Loader(rows, lambda image: np.asarray(image), batch_size=1, num_workers=0)
    assert "transforms must return a float tensor" in failure.reason


@pytest.mark.parametrize("size", [(500, 333), (100, 400), (3000, 200)])
def test_window_of_fiftyones_own_steps(loader, size):
    import fiftyone.utils.torch as fout

    steps = [
        fout.ToPILImage(),
        fout.MinResize(224),
        fout.MaxResize(1024),
        fout.PatchSize(14),
        T.ToTensor(),
    ]
    transforms = T.Compose(steps)
    width, height = size
    known = loader.TransformGeometry(transforms).window(height, width)
    hidden = loader.TransformGeometry(lambda image: transforms(image)).window(height, width)
    for side in ("left", "top", "right", "bottom"):
        assert getattr(known, side) == pytest.approx(getattr(hidden, side), abs=0.01 * max(size))


def test_rotation_is_refused(loader):
    geometry = loader.TransformGeometry(lambda image: T.ToTensor()(image.rotate(30)))
    with pytest.raises(ValueError, match="turns the picture by 30 degrees, as measured"):
        geometry.window(60, 80)


def test_letterbox_is_found_by_the_probe(loader):
    def letterbox(image):
        canvas = Image.new("RGB", (64, 64), (114, 114, 114))
        canvas.paste(image.resize((64, 32)), (0, 16))
        return T.ToTensor()(canvas)

    window = loader.TransformGeometry(letterbox).window(100, 200)
    assert window.left == pytest.approx(0, abs=2)
    assert window.right == pytest.approx(200, abs=2)
    assert window.top == pytest.approx(-50, abs=2)
    assert window.bottom == pytest.approx(150, abs=2)
    assert torch.is_tensor(letterbox(gradient()))


def test_what_cannot_be_read_installs_nothing(loader, tmp_path, monkeypatch):
    """Ultralytics patches Pillow to install a package when a file cannot be read."""
    patches = pytest.importorskip("ultralytics.utils.patches")
    checks = pytest.importorskip("ultralytics.utils.checks")
    tried = []
    monkeypatch.setattr(checks, "check_requirements", lambda *a, **k: tried.append(a))
    monkeypatch.setattr(Image, "open", patches.image_open)
    path = tmp_path / "broken.png"
    path.write_bytes(b"no picture")
    with pytest.raises(UnidentifiedImageError):
        loader.decode_image(str(path))
    assert not tried
