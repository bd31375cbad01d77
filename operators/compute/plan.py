"""Everything that ``compute_cams`` decides before the first sample, and what the record says of it."""

import contextlib
import dataclasses
import functools
import os

from ..data import heatmap_writer
from ..data.crops import Crop
from ..data.geometry import TransformGeometry, UnknownPlaces, check_deterministic
from ..data.images import decode_image
from ..data.loader import Failure, block_size, load_item
from ..data.rows import Row
from ..data.videos import FrameReader
from ..data.written_paths import confined
from ..jobs import planning
from ..jobs.inference import answers_alike
from ..jobs.memory import check_batch
from ..jobs.pipeline import probe_batch_size
from ..models import load, zoo
from ..models.classes import check_count
from ..models.outputs import describe_outputs, read_outputs
from ..runs import keys, provenance
from ..runs import record as run_record
from ..targets.columns import RunTargets, against_tag
from ..text import one_line
from . import checks, memory_format
from .objects import FUSED, MOST_MAPS, check_attributes, plan_objects
from .patches import PatchPlan
from .step import ExplainStep

# Images tried before it is said that none can be read.
_TRIES = 50
_CPU_BATCH = 16


@dataclasses.dataclass
class Plan:
    """Everything decided before the first sample."""

    cam_key: str
    methods: list
    targets: object
    tags: list
    layers: list
    fuse: str
    fields: dict
    prediction_field: str
    precision: str
    heatmap_size: int
    seed: int
    classless: set = dataclasses.field(default_factory=set)
    scored: list = dataclasses.field(default_factory=list)
    trial_image: object = None
    trial_item: object = None
    map_dir: str = None
    made_folders: list = dataclasses.field(default_factory=list)
    objects: object = None
    patches: object = None
    memory_format: str = "contiguous"
    measure_places: bool = True
    places: dict = dataclasses.field(default_factory=dict)
    repeatable: bool = True
    notes: list = dataclasses.field(default_factory=list)

    @property
    def labels(self):
        """What is known of the label fields that are explained, a list of dicts."""
        if self.objects:
            return self.objects.targets.labels
        return self.targets.labels if isinstance(self.targets, RunTargets) else []

    @property
    def heatmap_fields(self):
        """The fields of heatmaps that the run writes."""
        fields = list(self.fields.values())
        if self.patches:
            return [f for field in fields for f in (field, *self.patches.own_fields(field))]
        return fields

    @property
    def label_attributes(self):
        """Paths of what is written on labels that somebody else made."""
        return (
            (self.objects or self.patches).label_attributes if self.objects or self.patches else []
        )

    @property
    def all_fields(self):
        """The fields that the run writes, heatmaps first."""
        extra = [self.prediction_field] if self.prediction_field else []
        own = [self.objects.own_field] if self.objects and self.objects.own_field else []
        return [*self.heatmap_fields, *extra, *own]


def make_plan(dataset, model, settings, rows, samples=None, origin=None):
    """Checks the arguments of a run against the model and the dataset, with one image.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        model: the :class:`LoadedModel`, on its device
        settings: the :class:`Settings`
        rows: the :class:`~operators.data.rows.Row` of the samples
        samples (None): the samples, whose labels may be asked for; the dataset by default
        origin (None): where the run is started, which says where it may write

    Returns:
        a :class:`Plan`

    Raises:
        ValueError: if anything is wrong; nothing was written then
    """
    s = settings
    samples = dataset if samples is None else samples
    key = s.cam_key or keys.next_key(dataset, load.default_key(model.name))
    keys.check_key(dataset, key, s.overwrite, s.resume, exact=True)
    item = first_image(rows, model.transforms, model.geometry)
    plan, trial, shown = plan_model(model, s, samples, key, item)
    plan.map_dir = checks.map_dir(s, dataset, key)
    keys.check_fields(dataset, plan.all_fields, key, s.overwrite)
    if plan.objects or plan.patches:
        check_attributes(dataset, plan.objects or plan.patches, key)
    if plan.map_dir is None:
        size = heatmap_writer.heatmap_size(*reversed(item.window.image), s.heatmap_size)
        checks.check_document_size(
            dataset,
            list(dict.fromkeys(row.id if row.crop is None else row.sample for row in rows)),
            lambda: _heats(trial, shown, size),
            len(plan.heatmap_fields),
            size,
        )
    if plan.map_dir is not None:
        confined("output_dir", plan.map_dir, origin)
    plan.made_folders = checks.check_folder(plan.map_dir)
    return plan


