"""What operators share that run a job: in Python, from the App's form, and from a queue."""

import contextlib
import threading

import fiftyone as fo
import fiftyone.operators as foo

from .jobs.caller import is_app

# arguments that name a folder which is written to
_FOLDERS = ("output_dir", "report")
# of a call's arguments those that are not the job's
_OF_THE_CALL = ("self", "samples", "progress", "delegate", "model_options")


def job_config(name, label, description, risk, **more):
    """The configuration of an operator that runs a job.

    Args:
        name: of the operator
        label: what the App calls it
        description: one line
        risk: a :class:`fiftyone.operators.types.RiskLevel`
        **more: of :class:`fiftyone.operators.OperatorConfig`
    """
    return foo.OperatorConfig(
        name=name,
        label=label,
        description=description,
        risk_level=risk,
        dynamic=True,
        execute_as_generator=True,
        allow_immediate_execution=True,
        allow_delegated_execution=True,
        default_choice_to_delegated=False,
        **more,
    )


class JobOperator(foo.Operator):
    """An operator that runs a :class:`~operators.jobs.base.Job`.

    A subclass has ``config`` (see :func:`job_config`), a ``__call__`` with a signature of its own that ends
    in :meth:`call`, and the methods that are abstract here.

    Attributes:
        takes_videos: whether its samples may be videos
    """

    takes_videos = False

    def takes_groups(self, ctx):
        """Whether the samples of a form may be groups; else the slice is meant that the App shows."""
        return ctx.params.get("group_slices") is not None

    def form(self, ctx):
        """Builds the form, a ``types.Property``."""
        raise NotImplementedError

    def arguments_of(self, params):
        """The arguments of ``__call__`` that a form's parameters stand for."""
        raise NotImplementedError

    def params_of(self, arguments, samples):
        """The parameters that stand for arguments of a call: the way into a queue.

        Raises:
            ValueError: if a value cannot be sent to another process
        """
        raise NotImplementedError

    def make_job(self, samples, arguments, origin):
        """The prepared job of a call.

        Raises:
            ValueError: if an argument is wrong
        """
        raise NotImplementedError

    def finished(self, ctx, job):
        """What the App is told once a job is through; yields messages."""
        raise NotImplementedError

    def refused(self, ctx):
        """One more message where arguments were wrong, before anything was done; None for none."""

    def report(self, ctx, state):
        """The message for what the job's ``run()`` yields."""
        return report_phase(ctx, state)

    def option_arguments(self, options):
        """The model's options of a call, checked."""
        from .compute.params import checked_options

        return checked_options(options)

    def resolve_input(self, ctx):
        """The form, in the words of the App."""
        from .data.samples import check_images
        from .forms import messages, schema
        from .forms.background import add_background

        try:
            if not self.takes_videos:
                check_images(ctx.dataset)
        except ValueError as error:
            return schema.refused(self.config.label, str(error))
        form = self.form(ctx)
        add_background(form.type, ctx)
        return messages.put(form, self.config.name)

    def call(self, given):
        """Runs what a call from Python asks for, or schedules it.

        Args:
            given: the ``locals()`` of ``__call__``

        Returns:
            the job's summary; what FiftyOne returns of an operation that was scheduled

        Raises:
            ValueError: if an argument is wrong; nothing has been written then
        """
        samples = given["samples"]
        arguments = {k: v for k, v in given.items() if k not in _OF_THE_CALL}
        arguments.update(self.option_arguments(given.get("model_options") or {}))
        if given.get("delegate"):
            _make_absolute(arguments)
            params = self.params_of(arguments, samples)
            check_from_app(arguments)
            ctx = {"view": samples.view()}
            return foo.execute_operator(self.uri, ctx, params=params, request_delegation=True)
        return self.run_here(self._prepared(samples, arguments, "python"), given["progress"])

    def _prepared(self, samples, arguments, origin):
        """The prepared job; made anew where the database goes away meanwhile."""
        from fiftyone.core.dataset import DatasetNotFoundError
        from mongoengine.errors import DoesNotExist

        from .runs.record import is_there
        from .runs.retry import retry_on_disconnect

        try:
            return retry_on_disconnect(self.make_job, samples, arguments, origin)
        except (DoesNotExist, DatasetNotFoundError) as gone:
            if is_there(samples._root_dataset):
                raise
            raise ValueError(
                f"samples: the dataset {samples._root_dataset.name!r} was deleted while the call was prepared"
            ) from gone

    def run_here(self, job, progress):
        """Runs a job with one progress bar per phase; returns its summary.

        Args:
            job: prepared
            progress: whether to show the bars; None for FiftyOne's setting
        """
        bar, name = None, None
        try:
            for phase in job.run():
                if phase.name != name:
                    if bar is not None:
                        bar.close()
                    name = phase.name
                    bar = fo.ProgressBar(
                        total=phase.total, progress=progress, start_msg=f"{name.capitalize()}..."
                    )
                    bar.__enter__()
                bar.update(max(0, min(phase.done, phase.total) - bar.iteration))
        finally:
            if bar is not None:
                bar.close()
        return job.summary

    async def execute(self, ctx):
        """Runs the form's job; closing the App's tab interrupts it.

        Returns:
            for the App, messages while it runs; for everybody else, such as a queue, which keeps it, or an
            agent, the :func:`~operators.runs.plain_data.answer` with the job's summary
        """
        messages = self.messages(ctx)
        return stream(messages) if is_app(ctx) else await returned(messages)

    def messages(self, ctx):
        """Builds the form's job and runs it, and says from the first moment what is done.

        Yields:
            messages to the App

        Returns:
            what a program is told
        """
        from .background import MARK
        from .jobs.base import STARTING
        from .jobs.planning import stoppable
        from .jobs.whole import WholeBar
        from .runs.lease import Stopped
        from .runs.plain_data import answer

        if not ctx.delegated and ctx.params.get("in_background"):
            return (yield from self._start_in_background(ctx))
        job, fraction = None, 0.0
        yield report_phase(ctx, STARTING)
        try:
            samples = ctx.target_view(require_flat=not self.takes_groups(ctx))
            queued = "background" if MARK in ctx.request_params else "delegated"
            origin = queued if ctx.delegated else "app"
            arguments = self.arguments_of(ctx.params)
            check_from_app(arguments)
            with stoppable():
                job = self._prepared(samples, arguments, origin)
            bar = WholeBar(job.planned())
            for state in map(bar.of, job.run()):
                fraction = share_of(state)
                yield self.report(ctx, state)
        except Stopped as stopped:
            if not is_app(ctx):
                raise  # a queue's operation is not to look complete
            text = f"{str(stopped)[0].upper()}{str(stopped)[1:]}"
            yield move_bar(ctx, fraction, text, ends=True)
            yield ctx.ops.reload_dataset()
            yield ctx.ops.notify(text, variant="info")
            return
        except Exception as error:
            started = job is not None
            yield from self._failed(ctx, error, fraction if started else None)
            again = self.refused(ctx) if isinstance(error, ValueError) and not started else None
            if again is not None:
                yield again
            raise
        status, why = (getattr(job.summary, name, None) for name in ("status", "error"))
        done = status in (None, "finished")
        # the dialog stays until it is closed
        text = "Finished" if done else f"{status.capitalize()}: {why or 'it can be resumed'}"
        yield move_bar(ctx, 1.0 if done else fraction, text, ends=True)
        yield from self.finished(ctx, job)
        return answer(job.summary)

    def _failed(self, ctx, error, fraction):
        """Says in the dialog, which stays, and in a message, which does not, why a job came to nothing.

        Args:
            ctx: the execution context
            error: the exception
            fraction: of the work that was done; None of a job that was not begun
        """
        from .forms import messages
        from .text import message_of

        text = messages.in_app(message_of(error), self.config.name)
        yield ctx.ops.notify(text, variant="error")
        how = "Not started" if fraction is None else "Failed"
        yield move_bar(ctx, fraction or 0.0, f"{how}: {text}", ends=True)

    def _start_in_background(self, ctx):
        """Lets a process of its own do what the form asks for; yields messages, returns what a program is told."""
        from . import background

        try:
            check_from_app(self.arguments_of(ctx.params))
            number = background.start(self, ctx)
        except Exception as error:
            yield from self._failed(ctx, error, None)
            raise
        text = "Started in the background; its progress and Stop are in the panel"
        # no bar: the dialog closes, and the panel is seen
        yield ctx.ops.open_panel("cam_panel", is_active=True, layout="horizontal")
        yield ctx.ops.notify(text, variant="info")
        return {"kind": "background_run", "version": 1, "number": str(number), "text": text}

    def run_background(self, number):
        """Executes a job in the process that was started for it.

        Args:
            number: of its record
        """
        from . import background

        background.run(self, number)


