"""Image <-> model input <-> grid: what a transform shows of an image, maps laid back on it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import models
from torchvision import transforms as v1
from torchvision.transforms import v2

from cam_core.geometry import _RULES, Window, axis_weights, probe, project, to_input, trace

SIZES = [(480, 640), (640, 480), (300, 300), (233, 517)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def on_arrays(transform):
    """A torchvision transform, called with an (H, W, 3) uint8 array as `probe` does."""
    return lambda array: transform(Image.fromarray(array))


PIPELINES = {
    "resize_short": v1.Compose([v1.Resize(224), v1.ToTensor()]),
    "resize_list": v1.Compose([v1.Resize([200]), v1.ToTensor()]),
    "resize_limited": v1.Compose([v1.Resize(200, max_size=260), v1.ToTensor()]),
    "resize_both": v1.Compose([v1.Resize((160, 320)), v1.ToTensor(), v1.Normalize(MEAN, STD)]),
    "crop": v1.Compose([v1.CenterCrop(200), v1.ToTensor()]),
    "crop_uneven": v1.Compose([v1.CenterCrop((151, 202)), v1.ToTensor()]),
    "resize_crop": v1.Compose(
        [v1.Resize(256), v1.CenterCrop(224), v1.ToTensor(), v1.Normalize(MEAN, STD)]
    ),
    "crop_resize": v1.Compose([v1.CenterCrop(200), v1.Resize((64, 96)), v1.ToTensor()]),
    "crop_with_padding": v1.Compose([v1.Resize(128), v1.CenterCrop((150, 401)), v1.ToTensor()]),
    "nested": v1.Compose(
        [v1.Compose([v1.Resize(180), v1.CenterCrop(160)]), v1.Compose([v1.ToTensor()])]
    ),
    "v2": v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, True),
            v2.Normalize(MEAN, STD),
        ]
    ),
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V2.transforms(),
    "efficientnet_b3": models.EfficientNet_B3_Weights.DEFAULT.transforms(),
    "inception": models.Inception_V3_Weights.DEFAULT.transforms(),
    "vit_h_14": models.ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1.transforms(),
}


def edges(window):
    return np.array([window.left, window.top, window.right, window.bottom])


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("size", SIZES)
def test_what_is_read_off_is_what_is_measured(name, size):
    """`trace` reads, `probe` sends ramps through: they know nothing of each other."""
    transform = PIPELINES[name]
    read = trace(transform, *size)
    measured = probe(on_arrays(transform), *size)
    assert read.image == measured.image == size
    # A pixel of the ramp's 256 levels, and half a pixel of the resize.
    tolerance = max(size) / 256 * 0.6 + 0.5
    np.testing.assert_allclose(edges(read), edges(measured), atol=tolerance)


@pytest.mark.parametrize(
    "step",
    [
        v1.Resize(224),
        v1.Resize([97]),
        v1.Resize(200, max_size=233),
        v2.Resize(None, max_size=100),
        v1.Resize((9, 4)),
    ],
    ids=["short", "list", "limited", "long_only", "both"],
)
def test_sizes_are_torchvisions_to_the_pixel(step):
    """A pixel of rounding shifts the crop that follows."""
    for size in [
        (481, 640),
        (640, 481),
        (300, 300),
        (233, 517),
        (1000, 37),
        (375, 500),
        (333, 500),
    ]:
        new, zoom, _ = _RULES["Resize"](step, size)
        assert new == tuple(step(torch.zeros(1, *size)).shape[1:])
        assert zoom == (size[0] / new[0], size[1] / new[1])


@pytest.mark.parametrize("crop", [1, 2, 50, 51, (50, 121), (121, 50), (201, 203), 300])
def test_crops_are_torchvisions_to_the_pixel(crop):
    for size in [(100, 200), (101, 201), (99, 122)]:
        rows, columns = torch.meshgrid(
            torch.arange(size[0]) + 1, torch.arange(size[1]) + 1, indexing="ij"
        )
        y, x = v1.CenterCrop(crop)(torch.stack([rows, columns]))
        new, _, (down, right) = _RULES["CenterCrop"](v1.CenterCrop(crop), size)
        assert new == tuple(y.shape)
        at = tuple((y > 0).nonzero()[0].tolist())  # the first pixel that is not padding
        assert (int(y[at]) - 1, int(x[at]) - 1) == (at[0] + down, at[1] + right)


def test_windows_by_hand():
    assert trace(v1.Resize((10, 30)), 100, 200) == Window.whole(100, 200)
    assert trace(v1.CenterCrop(50), 100, 200) == Window((100, 200), 75, 25, 125, 75)
    assert trace(v1.Compose([v1.Resize(50), v1.CenterCrop(40)]), 100, 200) == Window(
        (100, 200), 60, 10, 140, 90
    )
    # A crop larger than the picture is padded: 10 rows above, 10 below.
    assert trace(v1.CenterCrop((120, 200)), 100, 200) == Window((100, 200), 0, -10, 200, 110)
    assert trace(v1.ToTensor(), 5, 7).covers_image
    assert not trace(v1.CenterCrop(4), 5, 7).covers_image


def test_unknown_steps_are_left_to_the_probe():
    assert trace(v1.Compose([v1.Resize(64), v1.RandomRotation(10)]), 100, 200) is None
    assert trace(lambda image: image, 100, 200) is None
    assert trace(v1.Compose([v1.Lambda(lambda image: image)]), 100, 200) is None
    assert trace(v1.RandomApply([v1.CenterCrop(10)], p=0.5), 100, 200) is None


def test_rules_of_ones_own():
    class Half:
        pass

    def left_half(step, size):
        return (size[0], size[1] // 2), (1.0, 1.0), (0.0, 0.0)

    assert trace(v1.Compose([Half(), v1.Resize((8, 8))]), 100, 200, {"Half": left_half}) == Window(
        (100, 200), 0, 0, 100, 100
    )


# Transforms that cannot be read ------------------------------------------------------------------


def letterbox(side, fill=114, where="centre", scale=255.0):
    """Resizes the longest side and pads to a square, as detectors do."""

    def run(array):
        height, width = array.shape[:2]
        ratio = side / max(height, width)
        new = (round(height * ratio), round(width * ratio))
        image = torch.from_numpy(array).permute(2, 0, 1)[None].float()
        image = F.interpolate(image, new, mode="bilinear", align_corners=False)[0]
        spare = (side - new[0], side - new[1])
        top, left = (spare[0] // 2, spare[1] // 2) if where == "centre" else (0, 0)
        padded = torch.full((3, side, side), float(fill))
        padded[:, top : top + new[0], left : left + new[1]] = image
        return padded / scale

    return run


def letterbox_window(height, width, side, where="centre"):
    ratio = side / max(height, width)
    new = (round(height * ratio), round(width * ratio))
    top, left = ((side - new[0]) // 2, (side - new[1]) // 2) if where == "centre" else (0, 0)
    per_row, per_column = height / new[0], width / new[1]
    return np.array(
        [-left * per_column, -top * per_row, (side - left) * per_column, (side - top) * per_row]
    )


@pytest.mark.parametrize("where", ["centre", "corner"])
@pytest.mark.parametrize("fill", [0, 114, 255])
@pytest.mark.parametrize("size", SIZES)
def test_probe_of_a_letterbox(size, fill, where):
    window = probe(letterbox(160, fill, where), *size)
    np.testing.assert_allclose(
        edges(window), letterbox_window(*size, 160, where), atol=max(size) / 160
    )


def test_probe_of_a_small_crop():
    transform = v1.Compose([v1.Resize(512), v1.CenterCrop(64), v1.ToTensor()])
    read, measured = trace(transform, 600, 900), probe(on_arrays(transform), 600, 900)
    np.testing.assert_allclose(edges(read), edges(measured), atol=3)


@pytest.mark.parametrize(
    "run",
    [
        lambda a: torch.from_numpy(a.copy()).permute(2, 1, 0).float(),  # transposed
        lambda a: torch.from_numpy(a[:, ::-1].copy()).permute(2, 0, 1).float(),  # mirrored
        lambda a: torch.from_numpy(np.rot90(a).copy()).permute(2, 0, 1).float(),
        lambda a: torch.zeros(3, 20, 20),  # shows nothing
        lambda a: torch.from_numpy(a.copy()).permute(2, 0, 1).float().roll(30, 2),  # wraps around
        lambda a: (
            torch.from_numpy(a[:, :, :1].copy() ** 2 // 255)
            .permute(2, 0, 1)
            .float()
            .mean(1, keepdim=True)
        ),
    ],
    ids=["transposed", "mirrored", "rotated", "blank", "rolled", "one_row"],
)
def test_probe_knows_what_it_cannot_say(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert probe(run, 80, 120) is None


def test_probe_of_an_image_of_another_value_range():
    run = letterbox(96, 0, scale=-63.0)  # inverted values, say
    np.testing.assert_allclose(edges(probe(run, 100, 150)), letterbox_window(100, 150, 96), atol=2)


# Laying maps back --------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(7, 7), (1, 1), (3, 5), (14, 9), (1, 6)])
@pytest.mark.parametrize("size", [(30, 41), (7, 7), (5, 3), (224, 112)])
def test_project_onto_the_whole_image_is_interpolate(grid, size):
    maps = torch.randn(2, 3, *grid)
    expected = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        project(maps, Window.whole(480, 640), size), expected, rtol=1e-5, atol=1e-5
    )


def test_axis_weights_are_a_partition_inside_and_nothing_outside():
    weights = axis_weights(7, 20, 80, 100, 50)
    centres = (torch.arange(50) + 0.5) * 2
    inside = (centres > 20) & (centres < 80)
    torch.testing.assert_close(weights.sum(1), inside.float())
    assert (weights >= 0).all()


@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100)])
def test_heat_outside_the_window_is_zero(height, width):
    transform = v1.Compose([v1.Resize(64), v1.CenterCrop(64), v1.ToTensor()])
    window = trace(transform, height, width)
    heat = project(torch.ones(1, 1, 4, 4), window, (height, width))[0, 0]
    expected = torch.zeros(height, width)
    expected[(height - 100) // 2 : (height + 100) // 2, (width - 100) // 2 : (width + 100) // 2] = 1
    torch.testing.assert_close(heat, expected)


def test_padding_takes_its_heat_with_it():
    """Heat on a letterbox's bars lies outside the image: it is cut off, not squeezed in."""
    window = Window((50, 100), 0, -25, 100, 75)
    maps = torch.zeros(1, 1, 4, 4)
    maps[..., 0, :] = 1  # the bar above
    assert project(maps, window, (50, 100))[0, 0, 13:].max() == 0
    maps = torch.zeros(1, 1, 4, 4)
    maps[..., 1, 2] = 1  # centred at x 62.5, y 12.5 of the image
    heat = project(maps, window, (50, 100))[0, 0]
    assert divmod(int(heat.argmax()), 100) in {(y, x) for y in (12, 13) for x in (62, 63)}


