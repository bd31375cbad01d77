"""Traces the cells of layers to the pixels that they are computed from.

Every cell is given a code: its own two indices. A backward carries, to each pixel of the input, the sum
of what the cells say that see it; three of them (weight one, weighted by row, weighted by column) give
the indices back by division, and a fourth, weighted by their squares, how far apart the cells are that
see one pixel. So a handful of backwards measures all cells of a layer at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..capture.taps import frozen
from ..layers.layer import Layer
from ..network.forward_call import is_scripted
from .transport import places_only

# What is weaker than this beside the strongest pixel is rounding.
_FAINT = 1e-8
# A digit is read from a ratio that should be -1 or 1.
_UNSURE = 0.6
# What attention passes on where nothing at all is no number, as it is normalised once more.
_LITTLE = 1e-4
_MOST_POINTS = 100_000


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a module in a forward.

    Attributes:
        tap: what a layer's tensor was, with its graph
        number: which call of the module it was, from 0
    """

    tap: Tensor
    number: int


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """The pixels that see cells, and which ones.

    Attributes:
        places: (P, 2) rows and columns of pixels, at their centres
        cells: (P, 2) centres of the cells seen there, as shares of the map's height and width
        weights: (P,) gradient energy
        spread: (P,) how far the cells seen there are from each other, in the same shares: the standard
            deviation; zeros where it is not known
    """

    places: Tensor
    cells: Tensor
    weights: Tensor
    spread: Tensor


