"""Makes the pictures of the README and the docs again: ``python tools/make_pictures.py``.

The App runs in a headless browser on the demo's photos. The heatmaps are those of EfficientNet-Lite0
with its real weights; the form names a ResNet-18 with random ones, and nothing is computed with it.
The database is one of its own and is dropped at the end: a user's datasets are not touched.
"""

import argparse
import io
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# run as a file, Python puts tools/ on the path; the packages lie beside it
sys.path.insert(0, str(ROOT))

from playwright import sync_api as playwright  # noqa: E402

from examples import dataset as demo_data  # noqa: E402
from examples import lite0  # noqa: E402
from tools.app_driver import App, app_server, browser_context, plant_resnet18  # noqa: E402

METHODS = ["gradcam", "layercam", "eigencam", "ablationcam", "randomcam"]
MOST_BYTES = 300_000
# not the name that the demo gives its dataset: making pictures replaces the dataset of this name
NAME = "cam51-pictures"


def main():
    """Makes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--only", nargs="*", help="some of large, profile, wide, sample")
    parser.add_argument("--subject", default="bison", help="of the photo that is opened")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cam51-pictures-", ignore_cleanup_errors=True) as home:
        make(Path(home), options)


def make(home, options):
    """Makes all pictures, in temporary folders."""
    (home / "plugins").mkdir()
    (home / "plugins" / "heatmaps").symlink_to(ROOT, target_is_directory=True)
    os.environ.update(
        FIFTYONE_PLUGINS_DIR=str(home / "plugins"),
        FIFTYONE_DEFAULT_DATASET_DIR=str(home / "datasets"),
        FIFTYONE_DATABASE_NAME="cam51-pictures",
        FIFTYONE_DATABASE_VALIDATION="false",
        FIFTYONE_DO_NOT_TRACK="1",
    )
    import fiftyone as fo
    import fiftyone.operators as foo

    dataset = demo_data.demo_dataset(NAME, persistent=False)
    operators = {
        name: foo.get_operator(f"@cam51/heatmaps/{name}")
        for name in (
            "compute_cams",
            "find_background_bias",
            "compare_cams",
            "register_model",
            "remove_model",
            "get_cam_run_info",
        )
    }
    model = lite0.lite0_model()
    print(operators["compute_cams"](dataset, model=model, methods=METHODS, cam_key="lite0"))
    used = operators["get_cam_run_info"](dataset, "lite0").settings["model"]
    # so that the App's server can ask it
    operators["register_model"](used, "examples.lite0:lite0_model", overwrite=True)
    print(operators["find_background_bias"](dataset, "lite0", model, labels="imagenet_names"))
    measures = ["insertion", "road", "average_drop"]
    print(operators["compare_cams"](dataset, "lite0", model, metrics=measures, budget="4 min"))
    # the values of the others are not for a picture: a path is among them
    dataset.reload()
    for group in dataset.app_config.sidebar_groups:
        group.expanded = group.name in ("labels", "lite0_heatmaps")
    dataset.save()
    failed = []
    try:
        weights = plant_resnet18(home / "zoo")
        with app_server(home / "server.log", {**weights, "PYTHONPATH": str(ROOT)}) as url:
            # before the panel: the server keeps open what was opened beside the grid
            for name, size, scale, draw in (
                ("large", (1400, 1250), 2, form),
                ("profile", (1400, 900), 1, photos),
                ("wide", (1750, 1150), 1, panel),
                ("sample", (1600, 1000), 1, sample),
            ):
                if options.only and name not in options.only:
                    continue
                try:
                    with browser_context(home / name, size=size, scale=scale) as context:
                        app = App(context.new_page(), url)
                        for picture, png in draw(app, dataset, options.subject):
                            save(options.out / f"{picture}.jpg", png)
                # the others take ten minutes to come as far again
                except (playwright.Error, AssertionError) as error:
                    failed.append(f"{name}: {error}")
    finally:
        operators["remove_model"](used)
        fo.core.odm.drop_database()
    if failed:
        raise SystemExit("\n".join(failed))


def photos(app, dataset, subject):
    """The grid, and one photo, large; yields (name, picture)."""
    yield "grid", grid(app, dataset)
    yield "modal", modal(app, dataset, subject)
    # the server would show it open to the next browser too
    app.page.keyboard.press("Escape")
    app.page.locator("[data-cy=modal]").wait_for(state="detached")


def grid(app, dataset):
    """The grid with the first method's heat."""
    app.open_grid(dataset)
    for index in range(12):
        app.wait_until_painted(app.thumbnail(index))
    app.page.mouse.move(700, 20)
    return app.page.screenshot()


