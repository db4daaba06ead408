"""The observation: every feature declared once; space, encoder, slices and docs read the same tuple."""

from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from esper_env.contracts.action import Style
from esper_env.contracts.facts import HostFacts, Place
from esper_env.contracts.lifecycle import Op, Stage
from esper_env.contracts.state import HISTORY, Ramp
from esper_env.mdp.feature import Array, Feature, View, block_of, values
from esper_env.mdp.masks import committed_params

OBSERVATION_VERSION = 3
"""Raised whenever a feature is added, removed, moved or changed."""

MISSING = -1.0
"""What a measurement shows that has not been made, where no flag beside it says so."""

_MOST = np.finfo(np.float64).max / 2


def _finite(x: Array) -> Array:
    """Infinity as a very large number, so that it can be subtracted from itself."""
    return np.maximum(np.minimum(x, _MOST), -_MOST)


@cache
def _rows(count: int) -> Array:
    return np.eye(count + 1, count, dtype=bool)


def _one_hot(index: Array, count: int) -> Array:
    """(..., count): all False for the index -1."""
    return _rows(count).take(index, axis=0)


def _params_left(v: View) -> Array:
    allowed = (v.limits.params - 1) * v.facts.host_params
    used = committed_params(v.state.slots, v.facts) - v.facts.host_params
    return np.where(allowed > 0, 1 - used / np.maximum(allowed, 1e-9), 0.0)


def _slot(name: str) -> Callable[[View], Array]:
    return lambda v: getattr(v.state.slots, name)


def _measured(name: str) -> Callable[[View], Array]:
    return lambda v: ~np.isnan(getattr(v.state.slots, name))


def _place(read: Callable[[Place], float]) -> Callable[[View], Array]:
    of_all = lru_cache(maxsize=16)(lambda facts: np.array([read(place) for place in facts.places]))
    return lambda v: of_all(v.facts)


def _evaluated(v: View) -> Array:
    """False after a reset alone: what a rollback puts back is measured."""
    return ~np.isnan(v.state.val_loss)


BASE_FEATURES: tuple[Feature, ...] = (
    Feature("epoch", 0, 1, 1, lambda v: v.state.epoch / v.limits.horizon, "epochs trained / horizon"),
    Feature("params_left", 0, 1, 1, _params_left, "share of the parameter budget left, 1 when there is none"),
    Feature("compute_left", 0, 1, 1, lambda v: 1 - v.state.train_flops / v.limits.compute,
            "share of the compute budget left, 1 when there is none"),
    Feature("panics_left", 0, 1, 1, lambda v: 1 - v.state.rollbacks / v.limits.max_panics,
            "share of the rollbacks left; the episode ends with the last"),
    Feature("host_params_share", 0, 1, 1,
            lambda v: 1 / v.limits.params,
            "host parameters / parameter budget, 0 when there is none"),
    Feature("host_compute_share", 0, 1, 1,
            lambda v: v.limits.static_flops / v.limits.compute,
            "training FLOPs of the static host / compute budget, at most 1, 0 when there is none"),
    Feature("evaluated", 0, 1, 1, _evaluated, "1 when the network was measured, 0 after a reset", flag=True),
    Feature("val_loss", -1, 1, 7, lambda v: v.state.val_loss,
            "symlog(validation loss), -1 where not measured (see evaluated)", log=True, missing=MISSING),
    Feature("val_quality", -1, 1, 1,
            lambda v: np.where(_evaluated(v), np.maximum(v.state.quality, 0.0), np.nan),
            "validation quality, -1 where not measured (see evaluated)", missing=MISSING),
    Feature("loss_history", -1, 1, 7, lambda v: v.state.loss_history,
            "symlog(last five validation losses), newest first, -1 where missing",
            width=HISTORY, log=True, missing=MISSING),
    Feature("quality_history", -1, 1, 1, lambda v: np.maximum(v.state.quality_history, 0.0),
            "last five validation qualities, newest first, -1 where missing", width=HISTORY, missing=MISSING),
    Feature("generalization_gap", -1, 1, 7,
            lambda v: _finite(v.state.val_loss) - _finite(v.state.train_loss),
            "symlog(validation loss - train loss), 0 where not measured (see evaluated)",
            log=True, missing=0),
    Feature("training_share", 0, 1, 1, lambda v: v.in_stage[Stage.TRAINING], "share of slots in TRAINING"),
    Feature("blending_share", 0, 1, 1, lambda v: v.in_stage[Stage.BLENDING], "share of slots in BLENDING"),
    Feature("holding_share", 0, 1, 1, lambda v: v.in_stage[Stage.HOLDING], "share of slots in HOLDING"),
    Feature("fossilized_share", 0, 1, 1, lambda v: v.in_stage[Stage.FOSSILIZED],
            "share of slots in FOSSILIZED"),
    Feature("last_success", 0, 1, 1, lambda v: v.state.last_success,
            "1 when the last action was legal", flag=True),
    Feature("last_op", 0, 1, 1,
            lambda v: _one_hot(v.state.last_op, len(Op)), "op applied last, one-hot, all 0 after a reset",
            width=len(Op), flag=True),
)  # fmt: skip

