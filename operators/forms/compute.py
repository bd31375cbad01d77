"""Forms: inputs with validation, and what they will do said before they do it."""

import fiftyone.operators.types as types

from ..compute import cost
from ..compute.params import ARGUMENTS, Settings
from ..data.written_paths import confined
from ..jobs import params as tables
from ..models import load as model_load
from ..models import preview, zoo
from ..runs import keys, record
from ..text import about, counted, few
from .cost import add_cost
from .methods import add_methods, methods_of
from .model import add_model, given_model, model_of, model_params
from .objects import add_object_maps, object_fields
from .schema import add, add_plain, invalid, is_wrong, mark, refuse, titled
from .snippet import add_snippet
from .targets import add_targets, given_targets, tags_of, target_params


def arguments_of(params):
    """Turns a form's parameters into the arguments of ``compute_cams`` that were given."""
    given = tables.arguments_of(ARGUMENTS, params)
    for name in ("classes", "targets", "class_map"):  # in a form they stand otherwise
        given.pop(name, None)
    given.update({**given_model(params), **given_targets(params)})
    if params.get("method_set") or params.get("methods"):
        given["methods"] = _methods(params)
        if params.get("method_set") == "all":
            given.setdefault("max_fields", 100)  # they were asked for
    return given


def _methods(params):
    """The methods that a form asks for; the recommended one is that of the model's family."""
    name = model_of(params)
    if (
        name
        and params.get("method_set", "recommended") == "recommended"
        and not params.get("methods")
    ):
        return [preview.default_method(name)]
    return methods_of(params, preview.is_transformer(name))


def params_of(arguments):
    """Turns arguments of ``compute_cams`` into a form's parameters, the way into a queue; refuses what cannot go."""
    targets = arguments.get("targets")
    targets = target_params("predicted" if targets is None else targets)
    return tables.params_of(ARGUMENTS, arguments, {**model_params(arguments), **targets})


def compute_cams_form(ctx):
    """Builds the form, a ``types.Property``."""
    inputs = types.Object()
    view = ctx.target_view(require_flat=True)
    model = add_model(inputs, ctx)
    if model is not None:
        add_methods(inputs, ctx, preview.is_transformer(model))
        add_targets(inputs, ctx, model)
        if ctx.dataset.media_type == "video":
            add(inputs, ctx, ARGUMENTS, "every")
        add_object_maps(inputs, ctx, preview.kind_of_name(model))
        _layers(inputs, ctx, model)
        _key(inputs, ctx, model)
        _advanced(inputs, ctx, model)
        _notice(inputs, ctx, view, model)
    return titled(inputs, "Compute class activation maps", "Compute")


_PROBED = "the last layer with a spatial map, found when the run starts"


def _finds_objects(model):
    return preview.kind_of_name(model) == zoo.DETECTOR


def _layers(inputs, ctx, model):
    names, default = preview.layers_of(model)
    prop = add(
        inputs, ctx, ARGUMENTS, "layers", values=names,
        view=types.AutocompleteView(multiple=True, allow_user_input=True),
        description=f"Empty: the default of this network, {default or _PROBED}",
    )  # fmt: skip
    chosen = _expanded(ctx.params.get("layers") or [], names)
    # Of a model that is not loaded yet the run will say which layers it has.
    unknown = [n for n in chosen if names and n.split(":")[0] not in names]
    if unknown:
        from ...cam_core.layers.find import near_layers

        near = near_layers(unknown[0].split(":")[0], names)
        invalid(prop, f"the model has no layer {unknown[0]!r}; {near}")
    if len(chosen) > 1 and not _finds_objects(model):  # whose layers are one map already
        add(inputs, ctx, ARGUMENTS, "fuse")


def _expanded(layers, names):
    """Names of layers with globs resolved; a glob without a match stays, to be refused."""
    from ...cam_core.layers.find import expand_glob

    found = [n for layer in layers for n in expand_glob(layer, names) or [layer]]
    return list(dict.fromkeys(found))


def _key(inputs, ctx, model):
    default = keys.next_key(ctx.dataset, model_load.default_key(model))
    prop = add(inputs, ctx, ARGUMENTS, "cam_key", default=default)
    key = ctx.params.get("cam_key") or default
    given = [bool(ctx.params.get(name)) for name in ("overwrite", "resume")]
    mark(prop, lambda: keys.check_key(ctx.dataset, key, given[0], resume=given[1]))
    if any(given) or key in record.list_runs(ctx.dataset):
        add(inputs, ctx, ARGUMENTS, "resume")
        add(inputs, ctx, ARGUMENTS, "overwrite")


