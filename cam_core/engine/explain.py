"""``explain``: one forward and one backward for every method, layer and target."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.adapt import adapt
from ..adapters.base import ExplainableModel
from ..capture.head import watch_linear_layers
from ..capture.taps import Taps, exclusive, unchanged
from ..layers.find import find_layers
from ..layers.layer import Layer
from ..methods.catalogue import resolve_methods
from ..methods.registry import Method
from ..network.forward_call import check_network, run_forward
from ..network.plain_run import plain_layers
from ..network.signature import one_signature
from ..places.choose import PlacedLayers, add_maps, on_input, place_layers
from ..places.place import Place
from ..spatial import maps as maps_
from ..spatial.extent import WHOLE, Extent
from ..spatial.geometry import Window
from ..targets.base import Target, TransformedTarget, resolve_targets
from . import smoothing
from .forward_pass import ForwardPass
from .ingredients import Ingredients

# Layers in a part that the forward itself runs without gradients, per module: the graph has to be on
# from the start. Where it no longer has to, it does no harm.
_EARLY: weakref.WeakKeyDictionary[nn.Module, set] = weakref.WeakKeyDictionary()

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclasses.dataclass
class Explanation:
    """The result of :func:`explain`.

    Attributes:
        maps: ``{(method, layer): (N, K, h, w)}`` raw maps: signed, float32, on the layer's grid; NaN
            where ``valid`` is false. Pixel methods have the layer ``"input"``, methods that follow the
            attention ``"attention"``; one that makes several maps has ``{method}_{name}`` for each
        scores: (N, K) explained scores, float32
        targets: (N, K) class indices, -1 where the target is not a class
        valid: (N, K) which entries exist
        logits: (N, classes) the model's class scores, before softmax or sigmoid also of a network that ends
            in one; None if it has none
        probabilities: (N, classes) what the model makes of them: softmax, or sigmoid for a single logit
            and for labels that do not exclude each other; None without class scores
        input_size: (H, W) of the model's input
        layers: names of the target layers, in the order of the forward they were given in
        component_scores: ``{(method, layer): (N, K)}`` a number for each map of methods that give one,
            such as the score of a concept
        places: how and where the maps of each layer lie on the input, for those that were measured
        class_free: ``{(method, layer): (N, h, w)}`` the maps of methods that have no class, which are the
            same for every target, also of images that have none
        details: K entries: what a target's ``details(outputs)`` says, such as a detector's candidates;
            None of a target that has none
    """

    maps: dict[tuple[str, str], Tensor]
    scores: Tensor
    targets: Tensor
    valid: Tensor
    logits: Tensor | None
    input_size: tuple[int, int]
    probabilities: Tensor | None = None
    layers: list[str] = dataclasses.field(default_factory=list)
    component_scores: dict[tuple[str, str], Tensor] = dataclasses.field(default_factory=dict)
    details: list[Any] = dataclasses.field(default_factory=list)
    class_free: dict[tuple[str, str], Tensor] = dataclasses.field(default_factory=dict)
    places: dict[str, Place] = dataclasses.field(default_factory=dict)

    def window(self, layer: str, window: Window) -> Window:
        """Returns what a layer's cells cover of an image.

        Args:
            layer: a layer of ``maps``
            window: what the model's input shows of the image
        """
        place = self.places.get(layer)
        return window if place is None else place.extent.on_image(window)

    def heatmaps(self, size: tuple[int, int] | None = None) -> dict[tuple[str, str], Tensor]:
        """Rectified, upsampled and normalised maps over the model's input.

        Maps on the pixels are cut off at their 99 % quantile: a few pixels far above the rest would
        leave nothing else to see.

        Args:
            size (None): (H, W); the input's size by default

        Returns:
            ``{(method, layer): (N, K, H, W)}`` in [0, 1]; NaN where ``valid`` is false or the raw
            map is not finite
        """
        shape = size or self.input_size
        return {
            key: maps_.heatmaps(m, shape, maps_.cut_of(key[1]), self._extent(key[1]))
            for key, m in self.maps.items()
        }

    def _extent(self, layer: str) -> Extent:
        return self.places[layer].extent if layer in self.places else WHOLE

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
    measure_places: bool = True,
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
            ``["layercam", ("eigencam", {"component": 2}), "gradcam+aug", my_method]``; ``+aug``,
            ``+noise`` and ``+multiscale`` smooth any of them, ``+eigen`` those that add up channels:
            of a list in which some do, the others are left without it, with a warning
        targets ("predicted"): ``"predicted"``, ``"top_3"``, a class index, a tensor (N,) or (N, K), a
            callable outputs -> (N,), or a list of these, one per K
        layers (None): names, globs or modules; the family's default by default
        fuse (None): ``"layercam"`` or ``"mean"`` adds maps of all layers fused, under ``"fused"``
        precision (None): ``"bfloat16"`` or ``"float16"`` runs the model under autocast; maps are
            computed in float32 all the same. None leaves the caller's settings
        seed (51): of methods that draw random numbers
        measure_places (True): whether to measure, once per layer and size of input, where a layer's
            cells lie on the input (see :mod:`cam_core.places`). False takes what its shape suggests,
            which is wrong in networks that crop, mirror or pad, or have their tokens in another order

    Returns:
        an :class:`Explanation`

    Raises:
        ValueError: if an argument is not understood; the message says what to do
        TypeError: if the model is not a module
    """
    model = adapt(model)
    chosen = resolve_methods(methods)
    check_network(model.module, [m.key for m in chosen if m.info.needs_layer])
    for note in filter(None, (method.note for method in chosen)):
        warnings.warn(f"methods: {note}", stacklevel=2)
    check_images(images, model.module)
    if fuse is not None:
        maps_.check_rule(fuse)
    with (
        exclusive(model.module),
        torch.inference_mode(False),
        torch.no_grad(),
        unchanged(model.module),
        one_signature(model.module),
        autocast(images, precision),
    ):
        images = images.clone() if images.is_inference() else images.detach()
        _read_outputs(model, images, targets)
        placed = place_layers(model, _layers(model, images, layers, chosen), images, measure_places)
        plain = [m for m in chosen if not smoothing.passes(m)]
        run = _forward(model, images, plain, targets, placed, seed)
        result = _compute_maps(run, plain)
        _smooth(result, run, chosen, measure_places)
        _add_calls(result, placed)
        if fuse is not None:
            _fuse(result, chosen, fuse)
        _set_apart(result, chosen)
    return result


