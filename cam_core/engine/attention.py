"""Attention blocks: their weights, and gradients with respect to these.

Fused kernels never show the attention they compute. A pass of its own runs every attention in plain
arithmetic, whoever wrote the network: ``nn.MultiheadAttention`` (torchvision, CLIP),
``scaled_dot_product_attention`` (timm, transformers) and written-out softmaxes (DINO, older code).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..capture.replay import Recorder, Replay, check_replay
from ..capture.taps import frozen, gradients_of
from ..layers.layer import Layer
from ..network.forward_call import is_scripted
from ..places.place import Measurement, Place
from ..targets.base import Target
from .forward_pass import ForwardPass

_SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)


class AttentionPass:
    """One forward with every block's attention captured.

    Args:
        run: the forward that everything started from

    Raises:
        ValueError: if the network has no attention over the whole image
    """

    def __init__(self, run: ForwardPass):
        self._run = run
        self._capture = _Capture(run.images.shape[0])
        module = run.model.module
        with frozen(module), torch.enable_grad(), self._capture.watching(module):
            self._outputs = run.exact_call(run.images)
        self._check()

    def _check(self) -> None:
        found = self._capture
        if found.windowed:
            raise ValueError(
                f"methods: the attention of {found.windowed!r} looks at windows of the image, so it cannot "
                "be followed through the network; use a gradient method, for example 'gradcam_elementwise'"
            )
        if not found.weights:
            raise ValueError(
                "methods: no attention blocks were found in this network; attention methods are for "
                "vision transformers, use a gradient method, for example 'gradcam'"
            )
        lengths = sorted({w.shape[-1] for w in found.weights})
        if len(lengths) > 1:
            raise ValueError(
                f"methods: the blocks of this network see {lengths} tokens, so their attention cannot be "
                "chained; use a gradient method, for example 'gradcam_elementwise'"
            )

    @property
    def weights(self) -> list[Tensor]:
        """(N, heads, L, L) per block, in the order they run; rows are queries and sum to 1."""
        return [w.detach().float() for w in self._capture.weights]

    def gradients(self, target: Target) -> list[Tensor]:
        """(N, heads, L, L) per block: the score's gradients with respect to the attention."""
        run = self._run
        with torch.enable_grad():
            score = target.score(self._outputs, run.model.logits, range(run.images.shape[0]))
        if not score.requires_grad:
            raise ValueError("targets: the score does not depend on the attention blocks")
        return self._grad(score, self._capture.weights)

    def _grad(self, score: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
        found = gradients_of(score, list(of), retain=True)
        if all(gradient is None for gradient in found):
            raise ValueError("targets: the score does not depend on the attention blocks")
        return [
            torch.zeros_like(w, dtype=torch.float32) if g is None else g
            for w, g in zip(of, found, strict=True)
        ]

    @functools.cached_property
    def readout(self) -> Tensor:
        """(L,) weights over the tokens that the head reads: the class token, or all alike.

        Found by its effect: the class scores' gradient at the last attention is zero in the rows of
        all tokens that the head does not read.
        """
        last = self._capture.weights[-1]
        with torch.enable_grad():
            score = self._run.model.logits(self._outputs).float().pow(2).sum(1)
        gradient = self._grad(score, [last])[0]
        read = gradient.nan_to_num(0).abs().amax((0, 1, 3)) > 0
        if not bool(read.any()):
            read = torch.ones_like(read)
        return read.float() / read.sum()

    def block_gradients(self, target: Target) -> list[Tensor]:
        """(N, heads, L, L) per block: gradients of the block's own score.

        A block's own score is what the network's head says of the mean of its tokens.
        """
        run, count = self._run, self._run.images.shape[0]
        blocks = self._blocks()
        layer = _Block(blocks[-1], run.model.module.get_submodule(blocks[-1]), "tokens")
        tokens = [self._capture.tokens[name] for name in blocks]
        tail = self._tail(layer)
        result = []
        for weights, z in zip(self._capture.weights, tokens, strict=True):
            with torch.enable_grad():
                mean = z.mean(1, keepdim=True).expand_as(z).clone()
                score = target.score(tail(mean), run.model.logits, range(count))
            result.append(self._grad(score, [weights])[0])
        return result

    def _tail(self, layer: Layer) -> Callable[[Tensor], Any]:
        """What follows the last block, differentiable."""
        run, rows = self._run, list(range(self._run.images.shape[0]))
        recorder = Recorder(run.model.module, [layer], len(rows))
        with recorder:
            result = run.exact_forward(run.images)
        replay = Replay(run.exact_call, run.images, layer, recorder)

        def total(outputs: Any) -> Tensor:
            return run.model.logits(outputs).float().sum(1)

        recorded = total(result)
        check_replay(
            replay, run.model.module, layer, recorder.tap(layer),
            lambda outputs, index: (total(outputs), recorded[list(index)]), tolerance=1e-4,
        )  # fmt: skip
        return lambda tokens: replay.differentiable(tokens, rows)

    def _blocks(self) -> list[str]:
        """The module of each block: the first in which the paths to the attentions differ."""
        paths = [name.split(".") for name in self._capture.names]
        if len(paths) == 1:
            depth = next((i for i, part in enumerate(paths[0]) if part.isdigit()), 0)
        else:
            depth = 0
            while all(len(p) > depth + 1 for p in paths) and len({p[depth] for p in paths}) == 1:
                depth += 1
        names = [".".join(p[: depth + 1]) for p in paths]
        missing = [n for n in names if n not in self._capture.tokens]
        if missing or len(set(names)) < len(names):
            raise ValueError(
                "methods: the attention blocks of this network were not recognised (each is to be a "
                "module of its own that returns tokens); use 'chefer'"
            )
        return names

    def to_grid(self, tokens: Tensor, method: str) -> Tensor:
        """Lays token values (N, L) on the image's grid; prefix tokens are left out.

        Raises:
            ValueError: if there is another number of tokens than the network has
        """
        run = self._run
        length = self._capture.weights[0].shape[-1]
        if tuple(tokens.shape) != (run.images.shape[0], length):
            raise ValueError(
                f"method {method!r} must return ({run.images.shape[0]}, {length}) values, one per token, "
                f"got {tuple(tokens.shape)}"
            )
        size = (run.images.shape[-2], run.images.shape[-1])
        if run.measure_places:
            run.places["attention"] = place = self._place(length)
            grid = dataclasses.replace(place.grid, layout="NLC")
        else:
            grid = run.model.grid("attention", (run.images.shape[0], length, 1), size)
        return grid.to_maps(tokens[..., None])[:, 0]

    def _place(self, length: int) -> Place:
        """Where the tokens of the last attention lie on the input: where its block's do."""
        name = self._capture.names[-1]
        measurement = Measurement(self._run.model, self._run.images)
        reason = "no module around it returns as many tokens"
        block = name.rpartition(".")[0]
        while block:
            module = self._run.model.module.get_submodule(block)
            for layer in (Layer(block, module), Layer(f"{block}:0", module, "0")):
                calls = measurement.calls([layer])[layer.name]
                if not calls:
                    continue
                call = calls[-1]
                if call.place is None:
                    reason = call.reason
                elif call.place.grid.layout in ("NLC", "LNC") and call.tokens == length:
                    return call.place
            block = block.rpartition(".")[0]
        raise ValueError(
            f"methods: the tokens of the attention {name!r} cannot be laid on the image: {reason}; choose "
            "other methods, or pass measure_places=False to take the places that their number suggests"
        )


class _Block(Layer):
    """A block; one that returns a tuple has its tokens in the first entry."""

    def pick(self, output: Any) -> Tensor:
        return output[0] if isinstance(output, tuple) else output

    def put(self, output: Any, value: Tensor) -> Any:
        return (value, *output[1:]) if isinstance(output, tuple) else value


class _Capture(TorchFunctionMode):
    """Sees every attention of one forward.

    Args:
        rows: the batch size; attention over windows has more rows
    """

    def __init__(self, rows: int):
        super().__init__()
        self.weights: list[Tensor] = []
        self.names: list[str] = []
        self.tokens: dict[str, Tensor] = {}
        self.windowed = ""
        self._rows = rows
        self._stack: list[str] = []

    @contextlib.contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Follows which module runs, and gives ``nn.MultiheadAttention`` plain arithmetic."""
        handles, changed = [], []
        try:
            for name, sub in module.named_modules():
                if is_scripted(sub):
                    continue
                handles.append(sub.register_forward_pre_hook(functools.partial(self._enter, name)))
                handles.append(sub.register_forward_hook(functools.partial(self._leave, name)))
                if _is_plain_attention(sub):
                    changed.append(sub)
                    sub.forward = functools.partial(_attend, sub)
            with self:
                yield
            # Only what attention runs in can be a block; the rest need not stay in memory.
            inside = tuple(f"{name}." for name in self.names)
            self.tokens = {
                name: t for name, t in self.tokens.items()
                if any(path.startswith(f"{name}.") for path in inside)
            }  # fmt: skip
        finally:
            for handle in handles:
                handle.remove()
            for sub in changed:
                del sub.forward

    def _enter(self, name: str, module: nn.Module, args: tuple) -> None:
        self._stack.append(name)

    def _leave(self, name: str, module: nn.Module, args: tuple, output: Any) -> None:
        self._stack.pop()
        value = output[0] if isinstance(output, tuple) and output else output
        if isinstance(value, Tensor) and value.dim() == 3:
            self.tokens[name] = value

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _SOFTMAXES and result.dim() == 4 and result.shape[-1] == result.shape[-2]:
            return self._tap(result)
        return result

    def _attention(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None,
        enable_gqa=False,
    ):  # fmt: skip
        if enable_gqa:
            repeat = query.shape[-3] // key.shape[-3]
            key, value = (t.repeat_interleave(repeat, -3) for t in (key, value))
        factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        logits = query @ key.transpose(-2, -1) * factor
        if is_causal:
            attn_mask = logits.new_ones(logits.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            logits = logits.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            logits = logits + attn_mask
        weights = logits.softmax(-1)
        if weights.dim() == 4 and weights.shape[-1] == weights.shape[-2]:
            weights = self._tap(weights)
        return weights @ value

    def _tap(self, weights: Tensor) -> Tensor:
        if weights.shape[0] != self._rows:
            self.windowed = self.windowed or (self._stack[-1] if self._stack else "the network")
            return weights
        if not weights.requires_grad:
            weights = weights.detach().requires_grad_()
        torch.set_grad_enabled(True)
        self.weights.append(weights)
        self.names.append(self._stack[-1] if self._stack else "")
        return weights


def _is_plain_attention(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.MultiheadAttention)
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


def _attend(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``nn.MultiheadAttention.forward`` in plain arithmetic."""
    inputs = [query, key, value]
    if not module.batch_first:
        inputs = [t.transpose(0, 1) for t in inputs]
    biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    heads = [
        F.linear(t, w, b).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for t, w, b in zip(inputs, module.in_proj_weight.chunk(3), biases, strict=True)
    ]
    mask = _merged(attn_mask, key_padding_mask, heads[0].dtype)
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (-1, module.num_heads))
    logits = heads[0] @ heads[1].transpose(-2, -1) / math.sqrt(heads[0].shape[-1])
    weights = (logits if mask is None else logits + mask).softmax(-1)
    output = module.out_proj((weights @ heads[2]).transpose(1, 2).flatten(2))
    output = output if module.batch_first else output.transpose(0, 1)
    if not need_weights:
        return output, None
    return output, weights.mean(1) if average_attn_weights else weights


def _merged(mask: Tensor | None, padding: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """One additive mask of an attention mask and a padding mask, either boolean (True: hidden)."""
    masks = []
    for given in (mask, None if padding is None else padding[:, None, None, :]):
        if given is not None and given.dtype is torch.bool:
            given = torch.zeros_like(given, dtype=dtype).masked_fill(given, -torch.inf)
        if given is not None:
            masks.append(given)
    return None if not masks else sum(masks[1:], masks[0])
