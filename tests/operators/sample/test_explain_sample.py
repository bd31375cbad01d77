"""One sample explained: networks whose evidence is known say what the sentence must say."""

import os
import struct
import zlib

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import pytest
from bias_common import BACKGROUND, CLASSES, OBJECT, Cues, agreeing, find, inner, sample, to_tensor
from operators_common import CLASSES as KINDS
from operators_common import operator, small_network
from operators_common import transforms as square

FIELDS = [
    "explain_prediction", "explain_alternative", "explain_contrast_for", "explain_contrast_against",
]  # fmt: skip
#: the object's box of the first sample: 12 x 12 of 32 x 32 pixels
AREA = 144 / 1024


def explain(dataset, network, sample_id=None, **arguments):
    return operator("explain_sample")(
        dataset, sample_id or dataset.first().id, model=Cues(**network), transforms=to_tensor,
        classes=CLASSES, **arguments,
    )  # fmt: skip


@pytest.fixture
def dataset_of(make_dataset, tmp_path, plugin):
    return lambda count=12: make_dataset(*agreeing(tmp_path, count))


def test_a_score_that_rests_on_the_object(dataset_of):
    dataset = dataset_of()
    found = explain(dataset, OBJECT)
    assert (found.prediction, found.other, found.label) == ("plus", "minus", "plus")
    assert found.uniform == pytest.approx(AREA, abs=0.01)
    assert found.heat > 0.9
    assert [s["prediction"] for s in found.swaps] == ["plus"] * 4
    assert found.sentence == (
        f"Predicted plus ({100 * found.probability:.0f} %; minus under 1 %). "
        f"{100 * found.heat:.0f} % of the heat is on the object, which fills 14 % of the image. "
        "On 4 other backgrounds the prediction stayed."
    )
    text = str(found).splitlines()
    assert text[0] == found.sentence
    assert text[1].startswith("Prediction: plus (probability ")
    assert "), right; second minus (" in text[1]
    assert text[2].startswith(
        f"Heat on the object: {100 * found.heat:.0f} %. A uniform map would have"
    )
    assert text[3].startswith("On other backgrounds: plus ")
    assert text[-1] == f"Heatmaps: {', '.join(FIELDS)}."
    assert repr(found) == str(found)
    # the donors are of the other class
    labels = dataset.select([s["id"] for s in found.swaps]).values("label.label")
    assert set(labels) == {"minus"}


def test_a_score_that_rests_on_the_background(dataset_of):
    found = explain(dataset_of(), BACKGROUND)
    assert found.heat < 0.1
    assert [s["prediction"] for s in found.swaps] == ["minus"] * 4
    assert found.sentence.endswith(
        "On 4 other backgrounds the prediction changed every time, to minus."
    )


def test_what_is_written(dataset_of):
    dataset = dataset_of()
    schema = set(dataset.get_field_schema())
    found = explain(dataset, OBJECT, donors=0)
    assert found.swaps == []
    assert found.fields == FIELDS
    assert set(dataset.get_field_schema()) - schema == set(FIELDS)
    one = dataset.first()
    labels = {f: one[f] for f in FIELDS}
    assert labels[FIELDS[0]].target == "plus"
    assert labels[FIELDS[1]].target == "minus"
    assert labels[FIELDS[2]].target == "plus rather than minus"
    assert labels[FIELDS[3]].target == "minus rather than plus"
    difference = labels[FIELDS[0]].score - labels[FIELDS[1]].score
    assert labels[FIELDS[2]].score == pytest.approx(difference)
    assert labels[FIELDS[3]].score == pytest.approx(-difference)
    # what speaks for plus is on the object, where the blue is; nothing speaks for minus
    heat = labels[FIELDS[2]].map / 255
    inside = np.zeros(heat.shape, bool)
    h, w = heat.shape
    left, top, width, height = (v / 32 for v in (2, 3, 12, 12))
    rows = slice(round(top * h), round((top + height) * h))
    inside[rows, round(left * w) : round((left + width) * w)] = True
    assert heat[inside].sum() / heat.sum() > 0.9
    assert labels[FIELDS[3]].status != "ok"
    # the other samples have nothing
    assert dataset.count(f"{FIELDS[0]}.method") == 1


