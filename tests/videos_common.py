"""What the tests of videos share: videos whose frames say their number, without any other tool than OpenCV."""

from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np

SIZE = (160, 120)
_BITS, _BAR = 8, 20


def frame(number):
    """A grey picture (120, 160, 3) with the bits of a number as bars, and a gradient below."""
    picture = np.full((SIZE[1], SIZE[0], 3), 40, np.uint8)
    for bit in range(_BITS):
        if number >> bit & 1:
            picture[40:80, bit * _BAR : (bit + 1) * _BAR] = 220
    picture[100:, :, 2] = np.linspace(0, 200, SIZE[0]).astype(np.uint8)
    return picture


def number_in(picture):
    """The number that a picture says."""
    pixels = np.asarray(picture)
    centres = [pixels[60, bit * _BAR + _BAR // 2].mean() > 130 for bit in range(_BITS)]
    return sum(1 << bit for bit, on in enumerate(centres) if on)


def write_video(path, count, codec="mp4v", rate=30, first=1, draw=frame, size=SIZE):
    """Writes a video whose frames say ``first``, ``first + 1``, ...; returns its path."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, size)
    assert writer.isOpened(), f"OpenCV cannot write {codec}"
    for number in range(first, first + count):
        writer.write(draw(number))
    writer.release()
    return str(path)


def turn(path):
    """Marks an mp4 as stored turned: players show it turned by 90 degrees to the right."""
    data = bytearray(Path(path).read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    values = (0, 0x10000, 0, -0x10000, 0, 0, SIZE[1] << 16, 0, 0x40000000)
    data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in values)
    Path(path).write_bytes(data)


def slow_down(path, after, factor):
    """Shows the frames of an mp4 from one on for ``factor`` times as long as those before."""
    data = Path(path).read_bytes()
    start = data.index(b"stts") - 4
    size = int.from_bytes(data[start : start + 4], "big")
    assert int.from_bytes(data[start + 12 : start + 16], "big") == 1
    count, delta = (int.from_bytes(data[start + o : start + o + 4], "big") for o in (16, 20))
    rows = ((after, delta), (count - after, int(factor * delta)))
    table = b"".join(v.to_bytes(4, "big") for row in rows for v in row)
    box = (16 + len(table)).to_bytes(4, "big") + data[start + 4 : start + 12]
    box += len(rows).to_bytes(4, "big") + table
    if (edits := data.find(b"elst")) > 0:  # which says how much of the video is shown
        data = data[: edits + 12] + (2**30).to_bytes(4, "big") + data[edits + 16 :]
    grown = bytearray(data[:start] + box + data[start + size :])
    for outer in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = grown.rindex(outer, 0, start) - 4
        length = int.from_bytes(grown[place : place + 4], "big") + len(box) - size
        grown[place : place + 4] = length.to_bytes(4, "big")
    Path(path).write_bytes(grown)


def break_frame(path, number):
    """Overwrites the data of one frame of an MJPG video."""
    data, place = bytearray(Path(path).read_bytes()), 0
    place = data.index(b"movi")
    for _ in range(number):
        place = data.index(b"00dc", place + 4)
    size = int.from_bytes(data[place + 4 : place + 8], "little")
    data[place + 8 : place + 8 + size] = bytes(size)
    Path(path).write_bytes(data)


def video_samples(folder, *counts, ending="mp4", **options):
    """A sample for each video of so many frames; the first frame of the second says 101."""
    folder.mkdir(exist_ok=True)
    return [
        fo.Sample(write_video(folder / f"v{i}.{ending}", count, first=1 + 100 * i, **options))
        for i, count in enumerate(counts)
    ]
