"""Where transforms lay an image in the model's input, measured at one size.

Patterns of two values are shown together with their inverse. The sign of the difference says where a
place came from, and it survives whatever happens to values: contrast, gamma, a window, a clamp, the
standardisation of each image, equalisation, inversion, greyscale. A fine chequerboard is the carrier,
so that no part of a picture is ever constant; the columns and rows of the board are numbered in Gray
code by inverting cells of it. A line through the numbers read along each side is the answer, its
scatter is the error, and random cells that took no part in it confirm it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from .geometry import Window

#: An edge of the window may be off by this share of the model input's side: half a cell of a 16 x 16 grid.
TOLERANCE = 1 / 32
# Cells along a side: each is four pixels of the input or more where the whole image is seen.
_PIXELS_PER_CELL, _MOST_CELLS = 4, 32
# A crop is measured with finer cells until so many of them are seen along a side.
_FEWEST_SEEN = 6
# Share of the strongest difference from which on a pixel counts as showing the image.
_STRONG = 0.3
_RANDOM_CELLS = 24
# Along a side of an input that is larger than this, only some of the pixels are looked at.
_MOST_PIXELS = 192


class Unplaced(ValueError):
    """Raised where places cannot be read; the message is the rest of a sentence that begins "transforms".

    Attributes:
        certain: whether the geometry itself was read, and is one that no window describes
    """

    def __init__(self, reason: str, certain: bool = False):
        super().__init__(reason)
        self.certain = certain


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Cells of two values that tile an image.

    Attributes:
        cells: (rows, columns) bool
        rows: (rows + 1,) where they begin and the last one ends, in pixels
        columns: likewise
    """

    cells: np.ndarray
    rows: np.ndarray
    columns: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return int(self.rows[-1]), int(self.columns[-1])

    def inverse(self) -> Pattern:
        """The same with the two values exchanged."""
        return dataclasses.replace(self, cells=~self.cells)

    def paint(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Returns the (H, W) or (H, W, C) image in the values' own type.

        Args:
            low: a number or (C,) numbers for cells that are False
            high: likewise for cells that are True
        """
        low, high = np.asarray(low), np.asarray(high)
        mask = self.cells.reshape(self.cells.shape + (1,) * low.ndim)
        values = np.where(mask, high, low)
        wide = np.repeat(values, np.diff(self.columns), axis=1)
        return np.repeat(wide, np.diff(self.rows), axis=0)


#: Shows a pattern to the transforms: returns the (C, h, w) input of the model.
Show = Callable[[Pattern], Tensor]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured at one size.

    Attributes:
        window: what the model sees of the image
        size: (h, w) of the model's input
        error: standard error of the window's edges, as a share of the input's side
    """

    window: Window
    size: tuple[int, int]
    error: float


def measure(shows: Sequence[Show], height: int, width: int) -> Measured:
    """Finds what the model sees of images of one size.

    Args:
        shows: ways to show a pattern, which differ in the two values; the next one is tried where
            one's values cannot be told apart behind the transforms
        height: of the images
        width: of the images

    Returns:
        a :class:`Measured`

    Raises:
        Unplaced: if it is no scale, shift, flip or transposition, or cannot be read; says what was
            measured
    """
    failures = []
    for show in shows:
        try:
            return _measure(show, height, width)
        except Unplaced as reason:
            failures.append(reason)
            if reason.certain:
                break
    raise next((f for f in failures if f.certain), failures[0])


def agrees(
    show: Show, window: Window, size: tuple[int, int], frame: bool | None = None
) -> bool | None:
    """Checks a window with random cells, which are where it says or not.

    Args:
        show: shows a pattern
        window: what the model is thought to see
        size: (h, w) of the model's input
        frame (None): whether everything but the middle is of one value, the low one (False) or the
            high one (True): where transforms cut off a border, this moves the middle

    Returns:
        whether nineteen of twenty pixels show the cell that they must; None where the two values cannot
        be told apart behind the transforms; True for an image whose few pixels leave nothing to check
    """
    pattern = _random_cells(window, size)
    other = pattern.inverse()
    if frame is not None:
        middle = np.zeros_like(pattern.cells)
        inner = [slice(max(1, n // 4), n - max(1, n // 4)) for n in pattern.cells.shape]
        middle[inner[0], inner[1]] = True
        pattern = dataclasses.replace(pattern, cells=np.where(middle, pattern.cells, frame))
        other = dataclasses.replace(other, cells=np.where(middle, other.cells, frame))
    try:
        difference = _difference(show, pattern, other, size)
    except Unplaced:
        return False
    expected, considered = _expected(pattern, other, window, size)
    if considered.sum() < 2 or len(np.unique(expected[considered])) < 2:
        return True
    polarity = np.sign((difference * expected * considered).sum((1, 2)))
    shown = (difference * polarity[:, None, None]).sum(0)
    strong = considered & (np.abs(shown) > _STRONG * np.quantile(np.abs(shown[considered]), 0.9))
    if strong.sum() < 0.6 * considered.sum():
        return None
    return bool((np.sign(shown) == expected)[strong].mean() >= 0.95)


def can_be_checked(window: Window, size: tuple[int, int]) -> bool:
    """Whether :func:`agrees` has pixels to look at: of an image of a few pixels it may have none.

    Args:
        window: what the model is thought to see
        size: (h, w) of the model's input
    """
    pattern = _random_cells(window, size)
    expected, considered = _expected(pattern, pattern.inverse(), window, size)
    return len(np.unique(expected[considered])) > 1


def _random_cells(window: Window, size: tuple[int, int]) -> Pattern:
    """Cells of five pixels of the input or more, two dozen along what the model sees."""
    shape = size[::-1] if window.transposed else size
    spans = (window.bottom - window.top, window.right - window.left)
    counts = []
    for pixels, span, extent in zip(shape, spans, window.image, strict=True):
        seen = min(max(pixels / 5, 2), _RANDOM_CELLS)
        counts.append(int(min(max(math.ceil(seen * extent / span), 2), extent)))
    # of few cells each must be told from its neighbours
    rng = np.random.default_rng(51)
    cells = rng.random(tuple(counts)) < 0.5
    if cells.size > 1 and cells.all() | (~cells).all():
        cells.flat[::2] ^= True
    return Pattern(cells, *(_edges(e, n) for e, n in zip(window.image, counts, strict=True)))


def _expected(
    pattern: Pattern, other: Pattern, window: Window, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """What each pixel of the input shows, 1 or -1, and which are clear of borders between cells."""
    sides, clear = [], []
    for axis, edges in ((0, pattern.rows), (1, pattern.columns)):
        places = window.places(size)[axis]
        step = abs(places[1] - places[0]) if len(places) > 1 else edges[-1]
        cell = np.clip(np.searchsorted(edges, places, "right") - 1, 0, len(edges) - 2)
        width = np.diff(edges)[cell]
        nearest = np.minimum(places - edges[cell], edges[cell + 1] - places)
        inside = (places > 0) & (places < edges[-1])
        sides.append(cell)
        clear.append(
            inside & (nearest > np.minimum(np.maximum(0.75 * step, 0.15 * width), 0.45 * width))
        )
    grid = np.ix_(sides[0], sides[1])
    expected = pattern.cells[grid].astype(float) - other.cells[grid]
    considered = np.outer(clear[0], clear[1]) & (expected != 0)
    if window.transposed:
        expected, considered = expected.T, considered.T
    rows, columns = (_thinned(n) for n in size)
    return expected[rows, columns], considered[rows, columns]


def _thinned(pixels: int) -> slice:
    """Enough of the pixels along a side, where there are many."""
    return slice(0, None, max(1, pixels // _MOST_PIXELS))


def _difference(show: Show, pattern: Pattern, other: Pattern, size: tuple[int, int]) -> np.ndarray:
    """(C, h, w) what a pattern's input has more than another's; enough of the pixels of inputs of a size."""
    shown = []
    for given in (pattern, other):
        values = show(given).detach().cpu()
        if tuple(values.shape[-2:]) != tuple(size):
            raise Unplaced(
                f"makes {values.shape[-2]} x {values.shape[-1]} pixels of one picture and {size[0]} x "
                f"{size[1]} of another of the same size, so what it does depends on the content",
                certain=True,
            )
        values = values[..., _thinned(size[0]), _thinned(size[1])]
        shown.append(np.nan_to_num(np.asarray(values.float(), np.float64), posinf=0, neginf=0))
    largest = max(np.abs(values).max(initial=0) for values in shown)
    difference = shown[0] - shown[1]
    difference[np.abs(difference) <= 1e-6 * largest] = 0
    return difference


def _edges(extent: int, count: int) -> np.ndarray:
    return np.rint(np.linspace(0, extent, count + 1)).astype(int)


def _measure(show: Show, height: int, width: int) -> Measured:
    """Measures with finer and finer cells until enough of them are seen."""
    shown = show(_board(height, width, (8, 8)))
    size = (int(shown.shape[-2]), int(shown.shape[-1]))
    extents, best, failures = (height, width), None, []
    tried: set[tuple[int, int]] = set()
    for factor in (1, 4, 16, 64, 0.25):
        counts = tuple(
            int(min(max(min(n // _PIXELS_PER_CELL, _MOST_CELLS), 2) * factor or 1, e))
            for n, e in zip(size, extents, strict=True)
        )
        counts = (max(counts[0], min(2, height)), max(counts[1], min(2, width)))
        if counts in tried:
            continue
        tried.add(counts)
        try:
            found, seen = _read(show, height, width, counts, size)
        except Unplaced as reason:
            failures.append(reason)
            if reason.certain:
                break
            continue
        if not agrees(show, found.window, found.size):
            failures.append(
                Unplaced(
                    "is no scale and shift: places that were read in one pattern are not where "
                    "another has them, so its geometry depends on the content"
                )
            )
            continue
        if best is None or found.error < best.error:
            best = found
        if all(s >= _FEWEST_SEEN or c == e for s, c, e in zip(seen, counts, extents, strict=True)):
            break
    if best is None:
        raise next((f for f in failures if f.certain), failures[0])
    allowed = [max(TOLERANCE, 0.5 / n) for n in best.size]
    if best.error > max(allowed):
        raise Unplaced(
            f"could be read only to {best.error:.0%} of the input's side, more than half a cell"
        )
    return best


def _board(height: int, width: int, counts: tuple[int, ...]) -> Pattern:
    """A chequerboard."""
    rows, columns = (min(c, e) for c, e in zip(counts, (height, width), strict=True))
    cells = (np.arange(rows)[:, None] + np.arange(columns)) % 2 == 1
    return Pattern(cells, _edges(height, rows), _edges(width, columns))


def _read(
    show: Show, height: int, width: int, counts: tuple[int, ...], size: tuple[int, int]
) -> tuple[Measured, tuple[int, int]]:
    """Reads the cells' numbers and fits the window; also returns how many were seen along each side."""
    board = _board(height, width, counts)
    carrier = _difference(show, board, board.inverse(), size)
    energy = (carrier**2).sum(0)
    if not energy.max(initial=0) > 0:
        raise Unplaced(
            "returns the same for a pattern and its inverse: it tells bright from dark nowhere"
        )
    valid = strong = energy > _STRONG**2 * np.quantile(energy[energy > 0], 0.95)
    numbers: list[np.ndarray] = []
    for axis, count in enumerate(board.cells.shape):
        code = np.arange(count) ^ (np.arange(count) >> 1)
        number = np.zeros(energy.shape, int)
        for bit in reversed(range(max(count - 1, 0).bit_length())):
            flip = (code >> bit & 1).astype(bool)
            flipped = board.cells ^ (flip[:, None] if axis == 0 else flip[None])
            pattern = dataclasses.replace(board, cells=flipped)
            shown = _difference(show, pattern, pattern.inverse(), size)
            ratio = (shown * carrier).sum(0) / np.where(energy > 0, energy, 1)
            valid = valid & (np.abs(ratio) > 0.5) & (np.abs(ratio) < 2)
            if valid.sum() < 0.3 * strong.sum():  # noise, which has no numbers
                raise Unplaced("leaves nothing of which the place could be read")
            number = number * 2 + ((ratio < 0) ^ (number & 1).astype(bool))
        valid = valid & (number < count)
        numbers.append(number)
    if valid.sum() < max(min(2, valid.size), 0.002 * valid.size):
        raise Unplaced("leaves nothing of which the place could be read")
    return _fit(numbers, valid, board, size)


def _fit(
    numbers: list[np.ndarray], valid: np.ndarray, board: Pattern, size: tuple[int, int]
) -> tuple[Measured, tuple[int, int]]:
    """Fits a line along each side to the numbers of the cells."""
    counts, edges = board.cells.shape, (board.rows, board.columns)
    shares, tables = {}, {}
    for transposed in (False, True):
        along = (1, 0) if transposed else (0, 1)
        tables[transposed] = [
            _table(number, valid, count, axis)
            for number, count, axis in zip(numbers, counts, along, strict=True)
        ]
        shares[transposed] = min(t.max(1).sum() / t.sum() for t in tables[transposed])
    transposed = bool(shares[True] > shares[False] + 1e-9)
    if shares[transposed] < 0.85:
        raise _other_geometry(numbers, valid, edges)
    pixels = size[::-1] if transposed else size
    lines = [_line(t, e, n) for t, e, n in zip(tables[transposed], edges, pixels, strict=True)]
    ends, flips = [], []
    for line, n in zip(lines, pixels, strict=True):
        first, last = round(line.start, 9), round(line.start + line.slope * n, 9)
        ends.append((min(first, last), max(first, last)))
        flips.append(bool(line.slope < 0))
    window = Window(
        board.size, ends[1][0], ends[0][0], ends[1][1], ends[0][1],
        flipped=(flips[0], flips[1]), transposed=transposed,
    )  # fmt: skip
    return Measured(window, size, max(li.error for li in lines)), (lines[0].seen, lines[1].seen)


def _table(number: np.ndarray, valid: np.ndarray, count: int, axis: int) -> np.ndarray:
    """(pixels along an axis of the input, cells) how often a cell was read there."""
    length = number.shape[axis]
    place = np.arange(length)[:, None] if axis == 0 else np.arange(length)[None]
    flat = (np.broadcast_to(place, number.shape) * count + number)[valid]
    return np.bincount(flat, minlength=length * count).reshape(length, count)


@dataclasses.dataclass(frozen=True)
class _Line:
    """Place on the image = start + slope * place in the input, along one side."""

    start: float
    slope: float
    error: float
    seen: int


def _line(table: np.ndarray, edges: np.ndarray, pixels: int) -> _Line:
    """The line on which most cells lie; what repeats or mirrors them outside of the image is padding."""
    step = _thinned(pixels).step
    total = table.sum(1)
    usable = np.flatnonzero((total >= max(1, 0.02 * total.max())) & (table.max(1) > 0.7 * total))
    cell = table.argmax(1)
    extent = int(edges[-1])
    if len(edges) == 2:  # one cell: only where the image begins and ends can be seen
        first, last = int(usable[0]) * step, min((int(usable[-1]) + 1) * step, pixels)
        slope = extent / (last - first)
        return _Line(-first * slope, slope, 0.0, 1)
    breaks = np.flatnonzero((np.diff(usable) > 3) | (np.diff(cell[usable]) != 0)) + 1
    runs = [(r.mean() * step + 0.5, int(cell[r[0]]), len(r)) for r in np.split(usable, breaks)]
    place = np.array([r[0] for r in runs])
    centre = np.array([(edges[r[1]] + edges[r[1] + 1]) / 2 for r in runs])
    width = np.array([edges[r[1] + 1] - edges[r[1]] for r in runs])
    kind = np.array([r[1] for r in runs])
    length = np.array([r[2] for r in runs])
    found = _most_cells(place, centre, width, kind)
    if found is None:
        raise Unplaced(
            "shows too little of the image: fewer than two cells of the pattern were read"
        )
    members = found
    inner = members
    if len(members) >= 5:  # those at the ends may be cut off, and lie elsewhere then
        inner = members[1:-1]
    slope, start = np.polyfit(place[inner], centre[inner], 1)
    _check_rest(place, kind, length, members, start, slope, edges)
    rest = centre[inner] - (start + slope * place[inner])
    error = _edge_error(place[inner], rest, slope, pixels)
    return _Line(float(start), float(slope), error, len(set(kind[members])))


def _most_cells(
    place: np.ndarray, centre: np.ndarray, width: np.ndarray, kind: np.ndarray
) -> np.ndarray | None:
    """Indices of the runs on the line that passes most cells, once each."""
    best, best_score = None, (0, 0.0)
    steps = range(1, len(place))
    for step in steps if len(place) <= 80 else [s for s in steps if s <= 8 or s % 16 == 0]:
        for i in range(len(place) - step):
            j = i + step
            if kind[i] == kind[j]:
                continue
            slope = (centre[j] - centre[i]) / (place[j] - place[i])
            off = np.abs(centre[i] + slope * (place - place[i]) - centre)
            near = np.flatnonzero(off <= 0.5 * abs(slope) + 0.15 * width)
            score = (len(set(kind[near])), -float((off[near] / width[near]).mean()))
            if score > best_score:
                best, best_score = near, score
    return best


def _check_rest(
    place: np.ndarray, kind: np.ndarray, length: np.ndarray, members: np.ndarray,
    start: float, slope: float, edges: np.ndarray,
) -> None:  # fmt: skip
    """Raises unless what lies on the image by the line is where the line has it."""
    certain = len(set(kind)) >= _FEWEST_SEEN
    at = start + slope * place
    slack = 0.75 * abs(slope)
    inside = (at > 0) & (at < edges[-1])
    fits = (at >= edges[kind] - slack) & (at <= edges[kind + 1] + slack)
    if length[inside & ~fits].sum() > 0.1 * length[inside].sum():
        raise Unplaced(
            "bends the picture: the places along a side lie on no straight line", certain
        )
    shown = set(kind[members])
    for side in (
        at <= 0,
        at >= edges[-1],
    ):  # beside the image: padding, which may repeat or mirror it
        beside = set(kind[side])
        if len(beside) > 1 and len(beside) >= 0.9 * len(shown):
            raise Unplaced("shows the same part of the picture more than once", certain)
        if len(beside - shown) > 1:
            raise Unplaced("shows parts of the picture in another order (a roll, tiles)", certain)


def _edge_error(place: np.ndarray, rest: np.ndarray, slope: float, pixels: int) -> float:
    """Standard error of the line at the input's borders, as a share of the input's side."""
    freedom = len(place) - 2
    if freedom < 1:
        return 0.5 / pixels
    scatter = math.sqrt(float((rest**2).sum()) / freedom)
    spread = float(((place - place.mean()) ** 2).sum())
    reach = max(place.mean() ** 2, (pixels - place.mean()) ** 2)
    return scatter * math.sqrt(1 / len(place) + reach / spread) / (abs(slope) * pixels)


def _other_geometry(
    numbers: list[np.ndarray], valid: np.ndarray, edges: tuple[np.ndarray, np.ndarray]
) -> Unplaced:
    """Says what transforms do that is no scale and shift, as it was measured."""
    certain = all(len(np.unique(n[valid])) >= _FEWEST_SEEN for n in numbers)
    rows, columns = np.nonzero(valid)
    design = np.column_stack([columns, rows, np.ones(len(rows))])
    y, x = ((e[:-1] + e[1:])[n[valid]] / 2 for n, e in zip(numbers, edges, strict=True))
    (fit_x, fit_y) = (np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y))
    off = np.hypot(design @ fit_x - x, design @ fit_y - y)
    cell = max(float(np.diff(e).max()) for e in edges)
    if np.median(off) > cell:
        return Unplaced(
            "bends or shuffles the picture: no scale, shift and turn fits the places that were read"
        )
    across, down = np.hypot(fit_x[0], fit_y[0]), np.hypot(fit_x[1], fit_y[1])
    angle = math.degrees(math.atan2(fit_y[0] / max(across, 1e-9), fit_x[0] / max(across, 1e-9)))
    cosine = abs(fit_x[0] * fit_x[1] + fit_y[0] * fit_y[1]) / max(across * down, 1e-9)
    if cosine > 0.2:
        return Unplaced(
            "shears the picture: its rows and columns are no longer at right angles", certain
        )
    return Unplaced(f"turns the picture by {abs(angle):.0f} degrees, as measured", certain)
