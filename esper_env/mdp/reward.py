"""The reward: what one step changed, term by term, times its price."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, reduce

import numpy as np
from numpy.typing import NDArray

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import GameState, SlotState
from esper_env.mdp.prices import OWN_TERMS, RewardConfig

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StepChange:
    """What one step changed, as far as it can be priced. It holds no figure of the test split."""

    before: SlotState
    """Slots at the beginning of the step."""
    trained: SlotState
    """Slots during the step's epoch."""
    after: SlotState
    """Slots as they are observed: other than `trained` where the governor rolled back."""
    op: NDArray[np.int64]
    """(env,): the op that was applied."""
    compute_before: Floats
    """(env,): training FLOPs beyond the static host's before the epoch, as a share of its whole horizon's."""
    compute_after: Floats
    """(env,): the same after the epoch."""
    quality_before: Floats
    """(env,): validation quality before the epoch, in [0, 1]; that of guessing before the first one."""
    quality_after: Floats
    """(env,): validation quality after the epoch; after a rollback that of the network that was put back."""
    harvested: Floats
    """(env,): validation quality of the harvested model; NaN where the episode goes on."""
    terminated: Bools
    """(env,)."""
    panicked: Bools
    """(env,): the governor rolled back."""


def terms(change: StepChange, facts: HostFacts, config: RewardConfig, horizon: int) -> dict[str, Floats]:
    """What one step is worth, term by term, each of shape (env,).

    Args:
        change: The step.
        facts: Sizes, and the quality of guessing.
        config: Prices.
        horizon: Epochs of an episode.

    Raises:
        ValueError: a term of the user's own is not a finite array of shape (env,).
    """
    harvested = np.where(np.isnan(change.harvested), facts.chance_quality, change.harvested)
    end = config.harvest * (harvested - change.quality_after)
    end = end + config.outcome * (harvested - facts.chance_quality)
    growth = change.trained.params.sum(axis=1) / facts.host_params
    own = {name: price * _own(name, change, facts) for name, price in config.own.items()}
    return {
        "quality": config.quality * (change.quality_after - change.quality_before),
        "harvest": np.where(change.terminated, end, 0.0),
        "rent": -(config.rent / horizon) * np.log1p(np.minimum(growth, config.rent_cap))
        - config.compute_rent * (np.log1p(change.compute_after) - np.log1p(change.compute_before)),
        "churn": -_churn(change, facts, config),
        "op_cost": -config.op_cost * config.op_costs()[change.op],
        "shaping": _shaping(change, config),
        "credit": config.credit * _credit_won(change, config),
        "rollback": -config.rollback * change.panicked,
        **own,
    }


def _own(name: str, change: StepChange, facts: HostFacts) -> Floats:
    shape = change.terminated.shape
    amount = np.asarray(OWN_TERMS[name](deepcopy(change), facts), dtype=np.float64)
    if amount.shape != shape or not np.isfinite(amount).all():
        raise ValueError(f"reward term {name!r} gave {amount}: a finite array of shape {shape} is required")
    return amount


def _churn(change: StepChange, facts: HostFacts, config: RewardConfig) -> Floats:
    """A module that was removed in the step counts with the size it had; the governor's prunes are free."""
    before, after = change.before, change.trained
    size = np.maximum(before.module_params, after.module_params) / facts.host_params
    moved = ((after.alpha - before.alpha) ** 2 * size).sum(axis=1)
    return np.minimum(config.churn * moved, config.churn_cap)


def potential(slots: SlotState, config: RewardConfig) -> Floats:
    """(env,): sum of the stage potentials of all slots."""
    return _by_stage(tuple(config.potentials.items()))[slots.stage].sum(axis=1)


@cache
def _by_stage(potentials: tuple[tuple[str, float], ...]) -> Floats:
    """(stage,): 0 for a stage that is not named."""
    return np.array([dict(potentials).get(stage.name, 0.0) for stage in Stage])


def _shaping(change: StepChange, config: RewardConfig) -> Floats:
    """The price of gamma Phi' - Phi, with Phi' = 0 at a terminal state: it adds the same to every life.

    Reference: A. Ng, D. Harada, S. Russell, "Policy invariance under reward transformations" (ICML 1999).
    """
    reached = np.where(change.terminated, 0.0, potential(change.after, config))
    return config.shaping * (config.gamma * reached - potential(change.before, config))


def _credit_won(change: StepChange, config: RewardConfig) -> Floats:
    """Gamma C' - C, C being the credit of all slots: a potential like that of shaping if all is lost."""
    kept = change.after.in_stage(Stage.FOSSILIZED) & (config.credit_at_end == "kept")
    reached = np.where(kept | ~change.terminated[:, None], change.after.credit, 0.0).sum(axis=1)
    return config.gamma * reached - change.before.credit.sum(axis=1)


def total(paid: Mapping[str, Floats]) -> Floats:
    """(env,): the reward, the sum of its terms."""
    # One after the other: np.sum would add in another order for one environment than for many.
    return reduce(np.add, paid.values())


def pay(
    state: GameState, due: Mapping[str, Floats], played: Bools, terminated: Bools, config: RewardConfig
) -> dict[str, Floats]:
    """The terms of the reward to pay now, each (env,); 0 where nothing was played.

    `pay_at_end` keeps them in `state.owed` and pays sum_t gamma^(t - T) r_t at the end, whose discounted
    value is that of the same rewards paid as they fall due; an episode that is truncated is paid nothing.
    """
    if not config.pay_at_end:
        return {name: np.where(played, amount, 0.0) for name, amount in due.items()}
    now = state.owed / config.gamma + np.column_stack(list(due.values()))
    state.owed = np.where(played[:, None], now, state.owed)
    return {name: np.where(terminated, owed, 0.0) for name, owed in zip(due, state.owed.T, strict=True)}
