"""Models: a zoo name, a FiftyOne model or a module becomes module + transforms + classes.

Torch is imported inside functions, so that registering the operators and opening a form stay cheap.
"""

import contextlib
import dataclasses
import difflib
import functools
import re
import weakref

import fiftyone as fo
import fiftyone.zoo as foz
import fiftyone.zoo.models as fozm

_CLASSIFIER_OUTPUT = "fiftyone.utils.torch.ClassifierOutputProcessor"
_TORCHVISION_MODEL = "fiftyone.zoo.models.torch.TorchvisionImageModel"


@dataclasses.dataclass
class LoadedModel:
    """What the pipeline needs of a model.

    Attributes:
        module: the ``torch.nn.Module``
        transforms: maps a PIL image to a (C, h, w) float tensor
        classes: class names in the order of the outputs, or None
        name: what the run record and the default key call it
        source: ``"zoo"``, ``"fiftyone"`` or ``"module"``
        device: the ``torch.device`` that it runs on
    """

    module: object
    transforms: object
    classes: list
    name: str
    source: str
    device: object

    def label(self, index):
        """Returns the name of a class index."""
        if self.classes is not None and 0 <= index < len(self.classes):
            return self.classes[index]
        return f"class {index}"


@functools.lru_cache(maxsize=1)
def supported_zoo_models():
    """Lists the zoo models that can be explained, without loading any.

    FiftyOne's allow-lists of zoo models are honoured, because its own listing honours them.

    Returns:
        a sorted list of names
    """
    # Not foz.get_zoo_model() per name: it reads the whole manifest anew, 15 s in all.
    return sorted(m.name for m in fozm._list_zoo_models() if _refusal(m) is None)


def refusal(name):
    """Says in one sentence why a zoo model cannot be explained.

    Args:
        name: the name of a zoo model

    Returns:
        a string, or None if it can
    """
    return _refusal(foz.get_zoo_model(name))


def _refusal(zoo_model):
    config = zoo_model.default_deployment_config_dict or {}
    kind = config.get("type", "")
    details = config.get("config", {})
    if kind != _TORCHVISION_MODEL:
        return "this version explains torchvision's image classifiers"
    if details.get("output_processor_cls") != _CLASSIFIER_OUTPUT:
        return "it yields no class scores for the whole image"
    return None


def default_key(name):
    """Returns the base of a run's key: ``resnet50-imagenet-torch`` -> ``resnet50``."""
    short = re.sub(r"-(imagenet|coco)?-?torch$", "", name)
    return re.sub(r"\W+", "_", short).strip("_").lower() or "model"


def check_zoo_name(name):
    """Raises a ValueError unless a name is that of a zoo model that can be explained."""
    if name in supported_zoo_models():
        return
    if name in foz.list_zoo_models():
        raise ValueError(f"model: {name!r} cannot be explained: {refusal(name)}")
    near = difflib.get_close_matches(name, supported_zoo_models(), n=3, cutoff=0.5)
    hint = (
        f"did you mean {', '.join(near)}?"
        if near
        else f"choose from {', '.join(supported_zoo_models())}"
    )
    raise ValueError(f"model: the zoo has no model {name!r}; {hint}")


def zoo_layers(name):
    """Returns (names of the layers, default layer) of a zoo model without its weights.

    Args:
        name: the name of a zoo model that can be explained

    Returns:
        a list of names, and the name of the family's default layer or None
    """
    model = _outline(name)
    return [n for n, _ in model.module.named_modules() if n], model.named_default()


@functools.lru_cache(maxsize=8)
def _outline(name):
    """A zoo model's network on PyTorch's ``meta`` device: no memory, no download."""
    import eta.core.utils as etau
    import torch

    from ..cam_core import adapt

    config = foz.get_zoo_model(name).default_deployment_config_dict["config"]
    with torch.device("meta"):
        return adapt(etau.get_function(config["entrypoint_fcn"])(weights=None))


def is_transformer(name):
    """Whether a zoo model that can be explained is a vision transformer; False for any other name."""
    return name in supported_zoo_models() and _outline(name).default_method != "gradcam"


