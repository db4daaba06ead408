"""Counts what happens in episodes while they are played: one record for each that ends."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_agents.agent import Info
from esper_env import EsperVectorEnv, Head, Op, Stage

Bools = NDArray[np.bool_]
MEASURED = (
    *("val_accuracy", "harvest_accuracy", "test_accuracy", "val_loss", "harvest_loss", "test_loss"),
    *("param_ratio", "flops_ratio", "rollbacks"),
)
"""What a record takes from the info of an episode's last step; None where not measured or not finite."""


SUMS = ("_reward", "_length", "_invalid", "_pruned", "_ops", "_was_pruned")
"""What an `EpisodeCounter` holds of each environment, besides the sums of the reward's terms."""


@dataclass(frozen=True)
class Step:
    """One step of every environment, those that ended shown as they ended and not as they began anew."""

    obs: NDArray[np.float32]
    """(env, feature)."""
    actions: NDArray[np.int64]
    """(env, 8): what was asked for, legal or not."""
    rewards: NDArray[np.float64]
    """(env,)."""
    ended: Bools
    """(env,)."""
    info: Info
    """Published with `obs`, in the vector form; what was measured at an end is in `final_info`, if there is
    one."""

    def measured(self, key: str) -> NDArray[np.float64]:
        """(env,): a figure of this step, from before any reset."""
        if "final_info" not in self.info:
            return np.asarray(self.info[key])
        return np.where(self.ended, self.info["final_info"][key], self.info[key])


@dataclass(frozen=True)
class Episode:
    """What one episode came to."""

    seed: int | None
    """Of its reset; None where it followed another one."""
    total_reward: float
    """Sum of the rewards, undiscounted."""
    length: int
    """Steps."""
    measured: dict[str, float | None]
    """`MEASURED` -> figure; shares in [0, 1], nats, and ratios to the static host."""
    reward_terms: dict[str, float]
    """Name -> sum over the episode."""
    ops: dict[str, int]
    """Name -> how often it was asked for."""
    invalid: int
    """Actions that were not legal."""
    pruned: int
    """Modules that were removed."""
    fossilized: int
    """Modules that are part of the harvested network."""

    @property
    def invalid_share(self) -> float:
        """Share of the actions that were not legal."""
        return self.invalid / self.length

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**vars(self), "invalid_share": self.invalid_share}


class EpisodeCounter:
    """The running sums of `num_envs` episodes.

    Args:
        env: What is played, for the names of its features and the number of its slots.
    """

    def __init__(self, env: EsperVectorEnv) -> None:
        stages = [env.features[f"slot{slot}.stage"].start for slot in range(env.facts.num_slots)]
        self._pruned_at = np.array(stages) + Stage.PRUNED - 1
        self._fossilized_at = np.array(stages) + Stage.FOSSILIZED - 1
        self._num_envs = env.num_envs
        self.begin([None] * env.num_envs)

    def begin(self, seeds: list[int | None]) -> None:
        """Forget everything: new episodes in all environments."""
        self._seeds: list[int | None] = list(seeds)
        self._reward = np.zeros(self._num_envs)
        self._length, self._invalid, self._pruned = np.zeros((3, self._num_envs), dtype=np.int64)
        self._ops = np.zeros((self._num_envs, len(Op)), dtype=np.int64)
        self._terms: dict[str, NDArray[np.float64]] = {}
        self._was_pruned = np.zeros((self._num_envs, len(self._pruned_at)), dtype=bool)

    def add(self, step: Step) -> list[Episode]:
        """Count a step; the episodes that ended with it, in the order of the environments."""
        pruned = step.obs[:, self._pruned_at] > 0
        self._pruned += (pruned & ~self._was_pruned).sum(axis=1)
        self._was_pruned = pruned
        self._reward += step.rewards
        self._length += 1
        self._invalid += ~step.info["action_valid"]
        self._ops[np.arange(self._num_envs), step.actions[:, Head.OP]] += 1
        for name, value in step.info["reward_terms"].items():
            if not name.startswith("_"):
                self._terms[name] = self._terms.get(name, 0.0) + value
        return [self._end(step, env) for env in np.flatnonzero(step.ended).tolist()]

    def get_row(self, env: int) -> dict[str, Any]:
        """The sums of one environment, to go on with after its `get_state`."""
        sums = {name: getattr(self, name)[env].copy() for name in SUMS}
        return sums | {"_terms": {name: float(value[env]) for name, value in self._terms.items()}}

    def set_row(self, env: int, row: Mapping[str, Any]) -> None:
        """Go on with the sums that `get_row` gave, of this environment or another one."""
        for name in SUMS:
            getattr(self, name)[env] = row[name]
        for name, value in row["_terms"].items():
            self._terms.setdefault(name, np.zeros(self._num_envs))[env] = value

    def _end(self, step: Step, env: int) -> Episode:
        figures = {key: float(step.measured(key)[env]) for key in MEASURED}
        episode = Episode(
            seed=self._seeds[env],
            total_reward=float(self._reward[env]),
            length=int(self._length[env]),
            measured={key: value if math.isfinite(value) else None for key, value in figures.items()},
            reward_terms={name: float(value[env]) for name, value in self._terms.items()},
            ops={op.name: int(self._ops[env, op]) for op in Op},
            invalid=int(self._invalid[env]),
            pruned=int(self._pruned[env]),
            fossilized=int((step.obs[env, self._fossilized_at] > 0).sum()),
        )
        self.forget(env)
        return episode

    def forget(self, env: int) -> None:
        """A new episode in one environment."""
        self._seeds[env] = None
        for name in SUMS:
            getattr(self, name)[env] = 0
        for value in self._terms.values():
            value[env] = 0.0
