"""What each tab of the panel needs, asked of the database when the tab is opened."""

from . import (
    _at_work,
    _panel_bias,
    _panel_clusters,
    _panel_methods,
    _panel_overview,
    _panel_samples,
    _panel_work,
    _runs,
)
from . import _panel_charts as charts
from ._bias_store import record_of

#: clusters whose pictures are shown: decoding them takes time
CLUSTERS = 6
# characters of the longest bar
_BAR = 16


def fill(dataset, key, tab, chosen):
    """Reads what a tab shows.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the key of a CAM run
        tab: the name of a tab
        chosen: a dict of what was chosen on it: ``kind``, ``measure``

    Returns:
        (state, data): state is small and comes back with every event, data is what charts, tables
        and pictures show
    """
    status = _at_work.status_of(dataset, record_of(dataset, key))
    state, data = _FILL[tab](dataset, key, chosen, status == "finished")
    work = _panel_work.work_of(dataset, key, "bias")
    return {"bias_status": status, "bias_work": work, **state}, data


def _overview(dataset, key, chosen, examined):
    summary = _panel_overview.bias_of(dataset, key) if examined else None
    state = {
        "sentences": [], "verdicts": [], "accepted": 0,
        "status": _runs.status_of(dataset, key),
        "scaled": getattr(_runs.config_of(dataset, key), "same_scale", None) is not None,
    }  # fmt: skip
    data = {"facts": _panel_overview.facts(dataset, key)}
    if summary is not None:
        counts, left_out = _panel_overview.verdict_counts(dataset, key)
        state.update(sentences=_panel_overview.sentences(summary), accepted=left_out)
        state["verdicts"] = list(counts)
        data["verdict_rows"] = verdict_rows(counts)
    return state, data


def verdict_rows(counts):
    """The table of verdicts. No chart: the App takes a second and more to load its charts."""
    total, most = sum(counts.values()), max(counts.values(), default=1)
    return [
        {
            "verdict": verdict,
            "samples": f"{n:,}",
            "share": f"{100 * n / total:.0f} %" if n >= total / 200 else "< 1 %",
            "bar": "━" * max(1, round(_BAR * n / most)),
        }
        for verdict, n in counts.items()
    ]


def _bias(dataset, key, chosen, examined):
    if not examined:
        return {}, {}
    summary = _panel_overview.bias_of(dataset, key)
    bars = _panel_bias.class_bars(dataset, key, summary)
    shown = bars[: _panel_bias.CLASSES]
    evidence = _panel_overview.evidence_counts(dataset, key, summary)
    points = _panel_bias.heat_points(dataset, key)
    bins = _panel_bias.calibration_bins(dataset, key)
    reason = (summary.calibration or {}).get("reason")
    longest = max((len(row["label"]) for row in shown), default=8)
    state = {
        "bars_layout": charts.bars_layout(len(shown), longest) if shown else None,
        "bars_note": f"The {len(shown)} most dependent of {len(bars):,} classes."
        if len(bars) > len(shown)
        else "",
        "has_evidence": evidence is not None,
        "unsure": (evidence or {}).get("unknown", 0),
        "has_points": bool(points["ids"]),
        "bins": [[b["low"], b["high"]] for b in bins],
        "calibration": f"{reason[0].upper()}{reason[1:]}." if reason else "",
        "blind": _panel_bias.blind_spots(summary),
        "accepted": len(_panel_clusters.accepted_ids(dataset, key)),
    }
    data = {"bars": charts.bars_chart(shown, summary.unit), "evidence": evidence_rows(evidence)}
    data.update(points=charts.heat_chart(points), calibration=charts.calibration_chart(bins))
    return state, data


def evidence_rows(counts):
    """The table of right and wrong against object and background, as text."""
    if counts is None:
        return []
    return [
        {
            "prediction": name,
            "object": f"{counts[f'{name}_object']:,}",
            "background": f"{counts[f'{name}_background']:,}",
        }
        for name in ("right", "wrong")
    ]


def _methods(dataset, key, chosen, examined):
    comparison = _panel_methods.comparison_of(dataset, key)
    work = _panel_work.work_of(dataset, key, "compare")
    if comparison is None:
        return {"leader_columns": [], "matrix_layout": None, "compare_work": work}, {}
    columns, rows = _panel_methods.leaderboard(comparison)
    measure = chosen.get("measure") or "spearman"
    matrix = _panel_methods.matrix(comparison, measure)
    several = len(matrix["fields"]) > 1
    state = {
        "leader_columns": [list(column) for column in columns],
        "leader_rows": len(rows),
        "metric_help": {f"metric_{n}": m["summary"] for n, m in comparison["metrics"].items()},
        "recommendation": (comparison.get("recommendation") or {}).get("sentence"),
        "cost": _panel_methods.cost_sentence(comparison),
        "measure": measure,
        "matrix_layout": charts.agreement_layout(matrix) if several else None,
        "floor": matrix["floor"],
        "compare_work": work,
    }
    name = _panel_methods.MEASURES[measure][0]
    return state, {"leaders": rows, "matrix": charts.agreement_chart(matrix, name)}


def _clusters(dataset, key, chosen, examined):
    if not examined:
        return {}, {}
    shown = _panel_clusters.clusters_of(dataset, key)[:CLUSTERS]
    data = {f"strip_{c['number']}": _panel_clusters.strip(dataset, key, c) for c in shown}
    return {"clusters": [_row(c) for c in shown]}, data


def cluster_rows(dataset, key):
    """The clusters that are shown, as dicts ``text, number, name, accepted``."""
    return [_row(c) for c in _panel_clusters.clusters_of(dataset, key)[:CLUSTERS]]


def _row(cluster):
    names = ("number", "name", "accepted")
    return {"text": cluster_text(cluster), **{k: cluster[k] for k in names}}


def cluster_text(cluster):
    """One line about a cluster."""
    title = cluster["name"] or f"Cluster {cluster['number'] + 1}"
    of = f" of class {cluster['label']}" if cluster["label"] else ""
    outside = cluster.get("outside")
    heat = f", {100 * outside:.0f} % of the heat off the object" if outside is not None else ""
    accepted = " · accepted as context" if cluster["accepted"] else ""
    share = f"{100 * cluster['share']:.0f} %"
    return f"**{title}**: {cluster['n']:,} samples ({share}{of}){heat}{accepted}"


def _samples(dataset, key, chosen, examined):
    kinds = _panel_samples.kinds_of(dataset, key)
    kind = chosen.get("kind") if chosen.get("kind") in kinds else next(iter(kinds), None)
    rows = _panel_samples.table(dataset, key, kind) if kind else []
    state = {"kinds": kinds, "kind": kind, "sample_ids": [row["id"] for row in rows]}
    return state, {"samples": [{k: v for k, v in row.items() if k != "id"} for row in rows]}


_FILL = {
    "overview": _overview,
    "bias": _bias,
    "methods": _methods,
    "clusters": _clusters,
    "samples": _samples,
}