def _read_outputs(model: ExplainableModel, images: Tensor, targets: Any) -> None:
    """Finds out how the network's scores end; a user's own functions need none of them."""
    read = getattr(model, "read_outputs", None)
    if read is None:
        return
    read(images)
    ending = model.ending
    items = targets if isinstance(targets, (list, tuple)) else [targets]
    functions = all(callable(item) and not hasattr(item, "reads_scores") for item in items)
    if ending is not None and ending.refusal is not None and not functions:
        raise ValueError(ending.refusal)


def _layers(
    model: ExplainableModel, images: Tensor, layers: Any, chosen: Sequence[Method]
) -> list[Layer]:
    """The layers to tap; without a name none, where no method needs one."""
    if layers is not None:
        return find_layers(model.module, plain_layers(model.module, layers))
    if not any(m.info.needs_layer for m in chosen):
        return []
    return find_layers(model.module, model.default_layers(images))


def _smooth(
    result: Explanation, run: ForwardPass, chosen: Sequence[Method], measure_places: bool
) -> None:
    """Adds the maps of methods that are averaged over changed images."""
    groups: dict[tuple[str, ...], list[Method]] = {}
    for method in chosen:
        if smoothing.passes(method):
            groups.setdefault(smoothing.passes(method), []).append(method)

    for kinds, methods in groups.items():
        batches = smoothing.variants(run.images, kinds, run.seed)
        again = functools.partial(_again, run, methods, measure_places)
        result.maps.update(smoothing.average(batches, again))
    if groups:
        order = {method.key: i for i, method in enumerate(chosen)}
        result.maps = dict(sorted(result.maps.items(), key=lambda item: _rank(item[0][0], order)))


def _again(
    run: ForwardPass, methods: Sequence[Method], measure_places: bool, variant: smoothing.Variant
) -> dict[tuple[str, str], Tensor]:
    """The maps of changed images, for the targets of the original ones."""
    images = variant.images
    sizes = (run.images.shape[-2], run.images.shape[-1]), (images.shape[-2], images.shape[-1])
    targets = [t.moved(variant.flipped, *sizes) for t in run.targets]
    placed = place_layers(run.model, run.layers, images, measure_places)
    if variant.flipped or sizes[0] != sizes[1]:
        _check_centred([*run.places.items(), *placed.places.items()])
    changed = _forward(run.model, images, methods, targets, placed, run.seed)
    return _compute_maps(changed, methods).maps


