"""What is known of a recorded operation, and of the neurons that are traced through it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

MATRIX_PRODUCTS = ("addmm", "mm")
_AT_ONCE = 1 << 22  # products looked at together


@dataclasses.dataclass
class Value:
    """A tensor of the forward, as it was when it was used.

    Attributes:
        slot: its number
        shape: its shape
        spread: whether its second axis runs over positions, as after flattening a map
        tensor (None): its numbers, where a rule needs them
    """

    slot: int
    shape: torch.Size
    spread: bool = False
    tensor: Tensor | None = None


@dataclasses.dataclass
class Traced:
    """Neurons of one tensor: (F,) int64 places in it flattened, (F,) signs."""

    index: Tensor
    sign: Tensor

    def __getitem__(self, rows: Any) -> Traced:
        return Traced(self.index[rows], self.sign[rows])

    def chunks(self, products: int) -> Iterator[Traced]:
        """Splits into parts for which ``products`` numbers each can be held."""
        for rows in self.slices(products):
            yield self[rows]

    def slices(self, products: int) -> Iterator[slice]:
        """The rows of these parts."""
        size = max(1, _AT_ONCE // max(1, products))
        for start in range(0, len(self.index), size):
            yield slice(start, start + size)


Found = list[tuple[Value, Traced]]


@dataclasses.dataclass
class Step:
    """One operation of the forward.

    Attributes:
        func: the operation
        args: what it was given, with a :class:`Value` in place of what depends on the images
        kwargs: likewise
        rule: how it is followed, None if it is not understood
        pooling: ``"strongest"`` or ``"all"``, for averages
        where: the module it ran in
        outputs: its results
        saved: its second result, where the rule needs it
    """

    func: Any
    args: tuple
    kwargs: dict
    rule: Callable[[Step, int, Traced], Found] | None
    pooling: str
    where: str
    outputs: list[Value] = dataclasses.field(default_factory=list)
    saved: Tensor | None = None

    def follow(self, number: int, traced: Traced) -> Found:
        """Goes from neurons of one of the results to those that made them.

        Raises:
            ValueError: if the operation is not understood
        """
        if self.rule is None:
            raise self.not_understood()
        return self.rule(self, number, traced)

    def not_understood(self) -> ValueError:
        """The error that says where a trace cannot go on."""
        place = f"module {self.where!r}" if self.where else "the model's forward"
        return ValueError(
            f"model: a decision cannot be followed back through {str(self.func)!r} in {place}; use a "
            "gradient method such as 'gradcam', or 'attention_rollout' for transformers"
        )


@dataclasses.dataclass(frozen=True)
class Rule:
    """How an operation is followed, and of which arguments it needs the numbers."""

    follow: Callable[[Step, int, Traced], Found]
    keeps: tuple[int, ...] = ()


def is_spread(name: str, given: list[Value], output: Any) -> bool:
    """Whether the second axis of a 2-D result runs over positions.

    Args:
        name: the operation's name
        given: the values that went in
        output: what came out
    """
    if name in MATRIX_PRODUCTS or not isinstance(output, Tensor) or output.dim() != 2:
        return False
    return any(
        value.spread if len(value.shape) == 2 else _flattened(value.shape, output.shape)
        for value in given
    )


def _flattened(before: torch.Size, after: torch.Size) -> bool:
    """Whether a map was laid out in rows; pooling leaves fewer numbers, a 1 x 1 map has no places."""
    return before.numel() == after.numel() and sum(size > 1 for size in before[1:]) > 1


def numbers(value: Value) -> Tensor:
    """The numbers of a value whose rule keeps them."""
    assert value.tensor is not None
    return value.tensor


def entries(operand: Any, index: Tensor, shape: torch.Size) -> Tensor:
    """(F,) float32 entries of an operand that was broadcast to a shape."""
    if isinstance(operand, Value):
        operand = numbers(operand)
    if not isinstance(operand, Tensor):
        return torch.full(index.shape, float(operand), device=index.device)
    return operand[coordinates(index, shape, operand.shape)].float()


def coordinates(index: Tensor, shape: torch.Size, own: torch.Size) -> tuple[Tensor, ...]:
    """Where entries of a broadcast tensor are in the one that was broadcast."""
    every = torch.unravel_index(index, shape)
    last = every[len(every) - len(own) :]
    return tuple(c if size > 1 else torch.zeros_like(c) for c, size in zip(last, own, strict=True))


def flat_places(axes: tuple[Tensor, ...], shape: torch.Size, like: Tensor) -> Tensor:
    """(F,) places in a flattened tensor, from one (F,) tensor per axis."""
    place = torch.zeros_like(like)
    for coordinate, size in zip(axes, shape, strict=True):
        place = place * size + coordinate
    return place
