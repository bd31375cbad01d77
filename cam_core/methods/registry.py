"""The registry of CAM methods: a decorator makes a function a method.

A method asks for its ingredients by the names of its positional arguments, and the engine computes
only what is asked for. Keyword-only arguments with defaults are its options.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

INGREDIENTS = {
    "activations": "(N, C, h, w) output of the target layer, float32",
    "gradients": "(N, C, h, w) gradient of the score with respect to the activations, float32",
    "score": "(N,) the explained score",
    "target": "(N,) class indices on the device, -1 for none; None where the target is no class",
    "head": "the linear head after global average pooling (`Head`), or None where there is none",
    "tail": "callable: activations (B, C, h, w), rows (B indices into the batch) -> (B,) scores",
    "forward": "callable: images (B, 3, H, W), rows, probability=False -> (B,) scores",
    "gradient_pass": "callable: images (B, 3, H, W), rows -> fresh (activations, gradients, score)",
    "hvp": "callable: v (N, C, h, w) -> Hessian of the score at the target layer times v",
    "layers": "{layer: (activations, gradients)} of all target layers",
    "images": "(N, 3, H, W) the model's input",
    "input_gradient": "callable: images (B, 3, H, W), rows -> (gradient of the score, score)",
    "guided_gradient": "input_gradient under guided backpropagation's rule for ReLUs",
    "full_gradient": "(gradient at the input, [(N, C, h, w) bias times gradient of every bias])",
    "attentions": "[(N, heads, L, L)] attention of every block, rows are queries and sum to 1",
    "attention_gradients": "[(N, heads, L, L)] gradients of the score with respect to these",
    "block_gradients": "[(N, heads, L, L)] gradients of each block's own score",
    "readout": "(L,) the tokens that the head reads, as weights that sum to 1",
    "model": "the ExplainableModel, in eval mode; leave it as it is",
    "rng": "a seeded torch.Generator on the images' device, fresh for every call",
}
PLACES = {
    "layer": "the grid of each target layer",
    "layers": "one map from all target layers",
    "input": "the pixels of the model's input",
    "attention": "the tokens of the attention blocks",
}
SMOOTHINGS = {
    "aug": "mean over flips and gains",
    "noise": "mean over noisy copies of the image",
    "multiscale": "mean over sizes of the image",
    "eigen": "the first principal component over channels in place of their sum",
}
_FROM_BACKWARD = {"gradients", "layers"}
_FROM_LAYER = {"activations", "gradients", "head", "tail", "gradient_pass", "hvp", "layers"}
_GRADIENTS = _FROM_BACKWARD | {
    "gradient_pass", "hvp", "input_gradient", "guided_gradient", "full_gradient",
    "attention_gradients", "block_gradients",
}  # fmt: skip
_ATTENTION = {"attentions", "attention_gradients", "block_gradients", "readout"}


@dataclasses.dataclass(frozen=True)
class MethodInfo:
    """What is known of a method without running it.

    Attributes:
        name: what the user types
        family: ``"gradient"``, ``"eigen"``, ``"perturbation"``, ``"baseline"``, ...
        class_discriminative: whether the map depends on the target
        signed: whether negative values mean evidence against the target
        needs: the ingredients, in the order of the function's arguments
        options: the keyword options with their defaults
        cost: forwards (F) and backwards (B) per image and target; T is a forward of the tail, C the
            layer's channels, P its positions, n a number of samples
        paper: where the method was published
        summary: one line
        place: where its maps live, a key of ``PLACES``
        times: its cost as a multiple of a prediction, roughly, for a layer of 7 x 7 positions and
            1,000 channels at the end of a network
        aliases: other names it is known by
        target_transform: another scalar to differentiate, or None
        component_names: options -> names of the maps, for a method that makes several; or None
        sums_channels: whether it ends in :func:`channel_sum`, which ``smooth="eigen"`` replaces; None
            where that shows only when it runs
    """

    name: str
    family: str
    class_discriminative: bool
    signed: bool
    needs: tuple[str, ...]
    options: Mapping[str, Any]
    cost: str
    paper: str
    summary: str
    place: str = "layer"
    times: float = 1.0
    aliases: tuple[str, ...] = ()
    target_transform: Callable | None = None
    component_names: Callable[..., Sequence[str] | None] | None = None
    sums_channels: bool | None = None

    @property
    def needs_backward(self) -> bool:
        """Whether the one backward to the target layers is needed."""
        return bool(_FROM_BACKWARD & set(self.needs))

    @property
    def needs_layer(self) -> bool:
        """Whether a target layer is needed."""
        return self.place in ("layer", "layers") or bool(_FROM_LAYER & set(self.needs))

    @property
    def needs_attention(self) -> bool:
        """Whether the network has to have attention blocks."""
        return bool(_ATTENTION & set(self.needs))

    @property
    def gradient_free(self) -> bool:
        """Whether the network is never differentiated."""
        return not _GRADIENTS & set(self.needs)


@dataclasses.dataclass(frozen=True)
class Method:
    """A method chosen by the user, with its options.

    Attributes:
        key: how its maps are named in the result
        function: the method itself
        info: its :class:`MethodInfo`
        options: what the user set
        smooth: the smoothings around it, see :mod:`cam_core.smoothing`
        note: what was asked for and is not done, in one sentence; None where all of it is
    """

    key: str
    function: Callable
    info: MethodInfo
    options: Mapping[str, Any]
    smooth: tuple[str, ...] = ()
    note: str | None = None

    def places(self, layers: Sequence[str]) -> list[str]:
        """Under which layer names the maps of this method are found.

        Args:
            layers: names of the target layers
        """
        if self.info.place == "layer":
            return list(layers)
        if self.info.place == "layers":
            return ["fused"] if len(layers) > 1 else list(layers)
        return [self.info.place]

    def keys(self, layers: Sequence[str]) -> list[tuple[str, str]]:
        """The keys ``(method, layer)`` of this method's maps, before anything is computed."""
        names: Sequence[str] | None = None
        if self.info.component_names is not None:
            names = self.info.component_names(**{**self.info.options, **self.options})
        own = [f"{self.key}_{name}" for name in names] if names else [self.key]
        return [(key, place) for place in self.places(layers) for key in own]


