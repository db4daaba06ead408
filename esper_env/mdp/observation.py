"""The observation: every feature declared once; space, encoder, slices and docs read the same tuple."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_env.contracts.action import Style
from esper_env.contracts.facts import HostFacts
from esper_env.contracts.lifecycle import HAS_MODULE, Op, Stage
from esper_env.contracts.state import HISTORY, GameState, Ramp
from esper_env.mdp.episode import Limits
from esper_env.mdp.masks import BudgetConfig, committed_params

OBSERVATION_VERSION = 2
"""Raised whenever a feature is added, removed, moved or changed."""

MISSING = -1.0
"""What a measurement shows that has not been made, where no flag beside it says so."""

Array = NDArray[Any]


@dataclass(frozen=True)
class View:
    """What an observation is made of."""

    state: GameState
    facts: HostFacts
    budget: BudgetConfig
    limits: Limits
    freshness: float
    """Factor by which a contribution's freshness falls an epoch."""


@dataclass(frozen=True)
class Feature:
    """One feature, or a block of `width` alike: value = clip(formula / scale, low, high)."""

    name: str
    low: float
    high: float
    scale: float
    formula: Callable[[View], Array]
    """(env,) or (env, slot), with a last axis of `width` if that is above 1."""
    text: str
    """What it is, for the docs."""
    width: int | Callable[[HostFacts], int] = 1
    static: bool = False
    """Slot features only: kept when the slot is empty."""

    def size(self, facts: HostFacts) -> int:
        """How many numbers it takes."""
        return self.width if isinstance(self.width, int) else self.width(facts)


def symlog(x: Array) -> Array:
    """sign(x) ln(1 + |x|)."""
    return np.sign(x) * np.log1p(np.abs(x))


def _known(x: Array, missing: float) -> Array:
    return np.where(np.isnan(x), missing, x)


def _loss(x: Array) -> Array:
    return _known(symlog(x), 7 * MISSING)


def _finite(x: Array) -> Array:
    """Infinity as a very large number, so that it can be subtracted from itself."""
    most = np.finfo(np.float64).max / 2
    return np.clip(x, -most, most)


def _quality(x: Array) -> Array:
    return _known(np.maximum(x, 0.0), MISSING)


def _one_hot(index: Array, count: int) -> Array:
    return index[..., None] == np.arange(count)


def _share_of(stage: Stage) -> Callable[[View], Array]:
    return lambda v: (v.state.slots.stage == stage).mean(axis=1)


def _params_left(v: View) -> Array:
    if v.budget.params is None:
        return np.ones(len(v.state.epoch))
    allowed = (v.budget.params - 1) * v.facts.host_params
    used = committed_params(v.state.slots, v.facts) - v.facts.host_params
    return 1 - used / allowed if allowed else np.zeros(len(used))


def _slot(name: str) -> Callable[[View], Array]:
    return lambda v: getattr(v.state.slots, name)


def _measured(name: str) -> Callable[[View], Array]:
    return lambda v: ~np.isnan(getattr(v.state.slots, name))


def _place(read: Callable[[Any], float]) -> Callable[[View], Array]:
    return lambda v: np.tile([read(p) for p in v.facts.places], (len(v.state.epoch), 1))


def _evaluated(v: View) -> Array:
    """False after a reset alone: what a rollback puts back is measured."""
    return ~np.isnan(v.state.val_loss)


def _has_module(v: View) -> Array:
    return HAS_MODULE[v.state.slots.stage]


