"""A process that opened the dataset earlier deletes a field, or the dataset, while a job works on it."""

import os
import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import fiftyone.core.odm as fod
import pytest
from bias_common import BACKGROUND, Cues, agreeing, find, inner
from bias_common import CLASSES as CUES
from bias_common import to_tensor as to_tensor_of_cues
from compare_common import CLASSES, Planted, cams, inverse, perfect, planted, to_tensor
from detectors_common import CLASSES as LIGHTS
from detectors_common import Letterbox, cell, detector, labels, picture
from faults_common import (
    CLASSES as KINDS,
)
from faults_common import (
    LAYER,
    METHODS,
    compute_tiny,
    picture_transforms,
    stored,
    tiny_network,
    write_pictures,
)
from operators_common import operator, prepared
from redo_common import leftovers

from tools.app_driver import wait_for

pytestmark = pytest.mark.usefixtures("plugin")

COUNT = 12
OTHER = """
import sys, fiftyone as fo
dataset = fo.load_dataset(sys.argv[1])
print("open", flush=True)
for line in sys.stdin:
    what, _, name = line.strip().partition(" ")
    if what == "dataset":
        dataset.delete()
    else:
        dataset.reload()
        dataset.delete_sample_fields(name)
    print("done", flush=True)
"""


class Other:
    """Another process that has a dataset open."""

    def __init__(self, dataset):
        dataset.persistent = True
        self._process = subprocess.Popen(
            [sys.executable, "-c", OTHER, dataset.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout.readline() == "open\n"

    def delete(self, what):
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture
def opened():
    """A function: another process that opens a dataset now."""
    others = []

    def open_(dataset):
        others.append(Other(dataset))
        return others[-1]

    yield open_
    for other in others:
        other.close()


@pytest.fixture
def dataset(make_dataset, tmp_path):
    paths = write_pictures(tmp_path / "pictures", COUNT)
    return make_dataset(*(fo.Sample(filepath=p) for p in paths))


def job_of(samples, **arguments):
    settings = inner("compute.params").Settings(
        cam_key="run", methods=METHODS, layers=LAYER, batch_size=2, **arguments
    )
    job = inner("compute.job").CamJob
    return prepared(job, samples, settings, tiny_network(), picture_transforms(), KINDS)


def up_to(steps, phase, count=1):
    """Goes on to the count-th state of a phase."""
    for state in steps:
        count -= getattr(state, "name", phase).startswith(phase)
        if not count:
            return
    raise AssertionError(f"there was no {phase!r}")


def test_a_dataset_that_goes_while_a_call_is_prepared(dataset, opened, monkeypatch):
    other, job = opened(dataset), inner("compute.job").CamJob
    real = job.prepare

    def prepare(self):
        other.delete("dataset")
        self.dataset.reload()
        return real(self)

    monkeypatch.setattr(job, "prepare", prepare)
    with pytest.raises(
        ValueError, match=f"samples: the dataset '{dataset.name}' was deleted while"
    ):
        compute_tiny(dataset)


@pytest.mark.parametrize("field", ["run_gradcam", "run_layercam", "run_prediction"])
def test_a_field_of_a_run(dataset, opened, make_dataset, field, tmp_path):
    paths = write_pictures(tmp_path / "pictures", COUNT)
    reference = make_dataset(*(fo.Sample(filepath=p) for p in paths))
    compute_tiny(reference, batch_size=2)
    other, job = opened(dataset), job_of(dataset)
    steps = job.run()
    up_to(steps, "", 4)
    other.delete(f"field {field}")
    for _ in steps:
        pass
    assert job.summary.status == "interrupted"
    lost = COUNT - job.summary.done
    assert 0 < lost < COUNT
    assert job.summary.error == (
        f"{lost} samples lack {field!r}, deleted while the run wrote them; resume=True computes them again"
    )
    assert inner("runs.record").status_of(dataset, "run") == "interrupted"
    summary = compute_tiny(dataset, batch_size=2, resume=True)
    assert (summary.status, summary.done, summary.resumed) == ("finished", COUNT, COUNT - lost)
    assert stored(dataset) == stored(reference)


def test_a_dataset_that_goes_while_a_run_is_registered(dataset, opened, monkeypatch):
    """Whoever deletes it has read it before: nothing of the run is left nevertheless."""
    other, resume = opened(dataset), inner("runs.resume")
    real = resume.save_covered

    def save_covered(*given):
        real(*given)
        other.delete("dataset")
        dataset.reload()

    monkeypatch.setattr(resume, "save_covered", save_covered)
    with pytest.raises(Exception, match="does not exist|is deleted|not found"):
        compute_tiny(dataset)
    assert not leftovers(dataset)


def test_a_field_that_goes_while_the_end_is_recorded(dataset, opened, monkeypatch):
    """After the samples were asked whether they have everything, before the record says finished."""
    other, results = opened(dataset), inner("runs.results")
    real, calls = results.save_results, []

    def save_results(dataset, key, **values):
        if "summary" in values:
            calls.append(values["summary"]["status"])
            if len(calls) == 1:
                other.delete("field run_layercam")
        real(dataset, key, **values)

    monkeypatch.setattr(results, "save_results", save_results)
    summary = compute_tiny(dataset, batch_size=2)
    assert calls == ["finished", "interrupted"]
    assert (summary.status, summary.done) == ("interrupted", 0)
    assert summary.error.startswith(f"{COUNT} samples lack 'run_layercam', deleted while")
    assert inner("runs.record").status_of(dataset, "run") == "interrupted"
    summary = compute_tiny(dataset, batch_size=2, resume=True)
    assert (summary.status, summary.done, summary.resumed) == ("finished", COUNT, 0)


def test_an_attribute_of_a_detectors_run(opened, make_dataset, tmp_path):
    dataset = make_dataset(
        *(
            fo.Sample(
                filepath=picture(tmp_path / f"{i}.png", {(0, 0): 1.0, (1, 3): 0.3}),
                ground_truth=labels(("light", cell(0, 0)), ("light", cell(1, 3))),
            )
            for i in range(8)
        )
    )

    def run(**arguments):
        settings = inner("compute.params").Settings(
            cam_key="run", methods="layercam", targets="ground_truth", **arguments
        )
        model = detector(-2.0, dark=-3.0)
        return prepared(inner("compute.job").CamJob, dataset, settings, model, Letterbox(), LIGHTS)

    other = opened(dataset)
    job = run(batch_size=2)
    steps = job.run()
    up_to(steps, "", 2)
    other.delete("field ground_truth.detections.run_iou")
    for _ in steps:
        pass
    assert job.summary.status == "interrupted"
    assert "lack 'ground_truth.detections.run_iou', deleted while" in job.summary.error
    again = run(batch_size=2, resume=True)
    assert list(again.run())
    assert (again.summary.status, again.summary.done) == ("finished", 8)
    values = dataset.values("ground_truth.detections.run_iou")
    assert all(value is not None for row in values for value in row)
    assert run(batch_size=2, resume=True).total == 0


def test_a_dataset_that_is_computed(dataset, opened):
    other, job = opened(dataset), job_of(dataset)
    steps = job.run()
    next(steps)
    other.delete("dataset")
    with pytest.raises(inner("runs.lease").LeaseLost, match="the dataset is gone"):
        for _ in range(COUNT):
            next(steps)
    check_nothing_left(dataset)


def check_nothing_left(dataset):
    assert dataset.name not in fo.list_datasets()
    db = fod.get_db_conn()
    assert dataset._sample_collection_name not in db.list_collection_names()
    assert db.runs.count_documents({"_dataset_id": dataset._doc.id}) == 0
    assert not leftovers(dataset)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(inner("runs.lease"), "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(inner("compare.methods_job"), "_WRITTEN_AT_ONCE", 2)
    monkeypatch.setattr(inner("bias.job"), "_WRITTEN_AT_ONCE", 2)
    monkeypatch.setattr(inner("drafts.job"), "_AT_ONCE", 2)


@pytest.fixture
def jobs(make_dataset, tmp_path, quick):
    """A function: a dataset that another process may open, and a job on it."""

    def make(kind):
        if kind == "comparison":
            dataset = make_dataset(*planted(tmp_path, 8))
            dataset.persistent = True
            settings = inner("compare.params").CompareSettings(metrics=["deletion"], num_workers=0)
            work = inner("compare.methods_job").MethodComparison
            cams_of = lambda: cams(dataset, [perfect, inverse])  # noqa: E731
            return (
                dataset,
                cams_of,
                lambda: prepared(work, dataset, settings, Planted(), to_tensor, CLASSES),
            )
        dataset = make_dataset(*agreeing(tmp_path, 12))
        if kind == "analysis":
            settings = inner("bias.params").BiasSettings(cam_key="run", num_workers=0)

            def first():
                find(dataset)
                inner("bias.schema").RECORDS.clear(dataset, "run")

            work = inner("bias.job").BiasJob
            return (
                dataset,
                first,
                lambda: prepared(
                    work, dataset, settings, Cues(**BACKGROUND), to_tensor_of_cues, CUES
                ),
            )
        settings = inner("drafts.job").DraftSettings(field="run_hirescam")
        return (
            dataset,
            lambda: find(dataset),
            lambda: inner("drafts.job").DraftJob(dataset, settings).prepare(),
        )

    return make


DELETED = {
    "comparison": ("writing", ["run_disagreement", "run_perfect.deletion"]),
    "analysis": ("writing", ["run_verdict", "run_hirescam.verdict"]),
    "drafts": ("drafting", ["run_hirescam_boxes"]),
}


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, f) for kind, (_, fields) in DELETED.items() for f in fields]
)
def test_a_field_of_a_job(jobs, opened, kind, field):
    dataset, first, make = jobs(kind)
    first()
    other, steps = opened(dataset), make().run()
    up_to(steps, DELETED[kind][0], 2)
    other.delete(f"field {field}")
    with pytest.raises(RuntimeError, match=f"'{field}' was deleted"):
        list(steps)
    dataset.reload()
    if kind != "drafts":
        part = {"comparison": "compare", "analysis": "bias"}[kind]
        record = getattr(inner("runs.record").config_of(dataset, "run"), part)
        assert record["status"] == "failed"
        assert "was deleted during" in record["error"]
        assert not {"run_disagreement", "run_verdict"} & set(dataset.get_field_schema())


