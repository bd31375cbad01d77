"""What a run explains, batch by batch: columns of targets, one for every field that it writes.

What depends on a sample is looked up by its id, so that a batch may hold any samples in any order.
"""

import dataclasses

from .spec import distinct_tags

#: why a sample has no map of a target
LABEL_UNKNOWN, NO_LABEL, CORRECT, ABSENT = "label_unknown", "no_label", "correct", "target_absent"
#: the label is the name of several classes
LABEL_AMBIGUOUS = "label_ambiguous"


def against_tag(tag):
    """Names what speaks against a contrast, where maps are signed."""
    return f"{tag}-against"


@dataclasses.dataclass
class Column:
    """One target of a batch of N samples.

    Attributes:
        spec: what the engine takes
        missing (None): N statuses of samples that have no map, None for :data:`ABSENT`
        naming (None): ``(row, class index) -> `` the target's name or None; by default the class's
    """

    spec: object
    missing: list = None
    naming: object = None

    def status(self, row):
        """Why a sample has no map."""
        return (self.missing[row] if self.missing else None) or ABSENT

    def name(self, row, index):
        """What is explained, if there is a better word than the class's name."""
        return self.naming(row, index) if self.naming else None


class RunTargets:
    """All targets of a run.

    Args:
        parts: objects with ``tags``, ``contrast`` and ``columns(items, size)``

    Attributes:
        tags: one per target, for the fields' names
        contrasts: those of them whose maps say what speaks against, too
        labels: what is known of label fields, for the summary: a list of dicts
        notes: what was found out about them, a sentence each
    """

    def __init__(self, parts):
        self._parts = parts
        found = [(key, tag) for part in parts for key, tag in part.found]
        self.tags = distinct_tags(found)
        several = iter(self.tags)
        pairs = [(part, next(several)) for part in parts for _ in part.found]
        self.contrasts = {tag for part, tag in pairs if part.contrast}
        summaries = [part.summary for part in parts if part.summary is not None]
        self.labels = [s for i, s in enumerate(summaries) if s not in summaries[:i]]
        self.notes = list(dict.fromkeys(part.note for part in parts if part.note))

    @property
    def functions(self):
        """The person's own functions among them."""
        return [
            part.spec for part in self._parts if isinstance(part, Fixed) and callable(part.spec)
        ]

    def columns(self, items, size):
        """Returns the :class:`Column` of each target for a batch.

        Args:
            items: the loader's items
            size: (h, w) of the model's input
        """
        return [column for part in self._parts for column in part.columns(items, size)]


class Part:
    """One target that was asked for; it may have several columns.

    Attributes:
        found: a (value, tag) for each column: equal values are given twice
        contrast: whether its maps say what speaks against, too
        summary: what is known of its label field, or None
        note: what was found out about its field, in one sentence, or None
    """

    contrast = False
    summary = None
    note = None

    def columns(self, items, size):
        """Returns a :class:`Column` for each of :attr:`found`."""
        raise NotImplementedError


class Fixed(Part):
    """The same for every sample: a class, a group of classes, or a callable.

    Args:
        spec: what the engine takes
        value: what tells it from others
        tag: its name
        named (None): what the heatmap's target is called, if not by its class
    """

    def __init__(self, spec, value, tag, named=None):
        self.spec, self.found, self._named = spec, [(value, tag)], named

    def columns(self, items, size):
        """The one column."""
        return [Column(self.spec, naming=(lambda row, index: self._named) if self._named else None)]


class Labelled(Part):
    """The classes that a label field names for each sample.

    Args:
        labels: the ``label_field.LabelField``
        present: see ``cam_core.classes_target``
    """

    def __init__(self, labels, present):
        self._labels, self._present = labels, present
        self.summary = labels.summary
        tags = ["label"] if labels.width == 1 else [f"label{i + 1}" for i in range(labels.width)]
        self.found = [((labels.field, tag), tag) for tag in tags]

    def columns(self, items, size):
        """A column for each class that a sample can have."""
        from ...cam_core import classes_target

        rows = self._labels.columns([item.id for item in items])
        columns = []
        for number in range(self._labels.width):
            pairs = [row[number] if number < len(row) else None for row in rows]
            spec = classes_target(padded([p[1] if p else () for p in pairs]), self._present)
            missing = missing_labels(pairs, self._labels.lookup)
            columns.append(Column(spec, missing, _names_of(pairs)))
        return columns


