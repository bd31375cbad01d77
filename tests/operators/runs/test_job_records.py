"""What jobs say in a run's record: changed path by path, and read as version 0.1.0 wrote it."""

import fiftyone as fo
import pymongo
import pytest
from bias_common import agreeing, find, inner
from compare_common import cams, compare, inverse, perfect, planted
from operators_common import operator

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def compared(make_dataset, tmp_path):
    dataset = make_dataset(*planted(tmp_path, 4))
    cams(dataset, [perfect, inverse])
    return dataset


def document(dataset):
    """The query of the run's document."""
    return {"_id": inner("runs.record").document_id(dataset, "run")}


def before_the_next_write(monkeypatch, dataset, meanwhile):
    """Calls something right before the next write on the run's document, as another process would."""
    pending, query = [meanwhile], document(dataset)

    def late(write):
        def after_another(self, query_, *arguments, **options):
            if self.name == "runs" and pending and query_.get("_id") == query["_id"]:
                pending.pop()()
            return write(self, query_, *arguments, **options)

        return after_another

    for name in ("update_one", "find_one_and_update"):
        write = getattr(pymongo.collection.Collection, name)
        monkeypatch.setattr(pymongo.collection.Collection, name, late(write))
    return pending


def register(dataset, part):
    if part == "bias":
        return inner("bias.schema").register(dataset, "run", {})
    return inner("compare.schema").register(dataset, "run", {}, "run_disagreement", [], [])


@pytest.mark.parametrize("part", ["bias", "compare"])
def test_a_request_to_stop_survives_every_update_at_the_same_moment(compared, part, monkeypatch):
    dataset, store = compared, inner(f"{part}.schema")
    register(dataset, part)
    runs = inner("runs.record").db().runs

    def ask():
        runs.update_one(document(dataset), {"$set": {f"config.{part}.stop": True}})

    pending = before_the_next_write(monkeypatch, dataset, ask)
    store.RECORDS.update(dataset, "run", views=["run: one"])
    assert not pending
    record = store.RECORDS.record_of(dataset, "run")
    assert (record["stop"], record["views"]) == (True, ["run: one"])
    assert inner("runs.record").config_of(dataset, "run").saved_views == ["run: one"]


def test_two_jobs_that_end_at_the_same_moment_keep_both_results(compared, monkeypatch):
    dataset = compared
    bias, compare_ = inner("bias.schema"), inner("compare.schema")
    held = {part: register(dataset, part) for part in ("bias", "compare")}

    def end_the_other():
        bias.RECORDS.finish(dataset, "run", "finished", {"verdicts": 1}, held=held["bias"])

    pending = before_the_next_write(monkeypatch, dataset, end_the_other)
    compare_.RECORDS.finish(dataset, "run", "finished", {"leaderboard": 2}, held=held["compare"])
    assert not pending
    found = inner("runs.results").load_results(dataset, "run")
    assert (found["bias"], found["compare"]) == ({"verdicts": 1}, {"leaderboard": 2})
    assert "summary" in found
    for store in (bias, compare_):
        assert store.RECORDS.record_of(dataset, "run")["status"] == "finished"
    files = inner("runs.record").db()["fs.files"]
    kept = inner("runs.record").db().runs.find_one(document(dataset))["results"]
    assert files.count_documents({"_id": kept}) == 1


def test_two_jobs_that_begin_at_the_same_moment_keep_both_fields(compared, monkeypatch):
    dataset = compared
    pending = before_the_next_write(monkeypatch, dataset, lambda: register(dataset, "bias"))
    register(dataset, "compare")
    assert not pending
    fields = inner("runs.keys").fields_of(dataset, "run")
    assert fields[-4:] == ["run_verdict", "run_dependence", "run_bias", "run_disagreement"]
    assert set(inner("runs.run").Run.open(dataset, "run").jobs) == {"bias", "compare"}


def test_a_job_changes_nothing_in_the_record_of_the_one_that_took_its_place(compared):
    dataset, store = compared, inner("compare.schema")
    lost = register(dataset, "compare")
    inner("runs.record").update(dataset, "run", compare=None)
    register(dataset, "compare")
    store.RECORDS.update(dataset, "run", lost, views=["run: lost"])
    store.RECORDS.finish(dataset, "run", "finished", {"leaderboard": 1}, held=lost)
    record = store.RECORDS.record_of(dataset, "run")
    assert (record["status"], record["views"]) == ("running", [])
    assert inner("runs.record").config_of(dataset, "run").saved_views == []
    assert "compare" not in inner("runs.results").load_results(dataset, "run")


