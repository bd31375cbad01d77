"""What the panel found out and shows again: kept in the server's memory, so that it travels with no event."""

import collections
import threading
import uuid


class Held:
    """Values by names that nobody else has; the oldest go first.

    Args:
        most: how many are kept
    """

    def __init__(self, most):
        self._most, self._values = most, collections.OrderedDict()
        self._lock = threading.Lock()

    def put(self, value):
        """Keeps a value; returns its name."""
        name = uuid.uuid4().hex
        with self._lock:
            self._values[name] = value
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return name

    def get(self, name):
        """The value of a name; None if it was let go, or the server was started again."""
        with self._lock:
            return self._values.get(name)
