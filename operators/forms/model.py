"""The choice of a model in a form: the user's own models, the zoo, or a name that is typed."""

import fiftyone.operators.types as types

from ..compute.params import MODEL
from ..jobs.params import labels_of
from ..models import by_name, load, preview, zoo
from ..models.classes import read_classes
from .schema import add, choose_name, mark

OTHER = "another_model"
HELP = (
    "hf:google/vit-base-patch16-224, timm:convnext_tiny, or an architecture with a checkpoint of plain tensors "
    "in FiftyOne's model folder on the server: torchvision:resnet50@/path/model.safetensors"
)


def add_model(inputs, ctx):
    """Adds the choice of a model; returns its name, None as long as none is settled."""
    try:
        own = load.own_models()
    except ValueError as error:
        _warn(inputs, "own_models", "Your own models are not shown", str(error))
        own = []
    names = {name: f"{name}  (My models)" for name in own}
    for name in sorted(by_name.allowed()):
        names.setdefault(name, f"{name}  (allowed on this server)")
    for name in load.supported_zoo_models():
        names.setdefault(name, name)
    for name in by_name.listed():
        names.setdefault(name, name)
    if zoo.listed_names() is None:  # else the others are refused, and those listed are offered
        names[OTHER] = "Another: Hugging Face, timm or a checkpoint"
    prop = choose_name(
        inputs, "model", names, ctx.params.get("model"), required=True,
        label=labels_of(MODEL)["model"],
        description="A zoo model, or one registered in Python with register_model. Programs may give any name, "
        "such as hf:google/vit-base-patch16-224 or timm:convnext_tiny",
    )  # fmt: skip
    if ctx.params.get("model") == OTHER:
        prop = inputs.str("other_model", required=True, label="Name", description=HELP)
    name = model_of(ctx.params)
    if name is None:
        return None
    mark(prop, load.check_from_app, name)
    kind = None if prop.invalid else mark(prop, preview.kind_of_name, name)
    if prop.invalid:
        return None
    if kind == zoo.ZERO_SHOT:
        add(inputs, ctx, MODEL, "classes")
    if kind == zoo.EMBEDDING:
        _warn(
            inputs, "no_classes", f"{name} has no classes",
            'From Python, targets={"like": sample_id} explains what makes an image similar to a sample',
        )  # fmt: skip
        return None
    return name


def _warn(inputs, name, label, text):
    prop = inputs.view(name, types.Warning(label=label, description=text))
    prop.invalid, prop.error_message = name != "own_models", text


def model_of(params):
    """Returns the name of the model that a form asks for, or None."""
    name = params.get("other_model" if params.get("model") == OTHER else "model")
    return (name or "").strip() or None


def given_model(params):
    """Returns what a form says about the model as arguments: ``model`` and ``classes``."""
    given = {"model": model_of(params)} if model_of(params) else {}
    classes = params.get("classes")
    if isinstance(classes, str):
        classes = [c.strip() for c in classes.split(";") if c.strip()]
    if classes:
        given["classes"] = classes
    return given


def model_params(arguments):
    """Turns ``model`` and ``classes`` into a form's parameters: the inverse of :func:`given_model`."""
    params = {k: arguments[k] for k in ("model", "classes") if arguments.get(k) is not None}
    name, classes = params.get("model"), read_classes(params.get("classes"))
    listed = isinstance(name, str) and (
        name in load.own_models() or name in by_name.listed() or zoo.entry(name) is not None
    )
    if isinstance(name, str) and not listed:
        params.update(model=OTHER, other_model=name)
    if classes is not None:
        texts = classes if isinstance(classes, (list, tuple)) else [None]
        if not all(isinstance(c, str) and ";" not in c for c in texts):
            raise ValueError(
                "delegate: classes cannot be sent to another process; give a list of names, or delegate=False"
            )
        params["classes"] = "; ".join(texts)
    return params
