"""Runs that others began: noticed by an open panel, and run in the background by clicking."""

import contextlib
import re

import numpy as np
import pytest
from bias_common import inner
from operators_common import compute
from panel_app import PanelApp
from playwright import sync_api as playwright

from examples.dataset import photo_sample
from tools.app_driver import wait_for

pytestmark = [pytest.mark.app, pytest.mark.timeout(600)]

MODEL = "resnet18-imagenet-torch"


@pytest.fixture
def panel_app(app):
    app.page.set_viewport_size({"width": 1700, "height": 1200})
    return PanelApp(app.page, app._url, app._pictures)


def has_heat(app, plain):
    """Whether the first photo of the grid is painted over."""
    try:
        now = app.wait_until_painted(app.thumbnail(0))
    except playwright.Error:
        return False  # the grid was drawn again meanwhile
    return now.shape == plain.shape and np.abs(now.astype(int) - plain).max(-1).mean() > 8


def test_an_open_panel_notices_a_run_from_elsewhere_and_draws_nothing_else(
    panel_app, photo_dataset, plugin
):
    app, dataset = panel_app, photo_dataset(3)
    app.open_grid(dataset)
    app.open_panel("No heatmaps yet")
    compute(dataset, cam_key="elsewhere")  # in another process, as from another tab
    app.panel.get_by_text("elsewhere (finished)").first.wait_for()
    app.picture("noticed")

    asked = []
    app.page.on(
        "request", lambda r: asked.append(r.post_data or "") if "execute" in r.url else None
    )
    app.page.evaluate(
        """() => { window.drawn = 0; const panel = document.querySelector("[data-cy='panel-content-cam_panel']");
        new MutationObserver(found => window.drawn += found.length).observe(
        panel ?? document.body, {childList: true, subtree: true, characterData: true}) }"""
    )

    def asked_twice():
        app.page.wait_for_timeout(300)  # playwright hears of requests while it waits
        return sum("on_watch" in body for body in asked) > 1

    wait_for(asked_twice, 90, "the panel asked twice whether something changed")
    assert app.page.evaluate("window.drawn") == 0


def test_a_run_in_the_background_outlives_its_tab(panel_app, browser, make_dataset, photos, plugin):
    app, dataset = panel_app, make_dataset(*(photo_sample(photo) for photo in photos * 4))
    app.open_grid(dataset)
    app.open_form()
    app.choose("Model", MODEL)
    app.form.get_by_text("1 heatmap field over 96 samples").wait_for()
    app.form.get_by_text("Run in the background", exact=True).click()
    app.form.get_by_text("this tab may be closed", exact=False).wait_for()
    app.picture("form")
    app.execute_button.click()
    app.page.get_by_text("Started in the background", exact=False).first.wait_for()
    app.picture("started")
    # the dialog is closed by itself; the panel opened, and follows it
    app.panel.get_by_role("button", name="Stop", exact=True).first.wait_for()
    # where a machine is fast it has ended meanwhile
    going = re.compile(r"^[1-9]\d* of 96|resnet18 finished")
    app.panel.get_by_text(going).first.wait_for(timeout=300_000)
    plain = app.wait_until_painted(app.thumbnail(0))
    app.picture("running")
    show = re.compile("Show its heatmaps so far|Show it in the grid")
    app.panel.get_by_role("button", name=show).click()
    wait_for(lambda: has_heat(app, plain), 90, "the grid shows the first heatmaps while it runs")
    app.picture("so_far")
    app.page.close()

    def ended():
        (row,) = inner("runs.background").list_of(dataset)
        return row["status"] != "running"

    wait_for(ended, 180, "it has ended", step=0.5)
    again = PanelApp(browser.new_page(), app._url, app._pictures)
    again.page.set_viewport_size({"width": 1700, "height": 1200})
    again.open_grid(dataset)
    said = again.panel.get_by_text("Compute class activation maps: resnet18 finished")
    icon = again.page.locator("img[src*='icon-dark.svg'], img[src*='icon-light.svg']").first

    def opened():  # the App may open the panel again by itself, which covers the button
        if not said.count():
            with contextlib.suppress(playwright.TimeoutError):
                icon.click(timeout=2000)
        return said.count()

    wait_for(opened, 90, "the panel says that it has finished", step=0.5)
    again.panel.get_by_text("96 samples explained in", exact=False).first.wait_for()
    again.picture("finished")
    again.panel.get_by_role("button", name="Show it in the grid").click()
    assert again.shown("resnet18_gradcam")
    again.panel.get_by_role("button", name="Dismiss").click()
    again.panel.get_by_text("96 samples explained in", exact=False).first.wait_for(state="detached")
    again.picture("dismissed")
    again.page.close()


def test_the_dialog_of_a_run_whose_dataset_is_deleted_says_so(app, make_dataset, photos, plugin):
    dataset = make_dataset(*(photo_sample(photo) for photo in photos * 4))
    app.open_grid(dataset)
    app.open_form()
    app.choose("Model", MODEL)
    app.form.get_by_text("1 heatmap field over 96 samples").wait_for()
    app.execute_button.click()
    app.progress.get_by_text(re.compile(r"^[1-9]\d* of 96")).wait_for(timeout=300_000)
    dataset.delete()
    app.progress.get_by_text(re.compile("^Failed: ")).wait_for(timeout=180_000)
    app.picture("deleted")
