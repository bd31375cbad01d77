"""The test's side of a process that works on a server of its own."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATABASE = "faults"
# What a line of the process begins with.
_SAID = ("ready", "go", "done", "error", "ended")


class Client:
    """A process that carries out commands one after the other, each in a fork.

    Args:
        server: an :class:`~fault_harness.server.OwnServer`
        home: a folder for its configuration
        timeout (2): seconds until a database that does not answer is an error; FiftyOne's own is 30
    """

    def __init__(self, server, home, timeout=2):
        home = pathlib.Path(home)
        (home / "plugins").mkdir(parents=True, exist_ok=True)
        link = home / "plugins" / "heatmaps"
        if not link.is_symlink():
            link.symlink_to(ROOT, target_is_directory=True)
        path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
        options = f"?serverSelectionTimeoutMS={1000 * timeout}"
        environment = {
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "FIFTYONE_CONFIG_PATH": str(home / "config.json"),
            "FIFTYONE_PLUGINS_DIR": str(home / "plugins"),
            "FIFTYONE_DEFAULT_DATASET_DIR": str(home / "datasets"),
            "FIFTYONE_DATABASE_URI": f"mongodb://127.0.0.1:{server.port}/{options}",
            "FIFTYONE_DATABASE_NAME": DATABASE,
            "FIFTYONE_DATABASE_VALIDATION": "false",
            "FIFTYONE_DO_NOT_TRACK": "1",
        }
        self._errors = open(home / "stderr.txt", "ab")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "fault_harness" / "worker.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        said = self._read()
        assert said[0] == "ready", said

    def _read(self):
        """What it said next, in two words at most; what libraries print is passed over."""
        for line in self._process.stdout:
            said = line.split(maxsplit=1)
            if said and said[0] in _SAID:
                return said
        raise AssertionError("the process has ended")

    def begin(self, **command):
        """Starts a command that says when it begins; returns the process id."""
        self._send(command)
        said = self._read()
        assert said[0] == "go", said
        return int(said[1])

    def _send(self, command):
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def end(self):
        """Waits for a command; returns its error, ``"killed"``, or None if it came to its end.

        What it returned is in ``returned``, as text.
        """
        outcome, self.returned = "killed", None
        while (said := self._read())[0] != "ended":
            if said[0] == "done":
                outcome, self.returned = None, said[1].strip()
            elif said[0] == "error":
                outcome = said[1].strip()
        return outcome

    def do(self, **command):
        """Carries a command out; raises what it raises as an AssertionError."""
        self._send(command)
        outcome = self.end()
        assert outcome is None, outcome

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._errors.close()
