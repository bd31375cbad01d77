"""Two processes on one dataset at once: each run has its fields in the schema, and all of its maps."""

import datetime
import importlib
import os
import socket
import subprocess
import sys
import threading
import time

import fiftyone as fo
import pytest
from faults_common import Worker, compute_tiny, stored, write_pictures
from operators_common import PLUGIN

pytestmark = pytest.mark.usefixtures("plugin")


def test_two_runs_at_once(plugin, make_dataset, tmp_path):
    paths = write_pictures(tmp_path / "pictures", 10)
    reference, dataset = (make_dataset(*(fo.Sample(filepath=p) for p in paths)) for _ in range(2))
    dataset.persistent = True  # other processes open it
    compute_tiny(reference, batch_size=2)
    workers = [Worker(), Worker()]
    try:
        for round_ in range(2):
            keys = [f"first{round_}", f"second{round_}"]
            for worker, key in zip(workers, keys, strict=True):
                worker.send(dataset, cam_key=key, batch_size=2)
            for worker in workers:
                assert worker.read()[0] == "go"
                assert worker.end() is not None
            dataset.reload()
            schema, scheme = dataset.get_field_schema(), dataset.app_config.color_scheme
            for key in keys:
                assert {f"{key}_gradcam", f"{key}_layercam", f"{key}_prediction"} <= set(schema)
                assert {f"{key}_gradcam", f"{key}_layercam"} <= {e["path"] for e in scheme.fields}
                ours = {k: list(v.values()) for k, v in stored(dataset, key).items()}
                for labels in ours.values():
                    for label in labels:
                        label.pop("cam_key", None)
                wanted = {k: list(v.values()) for k, v in stored(reference).items()}
                for labels in wanted.values():
                    for label in labels:
                        label.pop("cam_key", None)
                assert ours == wanted
    finally:
        for worker in workers:
            worker.close()


def test_writer_that_was_killed_holds_nobody_up(plugin, make_dataset):
    """The lock of a process that is gone is taken at once, that of one far away after a while."""
    lock = importlib.import_module(f"{PLUGIN}.operators.runs.locking")
    dataset, locks = make_dataset(), fo.core.odm.get_db_conn()[lock._COLLECTION]
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    for whose in (
        {"host": socket.gethostname(), "pid": int(child.stdout), "since": now},
        {"host": "far away", "pid": 1, "since": now - datetime.timedelta(seconds=90)},
    ):
        locks.insert_one({"_id": dataset._doc.id, "token": "theirs", **whose})
        start = time.monotonic()
        with lock.schema_lock(dataset):
            assert locks.find_one({"_id": dataset._doc.id})["pid"] == os.getpid()
        assert time.monotonic() - start < 5
        assert locks.count_documents({"_id": dataset._doc.id}) == 0


def test_writer_at_work_is_waited_for(plugin, make_dataset):
    lock = importlib.import_module(f"{PLUGIN}.operators.runs.locking")
    dataset, locks = make_dataset(), fo.core.odm.get_db_conn()[lock._COLLECTION]
    now = datetime.datetime.now(datetime.timezone.utc)
    theirs = {"_id": dataset._doc.id, "token": "theirs", "host": "far away", "pid": 1, "since": now}
    locks.insert_one(theirs)
    release = threading.Timer(0.5, locks.delete_one, ({"token": "theirs"},))
    start = time.monotonic()
    release.start()
    with lock.schema_lock(dataset):
        assert time.monotonic() - start >= 0.4
    release.join()
