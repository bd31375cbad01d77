"""The run's maps of a sample side by side: one per method, then the layers and targets of one method."""

import math

from ..compare.ranking import GRID
from ..text import in_markdown, number
from .stored import heat_in

#: maps in a row
MOST = 6


def rows_of(stored, chosen):
    """Which maps are shown.

    Args:
        stored: a :class:`~operators.sample_panel.stored.Stored`
        chosen: a heatmap field, whose layers and targets are the second row

    Returns:
        two lists of fields: the first map of every method, and the others of the chosen one's method;
        and how many had no room
    """
    first = {}
    for field, label in stored.labels.items():
        first.setdefault(_method(label), field)
    methods = list(first.values())
    label = stored.labels.get(chosen)
    others = [
        field
        for field, other in stored.labels.items()
        if label is not None and _method(other) == _method(label) and field not in methods
    ]
    left_out = max(0, len(methods) - MOST) + max(0, len(others) - MOST)
    return methods[:MOST], others[:MOST], left_out


def _method(label):
    return getattr(label, "method", None)


def agreements(stored, fields):
    """How alike maps order the places of the image, by Spearman's rank correlation.

    Args:
        stored: a :class:`~operators.sample_panel.stored.Stored`
        fields: heatmap fields, the first of which the others are compared with

    Returns:
        ``{field: -1 to 1}``; None where a map is missing, has no ranks, or explains another target
    """
    import torch
    import torch.nn.functional as F

    from ...cam_core.metrics.agreement import agreement

    found = dict.fromkeys(fields)
    heats = {field: heat_in(stored.labels[field]) for field in fields}
    if len(fields) < 2 or heats[fields[0]] is None:
        return found
    first = stored.labels[fields[0]]
    names = [f for f in fields if heats[f] is not None and _comparable(first, stored.labels[f])]
    maps = [torch.from_numpy(heats[f]).float()[None] for f in names]
    small = torch.cat([F.adaptive_avg_pool2d(one, GRID) for one in maps])
    # every map as a picture of two methods, itself and the first: no pair is compared that is not told
    values = (
        agreement(torch.stack([small[:1].expand_as(small), small], 1)).spearman[:, 0, 1].tolist()
    )
    found |= {f: None if math.isnan(v) else v for f, v in zip(names, values, strict=True)}
    return found


def _target(label):
    return getattr(label, "target", None)


def _comparable(one, other):
    """Whether two maps explain the same; one without a target is the same for every class."""
    return None in (_target(one), _target(other)) or _target(one) == _target(other)


def text_of(stored, field, agreed, reference, of_methods):
    """What is written below a map.

    Args:
        stored: a :class:`~operators.sample_panel.stored.Stored`
        field: the heatmap field
        agreed: its agreement with the reference, None where it is not known
        reference: the field that it is compared with
        of_methods (bool): whether the row tells methods apart, else layers and targets

    Returns:
        Markdown
    """
    label = stored.labels[field]
    method, layer = _method(label) or field, getattr(label, "layer", None)
    head = method if of_methods else f"{method}, {layer}"
    lines = [
        f"**{in_markdown(head)}**",
        f"{in_markdown(_target(label) or 'the same for every class')}",
    ]
    status = getattr(label, "status", "ok")
    if status != "ok":
        lines.append(f"no heat: the map is {in_markdown(status)}")
    values = [("score", "score"), ("peak", "peak"), *((name, name) for name in stored.metrics)]
    numbers = [
        f"{in_markdown(name)} {_short(value)}"
        for name, attribute in values
        if (value := getattr(label, attribute, None)) is not None
    ]
    lines += [" · ".join(numbers)] if numbers else []
    if field == reference:
        lines.append("*agreement is with this one*")
    elif agreed is not None:
        lines.append(f"agreement {number(agreed)}")
    elif status == "ok" and not _comparable(label, stored.labels[reference]):
        lines.append("another target: not compared")
    return "  \n".join(lines)


def _short(value):
    """Three digits, whatever the size: scores may be logits, peaks anything."""
    return f"{value:.3g}"
