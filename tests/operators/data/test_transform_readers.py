"""Readers that open the file themselves, and transforms of one image's own values: where heat lies.

Each dataset has one bright square in each image; the network's heat is where its input is bright.
"""

import importlib
import os

import cv2
import fiftyone as fo
import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from operators_common import PLUGIN, operator
from PIL import Image, ImageOps
from processes_common import ROOT
from torch import nn

SIZE, SQUARE = (48, 64), (slice(6, 14), slice(44, 52))  # centred at (.75, .21) of the image
PLACE = (10 / 48, 48 / 64)


class Bright(nn.Module):
    """Class 0 is what is brighter than usual; its heat is there."""

    def __init__(self, channels=1, level=0.5):
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 4, 4)
        self.fc = nn.Linear(1, 2)
        with torch.no_grad():
            self.conv.weight.fill_(1 / (16 * channels))
            self.conv.bias.fill_(-level)
            self.fc.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            self.fc.bias.zero_()

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


def values(seed=0):
    """An image with a bright square, in [0, 1]."""
    image = np.random.default_rng(seed).random(SIZE) * 0.1
    image[SQUARE] = 0.9
    return image


def write_16(path, image):
    Image.fromarray((image * 60000).astype(np.uint16)).save(path)


def write_12(path, image):
    Image.fromarray((image * 4095).astype(np.uint16)).save(path)


def write_float(path, image):
    Image.fromarray((image * 3.5 - 1).astype(np.float32)).save(path)


def write_deep_colour(path, image):
    cv2.imwrite(
        str(path), (np.stack([image * 0.9, image, image * 0.8], -1) * 60000).astype(np.uint16)
    )


def write_alpha(path, image):
    grey = (image * 255).astype(np.uint8)
    Image.fromarray(np.stack([grey, grey, grey, np.full_like(grey, 255)], -1)).save(path)


@pytest.fixture
def images(make_dataset, tmp_path):
    """Makes a dataset of three images by a writer."""

    def make(write, suffix):
        paths = [str(tmp_path / f"film {i}{suffix}") for i in range(3)]
        for i, path in enumerate(paths):
            write(path, values(i))
        return make_dataset(*(fo.Sample(filepath=p) for p in paths))

    return make


def read(path):
    return np.asarray(Image.open(path)).astype(np.float32)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None]


def fixed(path):
    return tensor(read(path) / 60000)


def minmax(path):
    a = read(path)
    return tensor((a - a.min()) / (a.max() - a.min()))


def zscore(path):
    a = read(path)
    return tensor((a - a.mean()) / a.std())


def percentiles(path):
    a = read(path)
    low, high = np.percentile(a, [1, 99])
    return tensor(((a - low) / (high - low)).clip(0, 1))


def narrow(path):
    """A window of values above all of 8 bits, and between few of 16."""
    return tensor(((read(path) - 20000) / 1000).clip(0, 1))


def equalised(path):
    picture = Image.fromarray((read(path) / 256).astype(np.uint8))
    return TF.to_tensor(ImageOps.equalize(picture))


def small(path):
    return TF.resize(minmax(path), [24, 40], antialias=True)


def cropped(path):
    a = minmax(path)
    return a[:, :, 16:]


def mirrored(path):
    return minmax(path).flip(2)


def transposed(path):
    return minmax(path).transpose(1, 2)


def at_its_name(path):
    """A reader that knows the dataset's files by their names."""
    assert os.path.basename(path) in {f"film {i}.png" for i in range(3)}
    return minmax(path)


def strict(path):
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "I;16"), "not one of ours"
    return fixed(path)


def hottest(sample, key="run"):
    heat = sample[f"{key}_gradcam"]
    assert heat.status == "ok", heat.status
    y, x = np.nonzero(heat.map >= 0.8 * heat.map.max())
    return (y.mean() + 0.5) / heat.map.shape[0], (x.mean() + 0.5) / heat.map.shape[1]


