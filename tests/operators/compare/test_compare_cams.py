"""``compare_cams`` on a real MongoDB, with a network whose evidence is known pixel by pixel."""

import json
import os
import re
import socket
import time
import types

import fiftyone as fo
import numpy as np
import pytest
import torch
from bias_common import inner
from compare_common import CLASSES, Planted, cams, compare, inverse, perfect, planted, to_tensor
from operators_common import operator, prepared

pytestmark = pytest.mark.usefixtures("plugin")

FAITHFUL = ["deletion", "insertion", "road", "average_drop", "increase"]


@pytest.fixture
def make_planted(make_dataset, tmp_path):
    """A function: a dataset of pictures with planted evidence, its heatmaps computed."""

    def make(count=12, **arguments):
        dataset = make_dataset(*planted(tmp_path, count))
        cams(dataset, **arguments)
        return dataset

    return make


# what is found


def test_the_perfect_map_is_first_and_its_inverse_last(make_planted):
    dataset = make_planted()
    summary = compare(dataset)

    places = {row["method"]: row["rank"] for row in summary.leaderboard}
    assert places["perfect"] == 1
    assert places["inverse"] == len(summary.leaderboard) == 5
    rows = {row["method"]: row for row in summary.leaderboard}
    for name in FAITHFUL:
        means = {m: row["metrics"][name]["mean"] for m, row in rows.items()}
        best, worst = (min, max) if summary.metrics[name]["better"] == "lower" else (max, min)
        assert means["perfect"] == best(means.values()), name
        assert means["inverse"] == worst(means.values()), name
        assert means["perfect"] != means["inverse"], name
    over = rows["perfect"]["over_baseline"]["random_map"]
    for name in ("deletion", "insertion", "road"):
        assert over[name]["low"] > 0, name
        assert rows["inverse"]["over_baseline"]["random_map"][name]["high"] < 0, name

    found = summary.recommendation
    assert (found["field"], found["method"]) == ("run_perfect", "perfect")
    assert not found["within_noise"]
    assert "Recommended: perfect. It beats every other method" in str(summary)
    assert "road" in found["sentence"].lower()
    assert rows["perfect"]["wins"]["run_inverse"]["share"] == 1
    assert rows["perfect"]["mean_rank"]["mean"] < rows["partial"]["mean_rank"]["mean"]
    assert [row["baseline"] for row in summary.leaderboard].count(True) == 2


def test_two_equal_methods_are_within_noise(make_planted):
    def twin(activations):
        return perfect(activations)

    dataset = make_planted(methods=[perfect, twin, inverse])
    found = compare(dataset, metrics=["deletion", "road"]).recommendation
    assert found["within_noise"]
    assert found["sentence"].startswith("Within noise: perfect and twin do not differ clearly")


def test_few_samples_tell_nothing_apart(make_planted):
    found = compare(make_planted(4), metrics=["deletion"]).recommendation
    assert found["sentence"].startswith("4 samples are too few to rank methods")
    assert found["within_noise"]
    assert all(
        "n = 4, too few for a test" in line and "p =" not in line for line in found["evidence"]
    )


def test_one_method_is_the_best_of_none(make_planted):
    few = compare(make_planted(4, methods=[perfect]), metrics=["deletion"]).recommendation
    assert few["sentence"] == (
        "4 samples are too few to compare perfect with a random map and a centred Gaussian."
    )
    found = compare(make_planted(methods=[perfect]), metrics=["deletion"]).recommendation
    assert found["sentence"].startswith("perfect beats a random map and a centred Gaussian")
    two = compare(make_planted(methods=[perfect, inverse]), metrics=["deletion"]).recommendation
    assert two["sentence"].startswith("Recommended: perfect. It beats inverse over")


def test_a_method_that_is_no_better_than_chance_is_not_recommended(make_planted):
    found = compare(make_planted(methods=[inverse]), metrics=["deletion"]).recommendation
    assert found["sentence"].startswith("Do not rely on these heatmaps: inverse does not beat")


def test_the_values_are_those_of_the_core(make_planted):
    """A stored map, taken off the database by hand, gives what is written beside it."""
    from PIL import Image

    from cam_core.metrics.faithfulness import faithfulness

    dataset = make_planted(4)
    compare(dataset, metrics=["deletion", "road", "sparseness"])
    for sample in dataset:
        label = sample.run_partial
        image = to_tensor(Image.open(sample.filepath).convert("RGB"))[None]
        heat = torch.from_numpy(label.map / 255.0).float()[None, None]
        found = faithfulness(
            Planted(), image, heat, label.target_index, ["deletion", "road", "sparseness"]
        )
        for name, values in found.values.items():
            assert label[name] == pytest.approx(values.item(), abs=1e-4), name


