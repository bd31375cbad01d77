"""Background bias by clicking: the form, a run, its views in the App, and a closed tab."""

import re

import pytest
from bias_common import BACKGROUND, agreeing, find, sample

from examples.dataset import photo_sample
from tools.app_driver import App, wait_for

pytestmark = [pytest.mark.app, pytest.mark.timeout(600)]

MODEL = "resnet18-imagenet-torch"
LABEL = "Find background bias"
REGION = "Test a region of the images"


class BiasApp(App):
    """The App, with this operator's form."""

    def open_form(self):
        self.open_operator(LABEL)
        self.form.get_by_text("Its model is tested").wait_for()

    @property
    def form(self):
        return self.page.get_by_role("dialog").filter(has_text=LABEL)


class RegionApp(App):
    """The App, with the form of ``test_region``."""

    @property
    def form(self):
        return self.page.get_by_role("dialog").filter(has_text=REGION)


@pytest.fixture
def bias_app(app):
    return BiasApp(app.page, app._url, app._pictures)


def record(dataset, key="resnet18"):
    """What the run's record says of its analysis, or None."""
    dataset.reload()
    if key not in dataset.list_runs():
        return None
    return getattr(dataset.get_run_info(key).config, "bias", None)


def wait_for_status(dataset, status, seconds):
    def reached():
        found = record(dataset)
        return found is not None and found["status"] == status

    wait_for(reached, seconds, f"the run is {status}", step=0.5)


def test_a_run_by_clicking(bias_app, photo_dataset, plugin):
    app, dataset = bias_app, photo_dataset(6)
    app.open_grid(dataset)
    app.open_form()
    app.picture("form")
    app.choose("Model", MODEL)
    app.form.get_by_text("Explains 6 samples and tests 6 of them").wait_for()
    app.form.get_by_text("'ground_truth' (object), the only object field").wait_for()
    app.field("Compare by").fill("ground_truth")
    app.form.get_by_text("'ground_truth' is no field with one string").wait_for()
    assert app.execute_button.is_disabled()
    app.picture("bad")
    app.field("Compare by").fill("")
    wait_for(app.execute_button.is_enabled, 90, "the form can be executed again")
    app.picture("filled")

    app.execute_button.click()
    app.notification.get_by_text(re.compile("resnet18: the score of|could be swapped")).wait_for(
        timeout=300_000
    )
    app.picture("done")
    app.page.get_by_role("button", name="Done").click()
    wait_for_status(dataset, "finished", 20)
    assert dataset.count("resnet18_verdict") == 6
    assert record(dataset)["settings"]["origin"] == "app"

    # the verdicts are shown, the numbers are in a group of their own
    app.page.locator("[data-cy='checkbox-resnet18_verdict'] input").wait_for(state="attached")
    assert app.page.locator("[data-cy='checkbox-resnet18_verdict'] input").is_checked()
    # the sidebar draws what is in sight only
    app.page.mouse.move(150, 700)
    app.page.mouse.wheel(0, 3000)
    named = app.page.locator("input[value='resnet18_bias' i], [data-cy*='resnet18_bias']")
    named.first.wait_for()
    app.picture("grid")

    # a second run is refused where it was asked for
    app.open_form()
    app.form.get_by_text('was analysed already; switch on "Overwrite"').wait_for()
    assert app.execute_button.is_disabled()
    app.picture("again")


def test_the_saved_view_is_in_the_app(bias_app, make_dataset, tmp_path, plugin):
    app, dataset = bias_app, make_dataset(*agreeing(tmp_path, 12))
    # one whose background says nothing: it is in none of the views
    dataset.add_sample(sample(tmp_path, "grey", 0, 1, label="plus"))
    find(dataset, BACKGROUND)
    relies = dataset.load_saved_view("run: relies on background")
    assert len(relies) == 12
    app.page.goto(f"{app._url}/datasets/{dataset.name}?view=run-relies-on-background")
    app.page.get_by_text("run: relies on background", exact=True).first.wait_for()
    app.page.get_by_text("12 samples", exact=True).wait_for()
    app.wait_until_painted(app.thumbnail(0))
    app.picture("view")


def test_a_region_ends_with_a_sentence_and_a_table(app, photo_dataset, plugin):
    app, dataset = RegionApp(app.page, app._url, app._pictures), photo_dataset(6)
    app.open_grid(dataset)
    app.open_operator(REGION)
    app.choose("Model", MODEL)
    app.form.get_by_text("Tests 6 of 6 samples").wait_for()
    app.execute_button.click()
    said = app.page.get_by_text(
        re.compile(r"^Replacing the hottest tenth of each image costs -?\d")
    )
    said.first.wait_for(timeout=300_000)
    app.page.get_by_text("Score lost, region replaced").hover()
    app.page.get_by_role("tooltip").get_by_text("region_drop: ").wait_for()
    app.picture("region")


@pytest.mark.slow
def test_closing_the_tab_leaves_nothing_half_written(bias_app, make_dataset, photos, plugin):
    dataset = make_dataset(*(photo_sample(photo) for photo in photos * 3))
    app = bias_app
    app.open_grid(dataset)
    app.open_form()
    app.choose("Model", MODEL)
    app.form.get_by_text("Explains 72 samples").wait_for()
    app.execute_button.click()
    app.progress.get_by_text(re.compile(r"swapping backgrounds: .* closing this tab")).wait_for(
        timeout=300_000
    )
    app.picture("running")
    assert record(dataset)["status"] == "running"
    app.page.close()
    wait_for_status(dataset, "interrupted", 60)
    assert "resnet18_verdict" not in dataset.get_field_schema()
    assert dataset.list_saved_views() == []
