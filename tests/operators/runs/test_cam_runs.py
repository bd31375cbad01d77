"""The operators on CAM runs: what they say, and that they take back exactly what a run did."""

import importlib
import json
import os
import socket
import threading
import types
from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import pytest
import torch
from bson import json_util
from fiftyone import ViewField as F
from operators_common import (
    CLASSES,
    PLUGIN,
    compute,
    leases_of,
    operator,
    prepared,
    small_network,
    stop_and_wait,
    transforms,
)

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture(scope="module")
def rooms(plugin):
    names = (
        "runs.keys",
        "runs.record",
        "runs.results",
        "compute.job",
        "compute.params",
        "runs.lease",
        "runs.info",
        "runs.resume",
    )
    return types.SimpleNamespace(
        **{n.rpartition(".")[2]: importlib.import_module(f"{PLUGIN}.operators.{n}") for n in names}
    )


def job_of(rooms, samples, key="run", **arguments):
    settings = rooms.params.Settings(cam_key=key, batch_size=2, **arguments)
    return prepared(rooms.job.CamJob, samples, settings, small_network(), transforms(), CLASSES)


def interrupted(rooms, samples, batches=1, **arguments):
    steps = job_of(rooms, samples, **arguments).run()
    for _ in range(batches):
        next(steps)
    steps.close()


