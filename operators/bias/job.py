"""``find_background_bias`` without the App: check, explain, test, judge, write, summarise."""

import collections
import contextlib
import dataclasses
import difflib
import tempfile
import time

import numpy as np

from ..compute.job import CamJob, check_samples
from ..compute.params import Settings
from ..compute.plan import first_image
from ..compute.recorded_model import GivenModel, load_recorded
from ..compute.recorded_plan import check_kind, check_scores, is_detector, plan_of_run
from ..data.loader import Failure, Loader
from ..data.objects import AnnotatedObjects
from ..jobs.base import CPU_BATCH, GPU_BATCH, Phase, phased
from ..jobs.inference import workers_of
from ..jobs.pipeline import run as run_pipeline
from ..models import load
from ..models.unwrap import given_transforms
from ..runs import keys
from ..runs.lease import Stopped, stop_on_request
from ..runs.locking import schema_lock
from ..targets.true_labels import Labels
from . import discovery
from . import findings as analysis
from . import schema as store
from .boxes import detect_one, object_field
from .object_job import examine
from .params import NOISY, PROBE, check_plain_field, make_folder
from .scan import Scan, ScanStep
from .summary import BiasSummary, undecided_of
from .swap import CausalTests, choose_probe
from .units import ClassUnits

_WRITTEN_AT_ONCE = 500


