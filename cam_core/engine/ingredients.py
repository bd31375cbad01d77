"""Computes the inputs that methods ask for, each when first asked for, and once."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.base import ExplainableModel
from ..capture.gradient_path import why_no_gradient
from ..capture.head import Head, find_head
from ..capture.replay import Replay, check_replay, take_rows
from ..capture.taps import Taps, gradients_of
from ..layers.layer import Layer
from ..methods.channels import eigen_smoothing
from ..methods.registry import Components, Method
from ..targets.base import Target
from .attention import AttentionPass
from .forward_pass import ForwardPass
from .input_gradients import full_gradient, guided_gradient, input_gradient
from .second_pass import gradient_pass, hessian_product


class Ingredients:
    """Ingredients for one target.

    Args:
        run: the forward
        target: what is explained
        last: whether the graph can be released after this one
        methods: all that will be run, to know whether gradients are needed
    """

    def __init__(self, run: ForwardPass, target: Target, last: bool, methods: Sequence[Method]):
        self._run = run
        self._target = target
        self._count = run.images.shape[0]
        self._replays: dict[str, Replay] = {}
        self._head_cache: dict[str, Head | None] = {}
        needs_gradient = any(m.info.needs_backward for m in methods)
        with torch.set_grad_enabled(needs_gradient):
            score = target.score(run.outputs, run.model.logits, range(self._count))
        self._gradients = self._backward(score, last) if needs_gradient else {}
        self.score = score.detach().float()

    def _backward(self, score: Tensor, last: bool) -> dict[str, Tensor]:
        if not score.requires_grad:
            raise ValueError(
                "targets: the score does not depend on any target layer through a differentiable path: "
                + self._why(-1)
            )
        names = list(self._run.taps)
        found = gradients_of(score, [self._run.taps[n] for n in names], retain=not last)
        result = {}
        elsewhere = self._found_on_one_level(found)
        for name, gradient in zip(names, found, strict=True):
            own = None if gradient is None else self._run.grids[name].to_maps(gradient)
            if own is None and elsewhere:
                own = torch.zeros_like(self._run.activations[name])
            if own is None:
                raise ValueError(
                    f"targets: the score has no gradient at layer {name!r}: {self._why(names.index(name))} "
                    "(list_layers(model) shows what there is)"
                )
            result[name] = own if elsewhere else _checked_alive(self._run, name, own)
        return result

    def _found_on_one_level(self, gradients: Sequence[Tensor | None]) -> bool:
        """Whether layers without a gradient are levels of a detector that found the object on another."""
        # It may also have found no object in these images, which says nothing of its layers.
        if not hasattr(self._run.model, "detections"):
            return False
        alive = any(g is not None and bool(g.any()) for g in gradients)
        return alive or not bool(self._target.valid(self._count, self._run.outputs).any())

    def _why(self, position: int) -> str:
        """Why the score has no gradient at a layer, by its place among the taps."""
        run = self._run
        name = list(run.taps)[position]
        layer = next(layer for layer in run.layers if layer.name == name)
        return why_no_gradient(
            run.model,
            run.images,
            layer,
            lambda outputs: self._target.score(outputs, run.model.logits, range(self._count)),
        )

    def run_method(self, method: Method, layer: Layer | None) -> Components:
        """Runs a method.

        Args:
            method: the method
            layer: the target layer; the last one for a method that has its maps elsewhere, None
                where there is none

        Returns:
            :class:`Components` of (N, J, h, w) raw maps, float32; one without a name for most

        Raises:
            ValueError: if the method returns something else
        """
        arguments = [getattr(self, f"_get_{need}")(layer) for need in method.info.needs]
        device = self._run.images.device.type
        smoothing = (
            eigen_smoothing(method.key) if "eigen" in method.smooth else contextlib.nullcontext()
        )
        with torch.no_grad(), torch.autocast(device, enabled=False), smoothing:
            result = method.function(*arguments, **method.options)
        if method.info.place == "attention" and isinstance(result, Tensor):
            result = self._run.once(AttentionPass).to_grid(result, method.key)
        components = result if isinstance(result, Components) else _single(result)
        maps = components.maps
        if (
            not isinstance(maps, Tensor)
            or maps.dim() != 4
            or maps.shape[:2] != (self._count, len(components.names))
        ):
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(
                f"method {method.key!r} must return a map of shape {self._shape(method, layer)}, got "
                f"{got}; several maps are returned as Components(maps (N, J, h, w), J names)"
            )
        scores = components.scores
        return Components(
            self._on_input(maps.float(), method),
            components.names,
            None if scores is None else scores.float(),
        )

    def _on_input(self, maps: Tensor, method: Method) -> Tensor:
        """Undoes a model's own padding, so that the grid of every map tiles the images."""
        undo = getattr(self._run.model, "on_input", None)
        if undo is None or method.info.place not in ("layer", "layers"):
            return maps
        return undo(maps, (self._run.images.shape[-2], self._run.images.shape[-1]))

    def _shape(self, method: Method, layer: Layer | None) -> tuple:
        if method.info.place == "layer" and layer is not None:
            return (self._count, *self._run.activations[layer.name].shape[-2:])
        return (self._count, "h", "w")

    def _get_activations(self, layer: Layer) -> Tensor:
        return self._run.activations[layer.name]

    def _get_gradients(self, layer: Layer) -> Tensor:
        return self._gradients[layer.name]

    def _get_score(self, layer: Layer) -> Tensor:
        return self.score

    def _get_target(self, layer: Layer) -> Tensor | None:
        indices = self._target.indices
        return None if indices is None else indices.to(self._run.images.device)

    def _get_model(self, layer: Layer) -> ExplainableModel:
        return self._run.model

    def _get_images(self, layer: Layer) -> Tensor:
        return self._run.images

    def _get_layers(self, layer: Layer) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (a, self._gradients[name]) for name, a in self._run.activations.items()}

    def _get_rng(self, layer: Layer) -> torch.Generator:
        return torch.Generator(self._run.images.device).manual_seed(self._run.seed)

    def _get_head(self, layer: Layer) -> Head | None:
        if self._target.indices is None:
            return None
        if layer.name not in self._head_cache:
            logits = self._run.model.logits(self._run.outputs)
            activations = self._run.activations[layer.name]
            self._head_cache[layer.name] = find_head(
                self._run.heads, logits, activations, self._target.indices
            )
        return self._head_cache[layer.name]

    def _get_forward(self, layer: Layer) -> Callable[..., Tensor]:
        def forward(
            images: Tensor, rows: Sequence[int] | None = None, probability: bool = False
        ) -> Tensor:
            rows = range(self._count) if rows is None else rows
            outputs = self._run.forward(images)
            if probability:
                return self._target.probability(
                    outputs, self._run.model.probabilities, rows
                ).float()
            return self._scores(outputs, rows)

        return forward

    def _get_gradient_pass(self, layer: Layer) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        return functools.partial(gradient_pass, self._run, self._target, layer)

    def _get_hvp(self, layer: Layer) -> Callable[[Tensor], Tensor]:
        return functools.partial(hessian_product, self._run, self._target, layer)

    def _get_input_gradient(self, layer: Layer) -> Callable[..., tuple[Tensor, Tensor]]:
        return functools.partial(input_gradient, self._run, self._target)

    def _get_guided_gradient(self, layer: Layer) -> Callable[..., tuple[Tensor, Tensor]]:
        return functools.partial(guided_gradient, self._run, self._target)

    def _get_full_gradient(self, layer: Layer) -> tuple[Tensor, list[Tensor]]:
        return full_gradient(self._run, self._target)

    def _get_attentions(self, layer: Layer) -> list[Tensor]:
        return self._run.once(AttentionPass).weights

    def _get_attention_gradients(self, layer: Layer) -> list[Tensor]:
        return self._run.once(AttentionPass).gradients(self._target)

    def _get_block_gradients(self, layer: Layer) -> list[Tensor]:
        return self._run.once(AttentionPass).block_gradients(self._target)

    def _get_readout(self, layer: Layer) -> Tensor:
        return self._run.once(AttentionPass).readout

    def _get_tail(self, layer: Layer) -> Callable[..., Tensor]:
        def tail(activations: Tensor, rows: Sequence[int] | None = None) -> Tensor:
            rows = list(range(self._count) if rows is None else rows)
            tap, grid = self._run.recorder.tap(layer), self._run.grids[layer.name]
            if grid.layout == "LNC":
                recorded = take_rows(tap.transpose(0, 1), rows, self._count).transpose(0, 1)
            else:
                recorded = take_rows(tap, rows, self._count)
            native = grid.from_maps(activations, recorded)
            return self._scores(self._replay(layer)(native, rows), rows)

        return tail

    def _scores(self, outputs: Any, rows: Sequence[int]) -> Tensor:
        return self._target.score(outputs, self._run.model.logits, rows).float()

    def _replay(self, layer: Layer) -> Replay:
        if layer.name not in self._replays:
            run = self._run
            replay = Replay(run.exact_forward, run.images, layer, run.recorder)
            if run.grids[layer.name].layout == "LNC":
                replay.use_full_forward()  # modules there answer with the sequence in dimension 0
                self._replays[layer.name] = replay
                return replay
            tap = run.recorder.tap(layer)
            recorded = self._scores(run.recorder.result, range(self._count))
            check_replay(
                replay,
                run.model.module,
                layer,
                tap,
                lambda outputs, rows: (self._scores(outputs, rows), recorded[list(rows)]),
                tolerance=1e-4 if tap.dtype in (torch.float32, torch.float64) else 5e-2,
            )
            self._replays[layer.name] = replay
        return self._replays[layer.name]


