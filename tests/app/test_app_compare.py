"""Comparing heatmaps by clicking: the form, its messages, a run, and what the App shows of it."""

import re

import pytest
import torch
import torchvision
from operators_common import operator

from tools.app_driver import App, wait_for

pytestmark = [pytest.mark.app, pytest.mark.timeout(200)]

LABEL = "Compare heatmaps"


class CompareApp(App):
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


@pytest.fixture
def registered(tmp_path, plugin):
    """A small network that the App's server can load by its name."""
    weights = tmp_path / "resnet18.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        torch.save(torchvision.models.resnet18().state_dict(), weights)
    operator("register_model")(
        "small", architecture="torchvision:resnet18", checkpoint=str(weights),
        transforms={"resize": [64, 64], "mean": [0.5] * 3, "std": [0.25] * 3},
    )  # fmt: skip
    yield "small"
    operator("remove_model")("small")


def test_a_comparison_by_clicking(compare_app, photo_dataset, registered):
    app, dataset = compare_app, photo_dataset(8)
    operator()(
        dataset, registered, methods=["gradcam", "hirescam"], layers="layer3", cam_key="run",
        progress=False, num_workers=0,
    )  # fmt: skip
    app.open_grid(dataset)
    app.open_form()
    app.form.get_by_text("4 maps on 8 of 8 samples").wait_for()
    app.picture("form")
    app.field("Budget").fill("soon")
    app.form.get_by_text("budget must be a number of forwards").wait_for()
    assert app.execute_button.is_disabled()
    app.picture("bad")
    app.field("Budget").fill("5 min")
    app.form.get_by_text("4 maps on 8 of 8 samples").wait_for()
    wait_for(app.execute_button.is_enabled, 20, "the form can be executed again")

    app.execute_button.click()
    app.page.get_by_text("Leaderboard", exact=True).wait_for(timeout=120_000)
    app.picture("done")
    dataset.reload()
    record = dataset.get_run_info("run").config.compare
    assert (record["status"], record["settings"]["origin"]) == ("finished", "app")
    assert dataset.count("run_disagreement") == 8
    app.page.get_by_text(re.compile("random map")).first.wait_for()
    assert dataset.list_saved_views() == ["run: methods disagree"]
