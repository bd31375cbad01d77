"""The panel beside a sample: its numbers against others' or by hand, its sentence, its choices."""

import base64
import io
import json

import fiftyone as fo
import numpy as np
import pytest
from bias_common import BACKGROUND, CLASSES, Cues, agreeing, find, inner, to_tensor
from operators_common import operator
from panel_common import FIELDS, KEY, make_run
from PIL import Image
from scipy import stats

COUNT = 8


@pytest.fixture(scope="module")
def heats():
    """Three maps (28, 42) of one sample: a corner, nearly the same, another corner."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:28, :42] / [[[28]], [[42]]]
    one = np.exp(-((x - 0.2) ** 2 + (y - 0.3) ** 2) * 20)
    two = np.clip(one + 0.1 * rng.random(one.shape), 0, 1)
    three = np.exp(-((x - 0.8) ** 2 + (y - 0.8) ** 2) * 20)
    return [np.rint(255 * heat).astype(np.uint8) for heat in (one, two, three)]


@pytest.fixture
def dataset(make_dataset, photos, plugin, heats):
    dataset = make_dataset()
    make_run(dataset, [photo["path"] for photo in photos], COUNT)
    first = dataset.first()
    for field, heat in zip(FIELDS, heats, strict=True):
        first[field].map = heat
    first.save()
    return dataset


def read(dataset, number=0, **chosen):
    sample_id = dataset.values("id")[number]
    return inner("sample_panel.frame").read(dataset, sample_id, chosen)


def stored(dataset, number=0):
    run = inner("runs.run").Run.open(dataset, KEY)
    return inner("sample_panel.stored").read(run, dataset.values("id")[number])


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))), int)


# maps


def test_every_method_is_a_picture_of_its_own(dataset):
    shown = read(dataset)
    assert shown["methods"] == FIELDS
    assert shown["field"] == FIELDS[0]
    pictures = [pixels(picture) for picture, _ in shown["method_cards"]]
    texts = [text for _, text in shown["method_cards"]]
    assert pictures[0].shape == pictures[1].shape
    assert abs(pictures[0] - pictures[2]).max() > 60
    # changed where its map is hot, and nowhere where it has no heat
    drawing, look = inner("sample_panel.drawing"), inner("runs.look").look_of(dataset)
    bare = pixels(drawing.heat_picture(dataset.first().filepath, None, look))
    height, width = bare.shape[:2]
    y, x = int(0.3 * height), int(0.2 * width)
    change = abs(pictures[0] - bare).max(-1)
    assert change[y - 3 : y + 3, x - 3 : x + 3].mean() > 30
    assert change[-20:, -20:].mean() < 5, "JPEG alone"
    label = dataset.first()[FIELDS[0]]
    assert "**gradcam**" in texts[0]
    assert label.target in texts[0]
    assert f"peak {label.peak:.3g}" in texts[0]


def test_agreement_is_spearmans(dataset, heats):
    multiples = inner("sample_panel.multiples")
    found = multiples.agreements(stored(dataset), FIELDS)
    # 28 x 42 on 14 x 14: means of 2 x 3 pixels
    small = [heat.reshape(14, 2, 14, 3).mean((1, 3)).ravel() for heat in heats]
    for field, other in zip(FIELDS, small, strict=True):
        assert found[field] == pytest.approx(stats.spearmanr(small[0], other)[0], abs=1e-4)
    first = dataset.first()
    first[FIELDS[1]].target = "somebody else"
    first.save()
    assert multiples.agreements(stored(dataset), FIELDS)[FIELDS[1]] is None
    text = read(dataset)["method_cards"][1][1]
    assert "another target: not compared" in text


def test_layers_and_targets_of_the_chosen_method_are_the_second_row(dataset):
    multiples, found = inner("sample_panel.multiples"), stored(dataset)
    found.labels["net_gradcam_layer3"] = fo.Heatmap(method="gradcam", layer="layer3", target="a")
    found.labels["net_layercam_layer3"] = fo.Heatmap(method="layercam", layer="layer3", target="a")
    assert multiples.rows_of(found, FIELDS[0]) == (FIELDS, ["net_gradcam_layer3"], 0)
    assert multiples.rows_of(found, "net_layercam_layer3") == (FIELDS, ["net_layercam_layer3"], 0)
    for i in range(9):
        found.labels[f"net_m{i}"] = fo.Heatmap(method=f"m{i}", layer="layer4")
    methods, _, left_out = multiples.rows_of(found, FIELDS[0])
    assert len(methods) == multiples.MOST
    assert left_out == 12 - multiples.MOST


def test_measured_faithfulness_is_told(dataset):
    first = dataset.first()
    first[FIELDS[1]]["deletion"] = 0.257
    first.save()
    found = stored(dataset)
    found.metrics.append("deletion")
    text = inner("sample_panel.multiples").text_of(found, FIELDS[1], 0.5, FIELDS[0], True)
    assert "deletion 0.257" in text
    assert "agreement 0.50" in text


# threshold


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.95, 1.0])
def test_the_fewest_pixels_hold_the_share(share):
    heat = np.random.default_rng(1).integers(0, 6, (5, 7)).astype(float)
    kept = inner("sample_panel.threshold").kept_heat(heat, share)
    held, count = heat[kept].sum() / heat.sum(), int(kept.sum())
    assert held >= share - 1e-9
    best = np.sort(heat.ravel())[::-1]
    assert best[: count - 1].sum() / heat.sum() < share
    assert heat[kept].min() > 0
    assert heat[kept].min() >= heat[~kept].max()


def test_no_heat_keeps_nothing():
    assert not inner("sample_panel.threshold").kept_heat(np.zeros((3, 3)), 1.0).any()


def test_the_slider_changes_the_picture(dataset, heats):
    few, many = read(dataset, share=10), read(dataset, share=90)
    assert abs(pixels(few["kept"]) - pixels(many["kept"])).max() > 60
    assert few["method_cards"] == many["method_cards"]
    assert "hold 90 % of the heat" in many["kept_text"]


def test_heat_in_the_object_beside_its_baselines(dataset, photos):
    # the object is the left half, the map is hot in a quarter of it and a little outside
    first = dataset.first()
    first["boxes"] = fo.Detections(
        detections=[fo.Detection(label=first[FIELDS[0]].target, bounding_box=[0, 0, 0.5, 1])]
    )
    heat = np.zeros((56, 56), np.uint8)
    heat[:28, :28], heat[28:, 28:] = 200, 50
    first[FIELDS[0]].map = heat
    del first[FIELDS[0]]["obj_energy"]
    first.save()
    threshold, found = inner("sample_panel.threshold"), stored(dataset)
    label = found.labels[FIELDS[0]]
    for attribute in ("obj_energy", "object_area"):
        label[attribute] = None
    shares, text = threshold.on_object(dataset, found, label, heat / 255)
    assert shares["heat"] == pytest.approx(0.8, abs=0.01)
    assert shares["uniform"] == pytest.approx(0.5, abs=0.01)
    assert shares["centred"] == pytest.approx(0.5, abs=0.01), "a blob in the middle is halved"
    assert 0.3 < shares["random"] < 0.7
    assert text.startswith(
        "On the object: 80 % of the heat; 50 % of an even map, 50 % of a centred"
    )


# the sentence


def test_what_was_not_tested_is_said(dataset):
    said, sure = inner("sample_panel.sentence").of_sample(without(stored(dataset)))
    assert "rests on is not known: no other background was tried." in said
    assert said.endswith("The heat was not measured against an object.")
    assert "Heat alone proves nothing" in sure


def without(found):
    """A sample of a run that was not analysed."""
    found.verdict = found.bias = None
    return found


def test_an_analysed_sample_says_its_verdict_and_numbers(dataset):
    found = stored(dataset)
    said, sure = inner("sample_panel.sentence").of_sample(
        found, None, {"heat": 0.7, "uniform": 0.48}
    )
    bias, known = dataset.first()["net_bias"], dataset.first()["net_prediction"].confidence
    assert found.verdict == "relies on background"
    assert said.startswith(
        f"The score of {bias.explained} ({100 * known:.0f} %) rests on the background"
    )
    assert f"on backgrounds of other classes it loses {100 * bias.swap_drop:.0f} points" in said
    assert said.endswith("70 % of the heat is on the object, which fills 48 % of the image.")
    assert bias.reason[1:] in sure


@pytest.mark.parametrize("tried", [1, 4, 8])
def test_how_sure_a_few_backgrounds_are(dataset, tried):
    sentence = inner("sample_panel.sentence")
    for kept in range(tried + 1):
        explained = {"prediction": "cow", "probability": 0.62, "kept": kept, "tried": tried}
        said, sure = sentence.of_sample(without(stored(dataset)), explained)
        assert "cow (62 %)" in said
        exact = stats.binomtest(tried - kept, tried).proportion_ci(0.95, "exact")
        percent = inner("text").percent
        assert f"{percent(exact.low)} to {percent(exact.high)} (95 % interval)" in sure
        assert "rests" not in said, (
            "pasting alone may change a prediction, and there was no control"
        )
        assert (f"changed on {tried - kept} of {tried}" in said) == (kept < tried)


def test_a_test_with_a_control_says_more_than_backgrounds_tried_without(dataset):
    sentence = inner("sample_panel.sentence")
    own = stored(dataset).bias_number("explained")
    explained = {"prediction": own, "probability": 0.62, "kept": 3, "tried": 4, "model": None}
    said, sure = sentence.of_sample(stored(dataset), explained)
    assert "rests on the background: on backgrounds of other classes" in said
    assert sure.endswith("Explained again: it changed on 1 of 4 backgrounds.")
    # of another model the run's verdict says nothing
    said, sure = sentence.of_sample(stored(dataset), {**explained, "model": "another"})
    assert said.startswith(f"The prediction {own} (62 %) changed on 1 of 4 other backgrounds.")


def test_heat_of_another_class_is_called_so(dataset):
    shares = {"heat": 0.7, "uniform": 0.48}
    said, _ = inner("sample_panel.sentence").of_sample(stored(dataset), None, shares, "star")
    assert said.endswith(
        "70 % of the heat of star is on the object, which fills 48 % of the image."
    )


def test_what_was_explained_with_another_run_is_not_said_of_this_one(dataset):
    explained = inner("sample_panel.explained")
    names = [
        explained._HELD.put({"sample_id": "s", "cam_key": key, "model": model})
        for key, model in [("a", None), ("b", None), (None, "net")]
    ]
    for key, model in [("a", None), ("b", None), (None, "net")]:
        found = explained.of_sample(names, "s", key, model)
        assert (found["cam_key"], found["model"]) == (key, model)
    assert explained.of_sample(names, "s", "c", None) is None
    assert explained.of_sample(names, "another", "a", None) is None


# choices and empty states


def test_the_choice_survives_the_next_sample(dataset):
    chosen = {"key": KEY, "field": FIELDS[2], "share": 20, "page": "maps"}
    shown = read(dataset, 1, **chosen)
    assert (shown["key"], shown["field"], shown["share"]) == (KEY, FIELDS[2], 20)
    # a sample without this map shows another, and the next one shows the choice again
    second = dataset.skip(1).first()
    second[FIELDS[2]] = None
    second.save()
    assert read(dataset, 1, **chosen)["field"] == FIELDS[0]
    assert read(dataset, 2, **chosen)["field"] == FIELDS[2]


def test_what_is_sent_stays_small(dataset):
    schema = texts(drawn_of(dataset))
    assert len(schema) < 400_000
    assert schema.count("data:image/jpeg;base64") == len(FIELDS) + 1


def texts(schema):
    return json.dumps(schema.to_json())


def panel():
    return operator("cam_sample_panel")


def drawn_of(dataset, number=0, **chosen):
    return inner("sample_panel.frame").draw(panel(), read(dataset, number, **chosen))


def drawn(dataset, number=0, **chosen):
    return texts(drawn_of(dataset, number, **chosen))


def test_what_is_missing_is_said_with_what_to_do(make_dataset, photos, plugin, tmp_path, dataset):
    draw = inner("sample_panel.frame").draw
    read_frame = inner("sample_panel.frame").read
    assert "No sample is open" in texts(draw(panel(), read_frame(dataset, None, {})))
    empty = make_dataset(fo.Sample(filepath=photos[0]["path"]))
    assert "No heatmaps yet" in drawn(empty)
    assert "no run says which model is meant" in drawn(empty, page="what_if").lower()
    first = dataset.first()
    for field in FIELDS:
        first[field] = None
    first.save()
    assert "The run has no heatmap of this sample" in drawn(dataset)
    second = dataset.skip(1).first()
    dataset.set_values("filepath", {second.id: str(tmp_path / "gone.jpg")}, key_field="id")
    assert "gone.jpg" in drawn(dataset, 1)


def test_a_video_has_its_heatmaps_on_frames(make_dataset, plugin):
    video = make_dataset(fo.Sample(filepath="film.mp4"))
    assert video.media_type == "video"
    for page in ("maps", "explain", "what_if"):
        assert "The heatmaps of a video are on its frames" in drawn(video, page=page)


def test_a_model_given_from_python_says_how_to_register_it(dataset):
    inner("runs.record").update(
        dataset, KEY, settings={"model": "mine", "model_source": "module", "methods": ["gradcam"]}
    )
    shown = read(dataset, page="what_if")
    assert shown["model_from"] is None
    assert "register_model('mine'" in shown["no_model"]
    assert "register_model" in drawn(dataset, page="what_if").replace("\\", "")
    assert read(dataset, model="resnet18-imagenet-torch")["model_from"] == "name"


# what if


def test_regions_are_the_plain_ones_the_boxes_and_numbers(dataset):
    first = dataset.first()
    first["boxes"] = fo.Detections(
        detections=[fo.Detection(label="mark", bounding_box=[0.1, 0.2, 0.3, 0.4])]
    )
    first.save()
    what_if = inner("sample_panel.what_if")
    choices = read(dataset, page="what_if")["regions"]
    values = {row["value"]: row for row in choices}
    box = str(first["boxes"].detections[0].id)
    assert list(values) == ["hottest", "object", "background", "border", box, "box"]
    assert values[box]["label"] == "box 1: mark (boxes)"
    region, _ = what_if.region_of({"region": box}, choices)
    assert region == pytest.approx([0.1, 0.2, 0.3, 0.4])
    typed = {"region": "box", "box": "0.1; .2,.3,.4"}
    assert what_if.region_of(typed, choices)[0] == [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(ValueError, match="a box is four numbers"):
        what_if.region_of({"region": "box", "box": "here"}, choices)
    with pytest.raises(ValueError, match="of another sample"):
        what_if.region_of({"region": "0" * 24}, choices)


@pytest.fixture
def cues(make_dataset, tmp_path, plugin, monkeypatch):
    """A dataset with a run of a network by hand that the panel can ask."""
    dataset = make_dataset(*agreeing(tmp_path, 12))
    find(dataset, BACKGROUND)
    load, given = inner("sample.explain").load, inner("compute.recorded_model").GivenModel
    own = given(Cues(**BACKGROUND), to_tensor, None, CLASSES)
    monkeypatch.setattr(inner("sample.explain"), "load", lambda data, key, _: load(data, key, own))
    return dataset


def test_a_trial_is_listed_stored_and_asked_of_all(cues):
    what_if, form = inner("sample_panel.what_if"), inner("forms.region")
    sample_id, run = cues.first().id, {"cam_key": "run"}
    chosen = {"region": "box", "box": "0.5, 0.25, 0.25, 0.5", "fill": "mean"}
    name = what_if.asked(cues, sample_id, run, "run_hirescam", chosen)
    (listed,) = what_if.of_sample([name, "gone"], sample_id)
    trial = listed[1]["trial"]
    text = what_if.text_of(trial, listed[1]["words"], "the run")
    assert f"**plus {trial.old:.2f} → {trial.new:.2f}**" in text
    assert "the box, 12 % of the picture, by the mean colour" in text
    assert what_if.of_sample([name], cues.last().id) == []
    given = form.arguments_of(what_if.prompt_of(name))
    assert given == {"cam_key": "run", "region": [0.5, 0.25, 0.25, 0.5]}
    what_if.keep(cues, name)
    cues.reload()
    assert cues.first()["explain_evidence"].detections[0].probability_after == trial.new
    with pytest.raises(ValueError, match="not in memory any more"):
        what_if.keep(cues, "gone")
    border = what_if.asked(cues, sample_id, run, None, {"region": "border", "fill": "blur"})
    assert form.arguments_of(what_if.prompt_of(border)) == {**run, "region": "border"}
    background = what_if.asked(cues, sample_id, run, None, {"region": "background"})
    assert what_if.prompt_of(background) is None


def test_what_was_explained_is_in_the_sentence(cues):
    found = operator("explain_sample")(
        cues, cues.first().id, "run", Cues(**BACKGROUND), transforms=to_tensor, classes=CLASSES
    )
    explained = inner("sample_panel.explained")
    answer = explained.hold(found, "run", None, inner("runs.look").look_of(cues))
    assert len(str(answer)) < 100, "pictures stay in the server"
    shown = inner("sample_panel.frame").read(
        cues, cues.first().id, {"page": "explain", "explained": [answer["held"]], "key": "run"}
    )
    changed = sum(swap["prediction"] != "plus" for swap in found.swaps)
    assert changed == 4
    assert shown["sentence"].startswith("The score of plus (100 %) rests on the background")
    assert shown["sure"].endswith("Explained again: it changed on 4 of 4 backgrounds.")
    text = texts(inner("sample_panel.frame").draw(panel(), shown))
    assert text.count("**changed:** minus") == 4
    assert text.count("data:image/jpeg") == 8
    # of another sample nothing is known
    given = {"explained": [answer["held"]], "key": "run"}
    other = inner("sample_panel.frame").read(cues, cues.last().id, given)
    assert other["found"] is None


def test_what_is_held_is_bounded():
    held = inner("sample_panel.held").Held(5)
    names = [held.put(i) for i in range(12)]
    assert [held.get(name) for name in names] == [None] * 7 + [7, 8, 9, 10, 11]


def test_a_panel_that_was_moved_shows_its_look_again(dataset):
    look, bar = inner("runs.look"), inner("panel.look_bar")
    look.set_look(dataset, ramp="turbo", opacity=0.85, hide_below=0.2)
    fields = {"look_ramp": "turbo", "look_opacity": "85", "look_hidden": "20"}
    assert bar.fields_of(dataset) == fields
