"""The search as one call: environments and seeds in, the best life out."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from esper_agents.agent import Agent
from esper_agents.baselines import baseline
from esper_agents.baselines.heuristic import HeuristicConfig
from esper_agents.baselines.schedule import ScheduleConfig
from esper_agents.baselines.side_by_side import SideBySide
from esper_agents.evaluate import fitting
from esper_agents.search.beam import Beam, Branch
from esper_agents.search.evolution import Evolution
from esper_agents.search.life import Life, read_life
from esper_agents.search.play import Job, Objective, Players, harvested_quality, total_reward
from esper_agents.search.vary import Variation
from esper_agents.search_config import SearchConfig
from esper_env import EsperVectorEnv

Say = Callable[[str], None]
WorldOf = Callable[[int], EsperVectorEnv]
"""Number of environments -> new ones, with autoreset NEXT_STEP."""


@dataclass(frozen=True)
class Plan:
    """What a search came to."""

    life: Life
    results: dict[int, float]
    """Seed of a host -> points there. The life was chosen by them: on other hosts it will be worth less."""
    steps: int
    """Environment steps that were spent."""
    history: list[dict[str, Any]] = field(repr=False)
    """After each generation: steps so far, the best life, and its mean."""

    @property
    def mean(self) -> float:
        """Over `results`."""
        return float(np.mean(list(self.results.values())))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        life = self.life.model_dump(mode="json")
        return {"life": life, "results": self.results, "steps": self.steps, "history": self.history}


def search_plan(
    world_of: WorldOf,
    seeds: Sequence[int],
    config: SearchConfig,
    objective: Objective | None = None,
    *,
    num_envs: int = 24,
    lives: Sequence[Life] = (),
    schedule: ScheduleConfig | None = None,
    heuristic: HeuristicConfig | None = None,
    say: Say = lambda line: None,
) -> Plan:
    """Search a life that does well on hosts of these seeds.

    Args:
        world_of: Makes environments; those that it makes here are closed.
        seeds: Of the hosts to search on; keep others to judge what was found.
        config: Settings.
        objective: What an episode was worth; None for what `config.objective` names.
        num_envs: Most episodes side by side; changes no result.
        lives: To begin with, beside those of `config.starts`.
        schedule: The plan of the agent `schedule`; None for the default one.
        heuristic: The thresholds of the agent `heuristic`; None for the default ones.
        say: Takes a line after each generation.

    Raises:
        ValueError: seeds, lives or settings that do not fit.
    """
    if not seeds:
        raise ValueError("seeds is empty: at least one host is required")
    with closing(world_of(fitting(num_envs, config.generation))) as envs:
        for life in lives:
            life.check(envs.facts)
        wanted = objective or named_objective(config, envs)
        begin = [*lives, *_started(world_of, seeds[0], config, schedule, heuristic)]
        evolution = Evolution(config, Variation(envs.facts, envs.config.horizon), seeds, begin)
        players = Players(envs)
        players.steps = len(config.starts) * envs.config.horizon  # that `start_lives` took
        if config.method == "beam":
            _go_beaming(evolution, players, wanted, say)
        return _evolve(evolution, players, wanted, say)


def _started(
    world_of: WorldOf,
    seed: int,
    config: SearchConfig,
    schedule: ScheduleConfig | None,
    heuristic: HeuristicConfig | None,
) -> list[Life]:
    """`start_lives`, without places that nobody needs: what is idle would be trained all the same."""
    if not config.starts:
        return []
    with closing(world_of(len(config.starts))) as envs:
        return start_lives(config, envs, seed, schedule, heuristic)


def _go_beaming(evolution: Evolution, players: Players, objective: Objective, say: Say) -> None:
    """Tell an evolution what a beam search finds, so that only the best has to be chosen."""
    config = evolution.config
    hosts = evolution.seeds[: config.hosts]

    def heard(kept: Sequence[Branch]) -> None:
        found = f"best so far {kept[0].mean:.2f} on {len(hosts)} hosts: {kept[0].life}"
        say(f"beam, {players.steps} steps, {found}")

    jobs = [Job(life, seed) for life in evolution.archive.lives for seed in hosts]
    values = [objective(episode) for episode in players.play(jobs)] if jobs else []
    beam = Beam(config, evolution.variation, players, hosts, objective)
    for branch in beam.search(round((1 - config.confirm) * config.steps), heard):
        if evolution.archive.add(branch.life):
            jobs += [Job(branch.life, seed) for seed in hosts]
            values += branch.values
    evolution.tell(jobs, values)


def named_objective(config: SearchConfig, envs: EsperVectorEnv) -> Objective:
    """The objective of a configuration."""
    return total_reward if config.objective == "return" else harvested_quality(envs.facts)


def start_lives(
    config: SearchConfig,
    envs: EsperVectorEnv,
    seed: int,
    schedule: ScheduleConfig | None = None,
    heuristic: HeuristicConfig | None = None,
) -> list[Life]:
    """The lives that the agents `config.starts` lead on one host.

    Raises:
        ValueError: a plan that does not fit.
    """
    players = [baseline(name, envs, schedule, heuristic=heuristic) for name in config.starts]
    waves = range(0, len(players), envs.num_envs)
    return [life for start in waves for life in _led(players[start : start + envs.num_envs], envs, seed)]


def _led(players: Sequence[Agent], envs: EsperVectorEnv, seed: int) -> list[Life]:
    """What each of them does in the first episode."""
    side_by_side = SideBySide([*players, *[players[0]] * (envs.num_envs - len(players))])
    obs, info = envs.reset(seed=[seed] * envs.num_envs)
    memory, over = side_by_side.begin([seed] * envs.num_envs), np.zeros(envs.num_envs, dtype=bool)
    actions, valid = [], []
    while not over.all():
        asked, memory = side_by_side.act(obs, info, memory)
        obs, _, terminated, truncated, info = envs.step(asked)
        actions.append(asked)
        valid.append(info["action_valid"] & ~over)
        over |= terminated | truncated
    done, legal, tempos = np.array(actions), np.array(valid), envs.config.lifecycle.tempo_epochs
    return [read_life(done[:, env], legal[:, env], envs.facts, tempos) for env in range(len(players))]


def _evolve(evolution: Evolution, players: Players, objective: Objective, say: Say) -> Plan:
    """Generation after generation; steps left for less than half of one are not worth its idle places."""
    config, history = evolution.config, list[dict[str, Any]]()
    horizon = players.envs.config.horizon
    searched = (1 - config.confirm) * config.steps if config.method == "evolution" else 0
    while True:
        left = min(config.generation, (config.steps - players.steps) // horizon)
        count, new = left if evolution.generations else config.generation, players.steps < searched
        if 2 * count < config.generation:
            break
        jobs = evolution.ask(count, new) or evolution.ask(count, new=False)
        if not jobs:
            break
        evolution.tell(jobs, [objective(episode) for episode in players.play(jobs)])
        history.append(_noted(evolution, players.steps))
        say(_line(history))
    best = evolution.best()
    return Plan(best, evolution.results(best), players.steps, history)


def _noted(evolution: Evolution, steps: int) -> dict[str, Any]:
    best = evolution.best()
    played = list(evolution.results(best).values())
    life = best.model_dump(mode="json", exclude_defaults=True)
    reached = {"mean": float(np.mean(played)), "hosts": len(played)}
    return {"steps": steps, "life": life, "words": str(best)} | reached


def _line(history: Sequence[dict[str, Any]]) -> str:
    last = history[-1]
    about = f"best so far {last['mean']:.2f} on {last['hosts']} hosts: {last['words']}"
    return f"generation {len(history)}, {last['steps']} steps, {about}"
