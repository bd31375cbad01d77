"""``compute_cams`` without the App: check, plan, register, run, summarise.

The operator's form and its ``__call__`` both end here.
"""

import contextlib
import dataclasses
import os
import tempfile

import fiftyone as fo

from . import _heatmaps, _models, _runs
from ._explain import ExplainStep
from ._loader import (
    Failure,
    Geometry,
    Loader,
    check_deterministic,
    decode_image,
    load_item,
    one_line,
)
from ._pipeline import Progress, probe_batch_size
from ._pipeline import run as run_pipeline
from ._settings import resolve_targets

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

    @property
    def all_fields(self):
        """The fields that the run writes, heatmaps first."""
        extra = [self.prediction_field] if self.prediction_field else []
        return [*self.fields.values(), *extra]


@dataclasses.dataclass
class Summary:
    """What a run did.

    Attributes:
        cam_key: the run's key
        done: samples whose heatmaps are stored
        failed: list of dicts ``id, filepath, reason``
        fields: the fields written, in order
        seconds: wall time of the run
        images_per_second: samples done per second
        settings: what was used, defaults filled in
        statuses: ``{field: {status: count}}``; a map that is zero, flat or not finite is no picture
        bytes_written: bytes of heatmaps stored
        error: what went wrong while storing, or None
    """

    cam_key: str
    done: int
    failed: list
    fields: list
    seconds: float
    images_per_second: float
    settings: dict
    statuses: dict
    bytes_written: int
    error: str = None

    def __str__(self):
        """One paragraph for people."""
        text = (
            f"{self.cam_key}: {self.done} samples explained in {self.seconds:.1f} s "
            f"({self.images_per_second:.1f} images/s), fields {', '.join(self.fields)}"
        )
        blank = sum(n for counts in self.statuses.values() for s, n in counts.items() if s != "ok")
        if blank:
            text += f"; {blank} heatmaps without a picture (see the attribute 'status')"
        if self.failed:
            first = self.failed[0]
            text += f"; {len(self.failed)} failed, first: {os.path.basename(first['filepath'])}: {first['reason']}"
        return text


