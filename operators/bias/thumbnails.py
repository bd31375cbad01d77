"""Small pictures for a page: photos, heat, composites."""

import cv2
import numpy as np

from ...cam_core.spatial.overlay import heat_picture

_LONGEST, _MAP = 210, 160
_BOX = (255, 120, 20)


def shrunk(picture):
    """A picture (h, w, 3) at the size that the page shows."""
    scale = _LONGEST / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(np.asarray(picture), size, interpolation=how)


def map_picture(values, look):
    """A map (h, w) in [0, 1] alone, drawn with the colours of a look."""
    return heat_picture(values, (_MAP, _MAP), look)


def with_box(picture, box):
    """A picture with a box, given as shares of it, drawn on it; None for none."""
    if box is None:
        return picture
    height, width = picture.shape[:2]
    left, top, right, bottom = box * np.array([width, height] * 2)
    drawn = np.array(picture, order="C")
    corners = (round(left), round(top)), (round(right) - 1, round(bottom) - 1)
    return cv2.rectangle(drawn, *corners, _BOX, 2)
