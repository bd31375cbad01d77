"""Findings as plain data for programs: the same in Python, in a record, in a queue, over the network."""

import dataclasses

from .record import jsonable

#: entries of a list, and of a dict by ids, that a program is answered with; Python has all of them
MOST_ENTRIES = 1_000


class PlainData:
    """What a job found, or what is known of a run: a dataclass that can be had as JSON.

    Attributes:
        kind: what it is, such as ``"run"``
        version: of the keys; raised whenever one goes, or means something else. New ones may come
    """

    kind = None
    version = 1

    def to_dict(self):
        """Returns ``kind``, ``version`` and the attributes of the class, as JSON has them.

        Arrays are lists, what is not finite is None, times are texts.
        """
        return jsonable({"kind": self.kind, "version": self.version, **self.values()})

    def values(self):
        """The attributes that are data."""
        return dataclasses.asdict(self)


def answer(found):
    """What an operator returns to a program.

    A queue keeps it in one document of the database, and an agent has to read it: so long lists are cut.

    Args:
        found: a :class:`PlainData`

    Returns:
        its ``to_dict()`` with ``text``, the findings in words, and where lists were cut ``cut``,
        ``{name: how many entries there are}``
    """
    plain, cut = found.to_dict(), {}
    shortened = {name: _shortened(value, name, cut) for name, value in plain.items()}
    return {**shortened, "text": str(found), **({"cut": cut} if cut else {})}


def _shortened(value, path, cut):
    if isinstance(value, (dict, list)) and len(value) > MOST_ENTRIES:
        cut[path] = len(value)
        value = (
            dict(list(value.items())[:MOST_ENTRIES])
            if isinstance(value, dict)
            else value[:MOST_ENTRIES]
        )
    if isinstance(value, dict):
        return {k: _shortened(v, f"{path}.{k}", cut) for k, v in value.items()}
    if isinstance(value, list):
        return [_shortened(v, path, cut) for v in value]
    return value