BASE_FEATURES: tuple[Feature, ...] = (
    Feature("epoch", 0, 1, 1, lambda v: v.state.epoch / v.limits.horizon, "epochs trained / horizon"),
    Feature("params_left", 0, 1, 1, _params_left, "share of the parameter budget left, 1 when there is none"),
    Feature("compute_left", 0, 1, 1, lambda v: 1 - v.state.train_flops / v.limits.compute,
            "share of the compute budget left, 1 when there is none"),
    Feature("panics_left", 0, 1, 1, lambda v: 1 - v.state.rollbacks / v.limits.max_panics,
            "share of the rollbacks left; the episode ends with the last"),
    Feature("evaluated", 0, 1, 1, _evaluated, "1 when the network was measured, 0 after a reset"),
    Feature("val_loss", -1, 1, 7, lambda v: _loss(v.state.val_loss),
            "symlog(validation loss), -1 where not measured (see evaluated)"),
    Feature("val_quality", -1, 1, 1,
            lambda v: np.where(_evaluated(v), _quality(v.state.quality), MISSING),
            "validation quality, -1 where not measured (see evaluated)"),
    Feature("loss_history", -1, 1, 7, lambda v: _loss(v.state.loss_history),
            "symlog(last five validation losses), newest first, -1 where missing", width=HISTORY),
    Feature("quality_history", -1, 1, 1, lambda v: _quality(v.state.quality_history),
            "last five validation qualities, newest first, -1 where missing", width=HISTORY),
    Feature("generalization_gap", -1, 1, 7,
            lambda v: _known(symlog(_finite(v.state.val_loss) - _finite(v.state.train_loss)), 0.0),
            "symlog(validation loss - train loss), 0 where not measured (see evaluated)"),
    Feature("training_share", 0, 1, 1, _share_of(Stage.TRAINING), "share of slots in TRAINING"),
    Feature("blending_share", 0, 1, 1, _share_of(Stage.BLENDING), "share of slots in BLENDING"),
    Feature("holding_share", 0, 1, 1, _share_of(Stage.HOLDING), "share of slots in HOLDING"),
    Feature("fossilized_share", 0, 1, 1, _share_of(Stage.FOSSILIZED), "share of slots in FOSSILIZED"),
    Feature("last_success", 0, 1, 1, lambda v: v.state.last_success, "1 when the last action was legal"),
    Feature("last_op", 0, 1, 1,
            lambda v: _one_hot(v.state.last_op, len(Op)), "op applied last, one-hot, all 0 after a reset",
            width=len(Op)),
)  # fmt: skip

SLOT_FEATURES: tuple[Feature, ...] = (
    Feature("log2_channels", 0, 1, 12, _place(lambda p: np.log2(p.channels)),
            "log2 of the channels there", static=True),
    Feature("log2_positions", 0, 1, 14, _place(lambda p: np.log2(p.positions)),
            "log2 of the pixels or tokens there", static=True),
    Feature("depth", 0, 1, 1, _place(lambda p: p.depth),
            "share of the host's blocks before the slot", static=True),
    Feature("present", 0, 1, 1, lambda v: v.state.slots.stage != Stage.DORMANT,
            "1 when the slot is not DORMANT"),
    Feature("stage", 0, 1, 1, lambda v: _one_hot(v.state.slots.stage - 1, len(Stage) - 1),
            "stage from GERMINATED to RESETTING, one-hot", width=len(Stage) - 1),
    Feature("alpha", 0, 1, 1, _slot("alpha"), "alpha"),
    Feature("alpha_target", 0, 1, 1, _slot("alpha_target"), "where the ramp leads or led"),
    Feature("ramp", 0, 1, 1, lambda v: _one_hot(v.state.slots.ramp, len(Ramp)) & _has_module(v)[..., None],
            "alpha at rest, going up, going down, one-hot", width=len(Ramp)),
    Feature("ramp_total", 0, 1, 12, _slot("ramp_total"), "length of the last ramp in epochs"),
    Feature("ramp_done", 0, 1, 12, _slot("ramp_done"), "epochs of it that are over"),
    Feature("ramp_left", 0, 1, 12, lambda v: v.state.slots.ramp_total - v.state.slots.ramp_done,
            "epochs of it to come"),
    Feature("alpha_velocity", -1, 1, 1, _slot("alpha_velocity"), "change of alpha in the last step"),
    Feature("tempo", 0, 1, 12, _slot("tempo"), "epochs of the blending ramp, chosen at GERMINATE"),
    Feature("style", 0, 1, 1, lambda v: _one_hot(v.state.slots.style, len(Style)) & _has_module(v)[..., None],
            "style, one-hot, all 0 without a module", width=len(Style)),
    Feature("counterfactual_measured", 0, 1, 1, _measured("contribution"),
            "1 once the contribution was measured"),
    Feature("contribution", -1, 1, np.log(101), lambda v: _known(symlog(v.state.slots.contribution), 0.0),
            "symlog(contribution in points)"),
    Feature("contribution_velocity", -1, 1, np.log(101),
            lambda v: _known(symlog(v.state.slots.contribution_velocity), np.log(101) * MISSING),
            "symlog(average change of the contribution in points an epoch), -1 until measured twice"),
    Feature("interaction_measured", 0, 1, 1, lambda v: ~np.isnan(v.state.slots.interaction_sum),
            "1 when interactions with other live modules were measured in the last epoch"),
    Feature("interaction", -1, 1, np.log(101), lambda v: _known(symlog(v.state.slots.interaction_sum), 0.0),
            "symlog(sum of the interactions with the other live modules, in points)"),
    Feature("freshness", 0, 1, 1,
            lambda v: ~np.isnan(v.state.slots.contribution) * v.freshness**v.state.slots.contribution_age,
            "`record.freshness` ^ (epochs since the contribution was measured), 0 if never"),
    Feature("gradients_measured", 0, 1, 1, _measured("gradient_health"),
            "1 when gradients were measured in the last epoch"),
    Feature("gradient_norm", 0, 1, 7, lambda v: _known(symlog(v.state.slots.gradient_norm), 0.0),
            "symlog(gradient norm)"),
    Feature("gradient_ratio", -1, 1, 10, lambda v: _known(v.state.slots.gradient_ratio, 10 * MISSING),
            "average size-corrected ratio of module to host gradient, -1 until measured"),
    Feature("gradient_health", 0, 1, 1, lambda v: _known(v.state.slots.gradient_health, 0.0),
            "gradient health (see gradients_measured)"),
    Feature("vanishing", 0, 1, 1, _slot("vanishing"), "1 when a tensor's gradient vanished"),
    Feature("exploding", 0, 1, 1, _slot("exploding"), "1 when a tensor's gradient exploded"),
    Feature("delta_ratio", -1, 1, 7, lambda v: _known(symlog(v.state.slots.delta_ratio), 7 * MISSING),
            "symlog(RMS of the branch's output / RMS of the host's value), -1 where not measured"),
    Feature("epochs_in_stage", 0, 1, 1, lambda v: v.state.slots.epochs_in_stage / v.limits.horizon,
            "epochs in this stage / horizon"),
    Feature("age", 0, 1, 1, lambda v: v.state.slots.age / v.limits.horizon, "age of the module / horizon"),
    Feature("module_params", 0, 1, np.log(101), lambda v: symlog(v.state.slots.params / v.facts.host_params),
            "symlog(parameters of module and gate / parameters of the host)"),
    Feature("blueprint", 0, 1, 1, lambda v: _one_hot(v.state.slots.blueprint, v.facts.num_blueprints),
            "blueprint, one-hot; the first entry says that a slot that is not DORMANT has no module",
            width=lambda facts: facts.num_blueprints),
)  # fmt: skip


