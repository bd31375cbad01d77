"""Runs that others began: noticed by an open panel, and run in the background by clicking."""

import pytest
from operators_common import compute
from panel_app import PanelApp

from tools.app_driver import wait_for

pytestmark = [pytest.mark.app, pytest.mark.timeout(300)]

MODEL = "resnet18-imagenet-torch"


@pytest.fixture
def panel_app(app):
    app.page.set_viewport_size({"width": 1700, "height": 1200})
    return PanelApp(app.page, app._url, app._pictures)


def test_an_open_panel_notices_a_run_from_elsewhere_and_draws_nothing_else(
    panel_app, photo_dataset, plugin
):
    app, dataset = panel_app, photo_dataset(3)
    app.open_grid(dataset)
    app.open_panel("No heatmaps yet")
    compute(dataset, cam_key="elsewhere")  # in another process, as from another tab
    app.panel.get_by_text("elsewhere_gradcam").first.wait_for()
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

    wait_for(asked_twice, 60, "the panel asked twice whether something changed")
    assert app.page.evaluate("window.drawn") == 0
