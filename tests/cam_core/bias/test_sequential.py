"""More donors where few leave a verdict open, how sure a verdict has to be, and the null rate."""

import numpy as np
import pytest

from cam_core.bias import assessment, calibration, effects, swap_test, verdicts
from cam_core.bias.false_alarms import false_alarm_rate


def effects_of(foreign, same, score=1.0):
    """Effects of given donors' scores (n, S)."""
    return effects.effects(table_of(foreign, same, score))


def table_of(foreign, same, score=1.0):
    count = len(foreign)
    return effects.SwapTable(
        score=np.full(count, score),
        prediction=np.zeros(count, int),
        foreign_scores=np.asarray(foreign, float),
        foreign_predictions=np.where(np.asarray(foreign) > 0.5, 0, 1),
        donor_classes=np.ones(np.shape(foreign), int),
        same_scores=np.asarray(same, float),
        same_predictions=np.where(np.asarray(same) > 0.5, 0, 1),
        bg_only=np.full(count, 0.5),
        bg_other=np.full(count, 0.25),
    )


def coins(shares, donors=4, seed=0):
    """Donors' scores that are 1 or 0: a sample's true drop is its share of zeros."""
    rng = np.random.default_rng(seed)
    return (rng.random((len(shares), donors)) >= np.asarray(shares)[:, None]).astype(float)


# who gets more donors


def test_donors_of_another_class_that_bring_the_own_evidence_come_last():
    classes = np.array([0, 1, 1, 1, 1, 2, 2])
    alone = np.array([0, 0, 1, -1, 0, 0, 2])
    donors = effects.choose_donors(classes, np.ones(7), [0], 6, bg_predictions=alone).foreign[0]
    assert set(donors[:3]) == {2, 3, 6}
    assert set(donors[3:]) == {1, 4, 5}, "they lend where there are no others"


def test_clear_cases_are_decided_and_close_ones_are_not():
    clear = np.repeat([0.0, 1.0], 100)
    close = np.full(40, 0.5)
    scores = coins(np.concatenate([clear, close]), seed=1)
    # the score itself and the bare background tell nothing: the swap alone does
    found = assessment.undecided(effects_of(scores, np.ones_like(scores)), np.arange(240) % 4)
    assert found[200:].mean() > 0.6
    assert found[:200].mean() < 0.05
    nothing = np.full((3, 4), np.nan)
    assert not assessment.undecided(effects_of(nothing, nothing), np.zeros(3)).any()


def test_the_error_is_that_of_the_mean_of_the_donors_where_there_is_no_prior():
    """Nine samples have no prior: variance of the donors' scores, steadied, over their number."""
    scores = np.tile([0.0, 1.0, 0.0, 1.0], (9, 1))
    found = calibration.estimate_dependence(effects_of(scores, scores), np.zeros(9))
    assert found.weight.tolist() == [1] * 9
    # all samples alike: own and pooled variance are both 1/3
    np.testing.assert_allclose(found.error, np.sqrt(1 / 3 / 4))


def test_the_error_covers_the_truth():
    """Of samples with known shares, nine of ten lie within their 90 % intervals."""
    rng = np.random.default_rng(3)
    truth = rng.beta(0.8, 0.8, 800)
    scores = coins(truth, seed=4)
    found = calibration.estimate_dependence(effects_of(scores, scores), np.arange(800) % 5)
    inside = np.abs(found.value - truth) < 1.645 * found.error
    assert 0.82 < inside.mean() < 0.97