def difference(before, after):
    """The paths at which two values differ, for a message that can be read."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after})
        found = [(k, difference(before.get(k), after.get(k))) for k in keys]
        return {k: d for k, d in found if d}
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        found = [difference(b, a) for b, a in zip(before, after, strict=True)]
        return [d for d in found if d]
    return None if before == after else (before, after)


def everything(dataset, *folders):
    """All that a run may change, as it lies in the database and on the disk."""
    dataset.reload()
    stored = fo.core.odm.get_db_conn().datasets.find_one({"_id": dataset._doc.id})
    for name in ("last_modified_at", "last_loaded_at", "last_deletion_at"):
        stored.pop(name, None)
    stored["saved_views"] = stored.get("saved_views") or []  # FiftyOne writes an empty list
    rows = list(dataset._sample_collection.find())
    for row in rows:
        row.pop("last_modified_at")
    files = sorted(str(p) for folder in folders for p in Path(folder).rglob("*"))
    database = fo.core.odm.get_db_conn()
    results = database["fs.files"].count_documents({})
    records = database.runs.count_documents({})
    return json.loads(json_util.dumps([stored, rows, files, results, records]))


def test_record_says_all_that_is_needed_to_repeat_a_run(photo_dataset):
    dataset = photo_dataset(3)
    view = dataset.sort_by("filepath").limit(2)
    compute(view, methods=["gradcam", ("eigencam", {"component": 2})], seed=7)
    info = operator("get_cam_run_info")(dataset, "run")
    s = info.settings
    assert (s["model"], s["model_source"], s["seed"]) == ("ResNet", "module", 7)
    assert (s["device"], s["precision"], s["batch_size"]) == ("cpu", "float32", 16)
    assert s["methods"] == ["gradcam", ["eigencam", {"component": 2}]]
    assert (s["layers"], s["targets"], s["heatmap_size"]) == (["layer4"], "predicted", 192)
    assert len(s["weights"]) == 16
    assert "Normalize" in s["transforms"]
    assert s["versions"]["torch"] == torch.__version__
    assert s["versions"]["plugin"]
    assert (info.status, info.done, info.total, info.failed) == ("finished", 2, 2, 0)
    assert (info.host, info.pid) == (socket.gethostname(), os.getpid())
    assert info.sessions[0]["samples"] == 2
    assert info.results["summary"]["done"] == 2
    assert dataset.load_run_view("run").values("id") == view.values("id")
    assert "weights" in str(info)


def test_list(photo_dataset, rooms):
    dataset = photo_dataset(4)
    compute(dataset, cam_key="a")
    interrupted(rooms, dataset, key="b")
    dataset.register_run("theirs", dataset.init_run(method="other"))
    runs = operator("list_cam_runs")(dataset)
    assert [(r.key, r.status, r.done, r.total) for r in runs] == [
        ("a", "finished", 4, 4), ("b", "interrupted", 2, 4),
    ]  # fmt: skip
    assert str(runs[1]).startswith("b: interrupted, 2 of 4 samples; gradcam of ResNet")
    with pytest.raises(ValueError, match="no CAM run 'theirs'; it has: a, b"):
        operator("get_cam_run_info")(dataset, "theirs")


def test_failures_are_in_the_record(photo_dataset, tmp_path, rooms):
    dataset = photo_dataset(2)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    dataset.add_sample(fo.Sample(filepath=str(tmp_path / "broken.jpg")))
    compute(dataset)
    info = operator("get_cam_run_info")(dataset, "run")
    assert (info.done, info.total, info.failed) == (2, 3, 1)
    assert "cannot identify image" in info.failures[0]["reason"]
    assert "broken.jpg" in str(info)
    load = operator("load_cam_view")
    assert load(dataset, "run", "failed").values("filepath") == [str(tmp_path / "broken.jpg")]
    assert len(load(dataset, "run", "missing")) == 1
    assert len(load(dataset, "run", "done")) == 2


def test_views(photo_dataset, rooms):
    dataset = photo_dataset(6)
    view = dataset.take(4)  # another one whenever it is asked for
    ids = view.values("id")
    interrupted(rooms, dataset.select(ids, ordered=True))
    compute(dataset.limit(1), cam_key="other")
    load = operator("load_cam_view")
    assert load(dataset, "run").values("id") == ids
    assert load(dataset, "run", "done").values("id") == [
        i for i in dataset.values("id") if i in ids[:2]
    ]
    assert load(dataset, "run", "missing").values("id") == ids[2:]
    assert load(dataset, "other").values("id") == dataset.limit(1).values("id")
    only = load(dataset, "run", only_its_fields=True).get_field_schema()
    assert "run_gradcam" in only
    assert "other_gradcam" not in only
    with pytest.raises(ValueError, match="part: 'some' is unknown; choose from all, done"):
        load(dataset, "run", "some")


def test_view_of_a_slice(make_dataset, photos):
    dataset = make_dataset()
    dataset.add_group_field("group", default="left")
    samples = []
    for i, photo in enumerate(photos[:4]):
        group = fo.Group() if i % 2 == 0 else group  # noqa: F821 - of the round before
        side = ("left", "right")[i % 2]
        samples.append(fo.Sample(filepath=str(photo["path"]), group=group.element(side)))
    dataset.add_samples(samples, progress=False)
    view = dataset.select_group_slices("right")
    compute(view)
    assert operator("load_cam_view")(dataset, "run").values("id") == view.values("id")


@pytest.mark.parametrize("storage", ["database", "disk"])
def test_deleting_leaves_the_dataset_as_it_was(photo_dataset, tmp_path, storage):
    dataset = photo_dataset(3)
    dataset.save_view("mine", dataset.limit(1))
    compute(dataset, cam_key="earlier", storage=storage, **output(storage, tmp_path / "maps"))
    compute(dataset, cam_key="plain")
    before = everything(dataset, tmp_path)
    where = output(storage, tmp_path / "maps" / "deep" / "er")
    compute(dataset, methods=["gradcam", "layercam"], storage=storage, **where)
    assert everything(dataset, tmp_path) != before
    operator("delete_cam_run")(dataset, "run")
    assert not difference(before, everything(dataset, tmp_path))


def output(storage, folder):
    return {"output_dir": str(folder)} if storage == "disk" else {}


def test_deleting_the_first_run_leaves_a_fresh_dataset(photo_dataset, rooms):
    dataset = photo_dataset(2)
    before = everything(dataset, fo.config.default_dataset_dir)
    compute(dataset, storage="disk")
    rooms.keys.add_written(dataset, "run", fields=["run_extra"], saved_views=["run: best"])
    dataset.add_sample_field("run_extra", fo.FloatField)
    dataset.save_view("run: best", dataset.limit(1))
    assert "the saved views run: best" in str(form_of("delete_cam_run", dataset, cam_key="run"))
    deleted = operator("delete_cam_run")(dataset, "run")
    assert (deleted.samples, deleted.files) == (2, 2)
    assert deleted.fields == ["run_extra", "run_gradcam", "run_prediction"]
    assert (deleted.attributes, deleted.views, deleted.tags) == ([], ["run: best"], [])
    assert str(deleted) == (
        "run was deleted: record of the run over 2 samples; fields run_extra, run_gradcam, run_prediction; "
        "view run: best; 2 files"
    )
    assert not difference(before, everything(dataset, fo.config.default_dataset_dir))
    with pytest.raises(ValueError, match="no CAM run 'run'; it has none yet"):
        operator("delete_cam_run")(dataset, "run")


def test_sidebar_is_as_before(photo_dataset):
    dataset = photo_dataset(1)
    groups = fo.DatasetAppConfig.default_sidebar_groups(dataset)
    dataset.app_config.sidebar_groups = [
        fo.SidebarGroupDocument(name="mine", paths=["ground_truth"]), *groups,
    ]  # fmt: skip
    dataset.save()
    before = everything(dataset)
    compute(dataset)
    operator("delete_cam_run")(dataset, "run")
    assert not difference(before, everything(dataset))


def test_deletion_that_was_cut_short_can_be_called_again(photo_dataset, tmp_path, monkeypatch):
    dataset = photo_dataset(2)
    before = everything(dataset, tmp_path)
    compute(dataset, storage="disk", output_dir=str(tmp_path))

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(dataset), "delete_sample_fields", killed)
    with pytest.raises(KeyboardInterrupt):
        operator("delete_cam_run")(dataset, "run")
    monkeypatch.undo()
    for given in ({}, {"resume": True}):
        with pytest.raises(
            ValueError, match="the deletion of 'run' was interrupted; pass overwrite=True"
        ):
            compute(dataset, **given)
    operator("delete_cam_run")(dataset, "run")
    assert not difference(before, everything(dataset, tmp_path))


def test_files_of_a_deleted_sample_go_too(photo_dataset, tmp_path):
    dataset = photo_dataset(3)
    compute(dataset, storage="disk", output_dir=str(tmp_path / "maps"))
    dataset.delete_samples(dataset.first())
    operator("delete_cam_run")(dataset, "run")
    assert list(tmp_path.iterdir()) == []


def test_clone_shares_files_and_deletes_none(photo_dataset, tmp_path, rooms):
    dataset = photo_dataset(2)
    compute(dataset, storage="disk", output_dir=str(tmp_path))
    steps = job_of(rooms, dataset, key="busy").run()
    next(steps)
    clone = dataset.clone()
    try:
        assert rooms.record.status_of(dataset, "busy") == "running"
        assert rooms.record.status_of(clone, "busy") == "interrupted"  # the copy is nobody's work
        steps.close()
        operator("delete_cam_run")(clone, "run")
        assert len(list(tmp_path.rglob("*.png"))) == 2
        assert all(os.path.isfile(p) for p in dataset.values("run_gradcam.map_path"))
    finally:
        clone.delete()


@pytest.mark.parametrize("storage", ["database", "disk"])
def test_renaming(photo_dataset, tmp_path, storage, rooms):
    dataset = photo_dataset(2)
    where = output(storage, tmp_path / "maps")
    compute(dataset, methods=["gradcam", "layercam"], storage=storage, **where)
    pictures = [label.get_map() for label in dataset.values("run_gradcam")]
    held = dataset.first()
    moves = operator("rename_cam_run")(dataset, "run", "run_2")
    assert moves == {f"run_{n}": f"run_2_{n}" for n in ("gradcam", "layercam", "prediction")}
    assert rooms.record.list_runs(dataset) == ["run_2"] == dataset.list_runs()
    assert not set(moves) & set(dataset.get_field_schema())
    assert dataset.values("run_2_layercam.cam_key") == ["run_2"] * 2
    for before, label in zip(pictures, dataset.values("run_2_gradcam"), strict=True):
        assert (label.get_map() == before).all()
    assert held.run_2_gradcam.status == "ok"
    paths = [e["path"] for e in dataset.app_config.color_scheme.fields]
    assert paths == ["run_2_gradcam", "run_2_layercam"]
    assert "run_2_gradcam" in dataset.app_config.active_fields.paths
    info = operator("get_cam_run_info")(dataset, "run_2")
    assert (info.status, info.done, info.fields) == ("finished", 2, list(moves.values()))
    assert info.results["summary"]["fields"] == list(moves.values())
    if storage == "disk":
        assert {Path(p).parent for p in dataset.values("run_2_gradcam.map_path")} == {
            tmp_path / "maps" / "run_2" / "run_2_gradcam"
        }
        assert not (tmp_path / "maps" / "run").exists()
    same = {"methods": ["gradcam", "layercam"], "storage": storage, **where}
    assert compute(dataset, cam_key="run_2", resume=True, **same).resumed == 2
    operator("delete_cam_run")(dataset, "run_2")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_renaming_refuses_what_is_taken(photo_dataset):
    dataset = photo_dataset(1)
    compute(dataset)
    compute(dataset, cam_key="other")
    dataset.add_sample_field("new_gradcam", fo.StringField)
    before = everything(dataset)
    rename = operator("rename_cam_run")
    for new, message in (
        (
            "other",
            "new_key: 'other' is already a CAM run of this dataset .finished.; choose another",
        ),
        ("new", "new_key: the dataset has a field 'new_gradcam'"),
        ("bad-key", "new_key must be a name of letters"),
        ("run", "called 'run' already"),
    ):
        with pytest.raises(ValueError, match=message):
            rename(dataset, "run", new)
    assert not difference(before, everything(dataset))


@pytest.mark.parametrize("where", ["rename_sample_fields", "_reload"])
def test_renaming_that_was_cut_short_is_finished(photo_dataset, tmp_path, monkeypatch, where):
    dataset = photo_dataset(2)
    compute(dataset, storage="disk", output_dir=str(tmp_path))
    real = getattr(type(dataset), where)

    def killed(self, *args, **kwargs):
        if where == "rename_sample_fields":
            real(self, *args, **kwargs)
        raise KeyboardInterrupt

    rename = operator("rename_cam_run")
    monkeypatch.setattr(type(dataset), where, killed)
    with pytest.raises(KeyboardInterrupt):
        rename(dataset, "run", "new")
    monkeypatch.undo()
    dataset.reload()
    with pytest.raises(
        ValueError, match="the renaming of 'run' was interrupted; rename_cam_run to 'new'"
    ):
        compute(dataset, resume=True, storage="disk", output_dir=str(tmp_path))
    rename(dataset, "run", "new")
    assert dataset.list_runs() == ["new"]
    assert dataset.values("new_gradcam.cam_key") == ["new"] * 2
    assert all(os.path.isfile(p) for p in dataset.values("new_gradcam.map_path"))


@pytest.mark.parametrize("again", ["run", "new"])
def test_renaming_killed_after_the_record_has_its_new_key(photo_dataset, monkeypatch, rooms, again):
    """The last step but one: the old key is gone, and the record still says that it is renamed."""
    dataset = photo_dataset(2)
    compute(dataset)
    real = rooms.record.rename

    def killed(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    rename = operator("rename_cam_run")
    monkeypatch.setattr(rooms.record, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        rename(dataset, "run", "new")
    monkeypatch.undo()
    assert rooms.record.status_of(dataset, "new") == "renaming"
    assert rename(dataset, again, "new") == {}
    assert rooms.record.status_of(dataset, "new") == "finished"
    assert compute(dataset, cam_key="new", resume=True).resumed == 2


def test_deletion_with_a_lost_view_in_the_list_leaves_the_users(photo_dataset, rooms):
    """As FiftyOne's own deletion of a view leaves the list when it is killed in its middle."""
    dataset = photo_dataset(3)
    compute(dataset)
    for name in ("run: one", "mine", "run: two", "mine too"):
        dataset.save_view(name, dataset.limit(2))
    rooms.keys.add_written(dataset, "run", saved_views=["run: one", "run: two"])
    rooms.record.db().views.delete_one({"_dataset_id": dataset._doc.id, "name": "run: one"})
    dataset.reload()
    operator("delete_cam_run")(dataset, "run")
    dataset.reload()
    assert dataset.list_saved_views() == ["mine", "mine too"]
    assert len(dataset.load_saved_view("mine too")) == 2


