"""``compare_cams`` of several models on a real MongoDB: where the evidence moved is known."""

import json
import os
import re

import numpy as np
import pytest
from bias_common import inner
from compare_common import CLASSES, SIDE, SIZE, TOP, Planted, cams, compare, planted, to_tensor
from operators_common import operator, prepared

pytestmark = pytest.mark.usefixtures("plugin")

#: the same network, one that reads another region, one that predicts the contrary
EARLY, LATE = Planted(weight=4.0), Planted(weight=8.0)
MOVED, CONTRARY = Planted(moved=12), Planted(sign=-1.0)


@pytest.fixture
def make_runs(make_dataset, tmp_path):
    """A function: a dataset with one run per network."""

    def make(networks, count=8, labels=True, methods=("hirescam",), **arguments):
        dataset = make_dataset(*planted(tmp_path, count, labels))
        for key, network in networks.items():
            cams(dataset, methods, key, network, **arguments)
        return dataset

    return make


def test_the_same_evidence(make_runs):
    networks = {"a": EARLY, "b": LATE}
    dataset = make_runs(networks)
    summary = compare(dataset, ["a", "b"], models=networks)
    m = summary.models
    assert m["first_last"]["mean"] == pytest.approx(1, abs=1e-3)
    assert m["target"] == "field label"
    assert m["method"] == "hirescam"
    assert (m["predictions"]["changed"], m["predictions"]["broken"]) == ([], [])
    assert m["recomputed"] == 0
    np.testing.assert_allclose(dataset.values("a_b_agreement"), 1, atol=1e-3)
    assert summary.fields == ["a_b_agreement"]
    assert summary.cost["forwards"] == 16
    assert (m["trend"][0]["accuracy"]["mean"], m["trend"][1]["accuracy"]["mean"]) == (1, 1)
    # the later network is surer
    assert m["trend"][1]["score"]["mean"] > m["trend"][0]["score"]["mean"] > 0.5
    assert "find_background_bias has to have analysed both" in str(summary)


def test_evidence_that_moved(make_runs):
    """The region that is read lies twelve rows further down, and so does the heat."""
    networks = {"a": LATE, "b": MOVED}
    dataset = make_runs(networks)
    summary = compare(dataset, ["a", "b"], models=networks)
    assert summary.models["first_last"]["high"] < 0.5
    rows = summary.models["classes"]
    assert {row["label"]: row["n"] for row in rows} == {"plus": 4, "minus": 4}
    assert rows[0]["agreement"]["mean"] <= rows[1]["agreement"]["mean"]
    view = dataset.load_saved_view("a vs b: evidence moved")
    values = view.values("a_b_agreement")
    assert 1 <= len(values) <= 4
    assert values == sorted(values)
    a = summary.agreement
    assert a["labels"] == ["a", "b"]
    assert a["spearman"][0][1] == pytest.approx(np.mean(dataset.values("a_b_agreement")), abs=1e-5)
    pairs = summary.pairs["a_hirescam|b_hirescam"]
    assert pairs == dataset.sort_by("a_b_agreement").values("id") or set(pairs) == set(
        dataset.values("id")
    )
    assert "a vs b: the maps of the same class agree by" in str(summary)


def test_another_prediction_is_explained_for_the_same_class(make_runs):
    """Its stored maps are of the other class, so they are computed again, and not stored."""
    networks = {"a": LATE, "b": CONTRARY}
    dataset = make_runs(networks)
    before = dataset.values(["b_hirescam.target_index", "b_hirescam.id"])
    summary = compare(dataset, ["a", "b"], models=networks)
    m = summary.models
    assert m["recomputed"] == 8
    assert summary.cost["forwards"] == 24
    assert dataset.values(["b_hirescam.target_index", "b_hirescam.id"]) == before
    ids = set(dataset.values("id"))
    assert set(m["predictions"]["broken"]) == set(m["predictions"]["changed"]) == ids
    assert m["predictions"]["fixed"] == []
    assert "a vs b: prediction broken" in summary.views
    assert len(dataset.load_saved_view("a vs b: prediction broken")) == 8
    assert m["trend"][1]["accuracy"]["mean"] == 0
    # what speaks for the class under one speaks against it under the other
    assert m["first_last"]["mean"] < 0
    turned = compare(dataset, ["b", "a"], models=networks)
    assert set(turned.models["predictions"]["fixed"]) == ids


