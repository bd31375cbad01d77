"""From what a user asks for to the targets of a run: every class and field checked first."""

import functools

from ..data.samples import check_not_nested
from ..models import zoo
from .columns import Contrast, Fixed, Labelled, Region, RunTargets, Several
from .spec import Lookup, check_item, check_some, class_or_callable, items_of, ranked_tags


def make_targets(spec, model, samples, class_map=None):
    """Settles what a run explains.

    Args:
        spec: what a user gave as ``targets``
        model: the :class:`LoadedModel`, on its device
        samples: a :class:`fiftyone.core.collections.SampleCollection`
        class_map (None): see :class:`Lookup`

    Returns:
        what the engine takes where that is the same for all, else a :class:`RunTargets`; and tags

    Raises:
        ValueError: if anything is wrong with them
    """
    lookup = Lookup(model, class_map)
    tags = ranked_tags(spec)
    if tags is not None:
        if class_map is not None:
            raise ValueError(
                f"class_map: has no effect with targets={spec!r}; name a label field or classes"
            )
        return spec, _predicted_tags(model) if spec == "predicted" else tags
    items = items_of(spec)
    check_some(items)
    maker = _Maker(model, samples, lookup)
    if maker.several:
        items = _labelled(items, lookup)
    _check_no_objects(spec, items, model, lookup, maker.several)
    parts = [maker.part(item) for item in items]
    found = RunTargets(parts)
    return found, found.tags


def _labelled(items, lookup):
    """Targets of a multi-label network, with what is labelled and missed as dicts.

    ``"missed"`` alone, ``("missed", field)``, ``{"missed": field}``, ``"ground_truth"``; a class of
    these names is the class.
    """
    named = len(items) == 2 and items[0] == "missed" and isinstance(items[1], str)
    if named and not lookup.find("missed"):
        return [{"missed": items[1]}]
    words = {"missed": {"missed": None}, "ground_truth": {"ground_truth": None}}
    return [
        words[item] if isinstance(item, str) and item in words and not lookup.find(item) else item
        for item in items
    ]


def _check_no_objects(spec, items, model, lookup, several=False):
    """Raises a ValueError where a detector's objects are asked for: this model has none."""
    first = items[0]
    if several and isinstance(first, dict) and set(first) == {"missed"}:
        return
    asked = isinstance(first, dict) and {"missed", "eval"} & set(first)
    asked = asked or (len(items) == 2 and first == "missed" and not lookup.find("missed"))
    if asked:
        raise ValueError(
            f"targets: {spec!r} asks for a detector's objects, and this is a {model.kind or 'network'}, whose "
            "score is of the whole image; give 'predicted', a class, a label field or 'contrast', or choose "
            "a detector as the model"
        )


def _predicted_tags(model):
    """Several where a prediction has several classes."""
    adapted = model.adapted
    if model.kind == zoo.SEGMENTER:
        most = 2
    elif getattr(adapted, "multi_label", False):
        most = 3
    else:
        return ["predicted"]
    known = len(model.classes) if model.classes is not None else most
    if model.kind == zoo.SEGMENTER and getattr(adapted, "background", None) is not None:
        known -= 1
    return [f"top{i + 1}" for i in range(max(1, min(most, known)))]


