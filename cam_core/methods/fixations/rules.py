"""How single operations are followed back: from neurons of the result to neurons of what went in.

A neuron is traced as ``(index, sign)``: its place in the flattened tensor, and whether what makes it
large (1) or small (-1) is asked for. Going back through a negative weight turns the sign around, so
that in a linear network the trace ends where the score comes from. A trace ends early where nothing
supports it: where a bias alone made the neuron what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .steps import (
    MATRIX_PRODUCTS,
    Found,
    Rule,
    Step,
    Traced,
    Value,
    coordinates,
    entries,
    flat_places,
    numbers,
)


def _passed(step: Step, number: int, traced: Traced) -> Found:
    """Through what treats every number by itself, rising: activation functions, copies."""
    (value,) = [a for a in tree_leaves(step.args) if isinstance(a, Value)][:1]
    if number or value.shape != step.outputs[0].shape:
        raise step.not_understood()
    return [(value, traced)]


def _same_places(step: Step, number: int, traced: Traced) -> Found:
    """Through another layout of a 1 x 1 map, as global pooling gives it in channels_last."""
    if step.args[0].shape[2:].numel() != 1:
        raise step.not_understood()
    return _passed(step, number, traced)


def _class_scores(step: Step, number: int, traced: Traced) -> Found:
    """Through a softmax over classes to the same class; a softmax of attention is something else."""
    if len(step.args[0].shape) != 2:
        raise step.not_understood()
    return _passed(step, number, traced)


def _negated(step: Step, number: int, traced: Traced) -> Found:
    if sum(isinstance(a, Value) for a in step.args) > 1:
        raise step.not_understood()
    return [(value, Traced(t.index, -t.sign)) for value, t in _passed(step, number, traced)]


def _moved(step: Step, number: int, traced: Traced) -> Found:
    """Through what only moves numbers: the operation itself moves their places, from 1; 0 is none."""
    # Padding by reflection exists for floating point only, which is exact up to 2^53.
    kind = torch.float64 if "pad" in str(step.func) else torch.int64
    values: list[tuple[Value, int]] = []
    total = 1

    def places(leaf: Any) -> Any:
        nonlocal total
        if isinstance(leaf, Value):
            count = leaf.shape.numel()
            values.append((leaf, total))
            total += count
            return torch.arange(total - count, total, dtype=kind).view(leaf.shape)
        return (
            torch.zeros_like(leaf, dtype=kind, device="cpu") if isinstance(leaf, Tensor) else leaf
        )

    args = tree_map(places, step.args)
    if str(step.func).startswith("aten.constant_pad_nd"):
        args = args[:2]
    moved = step.func(*args, **step.kwargs)
    moved = moved[number] if isinstance(moved, (tuple, list)) else moved
    place = moved.reshape(-1).long().to(traced.index.device)[traced.index]
    found = []
    for value, first in values:
        here = (place >= first) & (place < first + value.shape.numel())
        found.append((value, Traced(place[here] - first, traced.sign[here])))
    return found


def _scaled(step: Step, number: int, traced: Traced) -> Found:
    """Through a normalisation, whose scale per channel may turn the sign around."""
    value, weight = step.args[0], step.args[1]
    channel = torch.unravel_index(traced.index, value.shape)[1]
    if str(step.func).startswith("aten.native_layer_norm"):
        weight = step.args[2]
        channel = traced.index
    if number:
        raise step.not_understood()
    if weight is None:
        return [(value, traced)]
    sign = weight.detach().reshape(-1)[channel % weight.numel()].sign().long() * traced.sign
    return [(value, Traced(traced.index, sign)[sign != 0])]


def _best(contributions: Tensor) -> tuple[Tensor, Tensor]:
    """(F, K) -> (F,) which is largest, and whether it is positive."""
    most, which = contributions.max(1)
    return which, most > 0


def _convolution(step: Step, number: int, traced: Traced) -> Found:
    """To the channel that contributes most, and in it to the position that does."""
    value, weight, _, stride, padding, dilation, transposed, _, groups = step.args
    if transposed or weight.dim() != 4 or isinstance(weight, Value):
        raise step.not_understood()
    shape, (outputs, channels, height, width) = value.shape, weight.shape
    offsets = torch.arange(channels, device=traced.index.device)
    found = []
    for part in traced.chunks(weight[0].numel()):
        image, channel, y, x = torch.unravel_index(part.index, step.outputs[0].shape)
        ys = _window(y, stride[0], padding[0], dilation[0], height, shape[2])
        xs = _window(x, stride[1], padding[1], dilation[1], width, shape[3])
        sources = (channel // (outputs // groups) * channels)[:, None] + offsets
        seen = numbers(value)[
            image[:, None, None, None],
            sources[:, :, None, None],
            ys.clamp_min(0)[:, None, :, None],
            xs.clamp_min(0)[:, None, None, :],
        ]
        weights = weight.detach()[channel].float()
        product = seen.float() * weights * part.sign[:, None, None, None]
        inside = ((ys >= 0)[:, :, None] & (xs >= 0)[:, None, :]).flatten(1)
        product = product.flatten(2).masked_fill(~inside[:, None], 0)
        rows = torch.arange(len(product), device=product.device)
        strongest = product.sum(2).argmax(1)
        position, supported = _best(product[rows, strongest])
        place = flat_places(
            (
                image,
                sources[rows, strongest],
                ys[rows, position // width],
                xs[rows, position % width],
            ),
            shape,
            part.index,
        )
        sign = part.sign * weights.flatten(2)[rows, strongest, position].sign().long()
        found.append((value, Traced(place, sign)[supported]))
    return found


def _window(
    start: Tensor, stride: int, padding: int, dilation: int, size: int, limit: int
) -> Tensor:
    """(F, size) positions that outputs look at along one axis, -1 outside."""
    offsets = torch.arange(size, device=start.device) * dilation - padding
    positions = start[:, None] * stride + offsets
    return torch.where((positions >= 0) & (positions < limit), positions, -1)


def _linear(value: Value, weight: Tensor, traced: Traced, shape: torch.Size) -> Found:
    """To all neurons that contribute; where these are places of a map, to the one that does most."""
    found = []
    for part in traced.chunks(weight.shape[1]):
        row, output = torch.unravel_index(part.index, shape)
        weights = weight.detach()[output].float()
        product = numbers(value)[row].float() * weights * part.sign[:, None]
        if value.spread:
            column, supported = _best(product)
            which = torch.arange(len(product), device=product.device)[supported]
            column = column[supported]
        else:
            which, column = (product > 0).nonzero(as_tuple=True)
        sign = part.sign[which] * weights[which, column].sign().long()
        code = ((row[which] * weight.shape[1] + column) * 2 + (sign > 0)).unique()
        found.append((value, Traced(code // 2, code % 2 * 2 - 1)))
    return found


def _product_with_matrix(step: Step, number: int, traced: Traced) -> Found:
    value, weight = step.args[-2:]
    if not isinstance(value, Value) or isinstance(weight, Value) or len(value.shape) != 2:
        raise step.not_understood()
    return _linear(value, weight.mT, traced, step.outputs[0].shape)


def _sum(step: Step, number: int, traced: Traced) -> Found:
    """Through an addition to the operand that adds most."""
    factor = step.kwargs.get("alpha", 1)
    factor = -factor if "sub" in str(step.func) else factor
    operands = list(zip(step.args[:2], (1, factor), strict=True))
    shape = step.outputs[0].shape
    followed = [(value, by) for value, by in operands if isinstance(value, Value)]
    if len(followed) == 1:
        value, by = followed[0]
        return [(value, _broadcast(value, traced, shape, 1 if by > 0 else -1))]
    amounts = [entries(v, traced.index, shape) * by * traced.sign for v, by in followed]
    which, supported = _best(torch.stack(amounts, 1))
    return [
        (value, _broadcast(value, traced[supported & (which == k)], shape, 1 if by > 0 else -1))
        for k, (value, by) in enumerate(followed)
    ]


def _product(step: Step, number: int, traced: Traced) -> Found:
    """Through a multiplication to the larger tensor; a gate of fewer numbers is not followed."""
    shape = step.outputs[0].shape
    followed = [a for a in step.args[:2] if isinstance(a, Value)]
    value = max(followed, key=lambda v: v.shape.numel())
    if "div" in str(step.func) and value is not step.args[0]:
        raise step.not_understood()
    other = step.args[1] if value is step.args[0] else step.args[0]
    sign = entries(other, traced.index, shape).sign().long()
    return [(value, _broadcast(value, traced[sign != 0], shape, sign[sign != 0]))]


def _broadcast(value: Value, traced: Traced, shape: torch.Size, sign: Any) -> Traced:
    place = flat_places(coordinates(traced.index, shape, value.shape), value.shape, traced.index)
    return Traced(place, traced.sign * sign)


def _contributing(
    every: Tensor, traced: Traced, amounts: Tensor, place: Callable[[Tensor, Tensor], Tensor]
) -> Traced:
    """Through an average: to its strongest contribution, or (``every``) to all that are positive."""
    strongest = torch.zeros_like(amounts, dtype=torch.bool)
    strongest.scatter_(1, amounts.argmax(1, keepdim=True), True)
    which, column = ((amounts > 0) & (strongest | every[:, None])).nonzero(as_tuple=True)
    return Traced(place(which, column), traced.sign[which])


def _alone(step: Step, traced: Traced) -> Tensor:
    """(F,) whether an average is followed to all its positions."""
    # So it is where one neuron is all that an image has: an average of the class's own map, where
    # the strongest position would be a single path to a single pixel.
    shape = step.outputs[0].shape
    image = traced.index // shape[1:].numel()
    single = torch.bincount(image, minlength=shape[0])[image] == 1
    return single if step.pooling == "strongest" else torch.ones_like(single)


def _reduced(step: Step, number: int, traced: Traced) -> Found:
    """Through a mean, sum or maximum over axes."""
    value = step.args[0]
    shape = value.shape
    given = step.args[1] if len(step.args) > 1 else None
    given = [given] if isinstance(given, int) else given
    if number or not isinstance(given, (list, tuple)):
        raise step.not_understood()
    gone = sorted(axis % len(shape) for axis in given)
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    if not gone or 0 in gone:
        raise step.not_understood()
    rest, window = (torch.Size([shape[a] for a in axes]) for axes in (kept, gone))
    table = numbers(value).permute(*kept, *gone).reshape(rest.numel(), -1)
    every = _alone(step, traced)
    found = []
    for rows in traced.slices(window.numel()):
        part = traced[rows]

        def place(which: Tensor, column: Tensor, index: Tensor = part.index) -> Tensor:
            axes = dict(zip(kept, torch.unravel_index(index[which], rest), strict=True))
            axes |= dict(zip(gone, torch.unravel_index(column, window), strict=True))
            return flat_places(tuple(axes[a] for a in range(len(shape))), shape, column)

        seen = table[part.index].float()
        if "max" in str(step.func):
            here = torch.arange(len(seen), device=seen.device)
            found.append((value, Traced(place(here, seen.argmax(1)), part.sign)))
        else:
            amounts = seen * part.sign[:, None]
            found.append((value, _contributing(every[rows], part, amounts, place)))
    return found


def _max_pool(step: Step, number: int, traced: Traced) -> Found:
    """To the position that was the maximum."""
    assert step.saved is not None
    if number or step.saved.dim() != 4:
        raise step.not_understood()
    value = step.args[0]
    inside = step.saved[torch.unravel_index(traced.index, step.saved.shape)]
    plane = step.saved.shape[2:].numel()
    place = traced.index // plane * value.shape[2:].numel() + inside
    return [(value, Traced(place, traced.sign))]


def _average_pool(step: Step, number: int, traced: Traced) -> Found:
    value = step.args[0]
    if len(value.shape) != 4:
        raise step.not_understood()
    limits, result = value.shape[2:], step.outputs[0].shape
    adaptive = "adaptive" in str(step.func)
    kernel = list(step.args[1])
    stride = list(step.args[2]) if len(step.args) > 2 and step.args[2] else kernel
    padding = list(step.args[3]) if len(step.args) > 3 else [0]
    every = _alone(step, traced)
    found = []
    for chunk in traced.slices(limits.numel() if adaptive else kernel[0] * kernel[-1]):
        part = traced[chunk]
        image, channel, *grid = torch.unravel_index(part.index, result)
        if adaptive:
            ys, xs = (_share(grid[k], result[2 + k], limits[k]) for k in (0, 1))
        else:
            ys, xs = (
                _window(
                    grid[k], stride[k and -1], padding[k and -1], 1, kernel[k and -1], limits[k]
                )
                for k in (0, 1)
            )
        seen = numbers(value)[
            image[:, None, None],
            channel[:, None, None],
            ys.clamp_min(0)[:, :, None],
            xs.clamp_min(0)[:, None, :],
        ]
        inside = (ys >= 0)[:, :, None] & (xs >= 0)[:, None, :]
        amounts = (seen.float() * part.sign[:, None, None]).masked_fill(~inside, 0).flatten(1)

        def place(which, column, at=(image, channel, ys, xs)):
            n, c, rows, columns = at
            y = rows[which, column // columns.shape[1]]
            return flat_places(
                (n[which], c[which], y, columns[which, column % columns.shape[1]]),
                value.shape,
                column,
            )

        found.append((value, _contributing(every[chunk], part, amounts, place)))
    return found


def _share(position: Tensor, outputs: int, limit: int) -> Tensor:
    """(F, size) what adaptive pooling averages along one axis, -1 beyond."""
    start = position * limit // outputs
    stop = -(-(position + 1) * limit // outputs)
    longest = -(-limit // outputs) + 1
    positions = start[:, None] + torch.arange(longest, device=position.device)
    return torch.where(positions < stop[:, None], positions, -1)


_ELEMENTWISE = (
    "relu hardtanh relu6 leaky_relu _prelu_kernel elu celu gelu silu hardswish hardsigmoid mish "
    "softplus sigmoid tanh clamp clamp_min clamp_max clone _to_copy detach alias lift_fresh"
)
_MOVES = (
    "view _unsafe_view _reshape_alias permute transpose t squeeze unsqueeze expand select slice "
    "split split_with_sizes unbind cat stack flip roll repeat constant_pad_nd reflection_pad2d "
    "replication_pad2d pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle"
)
_NORMS = (
    "native_batch_norm cudnn_batch_norm miopen_batch_norm native_group_norm native_layer_norm "
    "_native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_no_update"
)
SAVES_OUTPUT = ("max_pool2d_with_indices", "adaptive_max_pool2d")
RULES: dict[str, Rule] = {
    **{name: Rule(_passed) for name in _ELEMENTWISE.split()},
    **{name: Rule(_moved) for name in _MOVES.split()},
    **{name: Rule(_scaled) for name in _NORMS.split()},
    **{name: Rule(_reduced, (0,)) for name in ("mean", "sum", "amax", "max")},
    **{name: Rule(_max_pool) for name in SAVES_OUTPUT},
    **{name: Rule(_average_pool, (0,)) for name in ("avg_pool2d", "_adaptive_avg_pool2d")},
    **{name: Rule(_sum, (0, 1)) for name in ("add", "sub")},
    **{name: Rule(_product, (0, 1)) for name in ("mul", "div")},
    **{name: Rule(_class_scores) for name in ("_softmax", "_log_softmax")},
    "as_strided": Rule(_same_places),
    **{name: Rule(_negated) for name in ("neg", "rsub")},
    "convolution": Rule(_convolution, (0,)),
    **{n: Rule(_product_with_matrix, (k,)) for n, k in zip(MATRIX_PRODUCTS, (1, 0), strict=True)},
}
