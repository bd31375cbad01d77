"""Which stored heatmaps are compared, and what each of them explains."""

import dataclasses
import difflib

import fiftyone as fo
import numpy as np

from ..runs import keys, record
from ..targets.spec import items_of

#: the method that shows what a map is worth that knows nothing of the class
RANDOM = "randomcam"


@dataclasses.dataclass(frozen=True)
class Column:
    """A heatmap field that is compared.

    Attributes:
        field: its name
        cam_key: the key of the run that wrote it
        method: the method's key
        layer: the layer's name
        class_discriminative: whether its maps depend on the class
    """

    field: str
    cam_key: str
    method: str
    layer: str
    class_discriminative: bool

    @property
    def baseline(self):
        """Whether it is a floor for the others."""
        return self.method.partition("_")[0] == RANDOM


def columns_of(samples, cam_keys):
    """Finds the heatmap fields that are meant.

    Args:
        samples: a dataset or view
        cam_keys: keys of CAM runs and names of heatmap fields, or None for the only run

    Returns:
        a list of :class:`Column`, in the order asked for

    Raises:
        ValueError: if a name is unknown, a run is running, or no sample has a heatmap
    """
    dataset = samples._dataset
    fields = {}
    for name in cam_keys or [_only_run(dataset)]:
        for field, key in _fields_of(dataset, name):
            fields.setdefault(field, key)
    for key in dict.fromkeys(fields.values()):
        check_ready(dataset, key)
    columns = [c for field, key in fields.items() if (c := _column(samples, field, key))]
    if not columns:
        raise ValueError(
            f"samples: none of them has a heatmap in {', '.join(fields)}; use samples that the run "
            "covers, load_cam_view gives them"
        )
    return columns


def _only_run(dataset):
    runs = record.list_runs(dataset)
    if not runs:
        raise ValueError(
            "cam_keys: the dataset has no CAM run yet, so there are no heatmaps to compare; "
            "compute_cams makes one"
        )
    if len(runs) > 1:
        raise ValueError(
            f"cam_keys: the dataset has several CAM runs ({', '.join(runs)}); name those to compare"
        )
    return runs[0]


def _fields_of(dataset, name):
    """Pairs (heatmap field, key of its run) of a run or of one field."""
    runs = record.list_runs(dataset)
    if name in runs:
        fields = keys.heatmap_fields_of(dataset, name)
        if not fields:
            raise ValueError(
                f"cam_keys: the run {name!r} has no heatmap field (any more); compute it again"
            )
        return [(field, name) for field in fields]
    owners = {f: key for key in runs for f in keys.heatmap_fields_of(dataset, key)}
    if name in owners:
        return [(name, owners[name])]
    if getattr(dataset.get_field(name), "document_type", None) is fo.Heatmap:
        raise ValueError(
            f"cam_keys: the heatmaps in {name!r} are of no CAM run, so it is not known which model and "
            "class they explain; compute them with compute_cams"
        )
    known = [*runs, *owners]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise ValueError(
        f"cam_keys: {name!r} is neither a CAM run nor a heatmap field of one{hint}; the dataset has the "
        f"runs: {', '.join(runs) or 'none yet, compute_cams makes one'}"
    )


def check_ready(dataset, key):
    """Raises a ValueError if a run is being computed, deleted or renamed."""
    config = record.config_of(dataset, key)
    record.check_idle(config, key)
    status = record.status_from(config)
    if status in ("deleting", "renaming"):
        raise ValueError(
            f"cam_keys: the run {key!r} is half {status.removesuffix('ing')}ed; finish that first"
        )


def _column(samples, field, key):
    """The column of a field; None where no sample of the view has a heatmap there."""
    found = samples.exists(field).limit(1).values([f"{field}.method", f"{field}.layer"])
    if not found[0]:
        return None
    index = bool(samples.exists(f"{field}.target_index").limit(1).values("id"))
    if index and _of_contrast(samples, key):
        raise ValueError(
            f"cam_keys: {field!r} explains what tells two classes apart, and its faithfulness to one of "
            "them would say nothing; compare heatmaps of 'predicted' or of named classes"
        )
    if not index and samples.exists(f"{field}.target").limit(1).values("id"):
        raise ValueError(
            f"cam_keys: {field!r} explains a function of the outputs, not a class, so it is not known "
            "which score is to fall; compare heatmaps of 'predicted' or of named classes"
        )
    return Column(field, key, found[0][0], found[1][0], index)


def _of_contrast(samples, key):
    """Whether a run explains the difference of two classes: its labels only name the first."""
    spec = record.config_of(samples._dataset, key).settings.get("targets")
    return any(isinstance(item, dict) and "contrast" in item for item in items_of(spec))


class Stored:
    """What the stored heatmaps say without their pictures.

    Args:
        samples: a dataset or view
        columns: M :class:`Column`

    Attributes:
        ids, paths: of the N samples that have a label in any of them
        index: id -> row
        targets: (N, M) class indices; of a map without a class that of the sample's other maps of its
            run, else of any run; -1 where nothing says it
        shown: (N, M) bool, whether there is a map, and not one of several classes merged into one, of
            which no single score could fall
        status: (N, M) strings, "" where there is no label
    """

    def __init__(self, samples, columns):
        names = ("target_index", "status", "target")
        paths = [f"{c.field}.{name}" for c in columns for name in names]
        ids, files, *values = samples.values(["id", "filepath", *paths])
        targets = np.array([[-1 if v is None else v for v in part] for part in values[::3]])
        status = np.array([["" if v is None else v for v in part] for part in values[1::3]])
        named = np.array([[v is not None for v in part] for part in values[2::3]])
        some = (status != "").any(0)
        rows = np.flatnonzero(some)
        self.ids = [ids[i] for i in rows]
        self.paths = [files[i] for i in rows]
        self.index = {sample_id: row for row, sample_id in enumerate(self.ids)}
        self.status = status.T[rows]
        merged = named & (targets < 0)
        self.shown = (self.status == "ok") & ~merged.T[rows]
        self.targets = _filled(targets.T[rows].astype(int), columns)

    def rows(self, chosen):
        """``(id, filepath)`` of rows."""
        return [(self.ids[i], self.paths[i]) for i in chosen]


def _filled(targets, columns):
    """Gives maps that are the same for every class the class of their neighbours."""
    filled = targets.copy()
    for m, column in enumerate(columns):
        if column.class_discriminative:
            continue
        same = [j for j, c in enumerate(columns) if c.cam_key == column.cam_key and j != m]
        others = [j for j in range(len(columns)) if j != m and j not in same]
        for j in (*same, *others):
            filled[:, m] = np.where(filled[:, m] < 0, targets[:, j], filled[:, m])
    return filled
