"""``compare_cams`` of one model's methods, without the App: check, measure, rank, write, summarise."""

import contextlib
import dataclasses
import time
from functools import partial

import numpy as np

from ..compute.explain_again import Explainer
from ..compute.plan import first_image
from ..compute.recorded_model import load_recorded
from ..data.heatmap_reader import BASELINES
from ..data.loader import Failure, Loader
from ..data.samples import check_samples
from ..jobs.base import CPU_BATCH, GPU_BATCH, Job, Phase, batch_size_of, phased
from ..jobs.batch_progress import Inside, forwards_done
from ..jobs.inference import forwarded, to_device, workers_of
from ..jobs.memory import check_batch
from ..jobs.pipeline import run as run_pipeline
from ..models import load
from ..runs import job_record
from ..runs import record as run_record
from ..runs.locking import change_schema
from ..text import about, counted
from . import ranking as tables
from . import schema as store
from .checks import check_classifier, check_model, check_same_model, choose_count
from .columns import Stored, columns_of
from .methods_scan import Scan, ScanPlan, ScanStep
from .params import parse_budget
from .summary import CompareSummary

_WRITTEN_AT_ONCE = 500
# Of a time that is given: what judging and writing is left, and what a batch may take.
_FINISHING, _LONGEST_FINISH, _BATCH = 0.1, 10.0, 0.05