def test_a_wrong_prediction_is_contrasted_with_the_truth(make_dataset, photos, plugin):
    dataset = make_dataset(*(fo.Sample(filepath=p["path"]) for p in photos[:2]))
    arguments = {"model": small_network(), "transforms": square(), "classes": KINDS}
    explain_sample = operator("explain_sample")
    first = explain_sample(dataset, dataset.first().id, **arguments)
    assert first.label is None
    assert "; no label;" in str(first)
    assert first.heat is None
    assert any("No true labels" in note for note in first.notes)
    # neither the predicted class nor the second
    truth = next(k for k in KINDS if k not in (first.prediction, first.other))
    dataset.set_values("truth", [fo.Classification(label=truth)] * 2)
    found = explain_sample(dataset, dataset.first().id, **arguments)
    assert found.prediction == first.prediction
    assert found.other == found.label == truth
    assert found.right is False
    assert f", wrong; true class {truth} (" in str(found)
    assert dataset.first()["explain_alternative"].target == truth


def test_with_a_run_its_method_and_donors_are_used(dataset_of):
    dataset = dataset_of(48)
    find(dataset, OBJECT, methods="hirescam")
    arguments = {"transforms": to_tensor, "classes": CLASSES}
    network = Cues(**OBJECT)
    explain_sample = operator("explain_sample")
    found = explain_sample(dataset, dataset.first().id, "run", network, **arguments)
    assert dataset.first()["explain_prediction"].method == "hirescam"
    donors = dataset.first()["run_bias.donors"]
    assert {s["id"] for s in found.swaps} <= {*donors, *dataset.values("id")}
    assert {s["id"] for s in found.swaps} & set(donors)
    # the run's own fields are as they were
    assert dataset.count("run_hirescam.map") == 48


@pytest.mark.parametrize("targets", ["label", "contrast", lambda outputs: outputs[:, 0]])
def test_a_run_of_any_target_lends_its_method(dataset_of, targets):
    """The sample is explained for its own classes, whatever the run explains."""
    dataset, given = dataset_of(4), {"transforms": to_tensor, "classes": CLASSES}
    operator()(
        dataset, Cues(**OBJECT), methods="hirescam", targets=targets, cam_key="run", progress=False,
        num_workers=0, **given,
    )  # fmt: skip
    found = operator("explain_sample")(
        dataset, dataset.first().id, "run", Cues(**OBJECT), donors=0, **given
    )
    assert found.prediction == "plus"
    assert dataset.first()["explain_prediction"].method == "hirescam"
    assert found.heat > 0.9


def test_other_weights_than_the_runs_are_said(dataset_of):
    dataset, given = dataset_of(4), {"transforms": to_tensor, "classes": CLASSES}
    explain_sample = operator("explain_sample")
    operator()(
        dataset,
        Cues(**OBJECT),
        methods="gradcam",
        cam_key="run",
        progress=False,
        num_workers=0,
        **given,
    )
    sample_id = dataset.first().id
    found = explain_sample(dataset, sample_id, "run", Cues(**BACKGROUND), donors=0, **given)
    assert any("'run' were made with other weights" in note for note in found.notes)
    found = explain_sample(dataset, sample_id, "run", Cues(**OBJECT), donors=0, **given)
    assert not any("other weights" in note for note in found.notes)


def test_runs_of_detectors_are_no_default(dataset_of):
    dataset = dataset_of(4)
    explain(dataset, OBJECT, donors=0)
    usable = inner("sample.explain")._classifies
    dataset.add_sample_field(
        "boxes_prediction", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections
    )
    dataset.add_sample_field(
        "kinds_prediction", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification
    )
    assert not usable(dataset, "boxes")
    assert usable(dataset, "kinds")
    assert usable(dataset, "without")


