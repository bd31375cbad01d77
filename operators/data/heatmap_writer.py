"""Storage of heatmaps: quantise, encode, declare the schema, write in bulk.

The App reads a map by its dtype and ``range``: uint8 with ``[0, 255]``. It draws nearest-neighbour,
so maps are stored large enough to look smooth, and 0 is transparent.
"""

import concurrent.futures
import contextlib
import datetime
import errno
import os
import re
import time
import uuid

import cv2
import fiftyone as fo
import fiftyone.core.odm as fod
import numpy as np
from bson import ObjectId
from pymongo import UpdateOne
from pymongo.errors import DocumentTooLarge, OperationFailure
from pymongo.write_concern import WriteConcern

from ..runs.app_style import activate_fields, colour_fields, forget_fields  # noqa: F401 - also from here
from ..runs.label_attributes import LabelAttributes
from ..runs.level import level_of
from ..runs.look import hidden_of, range_of
from ..runs.retry import retry_on_disconnect
from ..runs.schema import declare_fields

# How often a file is tried while its folder is being removed.
_ATTEMPTS = 20
LONGEST_SIDE = 192
# On real maps the median is 3.6 kB for 7 x 7 cells and 4.6 kB for 14 x 14 (benchmarks/storage.py),
# with 256 levels more than twice that. From one level to the next the App's colour changes by 2 of
# 255: not seen on photos and hardly on plain grey, where 32 levels show terraces.
LEVELS = 64

# A full disk, or a full quota where the system has them.
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))

# Beside the values of a document: which labels in lists are meant.
_FILTERS = "$filters"

ATTRIBUTES = {
    "method": fo.StringField,
    "layer": fo.StringField,
    "target": fo.StringField,
    "target_index": fo.IntField,
    "score": fo.FloatField,
    "peak": fo.FloatField,
    "status": fo.StringField,
    "cam_key": fo.StringField,
}


def heatmap_size(width, height, longest=LONGEST_SIDE):
    """Returns (h, w) of a stored heatmap: the image's aspect, at most ``longest`` pixels long.

    A very long image keeps at least two pixels on its short side.
    """
    scale = longest / max(width, height)
    return max(2, round(height * scale)), max(2, round(width * scale))


def quantise(heat, levels=LEVELS):
    """Rounds heat to few grey levels, evenly spread over 0 to 255.

    Args:
        heat: (h, w) array in [0, 1]; what lies outside is clamped
        levels (64): how many levels, 2 to 256

    Returns:
        (h, w) uint8 array

    Raises:
        ValueError: if the heat is not finite: such a map is no picture
    """
    heat = np.asarray(heat, np.float32)
    if not np.isfinite(heat).all():
        raise ValueError("heat is not finite; store no map and the status 'nan' instead")
    steps = np.rint(np.clip(heat, 0, 1) * (levels - 1))
    return np.rint(steps * (255 / (levels - 1))).astype(np.uint8)


def make_label(
    heat, *, method, layer, target, target_index, score, peak, status, cam_key, component_score=None
):
    """Builds the label of one heatmap.

    Args:
        heat: (h, w) array in [0, 1], or None
        method: the method's key
        layer: the layer's name
        target: the name of what is explained
        target_index: its class index, or None
        score: the explained score
        peak: the raw map's maximum, which normalising loses
        status: ``"ok"``; with any other the label has no map. Heat that is zero, flat or not finite
            has none either, and the label's status says so
        cam_key: the run's key
        component_score (None): a number of this map of several, such as the score of a concept

    Returns:
        a :class:`fiftyone.core.labels.Heatmap`
    """
    values = {
        "method": method,
        "layer": layer,
        "target": target,
        "target_index": target_index,
        "score": _finite(score),
        "peak": _finite(peak),
        "status": status,
        "cam_key": cam_key,
    }
    if component_score is not None:
        values["component_score"] = _finite(component_score)
    if heat is None or status != "ok":
        return fo.Heatmap(**values)
    if not np.isfinite(heat).all():
        return fo.Heatmap(**{**values, "status": "nan"})
    picture = quantise(heat)
    if picture.min() == picture.max():
        # the raw map had a place, which is not on the image or too weak a difference to store
        return fo.Heatmap(**{**values, "status": "flat" if picture.any() else "zero"})
    return fo.Heatmap(map=picture, range=[0, 255], **values)


def _finite(value):
    """MongoDB keeps a NaN, and filters on it behave oddly: it is stored as missing."""
    return None if value is None or not np.isfinite(value) else float(value)


def declare_schema(
    dataset, heatmap_fields, prediction_field=None, scored=(), prediction_type=fo.Classification
):
    """Declares every field and attribute with its type, so that the sidebar can filter them.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        heatmap_fields: names of the heatmap fields
        prediction_field (None): name of a classification field
        scored (()): the heatmap fields whose maps have a score of their own
        prediction_type (fo.Classification): of the labels in the prediction field
    """
    fields = {}
    for field in heatmap_fields:
        extra = {"component_score": fo.FloatField} if field in scored else {}
        fields[field] = _declared(dataset, field, fo.Heatmap, {**ATTRIBUTES, **extra})
    if prediction_field is not None:
        fields[prediction_field] = _declared(dataset, prediction_field, prediction_type, {})
    declare_fields(dataset, fields)


