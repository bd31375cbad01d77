"""Runs that go on: what is missing and nothing else, with the same numbers to the last bit."""

import importlib
import os
import types
from pathlib import Path

import fiftyone as fo
import pytest
import torch
from operators_common import CLASSES, PLUGIN, compute, prepared, small_network, transforms
from PIL import Image

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture(scope="module")
def rooms(plugin):
    names = (
        "runs.record",
        "runs.resume",
        "compute.job",
        "compute.params",
        "data.loader",
        "compute.step",
    )
    return types.SimpleNamespace(
        **{n.rpartition(".")[2]: importlib.import_module(f"{PLUGIN}.operators.{n}") for n in names}
    )


@pytest.fixture
def noise_dataset(make_dataset, tmp_path):
    """A function: a dataset of ``n`` small pictures, of two shapes in turns."""

    def make(n, name="noise"):
        folder = tmp_path / name
        folder.mkdir()
        samples = []
        for i in range(n):
            path = folder / f"{i:03}.png"
            size = (60, 44) if i % 3 else (44, 60)
            torch.manual_seed(i)
            pixels = (torch.rand(size[1], size[0], 3) * 255).byte().numpy()
            Image.fromarray(pixels).save(path)
            samples.append(fo.Sample(filepath=str(path)))
        return make_dataset(*samples)

    return make


def job_of(rooms, samples, **arguments):
    settings = rooms.params.Settings(**{"cam_key": "run", "batch_size": 2, **arguments})
    return prepared(rooms.job.CamJob, samples, settings, small_network(), transforms(), CLASSES)


def stop_after(job, batches):
    """Runs a job for some batches only."""
    steps = job.run()
    for _ in range(batches):
        next(steps)
    steps.close()


def documents(dataset, fields=None):
    """What is stored per picture, as it lies in the database; ids of labels are random."""
    stored = {}
    for row in dataset._sample_collection.find():
        kept = {}
        for name in fields or [f for f in row if f.startswith("run_")]:
            label = dict(row.get(name) or {})
            label.pop("_id", None)
            if label.get("map_path"):
                label["map"] = Path(label.pop("map_path")).read_bytes()
            kept[name] = label
        stored[os.path.basename(row["filepath"])] = kept
    return stored


TWO_METHODS = {"methods": ["gradcam", "layercam"]}


@pytest.mark.parametrize("storage", ["database", "disk"])
def test_resumed_run_is_that_of_one_call_to_the_last_bit(rooms, noise_dataset, tmp_path, storage):
    whole, parts = noise_dataset(11), noise_dataset(11, "again")
    where = {"storage": storage}
    if storage == "disk":
        where["output_dir"] = str(tmp_path / "maps")
    compute(whole, batch_size=2, **TWO_METHODS, **where)
    if storage == "disk":
        where["output_dir"] = str(tmp_path / "other maps")
    stop_after(job_of(rooms, parts, **TWO_METHODS, **where), 3)
    assert 0 < len(parts.exists("run_gradcam")) < 11
    again = compute(parts, batch_size=2, resume=True, **TWO_METHODS, **where)
    assert (again.status, again.done, again.resumed) == ("finished", 11, 6)
    assert again.statuses == {"run_gradcam": {"ok": 11}, "run_layercam": {"ok": 11}}
    assert documents(parts) == documents(whole)
    assert rooms.record.status_of(parts, "run") == "finished"


def test_only_what_is_missing_is_computed(rooms, noise_dataset, monkeypatch):
    dataset = noise_dataset(12)
    stop_after(job_of(rooms, dataset), 2)
    written = []
    explain = rooms.step.ExplainStep.__call__

    def counted(self, batch):
        written.extend(item.id for item in batch.items)
        return explain(self, batch)

    monkeypatch.setattr(rooms.step.ExplainStep, "__call__", counted)
    before = {s.id: s.last_modified_at for s in dataset.exists("run_gradcam")}
    summary = compute(dataset, resume=True)
    assert summary.done == 12
    assert len(written) == len(set(written)) == 12 - len(before)
    dataset.reload()
    assert all(dataset[i].last_modified_at == at for i, at in before.items())


