"""Runs in the background: real processes that are started, stopped, and lose the process that started them."""

import json
import os
import signal
import subprocess
import sys

import fiftyone as fo
import fiftyone.operators as foo
import psutil
import pytest
from bias_common import inner
from bson import ObjectId
from operators_common import operator

from examples.dataset import photo_sample
from tools.app_driver import plant_resnet18, wait_for

pytestmark = [pytest.mark.usefixtures("plugin"), pytest.mark.timeout(300)]

MODEL = "resnet18-imagenet-torch"
COUNT = 72


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return plant_resnet18(tmp_path_factory.mktemp("zoo"))


@pytest.fixture
def dataset(make_dataset, photos, weights, monkeypatch):
    """Some seconds of work, and a zoo that has the model."""
    monkeypatch.setattr(fo.config, "model_zoo_dir", weights["FIFTYONE_MODEL_ZOO_DIR"])
    monkeypatch.setenv("TORCH_HOME", weights["TORCH_HOME"])
    return make_dataset(*(photo_sample(photo) for photo in photos * (COUNT // len(photos))))


def request_of(dataset, name, **params):
    """What the App sends of a form with *Run in the background*."""
    request = {"dataset_name": dataset.name, "params": {"in_background": True, **params}}
    return {**request, "operator_uri": f"@cam51/heatmaps/{name}", "prompt_id": "1"}


def start(dataset, name="compute_cams", **params):
    """Executes a form with *Run in the background*; returns the messages to the App."""
    request = request_of(dataset, name, **params)
    uri = request["operator_uri"]
    ctx = foo.executor.ExecutionContext(request, executor=foo.executor.Executor(), operator_uri=uri)
    return [(m.body.operator_uri, m.body.params) for m in operator(name).messages(ctx)]


def records(dataset):
    return inner("runs.background").list_of(dataset)


def wait_for_status(dataset, *states):
    def reached():
        row = records(dataset)[0]
        return row if row["status"] in states else None

    return wait_for(reached, 180, f"the newest is {' or '.join(states)}", step=0.2)


def wait_until_some_are_done(dataset, key):
    def some():
        dataset.reload()
        runs = {run.key: run for run in operator("list_cam_runs")(dataset)}
        return key in runs and runs[key].status == "running" and runs[key].done > 0

    wait_for(some, 180, f"the run {key} has stored something", step=0.2)


def info(dataset, key):
    dataset.reload()
    return operator("get_cam_run_info")(dataset, key)


def test_one_at_a_time_stopped_and_resumed(dataset):
    told = dict(start(dataset, model=MODEL, cam_key="run", batch_size=4))
    assert "Started in the background" in told["notify"]["message"]
    wait_until_some_are_done(dataset, "run")

    with pytest.raises(
        ValueError, match="A run in the background works on this dataset .Compute class"
    ):
        start(dataset, model=MODEL, cam_key="other")
    (row,) = records(dataset)
    assert row["status"] == "running"
    assert row["pid"] != os.getpid()
    assert info(dataset, "run").sessions[0]["origin"] == "background"

    inner("runs.background").ask_to_stop(dataset, row["_id"])
    row = wait_for_status(dataset, "interrupted", "finished")
    assert 0 < row["progress"]["fraction"] < 1
    assert (row["status"], row["error"]) == ("interrupted", "it was stopped")
    assert info(dataset, "run").status == "interrupted"
    assert 0 < info(dataset, "run").done < COUNT

    start(dataset, "rerun_cams", cam_key="run", resume=True)
    row = wait_for_status(dataset, "finished", "failed", "interrupted")
    assert row["status"] == "finished", row["error"]
    assert len(records(dataset)) == 1, "how the one before ended is forgotten when another begins"
    assert row["said"].startswith("run: ")
    assert (info(dataset, "run").status, info(dataset, "run").done) == ("finished", COUNT)


SERVER = """
import json, sys, time
import fiftyone.operators as foo

request = json.loads(sys.argv[1])
uri = request["operator_uri"]
ctx = foo.executor.ExecutionContext(request, executor=foo.executor.Executor(), operator_uri=uri)
list(foo.get_operator(uri).messages(ctx))
print("started", flush=True)
time.sleep(600)
"""


def test_it_ends_with_the_server(dataset, weights):
    request = request_of(dataset, "compute_cams", model=MODEL, cam_key="run", batch_size=4)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, json.dumps(request)],
        env={**os.environ, **weights},
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout.readline() == b"started\n"
        wait_until_some_are_done(dataset, "run")
        (row,) = records(dataset)
        assert row["status"] == "running"
        assert psutil.Process(row["pid"]).ppid() == server.pid
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        server.stdout.close()
    wait_for(lambda: not psutil.pid_exists(row["pid"]), 90, "its process has ended")
    (row,) = records(dataset)
    assert (row["status"], row["error"]) == ("interrupted", "the App's server ended")
    run = info(dataset, "run")
    assert run.status == "interrupted"
    assert 0 < run.done < COUNT


def test_errors_are_told(make_dataset, dataset, tmp_path):
    missing = make_dataset(fo.Sample(filepath=str(tmp_path / "missing.jpg")))
    start(missing, model=MODEL)
    start(dataset, model=MODEL)  # another dataset: at the same time
    os.kill(records(dataset)[0]["pid"], signal.SIGKILL)
    row = wait_for_status(dataset, "failed", "finished")
    assert "its process was killed by signal 9" in row["error"]
    row = wait_for_status(missing, "failed", "finished")
    assert "samples: none of the first 1 images can be used" in row["error"]
    assert missing.list_runs() == []
    # the next may begin, and forgets it
    inner("runs.background").check_free(missing)
    inner("runs.background").delete_ended(missing)
    assert records(missing) == []


# without a process


@pytest.fixture
def running(make_dataset):
    """A dataset with the record of a run in the background that this process would be."""
    dataset, background = make_dataset(), inner("runs.background")
    number = ObjectId()
    background.register(dataset, number, os.getpid(), "uri", "Compare heatmaps: run", {})
    with background.BackgroundLease(background.read(number)):
        yield dataset, number


def form_of(dataset, name="find_background_bias", **params):
    ctx = foo.executor.ExecutionContext(request_of(dataset, name, **params), operator_uri="uri")
    return operator(name).resolve_input(ctx).type.properties


@pytest.mark.parametrize(
    "name", ["compute_cams", "find_background_bias", "compare_cams", "test_region", "rerun_cams"]
)
def test_every_form_has_the_switch_unless_the_server_forbids_it(
    name, make_dataset, monkeypatch, photos
):
    dataset = make_dataset(photo_sample(photos[0]))
    assert form_of(dataset, name)["in_background"].view.label == "Run in the background"
    monkeypatch.setenv("CAM51_BACKGROUND_RUNS", "0")
    form = form_of(dataset, name)
    assert "in_background" not in form
    assert "CAM51_BACKGROUND_RUNS=0" in form["no_background"].view.description
    with pytest.raises(ValueError, match="This server starts no runs in the background"):
        start(dataset, name, cam_key="run", cam_keys=["run"])
    assert records(dataset) == []


def test_a_form_says_what_is_in_the_way(running):
    dataset, _ = running
    dataset.add_sample(fo.Sample(filepath="a.jpg"))
    form = form_of(dataset, in_background=False)
    assert not form["in_background"].invalid
    form = form_of(dataset)
    assert form["in_background"].invalid
    said = form["in_background"].error_message
    assert "(Compare heatmaps: run, 0 %); wait, press Stop" in said
    assert form["beside"].view.label in said
    assert not form_of(dataset, beside=True)["in_background"].invalid


def test_one_that_is_asked_to_stop_learns_of_it(running):
    dataset, number = running
    background = inner("runs.background")
    lease = background.BackgroundLease(background.read(number))
    lease.check()
    lease.note_progress(None, foo.executor.ExecutionProgress(0.63, "a label"))
    lease._send()
    assert background.describe(records(dataset)[0]) == "Compare heatmaps: run, 63 %"
    background.delete_ended(dataset)
    assert len(records(dataset)) == 1, "it runs"
    background.ask_to_stop(dataset, number)
    lease._send()
    assert lease.asked.is_set()
    with pytest.raises(inner("runs.lease").Stopped, match="it was stopped"):
        lease.check()
    background.finish(number, "interrupted", "first")
    background.finish(number, "failed", "second")
    assert records(dataset)[0]["error"] == "first"
    background.delete_ended(dataset, number)
    lease._send()
    with pytest.raises(inner("runs.lease").LeaseLost):
        lease.check()


def test_what_is_left_of_a_dataset_that_is_gone_is_cleared(make_dataset):
    background, number = inner("runs.background"), ObjectId()
    background.delete_of_nobody()  # what other tests left
    dataset = make_dataset()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    background.register(dataset, number, gone.pid, "uri", "Compare heatmaps", {})
    assert records(dataset)[0]["status"] == "interrupted"
    assert background.delete_of_nobody() == 0
    dataset.delete()
    assert background.delete_of_nobody() == 1
    assert background.read(number) is None


def test_its_process_is_none_of_the_servers_own(monkeypatch, make_dataset):
    started = []
    background = inner("background")
    monkeypatch.setenv("FIFTYONE_SERVER", "1")
    monkeypatch.setenv("FIFTYONE_DISABLE_SERVICES", "1")
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **more: started.append((command, more))
    )
    background._spawn("uri", ObjectId(), None)
    ((command, more),) = started
    assert command[0] == sys.executable
    assert not {"FIFTYONE_SERVER", "FIFTYONE_DISABLE_SERVICES"} & set(more["env"])
    assert more["env"]["FIFTYONE_DATABASE_URI"] == fo.config.database_uri
    assert more["env"]["FIFTYONE_PLUGINS_DIR"] == fo.config.plugins_dir
