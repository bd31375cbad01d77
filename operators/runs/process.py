"""Which process something is of, and whether that has ended.

A number of a process says something within its namespace only: two containers on one machine have the
same numbers, and often the same host name.
"""

import functools
import os
import socket


def here():
    """This process, for a record: ``host``, ``pid`` and ``space``, in which the number counts."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "space": _space(os.getpid())}


@functools.lru_cache(maxsize=1)
def _space(_):
    """The boot of the kernel and its namespace of processes; None where the system has no such thing."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def is_gone(whose):
    """Whether a process is known to have ended; one that is this one's counts as such.

    Args:
        whose: a dict like :func:`here`'s; what version 0.1.0 wrote has no ``space`` and is of this one

    Returns:
        False also where it cannot be known, as on another machine or in another container
    """
    pid, mine = whose.get("pid"), here()
    if not isinstance(pid, int) or whose.get("host") != mine["host"]:
        return False
    if "space" in whose and whose["space"] != mine["space"]:
        return False
    if pid == mine["pid"]:
        return True  # what this process works on is in record.ACTIVE
    if os.name != "posix":
        return False  # there os.kill would end it; the time since its last heartbeat decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False  # another user's process, so there is one
    return False
