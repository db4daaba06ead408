"""What the economy holds each module to be worth."""

import numpy as np
from numpy.typing import NDArray

from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import GameState
from esper_env.mdp.prices import RewardConfig

Floats = NDArray[np.float64]


def tempered(contribution: Floats, gained: Floats) -> Floats:
    """A contribution held against the quality gained since the module was planted, both in points.

    Harm counts in full. Help counts up to the gain, beyond it with the harmonic mean of both, and not at all
    where nothing was gained: then the module has taken over what the host could do. Half where the gain is
    unknown.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        beyond = 2 * gained * contribution / (gained + contribution)
    helps = np.where(gained <= 0, 0.0, np.where(contribution < gained, contribution, beyond))
    helps = np.where(np.isnan(gained), contribution / 2, helps)
    return np.where(contribution < 0, contribution, helps)


def appraise(state: GameState, config: RewardConfig) -> None:
    """Value every live module anew, in place; a fossil keeps the credit it had when it was fossilized."""
    slots = state.slots
    basis = slots.contribution
    if config.credit_basis == "shapley":
        basis = np.where(np.isnan(slots.shapley), basis, slots.shapley)
    gained = 100 * (state.quality[:, None] - slots.quality_at_germination)
    interaction = slots.interaction_sum
    interaction = np.where(np.isnan(interaction), 0.0, interaction) / config.interaction_scale
    value = tempered(basis, gained) + config.interaction_bonus * np.tanh(interaction)
    measured = slots.live & ~np.isnan(basis)
    fossil = slots.in_stage(Stage.FOSSILIZED)
    slots.credit = np.where(fossil, slots.credit, np.where(measured, value, 0.0))
