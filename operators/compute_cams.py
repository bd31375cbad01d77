"""The main operator: heatmaps for a view of a dataset."""

import fiftyone as fo
import fiftyone.operators as foo
import fiftyone.operators.types as types

from ._settings import Settings


class ComputeCams(foo.Operator):
    """Computes class activation maps for a view and stores them as heatmap fields."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="compute_cams",
            label="Compute class activation maps",
            description="Explain where a model looked, for every image of a view",
            icon="local_fire_department",
            dynamic=True,
            execute_as_generator=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
            default_choice_to_delegated=False,
            risk_level=foo.RiskLevel.MEDIUM if hasattr(foo, "RiskLevel") else "medium",
        )

    def resolve_placement(self, ctx):
        """One button above the grid."""
        return types.Placement(
            types.Places.SAMPLES_GRID_SECONDARY_ACTIONS,
            types.Button(
                label="Compute class activation maps", icon="local_fire_department", prompt=True
            ),
        )

    def resolve_input(self, ctx):
        """The form."""
        from . import _forms

        return _forms.compute_cams_form(ctx)

    def __call__(
        self,
        samples,
        model=None,
        methods=None,
        cam_key=None,
        targets="predicted",
        layers=None,
        *,
        transforms=None,
        classes=None,
        fuse=None,
        keep_layers=True,
        batch_size="auto",
        num_workers=None,
        device=None,
        precision="auto",
        heatmap_size=192,
        storage="database",
        output_dir=None,
        store_prediction=True,
        overwrite=False,
        max_fields=12,
        seed=51,
        resume=False,
        progress=None,
        delegate=False,
    ):
        """Computes heatmaps for a view, synchronously, also inside a running event loop.

        Example usage::

            import fiftyone.operators as foo

            compute_cams = foo.get_operator("@cam51/heatmaps/compute_cams")

            # A model of the zoo
            summary = compute_cams(
                view, model="resnet50-imagenet-torch", methods=["gradcam", "layercam"]
            )

            # Any module, with its transforms and classes
            compute_cams(
                dataset,
                model=my_module,
                transforms=my_transforms,
                classes=my_classes,
                layers=["layer3", "layer4"],
                methods=my_callable,
                cam_key="mine",
            )

        Written per sample: a field ``{cam_key}_{method}`` for every method (with ``_{layer}`` and
        ``_{target}`` where there are several) of type :class:`fiftyone.core.labels.Heatmap`, with the
        attributes ``method``, ``layer``, ``target``, ``target_index``, ``score``, ``peak`` (the raw
        map's maximum), ``status`` and ``cam_key``; and ``{cam_key}_prediction``. A map that is zero,
        flat or not finite is stored without a picture, and its ``status`` says which.

        Args:
            samples: a dataset or view of images
            model: the name of a zoo model, a FiftyOne model, or a ``torch.nn.Module``
            methods (None): names, callables with ingredient names as arguments, pairs of these with
                options such as ``("eigencam", {"component": 2})``, or a list; ``"gradcam"`` for CNNs
            cam_key (None): names the run and begins every field's name; from the model's name
            targets ("predicted"): ``"predicted"``, ``"top_3"``, a class name or index, a callable
                outputs -> (N,) scores, or a list of classes and callables
            layers (None): names, globs or modules of the target layers; the family's default
            transforms (None): maps a PIL image to a float tensor (3, h, w); needed for a module
            classes (None): class names in the order of the outputs
            fuse (None): ``"layercam"`` or ``"mean"`` also fuses the layers into one field
            keep_layers (True): whether a field per layer is written too when layers are fused
            batch_size ("auto"): 16 on a CPU, probed on a GPU; halved when memory runs out
            num_workers (None): decoding threads; 0 calls the transforms in this thread only
            device (None): a torch device; by default the model's
            precision ("auto"): ``"float32"``, ``"bfloat16"`` or ``"float16"`` for the forward; maps
                are always float32. By default float32 on a CPU and bfloat16 on a GPU
            heatmap_size (192): longest side of the stored heatmaps, in pixels
            storage ("database"): ``"database"``, or ``"disk"`` for PNG files
            output_dir (None): the folder below which the run's folder of PNG files is made
            store_prediction (True): whether ``{cam_key}_prediction`` is written
            overwrite (False): whether an earlier run of this key is deleted first
            max_fields (12): a run that would add more heatmap fields is refused
            seed (51): of methods that draw random numbers
            resume (False): whether the run of this key is gone on with: what is stored stays, the samples
                of this view that lack something are computed, those that failed are tried again. The
                other arguments must be those of the run, and the end is what one call would have given.
                A key without a run begins one
            progress (None): whether to show a progress bar; FiftyOne's setting by default
            delegate (False): whether to schedule the run instead (zoo models and names only)

        Returns:
            a ``Summary`` with ``status``, ``done``, ``failed``, ``fields``, ``images_per_second``,
            ``settings`` and ``statuses``

        Raises:
            ValueError: if an argument is wrong; nothing has been written then
        """
        arguments = {
            k: v
            for k, v in locals().items()
            if k not in ("self", "samples", "progress", "delegate")
        }
        if delegate:
            return self._delegate(samples, arguments)
        job = _job(samples, arguments, origin="python")
        with fo.ProgressBar(total=job.total, progress=progress) as bar:
            for state in job.run():
                bar.update(state.done - bar.iteration)
        return job.summary

    def _delegate(self, samples, arguments):
        from . import _forms

        params = _forms.params_of(arguments)
        ctx = {"view": samples.view()}
        return foo.execute_operator(self.uri, ctx, params=params, request_delegation=True)

    def execute(self, ctx):
        """Runs the form's job; closing the App's tab interrupts it."""
        from ._pipeline import stream

        return stream(messages(ctx, lambda origin: self._form_job(ctx, origin)))

    def _form_job(self, ctx, origin):
        from . import _forms

        arguments = _forms.arguments_of(ctx.params)
        if ctx.params.get("resume"):
            arguments["resume"] = True
        return _job(ctx.target_view(require_flat=True), arguments, origin)


def messages(ctx, make_job):
    """Runs a job for the App or a queue: a live progress bar, then the fields in the grid.

    Args:
        ctx: the execution context
        make_job: maps the origin, for the record, to a job

    Yields:
        messages to the App
    """
    try:
        job = make_job("delegated" if ctx.delegated else "app")
        for state in job.run():
            yield _report(ctx, state)
    except ValueError as error:
        yield ctx.ops.notify(str(error), variant="error")
        raise
    yield ctx.ops.reload_dataset()
    # Of the scheme of this session, only the fields' colours are replaced.
    yield ctx.trigger("set_color_scheme", {"fields": job.colours})
    yield ctx.ops.set_active_fields(job.active_fields)
    unfinished = job.summary.failed or job.summary.status != "finished"
    yield ctx.ops.notify(str(job.summary), variant="warning" if unfinished else "success")


def _job(samples, arguments, origin):
    """Checks the arguments and builds the job."""
    from ._compute import CamJob

    arguments = dict(arguments)
    model = arguments.pop("model", None)
    transforms = arguments.pop("transforms", None)
    classes = arguments.pop("classes", None)
    return CamJob(samples, model, Settings(**arguments), transforms, classes, origin=origin)


def _report(ctx, state):
    """Moves the progress bar: delegated and immediate runs have different calls for it."""
    label = f"{state.done:,} of {state.total:,}"
    if state.failed:
        label += f", {state.failed:,} failed"
    if state.done < state.total:
        label += f", {state.forecast()}" if state.forecast() else ""
        label += "" if ctx.delegated else "; closing this tab stops it"
    if ctx.delegated:
        return ctx.set_progress(progress=state.fraction, label=label)
    return ctx.ops.set_progress(progress=state.fraction, label=label)
