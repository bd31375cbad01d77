"""Boxes as units: the swap of their surroundings, the heat that a run found in them, what follows."""

import numpy as np

from ..compute.object_labels import share_name
from ..data.object_reader import kind_of
from ..data.samples import read_values
from ..jobs.base import phased
from ..jobs.inference import forwarded
from ..runs import record
from .box_scan import BoxPredictor, BoxScan, BoxScanStep
from .findings import judge
from .params import PROBE
from .swap import CausalTests, Probe, choose_probe

# samples whose labels are read with one query
_READ = 5_000


def object_field(samples, roles):
    """The field whose boxes are tested.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        roles: ``{field: role}`` of the :class:`AnnotatedObjects`

    Raises:
        ValueError: unless one field of Detections is the object
    """
    fields = [f for f, role in roles.items() if role == "object"]
    kinds = [kind_of(samples, f) for f in fields]
    if kinds != ["Detections"]:
        got = ", ".join(f"{f} ({k})" for f, k in zip(fields, kinds, strict=True)) or "none"
        raise ValueError(
            "objects: a detector is tested on the boxes of one field of Detections, such as the ground "
            f"truth; got {got}"
        )
    return fields[0]


def detect_one(model, image):
    """One image through the detector, so that what is wrong shows before the run.

    Args:
        model: the :class:`LoadedModel`
        image: (1, C, h, w)

    Raises:
        ValueError: if the class names are not as many as its classes
    """
    outputs = forwarded(model, image)
    count, names = outputs.candidates[0].probabilities.shape[1], model.classes
    if names is None:
        raise ValueError(
            "classes: the names of the detector's classes are needed to find its objects"
        )
    if len(names) > count:
        raise ValueError(f"classes has {len(names)} names, the detector {count} classes")


def analyse_boxes(job):
    """Scores every box, and swaps the surroundings of those that are probed.

    Args:
        job: the :class:`BiasJob`

    Yields:
        a :class:`Phase`, now and then

    Returns:
        :class:`~operators.bias.findings.Findings`
    """
    s, model = job.settings, job.model
    wanted = None if isinstance(s.object_classes, str) else list(s.object_classes)
    scan = BoxScan(job.samples, job.rows, job.object_field, model.classes, s.aliases, wanted)
    if not len(scan.image_index):
        raise ValueError(f"objects: {job.object_field!r} holds no boxes to test")
    precision = "float32" if s.precision == "auto" else s.precision
    step = BoxScanStep(model, scan, precision)
    yield from job.over_samples("looking for objects", job.rows, step, scan)
    found = np.nan_to_num(scan.score) >= model.adapted.confidence
    limit = PROBE if s.probe == "auto" else s.probe
    units = choose_probe(scan.explained, found & (scan.explained >= 0), limit, s.seed)
    rows = _with_pictures(scan, units, limit, s.seed)
    check = BoxCausalTests(model, s, job.folder, precision)
    job.stack.callback(check.close)
    scenes = scan.spread(None if s.scenes is None else read_values(job.samples, s.scenes))
    # boxes of one sample are one draw
    scenes = scan.image_index if scenes is None else np.array([str(scene) for scene in scenes])
    tested = Probe(np.empty(0, int))
    if len(units) and len(rows) > 1:
        prepare = check.prepare(scan.pictures, rows, job.objects, [None] * len(scan.samples))
        tested = yield from phased("preparing pictures", prepare, lambda n: (n, len(rows)))
        shown = check.place_boxes(tested, scan, units)
        groups = None
        if s.scenes is not None:
            values = read_values(job.samples, s.scenes)
            groups = [str(values[i]) for i in shown]
        total = len(shown) + len(tested.rows) * (1 + s.donors * (1 + s.control))
        swap = check.swap_boxes(tested, scan, shown, groups)
        yield from phased("swapping surroundings", swap, lambda n: (n, total))
    _add_heat(job, scan)
    return _judge(job, scan, tested, scenes)