class Trace:
    """One forward of a network in which the calls of some layers can be traced to the input.

    Args:
        module: the network
        forward: runs it on a batch
        images: (N, C, H, W) a batch of the run, for its size and the range of its values
        layers: the layers to trace
        seed (0): of the noise that is shown; what the network sees in other noise may differ

    Raises:
        Exception: what the network raises
    """

    def __init__(
        self,
        module: nn.Module,
        forward: Callable[[Tensor], Any],
        images: Tensor,
        layers: Sequence[Layer],
        seed: int = 0,
    ):
        self.size = (images.shape[-2], images.shape[-1])
        self._image = _noise(images, seed)
        self._seed = seed
        self._kernels: dict = {}
        self.calls: dict[str, list[Call]] = {layer.name: [] for layer in layers}
        counts: dict[Layer, int] = {}
        handles = []
        try:
            for layer in layers:
                if not is_scripted(layer.module):  # the tap says so
                    handles.append(layer.module.register_forward_hook(self._hook(layer, counts)))
            plain = torch.autocast(images.device.type, enabled=False)
            for attention in (0.0, _LITTLE):
                for calls in self.calls.values():
                    calls.clear()
                counts.clear()
                with (
                    frozen(module),
                    torch.enable_grad(),
                    plain,
                    places_only(attention, self._kernels),
                ):
                    forward(self._image.clone())  # which it may write into
                if all(
                    bool(c.tap.isfinite().all()) for calls in self.calls.values() for c in calls
                ):
                    break
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, layer: Layer, counts: dict) -> Callable[[nn.Module, tuple, Any], None]:
        def record(module: nn.Module, args: tuple, output: Any) -> None:
            number = counts[layer] = counts.get(layer, -1) + 1
            if layer.call_number(output) not in (None, number):
                return
            try:
                tap = layer.pick(output)
            except ValueError:
                return  # said where the layer is tapped, as is what is wrong with other numbers
            if tap.is_floating_point():
                self.calls[layer.name].append(Call(tap, number))

        return record

    def beside(self, calls: list[Call]) -> list[Call]:
        """Returns the last of a module's calls and the earlier ones that it does not depend on.

        Args:
            calls: all calls of a layer, in order
        """
        *earlier, last = calls
        if not earlier or not last.tap.requires_grad:
            return calls
        taps = [call.tap for call in earlier if call.tap.requires_grad]
        if not taps:
            return calls
        with torch.enable_grad():
            total = last.tap.sum()
        gradients = iter(torch.autograd.grad(total, taps, retain_graph=True, allow_unused=True))
        # One without a graph has not seen the image, so nothing of it can be in the last.
        return [c for c in earlier if not c.tap.requires_grad or next(gradients) is None] + [last]

    def points(self, call: Call, cells: Callable[[Tensor], Tensor], way: str = "apart") -> Points:
        """Traces all cells of a call.

        Args:
            call: of a traced layer
            cells: brings the call's tensor to (1, C, h, w)
            way ("apart"): ``"apart"`` gives every cell channels of its own, so that normalisation over
                the grid leaves something; ``"together"`` all the same, so that a pixel between two
                cells says their mean; ``"digits"`` asks for the binary digits of the indices one by
                one: more backwards, and right also where others have a third of a pixel's gradient

        Returns:
            :class:`Points`, without any where no gradient reaches the input
        """
        with torch.enable_grad():
            maps = cells(call.tap)
        height, width = maps.shape[-2:]
        if way != "digits":
            down = _shares(height)[:, None].expand(height, width)
            across = _shares(width)[None].expand(height, width)
            codes = [1 + down, 1 + across, 1 + down**2 + across**2]
            gradient = self._gradient(maps, codes, way == "together")
            rows, columns, squares = (ratio - 1 for ratio in _ratios(gradient))
            spread = squares - rows**2 - columns**2
            return _points(gradient[0], [rows, columns], spread.clamp_min(0).sqrt())
        codes = [_digit(height, k)[:, None].expand(height, width) for k in range(_bits(height))]
        codes += [_digit(width, k)[None].expand(height, width) for k in range(_bits(width))]
        gradients = self._gradient(maps, codes)
        ratios = _ratios(gradients)
        signs = [ratio > 0 for ratio in ratios]
        # Near zero the digit is anybody's: several cells have equal parts of the pixel.
        sure = torch.stack([ratio.abs() > _UNSURE for ratio in ratios]).all(0)
        rows, columns = (
            (_number(signs[start : start + _bits(n)], signs[0]) + 0.5) / n
            for start, n in ((0, height), (_bits(height), width))
        )
        return _points(gradients[0] * sure, [rows, columns], torch.zeros(sure.shape))

    def seen_by(self, maps: Tensor, cell: tuple[int, int]) -> Tensor:
        """Returns the (H, W) gradient energy that a single cell carries to the input.

        Args:
            maps: (1, C, h, w) a call's tensor on its grid
            cell: row and column of the cell
        """
        generator = torch.Generator().manual_seed(1 + cell[0] * maps.shape[-1] + cell[1])
        with torch.enable_grad(), places_only(kernels=self._kernels):
            return self._of_cell(maps, cell, generator).double().pow(2).sum(0)

    def energies(self, maps: Tensor, cells: Sequence[tuple[int, int]]) -> Tensor:
        """Traces single cells, each alone, with the network's own gradient.

        Args:
            maps: (1, C, h, w) a call's tensor on the grid that is assumed
            cells: row and column of the cells to trace

        Returns:
            (len(cells), h, w) gradient energy of each cell in the parts of the input, divided like
            the grid
        """
        height, width = maps.shape[-2:]
        generator = torch.Generator().manual_seed(height * width)
        found = []
        for cell in cells:
            energy = self._of_cell(maps, cell, generator).pow(2).sum(0)[None, None]
            found.append(F.adaptive_avg_pool2d(energy, (height, width))[0, 0])
        return torch.stack(found)

    def _of_cell(self, maps: Tensor, cell: tuple[int, int], generator: torch.Generator) -> Tensor:
        """(C, H, W) gradient at the input of a random mixture of one cell's channels."""
        seed = torch.zeros(maps.shape)
        seed[0, :, cell[0], cell[1]] = torch.randn(maps.shape[1], generator=generator)
        return self._backward(maps, seed)

    def _gradient(self, maps: Tensor, codes: list[Tensor], together: bool = False) -> Tensor:
        """(1 + codes, C, H, W) gradients at the input of what all cells say: as it is, and coded."""
        with torch.enable_grad(), places_only(kernels=self._kernels):
            return torch.stack(
                [self._backward(maps, seed) for seed in _seeds(maps, codes, together, self._seed)]
            )

    def _backward(self, maps: Tensor, seed: Tensor) -> Tensor:
        """(C, H, W) float32 gradient at the input, on the CPU; zeros where there is none."""
        gradient = None
        if maps.requires_grad:
            with torch.enable_grad():  # a sum: for given gradients PyTorch would import SymPy
                total = (maps * seed.to(maps).view_as(maps)).sum()
            (gradient,) = torch.autograd.grad(
                total, self._image, retain_graph=True, allow_unused=True
            )
        if gradient is None:
            return torch.zeros(self._image.shape[1:])
        return gradient[0].float().nan_to_num(0).cpu()

    def reach(self, call: Call) -> tuple[int, int, int, int] | None:
        """Returns (left, top, right, bottom) of the pixels that any cell of a call depends on."""
        generator = torch.Generator().manual_seed(call.tap.numel())
        seed = torch.randn(call.tap.shape, generator=generator)
        energy = self._backward(call.tap, seed).pow(2).sum(0)
        rows, columns = torch.nonzero(energy > 1e-12 * energy.max(), as_tuple=True)
        if not len(rows):
            return None
        return (
            int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1,
        )  # fmt: skip


