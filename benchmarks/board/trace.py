"""What happened in episodes, step by step, in a form that others can play again and compare.

A chain of hashes binds every step to the one before, and its first link to the instance, the cell and the
seed: `chain` = SHA-256(chain before | actions | masks | stages | reward | observation). At the end of an
episode, before the next begins, `state` hashes all that the environment holds, so that two episodes with the
same chain and state are the same to the last bit. `rules` is a chain without the last two, which holds no
measured number: masks and stages can be compared with it on any machine.
"""

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from board.canonical import canonical
from board.cells import Cell
from board.instances import Instance
from board.quality import quality
from esper_agents.agent import Info
from esper_agents.environment import EnvironmentConfig, make_world
from esper_agents.episodes import Episode, Step
from esper_env import EsperVectorEnv, Stage
from esper_env.blueprints.catalogue import CATALOGUE

Record = dict[str, Any]


def world(
    instance: Instance,
    cell: Cell | None,
    num_envs: int,
    device: str = "cpu",
    changes: Mapping[str, Any] | None = None,
) -> EsperVectorEnv:
    """The environments of an instance under the budgets of a cell; every episode is played in these.

    Args:
        instance: Which.
        cell: Budgets; None for none.
        num_envs: How many.
        device: Where networks grow.
        changes: Overrides besides, for what is not an episode of the board.

    Raises:
        ValueError: settings that do not fit, or blueprints that are not Esper's own.
    """
    config = EnvironmentConfig(**instance.environment(cell, device))
    envs = make_world(config, num_envs, AutoresetMode.NEXT_STEP, changes=changes).envs
    foreign = sorted({*envs.facts.blueprints} - {each.name for each in CATALOGUE})
    if foreign:
        envs.close()
        raise ValueError(f"blueprints {foreign} were registered from outside: the board is played without")
    return envs


class Recorder:
    """Builds the record of one episode in every environment; its `step` is for `evaluate`.

    Args:
        envs: What is played, new or about to be reset.
        instance: Of which it is an environment.
        cell: Its budgets.
        seeds: One an environment.
    """

    def __init__(self, envs: EsperVectorEnv, instance: Instance, cell: Cell, seeds: Sequence[int]) -> None:
        self._envs, self._seeds = envs, list(seeds)
        engine, facts = envs.config.engine, envs.facts
        self._static_flops = float(facts.host_flops) * int(engine.epoch_size) * envs.config.horizon
        self._chains = [first_link(instance, cell, seed) for seed in seeds]
        self._rules = list(self._chains)
        self._steps: list[Record] = [_empty() for _ in seeds]
        self._ended: set[int] = set()

    def step(self, step: Step) -> None:
        """Take in a step; what is played after an episode's end is not looked at."""
        ledger, quality = self._envs.ledger(), self._quality(step, "val")
        flops, params = ledger["train_flops"], ledger["params"]
        stages = self._stages(step.obs)
        for env in set(range(len(self._seeds))) - self._ended:
            ruled, measured = _bits(step, stages, env)
            self._chains[env] = next_link(self._chains[env], ruled + measured)
            self._rules[env] = next_link(self._rules[env], ruled)
            record = self._steps[env]
            record["actions"].append(step.actions[env].tolist())
            record["stages"].append(stages[env].tolist())
            record["val_quality"].append(_known(quality[env]))
            record["epoch_flops"].append(float(flops[env]) / self._static_flops)
            record["most_params"] = max(record["most_params"], round(params[env]))
            if step.ended[env]:
                self._ended.add(env)
                record["quality"] = _known(self._quality(step, "test")[env]) or 0.0  # no number: guessing
                record["flops"] = float(flops[env])
                record["state"] = state_digest(self._envs.get_state(env))

    def records(self, episodes: Sequence[Episode]) -> list[Record]:
        """The records, when all have ended.

        Args:
            episodes: What `evaluate` counted, in the order of the environments.
        """
        return [self._record(env, episode) for env, episode in enumerate(episodes)]

    def _record(self, env: int, episode: Episode) -> Record:
        ratio = float(episode.measured["param_ratio"] or math.nan)
        rollbacks = episode.measured["rollbacks"]
        assert rollbacks is not None, "every environment counts them"
        figures = {
            "seed": self._seeds[env],
            "length": episode.length,
            "total_reward": episode.total_reward,
            "param_ratio": _known(ratio),
            "params": round(ratio * self._envs.facts.host_params),
            "flops_ratio": episode.measured["flops_ratio"],
            "rollbacks": int(rollbacks),
            "invalid": episode.invalid,
            "pruned": episode.pruned,
            "fossilized": episode.fossilized,
        }
        return figures | self._steps[env] | {"chain": self._chains[env], "rules": self._rules[env]}

    def _quality(self, step: Step, split: str) -> NDArray[np.float64]:
        """(env,): see `quality`."""
        accuracy, loss = step.measured(f"{split}_accuracy"), step.measured(f"{split}_loss")
        return quality(accuracy, loss, self._envs.facts)

    def _stages(self, obs: NDArray[np.float32]) -> NDArray[np.int64]:
        """(env, slot): as the observation shows them; an empty slot shows none."""
        features = (self._envs.features[f"slot{slot}.stage"] for slot in range(self._envs.facts.num_slots))
        shown = np.stack([obs[:, feature] for feature in features], axis=1) > 0
        return np.where(shown.any(axis=2), shown.argmax(axis=2) + Stage.GERMINATED, Stage.DORMANT)


