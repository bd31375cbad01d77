"""Which part of an image transforms show to the model, so that heat can be laid back on it."""

import os
import threading

import numpy as np
from PIL import Image, ImageOps

from ..runs.leftovers import temporary_folder
from ..text import one_line
from .images import decode_image, open_image

# One chance in 128 that a flip with probability one half goes unnoticed; those are also found by name.
_REPEATS = 8
# What is tried with larger pictures is tried with smaller ones: memory is that of the run itself.
_LARGE_SIDE = 1024
# Values of the two kinds of cells that are shown, grey and coloured; the next pair where transforms
# make one value of both.
_GREYS = ((0, 255), (0, 128), (128, 255), (64, 160), (96, 128))
_COLOURS = (
    ((0, 255, 0), (255, 0, 255)),
    ((255, 0, 0), (0, 255, 255)),
    ((0, 0, 255), (255, 255, 0)),
)


class UnknownPlaces(ValueError):
    """Raised where it is not known, and could not be measured, which part of an image the model sees."""


def check_deterministic(transforms, path, picture=None):
    """Raises a ValueError if transforms are random.

    A random crop shows another part of the picture each time, so no heatmap could be laid back on it.

    Args:
        transforms: maps a PIL image to a tensor, or a path where they take one
        path: of an image
        picture (None): returns the picture instead of the file's
    """
    import torch

    from ...cam_core.spatial.steps import trace

    if trace(transforms, _LARGE_SIDE, _LARGE_SIDE) is not None:
        return  # each of its steps is known, and none is random
    random = _random_step(transforms)
    if random is None:
        again = _repeated(transforms, path, picture)
        first = again()
        if not isinstance(first, torch.Tensor):
            return  # what is wrong with it is said where it is used
        others = (again() for _ in range(_REPEATS - 1))
        if all(other.shape == first.shape and _equal(other, first) for other in others):
            return
    raise ValueError(_random(f"{random}" if random else "one image gave different tensors"))


def _random_step(transforms):
    """The name of a step that is random by its type, however rarely it changes anything; or None."""
    from ...cam_core.spatial.steps import steps_of

    for step in steps_of(transforms):
        name = type(step).__name__
        certain = name.endswith("Flip") and getattr(step, "p", None) in (0, 1)
        if name.startswith("Random") and not certain:
            return name
    return None


def _equal(one, two):
    return bool(((one == two) | (one.isnan() & two.isnan())).all())


def _random(reason):
    return (
        f"transforms is random ({reason}), so heatmaps could not be laid back on the image; pass the "
        "transforms that the model is evaluated with"
    )


def _repeated(transforms, path, shown=None):
    """A function that transforms an image again each time."""
    if getattr(transforms, "takes_path", False):
        return lambda: transforms.from_path(path)
    picture = decode_image(path) if shown is None else shown()
    picture.thumbnail((_LARGE_SIDE, _LARGE_SIDE))
    return lambda: transforms(picture.copy())


class TransformGeometry:
    """Windows of transforms, per image size.

    What was said (``window=``, or an attribute ``window`` of the transforms) is taken as it is; steps
    that are known by their type are computed; the rest is measured: with pictures, or of transforms
    that take a path with files of the kind of the first one that is asked about.

    Args:
        transforms: maps a PIL image to a tensor, or a path where they take one
        window (None): see :func:`check_window`
    """

    def __init__(self, transforms, window=None):
        self._transforms = transforms
        own = getattr(transforms, "window", None)
        self._said = own if window is None else window
        self._name = "preprocess" if getattr(transforms, "takes_path", False) else "transforms"
        self._known = {}
        self._turns = {}
        self._kind = None
        self._rule = None
        self._lock = threading.RLock()
        #: how the last window is known: "given", "computed" or "measured"
        self.known_by = None if self._said is None else "given"

    def __reduce__(self):
        """Another process measures again: what was learned is tied to this one's pictures and lock."""
        return TransformGeometry, (self._transforms, self._said)

    @property
    def error(self):
        """Standard error of what was measured, as a share of the input's side; 0 where nothing was."""
        return 0.0 if self._rule is None else self._rule.error

    def window(self, height, width, size=None):
        """Returns the ``cam_core.spatial.geometry.Window`` of images of a size.

        Args:
            height: of the image, upright
            width: of the image
            size (None): (h, w) of the model's input, where it is known

        Raises:
            UnknownPlaces: if it could not be measured; says what was
        """
        with self._lock:
            if (height, width) not in self._known:
                if len(self._known) > 4096:
                    self._known.clear()
                self._known[height, width] = self._find(height, width, size)
            return self._known[height, width]

    def _find(self, height, width, size):
        from ...cam_core.spatial.steps import trace

        if self._said is not None:
            return _said(self._said, height, width)
        if self._name == "transforms":
            window = trace(self._transforms, height, width)
            if window is not None:
                self.known_by = "computed"
                return window
        self.known_by = "measured"
        return self._measured(height, width, size)

    def _measured(self, height, width, size):
        from ...cam_core.spatial.places import Unplaced
        from ...cam_core.spatial.size_rule import SizeRule

        if self._rule is None:
            random = _random_step(self._transforms)
            if random is not None:
                raise UnknownPlaces(_random(random))
            self._rule = SizeRule(self._shows(), self._guesses())
        try:
            return self._rule.window(height, width, size)
        except Unplaced as reason:
            if "is random" in str(reason):
                raise UnknownPlaces(_random("one image gave different tensors")) from reason
            what = f"{self._name} {reason}; so the heatmap cannot be laid back on the image. {_WAY_OUT}"
            if self._rule.found:  # images of other sizes can be explained
                raise ValueError(f"of {width} x {height} pixels, {what}") from reason
            raise UnknownPlaces(what) from reason
        except Exception as error:
            what = f"{self._name} cannot be measured with a picture of {width} x {height} pixels"
            if self._kind is not None:
                what = f"{self._name} cannot read a file like {self._kind.name!r} with a test pattern in it"
            raise UnknownPlaces(f"{what} ({one_line(error)}). {_WAY_OUT}") from error

    def _guesses(self):
        """Rules that may hold: what the known steps do, if the others leave places alone."""
        from ...cam_core.spatial.steps import rule_of, steps_of, trace

        steps = steps_of(self._transforms)
        if self._name == "preprocess" or not any(rule_of(step) for step in steps):
            return []
        return [lambda height, width: trace(self._transforms, height, width, guess=True)]

    def _shows(self):
        """Ways to show a pattern to the transforms."""
        if self._kind is not None:
            return [self._file_show(low, high) for low, high in self._kind.pairs()]
        return [_picture_show(self._transforms, low, high) for low, high in (*_GREYS, *_COLOURS)]

    def _file_show(self, low, high):
        def show(pattern):
            with temporary_folder() as folder:
                return self._transforms.from_path(
                    self._kind.write(pattern.paint(low, high), folder)
                )

        return show

    def upright_size(self, path):
        """Returns (width, height) of an image that transforms read themselves, as the App shows it.

        The first file asked about is the one whose kind the transforms are measured with.

        Raises:
            ValueError: if it is stored turned and the transforms do not turn it
        """
        from .file_kind import FileKind

        with open_image(path) as image:
            size, turn = image.size, image.getexif().get(0x0112, 1)
        with self._lock:
            if self._kind is None:
                self._kind = FileKind(path)
            if turn != 1 and turn not in self._turns:
                self._turns[turn] = _turns_upright(self._transforms, turn)
        if turn == 1:
            return size
        if not self._turns[turn]:
            raise ValueError(
                f"the image is stored turned (EXIF orientation {turn}), which preprocess does not undo; "
                "heat would lie beside the object"
            )
        return size[::-1] if turn in (5, 6, 7, 8) else size


