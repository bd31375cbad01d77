"""What a user sees of a stored heatmap: pixels read off the App, in its default colouring."""

import importlib

import fiftyone as fo
import numpy as np
import pytest
from operators_common import PLUGIN
from PIL import Image

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
    heat = np.repeat(np.array(VALUES) / 255, 48)[None].repeat(144, axis=0)
    assert heat.shape == heatmaps.heatmap_size(WIDTH, HEIGHT)
    samples = []
    for grey in GREYS:
        path = tmp_path / f"{grey}.png"
        Image.new("RGB", (WIDTH, HEIGHT), (grey,) * 3).save(path)
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
        (None, 0.7),  # FiftyOne's own
        (fo.ColorScheme(color_by="field", opacity=0.4, fields=[THEIRS]), 0.4),
    ],
    ids=["no-scheme", "own-scheme"],
)
def test_heat_is_warm_and_fades_with_its_value(app, grey_dataset, colours, scheme, opacity):
    dataset = grey_dataset
    assert dataset.app_config.color_scheme is None
    if scheme is not None:
        dataset.app_config.color_scheme = scheme.copy()
        dataset.save()
    fields = colours.colour_fields(dataset, [FIELD])
    colours.activate_fields(dataset, [FIELD])

    dataset.reload()
    config = dataset.app_config.color_scheme
    expected = scheme or fo.ColorScheme()
    for name in ("color_by", "opacity", "color_pool", "colorscales", "default_colorscale"):
        assert getattr(config, name) == getattr(expected, name), f"{name} is not ours to set"
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
