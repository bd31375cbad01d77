"""``find_background_bias`` on a real MongoDB, with networks whose reliance is known by construction."""

import fiftyone as fo
import numpy as np
import pytest
import torch
from bias_common import (
    BACKGROUND,
    CLASSES,
    OBJECT,
    ON_OBJECT,
    RELIES,
    Cues,
    agreeing,
    find,
    inner,
    sample,
    to_tensor,
)
from fiftyone import ViewField as F
from operators_common import groups_of, operator, prepared
from PIL import Image
from window_detector_common import BY_OBJECT, detector

pytestmark = pytest.mark.usefixtures("plugin")

# a network that reads only the background, and one that reads only the object


def test_a_network_that_reads_the_background(agree):
    dataset = agree()
    summary = find(dataset, BACKGROUND)

    assert dataset.distinct("run_verdict") == [RELIES]
    # on the other class's background the prediction flips: the score falls from 1 to 0
    np.testing.assert_allclose(dataset.values("run_bias.swap_drop"), 1, atol=0.02)
    np.testing.assert_allclose(dataset.values("run_bias.same_drop"), 0, atol=0.02)
    np.testing.assert_allclose(dataset.values("run_bias.bg_gap"), 1, atol=0.03)
    np.testing.assert_allclose(dataset.values("run_bias.bg_only"), 1, atol=0.02)
    np.testing.assert_allclose(dataset.values("run_bias.bg_support"), 1, atol=0.03)
    assert set(dataset.values("run_bias.swap_flip")) == {1.0}
    assert set(dataset.values("run_bias.adopt")) == {1.0}
    assert min(dataset.values("run_dependence")) > 0.95
    # no heat on the grey object
    np.testing.assert_allclose(dataset.values("run_bias.obj_energy"), 0, atol=0.1)

    assert [row["label"] for row in summary.flagged] == ["minus", "plus"] or [
        row["label"] for row in summary.flagged
    ] == ["plus", "minus"]
    for row in summary.classes:
        assert row["n"] == row["samples"] == 24
        assert row["bg_gap"]["low"] > 0.9
        assert row["q"] < 0.001
        assert row["dependence"] > 0.95
    m = summary.model
    assert m["accuracy"]["mean"] == m["mixed_same"]["mean"] == m["only_bg"]["mean"] == 1
    assert m["mixed_rand"]["mean"] == 0
    assert (m["chance"], m["majority"], m["against"]) == (0.5, 0.5, "labels")
    assert m["evidence"]["right_background"] == 48
    assert (summary.tested, summary.skipped) == (48, {})
    text = str(summary)
    assert "the score of 48 of 48 tested samples depends on the background" in text
    # donors of both kinds exchanged: no sample loses half of its score on the one and not on the other
    assert m["null_rate"] < 0.1
    assert "would be called dependent if backgrounds of other classes" in text
    assert "2 of 2 depend on the background" in text
    assert "'ground_truth' (object), the only object field that is no prediction" in text


def test_a_network_that_reads_the_object(agree):
    dataset = agree()
    summary = find(dataset, OBJECT)

    assert dataset.distinct("run_verdict") == [ON_OBJECT]
    assert max(dataset.values("run_dependence")) < 0.05
    np.testing.assert_allclose(dataset.values("run_bias.swap_drop"), 0, atol=0.02)
    # without the object nothing speaks for either class
    np.testing.assert_allclose(dataset.values("run_bias.bg_only"), 0.5, atol=0.05)
    assert min(dataset.values("run_bias.obj_energy")) > 0.9
    assert summary.flagged == []
    assert summary.model["mixed_rand"]["mean"] == 1
    text = str(summary)
    assert "no sign of background dependence in the 2 classes judged (48" in text
    assert "These checks can miss cues" in text
    assert summary.model["null_rate"] == 0
    # noise of .25 averages out over the object's 144 pixels: no prediction changes
    noise = summary.model["sensitivity"]
    assert (noise["n"], noise["value"], noise["noisy_object"]) == (48, 0, 1)
    assert "relative foreground sensitivity 0.00" in text
    assert "unbiased" not in text
    assert len(dataset.load_saved_view("run: relies on background")) == 0


# what is written


