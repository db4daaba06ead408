"""A mean and how sure one can be of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean over episodes."""

    mean: float
    std: float
    """Sample standard deviation (n - 1); NaN for a single value."""
    low: float
    """Lower end of the 95% interval of the mean (Student's t); NaN for a single value."""
    high: float
    """Upper end."""
    count: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain values for JSON, None where a single value has no spread."""
        return {key: None if math.isnan(value) else value for key, value in vars(self).items()}


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, spread and 95% interval. For a paired comparison, pass the differences.

    Raises:
        ValueError: no values.
    """
    count = len(values)
    if not count:
        raise ValueError("an estimate needs at least one value")
    mean = float(np.mean(values))
    if count == 1:
        return Estimate(mean, math.nan, math.nan, math.nan, 1)
    std = float(np.std(values, ddof=1))
    margin = t_quantile(count - 1) * std / math.sqrt(count)
    return Estimate(mean, std, mean - margin, mean + margin, count)


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