def test_a_map_made_again_is_the_one_that_would_be_stored(make_runs):
    """Both classes stored on one side, so the recomputed side can be laid beside what is stored."""
    dataset = make_runs({"a": LATE}, 6)
    cams(dataset, ["hirescam"], "b", LATE, targets="minus")
    summary = compare(dataset, ["a", "b"], models={"a": LATE, "b": LATE}, target="first")
    # of the class "plus" b has no stored map: it is computed, and equals what a has stored
    assert summary.models["recomputed"] == 3
    np.testing.assert_allclose(dataset.values("a_b_agreement"), 1, atol=0.01)
    assert summary.models["target"] == "what a predicts"


def test_targets(make_runs):
    networks = {"a": LATE, "b": CONTRARY}
    dataset = make_runs(networks, 4, labels=False)
    found = compare(dataset, ["a", "b"], models=networks)
    assert found.models["target"] == "what a predicts"
    assert found.models["predictions"]["fixed"] is None
    assert "no true class is known" in str(found)
    assert "a vs b: prediction changed" in found.views
    given = {"models": networks, "overwrite": True}
    assert compare(dataset, ["a", "b"], target="minus", **given).models["target"] == "class minus"
    assert compare(dataset, ["a", "b"], target=1, **given).models["target"] == "class minus"
    with pytest.raises(ValueError, match=r"'minuss' is neither a field nor a class.*minus"):
        compare(dataset, ["a", "b"], target="minuss", **given)
    with pytest.raises(ValueError, match="there is no class 7"):
        compare(dataset, ["a", "b"], target=7, **given)
    with pytest.raises(ValueError, match="target: No true labels"):
        compare(dataset, ["a", "b"], target="ground_truth", **given)
    with pytest.raises(ValueError, match="target: 'a_hirescam' is no field of classifications"):
        compare(dataset, ["a", "b"], target="a_hirescam", **given)


def test_trend_over_three(make_runs):
    networks = {"one": MOVED, "two": EARLY, "three": LATE}
    dataset = make_runs(networks, 6)
    summary = compare(dataset, ["one", "two", "three"], models=networks)
    m = summary.models
    assert [row["cam_key"] for row in m["trend"]] == ["one", "two", "three"]
    first, second, last = (row["agreement"] for row in m["trend"])
    assert first["high"] < second["low"]
    assert second["mean"] == pytest.approx(1, abs=1e-3)
    assert last is None
    assert [(s["from"], s["to"]) for s in m["successive"]] == [("one", "two"), ("two", "three")]
    assert "Agreement with the maps of three: one " in str(summary)
    assert summary.fields == ["one_three_agreement"]
    rows = summary.table().splitlines()
    assert rows[0].startswith("| model | agreement with the last")
    assert len(rows) == 5


def test_background_verdicts(make_runs):
    """What each run's verdict says is counted, with the interval of Wilson."""
    from cam_core.bias.verdicts import CANNOT_SAY, OBJECT, RELIES

    networks = {"a": EARLY, "b": LATE}
    dataset = make_runs(networks)
    a = [RELIES, RELIES, RELIES, OBJECT, OBJECT, OBJECT, CANNOT_SAY, None]
    b = [OBJECT, OBJECT, RELIES, RELIES, OBJECT, OBJECT, RELIES, RELIES]
    for key, verdicts in (("a", a), ("b", b)):
        dataset.set_values(f"{key}_verdict", verdicts)
    summary = compare(dataset, ["a", "b"], models=networks)
    found = summary.models["background"]
    ids = dataset.values("id")
    assert {k: found[k]["count"] for k in ("fixed", "unchanged", "new", "neither")} == {
        "fixed": 2, "unchanged": 1, "new": 1, "neither": 2,
    }  # fmt: skip
    assert found["undecided"] == 1
    assert found["fixed"]["ids"] == ids[:2]
    assert found["fixed"]["n"] == 6
    # statsmodels.stats.proportion.proportion_confint(2, 6, method="wilson")
    assert (found["fixed"]["low"], found["fixed"]["high"]) == pytest.approx((0.0968, 0.7), abs=1e-3)
    assert found["change"]["mean"] == pytest.approx(-1 / 6)
    assert dataset.load_saved_view("a vs b: background fixed").values("id") == ids[:2]
    assert dataset.load_saved_view("a vs b: background new").values("id") == [ids[3]]
    assert "2 fixed (9.7 % to 70 %)" in str(summary)
    operator("rename_cam_run")(dataset, "b", "c")
    infos = {
        i["name"]: i["description"]
        for i in map(dataset.get_saved_view_info, dataset.list_saved_views())
    }
    assert infos["a vs c: background fixed"] == "Relied on the background under a, not under c"
    assert infos["a vs c: background new"].endswith("under c, did not under a")


