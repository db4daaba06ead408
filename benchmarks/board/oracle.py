"""The oracle: the best life that a search finds for an instance, on hosts that nobody is judged on."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, JsonValue

from board.on_instance import OnInstance
from board.plans import fitted
from board.trace import world
from esper_agents.agent import Agent
from esper_agents.baselines.schedule import ScheduleConfig
from esper_agents.config import validated
from esper_agents.evaluate import fitting
from esper_agents.search import (
    Job,
    Life,
    LifeAgent,
    Players,
    SearchConfig,
    harvested_quality,
    search_plan,
    start_lives,
)
from esper_env import EsperVectorEnv

MOST_ENVS = 24
"""Side by side in the last choice; changes no result."""


class SearchJob(OnInstance):
    """A search on one instance under one pair of budgets."""

    KIND: ClassVar[str | None] = "search"
    RESULT: ClassVar[str] = "plan.json"

    seeds: tuple[int, ...] = Field(min_length=1)
    """Of the hosts to search on."""
    settings: dict[str, JsonValue]
    """Of `esper_agents.search.SearchConfig`."""
    schedule: ScheduleConfig
    """With which it begins, beside waiting and the heuristic."""
    lives: tuple[dict[str, JsonValue], ...] = ()
    """What was found under smaller budgets, with which it begins too."""

    @property
    def steps(self) -> int:
        """See `Work`."""
        return int(str(self.settings["steps"]))

    def work(self, results: Path) -> dict[str, Any]:
        """The life, in plain values, and what it was worth on the hosts of the search."""
        with closing(world(self.instance, self.cell, 1, changes={"engine.name": "null"})) as rules:
            schedule = fitted(self.schedule, rules.facts)
        plan = search_plan(
            lambda num_envs: world(self.instance, self.cell, num_envs, self.device),
            self.seeds,
            validated(SearchConfig, self.settings),
            lives=[validated(Life, life) for life in self.lives],
            schedule=schedule,
        )
        life = plan.life.model_dump(mode="json")
        return {"life": life, "mean": plan.mean, "hosts": len(plan.results), "steps": plan.steps}

    def __str__(self) -> str:
        """For people."""
        return f"search on {self.instance.id}, cell {self.cell.id}"


class ChoiceJob(OnInstance):
    """The last choice of an oracle: what was found, and the schedule, each on all hosts of the search.

    A search plays few lives on all its hosts, and may end with one that was lucky on those it played. What
    was found under smaller budgets plays the same under larger ones, so that here these can't end worse.
    """

    KIND: ClassVar[str | None] = "choice"
    RESULT: ClassVar[str] = "choice.json"

    seeds: tuple[int, ...] = Field(min_length=1)
    """Of the hosts of the search."""
    schedule: ScheduleConfig
    lives: tuple[dict[str, JsonValue], ...] = Field(min_length=1)
    """What was found under these budgets and smaller ones."""

    @property
    def steps(self) -> int:
        """See `Work`."""
        return (len(self.lives) + 1) * len(self.seeds) * self.instance.horizon

    def work(self, results: Path) -> dict[str, Any]:
        """The life with the highest mean, and the means of all, in points of validation quality."""
        with closing(world(self.instance, self.cell, 1, self.device)) as envs:
            schedule = fitted(self.schedule, envs.facts)
            led = start_lives(SearchConfig(starts=("schedule",)), envs, self.seeds[0], schedule)
        lives = list(dict.fromkeys([*(validated(Life, life) for life in self.lives), *led]))
        asked = [Job(life, seed) for life in lives for seed in self.seeds]
        with closing(world(self.instance, self.cell, fitting(MOST_ENVS, len(asked)), self.device)) as envs:
            quality = harvested_quality(envs.facts)
            values = [quality(episode) for episode in Players(envs).play(asked)]
        means = np.array(values).reshape(len(lives), -1).mean(axis=1)
        plain = [life.model_dump(mode="json") for life in lives]
        return {"life": plain[int(means.argmax())], "lives": plain, "means": means.tolist()}

    def __str__(self) -> str:
        """For people."""
        return f"the last choice for {self.instance.id}, cell {self.cell.id}"


def player(life: Mapping[str, Any], envs: EsperVectorEnv) -> Agent:
    """Who leads a life that was found.

    Raises:
        ValueError: a life that does not fit the host.
    """
    return LifeAgent(validated(Life, dict(life)), envs)
