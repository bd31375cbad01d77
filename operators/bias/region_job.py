"""``test_region`` without the App: scores, the region of each sample, its effect."""

import dataclasses
from functools import partial

import numpy as np

from ..compute.plan import first_image
from ..compute.recorded_model import load_recorded
from ..compute.recorded_plan import MAPPED, RecordedPlan, check_scores, plan_of_run
from ..data.object_reader import check_objects
from ..data.objects import AnnotatedObjects
from ..data.samples import check_samples
from ..jobs.base import Job, phased
from ..jobs.inference import forwarded, probabilities_of
from ..jobs.memory import check_batch
from ..models import load
from ..runs import record
from ..runs.plain_data import PlainData
from ..targets.spec import resolve_targets
from ..targets.true_labels import Labels
from . import findings as analysis
from . import region_text as words
from .images import ABSENT, open_probe
from .membership import SCORED, ClassMembership
from .params import PROBE, check_plain_field
from .pictures import Masks, working_side
from .scan import Scan, ScanStep


@dataclasses.dataclass
class RegionSummary(PlainData):
    """What replacing a region did.

    Attributes:
        name: the region
        effect: dict ``mean, low, high, n`` of what the score loses beyond random regions; of samples
            where these lie mostly beside the region
        region_drop, control_drop: likewise, of the region and of random ones
        flip: share of the replacements that change the prediction
        p: one-sided, by random signs
        n: samples tested; of a multi-label network pairs of a sample and a class that it has
        able: of those with a control, how many have a score that could be lost
        skipped: count per reason
        controlled: for how many the random regions lie mostly beside the region
        control: ``"elsewhere"``: random regions; ``"same class"``: the region of donors of the same class
        classes: dicts ``label, n, effect, q, rests``, largest effect first; of classes with 20 samples;
            ``rests`` where the effect is clearly above 0 (``q`` by Benjamini-Hochberg)
        samples: ``{sample id: effect}``, the largest of its classes; None where it could not be told
        target: the class that was asked for, or None
        unit: ``"samples"``, or ``"predictions"`` where a sample may have several classes
        notes: sentences that a user should read
        failed: list of dicts ``id, filepath, reason``
        seconds: wall time
    """

    kind = "region_test"

    name: str
    effect: dict
    region_drop: dict
    control_drop: dict
    flip: float
    p: float
    n: int
    skipped: dict
    controlled: int
    control: str
    classes: list
    samples: dict
    failed: list
    seconds: float = 0.0
    able: int = None
    target: str = None
    unit: str = "samples"
    notes: list = dataclasses.field(default_factory=list)

    def __str__(self):
        """A sentence, and the numbers that it rests on."""
        return "\n".join(words.lines(dataclasses.asdict(self)))


