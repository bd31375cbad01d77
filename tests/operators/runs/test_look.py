"""The look of heatmaps: stored, kept, put back, and no number changed by it."""

import fiftyone as fo
import fiftyone.core.plots.plotly as fop
import numpy as np
import pytest
from bias_common import inner
from operators_common import compute, operator

from cam_core.spatial.overlay import stops

FIELD, OTHER = "run_gradcam", "run_layercam"
THEIRS = {"path": "truth", "fieldColor": "#00ff00"}

pytestmark = pytest.mark.usefixtures("plugin")


def ranges(dataset, field=FIELD):
    """The ranges as the database has them."""
    rows = dataset._sample_collection.find({}, {f"{field}.range": True})
    return [row[field]["range"] for row in rows]


def scheme(dataset):
    dataset.reload()
    found = dataset.app_config.color_scheme
    return None if found is None else {k: v for k, v in found.to_dict().items() if k != "_id"}


def scales(dataset):
    return {entry["path"]: entry.get("list") for entry in scheme(dataset)["colorscales"] or []}


def as_stops(ramp):
    return [{"value": value, "color": "rgb({}, {}, {})".format(*rgb)} for value, rgb in stops(ramp)]


def set_look(dataset, **values):
    return operator("set_heatmap_look")(dataset, **values)


def test_a_first_run_is_fire_and_everything_is_put_back_with_the_last(photo_dataset):
    dataset = photo_dataset(3)
    dataset.info["theirs"] = 1
    dataset.save()
    compute(dataset, methods=["gradcam", "layercam"])
    assert set(map(tuple, ranges(dataset))) == {(0.33 * 255, 255)}
    now = scheme(dataset)
    assert (now["color_by"], now["opacity"]) == ("value", 0.7)
    assert scales(dataset) == {FIELD: as_stops("fire"), OTHER: as_stops("fire")}
    look = inner("runs.look").look_of(dataset)
    assert (look.ramp, look.opacity, look.hide_below) == ("fire", 0.7, 0.33)

    compute(dataset, methods="gradcam", cam_key="second")
    assert set(scales(dataset)) == {FIELD, OTHER, "second_gradcam"}
    operator("delete_cam_run")(dataset, "run")
    assert scheme(dataset)["color_by"] == "value"
    assert set(scales(dataset)) == {"second_gradcam"}
    operator("delete_cam_run")(dataset, "second")
    assert scheme(dataset) is None
    assert dataset.info == {"theirs": 1}


def test_the_users_scheme_stays_until_asked_and_comes_back(photo_dataset):
    dataset = photo_dataset(2)
    dataset.app_config.color_scheme = fo.ColorScheme(
        color_by="instance",
        opacity=0.4,
        fields=[THEIRS],
        colorscales=[{"path": "x", "name": "hsv"}],
    )
    dataset.save()
    before = scheme(dataset)
    compute(dataset, methods="gradcam")
    now = scheme(dataset)
    assert [entry["path"] for entry in now.pop("fields")] == ["truth", FIELD]
    assert now == {k: v for k, v in before.items() if k != "fields"}
    assert set(map(tuple, ranges(dataset))) == {(0, 255)}, "nothing is hidden of colours that fade"

    assert set_look(dataset, ramp="turbo") == {"ramp": "turbo", "opacity": 0.4, "hide_below": 0.33}
    assert scales(dataset)[FIELD] == as_stops("turbo")
    assert scheme(dataset)["colorscales"][0] == {"path": "x", "name": "hsv"}
    set_look(dataset, ramp="own")
    assert [e["path"] for e in scheme(dataset)["fields"]] == ["truth", FIELD]
    assert {**scheme(dataset), "fields": None} == {**before, "fields": None}
    assert set(map(tuple, ranges(dataset))) == {(0, 255)}

    set_look(dataset, ramp="inferno", opacity=1.0, hide_below=0.5)
    operator("delete_cam_run")(dataset, "run")
    assert scheme(dataset) == before


def test_what_the_user_changed_since_then_stays(photo_dataset):
    dataset = photo_dataset(2)
    compute(dataset, methods="gradcam")
    dataset.reload()
    dataset.app_config.color_scheme.opacity = 0.2
    dataset.app_config.color_scheme.fields.append(THEIRS)
    dataset.save()
    operator("delete_cam_run")(dataset, "run")
    now = scheme(dataset)
    assert (now["color_by"], now["opacity"], now["fields"]) == (None, 0.2, [THEIRS])
    assert not now["colorscales"]


