"""A batch of samples with their stored heatmaps becomes numbers: faithfulness, and small maps to compare."""

import dataclasses

import numpy as np

from ..data.heatmap_reader import baseline_maps, on_input, read_maps
from ..jobs.inference import to_device

#: side of the maps that are kept to be compared with each other, over what the model saw
KEPT = 28


@dataclasses.dataclass
class ScanPlan:
    """What is measured.

    Attributes:
        columns: M :class:`~operators.compare.columns.Column`
        baselines: names of B maps that are made up, see ``heatmap_reader.BASELINES``
        metrics: names
        targets: ``{sample id: (M,) class indices}``, -1 for the predicted class
        explainer: makes the maps of changed images, see ``explain_again``; None without
        precision: of the forwards
        batch_size: changed images that are run at once
        seed: of everything random
    """

    columns: list
    baselines: list
    metrics: list
    targets: dict
    explainer: object
    precision: str
    batch_size: int
    seed: int

    @property
    def maps(self):
        """How many maps are measured per sample, M + B."""
        return len(self.columns) + len(self.baselines)


class Scan:
    """Numbers of n samples, filled batch by batch; NaN where there is none.

    Args:
        rows: list of ``(id, filepath)``
        plan: the :class:`ScanPlan`

    Attributes:
        ids, paths: of the samples
        values: ``{metric: (n, M + B)}``
        score: (n,) probability of the class that the first map explains
        targets: (n, M) explained classes, -1 where the sample failed
        maps: (n, M, KEPT, KEPT) heat over the model's input, NaN where there is no map
        done: (n,) bool
        forwards: ``{metric: images}`` pushed through the model
        shares: (M + B,) of these, what each map cost
    """

    def __init__(self, rows, plan):
        count, columns = len(rows), len(plan.columns)
        self.ids = [row[0] for row in rows]
        self.paths = [row[1] for row in rows]
        self._index = {sample_id: i for i, sample_id in enumerate(self.ids)}
        self.values = {name: np.full((count, plan.maps), np.nan) for name in plan.metrics}
        self.score = np.full(count, np.nan)
        self.targets = np.full((count, columns), -1)
        self.maps = np.full((count, columns, KEPT, KEPT), np.nan, np.float32)
        self.done = np.zeros(count, bool)
        self.forwards = {}
        self.shares = np.zeros(plan.maps)
        self.bytes_written = 0

    def put(self, results):
        """Takes what :class:`ScanStep` returned; the pipeline's writer."""
        for sample_id, row in results.items():
            i = self._index[sample_id]
            self.done[i] = True
            self.score[i], self.targets[i], self.maps[i] = row["score"], row["targets"], row["maps"]
            for name, values in row["values"].items():
                self.values[name][i] = values


class ScanStep:
    """Measures a batch.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        model: the :class:`LoadedModel`
        plan: the :class:`ScanPlan`
        scan: the :class:`Scan`, which is told what it cost
        on_forwards (None): called now and then with how many more images went through the model
    """

    def __init__(self, dataset, model, plan, scan, on_forwards=None):
        self._dataset = dataset
        self._model = model
        self._plan = plan
        self._scan = scan
        self._on_forwards = on_forwards

    def __call__(self, batch):
        """Returns ``{sample id: {values, score, targets, maps}}`` for a batch of the loader."""
        import torch
        import torch.nn.functional as F

        plan, ids = self._plan, [item.id for item in batch.items]
        size = tuple(batch.images.shape[-2:])
        stored = read_maps(self._dataset, ids, [c.field for c in plan.columns])
        heats = torch.stack([on_input(stored[i.id], i.window, size) for i in batch.items])
        small = F.adaptive_avg_pool2d(heats, KEPT).numpy()
        images = to_device(self._model, batch.images)
        targets = self._targets(ids, images)
        everything, explained = heats, targets
        if plan.baselines:
            made = baseline_maps(plan.baselines, ids, size, plan.seed)
            everything = torch.cat([heats, made], 1)
            explained = torch.cat([targets, targets[:, :1].expand(-1, len(plan.baselines))], 1)
        values, scores = self._measure(images, everything, explained)
        return {
            sample_id: {
                "values": {name: table[row] for name, table in values.items()},
                "score": scores[row],
                "targets": targets[row].numpy(),
                "maps": small[row],
            }
            for row, sample_id in enumerate(ids)
        }

    def _targets(self, ids, images):
        """(N, M) explained classes; where no map says which, the predicted one."""
        import torch

        from ..jobs.inference import probabilities_of

        targets = torch.stack([torch.as_tensor(self._plan.targets[i]) for i in ids]).long()
        unknown = targets < 0
        if not unknown.any():
            return targets
        # one class per sample, that of its other maps before the prediction
        known = targets.amax(1, keepdim=True).expand_as(targets)
        targets = torch.where(unknown, known, targets)
        unknown = targets < 0
        if unknown.any():
            best = probabilities_of(self._model, images, self._plan.precision).argmax(1)
            targets = torch.where(unknown, best[:, None], targets)
        return targets

    def _measure(self, images, heats, targets):
        """``{metric: (N, M + B) array}`` and (N,) probabilities, each map for its own class."""
        from ...cam_core.metrics.faithfulness import faithfulness

        plan, count = self._plan, heats.shape[1]
        groups = {}
        for m in range(count):
            groups.setdefault(tuple(targets[:, m].tolist()), []).append(m)
        values = {name: np.full((len(images), count), np.nan) for name in plan.metrics}
        scores = None
        for members in groups.values():
            own, wanted = heats[:, members], targets[:, members[0]]
            again = None
            if plan.explainer is not None:
                again = plan.explainer.again(members, wanted, own)
            found = faithfulness(
                self._model.adapted, images, own, wanted, plan.metrics, batch_size=plan.batch_size,
                seed=plan.seed, precision=plan.precision, explain_again=again,
                on_forwards=self._on_forwards,
            )  # fmt: skip
            for name, table in found.values.items():
                values[name][:, members] = table.cpu().numpy()
            scores = found.scores.cpu().numpy() if scores is None else scores
            self._count(found.forwards, members)
        return values, scores

    def _count(self, forwards, members):
        for name, number in forwards.items():
            self._scan.forwards[name] = self._scan.forwards.get(name, 0) + number
        self._scan.shares[members] += sum(forwards.values()) / len(members)
