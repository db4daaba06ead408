"""The reward: named terms times prices. A mode says which sums are paid when."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.lifecycle import Op, Stage
from esper_env.contracts.state import REWARD_TERMS, GameState, SlotState

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class RewardConfig(BaseModel):
    """Prices, in reward a unit. One point is one percent of validation quality."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: Literal["dense", "sparse"] = "dense"
    """`dense` pays every term as it falls due, `sparse` the same sum once, at the end of an episode."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount: used by shaping and by the sparse sum, and the default of every agent."""
    quality: float = Field(100.0, ge=0)
    """For one unit of validation quality gained in a step (so 1 a point)."""
    harvest: float = Field(100.0, ge=0)
    """For one unit of quality that the harvested model has above the grown one, at the end."""
    rent: float = Field(2.0, ge=0)
    """Over a whole horizon, for each unit of ln(1 + module parameters / host parameters)."""
    rent_cap: float = Field(10.0, gt=0)
    """Largest growth, in host sizes, for which rent is taken."""
    churn: float = Field(0.2, ge=0)
    """For a squared change of alpha of 1 of a module as large as the host."""
    churn_cap: float = Field(1.0, ge=0)
    """Largest churn in one step."""
    germinate_cost: float = Field(0.15, ge=0)
    """For a GERMINATE."""
    set_alpha_target_cost: float = Field(0.005, ge=0)
    """For a SET_ALPHA_TARGET."""
    prune_cost: float = Field(0.05, ge=0)
    """For a PRUNE."""
    fossilize_cost: float = Field(0.01, ge=0)
    """For a FOSSILIZE."""
    advance_cost: float = Field(0.0, ge=0)
    """For an ADVANCE."""
    shaping: float = Field(0.3, ge=0)
    """For one unit of stage potential."""
    potentials: Mapping[Literal["GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED"], float] = {
        "GERMINATED": 1.0,
        "TRAINING": 2.0,
        "BLENDING": 3.5,
        "HOLDING": 5.5,
        "FOSSILIZED": 6.0,
    }
    """Stage potential of a slot; a stage that is not named has 0."""

    def op_costs(self) -> Floats:
        """(op,): what each op costs."""
        costs = {op: getattr(self, f"{op.name.lower()}_cost", 0.0) for op in Op}
        return np.array([costs[op] for op in Op])


@dataclass(frozen=True)
class Change:
    """What one step changed, as far as it is priced."""

    before: SlotState
    """Slots at the beginning of the step."""
    after: SlotState
    """Slots during the step's epoch."""
    quality_before: Floats
    """(env,): validation quality before the epoch, in [0, 1]."""
    quality_after: Floats
    """(env,): validation quality after the epoch."""
    op: NDArray[np.int64]
    """(env,): the op that was applied."""
    terminated: Bools
    """(env,)."""


def terms(
    change: Change, harvested: Floats, facts: HostFacts, config: RewardConfig, horizon: int
) -> dict[str, Floats]:
    """What one step is worth, term by term, each of shape (env,). The sum is the dense reward.

    Args:
        change: The step.
        harvested: (env,): quality of the harvested model; read where the episode was terminated.
        facts: Sizes.
        config: Prices.
        horizon: Epochs of an episode.
    """
    growth = change.after.params.sum(axis=1) / facts.host_params
    lost = np.where(change.terminated, harvested - change.quality_after, 0.0)
    return {
        "quality": config.quality * (change.quality_after - change.quality_before),
        "harvest": config.harvest * lost,
        "rent": -(config.rent / horizon) * np.log1p(np.minimum(growth, config.rent_cap)),
        "churn": -_churn(change.before, change.after, facts, config),
        "op_cost": -config.op_costs()[change.op],
        "shaping": _shaping(change, config),
    }


def _churn(before: SlotState, after: SlotState, facts: HostFacts, config: RewardConfig) -> Floats:
    """A module that was removed in the step counts with the size it had."""
    size = np.maximum(before.module_params, after.module_params) / facts.host_params
    moved = ((after.alpha - before.alpha) ** 2 * size).sum(axis=1)
    return np.minimum(config.churn * moved, config.churn_cap)


def potential(slots: SlotState, config: RewardConfig) -> Floats:
    """(env,): sum of the stage potentials of all slots."""
    by_stage = np.array([config.potentials.get(stage.name, 0.0) for stage in Stage])  # type: ignore[call-overload]
    return by_stage[slots.stage].sum(axis=1)


def _shaping(change: Change, config: RewardConfig) -> Floats:
    """The price of gamma Phi' - Phi, with Phi' = 0 at a terminal state: it adds the same to every life.

    Reference: A. Ng, D. Harada, S. Russell, "Policy invariance under reward transformations" (ICML 1999).
    """
    reached = np.where(change.terminated, 0.0, potential(change.after, config))
    return config.shaping * (config.gamma * reached - potential(change.before, config))


def total(paid: Mapping[str, Floats]) -> Floats:
    """(env,): the reward, the sum of its terms."""
    return np.sum(list(paid.values()), axis=0)


def pay(
    state: GameState, due: Mapping[str, Floats], played: Bools, terminated: Bools, config: RewardConfig
) -> dict[str, Floats]:
    """The terms of the reward to pay now, each (env,); 0 where nothing was played.

    `sparse` keeps them in `state.owed` and pays sum_t gamma^(t - T) r_t at the end, whose discounted value is
    that of the dense rewards; an episode that is truncated is paid nothing.
    """
    now = np.where(played[:, None], np.column_stack([due[name] for name in REWARD_TERMS]), 0.0)
    if config.mode == "sparse":
        state.owed = np.where(played[:, None], state.owed / config.gamma + now, state.owed)
        now = np.where(terminated[:, None], state.owed, 0.0)
    return {name: now[:, column].copy() for column, name in enumerate(REWARD_TERMS)}
