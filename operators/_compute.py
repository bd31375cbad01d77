"""``compute_cams`` without the App: check, plan, register, run, summarise.

The operator's form and its ``__call__`` both end here.
"""

import contextlib
import dataclasses
import os
import socket

import fiftyone as fo
import pymongo
from pymongo.errors import PyMongoError

from . import (
    _detections,
    _heatmaps,
    _lease,
    _models,
    _outlines,
    _provenance,
    _ray,
    _ray_settings,
    _record,
    _resume,
    _runs,
    _same_scale,
)
from ._checks import check_samples
from ._colours import shown_of
from ._explain import ExplainStep
from ._images import one_line
from ._loader import Failure, Loader
from ._lock import writing_schema
from ._patience import patiently
from ._pipeline import Progress
from ._pipeline import run as run_pipeline
from ._plan import batch_settings, choose_batch_size, describe_run, make_plan
from ._summary import Summary
from ._targets import texts_of


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
        self.given_model, self.given_transforms, self.given_classes = model, transforms, classes
        self.model = _models.load_model(
            model, transforms, classes, _ray_settings.planning_device(settings), texts=texts_of(settings.targets),
            **settings.model_options,
        )  # fmt: skip
        self.origin = origin
        self.failures = []
        self.summary = None
        self.colours = self.active_fields = None
        self._statuses = {}
        self.rows = list(zip(*samples.values(["id", "filepath"]), strict=True))
        with _models.on_device(self.model):
            self.plan = make_plan(self.dataset, self.model, settings, self.rows, samples)
            if settings.layers is None and self.plan.layers:
                _outlines.remember_default(self.model.name, self.plan.layers)
            self.used = describe_run(self.plan, self.model, settings, len(self.rows), self.origin)
        if settings.backend == "ray":
            _ray_settings.describe(settings, self.used, self.model)
        self._look_up()

    def _look_up(self):
        """Finds out what an earlier call has done, and refuses to go on with other settings."""
        key, ids = self.plan.cam_key, [sample_id for sample_id, _ in self.rows]
        self._record, self._lists, self._done = None, [ids], set()
        if self.settings.resume and key in _runs.list_runs(self.dataset):
            self._record = _runs.config_of(self.dataset, key)
            self._check_same()
            self._done = _resume.done_ids(self.dataset, key, self._record)
            self._lists = _resume.covered(self.dataset, key)
            covered = {i for part in self._lists for i in part}
            new = [i for i in ids if i not in covered]
            self._lists += [new] if new else []
        everything = {i for part in self._lists for i in part}
        self._before, self._covered = len(self._done & everything), len(everything)
        self.todo = {i for i in ids if i not in self._done}

    def _check_same(self):
        then = dict(self._record.settings)
        different = _provenance.differences(then, self.used)
        stored = getattr(self._record, "heatmap_fields", None)
        if not different and stored != list(self.plan.fields.values()):
            different = [f"fields: {stored} then, {list(self.plan.fields.values())} now"]
        if different:
            raise ValueError(
                f"resume: the run {self.plan.cam_key!r} has other settings ({'; '.join(different)}); give "
                "those that it has, choose another cam_key, or pass overwrite=True to begin anew"
            )
        if self._record.own:
            self.plan.map_dir = self.used["map_dir"] = then.get("map_dir")
            self.plan.made_folders = self._record.made_folders

    @property
    def total(self):
        """Samples that this call has to explain."""
        return len(self.todo)

    def run(self):
        """Runs the job; afterwards :attr:`summary` is set.

        Closing the generator stops the run: what was computed is stored, and the run is marked
        ``interrupted``. A run that :func:`_lease.ask_to_stop` was called for ends the same way.

        Yields:
            a :class:`Progress` after each batch
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(_models.on_device(self.model))
            loader, team = self._loader(), None
            if self.settings.backend == "ray":
                stack.close()  # the network is the workers' now
                team = stack.enter_context(_ray.Team(self))
            writer = _heatmaps.Writer(self.dataset, self.plan.map_dir)
            token = self._begin(writer.stamp)
            self._now = Progress(total=self.total)
            self._writer = writer
            status, error = "interrupted", None
            try:
                with _lease.Lease(self.dataset, self.plan.cam_key, token, self._state) as lease:
                    self._declare()
                    states = team.run(loader, writer, token) if team else self._here(loader, writer)
                    with contextlib.closing(states):
                        for now in states:
                            self._now = now
                            lease.check()
                            yield now
                    self._declare()  # another run may have written over the schema it did not know
                status = "finished"
            except _lease.Stopped as stopped:
                error = str(stopped)  # that is what was asked for
            except Exception as failed:
                status, error = "failed", one_line(failed)
                raise
            finally:
                self.used["batch_size_left"] = loader.batch_size
                self._note_lost(writer)
                self._finish(status, error, token)

    def _here(self, loader, writer):
        """Computes the run in this process; yields a :class:`Progress` after each batch."""
        step = self._counted(ExplainStep(self.model, self.plan))
        with writer:
            yield from run_pipeline(loader, step, writer, self.total, self.failures)

    def _loader(self):
        """The batches that are to be computed: of a run that goes on, the same ones as in its first call."""
        used, then = self.used, self._record.settings if self._record else None
        if then is None:
            size = choose_batch_size(self.plan, self.model, self.settings, len(self.rows))
            batch_settings(used, size)
        else:
            used["block_size"], used["batch_size"] = then["block_size"], then["batch_size"]
            # Where memory ran out, it would run out again.
            size = self._record.progress.get("batch_size") or then["batch_size"]
        self.blocks = _resume.plan_blocks(
            self.dataset, self.rows, self._lists, self.todo, used["block_size"]
        )
        self._loader_used = Loader(
            None, self.model.transforms, size, used["num_workers"], blocks=self.blocks
        )
        return self._loader_used

    def _begin(self, stamp):
        """Registers the run, or takes up the one there is; returns its token."""
        key, dataset, plan = self.plan.cam_key, self.dataset, self.plan
        session = {
            "started": _record.now(),
            "origin": self.origin,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "samples": self.total,
            "backend": self.settings.backend,
            "versions": self.used["versions"],
        }
        if self._record is None:
            if self.settings.overwrite:
                _runs.clear(dataset, key)
            token = _runs.register(
                dataset,
                key,
                self.used,
                plan.all_fields,
                samples=self.samples,
                heatmap_fields=list(plan.fields.values()),
                prediction_field=plan.prediction_field,
                label_attributes=plan.objects.label_attributes if plan.objects else [],
                made_folders=plan.made_folders,
                stamps=[stamp],
                sessions=[session],
            )
            _resume.save_covered(dataset, key, self._lists)
            return token
        old = self._record
        token = _record.claim(
            dataset,
            key,
            "running",
            # The files of a run that was copied here are not this dataset's to delete.
            stamps=[*(getattr(old, "stamps", None) or [] if old.own else []), stamp],
            sessions=[*old.sessions, session],
            settings={**old.settings, "map_dir": plan.map_dir},
            made_folders=plan.made_folders,
            dataset_id=str(dataset._doc.id),
            extended=old.extended or len(self._lists) > 1,
            error=None,
            shards={},
        )
        _resume.save_covered(dataset, key, self._lists)
        return token

    def _state(self):
        """What the record is told while the run is at work."""
        progress = {
            "done": self._before + self._writer.samples_written,
            "total": self._covered,
            "failed": len(self.failures),
            "bytes": self._writer.bytes_written,
            "batch_size": self._loader_used.batch_size,
        }
        return progress, [dataclasses.asdict(f) for f in self.failures[: _lease.FAILURES_KEPT]]

    def _declare(self):
        """Declares the schema and makes the fields look like heat, unless that is so already."""
        heatmaps = list(self.plan.fields.values())
        if self.plan.objects:
            _detections.declare(self.dataset, self.plan.objects)
        if not _record.lacks_fields(self.dataset, self.plan.all_fields, heatmaps):
            if self.colours is None:
                self.colours = self.dataset.app_config.color_scheme.fields
                self.active_fields = self._activate(heatmaps)
            return
        colours = {  # what speaks against has a colour of its own
            field: (method, tag in self.plan.tags)
            for (method, _, tag), field in self.plan.fields.items()
        }
        with writing_schema(self.dataset):
            _heatmaps.declare_schema(
                self.dataset, heatmaps, self.plan.prediction_field, self.plan.scored
            )
            self.colours = _heatmaps.colour_fields(self.dataset, colours)
            self.active_fields = self._activate(heatmaps)

    def _activate(self, heatmaps):
        """Shows the first heatmap, instead of those of other runs."""
        runs = _runs.list_runs(self.dataset)
        ours = [f for key in runs for f in _runs.heatmap_fields_of(self.dataset, key)]
        others = [field for field in ours if field not in heatmaps]
        shown = shown_of(self.dataset, others)
        if shown:
            # they come back when this run is deleted
            _runs.update(self.dataset, self.plan.cam_key, shown_before=shown)
        return _heatmaps.activate_fields(self.dataset, heatmaps[:1], instead=others)

    def _counted(self, step):
        """Counts the statuses of the labels that a step returns."""

        def counted(batch):
            results = step(batch)
            wanted = {item.id for item in batch.items if item.wanted}
            for labels in (results[i] for i in results if i in wanted):
                for field, label in labels.items():
                    if isinstance(label, fo.Heatmap):
                        counts = self._statuses.setdefault(field, {})
                        counts[label.status] = counts.get(label.status, 0) + 1
            return results

        return counted

    def _note_lost(self, writer):
        paths = dict(self.rows)
        reasons = dict.fromkeys(writer.vanished, "the sample was deleted during the run")
        for sample_id, reason in {**reasons, **writer.refused}.items():
            self.failures.append(Failure(sample_id, paths.get(sample_id, ""), reason))

    def _finish(self, status, error, token):
        """Makes the summary and stores it; the record is only touched while it is this run's."""
        resumed = len(self.rows) - len(self.todo)
        seconds, written = self._now.seconds, self._writer.samples_written
        self.summary = Summary(
            cam_key=self.plan.cam_key,
            done=resumed + written,
            failed=[dataclasses.asdict(f) for f in self.failures],
            fields=self.plan.all_fields,
            seconds=seconds,
            images_per_second=written / seconds if seconds else 0.0,
            settings=self.used,
            statuses=self._statuses,
            labels=self.plan.labels,
            notes=self.plan.notes,
            bytes_written=self._writer.bytes_written,
            error=error or self._writer.error,
            status=status,
            resumed=resumed,
        )
        if self.dataset.deleted:
            return  # nothing is left to record it in; the error on its way says so
        if status == "finished":
            patiently(self._store_end, token)
            return
        try:
            # Another error is on its way: it is not to wait for a database that may be gone.
            with pymongo.timeout(10):
                self._store_end(token)
        except PyMongoError as failed:
            self.summary.error = f"{self.summary.error or ''}; not recorded: {one_line(failed)}"

    def _store_end(self, token):
        key, s = self.plan.cam_key, self.summary
        if not _record.holds(self.dataset, key, token):
            return
        if self._record is not None or self.settings.backend != "local":
            s.statuses = _resume.statuses(self.dataset, key, list(self.plan.fields.values()))
        progress, failures = self._state()
        if s.status == "finished" and self._leaves_some():
            s.status = "interrupted"
        _runs.save_results(self.dataset, key, summary=dataclasses.asdict(s))
        # The results first: a run that is marked as ended has them.
        _record.update(
            self.dataset,
            key,
            status=s.status,
            ended=_record.now(),
            error=s.error,
            progress=progress,
            failures=failures,
        )
        # Last: of a run that failed the record is worth more, and there is little time for both.
        _same_scale.renew_scale(self.dataset, key)

    def _leaves_some(self):
        """Whether samples of the run that are not in this call's view still lack something."""
        if self._record is None or self._record.status == "finished":
            return False
        mine = {sample_id for sample_id, _ in self.rows}
        left = {i for part in self._lists for i in part} - mine - self._done
        return any(True for _ in _resume.present(self.dataset, left))
