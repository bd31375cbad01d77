"""The part of every job's form that says where it runs."""

import fiftyone.operators.types as types

from ..runs import background
from .schema import mark


def add_background(inputs, ctx):
    """Adds the switch, or why there is none.

    Args:
        inputs: the form's ``types.Object``
        ctx: the execution context
    """
    if not background.is_allowed():
        inputs.view(
            "no_background",
            types.Notice(
                label="Closing this tab stops it",
                description="This server starts no runs in the background: it was started with "
                f"{background.VARIABLE}=0",
            ),
        )
        return
    prop = inputs.bool(
        "in_background", default=False, label="Run in the background", view=types.SwitchView(),
        description="In a process of its own: this tab may be closed. Progress and Stop are in the panel. "
        "It ends with the App's server",
    )  # fmt: skip
    if not ctx.params.get("in_background"):
        return
    if all(row["status"] != "running" for row in background.list_of(ctx.dataset)):
        return
    inputs.bool(
        "beside", default=False, label="Start beside the other", view=types.SwitchView(),
        description="Both share this machine's processors and memory",
    )  # fmt: skip
    if not ctx.params.get("beside"):
        mark(prop, background.check_free, ctx.dataset)
