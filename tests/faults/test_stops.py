"""Runs that are stopped from outside, and things that change under them."""

import asyncio
import collections
import functools
import importlib
import os
import shutil
import subprocess
import threading
import time
import types
from pathlib import Path

import anyio
import fiftyone as fo
import pytest
import torch
from faults_common import (
    CLASSES,
    LAYER,
    METHODS,
    compute_tiny,
    picture_transforms,
    stored,
    tiny_network,
    write_pictures,
)
from operators_common import PLUGIN, operator, prepared
from PIL import Image

pytestmark = pytest.mark.usefixtures("plugin")

COUNT = 12


@pytest.fixture(scope="module")
def rooms(plugin):
    names = (
        "compute.job",
        "compute.params",
        "data.heatmap_writer",
        "base",
        "runs.lease",
        "runs.record",
    )
    return types.SimpleNamespace(
        **{n.rpartition(".")[2]: importlib.import_module(f"{PLUGIN}.operators.{n}") for n in names}
    )


@pytest.fixture
def dataset(make_dataset, tmp_path):
    paths = write_pictures(tmp_path / "pictures", COUNT)
    return make_dataset(*(fo.Sample(filepath=p) for p in paths))


@pytest.fixture
def expected(make_dataset, tmp_path):
    """What a run that nothing happens to stores."""
    paths = write_pictures(tmp_path / "pictures", COUNT)
    reference = make_dataset(*(fo.Sample(filepath=p) for p in paths))
    compute_tiny(reference, batch_size=2)
    return stored(reference)


def job_of(rooms, samples, key="run", **arguments):
    settings = rooms.params.Settings(
        cam_key=key, methods=["gradcam", "layercam"], layers=LAYER, batch_size=2, **arguments
    )
    return prepared(
        rooms.job.CamJob, samples, settings, tiny_network(), picture_transforms(), CLASSES
    )


class Interrupting(torch.nn.Module):
    """Ctrl-C in the middle of the n-th batch."""

    def __init__(self, at):
        super().__init__()
        self.net = tiny_network()
        # a number would be a setting of the network, and each call another network
        self.left = collections.deque([at])

    def forward(self, images):
        self.left[0] -= 1
        if self.left[0] == 0:
            raise KeyboardInterrupt
        return self.net(images)


def forwards_before_a_run(rooms, dataset):
    """How often a model is run before the first batch: it is read, measured and tried."""
    settings = rooms.params.Settings(
        cam_key="tried", methods=METHODS, layers=f"net.{LAYER}", batch_size=2
    )
    model = Interrupting(at=10**6)
    prepared(rooms.job.CamJob, dataset, settings, model, picture_transforms(), CLASSES)
    return 10**6 - model.left[0]