def plan_model(model, settings, samples, key, item):
    """Checks the arguments of a run against the model, with one image; no dataset is asked or written.

    Args:
        model: the :class:`LoadedModel`, on its device
        settings: the :class:`Settings`
        samples: whose label fields may be explained
        key: begins the name of every field
        item: the loader's item of the image that is tried, with its image

    Returns:
        a :class:`Plan`, the ``cam_core.Explanation`` of the image, and the keys of the maps that are stored

    Raises:
        ValueError: if anything is wrong
    """
    from ...cam_core.methods.catalogue import resolve_methods

    s = settings
    methods = resolve_methods(s.methods or list(_default_methods(model)))
    notes = read_outputs(model, item.image[None])
    patches = _patches(s, model, samples, key)
    objects = None if patches else _objects(s, model, samples, key)
    targets, tags = (objects.targets, objects.tags) if objects else _targets(s, model, samples)
    if patches and len(tags) > 1:
        raise ValueError(
            f"targets: of each object's crop one thing is explained, and these are {len(tags)}; give one"
        )
    plan = Plan(
        cam_key=key,
        methods=[(m.function, {**m.options, **_smoothing(m)}) for m in methods],
        targets=targets,
        tags=tags,
        layers=s.layers,
        fuse=s.fuse,
        fields={},
        prediction_field=keys.prediction_field(key) if s.store_prediction and not patches else None,
        precision=_precision(s, model),
        heatmap_size=s.heatmap_size,
        seed=s.seed,
        objects=objects,
        patches=patches,
        memory_format=_memory_format(s, model),
        measure_places=s.measure_places,
        notes=[*notes, *(m.note for m in methods if m.note), *getattr(targets, "notes", ())],
    )
    plan.trial_image, plan.trial_item = item.image[None], item
    trial = _first_trial(plan, model, s)
    failed = None
    try:
        plan.repeatable = answers_alike(model, item.image[None])
    except (
        Exception
    ) as error:  # it has answered once: the run finds out what it does with the others
        plan.repeatable, failed = False, one_line(error)
    if failed is not None:
        plan.notes.append(f"model: asked once more about the first image it failed: {failed}")
    elif not plan.repeatable:
        plan.notes.append(
            "model: it answers differently when it is asked twice about one image, as with dropout that is "
            "never switched off; maps and scores are those of one draw, and another run gives others"
        )
    plan.places = {layer: place.describe() for layer, place in trial.places.items()}
    # A picture of many classes has no one class, and a quantity is none.
    one = model.kind != zoo.SEGMENTER and getattr(model.adapted, "family", "") != "regressor"
    if trial.logits is None or not one:
        plan.prediction_field = None
    if trial.logits is not None:
        check_count(model, trial.logits.shape[1])
    if objects and model.classes is not None and getattr(model.adapted, "reader", None):
        told = model.adapted.told
        if told["complete"] or told["classes"] > len(model.classes):
            check_count(model, told["classes"])
    plan.layers = trial.layers or None
    check_batch(s.batch_size, model, plan.trial_image, _without_own_batches(plan, model))
    return plan, trial, _plan_fields(plan, methods, trial, s)


def _without_own_batches(plan, model):
    """Explains images by what grows with the batch: not by methods with batches of their own."""
    methods = [m for m in plan.methods if "batch_size" not in m[0].cam_info.options]
    return ExplainStep(
        model, dataclasses.replace(plan, methods=methods or ["gradcam"], fuse=None)
    ).explain


def _plan_fields(plan, methods, trial, settings):
    """Names the fields of the maps that are stored; returns these maps' keys."""
    # A method whose layers are fused may be asked for without them.
    fused = {method for method, layer in trial.maps if layer == "fused"}
    shown = [
        (method, layer)
        for method, layer in trial.maps
        if settings.keep_layers or layer == "fused" or method not in fused
    ]
    plan.classless = {
        key for m in methods if not m.info.class_discriminative for key, _ in m.keys(trial.layers)
    }
    signed = {key for m in methods if m.info.signed for key, _ in m.keys(trial.layers)}
    tags = plan.tags[:1] if plan.objects else plan.tags
    plan.fields = _for_and_against(
        keys.plan_fields(
            plan.cam_key, shown, tags, plan.classless, FUSED if plan.objects else None
        ),
        plan,
        signed,
    )
    if plan.objects:
        plan.objects.methods = list(dict.fromkeys(method for method, _ in shown))
        plan.fields = plan.objects.fields(plan.fields, plan.classless)
        _check_object_maps(plan)
    if plan.patches:
        plan.patches.fields = list(plan.fields.values())
    plan.scored = [
        f for (m, layer, _), f in plan.fields.items() if (m, layer) in trial.component_scores
    ]
    count = len(plan.heatmap_fields)
    if count > settings.max_fields:
        raise ValueError(
            f"max_fields: this run would add {count} heatmap fields ({len(shown)} maps x "
            f"{len(plan.tags)} targets), more than {settings.max_fields}; ask for fewer, or pass "
            f"max_fields={count}"
        )
    return shown


