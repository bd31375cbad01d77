"""From the numbers of a comparison to its leaderboard, matrix of agreement and recommendation."""

import dataclasses
import functools
import math

import numpy as np

from ..data.heatmap_reader import BASELINES
from .advice import recommendation

# What says how far a map is the model's reason; the others describe the map.
_FAITHFUL = (
    "deletion", "insertion", "road", "road_morf", "road_lerf", "average_drop", "increase",
    "confidence_change", "drop_in_deletion", "infidelity",
)  # fmt: skip
_PARTS_OF_ROAD = ("road_morf", "road_lerf")
#: ids that are kept of the samples on which two methods split most
_PAIR_IDS = 50
#: (h, w) that ranks are compared on: of finer grids neighbours say the same again
GRID = (14, 14)
MEASURES = ("spearman", "top_iou", "ssim")


def ranked_metrics(metrics):
    """The metrics that methods are ranked by.

    Args:
        metrics: names

    Returns:
        those of them that measure faithfulness; the halves of ROAD do not count beside it

    Raises:
        ValueError: if none does
    """
    found = [name for name in metrics if name in _FAITHFUL]
    if "road" in found:
        found = [name for name in found if name not in _PARTS_OF_ROAD]
    if not found:
        raise ValueError(
            f"metrics: none of {', '.join(metrics)} says how faithful a map is, so nothing can be ranked; "
            f"add one of {', '.join(_FAITHFUL)}"
        )
    return found


def label_of(column, columns):
    """A short name that tells a column from the others."""
    same = [c for c in columns if c.method == column.method]
    parts = [column.method]
    if len({c.cam_key for c in same}) > 1:
        parts.insert(0, column.cam_key)
    if len({c.layer for c in same if c.cam_key == column.cam_key}) > 1:
        parts.append(column.layer)
    label = " ".join(parts)
    doubles = [
        c for c in same if (c.cam_key, c.layer) == (column.cam_key, column.layer) and c != column
    ]
    return column.field if doubles else label


class Ranking:
    """The methods of a scan, compared on the same samples.

    Args:
        scan: the :class:`~operators.compare.methods_scan.Scan`
        plan: its plan
        seed: of bootstrap and signs

    Attributes:
        names: M + B fields, or names of baselines
        labels: their names in tables and sentences
        ranks: (n, M + B) mean rank over the metrics
        order: indices, the best first
        pairs: of :func:`cam_core.stats.ranking.compare_pairs`
        baselines: indices of the baselines
    """

    def __init__(self, scan, plan, seed):
        from ...cam_core.metrics.catalogue import METRICS
        from ...cam_core.stats.ranking import compare_pairs, mean_ranks, nan_mean

        self.scan, self.plan, self.seed = scan, plan, seed
        self.names = [c.field for c in plan.columns] + plan.baselines
        self.labels = [label_of(c, plan.columns) for c in plan.columns]
        self.labels += [BASELINES[name] for name in plan.baselines]
        self.better = {name: METRICS[name].better for name in plan.metrics}
        self.ranked = ranked_metrics(plan.metrics)
        self.ranks = mean_ranks({n: scan.values[n] for n in self.ranked}, self.better)
        mean = nan_mean(self.ranks, 0)
        self.order = np.argsort(np.where(np.isfinite(mean), mean, np.inf), kind="stable").tolist()
        self.pairs = compare_pairs(self.ranks, "lower", seed)
        own = [i for i, c in enumerate(plan.columns) if c.baseline]
        self.baselines = own + list(range(len(plan.columns), plan.maps))

    def pair(self, i, j):
        """What i is ahead of j; positive where i is better."""
        if (i, j) in self.pairs:
            return self.pairs[i, j]
        p = self.pairs[j, i]
        return dataclasses.replace(p, mean=-p.mean, low=-p.high, high=-p.low)

    def rows(self, seconds):
        """The leaderboard, best first.

        Args:
            seconds: M seconds per image
        """
        known = len(self.plan.columns)
        return [
            {**row, "seconds_per_image": seconds[i] if i < known else None}
            for i, row in zip(self.order, self._rows, strict=True)
        ]

    @functools.cached_property
    def _rows(self):
        return [self._row(place + 1, i) for place, i in enumerate(self.order)]

    def _row(self, place, i):
        from ...cam_core.stats.resampling import bootstrap_mean

        values = {n: table[:, i] for n, table in self.scan.values.items()}
        column = self.plan.columns[i] if i < len(self.plan.columns) else None
        done = self.scan.done
        shown = np.isfinite(np.stack(list(values.values()))).any(0)
        return {
            "field": self.names[i],
            "label": self.labels[i],
            "method": self.labels[i] if column is None else column.method,
            "layer": None if column is None else column.layer,
            "cam_key": None if column is None else column.cam_key,
            "class_discriminative": column is not None and column.class_discriminative,
            "baseline": i in self.baselines,
            "n": int((done & shown).sum()),
            "blank": int((done & ~shown).sum()),
            "rank": place,
            "mean_rank": dataclasses.asdict(bootstrap_mean(self.ranks[:, i], seed=self.seed)),
            "metrics": {
                name: dataclasses.asdict(bootstrap_mean(v, seed=self.seed))
                for name, v in values.items()
            },
            "wins": self._wins(i),
            "over_baseline": {self.names[b]: self._over(i, b) for b in self.baselines if b != i},
            "forwards": round(self.scan.shares[i]),
        }

    def _wins(self, i):
        """Win rate and paired difference against every other method."""
        wins = {}
        for j, name in enumerate(self.names):
            if j == i:
                continue
            mine, theirs = self.ranks[:, i], self.ranks[:, j]
            both = np.isfinite(mine) & np.isfinite(theirs)
            share = float((mine[both] < theirs[both]).mean()) if both.any() else math.nan
            wins[name] = {"share": share, **dataclasses.asdict(self.pair(i, j))}
        return wins

    def _over(self, i, b):
        """How much better than a baseline, per metric, on the same samples; positive is better."""
        from ...cam_core.stats.ranking import paired

        return {
            name: dataclasses.asdict(paired(table[:, i], table[:, b], self.better[name], self.seed))
            for name, table in self.scan.values.items()
        }

    def recommendation(self):
        """Which method to show, and on what evidence."""
        return recommendation(self._rows, self.ranked)


