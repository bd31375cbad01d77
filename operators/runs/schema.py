"""Declares many fields of a dataset with one write of its schema.

``Dataset.add_sample_field`` reads, writes and reloads the dataset's whole document for every field.
"""

import fiftyone as fo
import fiftyone.core.odm as fod

from .level import level_of


def declare_fields(dataset, fields):
    """Declares fields and attributes, as ``add_sample_field`` would one by one, or ``add_frame_field``.

    What exists with the same type stays; attributes that an existing field lacks are added. An
    attribute whose field is declared by the same call takes a second write.

    Args:
        dataset: a :class:`fiftyone.core.dataset.Dataset`
        fields: ``{path: keyword arguments of add_sample_field}``, such as
            ``{"score": {"ftype": fo.FloatField, "description": "..."}}``

    Raises:
        ValueError: if a field exists with another type; nothing is declared then
    """
    level = level_of(dataset)
    new = {path for path in fields if level.field(path) is None}
    later = {path for path in new if _has_parent_in(path, new)}
    for paths in (fields.keys() - later, later):
        if paths:
            schema = {p: _field(p, **given) for p, given in fields.items() if p in paths}
            level.declare(schema)


def _has_parent_in(path, paths):
    parts = path.split(".")
    return any(".".join(parts[:i]) in paths for i in range(1, len(parts)))


def _field(path, ftype, **options):
    return fod.create_field(path.rpartition(".")[2], ftype, **options)


def attribute(name, kind, description):
    """A field for the list ``fields`` of an embedded document that is declared.

    Args:
        name: the attribute's name
        kind: the type of the field; a list is one of texts
        description: what it says
    """
    options = {"field": fo.StringField()} if kind is fo.ListField else {}
    field = kind(description=description, **options)
    field.name = field.db_field = name
    return field
