"""Boxes drafted from stored heat: read the heatmaps, cut them at a threshold, write detections."""

import dataclasses

import fiftyone as fo

from ..data.heatmap_reader import heat_of
from ..data.samples import check_images, read_values
from ..jobs.base import Job, phased
from ..runs import keys, record
from ..runs.job_record import write
from ..runs.locking import change_schema
from ..runs.plain_data import PlainData
from ..runs.retry import retry_on_disconnect
from ..runs.schema import declare_fields

_AT_ONCE = 500


@dataclasses.dataclass
class DraftSettings:
    """The arguments of ``heat_to_detections``; see there for their meaning."""

    cam_key: str = None
    field: str = None
    threshold: float = 0.5
    min_area: float = 0.001
    out: str = None
    tags: object = ("draft",)
    overwrite: bool = False


class DraftJob(Job):
    """One call of ``heat_to_detections``, see :class:`~operators.jobs.base.Job`."""

    def prepare(self):
        """Checks the arguments against the run and its heatmaps."""
        s = self.settings
        check_images(self.samples)
        self.cam_key, self.field = choose_field(self.dataset, s.cam_key, s.field)
        check_values(s.threshold, s.min_area, s.tags)
        self.out = check_out(self.samples, self.cam_key, self.field, s.out, s.overwrite)
        # not by their number: after MongoDB was killed its count of a collection may be wrong
        if not read_values(self.samples.limit(1), "id"):
            raise ValueError("samples: the view is empty")
        return self

    def steps(self):
        """Drafts boxes, a few hundred samples at a time."""
        ids = read_values(self.samples, "id")
        steps = self._draft(ids, Drafts(self.out))
        return (yield from phased("drafting boxes", steps, lambda n: (n, len(ids))))

    def _draft(self, ids, done):
        s, dataset, out = self.settings, self.dataset, self.out
        # first: whatever is written goes with the run
        record.change(dataset, self.cam_key, add={"drafts": [out], "fields": [out]})
        field = {
            "ftype": fo.EmbeddedDocumentField,
            "embedded_doc_type": fo.Detections,
            "description": f"Boxes drafted from {self.field} at {s.threshold:g} of its maximum",
        }
        change_schema(dataset, lambda: declare_fields(dataset, {out: field}))
        for start in range(0, len(ids), _AT_ONCE):
            part = ids[start : start + _AT_ONCE]
            # a sample without boxes too: it may have those of an earlier draft
            rows = {i: {out: None} for i in part}
            for sample_id, label in retry_on_disconnect(self._labels, part):
                boxes = _boxes(label, s.threshold, s.min_area, s.tags)
                done.without_map += boxes is None
                if boxes is not None:
                    rows[sample_id] = {out: fo.Detections(detections=boxes)}
                    done.samples += bool(boxes)
                    done.detections += len(boxes)
            write(dataset, rows)
            if out not in record.stored_paths(dataset):
                raise RuntimeError(
                    f"the field {out!r} was deleted, or its dataset, while boxes were drafted into it; draft "
                    "again with overwrite=True"
                )
            yield min(start + _AT_ONCE, len(ids))
        return done

    def _labels(self, ids):
        """The heatmaps of samples, as pairs of id and label."""
        samples = self.samples.select(ids).select_fields(self.field)
        return [(sample.id, sample[self.field]) for sample in samples.iter_samples()]


@dataclasses.dataclass
class Drafts(PlainData):
    """What was drafted.

    Attributes:
        field: the field of the detections
        samples: how many have at least one
        detections: how many there are
        without_map: samples whose heatmap has no picture: nothing was written for them
    """

    kind = "drafts"

    field: str
    samples: int = 0
    detections: int = 0
    without_map: int = 0

    def __str__(self):
        """One line for people."""
        text = f"{self.field}: {self.detections} boxes drafted on {self.samples} samples"
        return f"{text}; {self.without_map} without a heatmap" if self.without_map else text


def choose_field(dataset, cam_key=None, field=None):
    """Finds the heatmaps that boxes are drafted from.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        cam_key (None): the run; that of the field by default
        field (None): the heatmap field; that of the run by default

    Returns:
        the key and the field

    Raises:
        ValueError: if it is not clear which, or no run wrote the field
    """
    record.refresh(dataset)
    if cam_key is None and field is None:
        raise ValueError("cam_key: name a CAM run, or a heatmap field of one")
    if cam_key is not None:
        fields = keys.heatmap_fields_of(dataset, cam_key)
    else:
        runs = {key: keys.heatmap_fields_of(dataset, key) for key in record.list_runs(dataset)}
        cam_key = next((key for key, names in runs.items() if field in names), None)
        if cam_key is None:
            known = [name for names in runs.values() for name in names]
            raise ValueError(
                f"field: {field!r} is no heatmap field of a CAM run; there are: {', '.join(known) or 'none'}"
            )
        fields = runs[cam_key]
    if field is None and len(fields) != 1:
        raise ValueError(
            f"field: the run {cam_key!r} has {len(fields)} heatmap fields; name one: {', '.join(fields)}"
        )
    field = fields[0] if field is None else field
    if field not in fields:
        raise ValueError(
            f"field: the run {cam_key!r} has no heatmap field {field!r}; it has: {', '.join(fields)}"
        )
    return cam_key, field


def check_values(threshold, min_area, tags):
    """Raises a ValueError unless the numbers are shares and the tags are names."""
    for name, value in (("threshold", threshold), ("min_area", min_area)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ValueError(f"{name} must be a share from 0 to below 1, got {value!r}")
    if threshold == 0:
        raise ValueError("threshold must be a share above 0: at 0 the whole image is one box")
    if isinstance(tags, str) or not all(isinstance(tag, str) and tag for tag in tags):
        raise ValueError(f"tags must be a list of names, got {tags!r}")


def check_out(samples, cam_key, field, out, overwrite):
    """Returns the name of the field to write; raises a ValueError if it is taken for these samples."""
    dataset = samples._dataset
    out = f"{field}_boxes" if out is None else out
    if not isinstance(out, str) or not out.isidentifier() or not out.startswith(f"{cam_key}_"):
        raise ValueError(
            f"out: a field of the run {cam_key!r} begins with {cam_key + '_'!r}, got {out!r}"
        )
    config = record.config_of(dataset, cam_key)
    record.check_idle(config, cam_key)
    if dataset.get_field(out) is not None:
        if out not in (getattr(config, "drafts", None) or []):
            raise ValueError(f"out: the field {out!r} exists and holds no drafts; choose another")
        if not overwrite and len(samples.exists(out).limit(1)):
            raise ValueError(
                f"out: {out!r} has drafts of these samples already; pass overwrite=True to draft again, which "
                "drops what the user changed in them, or choose another field"
            )
    return out


def _boxes(label, threshold, min_area, tags):
    """The detections of one heatmap; None if it has no picture, or its file is gone."""
    import torch

    from ...cam_core import heat_to_boxes

    try:
        heat = heat_of(label)
    except FileNotFoundError:
        heat = None
    if heat is None:
        return None
    height, width = heat.shape
    rows = heat_to_boxes(torch.from_numpy(heat), threshold, min_area * height * width)
    return [
        fo.Detection(
            label=label.target or label.method,
            bounding_box=[
                left / width,
                top / height,
                (right - left) / width,
                (bottom - top) / height,
            ],
            confidence=share,
            tags=list(tags),
        )
        for left, top, right, bottom, share in rows.tolist()
    ]
