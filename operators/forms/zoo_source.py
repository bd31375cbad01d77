"""The inputs of this repository's model in FiftyOne's form *Apply zoo model*."""

import fiftyone.operators.types as types

from ..compute.params import parse_methods
from ..models import load
from .model import HELP, OTHER
from .schema import choose, choose_name, choose_several, mark

#: where FiftyOne's form has what is entered here
_ENTERED = "remote_params"
_TARGETS = {
    "predicted": "what the model predicts",
    "top_3": "its three best classes, a heatmap each",
    "named": "classes or a label field, by name",
}


def form(ctx):
    """Builds the inputs: the model, the methods, what is explained, the layers.

    Args:
        ctx: the execution context of FiftyOne's form

    Returns:
        a ``types.Property``
    """
    from ...cam_core import list_methods

    inputs, entered = types.Object(), ctx.params.get(_ENTERED) or {}
    names = [*load.own_models(), *load.supported_zoo_models(), OTHER]
    labels = {OTHER: "Another: Hugging Face, timm or a checkpoint"}
    prop = choose_name(
        inputs, "base", {name: labels.get(name, name) for name in names}, entered.get("base"),
        required=True, label="Model to explain",
        description="A zoo model, or one registered in Python with register_model",
    )  # fmt: skip
    if entered.get("base") == OTHER:
        prop = inputs.str("other_base", required=True, label="Name", description=HELP)
    if base_of(entered):
        mark(prop, load.check_name, base_of(entered))
    choose_several(
        inputs, "methods", [method.name for method in list_methods()], label="Methods",
        view=types.AutocompleteView(multiple=True, allow_user_input=False),
        description="One is stored in the label field, several in fields that begin with its name. "
        "Empty: the one to start with for this network",
    )  # fmt: skip
    choose(inputs, "targets", _TARGETS, default="predicted", label="What to explain")
    if entered.get("targets") == "named":
        inputs.str(
            "names", required=True, label="Classes or a label field",
            description="Separated by semicolons, for example tabby; tiger cat",
        )  # fmt: skip
    inputs.list(
        "layers", types.String(), label="Layers",
        description="Names or patterns, such as layer4. Empty: the last one with a spatial map",
    )  # fmt: skip
    return types.Property(inputs, view=types.View(label="Heatmaps"))


def base_of(entered):
    """The name of the model that is explained, or None."""
    name = entered.get("other_base" if entered.get("base") == OTHER else "base")
    return (name or "").strip() or None


def parse(ctx, params):
    """Turns what was entered into arguments of ``cam_model`` and ``base``, in place.

    Args:
        ctx: the execution context
        params: what was entered; names that are not of this form are left alone
    """
    entered = {name: value for name, value in params.items() if value not in (None, "", [])}
    if entered.get("targets") == "named":
        names = [n.strip() for n in str(entered.get("names") or "").split(";") if n.strip()]
        entered["targets"] = names[0] if len(names) == 1 else names
    entered["base"] = base_of(entered)
    load.check_from_app(entered["base"])
    for name in ("names", "other_base"):
        entered.pop(name, None)
    if "methods" in entered:
        entered["methods"] = parse_methods(entered["methods"])
    samples = ctx.target_view()
    if samples is not None and samples.media_type == "image":
        entered["samples"] = samples  # the first of them is tried, and labels are known
    params.clear()
    params.update(entered)
