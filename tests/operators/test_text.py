"""Errors of other people's code become valid, bounded text, and records of it stay writable."""

import pytest

from operators import text


class Unprintable(RuntimeError):
    def __str__(self):
        raise KeyError("state")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no entry \udcff in it"), "ValueError: no entry ? in it"),
        (ValueError("two\nlines   of it"), "ValueError: two lines of it"),
        (ValueError(), "ValueError: no message"),
        (ValueError("a" * 400), f"ValueError: {'a' * 288}"),
        (Unprintable(), "Unprintable: no message, as its text fails with KeyError"),
    ],
)
def test_one_line(error, expected):
    assert text.one_line(error) == expected
    text.one_line(error).encode("utf-8")


def test_what_is_recorded_can_be_written(plugin):
    import importlib

    from operators_common import PLUGIN

    record = importlib.import_module(f"{PLUGIN}.operators.runs.record")
    hostile = {"path\udc80": ["a\udcffb", float("nan"), Exception("\ud83d")]}
    assert record.jsonable(hostile) == {"path?": ["a?b", None, "?"]}
