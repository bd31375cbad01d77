"""Names, records and files that mean harm."""

import importlib
import json
import os
import resource
import types
from pathlib import Path

import fiftyone as fo
import fiftyone.operators.executor as executor
import numpy as np
import pytest
from bson import ObjectId
from faults_common import compute_tiny, write_pictures
from operators_common import PLUGIN, operator

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture(scope="module")
def rooms(plugin):
    names = ("runs.record", "compute.checks", "compute.params")
    return types.SimpleNamespace(
        **{n.rpartition(".")[2]: importlib.import_module(f"{PLUGIN}.operators.{n}") for n in names}
    )


@pytest.fixture
def two(make_dataset, tmp_path):
    paths = write_pictures(tmp_path / "pictures", 2)

    def make(name=None):
        return make_dataset(*(fo.Sample(filepath=p) for p in paths), name=name)

    return make


def context(dataset, params):
    """What the App's server makes of a form's parameters."""
    request = {"dataset_name": dataset.name, "params": params}
    return executor.ExecutionContext(request, executor=executor.Executor())


@pytest.mark.parametrize("key", ["../out", "a/b", "/tmp/x", "a\\b", "..", "a\0b", "$where", "a.b"])
def test_key_is_no_path(two, tmp_path, key):
    with pytest.raises(ValueError, match="cam_key must be a name"):
        compute_tiny(two(), cam_key=key, storage="disk", output_dir=str(tmp_path / "maps"))
    assert not (tmp_path / "maps").exists()


def test_name_of_the_dataset_is_no_path(two, tmp_path, monkeypatch):
    monkeypatch.setattr(fo.config, "default_dataset_dir", str(tmp_path / "home" / "datasets"))
    dataset = two(f"../../../{tmp_path.name}-outside")
    compute_tiny(dataset, storage="disk")
    for path in dataset.values("run_gradcam.map_path"):
        assert Path(path).resolve().is_relative_to(tmp_path / "home" / "datasets" / "cam51")
    operator("delete_cam_run")(dataset, "run")
    assert not (tmp_path / "home").exists()


def test_names_of_targets_and_layers_are_no_paths(two, tmp_path):
    def method(activations):
        return activations.sum(1)

    method.__name__ = "../../evil"
    summary = compute_tiny(two(), methods=method, storage="disk", output_dir=str(tmp_path / "maps"))
    assert summary.fields[0] == "run_evil"
    files = [
        p for p in tmp_path.rglob("*") if p.name.endswith(".png") and "pictures" not in p.parts
    ]
    assert {p.parent for p in files} == {tmp_path / "maps" / "run" / "run_evil"}


def hostile_record(rooms, dataset, **changes):
    """Changes a record behind the plugin's back, as a file from elsewhere could."""
    document = rooms.record.document_id(dataset, "run")
    entries = {f"config.{name}": value for name, value in changes.items()}
    fo.core.odm.get_db_conn().runs.update_one({"_id": document}, {"$set": entries})


def test_record_cannot_lead_a_deletion_out_of_its_folder(two, rooms, tmp_path):
    dataset = two()
    compute_tiny(dataset, storage="disk", output_dir=str(tmp_path / "maps"))
    sample = dataset.first().id
    outside = tmp_path / "outside"
    outside.mkdir()
    ours = outside / f"{sample}-01234567.png"
    ours.write_text("somebody's")
    hostile_record(
        rooms,
        dataset,
        fields=["run_gradcam", "../../outside", str(outside), 7],
        stamps=["01234567"],
        made_folders=["/", str(tmp_path), "..", "relative"],
    )
    operator("delete_cam_run")(dataset, "run")
    assert ours.read_text() == "somebody's"


def test_link_in_the_folder_is_not_followed(two, tmp_path):
    dataset = two()
    compute_tiny(dataset, storage="disk", output_dir=str(tmp_path / "maps"))
    room = tmp_path / "maps" / "run" / "run_gradcam"
    moved = tmp_path / "elsewhere"
    os.rename(room, moved)
    os.symlink(moved, room)
    operator("delete_cam_run")(dataset, "run")
    assert len(list(moved.iterdir())) == 2


