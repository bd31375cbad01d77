"""How long a form's job will take, said before it begins; the longest ones have to be confirmed."""

import fiftyone.operators.types as types

from ..compute.cost import seconds_per_prediction
from ..jobs.caller import is_app
from ..runs import record
from ..text import about
from .schema import invalid

#: seconds from which on a duration is a warning, and from which on it has to be confirmed
LONG, VERY_LONG = 600.0, 3600.0
CONFIRM = "confirm_long"


def add_cost(inputs, ctx, label, seconds, why=None, otherwise=None):
    """Adds the notice of what a job does and how long that takes.

    Args:
        inputs: the form's ``types.Object``
        ctx: the execution context
        label: what it does, over how many samples
        seconds: that it takes, or None where that is not known
        why (None): what takes longest and how to shorten it, said of a long one
        otherwise (None): what is said where the time is not known
    """
    if seconds is None:
        text = otherwise or "How long it takes is known once this model has run on this machine."
        inputs.view("notice", types.Notice(label=label, description=text))
        return
    text = f"Takes {about(seconds)} on this machine."
    if seconds < LONG:
        inputs.view("notice", types.Notice(label=label, description=text))
        return
    text = " ".join(filter(None, (text, why)))
    inputs.view("notice", types.Warning(label=label, description=text))
    # a program is told the cost and has nobody to ask
    if seconds >= VERY_LONG and is_app(ctx):
        prop = inputs.bool(
            CONFIRM,
            default=False,
            required=True,
            label=f"Yes, run this for {about(seconds)}",
            view=types.CheckboxView(),
        )
        if not ctx.params.get(CONFIRM):
            invalid(prop, f"this takes {about(seconds)}: tick the box to run it all the same")


def model_name(ctx, given):
    """The name of the model that a job loads: the one that is given, else that of its run."""
    if given.get("model"):
        return given["model"]
    keys = given.get("cam_key") or record.list_runs(ctx.dataset)[-1:]
    key = keys if isinstance(keys, str) else keys[0]
    return record.config_of(ctx.dataset, key).settings.get("model")


def seconds_of(forwards, model, device=None):
    """Seconds that so many images through a model take; None where that is not known."""
    each = seconds_per_prediction(model, device)
    return None if each is None else forwards * each
