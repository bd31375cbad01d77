"""A verdict never contradicts its own evidence: the rule sample by sample, and on networks by formula."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from cam_core.bias import assessment, object_swap_test, verdicts
from cam_core.bias import effects as bias_effects
from cam_core.stats.resampling import minority_chance, more_often_p

NAN = float("nan")
CLEARED = (verdicts.OBJECT, verdicts.HARMLESS)
FLAGGED = (verdicts.RELIES, verdicts.HIDDEN)


def say(score, drop, flips, donors=4, relative=False, rule=None, **changed):
    """The verdict of one sample whose estimate is its own mean."""
    loss = drop / score if relative else drop
    given = {
        "dependence": loss, "paste_loss": NAN, "swap_drop": drop, "same_drop": NAN, "bg_support": NAN,
        "suspicion": NAN, "object_share": NAN, "error": 0.0, "score": score,
        "swap_flip": flips / donors, "same_flip": NAN, "donors": donors, "controls": 0, **changed,
    }  # fmt: skip
    columns = {name: [value] for name, value in given.items()}
    return verdicts.verdicts(["ok"], relative=relative, rule=rule, **columns)[0]


# what donors can show


@pytest.mark.oracle
@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (0, 1), (0, 4), (1, 4), (3, 8), (20, 32)])
def test_the_chance_of_a_minority_is_that_of_a_beta_distribution(hits, trials):
    expected = stats.beta(1 + hits, 1 + trials - hits).cdf(0.5)
    assert minority_chance(hits, trials) == pytest.approx(expected)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "table", [(4, 4, 0, 4), (3, 4, 1, 4), (12, 16, 4, 16), (0, 4, 4, 4), (2, 3, 0, 0)]
)
def test_fishers_exact_test(table):
    here, trials, there, others = table
    rows = [[here, trials - here], [there, others - there]]
    expected = stats.fisher_exact(rows, alternative="greater").pvalue
    assert more_often_p(*table) == pytest.approx(expected)


# one sample


def test_photos_that_lose_nearly_all_of_a_low_score_are_cleared_no_more():
    """Of an ImageNet network on photos: score, loss, changed predictions of four backgrounds."""
    for score, drop in ((0.17, 0.16), (0.09, 0.07), (0.04, 0.03)):
        found = say(score, drop, 4)
        assert (found.verdict, found.why) == (verdicts.CANNOT_SAY, "unsure")
        assert found.reason.startswith(f"unsure ({score:.2f})")
        assert f"falls by {drop:.2f} of {score:.2f}" in found.reason
        assert found.reason.endswith("the prediction changes on 4 of 4")


def test_a_loss_is_judged_by_its_share_of_the_score():
    assert say(0.95, 0.13, 0).verdict == verdicts.OBJECT
    part = say(0.45, 0.13, 0)
    assert (part.verdict, part.why) == (verdicts.CANNOT_SAY, "depends in part")
    assert say(0.95, 0.5, 0).verdict == verdicts.RELIES
    assert say(0.45, 0.44, 4).verdict == verdicts.RELIES, "nearly all, and another class each time"
    for low in (say(0.45, 0.4, 4), say(0.45, 0.44, 1), say(0.45, 0.3, 4)):
        assert low.why == "may rely on its background"
    # most scores of the dataset are low: six tenths
    assert say(0.45, 0.28, 3, relative=True).verdict == verdicts.RELIES
    assert say(0.45, 0.2, 1, relative=True).why == "depends in part"


def test_the_score_of_an_object_may_stay_while_another_class_wins():
    found = say(0.4, 0.05, 3)
    assert (found.verdict, found.why) == (verdicts.CANNOT_SAY, "the prediction changes")
    # so it does on backgrounds of its own class: that is pasting
    pasted = say(0.4, 0.05, 3, same_flip=0.75, controls=4, same_drop=0.04, paste_loss=0.02)
    assert pasted.verdict == verdicts.UNSTABLE
    assert pasted.reason.endswith("changes on 3 of 4, and on 3 of 4 of its own class")


@pytest.mark.parametrize(
    ("flips", "donors", "expected"),
    [
        (0, 1, verdicts.OBJECT), (0, 4, verdicts.OBJECT), (1, 4, verdicts.OBJECT),
        (2, 8, verdicts.OBJECT), (1, 2, verdicts.CANNOT_SAY), (1, 3, verdicts.CANNOT_SAY),
        (2, 4, verdicts.CANNOT_SAY), (4, 8, verdicts.CANNOT_SAY), (13, 32, verdicts.OBJECT),
    ],
)  # fmt: skip
def test_that_a_prediction_stays_has_to_be_three_times_as_probable_as_not(flips, donors, expected):
    assert say(0.9, 0.05, flips, donors).verdict == expected


def test_without_a_control_a_dependence_says_so():
    assert "no control" in say(0.9, 0.8, 4).reason
    kept = say(0.9, 0.8, 4, same_drop=0.01, paste_loss=0.01, same_flip=0.0, controls=4).reason
    assert "no control" not in kept
    assert "no control" not in say(0.9, 0.0, 0).reason


def test_a_control_that_keeps_the_prediction_excuses_more_of_the_loss():
    def control(paste_loss, own_flips):
        return say(
            0.9, 0.6, 16, 16, paste_loss=paste_loss, same_drop=paste_loss, same_flip=own_flips / 16,
            controls=16,
        ).verdict  # fmt: skip

    assert control(0.25, 12) == verdicts.RELIES
    assert control(0.35, 12) == verdicts.UNSTABLE, "pasting costs more than half of it"
    assert control(0.35, 2) == verdicts.RELIES, "but predictions do not change by pasting"
    assert control(0.45, 2) == verdicts.UNSTABLE, "three quarters are too much all the same"


def test_what_is_shown_counts_beside_the_estimate():
    """Samples like it lose little, so the estimate is low; its own swaps lost a third."""
    assert say(0.9, 0.3, 0, dependence=0.1).why == "depends in part"


def test_objects_of_a_detector_are_unsure_below_its_own_threshold_only():
    rule = object_swap_test.object_rule(0.1)
    assert rule.unsure == 0.1
    assert object_swap_test.object_rule(0.6).unsure == verdicts.Rule().unsure
    assert say(0.15, 0.01, 0, rule=rule).verdict == verdicts.OBJECT


def test_flips_need_the_number_of_donors():
    with pytest.raises(ValueError, match="swap_flip"):
        verdicts.verdicts(["ok"], *[[0.1]] * 6, swap_flip=[0.5])


def distance(verdict):
    """0 on the background, 1 undecided, 2 on the object."""
    return 0 if verdict in FLAGGED else 2 if verdict in CLEARED else 1


def test_more_loss_and_more_changes_never_move_a_verdict_towards_the_object():
    rng = np.random.default_rng(51)
    moved = 0
    for _ in range(4000):
        donors, controls = rng.integers(1, 33), rng.integers(0, 33)
        score = rng.choice([rng.uniform(0.02, 1), 0.24, 0.26, 0.52, 0.53])
        relative = bool(rng.random() < 0.3)
        drop = np.sort(rng.uniform(-0.2, 1, 2) * score)
        flips = np.sort(rng.integers(0, donors + 1, 2))
        loss = np.clip(drop + rng.normal(0, 0.1) * score, 0, score)
        loss = loss / score if relative else loss
        fixed = dict(
            paste_loss=rng.choice([NAN, rng.uniform(0, 0.5)]), same_drop=rng.uniform(-0.1, 0.5),
            suspicion=rng.choice([NAN, 0.2, 0.8]), object_share=rng.choice([NAN, 0.05, 0.9]),
            error=rng.uniform(0, 0.1), controls=controls,
            same_flip=rng.integers(0, controls + 1) / controls if controls else NAN,
        )  # fmt: skip
        little, much = (
            say(score, drop[k], flips[k], donors, relative, dependence=loss[k], **fixed)
            for k in (0, 1)
        )
        assert distance(much.verdict) <= distance(little.verdict), (little, much, fixed)
        moved += distance(much.verdict) < distance(little.verdict)
    assert moved > 500, "verdicts do move"


# networks by formula


def planted(seed, count=400, classes=8):
    """Scores of a softmax over an object's evidence and a background's, whose weight grows by class.

    Returns:
        classes (n,), the :class:`~cam_core.bias.effects.SwapTable`, the share of the score that is truly lost
        and the share of predictions that truly change, over 200 fresh backgrounds of other families
    """
    rng = np.random.default_rng(seed)
    kind = np.arange(count) % classes
    thing = rng.uniform(0.3, 6, count)
    weight = np.linspace(0, 4, classes)
    family = np.where(rng.random(count) < 0.8, kind, rng.integers(0, classes, count))

    def ask(families, rows):
        """(len(rows), classes) probabilities of objects on backgrounds."""
        logits = rng.normal(0, 0.35, (len(rows), classes))
        logits[np.arange(len(rows)), kind[rows]] += thing[rows]
        amount = weight[families] * rng.uniform(0.6, 1.4, len(rows))
        logits[np.arange(len(rows)), families] += amount
        odds = np.exp(logits)
        return odds / odds.sum(1, keepdims=True)

    rows = np.arange(count)
    own = ask(family, rows)
    explained = own.argmax(1)
    donors = bias_effects.choose_donors(explained, np.full(count, 0.8), count=16, seed=seed)

    def columns(chosen):
        scores, named = np.full(chosen.shape, NAN), np.full(chosen.shape, -1)
        known = chosen >= 0
        given = ask(family[chosen[known]], np.nonzero(known)[0])
        scores[known] = given[np.arange(len(given)), explained[np.nonzero(known)[0]]]
        named[known] = given.argmax(1)
        return scores, named

    foreign, same = columns(donors.foreign), columns(donors.same)
    table = bias_effects.SwapTable(
        score=own[rows, explained], prediction=explained, foreign_scores=foreign[0],
        foreign_predictions=foreign[1], donor_classes=explained[donors.foreign], same_scores=same[0],
        same_predictions=same[1], bg_only=np.full(count, 0.3), bg_other=np.full(count, 0.2),
    )  # fmt: skip
    fresh = [ask((family + rng.integers(1, classes, count)) % classes, rows) for _ in range(200)]
    lost = 1 - np.mean([p[rows, explained] for p in fresh], 0) / table.score
    changed = np.mean([p.argmax(1) != explained for p in fresh], 0)
    return explained, table, lost, changed


@pytest.mark.parametrize("donors", [4, 16])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_planted_sample_is_cleared_against_its_evidence(seed, donors):
    classes, table, lost, changed = planted(seed)
    parts = (
        "foreign_scores",
        "foreign_predictions",
        "donor_classes",
        "same_scores",
        "same_predictions",
    )
    table = dataclasses.replace(table, **{name: getattr(table, name)[:, :donors] for name in parts})
    effects = bias_effects.effects(table)
    found = assessment.assess(classes, np.arange(len(classes)), ["ok"] * len(classes), effects)
    words = np.array([v.verdict for v in found.verdicts])
    cleared, flagged = np.isin(words, CLEARED), np.isin(words, FLAGGED)
    assert cleared.sum() > 40
    assert (effects.swap_flip[cleared] < 0.5).all()
    assert (effects.swap_drop[cleared] < 0.25 * table.score[cleared]).all()
    assert (table.score[cleared] >= 0.25).all()
    # and on backgrounds that the test did not see
    assert (changed[cleared] > 0.5).mean() < 0.05
    assert (lost[cleared] > 0.5).mean() < 0.02
    assert flagged.sum() > 25
    assert (lost[flagged] > 0.5).mean() > 0.9
    assert flagged[lost * table.score >= 0.5].mean() > 0.45


def test_a_class_whose_scores_are_too_low_to_lose_is_not_cleared():
    """Thirty samples each: sure ones that lose nothing, and ones that have nothing to lose."""
    score = np.repeat([0.9, 0.03], 30)
    scores = np.repeat(score[:, None], 4, 1)
    table = bias_effects.SwapTable(
        score=score, prediction=np.zeros(60, int), foreign_scores=scores - 0.01,
        foreign_predictions=np.zeros((60, 4), int), donor_classes=np.ones((60, 4), int),
        same_scores=scores, same_predictions=np.zeros((60, 4), int), bg_only=score * 0.1,
        bg_other=score * 0.1,
    )  # fmt: skip
    names = np.repeat(["sure", "unsure"], 30)
    rows = {
        r.label: r for r in assessment.class_table(names, bias_effects.effects(table), np.zeros(60))
    }
    assert not rows["sure"].flagged
    assert not rows["unsure"].flagged
    assert (rows["sure"].note, rows["unsure"].note) == ("", "unsure")


def test_more_donors_are_asked_where_it_is_open_whether_the_prediction_stays():
    flips = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    for score, expected in ((0.6, [False, True, False]), (0.2, [False, False, False])):
        foreign = np.full((3, 4), score * 0.95)
        table = bias_effects.SwapTable(
            score=np.full(3, score), prediction=np.zeros(3, int), foreign_scores=foreign,
            foreign_predictions=flips, donor_classes=np.ones((3, 4), int), same_scores=foreign,
            same_predictions=np.zeros((3, 4), int), bg_only=np.zeros(3), bg_other=np.zeros(3),
        )  # fmt: skip
        found = assessment.undecided(bias_effects.effects(table), np.zeros(3, int))
        assert found.tolist() == expected