def run(dataset, network=None, key="run", **given):
    summary = operator()(
        dataset, network or Bright().eval(), classes=["bright", "dark"], targets="bright",
        methods="gradcam", layers="conv", cam_key=key, progress=False, num_workers=0, **given,
    )  # fmt: skip
    assert not summary.failed, summary.failed
    return summary


def check(dataset, key="run"):
    for sample in dataset:
        assert hottest(sample, key) == pytest.approx(PLACE, abs=0.05)


READERS = [
    fixed, minmax, zscore, percentiles, narrow, equalised, small, cropped, mirrored, transposed, at_its_name,
    strict,
]  # fmt: skip


@pytest.mark.parametrize("reader", READERS, ids=[r.__name__ for r in READERS])
def test_heat_of_16_bit_readers_is_at_its_place(images, reader):
    dataset = images(write_16, ".png")
    summary = run(dataset, preprocess=reader)
    check(dataset)
    assert summary.settings["window_known_by"] == "measured"
    assert summary.settings["window_error"] < 1 / 32


def deep_colour(path):
    a = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    assert a.dtype == np.uint16
    return torch.from_numpy(((a.astype(np.float32) - 20000) / 20000).clip(0, 1)).permute(2, 0, 1)


def floats(path):
    a = read(path)
    assert a.dtype == np.float32
    assert a.ndim == 2
    return tensor((a / 2).clip(0, 1))


def with_alpha(path):
    a = read(path)
    assert a.shape[2] == 4
    assert a[..., 3].min() == 255
    return torch.from_numpy(a[..., :3] / 255).permute(2, 0, 1).contiguous()


@pytest.mark.parametrize(
    ("write", "suffix", "reader", "network"),
    [
        (write_12, ".tif", lambda p: tensor(((read(p) - 1000) / 2000).clip(0, 1)), Bright()),
        (write_float, ".tiff", floats, Bright()),
        (write_deep_colour, ".png", deep_colour, Bright(3)),
        (write_deep_colour, ".tiff", deep_colour, Bright(3)),
        (write_alpha, ".png", with_alpha, Bright(3)),
        (lambda p, a: Image.fromarray((a * 255).astype(np.uint8)).save(p), ".jpg", zscore, Bright()),
        (lambda p, a: Image.fromarray(a > 0.5).save(p), ".png", lambda p: tensor(read(p)), Bright()),
    ],
    ids=["12 bits", "floats", "16 bits of colour", "the same, TIFF", "alpha", "grey JPEG", "1 bit"],
)  # fmt: skip
def test_files_of_other_kinds(images, write, suffix, reader, network):
    dataset = images(write, suffix)
    run(dataset, network.eval(), preprocess=reader)
    check(dataset)


def test_transforms_that_standardise_each_image(images):
    def standardised(picture):
        a = np.asarray(picture.convert("L")).astype(np.float32)
        return tensor((a - a.mean()) / a.std())

    dataset = images(write_16, ".png")
    run(dataset, transforms=standardised)
    check(dataset)


@pytest.mark.parametrize(
    "steps",
    [
        lambda i: TF.adjust_contrast(i, 1.6),
        lambda i: ImageOps.autocontrast(i, cutoff=2),
        lambda i: ImageOps.posterize(i, 2),
        lambda i: TF.adjust_gamma(i, 2.2),
    ],
    ids=["contrast", "autocontrast", "posterise", "gamma"],
)
def test_steps_on_values_between_known_ones(images, steps):
    dataset = images(write_16, ".png")
    chain = T.Compose([T.Resize((32, 40)), T.Grayscale(), steps, T.ToTensor()])
    run(dataset, transforms=chain)
    check(dataset)


def test_readers_of_monai_which_turn_rows_into_columns(images):
    monai = pytest.importorskip("monai.transforms")
    reader = monai.Compose([
        monai.LoadImage(image_only=True, ensure_channel_first=True),
        monai.ScaleIntensity(),
        monai.Resize((80, 60)),
        monai.CenterSpatialCrop((72, 56)),
    ])  # fmt: skip
    dataset = images(write_16, ".png")
    run(dataset, preprocess=reader)
    check(dataset)


