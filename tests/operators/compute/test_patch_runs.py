"""Runs over the objects of a field: each crop as if it were an image, on its label and at its place."""

import fiftyone as fo
import fiftyone.utils.patches as foup
import numpy as np
import pytest
import torchvision.transforms as T
from detectors_common import Letterbox, detector
from faults_common import CLASSES, LAYER, compute_tiny, picture_transforms, tiny_network
from operators_common import operator
from PIL import Image

pytestmark = pytest.mark.usefixtures("plugin")
WIDTH, HEIGHT = 160, 120
BOXES = [[0.1, 0.1, 0.35, 0.5], [0.5, 0.3, 0.4, 0.6], [0.05, 0.7, 0.2, 0.25]]


@pytest.fixture
def objects(make_dataset, tmp_path):
    """Five images of noise with 3, 2, 1, 0 and 3 objects; the last has one without an area too."""
    samples = []
    for number, count in enumerate((3, 2, 1, 0, 3)):
        rng, path = np.random.default_rng(number), tmp_path / f"{number}.png"
        low = rng.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(low).resize((WIDTH, HEIGHT)).save(path)
        found = [
            fo.Detection(label=CLASSES[i], bounding_box=box) for i, box in enumerate(BOXES[:count])
        ]
        if number == 4:
            found.append(fo.Detection(label=CLASSES[0], bounding_box=[0.2, 0.2, 0, 0.3]))
        samples.append(fo.Sample(str(path), ground_truth=fo.Detections(detections=found)))
    return make_dataset(*samples)


def run(samples, **given):
    given = {"methods": "layercam", "cam_key": "run", **given}
    return compute_tiny(samples, patches_field="ground_truth", **given)


def crops(dataset, make_dataset, tmp_path):
    """A dataset of the crops that FiftyOne cuts: ``{label id: sample}``."""
    found = {}
    for sample in dataset:
        image = np.asarray(Image.open(sample.filepath))
        for label in sample.ground_truth.detections:
            if min(label.bounding_box[2:]) > 0:
                path = tmp_path / f"crop-{label.id}.png"
                Image.fromarray(foup.extract_patch(image, label)).save(path)
                found[label.id] = fo.Sample(str(path))
    make_dataset(*found.values())
    return found


def test_each_object_has_what_an_image_of_its_crop_has(objects, make_dataset, tmp_path):
    summary = run(objects, object_maps=2)
    assert (summary.status, summary.done, summary.failed) == ("finished", 5, [])
    assert summary.fields == ["run_layercam", "run_layercam_object1", "run_layercam_object2"]
    pictures = crops(objects, make_dataset, tmp_path)
    reference = next(iter(pictures.values()))._dataset
    compute_tiny(reference, methods="layercam")
    reference.reload()
    checked = 0
    for sample in objects:
        known = {}
        for label in sample.ground_truth.detections:
            if label.id not in pictures:
                assert (label.run_status, label.run_score) == ("not_seen", None)
                continue
            theirs = reference[pictures[label.id].id].run_layercam
            assert (label.run_target, label.run_status) == (theirs.target, "ok")
            assert label.run_score == pytest.approx(theirs.score, rel=1e-5)
            known[label.id] = theirs
        order = sorted(known.values(), key=lambda heat: -heat.score)
        for number, field in enumerate(summary.fields[1:]):
            own = sample[field]
            if number >= len(order):
                assert (own.status, own.map, own.cam_key) == ("target_absent", None, "run")
                continue
            assert own.score == pytest.approx(order[number].score, rel=1e-5)
            box = next(
                label.bounding_box
                for label in sample.ground_truth.detections
                if known.get(label.id) is order[number]
            )
            check_place(own.map, order[number].map, box)
            checked += 1
        both = sample.run_layercam
        if not known:
            assert (both.status, both.map) == ("target_absent", None)
        elif len(known) <= 2:
            maps = [sample[f].map for f in summary.fields[1:] if sample[f].map is not None]
            np.testing.assert_array_equal(both.map, np.maximum.reduce(maps))
    assert checked == 7


