"""What is known of a detector's objects once they were tested: effects, heat, and what these say."""

import dataclasses
import math

import numpy as np

from ..compute.object_labels import share_name
from ..runs import keys as run_keys

_READ = 5_000


@dataclasses.dataclass
class ObjectFindings:
    """What is known of n objects of N samples.

    Attributes:
        scan: the :class:`ObjectScan`
        units: (m,) the objects tested
        check: the :class:`~cam_core.bias.swap_test.SwapCheck` of these, whose donors are positions in ``rows``
        rows: (r,) samples with pictures
        tested: the :class:`Probe` of these, or None
        heat: the :class:`ObjectHeat` of the n objects, or None
        status: n strings
        assessment: the :class:`~cam_core.bias.assessment.Assessment` of the n objects
        scenes: N values or None
    """

    scan: object
    units: np.ndarray
    check: object
    rows: np.ndarray
    tested: object
    heat: object
    status: list
    assessment: object
    scenes: list

    def worst(self, i):
        """The object that speaks for a sample; None for a sample without objects."""
        from ...cam_core.bias.object_swap_test import worst_of

        units = self.scan.mine[i]
        if not units:
            return None
        says = [self.assessment.verdicts[u].verdict for u in units]
        return units[worst_of(says, self.assessment.dependence[units])]

    def effect(self, name, unit):
        """A number of :class:`~cam_core.bias.effects.Effects` of an object, or None."""
        place = np.flatnonzero(self.units == unit)
        if not len(place):
            return None
        value = float(getattr(self.check.effects, name)[place[0]])
        return value if math.isfinite(value) else None


def assessed(job, scan, units, tested, rows, scenes):
    """Applies the evidence rule, an object being the unit.

    Args:
        job: the :class:`BiasJob`
        scan: the :class:`ObjectScan`
        units: (m,) the objects tested
        tested: the :class:`Probe` of the samples with pictures; None where nothing was swapped
        rows: (r,) these samples
        scenes: N values or None

    Returns:
        an :class:`ObjectFindings`
    """
    from ...cam_core.bias.assessment import assess
    from ...cam_core.bias.effects import Effects
    from ...cam_core.bias.object_swap_test import object_rule

    check = None if tested is None else tested.check
    failures = {scan.index[f.id]: f.reason for f in job.failures}
    least = job.model.adapted.confidence
    status = []
    for unit, home in enumerate(scan.homes.tolist()):
        score = scan.score[unit]
        status.append(
            failures.get(home, "the sample could not be read") if math.isnan(score)
            else "no class" if scan.labels[unit] < 0
            else "not found" if score < least
            else "not tested"
        )  # fmt: skip
    if check is not None:
        for unit, state in zip(units.tolist(), check.status, strict=True):
            status[unit] = state
    else:
        units = np.empty(0, int)
    done = set(units.tolist())
    others = [u for u, said in enumerate(status) if u not in done and said != "not tested"]
    asked = np.concatenate([units, others]).astype(int)
    columns = {}
    for field in dataclasses.fields(Effects):
        whole = field.name in ("donors", "controls")
        column = np.zeros(len(asked), int) if whole else np.full(len(asked), np.nan)
        if check is not None:
            values = getattr(check.effects, field.name)
            column[: len(values)] = values
        columns[field.name] = column
    heat = heat_of_objects(job.dataset, job.cam_key, job.object_field, scan)
    assessment = assess(
        scan.labels, asked, [status[u] for u in asked], Effects(**columns),
        heat=None if heat is None else heat.features, rule=object_rule(least),
        seed=job.settings.seed,
    )  # fmt: skip
    kept = rows if tested is None else tested.rows
    return ObjectFindings(scan, units, check, kept, tested, heat, status, assessment, scenes)


# Heat ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class ObjectHeat:
    """Where the heat of n objects lies, as a run wrote it on their labels.

    Attributes:
        path: of the attribute
        in_box: (n,) share of the object's heat in its own box, NaN where it was not explained
        features: (n, 4) of :func:`~cam_core.bias.object_swap_test.object_heat_features`
    """

    path: str
    in_box: np.ndarray
    features: np.ndarray


def heat_of_objects(dataset, cam_key, field, scan):
    """Reads where the heat of objects lies.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key: the CAM run's key
        field: of the objects
        scan: the :class:`ObjectScan`

    Returns:
        an :class:`ObjectHeat`, or None where the run did not explain the boxes of this field, or only
        with methods whose maps are the same for every object
    """
    from ...cam_core.bias.object_swap_test import object_heat_features

    path = _share_path(run_keys.config_of(dataset, cam_key), cam_key, field)
    if path is None:
        return None
    known = {}
    for start in range(0, len(scan.ids), _READ):
        view = dataset.select(scan.ids[start : start + _READ])
        for ids, shares in zip(*view.values([f"{field}.detections.id", path]), strict=True):
            known.update(zip(map(str, ids or []), shares or [], strict=True))
    in_box = np.array([known.get(i) for i in scan.label_ids], float)  # None becomes NaN
    area = (scan.boxes[:, 2] - scan.boxes[:, 0]) * (scan.boxes[:, 3] - scan.boxes[:, 1])
    return ObjectHeat(path, in_box, object_heat_features(in_box, area, scan.score))


def _share_path(record, cam_key, field):
    """The attribute with the share of heat in an object's own box, of the first method that has one."""
    from ...cam_core.methods.catalogue import resolve_methods

    written = getattr(record, "label_attributes", None) or []
    # functions are recorded by their names alone, which say nothing of their maps
    names = [m for m in record.settings.get("methods") or [] if not str(m).startswith("<")]
    methods = resolve_methods([m if isinstance(m, str) else tuple(m) for m in names])
    keys = [(key, m.info) for m in methods for key, _ in m.keys(["objects"])]
    for key, info in keys:
        name = share_name("in_box", key, [k for k, _ in keys])
        path = f"{field}.detections.{cam_key}_{name}"
        if info.class_discriminative and path in written:
            return path
    return None
