"""Objects explained one by one by a classifier: what is written on their labels, and on their samples."""

import dataclasses

import fiftyone as fo
import numpy as np

from ..data import heatmap_writer
from ..data.object_masks import Unreadable, parts_of
from ..runs.label_attributes import LabelAttributes
from ..targets.columns import ABSENT
from .step import ExplainStep

_SEEN = "not_seen"


@dataclasses.dataclass
class PatchPlan:
    """What a run over the objects of a field stores.

    Attributes:
        field: of the detections
        maps: for how many objects of a sample, those with the highest scores, heatmaps of their own are stored
        key: the run's key
        fields: the heatmap fields of all objects together
        masks: whether objects have masks
    """

    field: str
    maps: int
    key: str
    fields: list = dataclasses.field(default_factory=list)
    masks: bool = False

    @property
    def path(self):
        """Of the labels that are written on."""
        return f"{self.field}.detections"

    @property
    def attributes(self):
        """``{name: (type, description)}`` of what is written on labels."""
        found = {
            f"{self.key}_score": (fo.FloatField, "Score of the target, of the crop of the object"),
            f"{self.key}_target": (fo.StringField, "The class that is explained of the crop"),
        }
        for field in self.fields:
            found[self._name(field, "status")] = (
                fo.StringField,
                f"ok, or why there is no map; not_seen: the box has no area on the image ({field})",
            )
            if self.masks:
                found[self._name(field, "in_mask")] = (
                    fo.FloatField,
                    f"Share of the heat in the box that lies within the object's mask, 0 to 1 ({field})",
                )
        return found

    def _name(self, field, what):
        """The attribute of a heatmap field: with its name where there are several."""
        return f"{self.key}_{what}" if len(self.fields) == 1 else f"{field}_{what}"

    @property
    def label_attributes(self):
        """Their paths."""
        return [f"{self.path}.{name}" for name in self.attributes]

    def own_fields(self, field):
        """The fields of single objects, the strongest first."""
        return [f"{field}_object{i + 1}" for i in range(self.maps)]

    def values(self, labels, shares):
        """What an object's label gets.

        Args:
            labels: ``{field: fo.Heatmap}`` of the crop, None of an object that was not explained
            shares: ``{field: share of heat in the mask}``
        """
        values = dict.fromkeys(self.attributes)
        for field in self.fields:
            status = _SEEN if labels is None else labels[field].status
            values[self._name(field, "status")] = status
            if self.masks:
                values[self._name(field, "in_mask")] = shares.get(field)
        told = next((v for v in (labels or {}).values() if v.score is not None), None)
        if told is not None:
            values.update({f"{self.key}_score": told.score, f"{self.key}_target": told.target})
        return values


def check_field(samples, name):
    """Raises a ValueError unless a field of the samples holds detections."""
    kind = getattr(samples.get_field(name), "document_type", None)
    if kind is fo.Detections:
        return
    usable = [
        field
        for field, found in samples.get_field_schema().items()
        if getattr(found, "document_type", None) is fo.Detections
    ]
    some = f"; those that do: {', '.join(usable)}" if usable else ", and no other field does"
    if samples.get_field(name) is None:
        raise ValueError(f"patches_field: the samples have no field {name!r} of detections{some}")
    what = getattr(kind, "__name__", type(samples.get_field(name)).__name__)
    raise ValueError(f"patches_field: {name!r} is a {what} and holds no detections{some}")


class PatchStep(ExplainStep):
    """Explains crops; their heatmaps lie on the images that they are from.

    Args:
        model: the :class:`LoadedModel`
        plan: the :class:`Plan` of the run
        samples: whose field has the masks
        rows: ``{id of the label: row}``
    """

    def __init__(self, model, plan, samples, rows):
        super().__init__(model, plan)
        self._samples, self._rows = samples, rows
        self._masks = {}
        self.shares = {}

    def __call__(self, batch):
        """Returns ``{label id: {field: label}}`` for a batch of the loader."""
        self._read_masks({self._rows[item.id].sample for item in batch.items})
        return super().__call__(batch)

    def _read_masks(self, ids):
        if not self._plan.patches.masks:
            return
        field = self._plan.patches.field
        view = self._samples.select(list(ids)).select_fields(field)
        self._masks = {
            label.id: label
            for sample in view
            for label in (sample[field] or fo.Detections()).detections
        }

    def make_label(self, item, field, heat, **values):
        """The label of one map, cut at the object's box; its share within the mask is kept beside it."""
        if heat is not None:
            heat = self._in_box(item.id, heat)
            share = self._in_mask(item.id, heat)
            if share is not None and values["status"] == "ok":
                self.shares.setdefault(item.id, {})[field] = share
        return super().make_label(item, field, heat, **values)

    def _in_box(self, label_id, heat):
        """Padding that transforms add around a crop is no heat on what lies beside the object."""
        height, width = heat.shape
        x, y, wide, high = self._rows[label_id].crop
        rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
        inside = ((rows >= y * height) & (rows <= (y + high) * height))[:, None] & (
            (columns >= x * width) & (columns <= (x + wide) * width)
        )[None]
        return np.where(inside, heat, 0)

    def _in_mask(self, label_id, heat):
        """The share of heat within the object's mask; None without a mask, or without heat."""
        label = self._masks.get(label_id)
        if label is None or not (label.has_mask and heat.sum() > 0 and np.isfinite(heat).all()):
            return None
        try:
            parts, _ = parts_of(label, lambda name: "object")
        except Unreadable:
            return None
        drawn = [part for part in parts if part.shape == "mask"]
        if not drawn:
            return None
        return float((heat * drawn[0].draw(heat.shape)).sum() / heat.sum())


