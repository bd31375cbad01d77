"""Label fields as objects: what every label type draws, which classes count, which field is meant."""

import importlib

import cv2
import fiftyone as fo
import numpy as np
import pytest
import torch
from operators_common import PLUGIN
from PIL import Image


@pytest.fixture(scope="module")
def objects(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.data.object_reader")


def choose_object_field(*args, **options):
    fields = importlib.import_module(f"{PLUGIN}.operators.data.object_fields")
    return fields.choose_object_field(*args, **options)


@pytest.fixture
def labelled(make_dataset, tmp_path):
    """A function: a dataset of one 200 x 100 image per value of a field."""

    def make(*labels, **more):
        samples = []
        for i, label in enumerate(labels):
            path = tmp_path / f"{i}.png"
            Image.new("RGB", (200, 100)).save(path)
            samples.append(fo.Sample(filepath=str(path), label=label, **more))
        return make_dataset(*samples)

    return make


def read(objects, dataset, explained="cat", field="label", **options):
    """The masks of every sample, in order."""
    options = {"size": (20, 40), **options}
    ids = dataset.values("id")
    reader = objects.ObjectReader(dataset, field, **options)
    return list(reader.read(ids, dict.fromkeys(ids, explained)).values())


def detection(label="cat", box=(0.25, 0.2, 0.5, 0.4), **more):
    return fo.Detection(label=label, bounding_box=list(box), **more)


def detections(*rows):
    return fo.Detections(detections=list(rows))


def block(top, bottom, left, right, size=(20, 40)):
    mask = np.zeros(size, np.float32)
    mask[top:bottom, left:right] = 1
    return mask


# boxes


def test_boxes_of_the_explained_class_and_of_others(objects, labelled):
    dataset = labelled(
        detections(
            detection("cat"), detection("dog", (0, 0, 0.1, 0.1)), detection("Cat", (0, 0.8, 1, 0.2))
        )
    )
    (found,) = read(objects, dataset, with_instances=True)
    cats = np.maximum(block(4, 12, 10, 30), block(16, 20, 0, 40))
    np.testing.assert_allclose(found.object, cats, atol=1e-6)
    np.testing.assert_allclose(found.other, block(0, 2, 0, 4), atol=1e-6)
    assert not found.ignore.any()
    np.testing.assert_allclose(found.boxes, [[0.25, 0.2, 0.75, 0.6], [0, 0.8, 1, 1]], atol=1e-6)
    np.testing.assert_allclose(
        found.instances, [block(4, 12, 10, 30), block(16, 20, 0, 40)], atol=1e-6
    )
    assert (found.status, found.source, found.reason) == ("ok", "ground_truth_box", None)


def test_a_tiny_box_keeps_its_area(objects, labelled):
    box = (0.501, 0.333, 0.003, 0.007)
    (found,) = read(objects, labelled(detections(detection(box=box))), size=(7, 7))
    assert found.object.sum() == pytest.approx(49 * 0.003 * 0.007, rel=1e-4)
    assert found.status == "ok"


def test_overlapping_boxes_are_a_union(objects, labelled):
    dataset = labelled(detections(detection(), detection()))
    (found,) = read(objects, dataset)
    np.testing.assert_allclose(found.object, block(4, 12, 10, 30), atol=1e-6)


def test_boxes_beyond_the_image_are_clipped(objects, labelled):
    rows = [(-0.5, -0.5, 1.0, 1.0), (0.9, 0.9, 5.0, 5.0)]
    dataset = labelled(*(detections(detection(box=row)) for row in rows))
    one, two = read(objects, dataset)
    np.testing.assert_allclose(one.object, block(0, 10, 0, 20), atol=1e-6)
    np.testing.assert_allclose(two.boxes, [[0.9, 0.9, 1, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("box", "word"),
    [
        ((float("nan"), 0, 0.5, 0.5), "not finite"),
        ((0.1, 0.1, float("inf"), 0.5), "not finite"),
        ((0.5, 0.5, 0, 0.2), "without area"),
        ((1.5, 0.5, 0.2, 0.2), "without area"),
        ((0.5, 0.5, -0.2, 0.2), "without area"),
    ],
)
def test_bad_boxes_are_reported_and_others_used(objects, labelled, box, word):
    dataset = labelled(detections(detection(box=box)), detections(detection(box=box), detection()))
    alone, beside = read(objects, dataset)
    assert (alone.status, alone.source) == ("unreadable", None)
    assert word in alone.reason
    assert beside.status == "ok"
    assert word in beside.reason
    np.testing.assert_allclose(beside.object, block(4, 12, 10, 30), atol=1e-6)


def test_a_box_of_no_numbers_is_reported(objects, labelled):
    (found,) = read(objects, labelled(detections(fo.Detection(label="cat"))))
    assert found.status == "unreadable"
    assert "four numbers" in found.reason


def test_crowds_and_void_count_nowhere(objects, labelled):
    dataset = labelled(
        detections(
            detection(iscrowd=1),
            detection("Ignore", (0, 0, 0.1, 0.1)),
            detection("cat", (0.9, 0, 0.1, 0.1), iscrowd=0),
        )
    )
    (found,) = read(objects, dataset)
    crowd = np.maximum(block(4, 12, 10, 30), block(0, 2, 0, 4))
    np.testing.assert_allclose(found.ignore, crowd, atol=1e-6)
    np.testing.assert_allclose(found.object, block(0, 2, 36, 40), atol=1e-6)
    assert not found.other.any()


def test_single_detections(objects, labelled):
    (found,) = read(objects, labelled(detection()))
    np.testing.assert_allclose(found.object, block(4, 12, 10, 30), atol=1e-6)


# instance masks


def test_instance_mask_fills_its_box(objects, labelled):
    mask = np.array([[1, 0], [1, 1]], bool)
    (found,) = read(objects, labelled(detections(detection(mask=mask))))
    expected = block(4, 12, 10, 20)
    expected[8:12, 20:30] = 1
    np.testing.assert_allclose(found.object, expected, atol=1e-6)
    assert found.source == "ground_truth_mask"


def test_instance_mask_against_fiftyone(objects, labelled):
    rng = np.random.default_rng(0)
    mask = cv2.resize(rng.random((5, 7)), (80, 40)) > 0.5  # fills 80 x 40 pixels of 200 x 100
    row = detection(box=(0.3, 0.1, 0.4, 0.4), mask=mask)
    (found,) = read(objects, labelled(detections(row)), size=(100, 200))
    drawn = row.to_segmentation(frame_size=(200, 100), target=1).mask
    np.testing.assert_allclose(found.object, drawn, atol=1e-5)
    (small,) = read(objects, labelled(detections(row)), size=(10, 20))
    np.testing.assert_allclose(small.object, drawn.reshape(10, 10, 20, 10).mean((1, 3)), atol=1e-5)


def test_instance_mask_beyond_the_image(objects, labelled):
    row = detection(box=(-0.25, 0, 0.5, 1), mask=np.array([[1, 0, 0, 1]], bool))
    (found,) = read(objects, labelled(detections(row)))
    np.testing.assert_allclose(found.object, block(0, 20, 5, 10), atol=1e-6)


def test_instance_mask_path(objects, labelled, tmp_path):
    path = str(tmp_path / "mask.png")
    cv2.imwrite(path, np.array([[255, 0], [255, 255]], np.uint8))
    (found,) = read(objects, labelled(detections(detection(mask_path=path))))
    expected = block(4, 12, 10, 20)
    expected[8:12, 20:30] = 1
    np.testing.assert_allclose(found.object, expected, atol=1e-6)


def test_missing_mask_files_have_a_reason_and_only_theirs(objects, labelled, tmp_path):
    gone, broken = str(tmp_path / "gone.png"), tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    dataset = labelled(
        detections(detection(), detection(mask_path=gone)),
        detections(detection(mask_path=str(broken))),
        detections(detection()),
    )
    one, two, three = read(objects, dataset)
    assert (one.status, two.status, three.status) == ("unreadable", "unreadable", "ok")
    assert "gone.png" in one.reason
    assert "broken.png" in two.reason
    assert not one.object.any()  # half of the truth would call the rest background


def test_an_empty_instance_mask_is_reported(objects, labelled):
    (found,) = read(objects, labelled(detections(detection(mask=np.zeros((3, 3), bool)))))
    assert found.status == "unreadable"
    assert "empty mask" in found.reason


# class masks


SEGMENTATION = np.array([[0, 0, 1, 1], [0, 2, 2, 255]], np.uint8)


def class_mask(scale=10):
    return SEGMENTATION.repeat(scale, 0).repeat(scale, 1)


def upscaled(values):
    return np.isin(class_mask(), values).astype(np.float32)


@pytest.mark.parametrize("stored", ["array", "file"])
def test_segmentation(objects, labelled, tmp_path, stored):
    if stored == "file":
        path = str(tmp_path / "mask.png")
        cv2.imwrite(path, class_mask())
        label = fo.Segmentation(mask_path=path)
    else:
        label = fo.Segmentation(mask=class_mask())
    dataset = labelled(label)
    dataset.mask_targets = {"label": {1: "big_cat", 2: "dog", 255: "void"}}
    (found,) = read(objects, dataset, explained="Big cat", with_instances=True)
    np.testing.assert_array_equal(found.object, upscaled([1]))
    np.testing.assert_array_equal(found.other, upscaled([2]))
    np.testing.assert_array_equal(found.ignore, upscaled([255]))
    np.testing.assert_allclose(found.boxes, [[0.5, 0, 1, 0.5]])
    assert found.instances.shape == (0, 20, 40)  # a class mask tells no instances apart
    assert found.source == "ground_truth_mask"
    (found,) = read(objects, dataset, explained="horse")
    assert found.status == "object_absent"
    (found,) = read(objects, dataset, classes="all")
    np.testing.assert_array_equal(found.object, upscaled([1, 2]))


def test_segmentation_shrinks_by_area_and_grows_exactly(objects, labelled):
    dataset = labelled(fo.Segmentation(mask=class_mask()))
    dataset.default_mask_targets = {1: "cat", 2: "dog"}
    for size in ((6, 7), (25, 50), (90, 13)):
        (found,) = read(objects, dataset, size=size)
        assert found.object.mean() == pytest.approx(0.25, abs=1e-3), size
        assert found.other.mean() == pytest.approx(0.25, abs=1e-3), size
        assert found.ignore.mean() == pytest.approx(0.125, abs=1e-3), size  # 255 has no name


def test_a_named_zero_is_a_class_unless_it_is_the_background(objects, labelled):
    dataset = labelled(fo.Segmentation(mask=class_mask()))
    dataset.default_mask_targets = {0: "wall", 1: "cat"}
    assert read(objects, dataset, explained="wall")[0].object.mean() == pytest.approx(3 / 8)
    dataset.default_mask_targets = {0: "background", 1: "cat"}
    (found,) = read(objects, dataset, classes="all")
    np.testing.assert_array_equal(found.object, upscaled([1]))
    np.testing.assert_array_equal(found.ignore, upscaled([2, 255]))


def test_coloured_segmentation(objects, labelled, tmp_path):
    colours = np.zeros((20, 40, 3), np.uint8)
    colours[:, :10], colours[:, 10:20] = (255, 16, 0), (0, 0, 255)
    path = str(tmp_path / "colours.png")
    Image.fromarray(colours).save(path)
    dataset = labelled(fo.Segmentation(mask=colours), fo.Segmentation(mask_path=path))
    dataset.default_mask_targets = {"#ff1000": "cat", "#0000ff": "dog"}
    for found in read(objects, dataset):
        np.testing.assert_array_equal(found.object, block(0, 20, 0, 10))
        np.testing.assert_array_equal(found.other, block(0, 20, 10, 20))
    dataset.default_mask_targets = {1: "cat"}
    assert "coloured" in read(objects, dataset)[0].reason


def test_masks_without_targets(objects, labelled):
    foreground = np.isin(class_mask(), [1]).astype(np.uint8) * 255
    dataset = labelled(fo.Segmentation(mask=foreground), fo.Segmentation(mask=class_mask()))
    one, two = read(objects, dataset)
    np.testing.assert_array_equal(one.object, upscaled([1]))  # whatever is explained
    assert two.status == "unreadable"
    assert "mask_targets" in two.reason
    # numbers are names where they are asked for
    _, two = read(objects, dataset, classes=["2"])
    np.testing.assert_array_equal(two.object, upscaled([2]))
    np.testing.assert_array_equal(two.other, upscaled([1]))
    np.testing.assert_array_equal(two.ignore, upscaled([255]))
    _, two = read(objects, dataset, classes="all")
    np.testing.assert_array_equal(two.object, upscaled([1, 2]))


def test_sixteen_bit_masks(objects, labelled, tmp_path):
    mask = np.where(class_mask() == 1, 1000, 7).astype(np.uint16)
    path = str(tmp_path / "mask.png")
    cv2.imwrite(path, mask)
    dataset = labelled(fo.Segmentation(mask_path=path))
    dataset.default_mask_targets = {7: "floor", 1000: "cat"}
    np.testing.assert_array_equal(read(objects, dataset)[0].object, upscaled([1]))


# polygons, keypoints, heatmaps


def polyline(points, **more):
    return fo.Polyline(label="cat", points=points, **{"filled": True, "closed": True, **more})


TRIANGLE = [(0.1, 0.1), (0.9, 0.2), (0.3, 0.8)]


def shoelace(points):
    x, y = np.array(points).T
    return abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2


@pytest.mark.parametrize("size", [(20, 40), (224, 224), (7, 7)])
def test_polygons_are_filled_by_area(objects, labelled, size):
    dataset = labelled(fo.Polylines(polylines=[polyline([TRIANGLE])]))
    (found,) = read(objects, dataset, size=size)
    assert found.object.mean() == pytest.approx(shoelace(TRIANGLE), rel=0.02)
    y, x = (np.indices(size) + 0.5) / np.array(size)[:, None, None]
    centre = [(found.object * axis).sum() / found.object.sum() for axis in (x, y)]
    np.testing.assert_allclose(centre, np.mean(TRIANGLE, 0), atol=0.005)
    np.testing.assert_allclose(found.boxes, [[0.1, 0.1, 0.9, 0.8]], atol=1e-6)
    assert found.source == "ground_truth_polygon"


def test_a_rectangle_drawn_as_polygon_is_its_box(objects, labelled):
    corners = [(0.25, 0.2), (0.75, 0.2), (0.75, 0.6), (0.25, 0.6)]
    (found,) = read(objects, labelled(polyline([corners])))
    # off by a part of a pixel at the edges
    np.testing.assert_allclose(found.object, block(4, 12, 10, 30), atol=0.13)
    inner = found.object[5:11, 11:29]
    assert inner.min() == 1


def test_polygons_with_several_shapes(objects, labelled):
    outer = [(0, 0), (1, 0), (1, 1), (0, 1)]
    hole = [(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)]
    (found,) = read(objects, labelled(polyline([outer, hole])))
    assert found.object.mean() == pytest.approx(0.75, rel=0.02)
    assert found.object[10, 20] == 0


def test_polygons_that_cannot_be_used(objects, labelled):
    nan = float("nan")
    dataset = labelled(
        polyline([TRIANGLE], filled=False, closed=False),
        polyline([TRIANGLE[:2]]),
        polyline([[(2.0, 2.0), (3.0, 2.0), (3.0, 3.0)]]),
        polyline([[*TRIANGLE, (nan, 0.5)]]),
        polyline([[(-1000.0, 0.0), (1e9, 0.0), (1e9, 0.5), (-1000.0, 0.5)]]),
    )
    found = read(objects, dataset)
    assert [f.status for f in found] == ["unreadable"] * 3 + ["ok"] * 2
    for row, word in zip(found, ["open line", "three points", "no area"], strict=False):
        assert word in row.reason
    assert found[3].object.mean() == pytest.approx(shoelace(TRIANGLE), rel=0.02)
    np.testing.assert_allclose(found[4].object, block(0, 10, 0, 40), atol=0.1)


def test_a_tiny_polygon_does_not_vanish(objects, labelled):
    tiny = [(x / 500 + 0.5, y / 500 + 0.5) for x, y in TRIANGLE]
    (found,) = read(objects, labelled(polyline([tiny])), size=(28, 28))
    assert found.status == "ok"
    assert 0 < found.object.mean() < 1e-4


def test_hull_of_keypoints(objects, labelled):
    nan = (float("nan"), float("nan"))
    rows = [
        fo.Keypoint(label="cat", points=[*TRIANGLE, (0.4, 0.4), nan]),
        fo.Keypoint(label="cat", points=[(0.1, 0.1), (0.2, 0.2), nan]),
    ]
    one, two = read(objects, labelled(*(fo.Keypoints(keypoints=[row]) for row in rows)))
    assert one.object.mean() == pytest.approx(shoelace(TRIANGLE), rel=0.03)
    assert one.source == "ground_truth_keypoints"
    assert two.status == "unreadable"
    assert "three visible points" in two.reason


def test_heatmaps_as_masks(objects, labelled, tmp_path):
    ramp = np.tile(np.linspace(0, 1, 40), (20, 1))
    path = str(tmp_path / "map.png")
    cv2.imwrite(path, np.rint(ramp * 255).astype(np.uint8))
    dataset = labelled(
        fo.Heatmap(map=ramp.astype(np.float32)),
        fo.Heatmap(map=(ramp * 4).astype(np.float32), range=[0, 4]),
        fo.Heatmap(map_path=path, range=[0, 255]),
        fo.Heatmap(map=np.zeros((2, 2), np.float32)),
    )
    *found, cold = read(objects, dataset, threshold=0.5)
    for row in found:
        np.testing.assert_array_equal(row.object, block(0, 20, 20, 40))
        assert row.source == "ground_truth_heatmap"
    assert cold.status == "no_object"
    assert read(objects, dataset, threshold=0.9)[0].object.mean() == pytest.approx(0.1)


# which classes


def test_nothing_annotated_and_something_else_annotated(objects, labelled):
    dataset = labelled(None, detections(), detections(detection("dog")))
    found = read(objects, dataset)
    assert [f.status for f in found] == ["no_object", "no_object", "object_absent"]
    for row in found:
        assert not row.object.any()
        assert row.source is None
        assert row.boxes.shape == (0, 4)


def test_classes_all_or_by_name(objects, labelled):
    rows = [detection("cat"), detection("dog", (0, 0, 0.1, 0.1)), detection(None, (0.9, 0, 0.1, 1))]
    dataset = labelled(detections(*rows))
    ids = dataset.values("id")
    everything = objects.ObjectReader(dataset, "label", classes="all").read(ids)[ids[0]]
    assert len(everything.boxes) == 3
    assert not everything.other.any()
    dogs = objects.ObjectReader(dataset, "label", classes=["DOG"]).read(ids)[ids[0]]
    assert len(dogs.boxes) == 2  # and the one without a name
    assert dogs.other.any()
    # nothing to be compared with: everything counts
    assert len(read(objects, dataset, explained=None)[0].boxes) == 3


@pytest.mark.parametrize(
    ("explained", "aliases"),
    [
        ("Egyptian_cat", None),
        ("egyptian-CAT, some Latin name", None),
        ("tabby", {"Tabby": "egyptian cat"}),
        ("tabby, tabby cat", {"tabby cat": ["lynx", "Egyptian cat"]}),
    ],
)
def test_names_are_compared_as_people_mean_them(objects, labelled, explained, aliases):
    dataset = labelled(detections(detection("Egyptian cat"), detection("dog", (0, 0, 0.1, 0.1))))
    (found,) = read(objects, dataset, explained=explained, aliases=aliases)
    np.testing.assert_allclose(found.object, block(4, 12, 10, 30), atol=1e-6)
    assert found.other.any()


def test_every_sample_has_its_own_class(objects, labelled):
    both = detections(detection("cat"), detection("dog", (0, 0, 0.1, 0.1)))
    dataset = labelled(both, both.copy())
    one, two = dataset.values("id")
    found = objects.ObjectReader(dataset, "label").read([two, one], {one: "cat", two: "dog"})
    assert list(found) == [two, one]
    np.testing.assert_allclose(found[one].object, found[two].other)
    with pytest.raises(ValueError, match="not given"):
        objects.ObjectReader(dataset, "label").read([one, two], {one: "cat"})


def test_several_fields_with_roles(objects, labelled):
    dataset = labelled(
        detections(detection("cat")),
        fixture=detections(detection("rail", (0, 0, 0.1, 0.1))),
        mask=fo.Segmentation(mask=np.eye(2, dtype=np.uint8)),
    )
    roles = {"label": "object", "fixture": "context", "mask": "ignore"}
    (found,) = read(objects, dataset, field=roles)
    np.testing.assert_allclose(found.context, block(0, 2, 0, 4), atol=1e-6)
    np.testing.assert_allclose(found.other, found.context)
    np.testing.assert_allclose(found.object, block(4, 12, 10, 30), atol=1e-6)
    assert found.ignore.mean() == pytest.approx(0.5)
    (found,) = read(objects, dataset, field={"label": "object", "fixture": "object"}, classes="all")
    assert len(found.boxes) == 2


# sizes


def test_masks_have_the_images_aspect(objects, labelled):
    dataset = labelled(detections(detection()))
    assert read(objects, dataset, size=224)[0].object.shape == (112, 224)  # from the file
    dataset.set_values("metadata", [fo.ImageMetadata(width=400, height=100)])
    assert read(objects, dataset, size=80)[0].object.shape == (20, 80)
    (i,) = dataset.values("id")
    found = objects.ObjectReader(dataset, "label", size=50).read([i], {i: "cat"}, {i: (500, 100)})
    assert found[i].object.shape == (50, 10)


def test_a_turned_photo_is_taken_upright(objects, make_dataset, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = str(tmp_path / "turned.jpg")
    Image.new("RGB", (200, 100)).save(path, exif=exif)
    dataset = make_dataset(fo.Sample(filepath=path, label=detections(detection())))
    assert read(objects, dataset, size=100)[0].object.shape == (100, 50)


def test_an_unreadable_image_has_a_reason(objects, make_dataset):
    dataset = make_dataset(fo.Sample(filepath="gone.png", label=detections(detection())))
    (found,) = read(objects, dataset, size=100)
    assert found.status == "unreadable"
    assert "gone.png" in found.reason
    assert read(objects, dataset)[0].status == "ok"  # a fixed grid needs no image


def test_a_sample_that_is_not_there_has_a_reason(objects, labelled):
    dataset = labelled(detections(detection()))
    gone = "0123456789abcdef01234567"
    found = objects.ObjectReader(dataset, "label", size=(5, 6)).read([gone], {gone: "cat"})[gone]
    assert (found.status, found.object.shape) == ("unreadable", (5, 6))


# streaming


def test_a_batch_is_one_query_and_loads_no_other_field(objects, labelled, monkeypatch):
    import fiftyone.core.odm as foo

    heavy = fo.Heatmap(map=np.zeros((64, 64), np.float32))
    dataset = labelled(*(detections(detection()) for _ in range(20)), heavy=heavy)
    ids = dataset.values("id")
    reader = objects.ObjectReader(dataset, "label")
    calls, original = [], foo.aggregate

    def counted(collection, pipelines, *args, **options):
        calls.append(str(pipelines))
        return original(collection, pipelines, *args, **options)

    monkeypatch.setattr(foo, "aggregate", counted)
    assert len(reader.read(ids[:10], dict.fromkeys(ids, "cat"))) == 10
    assert len(calls) == 1
    assert "$label" in calls[0]
    assert "heavy" not in calls[0]
    assert calls[0].count("ObjectId(") == 10


def test_views_are_read_as_they_are(objects, labelled):
    from fiftyone import ViewField as F

    dataset = labelled(detections(detection("cat"), detection("cat", (0, 0, 0.1, 0.1))))
    view = dataset.filter_labels("label", F("bounding_box")[0] > 0.1)
    assert len(read(objects, view)[0].boxes) == 1


def test_stacked_for_measuring(objects, labelled, plugin):
    metrics = importlib.import_module(f"{PLUGIN}.cam_core.metrics.localization")
    dataset = labelled(
        detections(detection("cat"), detection("dog", (0, 0, 0.1, 0.1))),
        detections(detection("dog")),
        None,
    )
    masks = read(objects, dataset, size=(40, 40), with_instances=True)
    maps = torch.zeros(3, 10, 10)
    maps[:, 4, 5], maps[:, 9, 9] = 3, 1  # inside the cat, and in the corner
    found = metrics.measure(maps, **objects.stack_objects(masks))
    assert found.status == ["ok", "object_absent", "no_object"]
    assert found.obj_energy[0].item() == pytest.approx(0.75, abs=0.06)
    assert found.area[0].item() == pytest.approx(0.2 / 0.99, rel=1e-3)
    assert found.energy_top_instance[0].item() == pytest.approx(found.obj_energy[0].item())
    with pytest.raises(ValueError, match="2 sizes"):
        objects.stack_objects([masks[0], read(objects, dataset)[0]])


# which field


def test_the_one_field_that_is_no_prediction_is_chosen(objects, labelled):
    dataset = labelled(
        detections(detection()),
        kind=fo.Classification(label="cat"),
        cam=fo.Heatmap(map=np.zeros((2, 2), np.float32)),
        detector=detections(detection(confidence=0.5)),
        masks_predicted=fo.Segmentation(mask=np.eye(2, dtype=np.uint8)),
        points=fo.Keypoints(keypoints=[fo.Keypoint(points=TRIANGLE, confidence=[0.1, 0.2, 0.3])]),
    )
    assert choose_object_field(dataset) == "label"
    found = {f.name: f for f in objects.find_object_fields(dataset)}
    assert set(found) == {"label", "cam", "detector", "masks_predicted", "points"}
    assert {n for n, f in found.items() if f.predicted} == {"detector", "masks_predicted", "points"}
    assert "confidences" in found["detector"].reason
    assert found["label"].reason is None
    assert [n for n, f in found.items() if not f.by_default] == ["cam", "points"]
    # a prediction may be chosen, and is said to be one
    (read_,) = read(objects, dataset, field="detector")
    assert read_.source == "predicted_box"


def test_several_or_no_fields(objects, labelled, make_dataset):
    more = {"parts": detections(detection())}
    with pytest.raises(ValueError, match=r"objects: 2 fields could be meant \(label, parts\)"):
        choose_object_field(labelled(detections(detection()), **more))
    assert choose_object_field(labelled(fo.Classification(label="cat"))) is None
    assert choose_object_field(labelled(detections(detection(confidence=0.9)))) is None
    assert choose_object_field(make_dataset()) is None


def test_a_run_tells_predictions(objects, labelled):
    dataset = labelled(detections(detection()), theirs=detections(detection()))
    config = dataset.init_run(method="cam51", fields=["theirs"])
    dataset.register_run("some_run", config)
    assert choose_object_field(dataset) == "label"
    found = {f.name: f for f in objects.find_object_fields(dataset)}
    assert "some_run" in found["theirs"].reason


def test_an_evaluation_tells_predictions(objects, labelled):
    dataset = labelled(detections(detection()), theirs=detections(detection()))
    dataset.evaluate_detections("theirs", gt_field="label", eval_key="judged", progress=False)
    assert choose_object_field(dataset) == "label"
    found = {f.name: f for f in objects.find_object_fields(dataset)}
    assert "judged" in found["theirs"].reason


def test_a_named_field_is_taken_as_it_is(objects, labelled):
    dataset = labelled(detections(detection()), parts=detections(detection()))
    assert choose_object_field(dataset, "parts") == "parts"
    roles = {"label": "object", "parts": "other"}
    assert choose_object_field(dataset, roles) == roles


# refusals


def test_wrong_arguments_are_named_before_anything_is_read(objects, labelled):
    dataset = labelled(detections(detection()), kind=fo.Classification(label="cat"), number=3)

    def reader(field="label", **options):
        return lambda: objects.ObjectReader(dataset, field, **options)

    for call, message in (
        (reader("labels"), r"no field 'labels'; did you mean 'label'\?"),
        (reader("kind"), "'kind' is a Classification, which does not say where"),
        (reader("number"), "'number' is a IntField"),
        (reader({}), "field or a mapping"),
        (reader(None), "field or a mapping"),
        (reader({"label": "background"}), "'background' is no role for 'label'"),
        (reader({"label": "ignore"}), "no field has the role 'object'"),
        (reader(classes="some"), "'some' is unknown; choose 'explained', 'all'"),
        (reader(classes=[]), "classes is empty"),
        (reader(classes=["catt"]), "no object is a 'catt'; for example: cat"),
        (reader(size=0), "size must be"),
        (reader(size=(3, 4, 5)), "size must be"),
        (reader(size=True), "size must be"),
        (reader(threshold=0), "threshold must lie"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
