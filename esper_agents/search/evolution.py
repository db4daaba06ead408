"""Evolution of lives: asks for episodes, is told what they were worth, and knows the best life at any time.

A (mu + lambda) strategy whose parents are never forgotten: of every generation a part are children of the
best lives so far, the rest the best lives themselves on hosts that are new to them, so that what was lucky
once is found out. All of a generation play the same host, as far as they have not played it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from esper_agents.search.life import Life
from esper_agents.search.play import Job
from esper_agents.search.ranking import Ranking, rank
from esper_agents.search.vary import Variation
from esper_agents.search_config import SearchConfig

TRIES = 100
"""Draws of a life, before all count as known."""
HOSTS = 4
"""Hosts that a life plays in one generation in which nothing new is tried, if there are so many."""


@dataclass
class Archive:
    """All lives that were ever asked for, and their results."""

    lives: list[Life] = field(default_factory=list)
    parents: list[tuple[int, ...]] = field(default_factory=list)
    """For each life the numbers of its parents."""
    results: dict[tuple[int, int], float] = field(default_factory=dict)
    """(number of the life, index of the seed) -> points."""

    def __post_init__(self) -> None:
        self._numbers = {life: number for number, life in enumerate(self.lives)}

    def add(self, life: Life, parents: Sequence[int] = ()) -> bool:
        """Take a life in, unless it is known; whether it was not."""
        if life in self._numbers:
            return False
        self._numbers[life] = len(self.lives)
        self.lives.append(life)
        self.parents.append(tuple(parents))
        return True

    def number(self, life: Life) -> int:
        """Of a life that is known."""
        return self._numbers[life]

    def ranking(self, shrinkage: float) -> Ranking:
        """What the results say, of which there must be some."""
        cells = np.array(list(self.results), dtype=np.int64)
        values = np.array(list(self.results.values()))
        return rank(cells[:, 0], cells[:, 1], values, self.parents, shrinkage)


class Evolution:
    """A search that goes on as long as it is asked.

    Args:
        config: Settings.
        variation: Draws and changes lives.
        seeds: Of the hosts.
        lives: With which it begins, beside drawn ones.
        instances: Kinds of hosts, which take turns: seed i and generation i are of kind i mod `instances`,
            and a generation plays hosts of its kind alone.

    Raises:
        ValueError: no seeds, one twice, or a number of them that is no multiple of that of the instances.
    """

    def __init__(
        self,
        config: SearchConfig,
        variation: Variation,
        seeds: Sequence[int],
        lives: Sequence[Life] = (),
        instances: int = 1,
    ) -> None:
        if not seeds or len(set(seeds)) < len(seeds) or len(seeds) % instances:
            wanted = f"{instances} or a multiple of that" if instances > 1 else "at least one"
            raise ValueError(f"seeds={list(seeds)} of a search: {wanted}, and none twice")
        self._instances = instances
        self.config, self.variation, self.seeds = config, variation, list(seeds)
        self.archive, self.generations = Archive(), 0
        for life in lives:
            self.archive.add(life)

    def ask(self, count: int, new: bool = True) -> list[Job]:
        """The episodes of the next generation, at most `count`.

        Args:
            count: How many.
            new: Whether new lives are tried; otherwise the best are played on more hosts, and there may be
                nothing left to play.
        """
        rng = np.random.default_rng([self.config.seed, self.generations])
        if not self.archive.results:
            self._draw(count, rng)
            return [self._job(number, 0) for number in range(min(count, len(self.archive.lives)))]
        ranking = self.archive.ranking(self.config.shrinkage)
        if not new:
            return [self._job(*cell) for cell in self._confirmed(ranking, count)]
        host = self.generations % len(self.seeds)
        cells = self._again(ranking, round(self.config.again * count), host)
        children = (self._child(ranking, rng) for _ in range(count - len(cells)))
        return [self._job(*cell) for cell in [*cells, *((n, host) for n in children if n is not None)]]

    def tell(self, jobs: Sequence[Job], values: Sequence[float]) -> None:
        """What the episodes of the last generation were worth, in points."""
        for job, value in zip(jobs, values, strict=True):
            cell = self.archive.number(job.life), self.seeds.index(job.seed)
            self.archive.results[cell] = float(value)
        self.generations += 1

    def best(self) -> Life:
        """The life of which the most is to be expected, with caution; nothing before anything was played."""
        if not self.archive.results:
            return Life()
        ranking = self.archive.ranking(self.config.shrinkage)
        return self.archive.lives[int(np.argmax(ranking.cautious(self.config.caution)))]

    def results(self, life: Life) -> dict[int, float]:
        """Seed -> points, of a life that was played."""
        number = self.archive.number(life)
        found = ((seed, self.archive.results.get((number, host))) for host, seed in enumerate(self.seeds))
        return {seed: value for seed, value in found if value is not None}

    def state(self) -> dict[str, Any]:
        """Plain values to go on from; nothing else is remembered."""
        archive = self.archive
        return {
            "generations": self.generations,
            "lives": [life.model_dump(mode="json", exclude_defaults=True) for life in archive.lives],
            "parents": [list(parents) for parents in archive.parents],
            "results": [[*cell, value] for cell, value in archive.results.items()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state` of a search with the same settings and seeds."""
        self.generations = state["generations"]
        self.archive = Archive(
            [Life.model_validate(life) for life in state["lives"]],
            [tuple(parents) for parents in state["parents"]],
            {(life, host): value for life, host, value in state["results"]},
        )

    def _job(self, number: int, host: int) -> Job:
        return Job(self.archive.lives[number], self.seeds[host])

    def _draw(self, count: int, rng: np.random.Generator) -> None:
        """Fill the first generation."""
        for _ in range(TRIES * count):
            if len(self.archive.lives) >= count:
                break
            self.archive.add(self.variation.draw(rng))

    def _left(self, number: int) -> list[int]:
        """Hosts of this generation's kind that a life has not played."""
        hosts = range(self.generations % self._instances, len(self.seeds), self._instances)
        return [host for host in hosts if (number, host) not in self.archive.results]

    def _again(self, ranking: Ranking, count: int, host: int) -> list[tuple[int, int]]:
        """The most promising lives on a host that is new to them: this one, or the next."""
        found: list[tuple[int, int]] = []
        for number in np.argsort(-ranking.cautious(-1), kind="stable").tolist():
            left = self._left(number)
            if left and len(found) < count:
                found.append((number, host if host in left else left[0]))
        return found

    def _confirmed(self, ranking: Ranking, count: int) -> list[tuple[int, int]]:
        """The best few lives, each on several hosts."""

        def cells() -> Iterator[tuple[int, int]]:
            for number in np.argsort(-ranking.worth, kind="stable").tolist():
                yield from ((number, host) for host in self._left(number)[:HOSTS])

        return [cell for cell, _ in zip(cells(), range(count), strict=False)]

    def _child(self, ranking: Ranking, rng: np.random.Generator) -> int | None:
        """Number of a life that is new; None if there seems to be none left."""
        for _ in range(TRIES):
            if rng.random() < self.config.fresh:
                life, parents = self.variation.draw(rng), []
            else:
                two = rng.random() < self.config.crossing
                parents = list(dict.fromkeys(self._parent(ranking, rng) for _ in range(1 + two)))
                life = self.variation.child([self.archive.lives[number] for number in parents], rng)
            if self.archive.add(life, parents):
                return len(self.archive.lives) - 1
        return None

    def _parent(self, ranking: Ranking, rng: np.random.Generator) -> int:
        """The best of a few that are drawn from the best."""
        best = np.argsort(-ranking.worth, kind="stable")[: self.config.parents]
        return int(best[rng.integers(len(best), size=self.config.tournament).min()])
