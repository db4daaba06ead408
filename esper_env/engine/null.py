"""An engine that trains nothing: the real rules over injected statistics, for tests of rules and agents."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from esper_env.contracts.lifecycle import HAS_MODULE, IS_BLENDED, Stage
from esper_env.contracts.state import Ramp, SlotState
from esper_env.contracts.stats import EpochStats, HarvestStats
from esper_env.engine.setup import Setup

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

Script = Callable[[SlotState, Ints], EpochStats]
"""(slots, epochs trained so far (env,)) -> what the epoch is said to have shown."""


def plausible(slots: SlotState, epochs: Ints) -> EpochStats:
    """Made-up statistics: quality rises with time and with blended modules, gradients are healthy."""
    stats = EpochStats.empty(*slots.stage.shape)
    blended = np.where(slots.alpha > 0, 5.0 * slots.alpha, 0.0)
    stats.val_accuracy = 0.1 + 0.3 * (1 - np.exp(-epochs / 10)) + blended.sum(axis=1) / 100
    stats.val_loss = -np.log(stats.val_accuracy)
    stats.train_loss, stats.train_accuracy = stats.val_loss - 0.05, stats.val_accuracy
    trains = (slots.stage >= Stage.TRAINING) & HAS_MODULE[slots.stage]
    measured = trains & (slots.stage != Stage.FOSSILIZED) & (slots.ramp != Ramp.DOWN)
    stats.contribution = np.where(IS_BLENDED[slots.stage] & (slots.alpha > 0), blended, np.nan)
    for name, value in (
        ("gradient_norm", 0.5),
        ("gradient_ratio", 1.0),
        ("vanishing_share", 0.0),
        ("exploding_share", 0.0),
    ):
        setattr(stats, name, np.where(measured, value, np.nan))
    stats.delta_ratio = np.where(trains, 1.0, np.nan)
    stats.probe_passed = HAS_MODULE[slots.stage]
    return stats


class NullEngine:
    """See `Engine`.

    Args:
        num_envs: number of environments.
        setup: sizes; it needs no task.
        script: what every epoch shows.
    """

    def __init__(self, num_envs: int, setup: Setup, script: Script = plausible) -> None:
        self.facts, self.epoch_size, self.provenance = setup.facts, setup.epoch_size, setup.provenance
        self.script = script
        self._epochs = np.zeros(num_envs, dtype=np.int64)
        self._slots = SlotState.empty(num_envs, setup.facts.num_slots)

    def begin(self, envs: Ints, seeds: Sequence[int]) -> None:
        """See `Engine`."""
        self._epochs[envs] = 0

    def sync(self, slots: SlotState, playing: Bools) -> None:
        """See `Engine`."""
        self._slots = slots.copy()

    def epoch(self, playing: Bools) -> None:
        """See `Engine`."""
        self._epochs += playing

    def evaluate(self, playing: Bools) -> EpochStats:
        """See `Engine`. Training costs what the host alone would cost."""
        stats = self.script(self._slots, self._epochs)
        stats.train_flops = np.full(len(playing), float(self.facts.host_flops * self.epoch_size))
        stats.measure_flops = np.zeros(len(playing))
        return stats

    def harvest(self, ending: Bools) -> HarvestStats:
        """See `Engine`."""
        kept = self._slots.copy()
        kept.remove_module(kept.stage != Stage.FOSSILIZED)
        kept.stage[kept.stage != Stage.FOSSILIZED] = Stage.DORMANT
        stats, harvest = self.script(kept, self._epochs), HarvestStats.empty(len(ending))
        harvest.val_loss[ending], harvest.val_accuracy[ending] = (
            stats.val_loss[ending],
            stats.val_accuracy[ending],
        )
        harvest.test_loss[ending], harvest.test_accuracy[ending] = (
            stats.val_loss[ending],
            stats.val_accuracy[ending],
        )
        return harvest

    def close(self) -> None:
        """See `Engine`."""
