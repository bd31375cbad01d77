"""Where a layer's cells lie on the input: what is assumed from its shape, checked by tracing them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..capture.taps import unchanged
from ..layers.grid import Grid, flat_cells
from ..layers.layer import Layer
from ..network.forward_call import run_forward
from ..network.model import RunnableModel
from ..network.signature import ModelCache
from ..spatial.extent import WHOLE, Extent, Rectangle
from .fit import Fit, Unclear, fit_map, fit_tokens
from .layout import is_channels_first, is_recurrent
from .trace import Call, Trace

# Images of noise on which places are measured.
_IMAGES = 2
# Up to this many cells an assumed place may be off before the measured one is used. Strided
# convolutions with symmetric padding see up to half a cell up and left of where their cells are drawn.
# Those whose padding is uneven at the last cell (YOLOv3-tiny's pooling) are measured .556 off.
_AGREES = 0.56
# Up to this many it tiles the input whatever else; beyond, what the cells see has to reach its borders.
_SURE = 0.25
_SLACK = 0.01
# How far the places measured on two images may be apart, in cells.
_SAME = 0.5

# Which dimension of an output has the rows of its map.
_MAPS = {"NCHW": 2, "NHWC": 1}
# Share of the single cells that have to be found where a grid is assumed to have them; by chance one
# in as many as there are cells would be.
_CONFIRMED = 0.75
_SINGLES_CONFIRMED = 0.85

# Cells that are traced alone, and how far from their places, in cells, they may look.
_SINGLES = 12
# How much more of a token's own part of the input it must see than of any other, where all are mixed.
_AHEAD = 1.5
_AROUND = 1.5
# Share of its gradient that a cell must have there, the rest being spread out by attention; and what
# any other place of that size may have, beside it: a cell that sees two places has no place.
_OWN = 0.3
_OTHER = 0.25
# And in pixels, of cells that are smaller: enlarging a picture mixes so many.
_PIXELS = 2.5
# A cell with less of the gradient than this, beside the strongest, sees nothing of its own.
_BLIND = 1e-3
# Mean distance of pixels from their cells, in cells, up to which a fit needs no comparison with another,
# and up to which it is one at all.
_CLEAN = 0.3
_UNCLEAN = 0.6
# Earlier calls of a module that are tried where the last has no place.
_MOST_TRIES = 4


@dataclasses.dataclass(frozen=True)
class Place:
    """How a layer's output lies on the model's input.

    Attributes:
        grid: how the output becomes (N, C, h, w) maps
        extent: where their cells lie on the input
        how: ``"measured"``; ``"known"`` where the family's adapter says it; ``"assumed"`` from the
            shape alone, where the caller asked not to measure
        error: of a measured place, by how many cells the cells are off at most
    """

    grid: Grid
    extent: Extent = WHOLE
    how: str = "assumed"
    error: float = math.nan

    def describe(self) -> dict[str, Any]:
        """Returns what a record says of the place, as JSON has it."""
        told: dict[str, Any] = {"how": self.how}
        if not math.isnan(self.error):
            told["error"] = round(self.error, 3)
        if self.extent != WHOLE:
            told["cells"] = [round(value, 4) for value in self.extent.cells]
        if self.grid.order is not None:
            told["reordered"] = True
        return told

    @property
    def in_place(self) -> bool:
        """Whether the cells lie on the image as the image does: not mirrored, turned or cropped."""
        left, top, right, bottom = self.extent.cells
        order = self.grid.order
        upright = order is None or all(np.diff(order) > 0)
        return upright and max(left, top, 1 - right, 1 - bottom) < 0.1


@dataclasses.dataclass(frozen=True)
class CallPlace:
    """The place of one call of a module, or why it has none.

    Attributes:
        number: which call it is, from 0
        last: whether the module is not called again after it
        place: a :class:`Place`, or None
        reason: what was measured instead of a place
        tokens: how many cells or tokens the output has, with those that lie nowhere
        no_grid: whether its output is no grid, whatever it sees
    """

    number: int
    last: bool
    place: Place | None
    reason: str = ""
    tokens: int = 0
    no_grid: bool = False


class NoGrid(Unclear):
    """The output has no cells that could lie anywhere."""


_MEASURED = ModelCache()


class PlaceableModel(RunnableModel, Protocol):
    """A model whose layers can be measured; every ``ExplainableModel`` is one."""

    output: Any

    def assumed_grid(
        self, name: str, shape: tuple[int, ...], image_size: tuple[int, int]
    ) -> Grid | None:
        """Returns how a layer's output lies on the image by its shape and type; None if it has no grid."""


