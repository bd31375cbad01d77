"""``compute_cams`` without the App: check, plan, register, run, summarise.

The operator's form and its ``__call__`` both end here.
"""

import contextlib
import dataclasses
import os
import socket
import time

import fiftyone as fo
import pymongo
from pymongo.errors import PyMongoError

from ..data import heatmap_writer, same_scale
from ..data.loader import Failure, Loader
from ..data.rows import Row
from ..data.written_paths import confined
from ..jobs.base import Job
from ..jobs.pipeline import ModelBroken, Progress
from ..jobs.pipeline import run as run_pipeline
from ..models import load, preview
from ..models.classes import read_classes
from ..models.unwrap import given_transforms
from ..runs import (
    artifacts,
    keys,
    label_attributes,
    lease,
    leftovers,
    look,
    provenance,
    record,
    resume,
    sidebar,
)
from ..runs import results as run_results
from ..runs.app_style import shown_of
from ..runs.locking import change_schema
from ..runs.predictions import prediction_type
from ..runs.retry import DatabaseAway, retried, retry_on_disconnect, without_waiting
from ..runs.run import Run
from ..targets.spec import texts_of
from ..text import counted, one_line
from . import checks, cost, objects, ray_driver, ray_settings
from .blocks import plan_blocks
from .params import DECISIVE
from .patches import PatchStep, PatchWriter
from .plan import batch_settings, choose_batch_size, describe_run, make_plan
from .recorded_model import describe_given
from .source import Source
from .step import ExplainStep
from .summary import Summary

_AGAIN = "resume=True computes them again"
# how long a deletion of a field that has begun is waited for
_DELETING_SECONDS = 2


