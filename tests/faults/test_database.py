"""MongoDB goes away in the middle of a run: for ten seconds, and for good."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fiftyone as fo
import pytest
from fault_harness.server import OwnServer
from faults_common import compute_tiny, stored, write_pictures
from operators_common import PLUGIN
from pymongo.errors import AutoReconnect

COUNT = 60

SCRIPT = """
import sys; sys.path[:0] = [{tests!r}, {root!r}]
import fiftyone as fo
import time
from faults_common import compute_tiny, picture_transforms, stored, write_pictures
import hashlib, json, pathlib
from bson import json_util

def digest(dataset):
    return hashlib.sha256(json_util.dumps(stored(dataset), sort_keys=True).encode()).hexdigest()

plain = picture_transforms()

class Slowly:
    def __init__(self, pause):
        self.pause = pause
    def __call__(self, image):
        time.sleep(self.pause)
        return plain(image)
    def __repr__(self):
        return "slowly"

if __name__ == "__main__":
    import importlib
    from operators_common import operator
    operator()
    patience = importlib.import_module({plugin!r} + ".operators.runs.retry")
    patience.WAIT_SECONDS = {patience}
    paths = write_pictures(pathlib.Path({folder!r}), {count})
    made = []
    for name in ("whole", "parts"):
        dataset = fo.Dataset(name, persistent=True)
        dataset.add_samples([fo.Sample(filepath=p) for p in paths], progress=False)
        made.append(dataset)
    compute_tiny(made[0], transforms=Slowly(0), batch_size=2)
    print("go", flush=True)
    given = dict(transforms=Slowly({pause}), batch_size=2, num_workers=0)
    try:
        print("first", compute_tiny(made[1], **given).done, flush=True)
    except ConnectionError as error:
        print("stopped", error, flush=True)
        sys.stdin.readline()
        print("second", compute_tiny(made[1], resume=True, **given).done, flush=True)
    print("same" if digest(made[0]) == digest(made[1]) else "another", flush=True)
"""


COMPARISON = """
import sys; sys.path[:0] = [{tests!r}, {root!r}]
import fiftyone as fo
import importlib, json, pathlib, time
from faults_common import CLASSES, compute_tiny, picture_transforms, tiny_network, write_pictures
from operators_common import operator

plain = picture_transforms()

class Slowly:
    def __init__(self, pause):
        self.pause = pause
    def __call__(self, image):
        time.sleep(self.pause)
        return plain(image)

if __name__ == "__main__":
    paths = write_pictures(pathlib.Path({folder!r}), {count})
    dataset = fo.Dataset("compared", persistent=True)
    dataset.add_samples([fo.Sample(filepath=p) for p in paths], progress=False)
    compute_tiny(dataset)
    compare = operator("compare_cams")
    found = []
    for pause in (0, {pause}):
        print("go" if pause else "first", flush=True)
        summary = compare(
            dataset, "run", tiny_network(), transforms=Slowly(pause), classes=CLASSES,
            metrics=["increase", "average_drop"], batch_size=4, num_workers=0, overwrite=True, progress=False,
        )
        dataset.reload()
        rows = dataset.values(["run_gradcam.increase", "run_gradcam.average_drop", "run_disagreement"])
        found.append([json.dumps(summary.leaderboard and [
            (r["field"], r["metrics"]) for r in summary.leaderboard]), str(rows), summary.failed])
    print("same" if found[0] == found[1] else f"another {{found}}", flush=True)
