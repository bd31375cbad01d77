"""Calling a network: what cannot run is refused before, and a forward that fails says on what."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .model import RunnableModel

_RAISE = dis.opmap["RAISE_VARARGS"]


class ForwardError(ValueError):
    """An operation of the network's forward was refused; its error is the cause of this one."""


class MissingArguments(ForwardError):
    """The forward takes more than the images."""


def is_scripted(module: nn.Module) -> bool:
    """Whether a module is TorchScript: nothing in it can be hooked.

    Args:
        module: a module
    """
    return isinstance(module, torch.jit.ScriptModule)


def check_network(module: nn.Module, methods: Sequence[str] = ()) -> None:
    """Raises a ValueError where a network cannot be run, or cannot show its layers.

    Args:
        module: the network
        methods (()): names of the methods that need one of its layers
    """
    for name, sub in module.named_modules():
        if is_scripted(sub):
            continue
        tensors = {**sub._parameters, **sub._buffers}
        for kind, tensor in tensors.items():
            path = f"{name}.{kind}".lstrip(".")
            if tensor is not None and nn.parameter.is_lazy(tensor):
                raise ValueError(
                    f"model: {path!r} of a {type(sub).__name__} is not initialised yet; run the model once "
                    "on a batch of images, and load its weights after that"
                )
            if tensor is not None and tensor.is_meta:
                raise ValueError(
                    f"model: {path!r} is on the meta device, where tensors have no values; build the model "
                    "on a real device, or load its weights with load_state_dict(state, assign=True)"
                )
    if methods and is_scripted(module):
        raise ValueError(
            f"model: {type(module).__name__} is TorchScript (torch.jit.script or trace), whose layers cannot "
            f"be observed, and {methods[0]!r} needs one; give the module that it was made from, or use a "
            "method on the pixels such as 'gradients'"
        )


def run_forward(model: RunnableModel, images: Tensor) -> Any:
    """Runs a model on a batch.

    Args:
        model: an :class:`cam_core.ExplainableModel`
        images: (N, C, H, W)

    Returns:
        what the model returned

    Raises:
        ForwardError: if PyTorch refused an operation of the forward, with its error as the cause. What the
            forward raises itself, this package or a device, passes as it is, with a note on what was given
    """
    try:
        return model.forward(images)
    except Exception as error:
        if _is_raised_on_purpose(error) or _is_of_the_device(error):
            if hasattr(error, "add_note"):  # since Python 3.11
                error.add_note(f"while {type(model.module).__name__} ran on {described(images)}")
            raise
        missing = _missing_arguments(model.module) if isinstance(error, TypeError) else None
        if missing is None:
            raise ForwardError(_reason(model.module, images, error)) from error
        raise MissingArguments(
            f"model: {type(model.module).__name__}.forward needs more than the images: {missing}; wrap it in a "
            "module whose forward takes the images alone and fills in the rest"
        ) from error


def _is_raised_on_purpose(error: Exception) -> bool:
    """Whether a ``raise`` outside of PyTorch made an error, rather than an operation that failed."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "torch":
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == _RAISE


def _is_of_the_device(error: Exception) -> bool:
    device = (torch.OutOfMemoryError, MemoryError, getattr(torch, "AcceleratorError", MemoryError))
    return isinstance(error, device) or "can't allocate memory" in str(error)


def _reason(module: nn.Module, images: Tensor, error: Exception) -> str:
    kind = type(module).__name__
    text = " ".join(str(error).split())[:300] or "no message"
    return (
        f"model: {kind} does not run on {described(images)}: {type(error).__name__}: {text}"
        + _other_precision(module, images)
    )


def described(images: Tensor) -> str:
    """Says what a model was given, for messages."""
    return f"images of shape {tuple(images.shape)}, {images.dtype} on {images.device}"


def _missing_arguments(module: nn.Module) -> str | None:
    """The arguments without a default that images alone leave open; None if there are none."""
    if is_scripted(module):
        return None
    wanted = [
        p for p in inspect.signature(module.forward).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]  # fmt: skip
    first = next((p for p in wanted if p.kind is not p.KEYWORD_ONLY), None)
    return ", ".join(repr(p.name) for p in wanted if p is not first) or None


def _other_precision(module: nn.Module, images: Tensor) -> str:
    """What to do where the weights are all of another precision than the images."""
    kinds = {p.dtype for p in module.parameters() if p.is_floating_point()}
    if len(kinds) != 1 or images.dtype in kinds:
        return ""
    (kind,) = kinds
    return f"; all its weights are {kind}: give images.to({kind}), or the model in {images.dtype}"
