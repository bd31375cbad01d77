"""From files to batches: decode, orient, transform, remember the geometry, group equal sizes.

Decoding runs in threads: Pillow and torch release the GIL, nothing has to be pickled, and the App's
server is no place to fork workers.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import tempfile
import threading

import numpy as np
from PIL import Image, ImageOps

_WAITING_BYTES = 1_000_000_000
# Blocks hold this many batches: enough to fill batches of mixed sizes, little to do again on resuming.
_BATCHES_PER_BLOCK = 16
# Pictures of more pixels are decoded one at a time: 100 megapixels take half a gigabyte meanwhile.
_LARGE_PIXELS = 30_000_000
_ONE_LARGE = threading.Lock()


@dataclasses.dataclass
class Failure:
    """A sample that could not be explained, and why.

    Attributes:
        id: the sample's id
        filepath: its image
        reason: one line
    """

    id: str
    filepath: str
    reason: str


@dataclasses.dataclass
class Item:
    """A decoded image.

    Attributes:
        id: the sample's id
        filepath: its file
        image: (C, h, w) tensor; None once it is part of a batch
        window: the window of the original that it shows
        wanted: False if it only completes a batch, and what is computed for it is thrown away
    """

    id: str
    filepath: str
    image: object
    window: object
    wanted: bool = True


@dataclasses.dataclass
class Block:
    """Rows among which batches form: whenever a block is computed, it makes the same batches.

    Attributes:
        rows: list of ``(id, filepath)``
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


def decode_image(path):
    """Reads an image as 8-bit RGB, upright.

    EXIF orientation is honoured as the App does; 16-bit and float images are scaled, not clipped; an
    alpha channel is dropped, as FiftyOne's own loader does; of an animation the first frame counts.

    Args:
        path: the file

    Returns:
        a ``PIL.Image.Image`` of mode RGB

    Raises:
        OSError: if the file cannot be read as an image
    """
    with Image.open(path) as image:
        large = image.width * image.height > _LARGE_PIXELS
        with _ONE_LARGE if large else contextlib.nullcontext():
            return _decoded(image)


def _decoded(image):
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return Image.fromarray(_scaled(np.asarray(upright), 255 / 65535)).convert("RGB")
    if upright.mode in ("I", "F"):
        return Image.fromarray(_to_8_bit(np.asarray(upright))).convert("RGB")
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


def _to_8_bit(values):
    """Scales a channel of 32 bits, whose kind does not tell its range: 0-1, 8, 16 or 32 bits."""
    values = np.nan_to_num(values.astype(np.float64))
    high = values.max(initial=0)
    if high <= 1 and values.min(initial=0) >= 0 and not np.array_equal(values, values.round()):
        scale = 255.0
    elif high <= 255:
        scale = 1.0
    elif high <= 65535:
        scale = 255.0 / 65535
    else:
        scale = 255.0 / high
    return _scaled(values, scale)


def _scaled(values, scale):
    return np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)


