"""Play any agents, baselines or trained ones, on the same episodes."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from gymnasium.vector import AutoresetMode
from pydantic import Field

from esper_agents import checkpoint
from esper_agents.agent import Agent
from esper_agents.baselines import BASELINES, baseline
from esper_agents.baselines.heuristic import HeuristicConfig
from esper_agents.baselines.schedule import ScheduleConfig
from esper_agents.config import TrainConfig, validated
from esper_agents.environment import EnvironmentConfig, World, make_world
from esper_agents.evaluate import Evaluation, evaluate, fitting, most_steps
from esper_agents.ppo.player import PpoAgent
from esper_agents.ppo.trainee import saved_policy
from esper_agents.progress import Evaluating
from esper_agents.record import Record
from esper_agents.search.player import LifeAgent
from esper_agents.search.trainee import saved_life
from esper_agents.trainees import make_trainee
from esper_env import OBSERVATION_VERSION


class CompareConfig(EnvironmentConfig):
    """Who plays which episodes."""

    agents: tuple[str, ...] = Field(("wait", "random"), min_length=1)
    """Names (`wait`, `random`, `schedule`, `heuristic`) and checkpoints: files, run folders, or folders of
    runs."""
    episodes: int = Field(8, ge=1)
    """Episodes for each agent."""
    seed: int = Field(10_000, ge=0)
    """Seed of the first episode; the others follow."""
    num_envs: int = Field(8, ge=1)
    """Episodes played side by side; under one budget it changes no result."""
    deterministic: bool = False
    """Whether trained agents play their most probable action instead of drawing as in training."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The plan of the agent `schedule`."""
    heuristic: HeuristicConfig = HeuristicConfig()
    """The thresholds of the agent `heuristic`."""
    out: str | None = None
    """File for the results as JSON; not given: none is written."""


@dataclass(frozen=True)
class Comparison:
    """Results on one environment."""

    provenance: str
    """Which data, from where."""
    evaluations: list[Evaluation]
    """In the order of the agents."""


def build(values: dict[str, Any]) -> CompareConfig:
    """The configuration of plain values; the environment of the first checkpoint is what they change.

    Raises:
        ValueError: an unknown field, a wrong type, a value out of range, or an agent that is not known.
    """
    played: dict[str, Any] = {}
    for name in reversed(values.get("agents") or ()):
        if name not in BASELINES:
            trained = validated(TrainConfig, checkpoint.read_record(_checkpoint(name))["config"])
            first = trained.instance_configs[0].model_dump(mode="json")
            played = {key: first[key] for key in EnvironmentConfig.model_fields}
    return validated(CompareConfig, {**played, **values})


def compare(config: CompareConfig, stream: TextIO | None = None) -> Comparison:
    """Play the episodes with every agent, and write the results if that is asked for.

    Args:
        config: What to play.
        stream: Where it says how far it is; None for standard output.

    Raises:
        ValueError: an agent that is not known or was trained on other observations or actions.
        FileNotFoundError: data that are neither cached nor downloadable.
    """
    world = make_world(config, fitting(config.num_envs, config.episodes), AutoresetMode.NEXT_STEP)
    seeds = list(range(config.seed, config.seed + config.episodes))
    with closing(world.envs) as envs, Evaluating(len(config.agents), stream) as shown:
        agents = [_agent(name, world, config) for name in config.agents]
        steps = most_steps(envs, seeds)
        evaluations = [evaluate(agent, envs, seeds, shown.play(agent.name, steps)) for agent in agents]
    if config.out is not None:
        values = {
            "config": config.model_dump(mode="json"),
            "environment": world.envs.config.model_dump(mode="json"),
            "provenance": world.provenance,
            "agents": [evaluation.as_dict() for evaluation in evaluations],
        }
        checkpoint.write_json(Path(config.out), values)
    return Comparison(world.provenance, evaluations)


def _agent(name: str, world: World, config: CompareConfig) -> Agent:
    if name in BASELINES:
        return baseline(name, world.envs, config.schedule, heuristic=config.heuristic)
    return load_agent(_checkpoint(name), world, config.deterministic)


def load_agent(path: Path, world: World, deterministic: bool = False) -> Agent:
    """A trained agent, to play in a world.

    Raises:
        ValueError: the checkpoint was trained on other observations or actions.
    """
    record = checkpoint.read_record(path)
    trained = validated(TrainConfig, record["config"]).instance_configs[0]
    if trained.algo == "search":
        return LifeAgent(saved_life(path), world.envs, path.parent.name)
    if trained.algo == "esper_ppo" and trained.policy == "set":
        return _any_slots(path, record, trained, world, deterministic)
    # Only the spaces are needed to rebuild a model: the null engine loads no data.
    config = trained.model_copy(update={"data": "procedural", "num_envs": 1, "replicas": 1})
    alone = {"engine.name": "null", "budget.params": None, "budget.compute": None}
    rules = make_world(config, 1, AutoresetMode.SAME_STEP, changes=alone)
    with closing(rules.envs) as envs:
        for space in ("single_observation_space", "single_action_space"):
            there, here = getattr(envs, space), getattr(world.envs, space)
            if there != here:
                raise ValueError(f"{path} was trained with {space} {there}, which is {here} here")
        if trained.algo == "esper_ppo":
            policy = saved_policy(path, envs, trained)
            return PpoAgent(policy, path.parent.name, deterministic, trained.seed)
        # The weights alone: a copy that was kept to be played has nothing else.
        model = make_trainee(config.model_copy(update={"start_from": None}), rules, None)
        model.start_from(path)
        return model.agent(path.parent.name, deterministic)


def _any_slots(path: Path, record: Record, trained: TrainConfig, world: World, deterministic: bool) -> Agent:
    """A policy over a set of slots, which plays environments with any number of them."""
    version = record["observation_version"]
    if version != OBSERVATION_VERSION:
        raise ValueError(
            f"{path} was trained on observations v{version}, here they are v{OBSERVATION_VERSION}"
        )
    try:
        policy = saved_policy(path, world.envs, trained)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit this environment: {error}") from None
    return PpoAgent(policy, path.parent.name, deterministic, trained.seed)


def _checkpoint(name: str) -> Path:
    if not Path(name).exists():
        raise ValueError(f"agent {name!r} is not known: {list(BASELINES)} are, and paths of checkpoints")
    return checkpoint.find_checkpoint(Path(name))