def _empty() -> Record:
    return {"actions": [], "stages": [], "val_quality": [], "epoch_flops": [], "most_params": 0}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def first_link(instance: Instance, cell: Cell, seed: int) -> str:
    """Where the chain of an episode begins, in hex."""
    begin = {"instance": instance.hash, "cell": cell.model_dump(mode="json"), "seed": seed}
    return hashlib.sha256(canonical(begin)).hexdigest()


def next_link(chain: str, step: bytes) -> str:
    """The chain after one more step, in hex."""
    return hashlib.sha256(bytes.fromhex(chain) + step).hexdigest()


def _bits(step: Step, stages: NDArray[np.int64], env: int) -> tuple[bytes, bytes]:
    """A step of one environment: actions, masks and stages; reward and observation."""
    ruled = (
        step.actions[env].astype("<i8"),
        np.asarray(step.info["op_slot_mask"][env], dtype="i1"),
        np.asarray(step.info["blueprint_slot_mask"][env], dtype="i1"),
        stages[env].astype("<i8"),
    )
    measured = np.asarray(step.rewards[env], dtype="<f8"), np.asarray(step.obs[env], dtype="<f4")
    return b"".join(part.tobytes() for part in ruled), b"".join(part.tobytes() for part in measured)


def state_digest(state: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of a state from `get_state`: every name, shape, type and bit in it."""
    digest = hashlib.sha256()
    _feed(digest, state)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        bits = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        digest.update(bits.numpy().tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"map {len(value)}".encode())
        for name in sorted(value, key=repr):
            digest.update(repr(name).encode())
            _feed(digest, value[name])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}".encode())
        for part in value:
            _feed(digest, part)
    elif isinstance(value, float):
        digest.update(b"float" + struct.pack("<d", value))
    else:
        digest.update(f"{type(value).__name__} {value!r}".encode())


class TraceAgent:
    """Plays recorded actions, and waits where there are none. See `Agent`.

    Args:
        actions: For every environment its actions, step by step.
    """

    name = "trace"

    def __init__(self, actions: Sequence[Sequence[Sequence[int]]]) -> None:
        self.actions = actions

    def begin(self, seeds: Sequence[int]) -> int:
        """See `Agent`: the number of the step."""
        return 0

    def act(self, obs: NDArray[np.float32], info: Info, memory: int) -> tuple[NDArray[np.int64], int]:
        """See `Agent`."""
        chosen = np.zeros((len(obs), 8), dtype=np.int64)
        for env, steps in enumerate(self.actions):
            if memory < len(steps):
                chosen[env] = steps[memory]
        return chosen, memory + 1
