"""Image <-> model input <-> grid: what a transform shows of an image, maps laid back on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import models
from torchvision import transforms as v1
from torchvision.transforms import v2

from cam_core.spatial.boxes import boxes_to_image, boxes_to_input
from cam_core.spatial.extent import Extent
from cam_core.spatial.geometry import Window, axis_weights, project, to_input
from cam_core.spatial.places import agrees, measure
from cam_core.spatial.steps import rule_of, trace

SIZES = [(480, 640), (640, 480), (300, 300), (233, 517)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def shown_to(transform):
    """Shows a pattern to a transform of PIL images, as `measure` does."""
    low, high = np.uint8([0] * 3), np.uint8([255] * 3)
    return lambda pattern: transform(Image.fromarray(pattern.paint(low, high)))


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
    """`trace` reads, `measure` shows patterns: they know nothing of each other."""
    transform = PIPELINES[name]
    read = trace(transform, *size)
    found = measure([shown_to(transform)], *size)
    assert read.image == found.window.image == size
    # Half a pixel of the input, and as much of rounding in its resize.
    per_pixel = max(
        (read.bottom - read.top) / found.size[0], (read.right - read.left) / found.size[1], 1
    )
    np.testing.assert_allclose(edges(read), edges(found.window), atol=per_pixel)
    assert agrees(shown_to(transform), read, found.size)


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
        new, zoom, _ = rule_of(step)(step, size)
        assert new == tuple(step(torch.zeros(1, *size)).shape[1:])
        assert zoom == (size[0] / new[0], size[1] / new[1])


@pytest.mark.parametrize("crop", [1, 2, 50, 51, (50, 121), (121, 50), (201, 203), 300])
def test_crops_are_torchvisions_to_the_pixel(crop):
    for size in [(100, 200), (101, 201), (99, 122)]:
        rows, columns = torch.meshgrid(
            torch.arange(size[0]) + 1, torch.arange(size[1]) + 1, indexing="ij"
        )
        y, x = v1.CenterCrop(crop)(torch.stack([rows, columns]))
        new, _, (down, right) = rule_of(v1.CenterCrop(1))(v1.CenterCrop(crop), size)
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
    assert trace(v1.ToTensor(), 5, 7) == Window.whole(5, 7)


def test_unknown_steps_are_measured():
    assert trace(v1.Compose([v1.Resize(64), v1.RandomRotation(10)]), 100, 200) is None
    assert trace(lambda image: image, 100, 200) is None
    halved = v1.Compose([v1.Resize((50, 60)), v1.Lambda(lambda image: image)])
    assert trace(halved, 100, 200) is None
    assert trace(halved, 100, 200, guess=True) == Window.whole(100, 200)
    assert trace(v1.RandomApply([v1.CenterCrop(10)], p=0.5), 100, 200) is None


def test_a_step_of_ones_own_is_not_known_by_its_name():
    class Resize(v1.Resize):
        def forward(self, image):
            return image

    assert trace(Resize(64), 100, 200) is None


def letterbox(side, fill=114, where="centre", scale=255.0):
    """Resizes the longest side and pads to a square, as detectors do."""

    def run(picture):
        array = np.array(picture)
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
    "resize": (v1.Compose([v1.Resize((224, 224)), v1.ToTensor()]), "read"),
    "resize_crop": (v1.Compose([v1.Resize(256), v1.CenterCrop(224), v1.ToTensor()]), "read"),
    "preset": (models.ResNet50_Weights.IMAGENET1K_V2.transforms(), "read"),
    "crop_with_padding": (v1.Compose([v1.Resize(200), v1.CenterCrop(400), v1.ToTensor()]), "read"),
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
    seen = run(Image.fromarray(image)).mean(0)[None, None]
    seen = seen - seen[..., :1, :1] if "letterbox" not in name else (seen - 114 / 255).relu()
    side = seen.shape[-1] // 32
    maps = F.adaptive_avg_pool2d(seen, side).relu()
    maps = maps * (maps > maps.max() / 10)
    if how == "measured":
        window = measure([shown_to(run)], height, width).window
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


# Flipped and transposed --------------------------------------------------------------------------


def seen_by_hand(image, window, size):
    """What the model sees: the window cut out, resized, flipped, then transposed."""
    across = window.upright_size(size)
    top, left, bottom, right = (
        int(v) for v in (window.top, window.left, window.bottom, window.right)
    )
    part = F.interpolate(image[None, :, top:bottom, left:right], across, mode="area")[0]
    dims = [d for d, flip in zip((1, 2), window.flipped, strict=True) if flip]
    part = part.flip(dims) if dims else part
    return part.transpose(1, 2) if window.transposed else part


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("flipped", [(False, False), (True, False), (False, True), (True, True)])
def test_a_square_goes_there_and_back_through_flips(flipped, transposed):
    window = Window((40, 60), 10, 8, 50, 32, flipped=flipped, transposed=transposed)
    size = (24, 40) if not transposed else (40, 24)
    image = torch.zeros(1, 40, 60)
    image[:, 12:16, 20:28] = 1
    seen = seen_by_hand(image, window, size)
    torch.testing.assert_close(to_input(image, window, size), seen, atol=1e-5, rtol=0)
    laid = project(seen, window, (40, 60))
    assert laid[0, 12:16, 20:28].min() > 0.9
    assert laid.sum() == pytest.approx(32, rel=0.05)
    rows, columns = seen[0].nonzero(as_tuple=True)
    there = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]).float()
    box = torch.tensor([[20.0, 12, 28, 16]])
    torch.testing.assert_close(boxes_to_input(box, window, size), there)
    torch.testing.assert_close(boxes_to_image(there, window, size), box)
    y, x = window.places(size)
    pixel = (int(there[0, 1]), int(there[0, 0]))  # its first pixel, and where it comes from
    place = (y[pixel[1]], x[pixel[0]]) if transposed else (y[pixel[0]], x[pixel[1]])
    assert 12 < place[0] < 16
    assert 20 < place[1] < 28


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("flipped", [(False, False), (True, False), (False, True), (True, True)])
def test_a_part_of_the_input_is_turned_with_it(flipped, transposed):
    """Cells that tile only a part of the input lie on the image where that part comes from."""
    size = (40, 24) if transposed else (24, 40)
    window = Window((48, 80), 0, 0, 80, 48, flipped=flipped, transposed=transposed)
    cells = (0.25, 0.0, 0.75, 0.5)  # left, top, right, bottom of the input
    part = Extent(cells=cells, seen=cells).on_image(window)
    whole = torch.zeros(1, *size)
    whole[:, : size[0] // 2, size[1] // 4 : size[1] * 3 // 4] = 1
    expected = project(whole, window, (48, 80))
    found = project(torch.ones(1, 6, 6), part, (48, 80))
    assert ((found > 0.5) == (expected > 0.5)).all()