class CamJob:
    """One call of ``compute_cams``: built with everything checked, then run.

    Args:
        samples: a dataset or view of images
        model: what the user gave as model
        settings: the :class:`Settings`
        transforms (None): of a plain module
        classes (None): class names of a plain module
        origin (None): what the run record says about where it was started

    Raises:
        ValueError: if anything is wrong with an argument; nothing was written then
    """

    def __init__(self, samples, model, settings, transforms=None, classes=None, origin=None):
        check_samples(samples)
        self.samples = samples
        self.dataset = samples._dataset
        self.settings = settings
        self.model = _models.load_model(model, transforms, classes, settings.device)
        self.origin = origin
        self.failures = []
        self.summary = None
        self._statuses = {}
        self.rows = list(zip(*samples.values(["id", "filepath"]), strict=True))
        with _models.on_device(self.model):
            self.plan = self._plan()

    def _plan(self):
        from ..cam_core.methods import resolve_methods

        s = self.settings
        methods = resolve_methods(s.methods or list(self._default_methods()))
        targets, tags = resolve_targets(s.targets, self.model)
        key = s.cam_key or _runs.next_key(self.dataset, _models.default_key(self.model.name))
        _runs.check_key(self.dataset, key, s.overwrite)
        plan = Plan(
            cam_key=key,
            methods=[(m.function, {**m.options, **_smoothing(m)}) for m in methods],
            targets=targets,
            tags=tags,
            layers=s.layers,
            fuse=s.fuse,
            fields={},
            prediction_field=_runs.prediction_field(key) if s.store_prediction else None,
            precision=self._precision(),
            heatmap_size=s.heatmap_size,
            seed=s.seed,
        )
        trial = self._trial(ExplainStep(self.model, plan))
        if trial.logits is None:
            plan.prediction_field = None
        elif self.model.classes is not None:
            _check_classes(self.model.classes, trial.logits.shape[1])
        plan.layers = trial.layers or None
        # A method whose layers are fused may be asked for without them.
        fused = {method for method, layer in trial.maps if layer == "fused"}
        shown = [
            (method, layer)
            for method, layer in trial.maps
            if s.keep_layers or layer == "fused" or method not in fused
        ]
        classless = _without_class(methods, trial)
        plan.classless = classless
        plan.fields = _runs.plan_fields(key, shown, tags, classless)
        plan.scored = [
            f for (m, layer, _), f in plan.fields.items() if (m, layer) in trial.component_scores
        ]
        if len(plan.fields) > s.max_fields:
            raise ValueError(
                f"max_fields: this run would add {len(plan.fields)} heatmap fields ({len(shown)} maps x "
                f"{len(tags)} targets), more than {s.max_fields}; ask for fewer, or pass "
                f"max_fields={len(plan.fields)}"
            )
        _runs.check_fields(self.dataset, plan.all_fields, key, s.overwrite)
        _check_folder(self._map_dir(key))
        return plan

    def _default_methods(self):
        from ..cam_core import adapt

        return [adapt(self.model.module).default_method]

    def _precision(self):
        if self.settings.precision != "auto":
            return self.settings.precision
        return "bfloat16" if _fast_bfloat16(self.model.device) else "float32"

    def _trial(self, step):
        """Explains one image, so that what is wrong with the arguments shows before the run."""
        geometry, reason = Geometry(self.model.transforms), None
        for sample_id, path in self.rows[:_TRIES]:
            try:
                item = load_item(sample_id, path, self.model.transforms, geometry)
            except Exception as error:  # recorded when the run comes to it; the next will do here
                reason = reason or f"{path}: {one_line(error)}"
                continue
            check_deterministic(self.model.transforms, decode_image(path))
            self._trial_image = item.image[None]
            return step.explain(self._trial_image)
        raise ValueError(
            f"samples: none of the first {min(_TRIES, len(self.rows))} images can be used; {reason}"
        )

    def _batch_size(self, step):
        if self.settings.batch_size != "auto":
            return self.settings.batch_size
        if self.model.device.type != "cuda":
            return _CPU_BATCH
        return probe_batch_size(step.explain_cheaply, self._trial_image, len(self.rows))

    def run(self):
        """Runs the job; afterwards :attr:`summary` is set.

        Closing the generator stops the run: what was computed is stored, and the run is marked
        ``interrupted``.

        Yields:
            a :class:`Progress` after each batch
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(_models.on_device(self.model))
            step = ExplainStep(self.model, self.plan)
            used = self._used_settings(self._batch_size(step))
            loader = Loader(
                self.rows, self.model.transforms, used["batch_size"], used["num_workers"]
            )
            writer = _heatmaps.Writer(self.dataset, used["map_dir"])
            self._register(used)
            status, progress = "interrupted", Progress(total=len(self.rows))
            try:
                self._declare()
                with writer:
                    for progress in run_pipeline(
                        loader, self._counted(step), writer, len(self.rows), self.failures
                    ):
                        yield progress
                status = "finished"
            finally:
                used["batch_size"] = loader.batch_size
                self._note_lost(writer)
                self._finish(status, progress.seconds, used, writer)

    def _map_dir(self, key):
        """The run's own folder of PNG files, or None where maps go to the database."""
        if self.settings.storage != "disk":
            return None
        base = self.settings.output_dir or os.path.join(
            fo.config.default_dataset_dir, "cam51", self.dataset.name
        )
        return os.path.join(os.path.abspath(os.path.expanduser(base)), key)

    def _used_settings(self, batch_size):
        import torch

        workers = self.settings.num_workers
        if workers is None:
            workers = min(8, os.cpu_count() or 1)
        used = self.settings.describe()
        used.update(
            cam_key=self.plan.cam_key,
            model=self.model.name,
            model_source=self.model.source,
            methods=[
                [fn.cam_info.name, options] if options else fn.cam_info.name
                for fn, options in self.plan.methods
            ],
            layers=list(self.plan.layers or []),
            batch_size=batch_size,
            num_workers=workers,
            precision=self.plan.precision,
            device=str(self.model.device),
            samples=len(self.rows),
            map_dir=self._map_dir(self.plan.cam_key),
            versions={"fiftyone": fo.__version__, "torch": torch.__version__},
            origin=self.origin,
        )
        return used

    def _register(self, used):
        if self.settings.overwrite:
            _runs.clear(self.dataset, self.plan.cam_key)
        _runs.register(self.dataset, self.plan.cam_key, used, self.plan.all_fields)

    def _declare(self):
        """Declares the schema and makes the fields look like heat, before the first sample."""
        heatmaps = list(self.plan.fields.values())
        _heatmaps.declare_schema(
            self.dataset, heatmaps, self.plan.prediction_field, self.plan.scored
        )
        methods = {field: method for (method, _, _), field in self.plan.fields.items()}
        self.colours = _heatmaps.colour_fields(self.dataset, methods)
        self.active_fields = _heatmaps.activate_fields(self.dataset, heatmaps[:1])

    def _counted(self, step):
        """Counts the statuses of the labels that a step returns."""

        def counted(batch):
            results = step(batch)
            for labels in results.values():
                for field, label in labels.items():
                    if isinstance(label, fo.Heatmap):
                        counts = self._statuses.setdefault(field, {})
                        counts[label.status] = counts.get(label.status, 0) + 1
            return results

        return counted

    def _note_lost(self, writer):
        paths = dict(self.rows)
        for sample_id in writer.vanished:
            self.failures.append(
                Failure(
                    sample_id, paths.get(sample_id, ""), "the sample was deleted during the run"
                )
            )

    def _finish(self, status, seconds, used, writer):
        done = writer.samples_written
        self.summary = Summary(
            cam_key=self.plan.cam_key,
            done=done,
            failed=[dataclasses.asdict(f) for f in self.failures],
            fields=self.plan.all_fields,
            seconds=seconds,
            images_per_second=done / seconds if seconds else 0.0,
            settings=used,
            statuses=self._statuses,
            bytes_written=writer.bytes_written,
            error=writer.error,
        )
        _runs.finish(self.dataset, self.plan.cam_key, status, dataclasses.asdict(self.summary))


