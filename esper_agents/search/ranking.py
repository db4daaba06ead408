"""How good lives are that played few hosts, and not all the same ones.

A result is a life's worth, plus the host's luck, plus noise. A life's worth is taken to be like its parents',
until it has shown otherwise: of many children the one that was luckiest would lead otherwise. Reference:
C. R. Henderson, "Best linear unbiased estimation and prediction under a selection model" (Biometrics, 1975),
hosts as fixed effects and lives as random ones with a given ratio of variances; but what children reach does
not count for their parents, as most changes do harm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """What is known of lives."""

    worth: Floats
    """(life,): points above the mean life."""
    error: Floats
    """(life,): standard error."""

    def cautious(self, errors: float) -> Floats:
        """(life,): worth less so many standard errors; more, where they are negative."""
        return self.worth - errors * self.error


def rank(
    lives: Ints, hosts: Ints, values: Floats, parents: Sequence[Sequence[int]], shrinkage: float
) -> Ranking:
    """Worth of all lives.

    Args:
        lives: (result,): index of the life that played.
        hosts: (result,): index of the host it played on.
        values: (result,): what it reached there.
        parents: For each life the indices of its parents, all lower than its own; none: the mean life.
        shrinkage: Results as which it counts that a life is like its parents.
    """
    shown, where = np.unique(hosts, return_inverse=True)
    played = np.zeros((len(parents), len(shown)))
    np.add.at(played, (lives, where), 1.0)
    total = np.bincount(lives, values, minlength=len(parents))
    # A life's worth is linear in its results less the luck of its hosts, and the luck is in the worths.
    shares = _inherited(np.column_stack([total, played]), played.sum(axis=1), parents, shrinkage)
    left = np.diag(played.sum(axis=0)) - played.T @ shares[:, 1:]
    luck = np.linalg.solve(left, np.bincount(where, values) - played.T @ shares[:, 0])
    worth = shares[:, 0] - shares[:, 1:] @ luck
    beyond_luck = values - luck[where]
    # The variance of the noise, as restricted maximum likelihood has it for this ratio.
    variance = beyond_luck @ (beyond_luck - worth[lives]) / max(len(values) - len(shown), 1)
    return Ranking(worth, np.sqrt(max(variance, 0.0) / (played.sum(axis=1) + shrinkage)))


def _inherited(totals: Floats, played: Floats, parents: Sequence[Sequence[int]], shrinkage: float) -> Floats:
    """(life, column): what each life shows of each column of totals, and its parents' share in it."""
    shown = np.zeros_like(totals)
    for life, of in enumerate(parents):
        before = shown[list(of)].mean(axis=0) if of else 0.0
        shown[life] = (totals[life] + shrinkage * before) / (played[life] + shrinkage)
    return shown