def _check_object_maps(plan):
    """Maps of single objects are refused where no method has such, and said to lack where one has none."""
    without = [m for m in plan.objects.methods if m in plan.classless]
    if not plan.objects.maps or not without:
        return
    if len(without) == len(plan.objects.methods):
        raise ValueError(
            f"object_maps: {', '.join(without)} is the same for every object of an image; leave object_maps "
            "out, or ask for a method that has a class, such as 'layercam'"
        )
    plan.notes.append(
        f"object_maps: {', '.join(without)} is the same for every object, one field each"
    )


def _for_and_against(fields, plan, signed):
    """Gives signed maps of contrasts two fields: what speaks for the one class, what for the other."""
    contrasts = plan.targets.contrasts if isinstance(plan.targets, RunTargets) else ()
    found = {}
    for (method, layer, tag), field in fields.items():
        both = tag in contrasts and method in signed - plan.classless and layer != "fused"
        found[method, layer, tag] = f"{field}_for" if both else field
        if both:
            found[method, layer, against_tag(tag)] = f"{field}_against"
    keys.check_distinct(found)
    return found


def _heats(trial, shown, size):
    """The heatmaps of the trial image, (h, w) each."""
    for key, heats in trial.heatmaps(size).items():
        if key in shown:
            yield from heats[0].nan_to_num(0).cpu().numpy()


def _targets(settings, model, samples):
    """What the engine takes, or :class:`RunTargets`, and a tag for each target."""
    from ..targets.resolve import make_targets

    return make_targets(settings.targets, model, samples, settings.class_map)


def _objects(settings, model, samples, key):
    """What a detector's run does with its objects; None of other models."""
    if model.kind == zoo.DETECTOR:
        return plan_objects(settings, samples, model, key)
    if settings.object_maps:
        raise ValueError(
            f"object_maps: is for detectors, and this is a {model.kind or 'model'} without objects of its "
            f"own; leave it out (at most {MOST_MAPS} objects of a detector have maps of their own)"
        )
    return None


def _patches(settings, model, samples, key):
    """What a run over the objects of a field stores; None of other runs."""
    if settings.patches_field is None:
        return None
    if model.kind not in (None, zoo.CLASSIFIER, zoo.ZERO_SHOT):
        raise ValueError(
            f"patches_field: each object's crop is explained by a classifier, and this is a {model.kind}; leave "
            "it out, or choose a classifier"
        )
    path = f"{settings.patches_field}.detections"
    masks = [samples._root_dataset.count(f"{path}.{name}") for name in ("mask", "mask_path")]
    return PatchPlan(settings.patches_field, settings.object_maps, key, masks=any(masks))


def _default_methods(model):
    return [model.adapted.default_method]


def _precision(settings, model):
    if settings.precision != "auto":
        return settings.precision
    return "bfloat16" if _fast_bfloat16(model.device) else "float32"


def _memory_format(settings, model):
    if model.kind == zoo.DETECTOR:
        return memory_format.CONTIGUOUS  # its images are arranged by the detector itself
    if settings.memory_format != "auto":
        return settings.memory_format
    return memory_format.faster(model.module, model.device, _precision(settings, model))


def _first_trial(plan, model, settings):
    """Explains the trial image; a format that was chosen here and that the network cannot take is left."""
    step = ExplainStep(model, plan)
    if settings.memory_format != "auto" or plan.memory_format == memory_format.CONTIGUOUS:
        return step.explain(plan.trial_image)
    try:
        return step.explain(plan.trial_image)
    except Exception as error:  # such as a view of activations that are not contiguous
        plan.memory_format = memory_format.CONTIGUOUS
        trial = step.explain(
            plan.trial_image
        )  # which raises what was wrong, if it was not the format
        plan.notes.append(
            f"memory_format: contiguous, as the network does not take channels_last ({one_line(error)})"
        )
        return trial