class PatchWriter:
    """Puts together what was found of a sample's objects, and hands it over once all of them are through.

    A sample of which an object failed is not written: resuming tries it again.

    Args:
        writer: the :class:`~operators.data.heatmap_writer.Writer`
        plan: the :class:`Plan` of the run
        step: the :class:`PatchStep`
        rows: the rows of the objects
        todo: ids of the samples that are to be written
        unseen: ``{sample id: ids of its objects whose boxes have no area}``
    """

    def __init__(self, writer, plan, step, rows, todo, unseen):
        self._writer, self._plan, self._step = writer, plan, step
        self._sample_of = {row.id: row.sample for row in rows if row.sample in todo}
        self._waiting = {sample: set() for sample in todo}
        for label_id, sample in self._sample_of.items():
            self._waiting[sample].add(label_id)
        self._found = {sample: {} for sample in todo}
        self._unseen = unseen

    def __enter__(self):
        """Writes the samples without objects."""
        self._writer.__enter__()
        self._hand_over([sample for sample, left in self._waiting.items() if not left])
        return self

    def __exit__(self, *error):
        return self._writer.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self._writer, name)

    def put(self, results):
        """Takes ``{label id: {field: label}}``."""
        touched = []
        for label_id, labels in results.items():
            sample = self._sample_of[label_id]
            self._found[sample][label_id] = labels
            self._waiting[sample].discard(label_id)
            touched.append(sample)
        self._hand_over([s for s in dict.fromkeys(touched) if not self._waiting[s]])

    def _hand_over(self, samples):
        self._writer.put({sample: self._document(sample) for sample in samples})

    def _document(self, sample):
        """Everything that is written of a sample."""
        patches, found = self._plan.patches, self._found.pop(sample)
        unseen = self._unseen.get(sample, ())
        rows = {
            i: patches.values(labels, self._step.shares.pop(i, {})) for i, labels in found.items()
        }
        rows.update({i: patches.values(None, {}) for i in unseen})
        document = {}
        for field in patches.fields:
            labels = [found[i][field] for i in found]
            order = sorted(labels, key=lambda label: -_or_least(label.score, label.peak))
            document[field] = together(order, self._plan.cam_key)
            for number, own in enumerate(patches.own_fields(field)):
                document[own] = order[number] if number < len(order) else _none(self._plan.cam_key)
        if rows:
            document[patches.path] = LabelAttributes(patches.path, rows)
        return document


def _or_least(*numbers):
    return next((n for n in numbers if n is not None), -np.inf)


def _none(cam_key):
    return fo.Heatmap(status=ABSENT, cam_key=cam_key)


def together(labels, cam_key):
    """One heatmap of several: at each place the hottest, each by its own maximum.

    Args:
        labels: of the objects, the strongest first
        cam_key: the run's key

    Returns:
        a :class:`fiftyone.core.labels.Heatmap`; its score and peak are those of the strongest and highest
    """
    if not labels:
        return _none(cam_key)
    shown = [label for label in labels if label.map is not None]
    names = dict.fromkeys(label.target for label in labels if label.target is not None)
    peaks = [label.peak for label in labels if label.peak is not None]
    first = labels[0]
    return heatmap_writer.make_label(
        np.maximum.reduce([label.map for label in shown]) / 255 if shown else None,
        method=first.method,
        layer=first.layer,
        target=", ".join(names) or None,
        target_index=first.target_index if len(names) == 1 else None,
        score=first.score,
        peak=max(peaks, default=None),
        status="ok" if shown else first.status,
        cam_key=cam_key,
    )