"""


@pytest.fixture
def server(tmp_path):
    (tmp_path / "mongo").mkdir()
    server = OwnServer(tmp_path / "mongo")
    server.start()
    yield server
    server.kill()


def begin(server, tmp_path, patience, pause=0.05, source=SCRIPT):
    tests = Path(__file__).resolve().parents[1]
    script = tmp_path / "client.py"
    text = source.format(
        tests=str(tests), root=str(tests.parent), plugin=PLUGIN, folder=str(tmp_path / "pictures"),
        count=COUNT, patience=patience, pause=pause,
    )  # fmt: skip
    script.write_text(text)
    options = "serverSelectionTimeoutMS=2000"
    uri = f"mongodb://127.0.0.1:{server.port}/?{options}"
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "FIFTYONE_DATABASE_URI": uri, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def lines_until(client, word):
    for line in client.stdout:
        if line.startswith(word):
            return line
    raise AssertionError(client.stderr.read()[-3000:])


def wait_until_some_are_stored(server):
    """Waits until the run that is going to be disturbed has written its first samples."""
    with server.client() as client:
        database = client[fo.config.database_name]  # which the client process inherits
        for _ in range(600):
            found = database.datasets.find_one({"name": "parts"})
            samples = database[found["sample_collection_name"]]
            if samples.count_documents({"run_gradcam": {"$exists": True}}, limit=1):
                return
            time.sleep(0.05)
    raise AssertionError("nothing was written within 30 s")


@pytest.mark.slow
def test_ten_seconds_without_a_database(server, tmp_path):
    client = begin(server, tmp_path, patience=60)
    lines_until(client, "go")
    wait_until_some_are_stored(server)
    server.kill()  # what it had confirmed is in its journal
    time.sleep(10)
    server.start()
    out, err = client.communicate(timeout=120)
    assert f"first {COUNT}" in out, err[-3000:]
    assert "same" in out
    assert "MongoDB does not answer" in out + err


@pytest.mark.slow
def test_eight_seconds_without_a_database_change_no_comparison(server, tmp_path):
    """No sample is put down as failed, and the numbers are those of an undisturbed comparison."""
    client = begin(server, tmp_path, patience=60, source=COMPARISON)
    lines_until(client, "go")
    time.sleep(3)
    server.kill()
    time.sleep(8)
    server.start()
    out, err = client.communicate(timeout=180)
    assert "same" in out, out + err[-3000:]
    assert "MongoDB does not answer" in out + err


@pytest.mark.slow
def test_database_that_stays_away(server, tmp_path):
    client = begin(server, tmp_path, patience=3)
    lines_until(client, "go")
    wait_until_some_are_stored(server)
    server.kill()
    said = lines_until(client, "stopped")
    assert "MongoDB did not answer" in said
    assert "resume=True" in said
    server.start()
    time.sleep(3)
    out, err = client.communicate("go on\n", timeout=120)
    assert f"second {COUNT}" in out, err[-3000:]
    assert "same" in out


@pytest.mark.slow
def test_frozen_database(server, tmp_path):
    client = begin(server, tmp_path, patience=60)
    lines_until(client, "go")
    wait_until_some_are_stored(server)
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(10)
    server.process.send_signal(signal.SIGCONT)
    out, err = client.communicate(timeout=120)
    assert f"first {COUNT}" in out, err[-3000:]
    assert "same" in out


def test_run_waits_for_its_database(plugin, make_dataset, tmp_path, monkeypatch):
    """Every write fails twice, and the run does not notice."""
    heatmaps = importlib.import_module(f"{PLUGIN}.operators.data.heatmap_writer")
    patience = importlib.import_module(f"{PLUGIN}.operators.runs.retry")
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.01)
    real, calls = heatmaps.fod.bulk_write, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) % 3:
            raise AutoReconnect("connection closed")
        return real(*args, **kwargs)

    paths = write_pictures(tmp_path, 6)
    dataset, reference = (make_dataset(*(fo.Sample(filepath=p) for p in paths)) for _ in range(2))
    compute_tiny(reference, batch_size=2)
    monkeypatch.setattr(heatmaps.fod, "bulk_write", failing)
    assert compute_tiny(dataset, batch_size=2).done == 6
    assert len(calls) == 9
    assert stored(dataset) == stored(reference)


def test_database_that_is_gone_leaves_a_resumable_run(plugin, make_dataset, tmp_path, monkeypatch):
    heatmaps = importlib.import_module(f"{PLUGIN}.operators.data.heatmap_writer")
    patience = importlib.import_module(f"{PLUGIN}.operators.runs.retry")
    runs = importlib.import_module(f"{PLUGIN}.operators.runs.record")
    monkeypatch.setattr(patience, "WAIT_SECONDS", 0.2)
    real, calls = heatmaps.fod.bulk_write, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) > 1:
            raise AutoReconnect("connection closed")
        return real(*args, **kwargs)

    dataset = make_dataset(*(fo.Sample(filepath=p) for p in write_pictures(tmp_path, 6)))
    with monkeypatch.context() as patch:
        patch.setattr(heatmaps.fod, "bulk_write", failing)
        with pytest.raises(ConnectionError, match="MongoDB did not answer for .*resume=True"):
            compute_tiny(dataset, batch_size=2)
    config = runs.config_of(dataset, "run")
    assert config.status == "failed"
    assert "did not answer" in config.error
    assert len(dataset.exists("run_gradcam")) == 2
    summary = compute_tiny(dataset, batch_size=2, resume=True)
    assert (summary.done, summary.resumed) == (6, 2)
