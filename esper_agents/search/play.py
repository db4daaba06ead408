"""Plays many lives on many hosts, as many side by side as there are environments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from esper_agents.agent import Info
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


class Players:
    """The environments of a search, and who plays in each.

    Args:
        envs: What is played, in any autoreset mode but DISABLED.
    """

    def __init__(self, envs: EsperVectorEnv) -> None:
        self.envs, self._reader = envs, Reader(envs)
        self.steps = 0
        """Environment steps so far, idle places left out."""

    def play(self, jobs: Sequence[Job], on_step: OnStep | None = None) -> list[Episode]:
        """The episodes of these jobs, in their order; which are played side by side changes no result."""
        envs, places = self.envs, self.envs.num_envs
        waiting = list(range(places, len(jobs)))
        doing: list[int | None] = [place if place < len(jobs) else None for place in range(places)]
        followers = [self._follower(jobs, number) for number in doing]
        obs: NDArray[np.float32]
        info: Info
        obs, info = envs.reset(seed=[jobs[number or 0].seed for number in doing])
        counter, ended = EpisodeCounter(envs), dict[int, Episode]()
        while len(ended) < len(jobs):
            step, (obs, info) = self._step(follow(followers, self._reader.read(obs), info))
            self.steps += sum(number is not None for number in doing)
            if on_step is not None:
                on_step(step)
            free = np.zeros(places, dtype=bool)
            for place, episode in zip(np.flatnonzero(step.ended).tolist(), counter.add(step), strict=True):
                if (number := doing[place]) is not None:
                    ended[number] = replace(episode, seed=jobs[number].seed)
                    doing[place] = waiting.pop(0) if waiting else None
                    free[place] = doing[place] is not None
                    followers[place] = self._follower(jobs, doing[place])
            if free.any():
                seeds = [jobs[n or 0].seed if new else None for n, new in zip(doing, free, strict=True)]
                obs, info = envs.reset(seed=seeds, options={"reset_mask": free})
        return [ended[number] for number in range(len(jobs))]

    def _follower(self, jobs: Sequence[Job], number: int | None) -> Follower | None:
        return None if number is None else Follower(jobs[number].life, self.envs.facts)

    def _step(self, actions: NDArray[np.int64]) -> tuple[Step, tuple[NDArray[np.float32], Info]]:
        """A step as it ended, and what is seen next."""
        obs, rewards, terminated, truncated, info = self.envs.step(actions)
        ended, seen = terminated | truncated, obs
        if "final_obs" in info and ended.any():
            seen = obs.copy()
            for env in np.flatnonzero(ended).tolist():
                seen[env] = info["final_obs"][env]
        return Step(seen, actions, rewards, ended, info), (obs, info)
