"""Runs of the queue: ``fiftyone delegated launch`` in a process of its own, failed, stopped, resumed."""

import os
import subprocess
import sys
from pathlib import Path

import fiftyone.operators as foo
import pytest
from faults_common import stored
from fiftyone.operators.delegated import DelegatedOperationService
from operators_common import operator

from examples.dataset import photo_sample
from tools.app_driver import end_process, plant_resnet18, wait_for

pytestmark = [pytest.mark.usefixtures("plugin"), pytest.mark.slow, pytest.mark.timeout(400)]

MODEL = "resnet18-imagenet-torch"
COUNT = 96


@pytest.fixture(scope="module")
def launcher(database, tmp_path_factory):
    """A launcher that looks at what it started every second; yields its log."""
    log = tmp_path_factory.mktemp("launcher") / "log"
    weights = plant_resnet18(tmp_path_factory.mktemp("zoo"))
    command = Path(sys.executable).with_name("fiftyone")
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [command, "delegated", "launch", "--monitor", "--monitor-interval", "1"],
            env={**os.environ, **weights},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        yield log
        end_process(process)


@pytest.fixture
def dataset(make_dataset, photos):
    dataset = make_dataset(*(photo_sample(photo) for photo in photos * (COUNT // len(photos))))
    dataset.persistent = True  # another process opens it
    return dataset


def queue_run(dataset, key):
    queued = operator()(
        dataset,
        model=MODEL,
        methods=["gradcam", "layercam"],
        cam_key=key,
        batch_size=4,
        delegate=True,
    )
    return identifier(queued)


def queue_again(dataset, key):
    """Resumes a run, as the form of *Run again* asks for it."""
    queued = foo.execute_operator(
        "@cam51/heatmaps/rerun_cams",
        {"dataset": dataset},
        params={"cam_key": key, "resume": True},
        request_delegation=True,
    )
    return identifier(queued)


def identifier(queued):
    return queued.result["id"] if isinstance(queued.result, dict) else queued.result.id


def wait_for_state(number, *states):
    service = DelegatedOperationService()

    def reached():
        run = service.get(number)
        return run if run.run_state in states else None

    return wait_for(reached, 180, f"the operation is {' or '.join(states)}", step=0.3)


def info(dataset, key):
    dataset.reload()
    found = {run.key: run for run in operator("list_cam_runs")(dataset)}
    return found.get(key)


def wait_until_some_are_done(dataset, key):
    def some():
        run = info(dataset, key)
        return run is not None and run.status == "running" and run.done > 0

    wait_for(some, 180, f"the run {key} has stored something", step=0.1)


def names_removed(labels, key):
    return {
        name: {f.removeprefix(key): {**v, "cam_key": None} for f, v in fields.items()}
        for name, fields in labels.items()
    }


def test_failed_and_stopped_from_elsewhere_and_gone_on_with(dataset, launcher):
    # killed with everything it started, as `fiftyone delegated fail` does
    number = queue_run(dataset, "run")
    wait_until_some_are_done(dataset, "run")
    subprocess.run(
        [Path(sys.executable).with_name("fiftyone"), "delegated", "fail", str(number)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    wait_for(lambda: info(dataset, "run").status == "interrupted", 90, "the run is interrupted")
    assert 0 < info(dataset, "run").done < COUNT

    # resumed by the queue, asked to stop from this process
    number = queue_again(dataset, "run")
    wait_for(lambda: info(dataset, "run").status == "running", 120, "the run is running again")
    operator("stop_cam_run")(dataset, "run")
    wait_for(lambda: info(dataset, "run").status == "interrupted", 90, "the run has stopped")
    wait_for_state(number, "completed", "failed")
    assert info(dataset, "run").done < COUNT

    assert (
        wait_for_state(queue_again(dataset, "run"), "completed", "failed").run_state == "completed"
    )
    assert (info(dataset, "run").status, info(dataset, "run").done) == ("finished", COUNT)
    sessions = operator("get_cam_run_info")(dataset, "run").sessions
    assert [s["origin"] for s in sessions] == ["delegated"] * 3

    assert wait_for_state(queue_run(dataset, "one"), "completed", "failed").run_state == "completed"
    assert names_removed(stored(dataset), "run") == names_removed(stored(dataset, "one"), "one")
