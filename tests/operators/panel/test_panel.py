"""What the panel shows, against counts made by hand; and what its clicks select."""

import base64
import collections
import html
import io
import json
import os
import re
import types

import numpy as np
import panel_common
import pytest
from bias_common import BACKGROUND, find, inner
from bson import ObjectId
from panel_common import CLASSES, FIELDS, KEY, ON_OBJECT, RELIES, make_run
from PIL import Image
from processes_common import run_python

COUNT = 160


def run_of(dataset, key=KEY):
    return inner("runs.run").Run.open(dataset, key)


@pytest.fixture
def analysed(make_dataset, photos, plugin):
    dataset = make_dataset()
    ids, columns = make_run(dataset, [photo["path"] for photo in photos], COUNT)
    return dataset, ids, columns


@pytest.fixture
def relies(analysed):
    return analysed[2]["swap_drop"] >= 0.5


# overview


def test_facts_and_findings(analysed, relies):
    dataset, _, _ = analysed
    overview, analysis = inner("panel.overview_tab"), inner("panel.analysis")
    assert overview.run_choices(dataset) == [{"key": KEY, "label": "net  (finished)"}]
    facts = {row["what"]: row["value"] for row in overview.facts(run_of(dataset))}
    assert facts["Model"] == "resnet18-imagenet-torch"
    assert facts["Samples"] == "160 of 160"
    assert facts["Fields"] == ", ".join(FIELDS)
    summary = analysis.bias_of(run_of(dataset))
    assert summary.lines()[0].startswith(f"net: the score of {relies.sum()} of 160")
    counts, left_out = analysis.verdict_counts(run_of(dataset))
    assert counts[RELIES] == relies.sum()
    assert sum(counts.values()) == COUNT
    assert left_out == 0


def test_the_newest_run_comes_first(analysed):
    dataset, _, _ = analysed
    record = inner("runs.record")
    record.register(dataset, "later", {"model": "m"}, [])
    record.update(dataset, "later", started="2999-01-01T00:00:00+00:00")
    assert [r["key"] for r in inner("panel.overview_tab").run_choices(dataset)] == ["later", KEY]
    # a run without results, as one that just began
    state, data = inner("panel.frame").fill(run_of(dataset, "later"), "see", {})
    assert state["bias_status"] is None
    assert {"what": "Fields", "value": "none left"} in data["facts"]


def told(dataset, **changes):
    """The story of the run, with other values of its summary."""
    story, analysis = inner("panel.story"), inner("panel.analysis")
    summary = analysis.bias_of(run_of(dataset))
    for name, value in changes.items():
        setattr(summary, name, value)
    counts, left_out = analysis.verdict_counts(run_of(dataset))
    return story.tell(run_of(dataset), summary, changes.get("verdicts", counts), left_out, True)


def test_three_sentences_and_one_step(analysed, relies):
    dataset, _, _ = analysed
    sentences, step = told(dataset)
    share = f"{100 * relies.sum() / COUNT:.0f}\u00a0%"
    assert sentences == [
        "The heatmaps show where resnet18-imagenet-torch looked on 160 images; 1 image failed.",
        f"On {relies.sum()} of the 160 images tested the score depends on the background ({share}).",
        "It concerns 7 of the 8 classes that can be judged, waterbird most.",
    ]
    assert (step["event"], step["params"]) == ("on_queue", {"kind": "wrong_reason"})
    sentences, step = told(dataset, verdicts={ON_OBJECT: 160})
    assert sentences[1].startswith("On none of the 160 images tested")
    assert "no proof" in sentences[2]
    assert step["params"] == {"kind": "weakest"}
    sentences, step = told(dataset, tested=0)
    assert "could not be tested" in sentences[1]
    assert step["event"] == "on_region"
    story, run = inner("panel.story"), run_of(dataset)
    sentences, step = story.tell(run, None, {}, 0, False)
    assert "was not tested yet" in sentences[1]
    assert step["event"] == "on_examine"
    inner("runs.record").update(
        dataset, KEY, status="interrupted", progress={"done": 40, "total": 160}
    )
    sentences, step = story.tell(run_of(dataset), None, {}, 0, False)
    assert "looked on 40 of 160 images" in sentences[0]
    assert step["event"] == "on_run_again"
    panel = cam_panel().CamPanel()
    events = ("on_queue", "on_region", "on_examine", "on_run_again", "on_compare", "on_tab")
    assert all(callable(getattr(panel, event)) for event in events)


def test_measures_have_their_intervals(analysed):
    summary = inner("panel.analysis").bias_of(run_of(analysed[0]))
    rows = inner("panel.story").measures(summary)
    assert rows[0] == {
        "what": "Accuracy", "value": "80\u00a0%", "interval": "75\u00a0%\u00a0to\u00a085\u00a0%", "n": "160",
    }  # fmt: skip
    assert len(rows) == 4


def test_portraits_are_of_the_most_frequent_classes(analysed):
    dataset, ids, _ = analysed
    portraits = inner("panel.portraits")
    rows = portraits.sampled(run_of(dataset))
    assert sorted(row["id"] for row in rows) == sorted(ids)
    found = portraits.portraits(run_of(dataset), rows)
    guesses = collections.Counter(dataset.values("net_prediction.label"))
    expected = sorted(guesses, key=lambda label: (-guesses[label], label))[:6]
    assert [p["label"] for p in found] == expected
    assert f"{guesses[expected[0]]} of 160 samples" in found[0]["text"]
    # the mean map, hot where the stored maps of this class are
    samples = [row["id"] for row in rows if row["label"] == expected[0]][:8]
    view = dataset.select(samples)
    mean = np.mean([s[FIELDS[0]].map / 255 for s in view], 0)
    picture = opened(found[0]["picture"])
    assert picture.shape == (104 + 22, 6 * 108 - 4, 3), "with the scale below"
    y, x = np.unravel_index(mean.argmax(), mean.shape)
    tile = picture[:104, :104].astype(int).sum(-1)
    hot = tile[round((y + 0.5) * 104 / 24), round((x + 0.5) * 104 / 32)]
    assert hot > 0.8 * tile.max()
    weak = portraits.weakest(rows)
    peaks = dict(zip(ids, dataset.values(f"{FIELDS[0]}.peak"), strict=True))
    assert [row["id"] for row in weak] == sorted(ids, key=peaks.get)[:3]


def test_portraits_are_of_the_class_that_the_heat_explains(analysed):
    """Which the run's targets may say, whatever was predicted; and no mean map is too faint to be drawn."""
    dataset, ids, _ = analysed
    portraits, views = inner("panel.portraits"), inner("panel.views")
    assert portraits._mean_map(run_of(dataset), ids[:8]).max() == pytest.approx(1)
    dataset.set_values(f"{FIELDS[0]}.target", ["star"] * len(ids))
    rows = portraits.sampled(run_of(dataset))
    assert {row["label"] for row in rows} == {"star"}
    assert views.explained_view(run_of(dataset), "star").values("id") == ids
    guess = dataset.first()["net_prediction"].label
    assert not len(views.explained_view(run_of(dataset), guess))


