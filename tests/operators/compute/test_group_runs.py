"""Runs over slices of groups: one, several or all, in one run, with what each of the slices alone gives."""

import fiftyone as fo
import numpy as np
import pytest
from faults_common import compute_tiny, picture_transforms, tiny_network, write_pictures
from operators_common import operator
from videos_common import write_video

pytestmark = pytest.mark.usefixtures("plugin")
SLICES = ["left", "right", "top"]


@pytest.fixture
def groups(make_dataset, tmp_path):
    """Four groups of three images, and of two videos in a slice of their own."""
    dataset, paths = make_dataset(), write_pictures(tmp_path / "pictures", 12)
    dataset.add_group_field("group", default="left")
    samples = []
    for number in range(4):
        group = fo.Group()
        for offset, name in enumerate(SLICES):
            path = paths[3 * number + offset]
            samples.append(fo.Sample(path, group=group.element(name)))
        if number < 2:
            path = write_video(tmp_path / f"{number}.avi", 3, "MJPG")
            samples.append(fo.Sample(path, group=group.element("film")))
    dataset.add_samples(samples, progress=False)
    return dataset


def maps(dataset, name, key="run"):
    view = dataset.select_group_slices(name)
    values = view.values(["filepath", f"{key}_gradcam.map", f"{key}_gradcam.score"])
    return {path: (heat, score) for path, heat, score in zip(*values, strict=True)}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for path, (heat, score) in ours.items():
        np.testing.assert_array_equal(heat, theirs[path][0])
        assert score == theirs[path][1]


def test_several_slices_are_one_run(groups):
    summary = compute_tiny(groups, group_slices=["left", "top"])
    assert (summary.status, summary.done, summary.failed) == ("finished", 8, [])
    assert groups.list_runs() == ["run"]
    for name in ("left", "top"):
        compute_tiny(groups.select_group_slices(name), cam_key=f"only_{name}")
        assert_same(maps(groups, name), maps(groups, name, f"only_{name}"))
    assert maps(groups, "right") == {
        path: (None, None) for path in groups.select_group_slices("right").values("filepath")
    }
    view = operator("load_cam_view")(groups, "run")
    assert set(view.values("group.name")) == {"left", "top"}
    operator("rename_cam_run")(groups, "run", "both")
    assert operator("get_cam_run_info")(groups, "both").done == 8
    operator("delete_cam_run")(groups, "both")
    assert "both_gradcam" not in groups.get_field_schema()


def test_all_slices_that_hold_images_and_what_joins_later(groups):
    compute_tiny(groups, group_slices="right")
    summary = compute_tiny(groups, group_slices=True, resume=True)
    assert (summary.done, summary.resumed) == (12, 4)
    assert summary.settings["group_slices"] is True
    view = groups.limit(2)
    assert compute_tiny(view, group_slices=["left", "right"], cam_key="part").done == 4
    given = {"model": tiny_network(), "transforms": picture_transforms(), "progress": False}
    assert operator("rerun_cams")(groups, "part", "again", **given).done == 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "middle",
            "group_slices: there is no slice 'middle'; choose from left, right, top, or True for all",
        ),
        (
            ["left", "film"],
            "group_slices: the slice 'film' holds videos; choose from left, right, top",
        ),
        ([], "group_slices must be the name of a slice, a list of names, or True"),
        (3, "group_slices must be the name of a slice, a list of names, or True for all, got 3"),
        (
            None,
            r"samples: the dataset is grouped; use one slice, .*group_slices=\['name', 'other'\]",
        ),
    ],
)
def test_bad_slices(groups, given, message):
    with pytest.raises(ValueError, match=message):
        compute_tiny(groups, group_slices=given)
    assert not groups.list_runs()


def test_objects_of_slices_are_refused(groups):
    for samples, slices in ((groups, True), (groups.select_group_slices("right"), None)):
        with pytest.raises(ValueError, match="patches_field: crops are of objects of images"):
            compute_tiny(samples, patches_field="ground_truth", group_slices=slices)


@pytest.mark.parametrize("again", [False, True])
def test_slices_go_through_the_app_and_the_queue(groups, again, monkeypatch):
    """FiftyOne would give the operator one slice only."""
    import fiftyone.operators as foo

    register = operator("register_model")
    register("tiny", "faults_common:registered")
    try:
        name, params = "compute_cams", {"model": "tiny", "cam_key": "run", "layers": ["3"]}
        params.update(group_slices=["left", "right"], methods=["gradcam"])
        if again:
            foo.execute_operator(f"@cam51/heatmaps/{name}", {"dataset": groups, "params": params})
            name, params = "rerun_cams", {"cam_key": "run", "new_key": "again"}
        foo.execute_operator(f"@cam51/heatmaps/{name}", {"dataset": groups, "params": params})
    finally:
        operator("remove_model")("tiny")
    groups.reload()
    key = "again" if again else "run"
    for slices in ("left", "right"):
        assert len(groups.select_group_slices(slices).exists(f"{key}_gradcam")) == 4


def test_slices_of_other_samples(groups, photo_dataset):
    for samples in (photo_dataset(1), groups.select_group_slices("left")):
        with pytest.raises(
            ValueError, match="group_slices: is for grouped datasets, .*leave it out"
        ):
            compute_tiny(samples, group_slices="left")
    with pytest.raises(ValueError, match="samples: this slice of groups holds videos"):
        compute_tiny(groups.select_group_slices("film"))