def change_record(dataset, rooms, **entries):
    """Writes entries of the run's record as somebody else's version, or a file from elsewhere, has them."""
    rooms.record.db().runs.update_one(
        {"_id": rooms.record.document_id(dataset, "run")},
        {"$set": {f"config.{name}": value for name, value in entries.items()}},
    )


def test_what_a_record_from_elsewhere_names_of_yours_stays(photo_dataset, rooms):
    dataset = photo_dataset(3)
    mine = fo.SidebarGroupDocument(name="mine")
    dataset.app_config.sidebar_groups = [
        *fo.DatasetAppConfig.default_sidebar_groups(dataset), mine,
    ]  # fmt: skip
    dataset.save()
    groups = [group.name for group in dataset.app_config.sidebar_groups]
    assert "labels" in groups
    compute(dataset)
    dataset.set_values("truth", [fo.Classification(label="cat")] * 3)
    dataset.save_view("train split", dataset.limit(2))
    dataset.tag_samples("reviewed")
    own = rooms.record.config_of(dataset, "run").fields
    job = {
        "status": "finished", "fields": ["truth"], "views": ["train split"], "tags": ["reviewed"],
        "object_attributes": ["truth.label"], "labels": ["truth"], "attributes": ["label"],
        "sidebar_groups": ["labels"], "cam_keys": ["truth", "train split"],
    }  # fmt: skip
    change_record(
        dataset, rooms, fields=[*own, "truth"], saved_views=["train split"], bias=job, compare=job,
        label_attributes=["truth.label"],
    )  # fmt: skip
    operator("delete_cam_run")(dataset, "run")
    dataset.reload()
    assert not set(own) & set(dataset.get_field_schema())
    assert dataset.values("truth.label") == ["cat"] * 3
    assert dataset.list_saved_views() == ["train split"]
    assert dataset.count_sample_tags() == {"reviewed": 3}
    assert [group.name for group in dataset.app_config.sidebar_groups] == groups


