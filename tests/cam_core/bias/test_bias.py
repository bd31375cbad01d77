"""Statistics against other libraries and by hand; the evidence rule row by row; classes and groups."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cam_core.bias import assessment, calibration, groups, verdicts
from cam_core.bias.effects import Effects, SwapTable
from cam_core.stats import resampling


def make_effects(swap_drop, score=None, **changes):
    drop = np.asarray(swap_drop, float)
    count = len(drop)
    values = {
        "score": np.full(count, 0.95) if score is None else np.asarray(score, float),
        "swap_drop": drop,
        "swap_flip": (drop > 0.5).astype(float),
        "same_drop": np.zeros(count),
        "same_flip": np.zeros(count),
        "bg_gap": drop,
        "adopt": np.zeros(count),
        "bg_only": drop.clip(0, 1),
        "bg_support": drop.clip(0, 1),
        "swap_variance": np.full(count, 0.01),
        "same_variance": np.full(count, 0.01),
        "donors": np.full(count, 4),
        "controls": np.full(count, 4),
    }
    return Effects(**{**values, **changes})


# statistics


@pytest.mark.oracle
def test_ranks_auroc_and_spearman_agree_with_scipy_and_sklearn():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 8, 200), rng.random(200) + 0.0
    positive = rng.random(200) < 0.3
    np.testing.assert_allclose(resampling.ranks(x), stats.rankdata(x))
    assert resampling.auroc(x, positive) == pytest.approx(roc_auc_score(positive, x))
    assert resampling.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_auroc_and_spearman_where_nothing_can_be_said():
    assert np.isnan(resampling.auroc([1, 2], [True, True]))
    assert np.isnan(resampling.spearman([1, 1, 1], [1, 2, 3]))
    assert resampling.auroc([1, 1, 1, 1], [True, False, True, False]) == 0.5


def test_bootstrap_against_theory():
    x = np.random.default_rng(1).normal(3, 2, 400)
    found = resampling.bootstrap_mean(x, repeats=4000)
    error = 1.96 * x.std() / 20
    assert found.mean == pytest.approx(x.mean())
    assert found.low == pytest.approx(x.mean() - error, abs=0.1 * error)
    assert found.high == pytest.approx(x.mean() + error, abs=0.1 * error)
    assert resampling.bootstrap_mean(x) == resampling.bootstrap_mean(x)


def test_bootstrap_draws_whole_groups():
    """Ten copies of each value are no more evidence than one."""
    x = np.random.default_rng(2).normal(0, 1, 30)
    once = resampling.bootstrap_mean(x, repeats=4000)
    copied = resampling.bootstrap_mean(np.repeat(x, 10), np.repeat(np.arange(30), 10), repeats=4000)
    naive = resampling.bootstrap_mean(np.repeat(x, 10), repeats=4000)
    width = once.high - once.low
    assert copied.high - copied.low == pytest.approx(width, rel=0.1)
    assert naive.high - naive.low < width / 2.5
    assert copied.n == 300


def test_bootstrap_of_little():
    empty = resampling.bootstrap_mean([np.nan])
    assert empty.n == 0
    assert np.isnan(empty.mean)
    one = resampling.bootstrap_mean([2.0, np.nan])
    assert (one.mean, one.n) == (2.0, 1)
    assert np.isnan(one.low)


def test_sign_flip_against_all_signs():
    x = np.array([0.3, -0.1, 0.5, 0.2, 0.9, -0.2, 0.4])
    signs = np.array(list(itertools.product([-1, 1], repeat=7)))
    exact = np.mean(signs @ x >= x.sum() - 1e-12)
    assert resampling.sign_flip_p(x, 20000) == pytest.approx(exact, abs=0.005)
    assert resampling.sign_flip_p(-x, 2000) > 0.9
    assert resampling.sign_flip_p(np.ones(60), 999) == 1 / 1000
    assert resampling.sign_flip_p(np.zeros(5), 999) == 1
    assert np.isnan(resampling.sign_flip_p([]))


@pytest.mark.oracle
def test_benjamini_hochberg_agrees_with_scipy():
    p = np.random.default_rng(3).random(40) ** 3
    np.testing.assert_allclose(
        resampling.benjamini_hochberg(p), stats.false_discovery_control(p, method="bh")
    )
    gaps = np.insert(p, 5, np.nan)
    q = resampling.benjamini_hochberg(gaps)
    assert np.isnan(q[5])
    np.testing.assert_allclose(np.delete(q, 5), stats.false_discovery_control(p))


def test_shrink_by_hand():
    got = resampling.shrink([1.0, 0.0, np.nan], [20, 60, 0], weight=20)
    np.testing.assert_allclose(got, [0.5 * 1 + 0.5 * 0.25, 0.25 * 0.25, np.nan])


@pytest.mark.oracle
def test_logistic_agrees_with_sklearn():
    rng = np.random.default_rng(4)
    x = rng.normal(2, [1, 5, 0.1], (300, 3))
    y = rng.random(300) < 1 / (1 + np.exp(-(x[:, 0] - 2 + 0.3 * (x[:, 1] - 2))))
    unit = (x - x.mean(0)) / x.std(0)
    reference = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(unit, y)
    ours = resampling.fit_logistic(x, y)
    np.testing.assert_allclose(ours.coefficients, reference.coef_[0], atol=1e-5)
    np.testing.assert_allclose(ours.predict(x), reference.predict_proba(unit)[:, 1], atol=1e-5)


def test_logistic_at_its_edges():
    x = np.arange(20.0)[:, None]
    apart = resampling.fit_logistic(x, x[:, 0] > 9).predict(x)
    assert np.isfinite(apart).all()
    assert ((apart > 0.5) == (x[:, 0] > 9)).all()
    shares = resampling.fit_logistic(np.ones((20, 1)), np.full(20, 0.3)).predict(np.ones((1, 1)))
    assert shares == pytest.approx([0.3], abs=1e-4)
    assert resampling.fit_logistic(x, np.zeros(20)).predict(x).max() < 0.01
    assert np.isnan(resampling.fit_logistic(x, x[:, 0] > 9).predict([[np.nan]]))
    with pytest.raises(ValueError, match="finite"):
        resampling.fit_logistic([[np.nan]], [1])
    with pytest.raises(ValueError, match="N, F"):
        resampling.fit_logistic([1.0], [1])


def test_cross_prediction_never_sees_its_own_row():
    """Labels of noise cannot be predicted; a fit on the same rows would pretend they can."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(100, 25)), rng.random(100) < 0.5
    assert abs(resampling.auroc(resampling.cross_predict(x, y), y) - 0.5) < 0.15
    assert resampling.auroc(resampling.fit_logistic(x, y).predict(x), y) > 0.7
    with pytest.raises(ValueError, match="5 folds"):
        resampling.cross_predict(x[:3], y[:3])


