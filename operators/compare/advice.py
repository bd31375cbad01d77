"""Which method to show, and on what evidence: said from the rows of a leaderboard alone."""

import math

from ..data.heatmap_reader import BASELINES
from ..text import counted, number, too_few


def recommendation(rows, ranked):
    """Which method to show.

    Args:
        rows: the leaderboard, best first, as it is stored
        ranked: names of the metrics that methods are ranked by

    Returns:
        a dict ``field, method, within_noise, sentence, evidence``
    """
    known = [row for row in rows if not row["baseline"] and row["mean_rank"]["n"]]
    if known:
        return _Advice(rows, ranked, known).found()
    return {
        "field": None, "method": None, "within_noise": False, "evidence": [],
        "sentence": "No recommendation: no sample has two maps to compare.",
    }  # fmt: skip


class _Advice:
    """What is said of the best of some rows."""

    def __init__(self, rows, ranked, known):
        self._ranked, self._tests = ranked, max(1, len(rows) * (len(rows) - 1) // 2)
        self._best, *self._rest = known
        fields = {row["field"]: row for row in rows}
        # in the order in which they were compared, not in that of their ranks
        others = [fields[name] for name in self._best["wins"]]
        self._baselines = [row for row in others if row["baseline"]]
        self._count = self._best["mean_rank"]["n"]

    def found(self):
        """The recommendation as it is stored."""
        tied = [row for row in self._rest if not self._pair(row).decided]
        return {
            "field": self._best["field"],
            "method": self._best["method"],
            "within_noise": bool(tied) or self._too_few(self._count),
            "sentence": self._sentence(tied),
            "evidence": self._evidence(),
        }

    def _pair(self, row):
        """What the best is ahead of another."""
        from ...cam_core.stats.ranking import Paired

        values = {k: v for k, v in self._best["wins"][row["field"]].items() if k != "share"}
        return Paired(**{k: math.nan if v is None else v for k, v in values.items()})

    def _sentence(self, tied):
        best, rest, floors = self._best["label"], self._rest, [_floor(b) for b in self._baselines]
        if self._too_few(self._count):
            few = f"{counted(self._count, 'samples')} {'is' if self._count == 1 else 'are'} too few to"
            if rest:
                return f"{few} rank methods. {best} has the best mean rank."
            return f"{few} compare {best} with {_listed(floors)}."
        what = f"over {_listed([_metric(n) for n in self._ranked])} on {self._count:,} samples"
        unbeaten = [_floor(b) for b in self._baselines if not self._beats(b)]
        if unbeaten:
            names = _listed(unbeaten, "or")
            if not rest:
                return f"Do not rely on these heatmaps: {best} does not beat {names} {what}."
            return f"Do not rely on these heatmaps: no method beats {names} {what}. The best of them is {best}."
        if not rest:
            return f"{best} beats {_listed(floors)} {what}. There is no other method to compare."
        if tied:
            names = _listed([best, *(row["label"] for row in tied)])
            return f"Within noise: {names} do not differ clearly {what}. {best} has the best mean rank."
        others = "every other method" if len(rest) > 1 else rest[0]["label"]
        return f"Recommended: {best}. It beats {others} {what}."

    def _too_few(self, count):
        """Whether even the same winner on every sample could be chance, after adjusting for the pairs."""
        return too_few(count, self._tests)

    def _beats(self, row):
        pair = self._pair(row)
        return pair.decided and pair.mean > 0

    def _how_sure(self, pair, what=""):
        """How far a difference may be chance; of few samples no interval and no p are claimed."""
        if self._too_few(pair.n):
            return f"n = {pair.n}, too few for a test"
        return f"{what}{number(pair.low)} to {number(pair.high)}, n = {pair.n}, p = {pair.adjusted:.2g}"

    def _evidence(self):
        found, best = [], self._best["label"]
        for row in self._rest[:1]:
            p = self._pair(row)
            found.append(
                f"{best} ranks {number(abs(p.mean))} places {_way(p.mean)} than the runner-up "
                f"{row['label']} ({self._how_sure(p, '95 % interval of the paired difference ')})."
            )
        for row in self._baselines:
            p = self._pair(row)
            found.append(
                f"Against the baseline {row['label']}: {number(abs(p.mean))} places {_way(p.mean)} "
                f"({self._how_sure(p)})."
            )
        if not self._best["class_discriminative"]:
            found.append(
                f"{best} is the same for every class: it shows what stands out in the picture, not evidence for "
                "a class."
            )
        return found


def _floor(row):
    """A baseline within a sentence."""
    return f"a {row['label']}" if row["field"] in BASELINES else row["label"]


def _metric(name):
    """The label of a metric within a sentence."""
    from ...cam_core.metrics.catalogue import METRICS

    label = METRICS[name].label
    return label if label.isupper() else label[0].lower() + label[1:]


def _way(value):
    return "better" if value >= 0 else "worse"


def _listed(names, word="and"):
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