def chains_of_albumentations():
    """Chains with what the model sees of an image of 300 x 200."""
    A = pytest.importorskip("albumentations")
    return {
        "resize": (A.Compose([A.Resize(60, 80), A.Normalize()]), (0, 0, 200, 300)),
        "crop": (A.Compose([A.SmallestMaxSize(64), A.CenterCrop(56, 48), A.ToFloat()]), (25, 62.5, 175, 237.5)),
        "letterbox": (A.Compose([A.LongestMaxSize(90), A.PadIfNeeded(90, 90), A.Normalize()]), (-50, 0, 250, 300)),
        "corner": (
            A.Compose([A.LongestMaxSize(90), A.PadIfNeeded(90, 90, position="top_left"), A.ToFloat()]),
            (0, 0, 300, 300),
        ),
        "one step": (A.Normalize(), (0, 0, 200, 300)),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["resize", "crop", "letterbox", "corner", "one step"])
def test_albumentations_are_computed_and_measured_alike(plugin, name):
    chain, expected = chains_of_albumentations()[name]
    inner = [
        importlib.import_module(f"{PLUGIN}.operators.{n}")
        for n in ("models.unwrap", "data.geometry")
    ]
    transforms = inner[0].given_transforms(chain, None)
    computed = inner[1].TransformGeometry(transforms)
    measured = inner[1].TransformGeometry(lambda picture: transforms(picture))
    for geometry in (computed, measured):
        found = geometry.window(300, 200)
        assert (found.left, found.top, found.right, found.bottom) == pytest.approx(
            expected, abs=2.5
        )
    assert (computed.known_by, measured.known_by) == ("computed", "measured")


def test_albumentations_as_transforms(images):
    A = pytest.importorskip("albumentations")
    dataset = images(write_16, ".png")
    run(dataset, Bright(3).eval(), transforms=A.Compose([A.Resize(48, 48), A.ToFloat()]))
    check(dataset)
    randomly = A.Compose([A.HorizontalFlip(p=0.5), A.Resize(48, 48), A.ToFloat()])
    with pytest.raises(ValueError, match="transforms is random"):
        run(dataset, Bright(3).eval(), transforms=randomly, key="random")


# what is said -------------------------------------------------------------------------------------


def beside(path):
    """Reads what lies beside the file: a test pattern has nothing there."""
    return tensor(np.load(path.replace(".png", ".npy")))


@pytest.fixture
def arrays(images):
    dataset = images(write_16, ".png")
    for path in dataset.values("filepath"):
        np.save(path.replace(".png", ".npy"), read(path)[:, 16:] / 60000)
    return dataset


def test_what_cannot_be_measured_is_said(arrays):
    with pytest.raises(
        ValueError, match=r"cannot read a file like 'film 0.png'.*FileNotFound.*window="
    ):
        run(arrays, preprocess=beside)
    summary = run(arrays, preprocess=beside, window=(0.25, 0, 1, 1))
    assert summary.settings["window"] == [0.25, 0, 1, 1]
    assert summary.settings["window_known_by"] == "given"
    check(arrays)


def test_a_window_holds_when_the_run_is_done_again(arrays):
    run(arrays, preprocess=beside, window=(0.25, 0, 1, 1))
    again = operator("rerun_cams")
    given = dict(model=Bright().eval(), preprocess=beside, classes=["bright", "dark"])
    again(arrays, "run", "again", **given)
    check(arrays, "again")
    with pytest.raises(ValueError, match=r"window: \[0.25, 0, 1, 1\] then, \[0, 0, 1, 1\] now"):
        run(arrays, preprocess=beside, window=(0, 0, 1, 1), resume=True)


