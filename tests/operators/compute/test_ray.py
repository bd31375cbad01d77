"""Runs on Ray's workers: what is stored is what one process stores, also when a worker is killed."""

import importlib
import os
import signal
import sys
import threading
import time

import fiftyone as fo
import pytest
import torch
from faults_common import CLASSES, compute_tiny, picture_transforms, stored, write_pictures
from operators_common import PLUGIN, operator

pytestmark = pytest.mark.usefixtures("plugin")

COUNT = 96


class Slow:
    """Transforms that take their time, so that a run can be met in its middle."""

    def __init__(self, seconds):
        self.steps, self.seconds = picture_transforms(), seconds

    def __call__(self, image):
        time.sleep(self.seconds)
        return self.steps(image)

    def __repr__(self):
        return "Slow"


@pytest.fixture(scope="module")
def ray(database):
    """Ray on this machine, with room for two workers."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=100_000_000,
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    paths = write_pictures(tmp_path_factory.mktemp("pictures"), COUNT)
    with open(paths[17], "wb") as broken:
        broken.write(b"no picture")
    return paths


@pytest.fixture
def dataset_of(make_dataset, pictures):
    def make(**fields):
        return make_dataset(
            *(
                fo.Sample(filepath=p, **{k: v[i] for k, v in fields.items()})
                for i, p in enumerate(pictures)
            )
        )

    return make


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_ray(dataset, seconds=0.01, **arguments):
    given = {"batch_size": 2, "transforms": Slow(seconds), "num_workers": 2, **arguments}
    return compute_tiny(dataset, backend="ray", **given)


def shards_of(dataset):
    """What the workers of a run tell of themselves, by shard."""
    record = importlib.import_module(f"{PLUGIN}.operators.runs.record")
    query = {"_id": record.document_id(dataset, "run")}
    entry = record.db().runs.find_one(query, {"config.shards": True}) or {}
    return entry.get("config", {}).get("shards") or {}


class KillOne(threading.Thread):
    """Kills a worker as soon as it has stored a part of a shard."""

    def __init__(self, dataset):
        super().__init__(daemon=True)
        self.dataset, self.killed = dataset, None

    def run(self):
        end = time.monotonic() + 90
        while self.killed is None and time.monotonic() < end:
            for state in shards_of(self.dataset).values():
                if 0 < state["written"] < 32:
                    os.kill(state["pid"], signal.SIGKILL)
                    self.killed = state
                    return
            time.sleep(0.02)


def comparable(summary):
    kept = ("done", "fields", "statuses", "status", "resumed", "bytes_written")
    failed = [(row["filepath"], row["reason"]) for row in summary.failed]
    return {**{k: getattr(summary, k) for k in kept}, "failed": failed}


def test_killed_worker_and_the_end_is_that_of_one_process(ray, dataset_of):
    local = dataset_of()
    expected = compute_tiny(local, batch_size=2, transforms=Slow(0))
    dataset = dataset_of()
    held = dataset.first()
    killer = KillOne(dataset)
    killer.start()
    summary = on_ray(dataset, seconds=0.04)
    killer.join()
    assert killer.killed, "the run was over before a worker could be killed"
    assert stored(dataset) == stored(local)
    assert len(stored(dataset)) == COUNT
    assert held["run_gradcam"].map.shape == (144, 192), "samples that somebody holds show it"
    got, wanted = comparable(summary), comparable(expected)
    # What the killed worker had stored is not stored again, so nobody counts its bytes.
    assert got.pop("bytes_written") <= wanted.pop("bytes_written")
    assert got == wanted
    config = dataset.get_run_info("run").config
    assert config.status == "finished"
    assert config.sessions[0]["backend"] == "ray"
    assert not shards_of(dataset)


@pytest.mark.slow
def test_stopped_on_disk_and_gone_on_with_here(ray, dataset_of, tmp_path):
    local, dataset = dataset_of(), dataset_of()
    files = {"storage": "disk", "output_dir": str(tmp_path / "local")}
    compute_tiny(local, batch_size=2, transforms=Slow(0), **files)
    place = {"storage": "disk", "output_dir": str(tmp_path / "ray")}

    def stop():
        end = time.monotonic() + 90
        while not any(s["written"] for s in shards_of(dataset).values()):
            assert time.monotonic() < end
            time.sleep(0.02)
        operator("stop_cam_run")(dataset, "run")

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    summary = on_ray(dataset, seconds=0.05, **place)
    stopper.join()
    assert summary.status == "interrupted"
    assert 0 < summary.done < COUNT - 1
    # both workers stopped within two batches, and what they had computed is stored
    assert summary.done == len(dataset.exists("run_gradcam"))
    done = summary.done
    summary = compute_tiny(dataset, batch_size=2, transforms=Slow(0), resume=True, **place)
    assert (summary.status, summary.done, summary.resumed) == ("finished", COUNT - 1, done)
    assert stored(dataset) == stored(local)
    operator("delete_cam_run")(dataset, "run")
    assert not [p for p in (tmp_path / "ray").rglob("*") if p.is_file()]


def test_targets_that_ask_the_dataset(ray, dataset_of):
    labels = [fo.Classification(label=CLASSES[i % 4]) for i in range(COUNT)]
    local, dataset = dataset_of(truth=labels), dataset_of(truth=labels)
    compute_tiny(local, batch_size=8, targets="truth")
    on_ray(dataset, seconds=0, batch_size=8, targets="truth", transforms=picture_transforms())
    assert stored(dataset) == stored(local)
    indices = dataset.match(fo.ViewField("run_gradcam") != None).values("run_gradcam.target_index")  # noqa: E711
    assert set(indices) == {0, 1, 2, 3}


@pytest.mark.slow
def test_a_worker_that_cannot_work_says_why(ray, dataset_of):
    dataset = dataset_of()

    class Elsewhere(Slow):
        """Works in the driver only."""

        driver = os.getpid()

        def __call__(self, image):
            if os.getpid() != self.driver:
                raise RuntimeError("not on this node")
            return self.steps(image)

    summary = on_ray(dataset, transforms=Elsewhere(0))
    assert summary.status == "finished"
    assert summary.done == 0
    assert len(summary.failed) == COUNT
    assert {f["reason"] for f in summary.failed} >= {"RuntimeError: not on this node"}
    assert [f["filepath"] for f in summary.failed] == dataset.values("filepath")


def test_without_ray(dataset_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    dataset = dataset_of()
    with pytest.raises(ValueError, match=r"backend.*pip install -r requirements-ray.txt"):
        on_ray(dataset)
    assert dataset.list_runs() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backend": "dask"}, "backend: 'dask' is unknown; choose from local, ray"),
        ({"backend": "local", "resources": {"GPU": 1}}, "resources has no effect"),
        ({"backend": "ray", "resources": ["GPU"]}, "resources must be what one worker needs"),
        ({"backend": "ray", "resources": {"GPU": -1}}, "resources must be what one worker needs"),
        ({"backend": "ray", "num_workers": 0}, "num_workers: backend='ray' needs one"),
        ({"backend": "ray", "resources": {"GPU": 1}, "device": "cpu"}, "device: 'cpu'"),
    ],
)
def test_refused(dataset_of, arguments, said):
    dataset = dataset_of()
    with pytest.raises(ValueError, match=said):
        compute_tiny(dataset, **arguments)
    assert dataset.list_runs() == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU to choose with")
def test_gpus_that_the_driver_does_not_have(dataset_of):
    with pytest.raises(ValueError, match=r"precision=.*batch_size="):
        compute_tiny(dataset_of(), backend="ray", resources={"GPU": 1})


def test_what_cannot_be_sent_is_refused_before_the_run(ray, dataset_of):
    dataset, lock = dataset_of(), threading.Lock()

    def held(image):
        with lock:
            return picture_transforms()(image)

    with pytest.raises(ValueError, match="cannot be sent to Ray's workers"):
        on_ray(dataset, transforms=held)
    assert dataset.list_runs() == []
    assert not dataset.has_field("run_gradcam")