def test_of_many_small_classes_there_is_one_portrait(analysed):
    dataset, ids, _ = analysed
    portraits, views = inner("panel.portraits"), inner("panel.views")
    rows = [{**row, "label": row["id"]} for row in portraits.sampled(run_of(dataset))]
    (found,) = portraits.portraits(run_of(dataset), rows)
    assert found["label"] is None
    assert "no class has 3 of the 160 samples" in found["text"]
    assert opened(found["picture"]).shape == (104 + 22, 6 * 108 - 4, 3)
    assert views.explained_view(run_of(dataset), None).values("id") == ids


def test_a_part_of_the_page_opens_and_closes(analysed):
    dataset, _, _ = analysed
    state, data, _ = call("on_tab", dataset, {"tab": "test"})
    assert "points" not in data, "charts that are folded are not computed"
    state, data, _ = call("on_fold", dataset, {"part": "heat"}, state)
    assert "points" in data
    assert "points" in elements(dataset, state)
    # two clicks, the second sent before the first was answered
    late, _, _ = call("on_fold", dataset, {"part": "details"}, {**state, "open": {}})
    assert late["open"] == {"details": True}, "which says nothing of the other"
    state, _, _ = call("on_fold", dataset, {"part": "heat"}, state)
    assert "points" not in elements(dataset, state)


# bias


def test_class_bars_are_what_was_stored(analysed):
    dataset, _, columns = analysed
    bars = inner("panel.bias_tab").class_bars(
        run_of(dataset), inner("panel.analysis").bias_of(run_of(dataset))
    )
    assert [b["label"] for b in bars] == CLASSES
    first = columns["bg_gap"][columns["kind"] == 0]
    assert bars[0]["mean"] == pytest.approx(first.mean())
    assert bars[0]["low"] < first.mean() < bars[0]["high"]
    assert bars[0]["flagged"]
    assert not bars[-1]["flagged"]


def test_heat_points_and_calibration(analysed, relies):
    dataset, ids, columns = analysed
    points = inner("panel.bias_tab").heat_points(run_of(dataset))
    order = [ids.index(i) for i in points["ids"]]
    assert sorted(order) == list(range(COUNT))
    np.testing.assert_allclose(points["area"], columns["object_area"][order], atol=1e-4)
    np.testing.assert_allclose(points["energy"], columns["obj_energy"][order], atol=1e-4)
    assert points["rests"] == np.where(relies, "background", "object")[order].tolist()

    suspicion = columns["suspicion"]
    place = np.minimum((suspicion * 5).astype(int), 4)
    bins = inner("panel.bias_tab").calibration_bins(run_of(dataset))
    assert sum(b["n"] for b in bins) == COUNT
    for row in bins:
        mine = place == round(row["low"] * 5)
        assert row["n"] == mine.sum()
        assert row["expected"] == pytest.approx(suspicion[mine].mean())
        assert row["confirmed"] == pytest.approx(relies[mine].mean())


def test_evidence_table(analysed, relies):
    dataset, _, columns = analysed
    summary = inner("panel.analysis").bias_of(run_of(dataset))
    counts = inner("panel.analysis").evidence_counts(run_of(dataset), summary)
    assert counts["right_background"] == (columns["correct"] & relies).sum()
    rows = inner("panel.bias_tab").evidence_rows(counts)
    assert rows[0] == {
        "prediction": "right", "object": f"{(columns['correct'] & ~relies).sum()}",
        "background": f"{(columns['correct'] & relies).sum()}",
    }  # fmt: skip


@pytest.mark.parametrize("unsure", [0, 7])
def test_counts_of_the_evidence_add_up(plugin, unsure):
    counts = {
        "right_object": 24, "right_background": 22, "wrong_object": 21, "wrong_background": 3,
        "unknown": unsure,
    }  # fmt: skip
    said = inner("panel.bias_tab").evidence_sum(counts)
    assert f"{70 + unsure} tested samples" in said
    assert ("7 undecided" in said) == bool(unsure)
    draw = inner("panel.frame").draw
    state = {
        "runs": [{"key": "run", "label": "run"}], "key": "run", "tab": "test",
        "bias_status": "finished", "has_evidence": True, "evidence_sum": said,
    }  # fmt: skip
    assert said in json.dumps(draw(cam_panel().CamPanel(), state).to_json())


def test_blind_spots_name_what_was_not_tested(analysed):
    dataset, _, _ = analysed
    summary = inner("panel.analysis").bias_of(run_of(dataset))
    summary.skipped = {"no object": 7}
    summary.classes[0]["note"] = "too few"
    text = " ".join(inner("panel.bias_tab").blind_spots(summary))
    assert "7 of 160 samples were not tested (7 no object)" in text
    assert "no judgement: waterbird." in text


def test_an_analysis_of_objects_says_what_it_counts(analysed, relies):
    """The summary of a detector counts objects; bars and clicks count samples."""
    dataset, _, _ = analysed
    results, fill = inner("runs.results"), inner("panel.frame").fill
    stored = results.load_results(dataset, KEY)["bias"]
    classes = [{**row, "note": "too few"} for row in stored["classes"]]
    changes = {
        "unit": "objects", "units": 300, "tested": 50, "verdicts": {RELIES: 45, "cannot say": 255},
        "skipped": {"not found": 250}, "classes": classes,
    }  # fmt: skip
    results.save_results(dataset, KEY, bias={**stored, **changes})
    state, _ = fill(run_of(dataset), "see", {})
    assert state["sentences"][1].startswith("On 45 of the 50 objects tested the score depends")
    assert "too few objects per class" in state["sentences"][2]
    state, data = fill(run_of(dataset), "test", {"open": {"heat": True}})
    counts = {row["verdict"]: int(row["samples"]) for row in data["verdict_rows"]}
    assert counts.pop("in all") == sum(counts.values())
    assert state["verdicts"] == list(counts)
    assert counts == {RELIES: relies.sum(), ON_OBJECT: (~relies).sum()}
    for verdict, count in counts.items():
        assert len(inner("panel.views").verdict_view(run_of(dataset), verdict)) == count
    text = " ".join(state["blind"])
    assert "250 of 300 objects were not tested (250 not found)." in text
    assert "Fewer than 20 tested objects, so no judgement: waterbird," in text
    # a chart of classes of which nothing can be said would be read as if it said something
    assert state["bars_layout"] is None
    assert "It takes 20 tested objects" in state["bars_note"]
    assert "waterbird 20, landbird 20" in state["bars_note"]
    for row in classes[:3]:
        row["note"] = ""
    results.save_results(dataset, KEY, bias={**stored, **changes, "classes": classes})
    state, data = fill(run_of(dataset), "test", {})
    assert data["bars"][0]["y"] == CLASSES[2::-1]
    assert all("20 tested objects" in said for said in data["bars"][0]["hovertext"])
    assert state["bars_note"].startswith("Too little to say of: husky 20,")


def test_nothing_left_to_count_says_so(analysed):
    """Accepting every cluster emptied the table of verdicts without a word."""
    dataset, ids, columns = analysed
    every = {"$set": {"net_verdict": None, "net_bias.tested": False}}
    left = [ObjectId(i) for i, kind in zip(ids, columns["kind"], strict=True) if kind]
    dataset._sample_collection.update_many({"_id": {"$in": left}}, every)
    state, _, _ = call("on_tab", dataset, {"tab": "test"})
    assert "verdict_rows" in elements(dataset, state)
    state, _, _ = call("on_accept", dataset, {"number": 0, "accepted": True}, state)
    drawn = elements(dataset, state)
    assert "verdict_rows" not in drawn
    assert "All 20 tested samples are in groups" in drawn["all_accepted"]["view"]["description"]


