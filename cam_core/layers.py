"""Which layers to explain, and how a layer's output lies on the image plane."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import fnmatch
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Layer:
    """A target layer: a module, or an entry of what it returns.

    ``"backbone:out"`` is an entry of a dict, ``"block:0"`` of a tuple or list, and an attribute's
    name an entry of any other object. Of a module that returns a tensor and is called several times,
    ``"conv:0"`` is the first call.
    """

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
        if self.entry is not None and self.call_number(output) is None:
            try:
                value = entry_of(output, self.entry)
            except LookupError:
                raise ValueError(
                    f"layer {self.name!r}: the module's output has no entry {self.entry!r}; "
                    f"it is {describe(output)}"
                ) from None
        if not isinstance(value, Tensor):
            keys = [key for key, _ in entries_of(value)]
            hint = f"; name an entry, for example '{self.name}:{keys[0]}'" if keys else ""
            raise ValueError(f"layer {self.name!r} returns {describe(value)}, not a tensor{hint}")
        return value

    def call_number(self, output: Any) -> int | None:
        """Returns which call of the module this layer is, or None if it names no call.

        ``"conv:1"`` is the second call of a module that returns a tensor.

        Args:
            output: what the module returned
        """
        if self.entry is None or not isinstance(output, Tensor) or not self.entry.isdigit():
            return None
        return int(self.entry)

    def put(self, output: Any, value: Tensor) -> Any:
        """Returns ``output`` with this layer's tensor replaced by ``value``."""
        if self.entry is None or self.call_number(output) is not None:
            return value
        if isinstance(output, (tuple, list)):
            if hasattr(output, "_replace"):  # a named tuple
                fields: tuple[str, ...] = getattr(output, "_fields", ())
                names = {str(i): field for i, field in enumerate(fields)}
                return output._replace(**{names.get(self.entry, self.entry): value})
            items = list(output)
            items[int(self.entry)] = value
            return type(output)(items)
        replaced = copy.copy(output)
        write = type(replaced).__setitem__ if isinstance(output, Mapping) else setattr
        write(replaced, self.entry, value)
        return replaced


def entry_of(output: Any, key: str | int) -> Any:
    """Returns an entry of what a module returned.

    Args:
        output: a mapping, tuple, list or object
        key: a key, a position or an attribute's name

    Raises:
        LookupError: if there is no such entry
    """
    if isinstance(output, Mapping) and key in output:
        return output[key]
    if isinstance(output, (tuple, list)) and str(key).lstrip("-").isdigit():
        return output[int(key)]
    if isinstance(key, str) and not isinstance(output, Tensor) and hasattr(output, key):
        return getattr(output, key)
    raise LookupError(key)


def entries_of(output: Any) -> list[tuple[str, Any]]:
    """Lists the entries of a mapping, tuple, list or dataclass; of anything else there are none."""
    if isinstance(output, Mapping):
        return [(str(key), value) for key, value in output.items()]
    if isinstance(output, (tuple, list)):
        return [(str(i), value) for i, value in enumerate(output)]
    if dataclasses.is_dataclass(output):
        return [(f.name, getattr(output, f.name)) for f in dataclasses.fields(output)]
    return []


def describe(value: Any) -> str:
    """Says in a few words what a module returned, for error messages."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    entries = entries_of(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        inside = f" ({', '.join(_brief(v) for _, v in entries[:6])})" if entries else ""
        return f"a {type(value).__name__} of {len(value)}{inside}"
    if entries:
        inside = ", ".join(f"{key} {_brief(v)}" for key, v in entries[:12])
        return f"a {type(value).__name__} with entries {inside}"
    return f"a {type(value).__name__}"


def _brief(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


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
    """Whether one stride explains rows and columns, up to two cells lost or won at the borders.

    Relative positions and attention, (N, heads, L, D), are no maps although L may be close to D.
    """
    sides = tuple(zip(image_size, (grid.height, grid.width), strict=True))
    least = max(size / (cells + 2) for size, cells in sides)
    most = min((size / (cells - 2) for size, cells in sides if cells > 2), default=math.inf)
    return least <= most


def _aspect_error(grid: Grid, image_size: tuple[int, int]) -> float:
    height, width = image_size
    return abs(math.log((grid.height / height) / (grid.width / width)))


def find_layers(module: nn.Module, names: str | nn.Module | Sequence) -> list[Layer]:
    """Finds target layers by name, glob or module.

    Args:
        module: the root module
        names: a name (``"layer4"``; ``"backbone:out"`` for an entry of a dict output, ``"block:0"``
            of a tuple), a glob (``"layer*"``, which matches one level), a module of the root, or a
            list of these

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