def test_what_is_written(agree):
    dataset = agree(24)
    summary = find(dataset)
    assert summary.fields == ["run_verdict", "run_dependence", "run_bias"]
    schema = dataset.get_field_schema(flat=True)
    assert isinstance(schema["run_dependence"], fo.FloatField)
    store = inner("bias.schema")
    for name in store.ATTRIBUTES:
        assert schema[f"run_bias.{name}"].description, name
    assert "of the image that is object" in schema["run_bias.object_area"].description
    first = dataset.first()
    assert first.run_hirescam.verdict == first.run_verdict
    assert first.run_hirescam.object_area == pytest.approx(144 / 1024, abs=0.01)
    assert first.run_bias.label == first.run_bias.prediction == "plus"
    assert first.run_bias.correct is True
    assert first.run_bias.other_energy == 0
    assert (first.run_bias.object_source, first.run_bias.object_status) == (
        "ground_truth_box",
        "ok",
    )
    donors = dataset.select(first.run_bias.donors)
    assert len(donors) == 8
    assert first.id not in first.run_bias.donors
    assert sorted(donors.values("label.label")) == ["minus"] * 4 + ["plus"] * 4

    group = next(g for g in dataset.app_config.sidebar_groups if g.name == "run_bias")
    assert group.expanded is False
    assert "run_bias.swap_drop" in group.paths
    shown = dataset.app_config.active_fields.paths
    assert "run_verdict" in shown
    assert dataset.bounds("run_bias.swap_drop")[0] > 0.9

    assert dataset.list_runs() == ["run"]
    analysed = inner("bias.schema").RECORDS.record_of(dataset, "run")
    assert analysed["status"] == "finished"
    assert analysed["settings"]["seed"] == 51
    results = dataset.load_run_results("run")
    assert results.summary["done"] == 24, "the CAM run's own"
    stored = results.bias
    assert stored["classes"] == inner("runs.record").jsonable(summary.classes)
    assert stored["verdicts"] == {RELIES: 24}


def test_views(agree, tmp_path):
    dataset = agree(24)
    # one that is predicted by its background, against its label
    dataset.add_sample(sample(tmp_path, "wrong", 1, -1, label="minus"))
    summary = find(dataset)
    assert summary.views == [
        "run: relies on background", "run: right for the wrong reason", "run: heat only",
    ]  # fmt: skip
    relies = dataset.load_saved_view("run: relies on background")
    assert len(relies) == 25
    values = relies.values("run_dependence")
    assert values == sorted(values, reverse=True)
    right = dataset.load_saved_view("run: right for the wrong reason")
    assert len(right) == 24
    assert dataset.last().id not in right.values("id")
    assert summary.model["evidence"]["wrong_background"] == 1


def test_without_labels_nothing_is_called_right(agree):
    dataset = agree(24)
    summary = find(dataset, labels=None)
    assert summary.model["against"] == "predictions"
    assert dataset.values("run_bias.correct") == [None] * 24
    assert "run: right for the wrong reason" not in dataset.list_saved_views()


def test_again_needs_overwrite_and_leaves_nothing_old(agree):
    dataset = agree(24)
    find(dataset, tags=True)
    assert dataset.count_sample_tags() == {"run: relies on background": 24}
    with pytest.raises(ValueError, match="analysed already; pass overwrite=True"):
        find(dataset)
    find(dataset, views=False, overwrite=True)
    assert dataset.count_sample_tags() == {}
    assert dataset.list_saved_views() == []

    before = {"run_hirescam", "run_prediction", "ground_truth", "label"}
    inner("bias.schema").RECORDS.clear(dataset, "run")
    names = set(dataset.get_field_schema())
    assert before < names
    assert not {n for n in names if n.startswith("run_")} - before
    assert "run_hirescam.verdict" not in dataset.get_field_schema(flat=True)
    assert dataset.count("run_hirescam.map") == 24
    assert groups_of(dataset) == {
        "run_heatmaps": ["run_hirescam", "run_prediction"]
    }  # as before the analysis
    assert inner("bias.schema").RECORDS.record_of(dataset, "run") is None
    assert dataset.load_run_results("run").bias is None


def test_deleting_the_run_takes_all_of_it_along(agree):
    dataset = agree(24)
    find(dataset, tags=True)
    views, tags = dataset.list_saved_views(), dataset.count_sample_tags()
    shown = {v: dataset.load_saved_view(v).values("id") for v in views}
    assert "run_verdict_1_run_dependence_-1" in dataset.list_indexes()

    operator("rename_cam_run")(dataset, "run", "other")
    named = [index for index in dataset.list_indexes() if "verdict" in index]
    assert named == ["other_verdict_1_other_dependence_-1"]
    assert dataset.list_saved_views() == [v.replace("run:", "other:") for v in views]
    assert shown == {
        v: dataset.load_saved_view(v.replace("run", "other")).values("id") for v in views
    }
    assert dataset.count_sample_tags() == {t.replace("run", "other"): n for t, n in tags.items()}
    assert not [n for n in dataset.get_field_schema() if n.startswith("run_")]
    assert not [g.name for g in dataset.app_config.sidebar_groups if "run_" in g.name]
    assert dataset.load_run_results("other").bias["cam_key"] == "other"

    operator("delete_cam_run")(dataset, "other")
    assert dataset.list_saved_views() == []
    assert dataset.list_runs() == []
    assert dataset.count_sample_tags() == {}
    assert not [n for n in dataset.get_field_schema() if n.startswith("other_")]
    assert not [index for index in dataset.list_indexes() if "verdict" in index]


