"""The oracle: the best life that a search finds for an instance, on hosts that nobody is judged on."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from board.canonical import content_hash
from board.cells import Cell
from board.instances import Instance, environment_version
from board.plans import fitted
from board.trace import world
from esper_agents.agent import Agent
from esper_agents.baselines.schedule import ScheduleConfig
from esper_agents.config import validated
from esper_agents.search import Life, LifeAgent, SearchConfig, search_plan
from esper_env import EsperVectorEnv


class SearchJob(BaseModel):
    """A search on one instance under one pair of budgets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance: Instance
    cell: Cell
    seeds: tuple[int, ...] = Field(min_length=1)
    """Of the hosts to search on."""
    settings: dict[str, JsonValue]
    """Of `esper_agents.search.SearchConfig`."""
    schedule: ScheduleConfig
    """With which it begins, beside waiting and the heuristic."""
    lives: tuple[dict[str, JsonValue], ...] = ()
    """What was found under smaller budgets, with which it begins too."""
    environment_version: str = Field(default_factory=environment_version)
    device: str = "cpu"
    """Where networks grow."""

    @property
    def hash(self) -> str:
        """See `Work`."""
        return content_hash(self.model_dump(mode="json") | {"kind": "search", "instance": self.instance.hash})

    @property
    def name(self) -> str:
        """See `Work`."""
        return self.hash[:16]

    @property
    def result(self) -> str:
        """See `Work`."""
        return "plan.json"

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


def player(life: Mapping[str, Any], envs: EsperVectorEnv) -> Agent:
    """Who leads a life that was found.

    Raises:
        ValueError: a life that does not fit the host.
    """
    return LifeAgent(validated(Life, dict(life)), envs)
