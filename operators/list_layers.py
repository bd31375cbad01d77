"""The layers of a model that can be explained."""

import fiftyone.operators as foo


class ListLayers(foo.Operator):
    """Lists the layers of a model: name, type, grid, and which is the default."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(name="list_layers", label="List layers of a model", unlisted=True)

    def __call__(self, model, image_size=(224, 224), classes=None):
        """Lists the layers of a model that can be explained, in the order they are computed.

        Example usage::

            list_layers = foo.get_operator("@cam51/heatmaps/list_layers")
            layers = list_layers("resnet50-imagenet-torch")
            print(layers)  # a table of the network's blocks
            default = [layer.name for layer in layers if layer.default]

        Args:
            model: a model's name, a FiftyOne model, or a ``torch.nn.Module``, as ``compute_cams``
                takes it
            image_size ((224, 224)): (height, width) of the model's input, or one
                number; grids depend on it
            classes (None): of a zero-shot model, what to look for

        Returns:
            a list of ``LayerInfo``: ``name``, ``type``, ``channels``, ``grid`` and ``default``; printed,
            it is a table of the network's blocks, while the list also has the layers inside them

        Raises:
            ValueError: if the model cannot be explained
        """
        import torch

        from ..cam_core import list_layers
        from . import _models

        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2:
            raise ValueError(
                f"image_size must be (height, width) or one number, got {image_size!r}"
            )
        loaded = _models.load_model(model, transforms=lambda image: image, classes=classes)
        like = next(loaded.module.parameters())
        images = torch.zeros(1, 3, *size, device=like.device, dtype=like.dtype)
        return list_layers(loaded.adapted, images)

    def execute(self, ctx):
        """Returns the layers as rows of a table."""
        import dataclasses

        rows = [dataclasses.asdict(layer) for layer in self(ctx.params["model"])]
        return {"layers": rows}
