"""From files to batches: decode, transform, remember the geometry, group equal sizes.

Decoding runs in threads: Pillow and torch release the GIL, nothing has to be pickled, and the App's
server is no place to fork workers.
"""

import collections
import concurrent.futures
import dataclasses
import itertools

from ..text import one_line
from .crops import Crop, Pictures
from .geometry import TransformGeometry
from .images import decode_image
from .rows import Row
from .videos import FrameReader

# Images that wait for others of their size, which is also the most that a batch holds; and images that are
# decoded ahead of it.
_WAITING_BYTES = 1_000_000_000
_AHEAD_BYTES = 500_000_000
# What transforms may make of a smaller picture on their way: 150 MB of bytes in three channels.
_ENLARGED_PIXELS = 50_000_000
# Blocks hold this many batches: enough to fill batches of mixed sizes, little to do again on resuming.
_BATCHES_PER_BLOCK = 16


@dataclasses.dataclass
class Failure:
    """A sample, or a frame of a video, that could not be explained, and why.

    Attributes:
        id: its id
        filepath: its image, or the video
        reason: one line; of a frame it begins with its number
    """

    id: str
    filepath: str
    reason: str

    @classmethod
    def of(cls, row, error):
        """The failure of a :class:`~operators.data.rows.Row`, or of an :class:`Item`.

        Args:
            row: what failed
            error: an exception, or a text
        """
        reason = error if isinstance(error, str) else one_line(error)
        if row.frame is not None:
            reason = f"frame {row.frame}: {reason}"
        return cls(row.id, row.filepath, reason)


@dataclasses.dataclass
class Item:
    """A decoded image.

    Attributes:
        id: the sample's id
        filepath: its file
        image: (C, h, w) tensor; None once it is part of a batch
        window: the window of the original that it shows
        wanted: False if it only completes a batch, and what is computed for it is thrown away
        frame: of a video, the frame's number
    """

    id: str
    filepath: str
    image: object
    window: object
    wanted: bool = True
    frame: int = None


@dataclasses.dataclass
class Block:
    """Rows among which batches form: whenever a block is computed, it makes the same batches.

    Attributes:
        rows: list of :class:`~operators.data.rows.Row`
        wanted: ids of those whose results are wanted; None for all
    """

    rows: list
    wanted: set = None

    def wants(self, sample_id):
        """Whether the results of a sample are wanted."""
        return self.wanted is None or sample_id in self.wanted


def block_size(batch_size):
    """Rows of a block for a batch size."""
    return _BATCHES_PER_BLOCK * batch_size


@dataclasses.dataclass
class Batch:
    """Images of one size.

    Attributes:
        items: the :class:`Item` of each row
        images: (N, C, h, w) tensor on the CPU
    """

    items: list
    images: object

    def __len__(self):
        return len(self.items)

    def split(self, size):
        """Yields batches of at most ``size`` of the same images."""
        for start in range(0, len(self.items), size):
            yield Batch(self.items[start : start + size], self.images[start : start + size])


def stacked(items):
    """Makes a :class:`Batch` of items of one size, which leave their images to it."""
    import torch

    images = torch.stack([item.image for item in items])
    for item in items:
        item.image = None
    return Batch(items, images)


def load_item(sample_id, path, transforms, geometry, picture=None):
    """Decodes and transforms one image.

    Args:
        sample_id: of the sample
        path: of its file
        transforms: maps a PIL image to a tensor, or a path where they take one
        geometry: the :class:`TransformGeometry` of the transforms
        picture (None): returns the picture as a ``PIL.Image.Image``; by default the file is read as one

    Returns:
        an :class:`Item`

    Raises:
        OSError: if the file cannot be read
        ValueError: if the transform returns no (C, h, w) float tensor, or cannot be inverted
    """
    if getattr(transforms, "takes_path", False):
        size = geometry.upright_size(path)
        image = transforms.from_path(path)
    else:
        shown = decode_image(path) if picture is None else picture()
        size = shown.size
        _check_enlarged(transforms, *size)
        image = transforms(shown)
        del shown  # not needed while the window is looked for, which may take as much memory
    item = _item(sample_id, path, image, size, geometry)
    if isinstance(picture, Crop):
        item.window = picture.on_image(item.window)
    return item


def picture_item(sample_id, picture, transforms, geometry):
    """Transforms a picture that is no file's.

    Args:
        sample_id: what the item is called
        picture: a ``PIL.Image.Image`` of mode RGB, upright
        transforms: maps a PIL image to a tensor
        geometry: the :class:`TransformGeometry` of the transforms

    Returns:
        an :class:`Item`

    Raises:
        ValueError: as :func:`load_item`
    """
    _check_enlarged(transforms, *picture.size)
    return _item(sample_id, None, transforms(picture), picture.size, geometry)


def _item(sample_id, path, image, size, geometry):
    """The item of what transforms returned of a picture of (width, height) pixels."""
    import torch

    if not isinstance(image, torch.Tensor) or image.dim() != 3 or not image.is_floating_point():
        got = (
            f"{image.dtype} {tuple(image.shape)}"
            if isinstance(image, torch.Tensor)
            else type(image).__name__
        )
        raise ValueError(f"transforms must return a float tensor (3, h, w), got {got}")
    if type(image) is not torch.Tensor:  # MONAI's and torchvision's images, which carry more along
        image = image.as_subclass(torch.Tensor)
    width, height = size
    return Item(sample_id, path, image, geometry.window(height, width, tuple(image.shape[1:])))


