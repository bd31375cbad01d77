"""The choice of a detector's objects in a form: its own, those of a field, or of an evaluation."""

from ..compute.objects import ObjectPlan, checked_maps
from ..compute.params import ARGUMENTS
from ..models import zoo
from ..runs import keys as run_keys
from ..targets import objects as target_objects
from .classes import add_class_names, names_in, say_mapped
from .schema import add, choose, invalid, mark

#: of a detector's own detections; the same words as for other models' classes
OWN_OBJECTS = {
    "predicted": (
        "Its own detections",
        f"The {target_objects.MOST_OBJECTS} most confident of each image",
    ),
    "classes": ("Its own detections of chosen classes", "No others"),
}
#: of objects that the dataset has
OBJECTS = {
    "boxes": ("The boxes of a field", "What the model finds there for the class of each box"),
    "missed": ("Missed boxes of a field", "Boxes that none of its detections matches"),
    "fn": ("False negatives of an evaluation", "Objects that it counts as missed"),
    "fp": ("False positives of an evaluation", "Detections that it counts as wrong"),
    "tp": ("True positives of an evaluation", "Detections that it counts as right"),
}


def given_objects(params):
    """Returns what a form says about objects of the dataset as ``targets``; None until the field is chosen."""
    chosen = params["targets"]
    if chosen in target_objects.OUTCOMES:
        where = params.get("evaluation")
        spec = {"eval": where, "which": chosen}
    else:
        where = params.get("object_field")
        spec = {"field" if chosen == "boxes" else "missed": where}
    names = names_in(params.get("object_classes"))
    if names:
        spec["classes"] = names
    return spec if where else None


def add_objects(inputs, ctx, lookup):
    """Adds the field or evaluation of the objects, and the choice of their classes."""
    if ctx.params["targets"] in target_objects.OUTCOMES:
        prop, field = _evaluation(inputs, ctx)
    else:
        prop, field = _field(inputs, ctx)
    say_mapped(inputs, ctx, prop, field, lookup)
    _refuse_several(prop, lookup)
    add_class_names(inputs, ctx, lookup, "object_classes", "Only these classes", required=False)


def _dropdown(inputs, ctx, name, values, label, none, description=None):
    """A dropdown that has to be chosen from; returns the property and what was chosen, or None."""
    prop = choose(inputs, name, values, required=True, label=label, description=description)
    chosen = ctx.params.get(name)
    if not values:
        invalid(prop, none)
    elif chosen not in values:
        invalid(prop, f"the dataset has no {chosen!r}; choose another" if chosen else "choose one")
    return prop, chosen if chosen in values else None


def _field(inputs, ctx):
    fields = target_objects.detection_fields(ctx.dataset)
    return _dropdown(
        inputs, ctx, "object_field", fields, "Boxes",
        "the dataset has no Detections field",
        "Every label gets its score and the place of its heat as attributes",
    )  # fmt: skip


def _evaluation(inputs, ctx):
    keys = target_objects.evaluations(ctx.dataset)
    prop, key = _dropdown(
        inputs, ctx, "evaluation", keys, "Evaluation",
        "the dataset has no evaluation of Detections; dataset.evaluate_detections(..., eval_key=...) "
        "makes one",
        "Every label with this outcome gets its score and the place of its heat as attributes",
    )  # fmt: skip
    if key is None:
        return prop, None
    evaluated = mark(prop, target_objects.evaluated, key, ctx.params["targets"], ctx.dataset)
    return prop, evaluated and evaluated.field


def _refuse_several(prop, lookup):
    """An object has one class, so a label cannot stand for several."""
    groups = {} if lookup is None else lookup.groups
    several = [name for name, members in groups.items() if len(members) > 1]
    if several and not prop.invalid:
        invalid(prop, f"an object has one class: map {several[0]!r} to one class, not to several")


def add_object_maps(inputs, ctx, kind, advanced=False):
    """Adds how many objects of an image get heatmaps of their own.

    Args:
        inputs: the form's ``types.Object``
        ctx: the execution context
        kind: what the model yields, or None if that is not known before it is loaded: then this is
            asked where a detector's objects are explained. A number that is left from another model is
            shown, to be set back
        advanced (False): whether it is also asked where nothing tells of a detector
    """
    given = ctx.params.get("object_maps") or 0
    targets = ctx.params.get("targets")
    may_be = kind is None and (advanced or (isinstance(targets, str) and targets in OBJECTS))
    if "object_maps" in inputs.properties or not (kind == zoo.DETECTOR or may_be or given):
        return
    prop = add(inputs, ctx, ARGUMENTS, "object_maps")
    if not prop.invalid and kind not in (None, zoo.DETECTOR):
        invalid(prop, "only detectors have objects of their own; set it to 0")


def object_fields(arguments, maps, classless):
    """Names the heatmap fields of a detector's run: ``{(method, layer, tag): field}``."""
    if arguments.get("fuse"):
        raise ValueError(
            "fuse: a detector's feature levels are one map already; open the form again"
        )
    targets = target_objects.ObjectTargets("objects")
    objects = ObjectPlan(targets, checked_maps(arguments.get("object_maps", 0)))
    planned = run_keys.plan_fields(arguments["cam_key"], maps, objects.tags[:1], classless)
    return objects.fields(planned, classless)