class _Maker:
    """Makes the parts of a run's targets."""

    def __init__(self, model, samples, lookup):
        self._model, self._samples, self._lookup = model, samples, lookup
        self._fields = {}
        #: whether an image may have several classes
        several = bool(getattr(model.adapted, "multi_label", False))
        self.several = several and model.kind != zoo.SEGMENTER

    def part(self, item):
        if isinstance(item, dict) and self.several and set(item) in ({"missed"}, {"ground_truth"}):
            return self._of_labels(*next(iter(item.items())))
        if isinstance(item, dict):
            return getattr(self, f"_{check_item(item)}")(item)
        if isinstance(item, str) and ranked_tags(item) is None:
            return self._named(item)
        value, tag = class_or_callable(item, self._model)
        if callable(value):
            return Fixed(value, value, tag)
        return self._classes((value,), tag)

    def _named(self, name):
        """A name: a class of the model or of class_map, else a label field."""
        from .label_field import kind_of

        members = self._lookup.find(name)
        if members:
            return self._classes(members, self._tag(name, members))
        if kind_of(self._samples, name):
            return self._field({"field": name})
        try:
            class_or_callable(name, self._model)
        except ValueError as error:
            from .label_field import label_fields

            check_not_nested(self._samples, name, "targets")

            fields = label_fields(self._samples)
            some = f"; label fields are {', '.join(fields)}" if fields else ""
            raise ValueError(f"{error}{some}") from None
        raise AssertionError(name)  # find() knows what class_or_callable does

    def _classes(self, members, tag):
        from ...cam_core import classes_target

        one = len(members) == 1
        if self._model.kind == zoo.SEGMENTER and not one:
            return Region(members, tag, members, "predicted", self._pixels(), tag)
        spec = classes_target(list(members), self._present())
        return Fixed(spec, members[0] if one else members, tag, None if one else tag)

    def _pixels(self):
        from ...cam_core.adapters.segmentation import pixel_scores

        return functools.partial(pixel_scores, output=self._model.adapted.output)

    def _present(self):
        """Which classes an image shows, where not every class is an answer for every image."""
        import torch

        if self._model.kind == zoo.SEGMENTER:
            return lambda areas: areas != 0  # -1 for the background, which is everywhere
        if not self.several:
            return None
        threshold = self._model.adapted.threshold
        return lambda logits: torch.sigmoid(logits.float()) >= threshold

    def _labels(self, field, whole=False):
        from .label_field import MOST, LabelField

        if (field, whole) not in self._fields:
            most = None if whole else MOST
            self._fields[field, whole] = LabelField(
                self._samples, field, self._lookup, most, self.several
            )
        return self._fields[field, whole]

    def _field(self, item):
        # what a network misses is explained as readily as what it gives
        present = None if self.several else self._present()
        return Labelled(self._labels(item["field"]), present)

    def _of_labels(self, kind, field):
        """All labelled classes of each sample, or those that are missed."""
        from .labelled import MissedLabels

        if field is None:
            field = "ground_truth" if kind == "ground_truth" else None
            from .label_field import kind_of

            if field is None or not kind_of(self._samples, field):
                field = self._only_field(kind)
        labels = self._labels(field, whole=True)
        if kind == "missed":
            return MissedLabels(labels, self._present())
        return Labelled(labels, None)

    def _contrast(self, item):
        if self._model.kind is not None and self._model.kind not in (
            zoo.CLASSIFIER,
            zoo.ZERO_SHOT,
        ):
            raise ValueError(
                f"targets: a contrast compares classes of the whole image, and this is a {self._model.kind}"
            )
        value = item["contrast"]
        if isinstance(value, list):
            if len(value) != 2:
                raise ValueError(
                    f"targets: a contrast needs two classes, got {value!r}; give ('contrast', 'A', 'B'), or "
                    "('contrast', field) for why the prediction and not the label"
                )
            pair = [self._members(name) for name in value]
            if set(pair[0]) & set(pair[1]):
                raise ValueError(f"targets: {value[0]!r} and {value[1]!r} are the same class")
            return self._contrasted(
                value, list(pair[0]), list(pair[1]), names=[str(v) for v in value]
            )
        if value == "runner_up":
            return self._contrasted(value, "predicted", "runner_up")
        if value == "auto":
            value = self._only_field()
        from .label_field import kind_of

        if (
            not kind_of(self._samples, value)
            and isinstance(value, str)
            and self._lookup.find(value)
        ):
            raise ValueError(
                f"targets: a contrast needs two classes; {value!r} is one, give ('contrast', {value!r}, 'B')"
            )
        return self._contrasted(value, "predicted", self._labels(value))

    def _contrasted(self, value, chosen, against, names=None):
        key = tuple(value) if isinstance(value, list) else value
        return Contrast(("contrast", key), chosen, against, self._model, names)

    def _only_field(self, kind="contrast"):
        from .label_field import label_fields
        from .true_labels import only_labels

        field, note = only_labels(self._samples, self.several)
        if field is None:
            fields = label_fields(self._samples)
            some = f", of {', '.join(fields)}" if fields else ""
            if kind != "contrast":
                example = {"missed": "('missed', field)", "ground_truth": "{'field': name}"}[kind]
                raise ValueError(
                    f"targets: {kind!r} alone means the one field of true labels. "
                    f"{note.partition('; name one')[0].rstrip('.')}. Name the field, {example}{some}"
                )
            raise ValueError(
                "targets: 'contrast' alone asks why the prediction and not the true label. "
                f"{note.partition('; name one')[0].rstrip('.')}. Name the field, ('contrast', field){some}, "
                "or do without labels: ('contrast', 'runner_up') or ('contrast', 'A', 'B')"
            )
        return field

    def _members(self, name):
        """The indices of a class by name or number, or of a group by its name in class_map."""
        if isinstance(name, str) and (members := self._lookup.find(name)):
            return members
        return (class_or_callable(name, self._model)[0],)

    def _class(self, item):
        over = item.get("over", "predicted")
        if "over" not in item:
            members = self._members(item["class"])
            return self._classes(members, self._tag(item["class"], members))
        self._check_segmenter(f"over={over!r}")
        if over in ("predicted", "all"):
            return self._region(item, over, over)
        return self._mask({"mask": over, "class": item["class"]})

    def _tag(self, name, members):
        """The class's own name; of several, or where class_map says what to call it, that one."""
        given = isinstance(name, str) and (
            len(members) > 1 or self._lookup.how(name) == "class_map"
        )
        return name if given else self._model.label(members[0])

    def _mask(self, item):
        from .mask_values import names_of_values
        from .regions import FieldRegion

        self._check_segmenter("mask")
        if "class" not in item:
            raise ValueError(
                f"targets: mask says where, and a class what: {{'mask': {item['mask']!r}, 'class': name}}"
            )
        members = self._members(item["class"])
        names = [item["class"]] if isinstance(item["class"], str) else []
        names += [self._model.label(i) for i in members]
        values, note = names_of_values(self._samples, item["mask"], self._model, self._pixels())
        region = FieldRegion(self._samples, item["mask"], names, values)
        return self._region(item, region, item["mask"], note)

    def _box(self, item):
        from .regions import BoxRegion

        self._check_segmenter("box")
        if "class" not in item:
            raise ValueError(
                "targets: box says where, and a class what: {'box': [x, y, w, h], 'class': name}"
            )
        return self._region(item, BoxRegion(item["box"]), "box")

    def _region(self, item, region, where, note=None):
        members = self._members(item["class"])
        name = self._tag(item["class"], members)
        key = (tuple(members), where, repr(item.get("box")))
        named = name if len(members) > 1 else None
        return Region(key, f"{name}_{where}", members, region, self._pixels(), named, note)

    def _check_segmenter(self, what):
        if self._model.kind != zoo.SEGMENTER:
            kind = self._model.kind or "classifier"
            raise ValueError(
                f"targets: {what} chooses pixels of a segmentation network, and this is a {kind}, whose "
                "score is of the whole image"
            )

    def _text(self, item):
        from .prompts import text_parts

        texts = item["text"] if isinstance(item["text"], list) else [item["text"]]
        return Several([Fixed(f, ("text", t), t, t) for t, f in text_parts(self._model, texts)])

    def _like(self, item):
        from .prompts import likeness

        function, tag = likeness(self._model, item["like"], self._samples)
        return Fixed(function, ("like", repr(item["like"])), tag, tag)