class Measurement:
    """Places of a model's layers for one size of input; each layer is measured once.

    Args:
        model: an :class:`cam_core.ExplainableModel`
        images: (N, C, H, W) of the run
    """

    def __init__(self, model: PlaceableModel, images: Tensor):
        self._model = model
        self._images = images
        self._size = (images.shape[-2], images.shape[-1])
        self._watched: list[Layer] = []
        self._traces: list[Trace] = []
        self._found = _MEASURED.of(model.module).setdefault(
            (type(model).__name__, repr(model.output), images.shape[1:], images.dtype), {}
        )

    def calls(self, layers: Sequence[Layer]) -> dict[str, list[CallPlace]]:
        """Returns the calls of each layer that stand for it, with their places.

        That is the last call and those that it does not depend on: a network that looks at several
        copies of the image calls its layers side by side. Where the last call has no place, it is the
        last one that has.

        Args:
            layers: the layers; those that were measured before cost nothing
        """
        new = [layer for layer in layers if layer.name not in self._found]
        if new:
            self._measure(new)
        return {layer.name: self._found[layer.name] for layer in layers}

    def watch(self, layers: Sequence[Layer]) -> None:
        """Says which layers may be asked for one after the other: one trace serves them all.

        Args:
            layers: the layers
        """
        self._watched = list(layers)

    def _traced(self, layers: list[Layer]) -> list[Trace]:
        """A trace for each image of noise: a network whose geometry depends on the image gives two answers."""
        watched = {layer.name for layer in self._watched}
        together = all(layer.name in watched for layer in layers)
        if together and self._traces:
            return self._traces
        traces = [
            Trace(
                self._model.module,
                self._model.forward,
                self._images,
                self._watched if together else layers,
                seed,
            )
            for seed in range(_IMAGES)
        ]
        self._traces = traces if together else []
        return traces

    def _measure(self, layers: list[Layer]) -> None:
        module = self._model.module
        with unchanged(module), torch.no_grad():
            try:
                traces = self._traced(layers)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # the network's own code, under rules that it does not know
                run_forward(self._model, self._images[:1])  # where that fails, the network says why
                self._found.update({layer.name: [_failed(error)] for layer in layers})
                return
            self._places: dict[tuple, tuple[Place | None, str]] = {}
            for layer in layers:
                try:
                    self._found[layer.name] = self._calls(traces, layer)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # a backward of the network's own code
                    self._found[layer.name] = [_failed(error)]

    def _calls(self, traces: list[Trace], layer: Layer) -> list[CallPlace]:
        calls = traces[0].calls[layer.name]
        if not calls:
            return []
        beside = traces[0].beside(calls)
        found = [self._call(traces, layer, call, call is calls[-1]) for call in beside]
        if any(row.place is not None for row in found):
            return found
        for call in [c for c in reversed(calls) if c not in beside][:_MOST_TRIES]:
            row = self._call(traces, layer, call, False)
            if row.place is not None:
                return [row]
        return found

    def _call(self, traces: list[Trace], layer: Layer, call: Call, last: bool) -> CallPlace:
        # A container returns what the last of its modules returned.
        same = (id(call.tap), is_channels_first(layer.module), is_recurrent(layer.module))
        if same not in self._places:
            try:
                self._places[same] = self._place(traces, layer, call), ""
            except NoGrid as error:
                return CallPlace(call.number, last, None, str(error), no_grid=True)
            except Unclear as error:
                self._places[same] = None, str(error)
        place, reason = self._places[same]
        tokens = 0 if place is None else flat_cells(call.tap, place.grid.layout).shape[-1]
        return CallPlace(call.number, last, place, reason, tokens)

    def _place(self, traces: list[Trace], layer: Layer, call: Call) -> Place:
        trace = traces[0]
        shape = tuple(call.tap.shape)
        assumed = self._model.assumed_grid(layer.name, shape, self._size)
        layouts = _layouts(layer.module, shape, assumed)
        if not layouts:
            sizes = ", ".join(map(str, shape[1:]))
            if shape[:1] == (1,):
                raise NoGrid(f"its output has shape (N, {sizes})")
            raise NoGrid(
                f"its output has shape {shape} for one image, so its first dimension is not that of the images "
                "(windows or crops of them, say); choose a layer around it"
            )
        reasons: list[Unclear] = []
        best: tuple[Fit, str, str] | None = None
        likeliest = layouts[0]
        trials = [(likeliest, "together"), (likeliest, "apart")]
        trials += [(layout, "together") for layout in layouts[1:]]
        for layout, way in [*trials, (likeliest, "digits")]:
            try:
                fit = _fit(traces, layer, call, layout, way)
            except Unclear as error:
                reasons.append(error)
                continue
            if best is None or fit.error < best[0].error:
                best = fit, layout, way
            if fit.error <= _CLEAN:
                break
        if best is not None and best[0].error <= _UNCLEAN:
            fit, layout, way = best
            if assumed is not None and assumed.layout == layout and layout not in _MAPS:
                fit = fit.completed(assumed.height, assumed.width, assumed.prefix)
            # Digits are those of the strongest place of a pixel, however strong the others are.
            return _judged(fit, layout, shape, trace, call, sure=way != "digits")
        if best is not None:
            reasons.insert(0, Unclear("a pixel is seen by cells that are far from each other"))
        if assumed is not None and assumed.layout == layouts[0] not in _MAPS:
            off = _confirmed(trace, call, assumed)
            if off is not None:
                return Place(assumed, WHOLE, "measured", off)
        raise reasons[0]