def test_agreement_and_where_methods_split(make_planted):
    dataset = make_planted()
    summary = compare(dataset, metrics="deletion")
    a = summary.agreement
    assert a["fields"] == ["run_perfect", "run_partial", "run_inverse"]
    assert a["labels"] == ["perfect", "partial", "inverse"]
    table = np.array(a["spearman"])
    np.testing.assert_allclose(np.diag(table), 1, atol=1e-6)
    np.testing.assert_allclose(table, table.T)
    # averaged onto the grid, one map is 1 less the other
    assert table[0, 2] == pytest.approx(-1, abs=1e-5)
    assert (np.array(a["n"]) == 12).all()
    # these maps are the same for every sample
    assert a["noise_floor"]["spearman"] == pytest.approx(1)
    assert set(summary.pairs) == {
        "run_perfect|run_partial", "run_perfect|run_inverse", "run_partial|run_inverse",
    }  # fmt: skip
    assert set(summary.pairs["run_perfect|run_inverse"]) == set(dataset.values("id"))

    mean = (table[0, 1] + table[0, 2] + table[1, 2]) / 3
    np.testing.assert_allclose(dataset.values("run_disagreement"), 1 - mean, atol=1e-5)
    view = dataset.load_saved_view("run: methods disagree")
    assert summary.views == ["run: methods disagree"]
    values = view.values("run_disagreement")
    assert values == sorted(values, reverse=True)
    assert "Most similar: " in str(summary)


def test_classless_maps_are_measured_for_the_class_of_the_others(make_planted):
    dataset = make_planted(methods=[perfect, "eigencam"], targets="minus")
    assert set(dataset.values("run_eigencam.target_index")) == {None}
    summary = compare(dataset, metrics=["deletion"])
    rows = {row["method"]: row for row in summary.leaderboard}
    assert rows["perfect"]["class_discriminative"]
    assert not rows["eigencam"]["class_discriminative"]
    # fewer than two class-discriminative methods: nothing to disagree
    assert set(dataset.values("run_disagreement")) == {None}
    assert summary.views == []
    # the run explains the class "minus" of pictures that are "plus" too: their score is about 0
    plus = dataset.match(fo.ViewField("label.label") == "plus").values("run_eigencam.deletion")
    minus = dataset.match(fo.ViewField("label.label") == "minus").values("run_eigencam.deletion")
    assert max(plus) < 0.5 < min(minus)


def test_a_stored_randomcam_is_the_floor(make_planted):
    dataset = make_planted(methods=[perfect, "randomcam"])
    summary = compare(dataset, metrics=["deletion", "road"])
    rows = {row["field"]: row for row in summary.leaderboard}
    assert set(rows) == {"run_perfect", "run_randomcam"}
    assert rows["run_randomcam"]["baseline"]
    assert set(rows["run_perfect"]["over_baseline"]) == {"run_randomcam"}
    assert summary.recommendation["sentence"].startswith("perfect beats randomcam")


def test_two_runs_of_one_model_are_compared(make_planted):
    dataset = make_planted(methods=[perfect])
    cams(dataset, [inverse], "other")
    summary = compare(dataset, ["run", "other_inverse"], metrics=["deletion"])
    assert summary.agreement["fields"] == ["run_perfect", "other_inverse"]
    assert summary.leaderboard[0]["field"] == "run_perfect"
    assert dataset.first().other_inverse.deletion > dataset.first().run_perfect.deletion
    assert inner("compare.schema").RECORDS.record_of(dataset, "other") is None


def test_maps_that_are_made_again(make_planted):
    """The metrics that explain changed images, with a method that its record knows by name."""
    dataset = make_planted(4, methods=["hirescam"])
    summary = compare(dataset, metrics=["deletion", "max_sensitivity", "adcc"])
    row = next(r for r in summary.leaderboard if not r["baseline"])
    assert row["metrics"]["max_sensitivity"]["mean"] > 0
    assert row["metrics"]["adcc"]["n"] == 4
    assert row["seconds_per_image"] > 0
    made_up = next(r for r in summary.leaderboard if r["field"] == "centred_gaussian")
    assert made_up["metrics"]["max_sensitivity"]["mean"] == pytest.approx(0, abs=1e-6)
    own = make_planted(4, cam_key="own", methods=[perfect])
    with pytest.raises(ValueError, match="'perfect' of the run 'own' cannot be made again"):
        compare(own, "own", metrics=["deletion", "coherency"])


# what it costs


def test_cost_is_predicted_and_bounded(make_planted):
    dataset = make_planted()
    summary = compare(dataset, metrics=["deletion", "road"])
    cost = summary.cost
    assert cost["predicted_forwards"] == cost["forwards"] == sum(cost["by_metric"].values())
    assert sum(row["forwards"] for row in summary.leaderboard) == pytest.approx(
        cost["forwards"], abs=len(summary.leaderboard)
    )
    each = cost["forwards"] // 12
    small = compare(dataset, metrics=["deletion", "road"], budget=5 * each, overwrite=True)
    assert (small.samples, small.probe["of"]) == (5, 12)
    assert small.cost["forwards"] <= 5 * each
    assert len(dataset.exists("run_perfect.deletion")) == 5
    assert "what the budget allows" in str(small)
    with pytest.raises(ValueError, match=r"budget: one sample takes .* forwards"):
        compare(dataset, metrics=["deletion", "road"], budget=each, overwrite=True)


