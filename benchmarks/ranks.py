"""Returns of one life in every mode of the reward, what the life was worth, and how well rankings agree."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from esper_agents.statistics import Estimate, estimate
from esper_env import REWARD_MODES

Floats = NDArray[np.float64]

BASES = ("contribution", "shapley")
"""What a module can be credited by in the economy."""
PRICED = ("quality", "harvest", "rent", "churn", "op_cost", "shaping", "rollback")
"""Terms that are published under the name of their price."""
KEPT = {f"economy, kept {basis}": f"kept_{basis}" for basis in BASES}
"""The economy in which fossils keep the credit they were fossilized with, and the term that holds it."""
KEPT_PRICES = {"outcome": 20.0, "credit": 1.0}
"""What that economy pays for the outcome, in place of more, and for a point of credit."""
MODES = ("dense", "sparse", "economy", *KEPT)
"""What is compared."""
PRICE_OF_SIZE = 2.0
"""Points that the yardstick takes for a factor e in parameters, and in FLOPs."""
RESAMPLES = 1000


@dataclass(frozen=True)
class Life:
    """One episode of one agent."""

    MEASURED: ClassVar = ("val_accuracy", "harvest_accuracy", "test_accuracy", "param_ratio", "flops_ratio")

    seed: int | None
    terms: dict[str, float]
    """Sum of each term over the episode, at its dense price; all kinds of credit at price 1."""
    chance: float
    """Quality of guessing."""
    fossilized: int
    pruned: int
    invalid: int
    val_accuracy: float
    """Share in [0, 1], before the harvest, as the two below are after it."""
    harvest_accuracy: float
    test_accuracy: float
    param_ratio: float
    flops_ratio: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @property
    def yardstick(self) -> float:
        """Harvested test accuracy less what the network and its training cost, in points."""
        return 100 * self.test_accuracy - PRICE_OF_SIZE * float(np.log(self.param_ratio * self.flops_ratio))

    @property
    def accuracy(self) -> float:
        """Harvested test accuracy in points."""
        return 100 * self.test_accuracy


def priced(life: Life, mode: str) -> dict[str, float]:
    """The terms of the undiscounted return in a mode: one of `MODES`.

    The terms that a mode takes over from another are scaled by the ratio of prices, which holds for churn
    only as long as its cap is out of reach or its price the same.
    """
    prices, played = dict(REWARD_MODES[mode.partition(", ")[0]]), REWARD_MODES["dense"]
    prices |= KEPT_PRICES if mode in KEPT else {}
    terms = {term: life.terms[term] * prices[term] / played[term] for term in PRICED}
    terms["outcome"] = prices["outcome"] * (life.harvest_accuracy - life.chance)
    return terms | {"credit": prices["credit"] * life.terms[KEPT.get(mode, "credit")]}


def spearman(returns: Floats, worth: Floats) -> float:
    """Rank correlation, ties averaged, over agents: both (agent,)."""
    return float(spearmanr(returns, worth).statistic)


def of_means(returns: Floats, worth: Floats) -> float:
    """Rank correlation of the means over seeds: both (agent, seed)."""
    return spearman(returns.mean(axis=1), worth.mean(axis=1))


def by_seed(returns: Floats, worth: Floats) -> Estimate:
    """Rank correlation within each seed, over seeds: both (agent, seed)."""
    return estimate([spearman(r, w) for r, w in zip(returns.T, worth.T, strict=True)])


def interval(returns: Floats, worth: Floats) -> tuple[float, float]:
    """95% interval of `of_means`, percentiles of `RESAMPLES` draws of the seeds with replacement.

    NaN for fewer than three seeds. Reference: B. Efron, R. Tibshirani, "An Introduction to the Bootstrap"
    (1993), 13.3.
    """
    seeds = returns.shape[1]
    if seeds < 3:
        return np.nan, np.nan
    rng = np.random.default_rng(0)
    draws = rng.integers(seeds, size=(RESAMPLES, seeds))
    low, high = np.percentile([of_means(returns[:, d], worth[:, d]) for d in draws], [2.5, 97.5])
    return float(low), float(high)


def halves(worth: Floats) -> float:
    """How well the yardstick agrees with itself: rank correlation between the means over every other seed."""
    return spearman(worth[:, ::2].mean(axis=1), worth[:, 1::2].mean(axis=1))


def places(values: Floats) -> NDArray[np.int64]:
    """(agent,): place of each, 1 for the largest; ties share the best place."""
    return rankdata(-values, method="min").astype(np.int64)