def _judge(job, scan, tested, scenes):
    from ...cam_core.bias.object_swap_test import object_rule

    failures = {f.id: f.reason for f in job.failures}
    least = job.model.adapted.confidence
    status = []
    for unit, score in enumerate(scan.score.tolist()):
        status.append(
            failures.get(scan.ids[unit], "the sample could not be read") if np.isnan(score)
            else "no class" if scan.explained[unit] < 0
            else "not found" if score < least
            else "not tested"
        )  # fmt: skip
    found = judge(
        scan, tested, status, job.settings.seed, object_rule(least),
        labels=list(scan.names), names=[n or "" for n in scan.names],
        truth=np.where(scan.explained < 0, -2, scan.explained), scenes=scenes,
    )  # fmt: skip
    seen = np.array([s not in ("not found", "no class") for s in found.status])
    found.correct = np.where(np.isfinite(scan.score), seen, np.nan)
    return found


def _with_pictures(scan, units, limit, seed):
    """The samples of the objects tested, and others that lend: as many in all as may be tested."""
    needed = np.unique(scan.image_index[units])
    seen = np.flatnonzero(scan.pictures.side > 0)
    rest = np.setdiff1d(seen, needed)
    extra = np.random.default_rng([seed, 1]).permutation(rest)[: max(0, limit - len(needed))]
    return np.sort(np.concatenate([np.intersect1d(needed, seen), extra])).astype(int)


class BoxCausalTests(CausalTests):
    """The causal check of objects; see :class:`CausalTests`."""

    def predictor(self, model, precision):
        """What composites are run through."""
        return BoxPredictor(model, self._workers, precision)

    def place_boxes(self, tested, scan, units):
        """Makes boxes the units of a probe of samples; those without a picture are left out.

        Args:
            tested: the :class:`Probe`, its rows being samples
            scan: the :class:`BoxScan`
            units: (n,) boxes to be tested

        Returns:
            (p,) the samples of the pictures
        """
        shown = tested.rows
        place = np.full(len(scan.samples), -1)
        place[shown] = np.arange(len(shown))
        tested.rows = units[place[scan.image_index[units]] >= 0]
        tested.picture = place[scan.image_index[tested.rows]]
        return shown

    def swap_boxes(self, tested, scan, shown, groups):
        """Runs the swap; yields how many pictures went through the detector."""
        from ...cam_core.bias.object_swap_test import object_swap_check

        s, units = self._settings, tested.rows

        def call(predict):
            return object_swap_check(
                tested.pictures, tested.picture, scan.boxes[units], scan.explained[units], predict,
                contents=scan.contents(shown), removal_masks=tested.removals, count=s.donors,
                most=s.most_donors, control=s.control, groups=groups, feather=s.feather,
                confidence=self._model.adapted.confidence, batch_size=self.batch_size, seed=s.seed,
            )  # fmt: skip

        tested.check = yield from self._reported(call)


# Heat ----------------------------------------------------------------------------------------------


def _add_heat(job, scan):
    """Reads where the heat of the boxes lies, if the run explained them by class."""
    dataset, field = job.dataset, job.object_field
    path = _share_path(record.config_of(dataset, job.cam_key), job.cam_key, field)
    if path is None:
        return
    known = {}
    for start in range(0, len(scan.samples), _READ):
        view = dataset.select([row[0] for row in scan.samples[start : start + _READ]])
        for ids, shares in zip(*read_values(view, [f"{field}.detections.id", path]), strict=True):
            known.update(zip(map(str, ids or []), shares or [], strict=True))
    scan.add_heat(np.array([known.get(i) for i in scan.label_ids], float))  # None becomes NaN


def _share_path(config, cam_key, field):
    """The attribute with the share of heat in an object's own box, of the first method that has one."""
    from ...cam_core.methods.catalogue import resolve_methods

    written = getattr(config, "label_attributes", None) or []
    # functions are recorded by their names alone, which say nothing of their maps
    names = [m for m in config.settings.get("methods") or [] if not str(m).startswith("<")]
    methods = resolve_methods([m if isinstance(m, str) else tuple(m) for m in names])
    keys = [(key, m.info) for m in methods for key, _ in m.keys(["objects"])]
    for key, info in keys:
        name = share_name("in_box", key, [k for k, _ in keys])
        path = f"{field}.detections.{cam_key}_{name}"
        if info.class_discriminative and path in written:
            return path
    return None