def _check_centred(places: Sequence[tuple[str, Place]]) -> None:
    """Raises a ValueError where maps of a flipped or resized image cannot be laid on those of the image."""
    for name, place in places:
        if place.extent != WHOLE:
            raise ValueError(
                f"methods: +aug and +multiscale flip or resize the image, and the cells of {name!r} do not lie "
                "evenly on it (padding, a crop); leave them out, use +noise, or choose another layer"
            )


def _rank(key: str, order: dict[str, int]) -> int:
    """Where a map's method stands; a component's key begins with its method's."""
    return next(order[k] for k in sorted(order, key=len, reverse=True) if key.startswith(k))


def _fuse(result: Explanation, chosen: Sequence[Method], rule: str) -> None:
    places = {m.key: m.info.place for m in chosen}
    keys = [key for key, _ in result.maps]
    for key in dict.fromkeys(keys):
        if places.get(key, "layer") == "layer":
            stack = [
                on_input(maps_.rectify(m), result.places[layer], (m.shape[-2], m.shape[-1]))
                if layer in result.places
                else m
                for (k, layer), m in result.maps.items()
                if k == key
            ]
            result.maps[key, "fused"] = maps_.fuse(stack, rule)


def _add_calls(result: Explanation, placed: PlacedLayers) -> None:
    """Puts one map in place of those of the calls that make up a layer."""
    for name, calls in placed.sums.items():
        places = [result.places.pop(call) for call in calls]
        for shown in (result.maps, result.component_scores):
            rows = list(shown.items())
            shown.clear()
            for (key, layer), value in rows:
                if layer not in calls:
                    shown[key, layer] = value
                elif layer == calls[0] and shown is result.component_scores:
                    shown[key, name] = value
                elif layer == calls[0]:
                    parts = [dict(rows)[key, call] for call in calls]
                    shown[key, name], result.places[name] = add_maps(parts, places)
        result.layers = list(dict.fromkeys(name if x in calls else x for x in result.layers))


def _set_apart(result: Explanation, chosen: Sequence[Method]) -> None:
    """Keeps the maps that need no target apart; among those of targets there is none without one."""
    void = ~result.scores.isfinite()[..., None, None]
    free = {
        key for m in chosen if not m.info.class_discriminative for key, _ in m.keys(result.layers)
    }
    for (key, layer), maps in result.maps.items():
        if key in free:
            result.class_free[key, layer] = maps[:, 0]
            result.maps[key, layer] = maps.masked_fill(void.to(maps.device), torch.nan)


def check_images(images: Any, module: nn.Module) -> None:
    """Raises a ValueError unless images are an (N, C, H, W) batch where the model is."""
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


