"""Pictures as they are looked at: any file that Pillow reads, upright, as 8-bit RGB."""

import contextlib
import os
import sys
import threading

import numpy as np
from PIL import Image, ImageOps

# Pictures of more pixels are decoded one at a time: 100 megapixels take half a gigabyte meanwhile.
_LARGE_PIXELS = 30_000_000
_ONE_LARGE = threading.Lock()
# Channels of 16 and 32 bits are scaled in double precision, so many pixels at a time.
_STRIP_PIXELS = 1_000_000


def check_file(path):
    """Raises an OSError unless there is a regular file: a pipe would be waited for without end."""
    if not os.path.exists(path) or os.path.isdir(path):
        raise FileNotFoundError("the file does not exist")
    if not os.path.isfile(path):
        raise OSError("it is no regular file")


def open_image(path):
    """Opens an image with Pillow itself.

    Ultralytics replaces ``Image.open``, as soon as it is imported, by a function that installs a package
    from the network where a file cannot be read.

    Args:
        path: the file

    Returns:
        a ``PIL.Image.Image``

    Raises:
        OSError: if the file cannot be read as an image
    """
    check_file(path)
    patches = sys.modules.get("ultralytics.utils.patches")
    return getattr(patches, "_image_open", Image.open)(path)


def decode_image(path):
    """Reads an image as 8-bit RGB, upright.

    EXIF orientation is honoured as the App does; 16-bit and float images are scaled, not clipped; an
    alpha channel is dropped, as FiftyOne's own loader does; of an animation the first frame counts.

    Args:
        path: the file

    Returns:
        a ``PIL.Image.Image`` of mode RGB

    Raises:
        OSError: if the file cannot be read as an image
    """
    with open_image(path) as image:
        large = image.width * image.height > _LARGE_PIXELS
        with _ONE_LARGE if large else contextlib.nullcontext():
            return as_rgb(image)


def as_rgb(image):
    """An image of any mode as 8-bit RGB, upright; see :func:`decode_image`."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        return _grey(image, lambda values: _scaled(values, 255 / 65535)).convert("RGB")
    if image.mode in ("I", "F"):
        scale = _scale_of_32_bits(image)
        return _grey(image, lambda values: _scaled(_finite(values), scale)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _strips(image):
    """Yields (first row, pixels as an array) of a picture, a few rows at a time: what is made of them is large."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield top, np.asarray(image.crop((0, top, image.width, bottom)))


def _grey(image, to_8_bit):
    """The picture of what a function makes of each strip."""
    grey = np.empty((image.height, image.width), np.uint8)
    for top, values in _strips(image):
        grey[top : top + len(values)] = to_8_bit(values)
    return Image.fromarray(grey)


def _scale_of_32_bits(image):
    """The scale to 8 bits of a channel whose kind does not tell its range: 0-1, 8, 16 or 32 bits."""
    high, low, whole = 0.0, 0.0, True
    for _, values in _strips(image):
        values = _finite(values)
        high, low = max(high, values.max(initial=0)), min(low, values.min(initial=0))
        whole = whole and np.array_equal(values, values.round())
    if high <= 1 and low >= 0 and not whole:
        return 255.0
    if high <= 255:
        return 1.0
    return 255.0 / 65535 if high <= 65535 else 255.0 / high


def _finite(values):
    return np.nan_to_num(values.astype(np.float64))


def _scaled(values, scale):
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