def test_a_probe_is_spread_over_the_classes_and_drawn_by_its_seed(make_planted):
    dataset = make_planted()
    first = compare(dataset, metrics="deletion", probe=6)
    chosen = dataset.exists("run_disagreement").values("id")
    labels = dataset.select(chosen).values("label.label")
    assert sorted(labels) == ["minus"] * 3 + ["plus"] * 3
    again = compare(dataset, metrics="deletion", probe=6, overwrite=True)
    assert dataset.exists("run_disagreement").values("id") == chosen
    assert first.leaderboard[0]["metrics"] == again.leaderboard[0]["metrics"]


def test_when_the_time_is_over_what_was_measured_counts(make_planted, monkeypatch):
    dataset = make_planted()
    job = inner("compare.methods_job")
    monkeypatch.setattr(job, "choose_count", lambda *_: (12, "all of them"))
    summary = compare(dataset, metrics=["deletion"], budget="0.000001 s", batch_size=4)
    assert summary.samples == 2, "one sample says nothing about two methods"
    assert "The time was over after 2 of 12 samples" in str(summary)


def test_measuring_stops_before_the_batch_that_would_take_too_long(monkeypatch):
    job, progress = inner("compare.methods_job"), inner("jobs.pipeline").Progress
    clock = [0.0]
    monkeypatch.setattr(job, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))

    def steps():
        for done in range(1, 9):
            clock[0] += 10
            yield progress(done=done, total=8)

    def done_by(end):
        clock[0], one = 0.0, object.__new__(job.MethodComparison)
        one.notes = []
        return [p.done for p in one._until(steps(), end)][-1], one.notes

    assert done_by(35)[0] == 3, "a fourth batch would have ended at 40"
    assert "after 3 of 8 samples" in done_by(35)[1][0]
    assert done_by(None) == done_by(80) == (8, [])


def test_a_budget_of_time_is_what_is_left_after_the_trial():
    checks, settings = inner("compare.checks"), inner("compare.params").CompareSettings
    assert checks.choose_count(settings(budget="50 s"), 24, 100, 5.0, 32.0)[0] == 6
    assert checks.choose_count(settings(budget="50 s"), 5, 100, 5.0, 32.0) == (5, "all of them")
    with pytest.raises(
        ValueError, match=r"takes about 20 s and 30 s are left for measuring, so '50 s'"
    ):
        checks.choose_count(settings(budget="50 s"), 24, 100, 20.0, 30.0)


@pytest.mark.parametrize(
    ("text", "forwards", "seconds"),
    [
        (None, None, None), (500, 500, None), ("20_000 forwards", 20000, None), ("90 s", None, 90),
        ("5 min", None, 300), ("1.5h", None, 5400), ("700", 700, None),
    ],
)  # fmt: skip
def test_budgets(text, forwards, seconds):
    found = inner("compare.params").parse_budget(text)
    assert (found.forwards, found.seconds) == (forwards, seconds)


# what is stored, and that it goes


def test_what_is_stored(make_planted):
    dataset = make_planted()
    summary = compare(dataset)
    stored = dataset.load_run_results("run").compare
    assert stored == summary.to_dict()
    wanted = {
        "cam_keys", "samples", "probe", "metrics", "leaderboard", "agreement", "pairs", "recommendation",
        "views", "fields", "cost", "models",
    }  # fmt: skip
    assert wanted <= set(stored)
    assert stored["models"] is None
    assert {"of", "n", "seed", "how"} <= set(stored["probe"])
    row = stored["leaderboard"][0]
    assert {
        "field", "method", "layer", "cam_key", "class_discriminative", "n", "rank", "metrics",
        "seconds_per_image", "forwards",
    } <= set(row)  # fmt: skip
    assert set(row["metrics"]["deletion"]) == {"mean", "low", "high", "n"}
    assert dataset.load_run_results("run").summary["done"] == 12, "the CAM run's own"

    schema = dataset.get_field_schema(flat=True)
    assert isinstance(schema["run_perfect.deletion"], fo.FloatField)
    assert "removed first" in schema["run_perfect.deletion"].description
    assert "1 less their mean rank" in schema["run_disagreement"].description
    assert inner("compare.schema").RECORDS.record_of(dataset, "run")["status"] == "finished"
    table = summary.table()
    assert table.startswith("|  | method | mean rank | Deletion ↓ | Insertion ↑ |")
    assert len(table.splitlines()) == 2 + len(summary.leaderboard)
    assert "perfect" in summary.table(markdown=False).splitlines()[1]


def state(dataset):
    """Everything of a dataset that a comparison could leave behind."""
    dataset.reload()
    info = {key: vars(inner("runs.record").config_of(dataset, key)) for key in dataset.list_runs()}
    for config in info.values():
        for name in ("compare", "token", "heartbeat", "pid", "stop"):
            config.pop(name, None)
    documents = list(dataset._sample_collection.find({}, {"last_modified_at": False}).sort("_id"))
    return {
        "schema": sorted(dataset.get_field_schema(flat=True)),
        "views": sorted(dataset.list_saved_views()),
        "runs": info,
        "documents": documents,
        "results": sorted(
            k for k, v in inner("runs.results").load_results(dataset, "run").items() if v
        ),
    }


