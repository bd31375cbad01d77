"""Models: whatever the user gives becomes network + transforms + classes + adapter.

A registered model (:mod:`operators.models.registered`), another name (:mod:`operators.models.by_name`), a
FiftyOne model (:mod:`operators.models.unwrap`), or a module. Torch is imported inside functions, so that registering
the operators stays cheap.
"""

import contextlib
import dataclasses
import functools
import re
import weakref

import fiftyone as fo

from . import by_name, preview, registered, zoo
from .background import check_background, with_background
from .classes import names_of, read_classes
from .load_errors import readable_errors


@dataclasses.dataclass
class LoadedModel:
    """What the pipeline needs of a model.

    Attributes:
        module: the ``torch.nn.Module``
        transforms: maps a PIL image to a (C, h, w) float tensor
        classes: class names in the order of the outputs, or None
        name: what the run record and the default key call it; of the sources ``"zoo"`` and
            ``"name"`` this name loads it again
        source: ``"zoo"``, ``"name"``, ``"fiftyone"`` or ``"module"``
        device: the ``torch.device`` that it runs on
        adapted: its ``cam_core.ExplainableModel``, which ``explain`` takes: with its options, its
            encoded texts and the like
        kind: what it yields, one of ``zoo.KINDS``, or None where that is not known
        encode_texts: of a zero-shot model with its own tokeniser: T prompts -> (T, D) features
        window: what the user says that the transforms show of an image, or None
        one_name: whether one name was given, that of class 1 of a network with one logit
    """

    module: object
    transforms: object
    classes: list
    name: str
    source: str
    device: object
    adapted: object
    kind: str = None
    encode_texts: object = None
    window: object = None
    one_name: bool = False

    @functools.cached_property
    def geometry(self):
        """The ``TransformGeometry`` of the transforms: what was learned is learned once per job."""
        from ..data.geometry import TransformGeometry

        return TransformGeometry(self.transforms, self.window)

    def label(self, index):
        """Returns the name of a class index; of two with one name as ``crane (134)``."""
        if self.classes is None or not 0 <= index < len(self.classes):
            return f"class {index}"
        # a zero-shot model may be given other classes
        names, labels = self.__dict__.get("_labels", (None, None))
        if names is not self.classes:
            from ...cam_core.targets.base import distinct_names

            names, labels = self.classes, distinct_names(self.classes)
            self._labels = names, labels
        return labels[index]


def supported_zoo_models():
    """Lists the zoo models that can be explained here, without loading any.

    FiftyOne's allow-lists of zoo models are honoured, and so is what is installed.

    Returns:
        a sorted list of names
    """
    return zoo.supported()


def own_models():
    """Lists the names of the models registered on this machine, sorted."""
    return sorted(registered.registered())


def refusal(name):
    """Says in one sentence why a model cannot be explained, without loading it.

    Args:
        name: a name of the zoo, of a registered model, or another that :func:`load_model` takes

    Returns:
        a string, or None if nothing speaks against it
    """
    return None if name in registered.registered() else by_name.source_of(name).refusal()


def check_name(name):
    """Raises a ValueError unless a model can be loaded by a name.

    Args:
        name: see :func:`refusal`
    """
    if name not in registered.registered():
        by_name.source_of(name).check()


def check_from_app(models):
    """Raises a ValueError unless names that came from the App can be loaded, and lead nowhere else.

    Args:
        models: a name, or a list or dict of them; None for none
    """
    if isinstance(models, dict):
        models = list(models.values())
    for name in models if isinstance(models, (list, tuple)) else [models]:
        if isinstance(name, str) and name not in registered.registered():
            by_name.source_of(name).check_from_app()


def unregistered_name(settings):
    """Says why the model of a run cannot be loaded by its name; see ``recorded_model.unregistered``."""
    name = settings.get("model")
    if settings.get("model_source") in ("zoo", "name"):
        reason = refusal(name)
        return None if reason is None else f"the model {name!r} cannot be loaded here: {reason}"
    if name in registered.registered():
        return None
    return (
        f"the model {name!r} was given from Python and is not registered, so it cannot be loaded here: "
        "from Python give it again as model=; for the App register it once on the server, "
        f"register_model({name!r}, loader='package.module:function')"
    )


def default_key(name):
    """Returns the base of a run's key: ``resnet50-imagenet-torch`` -> ``resnet50``."""
    short = re.sub(r"-(imagenet|coco)?-?torch$", "", by_name.source_of(name).short_name)
    return re.sub(r"\W+", "_", short).strip("_").lower() or "model"


