"""The panel beside an open sample, by clicking: maps, the next sample, explained, and what if."""

import re

import numpy as np
import pytest
from bias_common import BACKGROUND, agreeing, probability
from operators_common import operator
from panel_common import FIELDS, make_run
from PIL import Image

from tools.app_driver import App, pixels, wait_for

pytestmark = [pytest.mark.app, pytest.mark.timeout(600)]

MODEL = "resnet18-imagenet-torch"
COUNT = 8


class SampleApp(App):
    """The App with a sample and its panel open."""

    def open_panel(self, dataset, number=0):
        """Opens a sample of the grid and presses the button beside it."""
        self.open_grid(dataset)
        self.thumbnail(number).click()
        self.page.locator("[data-cy=modal]").get_by_text("psychology_alt", exact=True).click()
        self.button("Maps").wait_for()

    @property
    def panel(self):
        return self.page.locator("[data-cy=panel-content-cam_sample_panel]")

    def button(self, name):
        return self.panel.get_by_role("button", name=name, exact=True)

    def image(self, text):
        """The first picture whose description begins with a text."""
        return self.panel.locator(f"img[alt^='{text}']").first

    def source(self, text):
        return self.image(text).get_attribute("src")

    def shown(self, text):
        """The pixels of a picture as the browser draws it."""
        image = self.image(text)
        image.scroll_into_view_if_needed()
        return pixels(image.screenshot(animations="disabled")).astype(int)

    def too_wide(self):
        """What sticks out of the panel to the right."""
        return self.panel.evaluate(
            """panel => [...panel.querySelectorAll("button, p, img, .MuiInputBase-root")].filter(
                e => e.getBoundingClientRect().right > panel.getBoundingClientRect().right + 1
            ).map(e => e.textContent || e.alt)"""
        )


@pytest.fixture
def sample_app(app):
    app.page.set_viewport_size({"width": 1500, "height": 1000})
    return SampleApp(app.page, app._url, app._pictures)


@pytest.fixture
def mapped(make_dataset, photos, plugin):
    """Photos with a run whose three maps lie in three places of every photo."""
    dataset = make_dataset()
    make_run(dataset, [photo["path"] for photo in photos], COUNT)
    y, x = np.mgrid[:24, :32] / [[[24]], [[32]]]
    for sample in dataset.iter_samples(autosave=True):
        for field, (cy, cx) in zip(FIELDS, ((0.2, 0.2), (0.5, 0.8), (0.8, 0.3)), strict=True):
            blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) * 30)
            sample[field].map = np.rint(255 * blob).astype(np.uint8)
    return dataset