def test_undecided_samples_get_twice_as_many_donors_and_no_others_do():
    """Two of three backgrounds of other classes take the score: four donors do not settle it."""
    rng = np.random.default_rng(0)
    size, count = 16, 60
    masks = np.zeros((count, size, size), bool)
    masks[:, 6:10, 6:10] = True
    classes = np.arange(count) % 2
    fragile = np.arange(count) % 4 >= 2
    images = np.zeros((count, size, size), np.float32)
    images[:, :, :] = np.where(rng.random(count) < 0.5, 0.2, 0.3)[:, None, None]
    images[masks] = (0.6 + 0.1 * classes + 0.2 * fragile)[:, None].repeat(16, 1).ravel()
    grounds = images[:, 0, 0]

    def predict(batch):
        out = []
        for image in batch:
            thing = image[8, 8]
            known = thing > 0.5
            label = round(float(thing - 0.6) * 10) % 2 if known else 0
            weak = thing > 0.75 and abs(image[0, 0] - 0.3) < 0.02
            p = (0.1 if weak else 0.9) if known else 0.5
            out.append([p, 1 - p] if label == 0 else [1 - p, p])
        return np.array(out)

    given = dict(targets=classes, seed=3)
    plain = swap_test.swap_check(images, masks, predict, count=4, **given)
    more = swap_test.swap_check(images, masks, predict, count=4, most=16, **given)
    assert plain.effects.donors.max() == 4
    np.testing.assert_array_equal(more.donors.foreign[:, :4], plain.donors.foreign)
    assert set(more.effects.donors) <= {4, 8, 16}
    assert (more.effects.donors[~fragile] == 4).all(), "nothing moves them: decided at once"
    strong = fragile & (np.abs(grounds - 0.2) < 0.02)
    assert more.effects.donors[strong].mean() > 8
    assert ((more.donors.foreign >= 0).sum(1) == more.effects.donors).all()
    # the mean over more donors is nearer to the share of such backgrounds
    share = 0.8 * (np.abs(grounds - 0.3) < 0.02).mean()
    near = np.abs(more.effects.swap_drop[strong] - share).mean()
    assert near < np.abs(plain.effects.swap_drop[strong] - share).mean()


# how sure


def test_a_verdict_has_to_be_three_times_as_probable_as_not():
    def verdict(dependence, error, **rule):
        return verdicts.verdicts(
            ["ok"], [dependence], [0.0], [0.6], [0.0], [0.3], [np.nan], False,
            verdicts.Rule(**rule), error=[error],
        )[0]  # fmt: skip

    # .75 of a normal distribution lies below .6745 standard deviations
    assert verdicts.Rule().reach == pytest.approx(0.6745, abs=1e-4)
    assert verdict(0.57, 0.1).verdict == verdicts.RELIES
    unsure = verdict(0.56, 0.1)
    assert unsure.verdict == verdicts.CANNOT_SAY
    assert unsure.reason.startswith("may rely on its background")
    assert verdict(0.56, 0.1, confidence=0.5).verdict == verdicts.RELIES
    assert verdict(0.56, np.nan).verdict == verdicts.RELIES
    with pytest.raises(ValueError, match="confidence"):
        verdicts.Rule(confidence=1.0)


# the null rate


def test_null_rate_of_a_network_that_reads_the_background_is_near_nothing():
    """Dealt at random, other classes' and own backgrounds cost the same: pasting, not dependence."""
    rng = np.random.default_rng(0)
    foreign, same = 0.1 * rng.random((80, 4)), 1 - 0.1 * rng.random((80, 4))
    table = table_of(foreign, same)
    own = assessment.assess(np.arange(80) % 4, np.arange(80), ["ok"] * 80, effects.effects(table))
    assert all(v.verdict == verdicts.RELIES for v in own.verdicts)
    rate = false_alarm_rate(np.arange(80) % 4, ["ok"] * 80, table)
    assert rate < 0.1


def test_null_rate_counts_what_chance_alone_flags():
    """With one donor of each kind and no doubt asked for, half of the deals give the drop to "foreign"."""
    foreign, same = np.zeros((6, 1)), np.ones((6, 1))
    rule = verdicts.Rule(confidence=0.5, control=1.0)
    rate = false_alarm_rate(np.zeros(6), ["ok"] * 6, table_of(foreign, same), rule, repeats=400)
    # fewer than ten samples have no prior: a sample is flagged if its one foreign score is 0
    assert rate == pytest.approx(0.5, abs=0.04)


def test_null_rate_without_a_control_is_unknown():
    foreign = np.zeros((6, 2))
    assert (
        false_alarm_rate(np.zeros(6), ["ok"] * 6, table_of(foreign, np.full((6, 2), np.nan)))
        is None
    )