def test_batch_is_completed_with_what_is_done(rooms, noise_dataset):
    """A sample of a stored batch that lost its heatmap gets the same one again."""
    dataset = noise_dataset(8)
    compute(dataset, batch_size=4)
    before = documents(dataset)
    victim = dataset.skip(2).first()
    dataset.select(victim.id).clear_sample_field("run_gradcam")
    others = dataset.exclude(victim.id).values("run_gradcam.id")
    summary = compute(dataset, batch_size=4, resume=True)
    assert (summary.done, summary.resumed) == (8, 7)
    assert documents(dataset) == before
    assert dataset.exclude(victim.id).values("run_gradcam.id") == others


def _gone(path):
    os.remove(path)


def _empty(path):
    os.truncate(path, 0)


def _cut_off(path):
    os.truncate(path, os.path.getsize(path) - 5)


@pytest.mark.parametrize("spoil", [_gone, _empty, _cut_off])
def test_sample_whose_file_is_not_whole_is_not_done(rooms, noise_dataset, tmp_path, spoil):
    """A power failure may leave an empty file, or a part of one, that the sample points to."""
    dataset = noise_dataset(4)
    where = {"storage": "disk", "output_dir": str(tmp_path / "maps")}
    compute(dataset, batch_size=2, **where)
    before = documents(dataset)
    spoil(dataset.last().run_gradcam.map_path)
    assert compute(dataset, batch_size=2, resume=True, **where).resumed == 3
    dataset.reload()
    assert documents(dataset) == before


def test_unfinished_key_is_refused_with_its_share(rooms, noise_dataset):
    dataset = noise_dataset(8)
    stop_after(job_of(rooms, dataset), 2)
    stored = len(dataset.exists("run_gradcam"))
    expected = (
        f"'run' is {100 * stored // 8} % done .interrupted.: resume=True .* or overwrite=True"
    )
    with pytest.raises(ValueError, match=expected):
        compute(dataset, batch_size=2)
    assert compute(dataset, batch_size=2, overwrite=True).done == 8


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"methods": "layercam"}, r"methods: \['gradcam'\] then, \['layercam'\] now"),
        ({"layers": "layer3"}, r"layers: \['layer4'\] then, \['layer3'\] now"),
        ({"targets": 3}, "targets: predicted then, 3 now"),
        ({"heatmap_size": 64}, "heatmap_size: 192 then, 64 now"),
        ({"seed": 1}, "seed: 51 then, 1 now"),
        ({"batch_size": 4}, "batch_size: 2 then, 4 now"),
        ({"store_prediction": False}, "store_prediction: True then, False now"),
        ({"storage": "disk"}, "storage: database then, disk now"),
        ({"model": small_network(1)}, "weights: [0-9a-f]{16} then"),
        ({"transforms": transforms(96)}, "transforms: Compose"),
        ({"classes": CLASSES[::-1]}, "classes: 10 names, "),
    ],
)
def test_other_settings_are_refused_by_name(rooms, noise_dataset, other, message):
    dataset = noise_dataset(4)
    stop_after(job_of(rooms, dataset), 1)
    same = {"model": small_network(), "transforms": transforms(), "classes": CLASSES}
    with pytest.raises(ValueError, match=f"resume: the run 'run' has other settings .*{message}"):
        compute(dataset, **{**same, "batch_size": 2, "resume": True, **other})
    assert len(dataset.exists("run_gradcam")) == 2


def test_own_method_that_was_changed_is_refused(rooms, noise_dataset):
    def method(power):
        def mine(activations):
            return activations.sum(1) ** power

        return mine

    dataset = noise_dataset(2)
    compute(dataset, methods=method(2))
    assert compute(dataset, methods=method(2), resume=True).resumed == 2
    with pytest.raises(ValueError, match="code: .'mine [0-9a-f]+'. then"):
        compute(dataset, methods=method(3), resume=True)