def test_where_no_index_fits_any_more_the_findings_stay(agree, caplog):
    dataset = agree(24)
    samples = dataset._sample_collection
    while len(samples.index_information()) < 64:  # which is all that MongoDB takes
        samples.create_index(f"own_{len(samples.index_information())}")
    assert find(dataset).verdicts == {RELIES: 24}
    assert inner("bias.schema").RECORDS.record_of(dataset, "run")["status"] == "finished"
    assert "run: no index of its verdicts, so the panel opens slower" in caplog.text


def analysing(dataset, phase="measuring heat", network=None, **arguments):
    """An analysis of a run that is there, up to a phase: its job and its steps."""
    given = inner("bias.params").BiasSettings(cam_key="run", num_workers=0, **arguments)
    network = network or Cues(**BACKGROUND)
    job = prepared(inner("bias.job").BiasJob, dataset, given, network, to_tensor, CLASSES)
    steps = job.run()
    for state in steps:
        if state.name == phase:
            return job, steps
    pytest.fail(f"there is no phase {phase!r}")


def left(dataset):
    """Everything that an analysis could leave behind."""
    dataset.reload()
    documents = list(dataset._sample_collection.find({}, {"last_modified_at": False}).sort("_id"))
    return (
        sorted(dataset.get_field_schema(flat=True)), dataset.list_saved_views(), dataset.list_runs(),
        dataset.count_sample_tags(), dataset.list_indexes(), documents,
    )  # fmt: skip


def test_what_is_being_examined_is_neither_deleted_nor_renamed(agree):
    dataset = agree(24)
    _, steps = analysing(dataset, layers="features", methods="hirescam")
    message = "'run' is being analysed by find_background_bias in this process; wait for that"
    for name, *arguments in (("delete_cam_run",), ("rename_cam_run", "new")):
        with pytest.raises(ValueError, match=message):
            operator(name)(dataset, "run", *arguments)
    with pytest.raises(ValueError, match=message):
        find(dataset, overwrite=True)
    steps.close()
    assert inner("bias.schema").RECORDS.record_of(dataset, "run")["status"] == "interrupted"
    operator("rename_cam_run")(dataset, "run", "new")
    operator("delete_cam_run")(dataset, "new")
    assert dataset.list_runs() == []


@pytest.mark.parametrize("what", ["delete", "rename", "analyse"])
@pytest.mark.parametrize("phase", ["measuring heat", "writing"])
def test_an_analysis_that_lost_its_run_writes_nothing(agree, what, phase):
    dataset = agree(24)
    job, steps = analysing(dataset, phase, layers="features", methods="hirescam", tags=True)
    inner("runs.record").ACTIVE.discard(
        inner("bias.schema").RECORDS.record_of(dataset, "run")["token"]
    )
    if what == "delete":
        operator("delete_cam_run")(dataset, "run")
    elif what == "rename":
        operator("rename_cam_run")(dataset, "run", "new")
    else:
        find(dataset, views=False)
    before = left(dataset)
    with pytest.raises(
        RuntimeError, match="'run' was deleted, renamed or analysed again meanwhile"
    ):
        list(steps)
    assert left(dataset) == before
    assert job.summary is None
    if what == "analyse":
        assert inner("bias.schema").RECORDS.record_of(dataset, "run")["status"] == "finished"


def test_an_analysis_of_a_detector_that_lost_its_run_writes_nothing(agree):
    dataset = agree(12)
    network, targets = detector(**BY_OBJECT), {"field": "ground_truth"}
    job, steps = analysing(
        dataset, "computing heatmaps", network, objects="ground_truth", targets=targets
    )
    for state in steps:
        if state.name != "computing heatmaps":
            break
    inner("runs.record").ACTIVE.discard(
        inner("bias.schema").RECORDS.record_of(dataset, "run")["token"]
    )
    operator("delete_cam_run")(dataset, "run")
    before = left(dataset)
    with pytest.raises(RuntimeError, match="nothing was written"):
        list(steps)
    assert left(dataset) == before
    assert job.summary is None