class RegionJob(Job):
    """One call of ``test_region``, see :class:`~operators.jobs.base.Job`; it writes nothing."""

    def prepare(self):
        """Checks the arguments against the dataset and the model, with one image."""
        check_samples(self.samples)
        samples, s, key = self.samples, self.settings, self.settings.cam_key
        record.refresh(self.dataset)
        self.region, self.name = validated_region(samples, s.region)
        self._objects = None
        if isinstance(self.region, str) and self.region not in ("hottest", "border"):
            self._objects = AnnotatedObjects(samples, self.region, "all")
        if s.scenes is not None:
            check_plain_field(samples, s.scenes, "scenes")
        if key is None:
            self.model = self.given.load()
        else:
            self.model = load_recorded(
                record.config_of(self.dataset, key).settings, key, self.given
            )
        self.rows = list(zip(*samples.values(["id", "filepath"]), strict=True))
        with load.on_device(self.model):
            image = first_image(self.rows, self.model.transforms, self.model.geometry).image[None]
            outputs = check_scores(self.model, image).shape[1]
            check_batch(s.batch_size, self.model, image, partial(forwarded, self.model))
            self.plan = self._plan(self.dataset, image)
        several = bool(getattr(self.model.adapted, "multi_label", False))
        self.labels = Labels(samples, s.labels, self.model.classes, several=several)
        self.classes = ClassMembership(self.model, self.plan.target, outputs, self.labels)
        return self

    @property
    def _hottest(self):
        return isinstance(self.region, str) and self.region == "hottest"

    def _plan(self, dataset, image):
        """How maps are made; without a run and for other regions only the target matters."""
        s = self.settings
        plan = (
            self._own_plan(image)
            if s.cam_key is None
            else plan_of_run(dataset, s.cam_key, self.model)
        )
        if self._hottest:
            if plan.primary is None:
                raise ValueError(f"region: {plan.notes[-1]} Choose another region, or another run.")
            own = {plan.primary: plan.fields.get(plan.primary)}
            plan = dataclasses.replace(plan, fields=own, ranks=[own])
        return plan

    def _own_plan(self, image):
        s = self.settings
        values, tags = resolve_targets(s.targets, self.model)
        if len(tags) > 1 or (not isinstance(values, str) and callable(values[0])):
            raise ValueError("targets: a region is tested for 'predicted' or for one class")
        target = values if isinstance(values, str) else values[0]
        method = self.model.adapted.default_method
        plan = RecordedPlan(
            "", [method], target, tags[0], None, None, s.precision, s.seed, {}, None, []
        )
        if self._hottest:
            key = next(iter(plan.explain(self.model, image).maps))
            plan = dataclasses.replace(plan, primary=key, fields={key: None}, ranks=[{key: None}])
        return plan

    def planned(self):
        """Its phases, and how many items each has."""
        s, count = self.settings, len(self.rows)
        tested = min(count, PROBE if s.probe == "auto" else s.probe)
        region = tested * (1 + 2 * s.donors)
        return {"scoring": count, "preparing pictures": 2 * tested, "replacing the region": region}

    def steps(self):
        """Scores the samples, replaces the regions, and judges."""
        s = self.settings
        scan = yield from self._scan()
        check, tested, scenes = yield from open_probe(
            self, scan, self.classes, s.precision, self.classes.has
        )
        regions = self._regions(scan, tested)
        groups = None if scenes is None else scenes[tested.all_rows].tolist()
        call = check.region(tested.pictures, regions, self.classes.arguments(scan, tested), groups)
        total = len(tested.rows) * (1 + 2 * s.donors)
        result = yield from phased("replacing the region", call, lambda n: (n, total))
        own = None if groups is None else groups[: len(tested.rows)]
        return self._summarise(scan, tested, result, own)

    def _scan(self):
        s = self.settings
        slots = self.classes.slots(MAPPED if self._hottest else SCORED)
        scan = Scan(self.rows, self.plan, self.folder, slots)
        if self._hottest:
            step = ScanStep(self.model, self.plan, None, scan)
        else:
            step = _ScoreStep(self.model, self.plan.target, s.precision, scan)
        yield from self.over_samples("scoring", self.rows, step, scan)
        if not (scan.explained >= 0).any():
            first = self.failures[0].reason if self.failures else "the scores are not finite"
            raise ValueError(f"samples: none could be scored; {first}")
        self.classes.settle(scan)
        return scan

    def _regions(self, scan, tested):
        from . import regions

        pictures = tested.pictures
        if self._hottest:
            return regions.HottestRegions(pictures, scan, tested.rows)
        if isinstance(self.region, str) and self.region == "border":
            return regions.BorderRegions(pictures)
        if self._objects is not None:
            return self._drawn(scan, tested)
        if isinstance(self.region, tuple):
            return regions.BoxRegions(pictures, self.region)
        return regions.MapRegions(pictures, self.region)

    def _drawn(self, scan, tested):
        """The regions of a label field, on the pictures' own pixels."""
        import os

        from .swap import fitted

        path = os.path.join(self.folder, "regions")
        os.makedirs(path)
        masks = Masks(path)
        rows = tested.all_rows
        for i, size in enumerate(tested.pictures.sizes()):
            sample_id = scan.ids[rows[i]]
            found, _ = self._objects.read([sample_id], None, max(size), {sample_id: size})
            masks.put(i, fitted(found[sample_id].object, size))
        return masks

    def _summarise(self, scan, tested, result, groups):
        seed = self.settings.seed
        gaps = analysis.controlled_gaps(result)
        names = [self.model.label(int(scan.explained[i])) for i in tested.rows]
        samples = {}
        for row, gap in zip(tested.rows, gaps, strict=True):
            before = samples.setdefault(scan.ids[row], None)
            if np.isfinite(gap) and (before is None or gap > before):
                samples[scan.ids[row]] = float(gap)
        numbers = analysis.region_numbers(result, seed, groups)
        absent = int(((scan.explained >= 0) & ~self.classes.has).sum())
        if absent:
            numbers["skipped"][ABSENT] = absent
        return RegionSummary(
            name=self.name,
            **numbers,
            classes=_by_class(names, gaps, groups, seed),
            samples=samples,
            failed=[dataclasses.asdict(f) for f in self.failures],
            able=int((np.isfinite(gaps) & (result.effects.score >= analysis.LOSABLE)).sum()),
            target=names[0] if self.classes.named and names else None,
            unit="predictions" if scan.slots > 1 else "samples",
            notes=list(self.classes.notes),
            seconds=self.seconds,
        )