def test_nothing_is_left_when_it_is_cleared(make_planted):
    dataset = make_planted()
    cams(dataset, [inverse], "other")
    before = state(dataset)
    compare(dataset, ["run", "other"])
    assert state(dataset) != before
    inner("compare.schema").RECORDS.clear(dataset, "run")
    assert state(dataset) == before


def test_overwriting_leaves_no_trace_of_the_first(make_planted):
    dataset = make_planted()
    compare(dataset)
    compare(dataset)  # the same once more: it stores the same again
    with pytest.raises(ValueError, match="overwrite=True"):
        compare(dataset, seed=52)
    with pytest.raises(ValueError, match="overwrite=True"):
        compare(dataset.limit(6))
    compare(dataset, "run_perfect", metrics=["deletion"], overwrite=True)
    first = dataset.first()
    assert first.run_perfect.deletion is not None
    assert not first.run_inverse.has_field("deletion")
    schema = dataset.get_field_schema(flat=True)
    assert "run_perfect.road" not in schema
    assert "run_inverse.deletion" not in schema
    assert dataset.list_saved_views() == []


def test_deleting_the_run_leaves_the_dataset_as_it_was(make_planted, make_dataset, tmp_path):
    dataset = make_dataset(*planted(tmp_path, 6))
    cams(dataset, [inverse], "other")

    def seen():
        dataset.reload()
        return (
            sorted(dataset.get_field_schema(flat=True)), dataset.list_saved_views(), dataset.list_runs(),
            list(dataset._sample_collection.find({}, {"last_modified_at": False}).sort("_id")),
        )  # fmt: skip

    before = seen()
    cams(dataset)
    compare(dataset, ["run", "other"], metrics=["deletion"])
    operator("delete_cam_run")(dataset, "run")
    assert seen() == before


def test_renaming_the_run_renames_what_was_written(make_planted):
    dataset = make_planted(6)
    compare(dataset, metrics=["deletion"])
    operator("rename_cam_run")(dataset, "run", "new")
    assert dataset.get_field("run_disagreement") is None
    assert len(dataset.exists("new_disagreement")) == 6
    assert dataset.list_saved_views() == ["new: methods disagree"]
    stored = dataset.load_run_results("new").compare
    assert stored["leaderboard"][0]["field"] == "new_perfect"
    assert stored["cam_keys"] == ["new"]
    compare(dataset, "new", metrics=["deletion"], overwrite=True)
    operator("delete_cam_run")(dataset, "new")
    assert "new_disagreement" not in dataset.get_field_schema()


def test_an_interrupted_comparison_writes_nothing(make_planted):
    dataset = make_planted()
    settings = inner("compare.params").CompareSettings(metrics=["deletion"], batch_size=4)
    job = prepared(
        inner("compare.methods_job").MethodComparison,
        dataset,
        settings,
        Planted(),
        to_tensor,
        CLASSES,
    )
    steps = job.run()
    next(steps)
    steps.close()
    assert inner("compare.schema").RECORDS.record_of(dataset, "run")["status"] == "interrupted"
    assert not dataset.exists("run_perfect.deletion").values("id")
    assert job.summary is None
    compare(dataset, metrics=["deletion"])


def long_comparison(dataset):
    """A job whose only batch is measured in many parts, each of which is told."""
    settings = inner("compare.params").CompareSettings(
        metrics=["deletion", "road"], batch_size=16, num_workers=0
    )
    return prepared(
        inner("compare.methods_job").MethodComparison,
        dataset,
        settings,
        Planted(),
        to_tensor,
        CLASSES,
    )


def test_a_long_batch_says_how_far_it_is(make_planted, monkeypatch):
    dataset = make_planted(4)
    monkeypatch.setattr(inner("jobs.batch_progress"), "_SECONDS", 0)
    phases = [p for p in long_comparison(dataset).run() if p.name != "writing"]
    assert len(phases) > 20, "of one batch of four samples"
    done = [p.done for p in phases]
    assert done == sorted(done)
    assert {p.total for p in phases} == {done[-1]}
    cost = dataset.load_run_results("run").compare["cost"]
    assert done[-1] == cost["predicted_forwards"] == cost["forwards"]


def test_a_comparison_ends_in_the_middle_of_a_batch(make_planted, monkeypatch):
    dataset = make_planted(4)
    before = state(dataset)
    monkeypatch.setattr(inner("jobs.batch_progress"), "_SECONDS", 0)
    job = long_comparison(dataset)
    steps, forwards = job.run(), []

    def slowly(*_):
        forwards.append(1)
        time.sleep(0.05)

    hook = job.model.module.register_forward_hook(slowly)
    for phase in steps:
        if phase.done:
            break
    assert phase.done < phase.total / 2
    steps.close()
    hook.remove()
    planned = phase.total / 16
    assert planned > 30
    assert len(forwards) < planned / 2
    assert state(dataset)["documents"] == before["documents"]
    assert inner("compare.schema").RECORDS.record_of(dataset, "run")["status"] == "interrupted"