_WAY_OUT = (
    "If you know what the model sees of it, say so: window=(left, top, right, bottom) in shares of the "
    "image, (0, 0, 1, 1) being the whole, or a function (height, width) -> the same in pixels; or give "
    "the function such an attribute window"
)


def _picture_show(transforms, low, high):
    def show(pattern):
        values = pattern.paint(np.asarray(low, np.uint8), np.asarray(high, np.uint8))
        return transforms(Image.fromarray(values).convert("RGB"))

    return show


def check_window(window):
    """Raises a ValueError unless this is a window: a function, or four shares of the image.

    Args:
        window: maps (height, width) to (left, top, right, bottom), what the model sees in the upright
            image's pixels; or these four as shares of the image. None for one that has to be found
    """
    if window is None or callable(window):
        return
    try:
        left, top, right, bottom = (float(v) for v in window)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"window: {window!r} is not understood; give (left, top, right, bottom) as shares of the image, "
            "(0, 0, 1, 1) being the whole, or a function (height, width) -> the same in pixels"
        ) from error
    if not (np.isfinite([left, top, right, bottom]).all() and right > left and bottom > top):
        raise ValueError(f"window: {window!r} has no area; give (left, top, right, bottom)")
    if max(abs(v) for v in (left, top, right, bottom)) > 20:
        raise ValueError(
            f"window: {window!r} reads like pixels; four numbers are shares of the image, (0, 0, 1, 1) being "
            "the whole; pixels come from a function (height, width) -> (left, top, right, bottom)"
        )


def _said(window, height, width):
    """What a user says that the model sees, checked."""
    from ...cam_core.spatial.geometry import Window

    if not callable(window):
        check_window(window)
        left, top, right, bottom = (float(v) for v in window)
        return Window((height, width), left * width, top * height, right * width, bottom * height)
    said = window(height, width)
    if hasattr(said, "left"):
        said = (said.left, said.top, said.right, said.bottom)
    try:
        left, top, right, bottom = (float(v) for v in said)
    except (TypeError, ValueError) as error:
        raise UnknownPlaces(
            f"window must return (left, top, right, bottom), got {said!r}"
        ) from error
    if not (np.isfinite([left, top, right, bottom]).all() and right > left and bottom > top):
        raise UnknownPlaces(f"window returned {said!r}, which has no area")
    return Window((height, width), left, top, right, bottom)


def _turns_upright(transforms, turn):
    """Whether transforms that read files undo an EXIF orientation, tried on a picture of 8 x 16 blocks."""
    import torch

    blocks = np.random.default_rng(51).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    stored = Image.fromarray(blocks.repeat(16, 0).repeat(16, 1))
    exif = Image.Exif()
    exif[0x0112] = turn
    with temporary_folder() as folder:
        turned, upright = (os.path.join(folder, name) for name in ("turned.jpg", "upright.jpg"))
        stored.save(turned, exif=exif, quality=95)
        with open_image(turned) as image:
            ImageOps.exif_transpose(image).save(upright, quality=95)
        found, expected = transforms.from_path(turned), transforms.from_path(upright)
    if found.shape != expected.shape:
        return False
    spread = (expected - expected.mean()).abs().mean()
    return bool((found - expected).abs().mean() < 0.2 * spread) and bool(torch.isfinite(spread))
