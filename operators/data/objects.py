"""What counts as the object in a run of ``find_background_bias``, and how that was settled."""

import copy

from .object_fields import choose_object_field, find_object_fields
from .object_reader import ObjectReader

#: the grid, over the whole image, that heat and objects are compared on
GRID = (56, 56)

_SCOPES = {
    "explained": "objects of the explained class",
    "all": "all objects of a sample",
    "auto": "objects of the explained class, else all objects of the sample",
}


class AnnotatedObjects:
    """The objects of samples, whatever field they are from.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        objects: a field, a mapping field -> role, ``"auto"``, or None for none
        classes: ``"auto"``, ``"explained"``, ``"all"``, or names
        aliases: explained class -> label or labels of the dataset

    Attributes:
        roles: ``{field: role}``; empty without objects
        described: a dict for the summary: ``fields, how, classes, labels``
        note: one sentence that says it aloud

    Raises:
        ValueError: if several fields could be meant, or an argument does not fit
    """

    def __init__(self, samples, objects="auto", classes="auto", aliases=None):
        named = objects != "auto"
        chosen = objects if objects is None else choose_object_field(samples, _given(objects))
        self.roles, self._readers, self._labels = {}, {}, []
        self._scope = classes
        if chosen is None:
            how = "not asked for" if objects is None else "no field has boxes, polygons or masks"
            self.described = {"fields": {}, "how": how, "classes": None, "labels": []}
            self.note = f"No objects: {how}."
            return
        for scope in ("explained", "all") if classes == "auto" else (classes,):
            key = scope if isinstance(scope, str) else "named"
            self._readers[key] = ObjectReader(
                samples, chosen, scope, size=GRID, aliases=aliases if key == "explained" else None
            )
        reader = next(iter(self._readers.values()))
        self.roles = reader.roles
        self._labels = reader.labels()
        how = "chosen" if named else "the only object field that is no prediction"
        self.described = {
            "fields": dict(self.roles),
            "how": how,
            "classes": classes if isinstance(classes, str) else list(classes),
            "labels": self._labels[:50],
        }
        self.note = self._said(samples, how)

    def _said(self, samples, how):
        fields = [f"{name!r} ({role})" for name, role in self.roles.items()]
        made = {f.name: f.reason for f in find_object_fields(samples) if f.predicted}
        predicted = [
            f"{name!r} holds predictions ({made[name]})" for name in self.roles if name in made
        ]
        scope = _SCOPES.get(self._scope if isinstance(self._scope, str) else None)
        scope = scope or f"objects named {', '.join(map(str, self._scope))}"
        text = f"Objects: {', '.join(fields)}, {how}; {scope}."
        return text + (f" {'; '.join(predicted)}." if predicted else "")

    def __bool__(self):
        return bool(self.roles)

    @property
    def has_context(self):
        """Whether a field is named as context."""
        return "context" in self.roles.values()

    def read(self, ids, explained, size=GRID, shapes=None):
        """Reads the objects of samples.

        Args:
            ids: sample ids
            explained: id -> name of the explained class
            size (GRID): (height, width) for all, or the longest side
            shapes (None): id -> (height, width) of the upright image

        Returns:
            two dicts, id -> :class:`ObjectMasks`, and id -> which objects count for it
        """
        readers = {scope: _sized(reader, size) for scope, reader in self._readers.items()}
        scope = next(iter(readers))
        found = readers[scope].read(ids, explained, shapes)
        scopes = dict.fromkeys(found, scope)
        if self._scope == "auto":
            absent = [i for i, masks in found.items() if masks.status == "object_absent"]
            if absent:
                found.update(readers["all"].read(absent, shapes=shapes))
                scopes.update(dict.fromkeys(absent, "all"))
        return found, scopes


def _given(objects):
    return None if objects == "auto" else objects


def _sized(reader, size):
    sized = copy.copy(reader)
    sized.size = size
    return sized