def test_a_function_says_the_window_in_pixels(arrays):
    run(arrays, preprocess=beside, window=lambda height, width: (16, 0, width, height))
    check(arrays)
    beside.window = lambda height, width: (16, 0, width, height)
    try:
        run(arrays, preprocess=beside, key="attribute")
    finally:
        del beside.window
    check(arrays, "attribute")


def test_a_window_goes_through_the_queue(plugin):
    forms = importlib.import_module(f"{PLUGIN}.operators.forms.compute")
    sent = forms.params_of({"model": "resnet18-imagenet-torch", "window": (0.25, 0, 1, 1)})
    assert forms.arguments_of(sent)["window"] == [0.25, 0, 1, 1]
    with pytest.raises(ValueError, match="delegate: window cannot be sent"):
        forms.params_of({"model": "resnet18-imagenet-torch", "window": lambda h, w: (0, 0, w, h)})


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ((0, 0, 1), "window: .* is not understood"),
        ("whole", "window: 'whole' is not understood"),
        ((1, 0, 0, 1), "has no area"),
        ((0, 0, 640, 480), "reads like pixels"),
        (lambda h, w: (w, 0, 0, h), "has no area"),
        (lambda h, w: None, r"must return \(left, top, right, bottom\)"),
    ],
)
def test_windows_that_are_none(arrays, window, message):
    with pytest.raises(ValueError, match=message):
        run(arrays, preprocess=beside, window=window)
    assert not arrays.list_runs()


def test_window_of_transforms(images):
    """A value change of which nothing is left in a pattern of two values."""

    def outline(picture):
        t = TF.to_tensor(picture.convert("L"))
        return (t - torch.roll(t, 1, 2)).abs() + (t - torch.roll(t, 1, 1)).abs()

    dataset = images(write_16, ".png")
    with pytest.raises(ValueError, match=r"transforms .*window="):
        run(dataset, transforms=outline)
    run(dataset, Bright(level=0.05).eval(), transforms=outline, window=(0, 0, 1, 1))
    for sample in dataset:
        assert hottest(sample) == pytest.approx(PLACE, abs=0.1)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (lambda i: T.ToTensor()(i.convert("L").rotate(20)), "turns the picture by 20 degrees"),
        (lambda i: T.ToTensor()(i.convert("L")) + torch.rand(1), "transforms is random"),
        (T.Compose([T.RandomCrop(32), T.Grayscale(), T.ToTensor()]), "transforms is random"),
        (lambda i: T.ToTensor()(i.convert("L")).tile(1, 1, 2), "more than once"),
    ],
    ids=["turned", "random", "random crop", "twice"],
)
def test_refusals_name_what_was_measured(images, transforms, message):
    dataset = images(write_16, ".png")
    with pytest.raises(ValueError, match=message):
        run(dataset, transforms=transforms)
    assert not dataset.list_runs()


def test_a_size_by_itself_that_cannot_be_measured_is_one_failure(make_dataset, tmp_path):
    """The first image is the odd one: the others are explained."""

    def turns_small_ones(picture):
        return T.ToTensor()(picture if picture.height > 100 else picture.rotate(15))

    sizes = [(120, 90), (320, 240), (330, 250)]
    for i, size in enumerate(sizes):
        Image.fromarray(
            np.random.default_rng(i).integers(0, 255, (size[1], size[0], 3), np.uint8)
        ).save(tmp_path / f"{i}.png")
    dataset = make_dataset(*(fo.Sample(filepath=str(tmp_path / f"{i}.png")) for i in range(3)))
    summary = operator()(
        dataset, Bright(3).eval(), transforms=turns_small_ones, classes=["bright", "dark"],
        methods="gradcam", layers="conv", cam_key="run", progress=False, num_workers=0,
    )  # fmt: skip
    (failed,) = summary.failed
    assert "of 120 x 90 pixels, transforms turns the picture by 15 degrees" in failed["reason"]


# composites, as the follow-ups make them ----------------------------------------------------------


