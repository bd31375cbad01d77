"""Which part of an image transforms show to the model, so that heat can be laid back on it."""

import os
import tempfile
import threading

import numpy as np
from PIL import Image, ImageOps

from ._images import decode_image, one_line, open_image


# FiftyOne's own steps, which torchvision does not have.
def _window_rules():
    from ..cam_core.geometry import centre_cropped, resized, unmoved

    def scaled(size, alpha):
        return resized(size, (round(alpha * size[0]), round(alpha * size[1])))

    def at_least(step, size):
        alpha = max(m / s for m, s in zip(step.min_output_size, size, strict=True))
        return scaled(size, alpha) if alpha > 1 else unmoved(step, size)

    def at_most(step, size):
        alpha = min(m / s for m, s in zip(step.max_output_size, size, strict=True))
        return scaled(size, alpha) if alpha < 1 else unmoved(step, size)

    def multiple(step, size):
        return centre_cropped(size, tuple(s // step.patch_size * step.patch_size for s in size))

    return {"MinResize": at_least, "MaxResize": at_most, "PatchSize": multiple}


# One chance in 128 that a flip with probability one half goes unnoticed; those are also found by name.
_REPEATS = 8


def check_deterministic(transforms, path):
    """Raises a ValueError if transforms are random.

    A random crop shows another part of the picture each time, so no heatmap could be laid back on it.

    Args:
        transforms: maps a PIL image to a tensor, or a path where they take one
        path: of an image
    """
    import torch

    from ..cam_core.geometry import steps_of

    names = [type(step).__name__ for step in steps_of(transforms)]
    random = next((n for n in names if n.startswith("Random")), None)
    if random is None:
        again = _repeated(transforms, path)
        first = again()
        if not isinstance(first, torch.Tensor):
            return  # what is wrong with it is said where it is used
        others = (again() for _ in range(_REPEATS - 1))
        if all(other.shape == first.shape and torch.equal(other, first) for other in others):
            return
    raise ValueError(
        f"transforms is random ({random or 'one image gave different tensors'}), so heatmaps could not be laid "
        "back on the image; pass the transforms that the model is evaluated with"
    )


def _repeated(transforms, path):
    """A function that transforms an image again each time."""
    if getattr(transforms, "takes_path", False):
        return lambda: transforms.from_path(path)
    picture = decode_image(path)
    return lambda: transforms(picture.copy())


class Geometry:
    """Windows of a transform, per image size; read off known steps, else found by a probe.

    Transforms that take a path are probed with files, unless they say themselves what they see:
    ``window(height, width)``, which returns (left, top, right, bottom) in the upright image's pixels.

    Args:
        transforms: maps a PIL image to a tensor (C, h, w)
    """

    def __init__(self, transforms):
        self._transforms = transforms
        self._rules = _window_rules()
        self._known = {}
        self._turns = {}
        self._lock = threading.Lock()

    def window(self, height, width):
        """Returns the :class:`Window` that the model sees of an image of this size.

        Raises:
            ValueError: if the transform is no resize, crop or padding
        """
        with self._lock:
            if (height, width) not in self._known:
                if len(self._known) > 4096:
                    self._known.clear()
                self._known[height, width] = self._find(height, width)
            return self._known[height, width]

    def _find(self, height, width):
        from ..cam_core.geometry import probe, trace

        if getattr(self._transforms, "window", None) is not None:
            return _said(self._transforms.window(height, width), height, width)
        window = trace(self._transforms, height, width, self._rules)
        if window is None:
            window = probe(self._probed, height, width)
        if window is None:
            raise ValueError(
                "transforms does more than resize, crop and pad (or is random), so the heatmap cannot "
                "be laid back on the original image"
            )
        return window

    def _probed(self, array):
        try:
            return self._transforms(Image.fromarray(array))
        except Exception as error:
            if not getattr(self._transforms, "takes_path", False):
                raise
            raise ValueError(
                "preprocess cannot read a PNG picture, so what it does to places is not known "
                f"({one_line(error)}); give it an attribute window: (height, width) -> (left, top, right, "
                "bottom), what the model sees in the upright image's pixels"
            ) from error

    def upright_size(self, path):
        """Returns (width, height) of an image that transforms read themselves, as the App shows it.

        Raises:
            ValueError: if it is stored turned and the transforms do not turn it
        """
        with open_image(path) as image:
            size, turn = image.size, image.getexif().get(0x0112, 1)
        if turn == 1:
            return size
        if turn not in self._turns:
            self._turns[turn] = _turns_upright(self._transforms, turn)
        if not self._turns[turn]:
            raise ValueError(
                f"the image is stored turned (EXIF orientation {turn}), which preprocess does not undo; "
                "heat would lie beside the object"
            )
        return size[::-1] if turn in (5, 6, 7, 8) else size


def _said(window, height, width):
    """What transforms say that they see, checked."""
    from ..cam_core.geometry import Window

    if hasattr(window, "left"):
        window = (window.left, window.top, window.right, window.bottom)
    try:
        left, top, right, bottom = (float(v) for v in window)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"preprocess.window must return (left, top, right, bottom), got {window!r}"
        ) from error
    if not (np.isfinite([left, top, right, bottom]).all() and right > left and bottom > top):
        raise ValueError(f"preprocess.window returned {window!r}, which has no area")
    return Window((height, width), left, top, right, bottom)


def _turns_upright(transforms, turn):
    """Whether transforms that read files undo an EXIF orientation, tried on a picture of 8 x 16 blocks."""
    import torch

    blocks = np.random.default_rng(51).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    stored = Image.fromarray(blocks.repeat(16, 0).repeat(16, 1))
    exif = Image.Exif()
    exif[0x0112] = turn
    with tempfile.TemporaryDirectory(prefix="cam51-exif-") as folder:
        turned, upright = (os.path.join(folder, name) for name in ("turned.jpg", "upright.jpg"))
        stored.save(turned, exif=exif, quality=95)
        with open_image(turned) as image:
            ImageOps.exif_transpose(image).save(upright, quality=95)
        found, expected = transforms.from_path(turned), transforms.from_path(upright)
    if found.shape != expected.shape:
        return False
    spread = (expected - expected.mean()).abs().mean()
    return bool((found - expected).abs().mean() < 0.2 * spread) and bool(torch.isfinite(spread))
