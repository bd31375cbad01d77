"""What is looked at before the first sample: the samples, the folder, the space in a document."""

import errno
import os
import tempfile

from ..data.written_paths import default_folder
from ..runs.level import level_of

# MongoDB's limit of one document; a sample's label attributes and FiftyOne's own fields need little.
DOCUMENT_BYTES = 16 * 1024 * 1024
_PER_LABEL_BYTES = 1000
# Other images' maps may be busier than the one that was measured.
_BUSIER = 1.5
_LOOKED_AT = 200
# bytes of a folder's name, on all usual file systems
_LONGEST = 255


def check_folder(folder):
    """Raises a ValueError unless a folder can be made and written to; makes nothing.

    Args:
        folder: a path, or None

    Returns:
        the folders that were not there and will be made, the outermost first
    """
    missing = missing_folders(folder)
    if folder is None:
        return missing
    there = os.path.dirname(missing[0]) if missing else folder
    try:
        if max(len(os.fsencode(os.path.basename(made))) for made in [folder, *missing]) > _LONGEST:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with tempfile.TemporaryFile(dir=there):  # without a name where the system has that
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir: heatmaps cannot be written to {folder!r}: {error}"
        ) from error
    return missing


def missing_folders(folder):
    """The folders of a path that do not exist, the outermost first."""
    missing = []
    while folder and not os.path.exists(folder):
        missing.insert(0, folder)
        folder = os.path.dirname(folder)
    return missing


def map_dir(settings, dataset, key):
    """The run's own folder of PNG files, or None where maps go to the database.

    Args:
        settings: the :class:`Settings`
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key, which is a plain name

    Returns:
        an absolute path
    """
    if settings.storage != "disk":
        return None
    # The slug: a dataset may be called '../..'.
    base = settings.output_dir or os.path.join(default_folder(), "cam51", dataset.slug)
    return os.path.join(os.path.abspath(os.path.expanduser(base)), key)


def check_document_size(dataset, ids, heatmaps, count, shape):
    """Raises a ValueError if a sample's heatmaps would not fit its MongoDB document.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        ids: of the run's samples; the largest of the first ones is what they come on top of
        heatmaps: returns those of one image, each (h, w) in [0, 1]; called where it may get close
        count: heatmap fields of the run
        shape: (h, w) of a stored heatmap
    """
    most = count * (shape[0] * shape[1] + _PER_LABEL_BYTES)
    if most < DOCUMENT_BYTES / 16:
        return
    present = _largest_document(dataset, ids)
    if most + present <= DOCUMENT_BYTES:
        return
    measured = sum(_stored_bytes(heat) for heat in heatmaps()) + count * _PER_LABEL_BYTES
    if measured * _BUSIER + present <= DOCUMENT_BYTES:
        return
    raise ValueError(
        f"heatmap_size: {count} heatmaps of {shape[1]} x {shape[0]} pixels need about {_mb(measured)} per "
        f"sample (measured on the first image; {_BUSIER:g} times that, {_mb(measured * _BUSIER)}, is "
        f"allowed for busier ones), and the samples have up to {_mb(present)} already: more than the "
        f"{_mb(DOCUMENT_BYTES)} of a MongoDB document. Use storage='disk', a smaller heatmap_size, or "
        "fewer methods, layers or targets"
    )


def _largest_document(dataset, ids):
    from bson import ObjectId

    steps = [
        {"$match": {"_id": {"$in": [ObjectId(i) for i in ids[:_LOOKED_AT]]}}},
        {"$group": {"_id": None, "most": {"$max": {"$bsonSize": "$$ROOT"}}}},
    ]
    found = list(level_of(dataset).collection.aggregate(steps))
    return found[0]["most"] if found else 0


def _stored_bytes(heat):
    import fiftyone.core.utils as fou

    from ..data.heatmap_writer import quantise

    return len(fou.serialize_numpy_array(quantise(heat)))


def _mb(count):
    return f"{count / 1024 / 1024:.1f} MB"
