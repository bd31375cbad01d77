"""Regions to be replaced: the border, the hottest place, a box, a field, a map."""

import abc
import collections.abc

import cv2
import numpy as np

from ...cam_core.bias.composites import border_ring

#: share of the image that counts as its hottest place
HOTTEST = 0.1
#: what the form calls a region whose four numbers are typed beside it
A_BOX = "a box"


class Regions(collections.abc.Sequence):
    """Masks (h, w) bool on the pixels of pictures.

    Args:
        pictures: :class:`Pictures`

    Attributes:
        control: what they are compared with, see :func:`~cam_core.bias.swap_test.region_check`
    """

    control = "elsewhere"

    def __init__(self, pictures):
        self._sizes = pictures.sizes()

    def __len__(self):
        return len(self._sizes)

    def __getitem__(self, index):
        return self.draw(int(index), self._sizes[int(index)])

    @abc.abstractmethod
    def draw(self, index, size):
        """Draws the region of one picture; (h, w) bool."""


class BorderRegions(Regions):
    """The outer 15 % along each side: half of the picture, so that there is no place to move it to."""

    control = "same class"

    def draw(self, index, size):
        """Draws the region of one picture; (h, w) bool."""
        return border_ring(size)


class BoxRegions(Regions):
    """The same box in every picture.

    Args:
        pictures: :class:`Pictures`
        box: left, top, width, height as shares of the image
    """

    def __init__(self, pictures, box):
        super().__init__(pictures)
        self._box = box

    def draw(self, index, size):
        """Draws the region of one picture; (h, w) bool."""
        return box_region(self._box, size)


class MapRegions(Regions):
    """Where a map over the image is at least half of its maximum, the same in every picture.

    Args:
        pictures: :class:`Pictures`
        values: (h, w) non-negative, such as the ``mean_map`` of a cluster
    """

    def __init__(self, pictures, values):
        super().__init__(pictures)
        self._values = np.asarray(values, np.float32)

    def draw(self, index, size):
        """Draws the region of one picture; (h, w) bool."""
        heat = cv2.resize(self._values, size[::-1], interpolation=cv2.INTER_LINEAR)
        return heat >= 0.5 * heat.max()


class HottestRegions(Regions):
    """The hottest tenth of each picture; nothing where its map has no heat.

    Args:
        pictures: :class:`Pictures`
        scan: the :class:`Scan`
        rows: indices of the pictures' samples
    """

    def __init__(self, pictures, scan, rows):
        super().__init__(pictures)
        self._scan, self._rows = scan, rows

    def draw(self, index, size):
        """Draws the region of one picture; (h, w) bool."""
        row = self._rows[index]
        if self._scan.heat_status[row] != "ok":
            return np.zeros(size, bool)
        return hottest_region(self._scan.maps[row], size)


def box_region(box, size):
    """A box on the pixels of a picture.

    Args:
        box: left, top, width, height as shares of the image
        size: (h, w)

    Returns:
        (h, w) bool
    """
    left, top, width, height = box
    region = np.zeros(size, bool)
    rows = slice(int(np.floor(top * size[0])), int(np.ceil((top + height) * size[0])))
    columns = slice(int(np.floor(left * size[1])), int(np.ceil((left + width) * size[1])))
    region[rows, columns] = True
    return region


def hottest_region(heat, size):
    """The hottest tenth of a picture.

    Args:
        heat: a map over the image, of any size
        size: (h, w) of the picture

    Returns:
        (h, w) bool
    """
    heat = cv2.resize(np.asarray(heat, np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    count = max(1, round(HOTTEST * heat.size))
    region = np.zeros(heat.size, bool)
    region[np.argsort(-heat.ravel(), kind="stable")[:count]] = True
    return region.reshape(size)