# FiftyOne's own steps, which torchvision does not have.
def _window_rules():
    from ..cam_core.geometry import centre_cropped, resized, unmoved

    def scaled(size, alpha):
        return resized(size, (round(alpha * size[0]), round(alpha * size[1])))

    def at_least(step, size):
        alpha = max(m / s for m, s in zip(step.min_output_size, size, strict=True))
        return scaled(size, alpha) if alpha > 1 else unmoved(step, size)

    def at_most(step, size):
        alpha = min(m / s for m, s in zip(step.max_output_size, size, strict=True))
        return scaled(size, alpha) if alpha < 1 else unmoved(step, size)

    def multiple(step, size):
        return centre_cropped(size, tuple(s // step.patch_size * step.patch_size for s in size))

    return {"MinResize": at_least, "MaxResize": at_most, "PatchSize": multiple}


# One chance in 128 that a flip with probability one half goes unnoticed; those are also found by name.
_REPEATS = 8


def check_deterministic(transforms, path):
    """Raises a ValueError if transforms are random.

    A random crop shows another part of the picture each time, so no heatmap could be laid back on it.

    Args:
        transforms: maps a PIL image to a tensor, or a path where they take one
        path: of an image
    """
    import torch

    from ..cam_core.geometry import steps_of

    names = [type(step).__name__ for step in steps_of(transforms)]
    random = next((n for n in names if n.startswith("Random")), None)
    if random is None:
        again = _repeated(transforms, path)
        first = again()
        if not isinstance(first, torch.Tensor):
            return  # what is wrong with it is said where it is used
        others = (again() for _ in range(_REPEATS - 1))
        if all(other.shape == first.shape and torch.equal(other, first) for other in others):
            return
    raise ValueError(
        f"transforms is random ({random or 'one image gave different tensors'}), so heatmaps could not be laid "
        "back on the image; pass the transforms that the model is evaluated with"
    )


def _repeated(transforms, path):
    """A function that transforms an image again each time."""
    if getattr(transforms, "takes_path", False):
        return lambda: transforms.from_path(path)
    picture = decode_image(path)
    return lambda: transforms(picture.copy())


class Geometry:
    """Windows of a transform, per image size; read off known steps, else found by a probe.

    Transforms that take a path are probed with files, unless they say themselves what they see:
    ``window(height, width)``, which returns (left, top, right, bottom) in the upright image's pixels.

    Args:
        transforms: maps a PIL image to a tensor (C, h, w)
    """

    def __init__(self, transforms):
        self._transforms = transforms
        self._rules = _window_rules()
        self._known = {}
        self._turns = {}
        self._lock = threading.Lock()

    def window(self, height, width):
        """Returns the :class:`Window` that the model sees of an image of this size.

        Raises:
            ValueError: if the transform is no resize, crop or padding
        """
        with self._lock:
            if (height, width) not in self._known:
                if len(self._known) > 4096:
                    self._known.clear()
                self._known[height, width] = self._find(height, width)
            return self._known[height, width]

    def _find(self, height, width):
        from ..cam_core.geometry import probe, trace

        if getattr(self._transforms, "window", None) is not None:
            return _said(self._transforms.window(height, width), height, width)
        window = trace(self._transforms, height, width, self._rules)
        if window is None:
            window = probe(self._probed, height, width)
        if window is None:
            raise ValueError(
                "transforms does more than resize, crop and pad (or is random), so the heatmap cannot "
                "be laid back on the original image"
            )
        return window

    def _probed(self, array):
        try:
            return self._transforms(Image.fromarray(array))
        except Exception as error:
            if not getattr(self._transforms, "takes_path", False):
                raise
            raise ValueError(
                "preprocess cannot read a PNG picture, so what it does to places is not known "
                f"({one_line(error)}); give it an attribute window: (height, width) -> (left, top, right, "
                "bottom), what the model sees in the upright image's pixels"
            ) from error

    def upright_size(self, path):
        """Returns (width, height) of an image that transforms read themselves, as the App shows it.

        Raises:
            ValueError: if it is stored turned and the transforms do not turn it
        """
        with Image.open(path) as image:
            size, turn = image.size, image.getexif().get(0x0112, 1)
        if turn == 1:
            return size
        if turn not in self._turns:
            self._turns[turn] = _turns_upright(self._transforms, turn)
        if not self._turns[turn]:
            raise ValueError(
                f"the image is stored turned (EXIF orientation {turn}), which preprocess does not undo; "
                "heat would lie beside the object"
            )
        return size[::-1] if turn in (5, 6, 7, 8) else size


def _said(window, height, width):
    """What transforms say that they see, checked."""
    from ..cam_core.geometry import Window

    if hasattr(window, "left"):
        window = (window.left, window.top, window.right, window.bottom)
    try:
        left, top, right, bottom = (float(v) for v in window)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"preprocess.window must return (left, top, right, bottom), got {window!r}"
        ) from error
    if not (np.isfinite([left, top, right, bottom]).all() and right > left and bottom > top):
        raise ValueError(f"preprocess.window returned {window!r}, which has no area")
    return Window((height, width), left, top, right, bottom)


def _turns_upright(transforms, turn):
    """Whether transforms that read files undo an EXIF orientation, tried on a picture of 8 x 16 blocks."""
    import torch

    blocks = np.random.default_rng(51).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    stored = Image.fromarray(blocks.repeat(16, 0).repeat(16, 1))
    exif = Image.Exif()
    exif[0x0112] = turn
    with tempfile.TemporaryDirectory(prefix="cam51-exif-") as folder:
        turned, upright = (os.path.join(folder, name) for name in ("turned.jpg", "upright.jpg"))
        stored.save(turned, exif=exif, quality=95)
        with Image.open(turned) as image:
            ImageOps.exif_transpose(image).save(upright, quality=95)
        found, expected = transforms.from_path(turned), transforms.from_path(upright)
    if found.shape != expected.shape:
        return False
    spread = (expected - expected.mean()).abs().mean()
    return bool((found - expected).abs().mean() < 0.2 * spread) and bool(torch.isfinite(spread))


def load_item(sample_id, path, transforms, geometry):
    """Decodes and transforms one image.

    Returns:
        an :class:`Item`

    Raises:
        OSError: if the file cannot be read
        ValueError: if the transform returns no (C, h, w) float tensor, or cannot be inverted
    """
    import torch

    if not os.path.isfile(path):
        raise FileNotFoundError("the file does not exist")
    if getattr(transforms, "takes_path", False):
        width, height = geometry.upright_size(path)
        image = transforms.from_path(path)
    else:
        picture = decode_image(path)
        width, height = picture.size
        image = transforms(picture)
    if not isinstance(image, torch.Tensor) or image.dim() != 3 or not image.is_floating_point():
        got = (
            f"{image.dtype} {tuple(image.shape)}"
            if isinstance(image, torch.Tensor)
            else type(image).__name__
        )
        raise ValueError(f"transforms must return a float tensor (3, h, w), got {got}")
    return Item(sample_id, path, image, geometry.window(height, width))


class Loader:
    """Iterates over batches of equal size and failures, decoding ahead of the consumer.

    Args:
        rows: list of ``(id, filepath)``
        transforms: maps a PIL image to a tensor
        batch_size: images per batch; may be lowered while iterating
        num_workers: decoding threads; 0 decodes in the consumer's thread
        blocks (None): list of :class:`Block` instead of ``rows``
    """

    def __init__(self, rows, transforms, batch_size, num_workers, blocks=None):
        self.batch_size = batch_size
        size = block_size(batch_size)
        if blocks is None:
            blocks = [Block(rows[i : i + size]) for i in range(0, len(rows), size)]
        self._blocks = blocks
        self._transforms = transforms
        self._geometry = Geometry(transforms)
        self._num_workers = num_workers

    def __iter__(self):
        """Yields :class:`Batch` and :class:`Failure`."""
        for _, outcomes in itertools.groupby(self._items(), key=lambda pair: pair[0]):
            yield from self._batches(outcome for _, outcome in outcomes)

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
        import torch

        if not any(item.wanted for item in items):
            return
        images = torch.stack([item.image for item in items])
        for item in items:
            item.image = None
        yield Batch(items, images)

    def _items(self):
        """Yields (number of the block, :class:`Item` or :class:`Failure`), in order."""
        if self._num_workers == 0:
            for number, block in enumerate(self._blocks):
                for row in self._rows_of(block):
                    yield from self._wanted(number, self._load(row, block))
            return
        ahead = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(self._num_workers, "cam51-decode") as pool:
            try:
                for number, block in enumerate(self._blocks):
                    for row in self._rows_of(block):
                        ahead.append((number, pool.submit(self._load, row, block)))
                        limit = self.batch_size + min(self.batch_size, 64) + self._num_workers
                        if len(ahead) >= limit:
                            yield from self._wanted(*_result(ahead.popleft()))
                while ahead:
                    yield from self._wanted(*_result(ahead.popleft()))
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _wanted(number, outcome):
        """Why a picture cannot be read is only said of those that are wanted."""
        if outcome is not None:
            yield number, outcome

    def _rows_of(self, block):
        """The rows to load: all, unless none of the wanted ones can be read.

        A block may be looked at again for one broken file; the others need not be decoded for that.
        """
        wanted = [row for row in block.rows if block.wants(row[0])]
        if len(wanted) == len(block.rows):
            return block.rows
        readable = any(not isinstance(self._load(row, block), Failure) for row in wanted)
        return block.rows if readable else wanted

    def _load(self, row, block):
        sample_id, path = row
        wanted = block.wants(sample_id)
        try:
            item = load_item(sample_id, path, self._transforms, self._geometry)
        except Exception as error:  # one bad image is recorded, the run goes on
            return Failure(sample_id, path, one_line(error)) if wanted else None
        item.wanted = wanted
        return item


def _result(pair):
    number, future = pair
    return number, future.result()


def one_line(error):
    """Returns ``Type: message`` of an exception, on one line and not too long."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"[:300]
