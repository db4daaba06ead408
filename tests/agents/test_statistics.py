"""Means, interquartile means and intervals, against scipy, fractions and closed forms."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from esper_agents.episodes import MEASURED, Episode
from esper_agents.evaluate import Evaluation
from esper_agents.statistics import bootstrap, crossed_interval, estimate, iqm, t_quantile


def mean(values):
    return values.mean(axis=-1)


@pytest.mark.parametrize("count", [4, 8, 20, 100])
def test_the_interquartile_mean_is_scipys_where_whole_values_are_cut_off(count):
    values = np.random.default_rng(count).normal(size=(5, count))
    np.testing.assert_allclose(iqm(values), stats.trim_mean(values, 0.25, axis=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([9.0, 1.0], 5.0),
        ([0.0, 3.0, 12.0], 4.0),  # shares inside: 1/12, 1/3, 1/12
        ([100.0, 0.0, 40.0, 10.0, 20.0], 23.0),  # 0, 0.15, 0.2, 0.15, 0
        ([600.0, 0.0, 6.0, 60.0, 6.0, 0.0], 14.0),  # 0, 1/12, 1/6, 1/6, 1/12, 0
    ],
)
def test_the_interquartile_mean_of_few_values_by_hand(values, expected):
    assert iqm(values) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [3, 5, 7, 10, 13])
def test_the_interquartile_mean_is_that_of_the_middle_half_when_every_value_is_split_in_four(count):
    values = [Fraction(int(v)) for v in np.random.default_rng(count).integers(-50, 50, count)]
    quarters = sorted(value for value in values for _ in range(4))
    exact = sum(quarters[count : 3 * count]) / (2 * count)
    assert iqm([float(v) for v in values]) == pytest.approx(float(exact), rel=1e-12, abs=1e-12)


def test_a_bootstrap_of_one_stratum_is_scipys():
    values = np.random.default_rng(0).exponential(size=24)
    for statistic in (mean, iqm):
        theirs = stats.bootstrap(
            (values,),
            lambda drawn, axis, statistic=statistic: statistic(drawn),
            n_resamples=50_000,
            method="percentile",
            vectorized=True,
            rng=1,
        ).confidence_interval
        ours = bootstrap(values, statistic, resamples=50_000)
        assert ours == pytest.approx(tuple(theirs), abs=0.02 * float(theirs.high - theirs.low))


def test_strata_are_drawn_from_apart():
    values, strata = [1.0] * 5 + [3.0] * 15, ["a"] * 5 + ["b"] * 15
    assert bootstrap(values, mean, strata) == (2.5, 2.5)
    low, high = bootstrap(values, mean)
    assert low < 2.3 < 2.7 < high


def test_the_width_with_strata_is_that_of_the_variance_within_them():
    rng = np.random.default_rng(3)
    groups = [rng.normal(10 * run, 1 + run, size=40) for run in range(3)]
    values, strata = np.concatenate(groups), np.repeat([0, 1, 2], 40)
    shuffled = rng.permutation(120)
    low, high = bootstrap(values[shuffled], mean, strata[shuffled].tolist(), resamples=50_000)
    deviation = math.sqrt(sum(40 * group.var() for group in groups)) / 120
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.03)


def test_an_interval_covers_the_mean_in_95_of_100_samples():
    rng = np.random.default_rng(5)
    inside = [
        low <= 0 <= high
        for low, high in (bootstrap(rng.normal(size=60), mean, resamples=1000) for _ in range(400))
    ]
    # 380 expected; percentiles of 60 normal values cover about 94%. Four standard deviations down.
    assert sum(inside) > 355


def test_an_interval_repeats_from_its_seed():
    values = np.random.default_rng(7).normal(size=12).tolist()
    assert estimate(values) == estimate(values)
    assert estimate(values, seed=1).iqm_low != estimate(values).iqm_low
    assert estimate(values, seed=1).low == estimate(values).low


def test_an_estimate_holds_both_means_and_their_intervals():
    values = [100.0, 0.0, 40.0, 10.0, 20.0]
    found = estimate(values)
    assert (found.mean, found.iqm, found.count) == (34.0, 23.0, 5)
    low, high = stats.t.interval(0.95, 4, 34.0, stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=2e-3)
    assert (found.iqm_low, found.iqm_high) == bootstrap(values, iqm)
    assert 0 <= found.iqm_low < 23 < found.iqm_high <= 100


@pytest.mark.parametrize("strata", [None, [0]])
def test_a_single_value_has_no_interval(strata):
    missing = dict.fromkeys(["std", "low", "high", "iqm_low", "iqm_high"])
    assert estimate([2.0], strata).as_dict() == {"mean": 2.0, "iqm": 2.0, "count": 1, **missing}


def test_strata_of_one_value_each_say_nothing_of_the_spread():
    found = estimate([1.0, 2.0, 4.0], strata=["a", "b", "c"])
    assert np.isnan([found.low, found.high, found.iqm_low, found.iqm_high]).all()
    with pytest.raises(ValueError, match="2 strata for 3 values"):
        estimate([1.0, 2.0, 4.0], strata=["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        estimate([])


def played(returns):
    blank = dict.fromkeys(MEASURED)
    episodes = [Episode(s, value, 30, blank, {}, {}, 0, 0, 0) for s, value in enumerate(returns)]
    return Evaluation("ppo", episodes)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 20, 1000])
def test_the_quantile_of_students_t_agrees_with_scipy(freedom):
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)


@pytest.mark.parametrize(("of_runs", "of_hosts"), [(2.0, 1.0), (1.0, 4.0)])
@pytest.mark.parametrize("runs", [3, 5, 8])
def test_the_crossed_interval_covers_what_it_says_however_few_the_runs(runs, of_runs, of_hosts):
    """Over many tables of two random effects, whose mean is known."""
    rng, covered, tables = np.random.default_rng(0), 0, 150
    for number in range(tables):
        luck = rng.normal(0, of_runs, (runs, 1)) + rng.normal(0, of_hosts, (1, 32))
        low, high = crossed_interval(luck + rng.normal(0, 1, (runs, 32)), mean, number, 400)
        covered += low < 0 < high
    assert covered / tables >= 0.91
    assert crossed_interval(np.ones((runs, 4)), mean) == (1, 1)


def test_the_crossed_interval_of_a_single_run_is_unknown():
    assert np.isnan(crossed_interval([[1.0, 2.0, 3.0]], mean)).all()
