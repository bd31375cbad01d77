"""Operations repeated where the database goes away in their middle."""

import contextlib
import contextvars
import functools
import logging
import time

from pymongo.errors import AutoReconnect, NetworkTimeout

logger = logging.getLogger(__name__)

# How long a run waits for its database before it stops, resumable.
WAIT_SECONDS = 60
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_AWAY = (AutoReconnect, NetworkTimeout)
_AT_ONCE = contextvars.ContextVar("at_once", default=False)


class DatabaseAway(ConnectionError):
    """The database did not answer for as long as it is waited for; no sample is to blame."""


@contextlib.contextmanager
def without_waiting():
    """Within it nothing is repeated: a database that does not answer is an error at once."""
    before = _AT_ONCE.set(True)
    try:
        yield
    finally:
        _AT_ONCE.reset(before)


def retried(operation):
    """Decorates a database operation that may be repeated: see :func:`retry_on_disconnect`."""

    @functools.wraps(operation)
    def repeated(*args, **kwargs):
        return retry_on_disconnect(operation, *args, **kwargs)

    return repeated


def retry_on_disconnect(operation, *args, **kwargs):
    """Calls a database operation, again while the database does not answer.

    Args:
        operation: what to call; calling it twice must do no harm
        *args: its positional arguments
        **kwargs: its keyword arguments

    Returns:
        what it returns

    Raises:
        DatabaseAway: if the database stays away
    """
    start, pause = time.monotonic(), _FIRST_PAUSE
    while True:
        try:
            return operation(*args, **kwargs)
        except _AWAY as error:
            waited = time.monotonic() - start
            if _AT_ONCE.get() or waited + pause > WAIT_SECONDS:
                raise DatabaseAway(
                    f"MongoDB did not answer for {waited:.0f} s ({type(error).__name__}); what was "
                    "stored stays: call again with resume=True once the database is back"
                ) from error
            logger.warning("MongoDB does not answer (%s); trying again", type(error).__name__)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