def _fast_bfloat16(device):
    """Whether a device computes in bfloat16 itself; older GPUs only emulate it, slowly."""
    import torch

    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _smoothing(method):
    return {"smooth": list(method.smooth)} if method.smooth else {}


def first_image(rows, transforms, geometry=None):
    """Finds the first image that can be read: with it, wrong arguments show before the run.

    Args:
        rows: list of :class:`~operators.data.rows.Row`, or of ``(id, filepath)``
        transforms: maps a PIL image to a tensor
        geometry (None): the model's :class:`TransformGeometry`, which knows what was said and measured

    Returns:
        the loader's item

    Raises:
        ValueError: if none of the first can be used, the transforms are random, or it cannot be known
            which part of the image they show
    """
    geometry, reason = geometry or TransformGeometry(transforms), None
    # The first of each file first: of a broken video no frame can be read.
    tried = list({row[1]: Row(*row) for row in reversed(rows)}.values())[::-1][:_TRIES]
    with contextlib.closing(FrameReader()) as frames:
        for row in tried:
            planning.check()
            picture = None
            if row.frame is not None:
                picture = functools.partial(frames.read, row.filepath, row.frame)
            if row.crop is not None:
                picture = Crop(decode_image, row.filepath, row.crop)
            try:
                item = load_item(row.id, row.filepath, transforms, geometry, picture)
            except UnknownPlaces:
                raise  # of another image it will not be known either
            except Exception as error:  # recorded when the run comes to it; the next will do here
                reason = reason or f"{row.filepath}: {Failure.of(row, error).reason}"
                continue
            if geometry.known_by != "measured":  # which began with this
                check_deterministic(transforms, row.filepath, picture)
            return item
    what = "images" if tried[0].frame is None else "videos"
    raise ValueError(f"samples: none of the first {len(tried)} {what} can be used; {reason}")


def choose_batch_size(plan, model, settings, count):
    """The batch size of a run that is not given one.

    Args:
        plan: the :class:`Plan`
        model: the :class:`LoadedModel`, on its device
        settings: the :class:`Settings`
        count: samples of the run

    Returns:
        a number
    """
    if settings.batch_size != "auto":
        return settings.batch_size
    if model.device.type != "cuda":
        return _CPU_BATCH
    step = ExplainStep(model, plan)
    return probe_batch_size(step.explain_cheaply, plan.trial_image, count)


def describe_run(plan, model, settings, samples, origin):
    """Says everything that is needed to repeat a run, as JSON has it; the batch size comes later.

    Args:
        plan: the :class:`Plan`
        model: the :class:`LoadedModel`
        settings: the :class:`Settings`
        samples: number of samples
        origin: where the run was started

    Returns:
        a dict
    """
    workers = settings.num_workers
    used = settings.describe()
    used.update(
        batch_size_asked=settings.batch_size,
        memory_format_asked=settings.memory_format,
        cam_key=plan.cam_key,
        model=model.name,
        model_source=model.source,
        weights=provenance.fingerprint(model.module),
        classes=provenance.describe_classes(model.classes),
        **provenance.describe_transforms(model.transforms),
        **provenance.describe_geometry(model.geometry),
        methods=[
            [fn.cam_info.name, options] if options else fn.cam_info.name
            for fn, options in plan.methods
        ],
        code=provenance.describe_code(_functions(plan, settings)),
        layers=list(plan.layers or []),
        places=plan.places,
        repeatable=plan.repeatable,
        num_workers=min(8, os.cpu_count() or 1) if workers is None else workers,
        precision=plan.precision,
        memory_format=plan.memory_format,
        device=str(model.device),
        samples=samples,
        map_dir=plan.map_dir,
        versions=provenance.versions(),
        origin=origin,
    )
    used["outputs"] = describe_outputs(model)
    if plan.objects:
        used["objects"] = plan.objects.targets.describe()
    return run_record.jsonable(used)


def _functions(plan, settings):
    targets = plan.targets.functions if isinstance(plan.targets, RunTargets) else []
    read = [settings.read] if settings.read is not None else []
    return [fn for fn, _ in plan.methods] + targets + read


def batch_settings(used, batch_size):
    """Adds to a run's settings how its samples are put together."""
    used["batch_size"] = batch_size
    used["block_size"] = block_size(batch_size)
