"""Scores over many tasks: intervals, performance profiles, and how probably one agent beats another.

Scores are arrays (task, run, episode). Runs are training seeds, the same ones in every task, because one
trained agent plays all of them; an agent that does not learn has a single run. Episodes are host seeds, each
task's own and the same for every run. Tasks stand for themselves: they are strata, none is left out.

Reference: R. Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (2021).
There every task has runs of its own and each is drawn apart; here the luck of a training seed shows in all
tasks at once, so a run is drawn for all tasks together, and episodes within each task (A. B. Owen, "The
pigeonhole bootstrap", 2007).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from esper_agents.statistics import stretch

Floats = NDArray[np.float64]
RESAMPLES = 2_000
"""Of a bootstrap."""


@dataclass(frozen=True)
class Draws:
    """What a bootstrap drew, with replacement."""

    runs: NDArray[np.int64]
    """(resample, run)."""
    episodes: NDArray[np.int64]
    """(resample, task, episode)."""

    def of(self, scores: Floats) -> Floats:
        """Scores (task, run, episode) -> (resample, task x run x episode)."""
        tasks = np.arange(scores.shape[0])[None, :, None, None]
        drawn = scores[tasks, self.runs[:, None, :, None], self.episodes[:, :, None, :]]
        return drawn.reshape(len(self.runs), -1)

    def weights(self) -> Floats:
        """(resample, task, run, episode): the share of each score in its task, by how often it was drawn."""
        runs = _counts(self.runs) / self.runs.shape[-1]
        episodes = _counts(self.episodes) / self.episodes.shape[-1]
        return runs[:, None, :, None] * episodes[:, :, None, :]


def draw(shape: Sequence[int], seed: int = 0, resamples: int = RESAMPLES) -> Draws:
    """Runs for all tasks together, episodes within each task; episodes do not depend on the number of runs.

    Args:
        shape: (tasks, runs, episodes).
        seed: Of the draws. Agents that played the same episodes and are drawn from with the same seed are
            drawn in pairs.
        resamples: How many.
    """
    tasks, runs, episodes = shape
    streams = np.random.default_rng(seed).spawn(2)
    return Draws(
        streams[0].integers(runs, size=(resamples, runs)),
        streams[1].integers(episodes, size=(resamples, tasks, episodes)),
    )


def interval(
    scores: ArrayLike, statistic: Callable[[Floats], Floats], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95% interval of a statistic of all scores: percentiles over resamples, widened (see `widening`).

    Args:
        scores: (task, run, episode).
        statistic: Of resamples (resample, value), along the last axis.
        seed: Of the draws.
        resamples: How many.

    Returns:
        Lower and upper end; NaN where nothing was repeated.
    """
    array = _scores(scores)
    drawn = statistic(draw(array.shape, seed, resamples).of(array))
    low, high = _around(float(statistic(array.reshape(1, -1))[0]), drawn, widening(*array.shape))
    return float(low), float(high)


def widening(tasks: int, runs: int, episodes: int) -> float:
    """By how much the distances of percentiles from the statistic are stretched; NaN where nothing repeats.

    A bootstrap of few values is too narrow (see `statistics.stretch`). Whether the luck of training decides
    or that of the hosts is not known: the larger one of the two stretches is taken, that of so many runs, and
    that of so many episodes a task, whose deviation all tasks together tell. Of 10 runs it is 1.2, of 5 1.6,
    of 3 2.7, of 2 9.2; of 4 episodes 1.9 in a single task, and 1.2 in 16.
    """
    of_runs = stretch(runs, runs - 1) if runs > 1 else math.nan
    of_episodes = stretch(episodes, tasks * (episodes - 1)) if episodes > 1 else math.nan
    return float(np.fmax(of_runs, of_episodes))


def improvement(ours: ArrayLike, theirs: ArrayLike) -> float:
    """How probably a score of ours is higher than one of theirs on the same task, ties half: mean over tasks.

    Reference: Agarwal et al. (2021), section 4.3: of each task the statistic U of H. B. Mann and D. R.
    Whitney (1947), divided by the number of pairs.

    Args:
        ours: (task, run, episode).
        theirs: (task, run, episode), perhaps of other numbers of runs and episodes.

    Raises:
        ValueError: another number of tasks.
    """
    wins = _wins(ours, theirs)
    return float(wins.mean())


def improvement_interval(
    ours: ArrayLike, theirs: ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95% interval of `improvement`; where both played the same number of episodes, drawn in pairs."""
    wins = _wins(ours, theirs)
    tasks, runs, episodes, *others = wins.shape
    mine = draw((tasks, runs, episodes), seed, resamples).weights()
    other = draw((tasks, others[0], others[1]), seed, resamples).weights()
    drawn = np.einsum("btre,treij,btij->b", mine, wins, other, optimize=True) / tasks
    wider = float(np.fmax(widening(tasks, runs, episodes), widening(tasks, *others)))
    low, high = np.clip(_around(float(wins.mean()), drawn, wider), 0, 1)
    return float(low), float(high)


def profile(scores: ArrayLike, thresholds: ArrayLike) -> Floats:
    """(threshold,): the share of scores above each, every task weighing the same.

    Reference: Agarwal et al. (2021), section 4.2, after E. D. Dolan and J. J. More (2002).

    Args:
        scores: (task, run, episode).
        thresholds: (threshold,).
    """
    above: Floats = (_scores(scores).reshape(-1, 1) > np.asarray(thresholds, dtype=np.float64)).mean(axis=0)
    return above


def profile_interval(
    scores: ArrayLike, thresholds: ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> Floats:
    """(2, threshold): pointwise 95% intervals of `profile`."""
    array = _scores(scores)
    above = (array.reshape(-1, 1) > np.asarray(thresholds, dtype=np.float64)).astype(np.float64)
    weights = draw(array.shape, seed, resamples).weights().reshape(resamples, -1) / len(array)
    wider = widening(*array.shape)
    ends: Floats = np.clip(_around(above.mean(axis=0), weights @ above, wider), 0, 1)
    return ends


def _around(middle: Floats | float, drawn: Floats, wider: float) -> Floats:
    """(2, ...): ends of the interval, from resamples along the first axis."""
    ends: Floats = middle + wider * (np.quantile(drawn, [0.025, 0.975], axis=0) - middle)
    return ends


def _wins(ours: ArrayLike, theirs: ArrayLike) -> Floats:
    """(task, run, episode, their run, their episode): 1 where ours is higher, 0.5 where they are equal."""
    mine, other = _scores(ours), _scores(theirs)
    if len(mine) != len(other):
        raise ValueError(f"scores of {len(mine)} tasks can't be compared with those of {len(other)}")
    signs: Floats = np.sign(mine[:, :, :, None, None] - other[:, None, None, :, :])
    return (signs + 1) / 2


def _counts(picks: NDArray[np.int64]) -> Floats:
    """How often each index of the last axis was picked, in the same shape."""
    counts: Floats = (picks[..., :, None] == np.arange(picks.shape[-1])).sum(axis=-2).astype(np.float64)
    return counts


def _scores(scores: ArrayLike) -> Floats:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 3 or not array.size:
        raise ValueError(f"scores have shape {array.shape}: (task, run, episode) is required, none of them 0")
    if not np.isfinite(array).all():
        raise ValueError("scores must be finite: what was not played can't be averaged")
    return array