def check_from_app(arguments):
    """Checks what a call from the App may not do and one from Python may: which models and folders it names.

    A call out of the queue counts as one from the App: its parameters do not say who scheduled it.

    Args:
        arguments: of an operator, by name; folders become absolute

    Raises:
        ValueError: if one is refused
    """
    from .data.written_paths import confined
    from .models.load import check_from_app as check_models

    check_models(arguments.get("model"))
    check_models(arguments.get("models"))
    for name in _FOLDERS:
        if arguments.get(name) is not None:
            arguments[name] = confined(name, arguments[name], "app")


def _make_absolute(arguments):
    """Folders relative to this process's are sent to another one."""
    from .data.written_paths import PYTHON, confined

    for name in _FOLDERS:
        if arguments.get(name) is not None:
            arguments[name] = confined(name, arguments[name], PYTHON)


def report_phase(ctx, phase):
    """Moves the progress bar to a :class:`~operators.jobs.base.Phase`."""
    label = phase.name
    if phase.total is not None:
        label += f": {min(phase.done, phase.total):,} of {phase.total:,}"
    if phase.failed:
        label += f", {phase.failed:,} failed"
    if phase.left is not None:
        label += f"; {phase.left}"
    return move_bar(ctx, share_of(phase), label)


def share_of(state):
    """How much of a job is done, in [0, 1], by what its ``run()`` yields."""
    whole = getattr(state, "whole", None)
    return state.fraction if whole is None else whole


