"""The methods in a form: ready sets or one's own choice, with what they cost."""

import fiftyone.operators.types as types

from ..compute.cost import times_of
from ..compute.params import ARGUMENTS, parse_methods
from ..jobs.params import labels_of
from ..text import few
from .schema import choose, choose_several, invalid

# Five that differ: by mean gradients, by positions, exact products, by leaving out, without a class.
COMPARE = ["gradcam", "layercam", "hirescam", "ablationcam", "eigencam"]
# predictions per image from which on the cost of methods is a warning
_MANY = 100
_SETS = {
    "recommended": ("Recommended", "The one to start with for this network"),
    "compare": ("Compare", "Five that differ most"),
    "all": ("All", "Every method that fits this network"),
    "chosen": ("My choice", "Choose from the list"),
}


def methods_of(params, transformer=False):
    """Returns the methods that a form asks for: names, and pairs of names and options."""
    chosen = params.get("method_set", "chosen" if params.get("methods") else "recommended")
    if chosen == "chosen":
        names = parse_methods(params.get("methods") or [])
    elif chosen == "all":
        names = [m.name for m in _fitting(transformer)]
    elif chosen == "compare":
        names = list(COMPARE)
    else:
        names = ["gradcam_elementwise" if transformer else "gradcam"]
    smooth = params.get("smooth") if chosen == "chosen" else None
    return [_smoothed(name, smooth) for name in names] if smooth else names


def _smoothed(method, smooth):
    name, options = method if isinstance(method, tuple) else (method, {})
    return (name, {**options, "smooth": list(smooth)}) if options else "+".join([name, *smooth])


def _fitting(transformer):
    """The methods that run on a network: some need a linear head, ReLUs or attention."""
    from ...cam_core import list_methods

    if not transformer:
        return [m for m in list_methods() if not m.needs_attention]
    convolutional = {"head", "guided_gradient", "full_gradient", "model"}
    return [
        m for m in list_methods() if m.name == "ablationcam" or not convolutional & set(m.needs)
    ]


def add_methods(inputs, ctx, transformer):
    """Adds the choice of methods to a form."""
    from ...cam_core.methods.catalogue import resolve_methods

    choose(
        inputs, "method_set", _SETS, types.TabsView(), default="recommended",
        label=labels_of(ARGUMENTS)["methods"],
        description="All are computed in one pass over the data",
    )  # fmt: skip
    prop = None
    if ctx.params.get("method_set") == "chosen":
        prop = _list(inputs, transformer)
    try:
        methods = resolve_methods(methods_of(ctx.params, transformer))
    except ValueError as error:
        target = prop or inputs.view("method_problem", types.Warning(label=str(error)))
        invalid(target, str(error))
        return
    names = few([m.key for m in methods])
    view = types.Warning if times_of(methods) >= _MANY else types.Notice
    inputs.view("method_cost", view(label=f"{names}: {cost_text(methods)}"))


def _list(inputs, transformer):
    from ...cam_core.methods.registry import SMOOTHINGS

    same = {True: "", False: " (same map for every class)"}
    values = {
        info.name: (
            f"{info.name}  (≈ {times_text(info.times)})",
            f"{info.summary}{same[info.class_discriminative]}",
        )
        for info in _fitting(transformer)
    }
    prop = choose_several(inputs, "methods", values, default=["gradcam"], label="Which methods")
    around = {name: (name, what) for name, what in SMOOTHINGS.items()}
    choose_several(
        inputs, "smooth", around, label="Smoothing",
        description="Applied to every method. Empty: the methods as published",
    )  # fmt: skip
    return prop


def times_text(times):
    """Says a cost in predictions: ``20 predictions``."""
    times = round(times) if times < 100 else int(float(f"{times:.2g}"))
    return f"{times:,} predictions" if times >= 2 else "1 prediction"


def cost_text(methods):
    """Says what methods cost together; those of the one pass cost hardly more than a prediction."""
    times = times_of(methods)
    if times < 1.5:
        return "about as long as one prediction per image"
    return f"about as long as {times_text(times)} per image"
