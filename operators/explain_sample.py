"""One sample at once: prediction, truth and contrast, heat on the object, other backgrounds, peers."""

import fiftyone.operators as foo
import fiftyone.operators.types as types

from .base import check_from_app

_URI = "@cam51/heatmaps"


class ExplainSample(foo.Operator):
    """Explains the sample that is open, with one sentence and small pictures."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="explain_sample",
            label="Explain this sample",
            description="Where the model looked on this sample, and whether it is right for the reason",
            icon="psychology_alt",
            dynamic=True,
            unlisted=True,
            risk_level=types.RiskLevel.MEDIUM,
        )

    def resolve_placement(self, ctx):
        """A button beside an open sample."""
        return types.Placement(
            types.Places.SAMPLES_VIEWER_ACTIONS,
            types.Button(label="Explain this sample", icon="psychology_alt", prompt=True),
        )

    def resolve_input(self, ctx):
        """Run or model: nothing has to be chosen where there is a run."""
        from .forms import sample

        return sample.form(ctx)

    def __call__(
        self,
        dataset,
        sample_id,
        cam_key=None,
        model=None,
        *,
        transforms=None,
        preprocess=None,
        classes=None,
        objects="auto",
        donors=4,
        device=None,
        seed=51,
        **model_options,
    ):
        """Explains one sample and writes its heatmaps.

        Written: ``explain_prediction`` (the predicted class), ``explain_alternative`` (the true class
        where the prediction is wrong, else the second class), ``explain_contrast_for`` and
        ``explain_contrast_against`` (what speaks for the one rather than the other, and back). They
        are overwritten by the next sample's only on that sample. They belong to no run:
        ``dataset.delete_sample_fields()`` deletes them.

        Example usage::

            import fiftyone.operators as foo

            explain_sample = foo.get_operator("@cam51/heatmaps/explain_sample")
            print(explain_sample(dataset, dataset.first().id, "resnet50"))

        Args:
            dataset: a dataset, or a view, whose whole dataset is meant
            sample_id: the sample
            cam_key (None): the CAM run whose model, method and findings are used; without a model
                the newest whose model can be loaded by its name
            model (None): as in ``compute_cams``; a model named by a string is kept for the next call,
                for ten minutes, or until ``free_model``
            transforms (None): as in ``compute_cams``; of a run what it had, where its record cannot hold it
            preprocess (None): likewise
            classes (None): as in ``compute_cams``; by default those of the run
            objects ("auto"): as in ``find_background_bias``; ``None`` for none
            donors (4): on how many other backgrounds the object is tried
            device (None): a torch device
            seed (51): of the choice of backgrounds
            **model_options: ``output``, ``task``, ``multi_label`` and the other options of the model
                that ``compute_cams`` has; by default those of the run

        Returns:
            an ``Explained``; printed, it is a sentence and what that rests on

        Raises:
            ValueError: if an argument is wrong, the sample cannot be read or the model is no
                classifier; nothing was written then
        """
        from .compute.params import checked_options
        from .compute.recorded_model import GivenModel
        from .runs import record
        from .sample import explain
        from .sample.params import SampleSettings

        SampleSettings(donors=donors, seed=seed)
        dataset, sample_id = dataset._dataset, getattr(sample_id, "id", sample_id)
        record.refresh(dataset)
        if cam_key is None and model is None:
            cam_key = next(iter(explain.usable_runs(dataset)), None)
        given = GivenModel(
            model, transforms, preprocess, classes, device, checked_options(model_options)
        )
        loaded = explain.load(dataset, cam_key, given)
        return explain.explain_one(dataset, sample_id, loaded, cam_key, objects, donors, seed)

    def execute(self, ctx):
        """Explains the open sample and shows its new heatmaps."""
        from .forms import sample
        from .runs import look
        from .runs.plain_data import answer

        arguments = sample.arguments_of(ctx)
        check_from_app(arguments)
        found = self(ctx.dataset, **arguments)
        # FiftyOne 1.22 reads the labels of an open sample once: the page has to be loaded again to lay
        # new ones over it. Updating or reloading the sample from here breaks its picture ("detached
        # ArrayBuffer"), so the dialog shows the heatmaps itself.
        ctx.ops.reload_dataset()
        look.send(ctx)
        named = arguments.get("cam_key"), arguments.get("model")
        shown = sample.results_of(found, look.look_of(ctx.dataset), *named)
        return {**shown, "explained": answer(found)}

    def resolve_output(self, ctx):
        """The sentence, the composites with their predictions, and what can be done next."""
        from .forms import sample

        return sample.output(ctx)


class ShowPeers(foo.Operator):
    """Samples of the same class, rightly predicted, nearest to a sample."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="show_peers",
            label="Show peers of a sample",
            description="Rightly predicted samples of the same class that are nearest to one in the network",
            unlisted=True,
            risk_level=types.RiskLevel.LOW,
        )

    def __call__(self, dataset, sample_id, cam_key=None, model=None, *, count=8, **loading):
        """Finds the peers of a sample: same class, right predictions, nearest features.

        Args:
            dataset: a dataset, or a view, whose whole dataset is meant
            sample_id: the sample
            cam_key (None): the CAM run whose predictions are used; the newest by default
            model (None): as in ``explain_sample``
            count (8): how many at most, 1 to 1,000
            **loading: ``transforms``, ``preprocess``, ``classes``, ``device`` and options of the model,
                as in ``explain_sample``

        Returns:
            a view: the sample, then its peers, the nearest first

        Raises:
            ValueError: if there is no such run, or its model cannot be loaded
        """
        return self._find(dataset._dataset, sample_id, cam_key, model, count, **loading)[0]

    def _find(self, dataset, sample_id, cam_key, model, count=8, **loading):
        """The view, and why there is nobody but the sample itself in it."""
        from .compute.params import checked_options
        from .compute.recorded_model import GivenModel
        from .jobs.params import Integer
        from .sample import explain, peers

        Integer(1, 1000).check("count", count)
        cam_key = cam_key or next(iter(explain.usable_runs(dataset)), None)
        whole = ("transforms", "preprocess", "classes", "device")
        named = {name: loading.pop(name) for name in whole if name in loading}
        given = GivenModel(model, **named, options=checked_options(loading))
        loaded = explain.load(dataset, cam_key, given)
        name, layer = explain.class_and_layer(dataset, sample_id, loaded, cam_key)
        ids = peers.peers_of(dataset, sample_id, loaded, cam_key, name, layer, count)
        view = dataset.select([sample_id, *ids], ordered=True)
        if ids:
            return view, None
        why = peers.candidates(dataset, sample_id, loaded, cam_key, name)[1]
        return view, why or "No peers: none of the pictures that could be meant can be read."

    def resolve_input(self, ctx):
        """The sample and the run."""
        inputs = types.Object()
        inputs.str("sample_id", label="Sample", required=True)
        inputs.str("cam_key", label="Run")
        inputs.str("model", label="Model")
        return types.Property(inputs)

    def execute(self, ctx):
        """Shows the peers in the grid, with their heatmaps."""
        from .runs import keys

        params = {k: ctx.params.get(k) or None for k in ("sample_id", "cam_key", "model")}
        check_from_app(params)
        view, why = self._find(ctx.dataset, **params)
        if why is not None:
            ctx.ops.notify(why, variant="info")
            return {"ids": view.values("id"), "no_peers": why}
        key = params["cam_key"]
        fields = keys.heatmap_fields_of(ctx.dataset, key)[:1] if key else []
        ctx.ops.close_sample()
        ctx.ops.set_active_fields(list(dict.fromkeys([*(ctx.active_fields or []), *fields])))
        ctx.ops.set_view(view)
        return {"ids": view.values("id"), "no_peers": None}


class FreeModel(foo.Operator):
    """Lets go of the model that explains single samples."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="free_model", label="Free the model of Explain this sample",
            description="Releases the model that explaining single samples keeps in memory", unlisted=True,
            risk_level=types.RiskLevel.LOW,
        )  # fmt: skip

    def __call__(self):
        """Lets go of the model that ``explain_sample`` keeps in this process.

        Returns:
            its name, or None if none was kept
        """
        from .sample import explain

        name = explain.CACHE.free()
        return name.strip() if name else None

    def execute(self, ctx):
        """Frees the model of the App's server."""
        name = self()
        ctx.ops.notify(f"{name} was let go" if name else "No model was kept", variant="info")
        return {"freed": name}
