"""``kill -9`` at random moments: after resuming, what is stored is what one call stores."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import fiftyone as fo
import pytest
import torch
from faults_common import Worker, compute_tiny, stored, write_pictures
from operators_common import operator
from videos_common import video_samples

pytestmark = pytest.mark.usefixtures("plugin")

COUNT = 100


@pytest.fixture(scope="module")
def worker(plugin):
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    paths = write_pictures(tmp_path_factory.mktemp("pictures"), COUNT)
    Path(paths[17]).write_bytes(b"no picture")
    return paths


@pytest.fixture
def dataset_of(make_dataset, pictures):
    def make():
        dataset = make_dataset(*(fo.Sample(filepath=p) for p in pictures))
        dataset.persistent = True  # other processes open it
        return dataset

    return make


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def kill(pid):
    with contextlib.suppress(ProcessLookupError):  # it was faster, and has finished
        os.kill(pid, signal.SIGKILL)


def kill_and_resume(worker, dataset, delay, arguments):
    """Kills a run after some time; returns how many samples it had stored."""
    pid = worker.begin(dataset, batch_size=2, **arguments)
    time.sleep(delay)
    kill(pid)
    finished = worker.end() is not None
    dataset.reload()
    done = len(dataset.exists("run_layercam")) if dataset.has_field("run_layercam") else 0
    if "run" in dataset.list_runs() and not finished:
        with pytest.raises(ValueError, match=r"'run' is \d+ % done .interrupted|finished"):
            compute_tiny(dataset, batch_size=2, **arguments)
    summary = compute_tiny(dataset, batch_size=2, resume=True, **arguments)
    assert (summary.status, summary.done, summary.resumed) == ("finished", COUNT - 1, done)
    return done


def check_moments(worker, dataset_of, tmp_path, seed, moments):
    reference = dataset_of()
    compute_tiny(reference, batch_size=2)
    expected = stored(reference)
    statuses = reference.exists("run_gradcam").values("run_gradcam.status")
    assert statuses == ["ok"] * (COUNT - 1)  # pictures are compared, not their absence
    on_disk = dataset_of()
    compute_tiny(on_disk, batch_size=2, storage="disk", output_dir=str(tmp_path / "reference"))
    expected_files = stored(on_disk)
    whole = dataset_of()
    worker.begin(whole, batch_size=2)
    seconds = worker.end()
    assert stored(whole) == expected  # another process computes the same
    draw, left = random.Random(seed), []
    for moment in range(moments):
        dataset = dataset_of()
        arguments, wanted = {}, expected
        if moment % 2:
            arguments = {"storage": "disk", "output_dir": str(tmp_path / f"{moment}")}
            wanted = expected_files
        delay = draw.uniform(0, 1.05 * seconds)
        left.append(kill_and_resume(worker, dataset, delay, arguments))
        assert stored(dataset) == wanted, f"killed after {delay:.3f} s of {seconds:.3f} s"
        assert len(dataset) == COUNT
        parts = [p for p in (tmp_path / f"{moment}").rglob("*") if p.is_file()]
        shown = {
            p for f in ("run_gradcam", "run_layercam") for p in dataset.values(f"{f}.map_path")
        }
        assert shown - {None} <= {str(p) for p in parts}
        operator("delete_cam_run")(dataset, "run")
        assert not [p for p in (tmp_path / f"{moment}").rglob("*") if p.is_file()]
    return left


def test_killed_at_three_moments(worker, dataset_of, tmp_path, one_thread):
    check_moments(worker, dataset_of, tmp_path, seed=51, moments=3)


@pytest.mark.slow
def test_killed_at_twenty_moments(worker, dataset_of, tmp_path, one_thread):
    left = check_moments(worker, dataset_of, tmp_path, seed=7, moments=20)
    assert len({done for done in left if 0 < done < COUNT - 1}) >= 5, left


def test_killed_again_while_resuming(worker, dataset_of, one_thread):
    reference, dataset = dataset_of(), dataset_of()
    compute_tiny(reference, batch_size=2)
    draw = random.Random(3)
    for resume in (False, True, True):
        pid = worker.begin(dataset, batch_size=2, resume=resume)
        time.sleep(draw.uniform(0.05, 0.5))
        kill(pid)
        worker.end()
    dataset.reload()
    compute_tiny(dataset, batch_size=2, resume=True)
    assert stored(dataset) == stored(reference)


def test_killed_while_overwriting_leaves_no_mix(worker, dataset_of, one_thread):
    """Old maps and new ones never lie side by side under one key."""
    draw = random.Random(5)
    for _ in range(2):
        dataset = dataset_of()
        compute_tiny(dataset, batch_size=2, seed=1, heatmap_size=24)
        pid = worker.begin(dataset, batch_size=2, overwrite=True)
        time.sleep(draw.uniform(0.02, 0.4))
        kill(pid)
        worker.end()
        dataset.reload()
        sizes = set()
        if dataset.has_field("run_layercam"):
            sizes = {max(m.shape) for m in dataset.values("run_layercam.map") if m is not None}
        assert len(sizes) <= 1
        if sizes == {24} and len(dataset.exists("run_layercam")) == COUNT - 1:
            continue  # killed before anything was deleted
        compute_tiny(dataset, batch_size=2, overwrite=True)
        sizes = {max(m.shape) for m in dataset.values("run_layercam.map") if m is not None}
        assert sizes == {192}


def test_killed_in_a_video(worker, make_dataset, tmp_path, one_thread):
    """The frames that a run makes, and what is on them, are those of one call, wherever it was killed."""
    samples = video_samples(tmp_path / "videos", 60, 40, codec="MJPG", ending="avi")

    def made():
        dataset = make_dataset(*(fo.Sample(sample.filepath) for sample in samples))
        dataset.persistent = True
        return dataset

    def on_frames(dataset):
        files = dict(zip(*dataset.values(["_id", "filepath"]), strict=True))
        rows = list(dataset._frame_collection.find())
        for row in rows:
            for name in ("run_gradcam", "run_layercam", "run_prediction"):
                row[name].pop("_id")
        names = ("run_gradcam", "run_layercam", "run_prediction")
        return {(files[r["_sample_id"]], r["frame_number"]): [r[n] for n in names] for r in rows}

    reference = made()
    compute_tiny(reference, batch_size=2)
    expected, partly = on_frames(reference), 0
    assert len(expected) == COUNT
    for least in (0, 1, 30, 70):
        dataset = made()
        pid = worker.begin(dataset, batch_size=2)
        end = time.monotonic() + 60
        while dataset._frame_collection.count_documents({}) < least and time.monotonic() < end:
            time.sleep(0.002)
        kill(pid)
        worker.end()
        dataset.reload()
        stored_before = dataset.count("frames")
        partly += 0 < stored_before < COUNT
        summary = compute_tiny(dataset, batch_size=2, resume=True)
        assert (summary.status, summary.done) == ("finished", COUNT)
        assert on_frames(dataset) == expected
        operator("delete_cam_run")(dataset, "run")
        assert dataset.count("frames") == 0
    assert partly, "one of the moments was in the middle of the run"