# samples that are not as they should be


def test_bad_samples_are_recorded_and_the_rest_goes_on(make_planted):
    dataset = make_planted()
    gone, empty, none = dataset.values("id")[:3]
    os.remove(dataset[gone].filepath)
    sample = dataset[empty]
    for name in ("perfect", "partial", "inverse"):
        label = sample[f"run_{name}"]
        label.map, label.status = None, "zero"
    sample["run_perfect"] = fo.Heatmap(status="zero", method="perfect", cam_key="run")
    sample.save()
    sample = dataset[none]
    sample["run_perfect"] = None
    sample.save()

    summary = compare(dataset, metrics=["deletion", "road"])
    assert [f["id"] for f in summary.failed] == [gone]
    assert "does not exist" in summary.failed[0]["reason"]
    assert summary.samples == 10
    row = next(r for r in summary.leaderboard if r["method"] == "perfect")
    assert (row["n"], row["blank"]) == (9, 1)
    assert dataset[none].run_perfect is None
    assert dataset[none].run_partial.deletion is not None


def test_maps_on_disk_and_one_that_is_gone(make_dataset, tmp_path):
    dataset = make_dataset(*planted(tmp_path, 6))
    cams(dataset, storage="disk", output_dir=str(tmp_path / "maps"))
    label = dataset.first().run_perfect
    os.remove(label.map_path)
    summary = compare(dataset, metrics=["deletion"])
    assert summary.samples == 5
    assert "is gone" in summary.failed[0]["reason"]
    assert summary.leaderboard[0]["method"] == "perfect"


def test_only_the_views_samples_are_touched(make_planted):
    dataset = make_planted()
    view = dataset.limit(4)
    summary = compare(view, metrics=["deletion"])
    assert summary.samples == 4
    assert set(dataset.exists("run_disagreement").values("id")) == set(view.values("id"))


# wrong arguments


def test_wrong_names(make_planted, make_dataset, tmp_path):
    dataset = make_planted(4)
    before = state(dataset)
    with pytest.raises(ValueError, match=r"'runn' is neither .* \(did you mean run"):
        compare(dataset, "runn")
    with pytest.raises(ValueError, match=r"metrics: 'delition' is unknown \(did you mean deletion"):
        compare(dataset, metrics=["delition"])
    with pytest.raises(ValueError, match="none of sparseness says how faithful"):
        compare(dataset, metrics=["sparseness"])
    with pytest.raises(ValueError, match="budget must be a number of forwards"):
        compare(dataset, budget="soon")
    with pytest.raises(ValueError, match="probe must be an integer"):
        compare(dataset, probe=1)
    with pytest.raises(ValueError, match=r"target: .* for comparing several models"):
        compare(dataset, target="label")
    with pytest.raises(ValueError, match="samples is empty"):
        compare(dataset.limit(0))
    with pytest.raises(ValueError, match="other weights"):
        compare(dataset, network=Planted(weight=3.0))
    with pytest.raises(ValueError, match="was given from Python and is not registered"):
        operator("compare_cams")(dataset, "run", progress=False)
    cams(dataset, [perfect], "later", Planted(weight=3.0))
    with pytest.raises(ValueError, match=r"'later' is of another model than 'run' .* models="):
        compare(dataset, ["run", "later"])
    with pytest.raises(ValueError, match=r"several CAM runs \(later, run\)"):
        compare(dataset)
    operator("delete_cam_run")(dataset, "later")
    assert state(dataset) == before

    fresh = make_dataset(*planted(tmp_path, 2))
    with pytest.raises(ValueError, match="no CAM run yet"):
        compare(fresh)
    fresh.add_sample_field("heat", fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)
    with pytest.raises(ValueError, match="'heat' are of no CAM run"):
        compare(fresh, "heat")


def test_samples_without_heatmaps(make_planted, tmp_path):
    dataset = make_planted(4)
    new = dataset.add_sample(planted(tmp_path, 1)[0])
    with pytest.raises(ValueError, match="none of them has a heatmap"):
        compare(dataset.select(new))
    for sample in dataset.select(new, ordered=True):
        for name in ("perfect", "partial", "inverse"):
            sample[f"run_{name}"] = fo.Heatmap(method=name, status="zero", target_index=0)
        sample.save()
    with pytest.raises(ValueError, match="none of them has a heatmap with a picture"):
        compare(dataset.select(new))


def test_a_field_in_the_way(make_planted):
    dataset = make_planted(4)
    dataset.add_sample_field("run_disagreement", fo.StringField)
    with pytest.raises(
        ValueError, match="'run_disagreement' exists on the dataset and is not ours"
    ):
        compare(dataset)


def test_a_run_at_work_is_left_alone(make_planted):
    dataset = make_planted(4)
    record = inner("runs.record")
    token = record.claim(dataset, "run", "running")
    record.ACTIVE.add(token)
    try:
        with pytest.raises(ValueError, match="running in this process"):
            compare(dataset)
    finally:
        record.ACTIVE.discard(token)
        record.update(dataset, "run", status="finished")


