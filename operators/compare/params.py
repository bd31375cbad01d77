"""What ``compare_cams`` is told to do: every argument checked before the first sample."""

import dataclasses
import difflib
import re

from ..compute.params import PRECISIONS, describe
from ..jobs.params import check_choice, check_positive

#: samples that methods are compared on unless more are asked for
PROBE = 200
#: samples that models are compared on, which costs a few forwards each
MODELS_PROBE = 2000
#: seconds that a comparison of methods takes at most, by its forecast, unless probe or budget is given
SECONDS = 600.0
#: where that would leave fewer samples, so many are taken all the same
FEWEST = 24

_UNITS = {
    "s": 1, "sec": 1, "second": 1, "seconds": 1, "m": 60, "min": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hour": 3600, "hours": 3600,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a comparison may cost; one of the two, or neither.

    Attributes:
        forwards: images pushed through the model, or None
        seconds: wall time, or None
    """

    forwards: int = None
    seconds: float = None


@dataclasses.dataclass
class CompareSettings:
    """The arguments of ``compare_cams``, checked; see there for their meaning."""

    cam_keys: object = None
    metrics: object = None
    target: object = "auto"
    probe: object = "auto"
    budget: object = None
    batch_size: object = "auto"
    num_workers: int = None
    device: str = None
    precision: str = "auto"
    views: bool = True
    overwrite: bool = False
    seed: int = 51

    def __post_init__(self):
        """Raises a ValueError for every argument that can be judged by itself."""
        self.cam_keys = _names("cam_keys", self.cam_keys)
        self.metrics = resolve_metrics(self.metrics)
        if self.probe != "auto":
            check_positive("probe", self.probe, low=2)
        parse_budget(self.budget)
        if self.batch_size != "auto":
            check_positive("batch_size", self.batch_size)
        if self.num_workers is not None:
            check_positive("num_workers", self.num_workers, low=0)
        check_choice("precision", self.precision, PRECISIONS)
        for name in ("views", "overwrite"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        check_positive("seed", self.seed, low=0)
        own_class = isinstance(self.target, int) and not isinstance(self.target, bool)
        if not own_class and (not isinstance(self.target, str) or not self.target):
            raise ValueError(
                f"target must be 'auto', 'first', a label field or a class, got {self.target!r}"
            )

    def describe(self):
        """Returns the settings as JSON-able values, for the run record."""
        return {f.name: describe(getattr(self, f.name)) for f in dataclasses.fields(self)}


def _names(argument, value):
    """A list of names, None for None."""
    if value is None:
        return None
    names = [value] if isinstance(value, str) else value
    if (
        not isinstance(names, (list, tuple))
        or not names
        or not all(isinstance(n, str) and n for n in names)
    ):
        raise ValueError(
            f"{argument} must be the key of a CAM run, a heatmap field, or a list of these, got {value!r}"
        )
    return list(dict.fromkeys(names))


def resolve_metrics(metrics):
    """Returns a list of metrics' names.

    Args:
        metrics: a name, a list of names, ``"all"``, or None for the default ones

    Raises:
        ValueError: if one is unknown; near names are listed
    """
    from ...cam_core.metrics.catalogue import DEFAULT_METRICS, METRICS

    if metrics is None:
        return list(DEFAULT_METRICS)
    if metrics == "all":
        return list(METRICS)
    names = [metrics] if isinstance(metrics, str) else metrics
    if not isinstance(names, (list, tuple)) or not names:
        raise ValueError(f"metrics must be names out of {', '.join(METRICS)}, got {metrics!r}")
    for name in names:
        if not isinstance(name, str) or name not in METRICS:
            near = difflib.get_close_matches(str(name).lower(), METRICS, n=2)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            raise ValueError(
                f"metrics: {name!r} is unknown{hint}; choose from {', '.join(METRICS)}, or 'all'"
            )
    return [name for name in METRICS if name in names]


def parse_budget(value):
    """Reads a budget.

    Args:
        value: None; a number of forwards; or a text such as ``"90 s"``, ``"5 min"``, ``"2 h"``,
            ``"20000 forwards"``

    Returns:
        a :class:`Budget`

    Raises:
        ValueError: if it is neither
    """
    if value is None or value == "":
        return Budget()
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return Budget(forwards=value)
    match = re.fullmatch(r"\s*([\d_,]*\.?\d+)\s*([a-z]+)?\s*", str(value).lower())
    if isinstance(value, str) and match:
        number, unit = float(re.sub("[_,]", "", match[1])), match[2]
        if unit in ("forwards", "forward", None) and number >= 1:
            return Budget(forwards=int(number))
        if unit in _UNITS and number > 0:
            return Budget(seconds=number * _UNITS[unit])
    raise ValueError(
        "budget must be a number of forwards, or a text such as '90 s', '5 min', '2 h' or "
        f"'20000 forwards', got {value!r}"
    )
