"""The operator that does a CAM run again: on other samples, or to its end."""

import fiftyone.operators.types as types

from .base import job_config
from .compute_cams import HeatmapOperator


class RerunCams(HeatmapOperator):
    """Does a CAM run again on other samples, or resumes it."""

    config = job_config(
        "rerun_cams",
        "Run again",
        "Resumes an interrupted CAM run, or repeats its settings on other samples",
        types.RiskLevel.MEDIUM,
        unlisted=True,
    )

    def form(self, ctx):
        """Which run, whether it is resumed or done again, and the new key."""
        from .compute import recorded_model
        from .forms import runs
        from .runs import keys, record

        inputs = types.Object()
        zoo = [
            key
            for key in record.list_runs(ctx.dataset)
            if recorded_model.is_reloadable(record.config_of(ctx.dataset, key).settings)
        ]
        none = "No CAM run whose model has a name; run the others again from Python"
        key, button = runs.choose_run(inputs, ctx, zoo, none), "Run again"
        if key is not None:
            unfinished = record.status_of(ctx.dataset, key) in ("interrupted", "failed")
            inputs.bool(
                "resume",
                default=unfinished,
                label="Resume this run",
                description="Computes what is missing. Off: repeats the run under a new key",
            )
            if ctx.params.get("resume", unfinished):
                button = "Resume"
            else:
                runs.new_key(inputs, ctx, "new_key", keys.next_key(ctx.dataset, key))
            ctx.target_view(require_flat=True)
        return runs.form(inputs, self.config.label, button)

    def __call__(
        self,
        samples,
        cam_key,
        new_key=None,
        *,
        source=None,
        resume=False,
        model=None,
        transforms=None,
        preprocess=None,
        classes=None,
        methods=None,
        targets=None,
        progress=None,
        **model_options,
    ):
        """Computes heatmaps with the settings of an earlier run.

        Example usage::

            rerun_cams = foo.get_operator("@cam51/heatmaps/rerun_cams")
            rerun_cams(other_view, "resnet50", "resnet50_test")

            # a run that was interrupted, on its own samples
            rerun_cams(load_cam_view(dataset, "resnet50"), "resnet50", resume=True)

        Args:
            samples: a dataset or view of images
            cam_key: the key of the run whose settings are used
            new_key (None): the new run's key; ``cam_key``, counted up
            source (None): the dataset that has the run, if it is not that of the samples
            resume (False): whether to resume the run itself
            model (None): needed where it was not a zoo model; its weights must be the run's
            transforms (None): of a plain module
            preprocess (None): likewise, of a run that had it instead of transforms
            classes (None): of a run with too many to be recorded
            methods (None): needed where a method was a function of your own
            targets (None): needed where a target was a function
            progress (None): whether to show a progress bar; FiftyOne's setting by default
            **model_options: ``output`` and others of ``compute_cams`` that were functions of your own

        Returns:
            a ``Summary``, as ``compute_cams`` does

        Raises:
            ValueError: if there is no such run, or if what is given is not what it had
        """
        return self.call(locals())

    def takes_groups(self, ctx):
        """Whether the run's samples were slices of groups."""
        from .runs.run import Run

        settings = Run.open(ctx.dataset, ctx.params["cam_key"]).settings
        return settings.get("group_slices") is not None

    def arguments_of(self, params):
        """The arguments that a form's parameters stand for."""
        resume = bool(params.get("resume"))
        new_key = None if resume else params.get("new_key")
        return {"cam_key": params["cam_key"], "new_key": new_key, "resume": resume}

    def make_job(self, samples, arguments, origin):
        """The prepared job."""
        from .compute.recorded_model import GivenModel
        from .compute.rerun import rerun_job

        given, rest = GivenModel.split(arguments)
        return rerun_job(samples, rest.pop("cam_key"), said=given, origin=origin, **rest)
