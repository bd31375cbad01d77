"""The panel by clicking: every tab, every click and what it does to the grid, and where it is empty."""

import collections
import re

import numpy as np
import panel_common
import pytest
from bias_common import BACKGROUND, agreeing, find, inner
from panel_app import COUNT, PanelApp
from panel_common import CLASSES, FIELDS, RELIES, make_run
from playwright import sync_api as playwright

from tools.app_driver import SEND, wait_for

pytestmark = [pytest.mark.app, pytest.mark.timeout(600)]


LISTED = (
    "Compute class activation maps", "Find background bias", "Compare heatmaps",
    "Test a region of the images",
)  # fmt: skip


@pytest.fixture
def panel_app(app):
    app.page.set_viewport_size({"width": 1700, "height": 1300})
    return PanelApp(app.page, app._url, app._pictures)


@pytest.fixture
def analysed(make_dataset, photos, plugin):
    """A dataset with a run that was analysed and compared; (dataset, ids, columns)."""
    dataset = make_dataset()
    ids, columns = make_run(dataset, [photo["path"] for photo in photos], COUNT)
    return dataset, ids, columns


def test_overview_and_bias(panel_app, analysed):
    app, (dataset, _, columns) = panel_app, analysed
    relies = columns["swap_drop"] >= 0.5
    app.open_grid(dataset)
    app.open_panel("The run")
    app.panel.get_by_text(
        f"On {relies.sum()} of the 160 images tested the score depends"
    ).wait_for()
    app.picture("see")
    # the one next thing to click
    app.panel.get_by_role("button", name="Look at the images that are right for the wrong").click()
    app.panel.get_by_text("What to look at first", exact=True).wait_for()
    app.panel.get_by_text("Right for the wrong reason", exact=True).wait_for()
    app.tab("See", "The run")
    portraits = app.panel.locator("img[alt='heatmaps of a class']")
    wait_for(lambda: portraits.count() == 6, 90, "a portrait of each of the most frequent classes")
    portraits.first.click()
    guesses = collections.Counter(dataset.values("net_prediction.label"))
    app.wait_for_samples(max(guesses.values()))
    app.reset()
    app.panel.get_by_role("button", name="Details of the run").click()
    app.page.get_by_role("cell", name="resnet18-imagenet-torch", exact=True).wait_for()

    app.tab("Test", "Verdicts")
    row = app.page.get_by_role("cell", name="relies on background", exact=True)
    row.click()
    app.wait_for_samples(int(relies.sum()))
    assert app.shown(FIELDS[0])
    assert app.shown("net_verdict")
    # the table is still about all of them
    app.page.get_by_role("cell", name=f"{(~relies).sum()}", exact=True).wait_for()
    app.reset()
    wait_for(lambda: app.bars(0).count() == len(CLASSES), 90, "a bar per class")
    app.picture("bias")
    app.hit(app.bars(0).nth(len(CLASSES) - 1))
    app.wait_for_samples(COUNT // len(CLASSES))
    app.page.get_by_text(CLASSES[0], exact=True).first.wait_for()
    assert app.bars(0).count() == len(CLASSES)
    app.picture("class")

    right = int((relies & columns["correct"]).sum())
    app.page.get_by_role("cell", name=f"{right}", exact=True).first.click()
    app.wait_for_samples(right)
    app.reset()

    app.panel.get_by_role("button", name="Can the heat be believed?").click()
    # the bar of the highest fifth of the calibration
    bins = app.page.locator(".js-plotly-plot").nth(2)
    bins.scroll_into_view_if_needed()
    expected = int((columns["suspicion"] >= 0.8).sum())
    app.hit(bins.locator(".points path").last)
    app.wait_for_samples(expected)
    app.page.get_by_text("What this cannot see", exact=True).scroll_into_view_if_needed()
    app.panel.get_by_text("inside the object's box", exact=False).wait_for()
    app.picture("calibration")

    points = app.page.locator(".js-plotly-plot").nth(1)
    points.scroll_into_view_if_needed()
    app.hit(points.locator(".scatterlayer .trace").last.locator("path.point").first)
    app.page.locator("[data-cy=modal]").wait_for()
    app.picture("point")


def test_it_fits_beside_the_grid_of_a_laptop(app, analysed):
    dataset, _, _ = analysed
    app.page.set_viewport_size({"width": 1400, "height": 900})
    app = PanelApp(app.page, app._url, app._pictures)
    app.open_grid(dataset)
    app.open_panel("The run")
    wide = """panel => [...panel.querySelectorAll("button, p, td")].filter(
        e => e.getBoundingClientRect().right > panel.getBoundingClientRect().right + 1
    ).map(e => e.textContent)"""
    for name, text in (
        ("See", "The run"),
        ("Test", "Score lost on other backgrounds, per class"),
        ("Compare", "Faithfulness"),
        ("Samples", "What to look at first"),
    ):
        app.tab(name, text)
        assert app.panel.evaluate(wide) == [], name
        app.picture(f"laptop_{name}")


def test_the_panel_acts_on_the_run_that_it_shows(panel_app, analysed):
    """Chosen, opened, deleted: selector, page, grid and dialog are about the same run."""
    app, (dataset, _, _) = panel_app, analysed
    record, later = inner("runs.record"), "later_gradcam"
    dataset.clone_sample_field(FIELDS[1], later)
    own = {"$set": {f"{later}.cam_key": "later"}}
    dataset._sample_collection.update_many({}, own)
    settings = {"model": "other"}
    record.register(dataset, "later", settings, [later], dataset, heatmap_fields=[later])
    record.update(dataset, "later", status="finished", started="2999-01-01T00:00:00+00:00")
    dataset.reload()
    app.open_grid(dataset)
    app.open_panel("The run")
    app.panel.get_by_text("later (finished)", exact=True).click()
    app.page.get_by_role("option", name="net (finished)").click()
    wait_for(lambda: app.shown(FIELDS[0]), 90, "the grid shows the chosen run's heatmaps")
    assert not app.shown(later)
    app.panel.get_by_text("On 70 of the 160 images tested", exact=False).wait_for()

    app.panel.get_by_text("net (finished)", exact=True).click()
    app.page.get_by_role("option", name="later (finished)").click()
    wait_for(lambda: app.shown(later), 90, "the grid shows the other run's")
    app.panel.get_by_text("Weakest evidence", exact=True).wait_for()
    app.panel.locator("img[alt='Open']").first.click()
    modal = app.page.locator("[data-cy=modal]")
    modal.wait_for()
    app.picture("sample")
    app.page.keyboard.press("Escape")
    modal.wait_for(state="detached")
    app.wait_for_samples(COUNT)
    assert app.shown(later)

    app.panel.get_by_role("button", name="More", exact=True).click()
    app.panel.get_by_role("button", name="Delete", exact=True).click()
    dialog = app.page.get_by_role("dialog").filter(has_text="Delete a CAM run")
    dialog.get_by_text("Deletes the run later", exact=True).wait_for()
    dialog.get_by_text("the fields later_gradcam", exact=False).wait_for()
    app.picture("delete")
    dialog.get_by_role("button", name=SEND).click()
    app.panel.get_by_text("net (finished)", exact=True).wait_for()
    assert app.panel.get_by_text("later (finished)", exact=True).count() == 0
    app.panel.get_by_text("On 70 of the 160 images tested", exact=False).wait_for()
    dataset.reload()
    assert not dataset.has_field(later)
    assert dataset.has_field(FIELDS[0])
    wait_for(lambda: app.shown(FIELDS[0]), 90, "the grid shows the run that is left")


def test_methods(panel_app, analysed):
    app, (dataset, _, _) = panel_app, analysed
    app.open_grid(dataset)
    app.open_panel("The run")
    app.tab("Compare", "Faithfulness")
    app.page.get_by_text("gradcam leads on both metrics").wait_for()
    app.picture("methods")
    app.page.get_by_role("cell", name="eigencam, layer4", exact=True).click()
    wait_for(lambda: app.shown(FIELDS[2]), 90, "the row's heatmaps are shown")
    assert not app.shown(FIELDS[0])

    # first row, third column: gradcam against eigencam
    matrix = app.page.locator(".js-plotly-plot .heatmaplayer").bounding_box()
    x, y = matrix["x"] + matrix["width"] * 5 / 6, matrix["y"] + matrix["height"] / 6
    app.point(x, y)
    app.wait_for_samples(7)
    wait_for(lambda: app.shown(FIELDS[0]) and app.shown(FIELDS[2]), 90, "both heatmaps are shown")
    assert not app.shown(FIELDS[1])
    app.picture("pair")


def test_clusters(panel_app, analysed):
    app, (dataset, _, columns) = panel_app, analysed
    relies = columns["swap_drop"] >= 0.5
    app.open_grid(dataset)
    app.open_panel("The run")
    app.tab("Test", "Shortcuts: where heatmaps look alike")
    strips = app.page.locator("img[alt^='heatmaps of cluster']")
    wait_for(lambda: strips.count() == 4, 90, "a strip per cluster")
    app.picture("clusters")
    strips.first.click()
    app.wait_for_samples(COUNT // len(CLASSES))

    shows = app.page.get_by_role("button", name="Show samples").first
    name = shows.locator("xpath=preceding::input[1]")
    name.fill("water behind the bird")
    name.blur()
    app.page.get_by_role("button", name="Accept as context").first.click()
    app.page.get_by_text("water behind the bird").first.wait_for()
    app.page.get_by_text("accepted as context").first.wait_for()
    app.picture("accepted")
    accepted = columns["kind"] == 0
    app.page.get_by_text(
        f"{accepted.sum()} samples accepted as context are left out", exact=False
    ).wait_for()
    app.page.get_by_role("cell", name="relies on background", exact=True).click()
    app.wait_for_samples(int((relies & ~accepted).sum()))


def test_samples_and_scale(panel_app, analysed):
    app, (dataset, _, _) = panel_app, analysed
    app.open_grid(dataset)
    app.open_panel("The run")
    before = app.wait_until_painted(app.thumbnail(7))
    app.panel.get_by_role("button", name="More", exact=True).click()
    app.page.get_by_text("Same scale for all samples", exact=True).wait_for()
    app.page.get_by_role("checkbox").last.scroll_into_view_if_needed()
    app.page.get_by_role("checkbox").last.click()

    def dimmed():
        dataset.reload()
        ranges = dataset.values(f"{FIELDS[0]}.range")
        return max(r[1] for r in ranges) > 300

    wait_for(dimmed, 90, "weak heatmaps have a wider range")

    def paler():
        try:
            after = app.wait_until_painted(app.thumbnail(7))
        except playwright.Error:
            return False  # the grid was drawn again meanwhile
        return after.shape == before.shape and np.abs(after.astype(int) - before).max() > 20

    wait_for(paler, 90, "the grid shows it")
    app.picture("scaled")

    app.tab("Samples", "What to look at first")
    app.picture("samples")
    app.page.get_by_role("button", name="Show the first 25 in the grid").click()
    app.wait_for_samples(25)
    app.panel.locator("img[alt='Open']").first.click()
    app.page.locator("[data-cy=modal]").wait_for()
    app.picture("sample")


def test_forms_start_filled_in(panel_app, analysed):
    app, (dataset, _, _) = panel_app, analysed
    app.open_grid(dataset)
    app.open_panel("The run")
    app.page.get_by_role("button", name="Find bias").click()
    form = app.page.get_by_role("dialog").filter(has_text="Find background bias")
    # the run of the panel is chosen, and the form says what is in the way
    form.get_by_text('was analysed already; switch on "Overwrite"').wait_for()
    app.picture("analyse")
    assert form.get_by_role("button", name=SEND).is_disabled()
    app.page.keyboard.press("Escape")
    app.page.get_by_role("button", name="Compute", exact=True).click()
    form = app.page.get_by_role("dialog").filter(has_text="Compute class activation maps")
    form.get_by_text("Model", exact=True).wait_for()
    app.picture("compute")


def test_one_button_and_a_short_list(panel_app, analysed):
    """Above the grid the plugin has its panel's button; the list has what people start."""
    app, (dataset, _, _) = panel_app, analysed
    app.open_grid(dataset)
    buttons = app.page.locator("[data-cy=fo-grid], [data-cy=header], body").last
    icons = ("local_fire_department", "wallpaper", "leaderboard", "highlight_alt")
    assert not [i for i in icons if buttons.get_by_text(i, exact=True).count()]
    assert app.page.locator("img[src*='icon-dark.svg'], img[src*='icon-light.svg']").count() == 1
    app.page.keyboard.press("`")
    browser = app.page.locator("[data-cy=operators-browser]")
    for label in LISTED:
        app.page.locator("[data-cy=operators-browser-search]").fill(label)
        browser.get_by_text(label, exact=True).first.wait_for()
    app.page.locator("[data-cy=operators-browser-search]").fill("heatmap")
    app.picture("browser")
    for label in ("Draft boxes from heatmaps", "Show heatmaps", "Rename a CAM run"):
        app.page.locator("[data-cy=operators-browser-search]").fill(label)
        assert not browser.get_by_text(label, exact=True).count()


def test_an_empty_dataset_says_what_to_do(panel_app, dataset, plugin):
    app = panel_app
    app.page.goto(f"{app._url}/datasets/{dataset.name}")
    # the App has no panels as long as there is nothing to show in them
    app.page.get_by_text("No samples yet", exact=True).wait_for()
    app.page.get_by_text("browse operations", exact=True).click()
    app.page.keyboard.type("Compute class")
    app.page.get_by_text("Compute class activation maps", exact=True).first.click()
    app.form.get_by_text("Model", exact=True).wait_for()
    app.choose("Model", "resnet18-imagenet-torch")
    app.form.get_by_text(re.compile("no samples|is empty", re.IGNORECASE)).first.wait_for()
    app.picture("empty")
    assert app.execute_button.is_disabled()


def test_without_runs_the_form_is_one_click_away(panel_app, photo_dataset, plugin):
    app, dataset = panel_app, photo_dataset(3)
    app.open_grid(dataset)
    app.open_panel("No heatmaps yet")
    app.picture("no_runs")
    app.page.get_by_role("button", name="Compute class activation maps").last.click()
    app.form.get_by_text("Model", exact=True).wait_for()


def test_a_real_run_and_what_is_missing(panel_app, make_dataset, tmp_path, plugin):
    app, dataset = panel_app, make_dataset(*agreeing(tmp_path, 48))
    summary = find(dataset, BACKGROUND)
    assert summary.verdicts == {RELIES: 48}
    app.open_grid(dataset)
    app.open_panel("The run")
    app.panel.get_by_text("On 48 of the 48 images tested the score depends").wait_for()
    app.tab("Test", "Score lost on other backgrounds, per class")
    app.hit(app.bars(0).last)
    app.wait_for_samples(24)
    app.tab("Compare", "The methods were not compared yet")
    app.picture("not_compared")
    app.tab("Test", "Shortcuts: where heatmaps look alike")
    app.page.locator("img[alt^='heatmaps of cluster']").first.wait_for()
    app.picture("clusters")


def test_labels_of_others_fetch_nothing(panel_app, make_dataset, photos, plugin, monkeypatch):
    """A class and a cluster whose names are pictures of another server, as Markdown and as HTML."""
    monkeypatch.setattr(panel_common, "CLASSES", panel_common.HOSTILE)
    dataset = make_dataset()
    make_run(dataset, [photo["path"] for photo in photos], COUNT)
    clusters, run = inner("panel.clusters_tab"), inner("runs.run").Run.open(dataset, "net")
    for number, name in enumerate(panel_common.HOSTILE[:3]):
        clusters.name_cluster(run, number, name)
    app, asked = panel_app, []
    app.page.on("request", lambda request: asked.append(request.url))
    app.open_grid(dataset)
    app.open_panel("The run")
    app.page.get_by_text(panel_common.HOSTILE[0]).first.wait_for()
    app.picture("see")
    app.tab("Test", "Score lost on other backgrounds, per class")
    wait_for(lambda: app.bars(0).count() == len(CLASSES), 90, "a bar per class")
    # long labels are shortened
    shown = app.page.locator(".js-plotly-plot").first.get_by_text(panel_common.HOSTILE[1][:14])
    shown.first.wait_for()
    app.picture("bias")
    app.hit(app.bars(0).nth(len(CLASSES) - 1))
    app.wait_for_samples(COUNT // len(CLASSES))
    app.reset()
    app.tab("Test", "Shortcuts: where heatmaps look alike")
    for name in panel_common.HOSTILE[:3]:
        # all of it reads so, though what looks like an address is a link there
        app.panel.locator("strong", has_text=name).first.wait_for()
    assert app.page.locator("img[src*='evil']").count() == 0
    app.picture("clusters")
    app.tab("Samples", "What to look at first")
    app.panel.get_by_text(panel_common.HOSTILE[0]).first.wait_for()
    app.picture("samples")
    assert asked
    assert not [url for url in asked if "evil" in url]
