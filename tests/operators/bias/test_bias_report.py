"""The report: one page without anything outside it, safe from what is in the dataset, and its tables."""

import base64
import csv
import importlib
import io
import json
import re
import types
from pathlib import Path

import numpy as np
import pytest
from bias_common import BACKGROUND, OBJECT, agreeing, find
from operators_common import PLUGIN
from page_common import Page
from PIL import Image

pytestmark = pytest.mark.usefixtures("plugin")

EVIL = "<script>alert('x')</script> & \"quotes\" `tick`"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "report"


def make(make_dataset, tmp_path, folder, network=BACKGROUND, count=48, evil=False):
    samples = agreeing(tmp_path, count)
    for i, one in enumerate(samples):
        one["hospital"] = EVIL if evil and i % 4 < 2 else "south"
        if evil:
            path = Path(one.filepath)
            one.filepath = str(path.rename(path.with_name(f"<img onerror=x>{path.name}")))
        if evil and one.label.label == "plus":
            one.label.label = EVIL
    dataset = make_dataset(*samples)
    options = {"aliases": {"plus": EVIL}} if evil else {}
    summary = find(dataset, network, group_by="hospital", report=str(folder), **options)
    return dataset, summary, (folder / "run_bias.html").read_text(encoding="utf-8")


def test_a_card_for_each_flagged_class(make_dataset, tmp_path, folder):
    _, summary, text = make(make_dataset, tmp_path, folder)
    assert summary.report == str(folder / "run_bias.html")
    assert len(summary.flagged) == 2
    cards = re.findall(r'<section class="card flagged">(.*?)</section>', text, re.S)
    assert len(cards) == 2
    for row, card in zip(summary.flagged, cards, strict=True):
        page = Page(card)
        assert row["label"] in page.text
        # four photos with their heat, and two composites
        assert len(page.pictures) == 4 * 2 + 2
        gap = row["bg_gap"]
        assert gap["low"] == gap["high"], "all alike: no interval is claimed"
        assert f"{gap['mean']:.2f} (n = 24)" in page.text
        assert "falls by 1.00" in page.text
        assert "What to do next" in page.text
        assert "score 0.00 instead of 1.00" in page.text
        assert "predicted minus" in page.text or "predicted plus" in page.text
    assert str(summary).split("\n")[0] in Page(text).text


def test_pictures_are_what_they_say(make_dataset, tmp_path, folder):
    _, _, text = make(make_dataset, tmp_path, folder)
    card = re.search(r'<section class="card flagged">(.*?)</section>', text, re.S)[1]
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(p.partition(",")[2]))), float)
        for p in Page(card).pictures
    ]
    photo, heat = pictures[0], pictures[1]
    assert photo.shape == heat.shape == (210, 210, 3)
    red = np.median(photo[..., 0])
    assert red > 240 or red < 15, "the background's cue"
    assert np.abs(photo - heat)[..., 1].max() > 40, "heat is laid over it"
    # the object is where it was, the background has the other class's red
    for composite in pictures[8:]:
        assert abs(np.median(composite[..., 0]) - red) > 200


def test_nothing_is_fetched_and_nothing_of_the_dataset_is_markup(make_dataset, tmp_path, folder):
    _, summary, text = make(make_dataset, tmp_path, folder, evil=True)
    page = Page(text)
    assert page.links
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "alert('x')" in page.text, "it is shown"
    assert "<img onerror=x>agree0.png: plus 1.00" in page.text
    assert any(row["label"] == EVIL for row in summary.classes)


def test_nothing_flagged_says_so(make_dataset, tmp_path, folder):
    _, _, text = make(make_dataset, tmp_path, folder, OBJECT)
    assert "card flagged" not in text
    assert "These checks can miss cues" in Page(text).text
    assert not re.search(r"\bbiased\b|unbiased|proved", Page(text).text)


def test_report_without_objects(make_dataset, tmp_path, folder):
    samples = agreeing(tmp_path, 12)
    for one in samples:
        del one["ground_truth"]
    find(make_dataset(*samples), report=str(folder))
    text = Page((folder / "run_bias.html").read_text(encoding="utf-8")).text
    assert "Region border: the score loses" in text
    assert "No objects" in text


def test_tables(make_dataset, tmp_path, folder):
    dataset, summary, _ = make(make_dataset, tmp_path, folder, count=12)
    rows = list(csv.DictReader((folder / "run_bias_samples.csv").open(encoding="utf-8")))
    assert [r["id"] for r in rows] == dataset.values("id")
    assert [r["verdict"] for r in rows] == dataset.values("run_verdict")
    drops = [float(r["swap_drop"]) for r in rows]
    np.testing.assert_allclose(drops, dataset.values("run_bias.swap_drop"))
    assert rows[0]["context_drop"] == ""
    assert rows[0]["donors"].split() == dataset.first().run_bias.donors
    classes = list(csv.DictReader((folder / "run_bias_classes.csv").open(encoding="utf-8")))
    assert [c["label"] for c in classes] == [c["label"] for c in summary.classes]
    assert float(classes[0]["bg_gap_low"]) == pytest.approx(summary.classes[0]["bg_gap"]["low"])
    assert classes[0]["note"] == "too few"


