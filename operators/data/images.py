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
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return Image.fromarray(_scaled(np.asarray(upright), 255 / 65535)).convert("RGB")
    if upright.mode in ("I", "F"):
        return Image.fromarray(_to_8_bit(np.asarray(upright))).convert("RGB")
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


def _to_8_bit(values):
    """Scales a channel of 32 bits, whose kind does not tell its range: 0-1, 8, 16 or 32 bits."""
    values = np.nan_to_num(values.astype(np.float64))
    high = values.max(initial=0)
    if high <= 1 and values.min(initial=0) >= 0 and not np.array_equal(values, values.round()):
        scale = 255.0
    elif high <= 255:
        scale = 1.0
    elif high <= 65535:
        scale = 255.0 / 65535
    else:
        scale = 255.0 / high
    return _scaled(values, scale)


def _scaled(values, scale):
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)
