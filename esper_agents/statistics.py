"""A mean, an interquartile mean, and how sure one can be of them."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
RESAMPLES = 5_000
"""Of a bootstrap."""


@dataclass(frozen=True)
class Estimate:
    """Means over episodes."""

    mean: float
    std: float
    """Sample standard deviation (n - 1); NaN for a single value."""
    low: float
    """Lower end of the 95% interval of the mean: Student's t, or the bootstrap where there are strata; NaN
    where nothing can be said."""
    high: float
    """Upper end."""
    iqm: float
    """Interquartile mean."""
    iqm_low: float
    """Lower end of its 95% interval, by bootstrap; NaN where nothing can be said."""
    iqm_high: float
    """Upper end."""
    count: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain values for JSON, None where a single value has no spread."""
        return {key: None if math.isnan(value) else value for key, value in vars(self).items()}


def estimate(values: Sequence[float], strata: Sequence[Hashable] | None = None, seed: int = 0) -> Estimate:
    """Means, spread and 95% intervals. For a paired comparison, pass the differences.

    Args:
        values: One an episode.
        strata: For each value what it belongs to, such as the training run that it was measured on; None when
            all values are alike.
        seed: Of the bootstrap's draws.

    Raises:
        ValueError: no values, or another number of strata.
    """
    count = len(values)
    if not count:
        raise ValueError("an estimate needs at least one value")
    mean, middle = float(np.mean(values)), float(iqm(values))
    std = float(np.std(values, ddof=1)) if count > 1 else math.nan
    around = bootstrap(values, iqm, strata, seed)
    if strata is not None:
        low, high = bootstrap(values, lambda drawn: np.mean(drawn, axis=-1), strata, seed)
    else:
        margin = t_quantile(count - 1) * std / math.sqrt(count) if count > 1 else math.nan
        low, high = mean - margin, mean + margin
    return Estimate(mean, std, low, high, middle, *around, count)


def iqm(values: ArrayLike) -> Floats:
    """The mean of the middle half along the last axis; what stands at its edges counts by the share inside.

    Reference: R. Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
    (2021), section 4.3. Their code cuts off whole values: the same where there are a multiple of four.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    count = ordered.shape[-1]
    inside = np.diff(np.clip(np.arange(count + 1), count / 4, 3 * count / 4))
    return np.asarray(ordered @ inside / (count / 2))


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[Floats], Floats],
    strata: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """The 95% interval of a statistic: percentiles over resamples, drawn within each stratum alone.

    Reference: B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; Agarwal
    et al. (2021), section 4.1, for the strata. A stratum of a single value adds no spread.

    Args:
        values: (value,).
        statistic: Of resamples (resample, value), along the last axis.
        strata: For each value the stratum it belongs to; None for one of all.
        seed: Of the draws.
        resamples: How many.

    Returns:
        Lower and upper end; NaN where no stratum has two values.

    Raises:
        ValueError: another number of strata than of values.
    """
    array = np.asarray(values, dtype=np.float64)
    labels = [None] * len(array) if strata is None else list(strata)
    if len(labels) != len(array):
        raise ValueError(f"there are {len(labels)} strata for {len(array)} values: one for each is required")
    groups: dict[Hashable, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label, []).append(index)
    if max(map(len, groups.values()), default=0) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    picks = [
        np.array(group)[rng.integers(len(group), size=(resamples, len(group)))] for group in groups.values()
    ]
    low, high = np.quantile(statistic(array[np.concatenate(picks, axis=1)]), [0.025, 0.975])
    return float(low), float(high)


def crossed_interval(
    values: ArrayLike, statistic: Callable[[Floats], Floats], seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """A 95% interval of a statistic over training runs that all played the same episodes.

    Runs and episodes are both drawn with replacement, so that the luck of training and that of the hosts are
    both in it (A. B. Owen, "The pigeonhole bootstrap", 2007). A bootstrap of few runs is too narrow: its
    distances from the statistic are widened (see `stretch`).

    Args:
        values: (run, episode).
        statistic: Of resamples (resample, value), along the last axis.
        seed: Of the draws.
        resamples: How many.

    Returns:
        Lower and upper end; NaN for a single run.
    """
    array = np.asarray(values, dtype=np.float64)
    count = len(array)
    if count < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    runs, episodes = (rng.integers(size, size=(resamples, size)) for size in array.shape)
    drawn = array[runs[:, :, None], episodes[:, None, :]].reshape(resamples, -1)
    middle = float(statistic(array.reshape(1, -1))[0])
    low, high = middle + stretch(count, count - 1) * (np.quantile(statistic(drawn), [0.025, 0.975]) - middle)
    return float(low), float(high)


def stretch(count: int, freedom: int) -> float:
    """By how much a bootstrap's 95% interval of a mean is too narrow.

    Student's t wants more than a normal deviate, and the variance of resamples lacks count / (count - 1).

    Args:
        count: Values that are drawn together, 2 or more.
        freedom: Degrees of freedom of the estimate of their deviation.
    """
    return t_quantile(freedom) / NormalDist().inv_cdf(0.975) * math.sqrt(count / (count - 1))


def t_quantile(freedom: int, probability: float = 0.975) -> float:
    """Quantile of Student's t distribution, to 0.2%.

    Closed forms for 1 and 2 degrees of freedom, else the expansion about the normal quantile of M. Abramowitz
    and I. Stegun, "Handbook of Mathematical Functions" (1964), 26.7.5.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
