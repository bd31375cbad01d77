"""What ``explain_sample`` is told to do: the numbers among its arguments."""

from ..jobs import params
from ..jobs.params import Field, Integer, Param

PARAMS = (
    Param(
        "donors", 4, Integer(0, 64),
        Field("Other backgrounds", "on how many other samples' backgrounds the object is tried; 0 for none"),
    ),
    params.SEED,
)  # fmt: skip


class SampleSettings(params.settings(PARAMS)):
    """The numbers of ``explain_sample``, checked; see there for their meaning."""
