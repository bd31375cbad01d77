"""Which layers a network has, and which of them a user names."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .layer import Layer, entries_of


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
