"""What a user sees of a stored heatmap: pixels read off the App, in its grid and its large picture."""

import importlib

import fiftyone as fo
import numpy as np
import pytest
from operators_common import PLUGIN, operator
from panel_app import PanelApp
from PIL import Image
from playwright import sync_api as playwright

from cam_core.spatial.overlay import Look, overlay
from tools.app_driver import wait_for

pytestmark = pytest.mark.app

FIELD = "run_gradcam"
GREYS = (40, 128, 215)
VALUES = (0, 64, 128, 255)
WIDTH, HEIGHT = 400, 300


@pytest.fixture
def heatmaps(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.data.heatmap_writer")


@pytest.fixture
def colours(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.runs.app_style")


@pytest.fixture
def grey_dataset(make_dataset, heatmaps, tmp_path):
    """Grey photos, each under four columns of heat, stored as a run stores them."""
    return plain_dataset(make_dataset, heatmaps, tmp_path, [(grey,) * 3 for grey in GREYS])


def plain_dataset(make_dataset, heatmaps, folder, colours):
    """Photos of one colour each, under four columns of heat."""
    heat = np.repeat(np.array(VALUES) / 255, 48)[None].repeat(144, axis=0)
    assert heat.shape == heatmaps.heatmap_size(WIDTH, HEIGHT)
    samples = []
    for number, colour in enumerate(colours):
        path = folder / f"{number}.png"
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(path)
        label = heatmaps.make_label(
            heat, method="gradcam", layer="layer4", target="predicted", target_index=0,
            score=1.0, peak=1.0, status="ok", cam_key="run",
        )  # fmt: skip
        samples.append(fo.Sample(filepath=str(path), **{FIELD: label}))
    dataset = make_dataset()
    heatmaps.declare_schema(dataset, [FIELD])
    dataset.add_samples(samples, progress=False)
    return dataset


def column_colours(picture):
    """The mean colour in the middle of each column of heat, (4, 3)."""
    height, width = picture.shape[:2]
    rows = slice(int(height * 0.4), int(height * 0.6))
    columns = []
    for i in range(len(VALUES)):
        part = picture[rows, int(width * (i + 0.3) / 4) : int(width * (i + 0.7) / 4)].reshape(-1, 3)
        spread = part.max(0).astype(int) - part.min(0)
        assert (spread <= 2).all(), "one value is one colour"
        columns.append(part.mean(0))
    return np.array(columns)


def check_colours(picture, grey, colour, stored, opacity):
    """The photo under the field's colour, more of it where the heat is higher."""
    seen = column_colours(picture)
    assert np.abs(seen[0] - grey).max() <= 1, "without heat the photo is seen as it is"
    # seen = photo (1 - a) + colour a, solved for a over the three channels
    toward = colour - grey
    alphas = ((seen - grey) @ toward) / (toward @ toward)
    blended = grey + alphas[:, None] * toward
    assert np.abs(seen - blended).max() <= 2, "nothing but the photo and the field's colour"
    np.testing.assert_allclose(alphas, opacity * stored / 255, atol=0.02)
    assert (np.diff(alphas) > 0.2 * opacity).all(), "more heat is more colour"
    red, green, blue = seen[-1]
    assert red > green > blue, "hot is warm"


def fitted(picture):
    """The part of the modal that the photo fills."""
    height, width = picture.shape[:2]
    scale = min(width / WIDTH, height / HEIGHT)
    top, left = int(height - HEIGHT * scale) // 2, int(width - WIDTH * scale) // 2
    return picture[top : height - top, left : width - left]


def colour_of(fields):
    """The colour of our field, as numbers."""
    text = next(f["fieldColor"] for f in fields if f["path"] == FIELD)
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)], float)


THEIRS = {"path": "other", "fieldColor": "#00ff00"}


@pytest.mark.parametrize(
    ("scheme", "opacity"),
    [
        (None, 0.7),  # "fade" is chosen, with FiftyOne's own opacity
        (fo.ColorScheme(color_by="field", opacity=0.4, fields=[THEIRS]), 0.4),
    ],
    ids=["fade", "own-scheme"],
)
def test_heat_is_warm_and_fades_with_its_value(app, grey_dataset, colours, scheme, opacity):
    dataset = grey_dataset
    assert dataset.app_config.color_scheme is None
    if scheme is not None:
        dataset.app_config.color_scheme = scheme.copy()
        dataset.save()
    fields = colours.colour_fields(dataset, [FIELD])
    colours.activate_fields(dataset, [FIELD])
    if scheme is None:
        operator("set_heatmap_look")(dataset, ramp="fade")

    dataset.reload()
    config = dataset.app_config.color_scheme
    expected = scheme or fo.ColorScheme(color_by="field", opacity=0.7)
    for name in ("color_by", "opacity", "color_pool", "colorscales", "default_colorscale"):
        kept, wanted = getattr(config, name) or None, getattr(expected, name) or None
        assert kept == wanted, f"{name} is not ours to set"
    assert [f for f in config.fields if f["path"] != FIELD] == list(expected.fields or [])

    colour = colour_of(fields)
    stored = np.unique(dataset.first()[FIELD].map).astype(float)
    assert np.abs(stored - VALUES).max() <= 2

    app.open_grid(dataset)
    app.picture("grid")
    for index, grey in enumerate(GREYS):
        seen = app.wait_until_painted(app.thumbnail(index))
        check_colours(seen, grey, colour, stored, opacity)

    picture = app.open_sample(dataset, dataset.values("id")[1])
    seen = app.wait_until_painted(picture)
    app.picture("modal")
    check_colours(fitted(seen), GREYS[1], colour, stored, opacity)