def test_a_sample_itself_or_something_else(dataset_of):
    dataset = dataset_of(4)
    assert explain(dataset, OBJECT, dataset.first(), donors=0).id == dataset.first().id
    with pytest.raises(ValueError, match="sample: the dataset has no sample 'abc'"):
        explain(dataset, OBJECT, "abc")


def test_two_classes_of_one_name_keep_their_maps(dataset_of):
    """ImageNet has two cranes."""
    dataset = dataset_of(4)
    found = operator("explain_sample")(
        dataset, dataset.first().id, model=Cues(**OBJECT), transforms=to_tensor,
        classes=["crane", "crane"], donors=0,
    )  # fmt: skip
    assert found.fields == FIELDS
    targets = [found.labels[f].target for f in FIELDS]
    assert targets[2:] in (
        [f"crane ({i}) rather than crane ({1 - i})", f"crane ({1 - i}) rather than crane ({i})"]
        for i in (0, 1)
    )
    assert [found.labels[f].target_index for f in FIELDS[:2]] in ([0, 1], [1, 0])
    look = inner("runs.look").look_of(dataset)
    assert inner("forms.sample").heatmaps_of(found, look).startswith("data:image/")


def test_peers_are_right_and_near(dataset_of):
    dataset = dataset_of(48)
    find(dataset, OBJECT)
    mine = dataset.first()
    wrong = dataset.match(fo.ViewField("label.label") == "plus").skip(3).first()
    wrong["run_bias"]["correct"] = False
    wrong.save()
    view = operator("show_peers")(
        dataset, mine.id, "run", Cues(**OBJECT), transforms=to_tensor, classes=CLASSES, count=5
    )
    ids = view.values("id")
    assert ids[0] == mine.id
    assert len(ids) == 6
    assert wrong.id not in ids
    assert set(view.values("label.label")) == {"plus"}

    def features(one):
        """Mean of each rectified channel: what the network's only layer gives."""
        from PIL import Image

        with Image.open(one.filepath) as image:
            red, _, blue = to_tensor(image).numpy()
        values = [np.maximum(s * c, 0).mean() for c in (red, blue) for s in (1, -1)]
        return np.array(values) / np.linalg.norm(values)

    own = features(mine)
    others = dataset.exclude([mine.id, wrong.id]).match(fo.ViewField("label.label") == "plus")
    near = {s.id: float(own @ features(s)) for s in others}
    worst = min(near[i] for i in ids[1:])
    assert all(value <= worst + 1e-6 for i, value in near.items() if i not in ids)


def test_peers_where_no_run_says_what_is_right(dataset_of):
    dataset = dataset_of(4)
    view = operator("show_peers")(
        dataset, dataset.first().id, None, Cues(**OBJECT), transforms=to_tensor, classes=CLASSES
    )
    assert view.values("id") == [dataset.first().id]
    assert explain(dataset, OBJECT, donors=0).no_peers.startswith("No peers: no run is named")


def test_no_peers_are_offered_to_the_only_sample_of_its_class(dataset_of):
    dataset = dataset_of(8)
    mine = dataset.first()
    others = dataset.exclude([mine.id]).match(fo.ViewField("label.label") == "plus")
    dataset.delete_samples(others)
    find(dataset, OBJECT)
    given = {"transforms": to_tensor, "classes": CLASSES}
    found = operator("explain_sample")(dataset, mine.id, "run", Cues(**OBJECT), donors=0, **given)
    why = "No peers: no other sample of class 'plus' is predicted right."
    assert found.no_peers == why
    form = inner("forms.sample")
    shown = form.output(
        context(
            dataset,
            results=form.results_of(found, inner("runs.look").look_of(dataset), "run", None),
        )
    )
    assert "peers" not in shown.type.properties
    assert "no_peers_text" in shown.type.properties
    assert operator("show_peers")._find(dataset, mine.id, "run", Cues(**OBJECT), **given)[1] == why


