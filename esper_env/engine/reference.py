"""The reference engine: one plain nn.Module and its optimizers per environment, trained one after another.

It does the obvious thing throughout, so that every faster engine can be held against it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats, HarvestStats
from esper_env.engine import snapshot
from esper_env.engine.engine import SECONDS
from esper_env.engine.export import exported
from esper_env.engine.life import Life
from esper_env.engine.measures import TRAINED, TRAINED_SLOTS
from esper_env.engine.setup import Setup, windows_by
from esper_env.engine.state import mapping

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class ReferenceEngine:
    """See `Engine`.

    Args:
        num_envs: number of environments.
        setup: what they share.
    """

    def __init__(self, num_envs: int, setup: Setup) -> None:
        self.facts, self.epoch_size, self.provenance = setup.facts, setup.epoch_size, setup.provenance
        self.description = f"reference, {setup.config.precision}{windows_by(setup)}"
        self._setup = setup
        self._lives: list[Life | None] = [None] * num_envs
        self._trained: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._train_flops = np.zeros(num_envs)
        self._kept: dict[int, snapshot.Snapshot] = {}

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

    def evaluate(self, playing: Bools, subsets: Ints) -> EpochStats:
        """See `Engine`."""
        stats = EpochStats.empty(len(self._lives), self.facts.num_slots, subsets.shape[1])
        envs = np.flatnonzero(playing).tolist()
        if not envs:
            return stats
        asked = {env: subsets[env].tolist() for env in envs}
        rows = torch.stack([self._measure(env, asked[env]) for env in envs]).cpu().numpy()
        names = (*TRAINED, "val_loss", "val_accuracy", "subset_loss", "subset_accuracy", *TRAINED_SLOTS)
        start = 0
        for name in names:
            kept = getattr(stats, name)
            width = int(np.prod(kept.shape[1:]))
            kept[envs] = rows[:, start : start + width].reshape(len(envs), *kept.shape[1:])
            start += width
        stats.train_flops[envs] = self._train_flops[envs]
        for env in envs:
            validation, variants = self.life(env).measuring_flops(asked[env])
            stats.measure_flops[env], stats.counterfactual_flops[env] = validation + variants, variants
            for slot, planted in self.life(env).planted.items():
                stats.probe_passed[env, slot] = planted.probe_passed
        return stats

    def _measure(self, env: int, subsets: list[int]) -> torch.Tensor:
        """All measurements of one environment as one float64 vector on the device."""
        trained, slots = self._trained.pop(env)
        measured = self.life(env).measure(subsets)
        parts = (trained, measured.validation, measured.subsets, slots)
        return torch.cat([part.double().flatten() for part in parts])

    def seconds(self) -> dict[str, Floats]:
        """See `Engine`. The harvest is in none of them; NaN where there is no network."""
        spent = [life.seconds if life else dict.fromkeys(SECONDS, np.nan) for life in self._lives]
        return {name: np.array([each[name] for each in spent]) for name in SECONDS}

    def harvest(self, ending: Bools) -> HarvestStats:
        """See `Engine`."""
        stats = HarvestStats.empty(len(self._lives))
        rows = self._rows(ending, Life.harvest)
        stats.val_loss[ending], stats.val_accuracy[ending] = rows[:, 0], rows[:, 1]
        stats.test_loss[ending], stats.test_accuracy[ending] = rows[:, 2], rows[:, 3]
        return stats

    def _rows(self, envs: Bools, measured: Callable[[Life], torch.Tensor]) -> Floats:
        """What is measured in each of these environments, (env, measure), in one copy from the device."""
        rows = [measured(self.life(env)) for env in np.flatnonzero(envs).tolist()]
        return torch.stack(rows).cpu().numpy() if rows else np.empty((0, 4))

    def keep(self, envs: Bools, fossils_only: Bools | None = None) -> None:
        """See `Engine`. What is kept stays on the device."""
        for env in np.flatnonzero(envs).tolist():
            before = self._kept[env] if fossils_only is not None and fossils_only[env] else None
            self._kept[env] = snapshot.keep(self.life(env), before)

    def restore(self, envs: Bools) -> EpochStats:
        """See `Engine`."""
        stats = EpochStats.empty(len(self._lives), self.facts.num_slots)
        for env in np.flatnonzero(envs).tolist():
            snapshot.restore(self.life(env), self._kept[env])
            stats.measure_flops[env] = self.life(env).measuring_flops([])[0]
        rows = self._rows(envs, lambda life: life.measure([]).validation)
        stats.val_loss[envs], stats.val_accuracy[envs] = rows[:, 0], rows[:, 1]
        return stats

    def get_state(self, env: int) -> dict[str, Any]:
        """See `Engine`."""
        return {"life": snapshot.get_state(self.life(env)), "kept": snapshot.on_cpu(self._kept[env])}

    def set_state(self, env: int, state: Mapping[str, Any]) -> None:
        """See `Engine`."""
        parts = mapping(state, "engine", ("life", "kept"))
        life = snapshot.from_state(self._setup, parts["life"])
        self._lives[env], self._kept[env] = life, snapshot.of_life(life, parts["kept"])

    def export(self, env: int) -> nn.Module:
        """See `Engine`, and `esper_env.engine.export`."""
        return exported(self.life(env), self._setup.loaded_task)

    def close(self) -> None:
        """See `Engine`."""
        self._lives = [None] * len(self._lives)
        self._trained.clear()
        self._kept.clear()