def test_a_summary_of_an_earlier_version_is_of_samples(analysed):
    dataset, _, _ = analysed
    results = inner("runs.results")
    stored = dict(results.load_results(dataset, KEY)["bias"])
    del stored["unit"], stored["units"]
    results.save_results(dataset, KEY, bias=stored)
    summary = inner("panel.analysis").bias_of(run_of(dataset))
    assert (summary.unit, summary.units) == ("samples", None)


def test_points_of_no_verdict_are_undecided(analysed):
    """What is unstable when pasted, or cannot be said, was shown as resting on the object."""
    dataset, ids, _ = analysed
    verdicts = {
        ids[0]: ("unstable when pasted", "undecided"), ids[1]: ("cannot say", "undecided"),
        ids[2]: ("heat outside, harmless", "rests on object"),
        ids[3]: ("relies on background, not visible in heat", "rests on background"),
    }  # fmt: skip
    for sample_id, (verdict, _) in verdicts.items():
        change = {"$set": {"net_verdict": verdict}}
        dataset._sample_collection.update_one({"_id": ObjectId(sample_id)}, change)
    charts = inner("panel.charts")
    traces = charts.heat_chart(inner("panel.bias_tab").heat_points(run_of(dataset)))[1:]
    assert [t["name"] for t in traces] == ["undecided", "rests on object", "rests on background"]
    assert traces[0]["marker"]["color"] == charts.GREY
    assert set(traces[0]["ids"]) == {ids[0], ids[1]}
    found = {i: t["name"] for t in traces for i in t["ids"]}
    assert all(found[i] == name for i, (_, name) in verdicts.items())
    assert len(found) == COUNT


# clicks


def selected(view, ids):
    return [ids.index(i) for i in view.values("id")]


def test_views_behind_the_numbers(analysed, relies):
    dataset, ids, columns = analysed
    views, drop = inner("panel.views"), columns["swap_drop"]
    rows = selected(views.class_view(run_of(dataset), CLASSES[2]), ids)
    assert set(rows) == set(np.flatnonzero(columns["kind"] == 2))
    assert drop[rows].tolist() == sorted(drop[rows], reverse=True)
    rows = selected(views.verdict_view(run_of(dataset), RELIES), ids)
    assert set(rows) == set(np.flatnonzero(relies))
    for right in (True, False):
        for background in (True, False):
            rows = selected(views.evidence_view(run_of(dataset), right, background), ids)
            mine = (columns["correct"] == right) & (relies == background)
            assert set(rows) == set(np.flatnonzero(mine))
    rows = selected(views.suspicion_view(run_of(dataset), 0.8, 1.0), ids)
    assert set(rows) == set(np.flatnonzero(columns["suspicion"] >= 0.8))
    assert selected(views.chosen_view(dataset, [ids[5], ids[2]]), ids) == [5, 2]


def test_samples_without_a_label_count_for_the_explained_class(analysed):
    dataset, ids, _ = analysed
    dataset._sample_collection.update_one(
        {"_id": ObjectId(ids[0])}, {"$set": {"net_bias.label": None, "net_bias.explained": "boat"}}
    )
    assert ids[0] in inner("panel.views").class_view(run_of(dataset), "boat").values("id")
    assert ids[0] not in inner("panel.views").class_view(run_of(dataset), CLASSES[0]).values("id")


# clusters


def test_accepted_samples_no_longer_count(analysed, relies):
    dataset, ids, columns = analysed
    clusters, views = inner("panel.clusters_tab"), inner("panel.views")
    found = clusters.clusters_of(run_of(dataset))
    mine = columns["kind"] == 0
    assert found[0]["ids"] == [ids[i] for i in np.flatnonzero(mine)]
    clusters.name_cluster(run_of(dataset), 0, "  water  ")
    clusters.accept(run_of(dataset), 0)
    found = clusters.clusters_of(run_of(dataset))
    assert found[0]["name"] == "water"
    assert found[0]["accepted"]
    assert not found[1]["accepted"]
    assert {str(i) for i in clusters.accepted_ids(run_of(dataset))} == set(found[0]["ids"])

    analysis = inner("panel.analysis")
    summary = analysis.bias_of(run_of(dataset))
    counts, left_out = analysis.verdict_counts(run_of(dataset))
    assert left_out == mine.sum()
    assert counts[RELIES] == (relies & ~mine).sum()
    evidence = analysis.evidence_counts(run_of(dataset), summary)
    assert evidence["wrong_background"] == (~columns["correct"] & relies & ~mine).sum()
    assert evidence["right_object"] == (columns["correct"] & ~relies & ~mine).sum()
    assert len(views.verdict_view(run_of(dataset), RELIES)) == (relies & ~mine).sum()
    assert len(inner("panel.bias_tab").heat_points(run_of(dataset))["ids"]) == COUNT - mine.sum()
    assert (
        sum(b["n"] for b in inner("panel.bias_tab").calibration_bins(run_of(dataset)))
        == COUNT - mine.sum()
    )
    # the classes are judged again, from the stored effects
    bars = {b["label"]: b for b in inner("panel.bias_tab").class_bars(run_of(dataset), summary)}
    assert CLASSES[0] not in bars
    second = columns["bg_gap"][columns["kind"] == 1]
    assert bars[CLASSES[1]]["mean"] == pytest.approx(second.mean())
    assert bars[CLASSES[1]]["n"] == len(second)
    assert bars[CLASSES[1]]["flagged"]
    shown = inner("panel.samples_tab").table(run_of(dataset), "dependent", COUNT)
    assert len(shown) == COUNT - mine.sum()

    clusters.accept(run_of(dataset), 0, accepted=False)
    assert clusters.accepted_ids(run_of(dataset)) == []
    assert clusters.clusters_of(run_of(dataset))[0]["name"] == "water"


def test_a_cluster_that_is_not_there(analysed):
    with pytest.raises(ValueError, match="has clusters 0 to 3, got 9"):
        inner("panel.clusters_tab").accept(run_of(analysed[0]), 9)


def test_clusters_stored_without_members_have_their_typical_ones():
    assert inner("panel.clusters_tab").members({"ids": ["a", "b"]}) == ["a", "b"]


def opened(uri):
    kind, _, text = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_a_strip_shows_the_mean_map_and_the_photos(analysed, tmp_path):
    dataset, ids, _ = analysed
    clusters = inner("panel.clusters_tab")
    red, gone = tmp_path / "red.png", tmp_path / "gone.png"
    Image.new("RGB", (60, 40), (255, 0, 0)).save(red)
    paths = {ids[0]: str(red), ids[8]: str(gone)}
    dataset.set_values("filepath", paths, key_field="id")
    mean = np.zeros((14, 14))
    mean[:4, :4] = 1
    picture = opened(
        clusters.strip(run_of(dataset), {"mean_map": mean.tolist(), "typical": [ids[0], ids[8]]})
    )
    tile = clusters.TILE
    scale = picture[tile:]
    assert scale.shape == (22, 10 * (tile + 4) - 4, 3)
    assert scale.max() > 200, "the scale of the heat is below"
    picture = picture[:tile]
    hottest = np.abs(picture[10, 10].astype(int) - [255, 243, 184])
    assert hottest.max() < 15, "hot where the mean map is"
    assert picture[-10, tile - 10].max() < 60, "dark where it is not"
    # the photo without heat in its lower right corner, then nothing: the second file is gone
    assert picture[-5, 2 * tile - 2].tolist()[0] > 240
    assert picture[-5, 2 * tile - 2].tolist()[2] < 20
    assert picture[:, 2 * (tile + 4) + 8 :].max() < 60


