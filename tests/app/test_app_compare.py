"""Comparing heatmaps by clicking: the form, its messages, a run, and what the App shows of it."""

import contextlib
import re

import pytest
import torch
import torchvision
from operators_common import operator
from panel_app import PanelApp

from tools.app_driver import wait_for

pytestmark = [pytest.mark.app, pytest.mark.timeout(600)]

LABEL = "Compare heatmaps"


class CompareApp(PanelApp):
    """The App, with this operator's form."""

    def open_form(self):
        self.open_operator(LABEL)
        self.form.get_by_text("Heatmaps", exact=True).wait_for()

    @property
    def form(self):
        return self.page.get_by_role("dialog").filter(has_text=LABEL)


@pytest.fixture
def compare_app(app):
    return CompareApp(app.page, app._url, app._pictures)


@contextlib.contextmanager
def registered_network(name, folder, side):
    """A ResNet-18 for pictures of so many pixels that the App's server can load by its name."""
    weights = folder / f"{name}.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        torch.save(torchvision.models.resnet18().state_dict(), weights)
    operator("register_model")(
        name, architecture="torchvision:resnet18", checkpoint=str(weights),
        transforms={"resize": [side, side], "mean": [0.5] * 3, "std": [0.25] * 3},
    )  # fmt: skip
    yield name
    operator("remove_model")(name)


@pytest.fixture
def registered(tmp_path, plugin):
    """A network for a quick comparison."""
    with registered_network("small", tmp_path, 64) as name:
        yield name


def test_a_comparison_by_clicking(compare_app, photo_dataset, registered):
    app, dataset = compare_app, photo_dataset(8)
    operator()(
        dataset, registered, methods=["gradcam", "hirescam"], layers="layer3", cam_key="run",
        progress=False, num_workers=0,
    )  # fmt: skip
    app.open_grid(dataset)
    app.open_form()
    app.form.get_by_text("Compares 4 maps on 8 of 8 samples").wait_for()
    app.picture("form")
    app.field("Budget").fill("soon")
    app.form.get_by_text(re.compile("Budget.* must be a number of forwards")).wait_for()
    assert app.execute_button.is_disabled()
    app.picture("bad")
    app.field("Budget").fill("5 min")
    app.form.get_by_text("Compares 4 maps on 8 of 8 samples").wait_for()
    wait_for(app.execute_button.is_enabled, 90, "the form can be executed again")

    app.execute_button.click()
    app.page.get_by_text("Leaderboard", exact=True).wait_for(timeout=300_000)
    app.picture("done")
    dataset.reload()
    record = dataset.get_run_info("run").config.compare
    assert (record["status"], record["settings"]["origin"]) == ("finished", "app")
    assert dataset.count("run_disagreement") == 8
    app.page.get_by_text(re.compile("random map")).first.wait_for()
    assert dataset.list_saved_views() == ["run: methods disagree"]


@pytest.fixture
def slow(tmp_path, plugin):
    """A network that takes minutes for the comparison of a few photos."""
    with registered_network("slow", tmp_path, 160) as name:
        yield name


def status(dataset):
    dataset.reload()
    return (getattr(dataset.get_run_info("run").config, "compare", None) or {}).get("status")


@pytest.mark.slow
def test_a_comparison_that_is_left_or_stopped_is_told(compare_app, photo_dataset, slow):
    app, dataset = compare_app, photo_dataset(24)
    app.page.set_viewport_size({"width": 1700, "height": 1200})
    operator()(
        dataset, slow, methods=["gradcam", "hirescam"], layers="layer3", cam_key="run",
        progress=False, num_workers=0,
    )  # fmt: skip
    app.open_grid(dataset)
    app.open_form()
    app.form.get_by_text(re.compile("Compares 4 maps on")).wait_for()
    app.execute_button.click()
    app.page.get_by_text(re.compile("loading the model and looking at the samples")).wait_for()
    app.picture("first")
    bar = app.page.get_by_text(re.compile(r"measuring 4 maps of 24 samples.*: [1-9][\d,]* of"))
    bar.wait_for(timeout=180_000)
    app.picture("measuring")

    # leaving the page interrupts it
    app.open_grid(dataset)
    wait_for(lambda: status(dataset) == "interrupted", 90, "it is interrupted", step=0.3)
    app.open_panel("The run")
    app.tab("Compare", "The methods were not compared yet")
    app.page.get_by_text(re.compile("The last comparison was interrupted after")).wait_for()
    app.page.get_by_text(re.compile("Its tab was closed or reloaded")).wait_for()
    app.picture("interrupted")

    # again, from the panel; each message opens the dialog again, so it is stopped from a second tab
    app.page.get_by_role("button", name="Compare methods", exact=True).last.click()
    app.form.get_by_text(re.compile("Compares 4 maps on")).wait_for()
    app.execute_button.click()
    bar.wait_for(timeout=180_000)
    other = CompareApp(app.page.context.new_page(), app._url, app._pictures)
    other.page.set_viewport_size({"width": 1700, "height": 1200})
    other.open_grid(dataset)
    other.picture("other")
    other.page.get_by_role(
        "button", name="Compare", exact=True
    ).click()  # the tabs share what is open
    other.page.get_by_text(re.compile("Being compared, started")).wait_for()
    other.picture("at_work")
    other.page.get_by_role("button", name="Stop", exact=True).click()
    other.page.get_by_text("Being compared, asked to stop").wait_for()
    other.picture("asked")
    app.notification.get_by_text("The comparison of 'run' was asked to stop").wait_for()
    app.progress.get_by_text("The comparison of 'run' was asked to stop").wait_for()
    app.picture("stopped")
    app.page.get_by_role("button", name="Done").click()
    app.page.get_by_text(re.compile("The last comparison was stopped after")).wait_for()
    app.picture("own_tab")
    assert status(dataset) == "interrupted"
    assert "run_disagreement" not in dataset.get_field_schema()
    other.tab("Compare", "The methods were not compared yet")
    other.page.get_by_text(re.compile("The last comparison was stopped after")).wait_for()
    other.picture("told")
    other.page.close()
