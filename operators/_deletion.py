"""Deleting a CAM run, and saying what went."""

import dataclasses

from . import _bias_store, _removal, _run_info, _runs
from ._summary import counted


@dataclasses.dataclass
class Deleted:
    """What went with a CAM run.

    Attributes:
        cam_key: the run's key
        samples: how many samples had heatmaps of it
        fields: the fields that are gone
        attributes: the attributes that are gone of fields that stay
        views: names of the saved views that are gone
        tags: the tags that are gone from samples
        files: how many map files are gone
    """

    cam_key: str
    samples: int
    fields: list
    attributes: list
    views: list
    tags: list
    files: int

    def __str__(self):
        """One paragraph for people."""
        parts = [f"record of the run over {counted(self.samples, 'samples')}"]
        for name in ("fields", "attributes", "views", "tags"):
            values = getattr(self, name)
            if values:
                parts.append(f"{name if len(values) > 1 else name[:-1]} {', '.join(values)}")
        if self.files:
            parts.append(counted(self.files, "files"))
        return f"{self.cam_key} was deleted: {'; '.join(parts)}"


def delete(dataset, key):
    """Deletes a run with everything it wrote; see :func:`._removal.clear`.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        key: the run's key

    Returns:
        a :class:`Deleted`

    Raises:
        ValueError: if there is no such run, or if it is at work, compared or examined at this moment
    """
    config = _runs.config_of(dataset, key)
    dataset._reload(hard=True)  # another process may have added its fields
    samples = _run_info.short_of(dataset, key).done
    tags = list((_bias_store.record_of(dataset, key) or {}).get("tags", []))
    files = _removal.count_files(dataset, key, config)
    paths, views = set(dataset.get_field_schema(flat=True)), dataset.list_saved_views()
    _removal.clear(dataset, key)
    gone = paths - set(dataset.get_field_schema(flat=True))
    return Deleted(
        cam_key=key,
        samples=samples,
        fields=sorted(path for path in gone if "." not in path),
        # of what was inside something that is gone nothing is said
        attributes=sorted(p for p in gone if "." in p and p.rpartition(".")[0] not in gone),
        views=[name for name in views if not dataset.has_saved_view(name)],
        tags=tags,
        files=files,
    )
