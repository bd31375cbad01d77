"""Heatmaps that can be compared between samples by eye."""

import fiftyone.operators as foo
import fiftyone.operators.types as types


class SameScale(foo.Operator):
    """One scale for all heatmaps of a field, or each map's own again."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="same_scale",
            label="Same scale for all samples",
            description="Heatmaps of a field share one scale, so that weak evidence looks weak",
            icon="tonality",
            unlisted=True,
            risk_level=types.RiskLevel.MEDIUM,
        )

    def __call__(self, dataset, cam_key, on=True):
        """Gives all heatmaps of each field of a run one scale; only their labels' ``range`` changes.

        Example usage::

            import fiftyone.operators as foo

            same_scale = foo.get_operator("@cam51/heatmaps/same_scale")
            same_scale(dataset, "resnet50")
            same_scale(dataset, "resnet50", on=False)  # each map its own scale again

        Args:
            dataset: a dataset, or a view, whose whole dataset is meant
            cam_key: the key of a CAM run
            on (True): False gives each heatmap its own scale again

        Returns:
            ``{field: scale}``: the raw value that looks hottest. It is the highest peak; with 100
            heatmaps or more, the one that all but a hundredth stay below. Fields of methods that explain
            single pixels are not in it: their heatmaps keep their own scales

        Raises:
            ValueError: if there is no such run
        """
        from .data import same_scale

        return same_scale.set_scale(dataset._dataset, cam_key, on)

    def resolve_input(self, ctx):
        """Run and switch."""
        from .forms.schema import titled
        from .runs import record
        from .text import escape_labels

        inputs = types.Object()
        runs = record.list_runs(ctx.dataset)
        inputs.enum("cam_key", runs, required=True, label="Run", default=runs[-1] if runs else None)
        inputs.bool("on", default=True, label="Same scale for all samples", view=types.SwitchView())
        form = titled(inputs, "Same scale for all samples", "Apply")
        return escape_labels(form)

    def execute(self, ctx):
        """Changes the ranges and shows it."""
        scales = self(ctx.dataset, ctx.params.get("cam_key"), bool(ctx.params.get("on", True)))
        ctx.ops.reload_dataset()
        return {"scales": scales}
