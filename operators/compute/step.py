"""The step of ``compute_cams``: a batch of images becomes labels for the samples' fields."""

import dataclasses

from ..data import heatmap_writer
from ..jobs.inference import to_device
from ..models import zoo
from ..runs.predictions import prediction_of
from ..targets.columns import ABSENT, RunTargets, against_tag
from . import memory_format
from .object_labels import detection_labels
from .objects import explain_detections


class ExplainStep:
    """Explains a batch and lays the heatmaps on the original images.

    Args:
        model: the :class:`LoadedModel`
        plan: the :class:`Plan` of the run
    """

    def __init__(self, model, plan):
        self._model = model
        self._plan = plan

    def explain(self, images, columns=None, items=None):
        """Runs the engine on a batch (N, C, h, w) of the loader.

        Args:
            images: the batch
            columns (None): what is explained, of :meth:`columns`; by default what would be if every
                image were the trial image
            items (None): the :class:`Item` of each image, whose objects a detector explains

        Returns:
            a ``cam_core.Explanation``
        """
        from ...cam_core import explain

        plan = self._plan
        images = to_device(self._model, images)
        if self._model.kind == zoo.DETECTOR:
            return explain_detections(self._model, images, plan, items)
        if columns is None:
            columns = self.columns([plan.trial_item] * len(images), images)
        return explain(
            self._model.adapted,
            memory_format.arranged(images, plan.memory_format),
            methods=plan.methods,
            targets=plan.targets if columns is None else [column.spec for column in columns],
            layers=plan.layers,
            fuse=plan.fuse,
            precision=plan.precision,
            seed=plan.seed,
            measure_places=plan.measure_places,
        )

    def columns(self, items, images):
        """Returns what is explained of each item, or None where the engine is told in one word."""
        if not isinstance(self._plan.targets, RunTargets):
            return None
        return self._plan.targets.columns(items, tuple(images.shape[-2:]))

    def explain_cheaply(self, images):
        """The run's forward and backward without its methods: to time batch sizes with."""
        plan = dataclasses.replace(self._plan, methods=["gradcam"], fuse=None)
        return ExplainStep(self._model, plan).explain(images)

    def __call__(self, batch):
        """Returns ``{sample id: {field: label}}`` for a batch of the loader."""
        columns = self.columns(batch.items, batch.images)
        result = self.explain(batch.images, columns, batch.items)
        labels = {item.id: {} for item in batch.items}
        self._add_heatmaps(result, batch, labels, columns)
        if self._plan.prediction_field is not None:
            self._add_predictions(result, batch, labels)
        if self._plan.objects:
            own = detection_labels(self._model, result, batch, self._plan.objects)
            for item, values in zip(batch.items, own, strict=True):
                labels[item.id].update(values)
        return labels

    def _add_heatmaps(self, result, batch, labels, columns):
        for (method, layer), maps in result.maps.items():
            if method in self._plan.classless:
                maps = result.class_free[method, layer][:, None]
            own = [self._plan.fields.get((method, layer, tag)) for tag in self._plan.tags]
            against = [
                self._plan.fields.get((method, layer, against_tag(tag))) for tag in self._plan.tags
            ]
            described = self._described(method, result, columns)
            for fields, signed in ((own, maps), (against, -maps)):
                if any(fields):
                    key = (method, layer)
                    self._add_maps(key, signed, fields, described, result, batch, labels, columns)

    def _add_maps(self, key, maps, fields, described, result, batch, labels, columns):
        """The labels of one method and layer, for every target that has a field."""
        method, layer = key
        own = result.component_scores[key].tolist() if key in result.component_scores else None
        peaks, status, heats = self._on_images(maps, batch, layer, result)
        for row, item in enumerate(batch.items):
            for k, field in enumerate(fields):
                if field is None:
                    continue
                there = k < maps.shape[1]  # a prediction may have fewer classes than fields
                free = method in self._plan.classless  # a map that needs no target
                valid = there and (free or bool(result.valid[row][k]))
                labels[item.id][field] = self.make_label(
                    item,
                    field,
                    heats[row][k] if there else None,
                    method=method,
                    layer=layer,
                    peak=peaks[row][k] if there else None,
                    status=status[row][k] if valid else _missing(columns, row, k),
                    cam_key=self._plan.cam_key,
                    component_score=own[row][k] if own and there else None,
                    **described(row, k),
                )

    def make_label(self, item, field, heat, **values):
        """The label of one map, see :func:`operators.data.heatmap_writer.make_label`."""
        return heatmap_writer.make_label(heat, **values)

    def _described(self, method, result, columns):
        """What a map is of: nothing in particular where it is the same for every target."""
        if method in self._plan.classless:
            return lambda row, k: {"target": None, "target_index": None, "score": None}
        targets, scores = result.targets.tolist(), result.scores.tolist()

        def described(row, k):
            there = k < len(targets[row])
            index = targets[row][k] if there else -1
            name = columns[k].name(row, index) if columns else None
            if name is None and k == 0 and self._plan.objects:
                name, index = self._of_objects(result, row)
            if name is None:
                name = self._model.label(index) if index >= 0 else self._plan.tags[k]
            ranked = index < 0 and self._plan.targets == "predicted" and name.startswith("top")
            return {
                "target": None if ranked else name,  # there is no such class in this image
                "target_index": index if index >= 0 else None,
                "score": scores[row][k] if there else None,
            }

        return described

    def _of_objects(self, result, row):
        """Names of the classes of an image's objects, the surest first, and the index where it is one."""
        found = result.details[0].explanation
        sure = found.probabilities[row].nan_to_num(-1).argsort(descending=True, stable=True)
        labels = [found.labels[row][i].item() for i in sure if found.valid[row][i]]
        indices = list(dict.fromkeys(labels))
        names = ", ".join(map(self._model.label, indices)) or None
        return names, indices[0] if len(indices) == 1 else -1

    def _on_images(self, maps, batch, layer, result):
        """(peaks, statuses, heats) of maps (N, K, h, w); heats are (K, H, W) arrays per image."""
        from ...cam_core.spatial import maps as cam_maps
        from ...cam_core.spatial.geometry import project

        status = cam_maps.status(maps)
        positive = cam_maps.rectify(maps)
        peaks = positive.amax((-2, -1)).tolist()
        heats = [None] * len(batch)
        for window, rows in _by_window(batch.items).items():
            height, width = window.image
            size = heatmap_writer.heatmap_size(width, height, self._plan.heatmap_size)
            heat = (
                cam_maps.normalise(
                    project(positive[rows], result.window(layer, window), size),
                    cam_maps.cut_of(layer),
                )
                .cpu()
                .numpy()
            )
            for row, array in zip(rows, heat, strict=True):
                heats[row] = array
        return peaks, status, heats

    def _add_predictions(self, result, batch, labels):
        if result.probabilities is None:
            return
        for item, row in zip(batch.items, result.probabilities.tolist(), strict=True):
            labels[item.id][self._plan.prediction_field] = prediction_of(self._model, row)


def _missing(columns, row, k):
    return columns[k].status(row) if columns else ABSENT


def _by_window(items):
    groups = {}
    for row, item in enumerate(items):
        groups.setdefault(item.window, []).append(row)
    return groups
