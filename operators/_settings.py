"""What a run is told to do: every argument checked before the first sample."""

import dataclasses
import json
import os

STORAGES = ("database", "disk")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


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

    def __post_init__(self):
        """Raises a ValueError for every argument that can be judged by itself."""
        _positive("heatmap_size", self.heatmap_size, low=7, high=4096)
        _positive("max_fields", self.max_fields)
        if self.batch_size != "auto":
            _positive("batch_size", self.batch_size)
        if self.num_workers is not None:
            _positive("num_workers", self.num_workers, low=0)
        _choice("storage", self.storage, STORAGES)
        _choice("precision", self.precision, PRECISIONS)
        if self.fuse is not None:
            _choice("fuse", self.fuse, ("layercam", "mean"))
        if self.output_dir is not None and self.storage != "disk":
            raise ValueError("output_dir has no effect with storage='database'; use storage='disk'")
        if self.resume and self.overwrite:
            raise ValueError(
                "resume and overwrite exclude each other: go on with a run, or begin anew"
            )
        if self.resume and not self.cam_key:
            raise ValueError("resume=True needs cam_key, the key of the run to go on with")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise ValueError(f"seed must be an integer, got {self.seed!r}")

    def describe(self):
        """Returns the settings as JSON-able values, for the run record."""
        values = dataclasses.asdict(
            dataclasses.replace(self, methods=None, targets=None, layers=None)
        )
        del values["resume"], values["overwrite"]  # of a call, not of what is computed
        if self.output_dir is not None:
            values["output_dir"] = os.path.abspath(os.path.expanduser(self.output_dir))
        values["methods"] = describe(self.methods)
        values["targets"] = describe(self.targets)
        values["layers"] = describe(self.layers)
        return values


def _positive(name, value, low=1, high=None):
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < low
        or (high and value > high)
    ):
        limits = f"between {low} and {high}" if high else f"of at least {low}"
        raise ValueError(f"{name} must be an integer {limits}, got {value!r}")


def _choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is unknown; choose from {', '.join(choices)}")


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


def resolve_targets(spec, model):
    """Turns a target specification into what the engine takes, and names for the fields.

    Args:
        spec: ``"predicted"``, ``"top_3"``, a class index or name, a callable, or a list of classes
            and callables
        model: the :class:`LoadedModel`, whose class names are searched

    Returns:
        the engine's specification, and a list of one tag per target

    Raises:
        ValueError: if a class is not known; near names are listed
    """
    tags = ranked_tags(spec)
    if tags is not None:
        return spec, tags
    items = as_list(spec)
    if not items:
        raise ValueError("targets is empty; leave it out to explain the predicted class")
    resolved = [_one_target(item, model) for item in items]
    values, tags = [v for v, _ in resolved], [t for _, t in resolved]
    twice = [t for v, t in resolved if values.count(v) > 1]
    if twice:
        raise ValueError(f"targets: {twice[0]!r} is given twice")
    # Class names need not be unique, and every lambda has the same name.
    return values, [
        t if tags.count(t) == 1 else _distinct(i, v, t) for i, (v, t) in enumerate(resolved)
    ]


def ranked_tags(spec):
    """Names the targets of ``"predicted"`` and ``"top_3"``; None for anything else."""
    from ..cam_core.targets import top_ranks

    if spec == "predicted":
        return ["predicted"]
    ranks = top_ranks(spec) if isinstance(spec, str) else None
    return None if ranks is None else [f"top{i + 1}" for i in range(ranks)]


def _distinct(position, value, tag):
    return f"{tag}_{value}" if isinstance(value, int) else f"{tag}_{position + 1}"


def _one_target(item, model):
    from ..cam_core import class_index

    if callable(item):
        return item, getattr(item, "__name__", "custom").strip("<>")
    if ranked_tags(item) is not None:
        raise ValueError(
            f"targets: {item!r} stands alone; a list holds class names, indices or callables"
        )
    if isinstance(item, str):
        if model.classes is None:
            raise ValueError(
                f"targets: {item!r} needs class names; pass classes=, or give an index"
            )
        item = class_index(item, model.classes)
    if isinstance(item, bool) or not isinstance(item, int):
        raise ValueError(
            f"targets: {item!r} is not understood; give 'predicted', 'top_3', a class name or index, "
            "a callable, or a list of classes and callables"
        )
    return item, model.label(item)


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
