"""Names of classes in a form: which the model has, and which of them somebody's own names mean."""

import functools

import fiftyone.operators.types as types

from ..compute.params import ARGUMENTS
from ..models import load, preview, registered, zoo
from ..targets.spec import Lookup
from .schema import invalid

# Labels of so many samples are compared with the model's classes while a form is filled in.
_LOOKED_AT = 10_000


def names_in(names):
    """Returns names that were chosen, or typed with semicolons between them."""
    names = names.split(";") if isinstance(names, str) else names or []
    return [n.strip() for n in names if n.strip()]


def read_class_map(text):
    """Reads a class map, a line for each name, ``cat = tabby; tiger cat``, as a dict of lists."""
    found = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, sign, classes = line.partition("=")
        members = names_in(classes)
        if not sign or not name.strip() or not members:
            raise ValueError(f"class_map: {line!r} is no line such as: cat = tabby; tiger cat")
        found[name.strip()] = members
    return found


def class_map_of(params):
    """The class map that a form says, as a mapping; None without one."""
    given = params.get("class_map")
    return read_class_map(given) if isinstance(given, str) else given


def add_class_map(inputs, ctx, model):
    """Adds the class map; returns a :class:`Lookup`, or None where the classes are not known yet."""
    # what a queue brings is a mapping already
    make = inputs.obj if isinstance(ctx.params.get("class_map"), dict) else inputs.str
    row = next(param for param in ARGUMENTS if param.name == "class_map")
    prop = make("class_map", label=row.field.label, description=row.field.description)
    names = classes_of(model, ctx.params)
    try:
        given = class_map_of(ctx.params)
        return None if names is None else Lookup(_Classes(names), given)
    except ValueError as error:
        invalid(prop, str(error))
        return None


class _Classes:
    """As much of a model as names are looked up with."""

    def __init__(self, classes):
        self.classes = classes


def say_mapped(inputs, ctx, prop, field, lookup):
    """Says how many of a field's labels are classes of the model, and what the others may mean."""
    if field is None or lookup is None:
        return
    from ..targets.label_field import label_path

    view = ctx.target_view(require_flat=True)
    names = view.limit(_LOOKED_AT).distinct(label_path(view, field))
    names = [str(n) for n in names if n not in (None, "")]
    lost = [n for n in names if not lookup.find(n)]
    if names and len(lost) == len(names):
        invalid(prop, f"the model has none of these labels: {_with_near(lost, lookup)}")
    elif names:
        text = f"{len(names) - len(lost)} of {len(names)} labels are classes of the model"
        inputs.view(
            "mapped",
            types.Notice(
                label=text, description=f"Not found: {_with_near(lost, lookup)}" if lost else None
            ),
        )


def _with_near(names, lookup):
    shown = []
    for name in names[:5]:
        near = lookup.near(name)
        several = lookup.several(name)
        shown.append(several or (f"{name!r} (near: {', '.join(near)})" if near else repr(name)))
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def add_class_names(
    inputs, ctx, lookup, name="class_names", label="Classes to explain", required=True
):
    """Adds the choice of some of the model's classes, and says which of the names it lacks."""
    options = {"required": required, "label": label}
    more = "" if required else ". Empty: all"
    if lookup is None or isinstance(ctx.params.get(name), str):
        description = f"As the model calls them, separated by semicolons{more}"
        prop = inputs.str(name, description=description, **options)
    else:
        view = types.AutocompleteView(multiple=True, allow_user_input=True)
        for known in lookup.names.labels:
            view.add_choice(known, label=known)
        description = f"Out of the model's {len(lookup.names.classes):,} classes{more}"
        prop = inputs.list(name, types.String(), description=description, view=view, **options)
    names = names_in(ctx.params.get(name))
    if required and not names:
        invalid(prop, "name at least one class")
    said = (
        None if lookup is None else next(filter(None, (_lacking(n, lookup) for n in names)), None)
    )
    if said:
        invalid(prop, said)


def _lacking(name, lookup):
    """Why a name stands for no class; None if it does."""
    if lookup.find(name):
        return None
    several = lookup.several(name)
    if several:
        return several
    near = lookup.near(name)
    meant = f"; did you mean {', '.join(near)}?" if near else ""
    return f"the model has no class {name!r}{meant}"


def classes_of(name, params=None):
    """Returns a model's class names without its weights, or None where they are not known."""
    typed = names_in((params or {}).get("classes"))
    if typed:
        return typed
    own = registered.registered().get(name)
    if own is not None and isinstance(own.classes, (list, tuple)):
        return [str(c) for c in own.classes]
    try:
        by_name = _classes_by_name(name) if own is None else None
    except LookupError:
        by_name = None
    return by_name or preview.seen_classes(name)


@functools.lru_cache(maxsize=16)
def _classes_by_name(name):
    entry = zoo.entry(name)
    config = ((entry and entry.default_deployment_config_dict) or {}).get("config", {})
    if config.get("labels_path") and load.refusal(name) is None:
        return _read_labels(config["labels_path"])
    adapted = preview.build_without_weights(name)
    labels = getattr(getattr(getattr(adapted, "module", None), "config", None), "id2label", None)
    if not labels or all(str(v).startswith("LABEL_") for v in labels.values()):
        raise LookupError(name)  # not kept: they may be known once the model is downloaded
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