@dataclasses.dataclass(frozen=True)
class Components:
    """What a method returns that makes several maps.

    Attributes:
        maps: (N, J, h, w) raw maps
        names: J names; a map is found under ``{method}_{name}``
        scores (None): (N, J) one number per map, for example the score of a concept
    """

    maps: Tensor
    names: Sequence[str]
    scores: Tensor | None = None


_METHODS: dict[str, Callable] = {}
_NAMES: dict[str, str] = {}  # every name and alias, in its plain form


def cam_method(
    function: Callable | None = None,
    *,
    paper: str = "",
    family: str = "custom",
    class_discriminative: bool = True,
    signed: bool = True,
    cost: str | None = None,
    times: float = 1.0,
    place: str = "layer",
    target_transform: Callable | None = None,
    component_names: Callable[..., Sequence[str] | None] | None = None,
    sums_channels: bool | None = None,
    aliases: Sequence[str] = (),
    register: bool = False,
) -> Callable:
    """Declares a function to be a CAM method.

    Example::

        @cam_method(paper="Jiang et al., LayerCAM, IEEE TIP 2021")
        def layercam(activations, gradients):
            return (gradients.relu() * activations).sum(1)

    The function returns the raw map (N, h, w), signed, or :class:`Components`; on the tokens of
    attention blocks (N, L). Pass it to ``explain(methods=layercam)``.

    Args:
        function (None): the function, when used without parentheses
        paper (""): where the method was published
        family ("custom"): the family it is listed under
        class_discriminative (True): whether the map depends on the target
        signed (True): whether negative values mean evidence against the target
        cost (None): forwards and backwards; by default read off its ingredients
        times (1.0): its cost as a multiple of a prediction, roughly
        place ("layer"): where its maps live: ``"layer"``, ``"layers"`` (one map from all of them),
            ``"input"`` or ``"attention"``
        target_transform (None): another scalar to differentiate: a callable logits (B, classes),
            class indices (B,) -> (B,), which may take the method's options by name
        component_names (None): for a method that returns :class:`Components`: a callable that takes
            its options by name and returns the names of its maps, or None where it makes one
        sums_channels (None): whether it ends in ``cam_core.methods.channel_sum``, so that ``+eigen``
            applies to it; by default that is seen when it runs
        aliases (()): other names it is known by; case, hyphens and ``++`` never matter
        register (False): whether its name is added to the names ``explain`` knows

    Raises:
        TypeError: if an argument of the function is not an ingredient, or an option has no default
        ValueError: if the place is unknown
    """
    if place not in PLACES:
        raise ValueError(f"place: {place!r} is unknown; choose from {', '.join(PLACES)}")

    def decorate(fn: Any) -> Callable:
        needs, options = _signature(fn)
        doc = inspect.getdoc(fn) or ""
        fn.cam_info = MethodInfo(
            name=_identifier(fn.__name__),
            family=family,
            class_discriminative=class_discriminative,
            signed=signed,
            needs=needs,
            options=options,
            cost=cost or ("1F+1B" if _FROM_BACKWARD & set(needs) else "1F"),
            paper=paper,
            summary=doc.split("\n\n")[0].replace("\n", " "),
            place=place,
            times=times,
            aliases=tuple(aliases),
            target_transform=target_transform,
            component_names=component_names,
            sums_channels=sums_channels,
        )
        if register:
            _METHODS[fn.cam_info.name] = fn
            for name in (fn.cam_info.name, *fn.cam_info.aliases):
                _NAMES[_plain(name)] = fn.cam_info.name
        return fn

    return decorate(function) if function is not None else decorate


