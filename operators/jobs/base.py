"""What all jobs share: their frame, the phases that they report, sizes of batches."""

import contextlib
import dataclasses
import time

from ..data.loader import Loader
from ..models import load
from ..runs.lease import stop_on_request
from ..runs.leftovers import temporary_folder
from .inference import workers_of
from .pipeline import Progress
from .pipeline import run as run_pipeline

# images that are explained at once
CPU_BATCH, GPU_BATCH = 16, 64


class Job:
    """One call of an operator: everything wrong is refused by :meth:`prepare`, then :meth:`run` works.

    The frame puts the model on its device, gives a temporary folder, registers the job in the record of
    its run, and marks it there as finished, failed or interrupted, in which case what it wrote is rolled
    back. A subclass implements ``prepare`` and ``steps``; one that writes also has ``register``,
    ``records`` and ``cam_key``.

    Args:
        samples: a dataset or view of images
        settings: the checked arguments of the operator
        given (None): the :class:`~operators.compute.recorded_model.GivenModel` of the call
        origin (None): where the job was started, for the record: ``"python"``, ``"app"``,
            ``"delegated"``, ``"background"``

    Attributes:
        model: the :class:`LoadedModel` that is on its device while the job runs; None for none
        failures: a :class:`Failure` per sample that failed
        held: the :class:`~operators.runs.lease.JobLease` while it runs, None without one
        folder: of temporary files, while it runs
        summary: what was found, once it is through
        records: the :class:`~operators.runs.job_record.JobRecords` of its kind; None if it writes nothing
    """

    records = model = held = folder = summary = None

    def __init__(self, samples, settings, given=None, origin=None):
        self.samples, self.settings, self.given, self.origin = samples, settings, given, origin
        self.failures, self.notes = [], []

    @property
    def dataset(self):
        """The dataset of the samples."""
        return self.samples._dataset

    def prepare(self):
        """Checks everything that can be checked, and loads the model; writes nothing.

        Returns:
            the job

        Raises:
            ValueError: if an argument is wrong
        """
        raise NotImplementedError

    def before(self):
        """What is computed before the job is registered; yields :class:`Phase`."""
        yield from ()

    def register(self):
        """Registers the job in the record of its run; returns its lease, None if it writes nothing."""

    def planned(self):
        """What its phases will be, in order, as far as that is known: ``{name: how many items}``."""
        return {}

    def steps(self):
        """The work; yields :class:`Phase` and returns the summary."""
        raise NotImplementedError

    @property
    def seconds(self):
        """Since the job began to run."""
        return time.perf_counter() - self._started

    def run(self):
        """Runs the job; afterwards :attr:`summary` is set. Closing the generator stops it.

        Yields:
            a :class:`Phase`, now and then

        Raises:
            Stopped: if it was asked to stop
        """
        yield from stop_on_request(self._framed(), lambda: self.held)

    def _framed(self):
        self._started = time.perf_counter()
        with contextlib.ExitStack() as self.stack:
            if self.model is not None:
                self.stack.enter_context(load.on_device(self.model))
            yield from self.before()
            self.folder = self.stack.enter_context(temporary_folder())
            done, lease = None, self.register()
            if lease is not None:
                self.held = self.stack.enter_context(lease)
                recorded = self.records.recorded(self.dataset, self.cam_key, lease)
                done = self.stack.enter_context(recorded)
            summary = yield from self.steps()
            if done is not None:
                done(summary.to_dict())
            self.summary = summary

    def over_samples(self, name, rows, step, writer, model=None, counts=None):
        """Runs a step over the images of samples; yields :class:`Phase`.

        Args:
            name: of the phase
            rows: ``(id, filepath)`` of the samples
            step: see :func:`operators.jobs.pipeline.run`
            writer: likewise
            model (None): the :class:`LoadedModel` whose transforms are used; the job's own by default
            counts (None): maps the pipeline's progress to the arguments of :class:`Phase`
        """
        model = model or self.model
        loader = Loader(
            rows, model.transforms, batch_size_of(self.settings, model),
            workers_of(self.settings), geometry=model.geometry,
        )  # fmt: skip
        steps = run_pipeline(loader, step, writer, len(rows), self.failures)
        counts = counts or (lambda p: (p.done, p.total, p.failed))
        yield Phase(name, *counts(Progress(total=len(rows)))[:2], 0.0)
        yield from phased(name, steps, counts)


def batch_size_of(settings, model, on_cpu=CPU_BATCH, on_gpu=GPU_BATCH):
    """How many images of a job go through its model at once."""
    if settings.batch_size != "auto":
        return settings.batch_size
    return on_cpu if model.device.type == "cpu" else on_gpu


@dataclasses.dataclass
class Phase:
    """How far a run is.

    Attributes:
        name: what is being done
        done, total: images, composites or samples of this phase; the total is None where none is known
        seconds: since the phase began
        failed: samples that failed so far
        whole (None): of the job, from 0 to 1, and
        left (None): how long the rest takes, in words: see :class:`~operators.jobs.whole.WholeBar`
    """

    name: str
    done: int
    total: int | None
    seconds: float
    failed: int = 0
    whole: float | None = None
    left: str | None = None

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
