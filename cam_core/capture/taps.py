"""Taps on target layers: activations, gradients and the state of the model around them.

A *tap* is a target layer while it is captured. No graph is recorded below the first tap, so frozen
models, callers inside ``no_grad`` or ``inference_mode``, and forwards that switch gradients off before
the tap just work, and nothing but the tail is differentiated.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.layer import Layer
from ..network.plain_run import plain_run

# How often a forward calls a tapped module, per module; a shared activation may be called everywhere,
# and tapping its earlier calls would start the graph at the first of them.
_CALLS: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


# Hooks and flags belong to the module, and a zoo hands out one object to everybody: two threads that
# explain it at once would see each other's activations.
_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_LOCKS_GUARD = threading.Lock()


def exclusive(module: nn.Module) -> threading.RLock:
    """Returns the lock of a module; whoever hooks into it or moves it holds this lock."""
    with _LOCKS_GUARD:
        return _LOCKS.setdefault(module, threading.RLock())


@contextlib.contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Puts a module into eval mode and gives it back as it came, also when something raises.

    Inside, it runs as the plain modules it is made of (see :mod:`cam_core.network.plain_run`). Training
    flags, buffers (content and identity) and ``requires_grad`` flags are restored.

    Args:
        module: the module to protect
    """
    with plain_run(module):
        yield from _restored(module)


