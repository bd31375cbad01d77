"""What :func:`cam_core.list_layers` returns: a list that prints as a table."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable

from .find import LayerInfo

_CONTAINERS = ("Sequential", "ModuleList")
_HEADING = ["", "layer", "type", "channels", "grid", "place", "inside"]


class LayerList(list[LayerInfo]):
    """A list of :class:`cam_core.LayerInfo`. Printed, it is a table with the default layers marked.

    The table has a network's blocks without the layers inside them, and of blocks in a row that are
    alike the first and the last name. The list itself has every layer.

    Args:
        rows (()): the layers
        image (None): (C, H, W) of the image that the grids belong to, where nobody named it
    """

    def __init__(self, rows: Iterable[LayerInfo] = (), image: tuple[int, ...] | None = None):
        super().__init__(rows)
        self.image = image

    def __repr__(self) -> str:
        if not self:
            return "no layer of this model can be explained"
        lines, inside = [_HEADING], _inside_blocks(self)
        for names, row in _folded(self, inside):
            lines.append([
                "*" if row.default else "", " ... ".join(names), row.type, str(row.channels),
                f"{row.grid[0]} x {row.grid[1]}", _place(row), str(inside[row.name] or ""),
            ])  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        default = "*: default" if any(row.default for row in self) else "there is no default"
        size = "" if self.image is None else f"; grids for {' x '.join(map(str, self.image))}"
        texts.append(f"{default}; the list has all {len(self)} layers, also those inside{size}")
        return "\n".join(texts)


def _place(row: LayerInfo) -> str:
    return row.place if row.error is None else f"{row.place} ±{row.error:.1f}"


def outermost_layers(rows: list[LayerInfo]) -> set[str]:
    """Returns the names of a network's blocks, of what is around them, and of the default layers.

    Args:
        rows: all layers
    """
    inside = _inside_blocks(rows)
    return {
        row.name
        for row in rows
        if row.default or not any(above in inside for above in _above(row.name))
    }


def _inside_blocks(rows: list[LayerInfo]) -> collections.Counter[str]:
    """How many layers are inside each block that the table has; its key -1 is none's."""
    # A block is a module with layers inside whose type is there more than once; a default layer
    # stands for itself wherever it is.
    parents = {above for row in rows for above in _above(row.name)}
    kinds = collections.Counter(row.type for row in rows if row.name in parents)
    repeated = {
        row.name
        for row in rows
        if row.name in parents and kinds[row.type] > 1 and row.type not in _CONTAINERS
    }
    outermost = (
        next((above for above in _above(row.name) if above in repeated), None)
        for row in rows
        if not row.default
    )
    return collections.Counter(block for block in outermost if block is not None)


def _above(name: str) -> list[str]:
    """The names of the modules that a layer is in, the outermost first."""
    parts = name.partition(":")[0].split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _folded(
    rows: list[LayerInfo], inside: collections.Counter[str]
) -> list[tuple[list[str], LayerInfo]]:
    """The lines of the table: one name or the first and last of several, and a row for all of them."""
    lines: list[tuple[list[str], LayerInfo]] = []
    for row in rows:
        if not row.default and any(above in inside for above in _above(row.name)):
            continue
        if lines and _continues(lines[-1], row, inside):
            names, first = lines[-1]
            lines[-1] = ([names[0], row.name], first)
        else:
            lines.append(([row.name], row))
    return lines


def _continues(
    line: tuple[list[str], LayerInfo], row: LayerInfo, inside: collections.Counter[str]
) -> bool:
    """Whether a row has the number after that of a line's last, and is like it."""
    names, first = line
    last, this = (re.fullmatch(r"(.*?)(\d+)", name) for name in (names[-1], row.name))
    if last is None or this is None or last[1] != this[1] or int(this[2]) != int(last[2]) + 1:
        return False
    one, other = (
        (r.type, r.channels, r.grid, r.default, _place(r), inside[r.name]) for r in (first, row)
    )
    return one == other and not row.default
