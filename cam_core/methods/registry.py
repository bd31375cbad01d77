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
from typing import Any

INGREDIENTS = {
    "activations": "(N, C, h, w) output of the target layer, float32",
    "gradients": "(N, C, h, w) gradient of the score with respect to the activations, float32",
    "score": "(N,) the explained score",
    "head": "the linear head after global average pooling (`Head`), or None where there is none",
    "tail": "callable: activations (B, C, h, w), rows (B indices into the batch) -> (B,) scores",
    "forward": "callable: images (B, 3, H, W), rows -> (B,) scores",
    "images": "(N, 3, H, W) the model's input",
    "layers": "{layer: (activations, gradients)} of all target layers",
    "rng": "a seeded torch.Generator on the activations' device, fresh for every call",
}
_NEED_GRADIENT = {"gradients", "layers"}


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
        cost: forwards (F) and backwards (B) per image and target; T is a forward of the tail
        paper: where the method was published
        summary: one line
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

    @property
    def needs_gradient(self) -> bool:
        """Whether a backward through the tail is needed."""
        return bool(_NEED_GRADIENT & set(self.needs))


@dataclasses.dataclass(frozen=True)
class Method:
    """A method chosen by the user, with its options.

    Attributes:
        key: how its maps are named in the result
        function: the method itself
        info: its :class:`MethodInfo`
        options: what the user set
    """

    key: str
    function: Callable
    info: MethodInfo
    options: Mapping[str, Any]


_METHODS: dict[str, Callable] = {}


def cam_method(
    function: Callable | None = None,
    *,
    paper: str = "",
    family: str = "custom",
    class_discriminative: bool = True,
    signed: bool = True,
    cost: str | None = None,
    register: bool = False,
) -> Callable:
    """Declares a function to be a CAM method.

    Example::

        @cam_method(paper="Jiang et al., LayerCAM, IEEE TIP 2021")
        def layercam(activations, gradients):
            return (gradients.relu() * activations).sum(1)

    The function returns the raw map (N, h, w), signed. Pass it to ``explain(methods=layercam)``.

    Args:
        function (None): the function, when used without parentheses
        paper (""): where the method was published
        family ("custom"): the family it is listed under
        class_discriminative (True): whether the map depends on the target
        signed (True): whether negative values mean evidence against the target
        cost (None): forwards and backwards; by default read off its ingredients
        register (False): whether its name is added to the names ``explain`` knows

    Raises:
        TypeError: if an argument of the function is not an ingredient, or an option has no default
    """

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
            cost=cost or ("1F+1B" if _NEED_GRADIENT & set(needs) else "1F"),
            paper=paper,
            summary=doc.split("\n\n")[0].replace("\n", " "),
        )
        if register:
            _METHODS[fn.cam_info.name] = fn
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


def list_methods() -> list[MethodInfo]:
    """Lists the methods that ``explain`` knows by name.

    Returns:
        a list of :class:`MethodInfo`, gradient methods first
    """
    return [info_of(fn) for fn in _METHODS.values()]


def resolve_methods(methods: Any) -> list[Method]:
    """Turns what the user gave into methods.

    Args:
        methods: a name, a callable, a pair ``(name or callable, options)``, or a list of these

    Returns:
        a list of :class:`Method` with unique keys

    Raises:
        ValueError: if a name or an option is unknown, or ``methods`` is empty
    """
    items = methods if isinstance(methods, list) else [methods]
    if isinstance(methods, tuple) and not _is_pair(methods):
        items = list(methods)
    if not items:
        raise ValueError("methods is empty; name at least one, for example 'gradcam'")
    chosen = [_resolve(item) for item in items]
    names = [info.name for _, info, _ in chosen]
    result: dict[str, Method] = {}
    for function, info, options in chosen:
        # A plain name stays the key; options tell apart what would collide.
        suffix = (
            "_".join(f"{k}{v}" for k, v in options.items()) if names.count(info.name) > 1 else ""
        )
        key = f"{info.name}_{_identifier(suffix)}" if suffix else info.name
        if key in result:
            raise ValueError(f"methods: {key!r} is given twice")
        result[key] = Method(key, function, info, options)
    return list(result.values())


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping)


def _resolve(item: Any) -> tuple[Callable, MethodInfo, Mapping[str, Any]]:
    options: Mapping[str, Any] = {}
    if isinstance(item, Sequence) and len(item) == 2 and isinstance(item[1], Mapping):
        item, options = item
    function = item if callable(item) else _METHODS[_known(item)]
    if not hasattr(function, "cam_info"):
        function = _undecorated(function)
    info = info_of(function)
    for name in options:
        if name not in info.options:
            offer = ", ".join(info.options) or "none"
            raise ValueError(f"method {info.name!r} has no option {name!r}; it has: {offer}")
    return function, info, dict(options)


def _undecorated(function: Callable) -> Callable:
    """A user's plain function: its info is read off its signature, it is not changed."""

    @functools.wraps(function, updated=())
    def method(*args, **kwargs):
        return function(*args, **kwargs)

    method.__name__ = getattr(function, "__name__", type(function).__name__)
    return cam_method(method)


def _known(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"methods: {name!r} is neither a name nor a callable")
    plain = re.sub(r"[\s_.-]+", "", name.lower().replace("++", "pp"))
    for known in _METHODS:
        if known.replace("_", "") == plain:
            return known
    near = difflib.get_close_matches(plain, _METHODS, n=2, cutoff=0.6)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise ValueError(f"method {name!r} is unknown{hint}; choose from {', '.join(sorted(_METHODS))}")


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_") or "custom"