def comparing(dataset, cam_keys=None, **arguments):
    """A comparison that measures: its job and its steps, the first one done."""
    settings = inner("compare.params").CompareSettings(
        cam_keys, metrics=["deletion"], batch_size=4, num_workers=0, **arguments
    )
    job = prepared(
        inner("compare.methods_job").MethodComparison,
        dataset,
        settings,
        Planted(),
        to_tensor,
        CLASSES,
    )
    steps = job.run()
    next(steps)
    return job, steps


def taken_for_dead(dataset, key="run"):
    """What a user may do with a run whose comparison seems to be dead."""
    token = inner("compare.schema").RECORDS.record_of(dataset, key)["token"]
    inner("runs.record").ACTIVE.discard(token)


@pytest.mark.parametrize("key", ["run", "other"])
def test_what_is_being_compared_is_neither_deleted_nor_renamed(make_planted, key):
    dataset = make_planted(8, methods=[perfect])
    cams(dataset, [inverse], "other")
    _, steps = comparing(dataset, ["run", "other"])
    message = f"'{key}' is being compared by compare_cams in this process; wait for that"
    for name, *arguments in (("delete_cam_run",), ("rename_cam_run", "new")):
        with pytest.raises(ValueError, match=message):
            operator(name)(dataset, key, *arguments)
    with pytest.raises(ValueError, match="'run' is being compared"):
        compare(dataset, ["run", "other"], metrics=["deletion"], overwrite=True)
    clone = dataset.clone()
    try:
        operator("delete_cam_run")(clone, key)  # nobody works on the copy
    finally:
        clone.delete()
    steps.close()
    operator("rename_cam_run")(dataset, key, "new")
    operator("delete_cam_run")(dataset, "new")


def test_a_comparison_in_another_process_is_waited_for_until_it_dies(make_planted, monkeypatch):
    dataset = make_planted(4)
    _, steps = comparing(dataset)
    taken_for_dead(dataset)
    store, record = inner("compare.schema"), inner("runs.record")

    def check():
        inner("runs.lease").check_unread(dataset, "run")

    check()  # of this process, which does not work on it
    store.RECORDS.update(dataset, "run", pid=os.getppid())
    with pytest.raises(ValueError, match=f"in process {os.getppid()} on {socket.gethostname()}"):
        check()
    store.RECORDS.update(dataset, "run", pid=2**22 + 12345)  # nobody's
    check()
    store.RECORDS.update(dataset, "run", host="far-away", pid=1)
    with pytest.raises(ValueError, match="in process 1 on far-away"):
        check()
    for odd in (None, "yesterday", 5):
        store.RECORDS.update(dataset, "run", heartbeat=odd)
        check()
    store.RECORDS.update(dataset, "run", heartbeat=record.clock().isoformat())
    monkeypatch.setattr(record, "STALE_SECONDS", -1)
    check()
    operator("delete_cam_run")(dataset, "run")
    steps.close()
    assert dataset.list_runs() == []


def test_a_comparison_gives_signs_of_life(make_planted, monkeypatch):
    dataset = make_planted(4)
    monkeypatch.setattr(inner("runs.lease"), "_JOB_SECONDS", 0.01)
    _, steps = comparing(dataset)
    first = inner("compare.schema").RECORDS.record_of(dataset, "run")["heartbeat"]
    for _ in range(100):
        if inner("compare.schema").RECORDS.record_of(dataset, "run")["heartbeat"] > first:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the record has no heartbeat")
    steps.close()


@pytest.mark.parametrize("what", ["delete", "rename", "compute", "compare", "delete other"])
def test_a_comparison_that_lost_its_runs_writes_nothing(make_planted, what):
    dataset = make_planted(8, methods=[perfect])
    cams(dataset, [inverse], "other")
    job, steps = comparing(dataset, ["run", "other"])
    taken_for_dead(dataset)
    if what == "delete":
        operator("delete_cam_run")(dataset, "run")
    elif what == "rename":
        operator("rename_cam_run")(dataset, "run", "new")
    elif what == "compute":
        cams(dataset, [perfect], "run", overwrite=True)
    elif what == "compare":
        compare(dataset, ["run", "other"], metrics=["increase"])
    else:
        operator("delete_cam_run")(dataset, "other")
    before = state(dataset)
    lost = "other" if what == "delete other" else "run"
    message = f"'{lost}' was deleted, renamed or analysed again meanwhile; nothing was written"
    with pytest.raises(RuntimeError, match=message):
        list(steps)
    assert state(dataset) == before
    assert job.summary is None


def test_a_comparison_that_is_lost_while_it_writes_saves_no_views_and_no_results(make_planted):
    dataset = make_planted(8)
    _, steps = comparing(dataset)
    for phase in steps:
        if phase.name == "writing":
            break
    taken_for_dead(dataset)
    operator("delete_cam_run")(dataset, "run")
    with pytest.raises(RuntimeError, match="meanwhile; nothing more was written"):
        list(steps)
    assert dataset.list_saved_views() == []
    assert dataset.list_runs() == []


