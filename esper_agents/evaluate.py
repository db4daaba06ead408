"""Play whole episodes on given seeds. Agents that are given the same seeds can be compared pair by pair."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from esper_agents.agent import Agent
from esper_agents.episodes import MEASURED, Episode, EpisodeCounter, Step
from esper_agents.statistics import Estimate, estimate
from esper_env import EsperVectorEnv

Picture = NDArray[np.uint8]
OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Evaluation:
    """What an agent reached."""

    agent: str
    episodes: list[Episode]
    """One a seed, in the order of the seeds."""
    picture: Picture | None = field(default=None, repr=False)
    """The first episode, uint8 (height, width, 3), from an environment that renders."""
    story: str | None = field(default=None, repr=False)
    """What the network told after the first episode, where it reads text and the environment renders; or why
    it could not."""
    characters_per_token: dict[str, float] | None = None
    """Of the splits `validation` and `test`, where hosts read text, else None."""

    def values(self, key: str) -> list[float]:
        """One figure of every episode in which it was measured.

        Args:
            key: `total_reward`, `length`, `invalid_share`, `pruned`, `fossilized`, or one of `MEASURED`.
        """
        found = [e.measured[key] if key in MEASURED else getattr(e, key) for e in self.episodes]
        return [float(value) for value in found if value is not None]

    def summary(self) -> dict[str, Estimate]:
        """Figure -> mean, interquartile mean, spread and intervals, for all that were measured."""
        keys = ("total_reward", *MEASURED, "invalid_share", "pruned", "fossilized", "length")
        return {key: estimate(self.values(key)) for key in keys if self.values(key)}

    def against(self, other: "Evaluation") -> Estimate:
        """This agent's return minus another's, paired by seed.

        Raises:
            ValueError: they played different seeds.
        """
        mine, theirs = ([episode.seed for episode in e.episodes] for e in (self, other))
        if mine != theirs:
            raise ValueError(
                f"{self.agent} played the seeds {mine} and {other.agent} {theirs}: not comparable in pairs"
            )
        pairs = zip(self.values("total_reward"), other.values("total_reward"), strict=True)
        return estimate([a - b for a, b in pairs])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        summary = {key: value.as_dict() for key, value in self.summary().items()}
        text = {"characters_per_token": self.characters_per_token, "story": self.story}
        shown = {name: value for name, value in text.items() if value is not None}
        episodes = [e.as_dict() for e in self.episodes]
        return {"agent": self.agent, "summary": summary, "episodes": episodes} | shown


def merged(instances: Sequence[Sequence[Evaluation]]) -> list[Evaluation]:
    """One evaluation an agent, with the episodes of all instances; picture and story are the first one's.

    Args:
        instances: For each the evaluations of the same agents, in the same order.
    """
    found = []
    for of_agent in zip(*instances, strict=True):
        episodes = [episode for evaluation in of_agent for episode in evaluation.episodes]
        found.append(replace(of_agent[0], episodes=episodes))
    return found


def evaluate(
    agent: Agent, env: EsperVectorEnv, seeds: Sequence[int], on_step: OnStep | None = None
) -> Evaluation:
    """One episode for each seed, as many at a time as there are environments.

    Args:
        agent: Who plays.
        env: With autoreset NEXT_STEP, so that an episode's end can be seen; it is reset by this call.
        seeds: Of the episodes.
        on_step: Called after every step, for a progress bar.

    Raises:
        ValueError: no seeds, or an environment with another autoreset mode.
    """
    episodes: list[Episode] = []
    shown: list[_Shown] = []
    for wave, count in waves(env, seeds):
        played, of_first = _play(agent, env, wave, count, on_step)
        episodes += played
        shown.append(of_first)
    return Evaluation(agent.name, episodes, *shown[0], env.metadata["characters_per_token"])


def waves(env: EsperVectorEnv, seeds: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """How seeds are played, as many at a time as there are environments.

    Yields:
        A seed for every environment, and how many of them, from the first on, are wanted: places left over
        play a seed a second time.

    Raises:
        ValueError: no seeds, or an environment with another autoreset mode than NEXT_STEP.
    """
    if not seeds:
        raise ValueError("seeds is empty: at least one episode is required")
    if env.autoreset_mode != AutoresetMode.NEXT_STEP:
        raise ValueError(f"evaluation needs autoreset_mode='NextStep', not {env.autoreset_mode.value!r}")
    for start in range(0, len(seeds), env.num_envs):
        wave = list(seeds[start : start + env.num_envs])
        yield [*wave, *[wave[0]] * (env.num_envs - len(wave))], len(wave)


def most_steps(env: EsperVectorEnv, seeds: Sequence[int]) -> int:
    """Steps of all environments together that `evaluate` takes at most."""
    return math.ceil(len(seeds) / env.num_envs) * env.config.horizon


def fitting(max_envs: int, episodes: int) -> int:
    """How many environments play `episodes` in the fewest rounds with the fewest idle places."""
    return math.ceil(episodes / math.ceil(episodes / max_envs))


_Shown = tuple[Picture | None, str | None]
"""Picture and story of a wave's first episode."""


def _play(
    agent: Agent, env: EsperVectorEnv, seeds: Sequence[int], count: int, on_step: OnStep | None
) -> tuple[list[Episode], _Shown]:
    """One episode in each environment, of which the first `count` are wanted."""
    obs, info = env.reset(seed=seeds)
    counter, memory = EpisodeCounter(env), agent.begin(seeds)
    counter.begin(list(seeds))
    ended: dict[int, Episode] = {}
    shown: _Shown = (None, None)
    while len(ended) < env.num_envs:
        actions, memory = agent.act(obs, info, memory)
        obs, rewards, terminated, truncated, info = env.step(actions)
        step = Step(obs, actions, rewards, terminated | truncated, info)
        over = np.flatnonzero(step.ended).tolist()
        for place, episode in zip(over, counter.add(step), strict=True):
            if place == 0 and 0 not in ended and env.render_mode:
                shown = (env.render() or (None,))[0], _story(env)
            ended.setdefault(place, episode)
        if on_step:
            on_step(step)
    return [ended[place] for place in range(count)], shown


def _story(env: EsperVectorEnv) -> str | None:
    """What the network of the first environment tells, or why it can't: that ends no evaluation."""
    try:
        return env.tell(0)
    except Exception as error:  # of a blueprint of one's own, such as one that reads whole windows alone
        return f"(no story: {type(error).__name__}: {error})"
