"""Label fields as targets: which ones there are, what they say of samples, how much of it is known."""

import difflib

import fiftyone as fo

from ..data.object_fields import made_by_runs
from ..data.samples import check_not_nested, read_values

# A sample has a column for each of its classes, up to this many.
MOST = 3
# Ids asked for with one query: few queries for many samples, little memory.
_AT_ONCE = 5_000
_NEAR_FOR, _MAPPED = 20, 1_000

_SINGLE = {"Classification", "Detection", "Polyline"}
_LISTS = {
    "Classifications": "classifications",
    "Detections": "detections",
    "Polylines": "polylines",
}
_NOT_LABELS = {"id", "filepath"}


def kind_of(samples, name):
    """Returns what a field holds of which labels can be made, or None.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        name: of a field

    Returns:
        ``"Classification"``, ``"Classifications"``, ``"Detection"``, ``"Detections"``,
        ``"Polyline"``, ``"Polylines"``, ``"string"``, ``"strings"`` or None
    """
    field = _field(samples, name)
    kind = getattr(getattr(field, "document_type", None), "__name__", None)
    if kind in _SINGLE or kind in _LISTS:
        return kind
    if isinstance(field, fo.ListField) and isinstance(field.field, fo.StringField):
        return "strings" if name != "tags" else None
    if isinstance(field, fo.StringField) and name not in _NOT_LABELS:
        return "string"
    return None


def _field(samples, name):
    """A field of the samples themselves, not one inside a label; None if there is none."""
    plain = isinstance(name, str) and name and "." not in name
    return samples.get_field(name) if plain else None


def label_fields(samples):
    """Lists the fields whose labels can be explained, those that no run wrote.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`

    Returns:
        a list of names, fields of labels before plain strings
    """
    made = made_by_runs(samples)
    names = [n for n in samples.get_field_schema() if n not in made and kind_of(samples, n)]
    return sorted(names, key=lambda n: kind_of(samples, n) in ("string", "strings"))


def check_field(samples, name, argument="targets"):
    """Raises a ValueError unless a field holds labels; near names are listed.

    Returns:
        what it holds, see :func:`kind_of`
    """
    kind = kind_of(samples, name)
    if kind is not None:
        return kind
    check_not_nested(samples, name, argument)
    usable = label_fields(samples)
    some = f"; those that hold labels: {', '.join(usable)}" if usable else ""
    field = _field(samples, name)
    if field is None:
        near = difflib.get_close_matches(str(name), usable, n=1)
        meant = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{argument}: the samples have no field {name!r}{meant}{some}")
    found = getattr(getattr(field, "document_type", None), "__name__", type(field).__name__)
    more = ""
    if found == "Segmentation":
        more = f"; of a segmentation network give {{'mask': {name!r}, 'class': ...}}"
    raise ValueError(f"{argument}: field {name!r} is a {found}, which has no labels{some}{more}")


def label_path(samples, name):
    """Returns the path of the labels in a field, see :func:`kind_of`."""
    kind = kind_of(samples, name)
    if kind in _LISTS:
        return f"{name}.{_LISTS[kind]}.label"
    return f"{name}.label" if kind in _SINGLE else name


def width_of(samples, name, most=MOST, several=False):
    """Returns how many classes a sample has in a field at most, 1 to ``most``.

    Of the dataset, not the view: so that a run has the same fields when more samples are added to it.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        name: of the field
        most (3): the most that is returned; None for no limit
        several (False): whether each string of a list names a class of its own
    """
    kind = kind_of(samples, name)
    if kind not in _LISTS and not (several and kind == "strings"):
        return 1
    labels = {"$ifNull": [f"${label_path(samples, name)}", []]}
    count = {"$max": {"$size": {"$setUnion": [labels, []]}}}
    rows = samples._dataset._sample_collection.aggregate([{"$group": {"_id": None, "most": count}}])
    return max([1, *(row["most"] if most is None else min(most, row["most"]) for row in rows)])


