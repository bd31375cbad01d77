"""What ``compare_cams`` is told to do: every argument checked before the first sample."""

import dataclasses
import difflib
import re

from ..compute.params import MODEL, OPTIONS
from ..jobs import params
from ..jobs.params import Boolean, Field, Param, Texts

#: samples that methods are compared on unless more are asked for
PROBE = 200
#: samples that models are compared on, which costs a few forwards each
MODELS_PROBE = 2000
#: seconds that a comparison of methods takes at most, by its forecast, unless probe or budget is given
SECONDS = 600.0
#: where that would leave fewer samples, so many are taken all the same
FEWEST = 24

# of a budget's number, whatever its unit
_MOST = 1_000_000_000
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
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST:
        return Budget(forwards=value)
    match = isinstance(value, str) and re.fullmatch(
        r"\s*([\d_,]{0,20}\.?\d{1,20})\s*([a-z]+)?\s*", value.lower()
    )
    if match:
        number, unit = float(re.sub("[_,]", "", match[1])), match[2]
        if unit in ("forwards", "forward", None) and 1 <= number <= _MOST:
            return Budget(forwards=int(number))
        if unit in _UNITS and 0 < number <= _MOST:
            return Budget(seconds=number * _UNITS[unit])
    raise ValueError(
        "budget must be a number of forwards, or a text such as '90 s', '5 min', '2 h' or "
        f"'20000 forwards', {_MOST:,} at most, got {value!r:.80}"
    )


def _names(value):
    """Keys or heatmap fields, each once."""
    names = [value] if isinstance(value, str) else value
    if (
        not isinstance(names, (list, tuple))
        or not names
        or not all(isinstance(n, str) and n for n in names)
    ):
        raise ValueError(
            f"cam_keys must be the key of a CAM run, a heatmap field, or a list of these, got {value!r}"
        )
    return list(dict.fromkeys(names))


def _checked_target(target):
    own_class = isinstance(target, int) and not isinstance(target, bool)
    if not own_class and (not isinstance(target, str) or not target):
        raise ValueError(
            f"target must be 'auto', 'first', a label field or a class, got {target!r}"
        )
    return target


def _checked_budget(budget):
    parse_budget(budget)
    return budget


PARAMS = (
    Param(
        "cam_keys", kind=Texts(), check=_names,
        queued=lambda keys: [keys] if isinstance(keys, str) else keys,
        field=Field("Heatmaps", "Runs or single heatmap fields. The result is stored with the first run"),
    ),
    Param(
        "metrics", kind=Texts(), check=resolve_metrics,
        queued=lambda names: resolve_metrics(names) if isinstance(names, str) else names,
        field=Field("Metrics", "How each heatmap is tested against the model"),
    ),
    Param(
        "target", "auto", check=_checked_target, queued=str,
        field=Field(
            "Class",
            "Whose heatmaps are compared: a label field, 'first' (the first model's prediction) or 'auto'",
        ),
    ),
    params.PROBE.but(field=Field("Samples")),
    Param(
        "budget", check=_checked_budget, queued=str,
        field=Field(
            "Budget", "A time such as 5 min, or a number of forwards. Empty: about ten minutes"
        ),
    ),
    params.BATCH_SIZE,
    params.NUM_WORKERS,
    params.DEVICE,
    params.PRECISION,
    Param("views", True, Boolean()),
    Param(
        "overwrite", False, Boolean(),
        Field("Overwrite", "Deletes the earlier comparison stored with the first run, then starts again"),
    ),
    params.SEED,
)  # fmt: skip
#: all that ``compare_cams`` is given beside the samples; its form asks for no model
ARGUMENTS = (*(p.but(field=None) for p in MODEL), Param("models"), *PARAMS, *OPTIONS)


class CompareSettings(params.settings(PARAMS)):
    """The arguments of ``compare_cams``, checked; see there for their meaning."""

    def __post_init__(self):
        """Raises a ValueError for every argument that can be judged by itself."""
        super().__post_init__()
        self.metrics = resolve_metrics(self.metrics)
