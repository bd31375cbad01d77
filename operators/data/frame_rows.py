"""Which frames of which videos a run looks at."""

import fiftyone.core.stages as fos
import fiftyone.utils.video as fouv
from bson import ObjectId

from ..runs.level import made_id
from .rows import Row
from .videos import Video

_VIDEOS_AT_ONCE = 1_000


def is_frames_view(samples):
    """Whether a view's samples are frames of videos, as ``to_frames()`` makes them."""
    return bool(samples._dataset._is_frames)


def frame_rows(samples, every=None, max_fps=None):
    """The frames of a dataset or view of videos, or of a view of frames.

    Of videos all frames that the file has, but only those of the view where ``match_frames()`` chose some.
    A video that cannot be opened has one row, so that the run can say so.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        every (None): one frame of so many of a video, beginning with the first
        max_fps (None): only so many frames of a second, as ``to_frames(max_fps=)`` chooses them

    Returns:
        a list of :class:`~operators.data.rows.Row`, video by video, by rising numbers
    """
    if is_frames_view(samples):
        return _rows_of_view(samples)
    chosen = _chosen_numbers(samples)
    ids, paths = samples.values(["id", "filepath"])
    counts, rates = _stated(samples)
    rows = []
    for start in range(0, len(ids), _VIDEOS_AT_ONCE):
        part = slice(start, start + _VIDEOS_AT_ONCE)
        known = _known_frames(samples._dataset, ids[part])
        for sample_id, path, count, rate in zip(
            ids[part], paths[part], counts[part], rates[part], strict=True
        ):
            numbers = chosen[sample_id] if chosen is not None else None
            if numbers is None:
                numbers = _numbers(path, count, rate, every, max_fps)
            rows += [_row(known, sample_id, number, path, number) for number in numbers]
    return rows


def _row(known, sample_id, number, path, decoded):
    frame_id = known.get((sample_id, number)) or str(made_id(sample_id, number))
    return Row(frame_id, path, decoded, sample_id, number)


def _rows_of_view(view):
    """Of frames that were sampled to files these, of others the frame in the video."""
    samples, numbers, files = view.values(["sample_id", "frame_number", "filepath"])
    source = view._root_dataset
    videos = list(dict.fromkeys(samples))
    paths, known = {}, {}
    for start in range(0, len(videos), _VIDEOS_AT_ONCE):
        part = videos[start : start + _VIDEOS_AT_ONCE]
        paths.update(zip(*source.select(part).values(["id", "filepath"]), strict=True))
        known.update(_known_frames(source, part))
    return [
        _row(known, sample_id, number, file, number if file == paths.get(sample_id) else None)
        for sample_id, number, file in zip(samples, numbers, files, strict=True)
    ]


def _chosen_numbers(samples):
    """``{id of a video: numbers}`` where the view has some of the frames only, else None."""
    stages = getattr(samples, "_stages", ())
    if not any(isinstance(stage, fos.MatchFrames) for stage in stages):
        return None
    return dict(zip(*samples.values(["id", "frames.frame_number"]), strict=True))


def _stated(samples):
    """What the metadata of each video says: (numbers of frames, frame rates), None where it says nothing."""
    paths = ("metadata.total_frame_count", "metadata.frame_rate")
    if any(samples.get_field(path) is None for path in paths):
        return [[None] * len(samples.values("id"))] * 2
    return samples.values(list(paths))


def _known_frames(dataset, ids):
    """``{(id of the video, number): id of the frame}`` of the frames that a dataset has."""
    query = {"_sample_id": {"$in": [ObjectId(i) for i in ids]}}
    rows = dataset._frame_collection.find(query, {"_sample_id": True, "frame_number": True})
    return {(str(row["_sample_id"]), row["frame_number"]): str(row["_id"]) for row in rows}


def _numbers(path, count, rate, every, max_fps):
    """The numbers of a video's frames; 1 of one that cannot be opened."""
    if not count or (max_fps is not None and not rate):
        try:
            video = Video(path)
        except OSError:
            return [1]
        count = count or video.count or video.count_frames() or 1
        rate = rate or video.frame_rate
        video.close()
    if every is not None:
        return list(range(1, count + 1, every))
    chosen = None
    if max_fps is not None and rate:
        chosen = fouv.sample_frames_uniform(rate, total_frame_count=count, max_fps=max_fps)
    return list(range(1, count + 1)) if chosen is None else chosen


def frames_with_labels(samples):
    """The frames that a dataset has of videos, as samples whose labels can be asked for.

    Args:
        samples: a dataset or view of videos, or a view of frames

    Returns:
        a view whose ids are those of the frames
    """
    if is_frames_view(samples):
        return samples
    return samples.to_frames(sample_frames="dynamic", sparse=True)
