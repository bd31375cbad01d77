"""``find_background_bias`` of a detector: each object's surroundings are replaced, one by one.

The unit is the object; a sample takes the worst of its own.
"""

import numpy as np

from ..data.object_reader import kind_of, plain
from ..jobs.base import phased
from ..jobs.inference import Predictor, forwarded
from ..targets.true_labels import index_of_names
from .object_findings import assessed
from .params import PROBE
from .pictures import working_side
from .swap import CausalTests, choose_probe

_READ = 500


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


class ObjectScan:
    """The objects of N samples and what the detector makes of them.

    Args:
        rows: list of ``(id, filepath)``
        samples: where the field is read from
        field: of Detections
        classes: the model's class names, or None
        aliases: class of the model -> label or labels of the dataset
        wanted: names of the objects that are tested, or None for all

    Attributes:
        ids, paths: of the samples
        homes: (n,) which sample each object is in
        label_ids: n ids of the objects' labels
        names: n labels
        labels: (n,) class indices, -1 where the model has no such class
        boxes: (n, 4) left, top, right, bottom, as shares of the image
        mine: N lists of the objects of each sample
        score: (n,) confidence of the best candidate at the box, NaN where the sample failed
        side: (N,) longest side at which the picture is kept for composites
    """

    def __init__(self, rows, samples, field, classes, aliases, wanted):
        self.ids, self.paths = [row[0] for row in rows], [row[1] for row in rows]
        self.index = {sample_id: i for i, sample_id in enumerate(self.ids)}
        self.homes, self.label_ids, self.names, boxes = [], [], [], []
        self.mine = [[] for _ in rows]
        names = index_of_names(classes or [], aliases or {})
        chosen = None if wanted is None else {plain(name) for name in wanted}
        for i, label_id, name, box in _read_objects(samples, field, self.ids):
            if chosen is not None and plain(name) not in chosen:
                continue
            self.mine[i].append(len(self.homes))
            self.homes.append(i)
            self.label_ids.append(label_id)
            self.names.append(name)
            left, top, width, height = box
            boxes.append([left, top, left + width, top + height])
        self.homes = np.array(self.homes, int)
        self.boxes = np.clip(np.array(boxes, float).reshape(-1, 4), 0, 1)
        self.labels = np.array([names.get(plain(n), -1) if n else -1 for n in self.names], int)
        self.score = np.full(len(self.homes), np.nan)
        self.side = np.zeros(len(rows), int)
        self.samples_written = self.bytes_written = 0

    def put(self, results):
        """Takes what :class:`ObjectScanStep` returned; the pipeline's writer."""
        for sample_id, (side, scores) in results.items():
            i = self.index[sample_id]
            self.side[i] = side
            self.score[self.mine[i]] = scores
            self.samples_written += 1

    def contents(self, rows):
        """The class indices that samples hold, the largest object's first; unknown classes as -2 - n."""
        area = (self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1])
        held = []
        for i in rows:
            units = sorted(self.mine[i], key=lambda u: -area[u])
            held.append(list(dict.fromkeys(int(self.labels[u]) for u in units)))
        return held


def _read_objects(samples, field, ids):
    """Yields (place of the sample, id of the label, its name, its box)."""
    paths = ["id", *(f"{field}.detections.{n}" for n in ("id", "label", "bounding_box"))]
    place = {sample_id: i for i, sample_id in enumerate(ids)}
    for start in range(0, len(ids), _READ):
        view = samples.select(ids[start : start + _READ])
        for sample_id, label_ids, names, boxes in zip(*view.values(paths), strict=True):
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


