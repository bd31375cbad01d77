"""Which regions of an image are the object: from label fields to masks.

Any label field that says where something is will do: boxes, instance masks, polygons, class masks,
heatmaps, keypoints. Read in batches, one query each, so that memory and time do not depend on the
dataset's size.
"""

import dataclasses
import difflib
import re

import numpy as np

from .images import open_image
from .object_fields import (
    ROLES,
    check_objects,
    find_object_fields,
    kind_of,
)
from .object_masks import Unreadable, is_void, parts_of, plain
from .samples import read_values

STATUSES = ("ok", "no_object", "object_absent", "unreadable")


@dataclasses.dataclass
class ObjectMasks:
    """The regions of one image; masks are (H, W) float32 arrays, the covered share of each pixel.

    Attributes:
        object: the objects of the classes that count
        other: other objects, and what was named context
        ignore: crowds, void and what was named so
        context: what was named context, alone
        boxes: (k, 4) left, top, right, bottom of the objects, as shares of the image
        instances: (k, H, W) masks of the objects, one each; (0, H, W) for class masks, which do not
            tell them apart; None if not asked for
        status: ``"ok"``; ``"no_object"`` (nothing is annotated); ``"object_absent"`` (other classes
            are); ``"unreadable"`` (the annotation could not be used)
        source: where the object is from: ``"ground_truth_box"``, ``"ground_truth_mask"``,
            ``"predicted_box"``, ...; None without an object
        reason: why labels were left out or could not be read, one line, or None
    """

    object: np.ndarray
    other: np.ndarray
    ignore: np.ndarray
    context: np.ndarray
    boxes: np.ndarray
    instances: np.ndarray | None
    status: str
    source: str | None
    reason: str | None


