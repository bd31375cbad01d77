"""A backward that carries places: from a cell straight to the pixel that its receptive field is centred on.

The true gradient of a cell spreads over its whole receptive field, which in a deep network is larger
than the image. For the *place* of a cell only the centre of that field matters. So the backward is run
with rules of its own: convolutions and pooling pass the gradient on through the middle of their kernel,
activations let it through, and attention passes on nothing: what lets a token keep its place is the
connection around it. Everything that moves values
(padding, strides, flips, crops, permutations, windows, resizing) stays as the network has it, however
it is written.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

# The derivative of these says how much passes, not where to: (gradient, ...) -> gradient.
_ACTIVATIONS = {
    _aten.threshold_backward.default,
    _aten.hardtanh_backward.default,
    _aten.hardswish_backward.default,
    _aten.gelu_backward.default,
    _aten.silu_backward.default,
    _aten.mish_backward.default,
    _aten.elu_backward.default,
    _aten.leaky_relu_backward.default,
}
_GATES = {_aten.sigmoid_backward.default, _aten.hardsigmoid_backward.default}
_NUMBERS = {
    Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__float__, Tensor.__index__, Tensor.__int__
}  # fmt: skip
_SOFTMAX = {_aten._softmax.default, _aten._safe_softmax.default}


# Numbers in a kernel up to which making it again costs more than keeping it.
_SMALL_KERNEL = 100_000

# Some of what is switched is the process's, not the thread's.
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def places_only(attention: float = 0.0, kernels: dict | None = None) -> Iterator[None]:
    """Forwards and backwards inside follow the rules above; parts run without a graph get one.

    Args:
        attention (0): what all tokens of an attention together pass on; more than zero for networks that
            normalise their attention once more
        kernels (None): remembers the changed kernels of small convolutions, for as long as none is trained
    """
    with _ONE_AT_A_TIME:
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            # The fused kernels of attention hide its softmax.
            with (
                sdpa_kernel(SDPBackend.MATH),
                _no_inference_mode(),
                _Attached(),
                _Rules(attention, {} if kernels is None else kernels),
            ):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _no_inference_mode() -> Iterator[None]:
    """In this thread, ``torch.inference_mode`` switches nothing on: its tensors have no gradient ever."""
    kind, thread = torch.inference_mode, threading.get_ident()
    enter, leave = kind.__enter__, kind.__exit__
    skipped: list[Any] = []

    def enter_unless_here(self: Any) -> None:
        if threading.get_ident() != thread or not self.mode:
            enter(self)
        else:
            skipped.append(self)

    def leave_unless_here(self: Any, *error: Any) -> None:
        if self in skipped:
            skipped.remove(self)
        else:
            leave(self, *error)

    kind.__enter__, kind.__exit__ = enter_unless_here, leave_unless_here  # type: ignore[method-assign]
    try:
        yield
    finally:
        kind.__enter__, kind.__exit__ = enter, leave  # type: ignore[method-assign]


class _Attached(TorchFunctionMode):
    """Keeps the graph where a model detaches, or switches it off for a frozen part."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch._C._set_grad_enabled:
            return None
        if func is Tensor.detach:
            return args[0]
        if func in _NUMBERS:  # of what was detached above, too: that is no reason to warn
            return func(args[0].data, *args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Rules(TorchDispatchMode):
    """The rules, below autograd: the network's own code stays as it is."""

    def __init__(self, attention: float, kernels: dict):
        super().__init__()
        self._attention, self._kernels = attention, kernels

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to say so PyTorch would import its compiler, for seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _ACTIVATIONS:
            return args[0].clone()
        if func in _GATES:
            # A gate over whole channels passes on what all places say together: of no place.
            gradient = args[0]
            whole = gradient.dim() <= 2 or gradient[0, 0].numel() == 1
            return torch.zeros_like(gradient) if whole else gradient.clone()
        if func is _aten.native_batch_norm_backward.default and not args[7]:
            return args[0].clone(), None, None
        if func in _SOFTMAX and _is_self_attention(args[0], args[1]):
            return torch.full_like(args[0], self._attention / args[0].shape[-1])
        if func is _aten.convolution_backward.default:
            gradient, images, weight, *rest = args
            return func(gradient, images, self._kernel(weight, images.shape[1]), *rest, **kwargs)
        if func is _aten.max_pool2d_with_indices_backward.default:
            return _through_window(*args[:6])
        if func is _aten.avg_pool2d_backward.default:
            return _through_window(*args[:5])
        if func is _aten.grid_sampler_2d_backward.default:
            passed, grid = func(*args, **kwargs)
            # Where it samples may depend on the image; that is no place that is seen.
            return passed, None if grid is None else torch.zeros_like(grid)
        return func(*args, **kwargs)

    def _kernel(self, weight: Tensor, channels: int) -> Tensor:
        """A convolution's changed kernel; a small one is made once, as many layers are traced through it."""
        if weight.numel() > _SMALL_KERNEL:
            return _middle(weight, channels)
        key = (weight.data_ptr(), tuple(weight.shape), weight.dtype, channels)
        if key not in self._kernels:
            # With the weight itself: its memory is not used for another one meanwhile.
            self._kernels[key] = (weight, _middle(weight, channels))
        return self._kernels[key][1]


def _through_window(
    gradient: Tensor,
    images: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """The gradient of pooling through the middle of each window."""
    given = (list(kernel), list(stride or kernel), list(padding), list(dilation))
    pairs = [(v * 2 if len(v) == 1 else v) for v in given]
    room = [
        max(size + 2 * pad, step * (cells - 1) + apart * (width - 1) + 1)
        for size, cells, width, step, pad, apart in zip(
            images.shape[-2:], gradient.shape[-2:], *pairs, strict=True
        )
    ]
    result = gradient.new_zeros((*images.shape[:-2], *room))
    middles = [
        {apart * ((width - 1) // 2), apart * (width // 2)}
        for width, apart in zip(pairs[0], pairs[3], strict=True)
    ]
    down, across = pairs[1]
    for top in middles[0]:
        for left in middles[1]:
            result[
                ...,
                top : top + down * gradient.shape[-2] : down,
                left : left + across * gradient.shape[-1] : across,
            ][..., : gradient.shape[-2], : gradient.shape[-1]] += gradient
    top, left = pairs[2]
    return result[..., top : top + images.shape[-2], left : left + images.shape[-1]].contiguous()


def _is_self_attention(scores: Tensor, dim: int) -> bool:
    last = dim % max(1, scores.dim()) == scores.dim() - 1
    return scores.dim() >= 3 and last and scores.shape[-1] == scores.shape[-2] > 1


def _middle(weight: Tensor, channels: int) -> Tensor:
    """A kernel with all of its weight in the middle, with random factors and unit gain."""
    # The factors are random so that neither a normalisation nor a few equal channels take the
    # gradient away; the gain is one so that neither depth nor trained weights make it vanish.
    values = weight.data  # detach() is switched off here
    strength = values.abs().flatten(2).sum(2).float()
    # Of two convolutions of one shape each has factors of its own, and the same at every call. Not from
    # their sum: how it is rounded depends on the number of threads.
    ends = values.flatten()[[0, -1]].tolist()
    seed = hash((strength.numel(), *ends)) & 0x7FFFFFFF
    generator = torch.Generator(weight.device).manual_seed(seed)
    strength = strength * torch.randn(strength.shape, generator=generator, device=weight.device)
    gain = (strength.pow(2).sum() / channels).sqrt()
    strength = strength / gain.clamp_min(torch.finfo(torch.float32).tiny)
    middle: Any = (slice(None), slice(None))
    count = 1
    for size in weight.shape[2:]:
        low, high = (size - 1) // 2, size // 2
        middle += (slice(low, high + 1),)
        count *= high - low + 1
    result = torch.zeros_like(weight)
    shape = (*strength.shape, *(1 for _ in weight.shape[2:]))
    result[middle] = (strength / count).to(weight.dtype).reshape(shape)
    return result
