"""The forms of ``find_background_bias`` and ``test_region``."""

import fiftyone.operators.types as types

from ..bias import schema as store
from ..bias.params import NOISY, PROBE, BiasSettings, check_plain_field
from ..compute import recorded_model
from ..compute.params import MODEL_OPTIONS, describe
from ..compute.recorded_model import to_give
from ..data.object_reader import find_object_fields
from ..data.objects import AnnotatedObjects
from ..models import load
from ..runs import keys
from ..targets.true_labels import Labels
from . import model

NEW = "a new run"
# What Execute hands over; the rest is layout.
_ARGUMENTS = (
    "cam_key", "model", "methods", "targets", "layers", "objects", "object_classes", "aliases", "labels",
    "probe", "donors", "most_donors", "control", "noise", "feather", "group_by", "scenes", "views", "tags", "report",
    "batch_size", "num_workers", "device", "precision", "overwrite", "seed", *MODEL_OPTIONS,
)  # fmt: skip
_NONE = "none"


def arguments_of(params):
    """Turns a form's parameters into the arguments of ``find_background_bias``.

    Args:
        params: ``ctx.params``

    Returns:
        a dict of the arguments that were given
    """
    given = {k: params[k] for k in _ARGUMENTS if params.get(k) not in (None, "", [])}
    given.pop("model", None)
    given.update(model.given_model(params))
    if given.get("cam_key") == NEW:
        del given["cam_key"]
    if params.get("new_key"):
        given["cam_key"] = params["new_key"]
    if given.get("probe") == 0:
        del given["probe"]
    for name in ("objects", "labels"):
        if given.get(name) == _NONE:
            given[name] = None
    return given


def params_of(arguments, runs=()):
    """Turns arguments of ``find_background_bias`` into parameters: the way into a queue.

    Args:
        arguments: of the call
        runs (()): keys of the dataset's CAM runs; another one names a new run

    Raises:
        ValueError: if a value cannot be sent to another process
    """
    params = {k: v for k, v in arguments.items() if v is not None}
    for name in ("objects", "labels"):
        if arguments[name] is None:
            params[name] = _NONE
    if params.get("probe") == "auto":
        del params["probe"]
    for name, value in params.items():
        if describe(value) != value:
            raise ValueError(
                f"delegate: {name} cannot be sent to another process; use names, or delegate=False"
            )
    params.update(model.model_params(arguments))
    key = params.get("cam_key")
    if key not in runs and "model" in params:
        params["cam_key"] = NEW
        if key is not None:
            params["new_key"] = key
    return params


def find_background_bias_form(ctx):
    """Builds the form.

    Args:
        ctx: the execution context

    Returns:
        a ``types.Property``
    """
    inputs = types.Object()
    view = ctx.target_view(require_flat=True)
    if add_run(inputs, ctx):
        _add_objects(inputs, ctx, view)
        _add_test(inputs, ctx, view)
        _add_output(inputs, ctx, view)
        _notice(inputs, ctx, view)
    return types.Property(inputs, view=types.View(label="Find background bias"))


def add_run(inputs, ctx, new="A new run: compute heatmaps first"):
    """Adds run and model; returns whether both are settled.

    Args:
        inputs: the form
        ctx: the execution context
        new: what it is called not to have a run yet
    """
    keys.refresh(ctx.dataset)
    runs = keys.list_runs(ctx.dataset)
    choices = types.DropdownView()
    for key in runs:
        choices.add_choice(key, label=key)
    choices.add_choice(NEW, label=new)
    default = runs[-1] if runs else NEW
    prop = inputs.enum(
        "cam_key", choices.values(), default=default, required=True, label="Heatmaps",
        description="the CAM run whose model is examined", view=choices,
    )  # fmt: skip
    key = ctx.params.get("cam_key") or default
    if key == NEW:
        return _add_model(inputs, ctx)
    if key not in runs:
        return not invalid(prop, f"the dataset has no CAM run {key!r}")
    used = keys.config_of(ctx.dataset, key).settings
    if recorded_model.is_reloadable(used):
        return True
    again = ", ".join(f"{name}=..." for name in to_give(used))
    prop = inputs.view(
        "from_python",
        types.Warning(
            label=f"What this run was computed with ({used.get('model')}) was given from Python",
            description=f"{recorded_model.unregistered(used)}. From Python: "
            f"find_background_bias(view, {key!r}, {again})",
        ),
    )
    return not invalid(prop, "the model of this run cannot be built from the run's record")


