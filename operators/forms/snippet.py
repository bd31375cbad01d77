"""*The same from Python*: code that does what a form does, complete enough for a fresh process."""

import ast
import importlib.util
import json
import os
import sysconfig
import zlib
from pathlib import Path

import fiftyone as fo
import fiftyone.operators.types as types

from ..models import by_name, registered

#: set by ``examples/plugin_link.py`` where the plugin is linked for one process alone
CHECKOUT_VARIABLE = "CAM51_CHECKOUT"
# longer code, such as that of a selection of hundreds of samples, is of no use in a form
_LONGEST_VIEW = 3000


def add_snippet(inputs, ctx, operator, arguments, view, models=()):
    """Adds the code at the end of a form.

    Args:
        inputs: the form's ``types.Object``
        ctx: the execution context
        operator: its name
        arguments: of its call, by name
        view: the samples that the form is about
        models (()): names of the models that the call loads
    """
    code = python_code(operator, arguments, view, models)
    # Not a CodeView: the App fetches that editor from a network. A new name per text, because a
    # form keeps the first default that it was given.
    inputs.str(
        f"python_{zlib.crc32(code.encode()):08x}",
        default=f"The same from Python:\n```python\n{code}\n```",
        view=types.MarkdownView(read_only=True),
    )


def python_code(operator, arguments, view, models=()):
    """Returns Python code that does what a form does.

    Args:
        operator: its name
        arguments: of its call, by name; values that ``repr`` writes as code
        view: the samples
        models (()): names of the models that the call loads; code among them is allowed first, as it is
            on the App's server

    Returns:
        a string that runs as it is in a process of this machine; a view whose code would be long, or
        cannot be written, is ``load_saved_view(...)``, to be saved in the App and named first
    """
    checkout = os.environ.get(CHECKOUT_VARIABLE)
    paths = [checkout] if checkout else []
    codes = [name for name in dict.fromkeys(models) if _names_code(name)]
    for code in codes:
        folder = _folder_of(code.partition(":")[0])
        paths += [folder] if folder else []
    allowed = [name for name in codes if name in by_name.allowed()]

    standard = [*(["import os"] if allowed else []), *(["import sys"] if paths else [])]
    lines = [*standard, ""] if standard else []
    lines += [f"sys.path.insert(0, {folder!r})" for folder in dict.fromkeys(paths)]
    if allowed:
        lines += [f"os.environ[{by_name.ALLOWED_VARIABLE!r}] = {','.join(allowed)!r}"]
    lines += ["", "import fiftyone as fo"] if lines else ["import fiftyone as fo"]
    lines += ["import fiftyone.operators as foo"]
    if checkout:
        lines += ["from examples.plugin_link import link_plugin", "", "link_plugin()"]
    name, load = _loaded(view)
    call = ", ".join([name, *(f"{key}={value!r}" for key, value in arguments.items())])
    if len(call) > 70:
        call = "\n    " + "\n    ".join(
            f"{part}," for part in [name, *(f"{k}={v!r}" for k, v in arguments.items())]
        )
        call += "\n"
    return "\n".join(
        [
            *lines,
            "",
            *load,
            f'{operator} = foo.get_operator("@cam51/heatmaps/{operator}")',
            f"print({operator}({call}))",
        ]
    )


def _names_code(name):
    """Whether a model's name is that of a function, of its own or by what is registered."""
    own = registered.registered().get(name) if isinstance(name, str) else None
    return by_name.is_entry_point(name if own is None else own.loader)


def _folder_of(module):
    """The folder from which a module is imported; None where every Python of this machine finds it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not os.path.isfile(spec.origin):
        return None
    depth = module.count(".") + (Path(spec.origin).name == "__init__.py")
    folder = Path(spec.origin).resolve().parents[depth]
    installed = {
        Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")
    }
    return None if folder in installed else str(folder)


def _loaded(view):
    """The name of the samples, and the lines that load them."""
    lines = [f"dataset = fo.load_dataset({view._dataset.name!r})"]
    stages = view._stages if isinstance(view, fo.DatasetView) else []
    if not stages:
        return "dataset", lines
    codes = [_stage_code(stage) for stage in stages]
    if None in codes or sum(map(len, codes)) > _LONGEST_VIEW:
        return "view", [
            *lines,
            "view = dataset.load_saved_view(...)  # save the view in the App first",
        ]
    lines += [f"view = dataset.add_stage({codes[0]})"]
    return "view", lines + [f"view = view.add_stage({code})" for code in codes[1:]]


def _stage_code(stage):
    """A stage of a view as code; None where its arguments are no literals."""
    name = type(stage).__name__
    given = {k: v for k, v in stage._kwargs() if not k.startswith("_") and v is not None}
    try:
        if not hasattr(fo, name) or ast.literal_eval(repr(given)) != given:
            return None
        json.dumps(given)
    except (ValueError, SyntaxError, TypeError):
        return None
    return f"fo.{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
