"""What a run is told to do: every argument checked before the first sample."""

import difflib
import json
import os

from ..data.geometry import check_window
from ..jobs import params
from ..jobs.params import Boolean, Choice, Field, Integer, Number, Param, Texts, anything, describe
from ..targets.spec import canonical
from . import memory_format
from .objects import MOST_MAPS, checked_maps

# of one kind, such as bytes of memory
_MOST_RESOURCES = 1e15


def as_list(value):
    """Returns a list of what may be one name, a ``(name, options)`` pair, or several."""
    pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict)
    return list(value) if isinstance(value, (list, tuple)) and not pair else [value]


def _method_texts(methods):
    """Methods as a form has them; :func:`parse_methods` reads them."""

    def text(method):
        pair = isinstance(method, (tuple, list)) and len(method) == 2
        return json.dumps(list(method)) if pair and isinstance(method[0], str) else method

    return [text(method) for method in as_list(methods)]


def _absolute(folder):
    return None if folder is None else os.path.abspath(os.path.expanduser(folder))


def _checked_window(window):
    check_window(window)
    return window


def _checked_multi_label(several):
    if several not in (True, False):
        raise ValueError(f"multi_label must be True or False, got {several!r}")
    return several


def _checked_reader(read):
    if not callable(read):
        raise ValueError(f"read: {read!r} is not callable")
    return read


def _checked_background(background):
    """A class: a name, an index, or False for none."""
    index = isinstance(background, int) and background is not True and background >= 0
    name = isinstance(background, str) and background.strip()
    if not index and not name:
        raise ValueError(
            f"background must be a class name, a class index, or False for none, got {background!r}"
        )
    return background


def _checked_fps(value):
    """Raises a ValueError unless it is a rate of frames."""
    Number(0, 1000, "rate in frames per second", within=True).check("max_fps", value)
    return value


