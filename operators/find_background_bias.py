"""The question behind the heatmaps: does the model's score rest on the object or on its surroundings?"""

import fiftyone.operators.types as types

from .base import JobOperator, job_config


class FindBackgroundBias(JobOperator):
    """Measures heat against objects, tests it by swapping backgrounds, and ranks samples and classes."""

    config = job_config(
        "find_background_bias",
        "Find background bias",
        "Swaps backgrounds to find samples and classes whose score depends on them; needs to know where objects are",
        types.RiskLevel.MEDIUM,
        icon="wallpaper",
    )

    def form(self, ctx):
        """The form."""
        from .forms import bias

        return bias.find_background_bias_form(ctx)

    def __call__(
        self,
        samples,
        cam_key=None,
        model=None,
        *,
        transforms=None,
        preprocess=None,
        classes=None,
        methods=None,
        targets="predicted",
        layers=None,
        objects="auto",
        object_classes="auto",
        aliases=None,
        labels="auto",
        probe="auto",
        donors=4,
        most_donors=32,
        control=True,
        noise=True,
        feather=2,
        group_by=None,
        scenes=None,
        views=True,
        tags=False,
        report=None,
        batch_size="auto",
        num_workers=None,
        device=None,
        precision="auto",
        overwrite=False,
        seed=51,
        progress=None,
        delegate=False,
        **model_options,
    ):
        """Tests what the scores rest on, synchronously, also inside a running event loop.

        Heat says where evidence is and is no proof; the swap puts each object on other samples'
        backgrounds and watches the score. After Xiao et al., Noise or Signal: The Role of Image
        Backgrounds in Object Recognition, ICLR 2021.

        Of a detector each box of ``objects`` is tested by itself: its score is that of the best candidate
        of its class that overlaps it by half, everything outside of it is replaced, and the results are
        attributes of its label: ``{cam_key}_verdict``, ``{cam_key}_dependence``,
        ``{cam_key}_swap_drop`` and more. The sample takes the worst of its objects. Heat counts where
        the run explained these boxes; ``labels`` and ``group_by`` are for classifiers.

        Example usage::

            import fiftyone.operators as foo

            find_background_bias = foo.get_operator("@cam51/heatmaps/find_background_bias")

            # Of a CAM run that exists; its model, if the zoo has it
            summary = find_background_bias(dataset, "resnet50", objects="ground_truth")
            print(summary)
            dataset.load_saved_view("resnet50: relies on background")

            # Heatmaps first, with any module
            find_background_bias(
                dataset,
                "mine",
                my_module,
                transforms=my_transforms,
                classes=my_classes,
                objects={"boxes": "object", "fixtures": "context"},
                group_by="hospital",
                report="bias_report",
            )

        Written per sample: ``{cam_key}_verdict``, one of ``relies on background``, ``relies on
        background, not visible in heat``, ``heat outside, untested``, ``heat outside, harmless``,
        ``relies on object``, ``unstable when pasted``, ``cannot say``; ``{cam_key}_dependence``, the
        best single estimate in 0..1 that the score rests on the background; and every other number
        in ``{cam_key}_bias``, with the reason. Nothing is said to rely on the background from heat
        alone, and nothing to rely on its object whose prediction changes on other backgrounds half of
        the time; a score below .25 is ``cannot say``, ``unsure``.

        Args:
            samples: a dataset or view of images
            cam_key (None): a CAM run, whose settings are used; a run is computed where there is none
                of this key, or no key is given
            model (None): as in ``compute_cams``; may be left out for a run of a zoo model
            transforms (None): as in ``compute_cams``; of a run what it had, where its record cannot hold it
            preprocess (None): likewise
            classes (None): as in ``compute_cams``; by default those of the run
            methods (None): of a run that is computed; for an existing run, functions for methods that
                its record only has by name
            targets ("predicted"): of a run that is computed: ``"predicted"``, or a class
            layers (None): of a run that is computed
            objects ("auto"): a label field, a mapping field -> role (``"object"``, ``"other"``,
                ``"context"``, ``"ignore"``), or None for none. ``"auto"`` takes the one field with
                boxes, polygons or masks that is no prediction. Without objects the border and the
                hottest place are tested instead
            object_classes ("auto"): ``"explained"``: only objects of the explained class;
                ``"all"``; names; ``"auto"``: of the explained class, and where none is annotated all
                of the sample's
            aliases (None): class of the model -> label or labels of the dataset
            labels ("auto"): a field of classifications, strings, or lists of strings any of which is
                right; of a multi-label network also a field of several classifications, boxes or
                polygons, each of which is a class that the sample has; ``"auto"`` takes the one
                classification that is no prediction; None for none
            probe ("auto"): how many samples are tested, spread over the classes; at most 2,000 by
                default. The others get an estimate from their heat where that predicts the swap
            donors (4): other backgrounds per sample
            most_donors (32): up to how many a sample gets whose verdict these leave open
            control (True): whether as many backgrounds of the same class are tried: what pasting alone
                costs
            noise (True): whether noise on the object is compared with noise on the background, on up to
                200 samples: the model's relative foreground sensitivity
            feather (2): pixels over which a pasted object fades out
            group_by (None): a field with one value per sample, such as ``"hospital"``
            scenes (None): a field that says which samples belong together (scene, video): they lend
                each other no backgrounds, and intervals count scenes
            views (True): whether views are saved: who relies on the background, heat alone and, where labels
                say what is right, who is right for the wrong reason
            tags (False): whether samples are tagged with their verdicts
            report (None): a folder for an HTML report, CSV files, and everything as JSON
            batch_size ("auto"): images per forward
            num_workers (None): decoding threads; 0 calls the transforms in this thread only
            device (None): a torch device; by default the model's
            precision ("auto"): of a run that is computed
            overwrite (False): whether what an earlier analysis of this run wrote is deleted first
            seed (51): of everything random
            progress (None): whether to show a progress bar; FiftyOne's setting by default
            delegate (False): whether to schedule the run instead (models by name only)
            **model_options: ``output``, ``task``, ``multi_label`` and the other options of the model
                that ``compute_cams`` has; by default those of the run

        Returns:
            a ``BiasSummary`` with ``classes``, ``model``, ``calibration``, ``objects``, ``verdicts``,
            ``skipped`` and more; printed, it is a paragraph

        Raises:
            ValueError: if an argument is wrong, or the model is neither a classifier nor a detector;
                nothing has been written then
        """
        return self.call(locals())

    def arguments_of(self, params):
        """The arguments that a form's parameters stand for."""
        from .forms import bias

        return bias.arguments_of(params)

    def params_of(self, arguments, samples):
        """The parameters that stand for arguments."""
        from .forms import bias
        from .runs import record

        return bias.params_of(arguments, record.list_runs(samples._dataset))

    def make_job(self, samples, arguments, origin):
        """The prepared job."""
        from .bias.job import BiasJob
        from .bias.params import BiasSettings
        from .compute.recorded_model import GivenModel

        given, rest = GivenModel.split(arguments)
        return BiasJob(samples, BiasSettings(**rest), given, origin).prepare()

    def finished(self, ctx, job):
        """The verdicts in the grid, and the summary."""
        from .runs import look

        yield ctx.ops.reload_dataset()
        yield from look.send(ctx)
        yield ctx.ops.set_active_fields(job.active_fields)
        yield ctx.ops.notify(" ".join(job.summary.lines()[:2]), variant="success")