class ObjectScanStep:
    """Looks what a detector makes of the objects of a batch.

    Args:
        model: the :class:`LoadedModel`
        scan: the :class:`ObjectScan`
        precision: of the forward
    """

    def __init__(self, model, scan, precision):
        self._places, self._scan, self._precision = _Places(model), scan, precision

    def __call__(self, batch):
        """Returns ``{sample id: (side of the working picture, scores of its objects)}``."""
        outputs = self._places.run(batch.images, self._precision)
        scan, results = self._scan, {}
        for row, item in enumerate(batch.items):
            units = scan.mine[scan.index[item.id]]
            scores, _ = self._places.read(
                outputs, row, scan.boxes[units], scan.labels[units], item.window
            )
            results[item.id] = working_side(item.window, outputs.input_size), scores
        return results


class ObjectPredictor(Predictor):
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


def examine_objects(job):
    """Scores every object, and swaps the surroundings of those that are probed.

    Args:
        job: the :class:`BiasJob`

    Yields:
        a :class:`Phase`, now and then

    Returns:
        :class:`ObjectFindings`
    """
    s, model = job.settings, job.model
    scan = ObjectScan(
        job.rows, job.samples, job.object_field, model.classes, s.aliases, _named(s.object_classes)
    )
    if not len(scan.homes):
        raise ValueError(f"objects: {job.object_field!r} holds no boxes to test")
    precision = "float32" if s.precision == "auto" else s.precision
    step = ObjectScanStep(model, scan, precision)
    yield from job.over_samples("looking for objects", job.rows, step, scan)
    found = np.nan_to_num(scan.score) >= model.adapted.confidence
    limit = PROBE if s.probe == "auto" else s.probe
    units = choose_probe(scan.labels, found & (scan.labels >= 0), limit, s.seed)
    rows = _with_pictures(scan, units, limit, s.seed)
    check = ObjectCausalTests(model, s, job.folder, precision)
    job.stack.callback(check.close)
    scenes = None if s.scenes is None else job.samples.values(s.scenes)
    tested = None
    if len(units) and len(rows) > 1:
        names = [None] * len(scan.ids)
        prepare = check.prepare(scan, rows, job.objects, names)
        tested = yield from phased("preparing pictures", prepare, lambda n: (n, len(rows)))
        units = units[np.isin(scan.homes[units], tested.rows)]
        groups = None if scenes is None else [str(scenes[i]) for i in tested.rows]
        total = len(tested.rows) + len(units) * (1 + s.donors * (1 + s.control))
        swap = check.swap_objects(tested, scan, units, groups)
        yield from phased("swapping surroundings", swap, lambda n: (n, total))
    return assessed(job, scan, units, tested, rows, scenes)


def _named(object_classes):
    return None if isinstance(object_classes, str) else list(object_classes)


def _with_pictures(scan, units, limit, seed):
    """The samples of the objects tested, and others that lend: as many in all as may be tested."""
    needed = np.unique(scan.homes[units])
    seen = np.flatnonzero(scan.side > 0)
    rest = np.setdiff1d(seen, needed)
    extra = np.random.default_rng([seed, 1]).permutation(rest)[: max(0, limit - len(needed))]
    return np.sort(np.concatenate([np.intersect1d(needed, seen), extra])).astype(int)


class ObjectCausalTests(CausalTests):
    """The causal check of objects; see :class:`CausalTests`."""

    def predictor(self, model, precision):
        """What composites are run through."""
        return ObjectPredictor(model, self._workers, precision)

    def swap_objects(self, tested, scan, units, groups):
        """Runs the swap; yields how many pictures went through the detector."""
        from ...cam_core.bias.object_swap_test import object_swap_check

        s = self._settings
        place = np.full(len(scan.ids), -1)
        place[tested.rows] = np.arange(len(tested.rows))

        def call(predict):
            return object_swap_check(
                tested.pictures, place[scan.homes[units]], scan.boxes[units], scan.labels[units],
                predict, contents=scan.contents(tested.rows), removal_masks=tested.removals,
                count=s.donors, most=s.most_donors, control=s.control, groups=groups,
                feather=s.feather, confidence=self._model.adapted.confidence,
                batch_size=self.batch_size, seed=s.seed,
            )  # fmt: skip

        tested.check = yield from self._reported(call)
