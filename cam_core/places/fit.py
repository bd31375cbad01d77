"""From traced pixels to how a grid lies on the input: an affine map of cells, or a lattice of tokens."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..spatial.extent import Rectangle
from .trace import Points

# Cells by which a pixel may miss its cell and still speak for the fitted mapping: it may lie anywhere in it.
_NEAR = 0.75
# Cells by which a token may miss its place in a lattice.
_UNEVEN = 0.5
# Share of the pixels' energy that has to agree; the rest is what pooling and gates spread.
_AGREED = 0.85
# What the other axis may contribute across the whole input, in cells.
_SKEW = 0.5
# A token with less gradient than this share of the usual one has no place of its own.
_ACCIDENT = 1e-4
# A single row or column of cells that sees this much of the input's side stands for all of it.
_WHOLE_SIDE = 0.9
# Share of the cells that have to be seen: of a grid of two pictures one half is.
_LEAST_SEEN = 0.2


class Unclear(ValueError):
    """The traced pixels do not lie as a grid does; the message says what was measured instead."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """How the cells of a grid lie on the input.

    Attributes:
        order: (h, w) flat indices of the traced cells, arranged as the input shows them
        cells: (left, top, right, bottom) of what the arranged cells tile, in shares of the input
        error: largest typical distance of a pixel from the cell that it sees, in cells
    """

    order: np.ndarray
    cells: Rectangle
    error: float

    def completed(self, height: int, width: int, first: int) -> Fit:
        """Adds the rows and columns of a larger grid that see nothing of the image, such as padding.

        Args:
            height: rows of the grid that is assumed
            width: columns of it
            first: index of its first cell

        Returns:
            the whole grid, or this fit as it is where it is no part of that grid
        """
        rows, columns = np.divmod(self.order - first, width)
        top, left = rows[0, 0], columns[0, 0]
        part = (rows == top + np.arange(self.order.shape[0])[:, None]) & (
            columns == left + np.arange(self.order.shape[1])
        )
        inside = rows.min() >= 0 and rows.max() < height
        if not (part.all() and inside and min(self.order.shape) > 1):
            return self
        x0, y0, x1, y1 = self.cells
        down, across = (y1 - y0) / self.order.shape[0], (x1 - x0) / self.order.shape[1]
        x0, y0 = x0 - left * across, y0 - top * down
        order = first + np.arange(height * width).reshape(height, width)
        return Fit(order, (x0, y0, x0 + width * across, y0 + height * down), self.error)

    def within(self, reach: Rectangle) -> Fit:
        """Lets a single row or column of cells lie on what they see, which nothing else says.

        Args:
            reach: (left, top, right, bottom) of what the cells see of the input, in shares
        """
        left, top, right, bottom = self.cells
        if self.order.shape[1] == 1 and reach[2] - reach[0] < _WHOLE_SIDE:
            left, right = reach[0], reach[2]
        if self.order.shape[0] == 1 and reach[3] - reach[1] < _WHOLE_SIDE:
            top, bottom = reach[1], reach[3]
        return dataclasses.replace(self, cells=(left, top, right, bottom))

    def distance(self, cells: Rectangle) -> float:
        """The largest distance of a cell's centre from where another rectangle has it, in cells."""
        height, width = self.order.shape
        worst = 0.0
        for count, low, high in ((width, 0, 2), (height, 1, 3)):
            own, other = (_centres(r[low], r[high], count) for r in (self.cells, cells))
            step = min(self.cells[high] - self.cells[low], cells[high] - cells[low]) / count
            worst = max(worst, float(np.abs(own - other).max() / step))
        return worst


def _centres(low: float, high: float, count: int) -> np.ndarray:
    return low + (np.arange(count) + 0.5) / count * (high - low)


