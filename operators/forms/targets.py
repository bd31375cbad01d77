"""The choice of what to explain in a form: classes, labels, or why one and not the other."""

from ..compute.params import ARGUMENTS
from ..models import preview, registered, zoo
from ..targets.spec import canonical, items_of, ranked_tags
from .classes import add_class_map, add_class_names, class_map_of, names_in, say_mapped
from .objects import OBJECTS, OWN_OBJECTS, add_objects, given_objects
from .schema import add, choose, invalid, mark

TARGETS = {
    "predicted": ("Predicted class", "The class with the highest score"),
    "top_2": ("Top 2 classes", "One heatmap field each"),
    "top_3": ("Top 3 classes", "One heatmap field each"),
    "label": ("Ground truth", "The class in a label field"),
    "contrast": (
        "Prediction against label",
        "What speaks for the prediction and against the label",
    ),
    "classes": ("Chosen classes", "The same classes for every image"),
}
#: of a network that is registered as one with several labels per image
MISSED = {
    "missed_label": ("Missed labels", "Labelled classes that the network does not predict"),
}
RUNNER_UP = "runner_up"
_OF_LABELS = {"label", "contrast", *MISSED, *OBJECTS}


def given_targets(params):
    """Returns what a form says about targets as arguments: ``targets`` and ``class_map``."""
    targets, given = params.get("targets"), {}
    if targets == "classes":
        targets = names_in(params.get("class_names"))
    elif targets == "label":
        targets = {"field": params["label_field"]} if params.get("label_field") else None
    elif isinstance(targets, str) and targets in MISSED:
        targets = {"missed": params["label_field"]} if params.get("label_field") else None
    elif targets == "contrast":
        targets = {"contrast": params.get("contrast_with") or "auto"}
    elif isinstance(targets, str) and targets in OBJECTS:
        targets = given_objects(params)
    if targets not in (None, "", []):
        given["targets"] = targets
    class_map = class_map_of(params)
    # what was typed for another choice is not sent along
    if class_map and ranked_tags(targets) is None and targets is not None:
        given["class_map"] = class_map
    return given


def target_params(targets):
    """Turns ``targets`` into a form's parameters: the inverse of :func:`given_targets`."""
    spec = canonical(targets)
    if isinstance(spec, str) and spec in ("predicted", "top_2", "top_3"):
        return {"targets": spec}
    items = items_of(targets)
    if items and all(isinstance(n, str) and ranked_tags(n) is None for n in items):
        return {"targets": items}  # not the form's class names: a name may be that of a label field
    if isinstance(spec, dict) or (
        isinstance(spec, list) and any(isinstance(i, dict) for i in spec)
    ):
        return {"targets": spec}
    raise ValueError(
        "delegate: targets cannot be sent to another process; use names, or delegate=False "
        "('top_2', 'top_3' or class names)"
    )


def add_targets(inputs, ctx, model):
    """Adds the choice of what to explain to a form."""
    chosen = ctx.params.get("targets")
    if isinstance(chosen, (dict, list)):
        return  # a queue brings what Python asked for, which no choice of the form has a word for
    kind = preview.kind_of_name(model)
    offered = _offered(kind) | (MISSED if _several_labels(model) else {})
    if ctx.dataset.media_type == "video":  # whose frames' fields are named from Python only
        offered = {name: said for name, said in offered.items() if name not in _OF_LABELS}
    said = "The class whose score is explained"
    if kind == zoo.DETECTOR:
        said = "Each object is explained by itself; one field shows them together"
    prop = add(inputs, ctx, ARGUMENTS, "targets", values=offered, description=said)
    if chosen is not None and chosen not in offered:
        invalid(prop, "choose what to explain of this model")
    elif chosen in OBJECTS:
        add_objects(inputs, ctx, add_class_map(inputs, ctx, model))
    elif chosen in _MORE:
        _MORE[chosen](inputs, ctx, add_class_map(inputs, ctx, model))


def _offered(kind):
    """The choices for a kind of model; of a model whose kind its name does not tell, all of them."""
    if kind == zoo.DETECTOR:
        return {**OWN_OBJECTS, **OBJECTS}
    contrasted = kind in (None, zoo.CLASSIFIER, zoo.ZERO_SHOT)
    plain = {k: v for k, v in TARGETS.items() if k != "contrast" or contrasted}
    if kind is not None:
        return plain
    return plain | {k: (f"Detector: {label}", said) for k, (label, said) in OBJECTS.items()}


def _several_labels(model):
    """Whether a model's name is registered as that of a multi-label network."""
    own = registered.registered().get(model)
    return own is not None and bool((own.options or {}).get("multi_label"))


def _field(inputs, ctx, name, label, description, more=()):
    """A dropdown of label fields; returns the property and the chosen field, or None."""
    from ..targets.label_field import check_field, label_fields

    fields = label_fields(ctx.dataset)
    values = {**dict(more), **{field: field for field in fields}}
    prop = choose(inputs, name, values, required=True, label=label, description=description)
    chosen = ctx.params.get(name)
    if not fields and not more:
        invalid(prop, "the dataset has no label field")
    elif not chosen:
        invalid(prop, "choose a field")
    elif chosen not in dict(more):
        mark(prop, check_field, ctx.dataset, chosen)
        return prop, None if prop.invalid else chosen
    return prop, None


def _label(inputs, ctx, lookup):
    prop, field = _field(
        inputs,
        ctx,
        "label_field",
        "Label field",
        "Images whose label is no class of the model get no heatmap",
    )
    say_mapped(inputs, ctx, prop, field, lookup)


def _contrast(inputs, ctx, lookup):
    prop, field = _field(
        inputs,
        ctx,
        "contrast_with",
        "Label field",
        "Images whose prediction is the label get no heatmap",
        [(RUNNER_UP, "No label: the second best class")],
    )
    say_mapped(inputs, ctx, prop, field, lookup)


#: what a choice asks for more
_MORE = {"label": _label, "missed_label": _label, "contrast": _contrast, "classes": add_class_names}


def tags_of(given, samples):
    """Names the targets that a form's arguments ask for, as well as can be known without the model."""
    spec = given.get("targets", "predicted")
    tags = ranked_tags(spec)
    if tags is not None:
        return tags
    found = []
    for item in items_of(spec):
        if isinstance(item, dict) and "field" in item:
            from ..targets.label_field import width_of

            width = width_of(samples, item["field"])
            found += ["label"] if width == 1 else [f"label{i + 1}" for i in range(width)]
        elif isinstance(item, dict) and isinstance(item.get("missed"), str):
            from ..targets.label_field import kind_of, width_of

            labels = kind_of(samples, item["missed"]) is not None
            width = width_of(samples, item["missed"], None, several=True) if labels else 1
            found += ["missed"] if width == 1 else [f"missed{i + 1}" for i in range(width)]
        elif isinstance(item, dict) and "contrast" in item:
            found.append("contrast")
        else:
            found.append(str(item))
    return found
