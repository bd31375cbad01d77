"""Pictures with their heatmaps, to be drawn: of samples, or of the frames of a video."""

import base64
import contextlib
import dataclasses
import io
import itertools
import os

import numpy as np
from fiftyone import ViewField as F
from PIL import Image

from ...cam_core.spatial.overlay import overlay, scale_bar
from .frame_rows import is_frames_view
from .images import decode_image
from .videos import FrameReader

# pixels of the scale below a picture
_WIDEST_SCALE = 420


@dataclasses.dataclass
class Drawn:
    """A picture that is drawn with its heatmaps.

    Attributes:
        name: of its file, of a frame with its number
        picture: a ``PIL.Image.Image``
        labels: of each field the :class:`fiftyone.core.labels.Heatmap`, or None
        seconds: of a frame how long it is seen, until the next one that has heatmaps
    """

    name: str
    picture: object
    labels: list
    seconds: float = 0.0


def of_images(samples, fields, n):
    """The first samples that have heatmaps.

    Args:
        samples: a dataset or view of images
        fields: the heatmap fields
        n: how many at most

    Returns:
        a generator of :class:`Drawn`, or None without any
    """
    rows = list(samples.exists(fields[0]).limit(n).select_fields(fields))
    if not rows:
        return None
    return (
        Drawn(os.path.basename(row.filepath), decode_image(row.filepath), [row[f] for f in fields])
        for row in rows
    )


def of_video(samples, cam_key, fields, n=None):
    """Frames of the first video that has heatmaps of a run.

    Args:
        samples: a dataset or view of videos, or of their frames
        cam_key: the run's key
        fields: the heatmap fields
        n (None): how many at most, evenly spread; None for all

    Returns:
        a generator of :class:`Drawn`, or None without any

    Raises:
        OSError: if the video cannot be read
    """
    dataset, known = samples._root_dataset, "sample_id" if is_frames_view(samples) else "id"
    view = dataset.select(list(dict.fromkeys(samples.values(known))), ordered=True)
    done = view.match_frames(F(f"{fields[0]}.cam_key") == cam_key).limit(1)
    video = done.select_fields([f"frames.{field}" for field in fields]).first() if done else None
    if video is None:
        return None
    numbers = sorted(video.frames)
    gaps = [after - before for before, after in itertools.pairwise(numbers)]
    shown = dict(zip(numbers, [*gaps, gaps[-1] if gaps else 1], strict=True))
    if n is not None and len(numbers) > n:
        numbers = [numbers[round(i * (len(numbers) - 1) / max(1, n - 1))] for i in range(n)]
    return _frames(video, numbers, shown, fields)


def _frames(video, numbers, shown, fields):
    name = os.path.basename(video.filepath)
    with contextlib.closing(FrameReader()) as reader:
        for number in numbers:
            picture = reader.read(video.filepath, number)
            labels = [video.frames[number][field] for field in fields]
            seconds = shown[number] / reader.frame_rate
            yield Drawn(f"{name}, frame {number}", picture, labels, seconds)


def overlaid(photo, heat, look):
    """A photo under its heat, as the App shows it.

    Args:
        photo: a PIL image
        heat: (h, w) in [0, 1] over the same image, or None
        look: the dataset's :class:`~cam_core.spatial.overlay.Look`, see :mod:`operators.runs.look`

    Returns:
        a PIL image of the photo's size
    """
    if heat is None:
        return photo
    return Image.fromarray(overlay(np.asarray(photo.convert("RGB")), heat, look))


def with_scale(picture, look, paper):
    """A PIL image with the scale of its heat below it, on paper of a colour."""
    bar = Image.fromarray(scale_bar(min(picture.width, _WIDEST_SCALE), look, paper=paper))
    page = Image.new("RGB", (picture.width, picture.height + bar.height), paper)
    page.paste(picture, (0, 0))
    page.paste(bar, (0, picture.height))
    return page


def data_uri(picture):
    """A picture, PIL's or an (h, w, 3) uint8 array, as the ``data:`` URI of a JPEG."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
