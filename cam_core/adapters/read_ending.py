"""Finding out how a network's scores end, and that they have a row for each image.

One forward of two images tells: the graph has the names of the last operations, and nothing that a
backward would need is kept. Where these say nothing, values decide only what they can prove.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..layers.layer import describe
from .ending import FORWARD, Ending, Watch

#: ``(outputs, dimensions or None) ->`` the scores in what a network returned, or None
Find = Callable[[Any, int | None], Tensor | None]

# Calls remembered while it is looked for the one that made the scores.
_REMEMBERED = 16
_SUM_TOLERANCE = 1e-3


@dataclasses.dataclass
class _Seen:
    """One forward, looked at: its outputs, its scores, its last calls."""

    outputs: Any
    scores: Tensor | None
    watch: Watch


def read_ending(
    call: Callable[[Tensor], Any],
    find: Find,
    images: Tensor,
    ends_in: str | None = None,
    quantities: bool = False,
) -> Ending:
    """Finds out how a network's scores end, and that they have the batch in dimension 0.

    Args:
        call: runs the network on images
        find: finds the scores in what it returns, of the wanted number of dimensions or, for None, of
            those that scores of a batch have
        images: (N, C, H, W), of which two are used; of one image it and its mirror image
        ends_in (None): what a user says that the scores are, one of :data:`ENDINGS`
        quantities (False): whether the scores are quantities, which are what they are

    Returns:
        an :class:`Ending`; with a ``refusal`` if dimension 0 of the scores is not the batch, if an
        image's scores depend on the images beside it, or if the scores may be probabilities and nothing
        tells: a user's own function of the outputs may be explained all the same

    Raises:
        ValueError: if ``ends_in`` contradicts what was found, or if the network fails for one image
    """
    try:
        seen = _look_at_two(call, find, images)
        if seen.scores is None:
            return Ending()
        row_shape = tuple(seen.scores.shape[1:])
        if quantities or not seen.scores.is_floating_point():
            return Ending(row_shape=row_shape)
        kind, how, back = _kind_of(seen, lambda: _stressed(call, find, images), ends_in)
    except _Refused as reason:
        return Ending(refusal=str(reason))
    return Ending(kind, how, back, row_shape)


class _Refused(Exception):
    """Why the scores of a network cannot be used."""


def _look_at_two(call: Callable[[Tensor], Any], find: Find, images: Tensor) -> _Seen:
    """A forward of two images whose scores have the batch in dimension 0."""
    first = images[:1]
    second = images[1:2] if len(images) > 1 else first.flip(-1)
    try:
        two = _look(call, find, torch.cat([first, second]))
    except Exception as error:  # a network exported for batches of another size
        seen = _look(call, find, images)
        _check_batch(seen, len(images), f"for two images it fails: {_short(error)}")
        return seen
    if two.scores is None:
        return two
    _check_batch(two, 2)
    ambiguous = two.scores.dim() == 1 or two.scores.shape[1] == 2
    squeezes = "Squeeze0" in _operations(two.scores)
    if ambiguous or squeezes:
        _check_alone(call, find, first, two, squeezes)
    return two


def _check_batch(seen: _Seen, count: int, more: str = "") -> None:
    if seen.scores is not None and (seen.scores.dim() == 0 or len(seen.scores) != count):
        images = "one image" if count == 1 else f"{count} images"
        raise _Refused(
            f"the model returned {describe(seen.outputs)} for {images}: the batch is not in dimension 0 of its "
            f"scores; return one row per image, (N, classes), without squeeze() or a mean over the batch"
            + (f" ({more})" if more else "")
        )


def _check_alone(
    call: Callable[[Tensor], Any],
    find: Find,
    image: Tensor,
    two: _Seen,
    squeezes: bool,
) -> None:
    """Refuses unless an image alone has the scores that it has beside another."""
    assert two.scores is not None
    row = two.scores[0].detach().float()
    try:
        outputs = _look(call, lambda outputs, dims: None, image).outputs
    except Exception as error:
        cause = (
            "its forward calls squeeze(), which drops the batch dimension of one image; write squeeze(-1) or "
            "flatten(1)"
            if squeezes
            else "its forward has to work for a batch of one"
        )
        raise ValueError(
            f"the model fails for one image and works for two ({_short(error)}): {cause}"
        ) from error
    alone = _row_of_one(outputs, find, tuple(row.shape))
    if alone is None:
        raise _Refused(
            f"the model returned {describe(outputs)} for one image and {describe(two.outputs)} for two: the batch "
            "is not in dimension 0 of its scores; return one row per image, (N, classes)"
        )
    if _close(alone, row):
        return
    again = _row_of_one(
        _look(call, lambda outputs, dims: None, image).outputs, find, tuple(row.shape)
    )
    if again is not None and _close(alone, again):
        raise _Refused(
            f"the model gives an image the scores {_few(alone)} alone and {_few(row)} beside another image: they "
            "depend on the batch, or the batch is not in dimension 0; return one row per image, (N, classes), "
            "without a mean or softmax over dimension 0"
        )


def _row_of_one(outputs: Any, find: Find, shape: tuple[int, ...]) -> Tensor | None:
    """The scores of one image in the shape that each of two has; None if they are none such."""
    for dims in (len(shape) + 1, len(shape)):
        found = find(outputs, dims)
        if found is not None and tuple(found.shape) in ((1, *shape), shape):
            return found.detach().float().reshape(shape)
    return None


def _close(one: Tensor, other: Tensor) -> bool:
    scale = float(other.abs().nan_to_num(0).amax()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=0, atol=0.05 * scale + 1e-4, equal_nan=True)


def _few(values: Tensor) -> str:
    flat = values.flatten().tolist()
    return f"({', '.join(f'{v:.3g}' for v in flat[:4])}{', ...' if len(flat) > 4 else ''})"


def _short(error: BaseException) -> str:
    error = error.__cause__ or error
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:120]}" if text else type(error).__name__


def _look(call: Callable[[Tensor], Any], find: Find, images: Tensor) -> _Seen:
    """Runs a network with the names of its operations, but without what a backward would need."""
    watch = Watch(_REMEMBERED)
    try:
        with torch.enable_grad(), _nothing_saved(), watch:
            outputs = call(images.clone().requires_grad_().clone())  # it may write into them
    except Exception:  # what cannot be differentiated may run all the same
        watch.calls.clear()
        with torch.no_grad(), watch:
            outputs = call(images.clone())
    return _Seen(outputs, find(outputs, None), watch)


def _nothing_saved() -> torch.autograd.graph.saved_tensors_hooks:
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, _unsaved)


def _unsaved(nothing: None) -> Tensor:
    raise RuntimeError("this forward is only looked at, it has no backward")


# Operations that leave every value what it is, in its order.
_RESHAPES = {
    "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Clone", "ToCopy", "Alias", "Clamp",
    "ClampMin", "ClampMax",
}  # fmt: skip
# Operations whose results lie between the smallest and the largest of what goes in.
_WITHIN = {
    *_RESHAPES, "Transpose", "Permute", "T", "Select", "Slice", "Index", "IndexSelect", "Expand",
    "AsStrided", "Unbind", "Split", "SplitWithSizes", "Flip", "Mean", "Cat", "Stack", "AvgPool2D",
    "AdaptiveAvgPool2D", "MkldnnAdaptiveAvgPool2D", "Amax", "Max", "MaxPool2DWithIndices", "AdaptiveMaxPool2D",
    "UpsampleBilinear2D", "UpsampleNearest2D",
}  # fmt: skip
# Operations whose results may be any number.
_ANY_VALUE = {
    "Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Mv", "Dot", "Convolution", "ConvolutionOverrideable",
    "MkldnnConvolution", "MkldnnLinear", "CudnnConvolution", "NativeBatchNorm", "CudnnBatchNorm",
    "NativeLayerNorm", "NativeGroupNorm",
}  # fmt: skip
# Operations that leave what may be any number without an upper or without a lower end: of sums one
# part is enough, of products every part has to be such a number.
_SUMS = {"Add", "Sub", "Rsub", "Neg"}
_PRODUCTS = {"Mul", "Div", "Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Softplus"}
_LAST = {
    "Sigmoid": "sigmoid", "Softmax": "softmax", "LogSigmoid": "log_sigmoid",
    "LogSoftmax": "log_softmax",
}  # fmt: skip
_LOGARITHMS = {"sigmoid": "log_sigmoid", "softmax": "log_softmax"}
_NAME = re.compile(r"Backward(\d*)$")


def _name_of(node: Any) -> str:
    return _NAME.sub("", node.name().rpartition("::")[2])


def _parents(node: Any) -> list[Any]:
    return [parent for parent, _ in node.next_functions if parent is not None]


def _ends_of(node: Any, reshaped: bool = True) -> Iterator[tuple[str, Any, bool]]:
    """What values come from: ``(kind, node, whether they are only reshaped since)`` for each source."""
    # Of probabilities that were scaled, subtracted and the like the kind is ``"changed"``.
    name = _name_of(node)
    if name in _LAST:
        yield _LAST[name], node, reshaped
    elif name in _ANY_VALUE:
        yield "any", node, reshaped
    elif name in _SUMS or name in _PRODUCTS:
        sources = {kind for parent in _parents(node) for kind, _, _ in _ends_of(parent)}
        unbounded = "any" in sources if name in _SUMS else sources == {"any"}
        changed = bool(sources) and sources <= {*FORWARD, "changed"}
        yield ("any" if unbounded else "changed" if changed else "unknown"), node, False
    elif name == "Log":
        for parent in _parents(node):
            for kind, _, _ in _ends_of(parent):
                yield _LOGARITHMS.get(kind, "unknown"), node, False
    elif name in _WITHIN and _parents(node):
        for parent in _parents(node):
            yield from _ends_of(parent, reshaped and name in _RESHAPES)
    else:
        yield "unknown", node, False


def _operations(scores: Tensor) -> set[str]:
    """The names of all operations behind scores, numbers kept: squeeze() is ``Squeeze0``."""
    found: set[str] = set()
    todo, known = [scores.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in known:
            continue
        known.add(node)
        found.add(_NAME.sub(r"\1", node.name().rpartition("::")[2]))
        todo += _parents(node)
    return found


def _kind_of(
    seen: _Seen, stressed: Callable[[], Tensor | None], ends_in: str | None
) -> tuple[str, str, int | None]:
    """(kind, how it is known, which call has the logits)."""
    scores = seen.scores
    assert scores is not None
    known, node = _known_kind(seen)
    if ends_in is not None:
        _check_given(ends_in, known, scores)
        if known not in FORWARD:
            return ends_in, "given", None
    if known in FORWARD:
        return known, "operation", _call_of(known, node, seen)
    if known == "any" or ends_in == "logits":
        return "logits", "operation", None
    if known == "changed" and not _within(scores):
        raise _Refused(
            "the model's scores are made of the result of a sigmoid or softmax and do not lie between 0 and 1, "
            f"for example {_few(scores[0].detach())}: say what they are, task='regression' for quantities or "
            "ends_in='logits' for class scores of any size, or let it return the probabilities themselves"
        )
    return _measured_kind(scores, stressed)


def _known_kind(seen: _Seen) -> tuple[str, Any]:
    """The kind that the last operations say, ``"any"`` or ``"unknown"``; and the one node of it."""
    scores = seen.scores
    assert scores is not None
    if scores.grad_fn is None:
        return _kind_without_graph(seen)
    ends = list(_ends_of(scores.grad_fn))
    kinds = {kind for kind, _, _ in ends}
    if len(kinds) != 1:
        return "unknown", None
    kind, node, reshaped = ends[0]
    one = node if len(ends) == 1 and reshaped else None
    values = scores.detach().float()
    width = values.shape[1] if values.dim() > 1 else 1
    if kind == "softmax" and (width == 1 or not _sums_to_one(values)):
        # One of its classes alone is a probability; several without the others are no distribution.
        return ("sigmoid" if width == 1 else "unknown"), None
    if kind == "log_softmax" and (width == 1 or not _sums_to_one(values.exp())):
        return ("any" if width > 1 else "unknown"), None
    return kind, one


def _kind_without_graph(seen: _Seen) -> tuple[str, Any]:
    """Of a forward without a graph: whether the scores lie where a remembered call put its result."""
    assert seen.scores is not None
    where = seen.scores.untyped_storage().data_ptr()
    for given, made in seen.watch.calls:
        if made.untyped_storage().data_ptr() != where or given.numel() != seen.scores.numel():
            continue
        for kind, function in FORWARD.items():
            values = seen.scores.float()
            if kind.endswith("softmax") and values.dim() < 2:
                continue
            if torch.allclose(function(given.float().reshape(values.shape)), values, atol=1e-3):
                return kind, made
    return "unknown", None


def _call_of(kind: str, node: Any, seen: _Seen) -> int | None:
    """Which remembered call has the logits as its input, checked; 0 for the last."""
    assert seen.scores is not None
    if node is None:
        return None
    scores = seen.scores.detach().float()
    for back, (given, made) in enumerate(reversed(seen.watch.calls)):
        if node is not made and node != made.grad_fn:
            continue
        if given.numel() != scores.numel():
            return None
        again = FORWARD[kind](given.detach().float().reshape(scores.shape))
        return back if torch.allclose(again, scores, atol=1e-2, equal_nan=True) else None
    return None


def _measured_kind(
    scores: Tensor, stressed: Callable[[], Tensor | None]
) -> tuple[str, str, int | None]:
    """The kind of scores whose last operation says nothing, from their values."""
    if not _within(scores):
        return "logits", "measured", None
    extreme = stressed()
    everything = [scores] if extreme is None else [scores, extreme]
    if all(v.dim() > 1 and v.shape[1] > 1 and _sums_to_one(v) for v in everything):
        return "softmax", "measured", None
    if extreme is not None and not _within(extreme):
        return "logits", "measured", None
    raise _Refused(
        f"the model's scores lie between 0 and 1 for every image tried ({_few(scores[0].detach())}, also for "
        "noise), and neither a sigmoid nor a softmax was seen at its end: they may be probabilities. Say what "
        "they are: ends_in='sigmoid', 'softmax' or 'logits', or task='regression' for quantities"
    )


def _within(scores: Tensor) -> bool:
    values = scores.detach().float()
    values = values[values.isfinite()]
    return bool(((values >= 0) & (values <= 1)).all())


def _sums_to_one(scores: Tensor) -> bool:
    values = scores.detach().float()
    if not _within(values):
        return False
    return bool(((values.sum(1) - 1).abs() <= _SUM_TOLERANCE).all())


def _stressed(call: Callable[[Tensor], Any], find: Find, images: Tensor) -> Tensor | None:
    """Scores of inputs far from any image, which logits answer with any number; None if it fails."""
    image = images[:1]
    generator = torch.Generator().manual_seed(51)
    noise = torch.randn(image.shape, generator=generator).to(image)
    inputs = torch.cat([-10 * image, 100 * image, 5 * noise, -100 * noise])
    try:
        with torch.no_grad():
            return find(call(inputs), None)
    except Exception:  # then there is less to go by, and it is asked for
        return None


def _check_given(ends_in: str, known: str, scores: Tensor) -> None:
    """Raises a ValueError if what a user says contradicts what was found."""
    if ends_in == known or (ends_in == "logits" and known not in ("sigmoid", "softmax")):
        return
    if known in FORWARD:
        raise ValueError(
            f"ends_in: {ends_in!r} was given, and the last operation of this network is a "
            f"{known.replace('_', '-')}; leave it out"
        )
    if not _within(scores):
        raise ValueError(
            f"ends_in: {ends_in!r} was given, and the model's scores are no probabilities, for example "
            f"{_few(scores[0].detach())}; leave it out"
        )
    wide = scores.dim() > 1 and scores.shape[1] > 1
    if ends_in == "softmax" and not (wide and _sums_to_one(scores)):
        raise ValueError(
            f"ends_in: 'softmax' was given, and an image's scores do not sum to 1 ({_few(scores[0].detach())}); "
            "for probabilities that do not, give ends_in='sigmoid'"
        )
