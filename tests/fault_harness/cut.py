"""Connections to the database that break at a message of our choosing, and cannot be made for a while."""

import contextlib
import socket
import threading
import time

from pymongo.synchronous import network, pool

# Seconds for which no connection can be used.
_AWAY = 0.6
# Names of pymongo's own threads, whose messages come at times of their own.
_NOT_COUNTED = ("monitor", "rtt", "kill_cursors")


class Cut:
    """Breaks the connection at the n-th message that this process sends to its database.

    Args:
        at (None): which one, from 1; None for none, as where messages are only counted
        sent (False): whether the message still arrives, so that what it asks for is done and not answered
    """

    def __init__(self, at=None, sent=False):
        self.at, self.sent, self.count, self._until = at, sent, 0, 0.0

    @contextlib.contextmanager
    def applied(self):
        """Within it messages are counted, and one of them breaks the connection."""
        before = {module: module.sendall for module in (network, pool)}
        for module, send in before.items():
            module.sendall = self._counting(send)
        try:
            yield
        finally:
            for module, send in before.items():
                module.sendall = send

    def _counting(self, send):
        def sendall(connection, message):
            if any(word in threading.current_thread().name for word in _NOT_COUNTED):
                return send(connection, message)
            self.count += 1
            if self.count == self.at:
                self._until = time.monotonic() + _AWAY
                if self.sent:
                    send(connection, message)
                    time.sleep(0.05)  # for the server to do it
            if time.monotonic() < self._until:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            return None if self.count == self.at and self.sent else send(connection, message)

        return sendall
