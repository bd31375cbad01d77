"""Small pictures of image files; those that were asked for last are kept, as panels draw the same ones again."""

import functools
import os

from PIL import Image

from .images import decode_image


def thumbnail(path, side):
    """An image at a longest side.

    Args:
        path: of the file
        side: in pixels

    Returns:
        a PIL image, not to be changed

    Raises:
        OSError: if the file cannot be read
    """
    return _thumbnail(path, _version(path), side)


def tile(path, side):
    """An image stretched to a square.

    Args:
        path: of the file
        side: in pixels

    Returns:
        a PIL image, not to be changed

    Raises:
        OSError: if the file cannot be read
    """
    return _tile(path, _version(path), side)


def _version(path):
    """What changes with a file's content."""
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size


# large ones may take a megabyte each
@functools.lru_cache(maxsize=16)
def _thumbnail(path, version, side):
    picture = decode_image(path)
    picture.thumbnail((side, side))
    return picture


# a page of the panel shows up to 60
@functools.lru_cache(maxsize=256)
def _tile(path, version, side):
    return decode_image(path).resize((side, side), Image.Resampling.BILINEAR)
