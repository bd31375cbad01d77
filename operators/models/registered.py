"""The user's own models: registered once from Python, then known by name wherever models are chosen.

They are kept in a JSON file in FiftyOne's configuration folder, which holds names only: an entry
point or an architecture with a checkpoint, never a network. Whoever can write the file can make the
server run code, so a file that others can write is refused.
"""

import contextlib
import dataclasses
import json
import os
import re
import stat
import tempfile
import threading

import fiftyone.core.config as foc

from . import by_name, zoo
from .checkpoint import plain_tensors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILE = "cam51_models.json"
_HERE = threading.RLock()
_NAME = re.compile(r"\w[\w .+-]{0,79}")
_OPTIONS = ("output", "task", "multi_label", "threshold", "ends_in", "background", "read")


@dataclasses.dataclass
class OwnModel:
    """A registered model.

    Attributes:
        name: what the user calls it
        loader: ``package.module:function`` that returns a module, a FiftyOne model, or a tuple
            (module, transforms, classes); None for a checkpoint
        architecture: ``timm:<name>``, ``torchvision:<name>`` or ``hf:<id>``
        checkpoint: a file of plain tensors for the architecture, or None for its own weights
        transforms: ``package.module:function`` that maps a PIL image to a tensor, a dict with
            ``resize``, ``crop``, ``mean`` and ``std``, or None for the model's own
        preprocess: instead of transforms: ``package.module:function`` that maps a path to a tensor
        window: what they show of an image, where that is not measured: four shares of the image, or
            ``package.module:function`` that maps (height, width) to four numbers of pixels
        classes: class names in the order of the outputs, or None
        options: of ``cam_core.adapt``: ``output``, ``task``, ``multi_label``, ``threshold``,
            ``ends_in``, ``background``, and ``read`` as ``package.module:function``
    """

    name: str
    loader: str = None
    architecture: str = None
    checkpoint: str = None
    transforms: object = None
    preprocess: str = None
    window: object = None
    classes: object = None
    options: dict = dataclasses.field(default_factory=dict)

    @property
    def spec(self):
        """The name that :mod:`operators.models.by_name` loads."""
        if self.loader is not None:
            return self.loader
        return f"{self.architecture}@{self.checkpoint}" if self.checkpoint else self.architecture


def path():
    """Returns the path of the file of registered models, beside FiftyOne's configuration."""
    return os.path.join(os.path.dirname(os.path.abspath(foc.locate_config())), FILE)


def registered():
    """Returns ``{name: OwnModel}`` of what is registered on this machine.

    Raises:
        ValueError: if the file was changed by hand into something else, or others can write it
    """
    where = path()
    try:
        with open(where, encoding="utf-8") as file:
            _check_owner(os.fstat(file.fileno()), where)
            content = json.load(file)
        return {name: OwnModel(name, **entry) for name, entry in content["models"].items()}
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the file of registered models {where!r} cannot be read ({type(error).__name__}: {error}); "
            "mend or delete it, and register the models again"
        ) from error


def stamp_of(name):
    """Tells two models of one name apart: that of a registered one's entry and a checkpoint's age.

    Args:
        name: as :func:`operators.models.load.load_model` takes it

    Returns:
        something that is equal as long as the name stands for the same
    """
    own = registered().get(name)
    checkpoint = (own.spec if own else name).partition("@")[2]
    changed = os.stat(checkpoint).st_mtime_ns if os.path.isfile(checkpoint) else None
    return repr(own), changed


def _check_owner(status, where):
    if not hasattr(os, "getuid"):
        return  # Windows: the user's own folder has its own rights
    if status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(
            f"the file of registered models {where!r} is not used, because others can write it and so run "
            "code here; make it yours alone: chmod 600"
        )


def register(model, overwrite=False):
    """Adds a model to the file.

    Args:
        model: an :class:`OwnModel`
        overwrite (False): whether one of the same name is replaced

    Raises:
        ValueError: if an argument is wrong or the name is taken
    """
    check(model)
    with _alone():
        check_free(model.name, overwrite)
        _write({**registered(), model.name: model})


def check_free(name, overwrite=False):
    """Raises a ValueError if a name is taken: by a registered model, or by one of the zoo."""
    if zoo.entry(name) is not None:
        raise ValueError(f"name: {name!r} is a model of FiftyOne's zoo; choose another name")
    if name in registered() and not overwrite:
        raise ValueError(
            f"name: a model {name!r} is registered already; pass overwrite=True to replace it"
        )


def remove(name):
    """Takes a model off the file; its checkpoint stays where it is.

    Raises:
        ValueError: if none is registered by that name
    """
    with _alone():
        known = registered()
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ValueError(f"name: no model {name!r} is registered; there are: {names}")
        del known[name]
        _write(known)


