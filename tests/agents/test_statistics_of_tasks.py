"""Scores over many tasks, against scipy on random matrices, simulation and hand counts."""

import math

import numpy as np
import pytest
from scipy import stats

from esper_agents.aggregate import (
    draw,
    improvement,
    improvement_interval,
    interval,
    profile,
    profile_interval,
    widening,
)
from esper_agents.statistics import iqm


def mean(values):
    return values.mean(axis=-1)


def table(shape, seed=0):
    """Scores of skewed tasks, with ties."""
    rng = np.random.default_rng(seed)
    return np.round(rng.exponential(1 + np.arange(shape[0])[:, None, None], shape), 1)


def narrow(scores, ends, statistic):
    """Ends of the plain percentiles, without the widening for few values."""
    middle = float(statistic(scores.ravel()))
    return middle + (np.array(ends) - middle) / widening(*scores.shape)


@pytest.mark.parametrize("statistic", [mean, iqm])
def test_the_interval_of_a_single_run_is_scipys_of_several_samples_drawn_apart(statistic):
    scores = table((4, 1, 12))
    theirs = stats.bootstrap(
        tuple(scores[:, 0]),
        lambda *drawn, axis: statistic(np.concatenate(drawn, axis=axis)),
        n_resamples=40_000,
        method="percentile",
        vectorized=True,
        rng=1,
    ).confidence_interval
    ours = narrow(scores, interval(scores, statistic, resamples=40_000), statistic)
    assert ours == pytest.approx(np.array(theirs), abs=0.03 * float(theirs.high - theirs.low))


@pytest.mark.parametrize("statistic", [mean, iqm])
def test_the_interval_of_one_episode_a_run_is_scipys_over_runs(statistic):
    scores = table((3, 20, 1), seed=2)
    theirs = stats.bootstrap(
        (np.arange(20),),
        lambda drawn, axis: statistic(scores[:, drawn, 0].transpose(1, 0, 2).reshape(len(drawn), -1)),
        n_resamples=40_000,
        method="percentile",
        vectorized=True,
        rng=1,
    ).confidence_interval
    ours = narrow(scores, interval(scores, statistic, resamples=40_000), statistic)
    assert ours == pytest.approx(np.array(theirs), abs=0.03 * float(theirs.high - theirs.low))


@pytest.mark.parametrize(("of_runs", "of_hosts"), [(1.0, 1.0), (0.3, 3.0)])
@pytest.mark.parametrize("runs", [1, 3, 10])
def test_an_interval_covers_what_it_says_where_a_run_is_lucky_in_all_tasks_at_once(runs, of_runs, of_hosts):
    """Nor is it wider than what it is stretched by, compared with the known deviation of the mean."""
    rng, tables = np.random.default_rng(0), 200
    covered, widths = {mean: 0, iqm: 0}, []
    of_runs *= runs > 1
    for number in range(tables):
        luck = rng.normal(0, of_runs, (1, runs, 1)) + rng.normal(0, of_hosts, (6, 1, 8))
        scores = np.arange(6)[:, None, None] - 2.5 + luck + rng.normal(0, 0.5, (6, runs, 8))
        for statistic in covered:
            low, high = interval(scores, statistic, number, 300)
            covered[statistic] += low < 0 < high
            widths += [high - low] if statistic is mean else []
    assert min(covered.values()) / tables >= 0.91
    deviation = math.sqrt(of_runs**2 / runs + of_hosts**2 / 48 + 0.5**2 / (48 * runs))
    assert np.mean(widths) / (2 * 1.96 * deviation) <= 1.05 * widening(6, runs, 8)


@pytest.mark.parametrize(("runs", "told"), [(2, 9.2), (3, 2.7), (5, 1.6), (10, 1.2)])
def test_few_runs_are_widened_as_students_t_and_the_variance_of_resamples_want(runs, told):
    """Of a mean: t of n - 1 for 1.96, and the variance of a bootstrap is short by (n - 1) / n."""
    expected = stats.t.ppf(0.975, runs - 1) / stats.norm.ppf(0.975) * math.sqrt(runs / (runs - 1))
    assert widening(6, runs, 8) == pytest.approx(expected, rel=1e-3)
    assert round(widening(6, runs, 8), 1) == told


@pytest.mark.parametrize(("tasks", "told"), [(1, 1.9), (16, 1.2)])
def test_few_episodes_are_widened_likewise_and_all_tasks_tell_their_deviation(tasks, told):
    expected = stats.t.ppf(0.975, 3 * tasks) / stats.norm.ppf(0.975) * math.sqrt(4 / 3)
    assert widening(tasks, 1, 4) == pytest.approx(expected, rel=2e-3)
    assert round(widening(tasks, 1, 4), 1) == told