# calibration and dependence


def planted_heat(count=400, seed=0, signal=4.0):
    rng = np.random.default_rng(seed)
    drop = np.where(rng.random(count) < 0.3, rng.uniform(0.6, 1, count), rng.uniform(0, 0.3, count))
    share = 1 / (1 + np.exp(-signal * (drop - 0.4) + rng.normal(size=count)))
    features = calibration.heat_features(
        1 - share, 1 - share, rng.random(count), rng.random(count), np.ones(count)
    )
    return features, drop


def test_calibration_opens_its_gate_where_heat_predicts():
    features, drop = planted_heat()
    found = calibration.calibrate(features[:200], drop[:200])
    assert found.usable
    assert found.auroc > 0.75
    assert found.positives == (drop[:200] >= 0.5).sum()
    probability, amount = found.predict(features[200:])
    truth = drop[200:] >= 0.5
    assert resampling.auroc(probability, truth) > 0.75
    assert probability.mean() == pytest.approx(
        truth.mean(), abs=0.08
    )  # calibrated, not only ranked
    assert amount.mean() == pytest.approx(drop[200:].mean(), abs=0.06)


def test_calibration_claims_nothing_from_noise():
    rng = np.random.default_rng(6)
    features, drop = planted_heat(signal=0)
    features = rng.random(features.shape)
    found = calibration.calibrate(features, drop)
    assert found.auroc < 0.65
    assert not found.usable
    assert "heat is not used" in found.reason
    assert np.isnan(found.probability).all()
    assert all(np.isnan(part).all() for part in found.predict(features))


def test_the_score_alone_is_no_merit_of_heat():
    rng = np.random.default_rng(14)
    features, drop = rng.random((400, 5)), rng.random(400)
    features[:, 4] = drop + rng.normal(0, 0.2, 400)
    found = calibration.calibrate(features, drop)
    assert found.auroc > 0.8
    assert not found.usable
    assert "without heat" in found.reason
    assert calibration.calibrate(features, drop, covariates=0).usable