def autocast(images: Tensor, precision: str | None) -> contextlib.AbstractContextManager:
    """The context that runs a model in a precision; None leaves the caller's settings.

    Raises:
        ValueError: if the precision is not known
    """
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
    placed: PlacedLayers,
    seed: int,
) -> ForwardPass:
    """The one forward, with every tap in place."""
    layers = placed.layers
    names = tuple(layer.name for layer in layers)
    early = _EARLY.setdefault(model.module, set())
    taps = Taps(
        layers,
        any(m.info.needs_backward for m in chosen),
        early=model.module if names in early else None,
    )
    own = images.clone()  # a model may write into its input
    with taps, _heads(model, chosen) as heads:
        outputs = run_forward(model, own)
    writes = own._version > 0
    if taps.interrupted and taps.early is None:
        early.add(names)
        taps.early = model.module
        with taps, _heads(model, chosen) as heads:
            outputs = run_forward(model, images.clone())
    if taps.missing():
        # A shared module was called less often than last time: now its calls are known.
        with taps, _heads(model, chosen) as heads:
            outputs = run_forward(model, images.clone())
    missing = taps.missing()
    if missing:
        raise ValueError(
            f"layers: {', '.join(missing)} is not used in the model's forward: no module of this name was called "
            "(of some, others use the weights directly); list_layers(model) shows those that are"
        )
    if isinstance(targets, str) and targets == "predicted" and hasattr(model, "predicted"):
        targets = model.predicted(outputs)
    found = targets
    if not (isinstance(targets, list) and targets and isinstance(targets[0], Target)):
        found = resolve_targets(targets, lambda: model.candidates(outputs), images.shape[0])
    return ForwardPass(
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
        dict(placed.places),
        placed.measured,
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


def _compute_maps(run: ForwardPass, chosen: Sequence[Method]) -> Explanation:
    """Computes every map; what does not depend on the target is computed once."""
    count = run.images.shape[0]
    device = run.images.device
    gaps = ~torch.stack([t.valid(count, run.outputs) for t in run.targets], 1).to(device)
    maps, numbers = _Columns(), _Columns()
    groups = _by_scalar(chosen)
    scores = [
        t.score(run.outputs, run.model.logits, range(count)).detach().float() for t in run.targets
    ]
    for number, target in enumerate(run.targets):
        for group, (transform, methods) in enumerate(groups):
            last = number == len(run.targets) - 1 and group == len(groups) - 1
            ingredients = Ingredients(run, transform(target), last, methods)
            for method in methods:
                for name, layer in _layers_of(method, run.layers):
                    if number and not _asks_for_target(method):
                        maps.repeat(method.key, name)
                        numbers.repeat(method.key, name)
                        continue
                    components = ingredients.run_method(method, layer)
                    for j, suffix in enumerate(components.names):
                        key = (f"{method.key}_{suffix}" if suffix else method.key, name)
                        maps.add(method.key, key, components.maps[:, j])
                        if components.scores is not None:
                            numbers.add(method.key, key, components.scores[:, j])
    found = torch.stack(scores, 1)
    # A gradient of a score that is not finite may be: it would make a picture of nothing.
    void = gaps | ~found.isfinite()
    logits = probabilities = None
    with contextlib.suppress(ValueError):  # a model without class scores, explained by a callable
        logits = run.model.logits(run.outputs).detach().float()
        probabilities = run.model.probabilities(run.outputs).detach().float()
    return Explanation(
        maps={
            key: m.masked_fill(void[..., None, None], torch.nan)
            if method.info.class_discriminative
            else m
            for method, key, m in maps.stacked(chosen)
        },
        scores=found.masked_fill(gaps, torch.nan),
        targets=torch.stack([t.class_indices(count) for t in run.targets], 1),
        valid=~gaps.cpu(),
        logits=logits,
        input_size=(run.images.shape[-2], run.images.shape[-1]),
        probabilities=probabilities,
        layers=[layer.name for layer in run.layers],
        component_scores={k: v.masked_fill(gaps, torch.nan) for _, k, v in numbers.stacked(chosen)},
        details=[t.details(run.outputs) for t in run.targets],
        places=dict(run.places),
    )


def _asks_for_target(method: Method) -> bool:
    """Whether anything of a method depends on the target, be it a score beside its maps."""
    return method.info.class_discriminative or bool(
        {"head", "score", "target"} & set(method.info.needs)
    )


def _by_scalar(
    chosen: Sequence[Method],
) -> list[tuple[Callable[[Target], Target], list[Method]]]:
    """Groups methods by the scalar they differentiate: each needs a backward of its own."""
    plain = [m for m in chosen if m.info.target_transform is None]
    groups: list[tuple[Callable[[Target], Target], list[Method]]] = []
    if plain or not chosen:
        groups.append((lambda target: target, plain))
    for method in chosen:
        if method.info.target_transform is not None:
            groups.append((functools.partial(_transformed, method), [method]))
    return groups


def _transformed(method: Method, target: Target) -> Target:
    transform = method.info.target_transform
    assert transform is not None
    wanted = inspect.signature(transform).parameters
    options = {**method.info.options, **method.options}
    own = {name: value for name, value in options.items() if name in wanted}
    return TransformedTarget(
        target.indices, target.function, functools.partial(transform, **own), method.key
    )


def _layers_of(method: Method, layers: list[Layer]) -> list[tuple[str, Layer | None]]:
    """The names that a method's maps are found under, each with the layer it runs on."""
    by_name = {layer.name: layer for layer in layers}
    last = layers[-1] if layers else None
    return [(name, by_name.get(name, last)) for name in method.places(list(by_name))]


class _Columns:
    """Values per method, key and target, in the order of the targets."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[tuple[str, str], list[Tensor]]] = {}

    def add(self, method: str, key: tuple[str, str], value: Tensor) -> None:
        self._rows.setdefault(method, {}).setdefault(key, []).append(value)

    def repeat(self, method: str, layer: str) -> None:
        for (_, name), column in self._rows.get(method, {}).items():
            if name == layer:
                column.append(column[0])

    def stacked(self, chosen: Sequence[Method]) -> Iterator[tuple[Method, tuple[str, str], Tensor]]:
        for method in chosen:
            for key, column in self._rows.get(method.key, {}).items():
                yield method, key, torch.stack(column, 1)
