"""What operators share: what is said while a job runs, in Python, in the App and in a queue."""

import fiftyone as fo


def run_with_bar(job, progress):
    """Runs a job with one progress bar per phase; returns its summary.

    Args:
        job: has ``run()``, a generator of :class:`~operators.jobs.base.Phase`, and ``summary``
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


def job_messages(ctx, name, make_job, report=None, refused=None):
    """Builds a job and runs it for the App or a queue, and says from the first moment what is done.

    Args:
        ctx: the execution context
        name: of the operator, whose form has the words for what is wrong
        make_job: maps the origin, for the record, to a job as :func:`run_with_bar` takes it
        report (None): maps ``ctx`` and what the job's ``run()`` yields to a message;
            :func:`report_phase` by default
        refused (None): returns one more message where the arguments were wrong, before anything was done

    Yields:
        messages to the App

    Returns:
        the job once it is through; None if it was asked to stop
    """
    from .forms import messages
    from .jobs.base import STARTING
    from .runs.lease import Stopped

    job, report = None, report or report_phase
    yield report_phase(ctx, STARTING)
    try:
        job = make_job("delegated" if ctx.delegated else "app")
        for state in job.run():
            yield report(ctx, state)
    except ValueError as error:
        yield ctx.ops.notify(messages.in_app(error, name), variant="error")
        if job is None and refused is not None:
            yield refused()
        raise
    except Stopped as stopped:
        if ctx.delegated:
            raise  # a queue's operation is not to look complete
        text = f"{str(stopped)[0].upper()}{str(stopped)[1:]}"
        yield ctx.ops.set_progress(progress=0.0, label=text)  # the dialog stays until it is closed
        yield ctx.ops.reload_dataset()
        yield ctx.ops.notify(text, variant="info")
        return None
    return job


def report_phase(ctx, phase):
    """Moves the progress bar to a :class:`~operators.jobs.base.Phase`."""
    label = phase.name
    if phase.total is not None:
        label += f": {min(phase.done, phase.total):,} of {phase.total:,}"
    if phase.failed:
        label += f", {phase.failed:,} failed"
    return move_bar(ctx, phase.fraction, label)


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


async def stream(messages):
    """Iterates over a generator in threads, and closes it as soon as nobody listens any more.

    FiftyOne's server takes a plain generator too, but when the App's tab is closed it only lets go of
    it: the generator would end whenever Python happens to collect it, its run recorded as running.

    Args:
        messages: a generator
    """
    import anyio.lowlevel
    import anyio.to_thread

    end = object()
    try:
        while (message := await anyio.to_thread.run_sync(next, messages, end)) is not end:
            # A cancellation that came meanwhile is raised here, not while the server holds us at
            # the yield: from there it would not reach us.
            await anyio.lowlevel.checkpoint_if_cancelled()
            yield message
    finally:
        # a batch may still be on its way into the database
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(messages.close)