def test_nothing_of_a_record_is_executed(two, rooms, tmp_path):
    """Neither the class that a record names, nor the stages of its view, nor its results' class."""
    dataset = two()
    compute_tiny(dataset)
    trap = tmp_path / "trap.py"
    proof = tmp_path / "executed"
    trap.write_text(f"open({str(proof)!r}, 'w').close()\nclass RunConfig: pass\n")
    stage = {"_cls": "trap.RunConfig", "kwargs": [["path", str(proof)]]}
    document = rooms.record.document_id(dataset, "run")
    fo.core.odm.get_db_conn().runs.update_one(
        {"_id": document},
        {"$set": {"config.cls": "trap.RunConfig", "view_stages": [json.dumps(stage)]}},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        fresh = dataset
        fresh.reload()
        operator("list_cam_runs")(fresh)
        operator("get_cam_run_info")(fresh, "run")
        for part in ("all", "done", "missing", "failed"):
            assert len(operator("load_cam_view")(fresh, "run", part)) in (0, 2)
        assert compute_tiny(fresh, resume=True).resumed == 2
        operator("rename_cam_run")(fresh, "run", "new")
        operator("delete_cam_run")(fresh, "new")
    assert not proof.exists()


def test_record_of_odd_values_is_survived(two, rooms):
    dataset = two()
    compute_tiny(dataset)
    for changes in (
        {"heartbeat": None, "status": "running", "pid": None},
        {"fields": None},
        {"progress": {}, "failures": []},
    ):
        hostile_record(rooms, dataset, **changes)
        assert rooms.record.status_of(dataset, "run") in ("interrupted", "finished")
        assert len(operator("list_cam_runs")(dataset)) == 1
    operator("delete_cam_run")(dataset, "run")
    assert not dataset.list_runs()


# limits


def test_heatmaps_that_do_not_fit_a_document_are_foreseen(two, rooms, monkeypatch):
    dataset = two()
    monkeypatch.setattr(rooms.checks, "DOCUMENT_BYTES", 30_000)
    message = (
        r"2 heatmaps of 400 x 300 pixels need about 0\.\d MB per sample .*and the samples have up to "
        r"0\.0 MB already: more than the 0\.0 MB of a MongoDB document\. Use storage='disk'"
    )
    with pytest.raises(ValueError, match=message):
        compute_tiny(dataset, heatmap_size=400)
    assert not dataset.list_runs()


def test_what_is_on_the_samples_already_counts(two, rooms, monkeypatch):
    dataset = two()
    monkeypatch.setattr(rooms.checks, "DOCUMENT_BYTES", 400_000)
    compute_tiny(dataset, cam_key="first", heatmap_size=400)
    dataset.set_values("notes", ["x" * 399_000, ""])
    with pytest.raises(ValueError, match=r"the samples have up to 0\.\d MB already"):
        compute_tiny(dataset, heatmap_size=400)


def test_largest_heatmaps_are_refused_with_the_real_limit(two, rooms):
    dataset = two()
    ids, shape = dataset.values("id"), (3072, 4096)
    noise = np.random.default_rng(0).random(shape, np.float32)
    smooth = np.linspace(0, 1, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    check = rooms.checks.check_document_size
    with pytest.raises(
        ValueError, match=r"3 heatmaps of 4096 x 3072 .*than the 16\.0 MB of a Mongo"
    ):
        check(dataset, ids, lambda: [noise] * 3, 3, shape)
    check(dataset, ids, lambda: [smooth] * 3, 3, shape)  # these take little: measured, not guessed


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (
            ["eigencam", {"components": 10**9}],
            "components must be a whole number between 1 and 1024",
        ),
        (["rise", {"samples": 10**12}], "samples must be a whole number between 1 and 50000"),
        (
            ["integrated_gradients", {"steps": 10**9}],
            "steps must be a whole number between 1 and 1000",
        ),
        (["activations", {"channels": list(range(5000))}], "channels takes at most 1,024 numbers"),
    ],
)
def test_one_number_in_the_form_takes_no_memory(photo_dataset, method, said):
    dataset = photo_dataset(1)
    params = {
        "model": "resnet18-imagenet-torch", "method_set": "chosen", "methods": [json.dumps(method)],
        "cam_key": "x",
    }  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    form = operator().resolve_input(context(dataset, params)).type.properties
    assert form["methods"].invalid
    assert said in form["methods"].error_message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    with pytest.raises(ValueError, match=said):
        compute_tiny(dataset, methods=[tuple(method)])
    assert not dataset.list_runs()


def test_a_batch_that_no_machine_holds_is_refused(two):
    with pytest.raises(ValueError, match="batch_size must be an integer between 1 and 4096"):
        compute_tiny(two(), batch_size=100_000)


def test_largest_heatmaps_go_to_the_disk(two, tmp_path):
    dataset = two()
    summary = compute_tiny(
        dataset, heatmap_size=1024, storage="disk", output_dir=str(tmp_path / "maps")
    )
    assert summary.done == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "clip.mp4",
            r"none of the first 1 videos can be used; .*clip\.mp4: frame 1: .*does not exist",
        ),
        ("scene.fo3d", "these are 3D scenes"),
        ("cloud.pcd", "these are (3D scenes|point clouds)"),
        ("data.bin", "heatmaps are for images"),
    ],
)
def test_other_media_are_refused_in_a_sentence(make_dataset, path, message):
    with pytest.raises(ValueError, match=f"samples: .*{message}"):
        compute_tiny(make_dataset(fo.Sample(filepath=path)))


def test_slice_of_a_grouped_dataset_goes_through_everything(make_dataset, tmp_path):
    dataset, samples = make_dataset(), []
    dataset.add_group_field("group", default="left")
    for number, path in enumerate(write_pictures(tmp_path / "pictures", 8)):
        if number % 2 == 0:
            group = fo.Group()
        samples.append(fo.Sample(filepath=path, group=group.element(("left", "right")[number % 2])))
    dataset.add_samples(samples, progress=False)
    with pytest.raises(ValueError, match="the dataset is grouped; use one slice"):
        compute_tiny(dataset)
    view = dataset.select_group_slices("right")
    assert compute_tiny(view.limit(2), batch_size=2).done == 2
    summary = compute_tiny(view, batch_size=2, resume=True)
    assert (summary.done, summary.resumed) == (4, 2)
    assert len(dataset.select_group_slices("left").exists("run_gradcam")) == 0
    operator("delete_cam_run")(dataset, "run")
    assert not dataset.has_field("run_gradcam")


def test_id_that_is_none(rooms):
    from bson.errors import InvalidId

    results = importlib.import_module(f"{PLUGIN}.operators.runs.results")
    ids = [str(ObjectId()) for _ in range(1000)]
    assert results.unpack_ids(results.pack_ids(ids)) == ids
    assert results.unpack_ids(None) == []
    with pytest.raises(InvalidId):
        results.pack_ids(["../../x"])