def _checked_name(value):
    """Raises a ValueError unless it is the name of a field."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"patches_field must be the name of a field of detections, got {value!r}")
    return value


def _checked_slices(value):
    """Raises a ValueError unless it names slices of groups; True stands for all that hold images."""
    names = [value] if isinstance(value, str) else value
    if value is not True and not (
        isinstance(names, (list, tuple)) and names and all(isinstance(n, str) for n in names)
    ):
        raise ValueError(
            f"group_slices must be the name of a slice, a list of names, or True for all, got {value!r}"
        )
    return value


#: what is said about the model itself, which an operator loads; no settings
MODEL = (
    Param("model", field=Field("Model"), decisive=("model", "weights")),
    Param(
        "classes", decisive=True,
        field=Field(
            "Look for",
            "Classes of a zero-shot model, separated by semicolons: cat; dog; a red car. Empty: the classes "
            "it comes with, if any",
        ),
    ),
    Param("transforms", decisive=("transforms", "transforms_check")),
    Param("preprocess"),
)  # fmt: skip
#: what is said about the model's outputs and images: arguments of ``load_model``
OPTIONS = (
    Param("output", decisive=True),
    Param("task", decisive=True),
    Param("multi_label", kind=Boolean(), check=_checked_multi_label, decisive=True),
    Param("threshold", kind=Number(0, 1, "probability", within=True), decisive=True),
    Param("ends_in", kind=Choice(("logits", "sigmoid", "softmax")), decisive=True),
    Param("background", check=_checked_background, decisive=True),
    Param(
        "window", check=_checked_window, decisive=True,
        queued=lambda window: list(window) if isinstance(window, tuple) else window,
    ),
    Param("read", check=_checked_reader, decisive=True),
)  # fmt: skip
#: in the order in which a message says what differs from the run that is to be resumed
PARAMS = (
    Param("methods", field=Field("Methods"), queued=_method_texts, decisive=("methods", "code")),
    Param(
        "cam_key",
        field=Field("Key", "The run's name. Every field that it writes begins with it"),
    ),
    Param(
        "targets", "predicted", field=Field("What to explain"), decisive=True,
        recorded=lambda targets: describe(canonical(targets)),
    ),
    Param(
        "class_map", decisive=True, rerun=True,
        field=Field(
            "My names for the classes",
            "Only if they differ from the model's. One per line: cat = tabby; tiger cat",
        ),
    ),
    *OPTIONS,
    Param("layers", kind=Texts(), field=Field("Layers"), queued=as_list, decisive=True),
    Param(
        "fuse", decisive=True, rerun=True,
        kind=Choice({"layercam": "LayerCAM's rule: tanh, then the maximum", "mean": "Mean"}),
        field=Field("Fuse layers", "Adds one field that combines all layers"),
    ),
    Param("keep_layers", True, decisive=True, rerun=True),
    Param(
        "store_prediction", True, Boolean(), check=anything, decisive=True, rerun=True,
        field=Field("Store the prediction", plain=True),
    ),
    Param(
        "heatmap_size", 192, Integer(7, 4096), decisive=True, rerun=True,
        field=Field("Heatmap size", "Longest side in pixels", plain=True),
    ),
    params.PRECISION.but(
        decisive=True, rerun=True,
        field=Field("Precision", "auto: float32 on a CPU, bfloat16 on a GPU", plain=True),
    ),
    Param("memory_format", "auto", Choice(memory_format.CHOICES), decisive=True),
    Param("measure_places", True, Boolean(), decisive=True, rerun=True),
    Param(
        "storage", "database", Choice(("database", "disk")), decisive=True, rerun=True,
        field=Field(
            "Storage", "In the database, or as PNG files in a folder of the run", plain=True
        ),
    ),
    Param(
        "output_dir", decisive=True, recorded=_absolute,
        field=Field("Folder", "Empty: a folder beside the datasets", plain=True),
    ),
    params.SEED.but(kind=Integer(-(2**63), 2**63 - 1), decisive=True, rerun=True),
    params.BATCH_SIZE.but(
        decisive=True, rerun=True,
        field=Field(
            "Batch size", "0: automatic (16 on a CPU, measured on a GPU). Halved when memory runs out",
            plain=True,
        ),
    ),
    params.NUM_WORKERS,
    params.DEVICE.but(
        decisive=True,
        field=Field("Device", "For example cpu or cuda:0. Empty: the model's own", plain=True),
    ),
    Param(
        "max_fields", 12, Integer(1, 4096), rerun=True,
        field=Field("Most new fields", "A run that would write more is refused", plain=True),
    ),
    Param(
        "object_maps", 0, Integer(0, MOST_MAPS), check=checked_maps, automatic=0,
        field=Field(
            "Heatmaps of single objects",
            "Detectors only: this many objects per image, the most confident first, get a field each",
        ),
    ),
    Param(
        "overwrite", False, Boolean(), check=anything, recorded=None,
        field=Field("Overwrite", "Deletes what an earlier run with this key wrote, then starts again"),
    ),
    Param(
        "resume", False, Boolean(), check=anything, recorded=None,
        field=Field("Resume this run", "Computes only what the run with this key lacks"),
    ),
    Param(
        "every", None, Integer(), automatic=0, rerun=True,
        field=Field("Every n-th frame", "Videos: one frame of every n, starting with the first. 0: all frames"),
    ),
    Param("max_fps", check=_checked_fps, rerun=True),
    Param("group_slices", check=_checked_slices, rerun=True),
    Param("patches_field", check=_checked_name, decisive=True, rerun=True),
    Param("backend", "local", Choice(("local", "ray"))),
    Param("resources"),
)  # fmt: skip
#: all that ``compute_cams`` is given beside the samples
ARGUMENTS = (*MODEL, *PARAMS)
MODEL_OPTIONS = tuple(param.name for param in OPTIONS)
#: what must be the same for a run to be resumed, in the order of the message
DECISIVE = (*params.decisive_names(ARGUMENTS), "plugin")


class Settings(params.settings(PARAMS)):
    """The arguments of ``compute_cams``, checked; see there for their meaning."""

    def __post_init__(self):
        """Raises a ValueError for every argument that can be judged without the model and the dataset."""
        super().__post_init__()
        _check_resources(self.resources, self.backend)
        if self.output_dir is not None and self.storage != "disk":
            raise ValueError(
                "output_dir: has no effect with storage='database'; use storage='disk'"
            )
        if self.every is not None and self.max_fps is not None:
            raise ValueError("every and max_fps both choose frames of videos; give one of them")
        if self.resume and self.overwrite:
            raise ValueError(
                "resume and overwrite exclude each other: resume the run, or start again"
            )
        if self.resume and not self.cam_key:
            raise ValueError("cam_key: needed with resume=True, the key of the run to resume")

    @property
    def model_options(self):
        """What is said about the model's outputs, for ``load_model``."""
        given = {name: getattr(self, name) for name in MODEL_OPTIONS}
        return {name: value for name, value in given.items() if value is not None}


def checked_options(options):
    """Returns the options of the model that a call gave, without those that are None.

    Args:
        options: keyword arguments of an operator

    Raises:
        TypeError: if one is no option of a model
        ValueError: if a value is not understood
    """
    for name in options:
        if name not in MODEL_OPTIONS:
            near = difflib.get_close_matches(name, MODEL_OPTIONS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"got an unexpected keyword argument {name!r}{hint}")
    given = {name: value for name, value in options.items() if value is not None}
    Settings(**given)  # checks each, as compute_cams does
    return given


def _check_resources(resources, backend):
    """Raises a ValueError unless these are amounts by name, of a backend that has such."""
    if resources is None:
        return
    if backend != "ray":
        raise ValueError("resources has no effect with backend='local'; use backend='ray'")
    amounts = resources.values() if isinstance(resources, dict) else [None]
    numbers = all(
        isinstance(n, (int, float)) and not isinstance(n, bool) and 0 < n <= _MOST_RESOURCES
        for n in amounts
    )
    if not numbers or not all(isinstance(name, str) for name in resources):
        raise ValueError(
            f"resources must be what one worker needs, for example {{'GPU': 1, 'CPU': 8}}, got {resources!r}"
        )


def parse_methods(text):
    """Reads methods from a form: names, or JSON pairs with options.

    Args:
        text: a list of strings, e.g. ``["gradcam", '["eigencam", {"component": 2}]']``

    Raises:
        ValueError: if an entry that looks like JSON is not
    """
    methods = []
    for entry in text:
        if isinstance(entry, str) and entry.lstrip().startswith("["):
            try:
                name, options = json.loads(entry)
            except ValueError as error:
                raise ValueError(f"methods: {entry!r} is not a pair [name, options]") from error
            methods.append((name, options))
        else:
            methods.append(entry)
    return methods
