"""Errors of other people's code become valid, bounded text, and records of it stay writable."""

import html
import re

import hypothesis
import hypothesis.strategies
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


HOSTILE = [
    "![x](http://evil.example/x.png)", "<img src=http://evil.example/x.png>", "<a href='http://evil.example'>b</a>",
    "[a](http://evil.example)", "[a]: http://evil.example", "<http://evil.example>", "# head", "- item", "1. first",
    "1) first", "> said", "```\ncode\n```", "    code", "`code`", "**bold** __bold__ _a_ *b*", "~~gone~~",
    "a\n===", "***",
    "a | b\n--|--\n1 | 2", "&lt;img&gt; &amp; &#33;", "\\![x](http://evil.example)", "<!-- a",
    "<script>alert(1)</script>",
    "run_gradcam_layer4 of a_b", "plain text, 95 % (n = 3)", "two\n\nparagraphs", "", None, 7,
]  # fmt: skip


def as_read(text):
    """What somebody reads of a text: without line breaks."""
    return " ".join(("" if text is None else str(text)).encode("utf-8", "replace").decode().split())


def drawn(markdown):
    """What a renderer that is not ours makes of it: the tags, and the text."""
    renderer = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True})
    page = renderer.enable(["strikethrough", "table"]).render(markdown).strip()
    return re.findall(r"<[^>]*>", page), html.unescape(re.sub(r"<[^>]*>", "", page))


@pytest.mark.parametrize("given", HOSTILE)
def test_a_text_in_markdown_is_drawn_as_it_reads(given):
    tags, said = drawn(text.in_markdown(given))
    assert set(tags) <= {"<p>", "</p>"}
    assert said == as_read(given)
    tags, said = drawn(f"**{text.in_markdown(f'a{given}')}** and {text.in_markdown(given)}.")
    assert set(tags) <= {"<p>", "</p>", "<strong>", "</strong>"}
    if as_read(given) and "*" not in str(given):
        assert said == f"{as_read(f'a{given}')} and {as_read(given)}."
    tags, said = drawn(text.lines_in_markdown(f"one\n{as_read(given)}\ntwo"))
    assert set(tags) <= {"<p>", "</p>"}


@hypothesis.given(
    hypothesis.strategies.text(alphabet="ab1 \n\t!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~é", max_size=40)
)
@hypothesis.settings(deadline=None, max_examples=500)
def test_any_text_in_markdown_is_drawn_as_it_reads(given):
    tags, said = drawn(text.in_markdown(given))
    assert set(tags) <= {"<p>", "</p>"}
    assert said == as_read(given)


@pytest.mark.parametrize("given", [str(one) for one in HOSTILE])
def test_a_text_in_a_chart_has_no_tags(given):
    """Plotly reads tags and entities, as HTML does."""
    shown = text.in_chart(given)
    assert "<" not in shown
    assert html.unescape(shown) == given == text.of_chart(shown)


def test_the_labels_of_a_form_are_drawn_as_they_read():
    import fiftyone.operators.types as types

    inputs = types.Object()
    inputs.view("notice", types.Notice(label=HOSTILE[0], description=HOSTILE[1]))
    inputs.str(
        "name",
        label=HOSTILE[0],
        description=HOSTILE[2],
        view=types.TextFieldView(caption=HOSTILE[1]),
    )
    menu = inputs.menu("menu")
    menu.btn("go", label="Go_ on", on_click="go")
    menu.view("inner", types.HeaderView(label=HOSTILE[1]))
    form = text.escape_labels(types.Property(inputs, view=types.View(label="Form"))).to_json()
    views = form["type"]["properties"]
    for view in (views["notice"]["view"], views["name"]["view"]):
        for name in ("label", "description", "caption"):
            if view[name] is not None:
                assert not set(drawn(view[name])[0]) - {"<p>", "</p>"}
    inner = views["menu"]["type"]["properties"]
    assert inner["go"]["view"]["label"] == "Go_ on"
    assert drawn(inner["inner"]["view"]["label"]) == (["<p>", "</p>"], HOSTILE[1])
