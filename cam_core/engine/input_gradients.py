"""Passes down to the pixels: gradients at the input, under changed rules, and of every bias."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from ..capture.gradient_path import why_no_gradient
from ..capture.taps import frozen as _frozen
from ..layers.grid import Grid
from ..network.forward_call import is_scripted
from ..targets.base import Target
from .forward_pass import ForwardPass


def input_gradient(
    run: ForwardPass, target: Target, images: Tensor, rows: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Differentiates the score with respect to images, in a new forward and backward.

    Args:
        run: the forward that everything started from
        target: what is explained
        images: (B, 3, H, W)
        rows (None): the B images of the batch these belong to; by default they are the batch

    Returns:
        (B, 3, H, W) gradients and (B,) scores; float32

    Raises:
        ValueError: if the score does not depend on the images through a differentiable path
    """
    return _differentiate(run, target, images, rows, contextlib.nullcontext())


def guided_gradient(
    run: ForwardPass, target: Target, images: Tensor, rows: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`input_gradient` under guided backpropagation's rule for ReLUs.

    A ReLU hands on a gradient where its input and the gradient are positive (Springenberg et al.,
    Striving for Simplicity, ICLR workshop 2015). Other activations keep their own gradient.

    Args:
        run: the forward that everything started from
        target: what is explained
        images: (B, 3, H, W)
        rows (None): the B images of the batch these belong to; by default they are the batch

    Returns:
        (B, 3, H, W) guided gradients and (B,) scores; float32

    Raises:
        ValueError: if the network has no ReLU, or the score does not depend on the images
    """
    rule = _GuidedReLUs()
    result = _differentiate(run, target, images, rows, rule)
    if not rule.used:
        raise ValueError(
            "methods: guided backpropagation is a rule for ReLUs and this network "
            + "runs none (GELU, SiLU and the like have no such rule)"
            + _hidden(run, ", as far as it shows", "")
            + "; use 'gradients', 'smoothgrad' or 'integrated_gradients'"
        )
    return result


def full_gradient(run: ForwardPass, target: Target) -> tuple[Tensor, list[Tensor]]:
    """The full-gradient decomposition of the score (Srinivas & Fleuret, NeurIPS 2019).

    Where everything between the biases is piecewise linear (ReLU, max pooling), the score is
    ``sum x * dy/dx`` plus the sum of all bias terms. Counted are the biases of convolutions and linear
    layers; what a batch norm in eval mode adds (``beta - gamma mu / sigma``); the constant of ReLU6 and
    the like where they are full, an implicit bias in the paper's words; and the beta of layer and group
    norms, whose division by the input's own spread is not linear. Not counted are constants that the
    network adds by hand, such as position embeddings, and the biases inside ``nn.MultiheadAttention``.

    Args:
        run: the forward that everything started from
        target: what is explained

    Returns:
        (N, 3, H, W) gradient at the input, and bias times gradient at the output of every layer with a
        bias, in the order they run: (N, C, h, w) where that output has a grid of more than one cell,
        else (N, F), as for prefix tokens; float32

    Raises:
        ValueError: if the layers cannot be observed, or the score does not depend on the images
    """
    watch = _BiasGradients(run)
    gradient, _ = _differentiate(run, target, run.images, None, watch)
    names = (name for name, _ in run.model.module.named_parameters())
    if not watch.seen and any(name.endswith("bias") for name in names):
        why = _hidden(run, ", which it hides", "")
        raise ValueError(
            f"methods: 'fullgrad' saw none of this network's biases{why}; use 'input_x_gradient'"
        )
    scale = _loss_scale(run, run.images)
    return gradient, [p / scale if scale != 1 else p for p in watch.products]


def _hidden(run: ForwardPass, consequence: str, otherwise: str) -> str:
    """Why nothing was seen: of a network with TorchScript in it, what that does and what to do."""
    names = [name for name, m in run.model.module.named_modules() if is_scripted(m)]
    if not names:
        return otherwise
    where = f"{names[0]!r} in it" if names[0] else "it"
    return f"{consequence}; {where} is TorchScript: give the module that it was made from"


def _differentiate(
    run: ForwardPass,
    target: Target,
    images: Tensor,
    rows: Sequence[int] | None,
    rule: contextlib.AbstractContextManager,
) -> tuple[Tensor, Tensor]:
    """The gradient at the images and the score, with a rule around the network."""
    if not images.is_floating_point():
        raise ValueError(
            f"images: pixel methods differentiate with respect to the images, but these are {images.dtype}; "
            "convert them to floating point"
        )
    rows = range(images.shape[0]) if rows is None else rows
    leaf = images.detach().requires_grad_()
    with _frozen(run.model.module), torch.enable_grad(), torch.autocast(**run.autocast):
        with rule:
            outputs = run.model.forward(leaf.clone() if run.writes_images else leaf)
        score = target.score(outputs, run.model.logits, rows)
    scale = _loss_scale(run, images)
    gradient = None
    if score.requires_grad:
        (gradient,) = torch.autograd.grad(
            score, leaf, torch.full_like(score, scale), allow_unused=True
        )
    if gradient is None:
        why = why_no_gradient(
            run.model,
            images,
            None,
            lambda outputs: target.score(outputs, run.model.logits, rows),
        )
        raise ValueError(
            f"targets: the score does not depend on the images through a differentiable path: {why}"
        )
    return gradient.float() / scale, score.detach().float()


def _loss_scale(run: ForwardPass, images: Tensor) -> float:
    """Gradients of half precision underflow on their way down unless the score is scaled up."""
    cast = run.autocast["enabled"] and run.autocast["dtype"] is torch.float16
    return 1024.0 if cast or images.dtype is torch.float16 else 1.0


# Guided backpropagation ----------------------------------------------------------------------------


def _relu(input, inplace=False):
    return input, 0, math.inf, inplace


def _relu_(input):
    return input, 0, math.inf, True


def _relu6(input, inplace=False):
    return input, 0, 6, inplace


def _hardtanh(input, min_val=-1.0, max_val=1.0, inplace=False):
    return input, min_val, max_val, inplace


def _clamp(input, min=None, max=None):
    return input, -math.inf if min is None else min, math.inf if max is None else max, False


def _written(read: Callable[..., tuple]) -> Callable[..., tuple]:
    """The same arguments, but the input is overwritten."""
    return lambda *args, **kwargs: (*read(*args, **kwargs)[:3], True)


# Every function that cuts off, ReLU among them -> a reading of its arguments: (input, low, high, in place).
_CUTS: dict[Callable, Callable[..., tuple]] = {
    F.relu: _relu, torch.relu: _relu, Tensor.relu: _relu, torch.relu_: _relu_, Tensor.relu_: _relu_,
    F.relu6: _relu6, F.hardtanh: _hardtanh, F.hardtanh_: _written(_hardtanh),
    torch.clamp: _clamp, torch.clip: _clamp, torch.clamp_min: _clamp,
    Tensor.clamp: _clamp, Tensor.clip: _clamp, Tensor.clamp_min: _clamp,
    torch.clamp_: _written(_clamp), torch.clip_: _written(_clamp),
    torch.clamp_min_: _written(_clamp), Tensor.clamp_: _written(_clamp),
    Tensor.clip_: _written(_clamp), Tensor.clamp_min_: _written(_clamp),
}  # fmt: skip


def _cut(func: Callable, args: tuple, kwargs: dict) -> tuple[Tensor, float, float, bool] | None:
    """Reads a call that cuts off at two numbers; None if it is another."""
    if func not in _CUTS or "out" in kwargs:
        return None
    input, low, high, inplace = _CUTS[func](*args, **kwargs)
    if not all(isinstance(bound, (int, float)) for bound in (low, high)):
        return None
    return input, low, high, inplace


class _GuidedReLUs(TorchFunctionMode):
    """Puts :class:`_GuidedReLU` in the place of ReLUs, whether modules or functions; none is touched."""

    def __init__(self) -> None:
        super().__init__()
        self.used = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        cut = _cut(func, args, kwargs)
        if cut is None or cut[1] != 0 or cut[2] <= 0:
            return func(*args, **kwargs)
        self.used = True
        input, _, high, inplace = cut
        return _GuidedReLU.apply(input, high, inplace)


class _GuidedReLU(torch.autograd.Function):
    """``min(max(0, x), high)`` that hands on positive gradients only."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, high: float, inplace: bool) -> Tensor:
        ctx.save_for_backward((input > 0) & (input < high))
        if inplace:
            ctx.mark_dirty(input)
            return input.clamp_(0, high)
        return input.clamp(0, high)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (passing,) = ctx.saved_tensors
        return gradient.relu() * passing, None, None


# Full gradients ------------------------------------------------------------------------------------


def _channels(constant: Tensor | None, dims: int) -> Tensor | None:
    """A constant per channel, shaped for an output with channels second."""
    return None if constant is None else constant.reshape(-1, *[1] * (dims - 2))


def _convolution(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    return _channels(bias, input.dim()), False


def _transposed(
    input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
    return _channels(bias, input.dim()), False


def _linear(input, weight, bias=None):
    return bias, True


def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    return bias, len(normalized_shape) == 1


def _group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    return _channels(bias, input.dim()), False


def _instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True,
    momentum=0.1, eps=1e-5,
):  # fmt: skip
    return _channels(bias, input.dim()), False


def _batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    """With recorded statistics it is affine; what it adds is more than its bias."""
    if training:
        return _channels(bias, input.dim()), False
    shift = running_mean * (running_var + eps).rsqrt()
    constant = -shift if weight is None else -shift * weight
    return _channels(constant if bias is None else constant + bias, input.dim()), False


# A function -> a reading of its arguments: (what it adds to its output, whether channels are last).
_BIASED: dict[Callable, Callable[..., tuple[Tensor | None, bool]]] = {
    F.conv2d: _convolution, F.conv_transpose2d: _transposed,
    F.conv1d: _convolution, F.conv_transpose1d: _transposed,
    F.conv3d: _convolution, F.conv_transpose3d: _transposed,
    F.linear: _linear, F.layer_norm: _layer_norm, F.group_norm: _group_norm,
    F.instance_norm: _instance_norm, F.batch_norm: _batch_norm,
}  # fmt: skip


class _BiasGradients(TorchFunctionMode):
    """Multiplies every bias with the gradient at the output it was added to.

    Functions are observed, not modules: a module's output may be more than its layer's (a batch norm
    with its activation, say), and its bias may be used by a function.

    Args:
        run: the forward that everything started from
    """

    def __init__(self, run: ForwardPass):
        super().__init__()
        self._products: list[list[Tensor]] = []  # empty where the score does not depend on it
        self._run = run
        self._count = run.images.shape[0]
        self._size = (run.images.shape[-2], run.images.shape[-1])
        self._tokens = run.model.token_grid(self._size)

    @property
    def seen(self) -> bool:
        """Whether any bias was used on the way from the images."""
        return bool(self._products)

    @property
    def products(self) -> list[Tensor]:
        """Bias times gradient, in the order the layers ran, after the backward."""
        return [product for products in self._products for product in products]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        cut = _cut(func, args, kwargs)
        result = func(*args, **kwargs)
        if cut is not None and cut[1:3] != (0, math.inf) and result.requires_grad:
            _, low, high, _ = cut
            full = (result <= low) | (result >= high)
            self._watch(result, torch.where(full, result.detach(), 0), None)
        if func in _BIASED:
            constant, channels_last = _BIASED[func](*args, **kwargs)
            # What does not require grad is the same for every image: no term of this image's.
            if constant is not None and result.requires_grad:
                self._watch(result, constant.detach(), channels_last)
        return result

    def _watch(self, output: Tensor, constant: Tensor, channels_last: bool | None) -> None:
        arrange = self._arrangement(tuple(output.shape), channels_last)
        number = len(self._products)
        self._products.append([])

        def multiply(gradient: Tensor) -> None:
            self._products[number] = arrange(gradient.float() * constant.float())

        # Of this output as it is now: a ReLU that overwrites it comes later in the graph.
        output.register_hook(multiply)

    def _arrangement(
        self, shape: tuple[int, ...], channels_last: bool | None
    ) -> Callable[[Tensor], list[Tensor]]:
        """How a product is brought to (N, C, h, w) where it has a grid, to (N, F) elsewhere."""
        count = self._count
        if self._is_sequence_first(shape):
            later = self._arrangement((shape[1], shape[0], shape[2]), channels_last)
            return lambda product: later(product.transpose(0, 1))
        if shape[0] % count:
            raise ValueError(
                f"methods: 'fullgrad' cannot tell {count} images apart in a layer's output of shape {shape}; "
                "explain one image at a time or use 'input_x_gradient'"
            )
        if shape[0] != count:
            return lambda product: [product.reshape(count, -1)]  # windows, image after image
        grid = self._grid(shape, channels_last)
        if grid is None or grid.height * grid.width == 1:
            return lambda product: [product.flatten(1)]
        if not grid.prefix:
            return lambda product: [grid.to_maps(product)]
        return lambda product: [grid.to_maps(product), product[:, : grid.prefix].flatten(1)]

    def _grid(self, shape: tuple[int, ...], channels_last: bool | None) -> Grid | None:
        """The grid of an output; ``channels_last`` is None where the function does not say it."""
        if len(shape) == 4 and channels_last:
            # Windows x positions (MaxViT) are no rows x columns: a grid has the image's proportions.
            wanted = shape[1] * self._size[1] / self._size[0]
            return Grid("NHWC", shape[1], shape[2]) if abs(shape[2] - wanted) <= 1 else None
        if len(shape) == 4 and channels_last is False:
            return Grid("NCHW", shape[2], shape[3])
        if len(shape) < 3 or len(shape) > 4 or channels_last is False:
            return None
        try:
            return self._run.model.grid("", shape, self._size)
        except ValueError:
            return None  # nothing that lies on the image

    def _is_sequence_first(self, shape: tuple[int, ...]) -> bool:
        """Whether these are tokens x images, as in CLIP's own code; only where the grid is known."""
        if len(shape) != 3 or self._tokens is None:
            return False
        prefix = shape[0] - self._tokens[0] * self._tokens[1]
        return shape[1] == self._count and shape[0] != self._count and 0 <= prefix <= 16