def test_a_scale_that_the_user_gave_to_a_heatmap_comes_back(photo_dataset):
    dataset, own = photo_dataset(2), {"path": FIELD, "name": "hot"}
    dataset.app_config.color_scheme = fo.ColorScheme(color_by="value", colorscales=[own])
    dataset.save()
    compute(dataset, methods="gradcam")
    set_look(dataset, ramp="turbo")
    set_look(dataset, ramp="fire")
    assert scales(dataset)[FIELD] == as_stops("fire")
    set_look(dataset, ramp="own")
    assert scheme(dataset)["colorscales"] == [own]
    assert inner("panel.look_bar").state_of(dataset)["ramp"] == "own"


def test_colours_that_the_user_chose_in_the_app_are_not_changed_by_an_opacity(photo_dataset):
    dataset = photo_dataset(2)
    compute(dataset, methods="gradcam")
    set_look(dataset, hide_below=0.5)
    dataset.reload()
    dataset.app_config.color_scheme.color_by = "field"
    dataset.save()
    assert set_look(dataset, opacity=0.3) == {"ramp": "fade", "opacity": 0.3, "hide_below": 0}
    assert scheme(dataset)["color_by"] == "field"
    assert set(map(tuple, ranges(dataset))) == {(0, 255)}, "and nothing of them is hidden"
    assert inner("panel.look_bar").state_of(dataset)["own"], "they can be taken away again"


def test_ranges_are_renewed_where_the_look_changed_while_a_run_wrote(photo_dataset, monkeypatch):
    dataset, look = photo_dataset(2), inner("runs.look")
    compute(dataset, methods="gradcam", cam_key="before")
    real, written = look._set_ranges, []
    monkeypatch.setattr(look, "_set_ranges", lambda *given: written.append(given) or real(*given))
    compute(dataset, methods="gradcam")
    assert written == [], "nothing is read again where nothing changed"
    look.renew_ranges(dataset, [FIELD], 0.5)
    assert [fields for _, fields, _ in written] == [[FIELD]]
    assert set(map(tuple, ranges(dataset))) == {(0.33 * 255, 255)}


def test_hiding_nothing_restores_the_ranges(photo_dataset):
    dataset = photo_dataset(2)
    compute(dataset, methods="gradcam")
    assert set_look(dataset, hide_below=0.5)["hide_below"] == 0.5
    assert set(map(tuple, ranges(dataset))) == {(127.5, 255)}
    # what is in memory is not another
    assert dataset.first()[FIELD].range == [127.5, 255]
    assert set_look(dataset, hide_below=0)["ramp"] == "fire"
    assert set(map(tuple, ranges(dataset))) == {(0, 255)}
    assert set_look(dataset, hide_below=0.2)["hide_below"] == 0.2
    assert set_look(dataset, ramp="fade") == {"ramp": "fade", "opacity": 0.7, "hide_below": 0}
    assert set(map(tuple, ranges(dataset))) == {(0, 255)}
    # it was not forgotten
    assert set_look(dataset, ramp="fire")["hide_below"] == 0.2


def test_hidden_heat_is_a_share_of_the_common_scale(photo_dataset):
    dataset = photo_dataset(3)
    compute(dataset, methods="gradcam")
    scale = operator("same_scale")(dataset, "run")[FIELD]
    tops = 255 * scale / np.array(dataset.values(f"{FIELD}.peak"))
    np.testing.assert_allclose(sorted(ranges(dataset)), sorted(zip(0.33 * tops, tops, strict=True)))
    set_look(dataset, hide_below=0.5)
    np.testing.assert_allclose(sorted(ranges(dataset)), sorted(zip(0.5 * tops, tops, strict=True)))
    operator("same_scale")(dataset, "run", on=False)
    assert set(map(tuple, ranges(dataset))) == {(127.5, 255)}


