"""Models by name: ``hf:`` and ``timm:`` ids, named architectures with a checkpoint, code that is allowed.

A name may come from anybody who can open the App. So a name never runs code that a file or a
repository brings along: architectures come from installed packages, and checkpoints are read as
plain tensors. What would run code is loaded only if the server's environment allows that very name.
"""

import difflib
import importlib
import importlib.util
import os
import re

from . import zoo

ALLOWED_VARIABLE = "CAM51_ALLOWED_MODELS"
_SCHEMES = ("hf", "timm", "torchvision", "torch")
_ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# The end of a Hugging Face architecture's name -> FiftyOne's model for it.
_TASKS = {
    "ForImageClassification": "classification-transformer-torch",
    "ForImageClassificationWithTeacher": "classification-transformer-torch",
    "ForSemanticSegmentation": "segmentation-transformer-torch",
    "ForUniversalSegmentation": "universal-segmentation-transformer-torch",
    "MaskFormerForInstanceSegmentation": "universal-segmentation-transformer-torch",
    "ForObjectDetection": "detection-transformer-torch",
}
_WITH_TEXT = {
    "clip",
    "siglip",
    "siglip2",
    "align",
    "altclip",
    "chinese_clip",
    "groupvit",
    "metaclip_2",
}


def is_named(name):
    """Whether a string is such a name, rather than one of the zoo."""
    return (name.partition(":")[0] in _SCHEMES and ":" in name) or is_entry_point(name)


def is_entry_point(name):
    """Whether a string looks like ``package.module:function``."""
    return name.partition(":")[0] not in _SCHEMES and bool(_ENTRY_POINT.fullmatch(name))


def allowed():
    """Returns the names of code and pickled models that this server's environment allows."""
    return {n.strip() for n in re.split("[,;]", os.environ.get(ALLOWED_VARIABLE, "")) if n.strip()}


def refusal(name):
    """Says why a name is not loaded on this server, without loading anything; None if it may be.

    Args:
        name: a name for which :func:`is_named` holds
    """
    scheme, _, rest = name.partition(":")
    if scheme == "torch" or is_entry_point(name):
        if name in allowed():
            return None
        allow = f"who runs the server can allow it with the environment variable {ALLOWED_VARIABLE}={name!r}"
        if scheme == "torch":
            return f"it is a pickled model, which runs whatever it contains; {allow}"
        return f"it names code; {allow}, or register it from Python with register_model"
    package = _PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        return f"it needs a package that is not installed here: pip install {package}"
    if not rest:
        return f"a name follows {scheme}:, for example {_EXAMPLES[scheme]}"
    if scheme == "timm" and ":" in rest.partition("@")[0]:
        return (
            "only names of timm's own list are taken, as others bring files that may run code; a "
            f"repository is named hf:{rest.rpartition(':')[2]}"
        )
    path = rest.partition("@")[2]
    if scheme != "hf" and path and not os.path.isfile(path):
        return f"there is no checkpoint {path!r} on the server"
    return None


_PACKAGES = {"hf": "transformers", "timm": "timm", "torchvision": "torchvision"}
_EXAMPLES = {
    "hf": "hf:google/vit-base-patch16-224",
    "timm": "timm:resnet50",
    "torchvision": "torchvision:resnet50@/path/of/checkpoint.safetensors",
}


