"""A layer to explain: a module, or an entry of what it returns."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

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
