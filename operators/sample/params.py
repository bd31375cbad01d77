"""What ``explain_sample`` is told to do: the numbers among its arguments."""

from ..jobs import params
from ..jobs.params import Field, Integer, Param

PARAMS = (
    Param(
        "donors", 4, Integer(0, 64),
        Field("Other backgrounds", "How many other backgrounds the object is tried on. 0: none"),
    ),
    params.SEED,
)  # fmt: skip


class SampleSettings(params.settings(PARAMS)):
    """The numbers of ``explain_sample``, checked; see there for their meaning."""
