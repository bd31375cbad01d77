"""Inputs of the operators that handle CAM runs."""

from ..runs import artifacts, record
from ..runs import keys as run_keys
from ..runs.lease import NAMES
from ..runs.level import level_of
from ..runs.run import Run
from ..text import counted, escape_labels
from .schema import choose, invalid, mark, refuse, titled


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
    given = ctx.params.get("cam_key")
    chosen = given or next(iter(runs))
    prop = choose(inputs, "cam_key", values, default=chosen, required=True, label="Run")
    if chosen not in runs:  # never another one in its place: what follows may delete it
        invalid(prop, f"There is no run {given} here (any more); choose one")
        return None
    return chosen


def what_goes(dataset, key):
    """What is deleted with a run.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key

    Returns:
        a list of strings, such as ``"the fields net_gradcam, net_layercam"``
    """
    run, level = Run.open(dataset, key), level_of(dataset)
    fields = [f for f in (*run.fields, *artifacts.of_jobs("field", run)) if level.field(f)]
    views = [*run.record.saved_views, *artifacts.of_jobs("view", run)]
    done = counted(run.record.progress.get("done", 0), level.noun)
    said = [f"the heatmaps of {done}"]
    for what, names in (("fields", map(level.path, fields)), ("saved views", views)):
        names = ", ".join(dict.fromkeys(names))
        said += [f"the {what} {names}"] if names else []
    return [*said, *(f"its {NAMES[part]}" for part in run.jobs), "its files and its record"]


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
