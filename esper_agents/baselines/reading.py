"""An observation in the units of the game, for agents that follow rules."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esper_env import EsperVectorEnv, observation_layout

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """What N environments show. NaN: not measured."""

    begun: Bools
    """(env,): the episode has just begun."""
    epoch: Ints
    """(env,): epochs trained."""
    losses: Floats
    """(env, epoch): the last validation losses, newest first."""
    qualities: Floats
    """(env, epoch): the last validation qualities in points, newest first."""
    stage: Ints
    """(env, slot): `Stage`."""
    epochs_in_stage: Ints
    """(env, slot)."""
    blueprint: Ints
    """(env, slot): index of the module's blueprint, 0 without a module."""
    contribution: Floats
    """(env, slot): the last one that was measured, in points."""
    fresh: Bools
    """(env, slot): it was measured in the last epoch."""


class Reader:
    """Takes the flat observation apart by its named features.

    Args:
        env: Whose observations are read: its sizes, and the horizon.
    """

    def __init__(self, env: EsperVectorEnv) -> None:
        layout = observation_layout(env.facts)
        self._features = {name: feature for name, feature, _ in layout}
        self._at = {name: part for name, _, part in layout}
        self._num_slots, self._horizon = env.facts.num_slots, env.config.horizon

    def read(self, obs: NDArray[np.float32]) -> Reading:
        """What observations (env, feature) say."""
        measured = self._slots(obs, "counterfactual_measured") > 0
        stages = self._slots(obs, "stage")
        return Reading(
            begun=self._number(obs, "evaluated") == 0,
            epoch=np.rint(self._number(obs, "epoch") * self._horizon).astype(np.int64),
            losses=self._values(obs, "loss_history"),
            qualities=100 * self._values(obs, "quality_history"),
            stage=np.where(stages.any(axis=-1), stages.argmax(axis=-1) + 1, 0),
            epochs_in_stage=np.rint(self._slot_numbers(obs, "epochs_in_stage") * self._horizon).astype(int),
            blueprint=self._slots(obs, "blueprint").argmax(axis=-1),
            contribution=np.where(measured[..., 0], self._slot_numbers(obs, "contribution"), np.nan),
            fresh=self._slot_numbers(obs, "freshness") == 1,
        )

    def _values(self, obs: NDArray[np.float32], name: str) -> Floats:
        """(env, width of the feature): what its formula gave, NaN where that is shown as missing."""
        feature, shown = self._features[name], obs[:, self._at[name]].astype(np.float64)
        scaled = np.where(shown == feature.missing, np.nan, shown) if feature.missing else shown
        values = scaled * feature.scale
        return np.sign(values) * np.expm1(np.abs(values)) if feature.log else values

    def _number(self, obs: NDArray[np.float32], name: str) -> Floats:
        return self._values(obs, name)[:, 0]

    def _slots(self, obs: NDArray[np.float32], name: str) -> Floats:
        """(env, slot, width)."""
        names = (f"slot{slot}.{name}" for slot in range(self._num_slots))
        return np.stack([self._values(obs, each) for each in names], axis=1)

    def _slot_numbers(self, obs: NDArray[np.float32], name: str) -> Floats:
        return self._slots(obs, name)[..., 0]