def test_overlaid_mixes_by_the_heat():
    photo, drawn = Image.new("RGB", (4, 2), (0, 0, 0)), inner("data.drawn")
    heat = np.array([[0, 1.0]]).repeat(2, 0)
    mixed = np.asarray(drawn.overlaid(photo, heat, drawn_look("fade")))
    assert mixed[0, 0].tolist() == [0, 0, 0]
    assert mixed[0, 3].tolist() == [178, 43, 0]
    mixed = np.asarray(drawn.overlaid(photo, heat, drawn_look("fire")))
    assert mixed[0, 0].tolist() == [0, 0, 0]
    assert mixed[0, 3].tolist() == [178, 170, 129]


def drawn_look(ramp):
    """A look as the plugin's own copy of the code knows it."""
    return inner("runs.look").Look(ramp, 0.7, 0.33)


# methods


def test_leaderboard_and_matrix(analysed):
    dataset, ids, _ = analysed
    methods = inner("panel.methods_tab")
    comparison = methods.comparison_of(run_of(dataset))
    columns, rows = methods.leaderboard(comparison)
    assert [name for name, _ in columns] == [
        "rank", "method", "metric_deletion", "metric_insertion", "seconds",
    ]  # fmt: skip
    assert dict(columns)["metric_deletion"] == "Deletion (lower is better)"
    assert rows[0] == {
        "rank": "1", "method": "gradcam, layer4", "metric_deletion": "0.210 (0.190 to 0.230)",
        "metric_insertion": "0.590 (0.570 to 0.610)", "seconds": "0.050",
    }  # fmt: skip
    assert rows[3]["rank"] == "floor"
    assert methods.field_of_row(comparison, 3) is None
    matrix = methods.matrix(comparison, "spearman")
    assert matrix["values"][0][2] == 0.31
    assert matrix["floor"] == 0.05
    assert methods.pair_ids(comparison, FIELDS[2], FIELDS[0]) == ids[5:12]
    assert methods.pair_ids(comparison, FIELDS[1], FIELDS[2]) == []
    assert methods.cost_sentence(comparison) == (
        "Measured on 40 samples of 160, 8,000 forward passes, 92 s."
    )
    # the picture has the first method on top, as the numbers have it first
    trace = inner("panel.charts").agreement_chart(matrix, "x")[0]
    assert trace["y"][-1] == trace["x"][0] == "gradcam"
    assert trace["z"][-1] == [1.0, 0.82, 0.31]


def test_checkpoints_are_shown(analysed):
    dataset, _, _ = analysed
    results = inner("runs.results")
    stored = results.load_results(dataset, KEY)["compare"]
    half = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 40}
    trend = [
        {"cam_key": "first", "agreement": half, "score": half, "accuracy": half, "heat_on_objects": None},
        {"cam_key": KEY, "agreement": None, "score": half, "accuracy": None, "heat_on_objects": half},
    ]  # fmt: skip
    models = {"trend": trend, "sentences": ["The evidence moved from the bird to the water."]}
    state, data, _ = call("on_tab", dataset, {"tab": "compare"})
    assert "trend_rows" not in elements(dataset, state), "of one model there is none"
    results.save_results(dataset, KEY, compare={**stored, "models": models})
    state, data, _ = call("on_tab", dataset, {"tab": "compare"})
    assert data["trend_rows"] == [
        {"model": "first", "agreement": "0.500 (0.400 to 0.600)", "score": "0.500 (0.400 to 0.600)",
         "accuracy": "0.500 (0.400 to 0.600)", "heat": ""},
        {"model": KEY, "agreement": "", "score": "0.500 (0.400 to 0.600)", "accuracy": "",
         "heat": "0.500 (0.400 to 0.600)"},
    ]  # fmt: skip
    drawn = elements(dataset, state)
    assert "trend_rows" in drawn
    assert "moved from the bird" in drawn["models"]["default"]


def test_hottest_pixels_are_as_many_as_are_compared():
    from inspect import signature

    from cam_core import agreement

    assert signature(agreement).parameters["top"].default == 1 / 5
    assert inner("panel.methods_tab").MEASURES["top_iou"][1].endswith("hottest fifth")


def test_a_comparison_stored_with_another_run(analysed):
    dataset, _, _ = analysed
    results = inner("runs.results")
    inner("runs.record").register(dataset, "second", {"model": "m"}, [])
    assert inner("panel.methods_tab").comparison_of(run_of(dataset, "second")) is None
    stored = results.load_results(dataset, KEY)["compare"]
    results.save_results(dataset, KEY, compare={**stored, "cam_keys": [KEY, "second"]})
    found = inner("panel.methods_tab").comparison_of(run_of(dataset, "second"))
    assert "run" in dict(inner("panel.methods_tab").leaderboard(found)[0])


# samples


def test_a_sample_of_which_nothing_can_be_said_says_why():
    cell = inner("panel.samples_tab")._verdict
    reason = "unsure (0.09): the score is too low to judge; the score stays"
    assert cell("cannot say", reason) == "cannot say: unsure (0.09)"
    assert len(cell("cannot say", "x" * 500)) < 80
    assert cell("cannot say", None) == "cannot say"
    assert cell(RELIES, reason) == RELIES
    assert cell(None, None) == ""


def test_most_telling_samples(analysed, relies):
    dataset, ids, columns = analysed
    samples, drop = inner("panel.samples_tab"), columns["swap_drop"]
    assert samples.kinds_of(run_of(dataset)) == [
        "wrong_reason", "dependent", "mistakes", "surest", "weakest",
    ]  # fmt: skip
    rows = samples.table(run_of(dataset), "wrong_reason")
    mine = np.flatnonzero(relies & columns["correct"])
    expected = sorted(mine, key=lambda i: -drop[i])[:25]
    assert drop[[ids.index(r["id"]) for r in rows]].tolist() == drop[expected].tolist()
    first = ids.index(rows[0]["id"])
    assert rows[0]["lost"] == f"{drop[first]:.2f}"
    assert rows[0]["heat"] == f"{100 * columns['obj_energy'][first]:.0f} %"
    assert rows[0]["verdict"] == RELIES
    surest = samples.table(run_of(dataset), "surest", 1)[0]["id"]
    assert surest == ids[int(columns["score"].argmax())]
    assert samples.table(run_of(dataset), "weakest", 1)[0]["id"] == ids[int(drop.argmin())]
    assert [r["order"] for r in rows] == drop[expected].tolist()
    said = samples.card_text(3, rows[0], "wrong_reason")
    assert said.startswith(f"**3. {rows[0]['file']}** · dependence {drop[first]:.2f}")
    assert f"Loses {drop[first]:.2f} of its score" in said
    assert RELIES not in said, "all of the queue have it"
    assert RELIES in samples.card_text(3, rows[0], "dependent")


