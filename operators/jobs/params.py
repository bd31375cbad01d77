"""Tables of parameters: a row says all of one that the signature and the docs do not.

From a table come the checked settings, the fields of the form, the labels in the App's messages, the way
from the form and into the queue, the record, and what rerun and resume compare.
"""

import dataclasses
from typing import Any

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


# kinds of values


@dataclasses.dataclass(frozen=True)
class Integer:
    """Integers from ``low`` to ``high``: no number is taken whatever it is."""

    low: int = 1
    high: int = 1_000_000_000

    def check(self, name, value):
        """Raises a ValueError for another value."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not self.low <= value <= self.high:
            raise ValueError(
                f"{name} must be an integer between {self.low} and {self.high}, got {value!r:.80}"
            )


@dataclasses.dataclass(frozen=True)
class Number:
    """Numbers from ``low`` to ``high``; ``what`` they are, for messages; ``within``: without the limits."""

    low: float
    high: float
    what: str = "number"
    within: bool = False

    def check(self, name, value):
        """Raises a ValueError for another value."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            inside = self.low < value < self.high
            if inside or (not self.within and value in (self.low, self.high)):
                return
        raise ValueError(
            f"{name} must be a {self.what} between {self.low} and {self.high}, got {value!r:.80}"
        )


class Boolean:
    """True or False."""

    def check(self, name, value):
        """Raises a ValueError for another value."""
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values: their names, or a dict from names to what a form calls them."""

    values: Any

    def check(self, name, value):
        """Raises a ValueError for another value."""
        if value not in list(self.values):
            raise ValueError(f"{name}: {value!r} is unknown; choose from {', '.join(self.values)}")


class Text:
    """A text in a form; from Python anything."""

    def check(self, name, value):
        """Raises nothing."""


class Texts(Text):
    """A list of texts in a form; from Python anything."""


TEXT = Text()


def anything(value):
    """The check of a parameter of which Python may give more than the form offers."""
    return value


# rows


@dataclasses.dataclass(frozen=True)
class Field:
    """What a form shows of a parameter; ``forms/schema.py`` draws it as its kind.

    Attributes:
        label: what the form, and every message in the App, calls it
        description (None): what stands below
        plain (False): whether the form draws it among others, without a line of code about it
    """

    label: str
    description: str | None = None
    plain: bool = False


def describe(value):
    """Returns a JSON-able description of a value that may hold callables, modules or tensors."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if callable(value):
        return f"<{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}>"
    return f"<{type(value).__name__}>"


@dataclasses.dataclass(frozen=True)
class Param:
    """A parameter of an operator.

    Attributes:
        name: in the signature
        default (None): likewise; it is not checked
        kind (TEXT): of its values, which checks them and is drawn
        field (None): how a form shows it; None where it is for Python only
        check (None): checks in place of the kind; maps a value to the one that is kept
        automatic (None): what stands in a form for the default
        none (None): what stands in a form for None where that is not the default
        queued (None): maps a value to what is sent to a queue, as the form would send it
        recorded (describe): maps a value to JSON for the record; None where it is about one call only
        decisive (False): whether only a run that agrees in it is resumed; or what it decides in the record
        rerun (False): whether a rerun takes it from the record as it is
    """

    name: str
    default: Any = None
    kind: Any = TEXT
    field: Field | None = None
    check: Any = None
    automatic: Any = None
    none: str | None = None
    queued: Any = None
    recorded: Any = describe
    decisive: Any = False
    rerun: bool = False

    def checked(self, value):
        """Returns the value that is kept; raises a ValueError that names the parameter."""
        if value is self.default or (type(value) is type(self.default) and value == self.default):
            return value
        if self.check is not None:
            return self.check(value)
        self.kind.check(self.name, value)
        return value

    def but(self, **changes):
        """The row of another operator, in which something differs."""
        return dataclasses.replace(self, **changes)


# what jobs of several operators have

BATCH_SIZE = Param("batch_size", "auto", Integer(1, 4096), automatic=0)
NUM_WORKERS = Param("num_workers", kind=Integer(0, 1024))
DEVICE = Param("device")
PRECISION = Param("precision", "auto", Choice(PRECISIONS))
# what a record in MongoDB and a generator of torch take
SEED = Param("seed", 51, Integer(0, 2**63 - 1))
PROBE = Param("probe", "auto", Integer(2), automatic=0)


# what is read off a table


def settings(table) -> Any:
    """Makes the base class of an operator's settings: a dataclass, each of its fields checked.

    Args:
        table: a list of :class:`Param`
    """
    fields = [(p.name, Any, dataclasses.field(default=p.default)) for p in table]
    return dataclasses.make_dataclass(
        "Checked", fields, bases=(_Settings,), namespace={"table": table}
    )


class _Settings:
    table: tuple = ()

    def __post_init__(self):
        """Raises a ValueError for every argument that can be judged by itself."""
        for param in self.table:
            setattr(self, param.name, param.checked(getattr(self, param.name)))

    def describe(self):
        """Returns the settings as JSON-able values, for the run record."""
        return {
            p.name: p.recorded(getattr(self, p.name)) for p in self.table if p.recorded is not None
        }


def arguments_of(table, params):
    """Turns a form's parameters into arguments: those that are filled in.

    Args:
        table: a list of :class:`Param`
        params: ``ctx.params``

    Returns:
        a dict
    """
    given = {}
    for param in table:
        value = params.get(param.name)
        automatic = param.automatic is not None and value == param.automatic
        if value not in (None, "", []) and not automatic:
            given[param.name] = None if param.none is not None and value == param.none else value
    return given


def params_of(table, arguments, more=()):
    """Turns arguments into a form's parameters, the way into a queue: the inverse of :func:`arguments_of`.

    Args:
        table: a list of :class:`Param`
        arguments: names and numbers only; what is None is left out
        more (()): parameters that stand in the form otherwise than in a call

    Returns:
        a JSON-able dict

    Raises:
        ValueError: if a value cannot be sent to another process
    """
    rows, params = {p.name: p for p in table}, {}
    for name, value in arguments.items():
        row = rows.get(name) or Param(name)
        value = row.none if value is None else value
        if value is None or (row.automatic is not None and value == row.default):
            continue
        params[name] = value if row.queued is None else row.queued(value)
    params.update(more)
    for name, value in params.items():
        if describe(value) != value:
            raise ValueError(
                f"delegate: {name} cannot be sent to another process; use names, or delegate=False"
            )
    return params


def labels_of(table):
    """Returns what a form calls its parameters, by their names."""
    return {p.name: p.field.label for p in table if p.field is not None}


def decisive_names(table):
    """Returns the names in a record in which a run has to agree with the one that it resumes."""
    decided = [(p.name,) if p.decisive is True else p.decisive or () for p in table]
    return [name for names in decided for name in names]
