"""Models by name: a class per scheme that a name may have, and a table of them.

A name may come from anybody who can open the App. So a name never runs code that a file or a
repository brings along: architectures come from installed packages, and checkpoints are read as
plain tensors. What would run code is loaded only if the server's environment allows that very name.
A name is taken apart here and refused before any library sees it: no address is ever fetched for one.
"""

import difflib
import functools
import importlib
import importlib.util
import os
import re

import fiftyone as fo

from ..data.written_paths import is_inside
from . import zoo
from .checkpoint import filled, plain_tensors
from .load_errors import readable_errors

ALLOWED_VARIABLE = "CAM51_ALLOWED_MODELS"
# of a name, and of the path in one
_LONGEST = 1024
# as Hugging Face checks them: at most 96 characters, no two dots or dashes in a row
_HUB_ID = re.compile(r"(?!.*(\.\.|--))(\w[\w.-]{0,95}/)?\w[\w.-]{0,95}(?<![.-])", re.ASCII)
_ARCHITECTURE = re.compile(r"\w[\w.-]*", re.ASCII)
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
    "clip", "siglip", "siglip2", "align", "altclip", "chinese_clip", "groupvit", "metaclip_2",
}  # fmt: skip


class ModelSource:
    """A name of one scheme; a scheme is a subclass and a row of :data:`SOURCES`.

    Attributes:
        recorded: what a run's record calls where the model came from
        attends: whether the network is made of attention, as far as the name tells
        kind: one of ``zoo.KINDS`` where the name tells what the model yields, else None
        short_name: what the key of a run is made from
        trusted: whether code that the name names may run without leave, as a registered model's may
        path: a file or folder of this machine that the name names, or None
    """

    recorded, attends, kind, trusted, path = "name", False, None, False, None

    def __init__(self, name):
        self.name = self.short_name = name

    @classmethod
    def accepts(cls, name):
        """Whether a name is of this scheme."""
        return True

    def refusal(self):
        """Says why the name is not loaded on this server, without loading anything; None if it may be."""
        if len(self.name) > _LONGEST or not self.name.isprintable():
            return f"a name has at most {_LONGEST} characters, all of them printable"
        return self._reason() or self._not_listed()

    def _reason(self):
        """Why a name of this scheme is not loaded, whatever this server's lists say."""
        raise NotImplementedError

    def _not_listed(self):
        """Why the lists of models that this server allows leave the name out."""
        if self.trusted or self.name in allowed():
            return None
        return zoo.forbidden({self.name}, None)

    def app_refusal(self):
        """Says why the name is not loaded for somebody who gives it in the App; None if it may be.

        A path leads anywhere on the server, so only one in FiftyOne's folder of models is taken.
        """
        reason = self.refusal()
        if reason is not None or self.path is None or self.name in allowed():
            return reason
        folder = fo.config.model_zoo_dir
        if is_inside(os.path.expanduser(self.path), folder):
            return None
        return (
            f"from the App only files in FiftyOne's folder of models, {folder!r}, are taken; {_allow(self.name)}, "
            "or register it from Python with register_model"
        )

    def check(self):
        """Raises a ValueError if the name is refused."""
        self._raise(self.refusal())

    def check_from_app(self):
        """Raises a ValueError if the name is refused of somebody who gives it in the App."""
        self.check()
        self._raise(self.app_refusal())

    def _raise(self, reason):
        if reason is not None:
            raise ValueError(f"model: {self.name!r:.200} is refused: {reason}")

    def load(self, classes=None, device=None):
        """Loads the model.

        Args:
            classes (None): class names, whose number an architecture with a checkpoint is built for
            device (None): a torch device, for models that FiftyOne loads

        Returns:
            a FiftyOne model, a module, or a tuple (module, transforms, classes)

        Raises:
            ValueError: if it is refused or cannot be loaded; the message says what to do
        """
        self.check()
        with readable_errors(self.name):
            return self._load(classes, device)

    def builder(self):
        """Returns a function that builds the network without weights; None where it is not known."""
        return self._builder() if self.refusal() is None else None

    def _load(self, classes, device):
        raise NotImplementedError

    def _builder(self):
        return None


