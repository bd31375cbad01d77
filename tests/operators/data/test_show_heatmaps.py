"""The figure: which fields, which samples, and photos the way up they are seen."""

import base64
import io

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import pytest
from operators_common import compute, operator
from PIL import Image

pytestmark = pytest.mark.usefixtures("plugin")


def show(*args, **kwargs):
    return operator("show_heatmaps")(*args, **kwargs)


def test_method_is_not_taken_for_one_whose_name_begins_alike(photo_dataset):
    dataset = photo_dataset(2)
    compute(dataset, methods=["gradcam", "gradcam_guided"])
    *axes, scale = show(dataset, "run", methods="gradcam").axes
    titles = [axis.get_title() for axis in axes]
    assert len(titles) == 2 * 2
    assert scale.images[0].get_array().shape[:2] == (22, 480), "below them the colours of heat"
    assert not any("guided" in title for title in titles)


def test_heat_lies_on_the_photo_as_it_is_seen(make_dataset, tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: wide in the file, high when seen
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 120, 3), np.uint8)).save(
        path, exif=exif
    )
    dataset = make_dataset(fo.Sample(filepath=str(path)))
    compute(dataset)
    photo, drawn = (
        np.asarray(axis.images[0].get_array(), int) for axis in show(dataset, "run").axes[:2]
    )
    height, width = photo.shape[:2]
    assert height == 2 * width
    heat = dataset.first()["run_gradcam"].map
    assert heat.shape == (192, 96)
    seen = Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR)
    changed, hot = (photo != drawn).any(-1), np.asarray(seen) / 255 >= 0.33
    assert 0.05 < hot.mean() < 0.95
    assert (changed == hot).mean() > 0.98


def test_figure_needs_no_window_and_leaves_none(photo_dataset):
    import matplotlib.pyplot as plt

    dataset = photo_dataset(1)
    compute(dataset)
    before = plt.get_fignums()
    buffer = io.BytesIO()
    show(dataset, "run").savefig(buffer, format="png")
    assert Image.open(buffer).size[0] > 100
    assert plt.get_fignums() == before


def test_executed_as_an_operator_it_answers_with_a_picture(photo_dataset):
    dataset = photo_dataset(1)
    compute(dataset)
    context = {"dataset": dataset, "params": {"cam_key": "run", "n": 1}}
    answer = foo.execute_operator("@cam51/heatmaps/show_heatmaps", ctx=context).result["image"]
    head, _, data = answer.partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).format == "PNG"


def test_samples_without_the_run_are_refused(photo_dataset):
    dataset = photo_dataset(2)
    compute(dataset.limit(1))
    with pytest.raises(ValueError, match="none of them has heatmaps of the run 'run'"):
        show(dataset.skip(1), "run")
    with pytest.raises(ValueError, match="n must be an integer between 1 and 200, got 0"):
        show(dataset, "run", n=0)