def _signature(fn: Callable) -> tuple[tuple[str, ...], dict[str, Any]]:
    needs, options = [], {}
    for name, parameter in inspect.signature(fn).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is parameter.empty:
                raise TypeError(f"{fn.__name__}: option {name!r} needs a default")
            options[name] = parameter.default
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            needs.append(name)
        else:
            raise TypeError(f"{fn.__name__}: *args and **kwargs name no ingredient")
    unknown = [n for n in needs if n not in INGREDIENTS]
    if unknown or not needs:
        got = ", ".join(unknown) if unknown else "no argument"
        raise TypeError(
            f"{fn.__name__}: {got} is not an ingredient; choose from {', '.join(INGREDIENTS)}"
        )
    return tuple(needs), options


def info_of(function: Any) -> MethodInfo:
    """Returns what :func:`cam_method` noted on a function."""
    return function.cam_info


class MethodList(list):
    """A list of :class:`MethodInfo` that prints as a table."""

    def __repr__(self) -> str:
        rows = [("name", "family", "class", "signed", "gradient", "cost", "times", "what it shows")]
        for m in self:
            rows.append((
                m.name, m.family, "yes" if m.class_discriminative else "no",
                "yes" if m.signed else "no", "no" if m.gradient_free else "yes", m.cost,
                f"x{m.times:g}", m.summary,
            ))  # fmt: skip
        widths = [max(len(row[i]) for row in rows) for i in range(7)]
        return "\n".join(
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[7]])
            for row in rows
        )


def list_methods() -> MethodList:
    """Lists the methods that ``explain`` knows by name; prints as a table.

    Returns:
        a list of :class:`MethodInfo`, gradient methods first
    """
    return MethodList(info_of(fn) for fn in _METHODS.values())


