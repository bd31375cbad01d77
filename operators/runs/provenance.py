"""What a run was made with, so that it can be repeated and only be resumed with the same."""

import functools
import hashlib
import importlib.metadata
import inspect
import os
import platform
import re
import types

import fiftyone as fo
import numpy as np
import yaml
from PIL import Image

from .. import PACKAGE, ROOT

_VALUES_PER_TENSOR = 1024
_LONGEST_TEXT = 2000


def fingerprint(module):
    """Identifies a network and its weights.

    Every parameter and buffer counts with its name, shape, type and up to 1024 of its values at equal
    distances, so the time does not grow with the model's size; a change that leaves all of these as
    they were, such as a single edited weight, goes unseen.

    Args:
        module: a ``torch.nn.Module``

    Returns:
        16 hexadecimal digits, the same on every device
    """
    from ...cam_core.network.plain_run import plain_run

    with plain_run(module):  # compiled or not, it is the same network
        return _fingerprint(module)


def _fingerprint(module):
    import torch

    digest = hashlib.sha256(without_addresses(repr(module)).encode())
    for name, tensor in module.state_dict().items():
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
            continue
        values = tensor.detach()
        values = (values.dequantize() if values.is_quantized else values).reshape(-1)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        step = max(1, values.numel() // _VALUES_PER_TENSOR)
        few = torch.cat([values[::step], values[-1:]]).cpu().contiguous()
        digest.update(few.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def describe_transforms(transforms):
    """Describes transforms by their text and by what they do to a picture.

    Args:
        transforms: maps a PIL image to a tensor

    Returns:
        a dict with ``transforms``, their ``repr`` without addresses, and ``transforms_check``, 16
        hexadecimal digits of what they make of a small fixed picture, or None if they refuse it
    """
    rows, columns = np.mgrid[:80, :96]
    picture = np.stack([rows * 3, columns * 2, (rows * columns) % 251], -1).astype(np.uint8)
    try:
        # a reader is handed a plain file here, whatever the dataset's are
        made = getattr(transforms, "from_plain", transforms)(Image.fromarray(picture))
        check = hashlib.sha256(np.ascontiguousarray(made.cpu().numpy()).tobytes()).hexdigest()[:16]
    except Exception:  # transforms for pictures of other sizes; their text is compared all the same
        check = None
    text = without_addresses(repr(transforms))[:_LONGEST_TEXT]
    return {"transforms": text, "transforms_check": check}


def describe_geometry(geometry):
    """Describes how it is known which part of an image the model sees.

    Args:
        geometry: a ``TransformGeometry``

    Returns:
        a dict with ``window_known_by``: ``"given"``, ``"computed"`` from steps whose type is known, or
        ``"measured"``, and ``window_error``, the standard error of what was measured as a share of the
        input's side
    """
    return {"window_known_by": geometry.known_by, "window_error": round(geometry.error, 5)}


def describe_classes(classes):
    """Describes class names by their number and a hash: a list of thousands tells people nothing."""
    if classes is None:
        return None
    return f"{len(classes)} names, {_hash(repr(list(classes)))}"


def describe_code(functions):
    """Identifies functions of the user's by what they do, not by their name.

    Args:
        functions: callables; those of this plugin are left out, its version stands for them

    Returns:
        a list of texts
    """
    own = PACKAGE
    functions = [inspect.unwrap(f) for f in functions]
    theirs = [f for f in functions if not str(getattr(f, "__module__", "")).startswith(own)]
    return [f"{getattr(f, '__name__', type(f).__name__)} {_hash(_code_of(f))}" for f in theirs]


def _code_of(function):
    if isinstance(function, functools.partial):
        fixed = without_addresses(repr((function.args, sorted(function.keywords.items()))))
        return _code_of(function.func) + fixed
    code = getattr(function, "__code__", None)
    if code is None:
        method = getattr(type(function).__call__, "__code__", None)
        return without_addresses(repr(function)) + (_read_code(method) if method else "")
    held = [cell.cell_contents for cell in function.__closure__ or () if _is_set(cell)]
    plain = [v for v in held if isinstance(v, (bool, int, float, str, tuple))]
    defaults = (function.__defaults__, function.__kwdefaults__, plain)
    return _read_code(code) + without_addresses(repr(defaults))


def _is_set(cell):
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _read_code(code):
    constants = [
        _read_code(c) if isinstance(c, types.CodeType)
        # the order of a set of strings is another one in every process
        else repr(sorted(c, key=repr)) if isinstance(c, frozenset)
        else repr(c)
        for c in code.co_consts
    ]  # fmt: skip
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def without_addresses(text):
    """Text without the addresses in memory that Python prints for objects."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _hash(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def versions():
    """Returns the versions of what a run's numbers depend on."""
    import torch

    return {
        "plugin": plugin_version(),
        "fiftyone": fo.__version__,
        "torch": torch.__version__,
        "torchvision": _version_of("torchvision"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }


@functools.lru_cache(maxsize=1)
def plugin_version():
    """Returns the version in ``fiftyone.yml``."""
    with open(os.path.join(ROOT, "fiftyone.yml"), encoding="utf-8") as file:
        return str(yaml.safe_load(file)["version"])


def _version_of(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def differences(then, now, names):
    """Says in which settings two runs differ, of those that decide what is stored.

    Args:
        then: the settings of a record
        now: the settings of a call
        names: of what decides, in the order of the texts

    Returns:
        a list of texts such as ``"heatmap_size: 192 then, 64 now"``
    """
    if now.get("batch_size_asked") == "auto":
        now = {**now, "batch_size": then.get("batch_size")}  # it is taken from the run
    if now.get("memory_format_asked") == "auto":
        now = {**now, "memory_format": then.get("memory_format")}
    pairs = [(name, _decisive(then, name), _decisive(now, name)) for name in names]
    different = [(n, old, new) for n, old, new in pairs if old != new]
    if len(different) > 1:
        # of transforms with one text, what they do tells; with two, their texts tell more
        texts = {n for n, _, _ in different}
        different = [
            d for d in different if d[0] != "transforms_check" or "transforms" not in texts
        ]
    return [f"{n}: {_short(old)} then, {_short(new)} now" for n, old, new in different]


def memory_format(settings):
    """Returns the memory format of a record's settings, also of one from before there was a choice."""
    return settings.get("memory_format") or "contiguous"


def _decisive(settings, name):
    if name == "plugin":
        return (settings.get("versions") or {}).get("plugin")
    value = settings.get(name)
    if name == "memory_format":
        return memory_format(settings)
    if name == "measure_places":
        return bool(value)  # until there was a choice, places were taken from shapes
    # cuda:0 and cuda:1 compute the same
    return value.partition(":")[0] if name == "device" and value else value


def _short(value):
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
