"""The metrics of faithfulness: which there are, and what they cost together."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

# Importing a family registers its metrics; they are computed and listed in this order.
from . import perturbation, road, masked_scores, robustness, concentration, coherency
from .fills import Baseline
from .registry import REGISTERED, MetricInfo, Workload
from .trial import Options

METRICS: dict[str, MetricInfo] = {name: found.info for name, found in REGISTERED.items()}

DEFAULT_METRICS = tuple(name for name, found in REGISTERED.items() if found.default)


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
    options = Options(
        steps=steps,
        baseline=baseline,
        percentiles=tuple(percentiles),
        samples=samples,
        repeats=repeats,
    )
    work = Workload(images, maps, options)
    paid: set[Hashable] = set()
    found = {"unperturbed": images}
    for name in validated_metrics(metrics, True):
        parts = REGISTERED[name].forwards(work)
        found[name] = sum(count for part, count in parts if part not in paid)
        paid |= {part for part, _ in parts}
    return found


def validated_metrics(metrics: Collection[str], can_explain: bool) -> list[str]:
    """Returns the names of metrics, checked.

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