def resolve_methods(methods: Any) -> list[Method]:
    """Turns what the user gave into methods.

    Args:
        methods: a name, a callable, a pair ``(name or callable, options)``, or a list of these

    Returns:
        a list of :class:`Method` with unique keys. Smoothing ``"eigen"`` that is asked for a whole list
        is left out of the methods that add up no channels, and their ``note`` says so

    Raises:
        ValueError: if a name or an option is unknown, or ``methods`` is empty; if ``"eigen"`` is
            asked for methods only that add up no channels
    """
    items = methods if isinstance(methods, list) else [methods]
    if isinstance(methods, tuple) and not _is_pair(methods):
        items = list(methods)
    if not items:
        raise ValueError("methods is empty; name at least one, for example 'gradcam'")
    chosen = _with_eigen_where_it_applies([_resolve(item) for item in items])
    names = [_with_smoothing(m.info.name, m.smooth) for m in chosen]
    result: dict[str, Method] = {}
    for method, name in zip(chosen, names, strict=True):
        # A plain name stays the key; options tell apart what would collide.
        options = method.options.items() if names.count(name) > 1 else ()
        suffix = _identifier("_".join(f"{k}{v}" for k, v in options)) if options else ""
        key = f"{name}_{suffix}" if suffix else name
        if key in result:
            raise ValueError(f"methods: {key!r} is given twice")
        result[key] = dataclasses.replace(method, key=key)
    return list(result.values())


def _with_eigen_where_it_applies(chosen: list[Method]) -> list[Method]:
    """Leaves ``"eigen"`` out of methods that have no sum over channels, beside others that have."""
    asked = [m for m in chosen if "eigen" in m.smooth]
    without = [m.key for m in asked if m.info.sums_channels is False]
    if without and len(without) == len(asked):
        raise ValueError(
            f"methods: smoothing 'eigen' does not apply to {', '.join(map(repr, without))}, which adds "
            "up no channels for a principal component to replace; leave '+eigen' out"
        )
    return [_without_eigen(m) if m in asked and m.key in without else m for m in chosen]


def _without_eigen(method: Method) -> Method:
    return dataclasses.replace(
        method,
        smooth=tuple(name for name in method.smooth if name != "eigen"),
        note=f"{method.key}: smoothing 'eigen' was left out, as it adds up no channels",
    )


def _with_smoothing(name: str, smooth: Sequence[str]) -> str:
    return "_".join([name, *smooth])


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping)


def _resolve(item: Any) -> Method:
    options: dict[str, Any] = {}
    if isinstance(item, Sequence) and len(item) == 2 and isinstance(item[1], Mapping):
        item, options = item[0], dict(item[1])
    smooth: list[str] = []
    if isinstance(item, str):
        item, *smooth = item.replace("++", "pp").split("+")
    function = item if callable(item) else _METHODS[_known(item)]
    if not hasattr(function, "cam_info"):
        function = _undecorated(function)
    info = info_of(function)
    if "smooth" in options and "smooth" not in info.options:
        given = options.pop("smooth") or []
        smooth += [given] if isinstance(given, str) else list(given)
    for name in options:
        if name not in info.options:
            offer = ", ".join([*info.options, "smooth"])
            raise ValueError(f"method {info.name!r} has no option {name!r}; it has: {offer}")
    return Method(info.name, function, info, options, _checked_smooth(smooth))


def _checked_smooth(names: Sequence[str]) -> tuple[str, ...]:
    plain = [str(name).strip().lower() for name in names]
    for name in plain:
        if name not in SMOOTHINGS:
            raise ValueError(
                f"methods: smoothing {name!r} is unknown; choose from {', '.join(SMOOTHINGS)}"
            )
    return tuple(known for known in SMOOTHINGS if known in plain)


def _undecorated(function: Callable) -> Callable:
    """A user's plain function: its info is read off its signature, it is not changed."""

    @functools.wraps(function, updated=())
    def method(*args, **kwargs):
        return function(*args, **kwargs)

    method.__name__ = getattr(function, "__name__", type(function).__name__)
    return cam_method(method)


def _plain(name: str) -> str:
    return re.sub(r"[\s_.-]+", "", name.lower().replace("++", "pp"))


def _known(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"methods: {name!r} is neither a name nor a callable")
    plain = _plain(name)
    if plain in _NAMES:
        return _NAMES[plain]
    near = [_NAMES[n] for n in difflib.get_close_matches(plain, _NAMES, n=2, cutoff=0.6)]
    hint = f" (did you mean {' or '.join(dict.fromkeys(near))}?)" if near else ""
    raise ValueError(f"method {name!r} is unknown{hint}; choose from {', '.join(sorted(_METHODS))}")


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_") or "custom"
