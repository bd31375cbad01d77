"""Detectors in a run: objects explained one by one, shown as one map per method, measured one by one."""

import dataclasses

import fiftyone as fo

from ..runs import label_attributes as run_label_attributes
from ..runs import record
from ..runs.level import level_of
from ..runs.locking import change_schema
from ..runs.run import Run
from ..runs.schema import declare_fields
from ..targets import objects as _targets
from .object_labels import attributes

#: heatmap fields of single objects, at most
MOST_MAPS = 5
#: the layer of a map that is the maximum over several
FUSED = "fused"


@dataclasses.dataclass
class ObjectPlan:
    """What a run of a detector does with its objects.

    Attributes:
        targets: the :class:`objects.ObjectTargets`
        maps: heatmap fields of single objects per method
        own_field: where the model's own detections are stored, or None
        prefix: what the names of attributes on labels of others begin with
        per_layer: whether layers were named, so that methods without a class have a map of each
        methods: keys of the run's methods, known after the trial
    """

    targets: object
    maps: int = 0
    own_field: str = None
    prefix: str = ""
    per_layer: bool = False
    methods: list = dataclasses.field(default_factory=list)

    @property
    def tags(self):
        """Names of the targets, the objects together first."""
        return [self.targets.tag, *(f"object{i + 1}" for i in range(self.maps))]

    @property
    def attributes(self):
        """``{name: (type, description)}`` of what is written on labels."""
        return {f"{self.prefix}{n}": entry for n, entry in attributes(self.methods).items()}

    @property
    def path(self):
        """Of the labels that are written on."""
        return f"{self.targets.field or self.own_field}.detections"

    @property
    def label_attributes(self):
        """Paths of what is written on labels that somebody else made."""
        if self.targets.field is None:
            return []
        return [f"{self.path}.{name}" for name in self.attributes]

    def fields(self, planned, classless):
        """Adds the fields of single objects to those of the objects together.

        Args:
            planned: ``{(method, layer, tag): field}``
            classless: keys of methods whose maps are the same for every object

        Returns:
            a dict of the same kind
        """
        fields = {}
        for (method, layer, tag), field in planned.items():
            fields[method, layer, tag] = field
            for own in self.tags[1:] if method not in classless else []:
                fields[method, layer, own] = f"{field}_{own}"
        return fields


def checked_maps(value):
    """Returns how many objects have heatmaps of their own; True stands for the most there can be.

    Raises:
        ValueError: if it is no such number
    """
    if isinstance(value, bool):
        return MOST_MAPS if value else 0
    if not isinstance(value, int) or not 0 <= value <= MOST_MAPS:
        raise ValueError(
            f"object_maps must be True or a number from 0 to {MOST_MAPS}, got {value!r}"
        )
    return value


def plan_objects(settings, samples, model, key):
    """Says what a run of a detector explains and stores.

    Args:
        settings: the :class:`Settings`
        samples: the dataset or view
        model: the :class:`LoadedModel`
        key: the run's key

    Returns:
        an :class:`ObjectPlan`

    Raises:
        ValueError: for arguments that detectors have no use for, or targets that do not exist
    """
    if settings.fuse is not None:
        raise ValueError("fuse: a detector's feature levels are one map already; leave it out")
    targets = _targets.resolve_objects(settings.targets, samples, model, settings.class_map)
    if settings.object_maps > targets.most:
        raise ValueError(
            f"object_maps: {settings.object_maps} objects cannot have maps of their own where at most "
            f"{targets.most} are explained ('most' of targets); make one of them fit the other"
        )
    per_layer = settings.layers is not None
    if targets.field is not None:
        return ObjectPlan(targets, settings.object_maps, prefix=f"{key}_", per_layer=per_layer)
    own = f"{key}_detections" if settings.store_prediction else None
    return ObjectPlan(targets, settings.object_maps, own_field=own, per_layer=per_layer)


def check_attributes(dataset, objects, key):
    """Raises a ValueError if labels have attributes of the names that are to be written.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        objects: the :class:`ObjectPlan`
        key: the run's key, whose earlier attributes are its own
    """
    mine = ()
    if key in record.list_runs(dataset):
        mine = run_label_attributes.written_by(Run.open(dataset, key))
    for path in objects.label_attributes:
        if level_of(dataset).field(path) is not None and path not in mine:
            raise ValueError(
                f"cam_key: labels have an attribute {path!r} already, which is no run's; choose another "
                "cam_key, or delete the attribute"
            )


_OWN_DETECTIONS = {
    "ftype": fo.EmbeddedDocumentField,
    "embedded_doc_type": fo.Detections,
    "description": "The model's own detections that were explained",
}


def declare(dataset, objects):
    """Declares what is written on labels, and the field of the model's own detections."""
    own = objects.own_field
    if own is not None and level_of(dataset).field(own) is None:
        change_schema(dataset, lambda: declare_fields(dataset, {own: _OWN_DETECTIONS}))
    if own is not None or objects.targets.field is not None:
        run_label_attributes.declare(dataset, objects.path, objects.attributes)


# A batch -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class BatchObjects:
    """What was explained in a batch, beside the maps.

    Attributes:
        explanation: the ``cam_core.ObjectExplanation``
        given: per image the objects of the field, or None
        passed: per image which of them, by their places in ``given``, the detector was asked for
        others: per image the boxes (M, 4) of all objects in the input's pixels, or None
        seen: per image which of the objects the model saw anything of
    """

    explanation: object = None
    given: list = None
    passed: list = None
    others: list = None
    seen: list = None