def test_the_queue_has_pictures(analysed, tmp_path):
    dataset, _, _ = analysed
    state, data = inner("panel.samples_tab").fill(run_of(dataset), {"kind": "weakest"}, True)
    assert state["pictured"] == [True] * 12
    assert len(state["sample_ids"]) == 25
    assert opened(data["card_0.picture"]).shape == (104, 104, 3)
    gone = {state["sample_ids"][1]: str(tmp_path / "gone.png")}
    dataset.set_values("filepath", gone, key_field="id")
    state, data = inner("panel.samples_tab").fill(run_of(dataset), {"kind": "weakest"}, True)
    assert state["pictured"][:3] == [True, False, True]
    drawn = elements(
        dataset, {"runs": [{"key": KEY, "label": KEY}], "key": KEY, "tab": "samples", **state}
    )
    assert "picture" in drawn["card_0"]["type"]["properties"]
    assert "picture" not in drawn["card_1"]["type"]["properties"]


# the panel itself


def call(method, dataset, params=None, state=None, active=()):
    """One event of the panel: (state afterwards, data, what the App is told)."""
    from fiftyone.operators.executor import ExecutionContext

    panel = cam_panel().CamPanel()
    event = {"__method__": method, "panel_id": "p", "panel_state": dict(state or {})}
    ctx = ExecutionContext(
        {
            "dataset_name": dataset.name,
            "params": {**(params or {}), **event},
            "active_fields": list(active),
        },
        operator_uri="@cam51/heatmaps/cam_panel",
        required_secrets=[],
    )
    sent = []
    ctx.trigger = lambda name, params=None: sent.append((name, params))
    panel.execute(ctx)
    call.told = [name for name, _ in sent]
    data = {}
    for name, told in sent:
        if name == "patch_panel_data":
            data.update(told.get("data", told))
    return dict(ctx.panel.state._data), data, dict(sent)


def cam_panel():
    return inner("panel.panel")


@pytest.mark.parametrize("tab", ["see", "test", "compare", "samples"])
def test_every_tab_is_filled_and_drawn(analysed, tab):
    dataset, _, _ = analysed
    state, _, sent = call("on_tab", dataset, {"tab": tab})
    assert state["key"] == KEY
    assert state["tab"] == tab
    assert "patch_panel_data" in sent
    # what travels with every event stays small
    assert len(json.dumps(state)) < 12_000


def test_choices_that_are_drawn_anew_choose_nothing(analysed):
    """The App reports every choice whenever it draws it, and draws the panel for every answer."""
    dataset, _, _ = analysed
    state, _, _ = call("on_load", dataset)
    for method, value in (("on_run", KEY), ("on_same_scale", False)):
        same, _, sent = call(method, dataset, {"value": value}, state)
        assert same == state
        assert sent == {}
    state, _, _ = call("on_tab", dataset, {"tab": "compare"}, state)
    _, _, sent = call("on_measure", dataset, {"value": "spearman"}, state)
    assert sent == {}
    state, _, sent = call("on_measure", dataset, {"value": "ssim"}, state)
    assert state["measure"] == "ssim"
    assert {"patch_panel_data", "show_panel_output"} <= set(sent)


def test_verdicts_are_counted_without_reading_samples(analysed, relies):
    """Their documents hold the maps: of 100,000 samples a gigabyte and more."""
    dataset, _, _ = analysed
    database = dataset._sample_collection.database
    database.command("profile", 2)
    try:
        counts, _ = inner("panel.analysis").verdict_counts(run_of(dataset))
    finally:
        database.command("profile", 0)
    asked = [
        *database["system.profile"].find({"op": "command", "command.aggregate": {"$ne": None}})
    ]
    assert counts == {RELIES: relies.sum(), ON_OBJECT: (~relies).sum()}
    asked = [a for a in asked if a["ns"].endswith(dataset._sample_collection_name)]
    assert [a["docsExamined"] for a in asked] == [0]
    assert asked[0]["keysExamined"] >= COUNT


OPENED = """
import sys
import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators.executor import ExecutionContext

panel = foo.get_operator("@cam51/heatmaps/cam_panel")
for tab in ("see", "test", "compare", "samples"):
    params = {"__method__": "on_tab", "tab": tab, "panel_id": "p", "panel_state": {}}
    ctx = ExecutionContext({"dataset_name": sys.argv[1], "params": params})
    ctx.trigger = lambda name, params=None: None
    panel.execute(ctx)
    assert ctx.panel.get_state("bias_status") == "finished", ctx.panel.state._data
print("torch" in sys.modules)
"""


def test_a_fresh_server_opens_it_without_torch(analysed):
    """PyTorch takes seconds to load, which whoever opens the panel first would wait for."""
    dataset, _, _ = analysed
    assert run_python(OPENED, dataset.name).split()[-1] == "False"


@pytest.fixture
def two(analysed):
    """Two runs, the newer one without results: (dataset, state of a panel that shows the newer)."""
    dataset, _, _ = analysed
    record = inner("runs.record")
    record.register(dataset, "later", {"model": "m"}, ["later_gradcam"])
    record.update(dataset, "later", started="2999-01-01T00:00:00+00:00", status="finished")
    state, _, _ = call("on_load", dataset)
    assert state["key"] == state["top"]["run"] == "later"
    return dataset, state


def test_a_button_acts_on_the_run_that_the_selector_shows(two):
    """The App has what was chosen at once, the panel when it was told."""
    dataset, state = two
    _, _, sent = call("on_run_delete", dataset, {}, {**state, "top": {"run": KEY}})
    assert sent["prompt_user_for_operation"]["params"] == {"cam_key": KEY}
    _, _, sent = call("on_run_delete", dataset, {}, state)
    assert sent["prompt_user_for_operation"]["params"] == {"cam_key": "later"}


def test_the_selector_follows_a_run_that_is_gone_or_renamed(two):
    dataset, state = two
    inner("runs.info").delete(dataset, "later")
    after, _, sent = call("on_changed", dataset, {}, state)
    assert after["key"] == after["top"]["run"] == KEY
    assert FIELDS[0] in sent["set_active_fields"]["fields"], "the grid shows what the panel shows"
    inner("runs.rename").rename_run(dataset, KEY, "other", {})
    result = {"result": {"cam_key": "other", "fields": {}}}
    after, _, _ = call("on_renamed", dataset, result, after)
    assert after["key"] == after["top"]["run"] == "other"


def test_nothing_is_done_to_another_run_than_the_one_shown(two):
    dataset, state = two
    inner("runs.info").delete(dataset, "later")
    after, _, sent = call("on_run_delete", dataset, {}, state)
    assert "prompt_user_for_operation" not in sent
    assert "The run later is gone" in sent["notify"]["message"]
    assert after["key"] == KEY
    import fiftyone.operators as foo

    ctx = foo.executor.ExecutionContext(
        {"dataset_name": dataset.name, "params": {"cam_key": "later"}}
    )
    form = foo.get_operator("@cam51/heatmaps/delete_cam_run").resolve_input(ctx).to_json()
    assert form["type"]["properties"]["cam_key"]["invalid"]
    assert "notice" not in form["type"]["properties"]