def test_attributes_go_with_the_last_of_two_comparisons_that_wrote_them(compared):
    dataset = compared
    cams(dataset, [perfect], "other")
    for first, second in (("run", "other"), ("other", "run")):
        compare(dataset, [first, second], metrics=["deletion"])
    for key, left in (("run", True), ("other", False)):
        inner("compare.schema").RECORDS.clear(dataset, key)
        assert ("run_perfect.deletion" in dataset.get_field_schema(flat=True)) == left


def as_0_1_0_wrote_it(dataset, key):
    """Takes what later versions add out of the record of a run's bias analysis."""
    runs, record = inner("runs.record").db().runs, inner("runs.record")
    added = ("fields", "attributes", "sidebar_groups", "space")
    where = {"_id": record.document_id(dataset, key)}
    runs.update_one(where, {"$unset": {f"config.bias.{name}": "" for name in added}})
    stored = record.config_of(dataset, key).bias
    assert sorted(stored) == [
        "cam_keys", "dataset_id", "ended", "heartbeat", "host", "labels", "object_attributes", "pid",
        "settings", "started", "status", "tags", "token", "views",
    ]  # fmt: skip


def test_a_record_of_0_1_0_is_read_renamed_and_deleted(make_dataset, tmp_path):
    dataset = make_dataset(*agreeing(tmp_path, 12))
    before = set(dataset.get_field_schema(flat=True))
    find(dataset, tags=True)
    as_0_1_0_wrote_it(dataset, "run")
    assert [r.status for r in operator("list_cam_runs")(dataset)] == ["finished"]
    assert operator("get_cam_run_info")(dataset, "run").results["bias"]["tested"] == 12
    with pytest.raises(ValueError, match="analysed already; pass overwrite=True"):
        find(dataset)
    operator("rename_cam_run")(dataset, "run", "new")
    assert dataset.count_sample_tags() == {"new: relies on background": 12}
    assert "new_hirescam.verdict" in dataset.get_field_schema(flat=True)
    deleted = operator("delete_cam_run")(dataset, "new")
    assert deleted.tags == ["new: relies on background"]
    assert set(dataset.get_field_schema(flat=True)) == before
    assert dataset.app_config.sidebar_groups is None  # as before
    assert dataset.count_sample_tags() == {}
    assert dataset.list_saved_views() == []


def test_a_record_of_0_1_0_makes_room_for_another_analysis(make_dataset, tmp_path):
    dataset = make_dataset(*agreeing(tmp_path, 12))
    find(dataset, tags=True)
    as_0_1_0_wrote_it(dataset, "run")
    find(dataset, overwrite=True, views=False)
    assert dataset.count_sample_tags() == {}
    assert dataset.list_saved_views() == []
    inner("bias.schema").RECORDS.clear(dataset, "run")
    names = set(dataset.get_field_schema(flat=True))
    assert not names & {"run_verdict", "run_dependence", "run_bias", "run_hirescam.verdict"}
    assert dataset.count("run_hirescam.map") == 12


def test_what_a_record_from_elsewhere_names_is_deleted_only_where_it_is_a_name(compared):
    dataset = compared
    record = {"status": "finished", "views": 3, "tags": [None, {"$ne": 1}], "labels": "run_perfect"}
    inner("runs.record").update(dataset, "run", bias=record, label_attributes={"a": 1})
    operator("delete_cam_run")(dataset, "run")
    assert dataset.list_runs() == []
    assert isinstance(dataset.get_field("label"), fo.EmbeddedDocumentField)


def test_a_comparison_without_numbers_keeps_its_words(compared):
    rows = [{"field": "run_perfect", "label": "run perfect"}]
    found = {"cam_keys": ["run", "b"], "leaderboard": rows, "recommendation": {"sentence": "so"}}
    inner("runs.results").save_results(compared, "run", compare=found)
    operator("rename_cam_run")(compared, "run", "new")
    assert inner("runs.results").load_results(compared, "new")["compare"] == {
        "cam_keys": ["new", "b"], "recommendation": {"sentence": "so"},
        "leaderboard": [{"field": "new_perfect", "label": "run perfect"}],
    }  # fmt: skip


def test_settings_may_have_any_keys(compared):
    odd = {"St. Bernard": 1, "$x": {"a.b": [1, "$y"]}, "t": "$config.status"}
    store = inner("compare.schema")
    store.register(compared, "run", odd, "run_disagreement", [], [])
    store.RECORDS.update(compared, "run", clusters={"0": odd})
    record = store.RECORDS.record_of(compared, "run")
    assert (record["settings"], record["clusters"]) == (odd, {"0": odd})