def test_few_positives_are_not_enough_for_a_middling_auroc():
    assert resampling.auroc_error(0.7, 10, 200) == pytest.approx(0.0945, abs=1e-3)
    rng = np.random.default_rng(15)
    drop = np.r_[np.ones(11), np.zeros(40)]
    features = rng.random((51, 5))
    features[:, 0] = drop * 0.25 + rng.random(51)
    found = calibration.calibrate(features, drop, gate=0.5)
    assert 0.5 < found.auroc < 0.7
    assert not found.usable
    assert "too few" in found.reason


def test_calibration_of_a_clean_network_has_nothing_to_learn_from():
    features, drop = planted_heat()
    found = calibration.calibrate(features, drop * 0.3)
    assert (found.auroc, found.usable, found.positives) == (None, False, 0)
    assert "too few" in found.reason
    assert "too many" in calibration.calibrate(features, drop * 0 + 1).reason


def test_calibration_leaves_degenerate_maps_out():
    features, drop = planted_heat()
    features[:7, 2] = np.nan
    features = calibration.heat_features(1 - features[:, 0], *features[:, 1:].T)
    found = calibration.calibrate(features, drop)
    assert found.n == 393
    assert np.isnan(found.probability[:7]).all()
    assert np.isnan(found.predict(features)[0][:7]).all()


def noisy_swaps(count=600, donors=4, seed=7):
    """True dependence per sample, class by class, and Bernoulli answers of few donors."""
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % 6
    truth = (rng.beta(2, 2, count) * 0.5 + classes / 10).clip(0, 1)
    lost = rng.random((count, donors)) < truth[:, None]
    variance = ((lost - lost.mean(1)[:, None]) ** 2).sum(1) / max(1, donors - 1)
    return classes, truth, make_effects(
        lost.mean(1), np.ones(count), swap_variance=variance,
        bg_only=np.full(count, 0.3), bg_support=np.full(count, 0.1), donors=np.full(count, donors),
    )  # fmt: skip


def test_dependence_is_nearer_to_the_truth_than_the_drop():
    classes, truth, effects = noisy_swaps()
    found = calibration.estimate_dependence(effects, classes)
    raw = np.sqrt(np.mean((effects.swap_drop - truth) ** 2))
    ours = np.sqrt(np.mean((found.value - truth) ** 2))
    assert ours < 0.6 * raw
    assert found.value.mean() == pytest.approx(effects.swap_drop.mean(), abs=0.02)
    assert ((found.value >= 0) & (found.value <= 1)).all()
    assert not found.relative


def test_more_donors_weigh_more():
    few = calibration.estimate_dependence(noisy_swaps(donors=4)[2], np.arange(600) % 6)
    many = calibration.estimate_dependence(noisy_swaps(donors=64)[2], np.arange(600) % 6)
    assert few.weight.mean() < many.weight.mean()
    assert many.weight.mean() > 0.7


def test_dependence_of_few_samples_is_the_drop_itself():
    found = calibration.estimate_dependence(make_effects([0.2, 0.9, np.nan, -0.1]), [0, 0, 1, 1])
    np.testing.assert_allclose(found.value, [0.2, 0.9, np.nan, 0])
    assert np.isnan(calibration.estimate_dependence(make_effects([np.nan]), [0]).value).all()


def test_dependence_relative_to_an_unsure_score():
    found = calibration.estimate_dependence(make_effects([0.2, 0.1], [0.4, 0.4]), [0, 0])
    assert found.relative
    np.testing.assert_allclose(found.value, [0.5, 0.25])


def test_one_donor_and_missing_heat_are_no_obstacle():
    classes, _, effects = noisy_swaps(donors=1)
    effects.swap_variance[:] = np.nan
    heat = np.full((600, 5), np.nan)
    heat[300:] = np.random.default_rng(0).random((300, 5))
    found = calibration.estimate_dependence(effects, classes, heat)
    assert np.isfinite(found.value).all()


def test_paste_loss_is_steadied_too():
    """Four noisy controls of a paste that costs nothing look like a cost here and there."""
    rng = np.random.default_rng(16)
    answers = (rng.random((400, 4)) < 0.1).astype(float)
    effects = make_effects(
        np.full(400, 0.8),
        same_drop=answers.mean(1),
        same_variance=answers.var(1, ddof=1),
        bg_only=np.full(400, 0.3),
        bg_support=np.full(400, 0.1),
    )
    found = calibration.estimate_paste_loss(effects, np.zeros(400))
    assert (effects.same_drop > 0.4).sum() > 0
    assert not (found.value > 0.4).any()
    assert found.value.mean() == pytest.approx(0.1, abs=0.03)
    effects.same_drop[:] = np.nan
    assert np.isnan(calibration.estimate_paste_loss(effects, np.zeros(400)).value).all()


