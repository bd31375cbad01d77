"""The record of a run: registered first, finished last, cleared as a whole."""

import importlib
import types

import fiftyone as fo
import numpy as np
import pytest
import torch
from operators_common import CLASSES, PLUGIN, compute, operator, prepared, small_network, transforms

pytestmark = pytest.mark.usefixtures("plugin")


def clear(dataset, key):
    importlib.import_module(f"{PLUGIN}.operators.runs.artifacts").clear(dataset, key)


@pytest.fixture(scope="module")
def runs(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.runs.keys")


@pytest.fixture(scope="module")
def record(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.runs.record")


def job_of(dataset, **arguments):
    """A job that is not run yet."""
    compute_room = importlib.import_module(f"{PLUGIN}.operators.compute.job")
    settings = importlib.import_module(f"{PLUGIN}.operators.compute.params").Settings(
        cam_key="run", **arguments
    )
    return prepared(compute_room.CamJob, dataset, settings, small_network(), transforms(), CLASSES)


def test_record_of_a_finished_run(photo_dataset):
    dataset = photo_dataset(3)
    summary = compute(dataset, methods=["gradcam", ("eigencam", {"component": 2})])
    config = dataset.get_run_info("run").config
    assert (config.method, config.status, config.fields) == ("cam51", "finished", summary.fields)
    used = config.settings
    assert used["methods"] == ["gradcam", ["eigencam", {"component": 2}]]
    assert (used["layers"], used["batch_size"], used["precision"]) == (["layer4"], 16, "float32")
    assert used["versions"]["fiftyone"] == fo.__version__
    assert used["seed"] == 51
    assert used["samples"] == 3
    stored = dataset.load_run_results("run").summary
    assert (stored["done"], stored["failed"], stored["fields"]) == (3, [], summary.fields)


def test_key_is_counted_up(photo_dataset):
    dataset = photo_dataset(1)
    keys = [compute(dataset, cam_key=None).cam_key for _ in range(2)]
    assert keys == ["resnet", "resnet_2"]


def test_taken_key_is_refused_and_overwriting_leaves_nothing_behind(photo_dataset):
    dataset = photo_dataset(3)
    compute(dataset, methods=["gradcam", "layercam"])
    with pytest.raises(
        ValueError, match="already a CAM run of this dataset .finished.*overwrite=True"
    ):
        compute(dataset, methods="fem")
    compute(dataset.limit(1), methods="fem", overwrite=True)
    fields = set(dataset.get_field_schema())
    assert "run_fem" in fields
    assert not fields & {"run_gradcam", "run_layercam"}
    assert len(dataset.exists("run_prediction")) == 1
    scheme = dataset.app_config.color_scheme
    assert [e["path"] for e in scheme.fields] == ["run_fem"]
    assert "run_gradcam" not in dataset.app_config.active_fields.paths


def test_field_of_another_run_is_refused(photo_dataset):
    dataset = photo_dataset(1)
    compute(dataset, cam_key="a", targets="top_2", store_prediction=False)
    with pytest.raises(ValueError, match="'a_gradcam_top1' belongs to the CAM run 'a'"):
        named = lambda activations: activations.sum(1)  # noqa: E731
        named.__name__ = "top1"
        compute(dataset, cam_key="a_gradcam", methods=named)


def test_key_of_another_kind_of_run(photo_dataset):
    dataset = photo_dataset(1)
    dataset.register_run("run", dataset.init_run(method="other"))
    with pytest.raises(ValueError, match="another kind of run"):
        compute(dataset, overwrite=True)


def test_closing_the_generator_keeps_what_was_computed(photo_dataset, record):
    dataset = photo_dataset(6)
    job = job_of(dataset, batch_size=2)
    steps = job.run()
    assert record.list_runs(dataset) == []
    next(steps)
    assert record.status_of(dataset, "run") == "running"
    next(steps)
    steps.close()
    assert record.status_of(dataset, "run") == "interrupted"
    done = [label is not None for label in dataset.values("run_gradcam")]
    assert sum(done) == 4 == job.summary.done


def test_error_while_writing_is_raised_and_recorded(photo_dataset, record, monkeypatch):
    heatmaps = importlib.import_module(f"{PLUGIN}.operators.data.heatmap_writer")

    def full(self, encoded):
        raise OSError("no space left on device")

    monkeypatch.setattr(heatmaps.Writer, "_write", full)
    dataset = photo_dataset(2)
    with pytest.raises(OSError, match="no space left"):
        compute(dataset)
    assert record.status_of(dataset, "run") == "failed"
    assert "no space left" in record.config_of(dataset, "run").error
    # nothing was stored, so nothing is done
    assert dataset.load_run_results("run").summary["done"] == 0


def test_sample_deleted_during_the_run(photo_dataset):
    dataset = photo_dataset(4)
    job = job_of(dataset, batch_size=2)
    steps = job.run()
    next(steps)
    dataset.delete_samples(dataset.last())
    for _ in steps:
        pass
    assert [f["reason"] for f in job.summary.failed] == ["the sample was deleted during the run"]
    assert job.summary.done == 3
    assert len(dataset) == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (([("gradcam", "layer4")], ["predicted"]), ["k_gradcam"]),
        (
            ([("gradcam", "layer3.0"), ("gradcam", "layer4"), ("rise", "input")], ["predicted"]),
            ["k_gradcam_layer3_0", "k_gradcam_layer4", "k_rise"],
        ),
        (
            ([("cam", "x"), ("fem", "x")], ["tabby, tabby cat", "fox"], {"fem"}),
            ["k_cam_tabby_tabby_cat", "k_cam_fox", "k_fem"],
        ),
    ],
)
def test_names_of_fields(runs, arguments, expected):
    assert list(runs.plan_fields("k", *arguments).values()) == expected


