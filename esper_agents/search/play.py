"""Plays many lives on many hosts, as many side by side as there are environments."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from esper_agents.baselines.reading import Reader
from esper_agents.episodes import Episode, EpisodeCounter, Step
from esper_agents.search.life import Life
from esper_agents.search.player import Follower, follow
from esper_env import EsperVectorEnv, HostFacts

Objective = Callable[[Episode], float]
"""What an episode was worth, in points."""
OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Job:
    """An episode to play."""

    life: Life
    seed: int
    """Of the host."""


def total_reward(episode: Episode) -> float:
    """An objective: the reward's sum."""
    return episode.total_reward


def harvested_quality(facts: HostFacts) -> Objective:
    """An objective: validation quality after harvest in points, accuracy or 1 - loss / ln(vocabulary).

    Args:
        facts: Of the host.
    """

    def quality(episode: Episode) -> float:
        accuracy, loss = (episode.measured[f"harvest_{name}"] for name in ("accuracy", "loss"))
        if accuracy is not None:
            return 100 * accuracy
        if loss is not None:
            return 100 * (1 - loss / facts.chance_loss)
        if episode.measured["param_ratio"] is not None:
            return 100 * facts.chance_quality  # harvested, but its loss is no number
        raise ValueError(
            f"the episode of seed {episode.seed} was cut off, and nothing was harvested: a search for "
            f"quality needs max_episode_steps=None"
        )

    return quality


@dataclass(frozen=True)
class Mark:
    """An episode as it is at some epoch: environment, player and sums."""

    state: dict[str, Any] = field(repr=False)
    follower: Follower
    sums: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """An episode to play, or the rest of one."""

    seed: int
    """Of the host."""
    follower: Follower
    start: Mark | None = None
    """Where it begins; None: at the beginning. Whoever led it there does not go on: `follower` does."""
    mark_at: int | None = None
    """Epoch at which it is to be marked."""
    stop: bool = False
    """Whether it ends there; otherwise it is played on to its end."""


@dataclass
class Outcome:
    """What became of a task."""

    episode: Episode | None = None
    """Of the whole, what was before the start included; None if it was stopped."""
    mark: Mark | None = None
    """None if the episode was over before."""


class Players:
    """The environments of a search, and who plays in each.

    Args:
        envs: What is played, in any autoreset mode but DISABLED.

    Raises:
        ValueError: that mode.
    """

    def __init__(self, envs: EsperVectorEnv) -> None:
        if envs.autoreset_mode == AutoresetMode.DISABLED:
            raise ValueError("a search needs autoreset_mode='NextStep' or 'SameStep', not 'Disabled'")
        self.envs, self._reader = envs, Reader(envs)
        self.steps = 0
        """Environment steps so far, idle places left out."""
        self._rest: dict[str, Any] | None = None
        """An episode that is over. With NEXT_STEP a step begins the next one without training it: a place
        that is idle is put back there after every step, as it would be trained for nothing otherwise."""

    def play(self, jobs: Sequence[Job], on_step: OnStep | None = None) -> list[Episode]:
        """The episodes of these jobs, in their order; which are played side by side changes no result."""
        tasks = [Task(job.seed, Follower(job.life, self.envs.facts)) for job in jobs]
        return [outcome.episode for outcome in self.perform(tasks, on_step) if outcome.episode is not None]

    def perform(self, tasks: Sequence[Task], on_step: OnStep | None = None) -> list[Outcome]:
        """What becomes of these tasks, in their order."""
        places = self.envs.num_envs
        self._tasks, self._outcomes = tasks, [Outcome() for _ in tasks]
        self._waiting = list(range(len(tasks)))
        self._doing: list[int | None] = [None] * places
        self._followers: list[Follower | None] = [None] * places
        self._counter = EpisodeCounter(self.envs)
        self._obs, self._info = self.envs.reset(seed=[tasks[0].seed] * places)
        self._assign(range(places))
        while any(number is not None for number in self._doing):
            self._step(on_step)
        return self._outcomes

    def _assign(self, places: Iterable[int]) -> None:
        """Begin what is waiting in places that are free."""
        seeds: list[int | None] = [None] * self.envs.num_envs
        for place in places:
            number = self._doing[place] = self._waiting.pop(0) if self._waiting else None
            task = None if number is None else self._tasks[number]
            self._followers[place] = None if task is None else task.follower.copy()
            if task is not None and task.start is None:
                seeds[place] = task.seed
                self._counter.forget(place)
        if any(seed is not None for seed in seeds):
            begun = np.array([seed is not None for seed in seeds])
            self._obs, self._info = self.envs.reset(seed=seeds, options={"reset_mask": begun})
        for place, number in enumerate(self._doing):
            if place in places and number is not None and (start := self._tasks[number].start) is not None:
                self._obs, self._info = self.envs.set_state(place, start.state)
                self._counter.set_row(place, start.sums)

    def _step(self, on_step: OnStep | None) -> None:
        actions = follow(self._followers, self._reader.read(self._obs), self._info)
        obs, rewards, terminated, truncated, info = self.envs.step(actions)
        ended, seen = terminated | truncated, obs
        if "final_obs" in info and ended.any():
            seen = obs.copy()
            for env in np.flatnonzero(ended).tolist():
                seen[env] = info["final_obs"][env]
        self._obs, self._info = obs, info
        step = Step(seen, actions, rewards, ended, info)
        self.steps += sum(number is not None for number in self._doing)
        episodes = dict(zip(np.flatnonzero(ended).tolist(), self._counter.add(step), strict=True))
        if on_step is not None:
            on_step(step)
        if self._rest is None and episodes and self.envs.autoreset_mode == AutoresetMode.NEXT_STEP:
            self._rest = self.envs.get_state(min(episodes))
        self._assign([place for place in range(len(ended)) if self._done(place, episodes.get(place))])
        for place, number in enumerate(self._doing):
            if number is None and self._rest is not None and not ended[place]:
                self._obs, self._info = self.envs.set_state(place, self._rest)

    def _done(self, place: int, episode: Episode | None) -> bool:
        """Note what came of a place's task; whether that is all."""
        number, follower = self._doing[place], self._followers[place]
        if number is None or follower is None:
            return False
        task, outcome = self._tasks[number], self._outcomes[number]
        if episode is not None:
            outcome.episode = replace(episode, seed=task.seed)
            return True
        sums = self._counter.get_row(place)
        if task.mark_at != int(sums["_length"]):
            return False
        outcome.mark = Mark(self.envs.get_state(place), follower.copy(), sums)
        return task.stop
