"""The oracle: the best life that a search finds for an instance, on hosts that nobody is judged on."""

from collections.abc import Mapping
from importlib import import_module
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
        search = import_module("esper_agents.search")
        with_facts = world(self.instance, self.cell, 1, changes={"engine.name": "null"})
        plan = search.search_plan(
            lambda num_envs: world(self.instance, self.cell, num_envs),
            list(self.seeds),
            search.SearchConfig(**self.settings),
            lives=[search.Life.model_validate(life) for life in self.lives],
            schedule=fitted(self.schedule, with_facts.facts),
        )
        with_facts.close()
        found: dict[str, Any] = plan.as_dict()
        return {"life": found["life"], "mean": plan.mean, "hosts": len(plan.results), "steps": plan.steps}

    def __str__(self) -> str:
        """For people."""
        return f"search on {self.instance.id}, cell {self.cell.id}"


def player(life: Mapping[str, Any], envs: EsperVectorEnv) -> Agent:
    """Who leads a life that was found.

    Raises:
        ValueError: a life that does not fit the host.
    """
    search = import_module("esper_agents.search")
    agent: Agent = search.LifeAgent(search.Life.model_validate(life), envs)
    return agent
