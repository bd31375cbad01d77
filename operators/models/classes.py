"""Class names as users have them: lists, ``id2label``, YOLO's ``names``, ``class_to_idx``."""

import operator

_HELP = (
    "give a list of names in the order of the outputs, a dict from indices to names, or a dict from names "
    "to indices"
)


def read_classes(classes):
    """Brings class names into the order of the outputs.

    Args:
        classes: a list of names; a dict by index (``{0: "cat", 1: "dog"}``, with integer keys); a dict
            by name (``{"cat": 0, "dog": 1}``); of a zero-shot model also a dict from names to prompts;
            or None

    Returns:
        a list of strings; a dict of strings as it is, which :func:`names_of` or a zero-shot model reads;
        None for None

    Raises:
        ValueError: if they are none of these, or indices are missing or given twice
    """
    if classes is None:
        return None
    if hasattr(classes, "items"):
        return _read_mapping(dict(classes))
    if isinstance(classes, (str, bytes, set, frozenset)) or not hasattr(classes, "__iter__"):
        why = ", which has no order" if isinstance(classes, (set, frozenset)) else ""
        raise ValueError(f"classes: {type(classes).__name__} is not understood{why}; {_HELP}")
    names = [_name(name) for name in classes]
    if not names:
        raise ValueError(f"classes is empty; {_HELP}")
    return names


def names_of(classes):
    """Returns the names of a model whose classes are no prompts, a list; None for None.

    Args:
        classes: what :func:`read_classes` takes

    Raises:
        ValueError: as there, and if a dict maps names to texts
    """
    read = read_classes(classes)
    if not isinstance(read, dict):
        return read
    if all(isinstance(key, str) and key.strip().isdecimal() for key in read):
        return _in_order({int(key): name for key, name in read.items()}, read)
    key = next(iter(read))
    raise ValueError(
        f"classes: {{{key!r}: {read[key]!r}, ...}} maps names to texts, which only a zero-shot model reads; "
        f"{_HELP}"
    )


def _read_mapping(classes):
    if not classes:
        raise ValueError(f"classes is empty; {_HELP}")
    indices = {key: _index(key) for key in classes}
    numbers = {key: _index(value) for key, value in classes.items()}
    by_index = all(i is not None for i in indices.values())
    by_name = all(n is not None for n in numbers.values())
    if by_index and by_name:
        raise ValueError(
            f"classes: {_some(classes)} has numbers on both sides; give the names as strings"
        )
    if by_index:
        return _in_order({indices[key]: _name(value) for key, value in classes.items()}, classes)
    if by_name:
        names = [_name(key) for key in classes]
        wanted = list(numbers.values())
        twice = next((n for n in wanted if wanted.count(n) > 1), None)
        if twice is not None:
            same = [name for name, n in zip(names, wanted, strict=True) if n == twice]
            raise ValueError(
                f"classes: {' and '.join(map(repr, same[:3]))} have the same index {twice}; give one name for "
                "each output"
            )
        return _in_order(dict(zip(wanted, names, strict=True)), classes)
    if all(isinstance(key, str) for key in classes) and all(map(_is_text, classes.values())):
        return classes
    raise ValueError(f"classes: {_some(classes)} is not understood; {_HELP}")


def _is_text(value):
    several = isinstance(value, (list, tuple)) and value
    return isinstance(value, str) or bool(several and all(isinstance(text, str) for text in value))


def _index(value):
    """An integer of any kind; None for what is none. Booleans are none."""
    if isinstance(value, (bool, str)) or type(value).__name__ == "bool":
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _name(value):
    """A class name; several names of one class, as ImageNet's, are parted by commas."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (tuple, list)) and value and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    if (number := _index(value)) is not None:
        return str(number)  # digits are called so
    raise ValueError(f"classes: {value!r} is no name; {_HELP}")


def _in_order(names, given):
    """``{index: name}`` as a list; every index from 0 on has to be there."""
    if len(names) < len(given):
        raise ValueError(
            f"classes: {_some(given)} gives an index twice; give one name for each output"
        )
    wrong = [i for i in names if i < 0]
    missing = [i for i in range(len(names)) if i not in names]
    if wrong or missing:
        what = f"index {wrong[0]} is negative" if wrong else f"index {missing[0]} has no name"
        raise ValueError(
            f"classes: {_some(given)} has {len(names)} indices up to {max(names)}, and {what}; give a name for "
            "each output, from 0 on"
        )
    return [names[i] for i in range(len(names))]


def _some(classes):
    items = list(classes.items())
    inside = ", ".join(f"{key!r}: {value!r}" for key, value in items[:3])
    return "{" + inside + (", ...}" if len(items) > 3 else "}")


def check_count(model, outputs):
    """Raises a ValueError unless there is one class name per output.

    Args:
        model: the :class:`LoadedModel`, whose network has been run
        outputs: the number of its class scores; two of a network with one logit
    """
    names = model.classes
    if names is None:
        return
    ending = getattr(model.adapted, "ending", None)
    width = getattr(ending, "width", None) or outputs
    if model.one_name and outputs == 2 and width == 1:
        return
    given = 1 if model.one_name else len(names)
    if given != outputs:
        counted = "1 name" if given == 1 else f"{given} names"
        scores = "1 output" if outputs == 1 else f"{outputs} outputs"
        raise ValueError(
            f"classes has {counted}, the model has {scores}; one name per output, in order"
        )
