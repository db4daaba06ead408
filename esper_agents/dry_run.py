"""Check a run without doing it: everything is resolved, a short episode is played and learned from once."""

import math
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from gymnasium.vector import AutoresetMode

from esper_agents.baselines import baseline
from esper_agents.config import TrainConfig
from esper_agents.curriculum import Curriculum
from esper_agents.environment import World, make_world
from esper_agents.evaluate import evaluate
from esper_agents.record import start_record
from esper_agents.run import evaluable
from esper_agents.train import opened
from esper_agents.trainees import make_trainee
from esper_env import EsperConfig, EsperVectorEnv, check_tinystories, cifar10_cached, tinystories_cached

HORIZON, NUM_ENVS, BATCHES, SAMPLES = 4, 2, 2, 512
"""Epochs, environments, batches an epoch and most samples of each split in the short episode."""
CACHED = {"cifar10": cifar10_cached, "tinystories": tinystories_cached}
"""Data that may have to be downloaded -> whether they are there."""


def dry_run(config: TrainConfig, resume: Path | None = None) -> list[str]:
    """Resolve and check a run, play a short rollout, do one update. Nothing is written, nothing downloaded.

    Args:
        config: The run.
        resume: As for `train`; the checkpoint is checked against the agent's settings.

    Returns:
        What was found, line by line.

    Raises:
        ValueError: as `train`.
    """
    opened(config, resume)
    if resume is None:
        start_record(config)
    # The null engine loads no data and builds no networks, but checks every setting.
    with Curriculum(config, config.num_envs, changes={"engine.name": "null"}) as worlds:
        evaluable(worlds)
        config = config.instance_configs[0]
    full = make_world(config, config.num_envs, AutoresetMode.SAME_STEP, changes={"engine.name": "null"})
    data, about = _data_at_hand(config, full.envs.config)
    config = config.model_copy(update={"data": data})
    with closing(full.envs) as envs:
        for name in config.compare:
            baseline(name, envs, config.schedule, config.seed, config.heuristic)
        lines = [*_outline(config, full), about]
        changes = _shortened(envs.config.model_dump(), data)
        small = make_world(config, _few(config, envs), _mode(config), changes=changes)
    with closing(small.envs):
        lines.append(_learn(config, small) if config.learns else _play(config, small))
    return [*lines, "dry run: everything fits; nothing was written"]


def _data_at_hand(config: TrainConfig, environment: EsperConfig) -> tuple[str, str]:
    """Data that can be used at once, and how they compare with those that the run would use."""
    task, wanted = environment.task, environment.task.data
    if wanted == "tinystories":
        check_tinystories(task.data_dir, task.vocabulary, task.val_fraction)
    if wanted not in CACHED:
        return wanted, f"data: {wanted}"
    if CACHED[wanted](config.data_dir):
        return wanted, f"data: {wanted}, from the cache"
    otherwise = "; failing that, it would use procedural data" if config.wanted_data == "auto" else ""
    return "procedural", f"data: {wanted} is not in the cache: a run would first download it{otherwise}"


def _few(config: TrainConfig, envs: EsperVectorEnv) -> int:
    """The fewest environments, at least NUM_ENVS where there are so many, that divide as all of them do."""
    parts = math.lcm(config.replicas, envs.config.budget.blocks, max(1, len(config.teachers)))
    return min(config.num_envs, parts * math.ceil(NUM_ENVS / parts))


def _mode(config: TrainConfig) -> AutoresetMode:
    return AutoresetMode.SAME_STEP if config.learns else AutoresetMode.NEXT_STEP


def _shortened(environment: Mapping[str, Any], data: str) -> dict[str, Any]:
    """Overrides that make an episode short and its data few."""
    engine = environment["engine"]
    epoch, few = BATCHES * engine["batch_size"], min(SAMPLES, engine["counterfactual_size"])
    changes = {
        "horizon": min(HORIZON, environment["horizon"]),
        "engine.epoch_size": epoch,
        "engine.counterfactual_size": few,
        "task.val_size": few,
        "task.test_size": 1,
    }
    if data == "procedural":
        changes["task.train_size"] = max(SAMPLES, epoch)
    if data == "tinystories":
        changes["task.vocabulary"] = 256  # bytes: to train a code takes long, and it would be kept
    return changes


def _outline(config: TrainConfig, world: World) -> list[str]:
    envs = world.envs
    horizon = envs.config.horizon
    lines = [
        f"environment: {config.env}, host {envs.config.host.name} with {envs.facts.host_params} parameters, "
        f"{envs.facts.num_slots} slots, {horizon} epochs an episode",
        f"observation: {envs.single_observation_space.shape}, action: {envs.single_action_space}",
    ]
    if config.learns:
        rounds = config.num_rounds(horizon)
        steps = rounds * config.num_envs * horizon
        size = f"{config.num_envs} x {horizon} steps"
        lines.append(f"run: {config.algo}, {rounds} rounds of {size}, {steps} in all")
    return lines


def _learn(config: TrainConfig, world: World) -> str:
    trainee = make_trainee(config.model_copy(update={"rounds_per_update": 1}), world, None)
    trainee.learn(world.envs.num_envs * world.envs.config.horizon, None, None)
    size = f"{trainee.num_parameters} parameters"
    return f"agent: {config.algo} with {size}, played {trainee.steps} steps, 1 update"


def _play(config: TrainConfig, world: World) -> str:
    agent = baseline(config.algo, world.envs, config.schedule, config.seed, config.heuristic)
    evaluation = evaluate(agent, world.envs, config.eval_seeds[: world.envs.num_envs])
    return f"agent: {config.algo}, played {sum(episode.length for episode in evaluation.episodes)} steps"
