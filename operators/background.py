"""Runs in the background: a process of its own that ends with the App's server, not with a tab.

The process is a fresh one, no fork, as the server has threads. It rebuilds the call from the request that the
App sent, as a queue's does, so a form's models, which are names, are all that it has to load.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import fiftyone as fo
from bson import ObjectId

# Not the folder that the server was started in, whose modules would be taken for others of the same name.
_CODE = (
    "import sys; sys.path[:] = filter(None, sys.path); from fiftyone.operators import get_operator; "
    "get_operator(sys.argv[1]).run_background(sys.argv[2])"
)
# What makes a process one of the App's server's own.
_OF_THE_SERVER = ("FIFTYONE_SERVER", "FIFTYONE_DISABLE_SERVICES")
# The same database, folders and plugins also where the server was told of them by other means.
_CONFIG = {
    "FIFTYONE_DATABASE_URI": "database_uri", "FIFTYONE_DATABASE_NAME": "database_name",
    "FIFTYONE_PLUGINS_DIR": "plugins_dir", "FIFTYONE_MODEL_ZOO_DIR": "model_zoo_dir",
    "FIFTYONE_DEFAULT_DATASET_DIR": "default_dataset_dir",
}  # fmt: skip
# Of a form, what is about the background and not about the job.
_FIELDS = ("in_background", "beside")
# Between the server's end and that of a step that does not come to its own.
_GRACE_SECONDS = 20.0
_APPEARS_SECONDS = 60.0
#: the entry of a request that says that it is executed in the background
MARK = "cam51_background"


def start(operator, ctx):
    """Starts a form's job in a process of its own.

    Args:
        operator: the form's :class:`~operators.base.JobOperator`
        ctx: the execution context

    Returns:
        the number of its record

    Raises:
        ValueError: if this server forbids it, or another one works on the dataset
    """
    from .runs import background, locking

    if not background.is_allowed():
        raise ValueError(
            f"This server starts no runs in the background: it was started with {background.VARIABLE}=0"
        )
    dataset, number, request = ctx.dataset, ObjectId(), _request_of(ctx)
    with locking.schema_lock(dataset):  # of two clicks at once one is first
        if not ctx.params.get("beside"):
            background.check_free(dataset)
        background.delete_ended(dataset)
        log = tempfile.TemporaryFile()  # noqa: SIM115 - the thread below closes it
        process = _spawn(operator.uri, number, log)
        try:
            label = _label_of(operator, ctx.params)
            background.register(dataset, number, process.pid, operator.uri, label, request)
        except BaseException:
            process.kill()
            raise
    # in this process as long as that one lives: its end of the pipe closes when the server ends, however
    threading.Thread(target=_await, args=(process, log, number), daemon=True).start()
    return number


def _request_of(ctx):
    """The request of the App as the other process executes it."""
    params = {name: value for name, value in ctx.params.items() if name not in _FIELDS}
    own = {"params": params, "dataset_id": str(ctx.dataset._doc.id), "delegated": True, MARK: True}
    return json.loads(json.dumps({**ctx.request_params, **own}, default=str))


def _label_of(operator, params):
    about = params.get("cam_key") or params.get("cam_keys") or params.get("model")
    about = ", ".join(map(str, about)) if isinstance(about, list) else about
    return f"{operator.config.label}: {about}" if about else operator.config.label


def _spawn(uri, number, log):
    env = {name: value for name, value in os.environ.items() if name not in _OF_THE_SERVER}
    given = {name: getattr(fo.config, entry) for name, entry in _CONFIG.items()}
    env.update({name: str(value) for name, value in given.items() if value is not None})
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, uri, str(number)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,  # Ctrl-C in the server's terminal reaches it through the server's end
    )


def _await(process, log, number):
    """Waits for a process; one that could not say how it ended is recorded by its last words."""
    from .runs import background

    code = process.wait()
    with process.stdin, log:
        log.seek(max(0, log.tell() - 4000))
        lines = log.read().decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    background.finish(number, "failed", f"its process {how}. {last[:300]}".strip())


def run(operator, number):
    """Executes a job in the process that :func:`start` started.

    Args:
        operator: the :class:`~operators.base.JobOperator`
        number: of its record, as text
    """
    from .forms import messages
    from .jobs.planning import PlanningStopped
    from .runs import background
    from .runs.lease import LeaseLost, Stopped
    from .text import message_of

    number = ObjectId(number)
    stored = _wait_for_record(number)
    lease = background.BackgroundLease(stored)
    _end_with_server(lease)
    status, error, said = "interrupted", None, None
    try:
        with lease:
            status, said = _execute(operator, json.loads(stored["request"]), lease)
    except (Stopped, LeaseLost, PlanningStopped) as stopped:
        error = lease.why or str(stopped)
    except Exception as failed:
        status, error = "failed", messages.in_app(message_of(failed), operator.config.name)
        raise
    finally:
        background.finish(number, status, error, said)


def _wait_for_record(number):
    """The record, which the server stores once it knows this process's number."""
    from .runs import background

    end = time.monotonic() + _APPEARS_SECONDS
    while (stored := background.read(number)) is None:
        if time.monotonic() > end:
            raise SystemExit("the record of this run in the background never came")
        time.sleep(0.1)
    return stored


def _end_with_server(lease):
    """Ends this process soon after the App's server ended, of which a closed pipe tells on all systems."""

    def wait():
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        lease.end("the App's server ended")
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _execute(operator, request, lease):
    """Runs an operator's job as a queue would; returns how it ended, and what it says of itself."""
    from fiftyone.operators.executor import ExecutionContext, Executor

    from .jobs import planning

    planning.listen(lease.asked)
    ctx = ExecutionContext(
        request, executor=Executor(), set_progress=lease.note_progress, operator_uri=operator.uri
    )
    said = None
    with contextlib.closing(operator.messages(ctx)) as steps:
        while True:
            try:
                message = next(steps)
            except StopIteration as end:
                found = end.value or {}
                return _status_of(found), said or found.get("text")
            lease.check()
            said = _text_of(message) or said


def _status_of(found):
    """How a job ended that came to its end: one that was stopped or broke off says so in its summary."""
    status = found.get("status")
    return status if status in ("interrupted", "failed") else "finished"


def _text_of(message):
    """The text of a notification, or None of another message."""
    body = getattr(message, "body", None)
    notified = getattr(body, "operator_uri", None) == "notify"
    return body.params.get("message") if notified else None
