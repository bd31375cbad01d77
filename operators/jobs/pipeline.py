"""A run over a view: load, step, write, with progress, failures and cancellation.

The step (explain, swap, perturb) is handed in, so that all operators share this loop.
"""

import dataclasses
import time

from ..data.loader import Failure
from ..runs.retry import DatabaseAway, retry_on_disconnect
from ..text import one_line

# After so many images whose step failed, one after the other, the model itself is tried.
_FAILED_IN_A_ROW = 16


@dataclasses.dataclass
class Progress:
    """How far a run is.

    Attributes:
        done: samples finished, failed ones included
        total: samples of the run
        failed: samples that failed
        seconds: since the run began
        written: bytes stored so far
    """

    done: int = 0
    total: int = 0
    failed: int = 0
    seconds: float = 0.0
    written: int = 0
    batches: int = 0

    @property
    def fraction(self):
        """From 0 to 1."""
        return self.done / self.total if self.total else 1.0

    def forecast(self):
        """Says how long and how large the whole run will be, once two batches are through.

        Returns:
            for example ``"~3 h, 1.5 GB"``, or None before
        """
        if self.batches < 2 or not self.done:
            return None
        share = self.done / self.total
        return f"~{_duration(self.seconds / share - self.seconds)} left, {_size(self.written / share)} in all"


def _duration(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _size(count):
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


class ModelBroken(Exception):
    """The model fails on an image that it ran on before the run: it will on all others."""


def run(loader, step, writer, total, failures, still_works=None):
    """Runs a step over batches and hands its results to a writer.

    A batch that does not fit the device's memory is halved, and so are all that follow. A batch on
    which the step raises is repeated image by image, so that only the bad sample is lost. Where the
    database goes away in the middle of a step, the step is repeated once it is back.

    Args:
        loader: a :class:`Loader`
        step: maps a :class:`Batch` to ``{sample id: {field: value}}``
        writer: has ``put(results)`` and ``bytes_written``
        total: the number of samples
        failures: a list that :class:`Failure` are appended to
        still_works (None): tries the model on an image that it ran on before; called when
            ``_FAILED_IN_A_ROW`` images in a row have failed in the step, and then less and less often

    Yields:
        a :class:`Progress` after each batch

    Raises:
        ModelBroken: if that fails too, as of a device that has failed for good
    """
    in_a_row = _InARow(still_works)
    start = time.perf_counter()
    progress = Progress(total=total)
    for outcome in loader:
        if isinstance(outcome, Failure):
            failures.append(outcome)
            progress.done += 1
        else:
            # The others complete the batch, so that it gives the numbers of the first time.
            wanted = {item.id for item in outcome.items if item.wanted}
            for results, failed in _attempt(outcome, step, loader):
                failures.extend(failure for failure in failed if failure.id in wanted)
                in_a_row.count(results, failed)
                results = {i: values for i, values in results.items() if i in wanted}
                if results:
                    writer.put(results)
            progress.done += len(wanted)
            progress.batches += 1
        progress.failed = len(failures)
        progress.seconds = time.perf_counter() - start
        progress.written = writer.bytes_written
        yield progress


class _InARow:
    """Looks whether the model still works where many images in a row have failed."""

    def __init__(self, still_works):
        self._still_works = still_works
        self._failed, self._limit = 0, _FAILED_IN_A_ROW

    def count(self, results, failed):
        """Counts the outcomes of a batch, or of a part of it."""
        if results:
            self._failed, self._limit = 0, _FAILED_IN_A_ROW
            return
        self._failed += len(failed)
        if self._still_works is None or self._failed < self._limit:
            return
        self._limit *= 2  # all of these images may be bad
        try:
            self._still_works()
        except Exception as error:
            raise ModelBroken(
                f"{self._failed} images in a row failed, and so does the one that worked before the run: "
                f"{one_line(error)}"
            ) from error


def _attempt(batch, step, loader):
    """Yields (results, failures) for one batch, in as many pieces as it takes."""
    import torch

    if len(batch) > loader.batch_size:
        # The size was lowered while this batch was on its way.
        for piece in batch.split(loader.batch_size):
            yield from _attempt(piece, step, loader)
        return
    try:
        yield retry_on_disconnect(step, batch), []
        return
    except DatabaseAway:  # which a step may read; every other sample would fail likewise
        raise
    except Exception as error:  # which sample it was is found out below
        if len(batch) == 1:
            yield {}, [Failure.of(batch.items[0], error)]
            return
        size = 1
        if _is_out_of_memory(error):
            size = max(1, len(batch) // 2)
            loader.batch_size = min(loader.batch_size, size)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for piece in batch.split(size):
        yield from _attempt(piece, step, loader)


def _is_out_of_memory(error):
    """Whether a device's memory, or the machine's own, was too small."""
    import torch

    # On a CPU torch has no exception of its own for it.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


_GPU_BATCHES = (16, 32, 64, 128, 256)


def probe_batch_size(explain, image, most):
    """Finds the largest batch that is still faster per image and fits the GPU's memory.

    Args:
        explain: runs a batch on the GPU
        image: (1, C, h, w) an image of the run
        most: samples of the run; a larger batch is not tried

    Returns:
        a batch size
    """
    import torch

    best, rate = _GPU_BATCHES[0], 0.0
    for size in _GPU_BATCHES:
        try:
            seconds = _timed(explain, image.expand(size, *image.shape[1:]))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if size / seconds < 1.05 * rate:
            break
        best, rate = size, size / seconds
        if size >= most:
            break
    return best


def _timed(explain, images):
    """Seconds of the second of two calls; what they return on the GPU is waited for."""
    for _ in range(2):
        start = time.perf_counter()
        explain(images).scores.cpu()
    return time.perf_counter() - start