def test_assess_calls_unstable_what_pasting_costs():
    effects = make_effects(np.full(40, 0.8), same_drop=np.repeat([0.0, 0.7], 20))
    effects.same_variance[:] = 1e-4
    effects.bg_only[:] = np.repeat([0.9, 0.1], 20)
    found = assessment.assess(np.zeros(40, int), np.arange(40), ["ok"] * 40, effects)
    words = [v.verdict for v in found.verdicts]
    assert set(words[:20]) == {"relies on background"}
    assert set(words[20:]) == {"unstable when pasted"}


# the evidence rule

NAN = float("nan")
RULE = [
    # status, dependence, drop, control, support, suspicion -> verdict
    ("ok", 0.8, 0.8, 0.1, 0.5, 0.9, "relies on background"),
    ("ok", 0.8, 0.8, 0.1, 0.5, NAN, "relies on background"),
    ("ok", 0.8, 0.8, NAN, NAN, 0.9, "relies on background"),
    ("ok", 0.8, 0.8, 0.1, 0.5, 0.2, "relies on background, not visible in heat"),
    ("ok", 0.8, 0.8, 0.41, 0.5, 0.9, "unstable when pasted"),
    ("ok", 0.3, 0.3, 0.2, 0.5, 0.1, "unstable when pasted"),
    ("ok", 0.8, 0.3, 0.1, 0.5, 0.9, "cannot say"),  # the estimate alone is no evidence
    ("ok", 0.3, 0.3, 0.1, 0.5, 0.1, "cannot say"),
    ("ok", 0.05, 0.05, 0.04, 0.0, 0.9, "heat outside, harmless"),
    ("ok", 0.05, 0.05, 0.04, 0.0, 0.1, "relies on object"),
    ("ok", 0.05, 0.05, 0.04, 0.0, NAN, "relies on object"),
    ("ok", 0.2, 0.2, 0.05, 0.0, 0.9, "relies on object"),
    ("ok", 0.2, 0.05, 0.05, 0.0, 0.9, "relies on object"),
    ("ok", -0.1, -0.1, 0.0, 0.0, NAN, "relies on object"),
    ("not tested", 0.9, NAN, NAN, NAN, 0.6, "heat outside, untested"),
    ("not tested", 0.1, NAN, NAN, NAN, 0.3, "cannot say"),
    ("not tested", NAN, NAN, NAN, NAN, NAN, "cannot say"),
    ("no object", NAN, NAN, NAN, NAN, 0.9, "cannot say"),
    ("fills the frame", NAN, NAN, NAN, NAN, NAN, "cannot say"),
    ("no donors", NAN, NAN, NAN, NAN, NAN, "cannot say"),
]


@pytest.mark.parametrize("row", RULE, ids=lambda row: f"{row[-1]}-{row[1]}-{row[5]}")
def test_rule(row):
    status, dependence, drop, control, support, suspicion, expected = row
    numbers = (dependence, control, drop, control, support, suspicion)
    (found,) = verdicts.verdicts([status], *([number] for number in numbers))
    assert found.verdict == expected
    assert found.verdict in verdicts.VERDICTS
    assert found.reason


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, "relies on object"), (NAN, "relies on object"), (0.02, "cannot say")],
)
def test_a_score_that_nothing_moves_relies_on_neither(share, expected):
    numbers = ([0.05], [0.0], [0.02], [0.0], [0.0], [NAN])
    (found,) = verdicts.verdicts(["ok"], *numbers, object_share=[share])
    assert found.verdict == expected


def test_reasons_say_why_and_which_way():
    def reason(*row):
        status, dependence, drop, control, *rest = row
        numbers = (dependence, control, drop, control, *rest)
        return verdicts.verdicts([status], *([v] for v in numbers))[0].reason

    assert "the object fills the image" in reason("fills the frame", NAN, NAN, NAN, NAN, NAN)
    assert "own background is evidence" in reason("ok", 0.8, 0.8, 0.1, 0.5, 0.9)
    assert "others mislead" in reason("ok", 0.8, 0.8, 0.1, 0.0, 0.9)
    assert "0.80" in reason("ok", 0.8, 0.8, 0.1, 0.5, 0.9)
    said = reason("ok", 0.05, -0.07, 0.001, 0.5, 0.1)
    assert said.startswith(
        "the score rises by 0.07 on other backgrounds, stays on those of its own"
    )
    assert "raises no suspicion" in reason("not tested", NAN, NAN, NAN, NAN, 0.2)


