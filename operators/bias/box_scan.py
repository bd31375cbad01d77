"""The boxes of a dataset as units: where they are, and what the detector makes of them."""

import numpy as np

from ..data.object_reader import plain
from ..data.samples import read_values
from ..jobs.inference import Predictor, forwarded
from ..targets.true_labels import index_of_names
from .pictures import working_side
from .units import MEASURES, Units

_READ = 500


class BoxScan(Units):
    """The boxes of N samples and what the detector makes of them.

    Args:
        samples: where the field is read from
        rows: list of N ``(id, filepath)``
        field: of Detections
        classes: the model's class names, or None
        aliases: class of the model -> label or labels of the dataset
        wanted: names of the objects that are tested, or None for all

    Attributes:
        names: R labels
        units_of_image: N lists of the units of each sample
        score: (R,) confidence of the best candidate at the box, NaN where the sample failed
        pictures: a :class:`PictureRows` of the samples
        heat: (R, 4) of :func:`~cam_core.bias.object_swap_test.object_heat_features`, or None
    """

    def __init__(self, samples, rows, field, classes, aliases, wanted):
        chosen = None if wanted is None else {plain(name) for name in wanted}
        found = [
            one
            for one in _read_objects(samples, field, [row[0] for row in rows])
            if chosen is None or plain(one[2]) in chosen
        ]
        super().__init__(rows, [sample for sample, *_ in found])
        self.units_of_image, self.pictures, self.heat = (
            self.units_of_images(),
            PictureRows(rows),
            None,
        )
        self.label_ids, self.names = [one[1] for one in found], [one[2] for one in found]
        boxes = np.array([one[3] for one in found], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        self.boxes = np.clip(boxes, 0, 1)
        self.area = (self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1])
        indices = index_of_names(classes or [], aliases or {})
        self.explained = np.array([indices.get(plain(n), -1) if n else -1 for n in self.names], int)
        self.values = self.values.astype(float)
        self.reliable[:], self.object_status[:], self.object_source[:] = True, "ok", "box"
        self.object_scope = np.full(len(found), "its worst object")
        self.samples_written = self.bytes_written = 0

    def put(self, results):
        """Takes what :class:`BoxScanStep` returned; the pipeline's writer."""
        for sample_id, (side, scores) in results.items():
            i = self.pictures.index[sample_id]
            self.pictures.side[i] = side
            self.score[self.units_of_image[i]] = scores
            self.samples_written += 1

    def contents(self, rows):
        """The class indices that samples hold, the largest object's first; unknown classes as -2 - n."""
        held = []
        for i in rows:
            units = sorted(self.units_of_image[i], key=lambda u: -self.area[u])
            held.append(list(dict.fromkeys(int(self.explained[u]) for u in units)))
        return held

    def add_heat(self, in_box):
        """Takes the share of each object's heat in its own box; NaN where it was not explained."""
        from ...cam_core.bias.object_swap_test import object_heat_features

        self.heat = object_heat_features(in_box, self.area, self.score)
        self.values[:, MEASURES.index("obj_energy")] = in_box
        self.values[:, MEASURES.index("density_share")] = 1 - self.heat[:, 0]

    def features(self):
        """What heat is calibrated on; None without heat."""
        return self.heat


class PictureRows:
    """What is needed to read the picture of each of N samples.

    Args:
        rows: list of N ``(id, filepath)``

    Attributes:
        ids, paths: of the samples
        index: sample id -> its place
        side: (N,) longest side at which the picture is kept for composites
    """

    def __init__(self, rows):
        self.ids, self.paths = [row[0] for row in rows], [row[1] for row in rows]
        self.index = {sample_id: i for i, sample_id in enumerate(self.ids)}
        self.side = np.zeros(len(rows), int)


def _read_objects(samples, field, ids):
    """Yields (place of the sample, id of the label, its name, its box)."""
    paths = ["id", *(f"{field}.detections.{n}" for n in ("id", "label", "bounding_box"))]
    place = {sample_id: i for i, sample_id in enumerate(ids)}
    for start in range(0, len(ids), _READ):
        view = samples.select(ids[start : start + _READ])
        for sample_id, label_ids, names, boxes in zip(*read_values(view, paths), strict=True):
            for label_id, name, box in zip(label_ids or [], names or [], boxes or [], strict=True):
                if box and len(box) == 4 and box[2] > 0 and box[3] > 0:
                    yield place[sample_id], str(label_id), name, box


class _Places:
    """Reads scores at boxes off a detector's outputs."""

    def __init__(self, model):
        self.model = model
        self.confidence = model.adapted.confidence

    def read(self, outputs, row, boxes, labels, window):
        """(k,) scores and classes found of boxes given as shares of the upright image."""
        import torch

        from ...cam_core.bias.object_swap_test import object_scores, tensor_boxes
        from ...cam_core.spatial.boxes import boxes_to_input

        inside = boxes_to_input(tensor_boxes(boxes, window.image), window, outputs.input_size)
        known = np.asarray(labels) >= 0
        scores, winners = np.zeros(len(known)), np.full(len(known), -1)
        scores[known], winners[known] = object_scores(
            outputs.candidates[row],
            inside[torch.from_numpy(known)],
            torch.as_tensor(np.asarray(labels)[known]),
            confidence=self.confidence,
            background=self.model.adapted.background,
        )
        return scores, winners

    def run(self, images, precision="float32"):
        """The detector's outputs for a batch."""
        return forwarded(self.model, images, precision)


class BoxScanStep:
    """Scores each annotated box of a batch.

    Args:
        model: the :class:`LoadedModel`
        scan: the :class:`BoxScan`
        precision: of the forward
    """

    def __init__(self, model, scan, precision):
        self._places, self._scan, self._precision = _Places(model), scan, precision

    def __call__(self, batch):
        """Returns ``{sample id: (side of the working picture, scores of its objects)}``."""
        outputs = self._places.run(batch.images, self._precision)
        scan, results = self._scan, {}
        for row, item in enumerate(batch.items):
            units = scan.units_of_image[scan.pictures.index[item.id]]
            scores, _ = self._places.read(
                outputs, row, scan.boxes[units], scan.explained[units], item.window
            )
            results[item.id] = working_side(item.window, outputs.input_size), scores
        return results


class BoxPredictor(Predictor):
    """Answers a list of :class:`~cam_core.bias.object_swap_test.Query`; each picture is run once.

    Args:
        model: the :class:`LoadedModel` of a detector
        workers: see :class:`Predictor`
        precision ("float32"): likewise
    """

    def __init__(self, model, workers, precision="float32"):
        super().__init__(model, workers, precision)
        self._places = _Places(model)
        self._geometry = model.geometry

    def __call__(self, queries):
        """Returns for each query its scores and the classes found, (k,) each."""
        return self.answers([query.image for query in queries], queries)

    def read(self, batch, queries):
        """The scores and classes of each query's boxes."""
        outputs, found = self._places.run(batch, self._precision), []
        for place, query in enumerate(queries):
            window = self._geometry.window(*query.image.shape[:2])
            found.append(self._places.read(outputs, place, query.boxes, query.labels, window))
        return found
