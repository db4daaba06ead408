"""The governor: it sees when a network breaks, and puts back the last good one.

What counts as broken is measured against the task: chance loss is ln(classes) or ln(vocabulary), and a reader
of texts who has lost everything learns how frequent each token is before anything else. Everything is per
environment; the engine keeps and restores the weights that are named here.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.lifecycle import HAS_MODULE, Stage
from esper_env.contracts.state import GameState, SlotState
from esper_env.contracts.stats import EpochStats
from esper_env.mdp.quality import quality

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class GovernorConfig(BaseModel):
    """When a network counts as broken, and how often the last good one is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    chance_margin: float = Field(0.065, ge=0)
    """Collapse: distance from the chance loss, or from the uninformed loss (of texts: that of knowing the
    frequencies of tokens alone), as a share of it, within which a network guesses."""
    collapse_in_training: bool = True
    """Collapse: whether the training loss must be that of guessing too; the validation loss alone can pass
    through it in a single bad epoch of a network that still classifies."""
    learned_below: float = Field(0.6, gt=0, lt=1)
    """Collapse: share of the chance loss, and of the uninformed loss, below which a network has learned
    something it can lose; each is remembered by itself, and a collapse is to one that was left behind so."""
    divergence_factor: float = Field(3.0, gt=1)
    """Divergence: multiple of the mean of the last good losses that must be exceeded."""
    divergence_sigmas: float = Field(6.0, ge=0)
    """Divergence: standard deviations above that mean that must be exceeded too."""
    window: int = Field(20, ge=2)
    """Divergence: last good epochs that are looked at."""
    min_window: int = Field(10, ge=2)
    """Divergence: good epochs that must have been seen before."""
    patience: int = Field(3, ge=1)
    """Divergence: epochs running with such a loss."""
    snapshot_every: int = Field(5, ge=1)
    """Good epochs from one snapshot to the next."""
    max_panics: int = Field(3, ge=1)
    """The panic of this number ends the episode."""

    @model_validator(mode="after")
    def _window_can_fill(self) -> Self:
        if self.min_window > self.window:
            raise ValueError(
                f"governor.min_window={self.min_window} is not allowed: at most window={self.window} is"
            )
        return self


@dataclass(frozen=True)
class Verdict:
    """What the governor found in an epoch, each (env,)."""

    non_finite: Bools
    """A loss, a weight or a gradient was not finite."""
    collapsed: Bools
    """A network that had learned guesses again."""
    diverged: Bools
    """The loss was out of bounds `patience` epochs running."""
    good: Bools
    """Nothing was wrong, and the loss within bounds."""

    @property
    def panicked(self) -> Bools:
        """(env,): the last good network has to come back."""
        return self.non_finite | self.collapsed | self.diverged


def judge(
    state: GameState, stats: EpochStats, played: Bools, facts: HostFacts, config: GovernorConfig
) -> Verdict:
    """Look at an epoch of the environments that played, and count it in the state, in place."""
    loss = stats.val_loss
    finite = stats.finite & np.isfinite(stats.train_loss) & np.isfinite(loss)
    shown = (loss, stats.train_loss) if config.collapse_in_training else (loss,)
    levels = ((facts.chance_loss, state.has_learned), (facts.uninformed_loss, state.has_learned_context))
    forgotten = (_near(shown, level, config) & learned for level, learned in levels)
    collapsed = played & finite & reduce(np.logical_or, forgotten)
    suspicious = played & finite & _out_of_bounds(state.good_losses, loss, config)
    state.divergent = np.where(played, np.where(suspicious, state.divergent + 1, 0), state.divergent)
    good = played & finite & ~collapsed & ~suspicious
    for level, learned in levels:
        learned |= good & (loss < config.learned_below * level)
    losses = np.concatenate([loss[:, None], state.good_losses[:, :-1]], axis=1)
    state.good_losses = np.where(good[:, None], losses, state.good_losses)
    state.since_snapshot += good
    diverged = suspicious & ~collapsed & (state.divergent >= config.patience)
    return Verdict(played & ~finite, collapsed, diverged, good)


def _near(losses: tuple[Floats, ...], level: float, config: GovernorConfig) -> Bools:
    """(env,): all of these losses are about this one."""
    margin = config.chance_margin * level
    return reduce(np.logical_and, (np.abs(each - level) <= margin for each in losses))


def _out_of_bounds(good_losses: Floats, loss: Floats, config: GovernorConfig) -> Bools:
    """(env,): the loss is far above what the last good epochs showed; never before enough of them."""
    seen = ~np.isnan(good_losses)
    count = seen.sum(axis=1)
    values = np.where(seen, good_losses, 0.0)
    mean = values.sum(axis=1) / np.maximum(count, 1)
    spread = np.where(seen, good_losses - mean[:, None], 0.0)
    sigma = np.sqrt((spread**2).sum(axis=1) / np.maximum(count, 1))
    bound = np.maximum(config.divergence_factor * mean, mean + config.divergence_sigmas * sigma)
    return (count >= config.min_window) & (loss > bound)


def fossilized(before: SlotState, after: SlotState) -> Bools:
    """(env,): a module was committed in this step: the snapshot must have it before the epoch."""
    return np.any(after.in_stage(Stage.FOSSILIZED) & ~before.in_stage(Stage.FOSSILIZED), axis=1)


def due(state: GameState, verdict: Verdict, config: GovernorConfig) -> Bools:
    """(env,): enough good epochs have passed since the last snapshot."""
    return verdict.good & (state.since_snapshot >= config.snapshot_every)


def snapshot(state: GameState, envs: Bools) -> None:
    """Note what there is to know of the networks that the engine keeps now, in place."""
    if not envs.any():
        return
    state.snapshot_has_learned[envs] = state.has_learned[envs]
    state.snapshot_has_learned_context[envs] = state.has_learned_context[envs]
    state.since_snapshot[envs] = 0


def roll_back(state: GameState, stats: EpochStats, envs: Bools, facts: HostFacts) -> None:
    """The rules' side of a rollback, in place: what is not committed is pruned, and what came back is shown.

    Costs, clocks and data streams are not turned back, and the training loss stays that of the bad epoch.

    Args:
        state: After the epoch.
        stats: Validation of the networks that came back, from `Engine.restore`.
        envs: (env,): where the network broke.
        facts: The quality of guessing.
    """
    state.val_loss[envs] = np.nan_to_num(stats.val_loss[envs], nan=np.inf, posinf=np.inf)
    state.val_accuracy[envs] = stats.val_accuracy[envs]
    shown = quality(stats.val_loss, stats.val_accuracy, facts)[envs]
    state.quality[envs] = np.nan_to_num(shown, nan=facts.chance_quality)
    state.measure_flops[envs] += stats.measure_flops[envs]
    state.has_learned[envs] = state.snapshot_has_learned[envs]
    state.has_learned_context[envs] = state.snapshot_has_learned_context[envs]
    slots = state.slots = state.slots.copy()  # churn is charged for the slots as they were trained
    lost = envs[:, None] & HAS_MODULE[slots.stage] & ~slots.in_stage(Stage.FOSSILIZED)
    fallen = (slots.alpha_velocity - slots.alpha)[lost]  # from alpha at the beginning of the step
    slots.remove_module(lost)
    slots.stage[lost], slots.alpha_velocity[lost] = Stage.PRUNED, fallen
    state.committed_quality[envs] = state.joint_value[envs] = np.nan
    state.divergent[envs] = state.since_snapshot[envs] = 0
    state.rollbacks[envs] += 1