def layout(facts: HostFacts) -> list[tuple[str, Feature, slice]]:
    """Name, feature and position of everything in the flat vector; slot features are called `slot0.alpha`."""
    named = [(feature.name, feature) for feature in BASE_FEATURES]
    named += [
        (f"slot{s}.{feature.name}", feature) for s in range(facts.num_slots) for feature in SLOT_FEATURES
    ]
    rows, at = [], 0
    for name, feature in named:
        rows.append((name, feature, slice(at, at + feature.size(facts))))
        at = rows[-1][2].stop
    return rows


def bounds(facts: HostFacts) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest value of every entry, both of shape (feature,)."""
    features = [(feature, feature.size(facts)) for _, feature, _ in layout(facts)]
    low = np.concatenate([np.full(size, feature.low, np.float32) for feature, size in features])
    high = np.concatenate([np.full(size, feature.high, np.float32) for feature, size in features])
    return low, high


def encode(view: View) -> NDArray[np.float32]:
    """The observation, (env, feature), float32 within `bounds`."""
    num_envs = len(view.state.epoch)
    empty = view.state.slots.stage == Stage.DORMANT
    base = [_values(feature, view).reshape(num_envs, -1) for feature in BASE_FEATURES]
    slots = []
    for feature in SLOT_FEATURES:
        block = _values(feature, view).reshape(*empty.shape, -1)
        slots.append(block if feature.static else np.where(empty[..., None], 0.0, block))
    per_slot = np.concatenate(slots, axis=-1).reshape(num_envs, -1)
    return np.concatenate([*base, per_slot], axis=1).astype(np.float32)


def _values(feature: Feature, view: View) -> Array:
    return np.clip(
        np.asarray(feature.formula(view), dtype=np.float64) / feature.scale, feature.low, feature.high
    )