def fit_map(points: Points, shape: tuple[int, int], size: tuple[int, int]) -> Fit:
    """Fits an axis-aligned mapping of rows and columns, which may be mirrored or transposed.

    Args:
        points: traced pixels, whose cells are shares of the traced map's height and width
        shape: (h, w) of the traced map
        size: (H, W) of the input

    Raises:
        Unclear: if there is none; the message says what was measured
    """
    _check_reached(points)
    _check_together(points, shape)
    places = points.places.numpy() / np.asarray(size, float)
    lines = [_line(places, points.cells[:, axis].numpy() * n, points, n)
             for axis, n in enumerate(shape)]  # fmt: skip
    axes = [line.axis for line in lines]
    if None in axes:  # one cell along this axis: any place fits
        other = axes[1 - axes.index(None)]
        axes[axes.index(None)] = 1 if other == 0 else 0
    if axes[0] == axes[1]:
        raise Unclear("its rows and its columns lie along the same direction of the image")
    order = np.arange(shape[0] * shape[1]).reshape(shape)
    sides = {}
    for position, line in enumerate(lines):
        if line.low > line.high:
            order = np.flip(order, position)
        sides[axes[position]] = sorted((line.low, line.high))
    if axes[0] == 1:
        order = order.T
    (top, bottom), (left, right) = sides[0], sides[1]
    return Fit(order, (left, top, right, bottom), max(line.error for line in lines))


@dataclasses.dataclass(frozen=True)
class _Line:
    """One index of a map along one axis of the input (0: down, 1: across)."""

    axis: int | None
    low: float
    high: float
    error: float


def _line(places: np.ndarray, index: np.ndarray, points: Points, count: int) -> _Line:
    """Fits ``index = slope . place + start`` over the input's unit square, robustly."""
    if count == 1:
        return _Line(None, 0.0, 1.0, 0.0)
    design = np.column_stack([places, np.ones(len(places))])
    weights = points.weights.numpy()
    weights = np.sqrt(weights / weights.max())
    use = weights.copy()
    before = np.full(3, np.inf)
    for _ in range(25):
        solved = np.linalg.lstsq(design * use[:, None], index * use, rcond=None)[0]
        rest = np.abs(design @ solved - index)
        if np.abs(solved - before).max() < 1e-4:
            break
        use, before = weights / (1 + (rest / _NEAR) ** 2), solved
    energy = weights**2
    agreed = energy[rest < _NEAR].sum() / energy.sum()
    if agreed < _AGREED:
        raise Unclear(
            f"only {agreed:.0%} of what its cells see lies where one scale and shift of the grid "
            "would have it: a cell sees several places, or the cells are in no order of places"
        )
    slopes = solved[:2]
    axis = int(np.abs(slopes).argmax())
    if abs(slopes[axis]) < _LEAST_SEEN * 0.1 * count:
        raise Unclear("its cells all see the same place")
    if abs(slopes[1 - axis]) > _SKEW:
        raise Unclear("its grid lies rotated or skewed on the image")
    middle = solved[2] + slopes[1 - axis] / 2
    near = rest < _NEAR
    spread = np.ptp(index[near])
    if spread < max(0.9, _LEAST_SEEN * (count - 1)):
        raise Unclear(
            f"only {spread + 1:.0f} of its {count} rows or columns see anything of the image"
        )
    low, high = -middle / slopes[axis], (count - middle) / slopes[axis]
    return _Line(axis, float(low), float(high), float(np.average(rest, weights=energy)))


def _check_together(points: Points, shape: tuple[int, int]) -> None:
    """A mean of two places is linear as well: the cells that see a pixel have to lie together."""
    one_cell = np.sqrt(sum(1 / n**2 for n in shape if n > 1))
    apart = points.spread.numpy() > one_cell
    energy = points.weights.numpy()
    if energy[apart].sum() > (1 - _AGREED) * energy.sum():
        raise Unclear(
            "pixels are seen by cells that are far from each other: a cell sees several places"
        )


def _check_reached(points: Points) -> None:
    if not len(points.weights):
        raise Unclear("no gradient leads from its cells to the image")


