"""The part of a model's input that a layer's grid lies on."""

from __future__ import annotations

import dataclasses

from .geometry import Window

Rectangle = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Extent:
    """Where the cells of a grid lie on the model's input, as shares of its height and width.

    Attributes:
        cells: (left, top, right, bottom) of the rectangle that the cells tile; beyond 0..1 where the
            network pads, within where it crops or loses its border
        seen: (left, top, right, bottom) of what any cell sees of the input; outside is no heat
    """

    cells: Rectangle = (0.0, 0.0, 1.0, 1.0)
    seen: Rectangle = (0.0, 0.0, 1.0, 1.0)

    def on_image(self, window: Window) -> Window:
        """Returns what the grid's cells cover of an image of which the input shows a window.

        Args:
            window: what the model's input shows of the image
        """
        if self == WHOLE:
            return window
        left, top, right, bottom = _inside(window, self.seen)
        return dataclasses.replace(
            window,
            left=left,
            top=top,
            right=right,
            bottom=bottom,
            cells=_inside(window, self.cells),
        )


WHOLE = Extent()


def _inside(window: Window, part: Rectangle) -> Rectangle:
    """A part of the input, in the pixels of the image that the window may flip and transpose."""
    width, height = window.right - window.left, window.bottom - window.top
    left, top, right, bottom = part
    if window.transposed:
        left, top, right, bottom = top, left, bottom, right
    if window.flipped[0]:
        top, bottom = 1 - bottom, 1 - top
    if window.flipped[1]:
        left, right = 1 - right, 1 - left
    part = left, top, right, bottom
    return (
        window.left + part[0] * width,
        window.top + part[1] * height,
        window.left + part[2] * width,
        window.top + part[3] * height,
    )