@pytest.mark.parametrize("when", ["measuring", "writing"])
@pytest.mark.parametrize("kind", ["comparison", "analysis"])
def test_a_dataset_that_a_job_works_on(jobs, opened, kind, when):
    """Whoever deletes it opened it before the run was computed, and does not know of the run."""
    dataset, first, make = jobs(kind)
    other = opened(dataset)
    first()
    job = make()
    steps = job.run()
    up_to(steps, when)
    other.delete("dataset")
    wait_for(lambda: job.held._lost, 90, "it has seen")
    with pytest.raises(RuntimeError, match="'run' was deleted, renamed or analysed again"):
        list(steps)
    assert dataset.name not in fo.list_datasets()
    db = fod.get_db_conn()
    assert dataset._sample_collection_name not in db.list_collection_names()


def test_a_dataset_that_goes_before_an_index_is_made(jobs, opened, monkeypatch):
    """An index that is made on a collection that is gone makes it again."""
    dataset, first, make = jobs("analysis")
    other, schema = opened(dataset), inner("bias.schema")
    first()
    real, db, name = schema.add_index, fod.get_db_conn(), dataset._sample_collection_name

    def add_index(*given):
        other.delete("dataset")
        real(*given)
        assert name in db.list_collection_names()

    monkeypatch.setattr(schema, "add_index", add_index)
    with pytest.raises(RuntimeError, match="'run' was deleted, renamed or analysed again"):
        list(make().run())
    assert name not in db.list_collection_names()
    assert not leftovers(dataset)


