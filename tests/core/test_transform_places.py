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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torchvision import transforms as T

from cam_core.geometry import Window, project
from cam_core.spatial.places import Pattern, Unplaced, agrees, measure
from cam_core.spatial.size_rule import SizeRule

PAIRS = [(0, 255), (0, 128), (128, 255), (64, 160)]
PAIRS += [((0, 255, 0), (255, 0, 255)), ((255, 0, 0), (0, 255, 255))]
# `make test` tries some chains; CAM51_EXAMPLES=500 many
EXAMPLES = int(os.environ.get("CAM51_EXAMPLES", "25"))


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
        min(round(s * n), n - 1)
        for s, n in zip(shares, np.repeat(image.shape[1:], 2), strict=True)
    )
    return TF.pad(image, [left, top, right, bottom], padding_mode=mode)


def cut(image, shares):
    top, bottom, left, right = shares
    height, width = image.shape[1:]
    rows, columns = sorted((top, bottom)), sorted((left, right))
    y = [int(v * height) for v in rows]
    x = [int(v * width) for v in columns]
    return image[:, y[0] : max(y[1], y[0] + 1), x[0] : max(x[1], x[0] + 1)]


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
    st.tuples(*[st.floats(0, 1)] * 4)
    .filter(lambda s: abs(s[0] - s[1]) > 0.3 and abs(s[2] - s[3]) > 0.3)
    .map(lambda s: ("crop", lambda i: cut(i, s))),
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


@given(steps=STEPS, size=SIZES, at=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)))
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_a_bright_square_is_found_or_the_run_is_refused(steps, size, at):
    transform, (height, width) = chain(steps), size
    try:
        window = window_of(transform, height, width)
    except Unplaced:
        return
    picture = np.full((height, width, 3), 60, np.uint8)
    picture[::2, ::3] = 75  # not a constant, which no standardisation survives
    side = max(1, round(0.08 * height)), max(1, round(0.08 * width))
    top = min(int(at[0] * height), height - side[0])
    left = min(int(at[1] * width), width - side[1])
    marked = picture.copy()
    marked[top : top + side[0], left : left + side[1]] = 190
    one, two = (transform(Image.fromarray(p)) for p in (marked, picture))
    heat = (one - two).abs().sum(0)
    centre = (top + side[0] / 2, left + side[1] / 2)
    spans = (window.bottom - window.top, window.right - window.left)
    starts = (window.top, window.left)
    cells = [max(s / 14, 2 * n) for s, n in zip(spans, side, strict=True)]
    inside = all(
        lo + c < m < lo + s - c for m, lo, s, c in zip(centre, starts, spans, cells, strict=True)
    )
    if not inside:
        return  # the model does not see it as a whole
    laid = project(heat[None], window, (height, width))[0]
    assert laid.max() > 0.5 * heat.max(), "the heat lies outside of the image"
    y, x = (v.double() for v in (laid >= 0.7 * laid.max()).nonzero(as_tuple=True))
    found = (y.mean().item() + 0.5, x.mean().item() + 0.5)
    for f, m, cell in zip(found, centre, cells, strict=True):
        assert abs(f - m) <= cell / 2 + 0.5, ([name for name, _ in steps], found, centre, window)
