"""The evidence rule: what may be said of one sample, in fixed words.

Heat finds and shows, the swap confirms: nothing is said to rely on the background from heat alone, and
"relies on object" means that these checks found no dependence, not that there is none. A loss is judged
by its share of the score, and beside it what the prediction does: a sample whose prediction changes on
most other backgrounds relies on more than its object, however little its score has to lose.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..stats.resampling import minority_chance, more_often_p

RELIES = "relies on background"
HIDDEN = "relies on background, not visible in heat"
UNTESTED = "heat outside, untested"
HARMLESS = "heat outside, harmless"
OBJECT = "relies on object"
UNSTABLE = "unstable when pasted"
CANNOT_SAY = "cannot say"
VERDICTS = (RELIES, HIDDEN, UNTESTED, HARMLESS, OBJECT, UNSTABLE, CANNOT_SAY)

_WHY = {
    "no object": "no object is annotated for the explained class",
    "object absent": "only other classes are annotated",
    "fills the frame": "the object fills the image",
    "no donors": "no sample of another predicted class has a background to use",
    "not found": "the detector does not find it",
    "no class": "the model has no class of this name",
}
_UNSURE, _MAY_RELY, _IN_PART = "unsure", "may rely on its background", "depends in part"
_CHANGES, _FEW_DONORS, _NEITHER = "the prediction changes", "too few donors", "rests on neither"
#: why nothing can be said of a sample although it was tested
UNDECIDED = (_MAY_RELY, _IN_PART, _CHANGES, _FEW_DONORS, _NEITHER, _UNSURE)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Thresholds of the evidence rule.

    Attributes:
        dependence (0.5): from here the score relies on the background: so much probability is lost
        nearly_all (0.95): where a score is too low to lose that much: so large a share of it, and the
            prediction changes on most backgrounds
        relative_dependence (0.6): the share of the score from which it does in a dataset most of whose
            scores are low, where dependence is a share of the score
        confidence (0.75): how probable it has to be that dependence reaches that, given the sample's
            swaps and what samples like it lose, and that the prediction stays on most backgrounds, or
            changes on most
        swap_drop (0.5): what the sample's own swaps must have lost at least; the estimate alone,
            which also draws on samples like it, is no evidence. Less of a score that is too low for it,
            in proportion
        relative_swap_drop (0.15): likewise where dependence is a share of the score
        partial (0.25): from this share of the score on it depends on the background at least in part
        harmless (0.1): below this share of the score, heat outside the object did nothing
        control (0.5): where pasting alone costs more than this share of the dependence, the sample
            is unstable
        control_flips (0.67): likewise where other classes' backgrounds change the prediction more often
            than those of its own class, by more than chance: what pasting cannot explain is seen twice
        chance (0.05): the p of Fisher's exact test below which it does
        support (0.1): from this ``bg_support`` on the own background is evidence for the class
        heat (0.5): from this calibrated probability on heat is suspicious
        needed (0.1): share of the score that has to be lost without the object before it is said to
            rely on it: a score that nothing moves relies on neither
        unsure (0.25): a lower score is hardly a prediction, and what it loses says nothing
    """

    dependence: float = 0.5
    nearly_all: float = 0.95
    relative_dependence: float = 0.6
    confidence: float = 0.75
    swap_drop: float = 0.5
    relative_swap_drop: float = 0.15
    partial: float = 0.25
    harmless: float = 0.1
    control: float = 0.5
    control_flips: float = 0.67
    chance: float = 0.05
    support: float = 0.1
    heat: float = 0.5
    needed: float = 0.1
    unsure: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence}")

    @property
    def reach(self) -> float:
        """How many standard deviations above the threshold that takes."""
        return statistics.NormalDist().inv_cdf(self.confidence)

    def needed_dependence(self, score: Any, relative: bool) -> Any:
        """The dependence from which a sample relies on its background, on the scale it is given on."""
        if relative:
            return np.full(np.shape(score), self.relative_dependence)
        return np.minimum(self.dependence, self.nearly_all * np.asarray(score, float))

    def needed_drop(self, score: Any, relative: bool) -> Any:
        """The probability that its own swaps must have lost for that."""
        if relative:
            return np.full(np.shape(score), self.relative_swap_drop)
        return self.swap_drop * self.needed_dependence(score, False) / self.dependence


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What can be said of a sample.

    Attributes:
        verdict: one of ``VERDICTS``
        reason: one sentence with the numbers it rests on
        why: where the verdict is ``cannot say``, the reason in a few words, by which samples are
            counted: one of ``UNDECIDED``, or the status of a sample that was not tested; else empty
    """

    verdict: str
    reason: str
    why: str = ""


def verdicts(
    status: Sequence[str],
    dependence: Any,
    paste_loss: Any,
    swap_drop: Any,
    same_drop: Any,
    bg_support: Any,
    suspicion: Any,
    relative: bool = False,
    rule: Rule | None = None,
    object_share: Any = None,
    error: Any = None,
    score: Any = None,
    swap_flip: Any = None,
    same_flip: Any = None,
    donors: Any = None,
    controls: Any = None,
) -> list[Verdict]:
    """Applies the evidence rule.

    More loss, and more changed predictions, on other classes' backgrounds never move a verdict towards
    ``relies on object``, all else being equal.

    Args:
        status: N strings: ``"ok"`` where the swap was run, ``"not tested"`` where it was not, else
            why it could not be (:class:`~cam_core.bias.swap_test.SwapCheck`)
        dependence: (N,) estimates in 0..1 of tested samples; others are not looked at
        paste_loss: (N,) estimates in 0..1 of what pasting alone costs; NaN where the control was not
            run. The raw ``same_drop`` of four donors would call many unstable that are not
        swap_drop: (N,) as in :class:`~cam_core.bias.effects.Effects`
        same_drop: (N,) likewise; NaN where the control was not run
        bg_support: (N,) likewise; NaN where backgrounds alone have no score, and nothing is said of it
        suspicion: (N,) P(relies on background | heat) in 0..1; NaN where heat says nothing, because
            the map is degenerate or the calibration failed
        relative (False): whether dependence is a share of the score
        rule (None): thresholds; the default ones by default
        object_share (None): (N,) the share of the score that is lost when the object is removed; NaN
            where that was not tried
        error (None): (N,) standard deviations of ``dependence``; NaN, as None, is taken for 0
        score (None): (N,) p(x) in 0..1; None takes losses for shares of the score
        swap_flip (None): (N,) as in :class:`~cam_core.bias.effects.Effects`; NaN, as None: not known, and
            not judged
        same_flip (None): (N,) likewise
        donors (None): (N,) how many foreign donors ``swap_flip`` is of; required with it
        controls (None): (N,) how many donors of the same class ``same_flip`` is of; likewise

    Returns:
        N :class:`Verdict`

    Raises:
        ValueError: if lengths differ, or flips come without the number of donors
    """
    for name, flips, count in (
        ("swap_flip", swap_flip, donors),
        ("same_flip", same_flip, controls),
    ):
        if flips is not None and count is None:
            raise ValueError(f"{name}: a share of donors needs their number beside it")
    given = (
        dependence, paste_loss, swap_drop, same_drop, bg_support, suspicion, object_share, error,
        score, swap_flip, same_flip, donors, controls,
    )  # fmt: skip
    columns = [np.full(len(status), np.nan) if c is None else np.asarray(c, float) for c in given]
    if any(c.shape != (len(status),) for c in columns):
        raise ValueError(
            f"status has {len(status)} values; the arrays have {[c.shape for c in columns]}"
        )
    thresholds = rule or Rule()
    rows = zip(status, *(c.tolist() for c in columns), strict=True)
    return [_verdict(_Evidence(relative, thresholds, *row)) for row in rows]


@dataclasses.dataclass(frozen=True)
class _Evidence:
    """What is known of one sample, as in :func:`verdicts`; NaN for what is not."""

    relative: bool
    rule: Rule
    status: str
    dependence: float
    paste_loss: float
    drop: float
    control: float
    support: float
    suspicion: float
    object_share: float
    error: float
    score: float
    flips: float
    control_flips: float
    donors: float
    controls: float

    @property
    def outside(self) -> bool:
        """Whether heat is suspicious; False where it says nothing."""
        return self.suspicion >= self.rule.heat

    @property
    def estimated_share(self) -> float:
        """What is lost of the score by the best estimate."""
        return self.dependence if self.relative else self.dependence / self._scale

    @property
    def share(self) -> float:
        """Likewise, or what the reason shows of the sample's own swaps, if that is more."""
        # without a score, a drop cannot be compared with a share of it
        comparable = math.isfinite(self.score) or not self.relative
        return max(self.estimated_share, self.drop / self._scale if comparable else 0.0)

    @property
    def _scale(self) -> float:
        return max(self.score, 1e-6) if math.isfinite(self.score) else 1.0

    @property
    def exceeds(self) -> bool:
        """Whether the loss reaches what it takes to rely on the background, but for the doubt."""
        score = self.score if math.isfinite(self.score) else 1.0
        enough = float(self.rule.needed_dependence(score, self.relative))
        measured = float(self.rule.needed_drop(score, self.relative))
        return self.dependence >= enough and self.drop >= measured

    @property
    def surely_exceeds(self) -> bool:
        """Likewise, given the doubt; of a low score's nearly all, what the prediction does is a surer sign."""
        if self.low and math.isfinite(self.flips):
            return self.exceeds and 1 - self._chance_of_staying >= self.rule.confidence
        doubt = self.error if math.isfinite(self.error) else 0.0
        lowest = dataclasses.replace(self, dependence=self.dependence - self.rule.reach * doubt)
        return lowest.exceeds

    @property
    def stays(self) -> bool:
        """Whether the prediction probably stays on most other backgrounds, as far as that is known."""
        if not math.isfinite(self.flips):
            return True
        return self.flips < 0.5 and self._chance_of_staying >= self.rule.confidence

    @property
    def low(self) -> bool:
        """Whether the score is too low to lose what a sure one has to."""
        return not self.relative and self.rule.nearly_all * self.score < self.rule.dependence

    @property
    def _chance_of_staying(self) -> float:
        return minority_chance(round(self.flips * self.donors), int(self.donors))

    @property
    def owed_to_pasting(self) -> bool:
        """Whether pasting alone costs too much of what is lost for the rest to be told from it."""
        most = self.rule.control_flips if self.changes_beyond_control else self.rule.control
        return self.paste_loss > most * self.dependence

    @property
    def changes_beyond_control(self) -> bool:
        """Whether the prediction changes more often than in the control, by more than chance."""
        if not math.isfinite(self.flips + self.control_flips):
            return False
        here, there = round(self.flips * self.donors), round(self.control_flips * self.controls)
        return more_often_p(here, int(self.donors), there, int(self.controls)) < self.rule.chance


