"""``@cam51/heatmaps``: class activation maps for FiftyOne datasets.

FiftyOne executes this file at every look-up of an operator, and pytest collects the checkout's root
as a package: so nothing is imported until a function is called. The functions other than
:func:`register` make the repository a remote source of FiftyOne's model zoo.
"""


def register(plugin):
    """Registers the plugin's operators and panels.

    Args:
        plugin: the :class:`fiftyone.plugins.context.PluginContext` to register with
    """
    from .operators.registry import OPERATORS, PANELS

    for cls in (*OPERATORS, *PANELS):
        plugin.register(cls)


def download_model(model_name, model_path):
    """Notes that there is nothing to download: weights are those of the model that is explained.

    Args:
        model_name: of the zoo
        model_path: of a file that FiftyOne looks for
    """
    with open(model_path, "w", encoding="utf-8") as file:
        file.write("Weights are those of the model that is explained, see base=.\n")


def load_model(model_name=None, model_path=None, base=None, **kwargs):
    """Makes a model that explains another one.

    Args:
        model_name (None): of the zoo
        model_path (None): of the file of :func:`download_model`
        base (None): the model that is explained, as ``compute_cams`` takes it
        **kwargs: arguments of ``cam_model``

    Returns:
        a :class:`fiftyone.core.models.Model`

    Raises:
        ValueError: if an argument is wrong
    """
    from .operators.cam_model import MakeCamModel

    if base is None:
        raise ValueError(
            "base: say which model is explained, for example base='resnet50-imagenet-torch'"
        )
    return MakeCamModel()(base, **kwargs)


def resolve_input(model_name, ctx):
    """The inputs of the model in the form *Apply zoo model*.

    Args:
        model_name: of the zoo
        ctx: the execution context, whose parameter ``remote_params`` has what was entered

    Returns:
        a :class:`fiftyone.operators.types.Property`
    """
    from .operators.forms import zoo_source

    return zoo_source.form(ctx)


def parse_parameters(model_name, ctx, params):
    """Turns what was entered into arguments of :func:`load_model`, in place.

    Args:
        model_name: of the zoo
        ctx: the execution context
        params: a dict
    """
    from .operators.forms import zoo_source

    zoo_source.parse(ctx, params)


def item_reader():
    """What ``pickle`` fills with a reader of images; see ``operators.fo_model.item_reader``."""
    from .operators.cam_model import MakeCamModel

    return MakeCamModel().item_reader()