def blob(height, width, y, x, radius):
    rows, columns = np.mgrid[:height, :width]
    bright = 255 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * radius**2))
    return np.repeat(bright.round().astype(np.uint8)[:, :, None], 3, axis=2)


CARRIERS = {
    "resize": (on_arrays(v1.Compose([v1.Resize((224, 224)), v1.ToTensor()])), "read"),
    "resize_crop": (
        on_arrays(v1.Compose([v1.Resize(256), v1.CenterCrop(224), v1.ToTensor()])),
        "read",
    ),
    "preset": (on_arrays(models.ResNet50_Weights.IMAGENET1K_V2.transforms()), "read"),
    "crop_with_padding": (
        on_arrays(v1.Compose([v1.Resize(200), v1.CenterCrop(400), v1.ToTensor()])),
        "read",
    ),
    "letterbox": (letterbox(224), "measured"),
    "letterbox_corner": (letterbox(224, where="corner"), "measured"),
}


@pytest.mark.parametrize("name", CARRIERS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", [(0.5, 0.5), (0.35, 0.6), (0.62, 0.4)])
def test_a_blob_comes_back_to_its_place(name, size, place):
    """Seen through the transform and a stride of 32, it lies where it was, by less than a cell."""
    run, how = CARRIERS[name]
    height, width = size
    y, x = place[0] * height, place[1] * width
    image = blob(height, width, y, x, max(size) / 16)
    seen = run(image).mean(0)[None, None]
    seen = seen - seen[..., :1, :1] if "letterbox" not in name else (seen - 114 / 255).relu()
    side = seen.shape[-1] // 32
    maps = F.adaptive_avg_pool2d(seen, side).relu()
    maps = maps * (maps > maps.max() / 10)
    if how == "measured":
        window = probe(run, height, width)
    else:
        window = {
            "resize": lambda: trace(v1.Resize((224, 224)), height, width),
            "resize_crop": lambda: trace(
                v1.Compose([v1.Resize(256), v1.CenterCrop(224)]), height, width
            ),
            "preset": lambda: trace(
                models.ResNet50_Weights.IMAGENET1K_V2.transforms(), height, width
            ),
            "crop_with_padding": lambda: trace(
                v1.Compose([v1.Resize(200), v1.CenterCrop(400)]), height, width
            ),
        }[name]()
    heat = project(maps, window, (height, width))[0, 0].double()
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    found = (
        float((heat.sum(1) * rows).sum() / heat.sum()),
        float((heat.sum(0) * columns).sum() / heat.sum()),
    )
    cell = max((window.bottom - window.top), (window.right - window.left)) / side
    assert math.dist(found, (y + 0.5, x + 0.5)) < 0.5 * cell, (found, (y, x), cell)


def test_somebodys_own_resize_is_not_taken_for_torchvisions():
    class Resize:
        size = (10, 10)

        def __call__(self, image):
            return image

    assert trace(Resize(), 30, 40) is None


# back from the image to the model's input


WINDOWS = [
    Window.whole(48, 64),
    Window((48, 64), 16, 8, 48, 40),  # a crop
    Window((48, 64), 0, -8, 64, 56),  # padded above and below
    Window((48, 64), 3.5, -2.25, 60.5, 44.75),
]


@pytest.mark.parametrize("window", WINDOWS)
def test_a_plane_comes_back_from_the_image(window):
    """A plane is carried to a small part of a cell, away from the border's half cells."""
    size = (24, 30)
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in (192, 256)), indexing="ij")
    down, right = y / 192 * 48, x / 256 * 64  # in pixels of the image
    found = to_input((2 * down + 3 * right + 5)[None], window, size)[0]
    rows = window.top + (torch.arange(24) + 0.5) / 24 * (window.bottom - window.top)
    columns = window.left + (torch.arange(30) + 0.5) / 30 * (window.right - window.left)
    wanted = 2 * rows[:, None] + 3 * columns[None] + 5
    step = (window.bottom - window.top) / 24 / 2, (window.right - window.left) / 30 / 2
    inside = ((rows > step[0]) & (rows < 48 - step[0]))[:, None] & (
        (columns > step[1]) & (columns < 64 - step[1])
    )
    # a cell rises by 2 / 4 + 3 / 4; a cell that two pixels share counts with its middle for both
    torch.testing.assert_close(found[inside], wanted[inside], atol=0.05, rtol=0)


