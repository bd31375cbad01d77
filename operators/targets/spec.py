"""What a run explains: specifications checked against the model and put into words.

A specification has one form that JSON can hold, :func:`canonical`, which is what a run records, what
a queue is sent and what a form makes.
"""

import re

#: what a target that is a dict may be, and what else may stand in it
KINDS = {
    "field": (), "contrast": (), "class": ("over",), "text": (), "like": (), "mask": ("class",),
    "box": ("class",),
}  # fmt: skip
HELP = (
    "give 'predicted', 'top_3', a class name or index, a label field, 'contrast', a callable, a dict with "
    f"one of {', '.join(KINDS)}, or a list of these"
)


def canonical(spec):
    """Brings a specification into the one form that JSON can hold; functions stay functions.

    Args:
        spec: what a user gave as ``targets``

    Returns:
        a string, a number, a callable, a dict, or a list of these: ``("contrast", "A", "B")`` becomes
        ``{"contrast": ["A", "B"]}``
    """
    if spec == "contrast":
        return {"contrast": "auto"}
    if isinstance(spec, dict):
        return {str(k): _plain_value(v) for k, v in spec.items()}
    if isinstance(spec, (list, tuple)):
        if spec and isinstance(spec[0], str) and spec[0] == "contrast":
            rest = [_plain_value(v) for v in spec[1:]]
            return {"contrast": rest[0] if len(rest) == 1 else rest or "auto"}
        return [canonical(item) for item in spec]
    return spec