def check_place(ours, theirs, box):
    """The crop's own heatmap lies in the box, and there is none beside it."""
    height, width = ours.shape
    left, top = round(box[0] * width), round(box[1] * height)
    right, bottom = round((box[0] + box[2]) * width), round((box[1] + box[3]) * height)
    beside = ours.copy()
    beside[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = 0
    assert not beside.any()
    inside = ours[top:bottom, left:right].astype(float)
    small = Image.fromarray(theirs).resize(inside.shape[::-1], Image.Resampling.BILINEAR)
    core = slice(2, -2), slice(2, -2)
    assert np.corrcoef(inside[core].ravel(), np.asarray(small, float)[core].ravel())[0, 1] > 0.99


def test_the_share_within_a_mask(objects):
    for sample in objects:
        for label in sample.ground_truth.detections:
            label.mask = np.zeros((40, 40), bool)
            label.mask[:20] = True
        sample.save()
    summary = run(objects, object_maps=1)
    assert (summary.done, summary.failed) == (5, [])
    schema = objects.get_field_schema(flat=True)
    assert isinstance(schema["ground_truth.detections.run_in_mask"], fo.FloatField)
    shares = 0
    for sample in objects:
        strongest = max(
            (label for label in sample.ground_truth.detections if label.run_score is not None),
            key=lambda label: label.run_score,
            default=None,
        )
        if strongest is None:
            continue
        heat = sample.run_layercam_object1.map.astype(float)
        _, top, _, high = strongest.bounding_box
        edge = (top + high / 2) * heat.shape[0]
        rows = np.clip(edge - np.arange(heat.shape[0]), 0, 1)[:, None]
        assert strongest.run_in_mask == pytest.approx((heat * rows).sum() / heat.sum(), abs=0.02)
        shares += 1
    assert shares == 4


def test_several_methods_and_the_label_as_target(objects):
    compute_tiny(objects, patches_field="ground_truth", targets="ground_truth")
    label = objects.first().ground_truth.detections[1]
    assert label.run_target == CLASSES[1]
    assert (label.run_gradcam_status, label.run_layercam_status) == ("ok", "ok")
    assert "run_prediction" not in objects.get_field_schema()


def stored(dataset):
    found = {}
    for row in dataset._sample_collection.find():
        row["run_layercam"].pop("_id")
        row["run_layercam_object1"].pop("_id")
        labels = [
            {k: v for k, v in d.items() if k.startswith("run_")}
            for d in row["ground_truth"]["detections"]
        ]
        found[row["filepath"]] = (row["run_layercam"], row["run_layercam_object1"], labels)
    return found


def test_what_was_interrupted_ends_as_one_call_does(objects, make_dataset):
    given = {"object_maps": 1, "batch_size": 2}
    run(objects, **given)
    expected = stored(objects)
    some = objects.values("id")[1::2]
    from bson import ObjectId

    query = {"_id": {"$in": [ObjectId(i) for i in some]}}
    objects._sample_collection.update_many(query, {"$set": {"run_layercam": None}})
    summary = run(objects, resume=True, **given)
    assert (summary.done, summary.resumed) == (5, 3)
    assert stored(objects) == expected
    run(objects.limit(2), overwrite=True, **given)
    summary = run(objects, resume=True, **given)
    assert (summary.done, summary.resumed) == (5, 2)


def test_deleting_and_renaming_take_the_attributes_along(objects):
    before = objects.get_field_schema(flat=True)
    run(objects, object_maps=1)
    operator("rename_cam_run")(objects, "run", "new")
    objects.reload()
    label = objects.first().ground_truth.detections[0]
    assert label.new_status == "ok"
    assert objects.first().new_layercam_object1.cam_key == "new"
    operator("delete_cam_run")(objects, "new")
    assert objects.get_field_schema(flat=True).keys() == before.keys()
    assert (
        "new_status" not in objects._sample_collection.find_one()["ground_truth"]["detections"][0]
    )


def test_a_broken_image_is_tried_again(objects):
    path = objects.first().filepath
    with open(path, "rb") as file:
        good = file.read()
    with open(path, "wb") as file:
        file.write(good[:50])
    summary = run(objects)
    assert (summary.done, len(summary.failed)) == (4, 3)
    failed = operator("load_cam_view")(objects, "run", "failed")
    assert failed.values("filepath") == [path]
    with open(path, "wb") as file:
        file.write(good)
    assert run(objects, resume=True).done == 5


def test_bad_input(objects, photo_dataset, make_dataset, tmp_path):
    objects.set_values("kind", ["a"] * 5)
    read = lambda path: T.ToTensor()(Image.open(path))  # noqa: E731
    for given, message in (
        (
            {"patches_field": "nothing"},
            "no field 'nothing' of detections; those that do: ground_truth",
        ),
        (
            {"patches_field": "kind"},
            "'kind' is a StringField and holds no detections; those that do",
        ),
        ({"patches_field": 3}, "patches_field must be the name of a field of detections, got 3"),
        (
            {"targets": "top_2"},
            "targets: of each object's crop one thing is explained, and these are 2",
        ),
        ({"backend": "ray"}, "'ray' computes whole images, not crops"),
        (
            {"transforms": None, "preprocess": read, "window": (0, 0, 1, 1)},
            "crops of objects are no files",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            compute_tiny(objects, **{"patches_field": "ground_truth", **given})
    with pytest.raises(ValueError, match="'ground_truth' has no objects in these samples"):
        run(objects.skip(3).limit(1))
    with pytest.raises(ValueError, match="in compute_cams with patches_field='ground_truth'"):
        compute_tiny(objects.to_patches("ground_truth"))
    assert not objects.list_runs()


def test_operators_that_take_whole_images_say_so(objects):
    run(objects)
    given = {"model": tiny_network(), "transforms": picture_transforms(), "classes": CLASSES}
    for name in ("find_background_bias", "compare_cams"):
        with pytest.raises(ValueError, match="explains crops of the objects in 'ground_truth'"):
            operator(name)(objects, "run", **given)
    again = operator("rerun_cams")(
        objects.limit(1), "run", "again", model=tiny_network(), transforms=picture_transforms()
    )
    assert (again.done, again.settings["layers"]) == (1, [LAYER])
    assert objects.first().ground_truth.detections[0].again_status == "ok"


def test_a_box_thinner_than_a_pixel_is_a_pixel(objects):
    sample = objects.first()
    sample.ground_truth.detections[0].bounding_box = [0.999, 0.2, 0.0005, 0.4]
    sample.save()
    summary = run(objects.limit(1))
    assert (summary.done, summary.failed) == (1, [])
    sample.reload()
    assert sample.ground_truth.detections[0].run_status in ("ok", "zero", "flat")


def test_padding_around_a_crop_is_no_heat_beside_it(objects):
    summary = run(objects, transforms=Letterbox(), object_maps=1)
    assert (summary.done, summary.failed) == (5, [])
    for sample in objects.match(fo.ViewField("run_layercam_object1.status") == "ok"):
        heat = sample.run_layercam_object1.map
        y, x = (hot.nonzero()[0] for hot in (heat.any(1), heat.any(0)))
        found = (x.min(), y.min(), x.max() + 1, y.max() + 1)
        scale = np.tile(heat.shape[::-1], 2)
        fits = []
        for label in sample.ground_truth.detections:
            left, top, width, height = label.bounding_box
            box = np.array([left, top, left + width, top + height]) * scale
            fits.append((found[:2] >= box[:2] - 1).all() and (found[2:] <= box[2:] + 1).all())
        assert any(fits)


def test_a_detector_is_refused(objects):
    with pytest.raises(ValueError, match="by a classifier, and this is a detector"):
        run(
            objects,
            model=detector(),
            transforms=Letterbox(),
            classes=["dark", "light"],
            layers=None,
        )