def test_overwrite_delete_and_what_is_stored(make_runs):
    networks = {"a": LATE, "b": MOVED}
    dataset = make_runs(networks, 4)

    def seen():
        dataset.reload()
        return (
            sorted(dataset.get_field_schema(flat=True)), dataset.list_saved_views(),
            list(dataset._sample_collection.find({}, {"last_modified_at": False}).sort("_id")),
        )  # fmt: skip

    before = seen()
    summary = compare(dataset, ["a", "b"], models=networks)
    stored = dataset.load_run_results("a").compare
    assert stored["models"]["first_last"] == summary.models["first_last"]
    assert stored["leaderboard"] == []
    assert stored["recommendation"]["sentence"].startswith("a vs b")
    with pytest.raises(ValueError, match="overwrite=True"):
        compare(dataset, ["a", "b"], models=networks, seed=52)
    # the methods of the first run instead: nothing of the models stays
    compare(dataset, "a", LATE, metrics=["deletion"], overwrite=True)
    assert dataset.get_field("a_b_agreement") is None
    assert not [v for v in dataset.list_saved_views() if " vs " in v]
    inner("compare.schema").RECORDS.clear(dataset, "a")
    assert seen() == before
    compare(dataset, ["a", "b"], models=networks)
    operator("delete_cam_run")(dataset, "a")
    assert dataset.get_field("a_b_agreement") is None
    assert dataset.list_saved_views() == []
    assert dataset.list_runs() == ["b"]


@pytest.mark.parametrize("what", ["delete", "rename"])
@pytest.mark.parametrize("key", ["a", "b"])
def test_runs_that_are_gone_meanwhile(make_runs, what, key):
    networks = {"a": LATE, "b": MOVED}
    dataset = make_runs(networks, 4)
    settings = inner("compare.params").CompareSettings(num_workers=0)
    job = prepared(
        inner("compare.models_job").ModelComparison, dataset, settings, networks, to_tensor, CLASSES
    )
    steps = job.run()
    next(steps)
    arguments = (dataset, key) if what == "delete" else (dataset, key, "new")
    with pytest.raises(ValueError, match=f"'{key}' is being compared by compare_cams"):
        operator(f"{what}_cam_run")(*arguments)
    # taken for dead
    inner("runs.record").ACTIVE.discard(
        inner("compare.schema").RECORDS.record_of(dataset, "a")["token"]
    )
    operator(f"{what}_cam_run")(*arguments)
    schema = sorted(dataset.get_field_schema(flat=True))
    with pytest.raises(RuntimeError, match=f"'{key}' was deleted, renamed or analysed again"):
        list(steps)
    dataset.reload()
    assert sorted(dataset.get_field_schema(flat=True)) == schema
    assert dataset.list_saved_views() == []
    assert job.summary is None