class MethodComparison(Job):
    """One call of ``compare_cams`` for one model, see :class:`~operators.jobs.base.Job`.

    Nothing is written before all samples are through.
    """

    records = store.RECORDS

    def prepare(self):
        """Checks the arguments against the stored heatmaps and the model, with one image."""
        check_samples(self.samples)
        s = self.settings
        tables.ranked_metrics(s.metrics)
        if s.target != "auto":
            raise ValueError(
                "target: stored heatmaps are measured for the class that each of them explains; target= "
                "is for comparing several models, with models="
            )
        run_record.refresh(self.dataset)
        self.columns = columns_of(self.samples, s.cam_keys)
        self.cam_keys = list(dict.fromkeys(c.cam_key for c in self.columns))
        self.cam_key = self.cam_keys[0]
        check_same_model(self.dataset, self.cam_keys)
        self.field = store.disagreement_field(self.cam_key)
        self.stored = Stored(self.samples, self.columns)
        store.check_store(self.dataset, self.cam_key, self.field, s.overwrite, self._asked())
        if not self.stored.shown.any():
            raise ValueError(
                "samples: none of them has a heatmap with a picture, see the attribute 'status' of "
                f"{self.columns[0].field}"
            )
        used = run_record.config_of(self.dataset, self.cam_key).settings
        self.model = load_recorded(used, self.cam_key, self.given)
        check_model(self.dataset, self.cam_key, self.model)
        with load.on_device(self.model):
            self._trial()
        return self

    def _trial(self):
        """One image through the model and the metrics: what is wrong shows, and what it will cost."""
        s = self.settings
        self._began = time.perf_counter()  # a time that is given begins when the model is loaded
        usable = np.flatnonzero(self.stored.shown.any(1))
        rows, model = self.stored.rows(usable), self.model
        self._image = first_image(rows, model.transforms, model.geometry).image[None]
        precision = s.precision
        if precision == "auto":
            used = run_record.config_of(self.dataset, self.cam_key).settings
            precision = used.get("precision") or "float32"
        check_classifier(self.model, self._image, precision)
        check_batch(s.batch_size, model, self._image, partial(forwarded, model))
        floor = any(c.baseline for c in self.columns)
        self.explainer = Explainer(self.dataset, self.model, self.columns)
        self._check_explainer()
        needs = self._needs_explain()
        self.plan = ScanPlan(
            columns=self.columns,
            baselines=[] if floor else list(BASELINES),
            metrics=s.metrics,
            targets={},
            explainer=self.explainer if needs else None,
            precision=precision,
            batch_size=batch_size_of(s, self.model, 2 * CPU_BATCH, GPU_BATCH),
            seed=s.seed,
        )
        self._choose()

    def _needs_explain(self):
        from ...cam_core.metrics.catalogue import METRICS

        return [name for name in self.settings.metrics if METRICS[name].needs_explain]

    def _check_explainer(self):
        needs, missing = self._needs_explain(), self.explainer.missing()
        if needs and missing:
            why = self.explainer.reasons.get(missing[0].cam_key, "its record does not have it")
            raise ValueError(
                f"metrics: {needs[0]!r} explains changed images, and the method {missing[0].method!r} of "
                f"the run {missing[0].cam_key!r} cannot be made again: {why}; leave {needs[0]!r} out"
            )

    def _choose(self):
        """Draws the samples, as many as the budget allows, spread over the explained classes."""
        from ...cam_core.bias.effects import choose_probe

        s, stored = self.settings, self.stored
        usable = np.flatnonzero(stored.shown.any(1))
        self._of = len(stored.ids)
        each, seconds = self._forwards(1), self._seconds_each()
        end = self._end()
        left = None if end is None else end - time.perf_counter()
        count, self._how = choose_count(s, len(usable), each, seconds, left)
        classes = stored.targets[usable].max(1)
        chosen = usable[choose_probe(classes, count, s.seed)]
        # in a random order, so that a part of them is as good a sample
        self._chosen = np.random.default_rng(s.seed).permutation(chosen)
        self.rows = stored.rows(self._chosen)
        self.plan.targets = {stored.ids[i]: stored.targets[i] for i in self._chosen}
        self.predicted_forwards = self._forwards(len(self.rows))
        self.predicted_seconds = seconds * len(self.rows)

    def _forwards(self, count):
        from ...cam_core.metrics.catalogue import planned_forwards

        return sum(planned_forwards(self.plan.metrics, count, self.plan.maps).values())

    def _seconds_each(self):
        """Seconds that the metrics take for one sample, from one image with one map."""
        import torch

        from ...cam_core.metrics.baselines import centred_gaussian
        from ...cam_core.metrics.catalogue import METRICS
        from ...cam_core.metrics.faithfulness import faithfulness

        image = to_device(self.model, self._image)
        heat = centred_gaussian(tuple(image.shape[-2:]))[None, None]
        # one map explained again costs about what its method costs; that is not known here
        plain = [name for name in self.plan.metrics if not METRICS[name].needs_explain]
        for _ in range(2):
            start = time.perf_counter()
            faithfulness(
                self.model.adapted, image, heat, torch.zeros(1, dtype=torch.long), plain or ["increase"],
                batch_size=self.plan.batch_size, precision=self.plan.precision,
            )  # fmt: skip
            seconds = time.perf_counter() - start
        return seconds * self.plan.maps

    def _end(self):
        """When measuring has to end for all to be through in the time that is given; None without one."""
        limit = parse_budget(self.settings.budget).seconds
        if limit is None:
            return None
        return self._began + limit - min(_FINISHING * limit, _LONGEST_FINISH)

    def forecast(self):
        """What it will cost, in words."""
        return (
            f"measuring {self.plan.maps} maps of {counted(len(self.rows), 'samples')}, "
            f"{about(self.predicted_seconds)}"
        )

    def planned(self):
        """Its phases, and how many items each has."""
        return {self.forecast(): self.predicted_forwards, "writing": len(self.rows)}

    def register(self):
        """Registers the comparison in the record of its first run."""
        return store.register(
            self.dataset, self.cam_key, self._used(), self.field, [c.field for c in self.columns],
            self.plan.metrics, self.cam_keys,
        )  # fmt: skip

    def steps(self):
        """Measures, ranks, and writes."""
        scan = Scan(self.rows, self.plan)
        seconds = yield from self._scan(scan)
        self.notes += self.explainer.untimed
        found = tables.agreement_of(scan, self.columns, self.settings.seed)
        ranking = tables.Ranking(scan, self.plan, self.settings.seed)
        yield from self._write(scan, tables.disagreements(found, self.columns))
        return self._summarise(scan, ranking, found, seconds)

    def _asked(self):
        """What is compared, on which samples."""
        return {
            **self.settings.describe(),
            "cam_keys": self.settings.cam_keys or self.cam_keys,
            "samples_digest": store.digest_of(self.stored.ids),
        }

    def _used(self):
        return {
            **self._asked(),
            "model": self.model.name,
            "model_source": self.model.source,
            "samples": len(self.rows),
            "origin": self.origin,
        }

    def _scan(self, scan):
        """Measures the samples; stops before the batch that would go beyond the time that is given.

        Returns:
            seconds per image of each method
        """
        total, inside = self.predicted_forwards, Inside()
        yield Phase(self.forecast(), 0, total, 0.0)
        seconds, end = self.explainer.seconds(self._image), self._end()
        step = ScanStep(self.dataset, self.model, self.plan, scan, inside.tell)
        # small batches: every sample is run many times, and the time is looked at in between
        size = max(1, min(self.plan.batch_size, CPU_BATCH) // 4)
        if end is not None:
            each = self.predicted_seconds / len(self.rows)
            size = max(1, min(size, int(_BATCH * (end - self._began) / max(each, 1e-9))))
        loader = Loader(
            self.rows, self.model.transforms, size, workers_of(self.settings),
            geometry=self.model.geometry,
        )  # fmt: skip
        steps = run_pipeline(loader, step, scan, len(self.rows), self.failures)
        counts = forwards_done(self._until(steps, end), inside, self._forwards(1), size, total)
        yield from phased(self.forecast(), counts, lambda c: (c[0], total, c[1]))
        if not scan.done.any():
            first = self.failures[0].reason if self.failures else "none was reached"
            raise ValueError(f"samples: none could be measured; {first}")
        return seconds

    def _until(self, steps, end):
        """The steps up to a time, as far as the longest so far tells; two samples at least."""
        before, longest = time.perf_counter(), 0.0
        with contextlib.closing(steps):
            for progress in steps:
                now = time.perf_counter()
                before, longest = now, max(longest, now - before)
                yield progress
                enough = 2 <= progress.done < progress.total
                if end is not None and enough and now + longest > end:
                    self.notes.append(
                        f"The time was over after {progress.done:,} of {progress.total:,} samples; they "
                        "were in random order, so these are as good a sample, only smaller."
                    )
                    return

    def _write(self, scan, split):
        """Attributes and disagreement of a sample in one update."""
        from ...cam_core.metrics.catalogue import METRICS

        cam_key, field, start = self.cam_key, self.field, time.perf_counter()

        def declare():
            self.held.check()
            store.declare(
                self.dataset,
                field,
                "How much the class-discriminative methods disagree: 1 less their mean rank correlation",
                [c.field for c in self.columns],
                {name: METRICS[name].summary for name in self.plan.metrics},
            )

        change_schema(self.dataset, declare)
        store.RECORDS.expect_declared(self.dataset, self.cam_key, self.held)
        done = np.flatnonzero(scan.done)
        for first in range(0, len(done), _WRITTEN_AT_ONCE):
            part = done[first : first + _WRITTEN_AT_ONCE]
            rows = {scan.ids[i]: self._attributes(scan, i, split[i]) for i in part}
            gone = set(job_record.write(self.dataset, rows))
            self.failures += [
                Failure(scan.ids[i], scan.paths[i], "the sample was deleted during the run")
                for i in part
                if scan.ids[i] in gone
            ]
            yield Phase("writing", first + len(part), len(done), time.perf_counter() - start)
        values = [float(split[i]) for i in done if np.isfinite(split[i])]

        def save_views():
            self.held.check("nothing more")
            if not self.settings.views:
                return []
            return store.save_disagreement_view(self.dataset, cam_key, values, self.held)

        self._views = change_schema(self.dataset, save_views)

    def _attributes(self, scan, i, split):
        row = {self.field: store.number_or_none(split)}
        labels = self.stored.status[self.stored.index[scan.ids[i]]]
        for m, column in enumerate(self.columns):
            if not labels[m]:
                continue  # no label, so there is nothing to put attributes on
            for name, table in scan.values.items():
                row[f"{column.field}.{name}"] = store.number_or_none(table[i, m])
        return row

    def _summarise(self, scan, ranking, found, seconds):
        from ...cam_core.metrics.catalogue import METRICS

        s = self.settings
        metrics = {
            name: {
                "better": METRICS[name].better,
                "label": METRICS[name].label,
                "summary": METRICS[name].summary,
                "ranked": name in ranking.ranked,
            }
            for name in self.plan.metrics
        }
        count = int(scan.done.sum())
        results = {
            "cam_keys": self.cam_keys,
            "samples": count,
            "probe": {"of": self._of, "n": count, "seed": s.seed, "how": self._how},
            "metrics": metrics,
            "leaderboard": ranking.rows(seconds),
            "agreement": tables.agreement_table(found, scan, self.columns, s.seed),
            "pairs": tables.pairs_of(found, scan, self.columns),
            "recommendation": ranking.recommendation(),
            "views": self._views,
            "fields": [self.field],
            "cost": {
                "predicted_forwards": self.predicted_forwards,
                "predicted_seconds": self.predicted_seconds,
                "forwards": int(sum(scan.forwards.values())),
                "seconds": self.seconds,
                "by_metric": scan.forwards,
            },
            "models": None,
            "failed": [dataclasses.asdict(f) for f in self.failures],
            "settings": self._used(),
            "notes": self.notes,
        }
        return CompareSummary(**run_record.jsonable(results))