# where the default colour, a red, is not to be seen: orange, magenta, brown
WARM = ((225, 70, 20), (190, 30, 90), (110, 60, 30))


def expected_columns(colour, stored, look):
    """What the plugin draws of four columns of heat over a colour."""
    photo = np.full((1, len(stored), 3), colour, np.uint8)
    return overlay(photo, stored[None] / 255, look)[0].astype(float)


def check_fire(picture, colour, stored, look):
    """What is hidden leaves the photo alone; what is not is far from it, each level its own way."""
    seen = column_colours(picture)
    hidden = stored < look.hide_below * 255
    assert np.abs(seen[hidden] - colour).max() <= 1, "below the threshold the photo is as it is"
    away = np.abs(seen[~hidden] - colour).max(1)
    assert (away > 30).all(), f"heat is seen on a warm photo: {away}"
    assert np.abs(seen - expected_columns(colour, stored, look)).max() <= 3, (
        "as the plugin draws it"
    )


def test_fire_is_read_on_warm_photos(app, make_dataset, heatmaps, colours, tmp_path):
    """The look of a first run, as it is when the App opens a dataset."""
    dataset = plain_dataset(make_dataset, heatmaps, tmp_path, WARM)
    colours.colour_fields(dataset, [FIELD])
    colours.activate_fields(dataset, [FIELD])
    stored, look = np.unique(dataset.first()[FIELD].map).astype(float), Look("fire", 0.7, 0.33)

    app.open_grid(dataset)
    wait_for(lambda: drawn_as(app, look, stored), 90, "the grid has the colours of fire")
    for index, colour in enumerate(WARM):
        check_fire(app.wait_until_painted(app.thumbnail(index)), colour, stored, look)
    app.picture("grid")

    picture = app.open_sample(dataset, dataset.values("id")[1])
    wait_for(
        lambda: drawn_as(app, look, stored, 1, fitted(app.wait_until_painted(picture))),
        90,
        "the sample has the colours of fire",
    )
    app.picture("modal")
    check_fire(fitted(app.wait_until_painted(picture)), WARM[1], stored, look)


def recorded(dataset):
    """Records what lies on a dataset as a finished run, so that the panel shows it."""
    record = importlib.import_module(f"{PLUGIN}.operators.runs.record")
    settings = {"methods": ["gradcam"], "model": "a model", "layers": ["layer4"]}
    record.register(dataset, "run", settings, [FIELD], dataset, heatmap_fields=[FIELD])
    record.update(dataset, "run", status="finished")
    dataset.reload()


def test_the_look_bar_changes_the_grid_at_once_and_for_good(
    app, make_dataset, heatmaps, colours, tmp_path
):
    dataset = plain_dataset(make_dataset, heatmaps, tmp_path, WARM)
    recorded(dataset)
    colours.colour_fields(dataset, [FIELD])
    colours.activate_fields(dataset, [FIELD])
    stored = np.unique(dataset.first()[FIELD].map).astype(float)
    panel = PanelApp(app.page, app._url, app._pictures)
    panel.open_grid(dataset)
    wait_for(lambda: drawn_as(app, Look("fire", 0.7, 0.33), stored), 90, "the grid is fire")
    panel.open_panel("The run")

    def choose(shown, wanted, look):
        panel.panel.get_by_role("combobox").filter(has_text=shown).click()
        app.page.get_by_role("option", name=wanted, exact=True).click()
        panel.panel.get_by_role("combobox").filter(has_text=wanted).wait_for()
        wait_for(lambda: drawn_as(app, look, stored), 90, f"the grid is drawn with {wanted}")

    choose("Fire", "Turbo", Look("turbo", 0.7, 0.33))
    choose("70 % opaque", "100 % opaque", Look("turbo", 1.0, 0.33))
    choose("hide below 33 %", "hide below 70 %", Look("turbo", 1.0, 0.7))
    app.picture("looked")
    app.page.close()

    # in another tab, and in an open sample
    again = PanelApp(app.page.context.new_page(), app._url, app._pictures)
    look = Look("turbo", 1.0, 0.7)
    again.open_grid(dataset)
    wait_for(lambda: drawn_as(again, look, stored), 90, "a new page is drawn alike")
    picture = again.open_sample(dataset, dataset.values("id")[1])
    wait_for(
        lambda: drawn_as(again, look, stored, 1, fitted(again.wait_until_painted(picture))),
        90,
        "the sample is drawn alike",
    )
    again.page.close()


def drawn_as(app, look, stored, index=0, picture=None):
    """Whether a picture, of the grid or another, has the colours of a look."""
    try:
        if picture is None:
            picture = app.wait_until_painted(app.thumbnail(index))
        seen = column_colours(picture)
    except (AssertionError, playwright.Error):
        return False  # it is being drawn
    return np.abs(seen - expected_columns(WARM[index], stored, look)).max() <= 3