@pytest.mark.parametrize("kind", ["comparison", "analysis"])
def test_a_dataset_that_is_deleted_by_who_does_not_know_the_views(jobs, opened, kind):
    """The job has come to its end, and cannot know; the next one finds its views by their mark."""
    dataset, first, make = jobs(kind)
    first()
    other = opened(dataset)
    for _ in make().run():
        pass
    saved = len(dataset.list_saved_views())
    clone = dataset.clone()
    other.delete("dataset")
    try:
        assert leftovers(dataset)["views"] == saved > 0
        found = inner("runs.leftovers").clear_database()
        assert found.views == saved
        assert not leftovers(dataset)
        assert len(clone.list_saved_views()) == saved, "those of a copy stay"
    finally:
        clone.delete()


def test_a_dataset_that_boxes_are_drafted_on(jobs, opened):
    dataset, first, make = jobs("drafts")
    other = opened(dataset)
    first()
    steps = make().run()
    up_to(steps, "drafting", 2)
    other.delete("dataset")
    with pytest.raises(RuntimeError, match="was deleted, or its dataset"):
        list(steps)
    db = fod.get_db_conn()
    assert dataset._sample_collection_name not in db.list_collection_names()


def test_files_of_a_run(dataset, opened, tmp_path):
    where = {"storage": "disk", "output_dir": str(tmp_path / "maps")}
    job = job_of(dataset, **where)
    steps = job.run()
    up_to(steps, "", 5)
    code = "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "maps")], check=True)
    for _ in steps:
        pass
    assert job.summary.status == "interrupted"
    assert "samples lack files of heatmaps, deleted while" in job.summary.error
    summary = compute_tiny(dataset, batch_size=2, resume=True, **where)
    assert (summary.status, summary.done) == ("finished", COUNT)
    dataset.reload()
    for field in ("run_gradcam", "run_layercam"):
        paths = dataset.values(f"{field}.map_path")
        assert all(os.path.isfile(path) for path in paths)
        assert {Path(path).parent.name for path in paths} == {field}
    operator("delete_cam_run")(dataset, "run")
    assert not (tmp_path / "maps").exists()
