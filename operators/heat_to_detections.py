"""The operator that drafts boxes from heat: a start for annotation, not an answer."""

import fiftyone.operators.types as types

from .base import JobOperator, job_config


class HeatToDetections(JobOperator):
    """Drafts boxes around the heat of a CAM run."""

    config = job_config(
        "heat_to_detections",
        "Draft boxes from heatmaps",
        "Draws tagged boxes around the heat of a CAM run, to be corrected by hand",
        types.RiskLevel.MEDIUM,
        icon="highlight_alt",
        unlisted=True,
    )

    def form(self, ctx):
        """Run, field, threshold, least area, tags."""
        from .drafts import job as drafts
        from .forms import runs
        from .runs import keys

        inputs = types.Object()
        ctx.target_view(require_flat=True)
        key = runs.choose_run(inputs, ctx)
        fields = keys.heatmap_fields_of(ctx.dataset, key) if key is not None else []
        if fields:
            chosen = ctx.params.get("field")
            field = chosen if chosen in fields else fields[0]
            inputs.enum("field", fields, default=field, required=True, label="Heatmaps")
            inputs.float(
                "threshold",
                min=0,
                max=1,
                default=0.5,
                label="Threshold",
                description="Share of a heatmap's maximum. Pixels above it belong to a box",
            )
            inputs.float(
                "min_area",
                min=0,
                max=1,
                default=0.001,
                label="Smallest area",
                description="Share of the image. Smaller parts are left out",
            )
            inputs.list("tags", types.String(), default=["draft"], label="Tags of the boxes")
            inputs.str(
                "out",
                default=f"{field}_boxes",
                label="Field",
                description="The boxes are written here",
            )
            inputs.bool("overwrite", default=False, label="Replace earlier drafts")
            self._check(inputs, ctx, key, field, drafts)
        elif key is not None:
            prop = inputs.view("problem", types.Warning(label="The run has no heatmap fields"))
            prop.invalid, prop.error_message = True, "no heatmap fields"
        return runs.form(inputs, self.config.label, "Draw boxes")

    @staticmethod
    def _check(inputs, ctx, key, field, drafts):
        """Says at the inputs what would be refused."""
        params = ctx.params
        try:
            drafts.check_values(
                params.get("threshold", 0.5),
                params.get("min_area", 0.001),
                params.get("tags") or [],
            )
            drafts.check_out(
                ctx.target_view(require_flat=True),
                key,
                field,
                params.get("out") or None,
                bool(params.get("overwrite")),
            )
        except ValueError as error:
            name = str(error).partition(":")[0].partition(" ")[0]
            prop = inputs.properties.get(name) or inputs.properties["out"]
            prop.invalid, prop.error_message = True, str(error)

    def __call__(
        self,
        samples,
        cam_key=None,
        field=None,
        threshold=0.5,
        min_area=0.001,
        out=None,
        tags=("draft",),
        overwrite=False,
        progress=None,
    ):
        """Drafts boxes around the heat of a run: one for every connected part above a threshold.

        Where a classifier looks is where the object is, more or less: a first draft of its box (Zhou et
        al., Learning deep features for discriminative localization, CVPR 2016), to be corrected.

        Example usage::

            import fiftyone.operators as foo

            heat_to_detections = foo.get_operator("@cam51/heatmaps/heat_to_detections")
            heat_to_detections(view, "resnet50", threshold=0.4)
            dataset.match_labels(tags="draft")

        Written per sample: a :class:`fiftyone.core.labels.Detections` in ``out``; the label is what the
        heatmap explains, the confidence how hot the part is against the heatmap's hottest point. The
        field is deleted with the run.

        Args:
            samples: a dataset or view
            cam_key (None): the key of a CAM run; that of ``field`` by default
            field (None): a heatmap field; needed where the run has several
            threshold (0.5): share of a heatmap's maximum in (0, 1) from which on a pixel belongs to a box
            min_area (0.001): parts that cover less of the image, a share in [0, 1), are left out
            out (None): the field to write, ``{field}_boxes`` by default; begins with the run's key
            tags (("draft",)): of every detection
            overwrite (False): whether earlier drafts of these samples in ``out`` are replaced
            progress (None): whether to show a progress bar; FiftyOne's setting by default

        Returns:
            a ``Drafts`` with ``field``, ``samples``, ``detections`` and ``without_map``

        Raises:
            ValueError: if an argument is wrong; nothing has been written then
        """
        return self.call(locals())

    def arguments_of(self, params):
        """The arguments that a form's parameters stand for."""
        names = ("cam_key", "field", "threshold", "min_area", "out", "overwrite")
        given = {name: params[name] for name in names if params.get(name) not in (None, "")}
        return {**given, "tags": params.get("tags") or []}

    def make_job(self, samples, arguments, origin):
        """The prepared job."""
        from .drafts.job import DraftJob, DraftSettings

        return DraftJob(samples, DraftSettings(**arguments), origin=origin).prepare()

    def finished(self, ctx, job):
        """The boxes in the grid, beside what it shows, and how many they are."""
        from .runs.app_style import activate_fields

        field = job.summary.field
        paths = activate_fields(ctx.dataset, [field])
        yield ctx.ops.reload_dataset()
        yield ctx.ops.set_active_fields(list(dict.fromkeys([*(ctx.active_fields or paths), field])))
        yield ctx.ops.notify(str(job.summary), variant="success")
