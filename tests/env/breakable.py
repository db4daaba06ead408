"""Environments whose network is a number (see `world`), which can be broken, under rules of many kinds."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from lives import rules_only
from numpy.typing import NDArray
from oracle import Clocks
from world import SHARES, SHOWN, Rules

from esper_env import EsperVectorEnv, Stage
from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats
from esper_env.engine.null import NullEngine, plausible

GOVERNOR = {
    "window": 6, "min_window": 4, "patience": 2, "snapshot_every": 3, "collapse_in_training": False,
}  # fmt: skip
PRICES = {
    "quality": 100, "harvest": 100, "outcome": 100, "credit": 1,
    "rent": 2, "churn": 0.2, "op_cost": 1, "shaping": 0.3, "rollback": 10,
}  # fmt: skip
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "everything is priced": ({"reward": PRICES, "autoreset_mode": "Disabled"}, {"clocks": Clocks()}),
    "economy, tight": (
        {
            "reward": "economy", "gamma": 0.9, "slots": 2, "horizon": 40, "autoreset_mode": "NextStep",
            "param_budget": 2.0, "compute_budget": 0.8,
            "overrides": {f"governor.{name}": value for name, value in GOVERNOR.items()} | {
                "reward.credit_basis": "contribution", "reward.credit_at_end": "kept",
                "reward.outcome": 20.0, "reward.credit": 1.0,
                "lifecycle.tempo_epochs": (1, 2, 12), "lifecycle.speed_epochs": (0, 1, 2, 6),
                "lifecycle.pruned_epochs": 3, "lifecycle.embargoed_epochs": 2,
                "lifecycle.resetting_epochs": 4, "lifecycle.min_prune_age": 3,
            },
        },
        {
            "mode": "economy", "by_shapley": False, "kept": True, "outcome": 20.0, "gamma": 0.9,
            "horizon": 40, "param_budget": 2.0, "compute": 32,
            "clocks": Clocks((1, 2, 12), (0, 1, 2, 6), (3, 2, 4), 3), **GOVERNOR,
        },
    ),
    "sparse, strict, by itself": (
        {
            "reward": "sparse", "gamma": 0.95, "gates": "strict", "auto_advance": ["G1", "G3"],
            "max_modules": 2, "max_episode_steps": 26, "horizon": 28, "autoreset_mode": "SameStep",
            "overrides": {"gates.strict_blending_epochs": 4},
        },
        {
            "mode": "sparse", "gamma": 0.95, "max_modules": 2, "max_steps": 26, "horizon": 28,
            "clocks": Clocks(auto=("G1", "G3"), strict=True, strict_blending=4),
        },
    ),
}  # fmt: skip
"""Arguments of the environment, and the same in the words of the plain world."""

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Breakable(NullEngine):
    """`faults` says what is wrong with the next epoch of each environment; `kept` what its snapshot holds."""

    def __init__(self, env: EsperVectorEnv) -> None:
        super().__init__(env.num_envs, env._setup, self._shows)
        self.learned = np.zeros(env.num_envs, dtype=np.int64)
        self.kept: list[list[int]] = [[] for _ in range(env.num_envs)]
        self.faults: list[str | None] = [None] * env.num_envs

    def _shows(self, slots: SlotState, epochs: Ints) -> EpochStats:
        """`world.accuracy`, for all environments at once."""
        stats, alpha = plausible(slots, epochs), slots.alpha
        alone = (alpha * (slots.blueprint - 3)).sum(axis=1)
        pairs = (alpha.sum(axis=1) ** 2 - (alpha**2).sum(axis=1)) / 2
        stats.val_accuracy = 0.2 + 0.2 * (1 - np.exp(-self.learned / 3)) + (alone + 2 * pairs) / 100
        stats.val_loss = -np.log(stats.val_accuracy)
        stats.train_loss = np.ones(len(epochs))
        return stats

    def begin(self, envs: Ints, seeds: Sequence[int]) -> None:
        super().begin(envs, seeds)
        self.learned[envs] = 0
        self._slots.clear(envs)

    def epoch(self, playing: Bools) -> None:
        super().epoch(playing)
        self._train_flops[:] = self.facts.host_flops * self.epoch_size  # the plain world knows no others
        self.learned += playing

    def evaluate(self, playing: Bools, subsets: Ints) -> EpochStats:
        stats = super().evaluate(playing, subsets)
        for env in np.flatnonzero(playing):
            self._break(stats, env, self.faults[env])
        return stats

    def _break(self, stats: EpochStats, env: int, fault: str | None) -> None:
        if fault in SHOWN:
            stats.train_loss[env], stats.val_loss[env], stats.val_accuracy[env] = SHOWN[fault]
        if fault in SHARES:
            measured = ~np.isnan(stats.vanishing_share[env])
            for name, share in zip(("vanishing_share", "exploding_share"), SHARES[fault], strict=True):
                getattr(stats, name)[env, measured] = share
        stats.finite[env] = fault != "a weight is nan"
        stats.probe_passed[env] &= fault != "the probe fails"

    def keep(self, envs: Bools, fossils_only: Bools | None = None) -> None:
        for env in np.flatnonzero(envs):
            fossils = np.flatnonzero(self._slots.stage[env] == Stage.FOSSILIZED).tolist()
            old = fossils_only is not None and fossils_only[env]
            self.kept[env] = [self.kept[env][0] if old else int(self.learned[env]), *fossils]

    def restore(self, envs: Bools) -> EpochStats:
        for env in np.flatnonzero(envs):
            self.learned[env] = self.kept[env][0]
        return super().restore(envs)

    def get_state(self, env: int) -> dict[str, Any]:
        own = {"learned": int(self.learned[env]), "kept": list(self.kept[env])}
        return super().get_state(env) | own

    def set_state(self, env: int, state: Mapping[str, Any]) -> None:
        super().set_state(env, state)
        self.learned[env], self.kept[env] = state["learned"], list(state["kept"])


@cache
def made(name: str, num_envs: int) -> EsperVectorEnv:
    env = rules_only(num_envs, **SETTINGS[name][0])
    env._engine = Breakable(env)
    return env


def rules_of(name: str) -> Rules:
    facts = made(name, 2).facts
    sizes = tuple(tuple(row) for row in facts.module_params.tolist())
    return Rules(facts.host_params, sizes, tuple(facts.gate_params.tolist()), **SETTINGS[name][1])
