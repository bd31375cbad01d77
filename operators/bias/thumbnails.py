"""Small pictures for a page: photos, heat, composites, as data URIs."""

import base64

import cv2
import numpy as np

_LONGEST, _MAP = 210, 160
_BOX = (255, 120, 20)


def shrunk(picture):
    """A picture (h, w, 3) at the size that the page shows."""
    scale = _LONGEST / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(np.asarray(picture), size, interpolation=how)


def overlay(photo, heat):
    """Heat (h, w) in [0, 1], of any size, over a photo (h, w, 3)."""
    heat = np.asarray(heat, np.float32)
    heat = cv2.resize(heat, photo.shape[1::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
    share = (0.75 * heat)[..., None]
    return np.rint(photo * (1 - share) + _colours(heat) * share).astype(np.uint8)


def map_picture(values):
    """A map (h, w) in [0, 1] alone."""
    heat = cv2.resize(np.asarray(values, np.float32), (_MAP, _MAP), interpolation=cv2.INTER_CUBIC)
    return _colours(heat.clip(0, 1))


def with_box(picture, box):
    """A picture with a box, given as shares of it, drawn on it; None for none."""
    if box is None:
        return picture
    height, width = picture.shape[:2]
    left, top, right, bottom = box * np.array([width, height] * 2)
    drawn = np.array(picture, order="C")
    corners = (round(left), round(top)), (round(right) - 1, round(bottom) - 1)
    return cv2.rectangle(drawn, *corners, _BOX, 2)


def data_uri(picture):
    """A picture (h, w, 3) as the source of an image, without a file."""
    done, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not done:
        raise OSError("a picture of the report could not be encoded as JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"


def _colours(heat):
    bgr = cv2.applyColorMap(np.rint(heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return bgr[..., ::-1]