def _verdict(e: _Evidence) -> Verdict:
    if e.status == "not tested":
        return _untested(e.suspicion, e.outside)
    if e.status != "ok" or not (math.isfinite(e.dependence) and math.isfinite(e.drop)):
        why = e.status if e.status != "ok" else "no score"
        return Verdict(CANNOT_SAY, _WHY.get(why, why), why)
    rule, said = e.rule, _effects(e)
    if e.score < rule.unsure:
        return Verdict(
            CANNOT_SAY,
            f"{_UNSURE} ({e.score:.2f}): the score is too low to judge; {said}",
            _UNSURE,
        )
    if e.estimated_share >= rule.partial and e.owed_to_pasting:
        return Verdict(UNSTABLE, said)
    if e.surely_exceeds:
        own = "its own background is evidence" if e.support >= rule.support else "others mislead it"
        hidden = math.isfinite(e.suspicion) and not e.outside
        said = f"{said}; {own}" if math.isfinite(e.support) else said
        if not math.isfinite(e.control):
            said = f"{said}; no control, so what pasting alone costs is unknown"
        return Verdict(HIDDEN if hidden else RELIES, said)
    if e.exceeds or e.share >= rule.dependence:
        return Verdict(CANNOT_SAY, f"{_MAY_RELY}, unsure: {said}", _MAY_RELY)
    if e.share >= rule.partial:
        return Verdict(CANNOT_SAY, f"{_IN_PART}: {said}", _IN_PART)
    if not e.stays:
        return _changing(e, said)
    if e.outside and e.share < rule.harmless:
        return Verdict(HARMLESS, said)
    if e.object_share < rule.needed:
        return Verdict(
            CANNOT_SAY,
            f"the score stays without the object, too; {said}",
            _NEITHER,
        )
    return Verdict(OBJECT, said)