def check(model):
    """Raises a ValueError if an :class:`OwnModel` is not complete, as far as that shows unloaded."""
    if not isinstance(model.name, str) or not _NAME.fullmatch(model.name):
        raise ValueError(
            f"name: {model.name!r} is no name; use letters, digits, spaces and . _ + - (80 at most)"
        )
    if (model.loader is None) == (model.architecture is None):
        raise ValueError(
            "loader: give either loader='package.module:function', or architecture='timm:resnet50' with or "
            "without checkpoint="
        )
    if model.loader is not None:
        if model.checkpoint is not None:
            raise ValueError("checkpoint: goes with an architecture; a loader reads its own")
        if not by_name.is_entry_point(model.loader):
            raise ValueError(
                f"loader: {model.loader!r} is not understood; give 'package.module:function', which returns the "
                "model, so that the App's server can call it"
            )
    else:
        _check_architecture(model)
    _check_transforms(model.transforms)
    _check_places(model)
    _check_classes(model.classes)
    unknown = [name for name in model.options if name not in _OPTIONS]
    if unknown:
        raise ValueError(f"{unknown[0]}: is unknown; choose from {', '.join(_OPTIONS)}")

    read = model.options.get("read")
    if read is not None and not by_name.is_entry_point(read):
        raise ValueError(
            f"read: {read!r} is not understood; give 'package.module:function', which maps the model's outputs "
            "to boxes, scores and classes"
        )


def _check_architecture(model):
    source = by_name.source_of(str(model.architecture))
    if not isinstance(source, (by_name.Architecture, by_name.Hub)):
        raise ValueError(
            f"architecture: {model.architecture!r} is not understood; give 'timm:<name>', "
            "'torchvision:<name>' or 'hf:<id or folder>'"
        )
    if model.checkpoint is None:
        return
    if isinstance(source, by_name.Hub):
        raise ValueError(
            "checkpoint: a Hugging Face model is a folder; give architecture='hf:/path/of/the/folder'"
        )
    plain_tensors(model.checkpoint)


_STEPS = ("resize", "crop", "mean", "std")


def _check_transforms(transforms):
    if transforms is None:
        return
    if isinstance(transforms, dict):
        unknown = [name for name in transforms if name not in _STEPS]
        if unknown or not {"mean", "std"} <= set(transforms):
            raise ValueError(
                f"transforms: {transforms!r} is not understood; a dict has resize and crop (pixels, or [height, "
                "width]), mean and std (three numbers in [0, 1])"
            )
    elif not by_name.is_entry_point(transforms):
        raise ValueError(
            f"transforms: {transforms!r} is not understood; give 'package.module:function', which maps a PIL "
            "image to a tensor, or a dict with resize, crop, mean and std"
        )


def _check_places(model):
    from ..data.geometry import check_window

    if model.preprocess is not None:
        if model.transforms is not None:
            raise ValueError("preprocess: give transforms or preprocess, not both")
        if not by_name.is_entry_point(model.preprocess):
            raise ValueError(
                f"preprocess: {model.preprocess!r} is not understood; give 'package.module:function', which "
                "maps the path of an image to a tensor"
            )
    if not isinstance(model.window, str):
        check_window(model.window)
    elif not by_name.is_entry_point(model.window):
        raise ValueError(
            f"window: {model.window!r} is not understood; give 'package.module:function', which maps (height, "
            "width) to (left, top, right, bottom) in pixels, or these four as shares of the image"
        )


def window_of(model):
    """Returns what a registered model's ``window`` stands for: a function, four shares, or None."""
    if isinstance(model.window, str):
        return by_name.entry_point(model.window, "window")
    return model.window


def _check_classes(classes):
    if classes is None:
        return
    texts = (
        classes
        if isinstance(classes, list)
        else list(classes)
        if isinstance(classes, dict)
        else None
    )
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("classes: give a list of names in the order of the outputs")


def transforms_of(model):
    """Returns the callable that a registered model's ``transforms`` stands for; None for its own."""
    if isinstance(model.transforms, dict):
        import torchvision.transforms as T

        steps = (
            [T.Resize(_size(model.transforms["resize"]))] if "resize" in model.transforms else []
        )
        if "crop" in model.transforms:
            steps.append(T.CenterCrop(_size(model.transforms["crop"])))
        normalise = T.Normalize(model.transforms["mean"], model.transforms["std"])
        return T.Compose([*steps, T.ToTensor(), normalise])
    if model.preprocess is not None:
        from .unwrap import PathTransforms

        return PathTransforms(by_name.entry_point(model.preprocess, "preprocess"))
    if model.transforms is None:
        return None
    return by_name.entry_point(model.transforms, "transforms")


def options_of(model):
    """Returns a registered model's options as ``cam_core.adapt`` takes them."""
    options = dict(model.options)
    if "read" in options:
        options["read"] = by_name.entry_point(options["read"], "read")
    return options


def _size(value):
    return list(value) if isinstance(value, (list, tuple)) else int(value)


@contextlib.contextmanager
def _alone():
    """Waits until no other process changes the file; what one left that died is removed.

    The lock is on the folder and ends with its process, so it leaves nothing behind. Where the system has
    no such locks, the one of this process has to do.
    """
    folder = os.path.dirname(path())
    os.makedirs(folder, exist_ok=True)
    with _HERE, contextlib.ExitStack() as stack:
        if fcntl is not None:
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
                for name in os.listdir(folder):
                    if name.startswith(f".{FILE}."):
                        os.unlink(os.path.join(folder, name))
        yield


def _write(models):
    """Writes the file as a whole, readable and writable by its owner alone."""
    where = path()
    content = {"models": {name: _entry(model) for name, model in sorted(models.items())}}
    # Made with mode 600; put in place at once, so that no reader finds half of it.
    handle, draft = tempfile.mkstemp(dir=os.path.dirname(where), prefix=f".{FILE}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, where)
    except BaseException:
        os.unlink(draft)
        raise


def _entry(model):
    values = dataclasses.asdict(model)
    del values["name"]
    return {key: value for key, value in values.items() if value not in (None, {})}