def reading(reader):
    """The transforms of a reader, and the function that decodes pictures for composites."""
    inner = [
        importlib.import_module(f"{PLUGIN}.operators.{n}") for n in ("models.unwrap", "data.images")
    ]
    return inner[0].PathTransforms(reader), inner[1].decode_image


def write_unit(path, image):
    Image.fromarray(image.astype(np.float32)).save(path)


@pytest.mark.parametrize(
    ("write", "suffix", "reader"),
    [
        (write_16, ".png", fixed),
        (write_16, ".png", zscore),
        (write_unit, ".tiff", lambda p: tensor(read(p))),
        (write_alpha, ".png", with_alpha),
    ],
    ids=["16 bits", "standardised", "floats", "alpha"],
)
def test_a_picture_reaches_the_reader_as_a_file_of_the_datasets_kind(
    images, plugin, write, suffix, reader
):
    """What a composite gives is what the file gives, but for 8 bits."""
    path = images(write, suffix).first().filepath
    transforms, decode = reading(reader)
    straight = transforms.from_path(path)
    through = transforms(decode(path))
    assert through.shape == straight.shape
    assert (through - straight).abs().max() < 0.01 * (straight.max() - straight.min())


def test_files_that_8_bits_cannot_hold_are_refused_where_pictures_are_made(images, plugin):
    path = images(write_float, ".tiff").first().filepath
    transforms, decode = reading(lambda p: tensor(read(p)))
    transforms.from_path(path)
    with pytest.raises(ValueError, match="'film 0.tiff' does not survive that"):
        transforms(decode(path))


def test_the_documented_film_is_explained_with_one_call(
    plugin, make_dataset, tmp_path, monkeypatch
):
    with open(os.path.join(ROOT, "docs", "models.md"), encoding="utf-8") as file:
        section = file.read().partition("## Films: 16 bits")[2]
    (tmp_path / "films").mkdir()
    for i in range(3):
        write_16(tmp_path / "films" / f"{i}.png", values(i))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(section.partition("```python\n")[2].partition("```")[0], names)
    dataset, summary = names["films"], names["summary"]
    try:
        assert summary.settings["window_known_by"] == "measured"
        assert summary.settings["multi_label"] is True
        assert not summary.failed
        for sample in dataset:
            assert {sample[f].status for f in summary.fields if "gradcam" in f} <= {"ok", "zero"}
    finally:
        dataset.delete()


# registered ---------------------------------------------------------------------------------------


def test_a_reader_and_a_window_are_registered(arrays, monkeypatch, tmp_path):
    module = tmp_path / "films_of_mine.py"
    module.write_text(
        "import numpy as np, torch\n"
        "from test_transform_readers_network import Bright\n"
        "def network(): return Bright().eval()\n"
        "def beside(path): return torch.from_numpy(np.load(path.replace('.png', '.npy')))[None]\n"
        "def right(height, width): return width / 4, 0, width, height\n"
    )
    other = tmp_path / "test_transform_readers_network.py"
    with open(__file__, encoding="utf-8") as file:
        source = file.read()
    start = source.index("class Bright")
    other.write_text(
        "import torch\nfrom torch import nn\n" + source[start : source.index("def values")]
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("fiftyone.core.config.locate_config", lambda: str(tmp_path / "config.json"))
    register = operator("register_model")
    given = dict(classes=["bright", "dark"], preprocess="films_of_mine:beside")
    with pytest.raises(ValueError, match="give transforms or preprocess, not both"):
        register("films", "films_of_mine:network", transforms="films_of_mine:beside", **given)
    with pytest.raises(ValueError, match="window: 'right' is not understood"):
        register("films", "films_of_mine:network", window="right", **given)
    register("films", "films_of_mine:network", window="films_of_mine:right", **given)
    operator()(
        arrays, "films", targets="bright", methods="gradcam", layers="conv", cam_key="run",
        progress=False,
    )  # fmt: skip
    check(arrays)
