"""The labelled classes of a multi-label network: all that a sample has, or those that are missed."""

import dataclasses

from .columns import ABSENT, CORRECT, Column, Part, missing_labels, padded


class MissedLabels(Part):
    """The labelled classes of each sample that the network does not give it.

    Args:
        labels: the ``label_field.LabelField``
        present: see ``cam_core.classes_target``
    """

    def __init__(self, labels, present):
        self._labels, self._present = labels, present
        self.summary = labels.summary
        tags = ["missed"] if labels.width == 1 else [f"missed{i + 1}" for i in range(labels.width)]
        self.found = [(("missed", labels.field, tag), tag) for tag in tags]

    def columns(self, items, size):
        """A column for each class that can be missed, in the order of the labels."""
        rows = self._labels.columns([item.id for item in items])
        groups = [[members for _, members in row if members] for row in rows]
        return [
            Column(
                _Missed(groups, number, self._present),
                self._missing(rows, number, self._labels.lookup),
            )
            for number in range(self._labels.width)
        ]

    @staticmethod
    def _missing(rows, number, lookup):
        """Why a sample has no such class: no label, none that is known, or nothing (more) is missed."""
        first = missing_labels([_first(row) for row in rows], lookup)
        left = CORRECT if number == 0 else ABSENT
        return [left if why is None else why for why in first]


def _first(row):
    """The pair (name, classes) that stands for a sample's labels, known ones first."""
    return next((pair for pair in row if pair[1]), row[0] if row else None)


@dataclasses.dataclass(frozen=True, eq=False)
class _Missed:
    """The n-th labelled class of each image that its scores do not show; see ``ClassesSpec``."""

    groups: list
    number: int
    present: object

    def resolve(self, candidates, count):
        """Returns the one ``Target`` per image, once the scores are known."""
        from ...cam_core import classes_target

        shown = self.present(candidates().detach()).cpu()
        rows = []
        for row, groups in enumerate(self.groups):
            left = [group for group in groups if not bool(shown[row, list(group)].any())]
            rows.append(left[self.number] if self.number < len(left) else ())
        return classes_target(padded(rows)).resolve(candidates, count)
