"""Which heatmap can be believed: how faithful each method is to the model, and where they disagree."""

import fiftyone.operators.types as types

from .base import JobOperator, job_config


class CompareCams(JobOperator):
    """Ranks methods by how faithful their stored heatmaps are, or follows models over training."""

    config = job_config(
        "compare_cams",
        "Compare heatmaps",
        "Measures which heatmaps of a CAM run are faithful to the model, or where models differ; needs a run",
        types.RiskLevel.MEDIUM,
        icon="leaderboard",
    )

    def form(self, ctx):
        """The form."""
        from .forms import compare

        return compare.compare_cams_form(ctx)

    def __call__(
        self,
        samples,
        cam_keys=None,
        model=None,
        *,
        models=None,
        transforms=None,
        preprocess=None,
        classes=None,
        metrics=None,
        target="auto",
        probe="auto",
        budget=None,
        batch_size="auto",
        num_workers=None,
        device=None,
        precision="auto",
        views=True,
        overwrite=False,
        seed=51,
        progress=None,
        delegate=False,
        **model_options,
    ):
        """Compares stored heatmaps, synchronously, also inside a running event loop.

        Of one model, its methods: each stored heatmap is measured for the class that it explains, by
        what happens to the probability of that class when pixels are changed in the heatmap's order
        (deletion and insertion of Petsiuk et al., BMVC 2018; ROAD of Rong et al., ICML 2022; average
        drop and increase of Chattopadhay et al., WACV 2018). Of two models or more, where their
        evidence moved: their maps of the same class are laid beside each other.

        Example usage::

            import fiftyone.operators as foo

            compare_cams = foo.get_operator("@cam51/heatmaps/compare_cams")

            # The methods of a CAM run, by a model of the zoo; five minutes at most
            summary = compare_cams(dataset, "resnet50", budget="5 min")
            print(summary)
            print(summary.table())
            dataset.load_saved_view("resnet50: methods disagree")

            # Two checkpoints on the same samples
            summary = compare_cams(
                dataset,
                ["epoch_3", "epoch_9"],
                models={"epoch_3": early, "epoch_9": late},
                transforms=my_transforms,
                classes=my_classes,
            )
            dataset.load_saved_view("epoch_3 vs epoch_9: evidence moved")

        Written per sample of the probe: each metric as an attribute of the heatmap, and
        ``{cam_key}_disagreement``, 1 less the mean rank correlation of the class-discriminative
        methods' maps; of models ``{first}_{last}_agreement``, the rank correlation of their maps. The
        summary is stored in the results of the first run, as ``compare``.

        Args:
            samples: a dataset or view of images
            cam_keys (None): keys of CAM runs, or heatmap fields; None for the dataset's only run
            model (None): the model of the runs; may be left out if it can be loaded by its name
            models (None): a dict from the keys to models, to compare models instead of methods. A key
                that is left out has its model loaded by its name
            transforms (None): as in ``compute_cams``; of a run what it had, where its record cannot hold it;
                for models also a dict from keys
            preprocess (None): likewise
            classes (None): as in ``compute_cams``; by default those of the run; for models also a dict
            metrics (None): names of metrics, or ``"all"``; by default deletion, insertion, road,
                average_drop, increase and sparseness
            target ("auto"): of models, the class whose maps are compared: a label field,
                ``"ground_truth"`` for the one label field there is, ``"first"`` for what the first
                model predicts, or a class; ``"auto"`` is the label field if there is exactly one,
                else ``"first"``
            probe ("auto"): how many samples are measured, spread over the classes; at most 200 of
                methods, fewer where that would take more than ten minutes, and 2,000 of models
            budget (None): a number of forwards, or a time such as ``"5 min"``, which begins when the
                model is loaded: as many samples are measured as it allows by a trial. Where they take
                longer than the trial said, measuring stops in time, after two samples at least, and
                the summary says after how many
            batch_size ("auto"): images per forward
            num_workers (None): decoding threads; 0 calls the transforms in this thread only
            device (None): a torch device; by default the model's
            precision ("auto"): of the forwards; by default that of the run
            views (True): whether views are saved
            overwrite (False): whether what an earlier comparison wrote is deleted first
            seed (51): of everything random
            progress (None): whether to show a progress bar, which says the cost beforehand;
                FiftyOne's setting by default
            delegate (False): whether to schedule the run instead (models by name only)
            **model_options: ``output``, ``task``, ``multi_label`` and the other options of the model
                that ``compute_cams`` has, for models also dicts from keys; by default those of the run

        Returns:
            a ``CompareSummary`` with ``leaderboard``, ``agreement``, ``recommendation``, ``cost`` and
            more; printed, it is a paragraph, and ``.table()`` is the leaderboard

        Raises:
            ValueError: if an argument is wrong, a run is running, or the model is no classifier or not
                the one that the heatmaps are of; nothing has been written then
        """
        return self.call(locals())

    def option_arguments(self, options):
        """The models' options, of which each may be a dict from keys."""
        for name, value in options.items():
            for one in value.values() if isinstance(value, dict) else [value]:
                super().option_arguments({name: one})
        return options

    def arguments_of(self, params):
        """The arguments that a form's parameters stand for."""
        from .forms import compare

        return compare.arguments_of(params)

    def params_of(self, arguments, samples):
        """The parameters that stand for arguments."""
        from .forms import compare

        return compare.params_of(arguments)

    def make_job(self, samples, arguments, origin):
        """The prepared job: of one model's methods, or of several models."""
        from .compare.methods_job import MethodComparison
        from .compare.models_job import ModelComparison
        from .compare.params import CompareSettings
        from .compute.recorded_model import GivenModel

        given, rest = GivenModel.split(arguments)
        models, job = rest.pop("models", None), MethodComparison
        settings = CompareSettings(**rest)
        if models is not None:
            if given.model is not None:
                raise ValueError("model: give models= or model=, not both")
            given.model, job = models, ModelComparison
        return job(samples, settings, given, origin).prepare()

    def finished(self, ctx, job):
        """What was found."""
        from .forms import compare

        yield ctx.ops.reload_dataset()
        yield ctx.ops.notify(job.summary.lines()[0], variant="success")
        if not ctx.delegated:
            outputs, results = compare.output_of(job.summary)
            yield ctx.ops.show_output(outputs=outputs, results=results)
