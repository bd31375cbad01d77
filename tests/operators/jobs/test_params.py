"""Tables of parameters: what a row gives, and how a form draws it."""

import importlib
import types as python_types

import fiftyone.operators as foo
import fiftyone.operators.types as types
import pytest
from operators_common import PLUGIN

pytestmark = pytest.mark.usefixtures("plugin")


def inner(name):
    foo.get_operator("@cam51/heatmaps/compute_cams")
    return importlib.import_module(f"{PLUGIN}.operators.{name}")


@pytest.fixture
def params():
    return inner("jobs.params")


@pytest.fixture
def table(params):
    """A row of each kind."""
    p = params
    return (
        p.Param("size", 8, p.Integer(2, 64), p.Field("Size", "in pixels", plain=True), decisive=True),
        p.Param("share", 0.5, p.Number(0, 1, "share"), p.Field("Share", plain=True)),
        p.Param("even", True, p.Boolean(), p.Field("Even", plain=True)),
        p.Param("mode", "fast", p.Choice({"fast": "Fast", "slow": "Slow"}), p.Field("Mode", plain=True)),
        p.Param("note", field=p.Field("Note", plain=True), decisive=("note", "note_check")),
        p.Param("names", kind=p.Texts(), field=p.Field("Names", plain=True)),
        p.Param("batch", "auto", p.Integer(), p.Field("Batch"), automatic=0, recorded=None),
        p.Param("labels", "auto", none="none", queued=str, check=lambda value: value),
        p.Param("code"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 1}, "size must be an integer between 2 and 64, got 1"),
        ({"size": True}, "size must be an integer between 2 and 64, got True"),
        ({"share": 1.5}, "share must be a share between 0 and 1, got 1.5"),
        ({"even": 1}, "even must be True or False, got 1"),
        ({"mode": "x"}, "mode: 'x' is unknown; choose from fast, slow"),
        ({"batch": 0}, "batch must be an integer of at least 1, got 0"),
    ],
)
def test_settings_are_checked(params, table, given, message):
    settings = params.settings(table)
    with pytest.raises(ValueError, match=f"^{message}$"):
        settings(**given)
    made = settings(share=0, batch=3, labels=None)
    assert (made.size, made.share, made.batch, made.labels) == (8, 0, 3, None)
    assert settings(5) == settings(size=5)


def test_the_record_has_what_is_not_of_one_call(params, table):
    made = params.settings(table)(batch=3, code=len, names=("a", {1: "b"}))
    assert made.describe() == {
        "size": 8, "share": 0.5, "even": True, "mode": "fast", "note": None, "names": ["a", {"1": "b"}],
        "labels": "auto", "code": "<builtins.len>",
    }  # fmt: skip
    assert params.decisive_names(table) == ["size", "note", "note_check"]
    assert params.labels_of(table[-3:]) == {"batch": "Batch"}


def test_there_and_back_through_a_queue(params, table):
    given = {"size": 4, "even": False, "note": None, "batch": "auto", "labels": None}
    sent = params.params_of(table, given, {"shown": "otherwise"})
    assert sent == {"size": 4, "even": False, "labels": "none", "shown": "otherwise"}
    assert params.arguments_of(table, sent) == {"size": 4, "even": False, "labels": None}
    filled = {"batch": 0, "note": "", "names": [], "size": 4}
    assert params.arguments_of(table, filled) == {"size": 4}
    with pytest.raises(ValueError, match="delegate: code cannot be sent to another process"):
        params.params_of(table, {"code": len})


def test_a_form_draws_rows(table):
    schema, inputs = inner("forms.schema"), types.Object()
    ctx = python_types.SimpleNamespace(params={"size": 1, "mode": "slow", "batch": 0})
    schema.add_plain(inputs, ctx, table, first=("mode",), without=("note",))
    schema.add(inputs, ctx, table, "batch", description="0 chooses")
    drawn = inputs.properties
    assert list(drawn) == ["mode", "size", "share", "even", "names", "batch"]
    assert drawn["size"].error_message == "size must be an integer between 2 and 64, got 1"
    assert [name for name, prop in drawn.items() if prop.invalid] == ["size"]
    size, batch = drawn["size"].type, drawn["batch"].type
    assert (size.int, size.min, size.max) == (True, 2, 64)
    assert (batch.min, drawn["batch"].default) == (0, 0)
    assert drawn["batch"].view.description == "0 chooses"
    assert [(c.value, c.label) for c in drawn["mode"].view.choices] == [
        ("fast", "Fast"),
        ("slow", "Slow"),
    ]
    assert (drawn["even"].default, drawn["share"].type.int) == (True, False)
    assert isinstance(drawn["names"].type, types.List)
