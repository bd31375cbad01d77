"""The step of ``compute_cams``: a batch of images becomes labels for the samples' fields."""

import dataclasses

import fiftyone as fo

from . import _heatmaps, _zoo
from ._detections import explain_detections


class ExplainStep:
    """Explains a batch and lays the heatmaps on the original images.

    Args:
        model: the :class:`LoadedModel`
        plan: the :class:`Plan` of the run
    """

    def __init__(self, model, plan):
        self._model = model
        self._plan = plan

    def explain(self, images):
        """Runs the engine on a batch (N, C, h, w) of the loader.

        Returns:
            a ``cam_core.Explanation``
        """
        from ..cam_core import explain

        plan = self._plan
        like = next(self._model.module.parameters(), None)
        if like is not None:
            images = images.to(device=self._model.device, dtype=like.dtype, non_blocking=True)
        if self._model.kind == _zoo.DETECTOR:
            return explain_detections(self._model, images, plan)
        return explain(
            self._model.adapted,
            images,
            methods=plan.methods,
            targets=plan.targets,
            layers=plan.layers,
            fuse=plan.fuse,
            precision=plan.precision,
            seed=plan.seed,
        )

    def explain_cheaply(self, images):
        """The run's forward and backward without its methods: to time batch sizes with."""
        plan = dataclasses.replace(self._plan, methods=["gradcam"], fuse=None)
        return ExplainStep(self._model, plan).explain(images)

    def __call__(self, batch):
        """Returns ``{sample id: {field: label}}`` for a batch of the loader."""
        result = self.explain(batch.images)
        labels = {item.id: {} for item in batch.items}
        self._add_heatmaps(result, batch, labels)
        if self._plan.prediction_field is not None:
            self._add_predictions(result, batch, labels)
        return labels

    def _add_heatmaps(self, result, batch, labels):
        numbers = {key: values.tolist() for key, values in result.component_scores.items()}
        for (method, layer), maps in result.maps.items():
            fields = [self._plan.fields.get((method, layer, tag)) for tag in self._plan.tags]
            if not any(fields):
                continue
            described = self._described(method, result)
            peaks, status, heats = self._on_images(maps, batch, layer)
            for row, item in enumerate(batch.items):
                for k, field in enumerate(fields):
                    if field is None:
                        continue
                    own = numbers.get((method, layer))
                    labels[item.id][field] = _heatmaps.make_label(
                        heats[row][k],
                        method=method,
                        layer=layer,
                        peak=peaks[row][k],
                        status=status[row][k] if result.valid[row][k] else "target_absent",
                        cam_key=self._plan.cam_key,
                        component_score=own[row][k] if own else None,
                        **described(row, k),
                    )

    def _described(self, method, result):
        """What a map is of: nothing in particular where it is the same for every target."""
        if method in self._plan.classless:
            return lambda row, k: {"target": None, "target_index": None, "score": None}
        targets, scores = result.targets.tolist(), result.scores.tolist()

        def described(row, k):
            index = targets[row][k]
            return {
                "target": self._plan.tags[k] if index < 0 else self._model.label(index),
                "target_index": index if index >= 0 else None,
                "score": scores[row][k],
            }

        return described

    def _on_images(self, maps, batch, layer):
        """(peaks, statuses, heats) of maps (N, K, h, w); heats are (K, H, W) arrays per image."""
        from ..cam_core import maps as cam_maps
        from ..cam_core.geometry import project

        status = cam_maps.status(maps)
        positive = cam_maps.rectify(maps)
        peaks = positive.amax((-2, -1)).tolist()
        heats = [None] * len(batch)
        for window, rows in _by_window(batch.items).items():
            height, width = window.image
            size = _heatmaps.heatmap_size(width, height, self._plan.heatmap_size)
            heat = (
                cam_maps.normalise(project(positive[rows], window, size), cam_maps.cut_of(layer))
                .cpu()
                .numpy()
            )
            for row, array in zip(rows, heat, strict=True):
                heats[row] = array
        return peaks, status, heats

    def _add_predictions(self, result, batch, labels):
        if result.probabilities is None or self._model.kind == _zoo.SEGMENTER:
            return  # a picture of many classes has no one class
        confidence, index = result.probabilities.max(1)
        for item, c, i in zip(batch.items, confidence.tolist(), index.tolist(), strict=True):
            label = fo.Classification(label=self._model.label(i), confidence=c)
            labels[item.id][self._plan.prediction_field] = label


def _by_window(items):
    groups = {}
    for row, item in enumerate(items):
        groups.setdefault(item.window, []).append(row)
    return groups
