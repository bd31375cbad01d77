"""The panel's charts: Plotly traces and layouts that are readable in both themes."""

from ..text import in_chart

WARM, COOL, GREY = "#ff6d04", "#4dabf5", "#8d8d8d"
#: of the charts' own buttons nothing is needed
CONFIG = {"displayModeBar": False}
# characters of a class on an axis: a narrow panel has no room for more
_LONGEST = 22
# of the App's own, grey on grey, neither theme makes a readable one
_HOVER = {"bgcolor": "#1b1b1b", "bordercolor": "#8d8d8d", "font": {"color": "#ffffff", "size": 13}}


def bars_chart(rows, unit="samples"):
    """Score lost per class with its interval, the most dependent class on top.

    Args:
        rows: of :func:`class_bars`
        unit ("samples"): what was tested, ``"objects"`` of a detector
    """
    rows = rows[::-1]
    over = [max(0.0, _or(r["high"], r["mean"]) - r["mean"]) for r in rows]
    under = [max(0.0, r["mean"] - _or(r["low"], r["mean"])) for r in rows]
    text = [
        f"{in_chart(r['label'])}: {r['mean']:.2f} of the score lost beyond pasting (bg_gap)"
        + (f"<br>95 % interval {r['low']:.2f} to {r['high']:.2f}" if r["low"] is not None else "")
        + f"<br>{r['n']:,} tested {unit}"
        + ("<br>too few, or with too low scores, to judge" if r["few"] else "")
        for r in rows
    ]
    colours = [WARM if r["flagged"] else GREY if r["few"] else COOL for r in rows]
    return [
        {
            "type": "bar", "orientation": "h", "y": [in_chart(r["label"]) for r in rows],
            "x": [r["mean"] for r in rows], "marker": {"color": colours}, "hovertext": text,
            "hoverinfo": "text", "name": "classes",
            "error_x": {
                "type": "data", "array": over, "arrayminus": under, "color": "#bdbdbd", "thickness": 1.2,
                "width": 3,
            },
        }
    ]  # fmt: skip


def _or(value, other):
    return other if value is None else value


def bars_layout(labels):
    """Layout of :func:`bars_chart`.

    Args:
        labels: of the classes that are shown; long ones are cut on the axis, not under the mouse
    """
    texts = [label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…" for label in labels]
    longest = max(map(len, texts), default=8)
    return {
        "hoverlabel": _HOVER,
        "xaxis": {"title": {"text": "score lost on other backgrounds"}, "rangemode": "tozero"},
        "yaxis": {
            "type": "category", "ticksuffix": " ", "tickfont": {"size": 12}, "tickmode": "array",
            "tickvals": list(map(in_chart, labels)), "ticktext": list(map(in_chart, texts)),
        },
        "margin": {"l": 20 + 7 * longest, "r": 16, "t": 8, "b": 46},
        "bargap": 0.35,
        "height": bars_height(len(labels)),
    }  # fmt: skip


def bars_height(count):
    """Pixels of a chart with so many bars."""
    return 80 + 26 * max(3, count)


def heat_chart(points):
    """Heat on the object against the object's area, and the line of a map that knows nothing."""
    traces = [
        {
            "type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "uniform map",
            "line": {"color": GREY, "dash": "dash", "width": 1.5}, "hoverinfo": "skip",
        }
    ]  # fmt: skip
    # the last lies on top
    groups = {
        "undecided": ("undecided", GREY),
        "object": ("rests on object", COOL),
        "background": ("rests on background", WARM),
    }
    for group, (name, colour) in groups.items():
        rows = [i for i, rests in enumerate(points["rests"]) if rests == group]
        traces.append(
            {
                "type": "scattergl" if len(rows) > 1000 else "scatter", "mode": "markers",
                "name": name, "marker": {"color": colour, "size": 6, "opacity": 0.75},
                "x": [points["area"][i] for i in rows], "y": [points["energy"][i] for i in rows],
                "ids": [points["ids"][i] for i in rows], "hovertext": [points["text"][i] for i in rows],
                "hovertemplate": "%{hovertext}<br>object %{x:.0%} of the image, "
                "%{y:.0%} of the heat<extra></extra>",
            }
        )  # fmt: skip
    return traces


def heat_layout():
    """Layout of :func:`heat_chart`."""
    return {
        "hoverlabel": _HOVER,
        "xaxis": {"title": {"text": "object's share of the image"}, "range": [0, 1], "tickformat": ".0%"},
        "yaxis": {"title": {"text": "heat on the object"}, "range": [0, 1.02], "tickformat": ".0%",
                  "ticksuffix": " "},
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.14, "bgcolor": "rgba(0,0,0,0)"},
        "margin": {"l": 64, "r": 16, "t": 34, "b": 46},
        "height": 380,
    }  # fmt: skip


