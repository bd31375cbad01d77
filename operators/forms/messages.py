"""Messages in the words of the App: the arguments that they name become the fields of the form."""

import re

from ..bias import params as bias
from ..compare import params as compare
from ..compute import params as compute
from ..jobs.params import labels_of
from ..text import escape_labels, set_said

_RUN = {"cam_key": "Run"}
#: operator -> argument -> what its form calls it. A test holds them against the forms.
LABELS = {
    "compute_cams": labels_of(compute.ARGUMENTS),
    "rerun_cams": {**_RUN, "new_key": "New key", "resume": labels_of(compute.PARAMS)["resume"]},
    "compare_cams": labels_of(compare.ARGUMENTS),
    "find_background_bias": labels_of(bias.ARGUMENTS),
    "test_region": labels_of(bias.REGION_ARGUMENTS),
    "heat_to_detections": {
        **_RUN, "field": "Heatmaps", "threshold": "Threshold", "min_area": "Smallest area",
        "tags": "Tags of the boxes", "out": "Field", "overwrite": "Replace earlier drafts",
    },
}  # fmt: skip

# An argument with its value: not a list or a dict, which a form has no one field for.
_ASSIGNED = re.compile(
    r"(?:\b(with|[Pp]ass|[Gg]ive|[Uu]se) )?(?<![\w.'\"])([a-z_]+)="
    r"(True|False|'[^']*'|\"[^\"]*\"|\d+)?(?![\w\[{(<'\"])"
)


def in_app(message, operator):
    """Puts a message for somebody who sees a form.

    Args:
        message: as it is read by who calls the operator from Python: ``cam_key: 'run' is taken; pass
            overwrite=True to ...``
        operator: the name of the form's operator

    Returns:
        a string: ``Key: 'run' is taken; switch on "Overwrite" to ...``. What the form has no field for
        stays as it is
    """
    labels = LABELS.get(operator, {})

    def field(match):
        before, name, value = match.groups()
        known = name in labels and name != "model"  # what is no name cannot be filled in
        return _set(labels[name], before, value) if known else match.group()

    text = _ASSIGNED.sub(field, str(message))
    first = re.match(r"(\w+)(:?)(?= (must )?)", text)
    if first and first[1] in labels and (first[2] or first[3] or "_" in first[1]):
        label = labels[first[1]]
        text = (f"{label}:" if first[2] else f'"{label}"') + text[first.end() :]
    names = sorted((n for n in labels if "_" in n), key=len, reverse=True)
    for name in names:
        text = re.sub(rf"(?<![\w.'\"]){name}(?![\w.'\"=(])", f'"{labels[name]}"', text)
    return text


def _set(label, before, value):
    """How a field is set, with what stood before it: ``pass overwrite=True``, ``with storage='disk'``."""
    if value in ("True", "False"):
        turned = "on" if value == "True" else "off"
        verb = f'switch {turned} "{label}"'
        state = f'"{label}" switched {turned}'
    elif value is None:
        verb, state = f'fill in "{label}"' if before else f'"{label}"', f'"{label}"'
    else:
        value = value.strip("'\"")
        verb, state = f'set "{label}" to {value}', f'"{label}" set to {value}'
    if before == "with":
        return f"with {state}"
    return verb[0].upper() + verb[1:] if before and before[0].isupper() else verb


def put(form, operator):
    """Puts everything that a form says into the words of the App, and texts of others as they read.

    Args:
        form: a ``types.Property`` whose type is the form's object
        operator: its name

    Returns:
        the form
    """
    import fiftyone.operators.types as types

    for prop in form.type.properties.values():
        if prop.error_message:
            prop.error_message = in_app(prop.error_message, operator)
        if isinstance(prop.view, types.Warning):
            for name in ("label", "description"):
                text = getattr(prop.view, name, None)
                if text:
                    set_said(prop.view, name, in_app(text, operator))
    return escape_labels(form)