def test_the_relative_rule():
    rows = [
        ["ok"] * 3,
        [0.7, 0.55, 0.9],
        [0.0] * 3,
        [0.2, 0.2, 0.1],
        [0.0] * 3,
        [0.2] * 3,
        [NAN] * 3,
    ]
    found = [v.verdict for v in verdicts.verdicts(*rows, relative=True)]
    assert found == ["relies on background", "cannot say", "cannot say"]
    with pytest.raises(ValueError, match="status has 1"):
        verdicts.verdicts(["ok"], *rows[1:])


def test_assess_puts_it_together():
    features, drop = planted_heat(400)
    rows = np.arange(0, 400, 2)
    effects = make_effects(drop[rows])
    status = ["ok"] * 200
    status[3] = "fills the frame"
    effects.swap_drop[3] = np.nan
    found = assessment.assess(np.zeros(400, int), rows, status, effects, features)
    assert found.calibration.usable
    assert found.tested.sum() == 199
    words = np.array([v.verdict for v in found.verdicts])
    relies = np.isin(words, ["relies on background", "relies on background, not visible in heat"])
    tested = found.tested
    assert np.array_equal(relies[tested], drop[tested] >= 0.5)
    assert set(words[~tested]) == {"heat outside, untested", "cannot say"}
    assert words[6] == "cannot say"
    outside = words == "heat outside, untested"
    assert (drop[outside] >= 0.5).mean() > 0.6 > (drop[~tested] >= 0.5).mean()
    assert np.isfinite(found.dependence[np.delete(np.arange(400), 6)]).all()


def test_assess_without_heat_says_nothing_of_the_untested():
    found = assessment.assess(np.zeros(6, int), [0, 1], ["ok", "ok"], make_effects([0.9, 0.0]))
    words = [v.verdict for v in found.verdicts]
    assert words == ["relies on background", "relies on object", *["cannot say"] * 4]
    assert np.isnan(found.dependence[2:]).all()
    assert found.calibration.reason.startswith("heat is not used: no tested sample")
    assert np.isnan(found.suspicion).all()  # its array is not that of the dependence
    with pytest.raises(ValueError, match="equally many"):
        assessment.assess(np.zeros(6, int), [0], ["ok", "ok"], make_effects([0.9, 0.0]))


# classes, the model, groups


def test_class_table_flags_what_is_planted():
    rng = np.random.default_rng(8)
    classes = np.repeat(["bird", "cat", "dog", "rare"], [60, 60, 60, 8])
    gap = rng.normal(0, 0.2, 188) + np.where(np.isin(classes, ["bird", "cat", "rare"]), 0.4, 0)
    support = rng.normal(0, 0.2, 188) + np.where(np.isin(classes, ["bird", "rare"]), 0.4, 0)
    effects = make_effects(gap, bg_support=support)
    rows = {r.label: r for r in assessment.class_table(classes, effects, gap.clip(0, 1))}
    assert {k for k, r in rows.items() if r.flagged} == {"bird"}  # the cat's gap has no support
    assert (rows["rare"].note, rows["rare"].n) == ("too few", 8)
    assert np.isnan(rows["rare"].q)
    assert rows["bird"].bg_gap.low > 0.3
    assert rows["bird"].q < 0.05 < rows["dog"].q
    mean, n = gap[classes == "rare"].clip(0, 1).mean(), 8
    overall = gap.clip(0, 1).mean()
    assert rows["rare"].rank_score == pytest.approx((n * mean + 20 * overall) / (n + 20))
    order = [r.rank_score for r in assessment.class_table(classes, effects, gap.clip(0, 1))]
    assert order == sorted(order, reverse=True)


def test_clean_classes_are_hardly_ever_flagged():
    rng = np.random.default_rng(9)
    flagged = 0
    for _ in range(20):
        noise = rng.normal(0, 0.3, (2, 200))
        effects = make_effects(noise[0], bg_support=noise[1])
        rows = assessment.class_table(np.arange(200) % 8, effects, noise[0].clip(0, 1))
        flagged += sum(r.flagged for r in rows)
    assert flagged == 0


