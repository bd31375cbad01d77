"""Inputs of a form, drawn from the rows of a table of parameters, and how a wrong one is marked."""

import fiftyone.operators.types as types

from ..jobs.params import Boolean, Choice, Integer, Number, Texts


def add(inputs, ctx, table, name, **options):
    """Draws the input of a parameter as its row in a table says, and marks it where its value is wrong.

    Args:
        inputs: the form's ``types.Object``
        ctx: the execution context
        table: a list of :class:`~operators.jobs.params.Param`
        name: of the parameter, whose row has a field
        **options: of the input, in place of what the row says, such as ``description``; and ``values`` to
            choose from, as :func:`choose` takes them

    Returns:
        the ``types.Property``
    """
    row = next(param for param in table if param.name == name)
    default = row.default if row.automatic is None else row.automatic
    said = {"label": row.field.label, "description": row.field.description, "default": default}
    prop = _draw(inputs, row, {**said, **options})
    value = ctx.params.get(name)
    if value not in (None, "", [], row.automatic, row.none):
        mark(prop, row.checked, value)
    return prop


def _draw(inputs, row, options):
    kind, name = row.kind, row.name
    if isinstance(kind, Texts):
        return choose_several(inputs, name, options.pop("values", ()), **options)
    if isinstance(kind, Choice) or "values" in options:
        values = options.pop("values", None) or kind.values
        return choose(inputs, name, values, **options)
    if isinstance(kind, Boolean):
        return inputs.bool(name, **{"view": types.CheckboxView(), **options})
    if isinstance(kind, (Integer, Number)):
        low = kind.low if row.automatic is None else row.automatic
        make = inputs.int if isinstance(kind, Integer) else inputs.float
        return make(name, min=low, max=kind.high, **options)
    return inputs.str(name, **options)


def add_plain(inputs, ctx, table, first=(), without=()):
    """Draws what a table calls plain, in its order but for what comes ``first``."""
    names = [row.name for row in table if row.field is not None and row.field.plain]
    for name in dict.fromkeys((*first, *names)):
        if name not in without:
            add(inputs, ctx, table, name)


def choose(inputs, name, values, view=None, **options):
    """Draws a choice; ``values`` may be a dict to labels, or to pairs of label and description."""
    view = _filled(view or types.DropdownView(), values)
    return inputs.enum(name, view.values(), view=view, **options)


def choose_name(inputs, name, values, value, **options):
    """Draws a choice of names, with values as :func:`choose` takes them.

    A name that is not among them is drawn as a text: programs are told a few of hundreds of choices and may
    give any. In the App nothing is typed here, as every letter would be a new form.

    Args:
        inputs: the form's ``types.Object``
        name: of the parameter
        values: the names
        value: what was given, or None
        **options: of the input
    """
    if value and value not in values:
        return inputs.str(name, **options)
    return choose(inputs, name, values, types.AutocompleteView(allow_user_input=False), **options)


def choose_several(inputs, name, values, view=None, **options):
    """Draws a choice of several, with values as :func:`choose` takes them."""
    view = _filled(view or types.DropdownView(multiple=True), values)
    return inputs.list(name, types.String(), view=view, **options)


def _filled(view, values):
    for value in values:
        text = values[value] if isinstance(values, dict) else value
        label, description = (text, None) if isinstance(text, str) else text
        view.add_choice(value, label=label, description=description)
    return view


def mark(prop, check, *args):
    """Returns what a check returns; marks the input as wrong where it raises a ValueError."""
    try:
        return check(*args)
    except ValueError as error:
        invalid(prop, str(error))
        return None


def invalid(prop, message):
    """Marks an input as wrong, so that the form cannot be sent; returns True."""
    prop.invalid = True
    prop.error_message = message
    return True


def refuse(inputs, name, label, description=None, error=None):
    """Draws a warning that keeps the form from being sent; ``error`` is what it says for the wrong input."""
    prop = inputs.view(name, types.Warning(label=label, description=description))
    invalid(prop, error or description or label)


def titled(inputs, label, button):
    """The form of an operator.

    Args:
        inputs: the ``types.Object`` of its inputs
        label: its heading
        button: what the button that sends it is called

    Returns:
        a ``types.Property``
    """
    return types.Property(inputs, view=types.PromptView(label=label, submit_button_label=button))


def refused(label, reason):
    """A form that says why there is none, and cannot be sent."""
    inputs = types.Object()
    refuse(inputs, "problem", "This cannot run", reason)
    return types.Property(inputs, view=types.View(label=label))


def is_wrong(inputs):
    """Whether an input is marked as wrong."""
    return any(prop.invalid for prop in inputs.properties.values())