def _restored(module: nn.Module) -> Iterator[None]:
    modules = list(module.modules())
    training = [(m, m.training) for m in modules]
    frozen = [
        (p, p.requires_grad) for m in modules for p in m._parameters.values() if p is not None
    ]
    buffers = _snapshot(modules)
    try:
        for submodule, _ in training:
            submodule.training = False
        yield
    finally:
        for submodule, flag in training:
            submodule.training = flag
        for parameter, flag in frozen:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)
        _restore(buffers)


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter requires grad: a graph begins where something else asks for one.

    Args:
        module: the module
    """
    thawed = [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in thawed:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)


def _snapshot(modules: list[nn.Module]) -> list[tuple]:
    """Remembers buffers and what is in them."""
    # The copies of one type and device are one tensor: a network has hundreds of small buffers, and
    # copying them one by one costs more than their content.
    rows: list[tuple] = []
    groups: dict[tuple, list[Tensor]] = {}
    for owner in modules:
        for name, buffer in owner._buffers.items():
            if buffer is None:
                continue
            group = groups.setdefault((buffer.device, buffer.dtype), [])
            rows.append((owner, name, buffer, _version(buffer), group, len(group)))
            group.append(buffer)
    with torch.no_grad():
        for group in groups.values():
            flat = torch.cat([buffer.reshape(-1) for buffer in group])
            group[:] = flat.split([buffer.numel() for buffer in group])
    return rows


def _restore(rows: list[tuple]) -> None:
    for owner, name, buffer, version, copies, number in rows:
        owner._buffers[name] = buffer
        if version is None or _version(buffer) != version:
            with torch.no_grad():
                buffer.copy_(copies[number].view_as(buffer))


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


class Taps:
    """Captures target layers during one forward; hooks are removed on exit.

    The module hands on ``tap.clone()``, so in-place operations that follow do not touch the tap. A
    layer called several times is tapped at its last call, or at the one that its name has.

    Args:
        layers: the layers to tap
        gradients (True): whether to start a graph at the first tap that completes
        early (None): the root, if gradients are to be on before that too, with its parameters frozen. A
            forward that leaves a ``no_grad`` of its own, in which the tap lies, comes back to this

    Attributes:
        interrupted: after the forward: whether gradients were off again behind a tap, so that the graph
            may have gaps; with ``early`` it has none
    """

    def __init__(self, layers: list[Layer], gradients: bool = True, early: nn.Module | None = None):
        self.layers = layers
        self.gradients = gradients
        self.early = early if gradients else None
        self.interrupted = False
        self.outputs: dict[str, Tensor] = {}
        self._calls: dict[nn.Module, int] = {}
        self._handles: list = []
        self._before = False
        self._frozen = contextlib.ExitStack()

    def __enter__(self) -> Taps:
        self.outputs.clear()
        self._calls.clear()
        for layer in self.layers:
            if isinstance(layer.module, torch.jit.ScriptModule):
                raise ValueError(
                    f"layers: {layer.name!r} is TorchScript (torch.jit.script or trace), which cannot be "
                    "observed; choose a layer around it, or put the module there that it was made from"
                )
        for layer in self.layers:
            self._handles.append(layer.module.register_forward_hook(self._hook(layer)))
        self._before = torch.is_grad_enabled()
        self.interrupted = False
        if self.early is not None:
            self._frozen.enter_context(frozen(self.early))
            torch.set_grad_enabled(True)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.outputs and self.gradients and not torch.is_grad_enabled():
            self.interrupted = True
        torch.set_grad_enabled(self._before)
        self._frozen.close()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if exc[0] is None:
            for module, count in self._calls.items():
                _CALLS[module] = count

    def _hook(self, layer: Layer) -> Callable:
        first = next(other for other in self.layers if other.module is layer.module) is layer

        def capture(module: nn.Module, args: tuple, output: Any) -> Any:
            if first:
                self._calls[module] = self._calls.get(module, 0) + 1
            wanted = layer.call_number(output)
            count = self._calls[module]
            last = _CALLS.get(module, 1)
            if count < last if wanted is None else count != wanted + 1:
                return None
            tensor = layer.pick(output)
            if not tensor.is_floating_point():
                way = "choose a layer that returns real numbers, list_layers(model) shows them"
                if tensor.is_quantized:
                    way = "explain the network as it was before it was quantised"
                raise ValueError(
                    f"layers: {layer.name!r} returns {_kind_of(tensor)}, of which there is no heatmap; {way}"
                )
            was_off = not torch.is_grad_enabled()
            with torch.inference_mode(False):  # gradients are on in here
                if tensor.is_inference():
                    tensor = tensor.clone()
                if self.gradients:
                    self.interrupted |= was_off and bool(self.outputs)
                    if not tensor.requires_grad:
                        # Nothing above this point needs a graph: it starts here. A tap that already
                        # has one stays in it, or gradients of the taps before it would be cut.
                        tensor = tensor.detach().requires_grad_()
                self.outputs[layer.name] = tensor
                handed_on = tensor.clone()
            if self.gradients:
                torch.set_grad_enabled(True)
            return layer.put(output, handed_on)

        return capture

    def missing(self) -> list[str]:
        """Names of the layers that the forward never called."""
        return [layer.name for layer in self.layers if layer.name not in self.outputs]


def _kind_of(tensor: Tensor) -> str:
    kind = "quantised " if tensor.is_quantized else "complex " if tensor.is_complex() else ""
    return f"{kind}numbers ({tensor.dtype})"


def gradients_of(score: Tensor, taps: list[Tensor], retain: bool) -> list[Tensor | None]:
    """Differentiates the sum of a score with respect to several taps at once.

    No ``.grad`` is written. Scores of half precision are scaled up before, and the gradients scaled
    back in float32, so that small gradients do not underflow.

    Args:
        score: (N,) scores
        taps: the tap tensors
        retain: whether the graph is needed again

    Returns:
        a float32 gradient per tap, or None where the score does not depend on it
    """
    half = any(t.dtype is torch.float16 for t in taps)
    scale = 1024.0 if half else 1.0
    # Under autocast a backward would be cast again, down to half where the forward was exact.
    with torch.autocast(score.device.type, enabled=False):
        # One number, not a gradient for each score: torch checks the shapes of these with SymPy, whose
        # import takes a second of the first call.
        with torch.enable_grad():
            total = (score * scale).sum() if half else score.sum()
        grads = torch.autograd.grad(total, taps, retain_graph=retain, allow_unused=True)
    return [None if g is None else g.float() / scale if half else g.float() for g in grads]
