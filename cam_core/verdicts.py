"""The evidence rule: what may be said of one sample, in fixed words.

Heat finds and shows, the swap confirms: nothing is said to rely on the background from heat alone, and
"relies on object" means that these checks found no dependence, not that there is none.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

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
    "object absent": "other classes are annotated, but none that is explained",
    "fills the frame": "the object leaves no background to put in its place",
    "no donors": "no sample of another predicted class can lend a background",
    "not found": "the detector does not find it, so there is no score to lose",
    "no class": "the model has no class of this name",
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """Thresholds of the evidence rule.

    Attributes:
        dependence (0.5): from here the score relies on the background: half of it is lost
        relative_dependence (0.6): likewise where dependence is a share of the score
        confidence (0.75): how probable it has to be that dependence reaches that, given the sample's
            swaps and what samples like it lose: an accusation should be right three times of four
        swap_drop (0.4): what the sample's own swaps must have lost at least; the estimate alone,
            which also draws on samples like it, is no evidence
        relative_swap_drop (0.15): likewise where dependence is a share of the score
        partial (0.25): from here to ``dependence`` the score depends on it in part
        harmless (0.1): below it, heat outside the object did nothing
        control (0.5): where pasting alone costs more than this share of the dependence, the sample
            is unstable
        support (0.1): from this ``bg_support`` on the own background is evidence for the class
        heat (0.5): from this calibrated probability on heat is suspicious
        needed (0.1): share of the score that has to be lost without the object before it is said to
            rely on it: a score that nothing moves relies on neither
    """

    dependence: float = 0.5
    relative_dependence: float = 0.6
    confidence: float = 0.75
    swap_drop: float = 0.4
    relative_swap_drop: float = 0.15
    partial: float = 0.25
    harmless: float = 0.1
    control: float = 0.5
    support: float = 0.1
    heat: float = 0.5
    needed: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence}")

    @property
    def reach(self) -> float:
        """How many standard deviations above the threshold that takes."""
        return statistics.NormalDist().inv_cdf(self.confidence)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What can be said of a sample.

    Attributes:
        verdict: one of ``VERDICTS``
        reason: one sentence with the numbers it rests on
    """

    verdict: str
    reason: str


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
) -> list[Verdict]:
    """Applies the evidence rule.

    Args:
        status: N strings: ``"ok"`` where the swap was run, ``"not tested"`` where it was not, else
            why it could not be (:class:`~cam_core.checks.SwapCheck`)
        dependence: (N,) estimates in 0..1 of tested samples; others are not looked at
        paste_loss: (N,) estimates in 0..1 of what pasting alone costs; NaN where the control was not
            run. The raw ``same_drop`` of four donors would call many unstable that are not
        swap_drop: (N,) as in :class:`~cam_core.causal.Effects`
        same_drop: (N,) likewise; NaN where the control was not run
        bg_support: (N,) likewise; NaN where backgrounds alone have no score, and nothing is said of it
        suspicion: (N,) P(relies on background | heat) in 0..1; NaN where heat says nothing, because
            the map is degenerate or the calibration failed
        relative (False): whether dependence is a share of the score
        rule (None): thresholds; the default ones by default
        object_share (None): (N,) the share of the score that is lost when the object is removed; NaN
            where that was not tried
        error (None): (N,) standard deviations of ``dependence``; NaN, as None, is taken for 0

    Returns:
        N :class:`Verdict`

    Raises:
        ValueError: if lengths differ
    """
    share = np.full(len(status), np.nan) if object_share is None else object_share
    doubt = np.zeros(len(status)) if error is None else np.nan_to_num(np.asarray(error, float))
    given = (dependence, paste_loss, swap_drop, same_drop, bg_support, suspicion, share, doubt)
    columns = [np.asarray(c, float) for c in given]
    if any(c.shape != (len(status),) for c in columns):
        raise ValueError(
            f"status has {len(status)} values; the arrays have {[c.shape for c in columns]}"
        )
    thresholds = rule or Rule()
    rows = zip(status, *(c.tolist() for c in columns), strict=True)
    return [_verdict(state, numbers, relative, thresholds) for state, *numbers in rows]


def _verdict(status: str, numbers: list[float], relative: bool, rule: Rule) -> Verdict:
    dependence, paste_loss, drop, control, support, suspicion, share, error = numbers
    outside = suspicion >= rule.heat  # False where it is NaN
    if status == "not tested":
        return _untested(suspicion, outside)
    if status != "ok" or not (np.isfinite(dependence) and np.isfinite(drop)):
        return Verdict(CANNOT_SAY, _WHY.get(status, status if status != "ok" else "no score"))
    lost = f"the score {_moves(drop)} on other backgrounds"
    pasted = f", {_moves(control)} on those of its own class" if np.isfinite(control) else ""
    enough = rule.relative_dependence if relative else rule.dependence
    measured = rule.relative_swap_drop if relative else rule.swap_drop
    if dependence >= rule.partial and paste_loss > rule.control * dependence:
        return Verdict(UNSTABLE, lost + pasted)
    if dependence - rule.reach * error >= enough and drop >= measured:
        own = (
            "; its own background is evidence" if support >= rule.support else "; others mislead it"
        )
        hidden = np.isfinite(suspicion) and not outside
        said = own if np.isfinite(support) else ""
        return Verdict(HIDDEN if hidden else RELIES, f"{lost}{pasted}{said}")
    if outside and max(dependence, drop) < rule.harmless:
        return Verdict(HARMLESS, lost + pasted)
    if dependence < rule.partial and share < rule.needed:
        return Verdict(
            CANNOT_SAY, f"the score stays without the object too: it rests on neither; {lost}"
        )
    if dependence < rule.partial:
        return Verdict(OBJECT, lost + pasted)
    if dependence >= enough and drop >= measured:
        return Verdict(
            CANNOT_SAY, f"may rely on its background, too few donors say so: {lost}{pasted}"
        )
    return Verdict(CANNOT_SAY, f"depends in part: {lost}{pasted}")


def _moves(drop: float) -> str:
    """How a score moves that loses so much."""
    if abs(drop) < 0.005:
        return "stays"
    return f"{'falls' if drop > 0 else 'rises'} by {abs(drop):.2f}"


def _untested(suspicion: float, outside: bool) -> Verdict:
    if outside:
        return Verdict(
            UNTESTED, f"heat like that of samples that failed the swap ({suspicion:.2f})"
        )
    if np.isfinite(suspicion):
        return Verdict(CANNOT_SAY, f"not tested; its heat raises no suspicion ({suspicion:.2f})")
    return Verdict(CANNOT_SAY, "not tested, and its heat says nothing")


def lowest_quartile(density_shares: Any) -> np.ndarray:
    """Suspicion from heat alone, where nothing was tested: a tier that is never more than that.

    Args:
        density_shares: (M, N) ``density_share_tol`` of M class-discriminative methods (never
            EigenCAM); NaN where undefined

    Returns:
        (N,) 1 where more than half of the methods have the sample in the lowest quarter of their
        dataset, 0 elsewhere; NaN where fewer than two methods are defined
    """
    shares = np.asarray(density_shares, float)
    if shares.ndim != 2:
        raise ValueError(f"density_shares must be (methods, samples), got {shares.shape}")
    known = np.isfinite(shares)
    low = np.zeros(shares.shape, bool)
    for row, defined, out in zip(shares, known, low, strict=True):
        if defined.any():
            out[defined] = row[defined] < np.percentile(row[defined], 25)
    votes = known.sum(0)
    return np.where(votes >= 2, low.sum(0) > votes / 2, np.nan)
