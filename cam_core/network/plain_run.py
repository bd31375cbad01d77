"""Running a network as the plain modules it is made of, whatever was put around them.

A compiled part shows hooks nothing of what is inside, a replica is another module than the one that
was hooked, and a checkpointed part runs a second time during the backward, when hooks and rules are
gone. None of them changes a result, so inside :func:`plain_run` they are as if they were not there.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn

_COMPILED = "_orig_mod"


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the network inside ``torch.compile`` and ``DataParallel``; a plain one as it is.

    Args:
        model: a module
    """
    while (inside := _inside(model)) is not None:
        model = inside
    return model


def _inside(module: nn.Module) -> nn.Module | None:
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return module.module
    if type(module).__name__ == "OptimizedModule":
        return module.get_submodule(_COMPILED)
    return None


def plain_layers(module: nn.Module, layers: Any) -> Any:
    """Names layers as the plain network does, where they are named through a wrapper.

    ``"_orig_mod.layer4"``, ``"backbone._orig_mod.layer4"`` and ``"module.layer4"`` are what a compiled
    or a parallel network calls its ``"layer4"``.

    Args:
        module: the plain network, inside :func:`plain_run`
        layers: a name, a module or a list of them
    """
    if isinstance(layers, (list, tuple)):
        return [plain_layers(module, layer) for layer in layers]
    if isinstance(layers, nn.Module):
        return unwrapped(layers)
    if not isinstance(layers, str):
        return layers
    known = {name for name, _ in module.named_modules()}
    parts = [part for part in layers.split(".") if part != _COMPILED]
    while "module" in parts and ".".join(parts).partition(":")[0] not in known:
        parts.remove("module")
    found = ".".join(parts)
    # a name that is not there stays as it was given, for the message about it
    return found if found.partition(":")[0] in known or _COMPILED in layers else layers


@contextlib.contextmanager
def plain_run(module: nn.Module) -> Iterator[None]:
    """Inside, a network runs without compiled parts, replicas and gradient checkpointing.

    Parts that are wrapped by ``torch.compile`` or ``DataParallel`` stand in their wrapper's place, so
    their layers' names are without ``_orig_mod``; what is compiled in place or inside a forward runs as
    it was written. Afterwards everything is as it was, also when something raises.

    Args:
        module: the network, without wrappers of its own: see :func:`unwrapped`
    """
    wrapped, compiled = [], []
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child is not None and (inside := unwrapped(child)) is not child:
                wrapped.append((parent, name, child, inside))
        if getattr(parent, "_compiled_call_impl", None) is not None:
            compiled.append((parent, parent._compiled_call_impl))
    try:
        for parent, name, _, inside in wrapped:
            parent._modules[name] = inside
        for parent, _ in compiled:
            parent._compiled_call_impl = None
        with _EAGER, _UNCHECKED:
            yield
    finally:
        for parent, name, child, _ in wrapped:
            parent._modules[name] = child
        for parent, call in compiled:
            parent._compiled_call_impl = call


class _Shared:
    """A setting of the whole process: made by the first thread that needs it, undone by the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._change()
            self._users += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._undo()

    def _change(self) -> None:
        raise NotImplementedError

    def _undo(self) -> None:
        raise NotImplementedError


class _Eager(_Shared):
    """Compiled functions run as they were written: slower, with the same result."""

    _stance: Any = None

    def _change(self) -> None:
        # Whoever compiled anything has imported it; it takes seconds.
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            self._stance = torch.compiler.set_stance("force_eager")
            self._stance.__enter__()

    def _undo(self) -> None:
        if self._stance is not None:
            self._stance.__exit__(None, None, None)
            self._stance = None


class _Unchecked(_Shared):
    """``torch.utils.checkpoint`` just calls its function, in threads that are inside."""

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[str, Any] = {}
        self._inside = threading.local()

    def __enter__(self) -> None:
        super().__enter__()
        self._inside.depth = getattr(self._inside, "depth", 0) + 1

    def __exit__(self, *exc: object) -> None:
        self._inside.depth -= 1
        super().__exit__(*exc)

    def _change(self) -> None:
        # ``checkpoint`` itself was imported by name all over; what it calls was not.
        for name, stand_in in _STAND_INS.items():
            own = getattr(torch.utils.checkpoint, name, None)
            if own is not None:
                self._before[name] = own
                setattr(torch.utils.checkpoint, name, stand_in(self._is_inside, own))

    def _undo(self) -> None:
        for name, own in self._before.items():
            setattr(torch.utils.checkpoint, name, own)
        self._before.clear()

    def _is_inside(self) -> bool:
        return getattr(self._inside, "depth", 0) > 0


class _Reentrant:
    """Stands for ``CheckpointFunction``, which runs a function without a graph."""

    def __init__(self, inside: Callable[[], bool], own: Any):
        self._inside, self._own = inside, own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def apply(self, function: Callable, preserve: bool, *args: Any) -> Any:
        if self._inside():
            return function(*args)
        return self._own.apply(function, preserve, *args)


def _prepared(inside: Callable[[], bool], own: Any) -> Callable:
    """Stands for the generator that prepares a checkpoint before the function and ends it after."""

    def generator(*args: Any, **kwargs: Any) -> Any:
        return iter([None]) if inside() else own(*args, **kwargs)

    return generator


_STAND_INS: dict[str, Callable] = {
    "CheckpointFunction": _Reentrant,
    "_checkpoint_without_reentrant_generator": _prepared,
    "_checkpoint_without_reentrant_generator_impl": _prepared,
}
_EAGER, _UNCHECKED = _Eager(), _Unchecked()