@pytest.mark.parametrize("theme", ["dark", pytest.param("light", marks=pytest.mark.slow)])
def test_maps_follow_the_sample(sample_app, mapped, theme):
    app, page = sample_app, sample_app.page
    page.add_init_script(f"localStorage.setItem('mui-mode', '{theme}')")
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    app.open_panel(mapped)
    app.image("eigencam").wait_for()
    ink = app.panel.locator("p").first.evaluate("e => getComputedStyle(e).color")
    red = int(re.findall(r"\d+", ink)[0])
    assert (red > 150) == (theme == "dark"), "what is written can be read"
    app.panel.get_by_text("agreement is with this one").wait_for()
    wait_for(
        lambda: app.panel.get_by_text(re.compile("^agreement|agreement -?0")).count(),
        90,
        "agreement",
    )
    pictures = [app.shown(name) for name in ("gradcam", "layercam", "eigencam")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(pictures[one] - pictures[other]).max() > 60
    app.picture(f"maps_{theme}")

    # another map in large; less of its heat
    app.image("eigencam").click()
    app.panel.get_by_text(FIELDS[2]).first.wait_for()
    before = app.shown("the heat that is kept")
    source = app.source("the heat that is kept")
    slider = app.panel.get_by_role("slider")
    slider.focus()
    slider.press("Home")
    wait_for(lambda: app.source("the heat that is kept") != source, 90, "less heat is drawn")
    app.panel.get_by_text("hold 5.0 % of the heat").wait_for()
    after = app.shown("the heat that is kept")
    assert before.shape == after.shape
    assert abs(before - after).max() > 60
    app.picture(f"kept_{theme}")

    # the next sample, by the App's own key: its photo, the same choice
    source = app.source("gradcam")
    slider.blur()
    page.locator("[data-cy=panel-tab-cam_sample_panel]").first.click()
    page.keyboard.press("ArrowRight")
    wait_for(lambda: app.source("gradcam") != source, 90, "the next sample's maps are shown")
    app.panel.get_by_text("hold 5.0 % of the heat").wait_for()
    app.panel.get_by_text(FIELDS[2]).first.wait_for()
    page.keyboard.press("ArrowLeft")
    wait_for(lambda: app.source("gradcam") == source, 90, "the first sample again")
    # the App's own, where samples follow each other faster than its workers draw them
    assert [error for error in errors if "detached ArrayBuffer" not in error] == []


def test_it_fits_beside_the_photo_and_into_360_pixels(sample_app, mapped):
    app, page = sample_app, sample_app.page
    app.open_panel(mapped)
    app.image("gradcam").wait_for()
    page.locator("[data-cy=modal] [title='Split horizontally']").click()
    photo = page.locator("[data-cy=modal] [data-cy=modal-looker-container] canvas").first
    app.wait_until_painted(photo)
    app.image("gradcam").wait_for()
    assert photo.bounding_box()["x"] < app.panel.bounding_box()["x"], "beside each other"
    for width in (1900, 1500, 1130):
        page.set_viewport_size({"width": width, "height": 1000})
        for name, text in (
            ("Maps", "in large; click"), ("Explain", "With another model"), ("What if", "The hottest tenth"),
        ):  # fmt: skip
            app.button(name).click()
            app.panel.get_by_text(text).first.wait_for()
            wait_for(
                lambda: app.too_wide() == [], 90, f"{name} fits into {width}: {app.too_wide()}"
            )
            app.picture(f"{width}_{name}")
    assert app.panel.bounding_box()["width"] < 400


@pytest.fixture
def asked(make_dataset, tmp_path, plugin):
    """Small pictures with a run of a network whose every score is known, which the server can load."""
    operator("register_model")("by background", "bias_common:background_model")
    dataset = make_dataset(*agreeing(tmp_path, 12))
    operator("compute_cams")(
        dataset, model="by background", methods=["hirescam"], layers="features", cam_key="run",
        num_workers=0, progress=False,
    )  # fmt: skip
    yield dataset
    operator("remove_model")("by background")


def test_explained_and_asked_beside_the_photo(sample_app, asked):
    app, page, dataset = sample_app, sample_app.page, asked
    app.open_panel(dataset)
    app.panel.get_by_text("no other background was tried").wait_for()

    app.button("Explain").click()
    app.button("Explain this sample").click()
    app.panel.get_by_text("The object on other backgrounds").wait_for(timeout=300_000)
    app.panel.get_by_text("(100 %) changed on 4 of 4 other backgrounds").wait_for()
    assert app.panel.locator("img").count() == 8
    app.picture("explained")
    dataset.reload()
    assert dataset.first()["explain_prediction"].map is not None
    page.locator("[data-cy=modal]").wait_for()  # no page had to be loaded again

    app.button("What if").click()
    menu = app.panel.get_by_text("The hottest tenth", exact=True)
    menu.click()
    page.get_by_role("option", name="The border").click()
    app.panel.get_by_text("another photo", exact=True).click()
    page.get_by_role("option", name="the mean colour").click()
    app.button("Ask").click()
    row = app.panel.get_by_text(re.compile(r"plus \d\.\d\d → \d\.\d\d")).first
    row.wait_for()
    app.picture("asked")
    old, new = map(float, re.findall(r"\d\.\d\d", row.inner_text())[:2])
    picture = np.asarray(Image.open(dataset.first().filepath))
    assert old == pytest.approx(probability(BACKGROUND, picture), abs=0.006)
    # the border is 5 of 32 pixels wide, and fades inwards over two
    bare = picture.copy()
    keep = np.zeros(picture.shape[:2])
    keep[5:-5, 5:-5], keep[6:-6, 6:-6] = 0.5, 1
    mixed = keep[..., None] * bare + (1 - keep[..., None]) * bare.reshape(-1, 3).mean(0)
    assert new == pytest.approx(probability(BACKGROUND, mixed), abs=0.02)

    app.button("Store as evidence").click()
    app.button("Stored").wait_for()
    dataset.reload()
    (label,) = dataset.first()["explain_evidence"].detections
    assert (label.region, label.filled_with, label.label) == (
        "the border",
        "the mean colour",
        "plus",
    )
    app.button("Test on all samples").click()
    form = page.get_by_role("dialog").filter(has_text="Test a region of the images")
    form.get_by_text(re.compile("12 of 12 samples")).wait_for()
    form.get_by_text("The border", exact=True).wait_for()
    app.picture("all")


def test_without_a_run_it_says_what_to_do(sample_app, photo_dataset, plugin):
    app, page, dataset = sample_app, sample_app.page, photo_dataset(3)
    app.open_panel(dataset)
    app.panel.get_by_text("No heatmaps yet").wait_for()
    app.button("What if").click()
    app.panel.get_by_text("No run says which model is meant").wait_for()
    app.button("Explain").click()
    app.button("With another model").click()
    form = page.get_by_role("dialog").filter(has_text="Explain this sample")
    execute = form.get_by_role("button", name=re.compile("^(Execute|Explain)$"))
    assert execute.is_disabled()
    field = form.locator('xpath=.//*[normalize-space(text())="Model"]').locator(
        "xpath=following::input[1]"
    )
    field.click()
    field.fill(MODEL)
    page.get_by_role("option", name=re.compile(rf"^{MODEL}\b")).first.click()
    wait_for(execute.is_enabled, 90, "the form can be executed")
    execute.click()
    app.panel.get_by_text(re.compile("^Prediction: ")).first.wait_for(timeout=300_000)
    app.picture("another_model")
    app.button("What if").click()
    app.button("Ask").wait_for()


def test_a_file_that_is_gone_is_named(sample_app, mapped, tmp_path):
    app, dataset = sample_app, mapped
    app.open_panel(dataset)
    app.image("gradcam").wait_for()
    gone = {dataset.values("id")[1]: str(tmp_path / "gone.jpg")}
    dataset.set_values("filepath", gone, key_field="id")
    app.page.locator("[data-cy=panel-tab-cam_sample_panel]").first.click()
    app.page.keyboard.press("ArrowRight")
    app.panel.get_by_text(re.compile("gone.jpg")).first.wait_for()
    app.button("Explain").click()
    app.button("Explain this sample").click()
    app.page.get_by_text(re.compile("gone.jpg cannot be explained")).first.wait_for(timeout=90_000)
    app.picture("gone")
