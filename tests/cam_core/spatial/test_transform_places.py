"""Transforms that cannot be read: what they show of an image is measured, or the run is refused.

The truth is a bright square: it is put on an image, run through the transforms, and what changed in
the model's input must lie where the square is, or nothing is said at all.
"""

from __future__ import annotations

import math
import os
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms as T

from cam_core.spatial.geometry import Window, project
from cam_core.spatial.places import Pattern, Unplaced, agrees, measure
from cam_core.spatial.size_rule import SizeRule

PAIRS = [(0, 255), (0, 128), (128, 255), (64, 160)]
PAIRS += [((0, 255, 0), (255, 0, 255)), ((255, 0, 0), (0, 255, 255))]
# `make test` tries some chains; CAM51_EXAMPLES=500 many
EXAMPLES = int(os.environ.get("CAM51_EXAMPLES", "15"))
PHASES = (Phase.explicit, Phase.generate) if EXAMPLES > 15 else tuple(Phase)


def shows(transform):
    """Ways to show a pattern to a transform of PIL images."""

    def way(low, high):
        def show(pattern):
            values = pattern.paint(np.asarray(low, np.uint8), np.asarray(high, np.uint8))
            return transform(Image.fromarray(values).convert("RGB"))

        return show

    return [way(low, high) for low, high in PAIRS]


def edges(window):
    return np.array([window.left, window.top, window.right, window.bottom])


def window_of(transform, height, width):
    return SizeRule(shows(transform)).window(height, width)


# a bright square, through any chain ---------------------------------------------------------------


def longest(image, side):
    ratio = side / max(image.shape[1:])
    return TF.resize(image, [max(1, round(n * ratio)) for n in image.shape[1:]], antialias=True)


def letterbox(image, side, where, fill):
    image = longest(image, side)
    down, across = side - image.shape[1], side - image.shape[2]
    top, left = int(down * where), int(across * where)
    return F.pad(image, (left, across - left, top, down - top), value=fill)


def padded(image, shares, mode):
    top, bottom, left, right = (
        min(round(s * n), n - 1) for s, n in zip(shares, np.repeat(image.shape[1:], 2), strict=True)
    )
    return TF.pad(image, [left, top, right, bottom], padding_mode=mode)


def cut(image, shares):
    top, down, left, across = shares
    height, width = image.shape[1:]
    y, x = int(top * height), int(left * width)
    return image[:, y : y + max(1, int(down * height)), x : x + max(1, int(across * width))]