def _failed(error: Exception) -> CallPlace:
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return CallPlace(0, True, None, f"tracing its cells to the image failed: {text}")


def _layouts(module: nn.Module, shape: tuple, assumed: Grid | None) -> list[str]:
    """The layouts that an output may have, the likeliest first."""
    if is_recurrent(module):
        return []
    certain = is_channels_first(module)
    if len(shape) == 4 and shape[0] == 1:
        layouts = ["NCHW"] if certain else ["NCHW", "NHWC", "NTLC"]
    elif len(shape) == 3:
        layouts = ["NLC"] if shape[0] == 1 else []
        layouts += ["LNC"] if shape[1] == 1 else []
        if certain and shape[0] == 1:
            layouts = ["NCL"]
    else:
        return []
    return sorted(layouts, key=lambda layout: assumed is None or layout != assumed.layout)


def _fit(traces: list[Trace], layer: Layer, call: Call, layout: str, way: str) -> Fit:
    if layout in _MAPS:
        cells: Callable[[Tensor], Tensor] = functools.partial(_as_map, layout=layout)
    else:
        cells = functools.partial(_as_square, layout=layout)
    shape = tuple(cells(call.tap.detach()).shape[-2:])
    if shape[0] * shape[1] < 2:
        raise NoGrid(f"its output has shape (N, {', '.join(map(str, call.tap.shape[1:]))})")
    fits = []
    for trace in traces:
        again = [c for c in trace.calls[layer.name] if c.number == call.number]
        if not again or again[0].tap.shape != call.tap.shape:
            raise Unclear("its output has another shape for another image")
        points = trace.points(again[0], cells, way)
        fits.append(_fitted(points, call, layout, shape, trace.size))
    one, other = fits
    if one.order.tolist() != other.order.tolist() or one.distance(other.cells) > _SAME:
        raise Unclear("where its cells look depends on the image")
    return one