def load_model(
    model, transforms=None, classes=None, device=None, preprocess=None, texts=(), window=None,
    **options,
):  # fmt: skip
    """Loads what the user named as ``model``.

    Args:
        model: a name (of the zoo, of a registered model, ``hf:<id>``, ``timm:<name>``,
            ``torchvision:<name>``, the latter two also with ``@<checkpoint>``), a FiftyOne model, a
            ``torch.nn.Module``, or a ``cam_core.ExplainableModel``
        transforms (None): required for a plain module: maps a PIL image to a float tensor (C, h, w)
        classes (None): class names in the order of the model's outputs, or a dict from indices to
            names or from names to indices; of a zero-shot model what to look for, or a dict from names
            to prompts
        device (None): a torch device; by default that of the model
        preprocess (None): instead of transforms: maps an image's path to a float tensor (C, h, w), as
            transforms with an attribute ``takes_path`` do
        texts (()): prompts that will be explained: the classes of a zero-shot model that has none
        window (None): what the transforms show of an image, where it cannot be measured: see
            :func:`operators.data.geometry.check_window`
        **options: of ``cam_core.adapt``: ``output``, ``task``, ``multi_label``, ``threshold``,
            ``ends_in``, ``read``; and ``background``, which may be a class name here

    Returns:
        a :class:`LoadedModel`

    Raises:
        ValueError: if the model cannot be used; the message says what to do
    """
    if model is None:
        raise ValueError(
            "model is required: a zoo model's name, a FiftyOne model or a torch.nn.Module"
        )
    from .unwrap import given_transforms

    transforms = given_transforms(transforms, preprocess)
    options = _own_options(model, options)
    given = _Given(transforms, read_classes(classes), check_device(device), options, tuple(texts))
    loaded = _checked(_load(model, given), options)
    if window is not None:
        loaded.window = window
    if isinstance(model, str) and not options:  # which may make something else of it
        preview.remember(model, loaded, own_classes=classes is None)
    return loaded


def _own_options(model, options):
    """The options without those that a model that is adapted already has; another is an error."""
    if isinstance(model, str) or not _is_adapted(model):
        return options
    for name, value in options.items():
        if not hasattr(model, name) or getattr(model, name) != value:
            has = f" has {getattr(model, name)!r}" if hasattr(model, name) else " has none"
            raise ValueError(
                f"{name}: {value!r} is asked for, and the model, which is adapted already,{has}; adapt the "
                f"network with {name}={value!r}"
            )
    return {}


def _checked(loaded, options):
    """Raises a ValueError where an option has no effect on a model."""
    if options.get("multi_label") and loaded.kind not in (None, zoo.CLASSIFIER, zoo.SEGMENTER):
        raise ValueError(f"multi_label: is for classifiers, and this is a {loaded.kind}")
    check_background(loaded, options)
    for name in ("output", "multi_label", "threshold", "ends_in"):
        if name in options and getattr(loaded.adapted, name, None) != options[name]:
            raise ValueError(
                f"{name}: has no effect on this {loaded.kind or 'model'}; leave it out"
            )
    if "read" in options and getattr(loaded.adapted, "reader", None) is not options["read"]:
        raise ValueError(f"read: has no effect on this {loaded.kind or 'model'}; leave it out")
    return loaded


def _load(model, given):
    import torch

    if isinstance(model, str):
        return _from_name(model, given)
    if isinstance(model, fo.Model):
        name = getattr(model.config, "name", None) or type(getattr(model, "_model", model)).__name__
        return _from_fiftyone(model, name, "fiftyone", given)
    if isinstance(model, torch.nn.Module) or _is_adapted(model):
        return _from_module(_plain(model), given)
    raise ValueError(
        f"model: {type(model).__name__} is not understood; give a zoo model's name, a FiftyOne model "
        "or a torch.nn.Module with transforms= and classes="
    )


def _plain(model):
    """A module without torch.compile's and DataParallel's wrapper around it."""
    import torch

    from ...cam_core.network.plain_run import unwrapped

    return unwrapped(model) if isinstance(model, torch.nn.Module) else model


@dataclasses.dataclass
class _Given:
    """What the user gave beside the model."""

    transforms: object
    classes: object
    device: object
    options: dict
    texts: tuple = ()

    def after(self, transforms, classes, options=None):
        """Adds what was registered or found, where nothing was given."""
        return dataclasses.replace(
            self,
            transforms=transforms if self.transforms is None else self.transforms,
            classes=classes if self.classes is None else self.classes,
            options={**(options or {}), **self.options},
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
    if wanted.type == "meta":
        raise ValueError(
            "device: on 'meta' tensors have no values, and a model moved there loses its weights; use 'cpu' "
            "or 'cuda'"
        )
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device: {device!r} was asked for, but torch sees no CUDA device here; use 'cpu'"
        )
    return wanted


def _from_name(name, given):
    own = registered.registered().get(name)
    if own is not None:
        return load_own(own, given)
    source = by_name.source_of(name)
    classes = None if isinstance(given.classes, dict) else given.classes  # prompts
    return _from_found(source.load(classes, given.device), name, given, source.recorded)


