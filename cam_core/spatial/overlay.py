"""Heat drawn over a photo: colour ramps, what is hidden, and the scale beside it."""

from __future__ import annotations

import dataclasses
import functools
import numbers

import cv2
import numpy as np

# Colours from the least heat to the most, evenly spaced. Fire begins with a red that is seen on any photo and
# ends in a pale yellow: it gets lighter all the way. The others are those of Matplotlib, at 17 places.
_STOPS = {
    "fire": "5a0012 8e0016 c00a0f e63305 fb6100 ff8d00 ffb51a ffd95c fff3b8",
    "inferno": (
        "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d04545 e35933 f1711f f98c0a fcaa0f "
        "f9c932 f2e865 fcffa4"
    ),
    "turbo": (
        "30123b 4040a2 466be3 4294ff 28bceb 18ddc2 32f298 6dfe62 a4fc3c cbed34 ecd13a fdae35 fb8122 ec530f "
        "d23105 ac1701 7a0403"
    ),
    "viridis": (
        "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1f9f88 27ad81 3dbc74 5cc863 81d34d "
        "aadc32 d5e21a fde725"
    ),
}
#: one warm colour that fades with the value, as the App draws heatmaps by itself
FADE = "fade"
RAMPS = (FADE, *_STOPS)
_WARM = (255, 61, 0)
_LEVELS = 256


@dataclasses.dataclass(frozen=True)
class Look:
    """How heat is drawn.

    Attributes:
        ramp: one of :data:`RAMPS`
        opacity: of the colours over the photo, 0 to 1
        hide_below: heat below this share of the hottest is not drawn, 0 to 0.95; the colours are spread over
            what is left. Without effect with ``"fade"``, which has no end that could be hidden

    Raises:
        ValueError: if one of them is something else
    """

    ramp: str = "fire"
    opacity: float = 0.7
    hide_below: float = 0.33

    def __post_init__(self):
        if self.ramp not in RAMPS:
            raise ValueError(f"ramp: {self.ramp!r} is unknown; choose from {', '.join(RAMPS)}")
        _check_share("opacity", self.opacity, 1)
        _check_share("hide_below", self.hide_below, 0.95)

    @property
    def hidden(self):
        """The share of heat that is not drawn: 0 where the ramp fades."""
        return 0 if self.ramp == FADE else self.hide_below


def _check_share(name, value, most):
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 <= value <= most:
        raise ValueError(f"{name} must be a number from 0 to {most}, got {value!r}")


def stops(ramp):
    """The colours of a ramp with their places.

    Args:
        ramp: one of :data:`RAMPS` but ``"fade"``

    Returns:
        a list of (place from 0 to 1, (red, green, blue) of 0 to 255)
    """
    colours = [tuple(bytes.fromhex(text)) for text in _STOPS[ramp].split()]
    return [(i / (len(colours) - 1), colour) for i, colour in enumerate(colours)]


def table(ramp, count):
    """The colours of a ramp at evenly spaced places.

    Args:
        ramp: one of :data:`RAMPS` but ``"fade"``
        count: how many

    Returns:
        a list of [red, green, blue], 0 to 255
    """
    places, colours = zip(*stops(ramp), strict=True)
    at = np.linspace(0, 1, count)
    channels = [np.interp(at, places, channel) for channel in zip(*colours, strict=True)]
    return np.rint(np.array(channels).T).astype(int).tolist()


@functools.cache
def _table(ramp):
    """(256, 3) float32: the colours of a ramp."""
    if ramp == FADE:
        return np.tile(np.array(_WARM, np.float32), (_LEVELS, 1))
    return np.array(table(ramp, _LEVELS), np.float32)


def overlay(photo, heat, look=None):
    """A photo under its heat, as the App draws it.

    Args:
        photo: (H, W, 3) uint8
        heat: (h, w) in [0, 1] over the same picture
        look (None): a :class:`Look`; by default fire over the upper two thirds

    Returns:
        (H, W, 3) uint8
    """
    photo, look = np.asarray(photo), look or Look()
    heat = np.asarray(heat, np.float32)
    if heat.shape != photo.shape[:2]:
        heat = cv2.resize(heat, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours, share = _colours(heat.clip(0, 1), look)
    return np.rint(photo * (1 - share) + colours * share).astype(np.uint8)


def _colours(heat, look):
    """The colour (h, w, 3) of each place, and its share (h, w, 1) of what is seen there."""
    if look.ramp == FADE:
        return _table(FADE)[np.zeros(heat.shape, int)], look.opacity * heat[..., None]
    low = look.hidden
    level = np.rint((heat - low) / (1 - low) * (_LEVELS - 1)).clip(0, _LEVELS - 1).astype(int)
    drawn = (heat >= low) & (heat > 0)
    return _table(look.ramp)[level], look.opacity * drawn[..., None]


def heat_picture(heat, size, look=None, paper=(28, 28, 28)):
    """Heat alone, on a plain ground.

    Args:
        heat: (h, w) in [0, 1]
        size: (H, W) of the picture
        look (None): a :class:`Look`; its opacity does not matter
        paper: the ground's colour

    Returns:
        (H, W, 3) uint8
    """
    ground = np.full((*size, 3), paper, np.uint8)
    return overlay(ground, heat, dataclasses.replace(look or Look(), opacity=1.0))


def scale_bar(width, look=None, height=22, paper=(28, 28, 28), ink=(220, 220, 220)):
    """The scale of :func:`overlay`: its colours from no heat to the hottest place, with their values.

    Args:
        width: of the picture in pixels, 120 or more
        look (None): a :class:`Look`
        height (22): of the picture in pixels
        paper: the ground's colour, seen where heat is hidden
        ink: the colour of the numbers

    Returns:
        (height, width, 3) uint8
    """
    look = look or Look()
    low, high = "0 %", "100 % of the hottest"
    left, right = _text_width(low) + 6, width - _text_width(high) - 6
    bar = np.full((height, width, 3), paper, np.uint8)
    values = np.linspace(0, 1, max(2, right - left), dtype=np.float32)
    colours, share = _colours(values[None], dataclasses.replace(look, opacity=1.0))
    strip = np.array(paper, np.float32) * (1 - share) + colours * share
    top, bottom = height // 4, height - height // 4
    bar[top:bottom, left : left + strip.shape[1]] = np.rint(strip)
    cv2.rectangle(bar, (left - 1, top - 1), (left + strip.shape[1], bottom), _dim(paper, ink), 1)
    for text, x in ((low, 2), (high, width - _text_width(high) - 2)):
        cv2.putText(bar, text, (x, height // 2 + 4), _FONT, _SIZE, ink, 1, cv2.LINE_AA)
    if look.hidden:
        text = f"hidden below {100 * look.hidden:.0f} %"
        if _text_width(text) < look.hidden * (right - left) - 4:
            place = (left + 3, height // 2 + 4)
            cv2.putText(bar, text, place, _FONT, _SIZE, ink, 1, cv2.LINE_AA)
    return bar


_FONT, _SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.36


def _text_width(text):
    return cv2.getTextSize(text, _FONT, _SIZE, 1)[0][0]


def _dim(paper, ink):
    return tuple((int(p) + int(i)) // 2 for p, i in zip(paper, ink, strict=True))