def test_the_labels_of_the_analysis_are_the_truth(dataset_of):
    """A field of several right names is none that could be meant; the analysis was told of it."""
    dataset = dataset_of(8)
    dataset.set_values("names", [[v, "sign"] for v in dataset.values("label.label")])
    dataset.delete_sample_field("label")
    find(dataset, OBJECT, labels="names")
    found = operator("explain_sample")(
        dataset, dataset.first().id, "run", Cues(**OBJECT), transforms=to_tensor, classes=CLASSES,
        donors=0,
    )  # fmt: skip
    assert (found.label, found.right) == ("plus", True)
    assert found.no_peers is None


# what can be wrong


def test_unknown_samples_files_and_models(dataset_of, tmp_path):
    dataset = dataset_of(3)
    with pytest.raises(ValueError, match="the dataset has no sample '000000000000000000000000'"):
        explain(dataset, OBJECT, "0" * 24)
    with pytest.raises(ValueError, match="name a model"):
        operator("explain_sample")(dataset, dataset.first().id)
    with pytest.raises(ValueError, match="no CAM run 'runn'"):
        operator("explain_sample")(dataset, dataset.first().id, "runn")
    dataset.add_sample(fo.Sample(filepath=str(tmp_path / "gone.png")))
    with pytest.raises(ValueError, match=r"gone\.png cannot be explained: .*does not exist"):
        explain(dataset, OBJECT, dataset.last().id)
    assert not set(FIELDS) & set(dataset.get_field_schema()), "nothing was written"


def test_without_an_object_it_says_so(make_dataset, tmp_path, plugin):
    samples = [*agreeing(tmp_path, 6), sample(tmp_path, "bare", 1, 1, boxed=False, label="plus")]
    dataset = make_dataset(*samples)
    found = explain(dataset, OBJECT, dataset.last().id)
    assert found.heat is None
    assert found.swaps == []
    assert found.sentence.startswith("Predicted plus ")
    assert any("No object to measure" in note for note in found.notes)
    assert any("Not tested on other backgrounds" in note for note in found.notes)


def test_alone_in_the_dataset(make_dataset, tmp_path, plugin):
    dataset = make_dataset(*agreeing(tmp_path, 1))
    found = explain(dataset, OBJECT)
    assert found.heat > 0.9
    assert found.swaps == []
    assert any("Not tested on other backgrounds" in note for note in found.notes)


