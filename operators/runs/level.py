"""Where heatmaps are stored: on a dataset's samples, or, of a dataset of videos, on their frames.

FiftyOne keeps samples and frames in two collections with two schemas; the path of a frame's field begins
with ``frames.``. Records hold names without that: a dataset has one level, which its media type says.
"""

import hashlib

import fiftyone.core.frame as fofr
import fiftyone.core.sample as fos
from bson import ObjectId

_IDS_AT_ONCE = 10_000
# What a frame has that holds nothing but a run's fields.
_BARE = ("_id", "_sample_id", "_dataset_id", "frame_number", "created_at", "last_modified_at")


def level_of(dataset):
    """The level on which a dataset's heatmaps lie.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`

    Returns:
        a :class:`Level`
    """
    return FrameLevel(dataset) if dataset.media_type == "video" else Level(dataset)


class Level:
    """The samples of a dataset.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`

    Attributes:
        prefix: what the path of a field begins with, seen from a sample
        schema_entry: where the database keeps the schema of the dataset
        collection: the documents, a collection of pymongo
    """

    prefix, schema_entry = "", "sample_fields"
    noun = "samples"
    #: what of a document says where it belongs
    place: tuple = ()

    def __init__(self, dataset):
        self._dataset = dataset

    @property
    def collection(self):
        """The documents that heatmaps are part of."""
        return self._dataset._sample_collection

    def path(self, name):
        """The path of a field, seen from a sample."""
        return f"{self.prefix}{name}"

    def field(self, name):
        """A field by its name or path within a document; None if there is none."""
        return self._dataset.get_field(self.path(name))

    def schema(self, flat=False):
        """The schema of the documents, see :meth:`fiftyone.core.dataset.Dataset.get_field_schema`."""
        return self._dataset.get_field_schema(flat=flat)

    def declare(self, schema):
        """Adds fields to the schema with one write."""
        self._dataset._merge_sample_field_schema(schema)

    def delete_fields(self, names, **options):
        """Deletes fields or attributes; ``options`` are those of FiftyOne's function."""
        self._dataset.delete_sample_fields(names, **options)

    def rename_fields(self, moves):
        """Renames fields or attributes: ``{old: new}``."""
        self._dataset.rename_sample_fields(moves)

    def reload(self, ids=None):
        """Refreshes the documents that somebody holds, all or those of some ids."""
        fos.Sample._reload_docs(self._dataset._sample_collection_name, sample_ids=ids)

    def ids(self):
        """The ids of all documents."""
        return self._dataset.values("id")

    def placed(self, rows):
        """Documents as rows of a table, with the id of the sample, its ``filepath`` and which ``part`` of it."""
        return rows

    def delete_bare(self, ids):
        """Deletes what a run made to write on, where nothing else is on it: of samples nothing."""


class FrameLevel(Level):
    """The frames of a dataset of videos."""

    prefix, schema_entry = "frames.", "frame_fields"
    noun = "frames"
    place = ("_sample_id", "frame_number")

    @property
    def collection(self):
        """The frames' documents."""
        return self._dataset._frame_collection

    def schema(self, flat=False):
        """The schema of the frames."""
        return self._dataset.get_frame_field_schema(flat=flat)

    def declare(self, schema):
        """Adds fields to the schema with one write."""
        self._dataset._merge_frame_field_schema(schema)

    def delete_fields(self, names, **options):
        """Deletes fields or attributes; ``options`` are those of FiftyOne's function."""
        self._dataset.delete_frame_fields(names, **options)

    def rename_fields(self, moves):
        """Renames fields or attributes: ``{old: new}``."""
        self._dataset.rename_frame_fields(moves)

    def reload(self, ids=None):
        """Refreshes the frames that somebody holds, all or those of some ids."""
        fofr.Frame._reload_docs(self._dataset._frame_collection_name, frame_ids=ids)

    def ids(self):
        """The ids of all frames."""
        return [str(i) for i in self.collection.distinct("_id")]

    def placed(self, rows):
        """Documents of frames as rows of a table, with the video's id and ``filepath``, and their number."""
        query = {"_id": {"$in": list({row["_sample_id"] for row in rows})}}
        videos = self._dataset._sample_collection.find(query, {"filepath": True})
        paths = {video["_id"]: video["filepath"] for video in videos}
        return [
            {
                **row,
                "_id": row["_sample_id"],
                "filepath": paths[row["_sample_id"]],
                "part": f", frame {row['frame_number']}",
            }
            for row in rows
            if row["_sample_id"] in paths
        ]

    def delete_bare(self, ids):
        """Deletes frames that a run made, where nothing else is on them.

        Args:
            ids: of frames that the run covers; those that it made are known by their ids
        """
        ids = [ObjectId(i) for i in ids]
        values = {"$objectToArray": "$$ROOT"}
        empty = {"$in": ["$$this.v", [None, []]]}
        more = {"$not": [{"$or": [{"$in": ["$$this.k", list(_BARE)]}, empty]}]}
        steps = [
            {"$project": {"more": {"$size": {"$filter": {"input": values, "cond": more}}},
                          "_sample_id": True, "frame_number": True}},
            {"$match": {"more": 0}},
        ]  # fmt: skip
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = {"$match": {"_id": {"$in": ids[start : start + _IDS_AT_ONCE]}}}
            rows = self.collection.aggregate([some, *steps])
            gone = [r for r in rows if made_id(r["_sample_id"], r["frame_number"]) == r["_id"]]
            if not gone:
                continue
            self.collection.delete_many({"_id": {"$in": [row["_id"] for row in gone]}})
            for row in gone:
                fofr.Frame._reset_docs_for_sample(
                    self._dataset._frame_collection_name, row["_sample_id"], [row["frame_number"]]
                )


def made_id(sample_id, number):
    """The id of a frame that a run makes where the dataset has none.

    The same whenever it is asked for, so that a run that was killed finds its frames again; and nobody
    else's frame has it, so that a deletion knows which it may take away.

    Args:
        sample_id: of the video
        number: of the frame, from 1

    Returns:
        an ``ObjectId``
    """
    return ObjectId(hashlib.sha256(f"cam51 {sample_id} {number}".encode()).digest()[:12])