def explain_detections(model, images, plan, items=None):
    """Explains the objects of a batch, each from all feature levels.

    A field gets the maximum over an image's objects, each map divided by its own, so that weak
    objects are seen beside strong ones.

    Args:
        model: the :class:`LoadedModel` of a detector
        images: (N, C, h, w) of the loader, on the model's device
        plan: the :class:`Plan` of the run
        items (None): the :class:`Item` of each image; without them one detection of the model's own
            is explained, to see what a map is like

    Returns:
        a ``cam_core.Explanation`` with the objects together as the first target and, where they were
        asked for, the strongest objects as the next ones; ``valid`` where there is such an object; the
        first score is that of the strongest object, before the sigmoid. ``details`` is ``[BatchObjects]``
    """
    from ...cam_core import Explanation, explain_objects

    objects = plan.objects
    targets = objects.targets
    found = BatchObjects()
    chosen = {"most": targets.most if items else 1, "classes": targets.classes}
    if targets.field is not None and items is not None:
        found, chosen = _given(targets, items, images.shape[-2:])
    found.explanation = result = explain_objects(
        model.adapted,
        images,
        methods=plan.methods,
        layers=plan.layers,
        min_iou=targets.min_iou,
        precision=plan.precision,
        seed=plan.seed,
        **chosen,
    )
    columns = _strongest(result, objects.maps)
    maps, free = _maps(result, columns, plan)
    return Explanation(
        maps=maps,
        scores=_picked(result.scores.cpu(), result.valid.cpu(), columns),
        targets=_classes(result, columns),
        valid=_valid(result, columns),
        logits=None,
        input_size=result.explanation.input_size,
        layers=result.explanation.layers,
        details=[found],
        class_free=free,
    )


def _given(targets, items, size):
    """The objects of a field in a batch, and how ``explain_objects`` is told of them."""
    import torch

    read = _targets.read_objects(targets, [item.id for item in items])
    found = BatchObjects(None, [], [], [], [])
    boxes, labels = [], []
    for item in items:
        given = read[item.id]
        places = _on_input(given, item.window, size)
        seen = (places[:, 2:] > places[:, :2]).all(1)
        known = torch.tensor([g.asked and g.index >= 0 for g in given], dtype=torch.bool)
        passed = (seen & known).nonzero()[:, 0]
        if not targets.missed:  # which of them are missed is known after the forward
            passed = passed[: targets.most]
        boxes.append(places[passed])
        labels.append(torch.tensor([given[i].index for i in passed], dtype=torch.long))
        found.given.append(given)
        found.passed.append(passed.tolist())
        found.others.append(places[seen])
        found.seen.append(seen.tolist())
    options = {"boxes": boxes, "labels": labels, "prefer": targets.prefer, "missed": targets.missed}
    return found, {**options, "most": targets.most}


def _on_input(given, window, size):
    """(K, 4) boxes in the input's pixels."""
    import torch

    from ...cam_core.spatial.boxes import boxes_to_input

    height, width = window.image
    shares = torch.tensor([g.box for g in given], dtype=torch.float32).reshape(-1, 4)
    return boxes_to_input(shares * shares.new_tensor([width, height] * 2), window, size)


def _strongest(result, count):
    """(N, count) columns of the most confident objects of each image, -1 for none."""
    import torch

    sure = result.probabilities.masked_fill(~result.valid.cpu(), -1).nan_to_num(-1)
    order = sure.argsort(dim=1, descending=True, stable=True)
    order = order.masked_fill(sure.gather(1, order) < 0, -1)
    missing = torch.full((len(order), max(0, count - order.shape[1])), -1)
    return torch.cat([order, missing], 1)[:, :count]


def _maps(result, columns, plan):
    """``{(method, layer): (N, K, h, w)}``; and ``{(method, layer): (N, h, w)}`` of methods without a class.

    Of these there is one map of all levels, and one of each level where layers were named.
    """
    found, free = {}, {}
    for method in result.maps:
        own = [key for key in result.explanation.maps if key[0] == method]
        together = own[0][1] if len(own) == 1 else FUSED
        found[method, together] = _with_own(result, method, columns)
        if method in result.class_free:
            free[method, together] = result.class_free[method]
            if plan.objects.per_layer and len(own) > 1:
                found.update({key: result.explanation.maps[key][:, :1] for key in own})
                free.update({key: result.explanation.class_free[key] for key in own})
    return found, free


def _with_own(result, method, columns):
    """(N, 1 + count, h, w) the objects together, then the strongest ones; in units of the method."""
    import torch

    maps = result.maps[method]
    # Each object's map counts by its own maximum; the largest of these is the peak of them together.
    valid = result.valid.to(maps.device)
    peaks = maps.amax((-2, -1)).masked_fill(~valid, -torch.inf).nan_to_num(nan=-torch.inf).amax(1)
    together = result.all_objects(method) * peaks.clamp_min(0)[:, None, None]
    index = columns.clamp_min(0).to(maps.device)[..., None, None].expand(-1, -1, *maps.shape[-2:])
    own = maps.gather(1, index).masked_fill(
        (columns < 0).to(maps.device)[..., None, None], torch.nan
    )
    return torch.cat([together[:, None], own], 1)


def _picked(values, valid, columns):
    import torch

    top = values.masked_fill(~valid, -torch.inf).nan_to_num(-torch.inf).amax(1, keepdim=True)
    own = values.gather(1, columns.clamp_min(0)).masked_fill(columns < 0, torch.nan)
    return torch.cat([top.masked_fill(~valid.any(1, keepdim=True), torch.nan), own], 1)


def _classes(result, columns):
    import torch

    own = result.labels.gather(1, columns.clamp_min(0)).masked_fill(columns < 0, -1)
    return torch.cat([torch.full((len(columns), 1), -1), own], 1)


def _valid(result, columns):
    import torch

    return torch.cat([result.valid.cpu().any(1, keepdim=True), columns >= 0], 1)