class BiasJob:
    """One call of ``find_background_bias``: built with everything checked, then run.

    Args:
        samples: a dataset or view of images
        model: what the user gave as model; None for that of the run, if the zoo has it
        settings: the :class:`BiasSettings`
        transforms (None): of a plain module
        classes (None): class names of a plain module
        origin (None): what the run record says about where it was started
        preprocess (None): instead of transforms
        options (None): of the model, see ``compute.recorded_model``

    Raises:
        ValueError: if anything is wrong with an argument; nothing was written then
    """

    def __init__(
        self, samples, model, settings, transforms=None, classes=None, origin=None, preprocess=None,
        options=None,
    ):  # fmt: skip
        check_samples(samples)
        self.samples, self.dataset, self.settings = samples, samples._dataset, settings
        self.origin, self.summary, self.failures, self.held = origin, None, [], None
        keys.refresh(self.dataset)
        key = settings.cam_key
        runs = keys.list_runs(self.dataset)
        self._existing = key in runs
        self._near = [] if key is None or key in runs else difflib.get_close_matches(key, runs, n=1)
        if key is not None:
            store.check_store(self.dataset, key, settings.overwrite)
        for name, argument in ((settings.group_by, "group_by"), (settings.scenes, "scenes")):
            if name is not None:
                check_plain_field(samples, name, argument)
        if settings.report is not None:
            make_folder("report", settings.report)
        self.objects = AnnotatedObjects(
            samples, settings.objects, settings.object_classes, settings.aliases
        )
        if key is not None and not self._existing and model is None:
            there = ", ".join(runs) or "none yet"
            raise ValueError(
                f"cam_key: there is no CAM run {key!r} (there are: {there}), and no model= to compute one"
            )
        given = GivenModel(model, transforms, preprocess, classes, settings.device, options or {})
        if self._existing:
            self.model = load_recorded(keys.config_of(self.dataset, key).settings, key, given)
        else:
            self.model = given.load()
        self.object_field = None
        if not is_detector(self.model):
            check_kind(self.model)
        else:
            self.object_field = object_field(samples, self.objects.roles)
            if settings.group_by is not None:
                raise ValueError("group_by: groups are compared of classifiers only; leave it out")
        several = bool(getattr(self.model.adapted, "multi_label", False))
        self.labels = Labels(
            samples, settings.labels, self.model.classes, settings.aliases, several
        )
        self.rows = list(zip(*samples.values(["id", "filepath"]), strict=True))
        self._cams = None if self._existing else self._cam_job(given)
        self.cam_key = key if self._existing else self._cams.plan.cam_key
        if not self._existing:
            store.check_store(self.dataset, self.cam_key, settings.overwrite)
        if self.object_field is not None:
            store.check_objects_store(self.dataset, self.cam_key, self.object_field)
        with load.on_device(self.model):
            self._trial()

    def _cam_job(self, model):
        s = self.settings
        given = Settings(
            methods=s.methods, targets=s.targets, layers=s.layers, cam_key=s.cam_key,
            batch_size=s.batch_size, num_workers=s.num_workers, device=s.device,
            precision=s.precision, seed=s.seed, **model.options,
        )  # fmt: skip
        transforms = given_transforms(model.transforms, model.preprocess)
        return CamJob(
            self.samples, model.model, given, transforms, model.classes, origin=self.origin
        )

    def _trial(self):
        """One image through the model, so that what is wrong shows before the run."""
        image = first_image(self.rows, self.model.transforms, self.model.geometry).image[None]
        if self.object_field is not None:
            detect_one(self.model, image)
            return
        self.outputs = check_scores(self.model, image).shape[1]
        if self._existing:
            self.plan = plan_of_run(self.dataset, self.cam_key, self.model, self.settings.methods)
            self.plan.explain(self.model, image)

    def run(self):
        """Runs the job; afterwards :attr:`summary` is set.

        Closing the generator stops the run: what it wrote is rolled back, and its record says that it was
        interrupted. The heatmaps of a run that was computed first stay.

        Yields:
            a :class:`Phase`, now and then

        Raises:
            Stopped: if it was asked to stop
        """
        yield from stop_on_request(self._steps(), lambda: self.held)

    def _steps(self):
        start = time.perf_counter()
        with contextlib.ExitStack() as stack:
            stack.enter_context(load.on_device(self.model))
            if self._cams is not None:
                yield Phase("computing heatmaps", 0, len(self.rows), 0.0)
                yield from phased(
                    "computing heatmaps", self._cams.run(), lambda p: (p.done, p.total)
                )
                if self._cams.summary.status != "finished":
                    raise Stopped(self._cams.summary.error)
                if self.object_field is None:
                    self.plan = plan_of_run(
                        self.dataset, self.cam_key, self.model, self.settings.methods
                    )
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cam51-bias-"))
            self.held = stack.enter_context(
                store.register(self.dataset, self.cam_key, self.used(), self.object_field)
            )
            done = stack.enter_context(store.recorded(self.dataset, self.cam_key, self.held))
            if self.object_field is not None:
                summary = yield from examine(self, folder, stack, start)
            else:
                scan = yield from self._scan(folder)
                found = yield from self._test(scan, folder, stack)
                yield from self._write(found)
                summary = self._summarise(found, start)
            done(dataclasses.asdict(summary))
            self.summary = summary

    @property
    def colours(self):
        """The colours of heatmap fields that this job made, for the App; None if it made none."""
        return None if self._cams is None else self._cams.colours

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

    def _scan(self, folder):
        """Scores, maps and measures of every sample."""
        s = self.settings
        size = s.batch_size
        if size == "auto":
            size = CPU_BATCH if self.model.device.type == "cpu" else GPU_BATCH
        self.units = ClassUnits(self.model, self.plan.target, self.outputs, self.labels)
        scan = Scan(self.rows, self.plan, folder, self.units.slots())
        step = ScanStep(self.model, self.plan, self.objects, scan)
        loader = Loader(
            self.rows, self.model.transforms, size, workers_of(s), geometry=self.model.geometry
        )
        yield Phase("measuring heat", 0, len(self.rows), 0.0)
        yield from phased(
            "measuring heat",
            run_pipeline(loader, step, scan, len(self.rows), self.failures),
            lambda p: (p.done, p.total, p.failed),
        )
        if not (scan.explained >= 0).any():
            first = (
                self.failures[0].reason if self.failures else "the model's scores are not finite"
            )
            raise ValueError(f"samples: none could be explained; {first}")
        self.units.settle(scan)
        return scan

    def _test(self, scan, folder, stack):
        """The causal checks on the probe, and what follows for every sample."""
        s, units = self.settings, self.units
        names = [self.model.label(int(c)) if c >= 0 else None for c in scan.explained]
        usable = units.has & (scan.object_status == "ok")
        swaps = bool(usable.any())
        limit = PROBE if s.probe == "auto" else s.probe
        rows = choose_probe(scan.explained, usable if swaps else units.has, limit, s.seed)
        lenders = units.lenders(scan, rows, limit, s.seed)
        check = CausalTests(self.model, s, folder, self.plan.precision)
        stack.callback(check.close)
        prepare = check.prepare(scan, rows, self.objects if swaps else None, names, lenders)
        total = len(rows) + len(lenders)
        tested = yield from phased("preparing pictures", prepare, lambda n: (n, total))
        # rows of one sample lend each other nothing, and count as one where several are drawn
        scenes = (
            scan.ids if scan.slots > 1 and s.scenes is None else scan.spread(self._values(s.scenes))
        )
        groups = None if scenes is None else [str(scenes[i]) for i in tested.all_rows]
        if swaps:
            yield from self._swap(check, tested, scan, groups)
        else:
            yield from self._regions(check, tested, scan, groups)
        labels, truth = self.labels.read(scan.ids, scan.predicted)
        if units.multi_label:
            truth = units.truth(scan)
        if swaps and s.noise:
            yield from self._noise(check, tested, scan, truth)
        failures = {scan.index[f.id]: f.reason for f in self.failures}
        found = analysis.find(scan, tested, units, labels, truth, names, scenes, failures, s.seed)
        found.check = check
        return found

    def _swap(self, check, tested, scan, groups):
        s, count = self.settings, len(tested.rows)
        total = count * (2 + s.donors * (1 + s.control))
        swap = check.swap(tested, self.units, scan, groups)
        yield from phased("swapping backgrounds", swap, lambda n: (n, total))
        if self.plan.primary is not None:
            effects = check.heat_effects(tested, scan)
            yield from phased("removing hot pixels", effects, lambda n: (n, 2 * count))
        if tested.contexts is not None:
            yield from self._region(check, tested, scan, groups, "context", tested.contexts)

    def _noise(self, check, tested, scan, truth):
        """Noise on objects and on backgrounds, of samples whose class is known, else predicted."""
        from ...cam_core.bias.noise_sensitivity import TRIALS

        right = np.where(truth >= 0, truth, -1)[tested.rows]
        if not (right >= 0).any():
            right = np.where(self.units.predicted, scan.predicted, -1)[tested.rows]
        usable = (right >= 0) & np.array([status == "ok" for status in tested.check.status])
        places = choose_probe(right, usable, NOISY, self.settings.seed)
        total = 2 * TRIALS * len(places)
        steps = check.noise(tested, right[places], places, self.units.threshold)
        yield from phased("adding noise", steps, lambda n: (n, total))

    def _regions(self, check, tested, scan, groups):
        """Without objects: the border and the hottest place."""
        from .regions import BorderRegions, HottestRegions

        regions = {"border": BorderRegions(tested.pictures)}
        if self.plan.primary is not None:
            regions["hottest"] = HottestRegions(tested.pictures, scan, tested.rows)
        for name, masks in regions.items():
            yield from self._region(check, tested, scan, groups, name, masks)

    def _region(self, check, tested, scan, groups, name, masks):
        total = len(tested.rows) * (1 + 2 * self.settings.donors)
        call = check.region(tested.pictures, masks, self.units.arguments(scan, tested), groups)
        tested.regions[name] = yield from phased(
            f"replacing the {name}", call, lambda n: (n, total)
        )

    def _values(self, field):
        return None if field is None else self.samples.values(field)

    def _write(self, found):
        """Everything of a sample in one update, a few hundred samples at a time."""
        from .rows import add_heat, rows_of

        with schema_lock(self.dataset):
            self.held.check()
            fields = dict.fromkeys(f for ranked in self.plan.ranks for f in ranked.values())
            store.declare(self.dataset, self.cam_key, list(fields))
        count, start = len(self.rows), time.perf_counter()
        mine = [[] for _ in range(count)]  # of each sample its rows of the scan
        for row, sample in enumerate(found.scan.sample):
            mine[sample].append(row)
        for first in range(0, count, _WRITTEN_AT_ONCE):
            indices = range(first, min(first + _WRITTEN_AT_ONCE, count))
            units = {self.rows[i][0]: mine[i] for i in indices}
            rows = rows_of(found, units, self.cam_key, self.model)
            add_heat(rows, found, units, self.plan, self.dataset)
            for sample_id in store.write(self.dataset, rows):
                path = found.scan.paths[found.scan.index[sample_id]]
                self.failures.append(
                    Failure(sample_id, path, "the sample was deleted during the run")
                )
            yield Phase("writing", indices[-1] + 1, count, time.perf_counter() - start)
        by_id = {
            found.scan.ids[part[0]]: found.assessment.verdicts[found.worst(part)].verdict
            for part in mine
        }
        self.show(by_id, bool(np.isfinite(found.correct).any()))

    def show(self, verdicts, labelled):
        """Shows the verdicts in the App, saves views, and tags samples if asked for.

        Args:
            verdicts: ``{sample id: verdict}``
            labelled: whether it is known which predictions are right
        """
        from ..runs.app_style import activate_fields

        self.held.check("nothing more")
        s = self.settings
        store.add_index(self.dataset, self.cam_key)
        self.active_fields = activate_fields(self.dataset, [store.field_names(self.cam_key)[0]])
        self.views = []
        if s.views:
            self.views = store.save_views(self.dataset, self.cam_key, labelled, self.held)
        if s.tags:
            store.save_tags(self.dataset, self.cam_key, verdicts, self.held)

    def _summarise(self, found, start):
        s, seed = self.settings, self.settings.seed
        a, tested = found.assessment, found.tested
        values = found.scan.spread(self._values(s.group_by))
        swapped = int(a.tested.sum())
        # of a sample that shows no class there is a row that says so, and no prediction
        counted = self.units.has if found.scan.slots > 1 else np.ones(len(found.status), bool)
        rows = np.flatnonzero(counted).tolist()
        reasons = collections.Counter(
            "not in the probe" if found.status[i] == "not tested" else found.status[i] for i in rows
        )
        reasons.pop("ok", None)
        unknown = [n for n, t in zip(found.labels, found.truth, strict=True) if t == -2]
        summary = BiasSummary(
            cam_key=self.cam_key,
            samples=len(self.rows),
            tested=swapped,
            classes=analysis.class_rows(found, seed),
            model=analysis.model_numbers(found, seed),
            calibration={
                "auroc": a.calibration.auroc,
                "usable": a.calibration.usable,
                "reason": a.calibration.reason,
                "n": a.calibration.n,
                "positives": a.calibration.positives,
                "relative": a.relative,
            },
            objects=self.objects.described,
            verdicts=dict(collections.Counter(a.verdicts[i].verdict for i in rows)),
            undecided=undecided_of(a.verdicts[i] for i in rows),
            skipped=dict(reasons.most_common()),
            heat=analysis.heat_numbers(found, seed),
            regions=[
                {"name": name, **analysis.region_numbers(check, seed, found.scenes_tested())}
                for name, check in tested.regions.items()
            ],
            clusters=discovery.clusters_of(found, seed),
            telltales=discovery.telltales_of(found),
            portraits=discovery.portraits_of(found, values),
            groups=None if values is None else discovery.groups_of(found, values, s.group_by, seed),
            labels={
                "field": self.labels.field,
                "known": int((found.truth >= 0).sum()),
                "unknown": len(unknown),
                "names": sorted(set(unknown))[:20],
            },
            views=self.views,
            fields=list(store.field_names(self.cam_key)),
            report=None,
            failed=[dataclasses.asdict(f) for f in self.failures],
            seconds=0.0,
            settings=self.used(),
            notes=self._notes(found, swapped),
            **({"unit": "predictions", "units": len(rows)} if found.scan.slots > 1 else {}),
        )
        if s.report is not None:
            from .report import write_report

            summary.report = write_report(s.report, summary, found, self.model, self.dataset)
        summary.seconds = time.perf_counter() - start
        return summary

    def _notes(self, found, swapped):
        notes = [self.objects.note, self.labels.note, *self.plan.notes, *self.units.notes]
        guesses = set(found.scan.predicted[found.scan.predicted >= 0].tolist())
        if len(guesses) == 1 and self.units.plain:
            name = self.model.label(guesses.pop())
            notes.insert(
                0,
                f"The model predicts {name} for every sample, so none can lend the background of another "
                "class.",
            )
        elif self.objects and not swapped:
            notes.append("None of these objects could be cut out, so no background was swapped.")
        if self._near:
            notes.append(
                f"There was no run {self.cam_key!r}, so its heatmaps were computed; there is a run "
                f"{self._near[0]!r}, should that one have been meant."
            )
        if not self.settings.control:
            notes.append("The paste control was not run, so drops may be owed to pasting.")
        return [n for n in notes if n]