@pytest.mark.parametrize(
    "entries",
    [
        {"bias": {}},
        {"compare": {}},
        {"compare": {"status": "finished", "views": None, "fields": None}},
        {"bias": "text"},
        {"shown_before": 5},
        {"saved_views": [7, None]},
    ],
)
def test_a_malformed_record_can_be_renamed_and_deleted(photo_dataset, rooms, entries):
    dataset = photo_dataset(2)
    compute(dataset)
    change_record(dataset, rooms, **entries)
    operator("rename_cam_run")(dataset, "run", "new")
    assert str(operator("get_cam_run_info")(dataset, "new"))
    operator("delete_cam_run")(dataset, "new")
    assert dataset.list_runs() == []
    assert not [name for name in dataset.get_field_schema() if name.startswith(("run_", "new_"))]


def test_run_that_was_examined(photo_dataset, rooms):
    """Views, tags and results carry its name: they are renamed with it and go with it."""
    dataset = photo_dataset(2)
    before = everything(dataset)
    compute(dataset)
    entries = {"status": "finished", "views": ["run: odd"], "tags": ["run: odd"], "labels": []}
    rooms.record.update(dataset, "run", bias=entries)
    rooms.keys.add_written(dataset, "run", fields=["run_verdict"], saved_views=["run: odd"])
    found = {"cam_key": "run", "classes": [{"label": "run"}], "fields": ["run_verdict"]}
    rooms.results.save_results(dataset, "run", bias=found)
    dataset.add_sample_field("run_verdict", fo.StringField)
    dataset.set_values("run_verdict", ["run_verdict", "b"])
    dataset.save_view("run: odd", dataset.match(F("run_verdict") == "b"))
    dataset.limit(1).tag_samples("run: odd")

    moves = operator("rename_cam_run")(dataset, "run", "new")
    assert moves["run_verdict"] == "new_verdict"
    assert dataset.list_saved_views() == ["new: odd"]
    assert dataset.load_saved_view("new: odd").values("new_verdict") == ["b"]
    assert dataset.count_sample_tags() == {"new: odd": 1}
    # a class may be called like the run
    assert dataset.load_run_results("new").bias == {
        "cam_key": "new", "classes": [{"label": "run"}], "fields": ["new_verdict"],
    }  # fmt: skip
    assert rooms.record.config_of(dataset, "new").bias["views"] == ["new: odd"]

    operator("delete_cam_run")(dataset, "new")
    assert not difference(before, everything(dataset))


