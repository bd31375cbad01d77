"""Ranks, paired differences and intervals, against hand-computed numbers."""

import numpy as np
import pytest

from cam_core.stats.ranking import compare_pairs, holm, mean_ranks, paired, two_sided_p, wilson

NAN = float("nan")


def test_ranks_by_hand():
    values = {"up": [[3.0, 2.0, 1.0], [1.0, 1.0, 0.0]], "down": [[1.0, 2.0, 3.0], [5.0, 1.0, 9.0]]}
    found = mean_ranks(values, {"up": "higher", "down": "lower"})
    # the second row: (1.5, 1.5, 3) by "up" and (2, 1, 3) by "down"
    np.testing.assert_allclose(found, [[1, 2, 3], [1.75, 1.25, 3]])


def test_ranks_equal_scipys_where_all_are_there():
    stats = pytest.importorskip("scipy.stats")
    table = np.random.default_rng(0).integers(0, 5, (20, 6)).astype(float)
    found = mean_ranks({"m": table}, {"m": "lower"})
    np.testing.assert_allclose(found, stats.rankdata(table, axis=1))


def test_a_missing_map_has_no_rank_and_the_others_are_compared_without_it():
    found = mean_ranks({"m": [[1.0, NAN, 3.0], [NAN, NAN, 2.0]]}, {"m": "lower"})
    np.testing.assert_allclose(found, [[1, NAN, 3], [NAN, NAN, NAN]])


def test_no_metric_no_rank():
    with pytest.raises(ValueError, match="values is empty"):
        mean_ranks({}, {})


def test_paired_says_who_is_better():
    rng = np.random.default_rng(0)
    base = rng.normal(size=60)
    lower = base - 0.5 + 0.1 * rng.normal(size=60)
    found = paired(lower, base, "lower")
    assert found.low < 0.5 < found.high
    assert found.n == 60
    assert found.decided
    assert paired(lower, base, "higher").mean == pytest.approx(-found.mean)
    same = paired(base, base + 0.1 * rng.normal(size=60), "lower")
    assert not same.decided
    nothing = paired([NAN, 1.0], [1.0, NAN], "lower")
    assert nothing.n == 0
    assert not nothing.decided


def test_two_sided_p_is_exact_for_few_values():
    # of the 16 signs of four equal numbers two are as far from 0 as +++ +
    assert two_sided_p([1.0, 1.0, 1.0, 1.0]) == pytest.approx(2 / 16, abs=0.01)
    assert two_sided_p([-1.0] * 4) == pytest.approx(2 / 16, abs=0.01)
    assert two_sided_p([1.0, -1.0]) == 1.0
    assert np.isnan(two_sided_p([NAN]))


def test_pairs_of_three():
    rng = np.random.default_rng(1)
    scores = np.column_stack([np.full(40, 1.0), np.full(40, 2.0), np.full(40, 2.0)])
    scores += 0.05 * rng.normal(size=scores.shape)
    found = compare_pairs(scores)
    assert set(found) == {(0, 1), (0, 2), (1, 2)}
    assert found[0, 1].decided
    assert found[0, 2].decided
    assert not found[1, 2].decided
    assert found[0, 1].mean == pytest.approx(1, abs=0.05)
    assert all(pair.adjusted >= pair.p for pair in found.values())


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, NAN]), [0.03, 0.06, 0.06, NAN])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])


def test_wilson_is_statsmodels():
    # statsmodels.stats.proportion.proportion_confint(3, 20, method="wilson")
    found = wilson(3, 20)
    assert found.mean == 0.15
    np.testing.assert_allclose([found.low, found.high], [0.0523692, 0.3604196], atol=1e-6)
    assert (wilson(0, 5).low, wilson(5, 5).high) == (0.0, 1.0)
    assert wilson(0, 0).n == 0
    scipy = pytest.importorskip("scipy.stats")
    theirs = scipy.binomtest(7, 31).proportion_ci(method="wilson")
    np.testing.assert_allclose([wilson(7, 31).low, wilson(7, 31).high], theirs, rtol=1e-9)
