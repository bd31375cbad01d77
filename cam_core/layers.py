"""Which layers to explain, and how a layer's output lies on the image plane."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Layer:
    """A target layer: a module, or a named entry of its dict output (``"backbone:out"``)."""

    name: str
    module: nn.Module
    entry: str | None = None

    def pick(self, output: Any) -> Tensor:
        """Returns the tensor of this layer in the module's output.

        Args:
            output: what the module returned

        Raises:
            ValueError: if the output is not a tensor and no entry of it was named
        """
        value = output
        if self.entry is not None:
            if not isinstance(output, Mapping) or self.entry not in output:
                raise ValueError(
                    f"layer {self.name!r}: the module's output has no entry {self.entry!r}; "
                    f"it is {describe(output)}"
                )
            value = output[self.entry]
        if not isinstance(value, Tensor):
            hint = ""
            if isinstance(value, Mapping):
                hint = f"; name an entry, for example '{self.name}:{next(iter(value), '')}'"
            raise ValueError(f"layer {self.name!r} returns {describe(value)}, not a tensor{hint}")
        return value

    def put(self, output: Any, value: Tensor) -> Any:
        """Returns ``output`` with this layer's tensor replaced by ``value``."""
        if self.entry is None:
            return value
        replaced = output.copy() if hasattr(output, "copy") else dict(output)
        replaced[self.entry] = value
        return replaced


def describe(value: Any) -> str:
    """Says in a few words what a module returned, for error messages."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with entries {', '.join(map(str, value))}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


@dataclasses.dataclass(frozen=True)
class Grid:
    """The spatial arrangement of a layer's output.

    Attributes:
        layout: ``"NCHW"``, ``"NHWC"``, or ``"NLC"`` for a sequence of tokens
        height: rows of the grid
        width: columns of the grid
        prefix: tokens before the grid (class, distillation, registers)
    """

    layout: str
    height: int
    width: int
    prefix: int = 0

    def to_maps(self, output: Tensor) -> Tensor:
        """Brings a layer's output to (N, C, h, w); prefix tokens are left out."""
        if self.layout == "NCHW":
            return output
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        tokens = output[:, self.prefix :]
        return tokens.transpose(1, 2).unflatten(2, (self.height, self.width))

    def from_maps(self, maps: Tensor, like: Tensor) -> Tensor:
        """Brings (N, C, h, w) back to the layer's own layout.

        Args:
            maps: (N, C, h, w) activations
            like: the recorded output of the same rows; prefix tokens and dtype are taken from it
        """
        maps = maps.to(like.dtype)
        if self.layout == "NCHW":
            return maps
        if self.layout == "NHWC":
            return maps.permute(0, 2, 3, 1)
        tokens = maps.flatten(2).transpose(1, 2)
        return torch.cat([like[:, : self.prefix], tokens], 1) if self.prefix else tokens


def infer_grid(
    shape: Sequence[int], image_size: tuple[int, int], token_grid: tuple[int, int] | None = None
) -> Grid | None:
    """Infers the grid of a layer's output from its shape.

    Args:
        shape: the shape of the output
        image_size: (height, width) of the model's input
        token_grid (None): (rows, columns) of the patch embedding, where the model has one

    Returns:
        a :class:`Grid`, or None if the output has no spatial grid of more than one cell
    """
    if len(shape) == 4:
        grids = [Grid("NCHW", shape[2], shape[3]), Grid("NHWC", shape[1], shape[2])]
        fits = [g for g in grids if _fits(g, image_size)]
        # A channels-last output also "fits" as NCHW when C happens to look like a column count:
        # the better match of the image's aspect wins, channels-first on a tie.
        return min(fits, key=lambda g: _aspect_error(g, image_size), default=None)
    if len(shape) == 3:
        rows, columns = token_grid or _square(shape[1])
        prefix = shape[1] - rows * columns
        if rows * columns > 1 and 0 <= prefix <= 16:
            return Grid("NLC", rows, columns, prefix)
    return None


def _square(length: int) -> tuple[int, int]:
    """A square grid for a token sequence of a model that names no patch embedding."""
    side = math.isqrt(length)
    return side, side