@pytest.mark.parametrize("key", ["a", "m", "b"])
@pytest.mark.parametrize("cut_short", [False, True])
def test_renaming_one_of_the_models(make_runs, key, cut_short, monkeypatch):
    networks = {"a": LATE, "m": EARLY, "b": MOVED}
    dataset = make_runs(networks, 8)
    compare(dataset, list(networks), models=networks)
    before = json.dumps(dataset.load_run_results("a").compare)
    views = dataset.list_saved_views()
    members = [dataset.load_saved_view(v).values("id") for v in views]
    assert "a vs b: evidence moved" in views
    renaming = inner("runs.rename")
    if cut_short and key != "a":

        def killed(*arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(inner("runs.record"), "rename", killed)
        monkeypatch.setattr(renaming, "_rename_comparison", killed)
        with pytest.raises(KeyboardInterrupt):
            operator("rename_cam_run")(dataset, key, "new")
        monkeypatch.undo()
        dataset.reload()
    operator("rename_cam_run")(dataset, key, "new")

    def now(text):
        return re.sub(rf"(?<![a-zA-Z0-9]){key}(?![a-zA-Z0-9'])", "new", text)

    keys = [now(k) for k in networks]
    first, last = keys[0], keys[-1]
    assert dataset.list_saved_views() == sorted(now(v) for v in views)
    assert members == [dataset.load_saved_view(now(v)).values("id") for v in views]
    described = dataset.get_field(f"{first}_{last}_agreement").description
    assert described == f"Rank correlation of the maps of {first} and {last} for the same class"
    assert len(dataset.exists(f"{first}_{last}_agreement")) == 8
    stored = dataset.load_run_results(first).compare
    assert stored["cam_keys"] == stored["models"]["keys"] == stored["agreement"]["labels"] == keys
    assert [row["cam_key"] for row in stored["models"]["trend"]] == keys
    assert stored["models"]["successive"][1]["from"] == keys[1]
    assert stored["recommendation"]["sentence"].startswith(f"{first} vs {last}: ")
    assert stored["models"]["sentences"][-1].startswith(
        f"Agreement with the maps of {last}: {first} "
    )
    assert stored["fields"] == [f"{first}_{last}_agreement"]
    assert list(stored["settings"]["models"]) == keys
    if key != "a":  # as a word, "a" is in every sentence
        assert json.loads(now(before)) == stored
    record = inner("compare.schema").RECORDS.record_of(dataset, first)
    assert record["cam_keys"] == record["settings"]["cam_keys"] == keys
    assert record["fields"] == [f"{first}_{last}_agreement"]
    operator("delete_cam_run")(dataset, first)
    assert dataset.list_saved_views() == []
    assert not [f for f in dataset.get_field_schema() if f.endswith("_agreement")]


def test_a_picture_that_is_gone(make_runs):
    networks = {"a": EARLY, "b": LATE}
    dataset = make_runs(networks, 6)
    first = dataset.first()
    os.remove(first.filepath)
    summary = compare(dataset, ["a", "b"], models=networks)
    assert [f["id"] for f in summary.failed] == [first.id]
    assert summary.samples == 5
    assert first.id not in dataset.exists("a_b_agreement").values("id")


def test_wrong_models(make_runs, tmp_path):
    networks = {"a": EARLY, "b": LATE}
    dataset = make_runs(networks, 4)
    cams(dataset, ["gradcam"], "c", MOVED)
    keys = ["a", "b"]
    with pytest.raises(ValueError, match="models must be a dict"):
        compare(dataset, keys, models=[EARLY, LATE])
    with pytest.raises(ValueError, match=r"models: 'bb' is none .* \(did you mean b"):
        compare(dataset, keys, models={"a": EARLY, "bb": LATE})
    with pytest.raises(ValueError, match="two or more, got 'a' alone"):
        compare(dataset, ["a"], models={"a": EARLY})
    with pytest.raises(
        ValueError, match=r"models\['b'\]: the heatmaps of 'b' are of other weights"
    ):
        compare(dataset, keys, models={"a": EARLY, "b": EARLY})
    with pytest.raises(ValueError, match="of the run 'b', .* was given from Python"):
        compare(dataset, keys, models={"a": EARLY})
    with pytest.raises(ValueError, match="no class-discriminative method in common"):
        compare(dataset, ["a", "c"], models={"a": EARLY, "c": MOVED})
    with pytest.raises(ValueError, match=r"classes: the run 'b' was computed with 2 names"):
        compare(
            dataset, keys, models=networks, classes={"a": CLASSES, "b": ["minus", "plus"]},
        )  # fmt: skip
    with pytest.raises(ValueError, match="no entry for 'b'"):
        compare(dataset, keys, models=networks, transforms={"a": to_tensor})
    with pytest.raises(ValueError, match="models= or model=, not both"):
        operator("compare_cams")(dataset, keys, EARLY, models=networks)
    with pytest.raises(ValueError, match="budget"):
        compare(dataset, keys, models=networks, budget=3)
    assert dataset.get_field("a_b_agreement") is None


def test_the_planted_region_moves_where_it_should():
    """The truth of these tests: the plane that the network reads."""
    rows = np.flatnonzero((MOVED.plane.detach().numpy() > 0).any(1))
    assert rows.tolist() == [r % SIDE for r in range(TOP + 12, TOP + 12 + SIZE)]