def _declared(dataset, field, label_type, attributes):
    """How a field is declared, of which none of another type may exist."""
    existing = level_of(dataset).field(field)
    if existing is not None and getattr(existing, "document_type", None) is not label_type:
        raise ValueError(
            f"field {field!r} exists and is no {label_type.__name__}; choose another cam_key, or "
            "delete the field"
        )
    return {
        "ftype": fo.EmbeddedDocumentField,
        "embedded_doc_type": label_type,
        "fields": [_named(kind(), name) for name, kind in attributes.items()],
    }


def _named(field, name):
    field.name = field.db_field = name
    return field


class Writer:
    """Writes results in the background: encoding in threads, one bulk write per batch.

    All fields of a sample are written in one update of its document: it has all of them or none. Files
    are written under another name, renamed, and only then pointed to. A database that is away is
    waited for.

    Args:
        dataset: the dataset that the samples belong to
        output_dir (None): a folder for PNG files; None stores maps in the database
        threads (None): encoding threads; by default one per CPU core, at most 8
        made (None): ``{id: (id of the video, number)}`` of the frames that are made where there are none

    Attributes:
        samples_written: samples stored so far
        bytes_written: bytes of their heatmaps
        vanished: ids of samples that were deleted before their results came
        refused: ``{id: reason}`` of samples whose document would have become too large
        labelled: ``{path of an attribute: ids of samples on whose labels it was written}``
        stamp: what the names of this writer's files end with
        error: what went wrong at the end, or None
    """

    # Batches waiting to be written: enough to keep the device busy, few enough to bound memory.
    _QUEUE = 4

    def __init__(self, dataset, output_dir=None, threads=None, made=None):
        self.samples_written = 0
        self.bytes_written = 0
        self.vanished = []
        self.refused = {}
        self.labelled = {}
        self.error = None
        self._dataset, self._level = dataset, level_of(dataset)
        self._made = made or {}
        self._output_dir = output_dir
        # A new name for every writing: browsers keep showing the old picture of a rewritten file.
        self.stamp = uuid.uuid4().hex[:8]
        self._pending = []
        threads = threads or min(8, os.cpu_count() or 1)
        self._encoders = concurrent.futures.ThreadPoolExecutor(threads, "cam51-encode")
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "cam51-write")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            self.close()
        except Exception as failed:
            self.error = f"{type(failed).__name__}: {failed}"
            if kind is None:
                raise
            # another error is already on its way; this one goes into the run's results

    def put(self, results):
        """Hands over ``{sample id: {field: value}}``; waits when too much is in flight.

        Raises:
            Exception: what went wrong while writing an earlier batch
        """
        if not results:
            return
        encoded = [
            self._encoders.submit(self._encode, sid, values) for sid, values in results.items()
        ]
        self._pending.append(self._writer.submit(self._write, encoded))
        while len(self._pending) > self._QUEUE or (self._pending and self._pending[0].done()):
            self._settle(self._pending.pop(0))

    def close(self):
        """Waits until everything is stored.

        Raises:
            Exception: what went wrong first; the batches after it are written all the same
        """
        first = None
        while self._pending:
            try:
                self._settle(self._pending.pop(0))
            except Exception as error:  # raised below, once the others are through
                first = first or error
        self._writer.shutdown(wait=True)
        self._encoders.shutdown(wait=True)
        if first is not None:
            raise first

    def _settle(self, future):
        """Waits for a batch and refreshes the samples of it that somebody holds.

        Not in the writing thread: these are the caller's objects.
        """
        ids = future.result()
        if ids:
            retry_on_disconnect(self._level.reload, ids)

    def _encode(self, sample_id, values):
        document, size = {}, 0
        for field, value in values.items():
            if isinstance(value, LabelAttributes):
                own, document[_FILTERS] = value.operations()
                document.update(own)
                for name in {name for row in value.rows.values() for name in row}:
                    self.labelled.setdefault(f"{value.path}.{name}", set()).add(sample_id)
                continue
            if isinstance(value, fo.Heatmap):
                size += self._store_map(sample_id, field, value)
            document[field] = _to_mongo(value)
            if isinstance(value, fo.Heatmap) and value.map is not None:
                size += len(document[field]["map"])
        return sample_id, document, size

    def _store_map(self, sample_id, field, label):
        """Moves a map into a file, where files were asked for; returns its bytes."""
        if self._output_dir is None or label.map is None:
            return 0
        folder = os.path.join(self._output_dir, field)
        if os.path.islink(folder):
            raise OSError(
                f"heatmaps cannot be written to {folder!r}: it is a link, and links are not followed out of "
                "the run's folder; remove it, then call again with resume=True"
            )
        path = os.path.join(folder, f"{ObjectId(sample_id)}-{self.stamp}.png")
        done, png = cv2.imencode(".png", label.map)
        if not done:
            raise OSError(f"the heatmap of sample {sample_id} could not be encoded as PNG")
        part = f"{path}.part"
        try:
            _write_file(png.tobytes(), part, path)
        except OSError as error:
            with contextlib.suppress(OSError):  # it may be what could not be made
                os.remove(part)
            remedy = "make room" if error.errno in _FULL else "see to the folder"
            raise OSError(
                error.errno,
                f"heatmaps cannot be written to {folder!r} ({error.strerror}); what was stored stays: "
                f"{remedy}, then call again with resume=True",
            ) from error
        label.map, label.map_path = None, path
        return len(png)

    def _write(self, encoded):
        """Stores a batch; returns the ids that were found."""
        rows = [future.result() for future in encoded]
        self._hide(rows)
        now = datetime.datetime.now(datetime.timezone.utc)
        rows = self._with_videos(rows)
        operations = [_update(sid, document, now, self._new(sid, now)) for sid, document, _ in rows]
        rows, matched = self._store(rows, operations)
        ids = [sample_id for sample_id, _, _ in rows]
        if matched < len(ids):
            query = {"_id": {"$in": [ObjectId(i) for i in ids]}}
            found = {
                str(i) for i in retry_on_disconnect(self._level.collection.distinct, "_id", query)
            }
            self.vanished += [i for i in ids if i not in found]
            ids = [i for i in ids if i in found]
        self.samples_written += len(ids)
        self.bytes_written += sum(size for _, _, size in rows)
        return ids

    def _hide(self, rows):
        """Gives labels the ``range`` that hides what the dataset's look hides."""
        hidden = retry_on_disconnect(hidden_of, self._dataset)
        if not hidden:
            return
        for _, document, _ in rows:
            for value in document.values():
                if isinstance(value, dict) and value.get("_cls") == "Heatmap" and value["range"]:
                    value["range"] = range_of(value["range"][1], hidden)

    def _new(self, frame_id, now):
        """What a frame has that is made by writing on it; None of what must be there already."""
        if frame_id not in self._made:
            return None
        video, number = self._made[frame_id]
        return {
            "_sample_id": ObjectId(video),
            "_dataset_id": self._dataset._doc.id,
            "frame_number": number,
            "created_at": now,
        }

    def _with_videos(self, rows):
        """Those of some rows whose videos exist: a frame must not be made for a video that was deleted."""
        videos = {sid: self._made[sid][0] for sid, _, _ in rows if sid in self._made}
        if not videos:
            return rows
        query = {"_id": {"$in": [ObjectId(i) for i in set(videos.values())]}}
        samples = self._dataset._sample_collection
        there = {str(i) for i in retry_on_disconnect(samples.distinct, "_id", query)}
        gone = {sid for sid, video in videos.items() if video not in there}
        self.vanished += [sid for sid, _, _ in rows if sid in gone]
        return [row for row in rows if row[0] not in gone]

    def _store(self, rows, operations):
        """Returns (the rows that were small enough, how many of their samples exist)."""
        # On disk before it counts: the database may be restarted the moment after.
        documents = self._level.collection.with_options(write_concern=WriteConcern(j=True))
        if not operations:
            return [], 0
        try:
            answers = retry_on_disconnect(
                fod.bulk_write, operations, documents, ordered=False, batcher=False
            )
        except (DocumentTooLarge, OperationFailure, ValueError) as error:
            reason = _refused(error)
            if reason is None:
                raise
            if len(rows) == 1:
                self.refused[rows[0][0]] = reason
                return [], 0
            parts = [self._store([row], [op]) for row, op in zip(rows, operations, strict=True)]
            return [row for kept, _ in parts for row in kept], sum(n for _, n in parts)
        return rows, sum(answer.matched_count + answer.upserted_count for answer in answers)