# doing it again


def test_rerun_on_another_view(photo_dataset, make_dataset, photos):
    dataset = photo_dataset(4)
    compute(dataset.limit(2), methods=["gradcam", ("eigencam", {"component": 2})], seed=3)
    given = dict(model=small_network(), transforms=transforms(), classes=CLASSES)
    rerun = operator("rerun_cams")
    summary = rerun(dataset.skip(2), "run", **given)
    assert (summary.cam_key, summary.done) == ("run_2", 2)
    again, first = (operator("get_cam_run_info")(dataset, k).settings for k in ("run_2", "run"))
    for name in ("weights", "methods", "layers", "seed", "precision", "transforms_check"):
        assert again[name] == first[name]
    other = make_dataset(fo.Sample(filepath=str(photos[5]["path"])))
    assert rerun(other, "run", source=dataset, **given).fields[0] == "run_gradcam"


def test_rerun_needs_what_the_record_cannot_hold(photo_dataset):
    def mine(activations):
        return activations.sum(1)

    dataset = photo_dataset(2)
    compute(dataset, methods=["gradcam", mine])
    rerun = operator("rerun_cams")
    given = dict(model=small_network(), transforms=transforms(), classes=CLASSES)
    with pytest.raises(ValueError, match="methods: the run used the function 'mine'"):
        rerun(dataset, "run", **given)
    methods = ["gradcam", mine]
    with pytest.raises(
        ValueError, match="model: the model 'ResNet' was given from Python.*give model="
    ):
        rerun(dataset, "run", methods=methods)
    with pytest.raises(ValueError, match="not what the run 'run' did .weights: "):
        rerun(dataset, "run", methods=methods, **{**given, "model": small_network(1)})
    assert rerun(dataset, "run", "second", methods=methods, **given).cam_key == "second"


