"""Pictures of the panel: a photo under its heat, the heat that is kept with its outline, a trial."""

import dataclasses

import cv2
import numpy as np

from ..data.drawn import data_uri, overlaid
from ..data.thumbnails import thumbnail

#: longest side in pixels of the small pictures, and of the large one
SMALL, LARGE = 260, 520
_INNER, _OUTER = (255, 255, 255), (20, 20, 20)


def heat_picture(path, heat, look):
    """A small photo under a map in [0, 1], or without one, in the dataset's look; a ``data:`` URI."""
    return data_uri(overlaid(thumbnail(path, SMALL), heat, look))


def kept_picture(path, heat, kept, look):
    """A photo with the heat that is kept, and its outline.

    Args:
        path: of the photo
        heat: (h, w) in [0, 1]
        kept: (h, w) bool on the same grid
        look: the dataset's look, see :mod:`operators.runs.look`; what is kept is drawn whatever it hides

    Returns:
        a ``data:`` URI
    """
    below = thumbnail(path, LARGE)
    whole = dataclasses.replace(look, hide_below=0.0)
    heated = np.array(overlaid(below, heat, whole))
    mask = cv2.resize(kept.astype(np.float32), below.size, interpolation=cv2.INTER_LINEAR) >= 0.5
    return _outlined(np.where(mask[..., None], heated, np.array(below.convert("RGB"))), mask)


def trial_picture(picture, mask):
    """What the model was asked about, with the outline of what was replaced.

    Args:
        picture: (h, w, 3) uint8
        mask: (h, w) bool

    Returns:
        a ``data:`` URI
    """
    scale = min(1.0, SMALL / max(mask.shape))
    size = [max(1, round(side * scale)) for side in mask.shape[::-1]]
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    inside = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return _outlined(np.ascontiguousarray(small), inside)


def _outlined(picture, mask):
    """An array with the outline of a mask in white on black, which is seen on any photo."""
    from PIL import Image

    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, lines, -1, _OUTER, 3)
    cv2.drawContours(picture, lines, -1, _INNER, 1)
    return data_uri(Image.fromarray(picture))


def image(array):
    """A picture (h, w, 3) uint8 as a PIL image; one that is an image already stays."""
    from PIL import Image

    return Image.fromarray(array) if isinstance(array, np.ndarray) else array
