"""What a run looks at: pictures, each with the document that its results are written to."""

import typing


class Row(typing.NamedTuple):
    """One picture.

    Attributes:
        id: of the sample, the frame or the object's label that results are written to
        filepath: of the image, or of the video
        frame (None): which frame of the video is decoded, from 1; None where the file is an image
        sample (None): of a frame the id of its video, of an object that of its sample
        number (None): of a frame its number, from 1
        crop (None): of an object its box, [left, top, width, height] as shares of the image
    """

    id: str
    filepath: str
    frame: int | None = None
    sample: str | None = None
    number: int | None = None
    crop: tuple | None = None