class _ScoreStep:
    """Scores a batch, without maps."""

    def __init__(self, model, target, precision, scan):
        self._model, self._target, self._precision, self._scan = model, target, precision, scan

    def __call__(self, batch):
        scores = probabilities_of(self._model, batch.images, self._precision)
        if getattr(self._model.adapted, "multi_label", False):
            self._scan.count(scores.numpy(), self._model.adapted.threshold)
        rows = {}
        for item, row in zip(batch.items, scores, strict=True):
            side = working_side(item.window, tuple(batch.images.shape[-2:]))
            start = {"side": side, "object_status": "no_object"}
            rows[item.id] = [start]
            if bool(row.isfinite().all()):
                best = int(row.argmax())
                order = row.argsort(descending=True, stable=True)[: self._scan.slots].tolist()
                asked = order if self._target == "predicted" else [self._target]
                rows[item.id] = [
                    {**start, "explained": own, "predicted": best, "score": float(row[own])}
                    for own in asked
                ]
        return rows


def _by_class(names, gaps, groups, seed):
    from ...cam_core.stats.resampling import benjamini_hochberg, bootstrap_mean, sign_flip_p

    rows = []
    for name in sorted(set(names)):
        members = np.array([n == name for n in names]) & np.isfinite(gaps)
        if members.sum() >= words.FEWEST:
            unit = None if groups is None else np.asarray(groups)[members]
            effect = analysis.interval_of(bootstrap_mean(gaps[members], unit, seed=seed))
            p = sign_flip_p(analysis.by_group(gaps[members], unit), seed=seed)
            rows.append({"label": name, "n": effect["n"], "effect": effect, "q": p})
    for row, q in zip(rows, benjamini_hochberg([row["q"] for row in rows]), strict=True):
        row["q"] = float(q) if np.isfinite(q) else None
        low = row["effect"]["low"]
        few = row["n"] < analysis.CLASS_MIN
        row["rests"] = (
            words.clear_although_few({"effect": row["effect"], "p": row["q"]}) if few
            else row["q"] is not None and row["q"] < words.LEVEL and (low or 0) > 0
        )  # fmt: skip
    shown = [row for row in rows if row["rests"] or row["n"] >= analysis.CLASS_MIN]
    return sorted(shown, key=lambda r: -r["effect"]["mean"])


def validated_region(samples, region):
    """What a region is, and what to call it."""
    if isinstance(region, dict):
        region = region.get("mean_map")
    if isinstance(region, str):
        if region in ("hottest", "border"):
            return region, region
        try:
            check_objects(samples, region)
        except ValueError as error:
            message = str(error).replace("objects:", "region:", 1)
            raise ValueError(f"{message}; or 'hottest', 'border', a box or a map") from error
        return region, f"in {region!r}"
    try:
        values = np.asarray(region, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape == (4,):
        left, top, width, height = values.tolist()
        inside = left >= 0 and top >= 0 and left + width <= 1 + 1e-6 and top + height <= 1 + 1e-6
        if not (inside and width > 0 and height > 0):
            raise ValueError(
                "region: a box is [left, top, width, height] as shares of the image, inside it and not "
                f"empty, got {list(region)}"
            )
        return tuple(values.tolist()), "[" + ", ".join(f"{v:.3g}" for v in values) + "]"
    if values.ndim == 2 and values.size and np.isfinite(values).all() and values.max() > 0:
        return values, "where the map is hot"
    raise ValueError(
        "region must be 'hottest', 'border', a label field, a box [left, top, width, height] of shares, or "
        "a map (h, w) with positive values such as a cluster of find_background_bias"
    )
