"""Files of a dataset's own kind: the format, depth and channels of one of its images, other content.

A reader of 16-bit or float files cannot be tried with 8-bit PNGs; it is shown files like those that it
will read.
"""

import os

import cv2
import numpy as np
from PIL import Image

from .images import open_image

# What a mode holds: the type, the colour channels, whether there is an alpha channel after them.
_MODES = {
    "1": (np.uint8, 1, False),
    "L": (np.uint8, 1, False),
    "P": (np.uint8, 1, False),
    "LA": (np.uint8, 1, True),
    "RGB": (np.uint8, 3, False),
    "RGBA": (np.uint8, 3, True),
    "CMYK": (np.uint8, 4, False),
    "YCbCr": (np.uint8, 3, False),
    "I;16": (np.uint16, 1, False),
    "I": (np.int32, 1, False),
    "F": (np.float32, 1, False),
}
# Formats that Pillow writes; another's files are written as PNG, under their own name.
_WRITTEN = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM", "GIF", "JPEG2000", "TGA")
_DEEP_FORMATS = ("PNG", "TIFF")


class FileKind:
    """The kind of one image file.

    Args:
        path: an image of the dataset

    Raises:
        OSError: if it cannot be read as an image
    """

    def __init__(self, path):
        self.name = os.path.basename(path)
        with open_image(path) as image:
            mode = "I;16" if image.mode.startswith("I;16") else image.mode
            self.mode = mode if mode in _MODES else "RGB"
            self._format = image.format if image.format in _WRITTEN else "PNG"
            self._palette = image.getpalette() if self.mode == "P" else None
            values = np.asarray(image if mode == self.mode else image.convert("RGB"))
        self._type, self._colours, self._alpha = _MODES[self.mode]
        deep = self._deep(path)
        if deep is not None:  # Pillow reads 16 bits per colour as 8
            values, self._type = deep, np.uint16
        values = values * np.uint8(255) if values.dtype == bool else values
        colours = values[..., : self._colours] if values.ndim == 3 else values
        finite = colours[np.isfinite(colours)] if colours.size else colours
        self._values = finite.ravel()[:: max(1, finite.size // 1_000_000)]

    @property
    def deep(self):
        """Whether each of several channels has 16 bits."""
        return self._type == np.uint16 and self.mode in ("RGB", "RGBA")

    def _deep(self, path):
        if self.mode not in ("RGB", "RGBA") or self._format not in _DEEP_FORMATS:
            return None
        values = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        return values if values is not None and values.dtype == np.uint16 else None

    def pairs(self):
        """Pairs (low, high) of values, as arrays of a pixel, that a file of this kind may have.

        First those between which the dataset's image lies, then others, for readers that clip.
        """
        values = self._values
        whole = [0, 1] if self._type == np.float32 else [0, np.iinfo(self._type).max]
        if self.mode == "I":
            whole = [0, 65535]
        ends = [values.min(), values.max()] if values.size else whole
        found = [ends, whole]
        if values.size:
            found += [list(np.percentile(values, p)) for p in ((10, 90), (50, 99), (1, 50))]
        middle = (float(ends[0]) + float(ends[1])) / 2
        found += [[ends[0], middle], [middle, ends[1]]]
        pairs = []
        for low, high in found:
            pair = self._pixel(low), self._pixel(high)
            same = any(
                all(np.array_equal(a, b) for a, b in zip(pair, p, strict=True)) for p in pairs
            )
            if not np.array_equal(*pair) and not same:
                pairs.append(pair)
        return pairs

    def _pixel(self, value):
        """One value in all colours of a pixel."""
        value = np.asarray(value if self._type == np.float32 else np.rint(value)).astype(self._type)
        if self._colours == 1 and not self._alpha:
            return value
        opaque = [np.iinfo(self._type).max] if self._alpha else []
        return np.array([value] * self._colours + opaque, self._type)

    def write(self, values, folder, name=None):
        """Writes an array as a file of this kind.

        Args:
            values: (H, W) or (H, W, C) of :meth:`pairs`
            folder: an existing folder
            name (None): of the file; that of the dataset's image by default

        Returns:
            the file's path
        """
        path = os.path.join(folder, name or self.name)
        if self.deep:
            return self._write_deep(values, path)
        return self._save(self._image(values), path)

    def _image(self, values):
        if self.mode == "1":
            return Image.fromarray(np.where(values > 0, 255, 0).astype(np.uint8)).convert("1")
        if self.mode in ("CMYK", "YCbCr", "P"):
            height, width = values.shape[:2]
            data = np.ascontiguousarray(values).tobytes()
            image = Image.frombytes(self.mode, (width, height), data)
            if self._palette:
                image.putpalette(self._palette)
            return image
        return Image.fromarray(values)

    def _save(self, image, path):
        options = {
            "JPEG": {"quality": 95, "subsampling": 0},
            "PNG": {"compress_level": 1},
            "WEBP": {"lossless": True},
        }
        try:
            image.save(path, format=self._format, **options.get(self._format, {}))
        except (OSError, KeyError, ValueError):  # a format that has this mode only when read
            image.save(path, format="PNG", compress_level=1)
        return path

    def _write_deep(self, values, path):
        order = [2, 1, 0, 3][: values.shape[2]]
        suffix = ".png" if self._format == "PNG" else ".tiff"
        ok, data = cv2.imencode(suffix, np.ascontiguousarray(values[..., order]))
        if not ok:
            raise OSError(f"a {suffix} file of 16 bits per colour cannot be written")
        with open(path, "wb") as file:
            file.write(data.tobytes())
        return path

    def write_picture(self, picture, folder, name=None):
        """Writes an RGB picture as a file of this kind: the way back of :func:`decode_image`.

        Args:
            picture: a PIL image
            folder: an existing folder
            name (None): of the file

        Returns:
            the file's path
        """
        path = os.path.join(folder, name or self.name)
        if self.deep:
            rgb = np.asarray(picture.convert("RGB")).astype(np.uint16) * 257
            if self._alpha:
                rgb = np.dstack([rgb, np.full(rgb.shape[:2], 65535, np.uint16)])
            return self._write_deep(rgb, path)
        if self.mode in ("I;16", "I", "F"):
            grey = np.asarray(picture.convert("L")).astype(np.float64) * self._per_grey()
            if self._type != np.float32:
                grey = np.rint(grey)
            return self._save(Image.fromarray(grey.astype(self._type)), path)
        mode = "RGB" if self.mode == "P" else self.mode
        return self._save(picture.convert(mode), path)

    def _per_grey(self):
        """How much of this kind's values one of 255 levels of grey stands for."""
        if self.mode == "I;16":
            return 65535 / 255
        high = float(self._values.max(initial=0))
        if high <= 1 and not np.array_equal(self._values, self._values.round()):
            return 1 / 255
        return 1.0 if high <= 255 else 65535 / 255 if high <= 65535 else high / 255