def test_a_range_is_no_scale_of_values(photo_dataset):
    """What reads stored heat reads the same whatever is hidden."""
    dataset = photo_dataset(2)
    compute(dataset, methods="gradcam")
    reader, masks = inner("data.heatmap_reader"), inner("data.object_masks")

    def read():
        label = dataset.first()[FIELD]
        parts, _ = masks.parts_of(label, lambda name: "object", 0.5)
        maps = reader.read_maps(dataset, dataset.values("id"), [FIELD])
        drawn = [part.draw(label.map.shape) for part in parts]
        return [label.map, reader.heat_of(label), *drawn, *(m[0] for m in maps.values())]

    set_look(dataset, hide_below=0)
    all_shown = read()
    set_look(dataset, hide_below=0.9)
    hidden = read()
    assert len(all_shown) == len(hidden) == 5
    for one, other in zip(all_shown, hidden, strict=True):
        np.testing.assert_array_equal(one, other)


def test_runs_that_go_on_or_are_replaced_keep_the_look(photo_dataset):
    dataset = photo_dataset(4)
    compute(dataset.limit(2), methods="gradcam")
    set_look(dataset, ramp="turbo", hide_below=0.5)
    compute(dataset, methods="gradcam", resume=True)
    assert ranges(dataset) == [[127.5, 255]] * 4
    compute(dataset, methods="layercam", overwrite=True)
    assert ranges(dataset, OTHER) == [[127.5, 255]] * 4
    assert scales(dataset) == {OTHER: as_stops("turbo")}


def test_renaming_keeps_the_colours(photo_dataset):
    dataset = photo_dataset(2)
    compute(dataset, methods="gradcam")
    colour = {e["path"]: e["fieldColor"] for e in scheme(dataset)["fields"]}[FIELD]
    operator("rename_cam_run")(dataset, "run", "other")
    assert scales(dataset) == {"other_gradcam": as_stops("fire")}
    assert {e["path"]: e["fieldColor"] for e in scheme(dataset)["fields"]}[
        "other_gradcam"
    ] == colour


def test_maps_of_single_samples_have_the_look_too(photo_dataset):
    from operators_common import CLASSES, small_network, transforms

    dataset = photo_dataset(2)
    found = operator("explain_sample")(
        dataset, dataset.first().id, model=small_network(), transforms=transforms(), classes=CLASSES
    )
    assert set(scales(dataset)) == set(found.fields)
    shown = [field for field in found.fields if dataset.first()[field].map is not None]
    assert shown
    for field in shown:
        assert dataset.first()[field].range == [0.33 * 255, 255]


def test_what_the_app_is_sent(photo_dataset):
    dataset = photo_dataset(2)
    look = inner("runs.look")
    assert look.scheme_of(dataset) == {"fields": []}
    compute(dataset, methods="gradcam")
    sent = look.scheme_of(dataset)
    assert (sent["color_by"], sent["opacity"]) == ("value", 0.7)
    assert [entry["path"] for entry in sent["fields"]] == [FIELD]
    (scale,) = sent["colorscales"]
    assert scale == {"path": FIELD, "name": None, "list": as_stops("fire")}
    # what the App's server makes of it is what the plugin draws
    rgb = fop.get_colormap([[stop["value"], stop["color"]] for stop in scale["list"]])
    table = inner("runs.look").stops("fire")
    assert rgb[0] == table[0][1]
    assert rgb[-1] == table[-1][1]
    assert np.abs(np.array(rgb[128]) - table[4][1]).max() <= 2


def test_something_that_is_no_look_is_not_taken_for_one(photo_dataset):
    dataset = photo_dataset(1)
    for entry in ("x", {"ramp": "jet"}, {"ramp": "fire", "opacity": 0.7, "hide_below": 0.3}):
        dataset.info["cam51_look"] = entry
        dataset.save()
        assert not inner("runs.look").is_set(dataset)
        assert inner("runs.look").look_of(dataset).ramp == "fade"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ramp": "jet"}, "ramp: 'jet' is unknown; choose from"),
        ({"opacity": 2}, "opacity must be a number from 0 to 1, got 2"),
        ({"hide_below": 1}, "hide_below must be a number from 0 to 0.95, got 1"),
        ({"ramp": "fade", "hide_below": 0.3}, "hide_below: has no effect with ramp='fade'"),
        ({"ramp": "own", "opacity": 0.3}, "leave opacity and hide_below out"),
    ],
)
def test_wrong_values_change_nothing(photo_dataset, values, said):
    dataset = photo_dataset(1)
    before = scheme(dataset), dict(dataset.info)
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        set_look(dataset, **values)
    assert (scheme(dataset), dict(dataset.info)) == before