def test_rerun_goes_on_with_an_interrupted_run(photo_dataset, rooms):
    dataset = photo_dataset(4)
    interrupted(rooms, dataset)
    given = dict(model=small_network(), transforms=transforms(), classes=CLASSES)
    view = operator("load_cam_view")(dataset, "run")
    summary = operator("rerun_cams")(view, "run", resume=True, **given)
    assert (summary.status, summary.done, summary.resumed) == ("finished", 4, 2)
    with pytest.raises(ValueError, match="under its own key"):
        operator("rerun_cams")(view, "run", "new", resume=True, **given)


# stopping, and two at once


def test_stopping_from_elsewhere_takes_the_batch_at_work(photo_dataset, rooms, monkeypatch):
    leases = leases_of(monkeypatch)
    dataset = photo_dataset(12)
    job, seen = job_of(rooms, dataset), []
    for state in job.run():
        seen.append(state.done)
        thread = threading.Thread(target=stop_and_wait, args=(dataset, leases[0]))
        thread.start()
        thread.join()
    assert len(seen) == 1, "of the batch that was being computed nothing is reported"
    assert job.summary.status == "interrupted"
    assert "asked to stop" in job.summary.error
    info = operator("get_cam_run_info")(dataset, "run")
    assert (info.status, info.done) == ("interrupted", job.summary.done)
    assert compute(dataset, batch_size=2, resume=True).status == "finished"
    with pytest.raises(ValueError, match="'run' is not running, it is finished"):
        operator("stop_cam_run")(dataset, "run")


