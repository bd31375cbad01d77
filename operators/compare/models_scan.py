"""One model over the samples: its predictions, and its map of the class that is compared."""

import numpy as np

from ..compute.explain_again import Explainer
from ..data.heatmap_reader import read_maps
from ..data.heatmap_writer import LONGEST_SIDE, heatmap_size, quantise
from ..jobs.inference import to_device
from ..runs import record as run_record
from .methods_scan import KEPT


class ModelTable:
    """Numbers of n samples under K models; -1 and NaN where there is none.

    Args:
        rows: list of ``(id, filepath)``
        models: K

    Attributes:
        ids, paths: of the samples
        targets: (n,) the class that is compared
        predicted: (n, K) classes; of multi-label networks the compared class where it is given, else
            the number of classes: the others do not take its place
        score: (n, K) probability of the compared class
        maps: (n, K, KEPT, KEPT) heat over the image
        forwards: images through a model
        recomputed: maps that were computed because the stored one is of another class
    """

    def __init__(self, rows, models):
        count = len(rows)
        self.ids, self.paths = [r[0] for r in rows], [r[1] for r in rows]
        self.index = {sample_id: i for i, sample_id in enumerate(self.ids)}
        self.targets = np.full(count, -1)
        self.predicted = np.full((count, models), -1)
        self.score = np.full((count, models), np.nan)
        self.maps = np.full((count, models, KEPT, KEPT), np.nan, np.float32)
        self.forwards = self.recomputed = self.bytes_written = 0

    def put(self, results):
        """Takes what :class:`ModelStep` returned; the pipeline's writer."""
        for sample_id, (k, target, predicted, score, heat) in results.items():
            i = self.index[sample_id]
            self.targets[i], self.predicted[i, k] = target, predicted
            self.score[i, k], self.maps[i, k] = score, heat


class ModelStep:
    """Sees a batch with one model.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        model: the :class:`LoadedModel`
        column: the :class:`~operators.compare.columns.Column` of its run
        k: its place among the models
        stored: the :class:`~operators.compare.columns.Stored` of all models
        table: the :class:`ModelTable`, whose targets say which class is meant
        precision: of the forwards
    """

    def __init__(self, dataset, model, column, k, stored, table, precision):
        self._dataset, self._model, self._column, self._k = dataset, model, column, k
        self._stored, self._table, self._precision = stored, table, precision
        self._explainer = Explainer(dataset, model, [column])
        used = run_record.config_of(dataset, column.cam_key).settings
        self._longest = used.get("heatmap_size") or LONGEST_SIDE

    def __call__(self, batch):
        """Returns ``{sample id: (place, class, predicted class, probability, map)}``."""
        from ..jobs.inference import probabilities_of

        ids = [item.id for item in batch.items]
        images = to_device(self._model, batch.images)
        probabilities = probabilities_of(self._model, images, self._precision).numpy()
        self._table.forwards += len(images)
        best = probabilities.argmax(1)
        targets = self._table.targets[[self._table.index[i] for i in ids]]
        # what the first model predicts, where nothing else says which class
        targets = np.where(targets < 0, best, targets) if self._k == 0 else targets
        if getattr(self._model.adapted, "multi_label", False):
            own = probabilities[np.arange(len(ids)), np.maximum(targets, 0)]
            given = (targets >= 0) & (own >= self._model.adapted.threshold)
            best = np.where(given, targets, probabilities.shape[1])
        maps = self._maps(batch, images, ids, targets)
        return {
            sample_id: (
                self._k, targets[row], best[row],
                probabilities[row, targets[row]] if targets[row] >= 0 else np.nan, maps[row],
            )
            for row, sample_id in enumerate(ids)
        }  # fmt: skip

    def _maps(self, batch, images, ids, targets):
        rows = [self._stored.index[i] for i in ids]
        same = self._stored.targets[rows, self._k] == targets
        maps = np.full((len(ids), KEPT, KEPT), np.nan, np.float32)
        kept = [i for i, ok in zip(ids, same, strict=True) if ok]
        if kept:
            found = read_maps(self._dataset, kept, [self._column.field])
            for row, sample_id in enumerate(ids):
                if same[row] and found[sample_id][0] is not None:
                    maps[row] = _small(found[sample_id][0])
        other = np.flatnonzero(~same & (targets >= 0))
        if len(other):
            maps[other] = self._explained(batch, images, targets, other)
        return maps

    def _explained(self, batch, images, targets, rows):
        """Maps of another class than the stored one, as they would have been stored."""
        import torch

        if self._explainer.method(self._column) is None:
            key = self._column.cam_key
            why = self._explainer.reasons.get(key, "its record does not have the method")
            raise ValueError(
                f"the stored heatmap of {key!r} is of another class, and cannot be made again: {why}"
            )
        wanted = torch.as_tensor(targets[rows])
        found = self._explainer.explain(self._column, images[rows], wanted)
        self._table.forwards += len(rows)
        self._table.recomputed += len(rows)
        maps = found.maps[self._column.method, self._column.layer][:, 0].cpu()
        return np.stack([
            self._as_stored(heat, found.window(self._column.layer, batch.items[row].window))
            for heat, row in zip(maps, rows, strict=True)
        ])  # fmt: skip

    def _as_stored(self, heat, window):
        """A raw map (h, w) as it would be read from the database; NaN where that has no map."""
        from ...cam_core.spatial import maps as cam_maps
        from ...cam_core.spatial.geometry import project

        if cam_maps.status(heat) != "ok":
            return np.full((KEPT, KEPT), np.nan, np.float32)
        height, width = window.image
        positive = project(
            cam_maps.rectify(heat), window, heatmap_size(width, height, self._longest)
        )
        shown = cam_maps.normalise(positive, cam_maps.cut_of(self._column.layer))
        return _small(quantise(shown.numpy()) / 255)


def _small(heat):
    """(KEPT, KEPT) of heat over a whole image, averaged."""
    import torch
    import torch.nn.functional as F

    tensor = torch.from_numpy(np.ascontiguousarray(heat, np.float32))[None, None]
    return F.adaptive_avg_pool2d(tensor, KEPT)[0, 0].numpy()