class _Prefixed(ModelSource):
    """``scheme:name`` or ``scheme:name@checkpoint``."""

    prefix: str
    # what loads it, and a whole name for messages
    package: str
    example: str

    def __init__(self, name):
        super().__init__(name)
        self.rest = name.partition(":")[2]
        self.architecture, _, self.checkpoint = self.rest.partition("@")
        last = re.split(r"[/\\]", self.architecture.rstrip("/\\"))[-1]
        self.short_name = last or name

    @classmethod
    def accepts(cls, name):
        return name.startswith(f"{cls.prefix}:")

    def _reason(self):
        if importlib.util.find_spec(self.package) is None:
            return f"it needs a package that is not installed here: pip install {self.package}"
        return None if self.rest else f"a name follows {self.prefix}:, for example {self.example}"


class Hub(_Prefixed):
    """A Hugging Face id or folder, run by FiftyOne's wrapper, without code of its repository."""

    prefix, package, example = "hf", "transformers", "hf:google/vit-base-patch16-224"
    attends = True

    @property
    def path(self):
        """The folder, which comes before an id of the same spelling."""
        return self.rest if os.path.isdir(self.rest) else None

    def _reason(self):
        """Says so unless it is an id, or a folder that is there: a library would fetch an address."""
        reason = super()._reason()
        if reason is None and self.path is None and not _HUB_ID.fullmatch(self.rest):
            return (
                "it is no id of Hugging Face, such as google/vit-base-patch16-224, and no folder on this "
                "machine; addresses are not fetched"
            )
        return reason

    def _load(self, classes, device):
        zoo_model, options = self._zoo_model(), {"name_or_path": self.rest}
        if zoo_model is not None:
            return zoo.load(zoo_model, device, **options)
        import fiftyone.utils.transformers as fout

        if device is not None:
            options["device"] = str(device)
        return fout.FiftyOneTransformer(fout.FiftyOneTransformerConfig(options))

    def _zoo_model(self):
        """The zoo model that FiftyOne runs it with; None for a backbone."""
        config = _hub_config(self.rest)
        architecture = (config.architectures or [""])[0]
        if config.model_type in _WITH_TEXT and not architecture.endswith("ForImageClassification"):
            return "zero-shot-classification-transformer-torch"
        for ending, zoo_model in _TASKS.items():
            if architecture.endswith(ending):
                return zoo_model
        if not architecture or architecture.endswith(("Model", "Backbone")):
            return None
        raise ValueError(
            f"model: {self.name!r} is a {architecture}, which yields no scores of classes, boxes or masks"
        )

    def _builder(self):
        return _hub_builder(self.rest)


