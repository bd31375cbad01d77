"""What one region of the images is worth to the model: a tag in the corner, the border, the hottest place."""

import fiftyone.operators.types as types

from .base import JobOperator, job_config


class TestRegion(JobOperator):
    """Replaces a region by other samples', beside random regions of its size."""

    __test__ = False  # no test case, whatever its name begins with

    config = job_config(
        "test_region",
        "Test a region of the images",
        "Tests whether scores depend on a region, such as the border or a tag; needs no objects, writes nothing",
        types.RiskLevel.LOW,
        icon="crop_free",
    )

    def form(self, ctx):
        """The form."""
        from .forms import region

        return region.test_region_form(ctx)

    def __call__(
        self,
        samples,
        region="hottest",
        cam_key=None,
        model=None,
        *,
        transforms=None,
        preprocess=None,
        classes=None,
        targets="predicted",
        labels="auto",
        probe="auto",
        donors=4,
        feather=2,
        scenes=None,
        batch_size="auto",
        num_workers=None,
        device=None,
        precision="float32",
        seed=51,
        progress=None,
        **model_options,
    ):
        """Tests a region without needing to know where objects are; writes nothing.

        The region of each sample is replaced by the same region of samples of other classes, and so
        are random regions of its size and shape, which are the control; of the border, for which there
        is no other place, the control is that of samples of the same class.

        Tested are the samples that have the class in question: the one predicted, of a multi-label
        network each class from its threshold on, of a named class the samples that it is predicted for
        or that are labelled with it. Samples without it lend their regions: they have no score that
        could be lost.

        Example usage::

            import fiftyone.operators as foo

            test_region = foo.get_operator("@cam51/heatmaps/test_region")
            # a hospital's tag in the lower right corner
            result = test_region(dataset, [0.8, 0.9, 0.2, 0.1], cam_key="densenet")
            print(result)
            # where a cluster of heatmaps lies
            test_region(dataset, summary.clusters[0], cam_key="densenet")

        Args:
            samples: a dataset or view of images
            region ("hottest"): ``"hottest"``, the hottest tenth of each image; ``"border"``, its outer
                15 %; a label field; a relative box ``[left, top, width, height]``; or where a map
                (h, w) over the image is at least half of its maximum, such as a cluster of
                ``find_background_bias``
            cam_key (None): a CAM run, whose target and, for ``"hottest"``, maps are used
            model (None): as in ``compute_cams``; may be left out for a run of a zoo model
            transforms (None): as in ``compute_cams``; of a run what it had, where its record cannot hold it
            preprocess (None): likewise
            classes (None): as in ``compute_cams``; by default those of the run
            targets ("predicted"): without a run, what is tested: ``"predicted"``, or a class
            labels ("auto"): the field that says which classes samples have, beside what is predicted, as
                in ``find_background_bias``; None for none
            probe ("auto"): how many samples are tested, spread over the classes; at most 2,000
            donors (4): other samples, and random regions, per sample
            feather (2): pixels over which the two are mixed
            scenes (None): a field that says which samples belong together
            batch_size ("auto"): images per forward
            num_workers (None): decoding threads; 0 calls the transforms in this thread only
            device (None): a torch device; by default the model's
            precision ("float32"): of the forward
            seed (51): of everything random
            progress (None): whether to show a progress bar; FiftyOne's setting by default
            **model_options: ``output``, ``task``, ``multi_label`` and the other options of the model
                that ``compute_cams`` has; by default those of the run

        Returns:
            a ``RegionSummary`` with ``effect`` (mean, 95 % interval, n), ``region_drop``,
            ``control_drop``, ``flip``, ``p``, ``classes`` and ``samples``; printed, it is a sentence
            and the numbers that it rests on

        Raises:
            ValueError: if an argument is wrong, or the model is no classifier
        """
        return self.call(locals())

    def arguments_of(self, params):
        """The arguments that a form's parameters stand for."""
        from .forms import region

        return region.arguments_of(params)

    def make_job(self, samples, arguments, origin):
        """The prepared job."""
        from .bias.params import RegionSettings
        from .bias.region_job import RegionJob
        from .compute.recorded_model import GivenModel

        given, rest = GivenModel.split(arguments)
        return RegionJob(samples, RegionSettings(**rest), given, origin).prepare()

    def finished(self, ctx, job):
        """What the replacing did, in the dialog; nothing beside it in a queue."""
        from .forms import region

        if not ctx.delegated:
            outputs, results = region.output_of(job.summary)
            yield ctx.ops.show_output(outputs=outputs, results=results)

    def resolve_output(self, ctx):
        """Nothing beside what is shown at the end."""
        return types.Property(types.Object())
