"""What the jobs of ``find_background_bias`` and ``test_region`` share: phases, a first try."""

import dataclasses
import time

# images that are explained at once
CPU_BATCH, GPU_BATCH = 16, 64


@dataclasses.dataclass
class Phase:
    """How far a run is.

    Attributes:
        name: what is being done
        done, total: images, composites or samples of this phase; the total is None where none is known
        seconds: since the phase began
        failed: samples that failed so far
    """

    name: str
    done: int
    total: int | None
    seconds: float
    failed: int = 0

    @property
    def fraction(self):
        """Of this phase, from 0 to 1."""
        if self.total is None:
            return 0.0
        return min(1.0, self.done / self.total) if self.total else 1.0


#: what is said before a job is built, which takes seconds, or a minute on a slow machine
STARTING = Phase("loading the model and looking at the samples", 0, None, 0.0)


def phased(name, steps, counts):
    """Makes a generator of counts one of :class:`Phase`; returns what it returns."""
    start = time.perf_counter()
    while True:
        try:
            state = next(steps)
        except StopIteration as end:
            return end.value
        except GeneratorExit:
            steps.close()
            raise
        try:
            yield Phase(name, *_three(*counts(state), seconds=time.perf_counter() - start))
        except BaseException:
            steps.close()
            raise


def _three(done, total, failed=0, *, seconds):
    return done, total, seconds, failed