def _hub_config(name, local=False):
    """The configuration of a Hugging Face model; its repository's code is not run."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(
        name, cache_dir=fo.config.model_zoo_dir, trust_remote_code=False, local_files_only=local
    )


def _hub_builder(name):
    """What builds a network of Hugging Face whose configuration is on this machine already."""
    import transformers

    try:
        config = _hub_config(name, local=True)
    except (OSError, ValueError):
        return None  # not downloaded yet: it is when the model is loaded
    kind = getattr(transformers, (config.architectures or [""])[0], None)
    return None if kind is None else functools.partial(kind, config)


class Architecture(_Prefixed):
    """An architecture of a package, with its own weights or a checkpoint of plain tensors."""

    @property
    def path(self):
        """The checkpoint."""
        return self.checkpoint or None

    def _reason(self):
        """Says so if it is no name of an architecture, or the checkpoint is missing."""
        reason = super()._reason()
        if reason is None and not _ARCHITECTURE.fullmatch(self.architecture):
            return f"{self.architecture!r} is no name of an architecture, such as {self.example}"
        if reason is None and self.checkpoint and not os.path.isfile(self.checkpoint):
            return f"there is no checkpoint {self.checkpoint!r} on the server"
        return reason

    def _unknown(self, names):
        """The error of a name that the package lacks, with those that are like it."""
        near = difflib.get_close_matches(self.architecture, names, n=3, cutoff=0.5)
        text = f"model: {self.package} has no model {self.architecture!r}"
        return ValueError(text + (f"; {', '.join(near)}?" if near else ""))


class Timm(Architecture):
    """An architecture of timm's own list."""

    prefix, package, example = "timm", "timm", "timm:resnet50"

    def _reason(self):
        """Says so if timm would take it from elsewhere."""
        if ":" in self.architecture:
            return (
                "only names of timm's own list are taken, as others bring files that may run code; a "
                f"repository is named hf:{self.rest.rpartition(':')[2]}"
            )
        return super()._reason()

    def _load(self, classes, device):
        import timm

        name = self.architecture
        if self._builder() is None:
            raise self._unknown(timm.list_models())
        if not self.checkpoint:
            module = timm.create_model(name, pretrained=True)
        else:
            state = plain_tensors(self.checkpoint)
            head = timm.create_model(name).default_cfg.get("classifier")
            head = head[0] if isinstance(head, (tuple, list)) else head
            module = filled(lambda n: timm.create_model(name, num_classes=n), state, head, classes)
        config = timm.data.resolve_model_data_config(module)
        if classes is None and not self.checkpoint and getattr(module, "num_classes", 0) == 1000:
            classes = _imagenet_names()
        return module, timm.data.create_transform(**config, is_training=False), classes

    def _builder(self):
        import timm

        known = timm.is_model(self.architecture.partition(".")[0])
        create = functools.partial(timm.create_model, self.architecture, pretrained=False)
        return create if known else None


def _imagenet_names():
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return list(_IMAGENET_CATEGORIES)


class Torchvision(Architecture):
    """An architecture of torchvision."""

    prefix, package = "torchvision", "torchvision"
    example = "torchvision:resnet50@/path/of/checkpoint.safetensors"

    def _load(self, classes, device):
        from torchvision import models

        name = self.architecture
        if name not in models.list_models():
            raise self._unknown(models.list_models())
        weights = models.get_model_weights(name).DEFAULT
        if not self.checkpoint:
            module = models.get_model(name, weights=weights)
            return module, weights.transforms(), weights.meta["categories"]
        state = plain_tensors(self.checkpoint)
        module = filled(lambda n: self._bare(state, n), state, self._head(state), classes)
        return module, weights.transforms(), classes

    def _bare(self, state, count=None):
        """The network without weights, with the parts that a checkpoint has."""
        from torchvision import models

        options = {"weights": None} if count is None else {"weights": None, "num_classes": count}
        if any(key.startswith("backbone.") for key in state):
            options["weights_backbone"] = None
            if any(key.startswith("aux_classifier.") for key in state):
                options["aux_loss"] = True
        elif self.architecture in ("googlenet", "inception_v3"):
            options["init_weights"] = False
            if self.architecture == "googlenet":
                options["aux_logits"] = any(key.startswith("aux1.") for key in state)
        return models.get_model(self.architecture, **options)

    def _head(self, state):
        """The name of the layer that makes the scores: the last of the network itself, aux heads aside."""
        import torch

        with torch.device("meta"):
            tensors = self._bare(state).state_dict()
        names = [
            key
            for key, value in tensors.items()
            if key.endswith(".weight")
            and value.dim() in (2, 4)
            and not key.startswith(("aux", "Aux"))
        ]
        return names[-1].removesuffix(".weight")

    def _builder(self):
        from torchvision import models

        name, weights = self.architecture, {"weights": None}
        if any(name in models.list_models(m) for m in (models.segmentation, models.detection)):
            weights["weights_backbone"] = None
        create = functools.partial(models.get_model, name, **weights)
        return create if name in models.list_models() else None


def allowed():
    """Returns the names of code and pickled models that this server's environment allows."""
    return {n.strip() for n in re.split("[,;]", os.environ.get(ALLOWED_VARIABLE, "")) if n.strip()}