@pytest.mark.parametrize("window", WINDOWS)
def test_round_trip(window):
    """Laid on the image and cut out again, a smooth map is what it was, where it is on the image."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 4, 5, generator=generator)
    maps = F.interpolate(coarse, size=(24, 30), mode="bilinear", align_corners=False)[0]
    back = to_input(project(maps, window, (192, 256)), window, (24, 30))
    rows = window.top + (torch.arange(24) + 0.5) / 24 * (window.bottom - window.top)
    columns = window.left + (torch.arange(30) + 0.5) / 30 * (window.right - window.left)
    margin = (window.bottom - window.top) / 24
    inside = ((rows > margin) & (rows < 48 - margin))[:, None] & (
        (columns > margin) & (columns < 64 - margin)
    )
    assert (back - maps)[0][inside].abs().max() < 0.03
    assert (back[0][(rows < -margin)] == 0).all(), "padding has no heat"


def test_back_onto_the_same_pixels_nothing_changes():
    heat = (torch.rand(1, 33, 47, generator=torch.Generator().manual_seed(0)) * 5).floor() / 5
    found = to_input(heat, Window.whole(480, 640), (33, 47))
    assert torch.equal(found, heat), "equal heat stays equal, no heat stays none"


def test_back_to_an_input_of_fewer_pixels_every_cell_counts():
    heat = torch.zeros(1, 8, 8)
    heat[0, 3, 3] = 1.0
    found = to_input(heat, Window.whole(80, 80), (2, 2))
    torch.testing.assert_close(found[0], torch.tensor([[1 / 16, 0.0], [0, 0]]))
    cropped = to_input(heat, Window((80, 80), 20, 20, 60, 60), (1, 2))
    torch.testing.assert_close(cropped[0], torch.tensor([[1 / 8, 0.0]]))
