"""The first pass: scores, raw maps and their measures for every sample.

What is kept of a sample is a few numbers; its map, small, goes into a file on disk.
"""

import os

import numpy as np

from ..data.objects import GRID
from .pictures import working_side
from .units import MEASURES, Units

#: side of the maps that are kept, over the whole image
KEPT = 28


class Scan(Units):
    """The units of a classifier, filled batch by batch.

    A unit is a sample; of a multi-label network a sample has a unit for each of its classes.

    Args:
        rows: list of ``(id, filepath)``
        plan: the :class:`RecordedPlan`
        folder: where the file of small maps goes
        slots (1): units of a sample

    Attributes:
        index: sample id -> its first unit
        slot: (R,) which of its sample's classes a unit is, 0 for the strongest
        having: (classes,) how many samples have each class from the model's threshold on; of a
            multi-label network
        scored: how many samples have scores
        side: (R,) longest side at which the picture is kept for composites
        pixels: (R,) of the image
        other_fields: ``{heatmap field: (R, 2)}`` obj_energy and its area of the run's other maps
        maps: (R, KEPT, KEPT) heat over the whole image, its maximum 1
        classes: of the model
    """

    def __init__(self, rows, plan, folder, slots=1):
        super().__init__(rows, np.repeat(np.arange(len(rows)), slots))
        count, self.slots, self._folder = len(self.image_index), slots, folder
        self.index = {row[0]: i * slots for i, row in enumerate(rows)}
        self.slot = np.tile(np.arange(slots), len(rows))
        self.having, self.scored = np.zeros(1, int), 0
        self.side = np.zeros(count, int)
        self.pixels = np.zeros(count, int)
        others = [f for fields in plan.ranks for key, f in fields.items() if key != plan.primary]
        self.other_fields = {f: np.full((count, 2), np.nan, np.float32) for f in others}
        self.classes = 0
        self.object_reasons = {}
        self.maps = np.lib.format.open_memmap(
            os.path.join(folder, "maps.npy"), "w+", np.float16, (count, KEPT, KEPT)
        )
        self.samples_written = self.bytes_written = 0

    def put(self, results):
        """Takes what :class:`ScanStep` returned; the pipeline's writer."""
        for sample_id, found in results.items():
            for slot, row in enumerate(found if isinstance(found, list) else [found]):
                self._put(self.index[sample_id] + slot, row)
            self.samples_written += 1

    def _put(self, i, row):
        for name, value in row.items():
            if name == "others":
                for field, pair in value.items():
                    self.other_fields[field][i] = pair
            elif name == "reason":
                if value:
                    self.object_reasons[i] = value
            else:
                getattr(self, name)[i] = value

    def count(self, probabilities, threshold):
        """Counts who has which class of a multi-label network.

        Args:
            probabilities: (B, classes) array of a batch of samples
            threshold: from which on a class is there
        """
        known = np.isfinite(probabilities).all(1)
        self.scored += int(known.sum())
        self.having = self.having + (probabilities[known] >= threshold).sum(0)

    def keep(self, kept):
        """Keeps some rows.

        Args:
            kept: (N,) bool
        """
        if kept.all():
            return
        rows = np.flatnonzero(kept)
        self.ids, self.paths = [self.ids[r] for r in rows], [self.paths[r] for r in rows]
        for name in (
            "slot", "image_index", "explained", "predicted", "score", "area", "reliable", "values",
            "heat_status", "object_status", "object_source", "object_scope", "side", "pixels",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[rows])
        self.other_fields = {f: pairs[rows] for f, pairs in self.other_fields.items()}
        place = {int(row): i for i, row in enumerate(rows)}
        self.object_reasons = {place[r]: v for r, v in self.object_reasons.items() if r in place}
        self.index = {}
        for i, sample_id in enumerate(self.ids):
            self.index.setdefault(sample_id, i)
        maps = np.lib.format.open_memmap(
            os.path.join(self._folder, "kept.npy"), "w+", np.float16, (len(rows), KEPT, KEPT)
        )
        for start in range(0, len(rows), 1000):
            maps[start : start + 1000] = self.maps[rows[start : start + 1000]]
        self.maps = maps

    def features(self):
        """What heat is calibrated on; rows of NaN where it is undefined or no map was judged."""
        from ...cam_core.bias.calibration import heat_features

        return heat_features(
            self.column("density_share_tol"),
            self.column("obj_energy"),
            self.column("entropy"),
            self.area,
            self.score,
        )


