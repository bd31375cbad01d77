"""Whether a process that a record names has ended, as seen from its machine, another one and a container."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fiftyone as fo
import pytest
from bias_common import inner
from faults_common import compute_tiny, write_pictures
from operators_common import operator

pytestmark = pytest.mark.usefixtures("plugin")

RUN = """
import sys; sys.path[:0] = sys.argv[1:3]
import time
import fiftyone as fo
from faults_common import compute_tiny, picture_transforms
plain = picture_transforms()
class Slowly:
    def __call__(self, image):
        time.sleep(0.3)
        return plain(image)
    def __repr__(self):
        return "slowly"
dataset = fo.load_dataset(sys.argv[3])
compute_tiny(dataset, transforms=Slowly(), batch_size=2, num_workers=0)
"""


@pytest.fixture
def dataset(make_dataset, tmp_path):
    paths = write_pictures(tmp_path / "pictures", 40)
    dataset = make_dataset(*(fo.Sample(filepath=p) for p in paths))
    dataset.persistent = True
    return dataset


def may_unshare():
    """Whether a process may have a namespace of its own here, as in a container."""
    if shutil.which("unshare") is None:
        return False
    asked = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True)
    return asked.returncode == 0


def wait_until_it_runs(dataset, process):
    record = inner("runs.record")
    for _ in range(600):
        if "run" in record.list_runs(dataset):
            config = record.config_of(dataset, "run")
            if config.progress.get("done"):
                return config
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("it does not run")


def start(dataset, *before):
    tests = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [*before, sys.executable, "-c", RUN, str(tests), str(tests.parent), dataset.name],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.skipif(not may_unshare(), reason="needs a namespace of processes, which root may make")
def test_a_run_in_a_container_with_the_same_host_name_is_alive(dataset):
    """Its number, counted in the container, is that of a process of ours or of none."""
    process = start(dataset, "unshare", "--pid", "--fork", "--kill-child")
    try:
        config = wait_until_it_runs(dataset, process)
        assert config.host == inner("runs.process").here()["host"]
        assert config.pid < 100, "counted in a namespace of its own"
        # which is no process here, or another one: neither says anything
        inner("runs.record").update(dataset, "run", pid=2**22 + 12345)
        assert inner("runs.record").status_of(dataset, "run") == "running"
        for call in (compute_tiny, lambda d: operator("delete_cam_run")(d, "run")):
            with pytest.raises(ValueError, match="'run' is running in process"):
                call(dataset)
        assert not operator("clear_leftovers")(dataset).records
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_run_of_this_machine_that_was_killed_is_known_to_be_dead(dataset):
    process = start(dataset)
    try:
        wait_until_it_runs(dataset, process)
        assert inner("runs.record").status_of(dataset, "run") == "running"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert inner("runs.record").status_of(dataset, "run") == "interrupted"


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({}, True),
        ({"host": "far away"}, False),
        ({"space": "another container"}, False),
        ({"space": None}, False),
        ({"pid": os.getppid()}, False),
        ({"pid": "17"}, False),
        ({"pid": 2**70}, False),
    ],
)
def test_what_is_known_of_a_process(changes, gone):
    process = inner("runs.process")
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    whose = {**process.here(), "pid": int(child.stdout), **changes}
    assert process.is_gone(whose) == gone
    assert json.loads(json.dumps(process.here())) == process.here()


def test_a_lock_of_a_container_waits_until_it_is_old(dataset):
    locks = fo.core.odm.get_db_conn()["cam51_locks"]
    theirs = {**inner("runs.process").here(), "pid": 2**22 + 12345, "space": "another container"}
    locks.insert_one(
        {"_id": dataset._doc.id, "token": "theirs", **theirs, "since": inner("runs.record").clock()}
    )
    assert not operator("clear_leftovers")(dataset).locks
    locks.update_one({"token": "theirs"}, {"$unset": {"space": ""}})  # as version 0.1.0 wrote it
    assert operator("clear_leftovers")(dataset).locks == 1
