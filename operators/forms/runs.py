"""Inputs of the operators that handle CAM runs."""

from ..runs import keys as run_keys
from ..runs import record
from ..text import escape_labels
from .schema import choose, mark, refuse, titled


def choose_run(inputs, ctx, keys=None, none="This dataset has no CAM run"):
    """Adds the choice of a run out of ``keys``, by default all; returns the chosen key, or None."""
    record.refresh(ctx.dataset)
    runs = {key: record.config_of(ctx.dataset, key) for key in record.list_runs(ctx.dataset)}
    runs = {key: config for key, config in runs.items() if keys is None or key in keys}
    if not runs:
        refuse(inputs, "problem", none)
        return None
    values = {}
    for key, config in runs.items():
        status = f"{record.status_from(config)}, {record.share(config)}"
        values[key] = (key, f"{status}; {config.settings.get('model')}")
    chosen = ctx.params.get("cam_key")
    chosen = chosen if chosen in runs else next(iter(runs))
    choose(inputs, "cam_key", values, default=chosen, required=True, label="Run")
    return chosen


def new_key(inputs, ctx, name, default=None, required=True):
    """Adds the input of a key that is not taken."""
    prop = inputs.str(
        name,
        default=default,
        required=required,
        label="New key",
        description="Every field of the run begins with it",
    )
    value = ctx.params.get(name) or default
    if value:
        mark_key(prop, ctx, value, name)


def mark_key(prop, ctx, key, name):
    """Marks the input of a key that is taken; ``name`` is what the message calls it."""
    mark(prop, run_keys.check_new_key, ctx.dataset, key)
    if prop.invalid:
        prop.error_message = prop.error_message.replace("cam_key", name)


def form(inputs, label, button="Show"):
    """The form's property; ``button`` is what the button that sends it is called."""
    return escape_labels(titled(inputs, label, button))
