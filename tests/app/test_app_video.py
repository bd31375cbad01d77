"""What a user sees of a video's heatmaps: the player shows each frame under its own, as they are stored."""

import importlib

import fiftyone as fo
import numpy as np
import pytest
from operators_common import PLUGIN
from videos_common import write_video

from tools.app_driver import pixels, wait_for

pytestmark = pytest.mark.app

SIZE, FRAMES, GREY = (320, 240), 24, 128
TURN = 12


def part(name):
    return importlib.import_module(f"{PLUGIN}.operators.{name}")


@pytest.fixture
def grey_video(plugin, make_dataset, tmp_path):
    """A grey video; the heat of its first twelve frames is on the left, that of the others on the right."""

    def draw(number):
        return np.full((SIZE[1], SIZE[0], 3), GREY, np.uint8)

    path = write_video(tmp_path / "grey.webm", FRAMES, "VP80", draw=draw, size=SIZE)
    dataset, writer = make_dataset(fo.Sample(path)), part("data.heatmap_writer")
    writer.declare_schema(dataset, ["run_gradcam"])
    sample = dataset.first()
    for number in range(1, FRAMES + 1):
        heat = np.zeros((144, 192), np.float32)
        heat[:, slice(0, 64) if number <= TURN else slice(128, 192)] = 1
        sample.frames[number]["run_gradcam"] = writer.make_label(
            heat, method="gradcam", layer="layer4", target="predicted", target_index=0,
            score=1.0, peak=1.0, status="ok", cam_key="run",
        )  # fmt: skip
    sample.save()
    writer.colour_fields(dataset, ["run_gradcam"])
    writer.activate_fields(dataset, ["run_gradcam"])
    return dataset


def thirds(picture):
    """The colours of the player's left, middle and right third; its frame is as wide as it is."""
    height, width = picture.shape[:2]
    rows = picture[int(0.3 * height) : int(0.6 * height)].astype(int)
    return [rows[:, int(width * x) : int(width * (x + 0.1))].mean((0, 1)) for x in (0.1, 0.45, 0.8)]


def is_hot(colour):
    """Whether it is grey under the hottest colour of fire, a pale yellow, not grey alone."""
    return colour[0] > GREY + 40 and colour[0] > colour[2] + 30


def is_grey(colour):
    return np.abs(colour - GREY).max() <= 6  # what the video's codec makes of it


def test_the_player_shows_the_heat_of_the_frame_that_it_shows(app, grey_video):
    app.open_sample(grey_video, grey_video.first().id)
    player = app.page.locator("[data-cy=modal-looker-container]")

    def sides():
        left, middle, right = thirds(pixels(player.screenshot(animations="disabled")))
        return is_grey(middle) and (is_hot(left), is_hot(right), is_grey(left), is_grey(right))

    app.picture("first_frame")
    wait_for(
        lambda: sides() == (True, False, False, True), 90, "the first frame's heat, on the left"
    )
    for _ in range(TURN + 4):
        app.page.keyboard.press(".")
        app.page.wait_for_timeout(150)
    app.picture("later_frame")
    wait_for(
        lambda: sides() == (False, True, True, False), 90, "a later frame's heat, on the right"
    )
    for _ in range(TURN + 4):
        app.page.keyboard.press(",")
        app.page.wait_for_timeout(150)
    wait_for(lambda: sides() == (True, False, False, True), 90, "the first frames' heat again")


def test_a_video_is_explained_by_clicking(app, plugin, make_dataset, tmp_path):
    paths = [write_video(tmp_path / f"{i}.webm", 9, "VP80") for i in range(2)]
    dataset = make_dataset(*map(fo.Sample, paths))
    app.open_grid(dataset)
    app.open_form()
    app.choose("Model", "resnet18-imagenet-torch")
    app.form.get_by_text("over frames of 2 videos").wait_for()
    app.field("Every n-th frame").fill("4")
    app.picture("form")
    app.execute_button.click()
    app.notification.get_by_text("resnet18: 6 frames explained in").wait_for()
    assert "frames.resnet18_gradcam, frames.resnet18_prediction" in app.notification.inner_text()
    app.picture("done")
    app.page.get_by_role("button", name="Done").click()
    box = app.page.locator("[data-cy='checkbox-frames.resnet18_gradcam'] input")
    box.wait_for(state="attached")
    assert box.is_checked()
    dataset.reload()
    assert dataset.values("frames.frame_number") == [[1, 5, 9]] * 2
    # the operators for images say so in their forms
    app.open_operator("Find background bias")
    app.page.get_by_text("this takes images, and of videos only compute_cams").wait_for()
    app.picture("refused")
