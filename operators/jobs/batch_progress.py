"""How far a comparison is inside a batch, which may take a minute, and an end in the middle of one."""

import concurrent.futures
import contextlib
import queue
import threading
import time

# Between two messages about the same batch: on a fast device its parts take milliseconds.
_SECONDS = 1.0


class Halted(BaseException):
    """Nobody waits for the batch any more.

    Not an ``Exception``: the pipeline would look for the sample that is to blame.
    """


class Inside:
    """Steps that are taken in a thread of their own, and say meanwhile how far they are.

    Closing :meth:`run` ends the step at its next word.
    """

    def __init__(self):
        self._said = queue.SimpleQueue()
        self._halt = threading.Event()

    def tell(self, count):
        """Called inside a step with how much more of it is done."""
        if self._halt.is_set():
            raise Halted
        self._said.put(count)

    def run(self, steps):
        """Takes the steps of a generator.

        Args:
            steps: a generator, whose steps call :meth:`tell`

        Yields:
            ``(count, None)`` now and then inside a step: what was told of it so far; and
            ``(0, step)`` for every step
        """
        end = object()
        with (
            contextlib.closing(steps),
            concurrent.futures.ThreadPoolExecutor(1, "cam51-compare") as pool,
        ):
            while True:
                future = pool.submit(next, steps, end)
                try:
                    yield from self._inside(future)
                    step = future.result()
                finally:
                    self._end(future)
                if step is end:
                    return
                yield 0, step

    def _inside(self, future):
        future.add_done_callback(lambda _: self._said.put(None))
        total, last = 0, time.monotonic()
        while (count := self._said.get()) is not None:
            total += count
            if time.monotonic() - last >= _SECONDS:
                yield total, None
                last = time.monotonic()

    def _end(self, future):
        """Waits for a step that nobody wants any more."""
        if not future.done():
            self._halt.set()
            with contextlib.suppress(Halted):
                future.result()


def forwards_done(steps, inside, each, size, total):
    """Counts what a comparison has run through the model, by what was planned for its samples.

    Args:
        steps: a generator of the pipeline's :class:`Progress` after each batch
        inside: the :class:`Inside` that its step tells
        each: forwards that are planned for a sample
        size: samples of a batch, at most
        total: forwards that are planned in all

    Yields:
        ``(forwards, failed samples)``: never less than before, and all of them at the end of all samples
    """
    batches = done = failed = 0
    with contextlib.closing(inside.run(steps)) as states:
        for ahead, progress in states:
            if progress is not None:
                batches, failed = progress.done * each, progress.failed
            # a batch that did not fit the memory is run again in parts
            done = min(max(done, batches + min(ahead, size * each)), total)
            yield done, failed
