"""What a run is told to do: every argument checked before the first sample."""

import dataclasses
import difflib
import json
import os

from ..data.geometry import check_window
from ..jobs.params import check_choice, check_positive
from ..targets.spec import canonical, ranked_tags, resolve_targets  # noqa: F401 - also from here
from . import memory_format
from .objects import checked_maps

STORAGES = ("database", "disk")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
BACKENDS = ("local", "ray")
#: what of the settings is about the model: arguments of ``load_model``
MODEL_OPTIONS = (
    "output", "task", "multi_label", "threshold", "ends_in", "background", "read", "window",
)  # fmt: skip


@dataclasses.dataclass
class Settings:
    """The arguments of ``compute_cams``, checked; see there for their meaning."""

    methods: object = None
    targets: object = "predicted"
    layers: object = None
    cam_key: str = None
    fuse: str = None
    keep_layers: bool = True
    batch_size: object = "auto"
    num_workers: int = None
    device: str = None
    precision: str = "auto"
    heatmap_size: int = 192
    storage: str = "database"
    output_dir: str = None
    store_prediction: bool = True
    overwrite: bool = False
    max_fields: int = 12
    seed: int = 51
    resume: bool = False
    class_map: dict = None
    object_maps: int = 0
    output: object = None
    task: str = None
    multi_label: bool = None
    threshold: float = None
    ends_in: str = None
    background: object = None
    read: object = None
    memory_format: str = "auto"
    measure_places: bool = True
    backend: str = "local"
    resources: dict = None
    window: object = None

    def __post_init__(self):
        """Raises a ValueError for every argument that can be judged by itself."""
        check_positive("heatmap_size", self.heatmap_size, low=7, high=4096)
        check_positive("max_fields", self.max_fields)
        self.object_maps = checked_maps(self.object_maps)
        if self.batch_size != "auto":
            check_positive("batch_size", self.batch_size)
        if self.num_workers is not None:
            check_positive("num_workers", self.num_workers, low=0)
        check_choice("storage", self.storage, STORAGES)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("memory_format", self.memory_format, memory_format.CHOICES)
        if not isinstance(self.measure_places, bool):
            raise ValueError(f"measure_places must be True or False, got {self.measure_places!r}")
        check_choice("backend", self.backend, BACKENDS)
        _check_resources(self.resources, self.backend)
        check_window(self.window)
        if self.fuse is not None:
            check_choice("fuse", self.fuse, ("layercam", "mean"))
        if self.output_dir is not None and self.storage != "disk":
            raise ValueError(
                "output_dir: has no effect with storage='database'; use storage='disk'"
            )
        if self.resume and self.overwrite:
            raise ValueError(
                "resume and overwrite exclude each other: go on with a run, or begin anew"
            )
        if self.resume and not self.cam_key:
            raise ValueError("cam_key: needed with resume=True, the key of the run to go on with")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise ValueError(f"seed must be an integer, got {self.seed!r}")
        if self.read is not None and not callable(self.read):
            raise ValueError(f"read: {self.read!r} is not callable")
        if self.multi_label not in (None, True, False):
            raise ValueError(f"multi_label must be True or False, got {self.multi_label!r}")
        if self.ends_in is not None:
            check_choice("ends_in", self.ends_in, ("logits", "sigmoid", "softmax"))
        _check_background(self.background)
        if self.threshold is not None:
            number = isinstance(self.threshold, (int, float)) and self.threshold is not True
            if not number or not 0 < self.threshold < 1:
                raise ValueError(
                    f"threshold must be a probability between 0 and 1, got {self.threshold!r}"
                )

    @property
    def model_options(self):
        """What is said about the model's outputs, for ``load_model``."""
        given = {name: getattr(self, name) for name in MODEL_OPTIONS}
        return {name: value for name, value in given.items() if value is not None}

    def describe(self):
        """Returns the settings as JSON-able values, for the run record."""
        values = dataclasses.asdict(
            dataclasses.replace(
                self, methods=None, targets=None, layers=None, output=None, window=None, read=None
            )
        )
        del values["resume"], values["overwrite"]  # of a call, not of what is computed
        if self.output_dir is not None:
            values["output_dir"] = os.path.abspath(os.path.expanduser(self.output_dir))
        values["methods"] = describe(self.methods)
        values["targets"] = describe(canonical(self.targets))
        values["output"] = describe(self.output)
        values["window"] = describe(self.window)
        values["read"] = describe(self.read)
        values["layers"] = describe(self.layers)
        return values


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


def _check_background(background):
    """Raises a ValueError unless this can be a class: a name, an index, False for none, or None."""
    index = isinstance(background, int) and background is not True and background >= 0
    name = isinstance(background, str) and background.strip()
    if background is not None and not index and not name:
        raise ValueError(
            f"background must be a class name, a class index, or False for none, got {background!r}"
        )


def _check_resources(resources, backend):
    """Raises a ValueError unless these are amounts by name, of a backend that has such."""
    if resources is None:
        return
    if backend != "ray":
        raise ValueError("resources has no effect with backend='local'; use backend='ray'")
    amounts = resources.values() if isinstance(resources, dict) else [None]
    numbers = all(
        isinstance(n, (int, float)) and not isinstance(n, bool) and n > 0 for n in amounts
    )
    if not numbers or not all(isinstance(name, str) for name in resources):
        raise ValueError(
            f"resources must be what one worker needs, for example {{'GPU': 1, 'CPU': 8}}, got {resources!r}"
        )


def describe(value):
    """Returns a JSON-able description of a value that may hold callables, modules or tensors."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if callable(value):
        return f"<{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}>"
    return f"<{type(value).__name__}>"


def as_list(value):
    """Returns a list of what may be one name, a ``(name, options)`` pair, or several."""
    pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict)
    return list(value) if isinstance(value, (list, tuple)) and not pair else [value]


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