def _add_model(inputs, ctx):
    name = model.add_model(inputs, ctx)
    if name is None:
        return False
    default = keys.next_key(ctx.dataset, load.default_key(name))
    prop = inputs.str("new_key", default=default, label="Key", description="names the new run")
    try:
        keys.check_new_key(ctx.dataset, ctx.params.get("new_key") or default)
    except ValueError as error:
        invalid(prop, str(error).replace("cam_key", "Key"))
    return True


def _add_objects(inputs, ctx, view):
    choices = types.DropdownView()
    choices.add_choice("auto", label="The one that is no prediction")
    for field in find_object_fields(view):
        kind = f"{field.kind}, predicted: {field.reason}" if field.predicted else field.kind
        choices.add_choice(field.name, label=field.name, description=kind)
    choices.add_choice(_NONE, label="None: test the border and the hottest place")
    prop = inputs.enum(
        "objects", choices.values(), default="auto", label="Objects",
        description="where the objects are; everything else is background", view=choices,
    )  # fmt: skip
    try:
        given = ctx.params.get("objects") or "auto"
        objects = AnnotatedObjects(view, None if given == _NONE else given)
        inputs.view("objects_note", types.Notice(label=objects.note))
    except ValueError as error:
        invalid(prop, str(error))
    choices = types.DropdownView()
    for value, label in (
        ("auto", "The explained class's, else all"),
        ("explained", "The explained class's"),
        ("all", "All"),
    ):
        choices.add_choice(value, label=label)
    inputs.enum(
        "object_classes", choices.values(), default="auto", label="Which of them", view=choices
    )


def _add_test(inputs, ctx, view):
    inputs.int(
        "probe", default=0, min=0, label="Samples to test",
        description=f"spread over the classes; 0 for all, at most {PROBE:,}",
    )  # fmt: skip
    inputs.int(
        "donors", default=4, min=1, max=64, label="Other backgrounds per sample",
        description="and as many of the same class, which is the control",
    )  # fmt: skip
    for name, label, description in (
        (
            "labels",
            "Labels",
            "a field with the true class; empty for the one classification there is",
        ),
        ("group_by", "Compare", "a field such as hospital, whose values are compared"),
    ):
        prop = inputs.str(name, label=label, description=description)
        value = ctx.params.get(name)
        if not value or value in ("auto", _NONE):
            continue
        try:
            if name == "labels":
                Labels(view, value, None)
            else:
                check_plain_field(view, value, name)
        except ValueError as error:
            invalid(prop, str(error))


def _add_output(inputs, ctx, view):
    inputs.bool(
        "tags", default=False, label="Tag samples with their verdicts", view=types.CheckboxView()
    )
    prop = inputs.str(
        "report", label="Report folder",
        description="for an HTML page, CSV and JSON files, on the machine that runs this; empty for none",
    )  # fmt: skip
    overwrite = inputs.bool(
        "overwrite", default=False, label="Overwrite", view=types.CheckboxView(),
        description="delete what an earlier examination of this run wrote, first",
    )  # fmt: skip
    try:
        BiasSettings(report=ctx.params.get("report") or None)
    except ValueError as error:
        invalid(prop, str(error))
    key = arguments_of(ctx.params).get("cam_key")
    if key is None:
        return
    try:
        store.check_store(ctx.dataset, key, bool(ctx.params.get("overwrite")))
    except ValueError as error:
        invalid(overwrite, str(error))


def _notice(inputs, ctx, view):
    """What it will cost, once everything is valid."""
    if any(prop.invalid for prop in inputs.properties.values()):
        return
    count = len(view)
    if not count:
        invalid(
            inputs.view("problem", types.Warning(label="The view is empty")), "the view is empty"
        )
        return
    given = arguments_of(ctx.params)
    tested = min(count, given.get("probe", PROBE))
    donors = given.get("donors", 4)
    forwards = tested * (4 + 2 * donors) + 6 * min(tested, NOISY)
    new = " after computing heatmaps" if "model" in given else ""
    inputs.view(
        "notice",
        types.Notice(
            label=f"{count:,} samples explained once, {tested:,} of them tested{new}",
            description=f"about {forwards + count:,} forwards of the model, more where {donors} backgrounds leave "
            "a verdict open; the progress bar says how far",
        ),
    )


def invalid(prop, message):
    """Marks an input as wrong, which blocks the form; returns True."""
    prop.invalid = True
    prop.error_message = message
    return True
