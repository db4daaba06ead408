"""The reference engine: one plain nn.Module and its optimizers per environment, trained one after another.

It does the obvious thing throughout, so that every faster engine can be held against it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats, HarvestStats
from esper_env.engine.evaluate import measure, summary
from esper_env.engine.life import TRAINED, TRAINED_SLOTS, Life
from esper_env.engine.setup import Setup

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class ReferenceEngine:
    """See `Engine`.

    Args:
        num_envs: number of environments.
        setup: what they share.
    """

    def __init__(self, num_envs: int, setup: Setup) -> None:
        self.facts, self.epoch_size, self.provenance = setup.facts, setup.epoch_size, setup.provenance
        self._setup = setup
        self._lives: list[Life | None] = [None] * num_envs
        self._trained: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._train_flops = np.zeros(num_envs)

    def life(self, env: int) -> Life:
        """The network of one environment.

        Raises:
            RuntimeError: it was never begun, or the engine is closed.
        """
        life = self._lives[env]
        if life is None:
            raise RuntimeError(f"environment {env} has no network: it was not reset, or it is closed")
        return life

    def begin(self, envs: Ints, seeds: Sequence[int]) -> None:
        """See `Engine`."""
        for env, seed in zip(envs.tolist(), seeds, strict=True):
            self._lives[env] = Life(self._setup, seed)

    def sync(self, slots: SlotState, playing: Bools) -> None:
        """See `Engine`."""
        for env in np.flatnonzero(playing).tolist():
            self.life(env).sync(slots, env)

    def epoch(self, playing: Bools) -> None:
        """See `Engine`."""
        for env in np.flatnonzero(playing).tolist():
            self._train_flops[env] = self.life(env).training_flops()
            self._trained[env] = self.life(env).train()

    def evaluate(self, playing: Bools) -> EpochStats:
        """See `Engine`."""
        stats = EpochStats.empty(len(self._lives), self.facts.num_slots)
        envs = np.flatnonzero(playing).tolist()
        if not envs:
            return stats
        rows = torch.stack([self._measure(env) for env in envs]).cpu().numpy()
        num_env, num_slot = len(TRAINED) + 2, self.facts.num_slots
        for column, name in enumerate((*TRAINED, "val_loss", "val_accuracy")):
            getattr(stats, name)[envs] = rows[:, column]
        for block, name in enumerate((*TRAINED_SLOTS, "contribution")):
            start = num_env + block * num_slot
            getattr(stats, name)[envs] = rows[:, start : start + num_slot]
        stats.train_flops[envs] = self._train_flops[envs]
        stats.measure_flops[envs] = [self.life(env).measuring_flops() for env in envs]
        for env in envs:
            for slot, planted in self.life(env).planted.items():
                stats.probe_passed[env, slot] = planted.probe_passed
        return stats

    def _measure(self, env: int) -> torch.Tensor:
        """All measurements of one environment as one float64 vector on the device."""
        life, task = self.life(env), self._setup.loaded_task
        validation, contribution = measure(
            life.model, task, life.live, self._setup.config.counterfactual_size
        )
        trained, slots = self._trained.pop(env)
        return torch.cat([trained.double(), validation, slots.double().flatten(), contribution])

    def harvest(self, ending: Bools) -> HarvestStats:
        """See `Engine`."""
        stats, task = HarvestStats.empty(len(self._lives)), self._setup.loaded_task
        for env in np.flatnonzero(ending).tolist():
            life = self.life(env)
            for slot, planted in list(life.planted.items()):
                if planted.stage != Stage.FOSSILIZED:
                    life.remove(slot)
            both = [summary(life.model, task, split) for split in (task.validation, task.test)]
            stats.val_loss[env], stats.val_accuracy[env], stats.test_loss[env], stats.test_accuracy[env] = (
                torch.cat(both).tolist()
            )
        return stats

    def close(self) -> None:
        """See `Engine`."""
        self._lives = [None] * len(self._lives)
        self._trained.clear()