class LabelField:
    """The labels of a field, read a few thousand samples at a time.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`; what its view filters out of
            the field is not explained
        field: a field of classifications, detections, polylines, strings or lists of strings, all of
            which name one class: any of them is right
        lookup: the :class:`Lookup`
        most (3): classes of a sample that count; None for all
        several (False): whether each string of a list names a class of its own

    Attributes:
        width: how many classes a sample can have here
        summary: how much of the field's labels the model knows

    Raises:
        ValueError: if there is no such field, it holds no labels, or the model knows none of them
    """

    def __init__(self, samples, field, lookup, most=MOST, several=False):
        self.field, self.lookup, self._several = field, lookup, several
        self.kind = check_field(samples, field)
        self._samples = samples
        self._paths = self._all_paths()
        self._order = {}
        for position, sample_id in enumerate(samples.values("id")):
            self._order[sample_id] = position
        self._ids = list(self._order)
        self._chunks = {}
        self._members = {}
        self.width = width_of(samples, field, most, several)
        self.summary = self._counted()

    def _all_paths(self):
        path = label_path(self._samples, self.field)
        if self.kind == "Classifications":
            return [path, path.replace(".label", ".confidence")]
        return (
            [path, path.replace(".label", ".bounding_box")] if self.kind == "Detections" else [path]
        )

    def _counted(self):
        """Counts which labels are known and which are not; refuses if none is."""
        counts = self._samples.count_values(self._paths[0])
        counts = {str(k): n for k, n in counts.items() if k not in (None, "")}
        if not counts:
            raise ValueError(f"targets: field {self.field!r} has no labels in these samples")
        known = {k: self.lookup.find(k) for k in counts}
        order = sorted(counts, key=lambda k: (-counts[k], k))
        mapped = [
            {
                "label": k,
                "count": counts[k],
                "classes": [self.lookup.label([i]) for i in known[k]],
                "how": self.lookup.how(k),
            }
            for k in order
            if known[k]
        ]
        lost = [k for k in order if not known[k]]
        unmapped = [self._unmapped(k, counts[k], i < _NEAR_FOR) for i, k in enumerate(lost)]
        if not mapped:
            near = [
                u.get("several") or f"{u['label']!r} near {', '.join(u['near'])}"
                for u in unmapped
                if u["near"] or "several" in u
            ]
            raise ValueError(
                f"targets: the model has none of the {len(counts)} labels of field {self.field!r} "
                f"({', '.join(map(repr, lost[:3]))}{', ...' if len(lost) > 3 else ''}); say which classes they "
                "are with class_map={'label': 'class or classes'}"
                + (f"; {'; '.join(near[:3])}" if near else "")
            )
        return {
            "field": self.field,
            "labels": len(counts),
            "mapped": mapped[:_MAPPED],
            "unmapped": unmapped[:_MAPPED],
            "known": len(mapped),
            "unknown": len(lost),
        }

    def _unmapped(self, label, count, with_near):
        """A label that stands for no class, and why."""
        several = self.lookup.several(label)
        found = {"label": label, "count": count, "near": []}
        if several:
            found["several"] = several
        elif with_near:
            found["near"] = self.lookup.near(label)
        return found

    def columns(self, ids):
        """Reads what samples show.

        Args:
            ids: sample ids

        Returns:
            for each id a list of (name, class indices), at most :attr:`width`; the indices are empty
            where the model lacks the class
        """
        return [self._known(names) for names in map(self._names_of, ids)]

    def _known(self, columns):
        found = [self._column(names) for names in columns]
        # what the model knows is not pushed out by what it does not
        return sorted(found, key=lambda pair: not pair[1])[: self.width]

    def _column(self, names):
        if names not in self._members:
            hits = [self.lookup.find(name) for name in names]
            members = tuple(dict.fromkeys(i for hit in hits for i in hit))
            best = next((n for n, hit in zip(names, hits, strict=True) if hit), names[0])
            self._members[names] = (best, members)
        return self._members[names]

    def _names_of(self, sample_id):
        position = self._order.get(sample_id)
        if position is None:
            return []  # it completes a batch only: nothing of it is stored
        chunk = position // _AT_ONCE
        if chunk not in self._chunks:
            if len(self._chunks) > 1:
                del self._chunks[next(iter(self._chunks))]
            part = self._ids[chunk * _AT_ONCE : (chunk + 1) * _AT_ONCE]
            ids, *values = read_values(self._samples.select(part), ["id", *self._paths])
            self._chunks[chunk] = dict(zip(ids, zip(*values, strict=True), strict=True))
        return self._read(*self._chunks[chunk].get(sample_id, [None] * len(self._paths)))

    def _read(self, labels, *extra):
        """The classes of a sample, each as a tuple of names that mean it."""
        if self.kind == "strings":
            names = tuple(str(n) for n in labels or () if n not in (None, ""))
            if self._several:
                return [(name,) for name in dict.fromkeys(names)]
            return [names] if names else []
        if self.kind not in _LISTS:
            return [(str(labels),)] if labels not in (None, "") else []
        weights = {}
        for number, name in enumerate(labels or ()):
            if name in (None, ""):
                continue
            weights.setdefault(str(name), []).append(self._weight(extra, number))
        if self.kind == "Classifications":
            order = sorted(weights, key=lambda n: -max(weights[n]))
        else:
            order = sorted(weights, key=lambda n: (-len(weights[n]), -sum(weights[n])))
        return [(name,) for name in order]

    def _weight(self, extra, number):
        """A classification's confidence, or a detection's area; 0 where it has neither."""
        value = extra[0][number] if extra and extra[0] is not None else None
        if value is None:
            return 0.0
        return float(value[2] * value[3]) if isinstance(value, (list, tuple)) else float(value)
