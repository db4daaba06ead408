"""A trained model as an `Agent`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from esper_agents.agent import Info

Memory = tuple[Any, NDArray[np.bool_]]
"""State of the LSTM (None before the first step, and for others), and where an episode begins."""


class Sb3Agent:
    """Plays the most probable action of each head. See `Agent`.

    Args:
        model: Of one of `ALGORITHMS`.
        name: How tables call it.
    """

    def __init__(self, model: OnPolicyAlgorithm, name: str) -> None:
        self.model, self.name = model, name

    def begin(self, seeds: Sequence[int]) -> Memory:
        """See `Agent`."""
        return None, np.ones(len(seeds), dtype=bool)

    def act(self, obs: NDArray[np.float32], info: Info, memory: Memory) -> tuple[NDArray[np.int64], Memory]:
        """See `Agent`. After the end of an episode the state of the LSTM is not reset: call `begin`."""
        state, starts = memory
        model: Any = self.model
        if isinstance(model, MaskablePPO):
            actions, _ = model.predict(obs, deterministic=True, action_masks=info["action_mask"].astype(bool))
        elif isinstance(model, RecurrentPPO):
            actions, state = model.predict(obs, state=state, episode_start=starts, deterministic=True)
        else:
            actions, _ = model.predict(obs, deterministic=True)
        return np.asarray(actions, dtype=np.int64), (state, np.zeros_like(starts))
