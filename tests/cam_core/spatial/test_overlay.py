"""Heat over photos: pixels worked out by hand, and colours as other libraries have them."""

import numpy as np
import pytest

from cam_core.spatial.overlay import RAMPS, Look, heat_picture, overlay, scale_bar, stops

GREY = np.full((1, 4, 3), 100, np.uint8)
HEAT = np.array([[0, 0.3, 0.4, 1]])


def test_what_is_hidden_leaves_the_photo_as_it_is():
    drawn = overlay(GREY, HEAT, Look("fire", 0.7, 0.33))
    assert (drawn[0, :2] == 100).all()
    # the hottest: 0.3 * 100 + 0.7 * (255, 243, 184)
    assert drawn[0, 3].tolist() == [208, 200, 159]
    # 0.4 is a tenth of the way from 0.33 to 1, of eight steps four fifths of the first: 5a0012 to 8e0016
    red = 0x5A + (0x8E - 0x5A) * 8 * 0.07 / 0.67
    assert drawn[0, 2, 0] == pytest.approx(30 + 0.7 * red, abs=1)


def test_nothing_hidden_draws_all_but_zero():
    drawn = overlay(GREY, HEAT, Look("viridis", 1.0, 0))
    assert (drawn[0, 0] == 100).all()
    assert (drawn[0, 1:] != 100).any(-1).all()


def test_fade_is_one_colour_that_fades():
    drawn = overlay(GREY, HEAT, Look("fade", 0.5, 0.33)).astype(float)
    share = 0.5 * HEAT[0][:, None]
    np.testing.assert_allclose(
        drawn[0], 100 * (1 - share) + np.array([255, 61, 0]) * share, atol=0.51
    )


def test_heat_is_laid_over_the_whole_photo():
    heat = np.zeros((2, 2))
    heat[0, 1] = 1
    drawn = overlay(np.full((40, 60, 3), 9, np.uint8), heat, Look("fire", 1.0, 0.5))
    hot = (drawn != 9).any(-1)
    rows, columns = np.nonzero(hot)
    assert rows.max() < 20
    assert columns.min() >= 30
    assert hot[0, -1]


@pytest.mark.parametrize("name", ["inferno", "turbo", "viridis"])
def test_ramps_are_those_of_matplotlib(name):
    colormaps = pytest.importorskip("matplotlib").colormaps
    places = np.linspace(0, 1, 256)
    theirs = 255 * colormaps[name](places)[:, :3]
    at, colours = zip(*stops(name), strict=True)
    ours = np.stack([np.interp(places, at, c) for c in zip(*colours, strict=True)], -1)
    assert np.abs(ours - theirs).max() < 8


def test_fire_gets_lighter_all_the_way_and_is_seen_from_the_start():
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for _, (r, g, b) in stops("fire")]
    assert (np.diff(light) > 0).all()
    assert stops("fire")[0][1][0] >= 80


def test_scale_says_what_is_hidden():
    paper = (28, 28, 28)
    bar = scale_bar(420, Look("turbo", 0.7, 0.5), paper=paper)
    assert bar.shape == (22, 420, 3)
    line = bar[8].astype(int)
    turbo = np.array([colour for _, colour in stops("turbo")])
    coloured = [
        x for x in range(420) if np.abs(turbo - line[x]).sum(1).min() < 30 and np.ptp(line[x]) > 60
    ]
    whole = np.flatnonzero((bar[5] != paper).any(-1))  # the frame of the scale
    middle = (whole[0] + whole[-1]) / 2
    assert min(coloured) == pytest.approx(middle, abs=8), "the lower half is empty"


def test_heat_alone_is_opaque():
    drawn = heat_picture(np.ones((2, 2)), (4, 4), Look("fire", 0.1, 0.33))
    assert drawn[0, 0].tolist() == [255, 243, 184]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"ramp": "jet"},
            "ramp: 'jet' is unknown; choose from fade, fire, inferno, turbo, viridis",
        ),
        ({"opacity": 1.1}, "opacity must be a number from 0 to 1, got 1.1"),
        ({"opacity": "0.5"}, "opacity must be a number from 0 to 1, got '0.5'"),
        ({"hide_below": 1}, "hide_below must be a number from 0 to 0.95, got 1"),
        ({"hide_below": float("nan")}, "hide_below must be a number from 0 to 0.95, got nan"),
        ({"hide_below": True}, "hide_below must be a number from 0 to 0.95, got True"),
    ],
)
def test_wrong_values_are_named(given, said):
    with pytest.raises(ValueError) as caught:
        Look(**given)
    assert str(caught.value) == said


def test_every_ramp_draws():
    for ramp in RAMPS:
        assert (overlay(GREY, HEAT, Look(ramp))[0, 3] != 100).any()