SLOT_FEATURES: tuple[Feature, ...] = (
    Feature("log2_channels", 0, 1, 12, _place(lambda p: np.log2(p.channels)),
            "log2 of the channels there", static=True),
    Feature("log2_positions", 0, 1, 14, _place(lambda p: np.log2(p.positions)),
            "log2 of the pixels or tokens there", static=True),
    Feature("depth", 0, 1, 1, _place(lambda p: p.depth),
            "share of the host's blocks before the slot", static=True),
    Feature("present", 0, 1, 1, lambda v: ~v.state.slots.in_stage(Stage.DORMANT),
            "1 when the slot is not DORMANT", flag=True),
    Feature("stage", 0, 1, 1, lambda v: _one_hot(v.state.slots.stage - 1, len(Stage) - 1),
            "stage from GERMINATED to RESETTING, one-hot", width=len(Stage) - 1, flag=True),
    Feature("alpha", 0, 1, 1, _slot("alpha"), "alpha"),
    Feature("alpha_target", 0, 1, 1, _slot("alpha_target"), "where the ramp leads or led"),
    Feature("ramp", 0, 1, 1, lambda v: _one_hot(v.state.slots.ramp, len(Ramp)) & v.has_module,
            "alpha at rest, going up, going down, one-hot", width=len(Ramp), flag=True),
    Feature("ramp_total", 0, 1, 12, _slot("ramp_total"), "length of the last ramp in epochs"),
    Feature("ramp_done", 0, 1, 12, _slot("ramp_done"), "epochs of it that are over"),
    Feature("ramp_left", 0, 1, 12, lambda v: v.state.slots.ramp_total - v.state.slots.ramp_done,
            "epochs of it to come"),
    Feature("alpha_velocity", -1, 1, 1, _slot("alpha_velocity"), "change of alpha in the last step"),
    Feature("tempo", 0, 1, 12, _slot("tempo"), "epochs of the blending ramp, chosen at GERMINATE"),
    Feature("style", 0, 1, 1, lambda v: _one_hot(v.state.slots.style, len(Style)) & v.has_module,
            "style, one-hot, all 0 without a module", width=len(Style), flag=True),
    Feature("counterfactual_measured", 0, 1, 1, _measured("contribution"),
            "1 once the contribution was measured", flag=True),
    Feature("contribution", -1, 1, np.log(101), _slot("contribution"),
            "symlog(contribution in points)", log=True, missing=0),
    Feature("contribution_velocity", -1, 1, np.log(101),
            _slot("contribution_velocity"),
            "symlog(average change of the contribution in points an epoch), -1 until measured twice",
            log=True, missing=MISSING),
    Feature("interaction_measured", 0, 1, 1, lambda v: ~np.isnan(v.interaction),
            "1 when interactions with other live modules were measured in the last epoch", flag=True),
    Feature("interaction", -1, 1, np.log(101), lambda v: v.interaction,
            "symlog(sum of the interactions with the other live modules, in points)", log=True, missing=0),
    Feature("freshness", 0, 1, 1,
            lambda v: ~np.isnan(v.state.slots.contribution) * v.freshness**v.state.slots.contribution_age,
            "`record.freshness` ^ (epochs since the contribution was measured), 0 if never"),
    Feature("gradients_measured", 0, 1, 1, _measured("gradient_health"),
            "1 when gradients were measured in the last epoch", flag=True),
    Feature("gradient_norm", 0, 1, 7, _slot("gradient_norm"), "symlog(gradient norm)", log=True, missing=0),
    Feature("gradient_ratio", -1, 1, 10, _slot("gradient_ratio"),
            "average size-corrected ratio of module to host gradient, -1 until measured", missing=MISSING),
    Feature("gradient_health", 0, 1, 1, _slot("gradient_health"),
            "gradient health (see gradients_measured)", missing=0),
    Feature("vanishing", 0, 1, 1, _slot("vanishing"), "1 when a tensor's gradient vanished", flag=True),
    Feature("exploding", 0, 1, 1, _slot("exploding"), "1 when a tensor's gradient exploded", flag=True),
    Feature("delta_ratio", -1, 1, 7, _slot("delta_ratio"),
            "symlog(RMS of the branch's output / RMS of the host's value), -1 where not measured",
            log=True, missing=MISSING),
    Feature("epochs_in_stage", 0, 1, 1, lambda v: v.state.slots.epochs_in_stage / v.limits.horizon,
            "epochs in this stage / horizon"),
    Feature("age", 0, 1, 1, lambda v: v.state.slots.age / v.limits.horizon, "age of the module / horizon"),
    Feature("module_params", 0, 1, np.log(101), lambda v: v.state.slots.params / v.facts.host_params,
            "symlog(parameters of module and gate / parameters of the host)", log=True),
    Feature("blueprint", 0, 1, 1, lambda v: _one_hot(v.state.slots.blueprint, v.facts.num_blueprints),
            "blueprint, one-hot; the first entry says that a slot that is not DORMANT has no module",
            width=None, flag=True),
)  # fmt: skip


