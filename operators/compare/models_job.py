"""``compare_cams`` of several models or checkpoints on the same samples, without the App."""

import dataclasses
import time
from functools import partial

import numpy as np

from ..compute.plan import first_image
from ..compute.recorded_model import GivenModel, load_recorded, to_give
from ..data.samples import check_samples
from ..jobs.base import Job, Phase
from ..jobs.inference import forwarded
from ..jobs.memory import check_batch
from ..models import load
from ..runs import job_record
from ..runs import record as run_record
from ..runs.locking import change_schema
from ..targets.true_labels import Labels
from ..text import counted
from . import models_trend as compared
from . import ranking as tables
from . import schema as store
from .checks import check_classifier, check_model, check_models, one_each
from .columns import Stored, columns_of
from .models_scan import ModelStep, ModelTable
from .params import MODELS_PROBE, parse_budget
from .summary import CompareSummary

_WRITTEN_AT_ONCE = 500


class ModelComparison(Job):
    """One call of ``compare_cams`` for several models, see :class:`~operators.jobs.base.Job`.

    What is given of the models, ``given.model`` as a dict from keys, the rest one for all or as such a dict.
    Each model is on its device while its turn is.
    """

    records = store.RECORDS

    def prepare(self):
        """Checks the arguments against the stored heatmaps and the models, with one image each."""
        check_samples(self.samples)
        s, models = self.settings, self.given.model
        run_record.refresh(self.dataset)
        if not isinstance(models, dict):
            raise ValueError(
                f"models must be a dict from the keys of CAM runs to models, got {type(models).__name__}"
            )
        names = s.cam_keys or list(models)
        if not names:
            raise ValueError("cam_keys: name the runs of the models, in their order")
        self.columns = one_each(columns_of(self.samples, names))
        self.keys = [c.cam_key for c in self.columns]
        self.cam_key, self.field = self.keys[0], store.agreement_field(self.keys[0], self.keys[-1])
        check_models(models, self.keys)
        self.stored = Stored(self.samples, self.columns)
        store.check_store(self.dataset, self.cam_key, self.field, s.overwrite, self._asked())
        self.models = [self._load(key) for key in self.keys]
        self.classes = self._common_classes()
        several = self._several()
        field, self._class = compared.check_target(self.samples, s.target, several)
        if self._class not in (None, "first"):
            self._class = compared.class_of(self._class, self.classes)
        self.labels = Labels(
            self.samples, field or _truth(self.samples, several), self.classes, several=several
        )
        self._explained_label = field
        self._choose()
        self._trial()
        return self

    def _load(self, key):
        own = self.given.model.get(key)
        used = run_record.config_of(self.dataset, key).settings
        beside = {
            name: getattr(self.given, name) for name in ("transforms", "preprocess", "classes")
        }
        options = self.given.options
        if own is None:  # what was given is for the models that were given
            wanted = to_give(used)
            beside = {n: v for n, v in beside.items() if n in wanted}
            options = {n: v for n, v in options.items() if n in wanted}
        given = GivenModel(
            own,
            **{name: self._of(name, value, key) for name, value in beside.items()},
            device=self.settings.device,
            options={name: self._of(name, value, key) for name, value in options.items()},
        )
        model = load_recorded(used, key, given, f"models[{key!r}]")
        check_model(self.dataset, key, model, f"models[{key!r}]")
        return model

    def _of(self, name, given, key):
        """One for all, or the entry of a dict from the runs' keys."""
        if not isinstance(given, dict) or not set(given) & set(self.keys):
            return given
        if key not in given:
            raise ValueError(f"{name}: the dict has no entry for {key!r}")
        return given[key]

    def _several(self):
        """Whether samples may have several classes, which holds for all models or for none."""
        found = {
            k: bool(getattr(m.adapted, "multi_label", False))
            for k, m in zip(self.keys, self.models, strict=True)
        }
        if len(set(found.values())) > 1:
            raise ValueError(
                f"multi_label: the models differ in whether classes exclude each other ({found}), so their "
                "probabilities cannot be compared"
            )
        return next(iter(found.values()))

    def _common_classes(self):
        known = [(k, m.classes) for k, m in zip(self.keys, self.models, strict=True) if m.classes]
        for key, names in known[1:]:
            if list(names) != list(known[0][1]):
                raise ValueError(
                    f"classes: the models of {known[0][0]!r} and {key!r} have other classes, so there is no "
                    "class whose maps could be compared"
                )
        return known[0][1] if known else None

    def _choose(self):
        """Draws the samples, spread over the classes that the first run explains."""
        from ...cam_core.bias.effects import choose_probe

        s, count = self.settings, len(self.stored.ids)
        wanted = MODELS_PROBE if s.probe == "auto" else s.probe
        budget = parse_budget(s.budget)
        if budget.seconds is not None:
            raise ValueError(
                "budget: for models give a number of forwards, or probe=, the number of samples"
            )
        if budget.forwards is not None:
            wanted = min(wanted, budget.forwards // (2 * len(self.keys)))
        if wanted < min(2, count):
            raise ValueError(
                f"budget: {s.budget!r} does not allow two samples with {len(self.keys)} models, which take "
                f"{2 * len(self.keys)} forwards each"
            )
        chosen = choose_probe(self.stored.targets[:, 0], wanted, s.seed)
        self._how = (
            "all of them" if len(chosen) == count else f"seed {s.seed}, spread over the classes"
        )
        self.rows = self.stored.rows(chosen)
        self._chosen = chosen
        # one for the scores, and one where the stored map is of another class
        self.predicted_forwards = 2 * len(self.keys) * len(self.rows)

    def _trial(self):
        """One image through each model, so that what is wrong shows before the run."""
        outputs = {}
        for key, model in zip(self.keys, self.models, strict=True):
            with load.on_device(model):
                image = first_image(self.rows, model.transforms, model.geometry).image[None]
                outputs[key] = check_classifier(
                    model, image, self._precision(key), f"models[{key!r}]"
                ).shape[1]
                check_batch(self.settings.batch_size, model, image, partial(forwarded, model))
        if len(set(outputs.values())) > 1:
            raise ValueError(
                f"models: they have different numbers of outputs ({outputs}), so classes do not correspond"
            )
        count = next(iter(outputs.values()))
        if self.classes is not None and len(self.classes) != count:
            raise ValueError(
                f"classes has {len(self.classes)} names, the models have {count} outputs"
            )
        if isinstance(self._class, int) and not 0 <= self._class < count:
            raise ValueError(f"target: there is no class {self._class}; the models have {count}")

    def _precision(self, key):
        if self.settings.precision != "auto":
            return self.settings.precision
        return run_record.config_of(self.dataset, key).settings.get("precision") or "float32"

    def forecast(self):
        """What it will cost, in words."""
        return f"comparing {len(self.keys)} models on {counted(len(self.rows), 'samples')}"

    def planned(self):
        """Its phases, and how many items each has."""
        return {self.forecast(): len(self.rows) * len(self.keys), "writing": len(self.rows)}

    def register(self):
        """Registers the comparison in the record of its first run."""
        return store.register(
            self.dataset, self.cam_key, self._used(), self.field, [], [], self.keys
        )

    def steps(self):
        """Runs every model, writes and judges."""
        found, table = yield from self._scan()
        return (yield from self._finish(found, table))

    def _asked(self):
        """What is compared, on which samples."""
        return {
            **self.settings.describe(),
            "cam_keys": self.settings.cam_keys or self.keys,
            "samples_digest": store.digest_of(self.stored.ids),
        }

    def _used(self):
        return {
            **self._asked(),
            "models": {k: m.name for k, m in zip(self.keys, self.models, strict=True)},
            "samples": len(self.rows),
            "origin": self.origin,
        }

    def _scan(self):
        """Every model over the samples, one after the other."""
        table = ModelTable(self.rows, len(self.keys))
        total = len(self.rows) * len(self.keys)
        for k, (key, model) in enumerate(zip(self.keys, self.models, strict=True)):
            step = ModelStep(
                self.dataset, model, self.columns[k], k, self.stored, table, self._precision(key),
            )  # fmt: skip
            if k == 0:
                self._fix_targets(table)
            before = k * len(self.rows)
            with load.on_device(model):
                yield from self.over_samples(
                    self.forecast(), self.rows, step, table, model,
                    counts=lambda p, before=before: (before + p.done, total, p.failed),
                )  # fmt: skip
        # a picture that is gone is so for every model
        self.failures = list({f.id: f for f in reversed(self.failures)}.values())[::-1]
        return self._found(table), table

    def _fix_targets(self, table):
        """The class that is compared, where it does not depend on what the first model predicts."""
        if isinstance(self._class, int):
            table.targets[:] = self._class
        elif self._explained_label is not None:
            _, truth = self.labels.read(table.ids, np.full(len(table.ids), -1))
            table.targets[:] = truth
            unlabelled = int((truth < 0).sum())
            if unlabelled:
                self.notes.append(
                    f"{unlabelled:,} samples have no label that the models know: of them what "
                    f"{self.keys[0]} predicts is compared."
                )
        table.targets[table.targets < 0] = -1

    def _found(self, table):
        done = (table.predicted >= 0).all(1)
        if not done.any():
            reason = self.failures[0].reason if self.failures else "none was reached"
            raise ValueError(f"samples: none could be seen by every model; {reason}")
        return compared.ModelScores(
            table.ids, self.keys, self.columns, table.maps, table.targets, table.predicted,
            table.score, self._correct(table, done), done,
        )  # fmt: skip

    def _correct(self, table, done):
        """(n, K) whether each model is right; of several classes, about the one that is compared."""
        correct = np.full(table.predicted.shape, np.nan)
        if not self.labels.several:
            for k in range(len(self.keys)):
                _, truth = self.labels.read(table.ids, table.predicted[:, k])
                known = done & (truth >= 0)
                correct[known, k] = truth[known] == table.predicted[known, k]
            return correct
        shown = [None] * len(table.ids)
        if self.labels.field is not None:
            shown = self.labels.members(table.ids)
        for i, own in enumerate(table.targets.tolist()):
            if done[i] and shown[i] is not None and own >= 0:
                correct[i] = (table.predicted[i] == own) == (own in shown[i])
        return correct

    def _finish(self, found, table):
        """Judges, writes, and returns the summary."""
        s, first, last = self.settings, self.keys[0], self.keys[-1]
        found.maps[~found.done] = np.nan
        flat = _Flat(found)
        agreement = tables.agreement_of(flat, self.columns, s.seed)
        spearman = agreement.spearman.numpy()
        split = spearman[:, 0, -1]
        predictions = compared.predictions_of(found)
        background = compared.background_of(self.samples, first, last, s.seed)
        trend = compared.trend_of(self.samples, found, spearman, s.seed)
        yield from self._write(found, split)

        def save_views():
            self.held.check("nothing more")
            return self._views(found, split, predictions, background) if s.views else []

        views = change_schema(self.dataset, save_views)
        matrix = tables.agreement_table(agreement, flat, self.columns, s.seed)
        matrix["labels"] = list(self.keys)
        successive = [
            {"from": a, "to": b, **_interval(spearman[:, i, i + 1], s.seed)}
            for i, (a, b) in enumerate(zip(self.keys, self.keys[1:], strict=False))
        ]
        whole = _interval(split, s.seed)
        floor = matrix["noise_floor"]["spearman"]
        floor = floor if np.isfinite(floor) else None
        said = compared.sentences_of(first, last, whole, floor, predictions, background, trend)
        results = {
            "cam_keys": self.keys,
            "samples": int(found.done.sum()),
            "probe": {
                "of": len(self.stored.ids), "n": int(found.done.sum()), "seed": s.seed,
                "how": self._how,
            },
            "metrics": {},
            "leaderboard": [],
            "agreement": matrix,
            "pairs": tables.pairs_of(agreement, flat, self.columns),
            "recommendation": {
                "field": None, "method": self.columns[0].method, "sentence": said[0],
                "evidence": [], "within_noise": False,
            },
            "views": views,
            "fields": [self.field],
            "cost": {
                "predicted_forwards": self.predicted_forwards,
                "predicted_seconds": None,
                "forwards": table.forwards,
                "seconds": self.seconds,
            },
            "models": {
                "keys": self.keys,
                "method": self.columns[0].method,
                "target": self._said_target(),
                "first_last": whole,
                "successive": successive,
                "classes": compared.class_rows(found, split, self.models[0].label, s.seed),
                "predictions": predictions,
                "background": background,
                "trend": trend,
                "recomputed": table.recomputed,
                "sentences": said[1:],
            },
            "failed": [dataclasses.asdict(f) for f in self.failures],
            "settings": self._used(),
            "notes": self.notes,
        }  # fmt: skip
        return CompareSummary(**run_record.jsonable(results))

    def _said_target(self):
        if isinstance(self._class, int):
            return f"class {self.models[0].label(self._class)}"
        if self._explained_label is not None:
            return f"field {self._explained_label}"
        return f"what {self.keys[0]} predicts"

    def _write(self, found, split):
        start, done = time.perf_counter(), np.flatnonzero(found.done)
        said = compared.described(self.keys[0], self.keys[-1])

        def declare():
            self.held.check()
            store.declare(self.dataset, self.field, said, [], {})

        change_schema(self.dataset, declare)
        store.RECORDS.expect_declared(self.dataset, self.cam_key, self.held)
        for at in range(0, len(done), _WRITTEN_AT_ONCE):
            part = done[at : at + _WRITTEN_AT_ONCE]
            job_record.write(
                self.dataset,
                {found.ids[i]: {self.field: store.number_or_none(split[i])} for i in part},
            )
            yield Phase("writing", at + len(part), len(done), time.perf_counter() - start)

    def _views(self, found, split, predictions, background):
        first, last = self.keys[0], self.keys[-1]
        values = [float(v) for v in split[found.done] if np.isfinite(v)]
        views = store.moved_view(self.dataset, first, last, values)
        views.update(
            store.views_by_ids(
                self.dataset, compared.views_of(first, last, predictions, background)
            )
        )
        return store.RECORDS.save_views(self.dataset, self.cam_key, views, self.held)


class _Flat:
    """What the tables read of a scan: maps, and one target for all columns."""

    def __init__(self, found):
        self.ids, self.maps = found.ids, found.maps
        self.targets = np.repeat(found.targets[:, None], len(found.keys), 1)


def _interval(values, seed):
    from ...cam_core.stats.resampling import bootstrap_mean

    return dataclasses.asdict(bootstrap_mean(values, seed=seed))


def _truth(samples, several=False):
    """The one label field, to know which predictions are right; None without one."""
    return Labels(samples, "auto", None, several=several).field