def equalised(image):
    picture = Image.fromarray((image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())
    return TF.to_tensor(ImageOps.equalize(picture))


share = st.floats(0.05, 0.45)
PLACES = st.one_of(
    st.integers(40, 200).map(lambda s: ("resize short", lambda i: TF.resize(i, s, antialias=True))),
    st.tuples(st.integers(24, 200), st.integers(24, 200)).map(
        lambda s: ("resize both", lambda i: TF.resize(i, list(s), antialias=True))
    ),
    st.tuples(st.integers(24, 160), st.integers(24, 160)).map(
        lambda s: ("nearest", lambda i: F.interpolate(i[None], s, mode="nearest")[0])
    ),
    st.integers(30, 220).map(lambda s: ("centre crop", lambda i: TF.center_crop(i, s))),
    st.tuples(*[st.floats(0, 0.35), st.floats(0.3, 0.65)] * 2).map(
        lambda s: ("crop", lambda i: cut(i, s))
    ),
    st.tuples(st.tuples(*[share] * 4), st.sampled_from(["constant", "edge", "reflect", "symmetric"])).map(
        lambda s: (f"pad {s[1]}", lambda i: padded(i, *s))
    ),
    st.tuples(st.integers(48, 200), st.sampled_from([0, 0.5, 1]), st.floats(0, 1)).map(
        lambda s: ("letterbox", lambda i: letterbox(i, *s))
    ),
    st.just(("mirror", TF.hflip)),
    st.just(("upside down", TF.vflip)),
    st.just(("transpose", lambda i: i.transpose(1, 2))),
    st.floats(-40, 40).map(lambda a: (f"turn {a:.0f}", lambda i: TF.rotate(i, a))),
    st.integers(1, 60).map(lambda n: ("roll", lambda i: i.roll(n, 2))),
)  # fmt: skip
VALUES = st.sampled_from([
    ("contrast", lambda i: (i * 1.8 - 0.4).clamp(0, 1)),
    ("window", lambda i: ((i - 0.2) / 0.5).clamp(0, 1)),
    ("gamma", lambda i: i.clamp_min(0) ** 2.2),
    ("log", lambda i: torch.log(i.clamp_min(0) + 0.01)),
    ("z-score", lambda i: (i - i.mean()) / (i.std() + 1e-6)),
    ("min-max", lambda i: (i - i.min()) / (i.max() - i.min() + 1e-9)),
    ("posterise", lambda i: (i * 4).floor() / 4),
    ("invert", lambda i: 1 - i),
    ("grey", lambda i: i.mean(0, keepdim=True).expand(3, -1, -1)),
    ("equalise", equalised),
    ("percentiles", lambda i: ((i - i.quantile(0.02)) / (i.quantile(0.98) - i.quantile(0.02) + 1e-6)).clamp(0, 1)),
    ("normalise, clamp", lambda i: ((i - 0.45) / 0.22).clamp(-1, 1)),
    ("blur", lambda i: TF.gaussian_blur(i, 5) if min(i.shape[1:]) > 3 else i),
])  # fmt: skip
STEPS = st.lists(st.one_of(PLACES, PLACES, VALUES), min_size=1, max_size=5)
SIZES = st.tuples(st.integers(5, 400), st.integers(5, 400))


def chain(steps):
    def transform(picture):
        image = TF.to_tensor(picture)
        for _, step in steps:
            image = step(image)
        return image

    return transform


def beyond_values(one, two):
    """(h, w) what differs beyond a change of all values: the square moves the range of its whole picture."""
    rest = torch.zeros_like(one)
    for channel, (marked, plain) in enumerate(zip(one.double(), two.double(), strict=True)):
        keep = torch.ones_like(plain, dtype=torch.bool)
        for _ in range(3):
            design = torch.stack([plain[keep], torch.ones_like(plain[keep])], 1).numpy()
            (a, b), *_ = np.linalg.lstsq(design, marked[keep].numpy(), rcond=None)
            off = (marked - a * plain - b).abs()
            keep = off <= off.quantile(0.9)
        rest[channel] = off.float()
    return rest.sum(0)


@given(steps=STEPS, size=SIZES, at=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)))
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES <= 15, database=None,
    suppress_health_check=list(HealthCheck), phases=PHASES,
)  # fmt: skip
def test_a_bright_square_is_found_or_the_run_is_refused(steps, size, at):
    transform, (height, width) = chain(steps), size
    try:
        window = window_of(transform, height, width)
    except Unplaced as reason:
        event(f"refused: {str(reason)[:40]}")
        return
    picture = np.full((height, width, 3), 60, np.uint8)
    picture[::2, ::3] = 75  # not a constant, which no standardisation survives
    side = max(1, round(0.08 * height)), max(1, round(0.08 * width))
    spans = (window.bottom - window.top, window.right - window.left)
    starts = (window.top, window.left)
    lows = [max(0, lo) for lo in starts]
    highs = [min(n, lo + s) for n, lo, s in zip(size, starts, spans, strict=True)]
    top, left = (
        min(max(0, int(lo + a * (hi - lo) - n / 2)), extent - n)
        for lo, hi, a, n, extent in zip(lows, highs, at, side, size, strict=True)
    )
    marked = picture.copy()
    marked[top : top + side[0], left : left + side[1]] = 190
    one, two = (transform(Image.fromarray(p)) for p in (marked, picture))
    heat = beyond_values(one, two)
    centre = (top + side[0] / 2, left + side[1] / 2)
    cells = [max(s / 14, 2 * n) for s, n in zip(spans, side, strict=True)]
    inside = all(
        lo + c < m < lo + s - c for m, lo, s, c in zip(centre, starts, spans, cells, strict=True)
    )
    event("found" if inside else "not seen")
    if not inside:
        return  # the model does not see it as a whole
    if heat.max() < max(1e-3, 0.05 * float(two.max() - two.min())):
        event("lost on the way")  # between the pixels that a step picks, or by its values
        return
    laid = project(heat[None], window, (height, width))[0]
    assert laid.max() > 0.15 * heat.max(), "the heat lies outside of the image"
    y, x = (v.double() for v in (laid >= 0.7 * laid.max()).nonzero(as_tuple=True))
    found = (y.mean().item() + 0.5, x.mean().item() + 0.5)
    for f, m, cell in zip(found, centre, cells, strict=True):
        assert abs(f - m) <= cell / 2 + 0.5, ([name for name, _ in steps], found, centre, window)