def layout(facts: HostFacts) -> list[tuple[str, Feature, slice]]:
    """Name, feature and position of everything in the flat vector; slot features are called `slot0.alpha`."""
    named = [(feature.name, feature) for feature in BASE_FEATURES]
    named += [
        (f"slot{s}.{feature.name}", feature) for s in range(facts.num_slots) for feature in SLOT_FEATURES
    ]
    rows, at = [], 0
    for name, feature in named:
        rows.append((name, feature, slice(at, at + feature.size(facts.num_blueprints))))
        at = rows[-1][2].stop
    return rows


def bounds(facts: HostFacts) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lowest and highest value of every entry, both of shape (feature,)."""
    features = [(feature, feature.size(facts.num_blueprints)) for _, feature, _ in layout(facts)]
    low = np.concatenate([np.full(size, feature.low, np.float32) for feature, size in features])
    high = np.concatenate([np.full(size, feature.high, np.float32) for feature, size in features])
    return low, high


def encode(view: View) -> NDArray[np.float32]:
    """The observation, (env, feature), float32 within `bounds`."""
    slots, num_blueprints = view.state.slots, view.facts.num_blueprints
    of_base, of_slot = (block_of(features, num_blueprints) for features in (BASE_FEATURES, SLOT_FEATURES))
    base, per_slot = values(view, of_base, slots.stage.shape[:1]), values(view, of_slot, slots.stage.shape)
    per_slot[slots.in_stage(Stage.DORMANT)[..., None] & ~of_slot.static] = 0.0
    return np.concatenate([base, per_slot.reshape(len(base), -1)], axis=1)
