"""The registry of CAM methods: a decorator makes a function a method.

A method asks for its ingredients by the names of its positional arguments, and the engine computes
only what is asked for. Keyword-only arguments with defaults are its options.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .option_ranges import MOST_MAPS, Range

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
        smooth: the smoothings around it, see :mod:`cam_core.engine.smoothing`
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


def numbered(option: str, count: Any, prefix: str = "") -> list[str]:
    """Names of a method's maps, ``prefix`` and a number from 1 on.

    Args:
        option: the option that says how many, for the message
        count: how many
        prefix (""): what stands before each number

    Raises:
        ValueError: if it is no whole number from 1 to 1024
    """
    Range(1, MOST_MAPS).check(option, count)
    return [f"{prefix}{n + 1}" for n in range(count)]


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


# The methods that explain knows by name, filled by the families that :mod:`.catalogue` imports.
METHODS: dict[str, Callable] = {}
NAMES: dict[str, str] = {}  # every name and alias, in its plain form


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
        sums_channels (None): whether it ends in ``cam_core.methods.channels.channel_sum``, so that ``+eigen``
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
            name=identifier(fn.__name__),
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
            METHODS[fn.cam_info.name] = fn
            for name in (fn.cam_info.name, *fn.cam_info.aliases):
                NAMES[plain_name(name)] = fn.cam_info.name
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


def plain_name(name: str) -> str:
    """A name as it is compared: without case, spaces, hyphens and dots, ``++`` as ``pp``."""
    return re.sub(r"[\s_.-]+", "", name.lower().replace("++", "pp"))


def identifier(text: str) -> str:
    """A text as a part of a field's name."""
    return re.sub(r"\W+", "_", text).strip("_") or "custom"
