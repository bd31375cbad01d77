"""The registry of faithfulness metrics: a decorator makes a function a metric.

A metric takes a :class:`~cam_core.metrics.trial.Trial` and returns (N, M) values, NaN where a map cannot be
measured. The first paragraph of its docstring is what users read.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Hashable

from torch import Tensor

from .fills import Baseline
from .trial import Options, Trial

Metric = Callable[[Trial], Tensor]


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
            metrics share counts for each, see :func:`~cam_core.metrics.catalogue.planned_forwards` for the sum
        needs_explain: whether it has to explain changed images, so needs ``explain_again``
    """

    name: str
    better: str
    label: str
    summary: str
    paper: str
    cost: float
    needs_explain: bool = False


@dataclasses.dataclass(frozen=True)
class Workload:
    """How much is to be measured.

    Attributes:
        images: N
        maps: M of each image
        options: of the metrics
    """

    images: int
    maps: int
    options: Options

    @property
    def pairs(self) -> int:
        """Maps in all."""
        return self.images * self.maps

    def emptied(self, default: str) -> tuple[Hashable, int]:
        """The images with every pixel replaced: a part that metrics with the same baseline share."""
        baseline: Baseline = self.options.baseline or default
        return ("emptied", baseline), self.images


# What a metric runs: images per part; a part that several metrics name is run once.
Parts = list[tuple[Hashable, int]]


@dataclasses.dataclass(frozen=True)
class RegisteredMetric:
    """A metric with all that its decorator said of it."""

    info: MetricInfo
    function: Metric
    forwards: Callable[[Workload], Parts]
    default: bool


# By name, in the order they are computed in: what metrics share counts for the first.
REGISTERED: dict[str, RegisteredMetric] = {}


def metric(
    *,
    better: str,
    label: str,
    paper: str,
    forwards: Callable[[Workload], Parts] = lambda work: [],
    needs_explain: bool = False,
    default: bool = False,
) -> Callable[[Metric], Metric]:
    """Declares a function to be a metric, whose name is the function's.

    Example::

        @metric(better="lower", label="Complexity", paper="Bhatt et al., IJCAI 2020")
        def complexity(trial: Trial) -> Tensor:
            '''Entropy of the heat's magnitude over that of an even map; 0 to 1.'''

    Args:
        better: ``"higher"`` or ``"lower"``
        label: for tables
        paper: who proposed it
        forwards (none): the images that it pushes through the model, for a :class:`Workload`: pairs of a
            part and its number; parts that several metrics name are run once
        needs_explain (False): whether it has to explain changed images
        default (False): whether it is computed unless the user names metrics
    """

    def decorate(function: Metric) -> Metric:
        name = function.__name__
        doc = inspect.getdoc(function) or ""
        one = Workload(1, 1, Options())
        info = MetricInfo(
            name=name,
            better=better,
            label=label,
            summary=doc.split("\n\n")[0].replace("\n", " "),
            paper=paper,
            cost=sum(count for _, count in forwards(one)),
            needs_explain=needs_explain,
        )
        REGISTERED[name] = RegisteredMetric(info, function, forwards, default)
        return function

    return decorate
