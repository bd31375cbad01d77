"""What a run looks at: images, slices of groups, frames of videos; each as rows, and where their labels are."""

from ..data.frame_rows import frame_rows, frames_with_labels
from ..data.rows import Row
from ..data.samples import check_collection, check_samples
from ..runs.level import level_of, made_id
from ..targets.spec import ranked_tags
from .patches import check_field

#: arguments that are for videos, and for groups
OF_VIDEOS, OF_GROUPS = ("every", "max_fps"), ("group_slices",)
_SAMPLED = "samples.to_frames(sample_frames=True)"


class Source:
    """The samples of a call of ``compute_cams``, one row for each picture.

    Args:
        samples: what the user gave
        settings: the :class:`Settings`

    Attributes:
        samples: the same, of groups the chosen slices as one flat view
        dataset: the :class:`fiftyone.core.dataset.Dataset` that heatmaps are written to
        level: the :class:`~operators.runs.level.Level` of the documents that have them
        rows: a list of :class:`~operators.data.rows.Row`
        ids: of the documents that are written to, in order
        kind: ``"images"``, ``"patches"`` of images, ``"videos"``, or ``"frames"`` that were sampled to files
        unseen: of patches ``{sample id: ids of the objects whose boxes have no area}``

    Raises:
        ValueError: if these cannot be explained, or an argument is for others
    """

    def __init__(self, samples, settings):
        self.samples = _flat(samples, settings.group_slices)
        check_samples(self.samples, videos=True)
        self.dataset = self.samples._root_dataset
        self.level = level_of(self.dataset)
        self._patches_field, self.unseen = settings.patches_field, {}
        if self.level.noun == "samples":
            self._images(settings)
        else:
            self._frames(settings)
        if self._patches_field is None:
            self.ids = [row.id for row in self.rows]

    def _images(self, settings):
        given = [name for name in OF_VIDEOS if getattr(settings, name) is not None]
        if given:
            raise ValueError(f"{given[0]}: is for videos, and these are images; leave it out")
        ids, paths = self.samples.values(["id", "filepath"])
        if self._patches_field is None:
            pairs = zip(ids, paths, strict=True)
            self.rows, self.kind = [Row(*pair) for pair in pairs], "images"
            return
        if self.dataset.media_type == "group":
            raise ValueError(
                "patches_field: crops are of objects of images, and these are slices of groups; give a dataset "
                "of the slice, samples.select_group_slices('name').clone('name')"
            )
        check_field(self.samples, self._patches_field)
        if settings.backend == "ray":
            raise ValueError(
                "backend: 'ray' computes whole images, not crops of objects; leave it out"
            )
        self.ids, self.kind = ids, "patches"
        self.rows = self._rows_of_objects(self.samples)
        if not self.rows:
            raise ValueError(
                f"patches_field: {self._patches_field!r} has no objects in these samples"
            )

    def objects_of(self, ids):
        """The rows of the objects of samples that are not in the view.

        Args:
            ids: of the samples
        """
        return self._rows_of_objects(self.dataset.select(ids)) if ids else []

    def _rows_of_objects(self, samples):
        found, path = [], f"{self._patches_field}.detections"
        values = samples.values(["id", "filepath", f"{path}.id", f"{path}.bounding_box"])
        for sample_id, file, ids, boxes in zip(*values, strict=True):
            for label_id, box in zip(ids or (), boxes or (), strict=True):
                if _has_area(box):
                    found.append(Row(label_id, file, sample=sample_id, crop=tuple(box)))
                else:
                    self.unseen.setdefault(sample_id, []).append(label_id)
        return found

    def _frames(self, settings):
        given = [name for name in OF_VIDEOS if getattr(settings, name) is not None]
        if self._patches_field is not None:
            raise ValueError(
                "patches_field: crops are of objects of images, and these are videos; leave it out, or sample the "
                f"frames to a dataset of images, {_SAMPLED}.clone('name')"
            )
        if given and self.samples._dataset._is_frames:
            raise ValueError(
                f"{given[0]}: this view has chosen its frames already; leave it out, or give it to to_frames()"
            )
        if settings.backend == "ray":
            raise ValueError(
                "backend: 'ray' computes images, not frames of videos; leave it out, or sample the frames to "
                f"a dataset of images, {_SAMPLED}.clone('name')"
            )
        self.rows = frame_rows(self.samples, settings.every, settings.max_fps)
        if not self.rows:
            raise ValueError("samples: there are no frames to explain, the view has chosen none")
        self.kind = "frames" if self.rows[0].frame is None else "videos"

    def check_transforms(self, transforms):
        """Raises a ValueError if transforms read files themselves, which frames of videos are not."""
        if self.kind == "patches" and getattr(transforms, "takes_path", False):
            raise ValueError(
                "preprocess: it maps a file's path, and crops of objects are no files; give transforms=, which "
                "map a PIL image"
            )
        if self.kind == "videos" and getattr(transforms, "takes_path", False):
            raise ValueError(
                "preprocess: it maps a file's path, and frames of a video are no files; give transforms=, which "
                f"map a PIL image, or sample the frames, {_SAMPLED}"
            )

    def labelled(self, targets):
        """The samples whose fields targets may name, with the ids of the rows.

        Args:
            targets: the argument of ``compute_cams``
        """
        if self.kind == "images" or callable(targets) or ranked_tags(targets):
            return self.samples
        if self.kind == "patches":
            return self.samples.to_patches(self._patches_field)
        return frames_with_labels(self.samples)

    def found_frames(self):
        """Frames that the dataset has and once had not: ``{the id that they were planned with: id}``.

        A run plans frames that are not there; somebody else may have made them before it came to them.
        """
        return {
            planned: row.id
            for row in self.rows
            if row.number is not None
            and (planned := str(made_id(row.sample, row.number))) != row.id
        }

    def made(self):
        """``{id: (id of the video, number)}`` of the frames that are made by writing on them."""
        return {
            row.id: (row.sample, row.number)
            for row in self.rows
            if row.number is not None and row.id == str(made_id(row.sample, row.number))
        }


def _has_area(box):
    """Whether a box has an area on the image."""
    left, top, width, height = box or (0, 0, 0, 0)
    return min(width, height) > 0 and max(left, top) < 1 and min(left + width, top + height) > 0


def _flat(samples, slices):
    """The slices of groups as one view; other samples as they are."""
    check_collection(samples)
    if slices is None:
        return samples
    if samples.media_type != "group" or getattr(samples, "_is_dynamic_groups", False):
        raise ValueError(
            "group_slices: is for grouped datasets, and these samples are no groups; leave it out"
        )
    kinds = samples.group_media_types
    images = [name for name, kind in kinds.items() if kind == "image"]
    names = images if slices is True else [slices] if isinstance(slices, str) else list(slices)
    unknown = [name for name in names if name not in kinds]
    others = [name for name in names if name not in images]
    if unknown or others or not names:
        wrong = f"there is no slice {unknown[0]!r}" if unknown else "no slice holds images"
        if others and not unknown:
            wrong = (
                f"the slice {others[0]!r} holds {_KINDS.get(kinds[others[0]], kinds[others[0]])}"
            )
        choose = f"; choose from {', '.join(images)}, or True for all of these" if images else ""
        raise ValueError(f"group_slices: {wrong}{choose}")
    return samples.select_group_slices(names)


_KINDS = {"video": "videos", "3d": "3D scenes", "point-cloud": "point clouds"}
