"""Storage of heatmaps: quantise, encode, write in bulk; schema and colours.

The App reads a map by its dtype and ``range``: uint8 with ``[0, 255]``. It draws nearest-neighbour, so
maps are stored large enough to look smooth, and 0 is transparent.
"""

import concurrent.futures
import datetime
import os

import cv2
import fiftyone as fo
import fiftyone.core.odm as fod
import numpy as np
from bson import ObjectId
from pymongo import UpdateOne

LONGEST_SIDE = 192
# Measured (benchmarks/storage.py): 64 levels keep the median below 8 KB at 192 pixels, also for maps
# of 14 x 14 cells, and no steps are seen in the App; 256 levels nearly double it.
LEVELS = 64

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


def make_label(heat, *, method, layer, target, target_index, score, peak, status, cam_key):
    """Builds the label of one heatmap.

    Args:
        heat: (h, w) array in [0, 1], or None
        method, layer, target, target_index, cam_key: where it comes from
        score: the explained score
        peak: the raw map's maximum, which normalising loses
        status: ``"ok"``; with any other the label has no map

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
    if heat is None or status != "ok":
        return fo.Heatmap(**values)
    return fo.Heatmap(map=quantise(heat), range=[0, 255], **values)


def _finite(value):
    """MongoDB keeps a NaN, and filters on it behave oddly: it is stored as missing."""
    return None if value is None or not np.isfinite(value) else float(value)


def declare_schema(dataset, heatmap_fields, prediction_field=None):
    """Declares every field and attribute with its type, so that the sidebar can filter them.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        heatmap_fields: names of the heatmap fields
        prediction_field (None): name of a classification field
    """
    for field in heatmap_fields:
        _declare(dataset, field, fo.Heatmap, ATTRIBUTES)
    if prediction_field is not None:
        _declare(dataset, prediction_field, fo.Classification, {})


def _declare(dataset, field, label_type, attributes):
    existing = dataset.get_field(field)
    if existing is not None and getattr(existing, "document_type", None) is not label_type:
        raise ValueError(
            f"field {field!r} exists and is no {label_type.__name__}; choose another cam_key, or delete the field"
        )
    # One call per field: each reloads the dataset's schema.
    dataset.add_sample_field(
        field,
        fo.EmbeddedDocumentField,
        embedded_doc_type=label_type,
        fields=[_named(kind(), name) for name, kind in attributes.items()],
    )


def _named(field, name):
    field.name = field.db_field = name
    return field


class Writer:
    """Writes results in the background: encoding in threads, one bulk write per batch.

    All fields of a sample are written in one update of its document: it has all of them or none.

    Args:
        dataset: the dataset that the samples belong to
        output_dir (None): a folder for PNG files; None stores maps in the database
        threads (2): encoding threads
    """

    # Batches waiting to be written: enough to keep the device busy, few enough to bound memory.
    _QUEUE = 4

    def __init__(self, dataset, output_dir=None, threads=2):
        self.samples_written = 0
        self.bytes_written = 0
        self.vanished = []
        self._dataset = dataset
        self._output_dir = output_dir
        self._pending = []
        self._encoders = concurrent.futures.ThreadPoolExecutor(threads, "cam51-encode")
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "cam51-write")
        if output_dir is not None:
            os.makedirs(output_dir, exist_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            self.close()
        except Exception:
            if kind is None:
                raise
            # the error that is already on its way says what went wrong first

    def put(self, results):
        """Hands over ``{sample id: {field: value}}``; waits when too much is in flight.

        Raises:
            Exception: what went wrong while writing an earlier batch
        """
        encoded = [self._encoders.submit(self._encode, sid, values) for sid, values in results.items()]
        self._pending.append(self._writer.submit(self._write, encoded))
        while len(self._pending) > self._QUEUE or (self._pending and self._pending[0].done()):
            self._pending.pop(0).result()

    def close(self):
        """Waits until everything is stored."""
        try:
            while self._pending:
                self._pending.pop(0).result()
        finally:
            self._writer.shutdown(wait=True)
            self._encoders.shutdown(wait=True)

    def _encode(self, sample_id, values):
        document, size = {}, 0
        for field, value in values.items():
            if isinstance(value, fo.Heatmap):
                size += self._store_map(sample_id, field, value)
            document[field] = value.to_mongo() if hasattr(value, "to_mongo") else value
            if isinstance(value, fo.Heatmap) and value.map is not None:
                size += len(document[field]["map"])
        return sample_id, document, size

    def _store_map(self, sample_id, field, label):
        """Moves a map into a file, where files were asked for; returns its bytes."""
        if self._output_dir is None or label.map is None:
            return 0
        folder = os.path.join(self._output_dir, field)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{ObjectId(sample_id)}.png")
        done, png = cv2.imencode(".png", label.map)
        if not done:
            raise OSError(f"the heatmap of sample {sample_id} could not be encoded as PNG")
        part = f"{path}.part"
        with open(part, "wb") as file:
            file.write(png.tobytes())
        os.replace(part, path)
        label.map, label.map_path = None, path
        return len(png)

    def _write(self, encoded):
        rows = [future.result() for future in encoded]
        now = datetime.datetime.now(datetime.timezone.utc)
        ids = [sample_id for sample_id, _, _ in rows]
        operations = [
            UpdateOne({"_id": ObjectId(sid)}, {"$set": {**document, "last_modified_at": now}})
            for sid, document, _ in rows
        ]
        known = self._dataset._sample_collection.distinct("_id", {"_id": {"$in": [ObjectId(i) for i in ids]}})
        present = {str(i) for i in known}
        self._dataset._bulk_write(operations, ids=ids)
        self.vanished += [i for i in ids if i not in present]
        self.samples_written += len(present)
        self.bytes_written += sum(size for _, _, size in rows)


# Warm, told apart on photos, hottest first; the App fades each of them with the value.
_COLOURS = (
    "#ff3d00", "#ffab00", "#ff1e78", "#ffe100", "#ff7043", "#d500f9", "#ff8f00", "#f50057",
    "#ffd54f", "#e64a19", "#ff80ab", "#c6ff00",
)  # fmt: skip


def colour_fields(dataset, fields):
    """Gives our fields warm colours; everything else of the dataset's colour scheme stays.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        fields: the heatmap fields, in order

    Returns:
        all entries of the scheme's ``fields``, theirs and ours
    """
    scheme = dataset.app_config.color_scheme or fo.ColorScheme()
    kept = [entry for entry in scheme.fields or [] if entry.get("path") not in fields]
    ours = [{"path": f, "fieldColor": _COLOURS[i % len(_COLOURS)]} for i, f in enumerate(fields)]
    scheme.fields = kept + ours
    dataset.app_config.color_scheme = scheme
    dataset.save()
    return scheme.fields


def activate_fields(dataset, fields):
    """Shows fields in the grid, beside what is shown there already.

    Dense labels are not shown unless asked for.

    Returns:
        the paths that are active now
    """
    active = dataset.app_config.active_fields
    paths = list(active.paths or []) if active else list(fo.DatasetAppConfig.default_active_fields(dataset).paths or [])
    paths += [f for f in fields if f not in paths]
    exclude = active.exclude if active else None
    dataset.app_config.active_fields = fod.ActiveFields(paths=paths, exclude=exclude)
    dataset.save()
    return paths


def forget_fields(dataset, fields):
    """Takes fields out of the colour scheme and the active fields."""
    config = dataset.app_config
    if config.color_scheme and config.color_scheme.fields:
        config.color_scheme.fields = [e for e in config.color_scheme.fields if e.get("path") not in fields]
    if config.active_fields and config.active_fields.paths:
        config.active_fields.paths = [p for p in config.active_fields.paths if p not in fields]
    dataset.save()
