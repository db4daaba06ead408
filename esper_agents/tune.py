"""Search a good plan for the agent `schedule`, and write down what was found and how."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from pydantic import Field, model_validator

from esper_agents import checkpoint
from esper_agents.baselines.schedule import ScheduleAgent, ScheduleConfig
from esper_agents.baselines.side_by_side import SideBySide
from esper_agents.baselines.space import SpaceConfig, draw_schedules
from esper_agents.baselines.tuning import rungs, successive_halving
from esper_agents.config import validated
from esper_agents.environment import EnvironmentConfig, make_world, settled
from esper_agents.evaluate import Evaluation, evaluate, fitting
from esper_agents.tuned import Tuned, write


class TuneConfig(EnvironmentConfig):
    """A search."""

    candidates: int = Field(81, ge=2)
    """Schedules of the first rung: `schedule`, and others that are drawn."""
    eta: int = Field(3, ge=2)
    """A rung keeps the best 1/eta of its schedules, for eta times as many episodes."""
    first_seeds: int = Field(4, ge=1)
    """Episodes of each schedule in the first rung."""
    seed: int = Field(0, ge=0)
    """Of the draws."""
    tuning_seed: int = Field(20_000, ge=0)
    """Seed of the first episode that schedules are judged by; the others follow."""
    eval_seed: int = Field(10_000, ge=0)
    """Seed of the first episode that the best one is evaluated on at the end; the others follow."""
    eval_episodes: int = Field(8, ge=1)
    """Episodes of that evaluation. They decide nothing."""
    num_envs: int = Field(27, ge=1)
    """Episodes played side by side; changes no result."""
    space: SpaceConfig = SpaceConfig()
    """What schedules are drawn from."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The first candidate."""
    logdir: str = "runs"
    """Folder in which the search gets a folder of its own."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        tuned, held_out = self.tuning_seeds, self.eval_seeds
        if set(tuned) & set(held_out):
            raise ValueError(
                f"the seeds of tuning, {tuned[0]} to {tuned[-1]} (tuning_seed={self.tuning_seed}), overlap "
                f"those of evaluation, {held_out[0]} to {held_out[-1]} (eval_seed={self.eval_seed})"
            )
        return self

    @property
    def tuning_seeds(self) -> list[int]:
        """Of the episodes that schedules are judged by."""
        _, most = rungs(self.candidates, self.first_seeds, self.eta)[-1]
        return list(range(self.tuning_seed, self.tuning_seed + most))

    @property
    def eval_seeds(self) -> list[int]:
        """Of the episodes that decide nothing."""
        return list(range(self.eval_seed, self.eval_seed + self.eval_episodes))


def build(values: dict[str, Any]) -> TuneConfig:
    """The configuration of plain values.

    Raises:
        ValueError: an unknown field, a wrong type, or a value out of range; each is named with its path.
    """
    return validated(TuneConfig, values)


def tune(config: TuneConfig, say: Callable[[str], None] = lambda line: None) -> Tuned:
    """Search, evaluate what was found, and write both.

    Args:
        config: The search.
        say: Takes lines for people.

    Raises:
        ValueError: a setting that environment or agent refuses.
        FileNotFoundError: data that are neither cached nor downloadable.
    """
    world = make_world(config, 1, AutoresetMode.NEXT_STEP)
    with closing(world.envs) as envs:
        say(f"data: {world.provenance}")
        ScheduleAgent.of(config.schedule, envs)
        drawn = draw_schedules(
            config.space, envs.facts, envs.config.horizon, config.candidates - 1, config.seed
        )
    candidates = list(dict.fromkeys([config.schedule, *drawn]))
    search = Search(settled(config, world), config.num_envs, say)
    found = successive_halving(
        candidates, config.tuning_seeds, config.first_seeds, config.eta, search.returns
    )
    best = found[-1].entries[0].schedule
    evaluations = [
        replace(search.evaluation(schedule, config.eval_seeds), agent=name)
        for name, schedule in (("tuned", best), ("first candidate", config.schedule))
    ]
    folder = checkpoint.new_run(Path(config.logdir), f"{config.env}-tuning-seed{config.seed}")
    tuned = Tuned(folder, best, found, evaluations)
    write(tuned, config, world)
    return tuned


class Search:
    """Plays schedules.

    Args:
        config: What they play.
        num_envs: Most episodes side by side.
        say: Takes a line after each rung.
    """

    def __init__(self, config: EnvironmentConfig, num_envs: int, say: Callable[[str], None]) -> None:
        self._config, self._num_envs, self._say = config, num_envs, say

    def returns(self, schedules: Sequence[ScheduleConfig], seeds: Sequence[int]) -> NDArray[np.float64]:
        """(schedule, seed): the return of each schedule on each seed, as many at a time as there may be."""
        jobs = [(schedule, seed) for seed in seeds for schedule in schedules]
        count = fitting(self._num_envs, len(jobs))
        with closing(make_world(self._config, count, AutoresetMode.NEXT_STEP).envs) as envs:
            won = []
            for start in range(0, len(jobs), count):
                wave = jobs[start : start + count]
                agents = [ScheduleAgent.of(schedule, envs) for schedule, _ in wave]
                agents += agents[:1] * (count - len(wave))
                won += evaluate(SideBySide(agents), envs, [seed for _, seed in wave]).values("total_reward")
        found = np.array(won).reshape(len(seeds), len(schedules)).T
        best = found.mean(axis=1).max()
        self._say(f"{len(schedules)} schedules on {len(seeds)} more seeds: best mean there {best:.2f}")
        return found

    def evaluation(self, schedule: ScheduleConfig, seeds: Sequence[int]) -> Evaluation:
        """One schedule on its own."""
        count = fitting(self._num_envs, len(seeds))
        with closing(make_world(self._config, count, AutoresetMode.NEXT_STEP).envs) as envs:
            return evaluate(ScheduleAgent.of(schedule, envs), envs, seeds)