def _noise(images: Tensor, seed: int) -> Tensor:
    """One image of noise with the images' own range."""
    generator = torch.Generator().manual_seed(51 + seed)
    noise = torch.randn((1, *images.shape[1:]), generator=generator).to(images.device)
    values = images.detach().float()
    mean, spread = values.mean((0, 2, 3), keepdim=True), values.std((0, 2, 3), keepdim=True)
    noise = mean + spread.nan_to_num(1).clamp_min(1e-3) * noise
    # in the images' own memory format
    return torch.empty_like(images[:1]).copy_(noise).requires_grad_()


def _seeds(maps: Tensor, codes: list[Tensor], together: bool, seed: int) -> Tensor:
    """(1 + codes, C, h, w) what each cell says: random numbers, and the same times each code."""
    _, channels, height, width = maps.shape
    generator = torch.Generator().manual_seed(7919 * seed + height * width + channels)
    said = torch.randn((channels, height, width), generator=generator)
    if together:
        said = said[:, :1, :1]
    coded = torch.stack([torch.ones(height, width), *codes])
    return coded[:, None] * said


def _shares(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) / count


def _bits(count: int) -> int:
    return max(0, count - 1).bit_length()


def _digit(count: int, digit: int) -> Tensor:
    """A binary digit of each index, as -1 and 1."""
    return ((torch.arange(count) >> digit) % 2 * 2 - 1).float()


def _number(digits: list[Tensor], like: Tensor) -> Tensor:
    total = torch.zeros(like.shape, dtype=torch.float64)
    for power, digit in enumerate(digits):
        total += digit.double() * 2**power
    return total


def _ratios(gradients: Tensor) -> list[Tensor]:
    """What each coded gradient (C, H, W) is of the first, as one factor per pixel (H, W)."""
    one, *coded = gradients.double()
    energy = one.pow(2).sum(0).clamp_min(1e-300)
    return [(c * one).sum(0) / energy for c in coded]


def _points(one: Tensor, cells: list[Tensor], spread: Tensor) -> Points:
    """The pixels that have a gradient, with the cells (shares of rows and columns) read there."""
    weights = one.double().pow(2).sum(0)
    strongest = float(weights.max())
    if not strongest > 0 or not math.isfinite(strongest):
        empty = torch.zeros(0, 2, dtype=torch.float64)
        return Points(empty, empty, empty[:, 0], empty[:, 0])
    chosen = torch.nonzero(weights.flatten() > _FAINT * strongest)[:, 0]
    if len(chosen) > _MOST_POINTS:
        chosen = chosen[weights.flatten()[chosen].topk(_MOST_POINTS).indices]
    width = one.shape[-1]
    places = torch.stack([chosen // width, chosen % width], 1).double() + 0.5
    read = torch.stack([c.flatten()[chosen] for c in cells], 1)
    return Points(places, read, weights.flatten()[chosen], spread.flatten()[chosen].double())
