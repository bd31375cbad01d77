"""Small pictures of image files; those that were asked for last are kept, as panels draw the same ones again."""

import functools
import os

from PIL import Image

from .images import decode_image


def thumbnail(path, side, square=False):
    """An image in small.

    Args:
        path: of the file
        side: the longest side in pixels
        square (False): whether it is stretched to a square

    Returns:
        a PIL image, not to be changed

    Raises:
        OSError: if the file cannot be read
    """
    found = os.stat(path)
    return _read(path, (found.st_mtime_ns, found.st_size), side, square)


# A page of the panel shows up to 60 squares of 30 kB; the largest of an open sample takes a megabyte.
@functools.lru_cache(maxsize=128)
def _read(path, version, side, square):
    """``version`` is what changes with a file's content."""
    picture = decode_image(path)
    if square:
        return picture.resize((side, side), Image.Resampling.BILINEAR)
    picture.thumbnail((side, side))
    return picture
