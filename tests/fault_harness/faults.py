"""Faults, each made for real at a moment of a job, and what came of it.

Nothing is asserted here: a test asserts, and ``python -m benchmarks.faults`` counts.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import threading
import time

from .client import DATABASE, Client
from .jobs import JOBS
from .server import OwnServer
from .state import Kept, differences, meaning

# Seconds after which a job that lost its dataset or its field is killed.
PATIENCE = 120
# Who deletes a dataset deletes what they read of it before; what a job stored between that and its own end,
# with the dataset still there, it cannot know to be nobody's. The next job finds these by their marks.
_KNOWN_TO_THE_NEXT = {"views", "results"}


@dataclasses.dataclass
class Outcome:
    """What came of a fault.

    Attributes:
        job, storage, fault: what was tried
        moment: seconds after the call began
        ended: None if the call returned, ``"killed"``, or its error
        wrong: lines that say what differs from an undisturbed call, after calling again where that is due
        seconds: until it had ended
    """

    job: str
    storage: str
    fault: str
    moment: float
    ended: str | None
    wrong: list
    seconds: float = 0.0

    def __str__(self):
        """A line for an assertion's message."""
        wrong = "; ".join(self.wrong[:6])
        return (
            f"{self.job} ({self.storage}), {self.fault} after {self.moment:.2f} s: "
            f"{self.ended or 'returned'}; {wrong}"
        )


class Bench:
    """A server, processes that work on it, and a dataset made ready for one job after the other.

    Args:
        folder: for everything; it must exist
        seed: of the moments
    """

    def __init__(self, folder, seed=51):
        self.folder, self.draw = pathlib.Path(folder), random.Random(seed)
        (self.folder / "mongo").mkdir()
        self.server = OwnServer(self.folder / "mongo")
        self.server.start(wait=True)
        self.clients = [Client(self.server, self.folder / "home")]

    def close(self):
        """Ends the processes and the server."""
        for client in self.clients:
            client.close()
        self.server.kill()

    def second(self):
        """A second process; it is started when it is first asked for."""
        if len(self.clients) == 1:
            self.clients.append(Client(self.server, self.folder / "home"))
        return self.clients[1]

    @contextlib.contextmanager
    def database(self):
        """The database, by a connection of the test's own."""
        with self.server.client() as client:
            yield client[DATABASE]

    def ready(self, job, storage):
        """Makes the dataset of a job, and calls the job once undisturbed; returns a :class:`Trial`."""
        with self.database() as database:
            for name in database.list_collection_names():
                database.drop_collection(name)
        return Trial(self, job, storage)


