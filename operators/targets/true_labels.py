"""What a sample shows in truth, in the model's own words."""

import fiftyone as fo
import numpy as np

from ..data.object_fields import PREDICTED_NAME, made_by_runs
from ..data.object_reader import plain
from ..data.samples import read_values


class Labels:
    """The true classes of samples, where the dataset knows them.

    Args:
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        field ("auto"): a field of classifications, strings, or lists of strings any of which is
            right; ``"auto"`` takes the one classification field that is no prediction; None for none
        classes: the model's class names, or None
        aliases (None): explained class -> label or labels of the dataset
        several (False): whether a sample may show several classes: fields of several labels will do
            then, and each of them is one that it shows

    Attributes:
        field: its name, or None
        several: whether a sample may show several classes
        note: one sentence that says which, or why none

    Raises:
        ValueError: if a named field does not exist or holds something else
    """

    def __init__(self, samples, field, classes, aliases=None, several=False):
        self._samples, self.several = samples, several
        self.field, self.note = field, ""
        if field == "auto":
            self.field, self.note = only_labels(samples, several)
        if self.field is not None:
            self._path = _path(samples, self.field, several)
            self.note = self.note or f"Labels: {self.field!r}."
        self._indices = index_of_names(classes or [], aliases or {})

    def read(self, ids, predicted):
        """Reads labels.

        Args:
            ids: N sample ids
            predicted: (N,) predicted classes; where a sample has several right names and the
                prediction is one of them, it is taken

        Returns:
            a list of N names or None, and (N,) class indices, -1 where there is no label and -2 where
            the model has no such class
        """
        names, indices = [None] * len(ids), np.full(len(ids), -1)
        if self.field is None:
            return names, indices
        # chunks: a query's list of ids has to fit into one message
        for start in range(0, len(ids), 10_000):
            part = ids[start : start + 10_000]
            found = dict(
                zip(*read_values(self._samples.select(part), ["id", self._path]), strict=True)
            )
            for offset, sample_id in enumerate(part):
                row = start + offset
                names[row], indices[row] = self._one(found.get(sample_id), predicted[row])
        return names, indices

    def members(self, ids):
        """Reads all classes that labels name.

        Args:
            ids: N sample ids

        Returns:
            N sets of class indices; None for a sample without a label
        """
        found = []
        for start in range(0, len(ids), 10_000):
            part = ids[start : start + 10_000]
            view = self._samples.select(list(dict.fromkeys(part)))
            values = dict(zip(*read_values(view, ["id", self._path]), strict=True))
            found += [self._members(values.get(sample_id)) for sample_id in part]
        return found

    def _members(self, value):
        if value in (None, ""):
            return None
        # a list of labels that is empty says that the sample shows none of them
        names = value if isinstance(value, (list, tuple)) else [value]
        if not names and self._plain_list:
            return None  # FiftyOne's own value of a list of strings that nobody filled
        found = (self._indices.get(plain(str(name))) for name in names if name is not None)
        return frozenset(i for i in found if i is not None)

    @property
    def _plain_list(self):
        return isinstance(self._samples.get_field(self.field), fo.ListField)

    def _one(self, value, predicted):
        if value in (None, "", []):
            return None, -1
        choices = value if isinstance(value, (list, tuple)) else [value]
        known = [(str(c), i) for c in choices if (i := self._indices.get(plain(c))) is not None]
        if not known:
            return str(choices[0]), -2
        return next((pair for pair in known if pair[1] == predicted), known[0])


def index_of_names(classes, aliases):
    """Every name that one class goes by -> its index; what several classes are called is left out.

    Args:
        classes: the model's class names
        aliases: class of the model -> label or labels of the dataset

    Raises:
        ValueError: if the model has no class of that name, or several
    """
    from ...cam_core import ClassNames

    names = ClassNames(classes)
    texts = {text for name in names.classes for text in (name, *name.split(","))}
    texts |= set(names.labels)
    hits = {plain(text): names.find(text) for text in texts}
    found = {text: indices[0] for text, indices in hits.items() if len(indices) == 1}
    for name, labels in aliases.items():
        number = found.get(plain(name))
        if number is None:
            several = names.several(name)
            raise ValueError(f"aliases: {several or f'the model has no class {name!r}'}")
        for label in [labels] if isinstance(labels, str) else labels:
            found[plain(label)] = number
    return found


def only_labels(samples, several=False):
    """The one classification of a dataset that holds labels, neither predicted nor empty.

    Args:
        samples: a dataset or view
        several (False): whether a field of several classifications will do

    Returns:
        ``(field, note)``: the field's name, or None where there is none or several; and why, in a sentence
    """
    made = made_by_runs(samples)
    kinds = (fo.Classification, fo.Classifications) if several else (fo.Classification,)
    fields = [
        name
        for name, field in samples.get_field_schema().items()
        if getattr(field, "document_type", None) in kinds
        and name not in made
        and not PREDICTED_NAME.search(name)
    ]
    fields = [name for name in fields if not samples.count(_inside(samples, name, "confidence"))]
    if len(fields) > 1:
        fields = [name for name in fields if samples.count(_inside(samples, name, "label"))]
    if len(fields) == 1:
        return fields[0], f"Labels: {fields[0]!r}, the only classification that is no prediction."
    if fields:
        return None, (
            f"No labels: several fields could be meant ({', '.join(fields)}); name one with labels=."
        )
    return None, "No true labels: the dataset has no classification that is not a prediction."


def _inside(samples, field, name):
    """The path of an attribute of a field's labels."""
    kind = getattr(samples.get_field(field), "document_type", None)
    part = _SEVERAL.get(getattr(kind, "__name__", None))
    return f"{field}.{name}" if part is None else f"{field}.{part}.{name}"


#: labels of which a sample may have several, and where they are in the field
_SEVERAL = {
    "Classifications": "classifications", "Detections": "detections", "Polylines": "polylines",
}  # fmt: skip


def _path(samples, field, several=False):
    found = samples.get_field(field) if isinstance(field, str) else None
    inner = found.field if isinstance(found, fo.ListField) else found
    kind = getattr(found, "document_type", None)
    if kind is fo.Classification or (several and getattr(kind, "__name__", None) in _SEVERAL):
        return _inside(samples, field, "label")
    # of a list that was empty on the first sample, FiftyOne does not know what is in it
    if isinstance(inner, fo.StringField) or (isinstance(found, fo.ListField) and inner is None):
        return field
    raise ValueError(
        f"labels: {field!r} is no field of {'labels' if several else 'classifications'}, strings or lists "
        "of strings; leave it out "
        "to take the classification field that is no prediction, or pass labels=None"
    )