class CamJob(Job):
    """One call of ``compute_cams``, see :class:`~operators.jobs.base.Job`.

    Its frame is its own, as a run that is stopped keeps what it computed and can be resumed.
    """

    def __init__(self, samples, settings, given, origin=None):
        super().__init__(samples, settings, given, origin)
        self.active_fields = self.source = None
        self._statuses, self._lost, self._hidden = {}, 0, 0

    @property
    def dataset(self):
        """The dataset that is written to: of a view of frames that of the videos."""
        return self.samples._root_dataset

    def prepare(self):
        """Checks the arguments, plans the run with one image, and finds what an earlier call has done."""
        s, given = self.settings, self.given
        if s.output_dir is not None:
            s.output_dir = confined("output_dir", s.output_dir, self.origin)
        self.source = Source(self.samples, s)
        self.samples, self.rows = self.source.samples, self.source.rows
        self.given_model = given.model
        self.given_transforms = given_transforms(given.transforms, given.preprocess)
        self.given_classes = read_classes(given.classes)
        self.model = load.load_model(
            given.model, self.given_transforms, self.given_classes, ray_settings.planning_device(s),
            texts=texts_of(s.targets), **s.model_options,
        )  # fmt: skip
        self.source.check_transforms(self.model.transforms)
        labelled = self.source.labelled(s.targets)
        with load.on_device(self.model):
            self.plan = make_plan(self.dataset, self.model, s, self.rows, labelled, self.origin)
            if s.layers is None and self.plan.layers:
                preview.remember_default(self.model.name, self.plan.layers)
            self.used = describe_run(self.plan, self.model, s, len(self.rows), self.origin)
            self.used["source"] = self.source.kind
            self.used.update(
                describe_given(
                    self.model, self.given_transforms, self.given_classes, s.model_options
                )
            )
        if s.backend == "ray":
            ray_settings.describe(s, self.used, self.model)
        self._look_up()
        return self

    def _look_up(self):
        """Finds out what an earlier call has done, and refuses to resume with other settings."""
        key, ids = self.plan.cam_key, self.source.ids
        self._record, self._lists, self._done = None, [ids], set()
        if self.settings.resume and key in record.list_runs(self.dataset):
            self._record = record.config_of(self.dataset, key)
            self._check_same()
            self._done = resume.done_ids(Run(self.dataset, key, self._record), whole=True)
            moved = self.source.found_frames()
            self._lists = [
                [moved.get(i, i) for i in part] for part in resume.covered(self.dataset, key)
            ]
            covered = {i for part in self._lists for i in part}
            new = [i for i in ids if i not in covered]
            self._lists += [new] if new else []
        everything = {i for part in self._lists for i in part}
        self._before, self._covered = len(self._done & everything), len(everything)
        self.todo = {i for i in ids if i not in self._done}

    def _check_same(self):
        # Runs had no other source once. Frames that were sampled to files are not those of the video.
        then = {"source": self.source.kind, **self._record.settings}
        different = provenance.differences(then, self.used, (*DECISIVE, "source"))
        stored = getattr(self._record, "heatmap_fields", None)
        if not different and stored != self.plan.heatmap_fields:
            different = [f"fields: {stored} then, {self.plan.heatmap_fields} now"]
        if different:
            raise ValueError(
                f"resume: the run {self.plan.cam_key!r} has other settings ({'; '.join(different)}); give "
                "those that it has, choose another cam_key, or pass overwrite=True to begin again"
            )
        self.plan.memory_format = self.used["memory_format"] = provenance.memory_format(then)
        if self._record.own:
            self.plan.map_dir = self.used["map_dir"] = then.get("map_dir")
            if self.plan.map_dir is not None:  # a record may come from elsewhere
                confined("output_dir", self.plan.map_dir, self.origin)
            self.plan.made_folders = self._record.made_folders

    @property
    def total(self):
        """Samples, or frames or objects, that this call has to explain."""
        if self.source.kind == "patches":
            return sum(row.sample in self.todo for row in self.rows)
        return len(self.todo)

    def run(self):
        """Runs the job; afterwards :attr:`summary` is set.

        Closing the generator stops the run: what was computed is stored, and the run is marked
        ``interrupted``. A run that :func:`lease.ask_to_stop` was called for ends the same way.

        Yields:
            a :class:`Progress` after each batch
        """
        dataset, key = self.dataset, self.plan.cam_key
        try:
            yield from self._run()
        except Exception:
            # the error on its way says what is wrong, also where the database is away
            with contextlib.suppress(PyMongoError), pymongo.timeout(10):
                leftovers.clear_deleted(dataset, key)
            raise

    def _run(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(load.on_device(self.model))
            loader, team = self._loader(), None
            if self.settings.backend == "ray":
                stack.close()  # the network is the workers' now
                team = stack.enter_context(ray_driver.Team(self))
            writer = heatmap_writer.Writer(self.dataset, self.plan.map_dir, made=self.source.made())
            token = self._begin(writer.stamp)
            if self.plan.map_dir is not None:  # which the record knows now
                os.makedirs(self.plan.map_dir, exist_ok=True)
            self._now = Progress(total=self.total)
            self._writer = writer
            status, error = "interrupted", None
            try:
                with lease.RunLease(self.dataset, self.plan.cam_key, token, self._state) as held:
                    self._declare()
                    # which the first declaration may set
                    self._hidden = retry_on_disconnect(look.hidden_of, self.dataset)
                    states = team.run(loader, writer, token) if team else self._here(loader, writer)
                    with contextlib.closing(states):
                        for now in states:
                            self._now = now
                            held.check()
                            yield now
                    self._declare()  # another run may have written over the schema it did not know
                status = "finished"
            except lease.Stopped as stopped:
                error = str(stopped)  # that is what was asked for
            except ModelBroken as broken:
                status, error = (
                    "failed",
                    str(broken),
                )
            except lease.LeaseLost as lost:
                status, error = "failed", one_line(lost)
                held.forget_unlisted()
                raise
            except Exception as failed:
                status, error = "failed", one_line(failed)
                raise
            finally:
                self.used["batch_size_left"] = loader.batch_size
                self._note_lost(writer)
                self._finish(status, error, token)

    def _here(self, loader, writer):
        """Computes the run in this process; yields a :class:`Progress` after each batch."""
        explain = ExplainStep(self.model, self.plan)
        if self.plan.patches:
            rows = {row.id: row for block in self.blocks for row in block.rows}
            explain = PatchStep(self.model, self.plan, self.dataset, rows)
            writer = PatchWriter(
                writer, self.plan, explain, rows.values(), self.todo, self.source.unseen
            )
        step = self._counted(explain)

        def still_works():
            explain.explain(self.plan.trial_image)

        with writer:
            yield from run_pipeline(loader, step, writer, self.total, self.failures, still_works)

    @retried
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
        self.blocks = plan_blocks(
            self.dataset, self.rows, self._lists, self.todo, used["block_size"],
            whole=self._objects_of if self.source.kind == "patches" else None,
        )  # fmt: skip
        self._loader_used = Loader(
            None, self.model.transforms, size, used["num_workers"], blocks=self.blocks,
            geometry=self.model.geometry,
        )  # fmt: skip
        return self._loader_used

    def _objects_of(self, ids):
        """``{sample id: rows}`` of the objects of samples, also of some that are not in this call's view."""
        mine = set(self.source.ids)
        objects = {}
        for row in [*self.rows, *self.source.objects_of([i for i in ids if i not in mine])]:
            objects.setdefault(row.sample, []).append(row)
        return objects

    def _begin(self, stamp):
        """Registers the run, or takes up the one there is; returns its token."""
        key, dataset, plan = self.plan.cam_key, self.dataset, self.plan
        session = {
            "started": record.now(),
            "origin": self.origin,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "samples": self.total,
            "backend": self.settings.backend,
            "versions": self.used["versions"],
        }
        retry_on_disconnect(leftovers.clear_database)
        if self._record is None:
            if self.settings.overwrite:
                retry_on_disconnect(artifacts.clear, dataset, key, replaced=True)
                plan.made_folders = checks.missing_folders(plan.map_dir)  # which went with it
            token = record.register(
                dataset,
                key,
                self.used,
                plan.all_fields,
                samples=self.samples,
                heatmap_fields=plan.heatmap_fields,
                prediction_field=plan.prediction_field,
                label_attributes=plan.label_attributes,
                sidebar_groups=sidebar.new_groups(dataset, key),
                made_folders=plan.made_folders,
                stamps=[stamp],
                sessions=[session],
            )
            resume.save_covered(dataset, key, self._lists, self._of_videos())
            return token
        old = self._record
        token = record.claim(
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
        leftovers.clear_files(Run.open(dataset, key))
        resume.save_covered(dataset, key, self._lists, self._of_videos())
        return token

    def _of_videos(self):
        return {row.id: row.sample for row in self.rows if row.number is not None}

    def _state(self):
        """What the record is told while the run is running."""
        progress = {
            "done": self._before + self._writer.samples_written,
            "total": self._covered,
            "failed": len(self.failures),
            "bytes": self._writer.bytes_written,
            "batch_size": self._loader_used.batch_size,
        }
        return progress, [dataclasses.asdict(f) for f in self.failures[: lease.FAILURES_KEPT]]

    @retried
    def _declare(self):
        """Declares the schema and makes the fields look like heat, unless that is so already."""
        heatmaps, patches = self.plan.heatmap_fields, self.plan.patches
        if self.plan.objects:
            objects.declare(self.dataset, self.plan.objects)
        if patches:
            label_attributes.declare(self.dataset, patches.path, patches.attributes)
        if not record.lacks_fields(self.dataset, self.plan.all_fields, heatmaps):
            if self.active_fields is None:
                self.active_fields = self._activate(heatmaps)
            return
        colours = {  # what speaks against has a colour of its own
            field: (method, tag in self.plan.tags)
            for (method, _, tag), shown in self.plan.fields.items()
            for field in (shown, *(patches.own_fields(shown) if patches else ()))
        }

        def change():
            heatmap_writer.declare_schema(
                self.dataset, heatmaps, self.plan.prediction_field, self.plan.scored,
                prediction_type(self.model),
            )  # fmt: skip
            heatmap_writer.colour_fields(self.dataset, colours)
            sidebar.group_run(self.dataset, self.plan.cam_key, self.plan.all_fields)
            self.active_fields = self._activate(heatmaps)

        change_schema(self.dataset, change)

    def _activate(self, heatmaps):
        """Shows the first heatmap, instead of those of other runs."""
        runs = record.list_runs(self.dataset)
        ours = [f for key in runs for f in keys.heatmap_fields_of(self.dataset, key)]
        others = [field for field in ours if field not in heatmaps]
        shown = shown_of(self.dataset, others)
        if shown:
            # they come back when this run is deleted
            record.update(self.dataset, self.plan.cam_key, shown_before=shown)
        return heatmap_writer.activate_fields(self.dataset, heatmaps[:1], instead=others)

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
        rows = {row.id: row for row in self.rows}
        gone = f"the {self.source.level.noun[:-1]} was deleted during the run"
        reasons = dict.fromkeys(writer.vanished, gone)
        for sample_id, reason in {**reasons, **writer.refused}.items():
            self.failures.append(Failure.of(rows.get(sample_id, Row(sample_id, "")), reason))

    def _finish(self, status, error, token):
        """Makes the summary and stores it; the record is only touched while it is this run's."""
        resumed = len(self.source.ids) - len(self.todo)
        if status == "finished":
            status, error = self._check_written()
        seconds, written = self._now.seconds, self._writer.samples_written
        self.summary = Summary(
            cam_key=self.plan.cam_key,
            done=resumed + written - self._lost,
            failed=[dataclasses.asdict(f) for f in self.failures],
            fields=[self.source.level.path(field) for field in self.plan.all_fields],
            seconds=seconds,
            images_per_second=self._images(written) / seconds if seconds else 0.0,
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
            retry_on_disconnect(self._store_end, token)
            self._check_ended(token)
            return
        try:
            # Another error is on its way: it is not to wait for a database that may be gone.
            with pymongo.timeout(10), without_waiting():
                self._store_end(token)
        except (PyMongoError, DatabaseAway) as failed:
            self.summary.error = f"{self.summary.error or ''}; not recorded: {one_line(failed)}"

    @retried
    def _check_written(self):
        """Asks the samples whether they have what was written: a field may have been deleted meanwhile.

        Returns:
            the run's status, and what is wrong
        """
        run, ids = Run.open(self.dataset, self.plan.cam_key), self._written_ids()
        lost, again, words = resume.lacking(run, ids, self._beside(ids))
        kept = set(run_results.ids_to_redo(self.dataset, run.key)) - self.todo
        if again or kept or getattr(run.record, "redo", 0):
            redo = sorted(again | kept)
            run_results.save_results(self.dataset, run.key, redo=run_results.pack_ids(redo))
            run.update({"redo": len(redo)})
        self._lost = len(lost | again)
        if not self._lost:
            return "finished", None
        self._declare_again()
        return "interrupted", (
            f"{counted(self._lost, self.source.level.noun)} lack {words}, deleted while the run wrote them; {_AGAIN}"
        )

    def _declare_again(self):
        """Declares fields that somebody is deleting: what was written since would be in no schema, unseen.

        Who deletes a field begins with the samples and ends with the schema, so that is waited for a moment.
        """
        end = time.monotonic() + _DELETING_SECONDS
        while time.monotonic() < end:
            if not record.is_there(self.dataset):
                return
            if record.lacks_fields(self.dataset, self.plan.all_fields, ()):
                self._declare()
                return
            time.sleep(0.1)

    def _written_ids(self):
        whole = {row.id: row.sample for row in self.rows if row.crop is not None}
        # a sample of which an object failed is not written
        return self.todo.difference(whole.get(f.id, f.id) for f in self.failures)

    def _check_ended(self, token):
        """Notices a field that somebody deleted between the check and the moment the record said finished.

        Who deletes a field begins with the first samples and ends with the schema, so these are asked.
        """
        if self.summary.status != "finished" or self._still_there():
            return
        lost_before = self._lost
        status, error = self._check_written()
        if record.is_there(self.dataset):
            self._declare()
        self.summary.done -= self._lost - lost_before
        self.summary.status, self.summary.error = (
            "interrupted",
            error
            if status == "interrupted"
            else f"a field of the run was deleted while it ended; {_AGAIN}",
        )
        retry_on_disconnect(self._store_end, token)

    @retried
    def _still_there(self):
        if record.lacks_fields(self.dataset, self.plan.all_fields, ()):
            return False
        ids = self._written_ids()
        first = {min(ids)} if ids else set()
        run = Run.open(self.dataset, self.plan.cam_key)
        return not any(resume.lacking(run, first, self._beside(first))[:2])

    def _images(self, written):
        """How many images were explained: of a run over objects each crop is one."""
        if self.plan.patches is None:
            return written
        return self._now.done - self._now.failed

    def _beside(self, ids):
        """What was written beside heatmaps and prediction: ``{path: ids of samples}``."""
        own = self.plan.objects.own_field if self.plan.objects else None
        return {**({own: ids} if own else {}), **self._writer.labelled}

    def _store_end(self, token):
        key, s = self.plan.cam_key, self.summary
        if not record.holds(self.dataset, key, token):
            return
        seen_here = self._record is None and self.settings.backend == "local"
        if not seen_here or self.plan.patches:
            s.statuses = resume.statuses(self.dataset, key, self.plan.heatmap_fields)
        progress, failures = self._state()
        if self.settings.backend == "local":  # what a form's estimate rests on
            images = self._images(self._writer.samples_written)
            progress["prediction_seconds"] = cost.measured(self._now.seconds, images, self.plan)
        if s.status == "finished" and self._leaves_some():
            s.status = "interrupted"
        run_results.save_results(self.dataset, key, summary=s.to_dict())
        # The results first: a run that is marked as ended has them.
        record.update(
            self.dataset,
            key,
            status=s.status,
            ended=record.now(),
            error=s.error,
            progress=progress,
            failures=failures,
        )
        # Last: of a run that failed the record is worth more, and there is little time for both.
        same_scale.renew_scale(self.dataset, key)
        look.renew_ranges(self.dataset, self.plan.heatmap_fields, self._hidden)

    def _leaves_some(self):
        """Whether samples of the run that are not in this call's view still lack something."""
        if self._record is None or self._record.status == "finished":
            return False
        mine = set(self.source.ids)
        left = {i for part in self._lists for i in part} - mine - self._done
        return bool(resume.present(self.dataset, self.plan.cam_key, left))
