"""An engine that trains nothing: the real rules over injected statistics, for tests of rules and agents."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from esper_env.contracts.lifecycle import HAS_MODULE, Stage
from esper_env.contracts.state import Ramp, SlotState
from esper_env.contracts.stats import EpochStats, HarvestStats
from esper_env.engine.costs import Costs
from esper_env.engine.engine import SECONDS
from esper_env.engine.setup import Setup
from esper_env.engine.state import whole
from esper_env.engine.topology import Modules

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

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
    for name, value in (
        ("gradient_norm", 0.5),
        ("gradient_ratio", 1.0),
        ("vanishing_share", 0.0),
        ("exploding_share", 0.0),
    ):
        setattr(stats, name, np.where(measured, value, np.nan))
    stats.delta_ratio = np.where(trains, 1.0, np.nan)
    stats.probe_passed, stats.finite = HAS_MODULE[slots.stage], np.ones(len(epochs), dtype=bool)
    return stats


def fluent(chance_loss: float) -> Script:
    """The same of texts: a loss of that quality, and no accuracy.

    Args:
        chance_loss: ln(vocabulary), in nats.
    """

    def script(slots: SlotState, epochs: Ints) -> EpochStats:
        stats = plausible(slots, epochs)
        stats.val_loss = chance_loss * (1 - stats.val_accuracy)
        stats.train_loss = 0.98 * stats.val_loss
        stats.train_accuracy = stats.val_accuracy = np.full(len(epochs), np.nan)
        return stats

    return script


def _script(setup: Setup) -> Script:
    """What is plausible for what the host reads."""
    return fluent(setup.facts.chance_loss) if setup.family == "text" else plausible


class NullEngine:
    """See `Engine`.

    Args:
        num_envs: number of environments.
        setup: sizes; it needs no task.
        script: what every epoch shows; None for what is plausible.
    """

    def __init__(self, num_envs: int, setup: Setup, script: Script | None = None) -> None:
        self.description = "null: nothing is trained"
        self.facts, self.epoch_size, self.provenance = setup.facts, setup.epoch_size, setup.provenance
        self.script: Script = script or _script(setup)
        self._epochs = np.zeros(num_envs, dtype=np.int64)
        self._slots = SlotState.empty(num_envs, setup.facts.num_slots)
        self._costs, self._train_flops = Costs(setup), np.zeros(num_envs)

    def begin(self, envs: Ints, seeds: Sequence[int]) -> None:
        """See `Engine`."""
        self._epochs[envs] = 0

    def sync(self, slots: SlotState, playing: Bools) -> None:
        """See `Engine`."""
        self._slots = slots.copy()

    def epoch(self, playing: Bools) -> None:
        """See `Engine`. It is charged as if networks trained: budgets are rules."""
        self._train_flops = self._costs.training(Modules.said_by(self._slots))
        self._epochs += playing

    def evaluate(self, playing: Bools, subsets: Ints) -> EpochStats:
        """See `Engine`. The script is asked for variants too."""
        stats = self.script(self._slots, self._epochs)
        stats.train_flops = self._train_flops.copy()
        stats.measure_flops, stats.counterfactual_flops = np.zeros(len(playing)), np.zeros(len(playing))
        variants = [self.script(self._only(subset), self._epochs) for subset in subsets.T]
        for name in ("loss", "accuracy"):
            columns = [getattr(variant, f"val_{name}") for variant in variants]
            values = np.array(columns).reshape(subsets.T.shape).T
            setattr(stats, f"subset_{name}", np.where(subsets >= 0, values, np.nan))
        return stats

    def _only(self, subset: Ints) -> SlotState:
        """The slots with alpha 0 wherever a live module is not in the subset (env,)."""
        slots, bits = self._slots.copy(), 1 << np.arange(self._slots.stage.shape[1])
        slots.alpha[slots.live & (subset[:, None] & bits == 0)] = 0.0
        return slots

    def _committed(self) -> SlotState:
        """The slots with the fossils alone."""
        kept = self._slots.copy()
        kept.remove_module(kept.stage != Stage.FOSSILIZED)
        kept.stage[kept.stage != Stage.FOSSILIZED] = Stage.DORMANT
        return kept

    def keep(self, envs: Bools, fossils_only: Bools | None = None) -> None:
        """See `Engine`. There is nothing to keep."""

    def restore(self, envs: Bools) -> EpochStats:
        """See `Engine`. What comes back is what the script says of the fossils alone."""
        stats, kept = EpochStats.empty(*self._slots.stage.shape), self.script(self._committed(), self._epochs)
        stats.val_loss[envs], stats.val_accuracy[envs] = kept.val_loss[envs], kept.val_accuracy[envs]
        stats.measure_flops[envs] = 0.0
        return stats

    def harvest(self, ending: Bools) -> HarvestStats:
        """See `Engine`."""
        harvest, stats = HarvestStats.empty(len(ending)), self.script(self._committed(), self._epochs)
        for name in ("val", "test"):
            getattr(harvest, f"{name}_loss")[ending] = stats.val_loss[ending]
            getattr(harvest, f"{name}_accuracy")[ending] = stats.val_accuracy[ending]
        return harvest

    def get_state(self, env: int) -> dict[str, Any]:
        """See `Engine`."""
        return {"epochs": int(self._epochs[env])}

    def set_state(self, env: int, state: Mapping[str, Any]) -> None:
        """See `Engine`."""
        self._epochs[env] = whole(state["epochs"], "epochs", least=0)

    def export(self, env: int) -> nn.Module:
        """See `Engine`.

        Raises:
            ValueError: always.
        """
        raise ValueError("engine='null' trains nothing: it has no network to export")

    def seconds(self) -> dict[str, Floats]:
        """See `Engine`."""
        return {name: np.zeros(len(self._epochs)) for name in SECONDS}

    def close(self) -> None:
        """See `Engine`."""
