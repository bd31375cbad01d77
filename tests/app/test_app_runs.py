"""The operators on runs, from the panel: do again, show, rename, go on, delete."""

import contextlib

import pytest
from bias_common import inner
from panel_app import PanelApp
from playwright import sync_api as playwright

from tools.app_driver import SEND, wait_for

pytestmark = [pytest.mark.app, pytest.mark.timeout(600)]

MODEL = "resnet18-imagenet-torch"
COUNT = 6
# what stands in the menu of what is rarely used
_MORE = ("Record", "Draft boxes", "Rename", "Delete")


class RunsApp(PanelApp):
    """The App with the panel, and the forms that its buttons open."""

    def press(self, button, form):
        """Presses a button of the panel; returns the form that opens."""
        found = self.panel.get_by_role("button", name=button, exact=True)
        if button in _MORE and not found.count():
            self.panel.get_by_role("button", name="More", exact=True).click()
        found.click()
        dialog = self.page.get_by_role("dialog").filter(has_text=form)
        dialog.wait_for()
        return dialog

    def execute(self, dialog, name=None):
        """Executes a form and closes what it says."""
        if name is not None:
            self.picture(name)
        dialog.get_by_role("button", name=SEND).click()

    def look(self, text):
        """Looks at a run's details; a run's end reloads the dataset, which closes what is open."""
        for last in (False, True):
            self.execute(self.press("Record", "Look at a CAM run"))
            with contextlib.nullcontext() if last else contextlib.suppress(playwright.TimeoutError):
                self.page.get_by_text(text).first.wait_for(timeout=15_000)
                return
            self.page.keyboard.press("Escape")

    def done(self):
        """Closes the dialog of a run that has ended."""
        button = self.page.get_by_role("button", name="Done")
        button.wait_for()
        button.click()


@pytest.fixture
def runs_app(app):
    app.page.set_viewport_size({"width": 1700, "height": 1200})
    return RunsApp(app.page, app._url, app._pictures)


def field_of(dialog, label):
    place = dialog.locator(f'xpath=.//*[normalize-space(text())="{label}"]')
    return place.locator("xpath=following::input[1]")


def status(dataset, key):
    dataset.reload()
    record = inner("runs.record")
    return record.status_of(dataset, key) if key in record.list_runs(dataset) else None


def test_a_run_is_handled_from_the_panel(runs_app, photo_dataset, plugin):
    app, dataset = runs_app, photo_dataset(COUNT)
    app.open_grid(dataset)
    app.open_form()
    app.choose("Model", MODEL)
    app.form.get_by_text("1 heatmap field over 6 samples: resnet18_gradcam").wait_for()
    app.execute_button.click()
    wait_for(lambda: status(dataset, "resnet18") == "finished", 90, "the run has ended", step=0.5)
    app.done()
    app.open_panel("The run")

    # rename: a bad name is refused where it is typed
    dialog = app.press("Rename", "Rename a CAM run")
    field_of(dialog, "New key").fill("bad-key")
    dialog.get_by_text("new_key must be a name of letters, digits").wait_for()
    assert dialog.get_by_role("button", name=SEND).is_disabled()
    field_of(dialog, "New key").fill("renamed")
    wait_for(dialog.get_by_role("button", name=SEND).is_enabled, 90, "it is valid")
    app.execute(dialog, "rename")
    wait_for(lambda: status(dataset, "renamed") == "finished", 90, "it is renamed", step=0.3)
    dataset.reload()  # the status is asked of the database, the fields were known before
    assert dataset.count("renamed_gradcam.map") == COUNT
    assert "resnet18_gradcam" not in dataset.get_field_schema()

    # resume a run that lacks two samples
    wait_for(lambda: app.shown("renamed_gradcam"), 90, "it is shown under its new name")
    app.page.get_by_text("renamed (finished)").wait_for()  # the panel has noticed
    lost = dataset.limit(2)
    lost.clear_sample_field("renamed_gradcam")
    inner("runs.record").update(dataset, "renamed", status="interrupted")
    app.page.get_by_role("button", name="Reset grid").click()  # reads what is true by now
    app.page.get_by_text("renamed (interrupted)").wait_for()
    dialog = app.press("Show its samples", "Show the samples of a CAM run")
    dialog.get_by_text("missing", exact=True).click()
    app.execute(dialog, "show")
    app.wait_for_samples(2)
    app.page.get_by_role("button", name="Reset grid").click()
    app.wait_for_samples(COUNT)
    dialog = app.press("Resume", "Run again")
    dialog.get_by_text("Resume this run", exact=True).wait_for()
    app.execute(dialog, "go_on")
    wait_for(lambda: status(dataset, "renamed") == "finished", 90, "it is complete", step=0.5)
    assert dataset.count("renamed_gradcam.map") == COUNT
    app.done()

    # what it is, and away with it
    app.page.get_by_text("renamed (finished)").wait_for()
    app.look("renamed: finished, 6 of 6 samples")
    app.picture("details")
    app.page.keyboard.press("Escape")
    dialog = app.press("Delete", "Delete a CAM run")
    dialog.get_by_text("Deletes the run renamed").wait_for()
    dialog.get_by_text("the fields renamed_gradcam, renamed_prediction").wait_for()
    app.execute(dialog, "delete")
    wait_for(lambda: status(dataset, "renamed") is None, 90, "it is gone", step=0.3)
    dataset.reload()  # as above
    assert not [f for f in dataset.get_field_schema() if f.startswith("renamed")]