def _write_file(data, part, path):
    """Writes a file under another name first, so that nobody finds half of it."""
    for attempt in range(_ATTEMPTS):
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(part, "xb") as file:  # nothing that is there, not even a link
                file.write(data)
            os.replace(part, path)
            return
        except FileNotFoundError:  # somebody removes the folder this moment
            if attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(0.01)


def _update(sample_id, document, now, new=None):
    """One document's update, with what says on which of its labels attributes are set.

    With ``new`` it is made with these values where there is none.
    """
    values = {k: v for k, v in document.items() if k != _FILTERS}
    operation = {"$set": {**values, "last_modified_at": now}}
    if new is not None:
        operation["$setOnInsert"] = new
    return UpdateOne(
        {"_id": ObjectId(sample_id)},
        operation,
        array_filters=document.get(_FILTERS),
        upsert=new is not None,
    )


def _refused(error):
    """Why a document was refused, where that is its own fault: client, server and FiftyOne say it in their ways."""
    said = f"{type(error).__name__} {error}"
    if re.search(r"too ?large|BSONObj size|larger than", said):
        return (
            "its heatmaps and what it has already are larger than a MongoDB document may be; choose a smaller "
            "heatmap_size, or storage='disk'"
        )
    if "E11000" in said:
        return "the frame was made by another process meanwhile; resume=True writes on it"
    return None


def _to_mongo(value):
    if hasattr(value, "to_mongo"):
        return value.to_mongo()
    return value.item() if isinstance(value, np.generic) else value
