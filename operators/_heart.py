"""Signs of life of a job, given by a thread of its own."""

import contextlib
import threading

import pymongo
from pymongo.errors import PyMongoError

from . import _record


class Heart:
    """As a context: a job is at work in this process, and :meth:`_beat` is called now and then.

    A database that does not answer is no reason to stop: the next call may find it again.

    Args:
        token: what the job's record has; until the end it is one of ``_record.ACTIVE``
        seconds: between two calls, at most
    """

    def __init__(self, token, seconds):
        self._token, self._seconds = token, seconds
        self._wake, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="cam51-heart", daemon=True)

    def __enter__(self):
        _record.ACTIVE.add(self._token)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._wake.set()
        self._thread.join()
        _record.ACTIVE.discard(self._token)

    def wake(self):
        """Lets it beat now."""
        self._wake.set()

    def _beat(self):
        """One sign of life."""
        raise NotImplementedError

    def _beat_on(self):
        while True:
            self._wake.wait(self._seconds)
            self._wake.clear()
            if self._end.is_set():
                return
            with contextlib.suppress(PyMongoError), pymongo.timeout(10):
                self._beat()
