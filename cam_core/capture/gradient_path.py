"""Where the path from a layer to the score ends, found by running the model again and looking."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.layer import Layer, entries_of
from ..network.forward_call import is_scripted
from ..network.model import RunnableModel
from .taps import Taps, frozen, gradients_of


def why_no_gradient(
    model: RunnableModel,
    images: Tensor,
    layer: Layer | None,
    score_of: Callable[[Any], Tensor],
) -> str:
    """Says why a score has no gradient at a layer, or at the images.

    Called where that is so: the model runs once or twice more, with every module observed. What is
    said was seen, and where ``torch.no_grad()`` is named, the gradient was there without it.

    Args:
        model: the model, inside :func:`cam_core.capture.taps.unchanged`
        images: (N, C, H, W)
        layer: the layer; None for the images themselves
        score_of: maps the model's outputs to (N,) scores

    Returns:
        a clause that names the place and what to do
    """
    path = _followed(model, images, layer, forced=False)
    if path.off is not None:
        name, inference = path.off
        mode = "torch.inference_mode()" if inference else "torch.no_grad()"
        if inference or _reaches(model, images, layer, score_of, forced=True):
            return (
                f"the model's forward runs {name!r} under {mode}, where the gradient ends; leave that out, or "
                "choose a layer behind it"
            )
    if path.integers is not None:
        name, module = path.integers
        return (
            f"{name!r} is quantised ({type(module).__name__}), which has no derivative; explain the network as "
            "it was before it was quantised, or use a method without gradients such as 'scorecam'"
        )
    if path.cut is not None and not _requires_grad(path.outputs):
        name, module = path.cut
        if not name:
            return _after(path.last)
        kind = type(module).__name__
        return (
            f"{name!r} ({kind}) returns a tensor without a gradient for an input that has one; choose a layer "
            "behind it"
        )
    if _requires_grad(path.outputs):
        if layer is not None and _reaches(model, images, None, score_of, forced=False):
            return f"the score is computed without layer {layer.name!r}"
        return (
            "what the model returns has a gradient, the score that the target makes of it has none"
        )
    return _after(path.last)


def _after(last: str | None) -> str:
    if last is None:
        return "no layer that runs after it has a gradient"
    return (
        f"{last!r} is the last layer whose output has one; what the forward does after that has no derivative, "
        "or is detached"
    )


def is_quantised(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's that compute with integers.

    Args:
        module: a module
    """
    return ".quantized." in f"{type(module).__module__}."


@dataclasses.dataclass
class _Path:
    """What was seen on the way from a layer to the outputs."""

    outputs: Any = None
    off: tuple[str, bool] | None = None  # the first module that ran without gradients, and how
    cut: tuple[str, nn.Module] | None = None  # the first that lost the gradient of its input
    integers: tuple[str, nn.Module] | None = None  # the first that is quantised
    last: str | None = None  # the last whose output had one
    tap: Tensor | None = None


def _followed(model: RunnableModel, images: Tensor, layer: Layer | None, *, forced: bool) -> _Path:
    path = _Path()
    leaf = images.detach().clone()
    taps = Taps([] if layer is None else [layer], early=model.module)
    with frozen(model.module), torch.enable_grad(), _watching(model.module, path, forced), taps:
        if layer is None:
            leaf.requires_grad_()
        path.outputs = model.forward(leaf.clone())
    path.tap = leaf if layer is None else taps.outputs.get(layer.name)
    return path


@contextlib.contextmanager
def _watching(root: nn.Module, path: _Path, forced: bool) -> Iterator[None]:
    """Notes where gradients are lost; ``forced`` turns them on wherever a module begins."""
    inputs: list[bool] = []

    def enter(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
            has = _requires_grad((args, kwargs))
            inputs.append(has)
            if forced:
                torch.set_grad_enabled(True)
            off = not torch.is_grad_enabled() or torch.is_inference_mode_enabled()
            if has and off and path.off is None:
                path.off = name, torch.is_inference_mode_enabled()

        return note

    def leave(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            had, has = inputs.pop(), _requires_grad(output)
            if has and name:
                path.last = name
            if had and is_quantised(module) and path.integers is None:
                path.integers = name, module
            if had and not has and path.cut is None and _tensors(output):
                path.cut = name, module

        return note

    handles: list[Any] = []
    try:
        for name, module in root.named_modules():
            if not is_scripted(module):
                handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
                handles.append(module.register_forward_hook(leave(name), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reaches(
    model: RunnableModel,
    images: Tensor,
    layer: Layer | None,
    score_of: Callable[[Any], Tensor],
    *,
    forced: bool,
) -> bool:
    """Whether there is a gradient; with ``forced`` once no module runs without."""
    path = _followed(model, images, layer, forced=forced)
    with torch.enable_grad():
        score = score_of(path.outputs)
    if path.tap is None or not score.requires_grad:
        return False
    return gradients_of(score, [path.tap], retain=False)[0] is not None


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor in what a module was given or returned."""
    if isinstance(value, Tensor):
        return [value]
    inside = (
        list(value.values()) if isinstance(value, Mapping) else [v for _, v in entries_of(value)]
    )
    return [tensor for item in inside for tensor in _tensors(item)]


def _requires_grad(value: Any) -> bool:
    return any(tensor.requires_grad for tensor in _tensors(value))
