"""What a form says about a model by its name: layers, default method, kind; without its weights.

It is read off the network, built without weights. Where that cannot be, as with one that a function
returns, it is what was seen when this process last loaded it.
"""

import dataclasses
import functools
import json

from . import by_name, registered, zoo

# Networks of transformers, and their families, that are no vision transformers.
_CONVOLUTIONAL = ("convnext", "efficientnet", "resnet", "regnet", "mobilenet", "bit", "yolo", "vgg")


@dataclasses.dataclass
class SeenModel:
    """What a model that was loaded told; words only, nothing of its network."""

    stamp: object
    kind: str
    layers: list
    default: str
    method: str
    classes: list = None


_SEEN = {}


def remember(name, loaded, own_classes=True):
    """Keeps what a form will want to know of a model that was just loaded by its name.

    Args:
        name: see :func:`operators.models.load.load_model`
        loaded: the :class:`operators.models.load.LoadedModel`
        own_classes (True): whether its class names are its own, not this call's
    """
    adapted = loaded.adapted
    # a function may return a model of a family of its own, which need not have these two
    default = getattr(adapted, "named_default", lambda: None)
    _SEEN[name] = SeenModel(
        registered.stamp_of(name),
        loaded.kind,
        [n for n, _ in adapted.module.named_modules() if n],
        default(),
        getattr(adapted, "default_method", "gradcam"),
        loaded.classes if own_classes and loaded.kind != zoo.ZERO_SHOT else None,
    )


def remember_default(name, layers):
    """Keeps which layers a run explained that named none.

    Args:
        name: see :func:`operators.models.load.load_model`
        layers: their names
    """
    seen = _seen(name)
    if seen is not None and {n.partition(":")[0] for n in layers} <= set(seen.layers):
        seen.default = ", ".join(layers)


def _seen(name):
    """What is kept of a model, None where it was not loaded or is another one by now."""
    found = _SEEN.get(name)
    return found if found is not None and found.stamp == registered.stamp_of(name) else None


def seen_classes(name):
    """Returns the class names of a model that was loaded in this process, or None."""
    found = _seen(name)
    return None if found is None else found.classes


def kind_of_name(name):
    """Returns what a model yields, one of ``zoo.KINDS``, or None if its name does not tell.

    Args:
        name: see :func:`operators.models.load.load_model`
    """
    adapted = build_without_weights(name)
    if adapted is not None:
        from .unwrap import kind_of_adapter

        return kind_of_adapter(adapted)
    if _seen(name) is not None:
        return _seen(name).kind
    return by_name.source_of(name).kind


def layers_of(name):
    """Returns (names of the layers, default layer) of a model without its weights.

    Args:
        name: see :func:`operators.models.load.load_model`

    Returns:
        a list of names, empty where they are not known before the model is loaded, and the name of
        the family's default layer, or of the one that a run found, or None
    """
    adapted, seen = build_without_weights(name), _seen(name)
    found = None if seen is None else seen.default
    if adapted is None:
        return ([] if seen is None else seen.layers), found
    return [n for n, _ in adapted.module.named_modules() if n], adapted.named_default() or found


def default_method(name):
    """Returns the method that is right for a model unless the user chooses.

    Args:
        name: see :func:`operators.models.load.load_model`
    """
    adapted = build_without_weights(name)
    if adapted is not None:
        return adapted.default_method
    if _seen(name) is not None:
        return _seen(name).method
    if kind_of_name(name) in (zoo.SEGMENTER, zoo.DETECTOR):
        return "layercam"
    plain = any(word in name.lower() for word in _CONVOLUTIONAL)
    attends = by_name.source_of(name).attends
    return "gradcam_elementwise" if attends and not plain else "gradcam"


def is_transformer(name):
    """Whether a model's recommended method is that of vision transformers; False if it has no name."""
    return isinstance(name, str) and bool(name) and default_method(name) == "gradcam_elementwise"


def build_without_weights(name):
    """Builds a model by name on PyTorch's ``meta`` device: no memory, no weights, no download.

    Args:
        name: see :func:`operators.models.load.load_model`

    Returns:
        an ``ExplainableModel``, or None where its architecture is not known without a download
    """
    own = registered.registered().get(name)
    options = {} if own is None else own.options
    try:
        return _built(name if own is None else own.spec, json.dumps(options, sort_keys=True))
    except _NotKnown:
        return None


class _NotKnown(LookupError):
    """There is none, or not yet: unlike an answer, an error is not kept, so it is tried again."""


@functools.lru_cache(maxsize=16)
def _built(name, options):
    import torch

    from ...cam_core import adapt

    build = by_name.source_of(name).builder()
    if build is None:
        raise _NotKnown(name)
    with torch.device("meta"):
        module = build()
        try:
            return adapt(module, **json.loads(options))
        except ValueError as error:  # options that do not fit are refused when the model is loaded
            raise _NotKnown(name) from error
