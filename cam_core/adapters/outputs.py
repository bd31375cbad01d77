"""Finding the scores in whatever a model returns: tensors, dicts, dataclasses, tuples, lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..layers.layer import describe, entries_of, entry_of

#: how ``output=`` names the scores: a key, a position, a path ("head.0"), or a callable
OutputPath = str | int | Sequence[str | int] | Callable[[Any], Any] | None


def take(outputs: Any, path: OutputPath) -> Any:
    """Follows a path into a model's outputs.

    Args:
        outputs: what the model returned
        path: a key, an index, an attribute's name, several of them as a sequence or joined by dots,
            or a callable of the outputs

    Raises:
        ValueError: if a step does not exist; the message says what is there
    """
    if callable(path):
        return path(outputs)
    value = outputs
    for step in _steps(outputs, path):
        try:
            value = entry_of(value, step)
        except LookupError:
            raise ValueError(
                f"output: {path!r} has no {step!r} in what the model returned, "
                f"which is {describe(value)}; give a key, an index, a path such as 'head.0' or a callable"
            ) from None
    return value


def _steps(outputs: Any, path: Any) -> Sequence[str | int]:
    if isinstance(path, int):
        return [path]
    if isinstance(path, str):
        whole = isinstance(outputs, Mapping) and path in outputs  # a key may have dots in it
        return [path] if whole else path.split(".")
    return path


def find_scores(outputs: Any, dims: int = 2) -> Tensor | None:
    """Finds the one tensor of scores before softmax in a model's outputs.

    Args:
        outputs: what the model returned
        dims (2): dimensions of the scores: 2 for (N, classes), 4 for (N, classes, h, w). Where 2 are
            asked for, (N,) is found too

    Returns:
        the tensor, or None if there is none or more than one that could be meant
    """
    if isinstance(outputs, Tensor):
        return outputs if outputs.dim() == dims or outputs.dim() == dims - 1 == 1 else None
    entries = dict(entries_of(outputs))
    named = entries.get("logits", getattr(outputs, "logits", None))
    if named is not None:
        return find_scores(named, dims)
    if "cls_logits" in entries and "distillation_logits" in entries:
        # Trained with a teacher: at inference the two heads are averaged (Touvron et al., DeiT, 2021).
        return (entries["cls_logits"] + entries["distillation_logits"]) / 2
    found = [t for t in (find_scores(v, dims) for v in entries.values()) if t is not None]
    if len(found) == 2 and dims == 2:
        return _before_softmax(*found)
    return found[0] if len(found) == 1 else None


def _before_softmax(first: Tensor, second: Tensor) -> Tensor | None:
    """Which of two tensors the other is the softmax of; None if neither."""
    # A classifier may return its probabilities beside its logits, as Ultralytics' does in eval
    # mode.
    if first.shape != second.shape or first.dim() != 2:
        return None
    for logits, other in ((second, first), (first, second)):
        values = logits.detach().float().softmax(1)
        if torch.allclose(values, other.detach().float(), atol=1e-3):
            return logits
    return None