def test_an_analysis_whose_process_died_is_in_nobodys_way(agree):
    dataset = agree(12)
    _, steps = analysing(dataset, layers="features", methods="hirescam")
    store = inner("bias.schema")
    token = store.RECORDS.record_of(dataset, "run")["token"]
    store.RECORDS.update(dataset, "run", pid=2**22 + 12345)  # nobody's
    inner("runs.record").ACTIVE.discard(token)
    assert store.RECORDS.record_of(dataset, "run")["status"] == "running"
    operator("rename_cam_run")(dataset, "run", "new")
    operator("delete_cam_run")(dataset, "new")
    steps.close()
    assert dataset.list_runs() == []


def test_an_existing_run_is_used_as_it_was_computed(agree):
    dataset = agree(24)
    operator()(
        dataset, Cues(**BACKGROUND), ["eigencam", "layercam"], "mine", transforms=to_tensor,
        classes=CLASSES, layers="features", progress=False, targets="plus",
    )  # fmt: skip
    stored = dataset.values("mine_layercam.map")
    summary = find(dataset, cam_key="mine", methods=None, layers=None)
    assert summary.settings["cam_key"] == "mine"
    # the run explains "plus", whatever is predicted; eigencam has no say
    assert set(dataset.values("mine_bias.explained")) == {"plus"}
    scores = np.array(dataset.values("mine_bias.probability"))
    np.testing.assert_allclose(scores[::2], 1, atol=0.01)
    np.testing.assert_allclose(scores[1::2], 0, atol=0.01)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(stored, dataset.values("mine_layercam.map"), strict=True)
    )
    assert dataset.first().mine_eigencam.verdict == dataset.first().mine_verdict
    assert dataset.first().mine_bias.obj_energy == dataset.first().mine_layercam.obj_energy
    assert "There was no run" not in str(summary)
    said = find(dataset, cam_key="mime")
    assert "no run 'mime', so its heatmaps were computed; there is a run 'mine'" in str(said)


def test_measures_are_those_of_the_raw_map(agree):
    from cam_core import explain
    from cam_core.metrics.localization import measure
    from cam_core.spatial.geometry import Window
    from cam_core.spatial.masks import box_masks

    dataset = agree(6)
    find(dataset, {"red": 20.0, "blue": 60.0})
    network = Cues(red=20.0, blue=60.0)
    for row in dataset:
        tensor = to_tensor(Image.open(row.filepath))[None]
        maps = explain(network, tensor, "hirescam", layers=["features"]).maps[
            "hirescam", "features"
        ]
        left, top, width, height = row.ground_truth.detections[0].bounding_box
        box = torch.tensor([left, top, left + width, top + height])
        mask = box_masks(box, (56, 56))[None]
        expected = measure(maps[:, 0], mask, windows=[Window.whole(32, 32)])
        for name in ("obj_energy", "density_share_tol", "pix_auc", "entropy"):
            value = float(getattr(expected, name)[0])
            # the window of this transform is found by a probe, to a hundredth of a pixel
            assert row.run_bias[name] == pytest.approx(value, abs=3e-3), name


# the probe, and what heat may say


