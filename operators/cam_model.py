"""A model for ``dataset.apply_model`` that explains."""

import fiftyone.operators as foo
import fiftyone.operators.types as types


class MakeCamModel(foo.Operator):
    """Makes a FiftyOne model whose predictions are heatmaps."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="cam_model",
            label="Model that explains",
            description="Tells which heatmaps apply_model would store for a model: methods, layers, names",
            unlisted=True,
            risk_level=types.RiskLevel.LOW,
        )

    def __call__(
        self,
        model,
        methods=None,
        targets="predicted",
        layers=None,
        *,
        samples=None,
        transforms=None,
        preprocess=None,
        window=None,
        classes=None,
        class_map=None,
        output=None,
        task=None,
        multi_label=None,
        threshold=None,
        ends_in=None,
        background=None,
        read=None,
        fuse=None,
        keep_layers=True,
        device=None,
        precision="auto",
        heatmap_size=192,
        store_prediction=False,
        max_fields=12,
        object_maps=0,
        seed=51,
        memory_format="auto",
        measure_places=True,
    ):
        """Makes a model for ``apply_model`` whose predictions are heatmaps.

        Its maps are those of ``compute_cams``, bit for bit where the batches are the same. Nothing else is
        written: no run that could be resumed, tested or compared, no colours, no summary.

        Example usage::

            cam_model = foo.get_operator("@cam51/heatmaps/cam_model")
            model = cam_model("resnet50-imagenet-torch")
            dataset.apply_model(model, label_field="heat", batch_size=16)

            # Several methods: heat_gradcam, heat_layercam
            model = cam_model("resnet50-imagenet-torch", methods=["gradcam", "layercam"])
            dataset.apply_model(model, label_field="heat", batch_size=16)

        Args:
            model: as ``compute_cams`` takes it: a name, a FiftyOne model, or a ``torch.nn.Module``
            methods (None): as in ``compute_cams``
            targets ("predicted"): as in ``compute_cams``; label fields need ``samples``, and a detector
                explains its own detections only
            layers (None): as in ``compute_cams``
            samples (None): a dataset or view of images, all that the model will be applied to where label
                fields are explained. The first one is tried; without them a picture that is made up
            transforms (None): as in ``compute_cams``
            preprocess (None): as in ``compute_cams``; needs ``samples``
            window (None): as in ``compute_cams``
            classes (None): as in ``compute_cams``
            class_map (None): as in ``compute_cams``
            output (None): as in ``compute_cams``
            task (None): as in ``compute_cams``
            multi_label (None): as in ``compute_cams``
            threshold (None): as in ``compute_cams``
            ends_in (None): as in ``compute_cams``
            background (None): as in ``compute_cams``
            read (None): as in ``compute_cams``
            fuse (None): as in ``compute_cams``
            keep_layers (True): as in ``compute_cams``
            device (None): a torch device; by default the model's
            precision ("auto"): as in ``compute_cams``
            heatmap_size (192): longest side of the heatmaps, in pixels
            store_prediction (False): whether the prediction comes with the heatmaps, as ``prediction``; of a
                detector its detections, as ``detections``
            max_fields (12): more heatmaps of one image are refused
            object_maps (0): as in ``compute_cams``
            seed (51): of methods that draw random numbers
            memory_format ("auto"): as in ``compute_cams``
            measure_places (True): as in ``compute_cams``

        Returns:
            a :class:`fiftyone.core.models.Model` with ``methods``, ``layers``, ``notes``, and ``names``, which
            ``apply_model`` adds to the name of the field where there are several

        Raises:
            ValueError: if an argument is wrong, or the model cannot be explained
        """
        from .fo_model.builder import make_cam_model

        arguments = {k: v for k, v in locals().items() if k not in ("self", "samples")}
        arguments.pop("make_cam_model")
        return make_cam_model(arguments, samples)

    def item_reader(self):
        """An item reader without anything, which ``pickle`` fills: see ``fo_model.item_reader``."""
        from .fo_model.item_reader import ItemReader

        return ItemReader.__new__(ItemReader)

    def resolve_input(self, ctx):
        """The model and what is explained of it."""
        inputs = types.Object()
        inputs.str(
            "model", required=True, label="Model", description="its name, as for compute_cams"
        )
        inputs.list("methods", types.String(), label="Methods")
        inputs.str("targets", default="predicted", label="What to explain")
        inputs.list("layers", types.String(), label="Layers")
        return types.Property(inputs, view=types.View(label=self.config.label))

    def execute(self, ctx):
        """Makes the model and returns what it would give: its methods, layers, names and notes."""
        from .base import check_from_app

        asked = ("model", "methods", "targets", "layers")
        given = {n: ctx.params[n] for n in asked if ctx.params.get(n) not in (None, "", [])}
        check_from_app(given)
        samples = ctx.view if ctx.dataset is not None else None
        made = self(**given, samples=samples)
        return {
            "model": made.config.name,
            "methods": made.methods,
            "layers": made.layers,
            "names": made.names,
            "notes": made.notes,
        }
