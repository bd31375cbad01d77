"""Inputs of the operators that handle CAM runs."""

import fiftyone.operators.types as types

from ..runs import keys as run_keys
from ..runs import record


def choose_run(inputs, ctx, keys=None, none="This dataset has no CAM run"):
    """Adds the choice of a run.

    Args:
        inputs: the form's ``types.Object``
        ctx: the execution context
        keys (None): the keys to choose from; by default all
        none: what is said where there are none

    Returns:
        the key that is chosen, or None
    """
    run_keys.refresh(ctx.dataset)
    runs = {key: record.config_of(ctx.dataset, key) for key in run_keys.list_runs(ctx.dataset)}
    runs = {key: config for key, config in runs.items() if keys is None or key in keys}
    if not runs:
        prop = inputs.view("problem", types.Warning(label=none))
        prop.invalid, prop.error_message = True, none
        return None
    choices = types.DropdownView()
    for key, config in runs.items():
        status = f"{run_keys.status_from(config)}, {run_keys.share(config)}"
        models = config.settings.get("model")
        choices.add_choice(key, label=key, description=f"{status}; {models}")
    chosen = ctx.params.get("cam_key")
    chosen = chosen if chosen in runs else next(iter(runs))
    inputs.enum(
        "cam_key", choices.values(), default=chosen, required=True, label="Run", view=choices
    )
    return chosen


def new_key(inputs, ctx, name, default=None, required=True):
    """Adds the input of a key that is not taken."""
    prop = inputs.str(
        name,
        default=default,
        required=required,
        label="New key",
        description="begins the name of every field",
    )
    value = ctx.params.get(name) or default
    if value:
        try:
            run_keys.check_new_key(ctx.dataset, value)
        except ValueError as error:
            prop.invalid, prop.error_message = True, str(error).replace("cam_key", name)


def form(inputs, label):
    """The form's property."""
    return types.Property(inputs, view=types.View(label=label))