@pytest.mark.parametrize(("tasks", "runs"), [(1, 1), (2, 1), (1, 10), (15, 1)])
def test_an_interval_covers_what_it_says_where_hosts_decide_and_there_are_four(tasks, runs):
    rng, tables, covered = np.random.default_rng(1), 400, 0
    for number in range(tables):
        luck = rng.normal(0, 1, (tasks, 1, 4)) + rng.normal(0, 0.2, (tasks, runs, 4))
        low, high = interval(luck, mean, number, 300)
        covered += low < 0 < high
    assert covered / tables >= 0.91


def test_what_was_not_repeated_has_no_interval():
    assert np.isnan(interval([[[1.0]], [[2.0]]], mean)).all()
    assert interval(np.ones((2, 3, 4)), mean) == (1, 1)
    assert math.isnan(widening(3, 1, 1))


def test_draws_are_paired_between_agents_with_and_without_training():
    first, second = draw((3, 10, 8), seed=4), draw((3, 1, 8), seed=4)
    np.testing.assert_array_equal(first.episodes, second.episodes)
    luck = np.random.default_rng(0).normal(size=(3, 1, 8))
    scores = np.repeat(luck, 10, axis=1)
    np.testing.assert_allclose(first.of(scores).mean(axis=-1), second.of(luck).mean(axis=-1), atol=1e-12)


def test_weights_are_counts_of_what_was_drawn():
    scores = table((3, 4, 5), seed=6)
    draws = draw(scores.shape, resamples=50)
    weighed = (draws.weights() * scores).sum(axis=(1, 2, 3)) / 3
    np.testing.assert_allclose(weighed, draws.of(scores).mean(axis=-1), rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_probability_of_improvement_is_mann_whitneys_u_over_the_pairs(seed):
    ours, theirs = table((5, 4, 6), seed), table((5, 2, 3), seed + 100)
    expected = [
        stats.mannwhitneyu(a.ravel(), b.ravel(), method="asymptotic").statistic / (a.size * b.size)
        for a, b in zip(ours, theirs, strict=True)
    ]
    assert improvement(ours, theirs) == pytest.approx(np.mean(expected), rel=1e-12)
    assert improvement(theirs, ours) == pytest.approx(1 - np.mean(expected), rel=1e-12)


def test_the_interval_of_the_probability_of_improvement_is_that_of_a_plain_loop():
    ours, theirs = table((2, 3, 4), 1), table((2, 1, 4), 2)
    mine, other = draw(ours.shape, 5, 400), draw(theirs.shape, 5, 400)
    drawn = []
    for number in range(400):
        tasks = []
        for task in range(2):
            a = ours[task][mine.runs[number]][:, mine.episodes[number, task]].ravel()
            b = theirs[task][other.runs[number]][:, other.episodes[number, task]].ravel()
            tasks.append(np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b]))
        drawn.append(np.mean(tasks))
    middle = improvement(ours, theirs)
    expected = middle + widening(2, 3, 4) * (np.quantile(drawn, [0.025, 0.975]) - middle)
    assert improvement_interval(ours, theirs, 5, 400) == pytest.approx(np.clip(expected, 0, 1), rel=1e-9)


def test_the_profile_is_scipys_survival_function_and_falls():
    scores = table((4, 3, 7), seed=9)
    thresholds = np.linspace(-1, 12, 40)
    expected = stats.ecdf(scores.ravel()).sf.evaluate(thresholds)
    np.testing.assert_allclose(profile(scores, thresholds), expected, atol=1e-12)
    low, high = profile_interval(scores, thresholds)
    assert (low <= profile(scores, thresholds)).all()
    assert (high >= profile(scores, thresholds)).all()
    assert (low >= 0).all()
    assert (high <= 1).all()
    assert (high - low).max() > 0.05


def test_the_interval_of_a_profile_is_that_of_the_share_above():
    scores = table((4, 3, 7), seed=9)
    ends = profile_interval(scores, [1.5], seed=3)
    expected = interval((scores > 1.5).astype(float), mean, seed=3)
    assert ends[:, 0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.ones((2, 3)), r"shape \(2, 3\)"),
        (np.ones((2, 0, 3)), "none of them 0"),
        (np.full((1, 1, 2), np.nan), "must be finite"),
    ],
)
def test_scores_that_mean_nothing_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        interval(scores, mean)
    with pytest.raises(ValueError, match="2 tasks can't be compared with those of 3"):
        improvement(np.ones((2, 1, 1)), np.ones((3, 1, 1)))
