"""The operator that drafts boxes from heat: a start for annotation, not an answer."""

import fiftyone as fo
import fiftyone.operators as foo
import fiftyone.operators.types as types


class HeatToDetections(foo.Operator):
    """Drafts boxes around the heat of a CAM run."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="heat_to_detections",
            label="Draft boxes from heatmaps",
            description="Boxes around the heat of a CAM run, tagged as drafts, for a person to correct",
            icon="highlight_alt",
            unlisted=True,
            dynamic=True,
            execute_as_generator=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
            default_choice_to_delegated=False,
            risk_level=types.RiskLevel.MEDIUM,
        )

    def resolve_input(self, ctx):
        """Run, field, threshold, least area, tags."""
        from .data import box_drafts
        from .forms import messages, runs
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
                description="share of a heatmap's maximum from which on a pixel belongs to a box",
            )
            inputs.float(
                "min_area",
                min=0,
                max=1,
                default=0.001,
                label="Least area",
                description="share of the image; smaller parts are left out",
            )
            inputs.list("tags", types.String(), default=["draft"], label="Tags of the boxes")
            inputs.str("out", default=f"{field}_boxes", label="Field", description="is written")
            inputs.bool("overwrite", default=False, label="Replace earlier drafts")
            self._check(inputs, ctx, key, field, box_drafts)
        elif key is not None:
            prop = inputs.view("problem", types.Warning(label="The run has no heatmap fields"))
            prop.invalid, prop.error_message = True, "no heatmap fields"
        return messages.put(runs.form(inputs, self.config.label), self.config.name)

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
        with fo.ProgressBar(total=len(samples), progress=progress) as bar:
            steps = self._run(samples, cam_key, field, threshold, min_area, out, tags, overwrite)
            for step in steps:
                bar.update(step[0] - bar.iteration)
        return step[-1]

    def _run(self, samples, cam_key, field, threshold, min_area, out, tags, overwrite):
        from .data import box_drafts as drafts

        dataset = samples._dataset
        cam_key, field = drafts.choose_field(dataset, cam_key, field)
        drafts.check_values(threshold, min_area, tags)
        out = drafts.check_out(samples, cam_key, field, out, overwrite)
        if not len(samples):
            raise ValueError("samples: the view is empty")
        return drafts.draft(samples, cam_key, field, out, threshold, min_area, list(tags))

    def execute(self, ctx):
        """Drafts, then shows the boxes."""
        from .base import stream

        return stream(self._messages(ctx))

    def _messages(self, ctx):
        params = ctx.params
        steps = self._run(
            ctx.target_view(require_flat=True),
            params.get("cam_key"),
            params.get("field"),
            params.get("threshold", 0.5),
            params.get("min_area", 0.001),
            params.get("out") or None,
            params.get("tags") or [],
            bool(params.get("overwrite")),
        )
        for step in steps:
            done, total, _ = step
            label = f"{done:,} of {total:,}"
            if ctx.delegated:
                yield ctx.set_progress(progress=done / total, label=label)
            else:
                yield ctx.ops.set_progress(progress=done / total, label=label)
        yield ctx.ops.reload_dataset()
        yield ctx.ops.notify(str(step[-1]), variant="success")