def test_a_donor_that_pillow_refuses_breaks_nobody_elses_explanation(dataset_of, tmp_path):
    """A file of more pixels than Pillow opens raises no OSError; another sample lends its background."""
    dataset = dataset_of(8)
    header = struct.pack(">IIBBBBB", 20_000, 10_000, 1, 0, 0, 0, 0)
    chunk = (
        struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    (tmp_path / "slide.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    dataset.add_sample(fo.Sample(filepath=str(tmp_path / "slide.png")))
    for one in dataset.limit(4):
        assert len(explain(dataset, OBJECT, one.id).swaps) == 4


def test_several_object_fields(dataset_of):
    dataset = dataset_of(4)
    dataset.clone_sample_field("ground_truth", "second")
    found = explain(dataset, OBJECT)
    assert found.heat is None
    assert any(note.startswith("No objects:") for note in found.notes)
    assert explain(dataset, OBJECT, objects="second").heat > 0.9


# the model that is kept


def test_one_model_is_kept_and_let_go(plugin):
    cache = inner("sample.explain")._Cache()
    loaded = []

    def load(name):
        return lambda: loaded.append(name) or name

    assert cache.get("a", load("a")) == "a"
    assert cache.get("a", load("a")) == "a"
    assert loaded == ["a"]
    cache.get("b", load("b"))
    assert cache.name == "b"
    assert cache.free() == "b"
    assert cache.free() is None
    cache.get("b", load("b"))
    assert loaded == ["a", "b", "b"]
    cache.free()


def test_a_name_that_stands_for_another_model_is_loaded_anew(plugin, tmp_path, monkeypatch):
    cache, own = inner("sample.explain")._Cache(), inner("models.registered")
    file = tmp_path / "weights.pt"
    file.write_bytes(b"1")
    name, loaded = f"torchvision:resnet18@{file}", []

    def get():
        cache.get(name, lambda: loaded.append(1) or "model", own.stamp_of(name))

    get()
    get()
    assert len(loaded) == 1
    os.utime(file, ns=(1, 1))
    get()
    assert len(loaded) == 2
    before = own.stamp_of("mine")
    entry = own.OwnModel("mine", architecture="torchvision:resnet18", checkpoint=str(file))
    monkeypatch.setattr(own, "registered", lambda: {"mine": entry})
    assert own.stamp_of("mine") != before
    cache.free()


def test_the_model_is_let_go_after_a_while(plugin, monkeypatch):
    import time

    operator("free_model")()  # what another test left
    one = inner("sample.explain")
    monkeypatch.setattr(one, "KEPT_SECONDS", 0.05)
    cache = one._Cache()
    cache.get("a", lambda: "a")
    end = time.monotonic() + 5
    while cache.name is not None and time.monotonic() < end:
        time.sleep(0.01)
    assert cache.name is None
    assert operator("free_model")() is None


# the App


def context(dataset, **request):
    from fiftyone.operators.executor import ExecutionContext

    return ExecutionContext({"dataset_name": dataset.name, "params": {}, **request})


def test_the_form_says_which_sample_is_missing(dataset_of):
    dataset = dataset_of(2)
    explain_sample = operator("explain_sample")
    form = explain_sample.resolve_input(context(dataset))
    assert form.type.properties["no_sample"].invalid
    form = explain_sample.resolve_input(context(dataset, current_sample=dataset.first().id))
    assert "no_sample" not in form.type.properties
    assert "model" in form.type.properties, "there is no run, so a model is asked for"
    with pytest.raises(ValueError, match="none is open or selected"):
        inner("forms.sample").arguments_of(context(dataset))


def test_the_output_shows_sentence_pictures_and_peers(dataset_of):
    dataset = dataset_of()
    find(dataset, OBJECT)
    found = operator("explain_sample")(
        dataset, dataset.first().id, "run", Cues(**OBJECT), transforms=to_tensor, classes=CLASSES
    )
    form = inner("forms.sample")
    results = form.results_of(found, inner("runs.look").look_of(dataset), "run", None)
    assert results["composites"].startswith("data:image/jpeg;base64,")
    assert results["heatmaps"].startswith("data:image/jpeg;base64,")
    shown = form.output(context(dataset, results=results)).type.properties
    assert {"said", "heatmaps", "composites", "peers"} <= set(shown)
    assert foo.get_operator("@cam51/heatmaps/show_peers")


def test_captions_are_broken_and_none_is_cut():
    from PIL import ImageFont

    form, font = inner("forms.sample"), ImageFont.load_default(13)
    for text in (
        "tabby",
        "Egyptian cat rather than papillon",
        "Staffordshirebullterrierrelatives",
        "",
    ):
        lines = form.broken(text, font)
        assert all(font.getlength(line) <= form._TILE - 4 for line in lines)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert form.broken("tabby", font) == ["tabby"]


def test_many_backgrounds_are_shown_in_rows_of_four():
    from PIL import Image

    def size(count):
        tile = (Image.new("RGB", (512, 384)), "a class of several words", "0.50", False)
        return inner("forms.sample").sheet([tile] * count).size

    one, four, five = size(1), size(4), size(5)
    assert one == four
    assert (five[0], five[1] > 2 * four[1]) == (four[0], True)