class ObjectReader:
    """Reads objects' masks, in batches.

    Class names are compared without regard to case, underscores and hyphens, and ``"tench, Tinca
    tinca"`` is either of its names. A label without a name, a heatmap and a mask of one value without
    mask targets are objects of whatever class counts; several values without mask targets can be told
    apart by number only (``classes=["15"]``). Pixels of a mask that are 0 without a name, or named
    background, are background; void, crowds and values that mask targets leave out count nowhere.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        objects: a label field, or a mapping field -> role: ``"object"``; ``"other"`` and
            ``"context"`` (no background, but not the object), whatever their class; ``"ignore"``
        classes ("explained"): which labels are the object; the others are other objects.
            ``"explained"``: those of the class that :meth:`read` is told for each sample; ``"all"``;
            or a list of names
        size (224): the longest side of the masks, which then have the image's aspect; or (height,
            width) for all, which covers the whole image whatever its aspect and can be stacked
        aliases (None): explained class -> label name or names, where the model's words are not the
            dataset's
        threshold (0.5): of a heatmap field, as a share of the top of its range
        with_instances (False): whether each object's own mask is wanted, too
        mask_targets (None): ``{field: {pixel value: class name}}`` of fields for which the dataset has
            none

    Raises:
        ValueError: if an argument is not understood, or a class is in none of the fields
    """

    def __init__(
        self,
        samples,
        objects,
        classes="explained",
        size=224,
        aliases=None,
        threshold=0.5,
        with_instances=False,
        mask_targets=None,
    ):
        self.roles = check_objects(samples, objects)
        self.size = _checked_size(size)
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {threshold!r}")
        self._samples = samples
        self._threshold = threshold
        self._with_instances = with_instances
        self._aliases = {plain(k): _names(v) for k, v in (aliases or {}).items()}
        known = {f.name: f for f in find_object_fields(samples)}
        self._origin = {
            name: "predicted" if known[name].predicted else "ground_truth" for name in self.roles
        }
        self._targets = {
            name: samples.get_mask_targets(name) or (mask_targets or {}).get(name)
            for name in self.roles
        }
        if isinstance(classes, str) and classes not in ("explained", "all"):
            raise ValueError(
                f"classes: {classes!r} is unknown; choose 'explained', 'all' or a list of names"
            )
        self._classes = classes if isinstance(classes, str) else self._checked_classes(classes)
        # of a mask without mask targets, numbers are names if they are asked for
        self._numbered = classes != "explained" and (
            classes == "all" or any(n.isdigit() for n in self._classes)
        )

    def _checked_classes(self, classes):
        wanted = list(classes)
        if not wanted:
            raise ValueError("classes is empty; leave it out, or name at least one")
        known = self.labels()
        have = {plain(k) for k in known}
        for name in wanted if known else ():
            if not (_names(name) & have):
                near = difflib.get_close_matches(plain(name), sorted(have), n=3)
                some = ", ".join(near or sorted(known)[:10])
                raise ValueError(f"classes: no object is a {name!r}; for example: {some}")
        return set().union(*(_names(n) for n in wanted))

    def labels(self):
        """Returns the class names that objects have, sorted; empty where names are not known."""
        names = set()
        for field, role in self.roles.items():
            kind = kind_of(self._samples, field)
            if role != "object" or kind == "Heatmap":
                continue
            if kind == "Segmentation":
                names |= {str(v) for v in (self._targets[field] or {}).values()}
                continue
            path = f"{field}.{kind.lower()}.label" if kind.endswith("s") else f"{field}.label"
            names |= set(self._samples.distinct(path))
        return sorted(n for n in names if not is_void(n))

    def read(self, ids, explained=None, shapes=None):
        """Reads the objects of some samples with one query.

        Args:
            ids: sample ids
            explained (None): for ``classes="explained"``: id -> name of the class; None for a sample
                means that all classes count
            shapes (None): id -> (height, width) of the upright image, where it is known already and
                the masks' aspect depends on it; else it is the metadata's or read from the file

        Returns:
            a dict id -> :class:`ObjectMasks`, in the order of ``ids``

        Raises:
            ValueError: if the explained class of a sample is not given
        """
        ids = list(ids)
        if self._classes == "explained":
            missing = [i for i in ids if explained is None or i not in explained]
            if missing:
                raise ValueError(
                    f"explained: the class of sample {missing[0]} is not given; "
                    "classes='all' needs none"
                )
        rows = self._rows(ids)
        return {
            i: self._one(rows.get(i), (explained or {}).get(i), (shapes or {}).get(i)) for i in ids
        }

    def _rows(self, ids):
        paths = ["id", "filepath", "metadata.width", "metadata.height", *self.roles]
        if self._samples.get_field("metadata.width") is None:
            paths = ["id", "filepath", *self.roles]
        columns = read_values(self._samples.select(ids), paths)
        return {row[0]: dict(zip(paths, row, strict=True)) for row in zip(*columns, strict=True)}

    def _one(self, row, explained, shape):
        if row is None:
            return self._nothing((1, 1), "unreadable", "the sample is not among the samples")
        try:
            size = self._size_of(row, shape)
        except (OSError, ValueError) as error:
            reason = f"{row['filepath']}: {type(error).__name__}: {error}"
            return self._nothing((1, 1), "unreadable", reason[:300])
        wanted = self._wanted(explained)
        parts, reasons, origins = [], [], []
        for field, role in self.roles.items():
            try:
                found, left_out = parts_of(
                    row[field],
                    _role_of(role, wanted),
                    self._targets[field],
                    self._numbered or role != "object",
                    self._threshold,
                )
            except Unreadable as error:
                # without this region, others would be taken for background
                return self._nothing(size, "unreadable", f"{field}: {error}")
            reasons += [f"{field}: {r}" for r in left_out]
            parts += found
            origins += [self._origin[field]] * len(found)
        return self._drawn(parts, origins, size, "; ".join(reasons)[:300] or None)

    def _wanted(self, explained):
        """The plain names that are the object; None for all."""
        if self._classes == "all" or (self._classes == "explained" and explained is None):
            return None
        if self._classes != "explained":
            return self._classes
        names = _names(explained) | _names(_without_index(explained))
        return names.union(*(self._aliases.get(n, ()) for n in names))

    def _drawn(self, parts, origins, size, reason):
        masks = {role: np.zeros(size, np.float32) for role in ROLES}
        boxes, instances = [], []
        for part in parts:
            drawn = part.draw(size)
            np.maximum(masks[part.role], drawn, out=masks[part.role])
            if part.role == "object":
                boxes.append(part.box)
                if part.instance and self._with_instances:
                    instances.append(drawn)
        np.maximum(masks["other"], masks["context"], out=masks["other"])
        if masks["object"].any():
            status = "ok"
        elif masks["other"].any():
            status = "object_absent"
        else:
            status = "unreadable" if reason else "no_object"
        sources = [
            f"{origin}_{part.shape}"
            for part, origin in zip(parts, origins, strict=True)
            if part.role == "object"
        ]
        return ObjectMasks(
            **masks,
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            instances=self._stacked(instances, size),
            status=status,
            # boxes among masks make it a matter of boxes
            source=min(sources, key=lambda s: not s.endswith("_box")) if sources else None,
            reason=reason,
        )

    def _nothing(self, size, status, reason):
        size = self.size if isinstance(self.size, tuple) else size
        return dataclasses.replace(self._drawn([], [], size, None), status=status, reason=reason)

    def _stacked(self, instances, size):
        if not self._with_instances:
            return None
        return np.stack(instances) if instances else np.zeros((0, *size), np.float32)

    def _size_of(self, row, shape):
        if isinstance(self.size, tuple):
            return self.size
        width, height = row.get("metadata.width"), row.get("metadata.height")
        if shape is not None:
            height, width = shape
        elif not (width and height):
            width, height = _upright_size(row["filepath"])
        scale = self.size / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))