class ScanStep:
    """Explains a batch and measures its maps against the objects.

    Args:
        model: the :class:`LoadedModel`
        plan: the :class:`RecordedPlan`
        objects: the :class:`AnnotatedObjects`
        scan: the :class:`Scan`, which is told how many classes there are
    """

    def __init__(self, model, plan, objects, scan):
        self._model = model
        self._plan = plan
        self._objects = objects
        self._scan = scan

    def __call__(self, batch):
        """Returns ``{sample id: [{attribute of the scan: value}, ...]}`` for a batch of the loader."""
        result = self._plan.explain(self._model, batch.images)
        if result.probabilities is None:
            raise ValueError("model: it gives no class scores for the whole image")
        probabilities = result.probabilities.cpu()
        self._scan.classes = probabilities.shape[1]
        if getattr(self._model.adapted, "multi_label", False):
            self._scan.count(probabilities.numpy(), self._model.adapted.threshold)
        slots = [
            self._slot(result, batch, probabilities, k)
            for k in range(min(self._scan.slots, result.targets.shape[1]))
        ]
        return {item.id: [rows[item.id] for rows in slots] for item in batch.items}

    def _slot(self, result, batch, probabilities, k):
        """``{sample id: {attribute: value}}`` of the k-th class of each sample."""
        explained = result.targets[:, k].tolist()
        best = probabilities.argmax(1).tolist()
        rows = {}
        for i, item in enumerate(batch.items):
            row = rows[item.id] = {"side": working_side(item.window, result.input_size)}
            row["pixels"] = item.window.image[0] * item.window.image[1]
            score = float(probabilities[i, explained[i]]) if explained[i] >= 0 else np.nan
            if np.isfinite(score):
                row.update(explained=explained[i], predicted=best[i], score=score)
        self._add_objects(result, batch, rows, k)
        return rows

    def _add_objects(self, result, batch, rows, k):
        from ...cam_core.spatial.maps import normalise
        from ...cam_core.spatial.masks import on_images

        masks = self._masks(batch, rows)
        _add_status(batch, rows, masks)
        if self._plan.primary is not None:
            maps = result.maps[self._plan.primary][:, k].cpu()
            windows = _windows(result, self._plan.primary[1], batch)
            clean = maps.nan_to_num(0, 0, 0)
            small = normalise(on_images(normalise(clean.relu()), windows, (KEPT, KEPT))[0]).numpy()
            measured = measured_heat(maps, masks, windows)
            columns = np.stack([getattr(measured, name).numpy() for name in MEASURES], 1)
            for i, item in enumerate(batch.items):
                rows[item.id].update(
                    maps=small[i],
                    values=columns[i],
                    area=float(measured.area[i]),
                    reliable=bool(measured.reliable[i]),
                    heat_status=_of_heat(measured.status[i]),
                )
        for key, field in self._plan.ranks[min(k, len(self._plan.ranks) - 1)].items():
            if key != self._plan.primary and key in result.maps:
                windows = _windows(result, key[1], batch)
                other = measured_heat(result.maps[key][:, k].cpu(), masks, windows)
                for item, energy, area in zip(
                    batch.items, other.obj_energy.tolist(), other.area.tolist(), strict=True
                ):
                    rows[item.id].setdefault("others", {})[field] = energy, area

    def _masks(self, batch, rows):
        """Maps ids to (ObjectMasks, scope); None without objects."""
        if not self._objects:
            return None
        names = {
            i.id: self._model.label(rows[i.id]["explained"]) if "explained" in rows[i.id] else None
            for i in batch.items
        }
        found, scopes = self._objects.read([i.id for i in batch.items], names)
        return {i: (found[i], scopes[i]) for i in found}


def _add_status(batch, rows, masks):
    for item in batch.items:
        row = rows[item.id]
        if masks is None:
            row["object_status"] = "no_object"
            continue
        own, scope = masks[item.id]
        row.update(object_status=own.status, object_scope=scope, reason=own.reason)
        row["object_source"] = own.source or ""
        if own.status == "ok":
            row["area"] = float(own.object.mean())


def _of_heat(status):
    """What a status says of the heat alone; that there is no object is said elsewhere."""
    return "ok" if status in ("no_object", "object_absent") else status


def _windows(result, layer, batch):
    """What the cells of a layer cover of each image of a batch."""
    return [result.window(layer, item.window) for item in batch.items]


def measured_heat(maps, masks, windows):
    """The measures of maps (N, h, w) against the objects of their images."""
    import torch

    from ...cam_core.metrics.localization import measure
    from ..data.object_reader import stack_objects

    if masks is None:
        regions = {"objects": torch.zeros(len(maps), *GRID)}
    else:
        regions = stack_objects([own for own, _ in masks.values()])
        regions.pop("instances", None)
    return measure(maps, **regions, windows=windows)
