"""What nobody annotated: clusters of heat, whole-image statistics, portraits, groups."""

import collections

import numpy as np

from ..runs.results import pack_ids
from .findings import CLASS_MIN, interval_of

_CLUSTERS = 6
_TYPICAL = 9
_PORTRAIT = (24, 24)
_PORTRAITS = 50


def clusters_of(found, seed):
    """Clusters the heat of the tested samples: over all of them, and within each large class.

    Returns:
        a list of dicts, small tight clusters off the object first: ``label`` (None over all), ``n``,
        ``share``, ``concentration``, ``outside``, ``rank``, ``ids`` (the most typical), ``members`` (all, packed) and
        ``mean_map`` (14 x 14, its maximum 1)
    """
    import torch

    from ...cam_core.bias.discovery import cluster_maps

    scan, tested = found.scan, found.tested
    rows = tested.rows[np.isin(scan.heat_status[tested.rows], ["ok"])]
    if len(rows) < 8:
        return []
    maps = torch.from_numpy(scan.maps[rows].astype(np.float32))
    objects = None
    if tested.grids is not None:
        where = {int(row): i for i, row in enumerate(tested.rows)}
        objects = torch.from_numpy(tested.grids[[where[int(r)] for r in rows]])
    names = np.array([str(found.names[r]) for r in rows])
    large = [n for n, c in collections.Counter(names.tolist()).items() if c >= CLASS_MIN]
    inside = np.isin(names, large)
    everywhere = cluster_maps(maps, None, objects, seed=seed)[:_CLUSTERS]
    out = [_cluster(c, rows, scan) for c in everywhere]
    if inside.any() and len(large) > 1:
        part = torch.from_numpy(np.flatnonzero(inside))
        own = cluster_maps(
            maps[part], names[inside], None if objects is None else objects[part], seed=seed
        )
        out += [_cluster(c, rows[inside], scan) for c in own[:_CLUSTERS]]
    return out


def _cluster(cluster, rows, scan):
    peak = max(float(cluster.mean_map.max()), 1e-12)
    return {
        "label": cluster.label,
        "n": len(cluster.members),
        "share": float(cluster.share),
        "concentration": float(cluster.concentration),
        "outside": cluster.outside,
        "rank": float(cluster.rank),
        "ids": [scan.ids[rows[m]] for m in cluster.members[:_TYPICAL]],
        "members": pack_ids([scan.ids[rows[m]] for m in cluster.members]),
        "mean_map": np.round(cluster.mean_map / peak, 3).tolist(),
    }


def telltales_of(found):
    """Statistics of whole images that tell a class from the rest: cues that no heatmap shows.

    Returns:
        a list of dicts ``label, statistic, auroc, q, n``, the most telling first; only those with
        q < .05 and an AUROC at least .2 away from .5
    """
    from ...cam_core.bias.discovery import STATISTICS, global_cues, image_statistics

    tested = found.tested
    names = np.array([str(found.names[r]) for r in tested.rows])
    if not any(c >= CLASS_MIN for c in collections.Counter(names.tolist()).values()):
        return []
    values = np.stack([image_statistics(tested.pictures[i]) for i in range(len(tested.rows))])
    # pictures are kept smaller than they are
    values[:, STATISTICS.index("log_pixels")] = np.log(found.scan.pixels[tested.rows])
    rows = global_cues(values, names)
    return [
        {"label": t.label, "statistic": t.statistic, "auroc": t.auroc, "q": t.q, "n": t.n}
        for t in rows
        if t.q < 0.05 and abs(t.auroc - 0.5) >= 0.2
    ][:20]


def portraits_of(found, groups=None):
    """Which part of the object the heat is on: heat warped into the object's box, mean per class.

    Args:
        found: the :class:`Findings`
        groups (None): N values; portraits per class and value then

    Returns:
        a list of dicts ``label, group, n, portrait`` (24 x 24, its maximum 1), of the largest classes
    """
    import torch

    from ...cam_core.metrics.object_profile import object_profile

    scan, tested = found.scan, found.tested
    members = collections.defaultdict(list)
    for i, row in enumerate(tested.rows.tolist()):
        boxes = tested.boxes[i] if tested.boxes else None
        if boxes is None or not len(boxes) or scan.heat_status[row] != "ok":
            continue
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        if area.max() > 0:
            group = None if groups is None or groups[row] is None else str(groups[row])
            members[found.names[row], group].append((row, boxes[int(area.argmax())]))
    out = []
    for (label, group), rows in sorted(members.items(), key=lambda item: -len(item[1]))[
        :_PORTRAITS
    ]:
        heat = torch.from_numpy(scan.maps[[row for row, _ in rows]].astype(np.float32))
        boxes = torch.from_numpy(np.stack([box for _, box in rows]))
        mean = object_profile(heat, boxes, _PORTRAIT).nanmean(0).numpy()
        peak = float(np.nanmax(mean, initial=0))
        if peak > 0:
            picture = np.round(mean / peak, 3).tolist()
            out.append({"label": label, "group": group, "n": len(rows), "portrait": picture})
    return out


def groups_of(found, values, field, seed):
    """Accuracy, effect and mean heat for each value of a field, and what the field explains.

    Args:
        found: the :class:`Findings`
        values: N values of the field
        field: its name
        seed: of intervals and permutations

    Returns:
        a dict ``field, explained, p, groups``, these being dicts ``value, n, accuracy, effect,
        mean_map`` (28 x 28, its maximum 1, or None; of numbers cut into ranges there is none)
    """
    from ...cam_core.bias.groups import group_statistics

    drop = found.effect("swap_drop")
    report = group_statistics(
        values, found.correct, drop, found.scan.score, found.scan.explained, seed=seed
    )
    return {
        "field": field,
        "explained": report.explained if np.isfinite(report.explained) else None,
        "p": report.p if np.isfinite(report.p) else None,
        "groups": [
            {
                "value": g.value,
                "n": g.n,
                "accuracy": interval_of(g.accuracy),
                "effect": interval_of(g.effect),
                "mean_map": _mean_map(found.scan, values, g.value),
            }
            for g in report.groups
        ],
    }


def _mean_map(scan, values, value):
    rows = [i for i, v in enumerate(values) if v == value and scan.heat_status[i] == "ok"]
    if not rows:
        return None
    total = np.zeros(scan.maps.shape[1:], np.float64)
    for start in range(0, len(rows), 256):
        total += scan.maps[rows[start : start + 256]].astype(np.float32).sum(0)
    return np.round(total / max(total.max(), 1e-12), 3).tolist()