def _names(name):
    """The plain names that a class goes by; of several given, all of theirs."""
    if isinstance(name, (list, tuple, set)):
        return set().union(*(_names(n) for n in name)) if name else set()
    return {plain(name), *(plain(part) for part in str(name).split(","))} - {""}


def _without_index(name):
    """A class without the index that tells it from another of its name: crane (134)."""
    if isinstance(name, (list, tuple, set)):
        return [_without_index(n) for n in name]
    return re.sub(r"\s*\(\d+\)$", "", str(name))


def _role_of(role, wanted):
    """Gives labels their roles: a field's own, or by their class in a field of objects."""

    def role_of(name):
        if role != "object" or wanted is None or name is None:
            return role
        return "object" if _names(name) & wanted else "other"

    return role_of


def _checked_size(size):
    pair = isinstance(size, (tuple, list)) and len(size) == 2
    sides = list(size) if pair else [size]
    if not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sides):
        raise ValueError(
            f"size must be the longest side in pixels or (height, width), got {size!r}"
        )
    return tuple(size) if pair else size


def _upright_size(path):
    with open_image(path) as image:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return image.size[::-1] if turned else image.size


def stack_objects(masks):
    """Stacks objects of one size as the tensors that ``cam_core.metrics.localization.measure`` takes.

    Args:
        masks: a list of N :class:`ObjectMasks` of equal size

    Returns:
        a dict of (N, H, W) tensors ``objects``, ``other`` and ``ignore``, and, where they were read,
        ``instances``, a list of N tensors (k, H, W)

    Raises:
        ValueError: if sizes differ
    """
    import torch

    sizes = {m.object.shape for m in masks}
    if len(sizes) > 1:
        raise ValueError(f"masks have {len(sizes)} sizes; read them with size=(height, width)")
    stacked = {
        name: torch.from_numpy(np.stack([getattr(m, attribute) for m in masks]))
        for name, attribute in (("objects", "object"), ("other", "other"), ("ignore", "ignore"))
    }
    if masks and all(m.instances is not None for m in masks):
        stacked["instances"] = [torch.from_numpy(m.instances) for m in masks]
    return stacked
