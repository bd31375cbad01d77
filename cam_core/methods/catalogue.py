"""The methods that ``explain`` knows, and how what a user names becomes some of them."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Importing a family registers its methods; they are listed in this order.
from . import gradient, eigen, perturbation, masking, attention, structure, pixel
from .fixations import method as fixations
from . import baseline
from .option_ranges import check_options
from .registry import (
    METHODS,
    NAMES,
    SMOOTHINGS,
    Components,
    Method,
    MethodInfo,
    cam_method,
    identifier,
    info_of,
    plain_name,
)

__all__ = [
    "Components",
    "MethodInfo",
    "MethodList",
    "cam_method",
    "list_methods",
    "resolve_methods",
]


class MethodList(list):
    """A list of :class:`MethodInfo` that prints as a table."""

    def __repr__(self) -> str:
        rows = [("name", "family", "class", "signed", "gradient", "cost", "times", "what it shows")]
        for m in self:
            rows.append((
                m.name, m.family, "yes" if m.class_discriminative else "no",
                "yes" if m.signed else "no", "no" if m.gradient_free else "yes", m.cost,
                f"x{m.times:g}", m.summary,
            ))  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(7)]
        return "\n".join(
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[7]])
            for row in rows
        )


def list_methods() -> MethodList:
    """Lists the methods that ``explain`` knows by name; prints as a table.

    Returns:
        a list of :class:`MethodInfo`, gradient methods first
    """
    return MethodList(info_of(fn) for fn in METHODS.values())


def resolve_methods(methods: Any) -> list[Method]:
    """Turns what the user gave into methods.

    Args:
        methods: a name, a callable, a pair ``(name or callable, options)``, or a list of these

    Returns:
        a list of :class:`Method` with unique keys. Smoothing ``"eigen"`` that is asked for a whole list
        is left out of the methods that add up no channels, and their ``note`` says so

    Raises:
        ValueError: if a name or an option is unknown, a number is out of its range (:mod:`.option_ranges`),
            or ``methods`` is empty; if ``"eigen"`` is
            asked for methods only that add up no channels
    """
    items = methods if isinstance(methods, list) else [methods]
    if isinstance(methods, tuple) and not _is_pair(methods):
        items = list(methods)
    if not items:
        raise ValueError("methods is empty; name at least one, for example 'gradcam'")
    chosen = _with_eigen_where_it_applies([_resolve(item) for item in items])
    names = [_with_smoothing(m.info.name, m.smooth) for m in chosen]
    counts = collections.Counter(names)
    result: dict[str, Method] = {}
    for method, name in zip(chosen, names, strict=True):
        # A plain name stays the key; options tell apart what would collide.
        options = method.options.items() if counts[name] > 1 else ()
        suffix = identifier("_".join(f"{k}{v}" for k, v in options)) if options else ""
        key = f"{name}_{suffix}" if suffix else name
        if key in result:
            raise ValueError(f"methods: {key!r} is given twice")
        result[key] = dataclasses.replace(method, key=key)
    return list(result.values())


def _with_eigen_where_it_applies(chosen: list[Method]) -> list[Method]:
    """Leaves ``"eigen"`` out of methods that have no sum over channels, beside others that have."""
    asked = [m for m in chosen if "eigen" in m.smooth]
    without = [m.key for m in asked if m.info.sums_channels is False]
    if without and len(without) == len(asked):
        raise ValueError(
            f"methods: smoothing 'eigen' does not apply to {', '.join(map(repr, without))}, which adds "
            "up no channels for a principal component to replace; leave '+eigen' out"
        )
    return [_without_eigen(m) if m in asked and m.key in without else m for m in chosen]


def _without_eigen(method: Method) -> Method:
    return dataclasses.replace(
        method,
        smooth=tuple(name for name in method.smooth if name != "eigen"),
        note=f"{method.key}: smoothing 'eigen' was left out, as it adds up no channels",
    )


def _with_smoothing(name: str, smooth: Sequence[str]) -> str:
    return "_".join([name, *smooth])


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping)


def _resolve(item: Any) -> Method:
    options: dict[str, Any] = {}
    if isinstance(item, Sequence) and len(item) == 2 and isinstance(item[1], Mapping):
        item, options = item[0], dict(item[1])
    smooth: list[str] = []
    if isinstance(item, str):
        item, *smooth = item.replace("++", "pp").split("+")
    function = item if callable(item) else METHODS[_known(item)]
    if not hasattr(function, "cam_info"):
        function = _undecorated(function)
    info = info_of(function)
    if "smooth" in options and "smooth" not in info.options:
        given = options.pop("smooth") or []
        smooth += [given] if isinstance(given, str) else list(given)
    for name in options:
        if name not in info.options:
            offer = ", ".join([*info.options, "smooth"])
            raise ValueError(f"method {info.name!r} has no option {name!r}; it has: {offer}")
    if info.name in METHODS and METHODS[info.name] is function:
        check_options(info.name, options, info.options)
    return Method(info.name, function, info, options, _checked_smooth(smooth))


def _checked_smooth(names: Sequence[str]) -> tuple[str, ...]:
    plain = [str(name).strip().lower() for name in names]
    for name in plain:
        if name not in SMOOTHINGS:
            raise ValueError(
                f"methods: smoothing {name!r} is unknown; choose from {', '.join(SMOOTHINGS)}"
            )
    return tuple(known for known in SMOOTHINGS if known in plain)


def _undecorated(function: Callable) -> Callable:
    """A user's plain function: its info is read off its signature, it is not changed."""

    @functools.wraps(function, updated=())
    def method(*args, **kwargs):
        return function(*args, **kwargs)

    method.__name__ = getattr(function, "__name__", type(function).__name__)
    return cam_method(method)


def _known(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"methods: {name!r} is neither a name nor a callable")
    plain = plain_name(name)
    if plain in NAMES:
        return NAMES[plain]
    near = [NAMES[n] for n in difflib.get_close_matches(plain, NAMES, n=2, cutoff=0.6)]
    hint = f" (did you mean {' or '.join(dict.fromkeys(near))}?)" if near else ""
    raise ValueError(f"method {name!r} is unknown{hint}; choose from {', '.join(sorted(METHODS))}")