def test_scenes_widen_the_intervals():
    rng = np.random.default_rng(10)
    gap = np.repeat(rng.normal(0.2, 0.3, 10), 12)
    effects = make_effects(gap)
    (alone,) = assessment.class_table(np.zeros(120), effects, gap)
    (grouped,) = assessment.class_table(
        np.zeros(120), effects, gap, groups=np.repeat(np.arange(10), 12)
    )
    assert grouped.bg_gap.low < alone.bg_gap.low
    assert grouped.p > alone.p


def test_classes_without_any_swap():
    (row,) = assessment.class_table(["a"] * 30, make_effects([np.nan] * 30), [np.nan] * 30)
    assert (row.n, row.note, row.flagged) == (0, "too few", False)


def test_model_line_by_hand():
    table = SwapTable(
        score=np.ones(4),
        prediction=np.array([0, 1, 1, 2]),
        foreign_scores=np.array([[1.0, 1], [1, 1], [1, np.nan], [np.nan, np.nan]]),
        foreign_predictions=np.array([[0, 1], [0, 0], [1, -1], [-1, -1]]),
        donor_classes=np.zeros((4, 2), int),
        same_scores=np.ones((4, 2)),
        same_predictions=np.array([[0, 0], [1, 0], [1, 1], [-1, -1]]),
        bg_only=np.ones(4),
        bg_other=np.ones(4),
    )
    line = assessment.model_line(table, [0, 2, -1, -1], 5, labels=[0, 1, 0, 2])
    assert line.accuracy.mean == pytest.approx(2 / 3)  # the fourth was not swapped
    assert line.mixed_rand.mean == pytest.approx((0.5 + 0 + 0) / 3)
    assert line.mixed_same.mean == pytest.approx((1 + 0.5 + 0) / 3)
    assert line.bg_gap.mean == pytest.approx(line.mixed_same.mean - line.mixed_rand.mean)
    assert line.only_bg.mean == 0.5
    assert line.only_bg.n == 2
    assert (line.chance, line.majority, line.against) == (0.2, 0.5, "labels")
    without = assessment.model_line(table, [0, 2, -1, -1], 5)
    assert (without.accuracy.mean, without.against) == (1, "predictions")
    assert without.mixed_rand.mean == pytest.approx((0.5 + 0 + 1) / 3)


def test_evidence_table():
    counts = assessment.evidence_table(
        [True, True, False, False, True], [True, False, True, None, True]
    )
    assert counts == {
        "right_object": 1, "right_background": 2, "wrong_object": 0, "wrong_background": 1,
        "unknown": 1,
    }  # fmt: skip


def test_groups_that_matter_and_groups_that_do_not():
    rng = np.random.default_rng(11)
    classes, hospital = rng.integers(0, 3, 300), rng.choice(["north", "south"], 300)
    score = 0.5 + 0.1 * classes + 0.2 * (hospital == "north") + rng.normal(0, 0.05, 300)
    correct = (hospital == "north") | (rng.random(300) < 0.5)
    found = groups.group_statistics(hospital, correct, score - 0.5, score, classes)
    # within a class: variance .01 of the field, .0025 of the rest
    assert found.explained == pytest.approx(0.8, abs=0.05)
    assert found.p == 1 / 1000
    rows = {g.value: g for g in found.groups}
    assert rows["north"].accuracy.mean == 1
    assert rows["south"].accuracy.high < 0.7
    nothing = groups.group_statistics(rng.permutation(hospital), correct, score, score, classes)
    assert abs(nothing.explained) < 0.05
    assert nothing.p > 0.01


def test_a_field_that_only_follows_the_class_explains_nothing_within_it():
    rng = np.random.default_rng(12)
    classes = rng.integers(0, 2, 200)
    score = classes + rng.normal(0, 0.1, 200)
    found = groups.group_statistics(classes, np.ones(200), score, score, classes)
    assert abs(found.explained) < 0.05


def test_groups_of_numbers_and_gaps():
    rng = np.random.default_rng(13)
    age = rng.uniform(20, 80, 200)
    found = groups.group_statistics([*age[:-1], None], np.ones(200), age, age / 80, np.zeros(200))
    assert len(found.groups) == 4
    assert sum(g.n for g in found.groups) == 199
    assert found.explained > 0.8
    alone = groups.group_statistics(["a"] * 5, np.ones(5), np.ones(5), np.ones(5), np.zeros(5))
    assert np.isnan(alone.explained)
