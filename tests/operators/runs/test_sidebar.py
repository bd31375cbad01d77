"""Groups of the sidebar: one for every run, open while the grid shows it."""

import fiftyone as fo
import pytest
from bias_common import agreeing, find, inner
from operators_common import compute, groups_of, operator
from videos_common import video_samples

pytestmark = pytest.mark.usefixtures("plugin")


def opened(dataset):
    """Which of our groups are open."""
    ours = groups_of(dataset)
    return [g.name for g in dataset.app_config.sidebar_groups if g.name in ours and g.expanded]


def test_a_run_has_a_group_behind_the_labels_and_the_newest_is_open(photo_dataset):
    dataset = photo_dataset(1)
    compute(dataset, cam_key="first")
    compute(dataset, cam_key="second", methods=["gradcam", "layercam"])
    assert groups_of(dataset) == {
        "first_heatmaps": ["first_gradcam", "first_prediction"],
        "second_heatmaps": ["second_gradcam", "second_layercam", "second_prediction"],
    }
    assert opened(dataset) == ["second_heatmaps"]
    names = [group.name for group in dataset.app_config.sidebar_groups]
    place = names.index("labels")
    assert names[place + 1 : place + 3] == ["second_heatmaps", "first_heatmaps"]
    listed = [p for g in dataset.app_config.sidebar_groups for p in g.paths]
    assert len(listed) == len(set(listed))
    assert "ground_truth" in listed


def test_deleting_opens_the_one_that_the_grid_shows_again(photo_dataset):
    dataset = photo_dataset(1)
    for key in ("first", "second", "third"):
        compute(dataset, cam_key=key)
    operator("delete_cam_run")(dataset, "third")
    assert opened(dataset) == ["second_heatmaps"]
    for key in ("second", "first"):
        operator("delete_cam_run")(dataset, key)
    assert dataset.app_config.sidebar_groups is None


def test_a_group_that_was_there_stays_the_users(photo_dataset):
    dataset = photo_dataset(1)
    mine = fo.SidebarGroupDocument(name="run_heatmaps", paths=["ground_truth"])
    dataset.app_config.sidebar_groups = [
        *fo.DatasetAppConfig.default_sidebar_groups(dataset), mine,
    ]  # fmt: skip
    dataset.app_config.sidebar_groups[1].paths = []
    dataset.save()
    compute(dataset)
    assert groups_of(dataset) == {"run_heatmaps": ["ground_truth"]}
    operator("rename_cam_run")(dataset, "run", "new")
    operator("delete_cam_run")(dataset, "new")
    assert groups_of(dataset) == {"run_heatmaps": ["ground_truth"]}


def test_renaming_renames_it(photo_dataset):
    dataset = photo_dataset(1)
    compute(dataset)
    operator("rename_cam_run")(dataset, "run", "new")
    assert groups_of(dataset) == {"new_heatmaps": ["new_gradcam", "new_prediction"]}
    assert opened(dataset) == ["new_heatmaps"]
    operator("delete_cam_run")(dataset, "new")
    assert dataset.app_config.sidebar_groups is None


def test_a_field_that_comes_back_stands_where_it_stood(photo_dataset):
    dataset = photo_dataset(1)
    compute(dataset, methods=["gradcam", "layercam"])
    groups = groups_of(dataset)
    dataset.delete_sample_field("run_gradcam")
    assert groups_of(dataset) != groups
    compute(dataset, methods=["gradcam", "layercam"], resume=True)
    assert groups_of(dataset) == groups


def test_verdicts_join_it_also_where_a_run_has_none(make_dataset, tmp_path):
    dataset = make_dataset(*agreeing(tmp_path, 12))
    find(dataset)
    verdicts = ["run_verdict", "run_dependence"]
    wanted = ["run_hirescam", "run_prediction", *verdicts]
    assert groups_of(dataset) == {"run_heatmaps": wanted}

    # a run of a version that made none
    inner("bias.schema").RECORDS.clear(dataset, "run")
    inner("runs.sidebar").drop(dataset, ["run_heatmaps"])
    inner("runs.record").update(dataset, "run", sidebar_groups=None)
    find(dataset)
    assert groups_of(dataset) == {}
    places = {g.name: g.paths for g in dataset.app_config.sidebar_groups}
    assert set(verdicts) <= set(places["primitives"])


def test_runs_on_frames_have_none(make_dataset, tmp_path):
    dataset = make_dataset(*video_samples(tmp_path / "videos", 3))
    compute(dataset)
    assert dataset.get_field("frames.run_gradcam") is not None
    assert dataset.app_config.sidebar_groups is None
