"""The main operator: heatmaps for a view of a dataset."""

import time

import fiftyone as fo
import fiftyone.operators as foo
import fiftyone.operators.types as types

from .base import JobOperator, job_config, move_bar

_URI = "@cam51/heatmaps/compute_cams"
#: how long the App may take to close the form of a run that has ended
_CLOSES_SECONDS = 0.5


class HeatmapOperator(JobOperator):
    """An operator whose job computes heatmaps: one progress bar over the samples, then the new fields."""

    takes_videos = True

    def run_here(self, job, progress):
        """Runs a job with one progress bar; returns its summary."""
        with fo.ProgressBar(total=job.total, progress=progress) as bar:
            for state in job.run():
                bar.update(state.done - bar.iteration)
        return job.summary

    def report(self, ctx, state):
        """Moves the App's progress bar to a state of the run."""
        label = f"{state.done:,} of {state.total:,}"
        if state.failed:
            label += f", {state.failed:,} failed"
        ends = state.done >= state.total
        if not ends and state.forecast():
            label += f", {state.forecast()}"
        return move_bar(ctx, state.fraction, label, ends)

    def finished(self, ctx, job):
        """The fields in the grid, and the summary."""
        from .forms import messages
        from .runs import look

        yield ctx.ops.reload_dataset()
        yield from look.send(ctx)
        yield ctx.ops.set_active_fields(job.active_fields)
        unfinished = job.summary.failed or job.summary.status != "finished"
        said = messages.in_app(job.summary, self.config.name)
        yield ctx.ops.notify(said, variant="warning" if unfinished else "success")