def near_layers(name: str, names: Iterable[str]) -> str:
    """Says which layers may be meant by a name that no layer has.

    Args:
        name: what was given
        names: of the model's layers
    """
    known = list(names)
    near = [n for n in known if n.endswith(f".{name}")][:3]
    near = near or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {', '.join(near)}?"
    top = [n for n in known if "." not in n]
    return f"it has {', '.join(top[:8])}{', ...' if len(top) > 8 else ''} and what is inside them"


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
        tail = f":{entry}" if entry else ""
        return [Layer(n + tail, known[n], entry or None) for n in hits]
    raise ValueError(
        f"layers: the model has no layer {item!r}; {near_layers(name, known)} (list_layers(model) names "
        "them all)"
    )


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
    """A row of :func:`cam_core.list_layers`.

    Attributes:
        name: the layer's name
        type: of its module
        channels: of its output
        grid: (rows, columns) of its cells
        default: whether it is explained where no layer is named
        place: how it is known where the cells lie: ``"measured"``, ``"known"`` (of the model's family) or
            ``"when used"`` (measured when it is explained)
        error: of a measured place, by how many cells the cells are off at most
    """

    name: str
    type: str
    channels: int
    grid: tuple[int, int]
    default: bool
    place: str = ""
    error: float | None = None


def is_passive(module: nn.Module) -> bool:
    """Whether a module only pools, drops, reorders or passes on its input.

    A Sequential that ends so is no layer of its own either: the one before its end has the finer grid.
    """
    if isinstance(module, nn.Sequential):
        return len(module) == 0 or is_passive(module[-1])
    return isinstance(module, _PASSIVE_TYPES) or type(module).__name__ in _PASSIVE_NAMES


def observe(module: nn.Module, call: Callable[[], Any]) -> list[tuple[Layer, tuple[int, ...]]]:
    """Runs ``call()`` and lists every tensor that a submodule returned, in order of completion.

    Args:
        module: the root module, whose submodules are observed
        call: runs the forward

    Returns:
        ``(layer, output shape)`` for the last call of each submodule. Of a container (dict, tuple)
        the tensors are listed that no submodule had returned before; of tuples the first only
    """
    seen: dict[str, tuple[Layer, tuple[int, ...]]] = {}
    known: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
    handles = []
    try:
        for name, sub in module.named_modules():
            if name and not isinstance(sub, torch.jit.ScriptModule):  # which has no hooks
                handles.append(sub.register_forward_hook(_observer(name, seen, known)))
        call()
    finally:
        for handle in handles:
            handle.remove()
    return list(seen.values())


def _observer(
    name: str, seen: dict, known: weakref.WeakValueDictionary
) -> Callable[[nn.Module, tuple, Any], None]:
    def record(module: nn.Module, args: tuple, output: Any) -> None:
        if isinstance(output, Tensor):
            known[id(output)] = output
            seen.pop(name, None)
            if not output.is_floating_point():
                return  # indices, quantised or complex numbers: no activations
            seen[name] = (Layer(name, module), tuple(output.shape))
            return
        entries = entries_of(output)
        for entry, value in entries if isinstance(output, Mapping) else entries[:1]:
            if isinstance(value, Tensor) and known.get(id(value)) is not value:
                known[id(value)] = value
                full = f"{name}:{entry}"
                seen.pop(full, None)
                seen[full] = (Layer(full, module, entry), tuple(value.shape))

    return record
