"""Tables of parameters: what a row gives, and how a form draws it."""

import importlib
import re
import types as python_types
from pathlib import Path

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
        ({"batch": 0}, "batch must be an integer between 1 and 1000000000, got 0"),
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


@pytest.fixture
def numbers(params):
    """``(operator, row)`` of every number that an operator takes."""
    tables = {
        "compute_cams": inner("compute.params").ARGUMENTS,
        "find_background_bias": inner("bias.params").ARGUMENTS,
        "test_region": inner("bias.params").REGION_ARGUMENTS,
        "compare_cams": inner("compare.params").ARGUMENTS,
        "explain_sample": inner("sample.params").PARAMS,
    }
    kinds = (params.Integer, params.Number)
    rows = [(o, p) for o, table in tables.items() for p in table if isinstance(p.kind, kinds)]
    assert {p.name for _, p in rows} >= {"batch_size", "num_workers", "seed", "probe", "feather"}
    return rows


@pytest.mark.parametrize("value", [10**30, -(10**30), float("nan"), float("inf"), "7", [1]])
def test_a_number_out_of_its_range_is_refused(numbers, value):
    for _, row in numbers:
        with pytest.raises(ValueError, match=f"^{row.name} must be "):
            row.checked(value)


def test_the_ranges_of_numbers_are_those_of_the_docs(numbers):
    page = (Path(__file__).resolve().parents[3] / "docs" / "operators.md").read_text()
    page = page.partition("## Ranges of numbers")[2].partition("## `compute_cams`")[0]
    said = dict(re.findall(r"^\| `(\w+)` \| ([^|]+ \| [^|]+) \|$", page, re.MULTILINE))
    for operator, row in numbers:
        low, _, high = said[row.name].partition(" | ")
        general, _, special = low.partition(f", of `{operator}` ")
        edges = [(special or general).partition(",")[0], high]
        named = {"2^63 - 1": 2**63 - 1, "-2^63": -(2**63)}
        found = [re.sub("^(above|below) ", "", edge.strip()) for edge in edges]
        limits = [named[edge] if edge in named else int(edge) for edge in found]
        assert limits == [row.kind.low, row.kind.high], row.name


def test_a_number_out_of_its_range_is_refused_by_the_form(params, table):
    """Also one that a browser would not let through: a request need not come from one."""
    schema = inner("forms.schema")
    inputs = types.Object()
    ctx = python_types.SimpleNamespace(params={"batch": 10**12})
    assert schema.add(inputs, ctx, table, "batch").invalid