def calibration_chart(bins):
    """What the heat suggests against what the swap confirms, per fifth of the scale."""
    names = [f"{100 * b['low']:.0f}–{100 * b['high']:.0f} %" for b in bins]
    return [
        {
            "type": "bar", "name": "confirmed", "x": names, "y": [b["confirmed"] for b in bins],
            "marker": {"color": WARM}, "hoverinfo": "text",
            "hovertext": [
                f"{b['n']:,} tested samples<br>the heat expects {b['expected']:.0%}, the swap confirms "
                f"{b['confirmed']:.0%}"
                for b in bins
            ],
        },
        {
            "type": "scatter", "mode": "markers", "name": "expected from the heat", "x": names,
            "y": [b["expected"] for b in bins], "hoverinfo": "skip",
            "marker": {"symbol": "line-ew-open", "size": 26, "color": "#e0e0e0", "line": {"width": 2.5}},
        },
    ]  # fmt: skip


def calibration_layout():
    """Layout of :func:`calibration_chart`."""
    return {
        "hoverlabel": _HOVER,
        "xaxis": {"title": {"text": "chance of dependence by the heat alone"}, "type": "category"},
        "yaxis": {"title": {"text": "rests on background"}, "range": [0, 1.05], "tickformat": ".0%",
                  "ticksuffix": " "},
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.16, "bgcolor": "rgba(0,0,0,0)"},
        "margin": {"l": 64, "r": 16, "t": 34, "b": 46},
        "bargap": 0.4,
        "height": 320,
    }  # fmt: skip


def agreement_chart(matrix, name):
    """How far every two methods agree; the numbers are written into the cells."""
    values = matrix["values"][::-1]
    labels = matrix["labels"]
    return [
        {
            "type": "heatmap", "x": labels, "y": labels[::-1], "z": values, "zmin": 0, "zmax": 1,
            "colorscale": [[0, "#2b2b2b"], [0.5, "#9a4a12"], [1, "#ff8a3d"]], "name": "agreement",
            "text": [["" if v is None else f"{v:.2f}" for v in row] for row in values],
            "texttemplate": "%{text}", "textfont": {"color": "#ffffff", "size": 12}, "showscale": False,
            "xgap": 2, "ygap": 2,
            "hovertemplate": name + "<br>%{y} and %{x}: %{text}<extra></extra>",
        }
    ]  # fmt: skip


def agreement_layout(matrix):
    """Layout of :func:`agreement_chart`."""
    longest = max(map(len, matrix["labels"]), default=8)
    return {
        "hoverlabel": _HOVER,
        "xaxis": {"type": "category", "showgrid": False, "tickangle": 0 if longest < 14 else -30},
        "yaxis": {"type": "category", "showgrid": False, "ticksuffix": " "},
        "margin": {"l": min(220, 20 + 8 * longest), "r": 16, "t": 8, "b": 40},
        "height": agreement_height(matrix),
    }


def agreement_height(matrix):
    """Pixels of the chart of a matrix."""
    return 90 + 44 * max(2, len(matrix["labels"]))