def two_kinds(folder, count=80):
    """Pictures of which only the background or only the object has a cue, in turn; both classes."""
    samples = []
    for i in range(count):
        sign = 1 if (i // 2) % 2 == 0 else -1
        red, blue = (sign, 0) if i % 2 == 0 else (0, sign)
        box = (2 + 3 * (i % 5), 3 + 2 * (i % 7), 12, 12)
        samples.append(sample(folder, f"kind{i}", red, blue, box, kind="red" if red else "blue"))
    return samples


def test_heat_speaks_for_samples_that_were_not_tested(make_dataset, tmp_path):
    dataset = make_dataset(*two_kinds(tmp_path))
    network = {"red": 20.0, "blue": 400.0}
    summary = find(dataset, network, probe=50)
    assert summary.tested == 50
    assert summary.skipped == {"not in the probe": 30}
    assert summary.calibration["usable"]
    assert summary.calibration["auroc"] > 0.8
    rest = dataset.match(F("run_bias.tested") == False)  # noqa: E712
    assert len(rest) == 30
    red, blue = (rest.match(F("kind") == k) for k in ("red", "blue"))
    assert min(len(red), len(blue)) > 5
    assert red.distinct("run_verdict") == ["heat outside, untested"]
    assert blue.distinct("run_verdict") == ["cannot say"]
    assert min(red.values("run_dependence")) > 0.5 > max(blue.values("run_dependence"))
    assert set(dataset.load_saved_view("run: heat only").values("id")) == set(red.values("id"))
    tested = dataset.match(F("run_bias.tested") == True)  # noqa: E712
    assert ON_OBJECT not in tested.match(F("kind") == "red").distinct("run_verdict")
    assert tested.match(F("kind") == "blue").distinct("run_verdict") == [ON_OBJECT]


def test_where_heat_predicts_nothing_nothing_is_claimed_from_it(agree):
    dataset = agree(40)
    summary = find(dataset, OBJECT, probe=24)
    assert not summary.calibration["usable"]
    assert "heat is not used" in str(summary).lower()
    rest = dataset.match(F("run_bias.tested") == False)  # noqa: E712
    assert len(rest) == 16
    assert rest.values("run_dependence") == [None] * 16
    assert rest.distinct("run_verdict") == ["cannot say"]
    assert rest.distinct("run_bias.reason") == ["not tested; its heat is inconclusive"]


def test_the_probe_is_spread_over_the_classes_and_seeded(agree):
    choose = inner("bias.swap").choose_probe
    classes = np.array([0] * 90 + [1] * 8 + [2] * 2)
    usable = np.ones(100, bool)
    usable[0] = False
    rows = choose(classes, usable, 20, 51)
    assert np.bincount(classes[rows]).tolist() == [10, 8, 2]
    assert 0 not in rows
    assert np.array_equal(rows, choose(classes, usable, 20, 51))
    assert not np.array_equal(rows, choose(classes, usable, 20, 52))
    assert len(choose(classes, usable, 500, 51)) == 99


# further fields


def test_groups_scenes_and_context(make_dataset, tmp_path):
    samples = []
    for i in range(48):
        sign, north = 1 if i % 2 == 0 else -1, i % 4 < 2
        # the south's cue is weaker
        one = sample(tmp_path, f"h{i}", sign if north else 0.3 * sign, 0, label=CLASSES[i % 2])
        samples.append(one)
        one["hospital"] = "north" if north else "south"
        one["scene"] = i // 4
        corner = fo.Detection(label="tag", bounding_box=[0.8, 0.8, 0.2, 0.2])
        one["fixtures"] = fo.Detections(detections=[corner])
    dataset = make_dataset(*samples)
    summary = find(
        dataset,
        {"red": 6.0},
        objects={"ground_truth": "object", "fixtures": "context"},
        group_by="hospital",
        scenes="scene",
    )
    g = summary.groups
    assert [(row["value"], row["n"]) for row in g["groups"]] == [("north", 24), ("south", 24)]
    # within a class, the hospital is all that the score varies with
    assert g["explained"] > 0.95
    assert g["p"] < 0.01
    assert "Groups by hospital: it explains" in str(summary)
    assert np.shape(g["groups"][0]["mean_map"]) == (28, 28)
    scene = dict(zip(dataset.values("id"), dataset.values("scene"), strict=True))
    for row in dataset:
        assert all(scene[d] != row.scene for d in row.run_bias.donors)
    context = next(r for r in summary.regions if r["name"] == "context")
    assert context["n"] == 48
    # a corner of 4 % of a background that decides as a whole: little more than any other
    assert abs(context["effect"]["mean"]) < 0.05
    assert max(abs(v) for v in dataset.values("run_bias.context_drop")) < 0.15


def test_an_effect_of_heat_is_tied_to_its_cause(agree):
    dataset = agree(24)
    find(dataset, {"red": 20.0, "blue": 0.0})
    values = [v for v in dataset.values("run_bias.heat_effect") if v is not None]
    # a tenth of the background decides nothing here, and where it does it is all of the loss
    assert all(v > 0.9 for v in values)
    find(dataset, {"red": 0.0, "blue": 30.0}, overwrite=True, cam_key="run2")
    values = [v for v in dataset.values("run2_bias.heat_effect") if v is not None]
    assert len(values) > 10
    assert max(values) < 0.1


def test_aliases_say_what_the_model_calls_a_label(make_dataset, tmp_path):
    samples = agreeing(tmp_path, 24)
    for one in samples:
        one.label.label = {"plus": "red thing", "minus": "blue thing"}[one.label.label]
    dataset = make_dataset(*samples)
    aliases = {"plus": "red thing", "minus": ["blue thing", "cyan thing"]}
    summary = find(dataset, aliases=aliases)
    assert summary.model["accuracy"]["mean"] == 1
    assert summary.labels["unknown"] == 0


def test_labels_may_be_lists_of_right_names(make_dataset, tmp_path):
    samples = agreeing(tmp_path, 24)
    for i, one in enumerate(samples):
        one["names"] = ["something", one.label.label] if i else []
    dataset = make_dataset(*samples)
    summary = find(dataset, labels="names")
    assert summary.labels["known"] == 23
    assert summary.model["accuracy"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 23}