def test_choosing_a_run_switches_the_grid(two):
    dataset, state = two
    shown = ["label", "later_gradcam"]
    after, _, sent = call("on_run", dataset, {"value": KEY}, {**state, "top": {"run": KEY}}, shown)
    assert after["key"] == KEY
    assert sent["set_active_fields"]["fields"] == ["label", FIELDS[0], f"{KEY}_verdict"]
    # kept for the next time; a reload would put back the App's own colours
    assert "reload_dataset" not in call.told
    dataset.reload()
    assert FIELDS[0] in dataset.app_config.active_fields.paths
    assert "later_gradcam" not in dataset.app_config.active_fields.paths


def test_a_heading_is_no_row(analysed):
    dataset, _, _ = analysed
    state, _, _ = call("on_tab", dataset, {"tab": "test"})
    _, _, sent = call("on_verdict", dataset, {"row": -1}, state)
    assert "set_view" not in sent
    _, _, sent = call("on_verdict", dataset, {"row": 0}, state)
    assert RELIES in str(sent["set_view"])


def test_shares_of_verdicts_are_drawn_and_written():
    rows = inner("panel.analysis").verdict_rows({RELIES: 900, ON_OBJECT: 99, "cannot say": 1})
    assert [row["share"] for row in rows] == ["90 %", "10 %", "< 1 %", ""]
    # what is there shows
    assert [len(row["bar"]) for row in rows] == [16, 2, 1, 0]
    assert rows[-1]["samples"] == "1,000"


def test_a_name_is_what_somebody_typed(analysed):
    """The App reports a field's value whenever it draws it: only what differs from it is a name."""
    dataset, _, _ = analysed
    state, _, _ = call("on_tab", dataset, {"tab": "test"})
    path = {"path": "cluster_1.name"}
    named, _, _ = call("on_cluster_name", dataset, {**path, "value": "water"}, state)
    assert named["clusters"][1]["name"] == "water"
    call("on_cluster_name", dataset, {**path, "value": ""}, state)  # sent before, arrived later
    clusters = inner("panel.clusters_tab")
    assert clusters.clusters_of(run_of(dataset))[1]["name"] == "water"
    _, _, sent = call("on_cluster_name", dataset, {**path, "value": " water "}, named)
    assert sent == {}  # else each answer would bring the next event
    call("on_cluster_name", dataset, {**path, "value": ""}, named)
    assert clusters.clusters_of(run_of(dataset))[1]["name"] == ""


@pytest.mark.parametrize("accepted_first", [True, False])
def test_a_name_and_a_click_right_after_it_are_answered_in_any_order(analysed, accepted_first):
    """Both were sent before either was answered, so neither event knows of the other."""
    dataset, _, _ = analysed
    state, _, _ = call("on_tab", dataset, {"tab": "test"})
    events = [
        ("on_cluster_name", {"path": "cluster_2.name", "value": "reeds"}),
        ("on_accept", {"number": 2, "accepted": True}),
    ]
    for method, params in events[:: -1 if accepted_first else 1]:
        last, _, sent = call(method, dataset, params, state)
    assert "show_panel_output" in sent
    cluster = last["clusters"][2]
    assert (cluster["name"], cluster["accepted"]) == ("reeds", True)
    assert "**reeds**" in cluster["text"]
    assert "accepted as context" in cluster["text"]
    call("on_accept", dataset, {"number": 2, "accepted": False}, state)
    call("on_cluster_name", dataset, {"path": "cluster_2.name", "value": ""}, last)


def test_a_dataset_without_anything(dataset, plugin):
    state, _, _ = call("on_load", dataset)
    assert state["runs"] == []
    assert state["samples"] is False


@pytest.mark.parametrize("tab", ["see", "test", "compare", "samples"])
def test_a_run_that_was_only_computed(make_dataset, photos, plugin, tab):
    dataset = make_dataset()
    make_run(dataset, [photos[0]["path"]], 5, analysed=False, compared=False)
    state, _, _ = call("on_tab", dataset, {"tab": tab})
    assert state["bias_status"] is None
    if tab == "samples":
        assert state["kinds"] == ["surest", "weakest"]
        assert len(state["sample_ids"]) == 5


def elements(dataset, state):
    """What the panel draws of a state, by name."""
    draw = inner("panel.frame").draw(cam_panel().CamPanel(), state)
    return draw.to_json()["type"]["properties"]


@pytest.mark.parametrize(("tab", "part"), [("compare", "compare"), ("test", "bias")])
def test_one_at_work_can_be_stopped_and_one_that_was_is_told(
    make_dataset, photos, plugin, tab, part
):
    dataset = make_dataset()
    make_run(dataset, [photos[0]["path"]], 5, analysed=False, compared=False)
    if part == "bias":
        store = inner("bias.schema")
        held = store.register(dataset, KEY, {"samples": 5})
    else:
        store = inner("compare.schema")
        held = store.register(dataset, KEY, {"samples": 5}, f"{KEY}_disagreement", FIELDS, [])
    name = f"{part}_work"
    with held:
        state, _, _ = call("on_tab", dataset, {"tab": tab})
        drawn = elements(dataset, state)
        assert "Being" in drawn[name]["view"]["label"]
        assert f"{name}_stop" in str(drawn[f"{name}_menu"])
        assert not {"no_bias", "no_comparison"} & set(drawn)
        method = "on_comparison_stop" if part == "compare" else "on_analysis_stop"
        state, _, _ = call(method, dataset, {}, state)
        assert store.RECORDS.record_of(dataset, KEY)["stop"]
        drawn = elements(dataset, state)
        assert "asked to stop" in drawn[name]["view"]["label"]
        assert f"{name}_menu" not in drawn
        store.RECORDS.finish(dataset, KEY, "interrupted", held=held)
    _, _, sent = call(method, dataset, {}, state)
    assert "is running" in sent["notify"]["message"]
    state, _, _ = call("on_tab", dataset, {"tab": tab})
    drawn = elements(dataset, state)
    assert "was stopped after" in drawn[name]["view"]["label"]
    assert drawn[name]["view"]["name"] == "Warning"
    assert {"no_bias", "no_comparison"} & set(drawn), "with the button that begins again"


def test_clicks_tell_the_app(analysed, relies):
    dataset, ids, _ = analysed
    state, _, _ = call("on_tab", dataset, {"tab": "compare"})
    _, _, sent = call(
        "on_pair", dataset, {"x": "eigencam", "y": "gradcam"}, state, ["label", "net_layercam"]
    )
    assert sent["set_active_fields"]["fields"] == ["label", FIELDS[0], FIELDS[2]]
    assert str(ids[5]) in str(sent["set_view"])
    _, _, sent = call("on_pair", dataset, {"x": "gradcam", "y": "gradcam"}, state)
    assert "set_view" not in sent
    _, _, sent = call("on_pair", dataset, {"x": "eigencam", "y": "layercam"}, state)
    assert "No samples were stored" in sent["notify"]["message"]
    _, _, sent = call("on_leader", dataset, {"row": 3}, state)
    assert "set_active_fields" not in sent, "a floor has no field"
    assert "has no heatmaps" in sent["notify"]["message"]
    for method in ("on_examine", "on_compare", "on_compute"):
        _, _, sent = call(method, dataset, {}, state)
        prompted = sent["prompt_user_for_operation"]
        assert (KEY in str(prompted["params"])) == (method != "on_compute")
        for end in ("on_success", "on_error"):  # the panel shows what became of it
            assert prompted[end].endswith("on_changed")
    _, _, sent = call("on_leader", dataset, {"row": 0}, state)
    assert sent["set_active_fields"]["fields"]
    field = sent["set_active_fields"]["fields"][0]
    dataset.rename_sample_field(field, "elsewhere")
    _, _, sent = call("on_leader", dataset, {"row": 0}, state)
    assert "set_active_fields" not in sent
    assert "were deleted" in sent["notify"]["message"]
    dataset.rename_sample_field("elsewhere", field)
    state, _, _ = call("on_tab", dataset, {"tab": "samples"})
    _, _, sent = call("on_sample", dataset, {"row": 1}, state, ["label", "net_layercam"])
    assert sent["open_sample"]["id"] == state["sample_ids"][1]
    assert call.told.index("set_active_fields") < call.told.index("open_sample")
    assert sent["set_active_fields"]["fields"] == ["label", FIELDS[0], f"{KEY}_verdict"]
    state, _, _ = call("on_tab", dataset, {"tab": "test"})
    _, _, sent = call("on_evidence", dataset, {"row": -1, "column": 0}, state)
    assert "set_view" not in sent, "a heading"
    _, _, sent = call("on_reset", dataset, {}, state)
    assert "clear_view" in sent


