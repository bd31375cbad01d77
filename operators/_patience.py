"""Waiting for a database that is away for a moment: a restart, a network that drops out."""

import logging
import time

from pymongo.errors import AutoReconnect, NetworkTimeout

logger = logging.getLogger(__name__)

# How long a run waits for its database before it stops, resumable.
PATIENCE_SECONDS = 60
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_AWAY = (AutoReconnect, NetworkTimeout)


def patiently(operation, *args, **kwargs):
    """Calls a database operation, again while the database does not answer.

    Args:
        operation: what to call; calling it twice must do no harm
        *args: its positional arguments
        **kwargs: its keyword arguments

    Returns:
        what it returns

    Raises:
        ConnectionError: if the database stays away
    """
    start, pause = time.monotonic(), _FIRST_PAUSE
    while True:
        try:
            return operation(*args, **kwargs)
        except _AWAY as error:
            waited = time.monotonic() - start
            if waited + pause > PATIENCE_SECONDS:
                raise ConnectionError(
                    f"MongoDB did not answer for {waited:.0f} s ({type(error).__name__}); what was "
                    "stored stays: call again with resume=True once the database is back"
                ) from error
            logger.warning("MongoDB does not answer (%s); trying again", type(error).__name__)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
