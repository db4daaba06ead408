"""What is written beside a run so that it can be read, repeated and continued."""

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import esper_env
from esper_agents import checkpoint
from esper_agents.config import FREE, TrainConfig, differences, fingerprint
from esper_agents.environment import World

LIBRARIES = ("torch", "numpy", "gymnasium", "stable_baselines3", "sb3_contrib")
Record = dict[str, Any]


def run_record(config: TrainConfig, world: World, provenance: str) -> Record:
    """Resolved configuration of agent and environment, provenance of the data, and versions; plain values.

    Args:
        config: The run.
        world: What it plays, or the first of its instances; `config` holds what the others differ in.
        provenance: Of the data of all.
    """
    agent = config.model_dump(mode="json")
    environment = world.envs.config.model_dump(mode="json")
    return {
        "config": agent,
        "environment": environment,
        "provenance": provenance,
        "fingerprint": fingerprint(comparable(agent) | {"environment": _played(environment)}),
        "observation_version": esper_env.OBSERVATION_VERSION,
        "versions": {"esper_env": esper_env.__version__, **{name: version(name) for name in LIBRARIES}},
    }


def start_record(config: TrainConfig) -> Record | None:
    """Which weights a new run begins with: the file, and its SHA-256; None for its own.

    Raises:
        ValueError: no checkpoint is there, it is damaged, or it is one of another algorithm or of weights
            for other ranges.
    """
    if config.start_from is None:
        return None
    path = checkpoint.find_checkpoint(Path(config.start_from))
    before = checkpoint.read_record(path)["config"]
    if before["algo"] != config.algo:
        raise ValueError(
            f"start_from={config.start_from!r} is a checkpoint of {before['algo']}, not of {config.algo}"
        )
    own = config.model_dump(mode="json")["own_weights"]
    if before.get("own_weights", {}) != own:
        raise ValueError(
            f"start_from={config.start_from!r} has own_weights={before.get('own_weights', {})}, not {own}"
        )
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def comparable(agent: Record) -> Record:
    """The settings that decide what is learned."""
    kept = {key: value for key, value in agent.items() if key not in FREE}
    if "instances" in kept:
        kept["instances"] = [comparable(each) for each in kept["instances"]]
    return kept


def refuse_other(old: Record, new: Record, where: str) -> None:
    """Let a run go on only from a checkpoint of its own configuration.

    Args:
        old: Record of the checkpoint.
        new: Record of the run that wants to continue it; without `environment` only `config` counts.
        where: The checkpoint, for the message.

    Raises:
        ValueError: naming every field that differs.
    """
    # What a setting that is newer than the checkpoint was like is its default.
    default = TrainConfig().model_dump(mode="json")
    before = {key: default.get(key) for key in new["config"]} | old["config"]
    found = differences(comparable(before), comparable(new["config"]))
    if "environment" in new:
        found += differences(_played(old["environment"]), _played(new["environment"]), "environment.")
        key = "observation_version"
        found += differences({key: old[key]}, {key: new[key]})
    if found:
        raise ValueError(f"{where} is a checkpoint of another configuration: {'; '.join(found)}")


def _played(environment: Record) -> Record:
    """The environment's settings without those that say where it runs."""
    parts = {key: dict(value) if isinstance(value, dict) else value for key, value in environment.items()}
    parts["engine"].pop("device")
    parts["task"].pop("data_dir")
    return parts
