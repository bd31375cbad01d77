"""Pictures and masks of the samples that are tested, kept in a temporary folder.

A composite needs two of them in any order. They are decoded once, kept at about twice the resolution
that the model sees, and memory does not depend on how many there are.
"""

import collections
import concurrent.futures
import copy
import os
import threading

import cv2
import numpy as np

from ..data.images import decode_image
from ..text import one_line

# Of the model's own resolution: resizing once more from there changes nothing that can be seen.
_OVERSAMPLING = 2.0
_CACHE_BYTES = 256_000_000


def working_side(window, input_size):
    """Returns the longest side, in pixels, at which a picture is kept.

    Args:
        window: the :class:`~cam_core.spatial.geometry.Window` that the model sees
        input_size: (h, w) of the model's input
    """
    height, width = window.image
    down, across = window.upright_size(tuple(input_size))
    scale = max(down / (window.bottom - window.top), across / (window.right - window.left))
    return max(1, round(max(height, width) * min(1.0, _OVERSAMPLING * scale)))


class Pictures(collections.abc.Sequence):
    """Pictures (h, w, 3) uint8 of some samples, in order.

    Args:
        folder: an empty folder
        rows: list of ``(id, filepath, longest side)``
    """

    def __init__(self, folder, rows):
        self._folder = folder
        self._rows = rows
        self._files = list(range(len(rows)))
        self._sizes = [None] * len(rows)
        self._cache = _Cache(_CACHE_BYTES)
        self.failures = {}

    def __len__(self):
        return len(self._files)

    def __getitem__(self, index):
        return self._cache.get(self._files[int(index)], self._load)

    def sizes(self):
        """The (h, w) of each picture; None where it could not be decoded."""
        return [self._sizes[i] for i in self._files]

    def only(self, indices):
        """Returns these pictures alone."""
        part = copy.copy(self)
        part._files = [self._files[i] for i in indices]
        return part

    def prepare(self, workers):
        """Decodes all of them; what cannot be decoded is in :attr:`failures`, by index.

        Yields:
            how many are through, now and then
        """
        with concurrent.futures.ThreadPoolExecutor(max(1, workers), "cam51-decode") as pool:
            step = 4 * max(1, workers)
            for start in range(0, len(self._rows), step):
                indices = range(start, min(start + step, len(self._rows)))
                for index, size in zip(indices, pool.map(self._decode, indices), strict=True):
                    self._sizes[index] = size
                yield indices[-1] + 1

    def _decode(self, index):
        _, path, longest = self._rows[index]
        try:
            picture = np.asarray(decode_image(path))
        except Exception as error:  # one bad image is recorded, the others go on
            self.failures[index] = one_line(error)
            return None
        height, width = picture.shape[:2]
        scale = longest / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        if size != (height, width):
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            picture = cv2.resize(picture, size[::-1], interpolation=how)
        np.save(self._path(index), picture)
        return size

    def _load(self, index):
        return np.load(self._path(index))

    def _path(self, index):
        return os.path.join(self._folder, f"{index}.npy")


class Masks(collections.abc.Sequence):
    """Masks (h, w) bool on the pixels of :class:`Pictures`, in order.

    Args:
        folder: an empty folder
    """

    def __init__(self, folder):
        self._folder = folder
        self._shapes = {}
        self._cache = _Cache(_CACHE_BYTES // 8)

    def __len__(self):
        return len(self._shapes)

    def __getitem__(self, index):
        return self._cache.get(int(index), self._load)

    def put(self, index, mask):
        """Keeps a mask, bool or the covered share of each pixel."""
        inside = np.asarray(mask)
        if inside.dtype != bool:
            # an object smaller than half a pixel is still one
            inside = inside >= min(0.5, float(inside.max(initial=0)) or 0.5)
        self._shapes[index] = inside.shape
        np.save(self._path(index), np.packbits(inside))

    def _load(self, index):
        height, width = self._shapes[index]
        bits = np.unpackbits(np.load(self._path(index)), count=height * width)
        return bits.reshape(height, width).astype(bool)

    def _path(self, index):
        return os.path.join(self._folder, f"{index}.npy")


class _Cache:
    """The arrays used last, up to a number of bytes; shared by threads."""

    def __init__(self, limit):
        self._limit = limit
        self._held = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key, load):
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        value = load(key)
        value.flags.writeable = False
        with self._lock:
            if key not in self._held:
                self._held[key] = value
                self._bytes += value.nbytes
            while self._bytes > self._limit and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
        return value
