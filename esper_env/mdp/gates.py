"""What a module must show before a transition: one list of named checks a gate, in two strictnesses."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from esper_env.contracts.lifecycle import Gate, Stage
from esper_env.contracts.state import GameState, SlotState

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Checks = Mapping[str, Bools]


class GateConfig(BaseModel):
    """Thresholds of the gates."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: Literal["permissive", "strict"] = "permissive"
    """`strict` adds the checks whose fields begin with `strict_`."""
    min_training_epochs: int = Field(3, ge=0)
    """G2: epochs in TRAINING."""
    min_health: float = Field(0.7, ge=0, le=1)
    """G2, G5: gradient health."""
    strict_gain: float = Field(0.5)
    """G2: validation gain since the stage began, in points."""
    strict_ratio: float = Field(0.05, ge=0)
    """G2: moving average of the gradient ratio (half of the lowest that a healthy blueprint showed)."""
    strict_blending_epochs: int = Field(10, ge=0)
    """G3: epochs in BLENDING."""
    gain_scale: float = Field(5.0, gt=0)
    """G2: validation gain in points at which the score is 1."""
    contribution_scale: float = Field(10.0, gt=0)
    """G5: contribution in points at which the score is 1."""
    strict_contribution: float = Field(1.0)
    """G5: contribution in points."""


CHECKS: Mapping[str, str] = {
    "blueprint_fits": "a blueprint is legal in the slot",
    "probe_passed": "a trial pass through the module gave finite numbers of the right shape",
    "trained_long_enough": "`gates.min_training_epochs` epochs in TRAINING",
    "gradients_measured": "gradient health was measured",
    "healthy": "it is `gates.min_health` or more",
    "none_exploding": "no gradient exploded",
    "validation_gain": "validation quality rose by `gates.strict_gain` points in this stage",
    "gradient_ratio": "gradient ratio of `gates.strict_ratio` or more",
    "alpha_rests_at_one": "alpha is 1 and at rest",
    "blended_long_enough": "`gates.strict_blending_epochs` epochs in BLENDING",
    "counterfactual_measured": "contribution was measured",
    "contributes": "contribution of `gates.strict_contribution` points or more",
}
"""What each check asks for, in words."""


@dataclass(frozen=True)
class GateResult:
    """One gate at every slot. Outside the stage the gate belongs to, it has not passed."""

    level: Gate
    checks: Checks
    """(env, slot) by name: what held."""
    here: Bools
    """(env, slot): the slot is in the stage the gate leads out of."""
    measure: NDArray[Any]
    """(env, slot): what the score is taken from, NaN where it is not measured."""
    full: float = 1.0
    """Measure at which the score is 1."""

    @property
    def score(self) -> Floats:
        """(env, slot): how far along, in [0, 1]."""
        return np.clip(np.where(np.isnan(self.measure), 0.0, self.measure) / self.full, 0.0, 1.0)

    @cached_property
    def passed(self) -> Bools:
        """(env, slot): every check held."""
        return reduce(np.logical_and, self.checks.values(), self.here)

    def failed(self, env: int, slot: int) -> tuple[str, ...]:
        """Names of the checks that did not hold at one slot."""
        return tuple(name for name, held in self.checks.items() if not held[env, slot])


GateResults = Mapping[Gate, GateResult]


def judge(state: GameState, blueprint_slot: Bools, config: GateConfig) -> dict[Gate, GateResult]:
    """All gates at every slot, from what was measured up to now.

    Args:
        state: After an epoch or a reset.
        blueprint_slot: (env, slot, blueprint), what G0 allows (see `masks.fitting`).
        config: Thresholds.
    """
    slots, strict, health = state.slots, config.mode == "strict", _healthy(state.slots, config)
    rules = (
        _g0(slots, blueprint_slot),
        _g1(slots),
        _g2(slots, state.quality, health, config, strict),
        _g3(slots, config, strict),
        _g5(slots, health, config, strict),
    )
    return {rule.level: rule for rule in rules}


def _at_least(value: Floats, threshold: float) -> Bools:
    """A comparison that an unmeasured value fails."""
    return value >= threshold


def rests_at_one(slots: SlotState) -> Bools:
    """(env, slot): alpha is 1 and not on its way."""
    return slots.resting & (slots.alpha == 1.0)


def _healthy(slots: SlotState, config: GateConfig) -> Checks:
    return {
        "gradients_measured": ~np.isnan(slots.gradient_health),
        "healthy": _at_least(slots.gradient_health, config.min_health),
    }


def _g0(slots: SlotState, blueprint_slot: Bools) -> GateResult:
    any_blueprint = np.ones(blueprint_slot.shape[-1], dtype=bool)
    fits = blueprint_slot @ any_blueprint  # a product of truth values is an `any`, and faster
    return GateResult(Gate.G0, {"blueprint_fits": fits}, slots.in_stage(Stage.DORMANT), fits)


def _g1(slots: SlotState) -> GateResult:
    passed = slots.probe_passed
    return GateResult(Gate.G1, {"probe_passed": passed}, slots.in_stage(Stage.GERMINATED), passed)


def _g2(slots: SlotState, quality: Floats, health: Checks, config: GateConfig, strict: bool) -> GateResult:
    gain = 100 * (quality[:, None] - slots.quality_at_stage_start)
    checks = {"trained_long_enough": slots.epochs_in_stage >= config.min_training_epochs}
    checks |= {**health, "none_exploding": ~slots.exploding}
    if strict:
        checks["validation_gain"] = _at_least(gain, config.strict_gain)
        checks["gradient_ratio"] = _at_least(slots.gradient_ratio, config.strict_ratio)
    return GateResult(Gate.G2, checks, slots.in_stage(Stage.TRAINING), gain, config.gain_scale)


def _g3(slots: SlotState, config: GateConfig, strict: bool) -> GateResult:
    checks = {"alpha_rests_at_one": rests_at_one(slots)}
    if strict:
        checks["blended_long_enough"] = slots.epochs_in_stage >= config.strict_blending_epochs
    return GateResult(Gate.G3, checks, slots.in_stage(Stage.BLENDING), slots.alpha)


def _g5(slots: SlotState, health: Checks, config: GateConfig, strict: bool) -> GateResult:
    checks = {"counterfactual_measured": ~np.isnan(slots.contribution)}
    checks |= {**health, "alpha_rests_at_one": rests_at_one(slots)}
    if strict:
        checks["contributes"] = _at_least(slots.contribution, config.strict_contribution)
    here = slots.in_stage(Stage.HOLDING)
    return GateResult(Gate.G5, checks, here, slots.contribution, config.contribution_scale)