def _single(result: Any) -> Components:
    """One map as components: a single one that has no name."""
    return Components(result[:, None] if isinstance(result, Tensor) else result, ("",))


def _alive_on_noise(run: ForwardPass, name: str) -> bool:
    """Whether any class score depends on this layer's grid for images of noise."""
    layer = next(layer for layer in run.layers if layer.name == name)
    generator = torch.Generator(run.images.device).manual_seed(run.seed)
    shape = (2, *run.images.shape[1:])
    noise = torch.randn(shape, generator=generator, device=run.images.device).to(run.images.dtype)
    with torch.no_grad(), Taps([layer], early=run.model.module) as taps:
        outputs = run.model.forward(noise)
    try:
        with torch.enable_grad():
            score = run.model.logits(outputs).pow(2).sum(1)
    except ValueError:
        return True  # no class scores to ask; the callable's zero stands as it is
    gradient = gradients_of(score, [taps.outputs[name]], retain=False)[0]
    return gradient is not None and bool(run.grids[name].to_maps(gradient).any())


def _checked_alive(run: ForwardPass, name: str, gradient: Tensor | None) -> Tensor:
    """A layer whose positions no score ever depends on would give blank maps: an error."""
    if name in getattr(run.model, "levels", ()):
        # A detector finds an object on one of its levels; the others have no part in its score.
        return torch.zeros_like(run.activations[name]) if gradient is None else gradient
    assert gradient is not None  # refused before
    if name in run.alive:
        return gradient
    if bool(gradient.any()) or _alive_on_noise(run, name):
        # Zero for these images only (a black picture, say) is a finding, not a wrong layer.
        run.alive[name] = True
        return gradient
    saturated = getattr(run.model, "is_saturated", None)
    if saturated is not None and saturated(run.outputs):
        return gradient  # it may depend on the layer: nothing of that is left in a probability of 1
    raise ValueError(
        f"layers: the target's gradient at {name!r} is zero at every position, for these images and for "
        f"noise{_after_attention(run, name)}; choose an earlier layer, list_layers(model) shows them"
        + _untrained(run.model.module)
    )


def _after_attention(run: ForwardPass, name: str) -> str:
    """What is known of a transformer's layer that runs after its last attention."""
    attention = run.model.structure.attention if hasattr(run.model, "structure") else ()
    if not attention or not run.model.structure.transformer:
        return ""
    order = [layer for layer, _ in run.model.module.named_modules()]
    path = name.partition(":")[0]
    last = attention[-1]
    after = path in order and order.index(path) > order.index(last)
    if not after and not last.startswith(f"{path}."):
        return ""
    return f" (nothing attends to its patches any more: {last!r} is the last attention)"


def _untrained(module: nn.Module) -> str:
    """A hint where a linear layer has no weights but zeros, as torchvision makes some heads."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and not bool(layer.weight.any()):
            return f"; or load weights: those of {name!r} are all zero"
    return ""