def test_names_that_would_collide(runs):
    with pytest.raises(ValueError, match="two heatmaps would be written to 'k_fem_a_b'"):
        runs.plan_fields("k", [("fem", "x")], ["a b", "a-b"])


def test_cleared_run_takes_its_files_and_no_others(photo_dataset, runs, tmp_path):
    dataset = photo_dataset(2)
    fields = set(dataset.get_field_schema(flat=True))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    compute(dataset, storage="disk", output_dir=str(tmp_path))
    clear(dataset, "run")
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "notes.txt"]
    assert set(dataset.get_field_schema(flat=True)) == fields
    assert not dataset.list_runs()


def test_figure_of_a_run_with_files(photo_dataset, tmp_path):
    dataset = photo_dataset(1)
    compute(dataset, storage="disk", output_dir=str(tmp_path))
    axes = operator("show_heatmaps")(dataset, "run").axes
    photo, heated = (np.asarray(axis.images[0].get_array(), float)[..., :3] for axis in axes[:2])
    assert photo.shape == heated.shape
    assert np.abs(photo - heated).max() > 40, "the heat of the file lies over the photo"


def test_batch_size_probe_stops_at_the_run_and_at_the_memory(rooms_pipeline):
    tried = []

    def explain(images):
        tried.append(len(images))
        if len(images) > 64:
            raise torch.OutOfMemoryError("no room")
        return types.SimpleNamespace(scores=torch.zeros(len(images)))

    image = torch.zeros(1, 3, 4, 4)
    assert rooms_pipeline.probe_batch_size(explain, image, most=3) == 16
    assert max(tried) == 16
    assert rooms_pipeline.probe_batch_size(explain, image, most=10_000) <= 64


@pytest.fixture(scope="module")
def rooms_pipeline(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.jobs.pipeline")


def test_underscores_of_layers_do_not_reach_the_database(photo_dataset):
    """Two in a row are FiftyOne's separator: a sample that is held could not be reloaded."""

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self._net = small_network()

        def forward(self, images):
            return self._net(images)

    dataset = photo_dataset(2)
    held = dataset.first()
    given = dict(model=Wrapped().eval(), transforms=transforms(), classes=CLASSES)
    summary = compute(dataset, **given, layers=["_net.layer3", "_net.layer4"])
    assert summary.fields[:2] == ["run_gradcam_net_layer3", "run_gradcam_net_layer4"]
    held.reload()
    assert held.run_gradcam_net_layer4.map is not None
    for key in ("a__b", "a_"):
        with pytest.raises(ValueError, match="single underscores"):
            compute(dataset, cam_key=key)