class Contrast(Part):
    """Why this class and not that one.

    Args:
        value: what tells it from others
        chosen: ``"predicted"`` or class indices
        against: ``"runner_up"``, class indices, or a ``label_field.LabelField``
        lookup: the :class:`Lookup`
        model: the :class:`LoadedModel`
        names (None): of both, if they are the same for every sample
    """

    contrast = True

    def __init__(self, value, chosen, against, model, names=None):
        self._chosen, self._against, self._model, self._fixed = chosen, against, model, names
        self.found = [(value, "contrast" if names is None else f"{names[0]}_not_{names[1]}")]
        self.summary = getattr(against, "summary", None)

    def columns(self, items, size):
        """The one column; a sample that is classified as labelled has nothing to contrast."""
        from ...cam_core import contrast_target

        if self.summary is None:
            against, missing, names = self._against, None, None
        else:
            rows = self._against.columns([item.id for item in items])
            pairs = [self._any_of(row) for row in rows]
            against = padded([p[1] if p else () for p in pairs])
            missing = [m or CORRECT for m in missing_labels(pairs, self._against.lookup)]
            names = [p[0] if p else None for p in pairs]

        def naming(row, index):
            if self._fixed:
                return f"{self._fixed[0]}, not {self._fixed[1]}"
            if index < 0:
                return names[row] if names else None
            other = names[row] if names else "the runner-up"
            return f"{self._model.label(index)}, not {other}"

        return [Column(contrast_target(against, self._chosen), missing, naming)]

    @staticmethod
    def _any_of(row):
        """Of several true classes any is right."""
        known = [pair for pair in row if pair[1]]
        if not known:
            return row[0] if row else None
        members = dict.fromkeys(i for _, group in known for i in group)
        return " or ".join(name for name, _ in known), tuple(members)


class Region(Part):
    """A class's pixels summed over a region, of a segmentation network.

    Args:
        value: what tells it from others
        tag: its name
        members: the class, or several that count as one
        region: of ``regions``, draws the masks; ``"predicted"``, where the class is; ``"all"``
        pixels: outputs -> (N, C, h, w)
        name: of the class, or None
        note: see :class:`Part`
    """

    def __init__(self, value, tag, members, region, pixels, name=None, note=None):
        self.note = note
        self.found = [(value, tag)]
        self._members, self._region, self._pixels, self._name = members, region, pixels, name

    def columns(self, items, size):
        """The one column."""
        import torch

        from ...cam_core.targets.composite import RegionTarget

        masks, missing = None, [None] * len(items)
        if self._region == "all":
            masks = torch.ones(len(items), 1, 1)
        elif self._region != "predicted":
            masks, missing = self._region(items, size)
        members = padded([() if m else self._members for m in missing])
        target = RegionTarget(members, self._pixels, masks)
        return [Column(target, missing, (lambda row, index: self._name) if self._name else None)]


def padded(groups):
    """Turns class indices per sample into an (N, M) tensor, padded with -1."""
    import torch

    width = max(1, *(len(group) for group in groups)) if groups else 1
    rows = [list(group) + [-1] * (width - len(group)) for group in groups]
    return torch.tensor(rows, dtype=torch.long).reshape(len(groups), width)


def missing_labels(pairs, lookup):
    """Says of samples without a class why: no label, one that the model lacks, or that several share."""

    def reason(pair):
        if pair is None:
            return NO_LABEL
        if pair[1]:
            return None
        return LABEL_AMBIGUOUS if lookup.several(pair[0]) else LABEL_UNKNOWN

    return [reason(pair) for pair in pairs]


def _names_of(pairs):
    """What a sample shows, in the dataset's words where those are not one of the model's classes."""

    def naming(row, index):
        return None if index >= 0 or pairs[row] is None else pairs[row][0]

    return naming


class Several(Part):
    """Several parts that were asked for as one."""

    def __init__(self, parts):
        self._parts = parts
        self.found = [pair for part in parts for pair in part.found]

    def columns(self, items, size):
        """The columns of all of them."""
        return [column for part in self._parts for column in part.columns(items, size)]
