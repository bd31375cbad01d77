"""Ends the preparation of a job from another thread, at the next call of a module or of a transform.

A job that runs looks itself whether it is to stop. Before that it loads a model and tries it with an image,
in one call, which can take minutes for a method of thousands of forwards.
"""

import contextlib
import contextvars

_ASKED = contextvars.ContextVar("cam51_asked", default=None)


class PlanningStopped(BaseException):
    """Raised inside the preparation of a job that nobody waits for any more; nothing was written.

    No ``Exception``: a trial that fails is tried in another way.
    """


def listen(asked):
    """Lets a ``threading.Event`` end what this thread prepares, in its present context."""
    _ASKED.set(asked)


def check(*_):
    """Raises :class:`PlanningStopped` if the preparation is to end."""
    asked = _ASKED.get()
    if asked is not None and asked.is_set():
        raise PlanningStopped


@contextlib.contextmanager
def stoppable():
    """Inside it every call of a module looks whether the preparation is to end; nothing is left on modules."""
    if _ASKED.get() is None:
        yield
        return
    from torch.nn.modules.module import register_module_forward_pre_hook

    check()
    handle = register_module_forward_pre_hook(check)
    try:
        yield
        check()
    finally:
        handle.remove()
