"""How numbers become words: shares, intervals, counts, durations, errors; and how texts of others are drawn.

A label, a class, a key, a file's name may hold Markdown or HTML: ``![x](http://...)`` drawn as it is would be
a picture that every browser fetches that shows it. :func:`in_markdown` and :func:`in_chart` are what the App
is given.
"""

import html
import math
import re


def percent(value):
    """``0.873`` -> ``"87 %"``; a small share keeps a digit."""
    if value is None:
        return "unknown"
    return f"{100 * value:.1f} %" if 0 < abs(value) < 0.0995 else f"{100 * value:.0f} %"


def with_interval(interval, form=percent):
    """A mean with its 95 % interval and n, as text."""
    if interval["mean"] is None:
        return "unknown"
    # all values alike: resampled they have no spread, which says nothing of other samples
    if interval["low"] is None or interval["low"] == interval["high"]:
        return f"{form(interval['mean'])} (n = {interval['n']})"
    low, high = form(interval["low"]), form(interval["high"])
    return f"{form(interval['mean'])} ({low} to {high}, n = {interval['n']})"


def too_few(count, tests=1):
    """Whether a test by random signs cannot reach 5 %, however alike the samples are.

    Args:
        count: of samples
        tests (1): how many tests the p is adjusted for
    """
    return 2.0 ** (1 - count) * tests >= 0.05


def number(value):
    """A number of the 0..1 kind with two digits."""
    if value is None or not math.isfinite(value):
        return "unknown"
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text


def counted(count, nouns):
    """A number of things: ``counted(1, "samples")`` -> ``"1 sample"``."""
    return f"{count:,} {nouns.removesuffix('s') if count == 1 else nouns}"


def few(names, most=8):
    """Names with commas between; of many the first ones, and how many more there are."""
    shown = names if len(names) <= most else [*names[:most], f"{len(names) - most} more"]
    return ", ".join(shown)


def duration(seconds):
    """Seconds as text."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def about(seconds):
    """A duration that is an estimate: ``about 3 min``, to what it can mean."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 90:
        return f"about {5 * round(seconds / 5)} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    hours = seconds / 3600
    if hours < 48:
        return f"about {hours:.0f} h" if hours >= 10 else f"about {hours:.1f} h"
    return f"about {hours / 24:,.0f} days"


def change(value, of=""):
    """What replacing something does to a score: ``costs 0.12``, ``gains 0.07``.

    Args:
        value: what the score loses, negative where it grows
        of (""): what follows the number, such as ``" of the score"``
    """
    text = number(value)
    return f"gains {text[1:]}{of}" if text.startswith("-") else f"costs {text}{of}"


def one_line(error, most=300):
    """Returns ``Type: message`` of an exception, on one line, valid, and not too long."""
    return f"{type(error).__name__}: {message_of(error)}"[:most]


def message_of(error):
    """The message of an exception on one line; one whose own ``str()`` fails has none."""
    try:
        text = str(error)
    except Exception as failed:  # of a class that is not ours
        return f"no message, as its text fails with {type(failed).__name__}"
    return " ".join(valid_text(text).split()) or "no message"


def valid_text(text):
    """Replaces what UTF-8 cannot hold, such as half of a surrogate pair, by ``?``; the rest stays."""
    return text.encode("utf-8", "replace").decode("utf-8")


# what begins emphasis, code, links, pictures; underscores do between words only. An address of its own is
# not cut out of the text before the rest of it is read
_INLINE = re.compile(r"[\\`*\[\]~]|:(?=//)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_])")
# what begins a heading, a list or a line below a heading
_AT_START = re.compile(r"^(\d{1,9}(?=[.)](?: |$))|(?=(?:#{1,6}|[-+]|[-=]+)(?: |$)))")


def in_markdown(text):
    """A text as Markdown that is drawn as it reads: the one way in which texts of others get into it.

    Line breaks become spaces.

    Args:
        text: anything; None is nothing

    Returns:
        a string on one line
    """
    text = " ".join(valid_text("" if text is None else str(text)).split())
    text = _INLINE.sub(lambda match: "\\" + match.group(), text)
    text = _AT_START.sub(r"\1\\", text)
    return html.escape(text, quote=False)


def lines_in_markdown(text):
    """A text of several lines as Markdown, a paragraph for each."""
    return "\n\n".join(in_markdown(line) for line in str(text).splitlines())


def in_chart(text):
    """A text as Plotly takes it, which reads ``<a>`` and ``<br>`` in labels and beside points."""
    return html.escape(valid_text("" if text is None else str(text)), quote=False)


def of_chart(text):
    """The text that :func:`in_chart` made a label of."""
    return html.unescape(text)


def escape_labels(form):
    """Makes a form or panel draw its labels and descriptions as they read; FiftyOne draws them as Markdown.

    Args:
        form: a ``types.Property`` whose type is an object, made anew for this drawing

    Returns:
        the form
    """
    for prop in form.type.properties.values():
        view = prop.view
        if hasattr(prop.type, "properties"):
            escape_labels(prop)
        plain = type(view).__name__ in ("Button", "ProgressView")
        if view is None or hasattr(view, "on_click") or plain:
            continue  # what a button or a bar says is no Markdown
        for name in ("label", "description", "caption"):
            if isinstance(getattr(view, name, None), str):
                set_said(view, name, in_markdown(getattr(view, name)))
    return form


def set_said(view, name, text):
    """Sets what a view of FiftyOne says; its JSON is made from what it was built with as well."""
    setattr(view, name, text)
    if name in view._kwargs:
        view._kwargs[name] = text
