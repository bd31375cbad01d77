"""Explain this sample, by clicking in an open sample."""

import re

import pytest
from bias_common import inner

from tools.app_driver import App, wait_for

pytestmark = [pytest.mark.app, pytest.mark.timeout(200)]

MODEL = "resnet18-imagenet-torch"
LABEL = "Explain this sample"


class ModalApp(App):
    """The App with a sample open."""

    def open_form(self):
        """Presses the button beside the sample and waits for the form."""
        self.page.locator("[data-cy=modal]").get_by_text("psychology_alt", exact=True).click()
        self.form.get_by_text("Other backgrounds", exact=True).wait_for()

    @property
    def form(self):
        return self.page.get_by_role("dialog").filter(has_text=LABEL)


@pytest.fixture
def modal_app(app):
    app.page.set_viewport_size({"width": 1500, "height": 1000})
    return ModalApp(app.page, app._url, app._pictures)


def test_a_sample_with_a_run(modal_app, photo_dataset, plugin):
    app, dataset = modal_app, photo_dataset(6)
    # a run of a model that the server can load; its heatmaps are not needed
    settings = {"model": MODEL, "model_source": "zoo", "methods": ["gradcam"], "layers": ["layer4"]}
    runs = inner("runs.record")
    runs.register(dataset, "net", settings, [])
    runs.update(dataset, "net", status="finished")
    first = dataset.values("id")[0]
    app.open_sample(dataset, first)
    app.open_form()
    app.form.get_by_text(f"net  ({MODEL})").wait_for()
    app.picture("form")
    wait_for(app.execute_button.is_enabled, 20, "the form can be executed")
    app.execute_button.click()
    said = app.page.get_by_text(
        re.compile(r"Predicted .* of the heat is on the object, .* other backgrounds? ")
    )
    said.first.wait_for(timeout=120_000)
    app.picture("said")
    pictures = app.page.locator("img[src^='data:image/jpeg']")
    wait_for(lambda: pictures.count() == 2, 20, "heatmaps and composites are shown")
    for i in range(2):
        box = pictures.nth(i).bounding_box()
        assert box["width"] > 300
        assert box["height"] > 60

    dataset.reload()
    sample = dataset[first]
    assert sample["explain_prediction"].map is not None
    assert sample["explain_alternative"].target != sample["explain_prediction"].target
    assert dataset.count("explain_prediction.method") == 1

    # a run without predictions knows of no peers: it says so, and offers none
    app.page.get_by_text(
        re.compile("No peers: the run 'net' stores no predictions")
    ).first.wait_for()
    assert app.page.get_by_role("button", name="Show peers").count() == 0
    app.page.get_by_role("button", name="Close", exact=True).last.click()
    assert not app.page.get_by_text("Something went wrong").count(), "the open photo stays"
    # as the dialog says: once the page is loaded again the heatmap can be laid over the sample
    app.open_sample(dataset, first)
    field = app.page.locator("[data-cy=modal] [data-cy='checkbox-explain_prediction']")
    field.wait_for(timeout=20_000)
    field.click()
    wait_for(field.locator("input").is_checked, 20, "the new heatmap is chosen")
    app.picture("modal")


def test_a_sample_without_a_run_and_bad_input(modal_app, photo_dataset, plugin):
    app, dataset = modal_app, photo_dataset(3)
    app.open_sample(dataset, dataset.values("id")[1])
    app.open_form()
    app.form.get_by_text("Another model", exact=True).wait_for()
    assert app.execute_button.is_disabled(), "no model is chosen yet"
    app.field("Other backgrounds").fill("99")
    app.choose("Model", MODEL)
    app.picture("bad")
    wait_for(app.execute_button.is_disabled, 20, "99 backgrounds are too many")
    app.field("Other backgrounds").fill("0")
    wait_for(app.execute_button.is_enabled, 20, "the form can be executed")
    app.execute_button.click()
    app.page.get_by_text(re.compile(r"Predicted .*of the heat")).first.wait_for(timeout=120_000)
    assert app.page.locator("img[src^='data:image/jpeg']").count() == 1, "heatmaps alone"
    app.picture("said")


def test_a_file_that_is_gone_fails_with_its_name(modal_app, photo_dataset, plugin, tmp_path):
    app, dataset = modal_app, photo_dataset(2)
    sample = dataset.first()
    app.open_sample(dataset, sample.id)
    dataset.set_values("filepath", {sample.id: str(tmp_path / "gone.jpg")}, key_field="id")
    app.open_form()
    app.choose("Model", MODEL)
    wait_for(app.execute_button.is_enabled, 20, "the form can be executed")
    app.execute_button.click()
    app.page.get_by_text(re.compile("gone.jpg cannot be explained")).first.wait_for(timeout=90_000)
    app.picture("failed_run")
    assert "explain_prediction" not in dataset.get_field_schema()
