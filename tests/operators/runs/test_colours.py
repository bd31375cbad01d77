"""What the App is told about our fields, and that a user's own settings stay."""

import importlib
import types

import fiftyone as fo
import pytest
from operators_common import PLUGIN


@pytest.fixture(scope="module")
def colours(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.runs.app_style")


@pytest.fixture(scope="module")
def heatmaps(plugin):
    return importlib.import_module(f"{PLUGIN}.operators.data.heatmap_writer")


def test_new_scheme_says_nothing_but_our_colours(colours, dataset):
    assert dataset.app_config.color_scheme is None
    entries = colours.colour_fields(dataset, ["run_a", "run_b"])
    dataset.reload()
    scheme = dataset.app_config.color_scheme.to_dict()
    assert scheme.pop("fields") == entries
    assert {e["path"] for e in entries} == {"run_a", "run_b"}
    assert [e["path"] for e in scheme.pop("colorscales")] == ["run_a", "run_b"]
    assert (scheme.pop("color_by"), scheme.pop("opacity")) == ("value", 0.7)
    assert not any(value for name, value in scheme.items() if name != "_id")
    colours.forget_fields(dataset, ["run_a", "run_b"])
    scheme = dataset.app_config.color_scheme
    assert not scheme.fields
    assert not scheme.colorscales
    colours.look.put_back(dataset)
    assert dataset.app_config.color_scheme is None


def test_values_of_a_field_have_their_colours(colours, dataset):
    entries = colours.colour_values(dataset, "run_verdict", {"good": "#00ff00", "bad": "#ff0000"})
    (entry,) = entries
    assert entry["path"] == "run_verdict"
    assert {v["value"]: v["color"] for v in entry["valueColors"]} == {
        "good": "#00ff00",
        "bad": "#ff0000",
    }
    colours.forget_fields(dataset, ["run_verdict"])
    assert dataset.app_config.color_scheme is None


def test_a_persons_scheme_stays(colours, dataset):
    theirs = {
        "path": "ground_truth",
        "fieldColor": "#00ff00",
        "valueColors": [{"value": "cat", "color": "#0000ff"}],
    }
    dataset.app_config.color_scheme = fo.ColorScheme(
        color_by="value",
        opacity=0.4,
        color_pool=["#123456"],
        fields=[theirs],
        colorscales=[{"path": "x", "name": "hsv"}],
    )
    dataset.save()
    before = dataset.app_config.color_scheme.to_dict()
    colours.colour_fields(dataset, ["run_a"])
    colours.colour_fields(dataset, ["run_a", "run_b"])
    now = dataset.app_config.color_scheme.to_dict()
    assert [e["path"] for e in now.pop("fields")] == ["ground_truth", "run_a", "run_b"]
    assert now == {k: v for k, v in before.items() if k != "fields"}
    colours.forget_fields(dataset, ["run_a", "run_b"])
    assert dataset.app_config.color_scheme.to_dict() == before


def test_one_colour_per_method(colours, dataset):
    entries = colours.colour_fields(dataset, {"r_a_l1": "a", "r_a_l2": "a", "r_b_l1": "b"})
    one, same, other = (e["fieldColor"] for e in entries)
    assert one == same != other


def test_active_fields_join_the_defaults(colours, heatmaps, dataset):
    dataset.add_sample_field("truth", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    heatmaps.declare_schema(dataset, ["run_a", "run_b"])
    dataset.app_config.active_fields = fo.ActiveFields()  # an empty list means the defaults
    assert colours.activate_fields(dataset, ["run_a"]) == ["truth", "run_a"]
    assert colours.activate_fields(dataset, ["run_a"]) == ["truth", "run_a"]
    assert colours.activate_fields(dataset, ["run_b"], instead=["run_a"]) == ["truth", "run_b"]
    colours.forget_fields(dataset, ["run_b"])
    assert dataset.app_config.active_fields is None


def test_active_fields_that_list_what_is_hidden(colours, heatmaps, dataset):
    heatmaps.declare_schema(dataset, ["run_a", "run_b"])
    dataset.app_config.active_fields = fo.ActiveFields(exclude=True, paths=["run_a", "tags"])
    shown = colours.activate_fields(dataset, ["run_a"])
    assert dataset.app_config.active_fields.paths == ["tags"]
    assert "run_a" in shown
    assert "tags" not in shown
    shown = colours.activate_fields(dataset, ["run_b"], instead=["run_a"])
    assert "run_b" in shown
    assert "run_a" not in shown


def test_every_colour_is_warm_and_its_own(colours):
    assert len(set(colours._COLOURS)) == len(colours._COLOURS) >= 12
    for colour in colours._COLOURS:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert red == max(red, green, blue)
        assert red - blue > 60, colour


class Session:
    """As much of a session as is used."""

    def __init__(self, dataset, alive=True):
        self.dataset = dataset
        self.alive = alive
        self._scheme = fo.ColorScheme(
            color_by="value", fields=[{"path": "x", "fieldColor": "#00f"}]
        )

    @property
    def color_scheme(self):
        return self._scheme

    @color_scheme.setter
    def color_scheme(self, scheme):
        if not self.alive:
            raise RuntimeError("Client is not connected")
        self._scheme = scheme


def test_open_sessions_are_coloured_too(colours, dataset, make_dataset, monkeypatch):
    """Seen in the App: without this the heat of a run from Python is blue."""
    here, gone, away = Session(dataset), Session(dataset, alive=False), Session(make_dataset())
    idle = Session(None)
    sessions = types.SimpleNamespace(_subscribed_sessions={1: {here, gone}, 2: {away, idle}})
    monkeypatch.setattr(fo.core.session, "session", sessions)
    colours.colour_fields(dataset, ["run_a"])
    assert [e["path"] for e in here.color_scheme.fields] == ["x", "run_a"]
    assert here.color_scheme.color_by == "value"
    assert [e["path"] for e in away.color_scheme.fields] == ["x"]


def test_sessions_are_where_they_are_looked_for():
    """A private name of FiftyOne's: if it moves, this says so."""
    import fiftyone.core.session.session as sessions

    assert isinstance(sessions._subscribed_sessions, dict)
    assert fo.core.session.session is sessions
