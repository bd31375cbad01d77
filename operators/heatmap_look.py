"""How heatmaps look in the App: set from Python or a form, and sent to the App when a dataset is opened."""

import fiftyone.operators as foo
import fiftyone.operators.types as types


class SetHeatmapLook(foo.Operator):
    """Colours, opacity and hidden heat of all heatmaps in a dataset."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="set_heatmap_look",
            label="Set the look of heatmaps",
            description="Colours, opacity and what is hidden of the heatmaps; the maps stay as they are",
            icon="palette",
            unlisted=True,
            dynamic=True,
            risk_level=types.RiskLevel.MEDIUM,
        )

    def __call__(self, dataset, ramp=None, opacity=None, hide_below=None):
        """Sets how the App draws all heatmaps of this plugin in a dataset; no map is touched.

        What the dataset's colour scheme said before is kept: ``ramp="own"`` puts it back, and so does
        deleting the last run. What is not named stays as it is.

        Example usage::

            import fiftyone.operators as foo

            set_heatmap_look = foo.get_operator("@cam51/heatmaps/set_heatmap_look")
            set_heatmap_look(dataset, ramp="fire", opacity=0.7, hide_below=0.33)
            set_heatmap_look(dataset, hide_below=0)  # all heat again
            set_heatmap_look(dataset, ramp="own")  # the colours that the dataset had before

        Args:
            dataset: a dataset, or a view, whose whole dataset is meant
            ramp (None): ``"fire"``, ``"inferno"``, ``"turbo"`` or ``"viridis"`` colour heat by its value,
                ``"fade"`` is one warm colour that fades with it; ``"own"`` is the dataset's colour scheme as
                it was before a look was set
            opacity (None): of the colours over the photo, 0 to 1. The App has one opacity for labels of all
                kinds
            hide_below (None): heat below this share of the hottest is not drawn, 0 to 0.95; 0 hides nothing

        Returns:
            a dict ``ramp, opacity, hide_below``: how heatmaps are drawn now

        Raises:
            ValueError: if a value is wrong, ``"own"`` comes with another one, or something is to be hidden
                of a ramp that fades; nothing is changed then
        """
        import dataclasses

        from .runs import look, record
        from .runs.app_style import show_in_sessions

        dataset = dataset._dataset
        record.refresh(dataset)
        if ramp == look.OWN:
            if (opacity, hide_below) != (None, None):
                raise ValueError(
                    "ramp='own' puts back what was there; leave opacity and hide_below out"
                )
            look.put_back(dataset)
        else:
            look.set_look(dataset, ramp, opacity, hide_below)
        show_in_sessions(dataset)
        now = look.look_of(dataset)
        return {**dataclasses.asdict(now), "hide_below": now.hidden}

    def resolve_input(self, ctx):
        """Ramp, opacity, and what is hidden."""
        from ..cam_core.spatial.overlay import FADE, RAMPS
        from .forms.schema import titled
        from .runs import look
        from .text import escape_labels

        inputs, now = types.Object(), look.look_of(ctx.dataset)
        ramps = [*RAMPS, look.OWN]
        inputs.enum("ramp", ramps, default=now.ramp, label="Colours", view=types.DropdownView())
        ramp = ctx.params.get("ramp") or now.ramp
        if ramp != look.OWN:
            inputs.float("opacity", default=now.opacity, min=0, max=1, label="Opacity")
        if ramp not in (look.OWN, FADE):
            inputs.float(
                "hide_below", default=now.hide_below, min=0, max=0.95, label="Hide heat below",
                description="As a share of the hottest place of each heatmap; with one scale, of the scale's end",
            )  # fmt: skip
        form = titled(inputs, self.config.label, "Apply")
        return escape_labels(form)

    def execute(self, ctx):
        """Sets it and shows it."""
        from .runs import look

        names = ("ramp", "opacity", "hide_below")
        given = {name: ctx.params[name] for name in names if ctx.params.get(name) is not None}
        found = self(ctx.dataset, **given)
        ctx.ops.reload_dataset()
        look.send(ctx, whole=True)
        return found


class ShowHeatmapLook(foo.Operator):
    """Sends the stored look to the App when a dataset is opened, where FiftyOne forgot its colours."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="show_heatmap_look",
            label="Show the look of heatmaps",
            description="Sends the stored colours of heatmaps to the App; it does so itself when a dataset is opened",
            unlisted=True,
            on_dataset_open=True,
            risk_level=types.RiskLevel.LOW,
        )

    def execute(self, ctx):
        """Sends it, where the dataset has one; when it was ``sent``, lets the server remember it."""
        from .runs import look

        if ctx.dataset is None or not look.is_set(ctx.dataset):
            return
        if not look.remember(ctx.dataset) and not ctx.params.get("sent"):
            look.send(ctx)