def _fits(grid: Grid, image_size: tuple[int, int]) -> bool:
    height, width = image_size
    cells = grid.height * grid.width
    return (
        cells > 1
        and grid.height <= height
        and grid.width <= width
        and _aspect_error(grid, image_size) < 0.7
    )


def _aspect_error(grid: Grid, image_size: tuple[int, int]) -> float:
    height, width = image_size
    return abs(math.log((grid.height / height) / (grid.width / width)))


def find_layers(module: nn.Module, names: str | nn.Module | Sequence) -> list[Layer]:
    """Finds target layers by name, glob or module.

    Args:
        module: the root module
        names: a name (``"layer4"``, ``"backbone:out"`` for an entry of a dict output), a glob
            (``"layer*"``, which matches one level), a module of the root, or a list of these

    Returns:
        a list of :class:`Layer`

    Raises:
        ValueError: if a layer does not exist; the message lists the nearest names
    """
    if isinstance(names, (str, nn.Module)):
        names = [names]
    known = {name: m for name, m in module.named_modules() if name}
    found: dict[str, Layer] = {}
    for item in names:
        for layer in _find(item, known):
            found.setdefault(layer.name, layer)
    if not found:
        raise ValueError(
            "layers is empty; name at least one layer, or leave it out for the default"
        )
    return list(found.values())


def expand_glob(pattern: str, names: Iterable[str]) -> list[str]:
    """Returns the names that a glob matches on its own level; none if it is no glob."""
    if not any(c in pattern for c in "*?["):
        return []
    depth = pattern.count(".")
    return [n for n in names if n.count(".") == depth and fnmatch.fnmatchcase(n, pattern)]


def _find(item: str | nn.Module, known: dict[str, nn.Module]) -> list[Layer]:
    if isinstance(item, nn.Module):
        for name, candidate in known.items():
            if candidate is item:
                return [Layer(name, item)]
        raise ValueError(f"layers: {type(item).__name__} is not a submodule of the model")
    if not isinstance(item, str):
        raise ValueError(f"layers: {item!r} is neither a layer's name nor a module")
    name, _, entry = item.partition(":")
    if name in known:
        return [Layer(item, known[name], entry or None)]
    hits = expand_glob(name, known)
    if hits:
        return [Layer(n, known[n]) for n in hits]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "list_layers(model) shows what there is"
    raise ValueError(f"layers: the model has no layer {item!r}; {hint}")


# Their output is their input made smaller, reordered or unchanged: never the layer people mean.
_PASSIVE_TYPES = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.dropout._DropoutNd,
    nn.Identity,
    nn.Flatten,
    nn.Upsample,
)
_PASSIVE_NAMES = ("Permute", "StochasticDepth", "DropPath")


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """A row of :func:`cam_core.list_layers`."""

    name: str
    type: str
    channels: int
    grid: tuple[int, int]
    default: bool


def is_passive(module: nn.Module) -> bool:
    """Whether a module only pools, drops, reorders or passes on its input.

    A Sequential that ends so is no layer of its own either: the one before its end has the finer grid.
    """
    if isinstance(module, nn.Sequential):
        return len(module) == 0 or is_passive(module[-1])
    return isinstance(module, _PASSIVE_TYPES) or type(module).__name__ in _PASSIVE_NAMES


def observe(
    module: nn.Module, call: Callable[[], Any]
) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Runs ``call()`` and lists every module that returned a tensor, in order of completion.

    Args:
        module: the root module, whose submodules are observed
        call: runs the forward

    Returns:
        ``(name, module, output shape)`` for the last call of each submodule
    """
    seen: dict[str, tuple[str, nn.Module, tuple[int, ...]]] = {}
    handles = []
    try:
        for name, sub in module.named_modules():
            if name:
                handles.append(sub.register_forward_hook(_observer(name, seen)))
        call()
    finally:
        for handle in handles:
            handle.remove()
    return list(seen.values())


def _observer(name: str, seen: dict) -> Callable[[nn.Module, tuple, Any], None]:
    def record(module: nn.Module, args: tuple, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.pop(name, None)
            seen[name] = (name, module, tuple(output.shape))

    return record
