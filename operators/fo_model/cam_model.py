"""A FiftyOne model whose predictions are heatmaps: what ``dataset.apply_model`` takes."""

import contextlib
import types

import fiftyone as fo
import fiftyone.core.models as fom
import numpy as np

from ..compute.step import ExplainStep
from ..data.images import as_rgb
from ..data.loader import Item, load_item, picture_item, stacked
from ..models import load


class CamModel(fo.Model, fom.TorchModelMixin, fom.SupportsGetItem):
    """A network with methods that explain it, as FiftyOne's ``apply_model`` wants it.

    Made by the operator ``cam_model``. It plans and explains as ``compute_cams`` does, with the same maps
    bit for bit at the same batches, and keeps no record: what is written is the caller's.

    Args:
        model: the :class:`LoadedModel`
        plan: the :class:`~operators.compute.plan.Plan`, whose fields begin with ``prefix``
        prefix: what is left out of the fields' names
        ids (None): of the only samples that can be explained, where their labels are; None for any image
    """

    def __init__(self, model, plan, prefix, ids=None):
        self.config = types.SimpleNamespace(name=model.name)
        self._model, self._plan, self._ids = model, plan, ids
        self._step = ExplainStep(model, plan)
        own = [plan.objects.own_field] if plan.objects and plan.objects.own_field else []
        extra = [plan.prediction_field] if plan.prediction_field else []
        fields = [*plan.fields.values(), *extra, *own]
        self._names = {field: field.removeprefix(prefix) for field in fields}
        self._preprocess = True
        self._held = contextlib.ExitStack()

    def __repr__(self):
        methods = ", ".join(
            method for method, _ in dict.fromkeys(key[:2] for key in self._plan.fields)
        )
        return f"CamModel({self.config.name!r}, {methods} at {', '.join(self._plan.layers or ())})"

    def __enter__(self):
        self._held.enter_context(load.on_device(self._model))
        return self

    def __exit__(self, *error):
        self._held.pop_all().close()

    @property
    def media_type(self):
        """``"image"``; FiftyOne applies such models to the frames of videos, too."""
        return "image"

    @property
    def ragged_batches(self):
        """False: images of several sizes are put into batches of one size here."""
        return False

    @property
    def has_collate_fn(self):
        """True: images come with their places, which cannot be stacked."""
        return True

    @property
    def transforms(self):
        """Maps a PIL image to the network's input, a float tensor (C, h, w)."""
        return self._model.transforms

    @property
    def preprocess(self):
        """Whether ``predict`` is given pictures (True), or what :meth:`build_get_item` reads (False)."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value):
        self._preprocess = value

    @property
    def names(self):
        """What a prediction is called where there are several: ``gradcam``, ``gradcam_layer3``, ..."""
        return list(self._names.values())

    @property
    def methods(self):
        """Keys of the methods."""
        return list(dict.fromkeys(method for method, _, _ in self._plan.fields))

    @property
    def layers(self):
        """Names of the target layers."""
        return list(self._plan.layers or ())

    @property
    def notes(self):
        """What was found out about the network, and done in another way than was asked, a sentence each."""
        return list(self._plan.notes)

    def build_get_item(self, field_mapping=None):
        """How FiftyOne's data loaders read images: as ``compute_cams`` does, not as FiftyOne does.

        Args:
            field_mapping (None): other fields for ``id`` and ``filepath``
        """
        from .item_reader import ItemReader

        return ItemReader(self._model.transforms, self._model.geometry, field_mapping)

    def predict(self, arg):
        """Explains one image.

        Args:
            arg: a uint8 array (h, w, 3), (h, w, 4) or (h, w), the upright picture; a PIL image; the path of
                a file; or what :meth:`build_get_item` reads

        Returns:
            a :class:`fiftyone.core.labels.Heatmap` with the attributes ``method``, ``layer``, ``target``,
            ``target_index``, ``score``, ``peak`` and ``status``; where there are several methods, layers,
            targets or a prediction, a dict of labels by their :attr:`names`

        Raises:
            ValueError: if the image cannot be explained
            OSError: if the file cannot be read
        """
        return self.predict_all([arg])[0]

    def predict_all(self, args):
        """Explains images, those of one size together.

        Args:
            args: a list of what :meth:`predict` takes, or an array (N, h, w, 3)

        Returns:
            a list of what :meth:`predict` returns
        """
        items = [self._item(number, arg) for number, arg in enumerate(args)]
        labels = [None] * len(items)
        with load.on_device(self._model):
            for rows in _rows_by_size(items):
                batch = stacked([items[row] for row in rows])
                found = self._step(batch)
                for row in rows:
                    labels[row] = self._prediction(found[items[row].id])
        return labels

    def _item(self, number, arg):
        """The loader's item of what was given."""
        if isinstance(arg, Item):
            self._check_known(arg.id, arg.filepath)
            return arg
        name = f"image {number}"
        self._check_known(None, name)
        transforms, geometry = self._model.transforms, self._model.geometry
        if isinstance(arg, str):
            return load_item(name, arg, transforms, geometry)
        if getattr(transforms, "takes_path", False):
            raise ValueError(
                "predict: preprocess= reads files itself, so give the path of a file instead of a picture"
            )
        return picture_item(name, _picture(arg), transforms, geometry)

    def _check_known(self, sample_id, name):
        if self._ids is not None and sample_id not in self._ids:
            raise ValueError(
                f"{name}: is none of the samples whose labels this model was made with; make it with "
                "samples= that have all that it is applied to, or use compute_cams"
            )

    def _prediction(self, labels):
        """What ``apply_model`` stores of a sample: one label, or labels by name."""
        named = {name: labels[field] for field, name in self._names.items() if field in labels}
        for label in named.values():
            if isinstance(label, fo.Heatmap) and label.map is None:
                # with output_dir= FiftyOne exports every heatmap, and one without a map has none to export
                vars(label)["export_map"] = _nothing_to_export
        return next(iter(named.values())) if len(self._names) == 1 else named


def _nothing_to_export(outpath, update=False):
    """Stands for the ``export_map`` of a heatmap without a map."""


def _rows_by_size(items):
    groups = {}
    for row, item in enumerate(items):
        groups.setdefault(tuple(item.image.shape), []).append(row)
    return groups.values()


def _picture(arg):
    """A picture that was given, as the loader decodes files."""
    from PIL import Image

    if isinstance(arg, Image.Image):
        return as_rgb(arg)
    array = arg if isinstance(arg, np.ndarray) else None
    channels = None if array is None or array.ndim not in (2, 3) else (*array.shape, 0)[2]
    if channels not in (0, 1, 3, 4) or array.dtype != np.uint8 or not array.size:
        got = f"{array.dtype} {array.shape}" if array is not None else type(arg).__name__
        raise ValueError(
            "predict: give the upright picture as a uint8 array (h, w, 3), a PIL image, or the path of a "
            f"file, got {got}; a tensor does not say where it lies in the picture"
        )
    return as_rgb(Image.fromarray(array[..., 0] if channels == 1 else array))
