"""How a layer's output lies on the image plane."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Grid:
    """The spatial arrangement of a layer's output.

    Attributes:
        layout: ``"NCHW"``, ``"NHWC"``, ``"NLC"`` for a sequence of tokens, ``"LNC"`` for one whose
            first dimension is the sequence, as in the original CLIP, ``"NCL"`` for channels of a
            sequence, ``"NTLC"`` for blocks of tokens
        height: rows of the grid
        width: columns of the grid
        prefix: tokens before the grid (class, distillation, registers); not used with an order
        order: flat indices of the output's cells or tokens, row by row of the grid, where that is
            not their own order: mirrored, transposed, by windows, with other tokens in between
    """

    layout: str
    height: int
    width: int
    prefix: int = 0
    order: tuple[int, ...] | None = dataclasses.field(default=None, kw_only=True, repr=False)

    def to_maps(self, output: Tensor) -> Tensor:
        """Brings a layer's output to (N, C, h, w); other tokens are left out."""
        if self.order is not None:
            cells = flat_cells(output, self.layout)
            index = torch.tensor(self.order, device=output.device)
            return cells.index_select(2, index).unflatten(2, (self.height, self.width))
        if self.layout == "NCHW":
            return output
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        tokens = flat_cells(output, self.layout)[..., self.prefix :]
        return tokens.unflatten(2, (self.height, self.width))

    def from_maps(self, maps: Tensor, like: Tensor) -> Tensor:
        """Brings (N, C, h, w) back to the layer's own layout.

        Args:
            maps: (N, C, h, w) activations
            like: the recorded output of the same rows; other tokens and dtype are taken from it
        """
        maps = maps.to(like.dtype)
        if self.order is not None:
            index = torch.tensor(self.order, device=like.device)
            cells = flat_cells(like, self.layout).index_copy(2, index, maps.flatten(2))
            return _unflattened(cells, self.layout, like)
        if self.layout == "NCHW":
            return maps
        if self.layout == "NHWC":
            return maps.permute(0, 2, 3, 1)
        cells = maps.flatten(2)
        if self.prefix:
            cells = torch.cat([flat_cells(like, self.layout)[..., : self.prefix], cells], 2)
        return _unflattened(cells, self.layout, like)


def flat_cells(output: Tensor, layout: str) -> Tensor:
    """Brings a layer's output to (N, C, cells), in the output's own order.

    Args:
        output: the output
        layout: see :class:`Grid`
    """
    if layout in ("NCHW", "NCL"):
        return output.flatten(2)
    if layout in ("NHWC", "NTLC"):
        return output.flatten(1, 2).transpose(1, 2)
    return output.permute(1, 2, 0) if layout == "LNC" else output.transpose(1, 2)


def _unflattened(cells: Tensor, layout: str, like: Tensor) -> Tensor:
    """The way back of :func:`flat_cells`."""
    if layout in ("NCHW", "NCL"):
        return cells.reshape(like.shape)
    if layout == "LNC":
        return cells.permute(2, 0, 1)
    return cells.transpose(1, 2).reshape(like.shape)


# A sequence has at most this many tokens besides the grid's: class, distillation, registers.
_MOST_PREFIX = 16


def infer_grid(
    shape: Sequence[int],
    image_size: tuple[int, int],
    token_grid: tuple[int, int] | None = None,
    *,
    pyramid: bool = False,
    channels_last: bool = False,
    tokens_first: bool = False,
) -> Grid | None:
    """Infers the grid of a layer's output from its shape.

    Args:
        shape: the shape of the output
        image_size: (height, width) of the model's input
        token_grid (None): (rows, columns) of the patch embedding, where the model has one
        pyramid (False): whether later stages merge 2 x 2 tokens into one
        channels_last (False): whether (N, h, w, C) is meant where a shape could be either
        tokens_first (False): whether (L, N, C) is meant where a shape could be either

    Returns:
        a :class:`Grid`, or None if the output has no spatial grid of more than one cell
    """
    if len(shape) == 4:
        grids = [Grid("NCHW", shape[2], shape[3]), Grid("NHWC", shape[1], shape[2])]
        fits = [g for g in grids if _fits(g, image_size)]
        # A channels-last output also "fits" as NCHW when C happens to look like a column count:
        # the better match of the image's aspect wins, on a tie what the model is known for.
        return min(
            fits[::-1] if channels_last else fits,
            key=lambda g: _aspect_error(g, image_size),
            default=None,
        )
    if len(shape) != 3:
        return None
    if tokens_first:
        grid = _sequence("LNC", shape[0], image_size, token_grid, pyramid)
        if grid is not None:
            return grid
    return _sequence("NLC", shape[1], image_size, token_grid, pyramid)


def _sequence(
    layout: str,
    length: int,
    image_size: tuple[int, int],
    token_grid: tuple[int, int] | None,
    pyramid: bool,
) -> Grid | None:
    """The grid of a sequence; below a pyramid's finest level there is a class token at most."""
    most = _MOST_PREFIX
    rows, columns = token_grid or _like_image(length, image_size)
    while rows * columns > 1:
        prefix = length - rows * columns
        if 0 <= prefix <= most:
            return Grid(layout, rows, columns, prefix)
        if not pyramid:
            break
        rows, columns, most = -(-rows // 2), -(-columns // 2), 1
    return None


def _like_image(length: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """The largest grid of square patches for a model that names no patch embedding."""
    for patch in range(1, max(image_size) + 1):
        rows, columns = image_size[0] // patch, image_size[1] // patch
        if rows * columns <= length:
            return rows, columns
    return 0, 0


def _fits(grid: Grid, image_size: tuple[int, int]) -> bool:
    height, width = image_size
    return (
        grid.height * grid.width > 1
        and grid.height <= height
        and grid.width <= width
        and _aspect_error(grid, image_size) < 0.7
        and _one_stride(grid, image_size)
    )


def _one_stride(grid: Grid, image_size: tuple[int, int]) -> bool:
    """Whether one stride explains rows and columns, up to two cells lost or won at the borders."""
    # Relative positions and attention, (N, heads, L, D), are no maps although L may be close to D.
    sides = tuple(zip(image_size, (grid.height, grid.width), strict=True))
    least = max(size / (cells + 2) for size, cells in sides)
    most = min((size / (cells - 2) for size, cells in sides if cells > 2), default=math.inf)
    return least <= most


def _aspect_error(grid: Grid, image_size: tuple[int, int]) -> float:
    height, width = image_size
    return abs(math.log((grid.height / height) / (grid.width / width)))
