"""What a model is made of, as a key: whatever was found out about it holds while that is the same."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

# PyTorch's own bookkeeping of a module; what of it matters is read separately.
_BOOKKEEPING = frozenset(vars(nn.Module())) - {"training", "_compiled_call_impl"}
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, type)


def signature(module: nn.Module) -> Hashable:
    """Returns a key that changes whenever a model is edited in a way that may change its maps.

    Two keys are equal if the modules, their plain attributes (flags, strides, sizes, functions) and
    hooks, and the parameters and buffers with their shapes, devices, ``requires_grad`` and content
    versions are the same. It holds no strong reference to the model. It costs about a microsecond per
    module, parameter and buffer, and never waits for the device.

    What it cannot see: values written through ``tensor.data[...]``, the content of objects that are no
    modules, globals and closures.

    Args:
        module: the model

    Returns:
        a hashable key, to be compared with later keys of the same model
    """
    parts: list[Any] = [_Ref(module)]
    for value in vars(module).values():  # such as the configuration of a Hugging Face network
        if hasattr(value, "__dict__") and not callable(value) and not isinstance(value, Tensor):
            parts.extend(_plain(key, inner) for key, inner in vars(value).items())
    for sub in module.modules():
        parts.append(type(sub))
        state = vars(sub)
        for key, value in state.items():
            if key not in _BOOKKEEPING:
                parts.append(_plain(key, value))
        for hooks in (sub._forward_hooks, sub._forward_pre_hooks):
            parts.append(tuple(hooks))  # numbers that are never given twice
        for name, child in sub._modules.items():
            parts.append((name, None if child is None else _Ref(child)))
        for tensors in (sub._parameters, sub._buffers):
            for name, tensor in tensors.items():
                parts.append(None if tensor is None else (name, *_content(tensor)))
    return tuple(parts)


class _Ref(weakref.ref):
    """Which object it was, also after that is gone and another one lies at its address."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        found = self()
        return found is not None and isinstance(other, _Ref) and found is other()

    __hash__ = weakref.ref.__hash__  # that of the object, which is kept


def _plain(key: str, value: Any) -> Hashable:
    """An attribute as a part of the key; None for what may change at every call, such as tensors."""
    if isinstance(value, _PLAIN):
        return key, value
    if isinstance(value, (tuple, list)) and all(isinstance(v, _PLAIN) for v in value):
        return (key, *value)
    if callable(value) and not isinstance(value, (nn.Module, Tensor)):
        return key, id(value)
    return None


def _content(tensor: Tensor) -> tuple:
    """A tensor's identity, form and version, without reading it."""
    try:
        return (
            _Ref(tensor), tensor._version, tensor.data_ptr(), tensor.shape, tensor.dtype,
            tensor.requires_grad,
        )  # fmt: skip
    except (RuntimeError, ValueError):  # lazy, made in inference mode, on ``meta``, sparse
        shape = () if nn.parameter.is_lazy(tensor) else tensor.shape
        return _Ref(tensor), shape, tensor.dtype, tensor.device, tensor.requires_grad


def settings_of(holder: object, *left_out: str) -> tuple[Hashable, ...]:
    """Returns the type and the attributes of an object as a key, such as an adapter's options.

    Plain values count by what they are, tensors by identity and version, anything else by identity.

    Args:
        holder: the object
        *left_out: names of attributes that do not matter
    """
    rows = [(k, v) for k, v in sorted(vars(holder).items()) if k not in left_out]
    return (type(holder), *((key, _part(value)) for key, value in rows))


def _part(value: Any) -> Hashable:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(map(_part, value))
    if isinstance(value, Mapping):
        return tuple((_part(k), _part(v)) for k, v in value.items())
    if isinstance(value, Tensor):
        return _content(value)
    try:
        reference = _Ref(value)
        hash(reference)
    except TypeError:  # it has no weak references, or no hash
        return id(value)
    return reference


# Signatures of the models that this thread is using, by id.
_CURRENT = threading.local()


@contextlib.contextmanager
def one_signature(module: nn.Module) -> Iterator[None]:
    """Inside, a model's signature is read once: what happens to it meanwhile is no edit.

    Nor is what it does to itself when it runs, such as counting its calls.

    Args:
        module: the model, inside :func:`cam_core.network.plain_run.plain_run` where that matters
    """
    known: dict[int, Hashable] = getattr(_CURRENT, "known", {})
    if id(module) in known:
        yield
        return
    before = signature(module)
    _CURRENT.known = {**known, id(module): before}
    try:
        yield
    finally:
        _CURRENT.known = known
        after = signature(module)
        if after != before:
            for cache in ModelCache.all:
                cache.rename(module, before, after)


class ModelCache:
    """What was found out about models, forgotten when a model goes or is another one by now.

    Example::

        _PROBED = ModelCache()
        known = _PROBED.of(module)      # a dict, empty if the module was edited since
        known[key] = expensive(module)

    Of each model only what belongs to its present state is kept.
    """

    #: every cache
    all: ClassVar[weakref.WeakSet[ModelCache]] = weakref.WeakSet()

    def __init__(self) -> None:
        ModelCache.all.add(self)
        self._states: weakref.WeakKeyDictionary[nn.Module, tuple[Hashable, dict]] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, module: nn.Module) -> dict:
        """Returns the entries of a model as it is now; write into the dict to add one.

        Args:
            module: the model
        """
        known = getattr(_CURRENT, "known", {}).get(id(module))
        key = signature(module) if known is None else known
        state = self._states.get(module)
        if state is None or state[0] != key:
            state = self._states[module] = (key, {})
        return state[1]

    def rename(self, module: nn.Module, before: Hashable, after: Hashable) -> None:
        """Keeps the entries of a model under another signature.

        Args:
            module: the model
            before: its signature when the entries were made
            after: its signature now
        """
        state = self._states.get(module)
        if state is not None and state[0] == before:
            self._states[module] = (after, state[1])
