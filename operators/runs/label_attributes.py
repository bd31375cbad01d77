"""Attributes on labels that are there already: declared, written beside the labels, rolled back."""

import dataclasses

from bson import ObjectId

from .level import level_of
from .locking import change_schema
from .schema import declare_fields


@dataclasses.dataclass
class LabelAttributes:
    """Values for attributes of a sample's labels: only these are written, the labels stay as they are.

    A label that was deleted meanwhile is passed over.

    Attributes:
        path: of the list of labels, such as ``"ground_truth.detections"``
        rows: ``{label id: {attribute: value}}``
    """

    path: str
    rows: dict

    def operations(self):
        """Returns what MongoDB sets, ``{path: value}``, and the filters that say on which labels."""
        values, filters = {}, []
        for number, (label_id, attributes) in enumerate(self.rows.items()):
            filters.append({f"label{number}._id": ObjectId(label_id)})
            for name, value in attributes.items():
                values[f"{self.path}.$[label{number}].{name}"] = value
        return values, filters


def declare(dataset, path, attributes):
    """Declares attributes of labels with their types, so that the sidebar can filter them.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        path: of the list of labels
        attributes: ``{name: (type of field, description)}``
    """
    level = level_of(dataset)
    missing = {n: a for n, a in attributes.items() if level.field(f"{path}.{n}") is None}
    if not missing:
        return
    fields = {
        f"{path}.{name}": {"ftype": kind, "description": description}
        for name, (kind, description) in missing.items()
    }
    change_schema(dataset, lambda: declare_fields(dataset, fields))


def written_by(run):
    """The paths of the attributes that a run wrote on labels of others.

    Args:
        run: the :class:`~operators.runs.run.Run`; a path that does not carry its key is not the run's,
            whatever its record says

    Returns:
        a list of paths
    """
    paths = getattr(run.record, "label_attributes", None) or []
    return [
        path
        for path in paths
        if isinstance(path, str)
        and path.rpartition(".")[2].startswith(f"{run.key}_")
        and "." in path
    ]


def renamed(run, new_key):
    """Where a run's attributes are under another key: ``{old path: new path}``.

    Args:
        run: the :class:`~operators.runs.run.Run`
        new_key: the new key
    """
    moves = {}
    for path in written_by(run):
        head, _, name = path.rpartition(".")
        moves[path] = f"{head}.{new_key}{name[len(run.key) :]}"
    return moves
