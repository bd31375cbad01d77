"""Which classes images have: a unit without the class that is asked for is not tested, it lends."""

import numpy as np

from ..compute.recorded_plan import MAPPED

#: and so many are tested where no maps are needed
SCORED = 16
# Where every sample has a class from the model's threshold on, it has it from here on.
_MIDDLE = 0.5
# Samples that only lend: at least so many, and as many as are tested.
_FEWEST_LENDERS = 32


class ClassMembership:
    """Which pairs of a sample and a class are tested, and who has which class.

    A sample has the class that is predicted, of a multi-label network all classes from the
    threshold on, and whatever its label names. A sample without the class that is asked for is not
    tested: it has no such score to lose. It lends what the others are tried with.

    Args:
        model: the :class:`LoadedModel`
        target: ``"predicted"`` or a class index
        classes: how many classes the model has
        labels: the :class:`~operators.targets.true_labels.Labels`, or None

    Attributes:
        multi_label: whether classes do not exclude each other
        named: whether one class is asked for
        threshold: (C,) from which on an image has a class; None where it has the strongest alone
        has: (R,) bool, which rows of the scan have the class that they are asked for
        predicted: (R,) bool, likewise by the prediction alone
        members: R sets of the classes that labels name, None where there is no label
        notes: sentences that a user should read
    """

    def __init__(self, model, target, classes, labels=None):
        self._model, self._labels, self._count = model, labels, classes
        self.multi_label = bool(getattr(model.adapted, "multi_label", False))
        self.named = target != "predicted"
        self.threshold = self.has = self.predicted = self.members = None
        self.notes = []

    @property
    def plain(self):
        """Whether each sample is tested for what is predicted, and can have nothing else."""
        return not self.multi_label and not self.named

    def slots(self, most=MAPPED):
        """How many classes of a sample can be tested."""
        return min(most, self._count) if self.multi_label and not self.named else 1

    def settle(self, scan):
        """Finds out who has the class that is asked for; rows of a scan without a class go.

        Args:
            scan: the :class:`Scan`, through with all samples

        Raises:
            ValueError: if no sample has the named class
        """
        if self.multi_label:
            base = float(self._model.adapted.threshold)
            everywhere = scan.having >= max(1, scan.scored)
            self.threshold = np.where(everywhere, max(base, _MIDDLE), base)
        known = scan.explained >= 0
        self.predicted = known & self._by_score(scan)
        if scan.slots > 1:
            # a sample that shows no class keeps one row, which says so
            kept = self.predicted | (scan.slot == 0)
            scan.keep(kept)
            known, self.predicted = known[kept], self.predicted[kept]
        self.members = self._named_by_labels(scan)
        if self.plain:
            self.has = known
            return
        labelled = [
            m is not None and int(c) in m for m, c in zip(self.members, scan.explained, strict=True)
        ]
        self.has = known & (self.predicted | np.array(labelled, bool))
        self._say(scan, known)
        if self.multi_label:
            other = np.where(scan.predicted == scan.explained, -1, scan.predicted)
            scan.predicted = np.where(self.predicted, scan.explained, other)

    def _by_score(self, scan):
        if not self.multi_label:
            return scan.predicted == scan.explained
        limit = self.threshold[np.maximum(scan.explained, 0)]
        return np.nan_to_num(scan.score, nan=-1) >= limit

    def _named_by_labels(self, scan):
        if self._labels is None or self._labels.field is None:
            return [None] * len(scan.ids)
        return self._labels.members(scan.ids)

    def _say(self, scan, known):
        if self.named and not self.has.any() and known.any():
            name = self._model.label(int(scan.explained[known][0]))
            raise ValueError(
                f"samples: none has the class {name!r}, by its prediction or its label; choose samples that "
                "show it"
            )
        if self.threshold is not None:
            asked = np.unique(scan.explained[known])
            raised = [int(c) for c in asked if self.threshold[c] > self._model.adapted.threshold]
            if raised:
                names = ", ".join(self._model.label(c) for c in raised[:5])
                self.notes.append(
                    f"Every sample has {names} from the threshold {self._model.adapted.threshold:g} on; "
                    f"here those from {_MIDDLE:g} on count as having it."
                )

    def lenders(self, scan, rows, limit, seed):
        """Rows that lend, beside those tested: samples without the classes that these are tested for.

        Args:
            scan: the :class:`Scan`
            rows: (n,) rows that are tested
            limit: at most so many for each class
            seed: of the draw

        Returns:
            (m,) sorted rows, one for each sample
        """
        if self.plain:
            return np.empty(0, int)
        first = np.flatnonzero(scan.slot == 0)
        first_of = np.full(int(scan.image_index.max(initial=-1)) + 1, -1)
        first_of[scan.image_index[first]] = first
        scored = np.zeros(len(first_of), bool)
        scored[scan.image_index[first]] = np.isfinite(scan.score[first])
        tested, chosen = np.zeros(len(first_of), bool), np.zeros(len(first_of), bool)
        tested[scan.image_index[rows]] = True
        for own in np.unique(scan.explained[rows]).tolist():
            carriers = np.zeros(len(first_of), bool)
            carriers[scan.image_index[self.has & (scan.explained == own)]] = True
            count = int((scan.explained[rows] == own).sum())
            there = int(((tested | chosen) & ~carriers).sum())
            rest = np.flatnonzero(scored & ~carriers & ~tested & ~chosen)
            drawn = np.random.default_rng([seed, own, 7]).permutation(rest)
            chosen[drawn[: max(0, min(limit, max(_FEWEST_LENDERS, count)) - there)]] = True
        return np.sort(first_of[chosen])

    def arguments(self, scan, tested):
        """What the checks are told of the classes.

        Args:
            scan: the :class:`Scan`
            tested: the :class:`Probe`

        Returns:
            keyword arguments of ``swap_check`` and ``region_check``
        """
        if self.plain:
            return {"targets": scan.explained[tested.all_rows]}
        labelled = np.zeros((len(tested.all_rows), self._count), bool)
        for place, row in enumerate(tested.all_rows.tolist()):
            for own in self.members[row] or ():
                if own < self._count:
                    labelled[place, own] = True
        return {
            "samples": np.arange(len(tested.rows)),
            "classes": scan.explained[tested.rows],
            "threshold": self.threshold,
            "labelled": labelled,
        }

    def correct(self, scan):
        """(R,) 1 where a class is predicted as the label says, 0 where not, NaN without a label."""
        found = np.full(len(scan.ids), np.nan)
        for row, members in enumerate(self.members):
            if members is not None and scan.explained[row] >= 0:
                found[row] = (int(scan.explained[row]) in members) == bool(self.predicted[row])
        return found

    def truth(self, scan):
        """(R,) the class where a label names it, -1 where there is no label, -3 where it names others."""
        found = np.full(len(scan.ids), -1)
        for row, members in enumerate(self.members):
            own = int(scan.explained[row])
            if members is not None and own >= 0:
                found[row] = own if own in members else -3
        return found