def _advanced(inputs, ctx, model):
    inputs.bool("advanced", default=False, label="Advanced", view=types.SwitchView())
    if not ctx.params.get("advanced"):
        return
    add_object_maps(inputs, ctx, preview.kind_of_name(model), advanced=True)
    first = ("batch_size", "device", "precision", "heatmap_size", "storage", "output_dir")
    without = () if ctx.params.get("storage") == "disk" else ("output_dir",)
    add_plain(inputs, ctx, ARGUMENTS, first, without)
    if "output_dir" in inputs.properties and ctx.params.get("output_dir"):
        folder = ctx.params["output_dir"]
        mark(inputs.properties["output_dir"], confined, "output_dir", folder, "app")
    mark(inputs.properties["device"], model_load.check_device, ctx.params.get("device"))


def _notice(inputs, ctx, view, model):
    if is_wrong(inputs):
        return  # what is wrong is said where it is; nothing will be written
    given = arguments_of(ctx.params)
    given.setdefault("methods", _methods(ctx.params))
    given.setdefault("cam_key", keys.next_key(ctx.dataset, model_load.default_key(model)))
    arguments = {p.name: given[p.name] for p in ARGUMENTS if p.name in given}
    names, default = preview.layers_of(model)
    layers = _expanded(arguments.get("layers") or [default or "layer"], names)
    try:
        Settings(**{k: v for k, v in arguments.items() if k not in ("model", "classes")})
        if _finds_objects(model):
            planned = object_fields(arguments, *_maps(arguments, ["objects"]))
        else:
            tags = tags_of(arguments, view)
            maps, classless = _maps(arguments, layers)
            planned = keys.plan_fields(arguments["cam_key"], maps, tags, classless)
        fields = list(planned.values())
        keys.check_fields(
            ctx.dataset, fields, arguments["cam_key"], bool(arguments.get("overwrite"))
        )
    except ValueError as error:
        refuse(inputs, "problem", "This cannot run", str(error))
        return
    count = len(view)
    of = "frames of " if ctx.dataset.media_type == "video" else ""
    over = f"{of}{counted(count, 'videos' if of else 'samples')}"
    text = f"{counted(len(fields), 'heatmap fields')} over {over}: {few(fields)}"
    if not count:
        refuse(inputs, "problem", "The view is empty", error="the view is empty")
        return
    if len(fields) > int(arguments.get("max_fields", 12)):
        advice = 'Choose fewer methods, or raise "Most new fields" under Advanced'
        refuse(inputs, "problem", f"{len(fields)} fields", advice, "too many fields")
        return
    seconds, why = _seconds(arguments, view, len({tag for _, _, tag in planned}), len(layers))
    add_cost(inputs, ctx, text, seconds, why)
    add_snippet(inputs, ctx, "compute_cams", arguments, view, [arguments.get("model")])


def _seconds(arguments, view, targets, layers):
    """Seconds that the run will take, None where that is not known, and what takes longest of them."""
    from ...cam_core.methods.catalogue import resolve_methods

    each = cost.seconds_per_prediction(arguments["model"], arguments.get("device"))
    images = _images(view, arguments.get("every"))
    if each is None or images is None:
        return None, None
    methods = resolve_methods(arguments["methods"])
    seconds = each * images * cost.times_of(methods, targets, layers)
    own = {m.key: each * images * targets * cost.extra_of(m, layers) for m in methods}
    slow = [
        f"{k} {about(own[k])}" for k in sorted(own, key=own.get, reverse=True)[:3] if own[k] > 60
    ]
    why = f"Most of it: {', '.join(slow)}. " if slow and len(methods) > 1 else ""
    return seconds, f"{why}Fewer methods or a smaller view take less."


def _images(view, every):
    """How many images are explained: of videos their frames, None where their number is not known."""
    if view.media_type != "video":
        return len(view)
    frames = view.values("metadata.total_frame_count")
    return None if None in frames else sum(-(-count // (every or 1)) for count in frames)


def _maps(arguments, layers):
    """The keys of the maps that a run would make, and of those that have no class."""
    from ...cam_core.methods.catalogue import resolve_methods

    maps, classless = [], set()
    for method in resolve_methods(arguments["methods"]):
        own = method.keys(layers)
        if not method.info.class_discriminative:
            classless.update(key for key, _ in own)
        if arguments.get("fuse") and method.info.place == "layer":
            fused = [(key, "fused") for key in dict.fromkeys(key for key, _ in own)]
            own = own + fused if arguments.get("keep_layers", True) else fused
        maps += own
    return maps, classless