def test_ctrl_c(dataset, rooms):
    model = Interrupting(at=forwards_before_a_run(rooms, dataset) + 3)  # in the third batch
    given = dict(model=model, layers=f"net.{LAYER}", batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        compute_tiny(dataset, **given)
    assert rooms.record.status_of(dataset, "run") == "interrupted"
    done = len(dataset.exists("run_gradcam"))
    assert done == 4, "two batches of two"
    assert not [t for t in threading.enumerate() if t.name.startswith("cam51-")]
    summary = compute_tiny(dataset, resume=True, **given)
    assert (summary.done, summary.resumed) == (COUNT, done)


def test_closed_tab(dataset, rooms, expected):
    """The server stops reading: the run ends within two batches and is resumable."""
    job, received = job_of(rooms, dataset), []

    async def main():
        async with anyio.create_task_group() as group:

            async def read():
                async for state in rooms.base.stream(job.run()):
                    received.append(state.done)
                    if len(received) == 2:
                        group.cancel_scope.cancel()

            group.start_soon(read)

    asyncio.run(main())
    assert rooms.record.status_of(dataset, "run") == "interrupted"
    assert job.summary.done <= received[-1] + 2 * 2
    compute_tiny(dataset, batch_size=2, resume=True)
    assert stored(dataset) == expected


class Disk:
    """A file system of its own, of 64 kB."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.there = self._mount("size=64k", "-t", "tmpfs", "tmpfs") == 0

    def _mount(self, options, *more):
        if shutil.which("mount") is None:
            return 1
        command = ["mount", "-o", options, *more, str(self.folder)]
        return subprocess.run(command, capture_output=True).returncode

    def change(self, options):
        # it is refused while a file is open for writing
        assert any(self._mount(f"remount,{options}") == 0 or time.sleep(0.05) for _ in range(100))

    def close(self):
        if self.there:
            subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    if not disk.there:
        pytest.skip("needs a file system of its own, which root may mount")
    yield disk
    disk.close()


def check_failed_and_resumed(dataset, rooms, where, reason, mend):
    """A run that cannot write is resumable, leaves no half file, and everything goes with it."""
    config = rooms.record.config_of(dataset, "run")
    assert config.status == "failed"
    assert reason in config.error
    done = dataset.exists("run_gradcam")
    assert len(done) < COUNT
    for field in ("run_gradcam", "run_layercam"):
        assert all(read_png(path) for path in done.values(f"{field}.map_path"))
    maps = Path(where["output_dir"])
    assert not list(maps.rglob("*.part"))
    mend()
    summary = compute_tiny(dataset, batch_size=2, resume=True, **where)
    assert (summary.status, summary.done) == ("finished", COUNT)
    operator("delete_cam_run")(dataset, "run")
    assert not maps.exists()


def read_png(path):
    with Image.open(path) as image:
        return image.size and image.load() is not None


def test_full_disk(dataset, rooms, disk):
    where = {"storage": "disk", "output_dir": str(disk.folder / "maps")}
    with pytest.raises(OSError, match="No space left on device.*make room.*resume=True"):
        compute_tiny(dataset, batch_size=2, **where)
    mend = functools.partial(disk.change, "size=20m")
    check_failed_and_resumed(dataset, rooms, where, "No space left on device", mend)


def test_disk_that_becomes_read_only(dataset, rooms, disk):
    where = {"storage": "disk", "output_dir": str(disk.folder / "maps")}
    disk.change("size=20m")
    steps = job_of(rooms, dataset, **where).run()
    next(steps)
    disk.change("ro")
    with pytest.raises(OSError, match="Read-only file system.*see to the folder.*resume=True"):
        list(steps)
    disk.change("rw")
    assert rooms.record.status_of(dataset, "run") == "failed"
    summary = compute_tiny(dataset, batch_size=2, resume=True, **where)
    assert (summary.status, summary.done) == ("finished", COUNT)


def test_files_may_not_become_as_large(dataset, rooms, tmp_path):
    """A limit of the system's, which root has too: a map is larger than a file may be."""
    resource = pytest.importorskip("resource")
    where = {"storage": "disk", "output_dir": str(tmp_path / "maps")}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    job = job_of(rooms, dataset, **where)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large.*see to the folder.*resume=True"):
            list(job.run())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check_failed_and_resumed(dataset, rooms, where, "File too large", lambda: None)


def test_folder_that_vanishes_is_made_again(dataset, rooms, tmp_path):
    where = {"storage": "disk", "output_dir": str(tmp_path / "maps")}
    job = job_of(rooms, dataset, **where)
    steps = job.run()
    next(steps)
    next(steps)
    shutil.rmtree(tmp_path / "maps", ignore_errors=True)
    for _ in steps:
        pass
    left = sum(len(files) for _, _, files in os.walk(tmp_path / "maps"))
    assert left, "it was made again"
    assert job.summary.status == rooms.record.status_of(dataset, "run") == "interrupted"
    assert "samples lack files of heatmaps, deleted while the run wrote them" in job.summary.error
    lost = COUNT - job.summary.done
    assert 0 < lost < COUNT
    # what had been written before is missing now, and done again
    summary = compute_tiny(dataset, batch_size=2, resume=True, **where)
    assert (summary.status, summary.done, summary.resumed) == ("finished", COUNT, COUNT - lost)
    dataset.reload()
    assert all(os.path.isfile(p) for p in dataset.values("run_gradcam.map_path"))


def test_samples_deleted_while_it_runs(dataset, rooms):
    job = job_of(rooms, dataset)
    steps = job.run()
    next(steps)
    dataset.delete_samples(dataset.skip(9))
    for _ in steps:
        pass
    assert (job.summary.status, job.summary.done) == ("finished", 9)
    assert [f["reason"] for f in job.summary.failed] == [
        "the sample was deleted during the run"
    ] * 3
    assert len(dataset) == 9 == len(dataset.exists("run_gradcam"))
    info = operator("get_cam_run_info")(dataset, "run")
    assert (info.done, info.total) == (9, 9)


def records_left():
    return fo.core.odm.get_db_conn().runs.count_documents({"key": "run"})


def test_dataset_deleted_while_it_runs(dataset, rooms):
    before = records_left()
    steps = job_of(rooms, dataset).run()
    next(steps)
    dataset.delete()
    with pytest.raises((rooms.lease.LeaseLost, ValueError), match="is deleted|the dataset is gone"):
        for _ in range(COUNT):
            next(steps)
    assert dataset.name not in fo.list_datasets()
    assert records_left() == before


def test_dataset_deleted_by_another_process(dataset, rooms):
    steps = job_of(rooms, dataset).run()
    next(steps)
    fo.Dataset._instances.pop(dataset.name)
    theirs = fo.load_dataset(dataset.name)
    fo.Dataset._instances[dataset.name] = dataset
    assert theirs is not dataset
    theirs.delete()
    with pytest.raises(rooms.lease.LeaseLost, match="the dataset is gone"):
        for _ in range(COUNT):
            next(steps)
    assert dataset.name not in fo.list_datasets()
    assert not fo.core.odm.get_db_conn()[dataset._sample_collection_name].count_documents({})


def test_file_replaced_by_garbage_between_two_calls(dataset, rooms):
    steps = job_of(rooms, dataset).run()
    next(steps)
    steps.close()
    victim = dataset.skip(7).first()
    with open(victim.filepath, "wb") as file:
        file.write(b"gone bad")
    summary = compute_tiny(dataset, batch_size=2, resume=True)
    assert (summary.status, summary.done) == ("finished", COUNT - 1)
    assert [f["id"] for f in summary.failed] == [victim.id]


def test_two_runs_at_once(dataset, rooms, expected):
    """Turn by turn, on one dataset: each writes its own fields."""
    first, second = job_of(rooms, dataset), job_of(rooms, dataset, key="other")
    one, two = first.run(), second.run()
    for _ in range(COUNT // 2):
        next(one)
        next(two)
    for steps in (one, two):
        for _ in steps:
            pass
    dataset.reload()
    assert stored(dataset) == expected
    for key in ("run", "other"):
        assert rooms.record.status_of(dataset, key) == "finished"
        assert dataset.values(f"{key}_gradcam.cam_key") == [key] * COUNT
    schema = dataset.get_field_schema()
    assert {"run_gradcam", "other_gradcam", "run_prediction", "other_prediction"} <= set(schema)
    paths = {entry["path"] for entry in dataset.app_config.color_scheme.fields}
    assert {"run_gradcam", "other_gradcam"} <= paths


def test_two_runs_in_two_threads(dataset, rooms, expected):
    errors = []
    models = {key: tiny_network() for key in ("run", "other")}  # the seed is global

    def work(key):
        try:
            compute_tiny(dataset, model=models[key], cam_key=key, batch_size=2)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(key,)) for key in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    dataset.reload()
    assert stored(dataset) == expected
    assert len(dataset.exists("other_layercam")) == COUNT
    assert {"run_layercam", "other_layercam"} <= set(dataset.get_field_schema())