def load(name, classes=None, device=None, trusted=False):
    """Loads a model by such a name.

    Args:
        name: ``hf:<id>``, ``timm:<name>``, ``torchvision:<name>``, the latter two also with
            ``@<checkpoint>``; ``package.module:function`` or ``torch:<pickled file>`` where allowed
        classes (None): class names, whose number an architecture with a checkpoint is built for
        device (None): a torch device, for Hugging Face's
        trusted (False): whether ``package.module:function`` may run without leave, as what was
            registered from Python may; pickled files never do

    Returns:
        a FiftyOne model, a module, or a tuple (module, transforms, classes)

    Raises:
        ValueError: if it is refused or cannot be loaded; the message says what to do
    """
    reason = None if trusted and is_entry_point(name) else refusal(name)
    if reason is not None:
        raise ValueError(f"model: {name!r} is refused: {reason}")
    scheme, _, rest = name.partition(":")
    with zoo.readable_errors(name):
        if is_entry_point(name):
            return entry_point(name)()
        if scheme == "torch":
            return _pickled(rest)
        if scheme == "hf":
            return _from_hub(rest, device)
        architecture, _, checkpoint = rest.partition("@")
        build = _from_timm if scheme == "timm" else _from_torchvision
        return build(architecture, checkpoint or None, classes)


def entry_point(name, argument="model"):
    """Imports what ``package.module:function`` names.

    Args:
        name: the entry point
        argument ("model"): what messages call it

    Raises:
        ValueError: if there is nothing of the name
    """
    module, _, path = name.partition(":")
    try:
        value = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{argument}: {name!r} cannot be imported here: {error}; its package must be installed, or on "
            "PYTHONPATH, where the App's server runs"
        ) from error
    if not callable(value):
        raise ValueError(f"{argument}: {name!r} is a {type(value).__name__}, not a function")
    return value


def _pickled(path):
    import torch

    value = torch.load(os.path.expanduser(path), map_location="cpu", weights_only=False)
    if isinstance(value, torch.nn.Module):
        return value
    raise ValueError(
        f"model: {path!r} holds a {type(value).__name__}, not a module; a state dict needs its architecture, "
        "for example timm:resnet50@" + path
    )


def _from_hub(rest, device):
    """A model of Hugging Face, without code of its repository; FiftyOne's wrapper is chosen by its task."""
    zoo_model, options = hub_task(rest), {"name_or_path": rest}
    if zoo_model is not None:
        return zoo.load(zoo_model, device, **options)
    import fiftyone.utils.transformers as fout

    if device is not None:
        options["device"] = str(device)
    return fout.FiftyOneTransformer(fout.FiftyOneTransformerConfig(options))


def hub_task(name, local=False):
    """Returns the zoo model that FiftyOne runs a Hugging Face model with; None for a backbone.

    Args:
        name: the id or a folder
        local (False): whether only what is on this machine is looked at

    Raises:
        ValueError: if the model has no scores
    """
    config = hub_config(name, local)
    architecture = (config.architectures or [""])[0]
    if config.model_type in _WITH_TEXT and not architecture.endswith("ForImageClassification"):
        return "zero-shot-classification-transformer-torch"
    for ending, zoo_model in _TASKS.items():
        if architecture.endswith(ending):
            return zoo_model
    if not architecture or architecture.endswith(("Model", "Backbone")):
        return None
    raise ValueError(
        f"model: 'hf:{name}' is a {architecture}, which yields no scores of classes, boxes or masks"
    )


def hub_config(name, local=False):
    """Returns the configuration of a Hugging Face model; its repository's code is not run."""
    import fiftyone as fo
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(
        name, cache_dir=fo.config.model_zoo_dir, trust_remote_code=False, local_files_only=local
    )


def _from_timm(name, checkpoint, classes):
    import timm

    if not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise ValueError(
            f"model: timm has no model {name!r}" + (f"; {', '.join(near)}?" if near else "")
        )
    if checkpoint is None:
        module = timm.create_model(name, pretrained=True)
    else:
        state = plain_tensors(checkpoint)
        outline = timm.create_model(name)
        head = outline.default_cfg.get("classifier")
        head = head[0] if isinstance(head, (tuple, list)) else head
        module = _filled(lambda n: timm.create_model(name, num_classes=n), state, head, classes)
    config = timm.data.resolve_model_data_config(module)
    names = classes
    if names is None and checkpoint is None and getattr(module, "num_classes", 0) == 1000:
        names = _imagenet_names()
    return module, timm.data.create_transform(**config, is_training=False), names


