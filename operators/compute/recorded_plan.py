"""Which maps of a CAM run are measured, and what its target is."""

import dataclasses
import re

from ..data.samples import read_values
from ..jobs.inference import probabilities_of, to_device
from ..models import zoo
from ..models.classes import check_count
from ..models.outputs import read_outputs
from ..runs import keys
from ..runs import record as run_record
from ..targets.spec import resolve_targets
from .recorded_model import check_whole

#: a multi-label prediction has maps of at most so many classes
MAPPED = 3


@dataclasses.dataclass
class RecordedPlan:
    """How a run's maps are made again.

    Attributes:
        cam_key: the run's key
        methods: what the engine takes
        target: what the engine takes: ``"predicted"`` or a class index
        tag: the target's name
        layers: names of the layers, or None
        fuse: how layers are fused, or None
        precision: of the forward
        seed: of methods that draw random numbers
        fields: ``{(method, layer): heatmap field}`` of the maps that are measured
        primary: the key of the map that heat is judged by; None without a class-discriminative one
        notes: sentences that a user should read
        ranks: ``fields`` of each class of a sample, the strongest first; of a multi-label network
            whose predicted classes are explained there are several
    """

    cam_key: str
    methods: object
    target: object
    tag: str
    layers: list
    fuse: str
    precision: str
    seed: int
    fields: dict
    primary: tuple
    notes: list
    measure_places: bool = True
    ranks: list = None

    def __post_init__(self):
        """One class of a sample is explained unless it is said that there are several."""
        if self.ranks is None:
            self.ranks = [self.fields]

    def explain(self, model, images):
        """Explains a batch (N, C, h, w) of the loader; returns a ``cam_core.Explanation``."""
        from ...cam_core import explain

        return explain(
            model.adapted,
            to_device(model, images),
            methods=self.methods,
            targets=self.target,
            layers=self.layers,
            fuse=self.fuse,
            precision=self.precision,
            seed=self.seed,
            measure_places=self.measure_places,
        )


def plan_of_run(dataset, cam_key, model, methods=None, own_target=True):
    """Reads from a run's record how its maps were made.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the key of a CAM run
        model: the :class:`LoadedModel`
        methods (None): functions for the run's own methods, which a record only has by name
        own_target (True): whether the run's target is needed; without it ``target`` and ``tag`` are None,
            and a run of any target will do

    Returns:
        a :class:`RecordedPlan`

    Raises:
        ValueError: if the maps cannot be made again from what is recorded
    """
    record = run_record.config_of(dataset, cam_key)
    used = record.settings
    check_whole(used, cam_key)
    target, tag, notes = None, None, []
    if own_target:
        target, tag, notes = _target(used.get("targets") or "predicted", model, cam_key)
    wanted = methods if methods is not None else [_method(m) for m in used["methods"]]
    chosen = _resolved(wanted, cam_key)
    layers = list(used.get("layers") or []) or None
    fields = _fields(dataset, cam_key, used, tag, model)
    primary = _primary(chosen, fields)
    if primary is None:
        notes = [
            *notes,
            f"The run {cam_key!r} has no class-discriminative heatmap, so heat is not judged.",
        ]
    return RecordedPlan(
        cam_key=cam_key,
        methods=[(m.function, _options(m)) for m in chosen],
        target=target,
        tag=tag,
        layers=layers,
        fuse=used.get("fuse"),
        precision=used.get("precision") or "float32",
        seed=used.get("seed", 51),
        fields=fields,
        primary=primary,
        notes=notes,
        measure_places=bool(used.get("measure_places")),
        ranks=_ranks(dataset, cam_key, used, fields, model) if target == "predicted" else None,
    )


def _method(recorded):
    return recorded if isinstance(recorded, str) else tuple(recorded)


def _options(method):
    smooth = {"smooth": list(method.smooth)} if method.smooth else {}
    return {**method.options, **smooth}


def _resolved(wanted, cam_key):
    from ...cam_core.methods.catalogue import resolve_methods

    try:
        return resolve_methods(wanted)
    except ValueError as error:
        raise ValueError(
            f"methods: the run {cam_key!r} cannot be repeated from its record: {error}; pass its "
            "methods again with methods="
        ) from error


