"""The choice of what to explain in a form: classes, labels, or why one and not the other."""

import functools

import fiftyone.operators.types as types

from . import _models, _named_models, _outlines, _own_models, _zoo
from ._targets import Lookup, canonical, items_of, ranked_tags

TARGETS = {
    "predicted": ("Predicted class", "the class with the highest score"),
    "top_2": ("Two best classes", "one heatmap field for each"),
    "top_3": ("Three best classes", "one heatmap field for each"),
    "label": ("Ground truth", "the class that a label field names"),
    "contrast": ("Why not the label", "what speaks for the prediction and against the label"),
    "classes": ("Named classes", "the same classes for every image"),
}
RUNNER_UP = "runner_up"
# Labels of so many samples are compared with the model's classes while a form is filled in.
_LOOKED_AT = 10_000


def given_targets(params):
    """Returns what a form says about targets as arguments: ``targets`` and ``class_map``.

    Args:
        params: ``ctx.params``

    Raises:
        ValueError: if the class map is not understood
    """
    targets, given = params.get("targets"), {}
    if targets == "classes":
        targets = _names(params.get("class_names"))
    elif targets == "label":
        targets = {"field": params["label_field"]} if params.get("label_field") else None
    elif targets == "contrast":
        targets = {"contrast": params.get("contrast_with") or "auto"}
    if targets not in (None, "", []):
        given["targets"] = targets
    class_map = params.get("class_map")
    if isinstance(class_map, str):
        class_map = read_class_map(class_map)
    # what was typed for another choice is not sent along
    if class_map and ranked_tags(targets) is None and targets is not None:
        given["class_map"] = class_map
    return given


def _names(names):
    names = names.split(";") if isinstance(names, str) else names or []
    return [n.strip() for n in names if n.strip()]


def read_class_map(text):
    """Reads a class map: a line for each name, ``cat = tabby; tiger cat``.

    Args:
        text: what was typed

    Returns:
        a dict from names to lists of classes

    Raises:
        ValueError: if a line is none
    """
    found = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, sign, classes = line.partition("=")
        members = _names(classes)
        if not sign or not name.strip() or not members:
            raise ValueError(f"class_map: {line!r} is no line such as: cat = tabby; tiger cat")
        found[name.strip()] = members
    return found


def target_params(targets):
    """Turns ``targets`` into a form's parameters: the inverse of :func:`given_targets`.

    Args:
        targets: what a person gave

    Returns:
        a dict

    Raises:
        ValueError: if they are functions, or a number
    """
    spec = canonical(targets)
    if isinstance(spec, str) and spec in ("predicted", "top_2", "top_3"):
        return {"targets": spec}
    items = items_of(targets)
    if all(isinstance(n, str) and ";" not in n and ranked_tags(n) is None for n in items):
        return {"targets": "classes", "class_names": "; ".join(items)}
    if isinstance(spec, dict) or (
        isinstance(spec, list) and any(isinstance(i, dict) for i in spec)
    ):
        return {"targets": spec}
    raise ValueError(
        "delegate: targets cannot be sent to another process; use names, or delegate=False "
        "('top_2', 'top_3' or class names)"
    )


def add_targets(inputs, ctx, model):
    """Adds the choice of what to explain to a form.

    Args:
        inputs: the form's ``types.Object``
        ctx: the execution context
        model: the name of the model
    """
    chosen = ctx.params.get("targets")
    if isinstance(chosen, (dict, list)):
        return  # a queue brings what Python asked for, which no choice of the form has a word for
    kind = _outlines.kind_of_name(model)
    choices = types.DropdownView()
    for value, (label, description) in TARGETS.items():
        if value != "contrast" or kind in (None, _zoo.CLASSIFIER, _zoo.ZERO_SHOT):
            choices.add_choice(value, label=label, description=description)
    inputs.enum(
        "targets", choices.values(), default="predicted", label="What to explain",
        description="whose score is explained", view=choices,
    )  # fmt: skip
    add = {"label": _label, "contrast": _contrast, "classes": _classes}.get(chosen)
    if add is not None:
        lookup = _class_map(inputs, ctx, model)
        add(inputs, ctx, lookup)


def _class_map(inputs, ctx, model):
    """The class map, and with it the :class:`Lookup`, or None where the classes are not known yet."""
    # what a queue brings is a mapping already
    make = inputs.obj if isinstance(ctx.params.get("class_map"), dict) else inputs.str
    prop = make(
        "class_map",
        label="Names for classes",
        description="only where your names are not the model's: a line for each, cat = tabby; tiger cat",
    )
    names = classes_of(model, ctx.params)
    try:
        given = given_targets(ctx.params).get("class_map")
        return None if names is None else Lookup(_Classes(names), given)
    except ValueError as error:
        _invalid(prop, str(error))
        return None


class _Classes:
    """As much of a model as names are looked up with."""

    def __init__(self, classes):
        self.classes = classes

    def label(self, index):
        return self.classes[index]


