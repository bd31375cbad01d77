"""What a model sees as a function of the image's size: learned at small sizes, checked at others.

Measuring takes dozens of pictures, so it is done on small ones; a check takes two and is made at
every size that is larger or smaller than those checked before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .geometry import Window
from .places import TOLERANCE, Measured, Pattern, Show, Unplaced, agrees, can_be_checked, measure

Rule = Callable[[int, int], "Window | None"]
# Landscape and portrait; a rule that was found at both is tried on a third shape.
_SIZES = ((240, 320), (392, 208))
_THIRD = (180, 430)
# Sizes within this factor of those checked need no check: a rule that changes at a size (a picture is
# made smaller from there on) changes little in between.
_NEAR = 1.05
# Larger pictures are measured at the same aspect and checked at their own size.
_LARGE_PIXELS, _SMALL_SIDE = 300_000, 448
# One chance in 128 that a change with probability one half goes unnoticed.
_REPEATS = 8


class SizeRule:
    """Windows by image size, of transforms that have to be measured.

    Args:
        shows: ways to show a pattern to the transforms, see :func:`measure`
        guesses: rules that may hold: ``(height, width) -> window`` or None; each is checked

    Attributes:
        error: the largest standard error of what was measured, as a share of the input's side
    """

    def __init__(self, shows: Sequence[Show], guesses: Sequence[Rule] = ()):
        self._shows = list(shows)
        self._guesses = [*guesses, Window.whole]
        self._rule: Rule | None = None
        self._refused: Unplaced | None = None
        self._learned = False
        self._checked: list[int] = []
        self._framed = False
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}
        self.error = 0.0

    @property
    def found(self) -> bool:
        """Whether one rule holds for the sizes seen so far, so that a failure is that of one size."""
        return self._rule is not None and self._refused is None

    def window(self, height: int, width: int, size: tuple[int, int] | None = None) -> Window:
        """Returns what the model sees of images of one size.

        Args:
            height: of the images
            width: of the images
            size (None): (h, w) of the model's input, where it is known

        Raises:
            Unplaced: if it cannot be read, or is nothing that a window describes
        """
        if not self._learned:
            self._learn(height, width)
        if self._refused is not None:
            raise self._refused
        if self._rule is not None:
            window = self._rule(height, width)
            if window is not None and (self._is_near(height, width) or self._holds(window, size)):
                self._remember(height, width)
                return window
        return self._measured(height, width, size)

    def _learn(self, height: int, width: int) -> None:
        """Looks for a rule; transforms that only take the dataset's own sizes have none."""
        self._learned = True
        try:
            self._check_fixed(*_SIZES[0])
            self._rule = self._find()
            if self._rule is not None:
                for size in _SIZES:
                    self._remember(*size)
                self._check_frames(*_SIZES[0])
        except Unplaced as reason:
            if reason.certain:
                self._refused = reason
        except (
            Exception
        ):  # pictures of other sizes than the dataset's: those are measured themselves
            self._rule = None
        if self._refused is None and self._rule is None:
            try:
                self._check_fixed(height, width)
            except Unplaced as reason:
                self._refused = reason

    def _find(self) -> Rule | None:
        for rule in self._guesses:
            windows = [rule(*size) for size in (*_SIZES, _THIRD)]
            if all(w is not None and self._holds(w) for w in windows):
                return rule
        found = {size: self._measure(*size) for size in _SIZES}
        for rule in fitted(list(found.values())):
            windows = [rule(*size) for size in (*_SIZES, _THIRD)]
            if all(w is not None and self._holds(w) for w in windows):
                return rule
        return None

    def _measure(self, height: int, width: int) -> Measured:
        found = measure(self._shows, height, width)
        self.error = max(self.error, found.error)
        return found

    def _holds(self, window: Window, size: tuple[int, int] | None = None) -> bool:
        """Whether a window passes the check, with any two values that can be told apart."""
        height, width = window.image
        if size is None:
            size = self._size_of(height, width)
        if not can_be_checked(window, size):
            return False  # measured itself, then
        answers = (agrees(show, window, size) for show in self._shows)
        return bool(next((answer for answer in answers if answer is not None), False))

    def _size_of(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the model's input for images of one size."""
        if (height, width) not in self._sizes:
            shown = self._shows[0](_plain(height, width))
            self._sizes[height, width] = (int(shown.shape[1]), int(shown.shape[2]))
        return self._sizes[height, width]

    def _is_near(self, height: int, width: int) -> bool:
        if not self._checked:
            return False
        low_h, high_h, low_w, high_w = self._checked
        return (
            low_h / _NEAR <= height <= high_h * _NEAR and low_w / _NEAR <= width <= high_w * _NEAR
        )

    def _remember(self, height: int, width: int) -> None:
        low_h, high_h, low_w, high_w = self._checked or (height, height, width, width)
        self._checked = [
            min(low_h, height), max(high_h, height), min(low_w, width), max(high_w, width)
        ]  # fmt: skip

    def _measured(self, height: int, width: int, size: tuple[int, int] | None) -> Window:
        """The window of one size by itself."""
        for window in self._candidates(height, width):
            if self._holds(window, size):
                break
        else:
            window = self._measure(height, width).window
        if not self._framed:
            self._check_window_with_frames(window, size)
        return window

    def _candidates(self, height: int, width: int) -> Iterator[Window]:
        """Windows that may hold at a size."""
        for rule in self._guesses:
            window = rule(height, width)
            if window is not None:
                yield window
        if height * width <= _LARGE_PIXELS:
            return
        factor = _SMALL_SIDE / max(height, width)
        small = (max(1, round(height * factor)), max(1, round(width * factor)))
        try:
            found = self._measure(*small)
        except Unplaced:
            raise  # a larger picture is no plainer, and takes long
        except Exception:  # it takes pictures of their own size only
            return
        yield _enlarged(found.window, height, width)

    def _check_frames(self, height: int, width: int) -> None:
        if self._rule is not None:
            window = self._rule(height, width)
            if window is not None:
                self._check_window_with_frames(window, None)

    def _check_window_with_frames(self, window: Window, size: tuple[int, int] | None) -> None:
        """Raises where a plain border moves what it surrounds: it is cut off, then."""
        size = size or self._size_of(*window.image)
        show = next((s for s in self._shows if agrees(s, window, size)), None)
        self._framed = True
        for frame in (False, True):
            if show is not None and agrees(show, window, size, frame) is False:
                raise Unplaced(
                    f"depends on the picture's content: inside a plain {'bright' if frame else 'dark'} "
                    "border, places are elsewhere than without it",
                    certain=True,
                )

    def _check_fixed(self, height: int, width: int) -> None:
        """Raises if one picture gives different inputs."""
        pattern = _plain(height, width)
        for show in self._shows:
            first = show(pattern)
            if first.max() > first.min():
                break
        for _ in range(_REPEATS - 1):
            other = show(pattern)
            same = other.shape == first.shape and torch.equal(
                torch.nan_to_num(other), torch.nan_to_num(first)
            )
            if not same:
                raise Unplaced("is random: one image gave different tensors", certain=True)


def _plain(height: int, width: int) -> Pattern:
    """Cells along both sides, no two halves of which are alike."""
    rows, columns = min(7, height), min(9, width)
    cells = np.random.default_rng(7).random((rows, columns)) < 0.5
    edges = [
        np.rint(np.linspace(0, e, n + 1)).astype(int) for e, n in ((height, rows), (width, columns))
    ]
    return Pattern(cells, *edges)


def _enlarged(window: Window, height: int, width: int) -> Window:
    """The window of an image of the same aspect, at another size."""
    down, across = height / window.image[0], width / window.image[1]
    return dataclasses.replace(
        window,
        image=(height, width),
        left=window.left * across,
        right=window.right * across,
        top=window.top * down,
        bottom=window.bottom * down,
    )


def fitted(measured: Sequence[Measured]) -> Iterator[Rule]:
    """Yields rules that may explain what was measured at two sizes, the simplest first.

    Args:
        measured: what was measured, of two images of different height and width
    """
    one, two = measured
    if (one.window.flipped, one.window.transposed) != (two.window.flipped, two.window.transposed):
        return
    turned: dict[str, Any] = {
        "flipped": one.window.flipped, "transposed": one.window.transposed
    }  # fmt: skip
    yield _straight(one, two, turned, shares_only=True)
    if one.size == two.size:
        for pick in (min, max):
            yield _isotropic(one, two, turned, pick)
    yield _straight(one, two, turned, shares_only=False)


def _edges(window: Window) -> tuple[tuple[float, float], tuple[float, float]]:
    return (window.top, window.bottom), (window.left, window.right)


def _straight(one: Measured, two: Measured, turned: dict, shares_only: bool) -> Rule:
    """Each edge is a share of its side and a number of pixels."""
    lines = []
    for axis in (0, 1):
        sides = one.window.image[axis], two.window.image[axis]
        for end in (0, 1):
            at = _edges(one.window)[axis][end], _edges(two.window)[axis][end]
            if shares_only:
                slope, start = (at[0] / sides[0] + at[1] / sides[1]) / 2, 0.0
                slope = round(2 * slope) / 2 if abs(slope - round(2 * slope) / 2) < 0.005 else slope
            else:
                slope = (at[1] - at[0]) / (sides[1] - sides[0])
                snapped = round(slope * 2) / 2  # from an edge or from the middle
                slope = snapped if abs(slope - snapped) < TOLERANCE else slope
                start = float(np.mean([p - slope * s for p, s in zip(at, sides, strict=True)]))
            lines.append((slope, start))

    def rule(height: int, width: int) -> Window | None:
        (top, bottom), (left, right) = (
            [a * side + b for a, b in lines[2 * axis : 2 * axis + 2]]
            for axis, side in ((0, height), (1, width))
        )
        if right <= left or bottom <= top:
            return None
        return Window((height, width), left, top, right, bottom, **turned)

    return rule


def _isotropic(one: Measured, two: Measured, turned: dict, pick: Callable[..., float]) -> Rule:
    """One scale for both sides, by the side that fits first or last: crops and letterboxes."""
    shape = one.window.upright_size(one.size)

    def scale(height: int, width: int) -> float:
        return pick(height / shape[0], width / shape[1])

    factors, anchors = [], ([], [])  # type: ignore[var-annotated]
    for found in (one, two):
        image = found.window.image
        spans = [b - a for a, b in _edges(found.window)]
        factors += [s / (scale(*image) * n) for s, n in zip(spans, shape, strict=True)]
    factor = float(np.mean(factors))
    factor = 1.0 if abs(factor - 1) < 0.01 else factor
    for found in (one, two):
        for axis in (0, 1):
            spare = found.window.image[axis] - factor * scale(*found.window.image) * shape[axis]
            if abs(spare) > 0.05 * found.window.image[axis]:
                anchors[axis].append(_edges(found.window)[axis][0] / spare)
    places = [float(np.mean(a)) if a else 0.5 for a in anchors]
    places = [round(2 * p) / 2 if abs(p - round(2 * p) / 2) < 0.04 else p for p in places]

    def rule(height: int, width: int) -> Window | None:
        spans = [factor * scale(height, width) * n for n in shape]
        top, left = (
            p * (side - span) for p, side, span in zip(places, (height, width), spans, strict=True)
        )
        return Window((height, width), left, top, left + spans[1], top + spans[0], **turned)

    return rule
