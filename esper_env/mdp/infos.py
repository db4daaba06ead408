"""What is published besides the observation, in Gymnasium's vector form: arrays with a boolean partner."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_env.contracts.facts import HostFacts
from esper_env.contracts.lifecycle import Stage
from esper_env.contracts.state import GameState
from esper_env.contracts.stats import HarvestStats
from esper_env.mdp.masks import Masks

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Info = dict[str, Any]

EPOCH_KEYS = ("train_loss", "val_loss", "val_accuracy")
"""Measured every epoch: nats, nats, share in [0, 1]."""

END_KEYS = (
    "harvest_accuracy",
    "harvest_loss",
    "test_accuracy",
    "test_loss",
    "param_ratio",
    "flops_ratio",
    "rollbacks",
)
"""Measured when an episode ends: on the harvested model's validation and test splits; its parameters over the
host's; training FLOPs spent over what the static host spends in a whole horizon; how often the governor put
an earlier network back."""


def end_values(
    state: GameState, harvest: HarvestStats, terminated: Bools, facts: HostFacts, static_flops: float
) -> dict[str, Floats]:
    """The values of `END_KEYS`, each (env,), NaN where no episode was terminated.

    Args:
        state: At the end, before the harvest.
        harvest: What was measured after it.
        terminated: (env,).
        facts: Sizes.
        static_flops: What the static host spends on training over the horizon.
    """
    if not terminated.any():
        return dict.fromkeys(END_KEYS, np.full(len(terminated), np.nan))
    fossils = np.where(state.slots.in_stage(Stage.FOSSILIZED), state.slots.params, 0).sum(axis=1)
    ratios = (
        1 + fossils / facts.host_params,
        state.train_flops / static_flops,
        state.rollbacks.astype(float),
    )
    measured = (harvest.val_accuracy, harvest.val_loss, harvest.test_accuracy, harvest.test_loss)
    return {
        key: np.where(terminated, value, np.nan)
        for key, value in zip(END_KEYS, (*measured, *ratios), strict=True)
    }


def build(
    state: GameState,
    masks: Masks,
    valid: Bools,
    terms: Mapping[str, Floats] | Sequence[str],
    end: Mapping[str, Floats] | None,
) -> Info:
    """One info with every key, of fresh arrays.

    Args:
        state: As observed.
        masks: As published.
        valid: (env,): the action was legal (True where none was played).
        terms: Of the reward returned by the same call; their names alone on a reset, which returns none.
        end: From `end_values`; None on a reset, which ends nothing.
    """
    everywhere, missing = np.ones(len(valid), dtype=bool), np.full(len(valid), np.nan)
    info: Info = {}
    for key, mask in (
        ("action_mask", masks.flat),
        ("op_slot_mask", masks.op_slot),
        ("blueprint_slot_mask", masks.blueprint_slot),
        ("action_valid", valid),
    ):
        _put(info, key, mask, everywhere)
    paid = terms if isinstance(terms, Mapping) else dict.fromkeys(terms, missing)
    rewarded = everywhere if isinstance(terms, Mapping) else ~everywhere
    info["reward_terms"] = {}
    for name, value in paid.items():
        _put(info["reward_terms"], name, value, rewarded)
    info["_reward_terms"] = rewarded.copy()
    for key in EPOCH_KEYS:
        _put_measured(info, key, getattr(state, key))
    for key in END_KEYS:
        _put_measured(info, key, missing if end is None else end[key])
    return info


def _put(info: Info, key: str, value: NDArray[Any], present: Bools) -> None:
    info[key], info[f"_{key}"] = value.copy(), present.copy()


def _put_measured(info: Info, key: str, value: Floats) -> None:
    _put(info, key, value, ~np.isnan(value))


def final(obs: NDArray[np.float32], info: Info, ended: Bools) -> Info:
    """Where Gymnasium's SAME_STEP mode puts the end of episodes: `final_obs` and `final_info`."""
    final_obs = np.full(len(ended), None, dtype=object)
    for env in np.flatnonzero(ended):
        final_obs[env] = obs[env].copy()
    ends = {"final_obs": final_obs, "final_info": only(info, ended)}
    return ends | {f"_{key}": ended.copy() for key in ends}


def only(info: Info, envs: Bools) -> Info:
    """The same info, present in the environments `envs` alone."""
    kept: Info = {}
    for key, value in info.items():
        if isinstance(value, dict):
            kept[key] = only(value, envs)
        elif key.startswith("_"):
            kept[key] = value & envs
        else:
            kept[key] = np.where(envs, value, np.nan) if value.dtype.kind == "f" else value
    return kept


def single(info: Info) -> Info:
    """The info of the only environment: no partners, no missing keys, plain Python floats and bools."""
    plain: Info = {}
    for key, value in info.items():
        if key.startswith("_") or not info[f"_{key}"][0]:
            continue
        if isinstance(value, dict):
            plain[key] = single(value)
        else:
            plain[key] = value[0].item() if value.ndim == 1 else value[0]
    return plain
