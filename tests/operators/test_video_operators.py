"""The other operators on videos: an animation and a figure, and a sentence where they do not take videos."""

import importlib

import fiftyone as fo
import numpy as np
import pytest
from faults_common import compute_tiny, tiny_network
from operators_common import PLUGIN, operator
from PIL import Image
from videos_common import SIZE, number_in, video_samples

pytestmark = pytest.mark.usefixtures("plugin")


@pytest.fixture
def run(make_dataset, tmp_path):
    """Two videos of 12 and 4 frames, of which each third has heatmaps."""
    dataset = make_dataset(*video_samples(tmp_path / "videos", 12, 4))
    compute_tiny(dataset, every=3)
    return dataset


def test_an_animation_shows_each_frame_for_its_time(run, tmp_path):
    path = str(tmp_path / "heat.gif")
    assert operator("show_heatmaps")(run, "run", animation=path) == path
    with Image.open(path) as gif:
        assert gif.width == 3 * SIZE[0]
        assert gif.height > SIZE[1], "the scale of the heat is below"
        assert gif.n_frames == 4
        assert gif.info["loop"] == 0
        times, seen, heated = [], [], []
        for index in range(gif.n_frames):
            gif.seek(index)
            times.append(gif.info["duration"])
            pixels = np.asarray(gif.convert("RGB"), np.int16)[: SIZE[1]]
            seen.append(number_in(pixels[:, : SIZE[0]]))
            heated.append(np.abs(pixels[:, SIZE[0] : 2 * SIZE[0]] - pixels[:, : SIZE[0]]).max())
    assert seen == [1, 4, 7, 10]
    assert sum(times) == pytest.approx(4 * 3 / 30 * 1000, abs=10)
    assert min(heated) > 30
    one = operator("show_heatmaps")(run.skip(1), "run", methods="gradcam", animation=path)
    with Image.open(one) as gif:
        assert (gif.width, gif.n_frames) == (2 * SIZE[0], 2)


def test_a_figure_shows_frames_evenly_spread(run):
    figure = operator("show_heatmaps")(run, "run", n=2)
    titles = [axis.get_title() for axis in figure.axes]
    assert [t for t in titles if "frame" in t] == ["v0.mp4, frame 1", "v0.mp4, frame 10"]
    assert len(operator("show_heatmaps")(run, "run").axes) == 4 * 3 + 1
    frames = run.to_frames(sample_frames="dynamic", sparse=True)
    assert len(operator("show_heatmaps")(frames, "run").axes) == 4 * 3 + 1


def test_what_cannot_be_shown(run, photo_dataset, tmp_path):
    show, photos = operator("show_heatmaps"), photo_dataset(1)
    compute_tiny(photos)
    for samples, given, message in (
        (photos, {"animation": "a.gif"}, "animation: is for videos, and these are images"),
        (run, {"animation": "a.mp4"}, "animation must be the path of a .gif, got 'a.mp4'"),
        (run, {"methods": "eigencam"}, "has no heatmaps of 'eigencam'"),
    ):
        with pytest.raises(ValueError, match=message):
            show(samples, "run", **given)
    run._frame_collection.delete_many({})
    with pytest.raises(ValueError, match="none of them has heatmaps of the run 'run'"):
        show(run, "run")


REFUSED = {
    "find_background_bias": lambda call, samples: call(samples, "run", model=tiny_network()),
    "test_region": lambda call, samples: call(samples, [0, 0, 0.5, 0.5], model=tiny_network()),
    "compare_cams": lambda call, samples: call(samples, "run"),
    "heat_to_detections": lambda call, samples: call(samples, cam_key="run"),
    "explain_sample": lambda call, samples: call(samples, samples.first().id, "run"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("frames", [False, True])
def test_operators_for_images_say_so_before_anything_runs(run, name, frames):
    samples = run.to_frames(sample_frames="dynamic", sparse=True) if frames else run
    before = [run.get_field_schema(flat=True), run.get_frame_field_schema(flat=True)]
    with pytest.raises(
        ValueError, match=r"^samples: this takes images.*only compute_cams.*clone\('name'\)"
    ):
        REFUSED[name](operator(name), samples)
    assert before == [run.get_field_schema(flat=True), run.get_frame_field_schema(flat=True)]
    assert run.list_saved_views() == []


@pytest.mark.parametrize("name", [*REFUSED])
def test_their_forms_say_so_too(run, name):
    import fiftyone.operators as foo

    executor = importlib.import_module("fiftyone.operators.executor")
    request = {"dataset_name": run.name, "params": {}}
    ctx = executor.ExecutionContext(request, executor=executor.Executor())
    form = operator(name).resolve_input(ctx)
    (problem,) = [p for p in form.type.properties.values() if p.invalid]
    assert "takes images" in problem.view.description
    assert isinstance(form, foo.types.Property)


def test_the_panel_lists_frames(run):
    samples_tab = importlib.import_module(f"{PLUGIN}.operators.panel.samples_tab")
    runs = importlib.import_module(f"{PLUGIN}.operators.runs.run")
    opened = runs.Run.open(run, "run")
    assert samples_tab.kinds_of(opened) == ["surest", "weakest"]
    rows = samples_tab.table(opened, "surest")
    assert {row["file"] for row in rows} == {
        *(f"v0.mp4, frame {n}" for n in (1, 4, 7, 10)), "v1.mp4, frame 1", "v1.mp4, frame 4",
    }  # fmt: skip
    assert {row["id"] for row in rows} == set(run.values("id"))
    assert all(row["prediction"] and row["score"] for row in rows)
    assert isinstance(run.first().frames[1].run_prediction, fo.Classification)
