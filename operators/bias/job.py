"""``find_background_bias`` without the App: check, explain, test, judge, write, summarise."""

import collections
import dataclasses
import difflib
import time
from functools import partial

import numpy as np

from ..compute.job import CamJob
from ..compute.params import Settings
from ..compute.plan import first_image
from ..compute.recorded_model import load_recorded
from ..compute.recorded_plan import check_kind, check_scores, is_detector, plan_of_run
from ..data.loader import Failure
from ..data.objects import AnnotatedObjects
from ..data.samples import check_samples, read_values
from ..data.written_paths import confined
from ..jobs.base import Job, Phase, phased
from ..jobs.inference import forwarded
from ..jobs.memory import check_batch
from ..models import load
from ..runs import job_record, record
from ..runs.label_attributes import LabelAttributes
from ..runs.lease import Stopped
from ..runs.locking import change_schema
from ..targets.true_labels import Labels
from . import discovery
from . import findings as analysis
from . import schema as store
from .boxes import analyse_boxes, detect_one, object_field
from .images import analyse_images
from .params import NOISY, PROBE, check_plain_field, make_folder
from .report import check_report
from .rows import add_heat, labels_of, rows_of
from .summary import BiasSummary, undecided_of

_WRITTEN_AT_ONCE = 500


class BiasJob(Job):
    """One call of ``find_background_bias``, see :class:`~operators.jobs.base.Job`.

    Where it is stopped or fails, what it wrote is rolled back; the heatmaps of a run that was computed
    first stay.
    """

    records = store.RECORDS

    def prepare(self):
        """Checks the arguments against the dataset and the model, with one image."""
        check_samples(self.samples)
        samples, s, key = self.samples, self.settings, self.settings.cam_key
        record.refresh(self.dataset)
        runs = record.list_runs(self.dataset)
        self._existing = key in runs
        self._near = [] if key is None or key in runs else difflib.get_close_matches(key, runs, n=1)
        if key is not None:
            store.check_store(self.dataset, key, s.overwrite)
        for name, argument in ((s.group_by, "group_by"), (s.scenes, "scenes")):
            if name is not None:
                check_plain_field(samples, name, argument)
        if s.report is not None:
            s.report = confined("report", s.report, self.origin)
        self.objects = AnnotatedObjects(samples, s.objects, s.object_classes, s.aliases)
        if key is not None and not self._existing and self.given.model is None:
            there = ", ".join(runs) or "none yet"
            raise ValueError(
                f"cam_key: there is no CAM run {key!r} (there are: {there}), and no model= to compute one"
            )
        if self._existing:
            self.model = load_recorded(
                record.config_of(self.dataset, key).settings, key, self.given
            )
        else:
            self.model = self.given.load()
        self._check_objects()
        several = bool(getattr(self.model.adapted, "multi_label", False))
        self.labels = Labels(samples, s.labels, self.model.classes, s.aliases, several)
        self.rows = list(zip(*read_values(samples, ["id", "filepath"]), strict=True))
        self._cams = None if self._existing else self._cam_job()
        self.cam_key = key if self._existing else self._cams.plan.cam_key
        if not self._existing:
            store.check_store(self.dataset, self.cam_key, s.overwrite)
        if self.object_field is not None:
            store.check_objects_store(self.dataset, self.cam_key, self.object_field)
        with load.on_device(self.model):
            self._trial()
        if s.report is not None:
            check_report(s.report, self.cam_key, self.origin, s.overwrite)
            make_folder("report", s.report)
        return self

    def _check_objects(self):
        """Finds the field of a detector's objects, which is None of a classifier."""
        self.object_field = None
        if not is_detector(self.model):
            check_kind(self.model)
            return
        self.object_field = object_field(self.samples, self.objects.roles)
        if self.settings.group_by is not None:
            raise ValueError("group_by: groups are compared of classifiers only; leave it out")

    def _cam_job(self):
        s = self.settings
        shared = {
            name: getattr(s, name)
            for name in (
                "methods", "targets", "layers", "cam_key", "batch_size", "num_workers", "device",
                "precision", "seed",
            )
        }  # fmt: skip
        settings = Settings(**shared, **self.given.options)
        return CamJob(self.samples, settings, self.given, self.origin).prepare()

    def _trial(self):
        """One image through the model, so that what is wrong shows before the run."""
        image = first_image(self.rows, self.model.transforms, self.model.geometry).image[None]
        if self.object_field is not None:
            detect_one(self.model, image)
            check_batch(self.settings.batch_size, self.model, image, partial(forwarded, self.model))
            return
        self.outputs = check_scores(self.model, image).shape[1]
        if self._existing:
            self.plan = plan_of_run(self.dataset, self.cam_key, self.model, self.settings.methods)
            self.plan.explain(self.model, image)
            explain = partial(self.plan.explain, self.model)
            check_batch(self.settings.batch_size, self.model, image, explain)

    def planned(self):
        """Its phases, and how many items each has."""
        from ...cam_core.bias.noise_sensitivity import TRIALS

        s, count = self.settings, len(self.rows)
        tested = min(count, PROBE if s.probe == "auto" else s.probe)
        first = {} if self._existing else {"computing heatmaps": count}
        swapped = tested * (2 + s.donors * (1 + s.control))
        if self.object_field is not None:
            own = {
                "looking for objects": count,
                "preparing pictures": tested,
                "swapping surroundings": swapped,
            }
        elif self.objects:
            own = {
                "measuring heat": count,
                "preparing pictures": 2 * tested,
                "swapping backgrounds": swapped,
                "removing hot pixels": 2 * tested,
            }
            own.update({"adding noise": 2 * TRIALS * min(tested, NOISY)} if s.noise else {})
        else:
            regions = tested * (1 + 2 * s.donors)
            own = {
                "measuring heat": count,
                "preparing pictures": 2 * tested,
                "replacing the border": regions,
                "replacing the hottest": regions,
            }
        return {**first, **own, "writing": count}

    def before(self):
        """Computes the heatmaps of a new run."""
        if self._cams is None:
            return
        yield Phase("computing heatmaps", 0, len(self.rows), 0.0)
        yield from phased("computing heatmaps", self._cams.run(), lambda p: (p.done, p.total))
        if self._cams.summary.status != "finished":
            raise Stopped(self._cams.summary.error)
        if self.object_field is None:
            self.plan = plan_of_run(self.dataset, self.cam_key, self.model, self.settings.methods)

    def register(self):
        """Registers the analysis in the run's record."""
        return store.register(self.dataset, self.cam_key, self.used(), self.object_field)

    def steps(self):
        """Measures, tests, writes and judges."""
        analyse = analyse_images if self.object_field is None else analyse_boxes
        found = yield from analyse(self)
        yield from self._write(found)
        return self._summarise(found)

    def used(self):
        """What the record says of the settings."""
        return {
            **self.settings.describe(),
            "cam_key": self.cam_key,
            "model": self.model.name,
            "model_source": self.model.source,
            "objects": self.objects.described,
            "labels": self.labels.field,
            "samples": len(self.rows),
            "origin": self.origin,
        }

    def _write(self, found):
        """Everything of a sample in one update, a few hundred samples at a time."""

        def declare():
            self.held.check()
            store.declare(self.dataset, self.cam_key, self._heat_fields())

        change_schema(self.dataset, declare)
        if found.of_boxes:
            store.declare_objects(self.dataset, self.cam_key, self.object_field)
        store.RECORDS.expect_declared(self.dataset, self.cam_key, self.held)
        units = dict(zip([row[0] for row in self.rows], found.scan.units_of_images(), strict=True))
        paths, ids, start = dict(self.rows), list(units), time.perf_counter()
        for first in range(0, len(ids), _WRITTEN_AT_ONCE):
            part = {i: units[i] for i in ids[first : first + _WRITTEN_AT_ONCE]}
            for sample_id in job_record.write(self.dataset, *self._documents(found, part)):
                reason = "the sample was deleted during the run"
                self.failures.append(Failure(sample_id, paths[sample_id], reason))
            yield Phase("writing", first + len(part), len(ids), time.perf_counter() - start)
        verdicts = {i: found.verdict(found.worst(own)).verdict for i, own in units.items()}
        self.show(verdicts, not found.of_boxes and bool(np.isfinite(found.correct).any()))

    def _heat_fields(self):
        """The heatmap fields whose labels get attributes; a map of a detector is of several boxes."""
        if self.object_field is not None:
            return []
        return list(dict.fromkeys(f for ranked in self.plan.ranks for f in ranked.values()))

    def _documents(self, found, units):
        """What is written of some samples, and of the labels of their boxes."""
        rows = rows_of(found, units, self.cam_key, self.model)
        if not found.of_boxes:
            add_heat(rows, found, units, self.plan, self.dataset)
            return rows, None
        path, labels = f"{self.object_field}.detections", labels_of(found, units, self.cam_key)
        return rows, {i: LabelAttributes(path, values) for i, values in labels.items()}

    def show(self, verdicts, labelled):
        """Shows the verdicts in the App, saves views, and tags samples if asked for.

        Args:
            verdicts: ``{sample id: verdict}``
            labelled: whether it is known which predictions are right
        """
        from ..runs.app_style import activate_fields, colour_values

        s, verdict = self.settings, store.field_names(self.cam_key)[0]

        def change():
            self.held.check("nothing more")
            store.add_index(self.dataset, self.cam_key)
            colour_values(self.dataset, verdict, store.VERDICT_COLOURS)
            self.active_fields = activate_fields(self.dataset, [verdict])
            self.views = []
            if s.views:
                self.views = store.save_views(self.dataset, self.cam_key, labelled, self.held)
            if s.tags:
                store.save_tags(self.dataset, self.cam_key, verdicts, self.held)

        change_schema(self.dataset, change)

    def _summarise(self, found):
        s, a, seed = self.settings, found.assessment, self.settings.seed
        units = found.counted()
        reasons = collections.Counter(
            "not in the probe" if found.status[i] == "not tested" else found.status[i]
            for i in units
        )
        reasons.pop("ok", None)
        unknown = [n or "" for n, t in zip(found.labels, found.truth, strict=True) if t == -2]
        fields = list(store.field_names(self.cam_key))
        if found.of_boxes:
            fields += store.object_paths(self.cam_key, self.object_field)
        summary = BiasSummary(
            cam_key=self.cam_key,
            samples=len(self.rows),
            tested=int(a.tested.sum()),
            classes=analysis.class_rows(found, seed),
            model=analysis.model_numbers(found, seed),
            calibration={
                "auroc": a.calibration.auroc,
                "usable": a.calibration.usable,
                "reason": self._of_heat(found),
                "n": a.calibration.n,
                "positives": a.calibration.positives,
                "relative": a.relative,
            },
            objects=self.objects.described,
            verdicts=dict(collections.Counter(a.verdicts[i].verdict for i in units)),
            undecided=undecided_of(a.verdicts[i] for i in units),
            skipped=dict(reasons.most_common()),
            heat=analysis.heat_numbers(found, seed),
            regions=[
                {"name": name, **analysis.region_numbers(check, seed, found.scenes_tested())}
                for name, check in found.tested.regions.items()
            ],
            labels={
                "field": self.object_field if found.of_boxes else self.labels.field,
                "known": int((found.truth >= 0).sum()),
                "unknown": len(unknown),
                "names": sorted(set(unknown))[:20],
            },
            views=self.views,
            fields=fields,
            report=None,
            failed=[dataclasses.asdict(f) for f in self.failures],
            seconds=0.0,
            settings=self.used(),
            notes=self._notes(found),
            unit=found.unit,
            units=None if found.unit == "samples" else len(units),
            **self._discovered(found),
        )
        if s.report is not None:
            from .report import write_report

            confined("report", s.report, self.origin)  # a link may have come since
            summary.report = write_report(s.report, summary, found, self.model, self.dataset)
        summary.seconds = self.seconds
        return summary

    def _discovered(self, found):
        """What nobody annotated, of images."""
        if found.of_boxes:
            return {"clusters": [], "telltales": [], "portraits": [], "groups": None}
        s, values = self.settings, None
        if s.group_by is not None:
            values = found.scan.spread(read_values(self.samples, s.group_by))
        return {
            "clusters": discovery.clusters_of(found, s.seed),
            "telltales": discovery.telltales_of(found),
            "portraits": discovery.portraits_of(found, values),
            "groups": None if values is None
            else discovery.groups_of(found, values, s.group_by, s.seed),
        }  # fmt: skip

    def _of_heat(self, found):
        """What is to be said of heat."""
        reason = found.assessment.calibration.reason
        if not found.of_boxes:
            return reason
        if found.scan.heat is None:
            return (
                "heat is not used, as the run did not explain these boxes by class (compute_cams with "
                "targets={'field': ...} does)"
            )
        return reason.replace("tested sample", "tested object")

    def _notes(self, found):
        first, swapped = self._one_class(found), bool(found.assessment.tested.any())
        notes = [first, self.objects.note]
        if found.of_boxes:
            notes.append(
                "Of each object everything outside its box was replaced; a sample takes the worst of its "
                "objects."
            )
            if found.tested.check is not None:
                notes.append(f"Heat: {self._of_heat(found)}.")
        else:
            notes += [self.labels.note, *self.plan.notes, *found.classes.notes]
            if self.objects and not swapped and not first:
                notes.append("No background was swapped: none of these objects could be cut out.")
        if self._near:
            notes.append(
                f"There was no run {self.cam_key!r}, so its heatmaps were computed; there is a run "
                f"{self._near[0]!r}, should that one have been meant."
            )
        if not self.settings.control:
            notes.append("No same-class control was run, so pasting itself may cause the drops.")
        if found.of_boxes and found.tested.check is None:
            notes.append("Nothing was swapped: the detector finds none of these objects.")
        return [n for n in notes if n]

    def _one_class(self, found):
        """Says that all predictions of images are alike, if they are."""
        guesses = set(found.scan.predicted[found.scan.predicted >= 0].tolist())
        if len(guesses) != 1 or not found.classes.plain:
            return None
        name = self.model.label(guesses.pop())
        return (
            f"The model predicts {name} for every sample, so none can lend the background of another "
            "class."
        )
