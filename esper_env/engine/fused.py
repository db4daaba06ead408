"""The fused engine: all environments' networks trained and measured as one program.

Hosts are stacked; a module is a row in the pool of its blueprint and slot. For an epoch, environments whose
modules are alike come to stand side by side, and every layer is one operation for a group of rows. The idea
of one program for many networks is that of S. Wang et al., "Horizontally Fused Training Array" (MLSys 2021);
here the networks differ, and change from epoch to epoch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from esper_env.contracts.state import SlotState
from esper_env.contracts.stats import EpochStats, HarvestStats
from esper_env.engine.costs import Costs
from esper_env.engine.engine import SECONDS
from esper_env.engine.export import exported
from esper_env.engine.feed import plan
from esper_env.engine.kernels.choice import choose
from esper_env.engine.life import Life
from esper_env.engine.measures import TRAINED, TRAINED_SLOTS
from esper_env.engine.memory import refuse_too_many, rows_at_once
from esper_env.engine.networks import Networks
from esper_env.engine.precision import switches
from esper_env.engine.programs import Programs
from esper_env.engine.setup import Setup, windows_by
from esper_env.engine.stacked import Run
from esper_env.engine.variants import Pass, measure, summary

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class FusedEngine:
    """See `Engine`.

    Args:
        num_envs: number of environments.
        setup: what they share.

    Raises:
        ValueError: there is not enough memory for so many; nothing has been built then.
    """

    def __init__(self, num_envs: int, setup: Setup) -> None:
        refuse_too_many(num_envs, setup)
        self.rows_at_once = rows_at_once(setup)
        """Most environments that are computed side by side."""
        self.facts, self.epoch_size, self.provenance = setup.facts, setup.epoch_size, setup.provenance
        self._setup, self._task, self._num_envs = setup, setup.loaded_task, num_envs
        config = setup.config
        self.kernels = choose(config.kernels, self._task.device, config.precision)
        self.description = f"fused, {self.kernels.name} kernels, {config.precision}{windows_by(setup)}"
        self._networks, self._costs = Networks(num_envs, setup), Costs(setup)
        self._modules = self._networks.modules
        self._programs = Programs(self._networks.kinds, self.kernels, setup)
        self._seconds = {name: np.full(num_envs, np.nan) for name in SECONDS}
        like = torch.empty(0, dtype=self._task.dtype, device=self._task.device)
        per_slot = (num_envs, len(TRAINED_SLOTS), self.facts.num_slots)
        self._trained = like.new_full((num_envs, len(TRAINED)), torch.nan)
        self._trained_slots = like.new_full(per_slot, torch.nan)
        self._train_flops = np.zeros(num_envs)

    def begin(self, envs: Ints, seeds: Sequence[int]) -> None:
        """See `Engine`."""
        self._networks.begin(envs, seeds)
        for seconds in self._seconds.values():
            seconds[envs] = 0.0

    def sync(self, slots: SlotState, playing: Bools) -> None:
        """See `Engine`."""
        self._networks.sync(slots, playing)

    def epoch(self, playing: Bools) -> None:
        """See `Engine`."""
        self._train_flops = self._costs.training(self._modules)
        for envs in self._shards(playing):
            with self._timed("train_seconds", envs), self._switched():
                self._train(envs)
        self._networks.epochs[playing] += 1

    def _train(self, envs: Ints) -> None:
        config, epochs = self._setup.config, self._networks.epochs[envs].tolist()
        seeds = [self._networks.seed(env) for env in envs.tolist()]
        planned = plan(self._task, seeds, epochs, self.epoch_size)
        factors = [config.optimizer.factor(epoch, self._setup.horizon) for epoch in epochs]
        recording = self._programs.of(self._modules, envs)
        draws = self._networks.draws(envs, training=True)
        batches = np.array(epochs) * (self.epoch_size // config.batch_size)
        recording.program.load(self._modules, envs, batches, np.array(factors), draws)
        ratios = self._programs.run(recording, planned.split(config.batch_size, dim=2))
        trained, slots = recording.program.finish(ratios)
        rows = torch.from_numpy(envs).to(self._task.device)
        self._trained.index_copy_(0, rows, trained)
        self._trained_slots.index_copy_(0, rows, slots)

    def _shards(self, envs: Bools) -> Iterator[Ints]:
        """These environments in parts that are computed side by side."""
        chosen = self._modules.in_order(np.flatnonzero(envs))
        splits = range(self.rows_at_once, len(chosen), self.rows_at_once)
        yield from np.split(chosen, splits) if len(chosen) else ()

    @contextmanager
    def _timed(self, name: str, envs: Ints) -> Iterator[None]:
        """Wall-clock time is shared evenly."""
        began = perf_counter()
        yield
        self._seconds[name][envs] += (perf_counter() - began) / len(envs)

    @contextmanager
    def _switched(self) -> Iterator[None]:
        config = self._setup.config
        with switches(config.tf32, config.deterministic, self._task.device), self.kernels.memory():
            yield

    def evaluate(self, playing: Bools, subsets: Ints) -> EpochStats:
        """See `Engine`."""
        stats = EpochStats.empty(self._num_envs, self.facts.num_slots, subsets.shape[1])
        measured = torch.full((self._num_envs, 2 + 2 * subsets.shape[1]), torch.nan, dtype=torch.float64)
        measured = measured.to(self._task.device)
        for envs in self._shards(playing):
            measured[torch.from_numpy(envs)] = self._measure(envs, subsets[envs]).flatten(1)
        self._fill(stats, playing, measured)
        envs = np.flatnonzero(playing)
        asked = [[subset for subset in row if subset >= 0] for row in subsets[envs].tolist()]
        validation, beyond = self._costs.measuring(self._modules, envs.tolist(), asked)
        stats.train_flops[envs] = self._train_flops[envs]
        stats.measure_flops[envs], stats.counterfactual_flops[envs] = validation + beyond, beyond
        stats.probe_passed[envs] = self._modules.probe_passed[envs]
        return stats

    def _measure(self, envs: Ints, subsets: Ints) -> Tensor:
        """float64 (row, 1 + subset, 2): loss and accuracy of networks, and of variants."""
        with self._timed("validation_seconds", envs), self._switched():
            measured = measure(self._pass(envs), subsets)
        spent = measured.counterfactual_seconds / len(envs)
        self._seconds["counterfactual_seconds"][envs] += spent
        self._seconds["validation_seconds"][envs] -= spent
        return torch.cat([measured.validation[:, None], measured.subsets], dim=1)

    def _pass(self, envs: Ints) -> Pass:
        draws = self._networks.draws(envs, training=False)
        run = Run(self.kernels, training=False, drawing=draws.of)
        return Pass(self._networks.kinds, run, self._modules, envs, self._setup)

    def _fill(self, stats: EpochStats, playing: Bools, measured: Tensor) -> None:
        """Everything that was trained and measured, in one copy from the device."""
        parts = (self._trained, self._trained_slots.flatten(1), measured)
        rows = torch.cat([part.double() for part in parts], dim=1).cpu().numpy()[playing]
        trained, slots, figures = np.split(rows, np.cumsum([part.shape[1] for part in parts[:2]]), axis=1)
        for column, name in enumerate(TRAINED):
            getattr(stats, name)[playing] = trained[:, column]
        slots = slots.reshape(len(rows), len(TRAINED_SLOTS), self.facts.num_slots)
        for column, name in enumerate(TRAINED_SLOTS):
            getattr(stats, name)[playing] = slots[:, column]
        stats.val_loss[playing], stats.val_accuracy[playing] = figures[:, 0], figures[:, 1]
        stats.subset_loss[playing], stats.subset_accuracy[playing] = figures[:, 2::2], figures[:, 3::2]

    def harvest(self, ending: Bools) -> HarvestStats:
        """See `Engine`."""
        self._modules.remove(ending[:, None] & ~self._modules.fossil)
        stats = HarvestStats.empty(self._num_envs)
        envs, figures = self._figures(ending, self._harvested, width=4)
        stats.val_loss[envs], stats.val_accuracy[envs] = figures[:, 0], figures[:, 1]
        stats.test_loss[envs], stats.test_accuracy[envs] = figures[:, 2], figures[:, 3]
        return stats

    def _harvested(self, envs: Ints) -> Tensor:
        """float64 (row, 4): loss and accuracy of validation, then of test."""
        with self._switched():
            validation = measure(self._pass(envs), _nothing(envs)).validation
            return torch.cat([validation, summary(self._pass(envs), self._task.test)], dim=1)

    def _figures(
        self, envs: Bools, measured: Callable[[Ints], Tensor], width: int
    ) -> tuple[Ints, NDArray[np.float64]]:
        """Environments in some order, and what is measured in each, (row, width), in one copy."""
        shards = list(self._shards(envs))
        if not shards:
            return np.flatnonzero(envs), np.empty((0, width))
        return np.concatenate(shards), torch.cat([measured(each) for each in shards]).cpu().numpy()

    def keep(self, envs: Bools, fossils_only: Bools | None = None) -> None:
        """See `Engine`. What is kept stays on the device."""
        self._networks.keep(envs, fossils_only)

    def restore(self, envs: Bools) -> EpochStats:
        """See `Engine`."""
        self._networks.restore(envs)
        stats = EpochStats.empty(self._num_envs, self.facts.num_slots)
        rows, figures = self._figures(envs, lambda each: self._measure(each, _nothing(each))[:, 0], width=2)
        stats.val_loss[rows], stats.val_accuracy[rows] = figures[:, 0], figures[:, 1]
        chosen = np.flatnonzero(envs).tolist()
        stats.measure_flops[envs] = self._costs.measuring(self._modules, chosen, [[]] * len(chosen))[0]
        return stats

    def get_state(self, env: int) -> dict[str, Any]:
        """See `Engine`."""
        return self._networks.get_state(env)

    def set_state(self, env: int, state: Mapping[str, Any]) -> None:
        """See `Engine`."""
        self._networks.set_state(env, state)
        for seconds in self._seconds.values():
            seconds[env] = np.nan_to_num(seconds[env])

    def life(self, env: int) -> Life:
        """A copy of one environment's network, as the reference engine would have it.

        Raises:
            RuntimeError: it was never begun, or the engine is closed.
        """
        return self._networks.life(env)

    def export(self, env: int) -> nn.Module:
        """See `Engine`, and `esper_env.engine.export`."""
        return exported(self.life(env), self._task)

    def seconds(self) -> dict[str, Floats]:
        """See `Engine`. The harvest is in none of them; NaN where there is no network."""
        return {name: each.copy() for name, each in self._seconds.items()}

    def close(self) -> None:
        """See `Engine`."""
        self._networks.close()
        self._programs = Programs(self._networks.kinds, self.kernels, self._setup)
        self.kernels.release()


def _nothing(envs: Ints) -> Ints:
    """No variant of any of these."""
    return np.empty((len(envs), 0), dtype=np.int64)
