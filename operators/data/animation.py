"""Heatmaps of a video as an animation."""

import os

import numpy as np
from PIL import Image

from .drawn import overlaid, with_scale
from .heatmap_reader import heat_of

#: of one picture, in pixels
LONGEST = 360
_PAPER = (28, 28, 28)
# A browser shows a frame of a GIF for a fiftieth of a second at least.
_LEAST_MS = 20


def write_gif(frames, path, look):
    """Writes frames side by side with their heatmaps.

    Args:
        frames: an iterable of :class:`~operators.data.drawn.Drawn`
        path: of the file
        look: how heat is drawn, a :class:`~cam_core.spatial.overlay.Look`

    Returns:
        the path

    Raises:
        OSError: if a frame cannot be read, or the file not be written
    """
    sheets, times, owed = [], [], 0.0
    for frame in frames:
        scale = min(1.0, LONGEST / max(frame.picture.size))
        size = tuple(max(1, round(side * scale)) for side in frame.picture.size)
        picture = frame.picture.resize(size, Image.Resampling.BILINEAR)
        tiles = [picture, *(overlaid(picture, heat_of(label), look) for label in frame.labels)]
        sheet = np.concatenate([np.asarray(tile) for tile in tiles], 1)
        sheet = with_scale(Image.fromarray(sheet), look, _PAPER)
        sheets.append(sheet.quantize(256, method=Image.Quantize.FASTOCTREE))
        # a GIF counts in hundredths of a second: what one frame is short of the next one gets
        owed += 1000 * frame.seconds
        times.append(max(_LEAST_MS, 10 * round(owed / 10)))
        owed -= times[-1]
    part = f"{path}.part"
    try:
        sheets[0].save(
            part, format="GIF", save_all=True, append_images=sheets[1:], duration=times, loop=0
        )
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.remove(part)
    return path
