"""``explain``: one forward and one backward for every method, layer and target."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import maps as maps_
from .adapters import ExplainableModel, adapt
from .capture import Taps, exclusive, unchanged
from .heads import watch_linear_layers
from .ingredients import Kitchen, Pass
from .layers import Layer, find_layers
from .methods import Method, resolve_methods
from .targets import resolve_targets

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclasses.dataclass
class Explanation:
    """The result of :func:`explain`.

    Attributes:
        maps: ``{(method, layer): (N, K, h, w)}`` raw maps: signed, float32, on the layer's grid; NaN
            where ``valid`` is false
        scores: (N, K) explained scores, float32
        targets: (N, K) class indices, -1 where the target is not a class
        valid: (N, K) which entries exist
        logits: (N, classes) the model's class scores, or None if it has none
        input_size: (H, W) of the model's input
    """

    maps: dict[tuple[str, str], Tensor]
    scores: Tensor
    targets: Tensor
    valid: Tensor
    logits: Tensor | None
    input_size: tuple[int, int]

    def heatmaps(self, size: tuple[int, int] | None = None) -> dict[tuple[str, str], Tensor]:
        """Rectified, upsampled and normalised maps over the model's input.

        Args:
            size (None): (H, W); the input's size by default

        Returns:
            ``{(method, layer): (N, K, H, W)}`` in [0, 1]; NaN where ``valid`` is false or the raw
            map is not finite
        """
        shape = size or self.input_size
        return {key: maps_.heatmaps(m, shape) for key, m in self.maps.items()}

    def status(self) -> dict[tuple[str, str], list[list[str]]]:
        """Says of each map whether it is ``"ok"``, ``"zero"``, ``"flat"`` or ``"nan"``."""
        return {key: maps_.status(m) for key, m in self.maps.items()}


def explain(
    model: nn.Module | ExplainableModel,
    images: Tensor,
    methods: Any = "gradcam",
    targets: Any = "predicted",
    layers: Any = None,
    *,
    fuse: str | None = None,
    precision: str | None = None,
    seed: int = 51,
) -> Explanation:
    """Explains a batch: every method, layer and target from one forward and one backward.

    Example::

        from cam_core import explain

        result = explain(resnet, images, methods=["gradcam", "layercam"], layers=["layer4"])
        result.maps["gradcam", "layer4"]      # (N, 1, h, w) raw
        result.heatmaps((224, 224))           # the same keys, in [0, 1]

    The model is explained in eval mode and left as it came: training flags, buffers, hooks,
    ``requires_grad`` and ``.grad``, also when something raises.

    Args:
        model: a module that returns class scores, or an :class:`ExplainableModel`
        images: (N, 3, H, W), already preprocessed, on the model's device
        methods ("gradcam"): names, callables or pairs with options, e.g.
            ``["layercam", ("eigencam", {"component": 2}), my_method]``
        targets ("predicted"): ``"predicted"``, ``"top_3"``, a class index, a tensor (N,) or (N, K), a
            callable outputs -> (N,), or a list of these, one per K
        layers (None): names, globs or modules; the family's default by default
        fuse (None): ``"layercam"`` or ``"mean"`` adds maps of all layers fused, under ``"fused"``
        precision (None): ``"bfloat16"`` or ``"float16"`` runs the model under autocast; maps are
            computed in float32 all the same. None leaves the caller's settings
        seed (51): of methods that draw random numbers

    Returns:
        an :class:`Explanation`

    Raises:
        ValueError: if an argument is not understood; the message says what to do
        TypeError: if the model is not a module
    """
    model = adapt(model)
    chosen = resolve_methods(methods)
    _check_images(images, model.module)
    if fuse is not None:
        maps_.check_rule(fuse)
    with (
        exclusive(model.module),
        torch.inference_mode(False),
        torch.no_grad(),
        unchanged(model.module),
        _autocast(images, precision),
    ):
        if images.is_inference():
            images = images.clone()
        taps = find_layers(model.module, model.default_layers(images) if layers is None else layers)
        run = _forward(model, images, chosen, targets, taps, seed)
        result = _cook(run, chosen)
    if fuse is not None:
        for method in chosen:
            stack = [m for (key, _), m in result.maps.items() if key == method.key]
            result.maps[method.key, "fused"] = maps_.fuse(stack, fuse)
    return result


def _check_images(images: Any, module: nn.Module) -> None:
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[0] == 0:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a tensor of shape (N, 3, H, W) with N > 0, got {got}")
    parameter = next(module.parameters(), None)
    if parameter is None:
        return
    if parameter.device != images.device:
        raise ValueError(
            f"images are on {images.device}, the model is on {parameter.device}; move one of them"
        )
    if parameter.is_inference():
        raise ValueError(
            "model was created under torch.inference_mode(), so it cannot be differentiated; build it outside"
        )


def _autocast(images: Tensor, precision: str | None) -> contextlib.AbstractContextManager:
    if precision is None:
        return contextlib.nullcontext()
    if precision not in _PRECISIONS:
        raise ValueError(
            f"precision: {precision!r} is unknown; choose from {', '.join(_PRECISIONS)}"
        )
    device = images.device.type
    return torch.autocast(device, dtype=_PRECISIONS[precision], enabled=precision != "float32")


def _forward(
    model: ExplainableModel,
    images: Tensor,
    chosen: Sequence[Method],
    targets: Any,
    layers: list[Layer],
    seed: int,
) -> Pass:
    """The one forward, with every tap in place."""
    taps = Taps(layers, gradients=any(m.info.needs_gradient for m in chosen))
    own = images.clone()  # a model may write into its input
    with taps, _heads(model, chosen) as heads:
        outputs = model.forward(own)
    writes = own._version > 0
    if taps.missing():
        # A shared module was called less often than last time: now its calls are known.
        torch.set_grad_enabled(False)
        with taps, _heads(model, chosen) as heads:
            outputs = model.forward(images.clone())
    # The first tap switched the graph on; from here on it is asked for where it is needed.
    torch.set_grad_enabled(False)
    missing = taps.missing()
    if missing:
        raise ValueError(f"layers: {', '.join(missing)} is not used in the model's forward")
    found = resolve_targets(targets, lambda: model.candidates(outputs), images.shape[0])
    return Pass(
        model,
        images,
        outputs,
        layers,
        taps.outputs,
        found,
        heads,
        seed,
        _autocast_state(images),
        writes,
    )


def _autocast_state(images: Tensor) -> dict:
    """The autocast settings of the forward, so that tails run under the same ones."""
    device = images.device.type
    return {
        "device_type": device,
        "dtype": torch.get_autocast_dtype(device),
        "enabled": torch.is_autocast_enabled(device),
    }


def _heads(
    model: ExplainableModel, chosen: Sequence[Method]
) -> contextlib.AbstractContextManager[list]:
    if any("head" in m.info.needs for m in chosen):
        return watch_linear_layers(model.module)
    return contextlib.nullcontext([])


def _cook(run: Pass, chosen: Sequence[Method]) -> Explanation:
    """Computes every map; what does not depend on the target is computed once."""
    count = run.images.shape[0]
    valid = torch.stack([t.valid(count) for t in run.targets], 1)
    columns: dict[tuple[str, str], list[Tensor]] = {}
    scores = []
    for number in range(len(run.targets)):
        kitchen = Kitchen(run, number, last=number == len(run.targets) - 1, methods=chosen)
        scores.append(kitchen.score.float())
        for method in chosen:
            for layer in run.layers:
                column = columns.setdefault((method.key, layer.name), [])
                shared = column and not method.info.class_discriminative
                column.append(column[0] if shared else kitchen.serve(method, layer))
    gaps = ~valid.to(scores[0].device)
    maps = {
        key: torch.stack(c, 1).masked_fill(gaps[..., None, None], torch.nan)
        for key, c in columns.items()
    }
    try:
        logits = run.model.logits(run.outputs).detach().float()
    except ValueError:
        logits = None  # a model without class scores, explained through a callable
    return Explanation(
        maps=maps,
        scores=torch.stack(scores, 1).detach().masked_fill(gaps, torch.nan),
        targets=torch.stack([t.class_indices(count) for t in run.targets], 1),
        valid=valid,
        logits=logits,
        input_size=(run.images.shape[-2], run.images.shape[-1]),
    )