def test_an_analysis_as_the_operator_stores_it(agree, plugin):
    dataset = agree(48)
    find(dataset, BACKGROUND)
    fill = inner("panel.frame").fill
    state, data = fill(run_of(dataset, "run"), "see", {})
    assert state["bias_status"] == "finished"
    assert (
        state["sentences"][1]
        == "On 48 of the 48 images tested the score depends on the background (100\u00a0%)."
    )
    assert [p["label"] for p in state["portraits"]] == ["minus", "plus"]
    state, data = fill(run_of(dataset, "run"), "test", {})
    everything = {"verdict": RELIES, "samples": "48", "share": "100 %", "bar": 16 * "━"}
    assert data["verdict_rows"] == [everything]
    assert sorted(data["bars"][0]["y"]) == ["minus", "plus"]
    assert all(x > 0.5 for x in data["bars"][0]["x"])
    assert data["evidence"][0]["background"] == "48"
    assert "48 tested samples" in state["evidence_sum"]
    assert data["evidence"][0]["object"] == "0"
    _, _, sent = call("on_evidence", dataset, {"row": 0, "column": 1}, {"key": "run"})
    assert "set_view" not in sent, "an empty grid says less than a word"
    assert "No sample is there" in sent["notify"]["message"]
    _, _, sent = call("on_evidence", dataset, {"row": 0, "column": 2}, {"key": "run"})
    assert RELIES in str(sent["set_view"])
    state, data = fill(run_of(dataset, "run"), "test", {})
    assert all(opened(data[f"strip_{c['number']}"]).size for c in state["clusters"])
    state, data = fill(run_of(dataset, "run"), "samples", {})
    assert len(state["cards"]) == 12


# one scale


def test_same_scale_rewrites_the_ranges_only(analysed):
    dataset, _, _ = analysed
    scale = inner("data.same_scale")
    before = dataset.first()[FIELDS[0]].map.copy()
    peaks = np.array(dataset.values(f"{FIELDS[0]}.peak"))
    # of 160 peaks, the highest hundredth (one) may lie above
    expected = np.sort(peaks)[-2]
    found = scale.set_scale(dataset, KEY)
    assert found[FIELDS[0]] == pytest.approx(expected)
    ranges = np.array(dataset.values(f"{FIELDS[0]}.range"))
    np.testing.assert_allclose(ranges[:, 0], 0.33 * ranges[:, 1])  # what is hidden moves with it
    np.testing.assert_allclose(ranges[:, 1], np.maximum(255, 255 * expected / peaks))
    assert (dataset.first()[FIELDS[0]].map == before).all()
    assert inner("runs.record").config_of(dataset, KEY).same_scale == pytest.approx(found)

    assert scale.set_scale(dataset, KEY, on=False) == {}
    assert {tuple(r) for r in dataset.values(f"{FIELDS[0]}.range")} == {(0.33 * 255, 255)}
    assert inner("runs.record").config_of(dataset, KEY).same_scale is None


def test_same_scale_leaves_maps_without_heat(analysed):
    dataset, ids, _ = analysed
    dataset._sample_collection.update_one(
        {"_id": ObjectId(ids[3])},
        {"$set": {f"{FIELDS[0]}.status": "zero", f"{FIELDS[0]}.peak": 0.0}},
    )
    dataset._sample_collection.update_one(
        {"_id": ObjectId(ids[3])}, {"$unset": {f"{FIELDS[0]}.range": ""}}
    )
    inner("data.same_scale").set_scale(dataset, KEY)
    dataset.reload()
    assert dataset[ids[3]][FIELDS[0]].range is None


def test_same_scale_of_an_unknown_run(analysed):
    import fiftyone.operators as foo

    same_scale = foo.get_operator("@cam51/heatmaps/same_scale")
    with pytest.raises(ValueError, match="no CAM run 'nett'; it has: net"):
        same_scale(analysed[0], "nett")
    assert same_scale(analysed[0].limit(2), KEY).keys() == set(FIELDS)


def test_who_is_listed(plugin):
    listed = {i.name for i in plugin.instances if not i.config.unlisted}
    assert {"compute_cams", "find_background_bias", "compare_cams", "test_region"} <= listed
    ours = {
        "open_cam_panel",
        "same_scale",
        "explain_sample",
        "show_peers",
        "free_model",
    }
    assert ours <= {i.name for i in plugin.instances} - listed


# what others do


def test_what_others_do_is_noticed_and_nothing_else_is_drawn(make_dataset, photos, plugin):
    dataset = make_dataset()
    state, _, _ = call("on_load", dataset)
    same, _, sent = call("on_watch", dataset, {}, state)
    assert (same, sent) == (state, {})
    make_run(dataset, [photos[0]["path"]], 5, analysed=False, compared=False)
    inner("runs.look").set_look(dataset, ramp="turbo")
    state, _, sent = call("on_watch", dataset, {}, state)
    assert [run["key"] for run in state["runs"]] == [KEY]
    assert state["look"]["ramp"] == "turbo"
    assert {"show_panel_output", "set_color_scheme"} <= set(sent)
    store = inner("bias.schema")
    with store.register(dataset, KEY, {"samples": 5}) as held:
        state, _, sent = call("on_watch", dataset, {}, state)
        assert state["bias_work"]["running"]
        assert call("on_watch", dataset, {}, state)[2] == {}
        store.RECORDS.finish(dataset, KEY, "failed", error="it is broken", held=held)
    state, _, _ = call("on_watch", dataset, {}, state)
    assert "it is broken" in state["bias_work"]["text"]
    inner("runs.record").update(dataset, KEY, heartbeat="a later one")
    assert call("on_watch", dataset, {}, state)[2] == {}, "that it is alive is no news"
    dataset.delete()
    assert call("on_watch", make_dataset(), {}, {"seen": state["seen"]})[2] != {}