def _target(spec, model, cam_key):
    """The one target that is tested: the first of the run's."""
    names = spec if isinstance(spec, list) else [spec]
    if any(isinstance(n, str) and n.startswith("<") for n in names):
        raise ValueError(
            f"cam_key: the run {cam_key!r} explains a function of the outputs, not a class; the causal "
            "check needs a class: compute a run for 'predicted' or a named class"
        )
    try:
        values, tags = resolve_targets(spec, model)
    except ValueError as error:  # a label field, a contrast, a mask
        raise ValueError(
            f"cam_key: the run {cam_key!r} explains {spec!r}, and the causal check watches the predicted "
            f"class or a named one: compute a run for either ({error})"
        ) from error
    ranked = isinstance(values, str)
    notes = []
    if len(tags) > 1:
        notes = [f"Of the run's {len(tags)} targets only {tags[0]!r} is tested."]
    return ("predicted" if ranked else values[0]), tags[0], notes


def _fields(dataset, cam_key, used, tag, model):
    """``{(method, layer): field}`` of the run's heatmaps of one target, as their labels say."""
    fields = {}
    ranked = isinstance(used.get("targets") or "predicted", str)
    suffix = keys.plain_name(f"_{tag}")
    several = tag is not None and (not ranked or tag != "predicted")
    for field in keys.heatmap_fields_of(dataset, cam_key):
        found = read_values(dataset.exists(field).limit(1), [f"{field}.method", f"{field}.layer"])
        if not found[0]:
            continue  # no sample has it
        key = found[0][0], found[1][0]
        if key not in fields or (several and field.endswith(suffix)):
            fields[key] = field
    return fields


def _ranks(dataset, cam_key, used, fields, model):
    """``{(method, layer): field}`` of each of the classes that a multi-label network predicts."""
    if not getattr(model.adapted, "multi_label", False):
        return None
    found, names = [fields], keys.heatmap_fields_of(dataset, cam_key)
    for rank in range(2, MAPPED + 1):
        tag = f"_top{rank}"
        own = {}
        for key, field in fields.items():
            named = re.sub(r"_top\d+$", tag, field)
            if named in names and named.endswith(tag):
                own[key] = named
        found.append(own)
    return found


def _primary(chosen, fields):
    """The first class-discriminative map, in the order of the run's fields."""
    names = {m.key: m for m in chosen}
    for method, layer in fields:
        own = names.get(method)
        if own is not None and own.info.class_discriminative:
            return method, layer
    return None


def is_detector(model):
    """Whether a model finds objects; one that was given ready-made has no kind of the zoo's."""
    return model.kind == zoo.DETECTOR or hasattr(model.adapted, "detections")


def check_kind(model):
    """Raises a ValueError for a model without class scores of the whole image."""
    if model.kind == zoo.SEGMENTER or is_detector(model):
        kind = zoo.DETECTOR if is_detector(model) else model.kind
        raise ValueError(
            "model: whole images are tested of classifiers, whose outputs are class scores of the image; a "
            f"{kind} is not supported here"
        )


def check_scores(model, images):
    """Returns the (N, classes) probabilities of a batch; refuses what has no class scores.

    Args:
        model: the :class:`LoadedModel`
        images: (N, C, h, w)

    Raises:
        ValueError: if the model is a detector, gives no class scores for whole images, or as many as
            there are no class names
    """
    read_outputs(model, images)
    ending = getattr(model.adapted, "ending", None)
    if ending is not None and ending.refusal is not None:
        raise ValueError(f"model: {ending.refusal}")
    try:
        probabilities = probabilities_of(model, images)
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(
            "model: find_background_bias tests classifiers, whose outputs are class scores of the "
            f"whole image, and detectors; other models are not supported ({_short(error)})"
        ) from error
    check_count(model, probabilities.shape[1])
    return probabilities


def _short(error):
    return " ".join(str(error).split())[:200] or type(error).__name__
