"""Which samples an operator takes, and what is refused of them."""

import fiftyone as fo

from ..runs.retry import retried


def check_collection(samples):
    """Raises a ValueError unless samples are a dataset or view."""
    import fiftyone.core.collections as foc

    if not isinstance(samples, foc.SampleCollection):
        raise ValueError(
            f"samples must be a FiftyOne dataset or view, got {type(samples).__name__}"
        )


def check_samples(samples, videos=False):
    """Raises a ValueError unless samples can be explained.

    Args:
        samples: what the user gave
        videos (False): whether videos are taken too, and views of their frames
    """
    check_collection(samples)
    dataset = samples._dataset
    if dataset._is_generated and not (videos and dataset._is_frames):
        kind = next(kind for kind in _GENERATED if getattr(dataset, f"_is_{kind}"))
        raise ValueError(f"samples: {_GENERATED[kind]}")
    if samples.media_type == "video" and samples._root_dataset.media_type == "group":
        raise ValueError(
            "samples: this slice of groups holds videos, whose frames cannot be written in a grouped dataset; "
            "make a dataset of it, samples.select_group_slices('name').clone('other'), and explain that"
        )
    if getattr(samples, "_is_dynamic_groups", False):
        raise ValueError(
            "samples: this view has dynamic groups, as group_by() makes them, which have no slices; give the "
            "view that it was made from, or samples.flatten()"
        )
    if samples.media_type == "group":
        raise ValueError(f"samples: {_OTHER_MEDIA['group']}")
    # Not len(samples): MongoDB's count is wrong after it was killed.
    if not samples.limit(1).values("id"):
        raise ValueError("samples is empty: the view matches no sample")
    if samples.media_type != "image" and not (videos and samples.media_type == "video"):
        kind = samples.media_type
        says = _OTHER_MEDIA.get(kind, "heatmaps are for images; use a dataset of images")
        raise ValueError(f"samples: {says} (the media type is {kind!r})")


def check_images(samples):
    """Raises a ValueError where samples are videos, or frames of videos: only ``compute_cams`` takes these."""
    dataset = samples._dataset
    if samples.media_type == "video":
        raise ValueError(f"samples: {_OTHER_MEDIA['video']}")
    if dataset._is_frames:
        raise ValueError(f"samples: {_GENERATED['frames']}")


def check_not_nested(samples, name, argument):
    """Raises a ValueError where a name is that of a field inside another one.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        name: what was given
        argument: what messages call it
    """
    if not isinstance(name, str) or "." not in name or samples.get_field(name) is None:
        return
    parts = name.split(".")
    paths = [".".join(parts[: count + 1]) for count in range(len(parts))]
    label = next((path for path in paths if _is_label(samples, path)), name)
    outer, _, inner = label.rpartition(".")
    if not outer:
        raise ValueError(
            f"{argument}: {name!r} lies inside the label field {label!r}; give {label!r}"
        )
    raise ValueError(
        f"{argument}: {label!r} lies inside the field {outer!r}, and only fields at the top level of a sample "
        f"can be named here; copy it there: dataset.clone_sample_field({label!r}, {inner!r})"
    )


def _is_label(samples, path):
    kind = getattr(samples.get_field(path), "document_type", None)
    return isinstance(kind, type) and issubclass(kind, fo.Label)


_GENERATED = {
    "patches": (
        "a patches view has no lasting samples of its own, heatmaps stored there would be lost; use the "
        "dataset or a view of whole images, in compute_cams with patches_field='ground_truth' to explain each "
        "object's crop"
    ),
    "frames": (
        "this takes images, and of a view of frames only compute_cams; make a dataset of the frames, "
        "samples.to_frames(sample_frames=True).clone('name'), and compute the run there"
    ),
    "clips": (
        "a clips view has no lasting samples of its own, heatmaps stored there would be lost; use the "
        "dataset of videos, or the frames that you want, samples.match_frames(...)"
    ),
}
_OTHER_MEDIA = {
    "group": (
        "the dataset is grouped; use one slice, samples.select_group_slices('name'), or in compute_cams "
        "several, group_slices=['name', 'other']"
    ),
    "video": (
        "this takes images, and of videos only compute_cams; make a dataset of their frames, "
        "samples.to_frames(sample_frames=True).clone('name'), and compute the run there"
    ),
    "3d": "heatmaps are for images, these are 3D scenes; use a dataset of images",
    "point-cloud": "heatmaps are for images, these are point clouds; use a dataset of images",
}


@retried
def read_values(samples, paths):
    """Reads values of samples, again where the database goes away meanwhile.

    Args:
        samples: a dataset or view
        paths: one path, or a list of them

    Returns:
        what :meth:`fiftyone.core.collections.SampleCollection.values` returns
    """
    return samples.values(paths)