def move_bar(ctx, fraction, label, ends=False):
    """Moves the progress bar: delegated and immediate runs have different calls for it.

    Args:
        ctx: the execution context
        fraction: of the work, in [0, 1]
        label: what is being done
        ends (False): whether nothing is left that could be stopped

    Returns:
        what the operator yields
    """
    if ctx.delegated:
        return ctx.set_progress(progress=fraction, label=label)
    label += "" if ends else "; closing this tab stops it"
    return ctx.ops.set_progress(progress=fraction, label=label)


async def returned(messages):
    """Runs a generator to its end and returns its value; cancelled, it closes the generator.

    Args:
        messages: a generator
    """
    found = []

    def kept():
        found.append((yield from messages))

    async for _ in stream(kept()):
        pass
    return found[0] if found else None


async def stream(messages):
    """Iterates over a generator in threads, and closes it as soon as nobody listens any more.

    FiftyOne's server takes a plain generator too, but when the App's tab is closed it only lets go of
    it: the generator would end whenever Python happens to collect it, its run recorded as running.

    Args:
        messages: a generator
    """
    import anyio.lowlevel
    import anyio.to_thread

    from .jobs import planning

    end, asked, working = object(), threading.Event(), threading.Lock()

    def step():
        planning.listen(asked)
        with working:
            return next(messages, end)

    def close():
        with working, contextlib.suppress(planning.PlanningStopped):
            messages.close()

    try:
        # A thread that still works when nobody listens any more is told so, and waited for below.
        while (message := await anyio.to_thread.run_sync(step, abandon_on_cancel=True)) is not end:
            # A cancellation that came meanwhile is raised here, not while the server holds us at
            # the yield: from there it would not reach us.
            await anyio.lowlevel.checkpoint_if_cancelled()
            yield message
    finally:
        asked.set()
        # a batch may still be on its way into the database
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(close)
