"""The search for a good schedule: successive halving over seeds.

Reference: K. Jamieson and A. Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization" (2016), Algorithm 1. Here the resource is the number of episodes that a schedule is judged by;
what it earned in earlier rungs counts on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_agents.baselines.schedule import ScheduleConfig

Play = Callable[[Sequence[ScheduleConfig], Sequence[int]], NDArray[np.float64]]
"""Schedules, seeds -> return of each schedule on each seed, (schedule, seed)."""


@dataclass(frozen=True)
class Entry:
    """A schedule in one rung."""

    number: int
    """Its place among all candidates."""
    schedule: ScheduleConfig
    returns: tuple[float, ...]
    """One a seed of the rung."""

    @property
    def mean(self) -> float:
        """What it is judged by."""
        return float(np.mean(self.returns))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        schedule = self.schedule.model_dump(mode="json")
        return {"number": self.number, "mean": self.mean, "returns": self.returns, "schedule": schedule}


@dataclass(frozen=True)
class Rung:
    """Schedules that played the same seeds."""

    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]
    """Best first."""
    kept: int
    """How many of them went on, or won."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "seeds": self.seeds,
            "kept": self.kept,
            "entries": [entry.as_dict() for entry in self.entries],
        }


def rungs(candidates: int, first_seeds: int, eta: int) -> list[tuple[int, int]]:
    """Number of schedules and of seeds in every rung; the last one decides who wins."""
    found = [(candidates, first_seeds)]
    while found[-1][0] > eta:
        count, seeds = found[-1]
        found.append((-(-count // eta), seeds * eta))
    return found


def successive_halving(
    candidates: Sequence[ScheduleConfig], seeds: Sequence[int], first_seeds: int, eta: int, play: Play
) -> list[Rung]:
    """Play all on few seeds, the best 1/eta on eta times as many, until one is left.

    All schedules of a rung are judged by the mean over the same seeds; the earlier candidate wins a tie.

    Args:
        candidates: At least one.
        seeds: Of the episodes, at least as many as the last of `rungs` needs.
        first_seeds: How many the first rung plays.
        eta: Share that is kept, inverted.
        play: Plays episodes.

    Returns:
        The rungs; the first entry of the last one is the best schedule.
    """
    plan = rungs(len(candidates), first_seeds, eta)
    alive = [Entry(number, schedule, ()) for number, schedule in enumerate(candidates)]
    played: list[Rung] = []
    for (_, count), kept in zip(plan, [size for size, _ in plan[1:]] + [1], strict=True):
        new = seeds[len(alive[0].returns) : count]
        won = play([entry.schedule for entry in alive], new)
        entries = [
            Entry(entry.number, entry.schedule, (*entry.returns, *returns))
            for entry, returns in zip(alive, won.tolist(), strict=True)
        ]
        ranked = sorted(entries, key=lambda entry: (-entry.mean, entry.number))
        played.append(Rung(tuple(seeds[:count]), tuple(ranked), kept))
        alive = sorted(ranked[:kept], key=lambda entry: entry.number)
    return played
