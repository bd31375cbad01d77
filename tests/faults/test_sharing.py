"""A dataset that is exported and imported keeps its heatmaps, files, runs and views."""

import importlib
import os
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from faults_common import compute_tiny, write_pictures
from operators_common import PLUGIN, operator

pytestmark = pytest.mark.usefixtures("plugin")


def import_as(make_dataset, folder, name="copy"):
    """The exported dataset under another name; deleted after the test."""
    copy = make_dataset()
    name = copy.name
    copy.delete()
    return fo.Dataset.from_dir(
        str(folder), dataset_type=fo.types.FiftyOneDataset, name=name, progress=False
    )


@pytest.mark.parametrize("storage", ["database", "disk"])
@pytest.mark.parametrize("complete", [True, False])
def test_export_and_import(make_dataset, tmp_path, storage, complete):
    runs = importlib.import_module(f"{PLUGIN}.operators.runs.keys")
    paths = write_pictures(tmp_path / "pictures", 4)
    dataset = make_dataset(*(fo.Sample(filepath=p) for p in paths))
    where = {"storage": storage}
    if storage == "disk":
        where["output_dir"] = str(tmp_path / "maps")
    view = dataset if complete else dataset.limit(2)
    compute_tiny(view, batch_size=2, **where)
    runs.add_written(dataset, "run", saved_views=["run: best"])
    dataset.save_view("run: best", dataset.limit(1))
    pictures = dict(zip(map(os.path.basename, paths), maps(dataset), strict=True))
    dataset.export(str(tmp_path / "out"), dataset_type=fo.types.FiftyOneDataset, progress=False)

    copy = import_as(make_dataset, tmp_path / "out")
    assert copy.get_field_schema().keys() == dataset.get_field_schema().keys()
    for path, picture in zip(copy.values("filepath"), maps(copy), strict=True):
        assert np.array_equal(picture, pictures[os.path.basename(path)], equal_nan=False) or (
            picture is None and pictures[os.path.basename(path)] is None
        )
    if storage == "disk":  # its own copies
        found = [p for p in copy.values("run_gradcam.map_path") if p]
        assert found
        assert all(Path(p).is_relative_to(tmp_path / "out") for p in found)
    info, original = (operator("get_cam_run_info")(d, "run") for d in (copy, dataset))
    assert info.status == "finished"
    assert (info.done, info.total) == (original.done, original.total)
    assert info.settings["weights"] == original.settings["weights"]
    assert copy.list_saved_views() == ["run: best"]
    covered = operator("load_cam_view")(copy, "run").values("filepath")
    wanted = [os.path.basename(p) for p in view.values("filepath")]
    assert [os.path.basename(p) for p in covered] == wanted

    # it can be resumed there, and rolled back, and the original keeps what it has
    if storage == "disk":
        where["output_dir"] = str(tmp_path / "maps")
    summary = compute_tiny(copy, batch_size=2, resume=True, **where)
    assert (summary.done, summary.resumed) == (4, original.done)
    operator("delete_cam_run")(copy, "run")
    assert not copy.has_field("run_gradcam")
    assert not copy.list_runs()
    assert not copy.list_saved_views()
    for label in dataset.exists("run_gradcam").values("run_gradcam"):
        assert label.get_map() is not None
    copy.delete()


def maps(dataset):
    labels = dataset.values("run_gradcam")
    return [None if label is None else label.get_map() for label in labels]