def load_own(own, given=None):
    """Loads a registered model.

    Args:
        own: an ``registered.OwnModel``
        given (None): what the user gave beside its name

    Returns:
        a :class:`LoadedModel`

    Raises:
        ValueError: if it cannot be loaded; the message says what to do
    """
    given = given or _Given(None, None, None, {})
    given = given.after(registered.transforms_of(own), own.classes, registered.options_of(own))
    source = by_name.source_of(own.spec)
    source.trusted = True
    loaded = _from_found(source.load(own.classes, given.device), own.name, given)
    loaded.window = registered.window_of(own)
    return loaded


def _from_found(found, name, given, recorded="name"):
    """What a name's source returned: a model, or a tuple of module, transforms and classes."""
    if isinstance(found, tuple):
        module, *rest = found
        transforms, classes = (*rest, None, None)[:2]
        return _from_module(_plain(module), given.after(transforms, classes), name, recorded)
    if isinstance(found, fo.Model):
        return _from_fiftyone(found, name, recorded, given)
    return _from_module(_plain(found), given, name, recorded)


def _from_fiftyone(model, name, source, given):
    from . import unwrap

    classes = read_classes(given.classes)
    if classes is None and given.texts and not unwrap.has_names(model):
        classes = {text: text for text in given.texts}
    parts = unwrap.take_apart(model, classes, given.options)
    transforms = parts.transforms if given.transforms is None else given.transforms
    loaded = _loaded(
        parts.adapted, transforms, parts.classes, name, source, given.device, parts.kind
    )
    if loaded.kind == zoo.ZERO_SHOT:
        loaded.encode_texts = functools.partial(_encode, model, loaded)
    return loaded


def _encode(model, loaded, texts):
    """Encodes prompts with a zero-shot model's own tokeniser, where its network is now."""
    from . import unwrap

    return unwrap.encode(model, loaded.module, list(texts), next(loaded.module.parameters()).device)


def _from_module(module, given, name=None, source="module"):
    from ...cam_core import adapt
    from . import unwrap

    if given.transforms is None:
        converted = _converted(module, given)
        if converted is not None:
            return _from_fiftyone(converted, name or type(module).__name__, source, given)
    if unwrap.is_ultralytics(module):
        module = module.model
    classes = names_of(given.classes)
    try:
        adapted = with_background(
            lambda options: adapt(module, **options), given.options, classes, _is_adapted(module)
        )
    except TypeError as error:
        raise ValueError(f"model: {error}") from error
    name = name or type(adapted.module).__name__
    kind = unwrap.kind_of_adapter(adapted)
    return _loaded(adapted, given.transforms, classes, name, source, given.device, kind)


def _converted(module, given):
    """FiftyOne's wrapper of a Hugging Face or Ultralytics model, as its ``apply_model`` makes one."""
    from . import unwrap

    kinds = [kind.__module__.partition(".")[0] for kind in type(module).__mro__]
    hub = getattr(getattr(module, "config", None), "_name_or_path", None)
    if unwrap.is_ultralytics(module):
        import fiftyone.utils.ultralytics as fouu

        return fouu.convert_ultralytics_model(module)
    if "transformers" in kinds and hub:
        with readable_errors(hub):
            return _hub_wrapper(module, hub, given.device)
    return None


def _hub_wrapper(module, name, device):
    """FiftyOne's wrapper of a Hugging Face model; the model stays where and in the mode it was."""
    import fiftyone.utils.transformers as fout

    kind = fout.get_model_type(module)
    own = next(module.parameters()).device
    config = {"model": module, "name_or_path": name, "device": str(device or own)}
    training = {m: m.training for m in module.modules()}
    try:
        config = fout.MODEL_TYPE_TO_CONFIG_CLASS[kind](config)
        return fout.MODEL_TYPE_TO_MODEL_CLASS[kind](config)
    finally:
        for m, flag in training.items():
            m.training = flag
        module.to(own)


def _is_adapted(model):
    needed = ("module", "forward", "logits", "candidates", "default_layers", "grid")
    return all(hasattr(model, name) for name in needed)


def _loaded(adapted, transforms, classes, name, source, device, kind):
    import torch

    if transforms is None:
        raise ValueError(
            "transforms is required for this model: a callable that maps a PIL image to a float tensor "
            "(3, h, w), for example weights.transforms() of torchvision"
        )
    if not callable(transforms):
        raise ValueError(f"transforms: {type(transforms).__name__} is not callable")
    one_name = classes is not None and len(classes) == 1 and kind == zoo.CLASSIFIER
    if one_name:
        classes = [f"not {classes[0]}", classes[0]]  # one logit z has the scores -z and z
    like = next(adapted.module.parameters(), None)
    own = like.device if like is not None else torch.device("cpu")
    return LoadedModel(
        adapted.module, transforms, classes, name, source, device or own, adapted, kind,
        one_name=one_name,
    )  # fmt: skip


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

    from ...cam_core.capture.taps import exclusive

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
    from ...cam_core.capture.taps import exclusive

    with exclusive(model.module):
        entry = _USERS[model.module]
        entry[0] -= 1
        if not entry[0]:
            del _USERS[model.module]
            if entry[1] != model.device:
                model.module.to(entry[1])