def _plain_value(value):
    """Tensors and arrays, such as an embedding, as numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def items_of(spec):
    """Returns a list of the targets of a specification."""
    spec = canonical(spec)
    return spec if isinstance(spec, list) else [spec]


def texts_of(spec):
    """Returns the prompts that a specification asks for, in order."""
    items = [i for i in items_of(spec) if isinstance(i, dict) and "text" in i]
    return [text for item in items for text in _texts(item["text"])]


def _texts(value):
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ValueError(
            f"targets: text must be a prompt or a list of prompts, none of them empty, got {value!r}"
        )
    return texts


def check_item(item):
    """Raises a ValueError unless a target that is a dict has one kind and nothing unknown.

    Args:
        item: one target in its canonical form

    Returns:
        its kind, one of :data:`KINDS`
    """
    if set(item) <= {"class", "mask", "box", "over"} and len(set(item) & {"mask", "box"}) == 1:
        kind = next(k for k in ("mask", "box") if k in item)
    else:
        kind = next((k for k in KINDS if k in item), None)
    unknown = [k for k in item if k != kind and k not in KINDS.get(kind, ())]
    if kind is None or unknown:
        raise ValueError(f"targets: {item!r} is not understood; {HELP}")
    if kind == "text":
        _texts(item["text"])
    return kind


def resolve_targets(spec, model):
    """Turns a specification of classes alone into what the engine takes, and names for the fields.

    Args:
        spec: ``"predicted"``, ``"top_3"``, a class index or name, a callable, or a list of classes
            and callables
        model: the :class:`LoadedModel`, whose class names are searched

    Returns:
        the engine's specification, and a list of one tag per target

    Raises:
        ValueError: if a class is not known, or a target depends on more than the model
    """
    tags = ranked_tags(spec)
    if tags is not None:
        return spec, tags
    items = items_of(spec)
    check_some(items)
    found = [(class_or_callable(item, model)) for item in items]
    return [value for value, _ in found], distinct_tags(found)


def check_some(items):
    """Raises a ValueError if nothing is to be explained."""
    if not items:
        raise ValueError("targets is empty; leave it out to explain the predicted class")


def distinct_tags(found):
    """Names targets so that no two share a name.

    Args:
        found: list of (value, tag)

    Raises:
        ValueError: if a target is given twice
    """
    values, tags = [v for v, _ in found], [t for _, t in found]
    twice = [t for v, t in found if values.count(v) > 1]
    if twice:
        raise ValueError(f"targets: {twice[0]!r} is given twice")
    # Class names need not be unique, and every lambda has the same name.
    return [t if tags.count(t) == 1 else _distinct(i, v, t) for i, (v, t) in enumerate(found)]


def ranked_tags(spec):
    """Names the targets of ``"predicted"`` and ``"top_3"``; None for anything else."""
    from ...cam_core.targets.base import top_ranks

    if isinstance(spec, str) and spec == "predicted":
        return ["predicted"]
    ranks = top_ranks(spec) if isinstance(spec, str) else None
    return None if ranks is None else [f"top{i + 1}" for i in range(ranks)]


def _distinct(position, value, tag):
    return f"{tag}_{value}" if isinstance(value, int) else f"{tag}_{position + 1}"


def class_or_callable(item, model):
    """Resolves a class index or name, or a callable.

    Returns:
        the index or the callable, and its name

    Raises:
        ValueError: if it is neither
    """
    from ...cam_core import class_index

    if callable(item):
        return item, getattr(item, "__name__", "custom").strip("<>")
    if ranked_tags(item) is not None:
        raise ValueError(
            f"targets: {item!r} stands alone; a list holds class names, indices or callables"
        )
    if isinstance(item, dict):
        raise ValueError(
            f"targets: {item!r} depends on more than the model's classes; here a class is needed"
        )
    if isinstance(item, str):
        if model.classes is None:
            raise ValueError(
                f"targets: {item!r} needs class names; pass classes=, or give an index"
            )
        item = class_index(item, model.classes)
    if isinstance(item, bool) or not isinstance(item, int):
        raise ValueError(f"targets: {item!r} is not understood; {HELP}")
    return item, model.label(item)


class Lookup:
    """From names to the model's classes: its own names, or those that ``class_map`` gives.

    Args:
        model: the :class:`LoadedModel`
        class_map (None): name -> class of the model, or several that count as one; names or indices

    Raises:
        ValueError: if ``class_map`` is no such mapping or names a class that the model lacks
    """

    def __init__(self, model, class_map=None):
        from ...cam_core import ClassNames
        from ...cam_core.targets.base import distinct_names

        # Their names, not the model: targets are sent to workers.
        self._labels = None if model.classes is None else distinct_names(model.classes)
        self.names = None if model.classes is None else ClassNames(model.classes)
        self.groups = {}
        for name, classes in _checked_map(class_map).items():
            several = classes if isinstance(classes, (list, tuple)) else [classes]
            members = [self._member(name, c) for c in several]
            self.groups[_key(name)] = tuple(dict.fromkeys(members))

    def _member(self, name, value):
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 0 or (self.names and value >= len(self.names.classes)):
                raise ValueError(f"class_map: index {value} of {name!r} is out of range")
            return value
        if not isinstance(value, str) or not value.strip():
            raise ValueError(
                f"class_map: {value!r} of {name!r} is no class name and no class index"
            )
        if self.names is None:
            raise ValueError(
                "class_map: the model has no class names; pass classes=, or map to class indices"
            )
        hits = self.names.find(value)
        if len(hits) > 1:
            raise ValueError(
                f"class_map: {self.names.several(value)}; {name!r} is mapped to one of these, or to the index"
            )
        if not hits:
            near = self.names.near(value)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise ValueError(
                f"class_map: the model has no class {value!r}, which {name!r} is mapped to{hint}"
            )
        return hits[0]

    def find(self, name):
        """Returns the indices of the classes that a name stands for; ``()`` if it is not clear."""
        group = self.groups.get(_key(name))
        if group is not None:
            return group
        hits = [] if self.names is None else self.names.find(str(name))
        return tuple(hits) if len(hits) == 1 else ()

    def several(self, name):
        """Says which classes of the model share a name; None where it is clear or unknown."""
        if self.names is None or _key(name) in self.groups:
            return None
        return self.names.several(str(name))

    def how(self, name):
        """Says how a name was found: ``"class_map"``, ``"same name"`` or ``"another spelling"``."""
        if _key(name) in self.groups:
            return "class_map"
        return "same name" if name in self.names.classes else "another spelling"

    def near(self, name):
        """Returns names of classes that are spelt like a name."""
        return [] if self.names is None else self.names.near(str(name))

    def label(self, members):
        """Names one class, or several that count as one."""
        labels = self._labels or ()
        return " or ".join(labels[i] if i < len(labels) else f"class {i}" for i in members)


def _key(name):
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()


def _checked_map(class_map):
    if class_map is None:
        return {}
    wrong = not isinstance(class_map, dict) or not all(
        isinstance(k, str) and k.strip() and v not in (None, "", [], ())
        for k, v in class_map.items()
    )
    if wrong or not class_map:
        raise ValueError(
            "class_map must map names to one of the model's classes or several, for example "
            f"{{'cat': ['tabby', 'tiger cat']}}, got {class_map!r}"
        )
    return class_map