@pytest.mark.parametrize("given", [{}, {"overwrite": True}, {"resume": True}])
def test_run_at_work_is_left_alone(photo_dataset, rooms, given):
    dataset = photo_dataset(4)
    steps = job_of(rooms, dataset).run()
    next(steps)
    message = "'run' is running in this process .50 % done.; wait, or press Stop"
    with pytest.raises(ValueError, match=message.replace("50", r"\d+")):
        compute(dataset, batch_size=2, **given)
    for name, *arguments in (("delete_cam_run",), ("rename_cam_run", "new")):
        with pytest.raises(ValueError, match="'run' is running"):
            operator(name)(dataset, "run", *arguments)
    steps.close()
    compute(dataset, batch_size=2, resume=True)
    assert len(dataset.exists("run_gradcam")) == 4


def test_run_at_work_in_another_process_is_left_alone_until_it_dies(
    photo_dataset, rooms, monkeypatch
):
    dataset = photo_dataset(4)
    interrupted(rooms, dataset)
    at_work = {"status": "running", "host": socket.gethostname(), "pid": os.getppid()}
    rooms.record.update(dataset, "run", **at_work)
    with pytest.raises(ValueError, match=f"running in process {os.getppid()} on"):
        compute(dataset, batch_size=2, resume=True)
    rooms.record.update(dataset, "run", host="far-away", pid=1)
    with pytest.raises(ValueError, match="running in process 1 on far-away"):
        compute(dataset, batch_size=2, overwrite=True)
    monkeypatch.setattr(rooms.record, "STALE_SECONDS", -1)
    assert rooms.record.status_of(dataset, "run") == "interrupted"
    monkeypatch.undo()
    rooms.record.update(dataset, "run", host=socket.gethostname(), pid=2**22 + 12345)  # nobody's
    assert rooms.record.status_of(dataset, "run") == "interrupted"
    assert compute(dataset, batch_size=2, resume=True).done == 4


def test_of_two_that_come_at_once_one_gets_the_key(photo_dataset, rooms):
    dataset = photo_dataset(1)
    first = job_of(rooms, dataset)
    second = job_of(rooms, dataset)  # nothing is registered yet
    steps = first.run()
    next(steps)
    with pytest.raises(ValueError, match="another process registered 'run' at this moment"):
        next(second.run())
    steps.close()
    config = rooms.record.config_of(dataset, "run")
    assert config.sessions[0]["samples"] == 1
    assert (
        fo.core.odm.get_db_conn().runs.count_documents(
            {"key": "run", "_dataset_id": dataset._doc.id}
        )
        == 1
    )