def load_model(model, transforms=None, classes=None, device=None):
    """Loads what the user named as ``model``.

    Args:
        model: the name of a zoo model, a FiftyOne model, or a ``torch.nn.Module``
        transforms (None): required for a plain module: maps a PIL image to a float tensor (C, h, w)
        classes (None): class names in the order of the model's outputs
        device (None): a torch device; by default that of the model

    Returns:
        a :class:`LoadedModel`

    Raises:
        ValueError: if the model cannot be used; the message says what to do
    """
    import torch

    if model is None:
        raise ValueError(
            "model is required: a zoo model's name, a FiftyOne model or a torch.nn.Module"
        )
    target = check_device(device)
    if isinstance(model, str):
        check_zoo_name(model)
        options = {} if target is None else {"device": str(target)}
        return _from_fiftyone(
            foz.load_zoo_model(model, **options), model, "zoo", transforms, classes, target
        )
    if isinstance(model, fo.Model):
        name = getattr(model.config, "name", None) or type(getattr(model, "_model", model)).__name__
        return _from_fiftyone(model, name, "fiftyone", transforms, classes, target)
    if isinstance(model, torch.nn.Module):
        return _from_module(model, type(model).__name__, "module", transforms, classes, target)
    raise ValueError(
        f"model: {type(model).__name__} is not understood; give a zoo model's name, a FiftyOne model "
        "or a torch.nn.Module with transforms= and classes="
    )


def check_device(device):
    """Returns the ``torch.device`` of a name, None where none was given.

    Raises:
        ValueError: if there is no such device here
    """
    import torch

    if device in (None, "", "auto"):
        return None
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device: {device!r} is not a torch device, for example 'cpu' or 'cuda:0'"
        ) from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device: {device!r} was asked for, but torch sees no CUDA device here; use 'cpu'"
        )
    return wanted


def _from_fiftyone(model, name, source, transforms, classes, device):
    import torch

    module = getattr(model, "_model", None)
    if not isinstance(module, torch.nn.Module):
        raise ValueError(
            f"model: {type(model).__name__} wraps no torch.nn.Module that can be explained; "
            "pass the module itself with transforms= and classes="
        )
    if transforms is None:
        transforms = model.transforms if model.preprocess else None
    if classes is None:
        classes = getattr(model, "classes", None)
    return _from_module(module, name, source, transforms, classes, device)


def _from_module(module, name, source, transforms, classes, device):
    import torch

    if transforms is None:
        raise ValueError(
            "transforms is required for this model: a callable that maps a PIL image to a float tensor "
            "(3, h, w), for example weights.transforms() of torchvision"
        )
    if not callable(transforms):
        raise ValueError(f"transforms: {type(transforms).__name__} is not callable")
    like = next(module.parameters(), None)
    own = like.device if like is not None else torch.device("cpu")
    classes = None if classes is None else [str(c) for c in classes]
    return LoadedModel(module, transforms, classes, name, source, device or own)


@contextlib.contextmanager
def on_device(model):
    """Moves a model's module to its device and back to where it came from afterwards.

    The zoo hands out one shared object per model, so it must come back unchanged.
    """
    _enter(model)
    try:
        yield model
    finally:
        _leave(model)


# module -> [users, where it came from]: of several runs, the last one moves it back.
_USERS = weakref.WeakKeyDictionary()


def _enter(model):
    import torch

    from ..cam_core.capture import exclusive

    with exclusive(model.module):
        like = next(model.module.parameters(), None)
        current = like.device if like is not None else torch.device("cpu")
        entry = _USERS.setdefault(model.module, [0, current])
        if entry[0] and current != model.device:
            raise ValueError(
                f"device: another run is using this model on {current}; use that device, or wait for it"
            )
        entry[0] += 1
        try:
            if current != model.device:
                model.module.to(model.device)
        except BaseException:
            _leave(model)  # half of it may have moved
            raise


def _leave(model):
    from ..cam_core.capture import exclusive

    with exclusive(model.module):
        entry = _USERS[model.module]
        entry[0] -= 1
        if not entry[0]:
            del _USERS[model.module]
            if entry[1] != model.device:
                model.module.to(entry[1])
