"""The writer: everything arrives, once, and what goes wrong is said."""

import contextlib
import datetime
import errno
import importlib
import threading
import time

import fiftyone as fo
import numpy as np
import pytest
from bson.errors import InvalidId
from operators_common import PLUGIN
from pymongo.errors import AutoReconnect


@pytest.fixture(scope="module")
def heatmaps(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.data.heatmap_writer")


@pytest.fixture
def ten(dataset, heatmaps):
    dataset.add_samples([fo.Sample(filepath=f"{i}.jpg") for i in range(10)], progress=False)
    heatmaps.declare_schema(dataset, ["run_a", "run_b"], "run_prediction")
    return dataset


def heatmap(heatmaps, seed=0):
    heat = np.random.default_rng(seed).random((6, 8))
    return heatmaps.make_label(
        heat,
        method="a",
        layer="l",
        target="cat",
        target_index=1,
        score=0.5,
        peak=2.0,
        status="ok",
        cam_key="run",
    )


def results(heatmaps, ids):
    return {
        i: {
            "run_a": heatmap(heatmaps),
            "run_prediction": fo.Classification(label="cat", confidence=0.5),
        }
        for i in ids
    }


def write_through(writer, batch):
    with writer:
        writer.put(batch)


def test_document_is_what_fiftyone_itself_would_store(ten, heatmaps):
    ours, theirs = ten.first(), ten.last()
    label = heatmap(heatmaps)
    with heatmaps.Writer(ten) as writer:
        writer.put({ours.id: {"run_a": label.copy(), "number": np.float32(0.5)}})
    theirs["run_a"] = label.copy()
    theirs.save()
    rows = {str(d["_id"]): d for d in ten._sample_collection.find()}
    a, b = rows[ours.id]["run_a"], rows[theirs.id]["run_a"]
    assert {**a, "_id": 0} == {**b, "_id": 0}
    assert rows[ours.id]["number"] == 0.5


@pytest.mark.parametrize("kind", ["dataset", "filtered", "sorted and limited", "group slice"])
def test_kinds_of_collections(ten, make_dataset, heatmaps, kind):
    view = ten
    if kind == "filtered":
        view = ten.match(fo.ViewField("filepath").ends_with("7.jpg"))
    elif kind == "sorted and limited":
        view = ten.sort_by("filepath", reverse=True).limit(3)
    elif kind == "group slice":
        dataset, samples = make_dataset(), []
        dataset.add_group_field("group", default="left")
        for i in range(3):
            group = fo.Group()
            for side in ("left", "right"):
                samples.append(fo.Sample(filepath=f"{side}{i}.jpg", group=group.element(side)))
        dataset.add_samples(samples, progress=False)
        heatmaps.declare_schema(dataset, ["run_a"], "run_prediction")
        view = dataset.select_group_slices("right")
    ids = view.values("id")
    with heatmaps.Writer(view._dataset) as writer:
        for start in range(0, len(ids), 4):
            writer.put(results(heatmaps, ids[start : start + 4]))
    assert view.exists("run_a").values("id") == ids
    assert writer.samples_written == len(ids)
    assert writer.bytes_written > 0
    if kind == "group slice":
        assert len(view._dataset.select_group_slices("left").exists("run_a")) == 0
    else:
        assert len(ten.exists("run_a")) == len(ids)


def test_held_samples_show_what_was_written(ten, heatmaps):
    held, other = ten.first(), ten.last()
    other.tags.append("not saved yet")
    began = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    with heatmaps.Writer(ten) as writer:
        writer.put(results(heatmaps, [held.id]))
    assert held.run_a.method == "a"
    assert held.last_modified_at.replace(tzinfo=datetime.timezone.utc) >= began
    assert held.last_modified_at > other.last_modified_at
    assert other.tags == ["not saved yet"]  # not of this batch, so left alone
    ten.reload()
    assert held.run_prediction.label == "cat"


def test_deleted_sample_is_named_and_costs_nobody_else(ten, heatmaps):
    ids = ten.values("id")
    ten.delete_samples(ids[3])
    with heatmaps.Writer(ten) as writer:
        writer.put(results(heatmaps, ids))
    assert writer.vanished == [ids[3]]
    assert writer.samples_written == 9 == len(ten.exists("run_a"))
    assert len(ten) == 9  # nothing was inserted


def test_sample_gets_all_of_its_fields_or_none(ten, heatmaps, monkeypatch):
    encode = heatmaps._to_mongo

    def fails_at_the_second(value):
        if isinstance(value, fo.Classification):
            raise OSError("no space left on device")
        return encode(value)

    monkeypatch.setattr(heatmaps, "_to_mongo", fails_at_the_second)
    writer = heatmaps.Writer(ten)
    with pytest.raises(OSError, match="no space left"):
        write_through(writer, results(heatmaps, ten.values("id")[:1]))
    assert len(ten.exists("run_a")) == 0


def test_batches_after_a_failed_one_are_stored(ten, heatmaps, monkeypatch):
    ids, write = ten.values("id"), heatmaps.Writer._write

    def fails_once(self, encoded):
        monkeypatch.setattr(heatmaps.Writer, "_write", write)
        raise OSError("a hiccup")

    monkeypatch.setattr(heatmaps.Writer, "_write", fails_once)
    writer = heatmaps.Writer(ten)
    monkeypatch.setattr(
        writer, "_settle", lambda future: writer._kept.append(future), raising=False
    )
    writer._kept = []
    writer.put(results(heatmaps, ids[:2]))
    writer.put(results(heatmaps, ids[2:4]))
    monkeypatch.undo()
    writer._pending[:0] = writer._kept
    with pytest.raises(OSError, match="a hiccup"):
        writer.close()
    assert ten.exists("run_a").values("id") == ids[2:4]


def test_error_surfaces_in_a_later_put(ten, heatmaps, monkeypatch):
    def full(self, encoded):
        raise OSError("no space left on device")

    monkeypatch.setattr(heatmaps.Writer, "_write", full)
    writer = heatmaps.Writer(ten)

    def feed():
        # at the latest when the queue is full
        for sample_id in ten.values("id")[: 2 + writer._QUEUE]:
            writer.put(results(heatmaps, [sample_id]))

    with pytest.raises(OSError, match="no space left"):
        feed()
    with contextlib.suppress(OSError):  # of the batches after it
        writer.close()


def test_first_error_is_not_hidden_by_the_writers(ten, heatmaps, monkeypatch):
    interrupted = threading.Event()

    def full(self, encoded):
        interrupted.wait(10)
        raise OSError("no space left on device")

    monkeypatch.setattr(heatmaps.Writer, "_write", full)

    def stopped():
        with heatmaps.Writer(ten) as writer:
            writer.put(results(heatmaps, ten.values("id")[:1]))
            interrupted.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()


def test_memory_is_bounded(ten, heatmaps, monkeypatch):
    """A slow database makes ``put`` wait."""
    ids, write, gate = ten.values("id"), heatmaps.Writer._write, threading.Event()

    def slow(self, encoded):
        gate.wait(10)
        return write(self, encoded)

    monkeypatch.setattr(heatmaps.Writer, "_write", slow)
    taken = []

    def feed(writer):
        for sample_id in ids:
            writer.put(results(heatmaps, [sample_id]))
            taken.append(sample_id)

    with heatmaps.Writer(ten) as writer:
        feeder = threading.Thread(target=feed, args=(writer,))
        feeder.start()
        deadline = time.monotonic() + 5
        while len(writer._pending) <= writer._QUEUE - 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        waiting = len(taken)
        gate.set()
        feeder.join()
    assert waiting <= heatmaps.Writer._QUEUE
    assert writer.samples_written == 10 == len(ten.exists("run_a"))


def test_no_threads_are_left(ten, heatmaps):
    with heatmaps.Writer(ten) as writer:
        writer.put({})
        writer.put(results(heatmaps, ten.values("id")))
    assert not [t for t in threading.enumerate() if t.name.startswith("cam51-")]


def test_document_too_large_costs_its_sample_only(ten, heatmaps):
    noise = np.random.default_rng(0).integers(0, 256, (4200, 4200), np.uint8)
    batch = results(heatmaps, ten.values("id")[:3])
    large, *others = batch
    batch[large]["run_a"] = fo.Heatmap(map=noise, range=[0, 255])
    with heatmaps.Writer(ten) as writer:
        writer.put(batch)
    assert list(writer.refused) == [large]
    assert "smaller heatmap_size, or storage='disk'" in writer.refused[large]
    assert ten.exists("run_a").values("id") == others
    assert (writer.samples_written, writer.vanished) == (2, [])


@pytest.fixture
def away(monkeypatch):
    """A database that does not answer for the next ``n`` writes; returns how to set it."""
    patience = importlib.import_module(f"{PLUGIN}.operators.runs.retry")
    monkeypatch.setattr(patience, "_FIRST_PAUSE", 0.01)

    def begin(heatmaps, times):
        write, left = heatmaps.fod.bulk_write, [times]

        def failing(*args, **kwargs):
            if left[0] > 0:
                left[0] -= 1
                raise AutoReconnect("connection closed")
            return write(*args, **kwargs)

        monkeypatch.setattr(heatmaps.fod, "bulk_write", failing)
        return patience

    return begin


def test_database_that_is_away_for_a_moment_is_waited_for(ten, heatmaps, away):
    away(heatmaps, 3)
    with heatmaps.Writer(ten) as writer:
        writer.put(results(heatmaps, ten.values("id")))
    assert writer.samples_written == 10 == len(ten.exists("run_a"))


def test_database_that_stays_away_stops_the_writer(ten, heatmaps, away, monkeypatch):
    monkeypatch.setattr(away(heatmaps, 10_000), "WAIT_SECONDS", 0.3)
    writer = heatmaps.Writer(ten)
    with pytest.raises(ConnectionError, match="MongoDB did not answer for .*resume=True"):
        write_through(writer, results(heatmaps, ten.values("id")[:1]))


# files


def test_files(ten, heatmaps, tmp_path):
    with heatmaps.Writer(ten, str(tmp_path / "run")) as writer:
        writer.put(results(heatmaps, ten.values("id")))
    stored, direct = ten.first().run_a, heatmap(heatmaps)
    assert stored.map is None
    assert stored.range == [0, 255]
    read = stored.get_map()
    assert (read.dtype, read.shape) == (np.uint8, (6, 8))  # one channel
    assert (read == direct.map).all()
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert sorted(ten.values("run_a.map_path")) == [str(p) for p in files]
    assert writer.bytes_written == sum(p.stat().st_size for p in files)


def test_rewritten_file_has_a_new_name(ten, heatmaps, tmp_path):
    """Browsers go on showing the old picture of a file that was rewritten."""
    paths = []
    for _ in range(2):
        with heatmaps.Writer(ten, str(tmp_path)) as writer:
            writer.put(results(heatmaps, [ten.first().id]))
        paths.append(ten.first().run_a.map_path)
    assert paths[0] != paths[1]


def test_sample_id_is_no_path(ten, heatmaps, tmp_path):
    writer = heatmaps.Writer(ten, str(tmp_path / "run"))
    with pytest.raises(InvalidId, match="not a valid ObjectId"):
        write_through(writer, results(heatmaps, ["../../outside"]))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_full_disk_leaves_no_part_of_a_file_and_says_what_to_do(
    ten, heatmaps, tmp_path, monkeypatch
):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(heatmaps.os, "replace", full)
    writer = heatmaps.Writer(ten, str(tmp_path / "run"))
    with pytest.raises(OSError, match="No space left on device.*make room.*resume=True") as caught:
        write_through(writer, results(heatmaps, ten.values("id")[:1]))
    assert caught.value.errno == errno.ENOSPC
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(ten.exists("run_a")) == 0