def test_view_with_more_samples_gets_the_missing_ones(rooms, noise_dataset):
    dataset = noise_dataset(7)
    compute(dataset.limit(3), batch_size=2)
    before = {k: v for k, v in documents(dataset).items() if v.get("run_gradcam")}
    summary = compute(dataset, batch_size=2, resume=True)
    assert (summary.done, summary.resumed, summary.status) == (7, 3, "finished")
    after = documents(dataset)
    assert {k: after[k] for k in before} == before
    config = rooms.record.config_of(dataset, "run")
    assert (config.progress["done"], config.progress["total"]) == (7, 7)
    assert [len(part) for part in rooms.resume.covered(dataset, "run")] == [3, 4]
    assert len(config.sessions) == 2


def test_view_with_fewer_samples_leaves_the_others_for_later(rooms, noise_dataset):
    dataset = noise_dataset(8)
    stop_after(job_of(rooms, dataset), 1)
    summary = compute(dataset.skip(6), batch_size=2, resume=True)
    assert (summary.status, summary.done) == ("interrupted", 2)
    assert "pass resume=True to resume" in str(summary)
    whole = noise_dataset(8, "whole")
    compute(whole, batch_size=2)
    assert compute(dataset, batch_size=2, resume=True).status == "finished"
    assert documents(dataset) == documents(whole)


def test_finished_run_has_nothing_to_do(rooms, noise_dataset):
    dataset = noise_dataset(3)
    compute(dataset)
    before = documents(dataset)
    summary = compute(dataset, resume=True)
    assert (summary.done, summary.resumed, summary.status) == (3, 3, "finished")
    assert documents(dataset) == before
    assert rooms.record.status_of(dataset, "run") == "finished"


def test_failed_samples_are_tried_again_and_others_not_decoded_for_them(
    rooms, noise_dataset, monkeypatch
):
    dataset = noise_dataset(6)
    broken = dataset.skip(2).first()
    good = Path(broken.filepath).read_bytes()
    Path(broken.filepath).write_bytes(good[:100])
    assert len(compute(dataset, batch_size=2).failed) == 1
    decoded = []
    load = rooms.loader.load_item

    def noted(sample_id, path, *others):
        decoded.append(path)
        return load(sample_id, path, *others)

    monkeypatch.setattr(rooms.loader, "load_item", noted)
    summary = compute(dataset, batch_size=2, resume=True)
    assert [f["id"] for f in summary.failed] == [broken.id]
    assert set(decoded) == {broken.filepath}
    Path(broken.filepath).write_bytes(good)
    summary = compute(dataset, batch_size=2, resume=True)
    assert (summary.done, summary.failed, summary.resumed) == (6, [], 5)


def test_resume_without_a_run_begins_one(noise_dataset):
    dataset = noise_dataset(2)
    summary = compute(dataset, resume=True)
    assert (summary.done, summary.resumed) == (2, 0)
    with pytest.raises(ValueError, match="cam_key: needed with resume=True"):
        compute(dataset, cam_key=None, resume=True)
    with pytest.raises(ValueError, match="exclude each other"):
        compute(dataset, resume=True, overwrite=True)


def test_memory_that_ran_out_is_remembered(rooms, noise_dataset, monkeypatch):
    dataset = noise_dataset(12)
    explain, sizes = rooms.step.ExplainStep.__call__, []

    def small_device(self, batch):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no room")
        sizes.append(len(batch))
        return explain(self, batch)

    monkeypatch.setattr(rooms.step.ExplainStep, "__call__", small_device)
    stop_after(job_of(rooms, dataset, batch_size=4), 1)
    config = rooms.record.config_of(dataset, "run")
    assert (config.settings["batch_size"], config.progress["batch_size"]) == (4, 2)
    monkeypatch.undo()
    seen = []

    def noted(self, batch):
        seen.append(len(batch))
        return explain(self, batch)

    monkeypatch.setattr(rooms.step.ExplainStep, "__call__", noted)
    assert compute(dataset, batch_size=4, resume=True).done == 12
    assert max(seen) == 2
