"""One scale for all heatmaps of a field: over runs that go on, over pixels, over runs that are new."""

import fiftyone as fo
import numpy as np
import pytest
import torch
from bias_common import inner
from operators_common import CLASSES, compute, prepared, small_network, transforms
from PIL import Image

FIELD = "run_gradcam"

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def noise(make_dataset, tmp_path):
    """A dataset of eight small pictures of noise, of different contrast."""
    samples = []
    for i in range(8):
        path = tmp_path / f"{i}.png"
        torch.manual_seed(i)
        pixels = 128 + (torch.rand(44, 60, 3) - 0.5) * 30 * (i + 1)
        Image.fromarray(pixels.byte().numpy()).save(path)
        samples.append(fo.Sample(filepath=str(path)))
    return make_dataset(*samples)


def set_scale(dataset, on=True):
    return inner("data.same_scale").set_scale(dataset, "run", on)


def recorded(dataset):
    return getattr(inner("runs.keys").config_of(dataset, "run"), "same_scale", None)


def tops(samples, field=FIELD):
    """The upper ends of the ranges as the database has them."""
    rows = samples._dataset._sample_collection.find({}, {f"{field}.range": True})
    stored = {str(row["_id"]): row[field].get("range") for row in rows if field in row}
    return np.array([stored[i][1] for i in samples.values("id")])


def expected(samples, scale, field=FIELD):
    return np.maximum(255, 255 * scale / np.array(samples.values(f"{field}.peak")))


def test_a_run_that_goes_on_keeps_its_scale(noise):
    compute(noise.limit(4), methods="gradcam")
    first = set_scale(noise)[FIELD]
    np.testing.assert_allclose(tops(noise.limit(4)), expected(noise.limit(4), first))
    compute(noise, methods="gradcam", resume=True)
    scale = recorded(noise)[FIELD]
    assert scale == pytest.approx(max(noise.values(f"{FIELD}.peak")))
    np.testing.assert_allclose(tops(noise), expected(noise, scale))
    assert (tops(noise) > 255).sum() == 7
    # what is in memory is not another
    assert [label.range[1] for label in noise.values(FIELD)] == pytest.approx(tops(noise).tolist())


def test_a_run_that_goes_on_without_one_scale_gets_none(noise):
    compute(noise.limit(4), methods="gradcam")
    set_scale(noise)
    set_scale(noise, on=False)
    compute(noise, methods="gradcam", resume=True)
    assert recorded(noise) is None
    assert set(tops(noise)) == {255}


def test_pressing_again_reaches_labels_that_were_added(noise):
    """Even where the record says that there is one scale, as of a run that was killed."""
    compute(noise, methods="gradcam")
    scale = set_scale(noise)[FIELD]
    noise._sample_collection.update_many({}, {"$set": {f"{FIELD}.range": [0, 255]}})
    assert set_scale(noise)[FIELD] == scale
    np.testing.assert_allclose(tops(noise), expected(noise, scale))


def test_a_run_that_is_cut_short_keeps_its_scale(noise):
    compute(noise, methods="gradcam", batch_size=2)
    strongest = noise.sort_by(f"{FIELD}.peak", reverse=True).values("id")[:2]
    compute(noise.select(strongest), methods="gradcam", batch_size=2, overwrite=True)
    set_scale(noise)
    settings = inner("compute.params").Settings(
        cam_key="run", methods="gradcam", batch_size=2, resume=True
    )
    job = inner("compute.job").CamJob
    steps = prepared(job, noise, settings, small_network(), transforms(), CLASSES).run()
    next(steps)
    next(steps)
    steps.close()
    assert inner("runs.keys").status_of(noise, "run") == "interrupted"
    done = noise.exists(f"{FIELD}.peak")
    assert 2 < len(done) < 8
    assert (tops(done) > 255).sum() == len(done) - 1, "the strongest was there before"
    np.testing.assert_allclose(tops(done), expected(done, recorded(noise)[FIELD]))


def test_overwriting_clears_it(noise):
    compute(noise, methods="gradcam")
    set_scale(noise)
    compute(noise, methods="gradcam", overwrite=True)
    assert recorded(noise) is None
    assert set(tops(noise)) == {255}


def test_maps_of_pixels_keep_their_own_scale(noise):
    """Their 255 stands for a quantile, not for the peak that is stored."""
    compute(noise, methods=["gradcam", "gradients"])
    assert set(noise.values("run_gradients.layer")) == {"input"}
    # as an earlier version left them
    noise._sample_collection.update_many({}, {"$set": {"run_gradients.range": [0, 999]}})
    assert set_scale(noise).keys() == {FIELD}
    assert recorded(noise).keys() == {FIELD}
    assert (tops(noise) > 255).any()
    assert set(tops(noise, "run_gradients")) == {255}
