"""What a form says about a model by its name: layers, default method, kind; without its weights.

It is read off the network's outline, built without weights. Of a model that has none, such as one that
a function returns, it is what was seen when this process last loaded it.
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
    model = _zoo_entry(name)
    return None if model is None else zoo.kind_of(model)


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
    """Returns the method that is right for a model unless a person chooses.

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
    model = _zoo_entry(name)
    attends = name.startswith("hf:") or (model is not None and _attends(model))
    return "gradcam_elementwise" if attends and not plain else "gradcam"


def _attends(model):
    """Whether a zoo model is made of attention, as far as its entry tells."""
    wrapper, _ = zoo._wrapper(model)
    return "Transformer" in wrapper or "CLIP" in wrapper.upper() or model.has_tag("transformer")


def is_transformer(name):
    """Whether a model's recommended method is that of vision transformers; False if it has no name."""
    return isinstance(name, str) and bool(name) and default_method(name) == "gradcam_elementwise"


def _zoo_entry(name):
    return None if by_name.is_named(name) else zoo.entry(name)


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
    except _NoOutline:
        return None


class _NoOutline(LookupError):
    """There is none, or not yet: unlike an answer, an error is not kept, so it is tried again."""


@functools.lru_cache(maxsize=16)
def _built(name, options):
    import torch

    from ...cam_core import adapt

    build = _builder(name)
    if build is None:
        raise _NoOutline(name)
    with torch.device("meta"):
        module = build()
        try:
            return adapt(module, **json.loads(options))
        except ValueError as error:  # options that do not fit are refused when the model is loaded
            raise _NoOutline(name) from error


def _builder(name):
    """A function that builds a network without weights, or None."""
    if by_name.is_named(name):
        scheme, _, rest = name.partition(":")
        architecture = rest.partition("@")[0]
        known = by_name.refusal(name) is None
        builders = {"timm": _timm, "torchvision": _torchvision, "hf": _hub}
        return builders[scheme](architecture) if known and scheme in builders else None
    model = zoo.entry(name)
    if model is None:
        return None
    wrapper, _ = zoo._wrapper(model)
    config = (model.default_deployment_config_dict or {}).get("config", {})
    if wrapper == "TorchvisionImageModel":
        return functools.partial(_entry_point, config["entrypoint_fcn"])
    if wrapper.startswith("FiftyOneTransformerFor") and config.get("name_or_path"):
        return _hub(config["name_or_path"])
    return None


def _entry_point(function):
    import eta.core.utils as etau

    options = {"weights": None}
    if ".segmentation." in function or ".detection." in function:
        options["weights_backbone"] = None
    return etau.get_function(function)(**options)


def _timm(name):
    import timm

    known = timm.is_model(name.partition(".")[0])
    return functools.partial(timm.create_model, name, pretrained=False) if known else None


def _torchvision(name):
    from torchvision import models

    if name not in models.list_models():
        return None
    weights = {"weights": None}
    if any(name in models.list_models(m) for m in (models.segmentation, models.detection)):
        weights["weights_backbone"] = None
    return functools.partial(models.get_model, name, **weights)


def _hub(name):
    """A network of Hugging Face whose configuration is on this machine already."""
    import transformers

    try:
        config = by_name.hub_config(name, local=True)
    except (OSError, ValueError):
        return None  # not downloaded yet: it is when the model is loaded
    kind = getattr(transformers, (config.architectures or [""])[0], None)
    return None if kind is None else functools.partial(kind, config)
