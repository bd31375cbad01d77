"""Heatmaps of a run as a figure, for notebooks."""

import os

import fiftyone.operators as foo
import fiftyone.operators.types as types

from .data.drawn import overlaid
from .data.heatmap_reader import heat_of


class ShowHeatmaps(foo.Operator):
    """Draws photos with their heatmaps side by side."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="show_heatmaps",
            label="Show heatmaps as a figure",
            description="Photos with the heatmaps of a run side by side, for notebooks",
            unlisted=True,
            risk_level=types.RiskLevel.LOW,
        )

    def __call__(self, samples, cam_key, n=12, methods=None, animation=None):
        """Draws the heatmaps of a run over the photos: a row per sample, a column per field.

        Of videos the rows are frames of the first video that has heatmaps of the run, evenly spread over
        those that have; an animation has all of them.

        Example usage::

            show_heatmaps = foo.get_operator("@cam51/heatmaps/show_heatmaps")
            show_heatmaps(view, "resnet50", n=6)
            show_heatmaps(videos, "resnet50", animation="heat.gif")

        Args:
            samples: a dataset or view
            cam_key: the key of a CAM run
            n (12): at most this many samples, 200 at most, from the first on that have heatmaps of the run, or
                frames
            methods (None): only the fields of these methods
            animation (None): of videos: the path of a GIF that is written, with all frames that have
                heatmaps, each for as long as in the video, in a loop

        Returns:
            a ``matplotlib.figure.Figure``; of an animation its path

        Raises:
            ValueError: if there is no such run, or nothing of it in the samples
        """
        from .data.written_paths import PYTHON, confined
        from .jobs.params import Integer
        from .runs.look import look_of

        Integer(1, 200).check("n", n)  # a row of pictures each
        self._check(samples, animation)
        path = None if animation is None else confined("animation", animation, PYTHON)
        fields = _chosen_fields(samples, cam_key, methods)
        if not fields:
            raise ValueError(
                f"cam_key: the heatmap fields of the run {cam_key!r} were deleted; compute them "
                "again"
            )
        pictures = _pictures(samples, cam_key, fields, None if animation else n)
        if pictures is None:
            raise ValueError(f"samples: none of them has heatmaps of the run {cam_key!r}")
        if animation is None:
            return _figure(list(pictures), fields, cam_key, look_of(samples._root_dataset))
        from .data.animation import write_gif

        return write_gif(pictures, path, look_of(samples._root_dataset))

    @staticmethod
    def _check(samples, animation):
        """Raises a ValueError where an animation cannot be made."""
        if animation is None:
            return
        if samples._root_dataset.media_type != "video":
            raise ValueError("animation: is for videos, and these are images; leave it out")
        if os.path.splitext(str(animation))[1].lower() != ".gif":
            raise ValueError(f"animation must be the path of a .gif, got {str(animation)!r}")

    def resolve_input(self, ctx):
        """The run, how many samples, which methods."""
        inputs = types.Object()
        inputs.str("cam_key", required=True, label="Run")
        inputs.int("n", default=12, min=1, label="Samples")
        inputs.list(
            "methods", types.String(), label="Methods", description="all of the run by default"
        )
        return types.Property(inputs, view=types.View(label=self.config.label))

    def execute(self, ctx):
        """Returns the figure as a data URI."""
        import base64

        params = dict(ctx.params)
        figure = self(
            ctx.target_view(), params["cam_key"], params.get("n", 12), params.get("methods")
        )
        return {"image": "data:image/png;base64," + base64.b64encode(figure._repr_png_()).decode()}


def _pictures(samples, cam_key, fields, n):
    """What is drawn: :class:`~operators.data.drawn.Drawn` of samples, or of frames; None without any."""
    from .data import drawn

    if samples._root_dataset.media_type == "video":
        return drawn.of_video(samples, cam_key, fields, n)
    return drawn.of_images(samples, fields, n)


def _chosen_fields(samples, cam_key, methods):
    from .runs import keys, record
    from .runs.level import level_of

    dataset = samples._root_dataset
    record.refresh(dataset)  # the run may have been made in the App
    fields = keys.heatmap_fields_of(dataset, cam_key)
    if methods is None:
        return fields
    methods = [methods] if isinstance(methods, str) else list(methods)
    # Not by the fields' names: 'gradcam' is also how 'gradcam_guided' begins.
    if dataset.media_type == "video":
        frames = level_of(dataset).collection
        offer = {field: frames.distinct(f"{field}.method") for field in fields}
    else:
        offer = {f: samples.exists(f).limit(1).values(f"{f}.method") for f in fields}
    known = sorted({name for names in offer.values() for name in names})
    unknown = [m for m in methods if m not in known]
    if unknown:
        raise ValueError(
            f"methods: the run {cam_key!r} has no heatmaps of {unknown[0]!r} in these samples; "
            f"choose from {', '.join(known) or 'none: they have no heatmaps of the run'}"
        )
    return [field for field, names in offer.items() if names and names[0] in methods]


def _figure(rows, fields, cam_key, look):
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ..cam_core.spatial.overlay import scale_bar

    class HeatmapFigure(Figure):
        """A figure that a notebook shows whatever its plotting backend is."""

        def _repr_png_(self):
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=80)
            return buffer.getvalue()

    columns = len(fields) + 1
    figure = HeatmapFigure(figsize=(2.6 * columns, 2.7 * len(rows) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(rows) + 1, columns, height_ratios=[2.7] * len(rows) + [0.3])
    for number, row in enumerate(rows):
        line = [figure.add_subplot(grid[number, column]) for column in range(columns)]
        _draw_row(line, row, fields, cam_key, look)
    scale = figure.add_subplot(grid[len(rows), :])
    scale.imshow(scale_bar(480, look, paper=(255, 255, 255), ink=(40, 40, 40)))
    scale.axis("off")
    return figure


def _draw_row(line, row, fields, cam_key, look):
    photo = row.picture
    photo.thumbnail((400, 400))
    line[0].imshow(photo)
    line[0].set_title(row.name, fontsize=8, parse_math=False)
    for axis, field, label in zip(line[1:], fields, row.labels, strict=True):
        axis.imshow(overlaid(photo, heat_of(label), look))
        axis.set_title(
            _caption(label, field.removeprefix(f"{cam_key}_")), fontsize=8, parse_math=False
        )
    for axis in line:
        axis.axis("off")


def _caption(label, name):
    if label is None:
        return f"{name}: not computed"
    score = "" if label.score is None else f" {label.score:.2f}"
    note = "" if label.status == "ok" else f" ({label.status} map)"
    return f"{name}\n{label.target}{score}{note}"