def _without_class(methods, trial):
    """The keys of maps that are the same for every target."""
    return {
        key for m in methods if not m.info.class_discriminative for key, _ in m.keys(trial.layers)
    }


def _smoothing(method):
    return {"smooth": list(method.smooth)} if method.smooth else {}


def _fast_bfloat16(device):
    """Whether a device computes in bfloat16 itself; older GPUs only emulate it, slowly."""
    import torch

    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _check_classes(classes, outputs):
    if len(classes) != outputs:
        raise ValueError(
            f"classes has {len(classes)} names, the model has {outputs} outputs; one name per output, in order"
        )


def _check_folder(folder):
    """Raises a ValueError unless a folder can be made and written to."""
    if folder is None:
        return
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir: heatmaps cannot be written to {folder!r}: {error}"
        ) from error


def check_samples(samples):
    """Raises a ValueError unless samples can be explained.

    Args:
        samples: what the user gave
    """
    import fiftyone.core.collections as foc

    if not isinstance(samples, foc.SampleCollection):
        raise ValueError(
            f"samples must be a FiftyOne dataset or view, got {type(samples).__name__}"
        )
    if samples._dataset._is_generated:
        raise ValueError(
            "samples: a patches, frames or clips view has no lasting samples of its own, heatmaps stored "
            "there would be lost; use the dataset or a view of whole images"
        )
    if samples.media_type == "group":
        raise ValueError(
            "samples: the dataset is grouped; use one slice, samples.select_group_slices('name')"
        )
    if not len(samples):
        raise ValueError("samples is empty: the view matches no sample")
    if samples.media_type != "image":
        raise ValueError(f"samples must be images, the media type is {samples.media_type!r}")
