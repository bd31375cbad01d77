"""The inputs of this repository's model in FiftyOne's form *Apply zoo model*."""

import fiftyone.operators.types as types

from ..compute.params import parse_methods
from ..models import load
from .schema import choose, choose_or_type, choose_several, mark

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
    prop = choose_or_type(
        inputs, "base", [*load.own_models(), *load.supported_zoo_models()], required=True,
        label="Model to explain",
        description="of the model zoo, hf:<id>, timm:<name>, or one of your own that is registered",
    )  # fmt: skip
    if entered.get("base"):
        mark(prop, load.check_name, entered["base"])
    choose_several(
        inputs, "methods", [method.name for method in list_methods()], label="Methods",
        description="one is stored in the label field, several in fields that begin with its name; "
        "by default the one to begin with for this network",
    )  # fmt: skip
    choose(inputs, "targets", _TARGETS, default="predicted", label="What to explain")
    if entered.get("targets") == "named":
        inputs.str(
            "names", required=True, label="Classes or a label field",
            description="separated by semicolons, for example tabby; tiger cat",
        )  # fmt: skip
    inputs.list(
        "layers", types.String(), label="Layers",
        description="names or patterns, such as layer4; by default the last with a grid",
    )  # fmt: skip
    return types.Property(inputs, view=types.View(label="Heatmaps"))


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
    entered.pop("names", None)
    if "methods" in entered:
        entered["methods"] = parse_methods(entered["methods"])
    samples = ctx.target_view()
    if samples is not None and samples.media_type == "image":
        entered["samples"] = samples  # the first of them is tried, and labels are known
    params.clear()
    params.update(entered)
