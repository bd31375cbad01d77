"""How a network's scores end: as logits, or as the probabilities that a sigmoid or softmax makes of them.

What is explained is the logit: the gradient of a probability fades where the network is sure. How a
network ends is read off the graph of one small forward, where the last operations have names; values
in [0, 1] alone prove nothing. The logit is what went into the last call of the sigmoid or softmax, or
where that cannot be had it is computed back from the probability.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: what a user may say that the scores are
ENDINGS = ("logits", "sigmoid", "softmax")


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredOutputs:
    """What a network returned for N images, with the logits behind its probabilities.

    Attributes:
        module_outputs: what the module returned
        logits: (N,), (N, C) or (N, C, h, w) scores of any size
        cut: logit from which on a class is there, where classes do not exclude each other
        independent: whether they do not
    """

    module_outputs: Any
    logits: Tensor
    cut: float = 0.0
    independent: bool = False


def are_scored(outputs: Any) -> bool:
    """Whether outputs are :class:`ScoredOutputs`, be it those of another copy of this package."""
    return hasattr(outputs, "module_outputs")


@dataclasses.dataclass(frozen=True)
class Ending:
    """What the scores of a network are.

    Attributes:
        kind: ``"logits"``, ``"sigmoid"``, ``"softmax"``, ``"log_sigmoid"`` or ``"log_softmax"``
        how: ``"operation"``, the last operation said so; ``"measured"``, the values did; ``"given"``
        back: which call of a sigmoid or softmax has the logits as its input, 0 for a forward's last;
            None where they are computed back from the probabilities
        row_shape: shape of one image's scores as the network returns them; None where it returns none
        refusal: why its scores cannot be used; None if they can
    """

    kind: str = "logits"
    how: str = "operation"
    back: int | None = None
    row_shape: tuple[int, ...] | None = None
    refusal: str | None = None

    @property
    def independent(self) -> bool:
        """Whether each output is a probability of its own."""
        return self.kind in ("sigmoid", "log_sigmoid")

    @property
    def width(self) -> int | None:
        """How many outputs an image has; None where that is not known."""
        if self.row_shape is None:
            return None
        return self.row_shape[0] if len(self.row_shape) in (1, 3) else 1

    def logits_of(self, scores: Tensor) -> Tensor:
        """Computes logits back from what the network returned.

        A probability of exactly 0 or 1 is taken for the nearest one that is neither; its gradient is 0.
        """
        return _INVERSES[self.kind](scores)

    def told(self, multi_label: bool = False) -> str | None:
        """Says in words how the scores were understood; None for plain logits."""
        if self.kind == "logits":
            return None
        several = self.independent and self.width != 1
        if self.how == "operation":
            text = (
                f"the network ends in a {self.kind.replace('_', '-')}"
                + " for each output" * several
            )
        elif self.how == "given":
            text = f"the network's outputs are taken for probabilities (ends_in={self.kind!r})"
        else:
            text = "the network's outputs are probabilities that sum to 1"
        if several and multi_label:
            text += ", so that an image may have several labels"
        what = "the logit before it" if self.how == "operation" else "the logit"
        if self.back is not None:
            return f"{text}; what is explained is {what}"
        return (
            f"{text}; what is explained is {what}, computed back from the probability "
            "(where that is exactly 0 or 1 there is no gradient and no map)"
        )

    @property
    def explained(self) -> str:
        """What the explained score is, for the run's record."""
        if self.kind == "logits":
            return "the output"
        if self.back is not None:
            return "the logit before it"
        return "the logit, computed back from the probability"


def _inner(values: Tensor) -> Tensor:
    """Probabilities that are neither 0 nor 1, in float32 at least."""
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    limits = torch.finfo(values.dtype)
    return values.clamp(limits.tiny, 1 - limits.eps / 2)


def _logit(values: Tensor) -> Tensor:
    inner = _inner(values)
    return inner.log() - (-inner).log1p()


def _logit_of_log(values: Tensor) -> Tensor:
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    inner = values.clamp_max(-torch.finfo(values.dtype).eps / 2)
    return inner - (-inner.expm1()).log()


_INVERSES: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda values: values,
    "sigmoid": _logit,
    "softmax": lambda values: _inner(values).log(),
    "log_sigmoid": _logit_of_log,
    "log_softmax": lambda values: values,
}
FORWARD: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda values: values.softmax(1),
    "log_sigmoid": F.logsigmoid,
    "log_softmax": lambda values: values.log_softmax(1),
}

_CALLS: frozenset[Callable] = frozenset(
    [
        torch.sigmoid, Tensor.sigmoid, torch.special.expit,
        torch.softmax, Tensor.softmax, F.softmax, torch.special.softmax,
        torch.log_softmax, Tensor.log_softmax, F.log_softmax, torch.special.log_softmax,
        F.logsigmoid,
    ]
)  # fmt: skip
_IN_PLACE: frozenset[Callable] = frozenset([torch.sigmoid_, Tensor.sigmoid_])


class Watch(TorchFunctionMode):
    """Remembers the last calls of sigmoid and softmax: what went in and what came out.

    Args:
        most: how many calls are remembered
    """

    def __init__(self, most: int):
        super().__init__()
        self.calls: collections.deque[tuple[Tensor, Tensor]] = collections.deque(maxlen=most)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Runs the function."""
        kwargs = kwargs or {}
        if func not in _CALLS and func not in _IN_PLACE:
            return func(*args, **kwargs)
        given = args[0] if args else kwargs["input"]
        if func in _IN_PLACE:
            given = given.clone()
        made = func(*args, **kwargs)
        self.calls.append((given, made))
        return made


def scored(
    ending: Ending, call: Callable[[], Any], find: Callable[[Any], Tensor]
) -> tuple[Any, Tensor]:
    """Runs a network that ends in probabilities.

    Args:
        ending: how it ends
        call: runs it
        find: finds the scores, with the batch in dimension 0, in what it returns

    Returns:
        what it returned, and the logits, in the shape of the scores
    """
    if ending.back is None:
        returned = call()
        return returned, ending.logits_of(find(returned))
    with Watch(ending.back + 1) as watch:
        returned = call()
    scores = find(returned)
    return returned, _before(ending, watch, scores)


def _before(ending: Ending, watch: Watch, scores: Tensor) -> Tensor:
    """What went into the last sigmoid or softmax, if that made these scores."""
    assert ending.back is not None
    if len(watch.calls) > ending.back:
        given, made = watch.calls[0]
        # A tap on the sigmoid itself cuts the graph between its input and the scores.
        whole = given.requires_grad or not scores.requires_grad
        if whole and given.numel() == scores.numel() and _same(ending.kind, made, given, scores):
            return given.reshape(scores.shape)
    return ending.logits_of(scores)


def _same(kind: str, made: Tensor, given: Tensor, scores: Tensor) -> bool:
    """Whether scores are what a call made: views of it, or copies with the same values."""
    if made.untyped_storage().data_ptr() == scores.untyped_storage().data_ptr():
        return True
    with torch.no_grad():
        again = FORWARD[kind](given.detach().float().reshape(scores.shape))
        return torch.allclose(again, scores.detach().float(), atol=1e-2, equal_nan=True)


def check_ends_in(ends_in: Any) -> None:
    """Raises a ValueError unless this is one of :data:`ENDINGS` or None."""
    if ends_in is not None and ends_in not in ENDINGS:
        raise ValueError(f"ends_in: {ends_in!r} is unknown; choose from {', '.join(ENDINGS)}")
