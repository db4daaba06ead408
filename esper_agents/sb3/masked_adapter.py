"""The adapter for policies that find the mask in the observation."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from esper_agents.sb3.adapter import EsperSb3VecEnv
from esper_agents.sb3.masked import MASK, OBSERVATION
from esper_env import EsperVectorEnv

Joined = dict[str, NDArray[Any]]


class MaskedEsperSb3VecEnv(EsperSb3VecEnv):
    """`EsperSb3VecEnv` whose observations are a dict of `observation` and `action_mask`, the flat one.

    Args:
        envs: With autoreset SAME_STEP.
    """

    def __init__(self, envs: EsperVectorEnv) -> None:
        super().__init__(envs)
        size = spaces.flatdim(envs.single_action_space)
        mask = spaces.Box(0, 1, (size,), np.int8)
        self.observation_space = spaces.Dict({OBSERVATION: envs.single_observation_space, MASK: mask})

    def reset(self) -> Joined:  # type: ignore[override]
        """See `EsperSb3VecEnv`."""
        return self._joined(super().reset())

    def step_wait(self) -> tuple[Joined, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:  # type: ignore[override]
        """See `EsperSb3VecEnv`."""
        obs, rewards, dones, infos = super().step_wait()
        for env in np.flatnonzero(dones).tolist():
            mask = self.last.info["final_info"][MASK][env]
            infos[env]["terminal_observation"] = {OBSERVATION: infos[env]["terminal_observation"], MASK: mask}
        return self._joined(obs), rewards, dones, infos

    def _joined(self, obs: NDArray[np.float32]) -> Joined:
        return {OBSERVATION: obs, MASK: self.envs.action_masks().astype(np.int8)}