def _field(inputs, ctx, name, label, description, more=()):
    """A dropdown of label fields; returns the property and the chosen field, or None."""
    from ._target_fields import check_field, label_fields

    view = types.DropdownView()
    for value, text in more:
        view.add_choice(value, label=text)
    fields = label_fields(ctx.dataset)
    for field in fields:
        view.add_choice(field, label=field)
    prop = inputs.enum(
        name, view.values(), required=True, label=label, description=description, view=view
    )
    chosen = ctx.params.get(name)
    if not fields and not more:
        _invalid(prop, "the dataset has no field of labels")
    elif not chosen:
        _invalid(prop, "choose a field")
    elif chosen not in dict(more):
        try:
            check_field(ctx.dataset, chosen)
            return prop, chosen
        except ValueError as error:
            _invalid(prop, str(error))
    return prop, None


def _label(inputs, ctx, lookup):
    prop, field = _field(
        inputs,
        ctx,
        "label_field",
        "Label field",
        "an image whose label the model lacks gets no heatmap",
    )
    _say_mapped(inputs, ctx, prop, field, lookup)


def _contrast(inputs, ctx, lookup):
    prop, field = _field(
        inputs,
        ctx,
        "contrast_with",
        "Which label",
        "an image that is classified as labelled gets no heatmap",
        [(RUNNER_UP, "no label: the second best class")],
    )
    _say_mapped(inputs, ctx, prop, field, lookup)


def _say_mapped(inputs, ctx, prop, field, lookup):
    """Says how many of a field's labels are classes of the model, and what the others may mean."""
    if field is None or lookup is None:
        return
    from ._target_fields import label_path

    view = ctx.target_view(require_flat=True)
    names = view.limit(_LOOKED_AT).distinct(label_path(view, field))
    names = [str(n) for n in names if n not in (None, "")]
    lost = [n for n in names if not lookup.find(n)]
    if names and len(lost) == len(names):
        _invalid(prop, f"the model has none of these labels: {_with_near(lost, lookup)}")
    elif names:
        text = f"{len(names) - len(lost)} of {len(names)} labels are classes of the model"
        inputs.view(
            "mapped",
            types.Notice(
                label=text, description=f"not: {_with_near(lost, lookup)}" if lost else None
            ),
        )


def _with_near(names, lookup):
    shown = []
    for name in names[:5]:
        near = lookup.near(name)
        shown.append(f"{name!r} (near: {', '.join(near)})" if near else repr(name))
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _classes(inputs, ctx, lookup):
    description = "as the model calls them, separated by semicolons"
    if lookup is None or isinstance(ctx.params.get("class_names"), str):
        prop = inputs.str(
            "class_names", required=True, label="Class names", description=description
        )
    else:
        view = types.AutocompleteView(multiple=True, allow_user_input=True)
        for name in dict.fromkeys(lookup.names.classes):
            view.add_choice(name, label=name)
        prop = inputs.list(
            "class_names", types.String(), required=True, label="Class names",
            description=f"of the {len(lookup.names.classes)} classes of the model", view=view,
        )  # fmt: skip
    names = _names(ctx.params.get("class_names"))
    if not names:
        _invalid(prop, "name at least one class")
    if lookup is None:
        return
    for name in names:
        if not lookup.find(name):
            several = lookup.names.find(name)
            near = lookup.near(name)
            if several:
                said = f"the model has {len(several)} classes named {name!r}"
            else:
                meant = f"; did you mean {', '.join(near)}?" if near else ""
                said = f"the model has no class {name!r}{meant}"
            _invalid(prop, said)
            return


def tags_of(given, samples):
    """Names the targets that a form's arguments ask for, as well as can be known without the model.

    Args:
        given: arguments of ``compute_cams``
        samples: the dataset or view

    Returns:
        a list of tags
    """
    spec = given.get("targets", "predicted")
    tags = ranked_tags(spec)
    if tags is not None:
        return tags
    found = []
    for item in items_of(spec):
        if isinstance(item, dict) and "field" in item:
            from ._target_fields import width_of

            width = width_of(samples, item["field"])
            found += ["label"] if width == 1 else [f"label{i + 1}" for i in range(width)]
        elif isinstance(item, dict) and "contrast" in item:
            found.append("contrast")
        else:
            found.append(str(item))
    return found


def classes_of(name, params=None):
    """Returns a model's class names without its weights, or None where they are not known.

    Args:
        name: of a model
        params (None): ``ctx.params``, whose classes a zero-shot model looks for
    """
    typed = _names((params or {}).get("classes"))
    if typed:
        return typed
    own = _own_models.registered().get(name)
    if own is not None:
        listed = isinstance(own.classes, (list, tuple))
        return [str(c) for c in own.classes] if listed else None
    return _classes_by_name(name)


@functools.lru_cache(maxsize=16)
def _classes_by_name(name):
    entry = None if _named_models.is_named(name) else _zoo.entry(name)
    config = ((entry and entry.default_deployment_config_dict) or {}).get("config", {})
    if config.get("labels_path") and _models.refusal(name) is None:
        return _read_labels(config["labels_path"])
    adapted = _outlines.outline(name)
    labels = getattr(getattr(getattr(adapted, "module", None), "config", None), "id2label", None)
    if not labels or all(str(v).startswith("LABEL_") for v in labels.values()):
        return None
    return [str(labels[i]) for i in sorted(labels)]


def _read_labels(path):
    import eta.core.learning as etal
    import fiftyone.core.utils as fou

    try:
        return [
            str(n) for n in etal.get_class_labels(etal.load_labels_map(fou.fill_patterns(path)))
        ]
    except OSError:
        return None  # the file comes with the model


def _invalid(prop, message):
    prop.invalid = True
    prop.error_message = message
