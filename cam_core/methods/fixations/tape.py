"""Following a decision back through a network, from one neuron to the pixels that made it.

One forward is recorded operation by operation, beneath modules and whatever Python runs between
them, so that any network of known operations can be followed; :mod:`cam_core.methods.fixations.rules` knows
the operations. All neurons of a batch are traced back at once.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from ...network.forward_call import is_scripted
from .rules import RULES, SAVES_OUTPUT
from .steps import Step, Traced, Value, is_spread

POOLINGS = ("strongest", "all")


class Tape(TorchDispatchMode):
    """Records a forward: which operation made which tensor, and what is needed to go back.

    Use it as a context around the forward, under ``no_grad``, then call :meth:`trace`. Nothing of
    the model is changed; an operation that is not understood matters only if a trace meets it.

    Args:
        images: (N, ...) the tensor the model is called with
        module: the model, to name places in messages
        pooling ("strongest"): through an average to its strongest position, or to ``"all"`` that
            contribute
    """

    def __init__(self, images: Tensor, module: nn.Module, pooling: str = "strongest"):
        super().__init__()
        self._module = module
        self._pooling = pooling
        self._steps: list[Step] = []
        self._count = 0
        self._values: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._kept: dict[int, list[Value]] = {}  # by storage: what a later write would spoil
        self._written: list[Tensor] = []  # constants that received something of the images
        self._where: list[str] = []
        self._hooks: list[Any] = []
        self._values[images] = self._new(images)

    def __enter__(self) -> Tape:
        for name, module in self._module.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                self._hooks += self._watch(module, name)
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:
        with contextlib.ExitStack() as stack:
            for handle in self._hooks:
                stack.callback(handle.remove)
            self._hooks = []
            super().__exit__(*exc)

    def _watch(self, module: nn.Module, name: str) -> list[Any]:
        if is_scripted(module):
            return []

        def enter(*_: Any) -> None:
            self._where.append(name)

        def leave(*_: Any) -> None:
            self._where.pop()

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Runs one operation; notes it if the images have to do with what it is given."""
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self._mark_written(given)
        if not any(t in self._values for t in given):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        written = _written(func, args, kwargs)
        # What an operation does in place is followed as if it had not been in place.
        rule = RULES.get(name if not written else name.removesuffix("_"))
        step = Step(
            func=func,
            args=() if rule is None else tree_map(self._noted, args),
            kwargs={} if rule is None else kwargs,
            rule=rule.follow if rule else None,
            pooling=self._pooling,
            where=self._where[-1] if self._where else "",
        )
        if rule is not None:
            for position in rule.keeps:
                self._keep(args[position], step.args[position])
        for tensor in written:
            self._save_before_write(tensor)
        result = func(*args, **kwargs)
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        if name in SAVES_OUTPUT:
            step.saved = outputs[1]
        known = [self._values[t] for t in given if t in self._values]
        spread = is_spread(name, known, outputs[0])
        for tensor in written:
            self._forget_aliases(tensor)
        for output in outputs:
            value = self._new(output, spread)
            step.outputs.append(value)
            if isinstance(output, Tensor):
                self._values[output] = value
        self._steps.append(step)
        return result

    def _new(self, tensor: Any, spread: bool = False) -> Value:
        self._count += 1
        return Value(self._count, getattr(tensor, "shape", torch.Size()), spread)

    def _noted(self, leaf: Any) -> Any:
        """A tensor's value without its numbers, where it depends on the images."""
        return self._values.get(leaf, leaf) if isinstance(leaf, Tensor) else leaf

    def _keep(self, tensor: Any, value: Any) -> None:
        if isinstance(value, Value) and value.tensor is None:
            value.tensor = tensor
            self._kept.setdefault(tensor.untyped_storage().data_ptr(), []).append(value)

    def _save_before_write(self, tensor: Tensor) -> None:
        for value in self._kept.pop(tensor.untyped_storage().data_ptr(), []):
            if value.tensor is not None:
                value.tensor = value.tensor.clone()
        if tensor not in self._values:
            self._written.append(tensor)

    def _forget_aliases(self, tensor: Tensor) -> None:
        """Other views of a tensor that was written to: where they come from is not known."""
        place = tensor.untyped_storage().data_ptr()
        for other in list(self._values):
            if other is not tensor and other.untyped_storage().data_ptr() == place:
                self._unknown(other)

    def _mark_written(self, given: list[Tensor]) -> None:
        places = {t.untyped_storage().data_ptr() for t in self._written}
        for tensor in given:
            if tensor not in self._values and tensor.untyped_storage().data_ptr() in places:
                self._unknown(tensor)

    def _unknown(self, tensor: Tensor) -> None:
        value = self._new(tensor)
        where = self._where[-1] if self._where else ""
        self._steps.append(Step("a write into part of a tensor", (), {}, None, "", where, [value]))
        self._values[tensor] = value

    def trace(self, start: Tensor, index: Tensor) -> Tensor:
        """Goes back from neurons to the images.

        Args:
            start: a tensor that the recorded forward computed, such as the class scores
            index: (F,) int64 neurons in it, counted through the flattened tensor

        Returns:
            (G,) int64 the places in the flattened images that the traces end at, each once

        Raises:
            ValueError: if ``start`` was not computed from the images, or a trace meets an operation
                that is not understood
        """
        value = self._values.get(start)
        if value is None:
            raise ValueError(
                "model: its scores are not computed from the images by operations that can be "
                "followed back; use a gradient method such as 'gradcam'"
            )
        pending = {value.slot: [Traced(index, torch.ones_like(index))]}
        for step in reversed(self._steps):
            for number, output in enumerate(step.outputs):
                if output.slot not in pending:
                    continue
                here = _merged(pending.pop(output.slot))
                for source, traced in step.follow(number, here):
                    if len(traced.index):
                        pending.setdefault(source.slot, []).append(traced)
        ends = pending.get(1)
        return index.new_empty(0) if ends is None else _merged(ends).index.unique()


def _merged(parts: list[Traced]) -> Traced:
    """Every neuron once for each sign."""
    index = torch.cat([part.index for part in parts])
    sign = torch.cat([part.sign for part in parts])
    code = (index * 2 + (sign > 0)).unique()
    return Traced(code.div(2, rounding_mode="floor"), code.remainder(2) * 2 - 1)


def _written(func: Any, args: tuple, kwargs: dict) -> list[Tensor]:
    """The tensors that an operation writes into."""
    found = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            found += [t for t in tree_leaves(value) if isinstance(t, Tensor)]
    return found
