"""Registering models of one's own, once, so that every form and every operator knows them by name."""

import fiftyone.operators as foo
import fiftyone.operators.types as types

_PYTHON_ONLY = (
    "models are registered and removed from Python on the server's machine only, because a registered model "
    "may run code: foo.get_operator('@cam51/heatmaps/{0}')(...)"
)


class RegisterModel(foo.Operator):
    """Makes a user's own model known by a name."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="register_model",
            label="Register a model",
            description="Names a model of one's own; from Python only, as it runs code on the server",
            unlisted=True,
            risk_level=types.RiskLevel.MEDIUM,
        )

    def __call__(
        self,
        name,
        loader=None,
        *,
        architecture=None,
        checkpoint=None,
        transforms=None,
        preprocess=None,
        window=None,
        classes=None,
        output=None,
        task=None,
        multi_label=None,
        threshold=None,
        ends_in=None,
        background=None,
        read=None,
        overwrite=False,
    ):
        """Registers a model: every form shows it under My models, and a run records its name.

        Example usage::

            register_model = foo.get_operator("@cam51/heatmaps/register_model")

            # Code on this machine: a function that returns a module, a FiftyOne model, or a tuple
            # (module, transforms, classes)
            register_model("birds", "birds.models:best", transforms="birds.data:evaluation")

            # Weights for an architecture of timm or torchvision
            register_model(
                "tumours",
                architecture="timm:convnext_tiny",
                checkpoint="/models/tumours.safetensors",
                classes=["benign", "malignant"],
            )

            compute_cams(view, "birds")

        The model is loaded once, so that what is wrong with it shows now. What is stored are these
        arguments, in a file beside FiftyOne's configuration that only its owner can write.

        Args:
            name: what to call it: letters, digits, spaces and ``. _ + -``
            loader (None): ``"package.module:function"``, or the function itself
            architecture (None): instead of a loader: ``"timm:<name>"``, ``"torchvision:<name>"`` or
                ``"hf:<id or folder>"``
            checkpoint (None): a file of plain tensors for the architecture; its own weights by default
            transforms (None): ``"package.module:function"`` or the function itself, which maps a PIL
                image to a float tensor (C, h, w); or a dict with ``resize``, ``crop``, ``mean`` and
                ``std``. The architecture's own by default
            preprocess (None): instead of transforms: ``"package.module:function"`` or the function
                itself, which maps the path of an image to a float tensor (C, h, w)
            window (None): what they show of an image, where it cannot be measured, see
                ``compute_cams``: four shares of the image, or ``"package.module:function"`` or the
                function itself, which maps (height, width) to four numbers of pixels
            classes (None): class names as in ``compute_cams``
            output (None): where the scores are in what the model returns: a key, an index or a path
            task (None): ``"classification"``, ``"regression"``, ``"segmentation"``,
                ``"embedding"`` or ``"detection"``
            multi_label (None): whether an image may have several classes
            threshold (None): probability in (0, 1) from which on such a class is predicted, or something
                counts as detected
            ends_in (None): ``"logits"``, ``"sigmoid"`` or ``"softmax"``, where the network does not say it
            background (None): of segmentation, the name or index of the background, or False for none
            read (None): of a detector that is not recognised: ``"package.module:function"`` or the function
                itself, which maps what the model returns to boxes, scores and classes; see ``compute_cams``
            overwrite (False): whether a model of the same name is replaced

        Returns:
            what is stored, as a dict

        Raises:
            ValueError: if an argument is wrong or the model cannot be loaded; nothing is stored then
        """
        import dataclasses

        from .models import registered
        from .models.classes import read_classes

        options = {
            "output": output,
            "task": task,
            "multi_label": multi_label,
            "threshold": threshold,
            "ends_in": ends_in,
            "background": background,
            "read": _entry_point(read, "read"),
        }
        model = registered.OwnModel(
            name=name,
            loader=_entry_point(loader, "loader"),
            architecture=architecture,
            checkpoint=_absolute(checkpoint),
            transforms=_entry_point(transforms, "transforms"),
            preprocess=_entry_point(preprocess, "preprocess"),
            window=list(window) if isinstance(window, tuple) else _entry_point(window, "window"),
            classes=read_classes(classes),
            options={key: value for key, value in options.items() if value is not None},
        )
        registered.check(model)
        registered.check_free(name, overwrite)
        _try(model)
        registered.register(model, overwrite)
        return dataclasses.asdict(model)

    def execute(self, ctx):
        """Refuses: whoever can open the App could make the server run code."""
        raise ValueError(_PYTHON_ONLY.format("register_model"))


class RemoveModel(foo.Operator):
    """Forgets a registered model."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="remove_model",
            label="Remove a model",
            description="Forgets a registered name; from Python only",
            unlisted=True,
            risk_level=types.RiskLevel.HIGH,
        )

    def __call__(self, name):
        """Forgets a registered model; its files, and what it computed, stay.

        Args:
            name: what it was registered as

        Raises:
            ValueError: if there is none of that name
        """
        from .models import registered

        registered.remove(name)

    def execute(self, ctx):
        """Refuses, as registering does."""
        raise ValueError(_PYTHON_ONLY.format("remove_model"))


class ListModels(foo.Operator):
    """Lists the models that can be named, and why the others cannot."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="list_models",
            label="List models",
            description="Lists the models that can be explained by name, and why others cannot",
            unlisted=True,
            risk_level=types.RiskLevel.LOW,
        )

    def __call__(self):
        """Lists registered models, then the zoo's.

        Returns:
            a list of dicts with ``name``, ``source`` (``"registered"`` or ``"zoo"``), ``yields`` (what
            of it is explained, None for nothing) and ``refused`` (why it is not, or None)
        """
        from .models import load, preview, zoo

        rows = [
            {
                "name": name,
                "source": "registered",
                "yields": preview.kind_of_name(name),
                "refused": None,
            }
            for name in load.own_models()
        ]
        for name, model in zoo.entries().items():
            rows.append(
                {
                    "name": name,
                    "source": "zoo",
                    "yields": zoo.kind_of(model),
                    "refused": zoo.refusal(model),
                }
            )
        return rows

    def execute(self, ctx):
        """Returns the models as rows of a table."""
        return {"models": self()}


def _entry_point(value, argument):
    """The name by which another process imports a function; other values as they are."""
    if not callable(value):
        return value
    module, path = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not path or module == "__main__" or "<" in path:
        raise ValueError(
            f"{argument}: another process cannot import {path or type(value).__name__!r} of "
            f"{module or 'nowhere'}; put the function into a module that is installed on the server, and "
            "give 'package.module:function'"
        )
    return f"{module}:{path}"


def _absolute(path):
    import os

    return None if path is None else os.path.abspath(os.path.expanduser(os.fspath(path)))


def _try(model):
    """Loads a model once, so that what is wrong with it is said to the person who registers it."""
    from .models import load

    load.load_own(model)