def panel(app, dataset, subject):
    """The panel beside the grid; yields (name, picture) of two of its tabs."""
    app.open_grid(dataset)
    app.page.locator("img[src*='icon-dark.svg']").first.click()
    app.page.get_by_text("The run", exact=True).wait_for()
    for index in range(4):
        app.wait_until_painted(app.thumbnail(index))
    app.page.mouse.move(700, 20)
    yield "panel", app.page.screenshot()
    content = app.page.locator("[data-cy=panel-content-cam_panel]")
    content.get_by_role("button", name="Compare", exact=True).click()
    app.page.locator(".js-plotly-plot .heatmaplayer").wait_for()
    app.page.mouse.move(700, 20)
    app.wait_until_painted(app.thumbnail(0))
    yield "methods", app.page.screenshot()


def modal(app, dataset, subject):
    """One photo, large."""
    sample = next(s for s in dataset if subject in (s["subject"], *s["imagenet_names"]))
    picture = app.open_sample(dataset, sample.id)
    # the sidebar moves what is folded away out of the window
    path = app.page.get_by_text(sample.filepath).bounding_box()
    assert path is None or path["x"] < 0, "the picture would show a path"
    app.page.mouse.move(700, 20)
    app.wait_until_painted(picture)
    return app.page.screenshot()


def sample(app, dataset, subject):
    """The panel beside a photo; yields (name, picture) of its maps and of two trials."""
    index = next(
        i for i, s in enumerate(dataset) if subject in (s["subject"], *s["imagenet_names"])
    )
    app.open_grid(dataset)
    app.thumbnail(index).click()
    window = app.page.locator("[data-cy=modal]")
    window.get_by_text("psychology_alt", exact=True).click()
    panel = app.page.locator("[data-cy=panel-content-cam_sample_panel]")
    panel.get_by_text("agreement is with this one").wait_for()
    window.locator("[title='Split horizontally']").click()
    app.wait_until_painted(window.locator("[data-cy=modal-looker-container] canvas").first)
    panel.get_by_text("agreement 0").first.wait_for()
    yield "sample", window.screenshot()
    panel.get_by_role("button", name="What if", exact=True).click()
    for number, region in enumerate(("The border", "The object")):
        if number:
            panel.get_by_text("The border", exact=True).click()
        else:
            panel.get_by_text("The hottest tenth", exact=True).click()
        app.page.get_by_role("option", name=region, exact=True).click()
        panel.get_by_role("button", name="Ask", exact=True).click()
        panel.get_by_text("after:").nth(number).wait_for(timeout=120_000)
    yield "what_if", panel.screenshot()


def form(app, dataset, subject):
    """The form, filled in; yields (name, picture)."""
    app.open_grid(dataset)
    app.open_form()
    app.choose("Model", "resnet18-imagenet-torch")
    app.form.get_by_text("1 heatmap field over").wait_for()
    app.form.get_by_text("My choice", exact=True).click()
    app.choose("Which methods", "layercam")
    app.form.get_by_text("2 heatmap fields over").wait_for()
    app.form.locator("code").wait_for()
    app.form.get_by_text("Key", exact=True).click()  # closes the list of methods
    yield "form", app.form.screenshot(animations="disabled")


def save(path, png):
    """Writes a screenshot as a JPEG of at most 300 kB."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    for quality in (85, 80, 75, 70, 60):
        image.save(path, quality=quality, optimize=True, progressive=True)
        if path.stat().st_size < MOST_BYTES:
            break
    print(f"{path}: {image.width} x {image.height}, {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