def _confirmed(trace: Trace, call: Call, grid: Grid) -> float | None:
    """How far single cells of an assumed grid are from where they look, where nearly all look there."""
    # A network that mixes all of its tokens, as MLP-Mixer does, still sees most of a token in its
    # place.
    rows, columns = grid.height, grid.width
    cells = [(i, j) for i in {0, rows // 2, rows - 1} for j in {0, columns // 3, columns - 1}]
    cells += [(rows // 3, 2 * columns // 3), (2 * rows // 3, columns // 2)]
    wanted = sorted(set(cells))
    with torch.enable_grad():
        maps = grid.to_maps(call.tap)
    energy = trace.energies(maps, wanted)
    # Some parts of the input pass on more than others, whoever looks: only what is a cell's own counts.
    energy = (energy / energy.mean(0).clamp_min(1e-30)).flatten(1)
    strongest, order = energy.topk(2, dim=1)
    if float((strongest[:, 0] / strongest[:, 1].clamp_min(1e-30)).median()) < _AHEAD:
        return None  # there is a second place that is seen as much
    best = order[:, 0]
    found = torch.stack([best // columns, best % columns], 1)
    off = (found - torch.tensor(wanted)).abs().amax(1)
    if len(wanted) < 4 or (off == 0).float().mean() < _CONFIRMED:
        return None
    return float(off.float().median())


def _fitted(points: Any, call: Call, layout: str, shape: tuple, size: tuple[int, int]) -> Fit:
    if layout in _MAPS:
        return fit_map(points, shape, size)
    total = flat_cells(call.tap, layout).shape[-1]
    return fit_tokens(points, shape, total, size)


def _as_map(output: Tensor, layout: str) -> Tensor:
    return output if layout == "NCHW" else output.permute(0, 3, 1, 2)


def _as_square(output: Tensor, layout: str) -> Tensor:
    """Tokens in the order they come, laid in a square that is filled up."""
    cells = flat_cells(output, layout)
    side = math.isqrt(max(0, cells.shape[-1] - 1)) + 1
    rows = -(-cells.shape[-1] // side)
    return F.pad(cells, (0, rows * side - cells.shape[-1])).unflatten(2, (rows, side))


def _judged(
    fit: Fit, layout: str, shape: tuple, trace: Trace, call: Call, sure: bool = True
) -> Place:
    """The grid that was measured; its cells tile the input where they nearly do."""
    height, width = fit.order.shape
    order = tuple(fit.order.flatten().tolist())
    grid = Grid(layout, height, width, order=order)
    # The rows of a transposed map are the columns of the output.
    upright = layout not in _MAPS or shape[_MAPS[layout]] == height
    behind = flat_cells(call.tap, layout).shape[-1] - order[0] - len(order)
    if upright and behind == 0 and order == tuple(range(order[0], order[0] + len(order))):
        grid = Grid(layout, height, width, prefix=order[0])
    off = fit.distance(WHOLE.cells)
    if sure and off <= _SURE and grid.order is None and min(height, width) > 1:
        return Place(grid, WHOLE, "measured", off)
    reach = _reach(trace, call)
    fit = fit.within(reach)
    off = fit.distance(WHOLE.cells)
    tiles = off <= _AGREES and _covers(reach, fit)
    if sure and tiles and grid.order is None:
        return Place(grid, WHOLE, "measured", off)
    # Nobody expected this: single cells have to say the same.
    if not _seen_there(trace, call, grid, fit.cells):
        raise Unclear("single cells of it do not look where its grid seems to lie")
    if tiles:
        return Place(grid, WHOLE, "measured", off)
    left, top = (min(c, r) for c, r in zip(fit.cells[:2], reach[:2], strict=True))
    right, bottom = (max(c, r) for c, r in zip(fit.cells[2:], reach[2:], strict=True))
    return Place(grid, Extent(fit.cells, (left, top, right, bottom)), "measured", fit.error)


def _reach(trace: Trace, call: Call) -> Rectangle:
    """(left, top, right, bottom) of what the cells of a call see of the input, in shares."""
    height, width = trace.size
    left, top, right, bottom = trace.reach(call) or (0, 0, width, height)
    return left / width, top / height, right / width, bottom / height


def _covers(reach: Rectangle, fit: Fit) -> bool:
    """Whether what is seen of the input leaves out less than half a cell at each side."""
    height, width = fit.order.shape
    left, top, right, bottom = fit.cells
    down, across = (bottom - top) / height, (right - left) / width
    return (
        max(reach[0], 1 - reach[2]) <= across / 2 + _SLACK
        and max(reach[1], 1 - reach[3]) <= down / 2 + _SLACK
    )


def _seen_there(
    trace: Trace, call: Call, grid: Grid, cells: tuple[float, float, float, float]
) -> bool:
    """Whether cells, each traced alone, look where a measured grid has them."""
    with torch.enable_grad():
        maps = grid.to_maps(call.tap)
    left, top, right, bottom = cells
    down, across = (bottom - top) / grid.height, (right - left) / grid.width
    inside = [
        (i, j)
        for i in range(grid.height)
        for j in range(grid.width)
        if 0 <= top + (i + 0.5) * down <= 1 and 0 <= left + (j + 0.5) * across <= 1
    ]
    if len(inside) < 2:
        return False
    # At random: evenly spaced ones may all be of one column, or of the diagonal.
    drawn = torch.randperm(len(inside), generator=torch.Generator().manual_seed(len(inside)))
    picked = [inside[k] for k in drawn[:_SINGLES].tolist()]
    energies = [trace.seen_by(maps, cell) for cell in picked]
    strongest = max(float(energy.sum()) for energy in energies)
    height, width = trace.size
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    good = blind = 0
    for (i, j), energy in zip(picked, energies, strict=True):
        if float(energy.sum()) <= _BLIND * strongest:
            blind += 1  # of what a network masks, its cells see nothing
            continue
        near = (rows - top - (i + 0.5) * down).abs() <= max(_AROUND * down, _PIXELS / height)
        beside = (columns - left - (j + 0.5) * across).abs() <= max(
            _AROUND * across, _PIXELS / width
        )
        good += _mostly_there(energy, near, beside)
    return good >= max(2, _SINGLES_CONFIRMED * (len(picked) - blind))


def _mostly_there(energy: torch.Tensor, near: torch.Tensor, beside: torch.Tensor) -> bool:
    """Whether the energy (H, W) of a cell has its place in these rows and columns, and no other one."""
    there = float(energy[near][:, beside].sum())
    if there <= _OWN * float(energy.sum()):
        return False
    rest = energy.masked_fill(near[:, None] & beside, 0.0)
    window = (max(1, int(near.sum())), max(1, int(beside.sum())))
    elsewhere = F.avg_pool2d(rest[None, None], window, 1) * (window[0] * window[1])
    return float(elsewhere.max()) <= _OTHER * there
