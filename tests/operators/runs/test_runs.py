"""The run record by itself: keys, fields, files. Runs that were made are in test_run_records."""

import importlib
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from operators_common import PLUGIN


def clear(dataset, key):
    importlib.import_module(f"{PLUGIN}.operators.runs.artifacts").clear(dataset, key)


@pytest.fixture(scope="module")
def runs(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.runs.keys")


def record():
    return importlib.import_module(f"{PLUGIN}.operators.runs.record")


def results():
    return importlib.import_module(f"{PLUGIN}.operators.runs.results")


@pytest.fixture(scope="module")
def heatmaps(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.data.heatmap_writer")


def make_run(runs, heatmaps, dataset, key="run", folder=None):
    colours = importlib.import_module(f"{PLUGIN}.operators.runs.app_style")
    field = f"{key}_gradcam"
    record().register(dataset, key, {"map_dir": None if folder is None else str(folder)}, [field])
    heatmaps.declare_schema(dataset, [field])
    source = dict(
        method="gradcam", layer="l", target="cat", target_index=0, score=1, peak=1, status="ok"
    )
    with heatmaps.Writer(dataset, folder) as writer:
        labels = {
            i: {field: heatmaps.make_label(np.eye(4), cam_key=key, **source)}
            for i in dataset.values("id")
        }
        writer.put(labels)
    colours.colour_fields(dataset, [field])
    colours.activate_fields(dataset, [field])


@pytest.fixture
def three(dataset):
    dataset.add_samples([fo.Sample(filepath=f"{i}.jpg") for i in range(3)], progress=False)
    return dataset


@pytest.mark.parametrize(
    ("base", "key"),
    [
        ("resnet50", "resnet50"),
        ("ResNet-50 v2.1", "ResNet_50_v2_1"),
        ("50net", "m_50net"),
        ("../..", "cam"),
        ("", "cam"),
    ],
)
def test_key_from_a_models_name(runs, dataset, base, key):
    assert runs.next_key(dataset, base) == key
    runs.check_key(dataset, key, overwrite=False)


def test_keys_are_counted(runs, dataset):
    for expected in ("net", "net_2", "net_3"):
        key = runs.next_key(dataset, "net")
        assert key == expected
        record().register(dataset, key, {}, [])


@pytest.mark.parametrize("key", ["", "a b", "a-b", "1a", "_a", "a.b", None, 3])
def test_key_that_is_no_name(runs, dataset, key):
    with pytest.raises(ValueError, match="cam_key must be a name"):
        runs.check_key(dataset, key, overwrite=True)


def test_method_named_prediction_would_hide_the_prediction(runs):
    with pytest.raises(ValueError, match="'k_prediction', the field of the model's predictions"):
        runs.plan_fields("k", [("prediction", "x")], ["predicted"])


def test_field_of_the_users_is_refused_by_name(runs, dataset):
    dataset.add_sample_field("run_gradcam", fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)
    with pytest.raises(
        ValueError, match="'run_gradcam' exists on the dataset and belongs to no CAM run"
    ):
        runs.check_fields(dataset, ["run_gradcam"], "run", overwrite=True)


def test_settings_and_results_are_stored_as_json(runs, dataset):
    def mine(activations):
        return activations

    settings = {
        "methods": (mine, "fem"), "size": np.int64(3), "rate": np.float32(0.5), "folder": Path("a"),
        "bad": float("nan"), 7: {2, 1}, "array": np.eye(2),
    }  # fmt: skip
    record().register(dataset, "run", settings, ["run_fem"])
    dataset.reload()
    assert record().config_of(dataset, "run").settings == {
        "methods": ["mine", "fem"], "size": 3, "rate": 0.5, "folder": "a",
        "bad": None, "7": [1, 2], "array": [[1.0, 0.0], [0.0, 1.0]],
    }  # fmt: skip
    results().save_results(dataset, "run", summary={"scores": np.array([1.0, np.nan])})
    results().save_results(dataset, "run", more=np.int64(2))
    record().update(dataset, "run", status="finished")
    dataset.clear_cache()
    dataset.reload()
    stored = dataset.load_run_results("run")
    assert (stored.summary, stored.more) == ({"scores": [1.0, None]}, 2)
    assert results().load_results(dataset, "run") == {"summary": {"scores": [1.0, None]}, "more": 2}
    assert record().status_of(dataset, "run") == "finished"


def test_update_keeps_the_rest_of_the_record(runs, dataset):
    record().register(dataset, "run", {"seed": 51}, ["run_fem"])
    record().update(dataset, "run", done=np.int64(7), status="interrupted")
    dataset.reload()
    config = record().config_of(dataset, "run")
    assert (config.done, config.status, config.settings, config.fields) == (
        7,
        "interrupted",
        {"seed": 51},
        ["run_fem"],
    )
    assert config.method == "cam51"


def test_unknown_run_is_told_which_there_are(runs, dataset):
    with pytest.raises(ValueError, match="no CAM run 'x'; it has none yet"):
        runs.fields_of(dataset, "x")
    record().register(dataset, "a", {}, [])
    with pytest.raises(ValueError, match="no CAM run 'x'; it has: a"):
        runs.fields_of(dataset, "x")


def another_process(dataset):
    """The dataset as another process has it: an object of its own."""
    fo.Dataset._instances.pop(dataset.name)
    theirs = fo.load_dataset(dataset.name)
    fo.Dataset._instances[dataset.name] = dataset
    assert theirs is not dataset
    return theirs


def test_run_of_another_process_is_seen(runs, heatmaps, three):
    held = three.first()
    held.tags.append("not saved")
    runs.check_key(three, "run", overwrite=False)
    assert held.tags == ["not saved"]  # nothing new: nothing is reloaded
    make_run(runs, heatmaps, another_process(three))
    assert not three.list_runs()
    with pytest.raises(ValueError, match="'run' is 0 % done .interrupted.: resume=True"):
        runs.check_key(three, "run", overwrite=False)
    assert runs.next_key(three, "run") == "run_2"
    assert three.first().run_gradcam.status == "ok"


def test_nothing_is_left_of_a_cleared_run(runs, heatmaps, three, tmp_path):
    before = three.app_config.to_dict(), set(three.get_field_schema(flat=True))
    make_run(runs, heatmaps, three, folder=tmp_path / "maps")
    orphan = tmp_path / "maps" / "run_gradcam" / f"{three.first().id}-0123abcd.png.part"
    orphan.write_text("left by a run that was killed")
    clear(three, "run")
    assert list(tmp_path.iterdir()) == []
    three.reload()
    assert (three.app_config.to_dict(), set(three.get_field_schema(flat=True))) == before
    assert not three.list_runs()
    assert all("run_gradcam" not in d for d in three._sample_collection.find())
    clear(three, "run")  # no run, no error


def test_files_of_others_stay(runs, heatmaps, three, make_dataset, tmp_path):
    other = make_dataset(fo.Sample(filepath="x.jpg"))
    make_run(runs, heatmaps, other, folder=tmp_path)
    make_run(runs, heatmaps, three, folder=tmp_path)
    (tmp_path / "run_gradcam" / "mine.png").write_text("not ours")
    clear(three, "run")
    names = {p.name for p in (tmp_path / "run_gradcam").iterdir()}
    assert names == {"mine.png", Path(other.first().run_gradcam.map_path).name}


def test_clearing_a_clones_run_leaves_the_originals_files(runs, heatmaps, three, tmp_path):
    make_run(runs, heatmaps, three, folder=tmp_path)
    clone = three.clone()
    try:
        clear(clone, "run")
        assert not clone.list_runs()
        assert not clone.has_field("run_gradcam")
    finally:
        clone.delete()
    assert all(Path(path).is_file() for path in three.values("run_gradcam.map_path"))