def _allow(name):
    return f"who runs the server can allow it with the environment variable {ALLOWED_VARIABLE}={name!r}"


class Pickled(_Prefixed):
    """A file of a whole module."""

    prefix = "torch"

    def _reason(self):
        """Says so unless the server allows it."""
        if self.name in allowed():
            return None
        return f"it is a pickled model, which runs whatever it contains; {_allow(self.name)}"

    def _load(self, classes, device):
        import torch

        path = os.path.expanduser(self.rest)
        value = torch.load(path, map_location="cpu", weights_only=False)
        if isinstance(value, torch.nn.Module):
            return value
        raise ValueError(
            f"model: {self.rest!r} holds a {type(value).__name__}, not a module; a state dict needs its "
            f"architecture, for example timm:resnet50@{self.rest}"
        )


class EntryPoint(ModelSource):
    """``package.module:function`` that returns a model."""

    def __init__(self, name):
        super().__init__(name)
        self.short_name = name.partition(":")[2]

    @classmethod
    def accepts(cls, name):
        """Whether it is spelt like one; the schemes with a prefix are asked first."""
        return bool(_ENTRY_POINT.fullmatch(name))

    def _reason(self):
        """Says so unless it was registered from Python or the server allows it."""
        if self.trusted or self.name in allowed():
            return None
        return f"it names code; {_allow(self.name)}, or register it from Python with register_model"

    def _load(self, classes, device):
        return entry_point(self.name)()


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


class ZooName(ModelSource):
    """A name of FiftyOne's zoo; what no other scheme accepts is taken for one."""

    recorded = "zoo"

    @functools.cached_property
    def _entry(self):
        return zoo.entry(self.name)

    @property
    def kind(self):
        """What its entry says."""
        return None if self._entry is None else zoo.kind_of(self._entry)

    @property
    def attends(self):
        """What its entry says."""
        if self._entry is None:
            return False
        wrapper = zoo.wrapper_of(self._entry)[0]
        attentive = "Transformer" in wrapper or "CLIP" in wrapper.upper()
        return attentive or self._entry.has_tag("transformer")

    def _reason(self):
        """Says why it cannot be explained, or what this server lacks or forbids."""
        if self._entry is None:
            return "the zoo has no model of this name"
        return zoo.refusal(self._entry)

    def _not_listed(self):
        """What the lists say of an entry is part of its reason."""

    def check(self):
        """Raises a ValueError if it is refused; the message says which names are like it."""
        if len(self.name) > _LONGEST:
            super().check()
        zoo.check(self.name)

    def _load(self, classes, device):
        return zoo.load(self.name, device)

    def _builder(self):
        wrapper = zoo.wrapper_of(self._entry)[0]
        config = (self._entry.default_deployment_config_dict or {}).get("config", {})
        if wrapper == "TorchvisionImageModel":
            return functools.partial(_without_weights, config["entrypoint_fcn"])
        if wrapper.startswith("FiftyOneTransformerFor") and config.get("name_or_path"):
            return _hub_builder(config["name_or_path"])
        return None


def _without_weights(function):
    """Calls a function of torchvision by its name for a network without weights."""
    import eta.core.utils as etau

    options = {"weights": None}
    if ".segmentation." in function or ".detection." in function:
        options["weights_backbone"] = None
    return etau.get_function(function)(**options)


#: in the order in which a name is offered to them
SOURCES = (Hub, Timm, Torchvision, Pickled, EntryPoint, ZooName)


def source_of(name):
    """Returns the :class:`ModelSource` of a name."""
    return next(source for source in SOURCES if source.accepts(name))(name)


def listed():
    """Returns the names beside the zoo's that the server's list of models names and that can be loaded."""
    names = sorted(zoo.listed_names() or ())
    return [
        n
        for n in names
        if not isinstance(source_of(n), ZooName) and source_of(n).app_refusal() is None
    ]


def is_entry_point(value):
    """Whether a value is a text like ``package.module:function``."""
    return isinstance(value, str) and isinstance(source_of(value), EntryPoint)
