"""Changed copies of images in batches that fit the memory, in the format the network is fast in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class Chunks:
    """Runs work in chunks, in smaller ones where the memory does not suffice.

    The size that fitted is kept, so that a method that works through many images finds it once::

        chunks = Chunks(batch_size)
        scores = torch.cat(list(chunks.run(count, lambda start, stop: forward(items[start:stop]))))

    Args:
        size: how many items run at once, at most
        name ("batch_size"): the option that the size came from, for the message

    Raises:
        ValueError: if the size is not a whole number of at least 1
    """

    def __init__(self, size: int, name: str = "batch_size"):
        check_count(name, size)
        self.size = size

    def run(self, count: int, function: Callable[[int, int], Result]) -> Iterator[Result]:
        """Yields what a function returns for one chunk after the other.

        Where the device runs out of memory the chunk is halved and tried again; the function must
        not have changed anything by then.

        Args:
            count: the number of items
            function: ``(start, stop) -> result`` for the items from start to before stop

        Raises:
            torch.OutOfMemoryError: if a single item does not fit
        """
        start = 0
        while start < count:
            stop = min(start + self.size, count)
            done = _attempt(function, start, stop)
            if not done:
                # Only here, outside of the handler, has the error let go of the tensors it saw.
                torch.cuda.empty_cache()
                self.size = (stop - start) // 2
                continue
            yield done[0]
            start = stop


def _attempt(function: Callable[[int, int], Result], start: int, stop: int) -> list[Result]:
    """The result as the only element, or nothing if the memory did not suffice."""
    try:
        return [function(start, stop)]
    except torch.OutOfMemoryError:
        if stop - start == 1:
            raise
        return []


def check_count(name: str, value: object) -> None:
    """Checks an option that counts something.

    Args:
        name: of the option
        value: what was given for it

    Raises:
        ValueError: if it is not a whole number of at least 1
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def in_format_of(images: Tensor, batch: Tensor) -> Tensor:
    """Brings a batch that was made from images to their dtype and memory format.

    Args:
        images: (N, 3, H, W) as the user gave them
        batch: (B, 3, H, W)

    Returns:
        (B, 3, H, W)
    """
    last = images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return batch.to(images.dtype).contiguous(memory_format=layout)
