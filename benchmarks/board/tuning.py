"""The best open-loop schedule for every cell, tuned on the train part alone, by successive halving.

A pair of a train instance and one of its tuning seeds counts as one seed of `successive_halving`. Plans are
judged by the share of the static host's errors that they remove: the gain in test quality, paired by host,
over what the static host lacks to 1, so that easy and hard data count alike.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from board.cells import Cell
from board.instances import Instance
from board.on_instance import OnInstance
from board.plans import fitted
from board.quality import qualities
from board.seeds import public_seeds
from board.trace import world
from esper_agents import config_file
from esper_agents.agent import Agent
from esper_agents.baselines import WaitAgent
from esper_agents.baselines.schedule import ScheduleAgent, ScheduleConfig
from esper_agents.baselines.side_by_side import SideBySide
from esper_agents.baselines.space import SpaceConfig, draw_schedules
from esper_agents.baselines.tuning import Rung, rungs, successive_halving
from esper_agents.config import validated
from esper_agents.evaluate import evaluate

LEAST_LACK = 0.01
"""To which share a static host's errors are rounded up, for hosts that make hardly any."""
ETA = 3
"""A rung keeps one plan in so many, for so many times as many hosts."""


class TuneJob(OnInstance):
    """Plans side by side on one host, and the same host without any."""

    KIND: ClassVar[str | None] = "tune"
    RESULT: ClassVar[str] = "tuning.json"

    seed: int
    """Of the host."""
    plans: tuple[ScheduleConfig, ...] = Field(min_length=1)

    @property
    def steps(self) -> int:
        """See `Work`."""
        return (len(self.plans) + 1) * self.instance.horizon

    def work(self, results: Path) -> dict[str, Any]:
        """Test quality of every plan, and of the static host."""
        with closing(world(self.instance, self.cell, len(self.plans) + 1, self.device)) as envs:
            agents: list[Agent] = [ScheduleAgent.of(fitted(plan, envs.facts), envs) for plan in self.plans]
            both = SideBySide([*agents, WaitAgent()])
            episodes = evaluate(both, envs, [self.seed] * envs.num_envs).episodes
            *quality, static = qualities(episodes, envs.facts)
        return {"quality": quality, "static": static}

    def __str__(self) -> str:
        """For people."""
        return f"{len(self.plans)} schedules on {self.instance.id}, cell {self.cell.id}"


Play = Callable[[Sequence[TuneJob]], Sequence[dict[str, Any]]]
"""Jobs -> their results."""


def candidates(instance: Instance, cell: Cell, count: int, seed: int = 0) -> list[ScheduleConfig]:
    """Plans for a host: the default one, and others that are drawn."""
    with closing(world(instance, cell, 1, changes={"engine.name": "null"})) as envs:
        drawn = draw_schedules(SpaceConfig(), envs.facts, envs.config.horizon, count - 1, seed)
    return list(dict.fromkeys([ScheduleConfig(), *drawn]))


def read_schedules(path: Path) -> dict[str, ScheduleConfig]:
    """Id of budgets -> the schedule for it, from a file that `benchmarks/agents/board_schedules.py` wrote.

    Raises:
        ValueError: a file that is not there, or of another form.
    """
    plans = config_file.read(path).get("plans")
    if not isinstance(plans, dict) or not plans:
        raise ValueError(
            f'{path}: {{"plans": {{"1.5x1": {{...}}}}}} is required, a schedule for each budgets'
        )
    return {cell: validated(ScheduleConfig, plan) for cell, plan in plans.items()}


def tune(
    cell: Cell, train: Sequence[Instance], plans: Sequence[ScheduleConfig], play: Play, device: str = "cpu"
) -> list[Rung]:
    """The rungs of the search for one cell; the first entry of the last one is the best plan.

    Args:
        cell: Under which budgets.
        train: Instances of the train part.
        plans: Candidates.
        play: Plays jobs.
        device: Where networks grow.

    Raises:
        ValueError: an instance that is held out.
    """
    held_out = [instance.id for instance in train if instance.held_out]
    if held_out:
        raise ValueError(f"schedules are tuned on the train part alone, not on {held_out}")
    most = rungs(len(plans), len(train), ETA)[-1][1]
    hosts = [
        (instance, seed)
        for seeds in zip(
            *(public_seeds("tuning", each, -(-most // len(train))) for each in train), strict=True
        )
        for instance, seed in zip(train, seeds, strict=True)
    ]

    def gains(alive: Sequence[ScheduleConfig], numbers: Sequence[int]) -> NDArray[np.float64]:
        """(plan, host): share of the static host's errors that are removed."""
        asked = [(hosts[number], tuple(alive)) for number in numbers]
        todo = [TuneJob(instance=i, cell=cell, seed=seed, plans=of, device=device) for (i, seed), of in asked]
        return np.array([_removed(result) for result in play(todo)]).T

    return successive_halving(list(plans), range(len(hosts)), len(train), ETA, gains)


def _removed(result: dict[str, Any]) -> NDArray[np.float64]:
    return (np.array(result["quality"]) - result["static"]) / max(1 - result["static"], LEAST_LACK)