def _changing(e: _Evidence, said: str) -> Verdict:
    """Of a sample whose score stays and whose prediction may not."""
    if e.flips < 0.5:
        reason = f"too few donors to say that the prediction stays: {said}"
        return Verdict(CANNOT_SAY, reason, _FEW_DONORS)
    if e.control_flips > e.rule.control * e.flips:
        return Verdict(UNSTABLE, said)
    reason = f"{_CHANGES}, though the score loses little: {said}"
    return Verdict(CANNOT_SAY, reason, _CHANGES)


def _effects(e: _Evidence) -> str:
    """What other backgrounds and the control did, in numbers."""
    pasted = f", {_moves(e.control)} on those of its own class" if math.isfinite(e.control) else ""
    changed = ""
    if math.isfinite(e.flips):
        changed = f"; the prediction changes on {round(e.flips * e.donors)} of {e.donors:.0f}"
        if math.isfinite(e.control_flips):
            own = round(e.control_flips * e.controls)
            changed += f", and on {own} of {e.controls:.0f} of its own class"
    return f"the score {_moves(e.drop, e.score)} on other backgrounds{pasted}{changed}"


def _moves(drop: float, score: float = math.nan) -> str:
    """How a score moves that loses so much."""
    if abs(drop) < 0.005:
        return "stays"
    of = f" of {score:.2f}" if drop > 0 and math.isfinite(score) else ""
    return f"{'falls' if drop > 0 else 'rises'} by {abs(drop):.2f}{of}"


def _untested(suspicion: float, outside: bool) -> Verdict:
    if outside:
        return Verdict(
            UNTESTED, f"heat like that of samples that failed the swap ({suspicion:.2f})"
        )
    if np.isfinite(suspicion):
        reason = f"not tested; its heat raises no suspicion ({suspicion:.2f})"
        return Verdict(CANNOT_SAY, reason, "not tested")
    return Verdict(CANNOT_SAY, "not tested; its heat is inconclusive", "not tested")