def test_a_table_holds_no_formulas(plugin):
    tables = importlib.import_module(f"{PLUGIN}.operators.bias.tables")
    assert tables.cell("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert tables.cell("@x") == "'@x"
    assert tables.cell(-0.5) == -0.5
    assert tables.cell("plain") == "plain"
    assert tables.cell(None) == ""


# the summary's words


def test_words_for_numbers(plugin):
    words = importlib.import_module(f"{PLUGIN}.operators.bias.summary")
    assert words.percent(0.873) == "87 %"
    assert words.percent(0.004) == "0.4 %"
    assert words.percent(0) == "0 %"
    assert words.percent(None) == "unknown"
    assert words.number(0.126) == "0.13"
    assert words.number(-0.001) == "0.00", "a sign says nothing where there is nothing"
    interval = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 12}
    assert words.with_interval(interval) == "50 % (25 % to 75 %, n = 12)"
    alone = {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert words.with_interval(alone, words.number) == "0.50 (n = 1)"


def test_everything_as_json(make_dataset, tmp_path, folder):
    dataset, summary, _ = make(make_dataset, tmp_path, folder, count=24, evil=True)
    text = (folder / "run_bias.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    found = json.loads(text)
    assert sorted(found) == ["lines", "samples", "schema", "summary"]
    assert found["schema"] == 2
    assert found["lines"] == summary.lines()
    assert found["summary"]["verdicts"] == summary.verdicts
    assert found["summary"]["classes"][0]["bg_gap"] == summary.classes[0]["bg_gap"]
    assert [row["id"] for row in found["samples"]] == dataset.values("id")
    first = dataset.first()
    row = found["samples"][0]
    assert (row["verdict"], row["dependence"]) == (first.run_verdict, first.run_dependence)
    assert row["swap_drop"] == first.run_bias.swap_drop
    assert row["donors"] == list(first.run_bias.donors)
    assert row["context_drop"] is None


def test_few_samples_claim_little(plugin):
    text = importlib.import_module(f"{PLUGIN}.operators.text")
    words = importlib.import_module(f"{PLUGIN}.operators.bias.summary")
    alike = {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 3}
    assert text.with_interval(alike) == "100 % (n = 3)", "resampling equal values finds no spread"
    assert [text.too_few(n) for n in (1, 5, 6)] == [True, True, False]
    assert text.too_few(6, tests=2)
    half = {"mean": 0.5, "low": 0.2, "high": 0.8, "n": 3}
    region = {
        "name": "border", "n": 3, "region_drop": half, "control_drop": half, "flip": 0.0, "effect": half,
        "controlled": 3, "p": 0.25, "skipped": {},
    }  # fmt: skip
    few = "difference 0.50, too few samples for an interval or a test (3 of 20); 0 %"
    assert few in words.region_sentence(region)
    assert ", p 0.01; 0 %" in words.region_sentence(
        {**region, "n": 20, "controlled": 20, "p": 0.01}
    )
    one = types.SimpleNamespace(
        cam_key="run", samples=1, units=None, unit="samples", tested=1, flagged=[],
        verdicts={"relies on object": 1}, classes=[{"note": "too few"}],
    )  # fmt: skip
    assert words._headline(one) == (
        "run: the score of 0 of 1 tested sample depends on the background (1 sample in all)."
    )
    assert "none of 1 judged: each has fewer than 20 tested samples" in words._classes(one)


def test_what_the_test_could_not_see_is_not_said_to_be_absent(plugin):
    """Two classes of twenty and more samples: one that could lose its scores, one that had none."""
    words = importlib.import_module(f"{PLUGIN}.operators.bias.summary")
    unsure, sure = ({"label": n, "n": 30, "note": note} for n, note in (("b", "unsure"), ("a", "")))
    told = types.SimpleNamespace(unit="samples", tested=60, flagged=[], classes=[sure, unsure])
    said = words._classes(told)
    assert "no sign of background dependence in the class a (30 samples)" in said
    assert said.endswith("; 1 not judged, as scores are too low.")
    told.classes = [unsure]
    assert words._classes(told) == ("Classes: 1 not judged, as scores are too low.")


def test_why_nothing_can_be_said_is_counted(plugin):
    words = importlib.import_module(f"{PLUGIN}.operators.bias.summary")
    said = importlib.import_module(f"{PLUGIN}.cam_core.bias.verdicts")
    whys = ["unsure", "no object", "depends in part", "unsure"]
    given = [said.Verdict("cannot say", "", why) for why in whys] + [
        said.Verdict("relies on object", "")
    ]
    counts = words.undecided_of(given)
    assert list(counts.items()) == [("depends in part", 1), ("unsure", 2)]
    told = types.SimpleNamespace(
        verdicts={"relies on object": 1, "cannot say": 4}, undecided=counts
    )
    assert words._verdicts(told) == (
        "Verdicts: 1 relies on object, 4 cannot say (of the tested: 1 depends in part, 2 unsure)."
    )
    told.undecided = None
    assert words._verdicts(told) == "Verdicts: 1 relies on object, 4 cannot say."


def test_summary_of_one_sample(plugin):
    words = importlib.import_module(f"{PLUGIN}.operators.compute.summary")
    summary = words.Summary(
        "run", 1, [], ["run_gradcam"], 2.0, 0.5, {}, {"run_gradcam": {"flat": 1}}, 0,
        labels=[{"field": "label", "labels": 1, "known": 1, "unknown": 0}],
    )  # fmt: skip
    assert "run: 1 sample explained" in str(summary)
    assert "1 heatmap empty" in str(summary)
    assert "1 of 1 label of 'label' mapped" in str(summary)
    assert words.counted(1200, "samples") == "1,200 samples"


@pytest.mark.parametrize(
    ("numbers", "probability"),
    [({"probability": 0.9, "score": 0.1}, 0.9), ({"score": 0.4}, 0.4), ({"probability": 0.0}, 0.0),
     ({}, None), (None, None)],
)  # fmt: skip
def test_the_probability_of_an_old_analysis_is_read(plugin, numbers, probability):
    """It was called ``score`` once, as a heatmap's logit is."""
    attributes = importlib.import_module(f"{PLUGIN}.operators.bias.attributes")
    assert attributes.probability_of(numbers) == probability