def test_renaming_the_second_run_renames_it_in_the_comparison(make_planted):
    dataset = make_planted(8, methods=[perfect])
    cams(dataset, [perfect, inverse], "b")
    compare(dataset, ["run", "b_perfect", "b_inverse"], metrics=["deletion"])
    before = dataset.load_run_results("run").compare
    assert before["agreement"]["labels"] == ["run perfect", "b perfect", "inverse"]
    operator("rename_cam_run")(dataset, "b", "c")
    record = inner("compare.schema").RECORDS.record_of(dataset, "run")
    assert record["cam_keys"] == ["run", "c"]
    assert record["settings"]["cam_keys"] == ["run", "c_perfect", "c_inverse"]
    assert record["labels"] == ["run_perfect", "c_perfect", "c_inverse"]
    after = dataset.load_run_results("run").compare
    assert after["cam_keys"] == ["run", "c"]
    assert after["agreement"]["labels"] == ["run perfect", "c perfect", "inverse"]
    rows = {row["field"]: row for row in after["leaderboard"] if not row["baseline"]}
    assert set(rows) == {"run_perfect", "c_perfect", "c_inverse"}
    assert (rows["c_perfect"]["cam_key"], rows["c_perfect"]["label"]) == ("c", "c perfect")
    assert not re.search(r"\bb(_|\b)", json.dumps(after))
    # what is said is made again from the numbers, and says the same
    assert after == json.loads(re.sub(r"\bb(?=_|\b)", "c", json.dumps(before)))
    assert dataset.list_saved_views() == ["run: methods disagree"]
    panel = inner("panel.methods_tab").comparison_of(inner("runs.run").Run.open(dataset, "c"))
    assert panel["cam_keys"] == ["run", "c"]
    # what is rolled back is taken from the new fields
    inner("compare.schema").RECORDS.clear(dataset, "run")
    assert "c_inverse.deletion" not in dataset.get_field_schema(flat=True)


def test_a_contrast_has_two_classes(make_dataset, tmp_path):
    dataset = make_dataset(*planted(tmp_path, 4))
    cams(dataset, ["gradcam"], targets=("contrast", "plus", "minus"))
    with pytest.raises(ValueError, match="explains what tells two classes apart"):
        compare(dataset)


def test_merged_classes_are_not_measured(make_dataset, tmp_path):
    """Of a label that stands for several classes there is no one score that could fall."""
    dataset = make_dataset(*planted(tmp_path, 8))
    cams(dataset, [perfect, inverse])
    merged = dataset.limit(3)
    for field in dataset.get_field_schema():
        if field.startswith("run_") and dataset.exists(f"{field}.target_index").limit(1).values(
            "id"
        ):
            merged.set_values(f"{field}.target_index", [None] * 3)
    fields = inner("compare.columns")
    columns = fields.columns_of(dataset, ["run"])
    stored = fields.Stored(dataset, columns)
    assert not stored.shown[:3].any()
    assert stored.shown[3:].all()


def test_what_a_queue_is_sent_is_of_the_forms_kinds(plugin):
    forms = inner("forms.compare")
    sent = forms.params_of(
        {"cam_keys": "run", "metrics": "deletion", "budget": 20_000, "target": 3, "models": {}}
    )
    assert sent["metrics"] == ["deletion"]
    assert (sent["budget"], sent["target"]) == ("20000", "3")
    assert len(forms.params_of({"metrics": "all"})["metrics"]) > 5
    assert inner("compare.models_trend").class_of("3", ["a", "b", "c", "d"]) == 3
    assert inner("compare.models_trend").class_of("3", ["5", "3", "7"]) == 1


def test_a_function_as_target_has_no_class(make_dataset, tmp_path):
    dataset = make_dataset(*planted(tmp_path, 4))

    def first_logit(outputs):
        return outputs[:, 0]

    cams(dataset, [perfect], targets=first_logit)
    with pytest.raises(ValueError, match="explains a function of the outputs"):
        compare(dataset)


# the way in from the App


def resolve(dataset, params):
    """The form as the App gets it."""
    import fiftyone.operators.executor as executor

    ctx = executor.ExecutionContext({"dataset_name": dataset.name, "params": params})
    found = operator("compare_cams").resolve_input(ctx)
    return found.type.properties


