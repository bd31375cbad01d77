"""The layers of a model that can be explained."""

import fiftyone.operators as foo
import fiftyone.operators.types as types

from .base import check_from_app


class ListLayers(foo.Operator):
    """Lists the layers of a model: name, type, grid, and which is the default."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="list_layers",
            label="List layers of a model",
            description="Names the layers of a model that heatmaps can be computed at, and which is the default",
            unlisted=True,
            risk_level=types.RiskLevel.LOW,
        )

    def __call__(
        self,
        model,
        image_size=None,
        classes=None,
        *,
        image=None,
        channels=None,
        transforms=None,
        preprocess=None,
        output=None,
        task=None,
    ):
        """Lists the layers of a model that can be explained, in the order they are computed.

        Example usage::

            list_layers = foo.get_operator("@cam51/heatmaps/list_layers")
            layers = list_layers("resnet50-imagenet-torch")
            print(layers)  # a table of the network's blocks
            default = [layer.name for layer in layers if layer.default]
            list_layers(my_network, channels=11, image_size=64)
            list_layers(my_network, image="film.png", preprocess=read_film)

        Args:
            model: a model's name, a FiftyOne model, or a ``torch.nn.Module``, as ``compute_cams``
                takes it
            image_size (None): (height, width) of the model's input, or one number; grids depend on it.
                By default what the model says it takes, else 224 or another usual size that it runs on
            classes (None): of a zero-shot model, what to look for
            image (None): instead of a size: a tensor (C, h, w) or (N, C, h, w) as the network takes it,
                or a path or PIL image, which goes through the model's transforms
            channels (None): of the model's input; by default those that its first convolution takes
            transforms (None): as ``compute_cams`` takes them; for an image that is no tensor
            preprocess (None): likewise
            output (None): where the scores are in what the model returns, as for ``compute_cams``
            task (None): what the model is for, as for ``compute_cams``

        Returns:
            a list of ``LayerInfo``: ``name``, ``type``, ``channels``, ``grid`` and ``default``; printed,
            it is a table of the network's blocks, while the list also has the layers inside them

        Raises:
            ValueError: if the model cannot be explained, or does not run on such an image; the message
                says what was tried
        """
        from ..cam_core import list_layers
        from .models import load

        given = transforms is not None or preprocess is not None
        options = {"output": output, "task": task}
        loaded = load.load_model(
            model,
            transforms if given or _needs_transforms(image) else _unused,
            classes,
            preprocess=preprocess,
            **{name: value for name, value in options.items() if value is not None},
        )
        return list_layers(
            loaded.adapted, _tensor(image, loaded), channels=channels, image_size=image_size
        )

    def resolve_input(self, ctx):
        """Which model."""
        inputs = types.Object()
        inputs.str(
            "model", required=True, label="Model", description="its name, as for compute_cams"
        )
        return types.Property(inputs, view=types.View(label=self.config.label))

    def execute(self, ctx):
        """Returns the layers as rows of a table."""
        import dataclasses

        check_from_app(ctx.params)
        rows = [dataclasses.asdict(layer) for layer in self(ctx.params["model"])]
        return {"layers": rows}


def _unused(image):
    """Stands for the transforms of a plain module where none are needed."""
    return image


def _needs_transforms(image):
    import torch

    return image is not None and not isinstance(image, torch.Tensor)


def _tensor(image, loaded):
    """What a user gave as the image, as the network takes it."""
    import os

    import torch
    from PIL import Image

    if image is None:
        return None
    if isinstance(image, (str, os.PathLike)):
        from .data.images import decode_image

        if not os.path.isfile(image):
            raise ValueError(f"image: there is no file {os.fspath(image)!r}")
        if getattr(loaded.transforms, "takes_path", False):
            image = loaded.transforms.from_path(os.fspath(image))
        else:
            image = loaded.transforms(decode_image(image))
    elif isinstance(image, Image.Image):
        image = loaded.transforms(image)
    if not isinstance(image, torch.Tensor):
        raise ValueError(
            f"image: give a tensor (C, h, w), a path or a PIL image, got {type(image).__name__}"
        )
    like = next(loaded.module.parameters(), None)
    return image if like is None else image.to(like.device, like.dtype)