def agreement_of(scan, columns, seed):
    """How alike the stored maps are, where they explain the same class.

    Args:
        scan: the :class:`~operators.compare.methods_scan.Scan`
        columns: M :class:`~operators.compare.columns.Column`
        seed: of ties and of the noise floor

    Returns:
        a ``cam_core.metrics.agreement.Agreement`` of (n, M, M)
    """
    import torch

    from ...cam_core.metrics.agreement import Agreement, agreement

    found = agreement(torch.from_numpy(scan.maps), grid=GRID, seed=seed)
    other = torch.from_numpy(scan.targets[:, :, None] != scan.targets[:, None, :])
    return Agreement(**{m: getattr(found, m).masked_fill(other, torch.nan) for m in MEASURES})


def agreement_table(found, scan, columns, seed):
    """The matrix that is stored: means over the samples, how many, and the noise floor."""
    import torch

    from ...cam_core.metrics.agreement import noise_floor

    floor = noise_floor(torch.from_numpy(scan.maps), grid=GRID, seed=seed)
    table = {
        "fields": [c.field for c in columns],
        "labels": [label_of(c, columns) for c in columns],
        "n": found.matrix("spearman")[1].tolist(),
        "noise_floor": {name: float(values.nanmean()) for name, values in floor.items()},
    }
    for measure in MEASURES:
        table[measure] = found.matrix(measure)[0].tolist()
    return table


def pairs_of(found, scan, columns):
    """``{"fieldA|fieldB": ids}``: per pair the samples on which they agree least, those first."""
    pairs = {}
    values = found.spearman.numpy()
    for i, one in enumerate(columns):
        for j in range(i + 1, len(columns)):
            order = np.argsort(values[:, i, j], kind="stable")
            known = [k for k in order if np.isfinite(values[k, i, j])]
            pairs[f"{one.field}|{columns[j].field}"] = [scan.ids[k] for k in known[:_PAIR_IDS]]
    return pairs


def disagreements(found, columns):
    """(n,) how much the class-discriminative methods disagree; NaN where fewer than two have a map."""
    from ...cam_core.metrics.agreement import disagreement

    which = [i for i, c in enumerate(columns) if c.class_discriminative and not c.baseline]
    if len(which) < 2:
        return np.full(len(found.spearman), np.nan)
    return disagreement(found, which).numpy()