def test_the_form(make_planted, make_dataset, tmp_path, monkeypatch):
    fresh = make_dataset(*planted(tmp_path, 2))
    assert resolve(fresh, {})["problem"].invalid
    dataset = make_planted()
    inputs = resolve(dataset, {})
    assert inputs["cam_keys"].invalid
    assert "is not registered" in inputs["cam_keys"].error_message

    models = inner("compute.recorded_model")
    monkeypatch.setattr(models, "unregistered", lambda used: None)
    inputs = resolve(dataset, {})
    assert not any(p.invalid for p in inputs.values())
    assert inputs["cam_keys"].default == ["run"]
    notice = inputs["notice"].view.to_json()
    assert notice["label"] == "Compares 5 maps on 12 of 12 samples"
    assert "forwards" not in notice["description"]
    small = resolve(dataset, {"probe": 4, "metrics": ["deletion"]})["notice"].view.to_json()
    assert "4 of 12" in small["label"]
    for params, name in (
        ({"cam_keys": ["ruun"]}, "cam_keys"),
        ({"budget": "soon"}, "budget"),
        ({"budget": "3"}, "budget"),
        ({"metrics": ["sparseness"]}, "metrics"),
    ):
        wrong = resolve(dataset, params)
        assert wrong[name].invalid, params
        assert "notice" not in wrong
    assert "did you mean run" in resolve(dataset, {"cam_keys": ["ruun"]})["cam_keys"].error_message
    compare(dataset, metrics=["deletion"])
    assert resolve(dataset, {})["overwrite"].invalid
    assert not resolve(dataset, {"overwrite": True})["overwrite"].invalid

    cams(dataset, [perfect], "later", Planted(weight=3.0))
    both = resolve(dataset, {"what": "models"})
    assert not any(p.invalid for p in both.values() if p is not both["overwrite"])
    mixed = resolve(dataset, {"cam_keys": ["run", "later"]})
    assert "of another model" in mixed["cam_keys"].error_message


def test_parameters_and_arguments():
    forms = inner("forms.compare")
    given = {
        "cam_keys": "run",
        "metrics": ["deletion"],
        "probe": "auto",
        "models": None,
        "seed": 51,
    }
    params = forms.params_of(given)
    assert forms.arguments_of(params) == {"cam_keys": ["run"], "metrics": ["deletion"], "seed": 51}
    models = {"cam_keys": ["a", "b"], "models": {"a": "x"}, "target": "auto"}
    assert forms.arguments_of(forms.params_of(models)) == {**models}
    app = {"what": "models", "cam_keys": ["a", "b"], "target": "auto", "probe": 0, "budget": ""}
    assert forms.arguments_of(app) == {"cam_keys": ["a", "b"], "models": {}, "target": "auto"}
    with pytest.raises(ValueError, match="model cannot be sent to another process"):
        forms.params_of({"cam_keys": ["run"], "model": Planted()})


def test_execute_reports_and_shows_the_table(make_planted, monkeypatch):
    """The messages that the App gets, without the App."""
    import fiftyone.operators.executor as executor

    dataset = make_planted(12)

    def messages():
        request = {
            "dataset_name": dataset.name, "params": {"cam_keys": ["run"], "metrics": ["deletion"]},
        }  # fmt: skip
        ctx = executor.ExecutionContext(request, executor=executor.Executor())
        sent = list(operator("compare_cams").messages(ctx))
        return [(m.body.operator_uri, m.body.params) for m in sent]

    with pytest.raises(ValueError, match="not registered"):
        messages()
    job, models = inner("compare.methods_job"), inner("models.load")
    loaded = models.load_model(Planted(), to_tensor, CLASSES)
    monkeypatch.setattr(job, "load_recorded", lambda *_: loaded)
    found = messages()
    names = [name for name, _ in found]
    assert "set_progress" in names[1]
    assert found[1][1]["label"].startswith("measuring 5 maps of 12 samples, ")
    assert any("reload_dataset" in name for name in names)
    outputs = next(p for name, p in found if "show_output" in name)
    assert (
        outputs["outputs"]["type"]["properties"]["rows"]["view"]["columns"][1]["label"] == "method"
    )
    assert outputs["results"]["rows"][0]["column_1"] == "perfect"
    assert "Recommended: perfect" in outputs["results"]["text"]


@pytest.fixture
def registered():
    operator("register_model")("planted", loader="compare_common:whole")
    yield "planted"
    operator("remove_model")("planted")


def test_as_the_app_and_the_queue_call_it(make_dataset, tmp_path, registered):
    import fiftyone.operators as foo
    from fiftyone.operators.delegated import DelegatedOperationService

    dataset = make_dataset(*planted(tmp_path, 6))
    given = {"layers": "features", "progress": False, "num_workers": 0}
    operator()(dataset, registered, methods=["hirescam", "randomcam"], cam_key="run", **given)
    uri = "@cam51/heatmaps/compare_cams"
    params = {"cam_keys": ["run"], "metrics": ["deletion"], "num_workers": 0}
    foo.execute_operator(uri, ctx={"dataset": dataset, "params": params})
    assert dataset.load_run_results("run").compare["settings"]["origin"] == "app"

    queued = operator("compare_cams")(
        dataset.limit(4), "run", metrics=["road"], overwrite=True, num_workers=0, delegate=True
    )
    service = DelegatedOperationService()
    service.execute_queued_operations(operator=uri, limit=1)
    run = service.get(queued.result["id"] if isinstance(queued.result, dict) else queued.result.id)
    assert run.run_state == "completed", run.result and run.result.error
    dataset.reload()
    found = dataset.load_run_results("run").compare
    assert (found["samples"], found["settings"]["origin"]) == (4, "delegated")
    assert list(found["metrics"]) == ["road"]
    assert len(dataset.exists("run_hirescam.road")) == 4
    assert "run_hirescam.deletion" not in dataset.get_field_schema(flat=True)
