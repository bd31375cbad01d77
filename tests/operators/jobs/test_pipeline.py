"""The loop that all operators share: batches in, results out, nothing lost."""

import importlib
import types

import pytest
import torch
from pymongo.errors import AutoReconnect

PLUGIN = "fiftyone.plugins.orgs.cam51.heatmaps"


@pytest.fixture(scope="module")
def rooms(plugin):
    names = ("data.loader", "jobs.pipeline", "runs.retry")
    return types.SimpleNamespace(
        **{n.rpartition(".")[2]: importlib.import_module(f"{PLUGIN}.operators.{n}") for n in names}
    )


class Source:
    """A loader of batches that are already in memory."""

    def __init__(self, rooms, counts):
        self.batch_size = max(counts)
        self._rooms = rooms
        self._counts = counts

    def __iter__(self):
        number = 0
        for count in self._counts:
            items = [
                self._rooms.loader.Item(str(number + i), f"{number + i}.jpg", None, None)
                for i in range(count)
            ]
            images = torch.arange(number, number + count).float()[:, None]
            number += count
            yield self._rooms.loader.Batch(items, images)


class Sink:
    """A writer that remembers."""

    bytes_written = 0

    def __init__(self):
        self.results = {}

    def put(self, results):
        assert not set(results) & set(self.results), "a sample was written twice"
        self.results.update(results)


def drive(rooms, counts, step):
    source, sink, failures = Source(rooms, counts), Sink(), []
    states = [s.done for s in rooms.pipeline.run(source, step, sink, sum(counts), failures)]
    return source, sink, failures, states


def test_everything_is_written_once(rooms):
    _, sink, failures, states = drive(rooms, [3, 2], lambda b: {i.id: {"x": 1} for i in b.items})
    assert set(sink.results) == set("01234")
    assert not failures
    assert states == [3, 5]


def test_one_bad_image_costs_itself_only(rooms):
    def step(batch):
        if (batch.images == 2).any():
            raise RuntimeError("bad\npixel")
        return {i.id: {"x": 1} for i in batch.items}

    _, sink, failures, states = drive(rooms, [4, 2], step)
    assert set(sink.results) == set("01345")
    assert [(f.id, f.reason) for f in failures] == [("2", "RuntimeError: bad pixel")]
    assert states[-1] == 6


def test_out_of_memory_halves_the_batch_and_remembers(rooms):
    seen = []

    def step(batch):
        seen.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no room")
        return {i.id: {"x": 1} for i in batch.items}

    source, sink, failures, _ = drive(rooms, [8], step)
    assert set(sink.results) == set("01234567")
    assert not failures
    assert source.batch_size == 2
    assert max(seen[-4:]) == 2


def test_out_of_memory_on_one_image_is_its_failure(rooms):
    def step(batch):
        raise torch.OutOfMemoryError("no room")

    _, sink, failures, _ = drive(rooms, [2], step)
    assert not sink.results
    assert {f.id for f in failures} == {"0", "1"}


def test_interrupts_are_not_taken_for_bad_samples(rooms):
    def step(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(rooms, [2], step)


def test_forecast_appears_after_two_batches(rooms):
    Progress = rooms.pipeline.Progress
    assert Progress(done=5, total=100, batches=1, seconds=1).forecast() is None
    text = Progress(done=10, total=100, batches=2, seconds=600, written=5_000_000).forecast()
    assert text == "~1.5 h left, 50 MB in all"


class Flickering:
    """A step whose database is away for some of its calls."""

    def __init__(self, away):
        self.away, self.calls = away, 0

    def __call__(self, batch):
        self.calls += 1
        if self.calls in self.away:
            raise AutoReconnect("connection refused")
        return {item.id: {"x": 1} for item in batch.items}


def test_a_database_that_comes_back_costs_no_sample(rooms, monkeypatch):
    """A step may read labels or heatmaps: that the database was away is no fault of its sample."""
    monkeypatch.setattr(rooms.retry, "_FIRST_PAUSE", 0.01)
    step = Flickering(away=(2, 3))
    _, sink, failures, _ = drive(rooms, [2, 2, 2], step)
    assert (len(sink.results), failures, step.calls) == (6, [], 5)


def test_a_database_that_stays_away_ends_the_run(rooms, monkeypatch):
    monkeypatch.setattr(rooms.retry, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(rooms.retry, "_FIRST_PAUSE", 0.01)
    source, sink, failures = Source(rooms, [2, 2]), Sink(), []
    steps = rooms.pipeline.run(source, Flickering(range(2, 99)), sink, 4, failures)
    with pytest.raises(rooms.retry.DatabaseAway, match="MongoDB did not answer for"):
        list(steps)
    assert (len(sink.results), failures) == (2, [])