def _check_enlarged(transforms, width, height):
    """Refuses a picture that known transforms would blow up, such as one pixel high with Resize(256)."""
    from ...cam_core.spatial.steps import largest_size

    tall, wide = largest_size(transforms, height, width)
    limit = max(_ENLARGED_PIXELS, height * width)
    if tall * wide > limit:
        raise ValueError(
            f"the transforms make {wide:,} x {tall:,} pixels of this picture of {width:,} x {height:,}, more "
            f"than {limit:,}; pad it, or resize to both sides"
        )


class Loader:
    """Iterates over batches of equal size and failures, decoding ahead of the consumer.

    Args:
        rows: list of :class:`~operators.data.rows.Row`, or of ``(id, filepath)`` of images; those of one
            video in order
        transforms: maps a PIL image to a tensor
        batch_size: images per batch; may be lowered while iterating
        num_workers: decoding threads; 0 decodes in the consumer's thread
        blocks (None): list of :class:`Block` instead of ``rows``
        geometry (None): the :class:`TransformGeometry` of the transforms, where there is one that has learned
    """

    def __init__(self, rows, transforms, batch_size, num_workers, blocks=None, geometry=None):
        self.batch_size = batch_size
        size = block_size(batch_size)
        if blocks is None:
            rows = [Row(*row) for row in rows]
            blocks = [Block(rows[i : i + size]) for i in range(0, len(rows), size)]
        self._blocks = blocks
        self._transforms = transforms
        self._geometry = geometry or TransformGeometry(transforms)
        self._num_workers = num_workers
        self._frames = FrameReader()
        self._pictures = Pictures(num_workers + 1)

    def __iter__(self):
        """Yields :class:`Batch` and :class:`Failure`."""
        items = self._items()
        try:
            for _, outcomes in itertools.groupby(items, key=lambda pair: pair[0]):
                yield from self._batches(outcome for _, outcome in outcomes)
        finally:
            items.close()
            self._frames.close()

    def _batches(self, outcomes):
        """The batches of one block; those of which nothing is wanted are left out."""
        waiting = {}
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                yield outcome
                continue
            group = waiting.setdefault(tuple(outcome.image.shape), [])
            group.append(outcome)
            if len(group) >= self.batch_size:
                yield from self._batch(waiting.pop(tuple(outcome.image.shape)))
            elif self._too_many(waiting):
                # Many sizes: the largest group goes, so that memory stays bounded.
                yield from self._batch(waiting.pop(max(waiting, key=lambda k: len(waiting[k]))))
        for group in waiting.values():
            yield from self._batch(group)

    def _too_many(self, waiting):
        """Whether images of different sizes that wait for company take too much memory."""
        sizes = [len(group) * group[0].image.nbytes for group in waiting.values()]
        return sum(map(len, waiting.values())) >= 4 * self.batch_size or sum(sizes) > _WAITING_BYTES

    @staticmethod
    def _batch(items):
        if any(item.wanted for item in items):
            yield stacked(items)

    def _items(self):
        """Yields (number of the block, :class:`Item` or :class:`Failure`), in order."""
        if self._num_workers == 0:
            for number, block in enumerate(self._blocks):
                for row in self._rows_of(block):
                    yield from self._wanted(number, self._load(row, block, self._picture(row)))
            return
        ahead, largest = collections.deque(), _Largest()
        with concurrent.futures.ThreadPoolExecutor(self._num_workers, "cam51-decode") as pool:
            try:
                for number, block in enumerate(self._blocks):
                    for row in self._rows_of(block):
                        picture = self._picture(row)
                        ahead.append((number, pool.submit(self._load, row, block, picture)))
                        ahead[-1][1].add_done_callback(largest.see)
                        while len(ahead) >= self._ahead(largest.bytes):
                            yield from self._wanted(*_result(ahead.popleft()))
                while ahead:
                    yield from self._wanted(*_result(ahead.popleft()))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _ahead(self, image_bytes):
        """How many images may be on their way; of large ones as many as there are threads."""
        count = self.batch_size + min(self.batch_size, 64) + self._num_workers
        fitting = _AHEAD_BYTES // image_bytes if image_bytes else 0  # not known before the first
        return min(count, max(self._num_workers + 1, fitting))

    @staticmethod
    def _wanted(number, outcome):
        """Why a picture cannot be read is only said of those that are wanted."""
        if outcome is not None:
            yield number, outcome

    def _rows_of(self, block):
        """The rows to load: all, unless none of the wanted ones can be read.

        A block may be looked at again for one broken file; the others need not be decoded for that.
        """
        wanted = [row for row in block.rows if block.wants(row.id)]
        if len(wanted) == len(block.rows) or wanted[0].frame is not None:
            return block.rows
        readable = any(not isinstance(self._load(row, block), Failure) for row in wanted)
        return block.rows if readable else wanted

    def _picture(self, row):
        """What decodes the row's frame of a video, or its part of an image; None of an image."""
        if row.crop is not None:
            return Crop(self._pictures, row.filepath, row.crop)
        return None if row.frame is None else self._frames.ask(row.filepath, row.frame)

    def _load(self, row, block, picture=None):
        wanted = block.wants(row.id)
        try:
            item = load_item(row.id, row.filepath, self._transforms, self._geometry, picture)
        except Exception as error:  # one bad image is recorded, the run goes on
            return Failure.of(row, error) if wanted else None
        item.wanted, item.frame = wanted, row.frame
        return item


class _Largest:
    """The largest image that was decoded so far."""

    bytes = 0

    def see(self, future):
        """Looks at a result; called by the thread that decoded it."""
        item = None if future.cancelled() or future.exception() else future.result()
        if isinstance(item, Item) and item.image is not None:
            self.bytes = max(self.bytes, item.image.nbytes)


def _result(pair):
    number, future = pair
    return number, future.result()