class Trial:
    """One job with one storage: undisturbed first, then disturbed as often as asked.

    Args:
        bench: the :class:`Bench`
        job: a name of :data:`JOBS`
        storage: of the heatmaps: ``"database"`` or ``"disk"``
    """

    def __init__(self, bench, job, storage):
        self.bench, self.job, self.storage = bench, job, storage
        self._maps, self._maps_before = bench.folder / "maps", bench.folder / "maps before"
        for folder in (self._maps, self._maps_before):
            shutil.rmtree(folder, ignore_errors=True)
        output = str(self._maps) if storage == "disk" else None
        self._command = {"do": "run", "name": "d", "job": job, "output": output}
        pictures = str(bench.folder / "pictures")
        bench.clients[0].do(do="make", name="d", folder=pictures, job=job, output=output)
        with bench.database() as database:
            self._before = Kept(database)
            self.before = meaning(database)
        if self._maps.exists():
            shutil.copytree(self._maps, self._maps_before)
        start = time.perf_counter()
        ended = self._run()
        self.seconds = time.perf_counter() - start
        assert ended is None, ended
        self.messages = int(bench.clients[0].returned)
        self.wanted = self._meaning()

    def _meaning(self):
        with self.bench.database() as database:
            return meaning(database)

    def _run(self, again=False):
        self.bench.clients[0].begin(again=again, **self._command)
        return self.bench.clients[0].end()

    def restore(self):
        """Puts database and maps back as they were before the job."""
        with self.bench.database() as database:
            self._before.restore(database)
        shutil.rmtree(self._maps, ignore_errors=True)
        if self._maps_before.exists():
            shutil.copytree(self._maps_before, self._maps)

    def moment(self):
        """A random moment of the job, or a little after it."""
        return self.bench.draw.uniform(0, 1.05 * self.seconds)

    def disturb(self, fault, **arguments):
        """Restores, makes a fault at a random moment, and finds out what came of it.

        Args:
            fault: a name of :data:`FAULTS`
            **arguments: of the fault

        Returns:
            an :class:`Outcome`
        """
        self.restore()
        moment, start = self.moment(), time.perf_counter()
        ended, wrong = FAULTS[fault](self, moment, **arguments)
        seconds = time.perf_counter() - start
        return Outcome(self.job, self.storage, fault, moment, ended, wrong, seconds)

    def _begun(self, moment):
        """Begins the job and waits until the moment; returns its process id."""
        pid = self.bench.clients[0].begin(**self._command)
        time.sleep(moment)
        return pid

    def _changed(self):
        return differences(self.wanted, self._meaning())

    def killed(self, moment):
        """``kill -9``; then the same call again."""
        pid = self._begun(moment)
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.kill(pid, signal.SIGKILL)
        ended = self.bench.clients[0].end()
        again = self._run(again=True)
        wrong = [] if again is None else [f"calling again: {again}"]
        wrong += self._changed()
        for key in self.wanted["d"]["runs"]:  # nothing of it is left when it is deleted
            self.bench.clients[0].do(do="delete", name="d", key=key)
        left = self._meaning()
        fresh = {"runs": {}, "indexes": self._fresh_indexes()}
        wrong += [f"left: {line}" for line in differences(fresh, {k: left["d"][k] for k in fresh})]
        wrong += [f"left: {name}" for name in left["nobody's"]]
        fields = {name for row in left["d"]["samples"].values() for name in row}
        wrong += [f"left: {name}" for name in sorted(fields) if name.startswith(("run_", "other_"))]
        return ended, wrong + [f"left: {p}" for p in self._maps.rglob("*") if p.is_file()]

    def _fresh_indexes(self):
        return [name for name in self.before["d"]["indexes"] if "run_" not in name]

    def without_database(self, moment, seconds=8.0):
        """The server is killed, and started again after some seconds; the job is to wait for it."""
        self._begun(moment)
        self.bench.server.kill()
        time.sleep(seconds)
        self.bench.server.start(wait=True)
        return self._through()

    def cut_connection(self, moment, at=None, sent=None):
        """The connection breaks at one message, before it is sent or before it is answered."""
        at = self.bench.draw.randint(1, self.messages) if at is None else at
        sent = self.bench.draw.random() < 0.5 if sent is None else sent
        self.bench.clients[0].begin(cut_at=at, cut_sent=sent, **self._command)
        ended, wrong = self._through()
        return ended, [f"message {at}, {'sent' if sent else 'not sent'}", *wrong] if wrong else []

    def frozen_database(self, moment, seconds=20.0):
        """The server does not answer for some seconds; the job is to wait for it."""
        self._begun(moment)
        self.bench.server.freeze(seconds)
        return self._through()

    def _through(self):
        ended = self.bench.clients[0].end()
        return ended, [*([] if ended is None else ["it did not come to its end"]), *self._changed()]

    def two_at_once(self, moment):
        """A second process makes the same call at that moment: it waits, or it is refused."""
        second = self.bench.second()
        self._begun(moment)
        second.begin(again=True, **self._command)
        ended = [self.bench.clients[0].end(), second.end()]
        errors = [e for e in ended if e is not None]
        wrong = [e for e in errors if not e.startswith("ValueError: ")]
        if len(errors) == 2:
            wrong.append("both were refused")
        return "; ".join(errors) or None, wrong + self._changed()

    def dataset_deleted(self, moment):
        """A second process deletes the dataset: the job ends, and nothing of it is left."""
        pid = self._begun(moment)
        self.bench.second().do(do="delete_dataset", name="d")
        ended = self._ended_in_time(pid)
        left = self._meaning()
        if set(left) == {"nobody's"} and set(left["nobody's"]) <= _KNOWN_TO_THE_NEXT:
            self.bench.second().do(do="clear_database")
            left = self._meaning()
        return ended, [f"left: {name}: {value}" for name, value in left.items() if value]

    def field_deleted(self, moment):
        """A second process deletes a heatmap field: nothing that says ``finished`` lacks it."""
        field = JOBS[self.job].reads
        pid = self._begun(moment)
        with contextlib.suppress(AssertionError):  # it is not there yet, or no longer
            self.bench.second().do(do="delete_field", name="d", field=field)
        during = self._status() != "finished"
        ended = self._ended_in_time(pid)
        return ended, self._half_written(field, during)

    def _status(self):
        """What the record of the run says of it at this moment; None without one."""
        with self.bench.database() as database:
            found = database.runs.find_one({"key": "run"}, {"config.status": True})
        return found and found["config"]["status"]

    def _half_written(self, field, during):
        """What is wrong where a field may be gone; ``during``: its record did not say ``finished`` when it went."""
        found = self._meaning()["d"]
        fields = {f["name"] for f in found["document"]["sample_fields"]}
        wrong = []
        for row in found["samples"].values():
            label = row.get(field)
            if label is not None and field not in fields:
                wrong.append(f"{field} is gone, and a sample has it")
            if isinstance(label, dict) and "_cls" not in label:
                wrong.append(f"a sample has {field} without a label: {label}")
        if during and self.job == "compute" and "run" in found["runs"]:
            status = found["runs"]["run"]["config"]["status"]
            lack = [row for row in found["samples"].values() if not row.get(field)]
            if status == "finished" and (lack or field not in fields):
                wrong.append(f"the run says finished, and {len(lack)} samples lack {field}")
        return sorted(set(wrong))

    def _ended_in_time(self, pid):
        """Waits for the job; one that goes on for too long is killed."""
        timer = threading.Timer(PATIENCE, os.kill, (pid, signal.SIGKILL))
        timer.start()
        try:
            return self.bench.clients[0].end()
        finally:
            timer.cancel()


FAULTS = {
    "kill -9": Trial.killed,
    "connection cut": Trial.cut_connection,
    "database away": Trial.without_database,
    "database frozen": Trial.frozen_database,
    "two processes": Trial.two_at_once,
    "dataset deleted": Trial.dataset_deleted,
    "field deleted": Trial.field_deleted,
}
