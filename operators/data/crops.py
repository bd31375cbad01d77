"""Crops of images: each object of a field of detections as a picture of its own."""

import collections
import dataclasses
import threading

from .images import decode_image


class Crop:
    """The part of an image in a box, cut as FiftyOne cuts patches.

    Args:
        pictures: the :class:`Pictures` that decode images
        path: of the image
        box: [left, top, width, height] as shares of the upright image
    """

    def __init__(self, pictures, path, box):
        self._pictures, self._path, self._box = pictures, path, box
        self._place = None

    def __call__(self):
        """Returns the part as a ``PIL.Image.Image``."""
        picture = self._pictures(self._path)
        place = pixels_of(self._box, *picture.size)
        self._place = (place, picture.size)
        return picture.crop(place)

    def on_image(self, window):
        """A window of the part as one of the whole image."""
        (left, top, _, _), (width, height) = self._place
        cells = window.cells and tuple(
            v + shift for v, shift in zip(window.cells, (left, top) * 2, strict=True)
        )
        return dataclasses.replace(
            window,
            image=(height, width),
            left=window.left + left,
            top=window.top + top,
            right=window.right + left,
            bottom=window.bottom + top,
            cells=cells,
        )


def pixels_of(box, width, height):
    """(left, top, right, bottom) of a box in an image's pixels, as FiftyOne rounds them; one pixel at least."""
    x, y, wide, high = box
    left, top = min(max(0, int(width * x)), width - 1), min(max(0, int(height * y)), height - 1)
    right, bottom = min(width, int(width * (x + wide))), min(height, int(height * (y + high)))
    return left, top, max(right, left + 1), max(bottom, top + 1)


class Pictures:
    """Decodes images for several threads; the last few are kept, as an image may have many objects.

    Args:
        kept: how many
    """

    def __init__(self, kept):
        self._kept, self._lock = max(1, kept), threading.Lock()
        self._known = collections.OrderedDict()

    def __call__(self, path):
        """Returns an image, see :func:`operators.data.images.decode_image`."""
        with self._lock:
            entry = self._known.setdefault(path, [threading.Lock(), None])
            self._known.move_to_end(path)
            while len(self._known) > self._kept:
                self._known.popitem(last=False)
        with entry[0]:
            if entry[1] is None:
                entry[1] = decode_image(path)
            return entry[1]