class ComputeCams(HeatmapOperator):
    """Computes class activation maps for a view and stores them as heatmap fields."""

    config = job_config(
        "compute_cams",
        "Compute class activation maps",
        "Stores heatmaps of where a model looked, such as Grad-CAM, for every image; the other tools build on it",
        types.RiskLevel.MEDIUM,
        icon="local_fire_department",
    )

    def form(self, ctx):
        """The form."""
        from .forms import compute

        return compute.compute_cams_form(ctx)

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
        preprocess=None,
        window=None,
        classes=None,
        class_map=None,
        output=None,
        task=None,
        multi_label=None,
        threshold=None,
        ends_in=None,
        background=None,
        read=None,
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
        object_maps=0,
        seed=51,
        resume=False,
        memory_format="auto",
        measure_places=True,
        every=None,
        max_fps=None,
        group_slices=None,
        patches_field=None,
        backend="local",
        resources=None,
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

        Of a detector the field is the maximum over an image's objects, each object's map divided by its
        own. Every object is told about itself: the labels of the field get ``{cam_key}_score``,
        ``_probability``, ``_iou``, ``_status`` and the shares of its heat ``_in_box``, ``_on_others`` and
        ``_outside``; the model's own detections, with the same, are ``{cam_key}_detections``.

        Args:
            samples: a dataset or view of images; of videos, or a view of their frames, whose fields are
                written to the frames, ``frames.{cam_key}_{method}``; of groups with ``group_slices``
            model: the name of a zoo model, a FiftyOne model, or a ``torch.nn.Module``
            methods (None): names, callables with ingredient names as arguments, pairs of these with
                options such as ``("eigencam", {"component": 2})``, or a list; ``"gradcam"`` for CNNs
            cam_key (None): names the run and begins every field's name; from the model's name
            targets ("predicted"): what is explained, one of these or a list of several but the first:

                -   ``"predicted"``, the class with the highest score; of labels that do not exclude each
                    other up to three, of segmentation the two largest. ``"top_3"`` the best three
                -   a class name or index: of a picture in which a multi-label or segmentation model does not
                    see it, no map is made (status ``target_absent``)
                -   a label field (``"ground_truth"``), or ``{"field": name}`` where a class has that name: of
                    lists of labels up to three classes. A label that the model lacks gives no map (status
                    ``label_unknown``, with what it may mean in ``summary.labels``; ``label_ambiguous`` if
                    two classes of the model are called so), and so does none
                    (``no_label``)
                -   ``"contrast"`` or ``("contrast", field)``: why the prediction and not the label, the
                    difference of their scores; a sample that is classified as labelled has none (status
                    ``correct``). ``("contrast", "runner_up")``: why not the second best.
                    ``("contrast", "A", "B")``: why A and not B. Of signed methods two fields are written,
                    ``_for`` and ``_against``
                -   of segmentation: ``{"class": name, "over": "predicted" | "all" | field}``, the class's
                    scores summed over pixels; ``{"mask": field, "class": name}``, over the objects of the
                    class in a label field; ``{"box": [x, y, w, h], "class": name}``
                -   ``{"text": prompt}`` of CLIP and its relatives; ``{"like": sample id or embedding}`` of
                    networks that give embeddings
                -   a callable outputs -> (N,) scores
                -   of a detector, one of these: ``"predicted"``, its own detections, or class names, those of
                    these classes; a field of Detections or ``{"field": name}``, what it has at each box for
                    the label's class; ``{"missed": field}`` or ``("missed", field)``, the strongest candidate
                    at each box that no detection matches; ``{"eval": eval_key, "which": "fn" | "fp" | "tp"}``
                    of ``evaluate_detections``. Each of the dicts, and one without more, may have ``"classes"``
                    (names), ``"most"`` (objects of an image, 20), ``"min_iou"`` (of object and candidate, .5)
                    and ``"prefer"`` (which candidate: the strongest ``"score"`` or the best ``"overlap"``)
            layers (None): names, globs or modules of the target layers; the family's default
            transforms (None): maps a PIL image to a float tensor (3, h, w); needed for a module
            preprocess (None): instead of transforms: maps the file's path to a float tensor (C, h, w),
                for one channel, 16 bits or floats
            window (None): what transforms or preprocess show of an image. It is computed where they are
                made of known steps, and measured where they are not: readers with files of the dataset's own
                kind. Where it cannot be measured the run is refused with the reason, and it is said here:
                ``(left, top, right, bottom)`` as shares of the image, ``(0, 0, 1, 1)`` being the whole,
                or a function (height, width) -> these four in the upright image's pixels. The function
                may also be an attribute ``window`` of transforms or preprocess
            classes (None): class names in the order of the outputs, or a dict from indices to names
                (``id2label``) or from names to indices (``class_to_idx``); one name of a network with one
                logit. Of two classes of one name each is called by its index, too: ``"crane (134)"``
            class_map (None): names of yours -> a class of the model, or several that count as one:
                ``{"cat": ["tabby", "tiger cat"]}``, whose score is the logarithm of the sum of the
                exponentials; for targets by name and for labels
            output (None): where the scores are in what the model returns: a key, an index, a path such as
                ``"head.0"``, or a callable
            task (None): ``"classification"``, ``"regression"``, ``"segmentation"``, ``"embedding"`` or
                ``"detection"``
            multi_label (None): whether an image, or a pixel of a segmentation, may have several classes,
                each with its own sigmoid; by default where the network ends in a sigmoid for each output
            threshold (None): the probability from which on such a class, or the class of a single output,
                is predicted, 0.5; of a detector the confidence from which on something counts as detected,
                0.25
            ends_in (None): what the scores are: ``"logits"``, or the probabilities of a ``"sigmoid"`` or a
                ``"softmax"``. By default the network's last operation says it; the logit before it is what
                is explained
            background (None): of segmentation, the name or index of the class that is never "predicted",
                or False for none; by default the class that is called background
            read (None): of a detector that is not recognised: a callable that maps what the model returns
                to (boxes, scores, classes) for each image: boxes (Q, 4) left, top, right, bottom in pixels of
                the model's input; scores (Q,) confidences in [0, 1], computed from the outputs with torch;
                classes (Q,) indices. Or (boxes, scores) with scores (Q, C), one per class. Before or after
                suppression; see ``docs/models.md``
            fuse (None): ``"layercam"`` or ``"mean"`` also fuses the layers into one field
            keep_layers (True): whether a field per layer is written too when layers are fused
            batch_size ("auto"): 16 on a CPU, probed on a GPU; halved when memory runs out
            num_workers (None): decoding threads; 0 calls the transforms in this thread only. With
                ``backend="ray"`` the number of Ray's workers, by default as many as the cluster has room for
            device (None): a torch device; by default the model's
            precision ("auto"): ``"float32"``, ``"bfloat16"`` or ``"float16"`` for the forward; maps
                are always float32. By default float32 on a CPU and bfloat16 on a GPU
            heatmap_size (192): longest side of the stored heatmaps, in pixels
            storage ("database"): ``"database"``, or ``"disk"`` for PNG files
            output_dir (None): the folder below which the run's folder of PNG files is made
            store_prediction (True): whether ``{cam_key}_prediction`` is written
            overwrite (False): whether an earlier run of this key is deleted first
            max_fields (12): a run that would add more heatmap fields is refused
            object_maps (0): of a detector, or with ``patches_field``, for how many objects of an image, the
                strongest, heatmaps of their own are written, ``..._object1`` and so on; at most 5, which True
                stands for
            seed (51): of methods that draw random numbers
            resume (False): whether to resume the run of this key: what is stored stays, the samples
                of this view that lack something are computed, those that failed are tried again. The
                other arguments must be those of the run, and the end is what one call would have given.
                A key without a run begins one
            measure_places (True): whether to measure, once per layer and size of input and before the
                first sample, where a layer's cells lie on the model's input; a layer whose cells lie
                nowhere is refused. False takes what the layer's shape suggests, and the run's record
                says so
            memory_format ("auto"): the layout in which the network is given images: ``"contiguous"``, or
                ``"channels_last"``, in which most convolutional networks are faster; maps are the same
                within 1e-5, and the model stays as it is. By default ``"channels_last"`` for networks with
                more convolutions than linear layers, on a CPU and on a GPU that computes in 16 bits; a
                run that is resumed keeps its own
            every (None): of videos: one frame of so many is explained, beginning with the first
            max_fps (None): of videos: of each second at most so many frames are explained
            group_slices (None): of a grouped dataset the slices that are explained, one name or a list, in
                one run; True for all that hold images
            patches_field (None): a field of detections each of whose objects is cut out and explained by
                itself, by a classifier. On the labels ``{cam_key}_score``, ``_target``, ``_status`` and, of
                objects with masks, ``_in_mask``, the share of heat within it, are written; on the sample all
                objects' maps together, each at its place, and with ``object_maps`` those of the objects with
                the highest scores
            backend ("local"): ``"local"`` computes in this process, ``"ray"`` on the workers of a Ray
                cluster, or of this machine, which all write to this database: see ``docs/scaling.md``
            resources (None): what one of Ray's workers needs, for example ``{"GPU": 1, "CPU": 8}``; its
                CPUs are also its threads. By default one CPU
            progress (None): whether to show a progress bar; FiftyOne's setting by default
            delegate (False): whether to schedule the run instead (zoo models and names only)

        Returns:
            a ``Summary`` with ``status``, ``done``, ``failed``, ``fields``, ``images_per_second``,
            ``settings``, ``statuses``, ``labels`` and ``notes``

        Raises:
            ValueError: if an argument is wrong; nothing has been written then
        """
        return self.call(locals())

    def arguments_of(self, params):
        """The arguments that a form's parameters stand for."""
        from .forms import compute

        return compute.arguments_of(params)

    def params_of(self, arguments, samples):
        """The parameters that stand for arguments."""
        from .forms import compute

        return compute.params_of(arguments)

    def make_job(self, samples, arguments, origin):
        """The prepared job."""
        from .compute.job import CamJob
        from .compute.params import Settings
        from .compute.recorded_model import GivenModel

        given, rest = GivenModel.split(arguments)
        return CamJob(samples, Settings(**rest, **given.options), given, origin).prepare()

    def refused(self, ctx):
        """Opens the form again as it was filled in."""
        if ctx.delegated:
            return None
        return ctx.trigger(f"{_URI.rpartition('/')[0]}/reopen_compute_cams", {"filled": ctx.params})


class ReopenComputeCams(foo.Operator):
    """Opens the form of ``compute_cams`` again, as it was filled in."""

    @property
    def config(self):
        """The operator's configuration."""
        return foo.OperatorConfig(
            name="reopen_compute_cams",
            label="Open the form again",
            description="Opens the form of compute_cams as it was filled in; of use in the App only",
            unlisted=True,
            risk_level=types.RiskLevel.LOW,
        )

    def execute(self, ctx):
        """Opens it once the App has closed the one before, which it does when a run has ended."""
        time.sleep(_CLOSES_SECONDS)
        ctx.prompt(_URI, params=ctx.params["filled"])
