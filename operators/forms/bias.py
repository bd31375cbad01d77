"""The forms of ``find_background_bias`` and ``test_region``."""

import fiftyone.operators.types as types

from ..bias import schema as store
from ..bias.params import ARGUMENTS, DONORS, NOISY, PROBE, check_plain_field
from ..bias.report import check_report
from ..compute import recorded_model
from ..compute.recorded_model import to_give
from ..data.object_fields import choose_object_field, find_object_fields
from ..data.objects import AnnotatedObjects
from ..jobs import params as tables
from ..models import load
from ..runs import keys
from ..runs import record as run_record
from ..targets.true_labels import Labels
from ..text import counted
from . import model
from .cost import add_cost, model_name, seconds_of
from .runs import mark_key
from .schema import add, add_plain, invalid, is_wrong, mark, refuse, titled
from .snippet import add_snippet

NEW = "a new run"
_NONE = "none"


def arguments_of(params):
    """Turns a form's parameters into the arguments of ``find_background_bias`` that were given."""
    given = tables.arguments_of(ARGUMENTS, params)
    given.pop("model", None)
    given.update(model.given_model(params))
    if given.get("cam_key") == NEW:
        del given["cam_key"]
    if params.get("new_key"):
        given["cam_key"] = params["new_key"]
    return given


def params_of(arguments, runs=()):
    """Turns arguments into parameters, the way into a queue; a key that is not in ``runs`` names a new run."""
    params = tables.params_of(ARGUMENTS, arguments, model.model_params(arguments))
    key = params.get("cam_key")
    if key not in runs and "model" in params:
        params["cam_key"] = NEW
        if key is not None:
            params["new_key"] = key
    return params


def find_background_bias_form(ctx):
    """Builds the form, a ``types.Property``."""
    inputs = types.Object()
    view = ctx.target_view(require_flat=True)
    if add_run(inputs, ctx):
        _add_objects(inputs, ctx, view)
        _add_test(inputs, ctx, view)
        _add_output(inputs, ctx, view)
        _notice(inputs, ctx, view)
    return titled(inputs, "Find background bias", "Test")


def add_run(inputs, ctx, new="A new run: compute heatmaps first"):
    """Adds run and model; returns whether both are settled. ``new`` is what it is called to have no run yet."""
    run_record.refresh(ctx.dataset)
    runs = run_record.list_runs(ctx.dataset)
    default = runs[-1] if runs else NEW
    values = {**{key: key for key in runs}, NEW: new}
    prop = add(inputs, ctx, ARGUMENTS, "cam_key", values=values, default=default, required=True)
    key = ctx.params.get("cam_key") or default
    if key == NEW:
        return _add_model(inputs, ctx)
    if key not in runs:
        return not invalid(prop, f"the dataset has no CAM run {key!r}")
    used = run_record.config_of(ctx.dataset, key).settings
    if recorded_model.is_reloadable(used):
        return True
    again = ", ".join(f"{name}=..." for name in to_give(used))
    prop = inputs.view(
        "from_python",
        types.Warning(
            label=f"The model of this run ({used.get('model')}) was given in Python",
            description=f"{recorded_model.unregistered(used)}. From Python: "
            f"find_background_bias(view, {key!r}, {again})",
        ),
    )
    return not invalid(
        prop,
        "the model of this run was given in Python; run this from Python, or register the model",
    )


def _add_model(inputs, ctx):
    name = model.add_model(inputs, ctx)
    if name is None:
        return False
    default = keys.next_key(ctx.dataset, load.default_key(name))
    prop = inputs.str(
        "new_key", default=default, label="Key", description="The name of the new run"
    )
    mark_key(prop, ctx, ctx.params.get("new_key") or default, "Key")
    return True


def _add_objects(inputs, ctx, view):
    found = find_object_fields(view)
    values = {"auto": f"Automatic ({_automatic(view)})"}
    for field in found:
        kind = f"{field.kind}, predicted: {field.reason}" if field.predicted else field.kind
        values[field.name] = (field.name, kind)
    values[_NONE] = "None: test the border and the hottest place"
    prop = add(inputs, ctx, ARGUMENTS, "objects", values=values)
    given = ctx.params.get("objects") or "auto"
    objects = mark(prop, AnnotatedObjects, view, None if given == _NONE else given)
    if objects is not None:
        inputs.view("objects_note", types.Notice(label=objects.note))
    add(inputs, ctx, ARGUMENTS, "object_classes")


def _automatic(view):
    """What ``"auto"`` stands for, in words."""
    try:
        return choose_object_field(view) or "no field has objects"
    except ValueError:
        return "several fields have objects"


def _add_test(inputs, ctx, view):
    add(inputs, ctx, ARGUMENTS, "probe")
    add(inputs, ctx, ARGUMENTS, "donors")
    for name, check in (
        ("labels", lambda field: Labels(view, field, None)),
        ("group_by", lambda field: check_plain_field(view, field, "group_by")),
    ):
        prop = add(inputs, ctx, ARGUMENTS, name, default=None)
        value = ctx.params.get(name)
        if value and value not in ("auto", _NONE):
            mark(prop, check, value)


def _add_output(inputs, ctx, view):
    add_plain(inputs, ctx, ARGUMENTS)
    overwrite = add(inputs, ctx, ARGUMENTS, "overwrite")
    key, replace = arguments_of(ctx.params).get("cam_key"), bool(ctx.params.get("overwrite"))
    if key is not None:
        mark(overwrite, store.check_store, ctx.dataset, key, replace)
    report = ctx.params.get("report")
    if report and not inputs.properties["report"].invalid:
        mark(inputs.properties["report"], check_report, report, key or "", "app", replace)


def _notice(inputs, ctx, view):
    """What it will cost, once everything is valid."""
    if is_wrong(inputs):
        return
    count = len(view)
    if not count:
        refuse(inputs, "problem", "The view is empty", error="the view is empty")
        return
    given = arguments_of(ctx.params)
    given.setdefault("cam_key", _default_key(ctx, given))
    tested = min(count, given.get("probe", PROBE))
    donors = given.get("donors", DONORS)
    forwards = count + tested * (4 + 2 * donors) + 6 * min(tested, NOISY)
    new = " after computing heatmaps" if "model" in given else ""
    label = f"Explains {counted(count, 'samples')} and tests {tested:,} of them{new}"
    name = model_name(ctx, given)
    why = "Fewer samples to test or fewer backgrounds take less."
    add_cost(inputs, ctx, label, seconds_of(forwards, name), why)
    add_snippet(inputs, ctx, "find_background_bias", given, view, [name])


def _default_key(ctx, given):
    """The key that stands in the form until another is chosen."""
    if "model" in given:
        return keys.next_key(ctx.dataset, load.default_key(given["model"]))
    return run_record.list_runs(ctx.dataset)[-1]