def test_a_run_in_the_background_is_followed_stopped_and_dismissed(make_dataset, plugin):
    background, number, dataset = inner("runs.background"), ObjectId(), make_dataset()
    state, _, _ = call("on_load", dataset)
    background.register(dataset, number, os.getpid(), "uri", "Compare heatmaps: run", {})
    progress = types.SimpleNamespace(progress=0.25, label="measuring: 1 of 4; ~3 s left")
    with background.BackgroundLease(background.read(number)) as lease:
        state, _, _ = call("on_watch", dataset, {}, state)
        drawn = elements(dataset, state)
        assert drawn["work_0_head"]["view"]["label"] == "Compare heatmaps: run"
        assert "no_runs" not in drawn, "its run is registered later"
        assert "work_0_show" not in str(drawn["work_0_menu"]), "there is nothing yet"
        assert call("on_watch", dataset, {}, state)[2] == {}
        lease.note_progress(None, progress)
        lease._send()
        state, _, sent = call("on_watch", dataset, {}, state)
        assert set(sent) == {"patch_panel_state", "show_panel_output"}, "nothing else is read again"
        drawn = elements(dataset, state)
        assert drawn["work_0"]["default"] == 0.25
        assert "work_0_show" in str(drawn["work_0_menu"])
        assert drawn["work_0"]["view"]["label"] == "measuring: 1 of 4; ~3 s left"
        assert (
            drawn["watch"]["view"]["interval"] < elements(dataset, {})["watch"]["view"]["interval"]
        )
        state, _, _ = call("on_work_stop", dataset, {"number": str(number), "key": None}, state)
        drawn = elements(dataset, state)
        assert "asked to stop" in drawn["work_0_head"]["view"]["label"]
        assert "work_0_stop" not in str(drawn["work_0_menu"])
        lease._send()
        assert lease.asked.is_set()
        background.finish(number, "failed", "it is broken")
    state, _, _ = call("on_watch", dataset, {}, state)
    drawn = elements(dataset, state)
    assert drawn["work_0"]["view"]["name"] == "Error"
    assert drawn["work_0"]["view"]["description"] == "it is broken"
    _, _, sent = call("on_work_show", dataset, {}, state)
    assert "reload_dataset" in sent
    state, _, _ = call("on_work_dismiss", dataset, {"number": str(number)}, state)
    assert state["work"] == []
    assert "work_0" not in elements(dataset, state)


def test_a_run_from_elsewhere_has_a_bar_and_can_be_stopped(make_dataset, plugin):
    dataset, record = make_dataset(), inner("runs.record")
    token = record.register(dataset, "night", {"model": "m"}, [])
    record.ACTIVE.add(token)
    try:
        record.update(dataset, "night", progress={"done": 30, "total": 40})
        state, _, _ = call("on_load", dataset)
        drawn = elements(dataset, state)
        assert drawn["work_0_head"]["view"]["label"] == "Computing night"
        assert drawn["work_0"]["default"] == 0.75
        record.update(dataset, "night", progress={"done": 31, "total": 40})
        assert call("on_watch", dataset, {}, state)[0]["work"][0]["fraction"] == 0.775
        facts = call("on_watch", dataset, {}, {**state, "work": []})[1]
        assert not facts, "the page is not read again for each sample"
        record.update(dataset, "night", progress={"done": 36, "total": 40})
        facts = call("on_watch", dataset, {}, state)[1]["facts"]
        assert {"what": "Samples", "value": "36 of 40"} in facts
        state, _, _ = call("on_work_stop", dataset, {"number": None, "key": "night"}, state)
        assert record.config_of(dataset, "night").stop
    finally:
        record.ACTIVE.discard(token)
    state, _, _ = call("on_watch", dataset, {}, state)
    assert state["work"] == []
    _, _, sent = call("on_work_stop", dataset, {"number": None, "key": "night"}, state)
    assert "is not running" in sent["notify"]["message"]


def test_a_dataset_that_was_deleted_is_no_error_in_the_panel(make_dataset, plugin):
    dataset = make_dataset()
    state, _, _ = call("on_load", dataset)
    dataset.delete()
    gone = types.SimpleNamespace(name=dataset.name)
    assert call("on_watch", gone, {}, state)[2] == {}


# texts of others


def said_in(found):
    """Pairs (whether it is Markdown, text) of all that a drawn panel says."""
    if isinstance(found, dict):
        view = found.get("view") or {}
        if view.get("name") == "MarkdownView":
            yield True, found.get("default") or ""
        if "name" in found and "componentsProps" in found and found["name"] != "Button":
            for name in ("label", "description", "caption"):
                yield True, found.get(name) or ""
        for value in found.values():
            yield from said_in(value)
    elif isinstance(found, list):
        for value in found:
            yield from said_in(value)
    elif isinstance(found, str):
        yield False, found


@pytest.fixture
def hostile(make_dataset, photos, plugin, monkeypatch):
    assert len(panel_common.HOSTILE) == len(CLASSES)
    monkeypatch.setattr(panel_common, "CLASSES", panel_common.HOSTILE)
    dataset = make_dataset()
    make_run(dataset, [photo["path"] for photo in photos], COUNT)
    for number, name in enumerate(panel_common.HOSTILE[:3]):
        inner("panel.clusters_tab").name_cluster(run_of(dataset), number, name)
    results = inner("runs.results")
    compared = results.load_results(dataset, KEY)["compare"]
    compared["recommendation"] = {"sentence": f"Use {panel_common.HOSTILE[0]}"}
    compared["agreement"]["labels"] = panel_common.HOSTILE[:3]
    results.save_results(dataset, KEY, compare=compared)
    return dataset


@pytest.mark.parametrize("tab", ["see", "test", "compare"])
def test_labels_with_markdown_in_them_are_drawn_as_they_read(hostile, tab):
    renderer = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True})
    frame = inner("panel.frame")
    state, data = frame.fill(run_of(hostile), tab, {})
    chosen = {"runs": [{"key": KEY, "label": KEY}], "key": KEY, "tab": tab, **state}
    drawn = frame.draw(cam_panel().CamPanel(), chosen).to_json()
    texts = list(said_in(drawn))
    pages = [renderer.render(text) for is_markdown, text in texts if is_markdown]
    assert not [
        page for page in pages if "<img" in page or "<a " in page or "<b>" in page or "<h" in page
    ]
    read = html.unescape(" ".join(pages))
    if tab == "compare":
        assert f"Use {panel_common.HOSTILE[0]}" in read
    elif tab == "test":
        assert all(name in read for name in panel_common.HOSTILE[:3])
    elif tab == "see":
        assert panel_common.HOSTILE[0] in read
    charts = {name: value for name, value in data.items() if name in ("bars", "points", "matrix")}
    for value in (text for _, text in said_in(charts)):
        assert not re.search(r"<(?!br>|extra></extra>|/?extra)", value), value
    if tab == "test":
        (bars,) = data["bars"]
        assert {html.unescape(y) for y in bars["y"]} == set(panel_common.HOSTILE)


def test_a_click_on_a_hostile_bar_shows_its_class(hostile):
    (bars,) = inner("panel.frame").fill(run_of(hostile), "test", {})[1]["bars"]
    views, shown = inner("panel.views"), []
    panel = cam_panel().CamPanel()
    panel._show = lambda ctx, view: shown.append(view)
    panel._run = lambda ctx: run_of(hostile)
    for y in bars["y"]:
        panel.on_class(types.SimpleNamespace(params={"y": y}))
        expected = views.class_view(run_of(hostile), html.unescape(y))
        assert len(shown[-1]) == len(expected) == COUNT // len(CLASSES)