def fit_tokens(points: Points, shape: tuple[int, int], total: int, size: tuple[int, int]) -> Fit:
    """Finds the lattice that tokens form on the input, in whatever order they come.

    Args:
        points: traced pixels, whose cells are shares of the map that the tokens were laid in
        shape: (h, w) of that map, row by row, filled up at its end
        total: number of tokens
        size: (H, W) of the input

    Raises:
        Unclear: if they form none; the message says what was measured
    """
    _check_reached(points)
    exact = points.cells.numpy() * np.asarray(shape, float) - 0.5
    near = np.abs(exact - exact.round()).max(1) < 0.2
    energy = points.weights.numpy()
    if energy[near].sum() < 0.5 * energy.sum():
        raise Unclear("its tokens each see several places of the image")
    rows, columns = exact[near].round().astype(int).T
    tokens = rows * shape[1] + columns
    places = points.places.numpy()[near] / np.asarray(size, float)
    weight = energy[near]
    inside = (tokens >= 0) & (tokens < total)
    tokens, places, weight = tokens[inside], places[inside], weight[inside]
    found, centres = _medians(tokens, places, weight, total)
    return _lattice(found, centres, total)


def _medians(
    tokens: np.ndarray, places: np.ndarray, weight: np.ndarray, total: int
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that the image has a part in, and the place of each: the median of its pixels."""
    mass = np.bincount(tokens, weight, minlength=total)
    # A token that stands for no place (class, register) is seen at most by accident.
    found = np.flatnonzero(mass > _ACCIDENT * np.median(mass[mass > 0]))
    centres = np.empty((len(found), 2))
    for axis in (0, 1):
        order = np.lexsort((places[:, axis], tokens))
        kind, value, share = tokens[order], places[order, axis], weight[order]
        sums = np.cumsum(share)
        starts = np.searchsorted(kind, found)
        ends = np.searchsorted(kind, found, side="right")
        before = np.where(starts > 0, sums[starts - 1], 0.0)
        half = (before + sums[ends - 1]) / 2
        low = np.searchsorted(sums, half - 1e-9 * sums[-1])
        high = np.searchsorted(sums, half + 1e-9 * sums[-1])
        low, high = (np.clip(k, starts, ends - 1) for k in (low, high))
        centres[:, axis] = (value[low] + value[high]) / 2
    return found, centres


def _lattice(tokens: np.ndarray, places: np.ndarray, total: int) -> Fit:
    lines = [_levels(places[:, axis], len(tokens)) for axis in (0, 1)]
    height, width = (len(levels) for levels in lines)
    if height * width != len(tokens) or len(tokens) < 2:
        raise Unclear(
            f"{len(tokens)} of its {total} tokens see a place of the image, in {height} rows and "
            f"{width} columns: that is no full grid"
        )
    order = np.full((height, width), -1)
    index = [np.abs(places[:, axis, None] - lines[axis]).argmin(1) for axis in (0, 1)]
    order[index[0], index[1]] = tokens
    if (order < 0).any():
        raise Unclear("two of its tokens see the same place of the image")
    sides, error = [], 0.0
    for axis, levels in enumerate(lines):
        if len(levels) == 1:
            sides.append((0.0, 1.0))
            continue
        slope, start = np.polyfit(np.arange(len(levels)), levels, 1)
        rest = np.abs(start + slope * index[axis] - places[:, axis]).max() / slope
        if rest > _UNEVEN:
            raise Unclear("its tokens do not lie at equal distances on the image")
        error = max(error, float(rest))
        sides.append((start - slope / 2, start + slope * (len(levels) - 0.5)))
    (top, bottom), (left, right) = sides
    return Fit(order, (float(left), float(top), float(right), float(bottom)), error)


def _levels(values: np.ndarray, count: int) -> np.ndarray:
    """The distinct coordinates of a lattice's lines: values that lie together are one."""
    ordered = np.sort(values)
    # Lines of a lattice are farther apart than a quarter of the finest spacing that could be.
    gaps = np.diff(ordered)
    breaks = np.flatnonzero(gaps > 0.3 * max(gaps.max(initial=0), 0.5 / count))
    return np.array([part.mean() for part in np.split(ordered, breaks + 1)])