def _from_torchvision(name, checkpoint, classes):
    from torchvision import models

    if name not in models.list_models():
        near = difflib.get_close_matches(name, models.list_models(), n=3, cutoff=0.5)
        raise ValueError(
            f"model: torchvision has no model {name!r}" + (f"; {', '.join(near)}?" if near else "")
        )
    weights = models.get_model_weights(name).DEFAULT
    if checkpoint is None:
        return (
            models.get_model(name, weights=weights),
            weights.transforms(),
            weights.meta["categories"],
        )
    state = plain_tensors(checkpoint)
    head = _last_weight(models.get_model, name, state)
    module = _filled(lambda n: _bare(models.get_model, name, state, n), state, head, classes)
    return module, weights.transforms(), classes


def _bare(get_model, name, state, count):
    options = {"weights": None} if count is None else {"weights": None, "num_classes": count}
    if any(key.startswith("backbone.") for key in state):
        options["weights_backbone"] = None
        if any(key.startswith("aux_classifier.") for key in state):
            options["aux_loss"] = True
    elif name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
        if name == "googlenet":
            options["aux_logits"] = any(key.startswith("aux1.") for key in state)
    return get_model(name, **options)


def _last_weight(get_model, name, state):
    """The name of the layer that makes the scores: the last of the network itself, aux heads aside."""
    import torch

    with torch.device("meta"):
        outline = _bare(get_model, name, state, None)
    names = [
        key
        for key, value in outline.state_dict().items()
        if key.endswith(".weight") and value.dim() in (2, 4) and not key.startswith(("aux", "Aux"))
    ]
    return names[-1].removesuffix(".weight")


def _filled(build, state, head, classes):
    """A network with a checkpoint's tensors, all of them, and as many outputs as it has."""
    import torch

    count = state.get(f"{head}.weight")
    outputs = len(classes) if classes else (None if count is None else len(count))
    module = build(outputs)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(
            f"checkpoint: its tensors do not fit this architecture with {outputs} outputs: {text}"
        ) from error
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor) and not bool(torch.isfinite(value.float()).all()):
            raise ValueError(f"checkpoint: {name} is not finite")
    return module.eval()


_STATES = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def plain_tensors(path):
    """Reads a checkpoint as plain tensors: nothing in it is run.

    Args:
        path: a ``.safetensors`` file, or one of ``torch.save`` that holds tensors only; a training
            checkpoint with an entry such as ``state_dict`` will do

    Returns:
        ``{name: tensor}``

    Raises:
        ValueError: if it is not there, or holds more than tensors
    """
    import pickle

    import torch

    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise ValueError(f"checkpoint: there is no file {path!r} on this machine")
    if path.endswith(".safetensors"):
        return _stripped(_safetensors(path))
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"checkpoint: {path!r} is refused, as it holds more than plain tensors; save the weights alone, "
            "with torch.save(model.state_dict(), path) or safetensors"
        ) from error
    for name in _STATES:
        if isinstance(value, dict) and isinstance(value.get(name), dict):
            value = value[name]
            break
    if not isinstance(value, dict) or not all(isinstance(v, torch.Tensor) for v in value.values()):
        raise ValueError(f"checkpoint: {path!r} holds no state dict: names with tensors")
    return _stripped(value)


def _safetensors(path):
    if importlib.util.find_spec("safetensors") is None:
        raise ValueError(
            f"checkpoint: {path!r} needs a package that is not installed here: pip install safetensors"
        )
    library = importlib.import_module("safetensors")
    try:
        return importlib.import_module("safetensors.torch").load_file(path)
    except library.SafetensorError as error:
        raise ValueError(f"checkpoint: {path!r} cannot be read: {error}") from error


def _stripped(state):
    """Names without what DataParallel, torch.compile and Lightning put before all of them."""
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _imagenet_names():
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return list(_IMAGENET_CATEGORIES)
