"""Beam search over lives: the states that the best have led to are gone on from in several ways.

A life is judged by what it comes to when nothing more is planted: each branch is played to the end of the
episode, from the state at which it branches off, and what is already planted is tended as always.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from esper_agents.search.life import Life, Planting
from esper_agents.search.play import Mark, Objective, Outcome, Players, Task
from esper_agents.search.player import Follower
from esper_agents.search.vary import Variation
from esper_agents.search_config import SearchConfig

Marks = tuple[Mark | None, ...]


@dataclass(frozen=True)
class Branch:
    """A life, and where it has led to."""

    life: Life
    values: tuple[float, ...]
    """Points on each host, if nothing more is planted."""
    marks: Marks | None = field(default=None, repr=False)
    """Its episode on each host at the next epoch of branching, None where it is over before; None for all at
    the beginning."""

    @property
    def mean(self) -> float:
        """What it is kept for."""
        return float(np.mean(self.values))

    @property
    def over(self) -> bool:
        """Nothing can be added any more."""
        return self.marks is not None and None in self.marks


Way = tuple[Branch, Planting | None]
"""A branch, and what is planted in addition."""


class Beam:
    """A beam search on some hosts at once.

    Args:
        config: Settings.
        variation: Draws what is tried.
        players: Environments; their steps count.
        seeds: Of the hosts.
        objective: What an episode was worth.
    """

    def __init__(
        self,
        config: SearchConfig,
        variation: Variation,
        players: Players,
        seeds: Sequence[int],
        objective: Objective,
    ) -> None:
        self._config, self._variation, self._players = config, variation, players
        self._seeds, self._objective = list(seeds), objective

    def search(self, steps: int, heard: Callable[[list[Branch]], None] = lambda kept: None) -> list[Branch]:
        """The best lives, best first, after at most so many environment steps, those of a first life aside.

        Args:
            steps: May be spent.
            heard: Called with what is kept, after each epoch of branching.
        """
        facts, horizon = self._players.envs.facts, self._players.envs.config.horizon
        begin = [Task(seed, Follower(Life(), facts)) for seed in self._seeds]
        kept = [Branch(Life(), self._values(self._players.perform(begin)))]
        for epoch in range(0, horizon, self._config.every):
            open_ = [branch for branch in kept if not branch.over]
            aside = len(open_) * len(self._seeds) * self._config.every
            left = steps - self._players.steps - aside
            tried = self._tried(open_, epoch, left // ((horizon - epoch) * len(self._seeds)))
            if not tried:
                break
            grown = [branch for branch in kept if branch.over] + self._led(open_, tried, epoch)
            kept = sorted(grown, key=lambda branch: -branch.mean)[: self._config.width]
            heard(kept)
        return kept

    def _tried(self, kept: Sequence[Branch], epoch: int, most: int) -> list[Way]:
        """What is planted in addition, and where, at most so many."""
        rng = np.random.default_rng([self._config.seed, epoch])
        found: list[Way] = [
            (branch, planting)
            for branch in kept
            for planting in self._variation.additions(branch.life, epoch, self._config.branches, rng)
        ]
        return found[: max(0, most)]

    def _led(self, kept: Sequence[Branch], tried: Sequence[Way], epoch: int) -> list[Branch]:
        """What is kept, led to the next epoch of branching as it is, and with what is tried in addition."""
        ways: list[Way] = [*((branch, None) for branch in kept), *tried]
        outcomes = self._players.perform([task for way in ways for task in self._tasks(way, epoch)])
        branches = []
        for number, (before, planting) in enumerate(ways):
            mine = outcomes[number * len(self._seeds) : (number + 1) * len(self._seeds)]
            marks = tuple(outcome.mark for outcome in mine)
            if planting is None:
                branches.append(Branch(before.life, before.values, marks))
            else:
                life = Life.of([*before.life.plantings, planting])
                branches.append(Branch(life, self._values(mine), marks))
        return branches

    def _tasks(self, way: Way, epoch: int) -> list[Task]:
        """One a host."""
        branch, planting = way
        facts, tasks = self._players.envs.facts, []
        for seed, start in zip(self._seeds, branch.marks or [None] * len(self._seeds), strict=True):
            follower = Follower(Life(), facts) if start is None else start.follower
            if planting is not None:
                follower = follower.grown(planting, facts)
            tasks.append(Task(seed, follower, start, epoch + self._config.every, stop=planting is None))
        return tasks

    def _values(self, outcomes: Sequence[Outcome]) -> tuple[float, ...]:
        return tuple(self._objective(outcome.episode) for outcome in outcomes if outcome.episode is not None)
