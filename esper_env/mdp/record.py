"""What an epoch's measurements add to the state: curves, gradient health, contributions."""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.state import GameState, SlotState
from esper_env.contracts.stats import EpochStats, HarvestStats
from esper_env.mdp.attribution import Attribution
from esper_env.mdp.quality import quality

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class RecordConfig(BaseModel):
    """How single measurements become what the agent sees."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    vanishing_penalty: float = Field(0.5, ge=0)
    """Health lost when every tensor's gradient vanishes."""
    exploding_penalty: float = Field(0.8, ge=0)
    """Health lost when every tensor's gradient explodes."""
    ratio_cap: float = Field(10.0, gt=0)
    """Largest gradient ratio counted."""
    ratio_memory: float = Field(0.9, ge=0, lt=1)
    """Weight of the past in the moving average of the gradient ratio."""
    velocity_memory: float = Field(0.7, ge=0, lt=1)
    """Weight of the past in the moving average of the contribution's change."""
    freshness: float = Field(0.995, gt=0, le=1)
    """Factor by which the freshness of a contribution falls in an epoch in which it is not measured."""


def harvested(stats: HarvestStats, facts: HostFacts) -> Floats:
    """(env,): validation quality of the harvested models, NaN where there was no harvest."""
    return quality(stats.val_loss, stats.val_accuracy, facts)


def ledger(state: GameState, facts: HostFacts) -> dict[str, Floats]:
    """What each episode has cost so far, (env,) each.

    `params` are those of host, modules and gates that are present; `train_flops` were spent on training,
    trial and pruned modules included; `measure_flops` on validation and counterfactuals, of which
    `counterfactual_flops` on the latter, never charged.
    """
    params = facts.host_params + state.slots.params.sum(axis=1).astype(float)
    return {
        "params": params,
        "train_flops": state.train_flops.copy(),
        "measure_flops": state.measure_flops.copy(),
        "counterfactual_flops": state.counterfactual_flops.copy(),
    }


def attribution(state: GameState) -> dict[str, Floats]:
    """What the last epoch's counterfactuals say, in points, NaN where nothing was measured.

    `contribution`, `shapley` and `shapley_error` (env, slot); `interaction` (env, slot, slot); `joint`
    (env,), the quality with all live modules less that with none of them; `committed` (env,), the latter.
    """
    slots = state.slots
    measured = slots.live & (slots.contribution_age == 0)
    return {
        "contribution": np.where(measured, slots.contribution, np.nan),
        "interaction": slots.interaction.copy(),
        "shapley": slots.shapley.copy(),
        "shapley_error": slots.shapley_error.copy(),
        "joint": state.joint_value.copy(),
        "committed": 100 * state.committed_quality,
    }


def acted(state: GameState, op: NDArray[np.int64], valid: Bools, played: Bools) -> None:
    """Remember the op that was applied and whether the action was legal, in place."""
    state.last_op = np.where(played, op, state.last_op).astype(np.int8)
    state.last_success = np.where(played, valid, state.last_success)


def observe(
    state: GameState,
    stats: EpochStats,
    worth: Attribution,
    played: Bools,
    facts: HostFacts,
    config: RecordConfig,
) -> None:
    """Write an epoch's statistics into the state of the environments that played, in place."""
    state.epoch += played
    state.train_flops += np.where(played, stats.train_flops, 0.0)
    state.measure_flops += np.where(played, stats.measure_flops, 0.0)
    state.counterfactual_flops += np.where(played, stats.counterfactual_flops, 0.0)
    losses = {name: _diverged(getattr(stats, name)) for name in ("train_loss", "val_loss")}
    for name, now in (*losses.items(), ("val_accuracy", stats.val_accuracy)):
        setattr(state, name, np.where(played, now, getattr(state, name)))
    now = quality(losses["val_loss"], stats.val_accuracy, facts)
    state.quality = np.where(played, now, state.quality)
    state.loss_history = _pushed(state.loss_history, losses["val_loss"], played)
    state.quality_history = _pushed(state.quality_history, now, played)
    state.committed_quality = np.where(played, worth.committed, state.committed_quality)
    state.joint_value = np.where(played, worth.joint, state.joint_value)
    _observe_modules(state.slots, stats, played[:, None], config)
    _observe_worth(state.slots, worth, played[:, None], config)


def _diverged(value: Floats) -> Floats:
    """A measurement that is not a number was made all the same: it shows as infinite, not as missing."""
    return np.where(np.isnan(value), np.inf, value)


def _pushed(history: Floats, newest: Floats, played: Bools) -> Floats:
    return np.where(played[:, None], np.concatenate([newest[:, None], history[:, :-1]], axis=1), history)


def _observe_modules(slots: SlotState, stats: EpochStats, played: Bools, config: RecordConfig) -> None:
    """Measurements of one epoch; what was not measured this time is NaN, averages keep their last value."""
    health = (
        1
        - config.vanishing_penalty * stats.vanishing_share
        - config.exploding_penalty * stats.exploding_share
    )
    slots.gradient_health = np.where(played, np.clip(health, 0, 1), slots.gradient_health)
    seen = ~np.isnan(stats.vanishing_share)
    norm = np.where(seen, _diverged(stats.gradient_norm), np.nan)
    slots.gradient_norm = np.where(played, norm, slots.gradient_norm)
    slots.vanishing = np.where(played, stats.vanishing_share > 0, slots.vanishing)
    slots.exploding = np.where(played, stats.exploding_share > 0, slots.exploding)
    slots.delta_ratio = np.where(played, stats.delta_ratio, slots.delta_ratio)
    slots.probe_passed = np.where(played, stats.probe_passed, slots.probe_passed)
    ratio = np.where(seen, np.minimum(_diverged(stats.gradient_ratio), config.ratio_cap), np.nan)
    slots.gradient_ratio = _average(slots.gradient_ratio, ratio, config.ratio_memory)


def _observe_worth(slots: SlotState, worth: Attribution, played: Bools, config: RecordConfig) -> None:
    """A contribution is remembered, with its age; the rest holds for the last epoch alone."""
    change = worth.contribution - slots.contribution
    slots.contribution_velocity = _average(slots.contribution_velocity, change, config.velocity_memory)
    measured = ~np.isnan(worth.contribution)
    aged = slots.contribution_age + (played & ~np.isnan(slots.contribution))
    slots.contribution_age = np.where(measured, 0, aged)
    slots.contribution = np.where(measured, worth.contribution, slots.contribution)
    slots.interaction = np.where(played[..., None], worth.interaction, slots.interaction)
    slots.shapley = np.where(played, worth.shapley, slots.shapley)
    slots.shapley_error = np.where(played, worth.shapley_error, slots.shapley_error)


def _average(old: Floats, new: Floats, memory: float) -> Floats:
    """Moving average that starts at the first value and keeps still while nothing is measured."""
    moved = np.where(np.isnan(old), new, memory * old + (1 - memory) * new)
    return np.where(np.isnan(new), old, moved)