# by hand ------------------------------------------------------------------------------------------


def boxed(side, fill=114, where="centre", scale=255.0):
    """Resizes the longest side and pads to a square, as detectors do."""

    def run(picture):
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
        height, width = image.shape[2:]
        ratio = side / max(height, width)
        new = (round(height * ratio), round(width * ratio))
        image = F.interpolate(image, new, mode="bilinear", align_corners=False)[0]
        spare = (side - new[0], side - new[1])
        top, left = (spare[0] // 2, spare[1] // 2) if where == "centre" else (0, 0)
        padded = torch.full((3, side, side), float(fill))
        padded[:, top : top + new[0], left : left + new[1]] = image
        return padded / scale

    return run


def boxed_window(height, width, side, where="centre"):
    ratio = side / max(height, width)
    new = (round(height * ratio), round(width * ratio))
    top, left = ((side - new[0]) // 2, (side - new[1]) // 2) if where == "centre" else (0, 0)
    down, across = height / new[0], width / new[1]
    return np.array([-left * across, -top * down, (side - left) * across, (side - top) * down])


@pytest.mark.parametrize("where", ["centre", "corner"])
@pytest.mark.parametrize("fill", [0, 114, 255])
@pytest.mark.parametrize("size", [(480, 640), (517, 233)])
def test_a_letterbox_is_measured(size, fill, where):
    found = window_of(boxed(160, fill, where), *size)
    expected = boxed_window(*size, 160, where)
    np.testing.assert_allclose(edges(found), expected, atol=max(size) / 160)


def test_inverted_values_move_nothing():
    found = window_of(boxed(96, 0, scale=-63.0), 100, 150)
    np.testing.assert_allclose(edges(found), boxed_window(100, 150, 96), atol=150 / 96)


def resized(picture):
    return TF.to_tensor(picture.resize((128, 128)))


def standardised(image):
    return (image - image.mean()) / image.std()


@pytest.mark.parametrize(
    "values",
    [
        lambda i: ((i - 0.2) / 0.8).clamp(0, 1),
        lambda i: torch.log(i + 1e-3),
        lambda i: (1 - i) ** 2.2,
        standardised,
        lambda i: (i - i.min()) / (i.max() - i.min()),
        lambda i: (i > 0.5).float(),
        lambda i: torch.where(i > 0.5, 1 - i, i),  # solarised: 0 and 255 become the same
        lambda i: (i - 0.5).abs(),
        lambda i: 2 * i[1:2] - i[:1] - i[2:],  # excess green: nothing of what is grey
        equalised,
    ],
    ids=[
        "window", "log", "inverted gamma", "z-score", "min-max", "binary", "solarised", "hat", "green",
        "equalised",
    ],
)  # fmt: skip
def test_values_move_nothing(values):
    window = window_of(lambda p: values(resized(p)), 300, 200)
    assert window == Window.whole(300, 200)


def test_a_small_crop_that_is_standardised_by_itself():
    """Each cell of a coarse pattern would fill the crop: a constant, of which nothing is left."""

    def crop(picture):
        return standardised(TF.to_tensor(TF.center_crop(TF.resize(picture, 512), 40)))

    window = window_of(crop, 600, 900)
    np.testing.assert_allclose(edges(window), [426.6, 276.6, 473.4, 323.4], atol=1.5)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda p: TF.to_tensor(p.rotate(30)), "turns the picture by 30 degrees"),
        (lambda p: TF.affine(TF.to_tensor(p), 0, [0, 0], 1, [20, 0]), "shears the picture"),
        (lambda p: resized(p) * 0, "tells bright from dark nowhere"),
        (lambda p: resized(p).roll(30, 2), "in another order"),
        (lambda p: resized(p).repeat(1, 1, 2), "more than once"),
        (lambda p: resized(p)[:, torch.randperm(128)], "is random"),
        (lambda p: resized(p) + torch.rand(1), "is random"),
        (lambda p: resized(p.crop(p.convert("L").getbbox() or (0, 0, *p.size))), "depends on the picture's content"),
        (lambda p: TF.to_tensor(p)[:, : 90 + p.getpixel((0, 0))[0] // 51], "depends on the content"),
    ],
    ids=["turned", "sheared", "blank", "rolled", "repeated", "shuffled", "random", "trimmed", "varying"],
)  # fmt: skip
def test_what_no_window_describes_is_said(run, reason):
    with pytest.raises(Unplaced, match=reason):
        window_of(run, 120, 160)


@pytest.mark.parametrize(
    ("run", "flipped", "transposed"),
    [
        (lambda p: resized(ImageOps.mirror(p)), (False, True), False),
        (lambda p: resized(ImageOps.flip(p)), (True, False), False),
        (lambda p: resized(p).transpose(1, 2), (False, False), True),
        (lambda p: resized(p.transpose(Image.Transpose.ROTATE_90)), (False, True), True),
    ],
    ids=["mirrored", "upside down", "transposed", "quarter turn"],
)
def test_flips_and_quarter_turns_are_windows(run, flipped, transposed):
    window = window_of(run, 120, 160)
    assert (window.flipped, window.transposed) == (flipped, transposed)
    np.testing.assert_allclose(edges(window), [0, 0, 160, 120], atol=1)


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric"])
def test_mirrored_padding_is_not_the_picture(mode):
    run = lambda p: TF.pad(resized(p), [40, 20, 50, 60], padding_mode=mode)  # noqa: E731
    window = window_of(run, 256, 128)
    np.testing.assert_allclose(edges(window), [-40, -40, 178, 376], atol=2)


@pytest.mark.parametrize("size", [(1, 60), (60, 1), (3, 5), (1, 1), (2, 2)])
@pytest.mark.parametrize(
    "run",
    [resized, lambda p: standardised(TF.to_tensor(p.resize((64, 48)))), lambda p: TF.to_tensor(p) ** 2],
    ids=["resized", "standardised", "as it is"],
)  # fmt: skip
def test_pictures_of_few_pixels(run, size):
    assert window_of(run, *size) == Window.whole(*size)


# as a function of the size ------------------------------------------------------------------------


class Counted:
    """A transform that counts its calls and keeps the sizes of the pictures."""

    def __init__(self, run):
        self.run, self.sizes = run, []

    def __call__(self, picture):
        self.sizes.append(picture.size)
        return self.run(picture)


@pytest.mark.parametrize(
    "run",
    [
        T.Compose([T.Resize(128), T.CenterCrop(112), T.ToTensor()]),
        T.Compose([T.CenterCrop(150), T.ToTensor()]),
        T.Compose([T.Resize((64, 96)), T.ToTensor(), lambda t: t * 2]),
        boxed(128),
        lambda p: TF.to_tensor(p.crop((p.width // 2, 0, p.width, p.height))),
        lambda p: TF.to_tensor(p.crop((10, 20, p.width - 30, p.height - 40))),
    ],
    ids=["short side and crop", "crop", "stretched", "letterbox", "half", "border"],
)
def test_one_rule_for_all_sizes(run):
    """Twelve large pictures cost two small ones' measurement and a check each time they grow."""
    counted = Counted(lambda p: run(p))
    rule = SizeRule(shows(counted))
    sizes = [(1200 + 7 * i, 1600 - 11 * i) for i in range(12)]
    for size in sizes:
        rule.window(*size, tuple(run(Image.new("RGB", size[::-1])).shape[1:]))
    large = [s for s in counted.sizes if max(s) > 500]
    assert len(large) <= 4
    window = rule.window(*sizes[-1])
    direct = SizeRule(shows(run))
    direct._learned = True  # measured at this size itself
    expected = direct.window(*sizes[-1])
    span = max(window.right - window.left, window.bottom - window.top)
    np.testing.assert_allclose(edges(window), edges(expected), atol=span / 64)


def test_a_rule_that_changes_at_a_size_is_noticed():
    def run(picture):
        return TF.to_tensor(
            picture if picture.width < 600 else picture.crop((0, 0, 300, picture.height))
        )

    rule = SizeRule(shows(run))
    assert rule.window(200, 300) == Window.whole(200, 300)
    np.testing.assert_allclose(edges(rule.window(400, 900)), [0, 0, 300, 400], atol=2)
    assert rule.window(200, 310) == Window.whole(200, 310)


def test_transforms_of_one_size_only_are_measured_at_it():
    def run(picture):
        assert picture.size == (60, 50)
        return TF.to_tensor(picture.crop((30, 0, 60, 50)))

    np.testing.assert_allclose(edges(SizeRule(shows(run)).window(50, 60)), [30, 0, 60, 50], atol=1)


# the pieces ---------------------------------------------------------------------------------------


def test_a_pattern_is_painted_as_its_cells_are():
    pattern = Pattern(np.array([[True, False]]), np.array([0, 2]), np.array([0, 1, 3]))
    assert pattern.size == (2, 3)
    np.testing.assert_array_equal(pattern.paint(np.uint16(7), np.uint16(900)), [[900, 7, 7]] * 2)
    assert pattern.paint(np.uint16(7), np.uint16(900)).dtype == np.uint16
    coloured = pattern.inverse().paint(np.uint8([1, 2, 3]), np.uint8([9, 8, 7]))
    np.testing.assert_array_equal(coloured[1, 0], [1, 2, 3])
    np.testing.assert_array_equal(coloured[0, 2], [9, 8, 7])


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.05, -0.05])
def test_the_check_notices_a_shift_of_half_a_cell(shift):
    window = Window((200, 300), 300 * shift, 0, 300 * (1 + shift), 200)
    assert agrees(shows(resized)[0], window, (128, 128)) is (abs(shift) < 0.02)


def test_the_error_is_that_of_the_window():
    run = lambda p: TF.to_tensor(TF.center_crop(TF.resize(p, 100), 90))  # noqa: E731
    found = measure(shows(run), 240, 320)
    truth = np.array([160 - 108, 120 - 108, 160 + 108, 120 + 108])
    off = np.abs(edges(found.window) - truth).max() / 216
    assert off <= 4 * found.error + 1e-9
    assert found.error < 1 / 100
    assert not math.isnan(found.error)


def test_nothing_random_is_left_behind():
    state = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    window_of(boxed(64), 50, 70)
    assert random.getstate() == state[0]
    assert (np.random.get_state()[1] == state[1]).all()
    assert torch.equal(torch.get_rng_state(), state[2])
