"""All that is stored: a whole database, kept and put back, and what it means whatever its ids are."""

import hashlib
import json

import gridfs
from bson import ObjectId, json_util
from pymongo import WriteConcern

# Differ from one call to the next, and say nothing of what was computed.
_OF_A_CALL = {
    "last_modified_at", "last_loaded_at", "last_deletion_at", "token", "host", "pid", "heartbeat", "started",
    "ended", "seconds", "images_per_second", "timestamp", "sessions", "stamps", "resumed", "ids", "progress",
    "failures", "created_at", "version", "by_metric", "predicted_seconds", "seconds_per_image", "origin",
    "batch_size_left", "bytes_written", "stop", "overwrite", "shards", "extended", "cam51", "space",
}  # fmt: skip
_IN_GRIDFS = ("fs.files", "fs.chunks")


class Kept:
    """A copy of a database.

    Args:
        database: a :class:`pymongo.database.Database`
    """

    def __init__(self, database):
        self._rows = {
            name: list(database[name].find()) for name in database.list_collection_names()
        }
        self._indexes = {name: database[name].index_information() for name in self._rows}

    def restore(self, database):
        """Puts everything back as it was.

        Args:
            database: the same one, by a connection that is open now
        """
        # on disk, as the server may be killed the moment after
        database = database.with_options(write_concern=WriteConcern(j=True))
        for name in database.list_collection_names():
            if name not in self._rows:
                database.drop_collection(name)
        for name, rows in self._rows.items():
            database[name].delete_many({})
            if rows:
                database[name].insert_many(rows)
            present, before = set(database[name].index_information()), self._indexes[name]
            for index in present - set(before):
                database[name].drop_index(index)
            for index in set(before) - present:
                unique = before[index].get("unique", False)
                database[name].create_index(before[index]["key"], name=index, unique=unique)


def meaning(database, folder=None):
    """What is stored, without what differs from call to call.

    Args:
        database: a :class:`pymongo.database.Database`
        folder (None): whose files count too

    Returns:
        plain data: datasets with their samples, records, results, views and indexes, and under
        ``"nobody's"`` what no dataset points to
    """
    # FiftyOne puts a deleted run's results away with it
    return json.loads(json_util.dumps(_Reading(database, folder).all(), sort_keys=True))


class _Reading:
    def __init__(self, database, folder):
        self._db, self._folder = database, folder
        self._files = gridfs.GridFS(database)
        self._used = set()

    def all(self):
        names = set(self._db.list_collection_names())
        found = {}
        for dataset in self._db.datasets.find():
            found[dataset["name"]] = self._dataset(dataset)
            names -= {dataset["sample_collection_name"], dataset.get("frame_collection_name")}
        rest = {name: self._rest(name) for name in sorted(names - {"datasets", *_IN_GRIDFS})}
        rest["results"] = sum(row["_id"] not in self._used for row in self._db["fs.files"].find())
        found["nobody's"] = {
            name: rows for name, rows in rest.items() if rows and name != "migrations"
        }
        return found

    def _rest(self, name):
        """How many documents of a collection nothing points to."""
        if name.startswith("samples."):
            return self._db[name].count_documents({}) + 1  # its being there is too much already
        if name in ("views", "runs"):
            return sum(row["_id"] not in self._used for row in self._db[name].find())
        return self._db[name].count_documents({}) if name == "cam51_locks" else 0

    def _dataset(self, stored):
        samples = self._db[stored["sample_collection_name"]]
        runs = stored.pop("runs", None) or {}
        views = stored.pop("saved_views", None) or []
        self._used |= {*runs.values(), *views}
        return {
            "document": plain(stored),
            "runs": {key: self._run(number) for key, number in runs.items()},
            "views": [
                plain(self._db.views.find_one({"_id": number}) or "none") for number in views
            ],
            "samples": {str(row["_id"]): self._sample(row) for row in samples.find()},
            "indexes": sorted(samples.index_information()),
        }

    def _run(self, number):
        run = self._db.runs.find_one({"_id": number})
        if run is None:
            return "none"
        results = run.pop("results", None)
        if results is None:
            return plain(run)
        self._used.add(results)
        if not self._files.exists(results):
            return {**plain(run), "results": "none"}
        return {**plain(run), "results": plain(json_util.loads(self._files.get(results).read()))}

    def _sample(self, row):
        row = dict(row)
        for name, value in row.items():
            path = value.get("map_path") if isinstance(value, dict) else None
            if path:
                with open(path, "rb") as file:
                    row[name] = {**value, "map_path": hashlib.sha256(file.read()).hexdigest()}
        return plain(row)


def plain(value):
    """A value without what differs from call to call."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in _OF_A_CALL and k != "_id"}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, ObjectId):
        return "an id"
    return value


def differences(wanted, found, path=""):
    """Where two meanings differ, as lines.

    Args:
        wanted: what :func:`meaning` returned
        found: likewise
        path (""): where they are

    Returns:
        a list of texts
    """
    if isinstance(wanted, dict) and isinstance(found, dict):
        names = sorted({*wanted, *found})
        lines = [differences(wanted.get(n), found.get(n), f"{path}/{n}") for n in names]
        return [line for part in lines for line in part]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        lines = [
            differences(a, b, f"{path}/{i}")
            for i, (a, b) in enumerate(zip(wanted, found, strict=True))
        ]
        return [line for part in lines for line in part]
    return [] if wanted == found else [f"{path}: {str(wanted)[:200]} became {str(found)[:200]}"]
