"""The metrics of faithfulness: what each is, and what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from ._fills import Baseline
from .perturbation_curves import DEFAULT_BASELINES

DEFAULT_METRICS = ("deletion", "insertion", "road", "average_drop", "increase", "sparseness")


@dataclasses.dataclass(frozen=True)
class MetricInfo:
    """What a metric is.

    Attributes:
        name: of the metric
        better: ``"higher"`` or ``"lower"``
        label: for tables
        summary: one sentence, with the range of values
        paper: who proposed it
        cost: images pushed through the model for one image with one map and default options; what
            metrics share counts for each, see :func:`planned_forwards` for the sum
        needs_explain: whether it has to explain changed images, so needs ``explain_again``
    """

    name: str
    better: str
    label: str
    summary: str
    paper: str
    cost: float
    needs_explain: bool = False


_RISE = "Petsiuk et al., RISE, BMVC 2018"
_ROAD = "Rong et al., ROAD, ICML 2022"
_PLUS_PLUS = "Chattopadhay et al., Grad-CAM++, WACV 2018"
_YEH = "Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019"
_ADCC = "Poppi et al., ADCC, CVPRW 2021"

# In the order they are computed in: what metrics share counts for the first.
METRICS: dict[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo(
            "deletion", "lower", "Deletion",
            "Area under the probability while the hottest pixels are removed first; 0 to 1.",
            _RISE, 20,
        ),
        MetricInfo(
            "insertion", "higher", "Insertion",
            "Area under the probability while the hottest pixels are brought back first; 0 to 1.",
            _RISE, 20,
        ),
        MetricInfo(
            "road_morf", "lower", "ROAD, most relevant first",
            "Mean probability with the hottest pixels imputed from their neighbours; 0 to 1.",
            _ROAD, 4,
        ),
        MetricInfo(
            "road_lerf", "higher", "ROAD, least relevant first",
            "Mean probability with the coldest pixels imputed from their neighbours; 0 to 1.",
            _ROAD, 4,
        ),
        MetricInfo(
            "road", "higher", "ROAD",
            "Half of what imputing the coldest pixels leaves more than imputing the hottest; "
            "-.5 to .5.",
            _ROAD, 8,
        ),
        MetricInfo(
            "average_drop", "lower", "Average drop",
            "Share of the probability lost in the image seen through the map; 0 to 1.",
            _PLUS_PLUS, 1,
        ),
        MetricInfo(
            "increase", "higher", "Increase in confidence",
            "Whether the probability is higher in the image seen through the map; 0 or 1.",
            _PLUS_PLUS, 1,
        ),
        MetricInfo(
            "confidence_change", "higher", "Change of confidence",
            "Probability of the image seen through the map minus the image's; -1 to 1.",
            _PLUS_PLUS, 1,
        ),
        MetricInfo(
            "drop_in_deletion", "higher", "Drop in deletion",
            "Share of the probability lost in the image without what the map shows; at most 1.",
            "Jung and Oh, LIFT-CAM, ICCV 2021", 1,
        ),
        MetricInfo(
            "infidelity", "lower", "Infidelity",
            "Mean squared error of foretelling from the map what removing a random square costs; "
            "0 to 1.",
            _YEH, 50,
        ),
        MetricInfo(
            "max_sensitivity", "lower", "Max-sensitivity",
            "Largest relative change of the map under small noise; from 0.",
            _YEH, 11, True,
        ),
        MetricInfo(
            "sparseness", "higher", "Sparseness",
            "Gini index of the heat's magnitude; 0 (even) to 1 (one pixel).",
            "Chalasani et al., ICML 2020", 0,
        ),
        MetricInfo(
            "complexity", "lower", "Complexity",
            "Entropy of the heat's magnitude over that of an even map; 0 to 1.",
            "Bhatt et al., IJCAI 2020", 0,
        ),
        MetricInfo(
            "coherency", "higher", "Coherency",
            "Correlation with the map of the image seen through the map, (r + 1) / 2; 0 to 1.",
            _ADCC, 1, True,
        ),
        MetricInfo(
            "adcc", "higher", "ADCC",
            "Harmonic mean of coherency, 1 - mean of the map and 1 - average drop; 0 to 1.",
            _ADCC, 2, True,
        ),
    )
}  # fmt: skip


def planned_forwards(
    metrics: Collection[str],
    images: int,
    maps: int,
    *,
    steps: int = 20,
    percentiles: Sequence[float] = (20, 40, 60, 80),
    samples: int = 50,
    repeats: int = 10,
    baseline: Baseline | None = None,
) -> dict[str, int]:
    """How many images :func:`~cam_core.metrics.faithfulness.faithfulness` pushes through the model, before it does.

    Args:
        metrics: names out of :data:`METRICS`
        images: N
        maps: M of each image
        steps (20): as there
        percentiles ((20, 40, 60, 80)): as there
        samples (50): as there
        repeats (10): as there
        baseline (None): as there

    Returns:
        what ``Faithfulness.forwards`` will be if there are all maps and targets; else it is less

    Raises:
        ValueError: if a metric is unknown
    """
    pairs = images * maps
    empties = {name: baseline or default for name, default in DEFAULT_BASELINES.items()}
    removal = pairs * len(percentiles)
    morf, lerf = ("morf", removal), ("lerf", removal)
    inside, coherent = ("inside", pairs), ("coherency", pairs)
    parts: dict[str, list[tuple[Any, int]]] = {
        "deletion": [("deletion", pairs * (steps - 1)), (("empty", empties["deletion"]), images)],
        "insertion": [
            ("insertion", pairs * (steps - 1)),
            (("empty", empties["insertion"]), images),
        ],
        "road_morf": [morf],
        "road_lerf": [lerf],
        "road": [morf, lerf],
        "average_drop": [inside],
        "increase": [inside],
        "confidence_change": [inside],
        "drop_in_deletion": [("outside", pairs)],
        "infidelity": [("infidelity", images * samples)],
        "max_sensitivity": [("max_sensitivity", images * (repeats + 1))],
        "coherency": [coherent],
        "adcc": [inside, coherent],
    }
    paid: set[Any] = set()
    found = {"unperturbed": images}
    for name in check_metrics(metrics, True):
        found[name] = sum(count for part, count in parts.get(name, []) if part not in paid)
        paid |= {part for part, _ in parts.get(name, [])}
    return found


def check_metrics(metrics: Collection[str], can_explain: bool) -> list[str]:
    """Checks names of metrics.

    Args:
        metrics: names out of :data:`METRICS`
        can_explain: whether changed images can be explained

    Returns:
        the names, each once, in the order they are computed in

    Raises:
        ValueError: if one is unknown, or needs maps of changed images and there is nothing to make
            them with
    """
    if isinstance(metrics, str) or not metrics:
        raise ValueError(f"metrics must be a list of names out of {', '.join(METRICS)}")
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"metrics: {name!r} is unknown; choose from {', '.join(METRICS)}")
        if METRICS[name].needs_explain and not can_explain:
            raise ValueError(
                f"metrics: {name!r} explains changed images; pass explain_again=, which makes their "
                "maps, or leave it out"
            )
    return [name for name in METRICS if name in metrics]