def test_run_that_lost_its_record_stops(photo_dataset, rooms):
    dataset = photo_dataset(12)
    steps = job_of(rooms, dataset).run()
    next(steps)
    document = rooms.record.document_id(dataset, "run")
    fo.core.odm.get_db_conn().runs.update_one(
        {"_id": document}, {"$set": {"config.token": "theirs"}}
    )
    with pytest.raises(rooms.lease.LeaseLost, match="deleted or taken over"):
        for _ in range(4):
            next(steps)
    # what is somebody else's now was not touched
    assert rooms.record.config_of(dataset, "run").status == "running"


def test_progress_is_kept_up_to_date(photo_dataset, rooms, monkeypatch):
    monkeypatch.setattr(rooms.lease, "_RUN_SECONDS", 0.01)
    dataset = photo_dataset(8)
    before = None
    steps = job_of(rooms, dataset).run()
    for number, state in enumerate(steps):
        if number == 1:
            before = rooms.record.config_of(dataset, "run").heartbeat
        if number == 2:
            deadline = threading.Event()
            for _ in range(200):
                config = rooms.record.config_of(dataset, "run")
                if config.progress and config.progress["done"] >= 2 and config.heartbeat > before:
                    break
                deadline.wait(0.02)
            assert 2 <= config.progress["done"] <= state.done
            assert config.progress["total"] == 8


# from the App


def execute(name, dataset, **params):
    ctx = {"dataset": dataset, "params": params}
    return foo.execute_operator(f"@cam51/heatmaps/{name}", ctx=ctx)


def form_of(name, dataset, **params):
    ctx = foo.executor.ExecutionContext({"dataset_name": dataset.name, "params": params})
    return operator(name).resolve_input(ctx).to_json()["type"]["properties"]


def test_forms_and_execution(photo_dataset, rooms):
    dataset = photo_dataset(2)
    for name in ("get_cam_run_info", "delete_cam_run", "stop_cam_run", "rerun_cams"):
        assert form_of(name, dataset)["problem"]["invalid"]
    compute(dataset)
    assert execute("list_cam_runs", dataset).result["runs"][0]["key"] == "run"
    info = execute("get_cam_run_info", dataset, cam_key="run").result
    assert info["info"]["done"] == 2
    assert "fields: run_gradcam" in info["text"]
    assert form_of("load_cam_view", dataset)["cam_key"]["default"] == "run"
    execute("load_cam_view", dataset, cam_key="run", part="done")
    assert form_of("stop_cam_run", dataset)["problem"]["invalid"]
    assert form_of("rename_cam_run", dataset, cam_key="run", new_key="run")["new_key"]["invalid"]
    execute("rename_cam_run", dataset, cam_key="run", new_key="new")
    assert dataset.list_runs() == ["new"] or fo.load_dataset(dataset.name).list_runs() == ["new"]
    dataset.reload()
    assert "new_gradcam" in str(form_of("delete_cam_run", dataset, cam_key="new")["notice"])
    execute("delete_cam_run", dataset, cam_key="new")
    dataset.reload()
    assert not dataset.list_runs()
    assert not dataset.has_field("new_gradcam")


def test_form_of_doing_it_again(photo_dataset, rooms):
    dataset = photo_dataset(4)
    interrupted(rooms, dataset)
    settings = rooms.record.config_of(dataset, "run").settings
    zoo = {"model_source": "zoo", "model": "resnet18-imagenet-torch", "given": []}
    rooms.record.update(dataset, "run", settings={**settings, **zoo})
    form = form_of("rerun_cams", dataset)
    assert form["resume"]["default"] is True
    assert "new_key" not in form
    form = form_of("rerun_cams", dataset, resume=False)
    assert form["new_key"]["default"] == "run_2"
    assert form_of("rerun_cams", dataset, resume=False, new_key="a b")["new_key"]["invalid"]


def test_unlisted(plugin):
    names = [
        "list_cam_runs", "get_cam_run_info", "load_cam_view", "stop_cam_run", "rename_cam_run",
        "delete_cam_run", "rerun_cams",
    ]  # fmt: skip
    assert all(operator(name).config.unlisted for name in names)
