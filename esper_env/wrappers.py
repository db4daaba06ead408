"""The action mask inside the observation, under the names that other libraries expect."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

if TYPE_CHECKING:
    _DictWrapper = VectorWrapper[dict[str, Any], Any, Any, Any, Any]
else:
    _DictWrapper = VectorWrapper  # takes no type arguments before Gymnasium 1.4

INFO_KEY = "action_mask"
"""Where the wrapped environment publishes its mask."""


class MaskInObservation(gym.Wrapper[dict[str, Any], Any, Any, Any], RecordConstructorArgs):
    """A Dict observation that holds the observation and the flat action mask of one environment.

    RLlib reads `observations` and `action_mask`, PettingZoo's agents `observation` and `action_mask`,
    Tianshou `obs` and `mask`. The mask stays in the info as well.

    Args:
        env: An environment with `info["action_mask"]`, 0 or 1, of length n for `Discrete(n)` and `sum(nvec)`
            for `MultiDiscrete(nvec)`.
        obs_key: Name of the observation.
        mask_key: Name of the mask, int8 of that length.

    Raises:
        ValueError: keys that are equal or not names, another kind of action space, or, on reset and step, an
            info without a mask.
    """

    def __init__(
        self, env: gym.Env[Any, Any], obs_key: str = "observations", mask_key: str = "action_mask"
    ) -> None:
        RecordConstructorArgs.__init__(self, obs_key=obs_key, mask_key=mask_key)
        gym.Wrapper.__init__(self, env)
        self._keys = _checked_keys(obs_key, mask_key)
        self.observation_space = _with_mask(env.observation_space, env.action_space, *self._keys)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the wrapped environment's, with the mask in the observation."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._join(obs, info), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """As the wrapped environment's, with the mask in the observation."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._join(obs, info), reward, terminated, truncated, info

    def _join(self, obs: Any, info: Mapping[str, Any]) -> dict[str, Any]:
        return _joined(obs, _mask_of(info), *self._keys)


class MaskInVectorObservation(_DictWrapper):
    """The same for a vector environment in any autoreset mode; the entries of `final_obs` become dicts too.

    Args:
        env: A vector environment with `info["action_mask"]`, (env, length).
        obs_key: Name of the observation.
        mask_key: Name of the mask, int8 (env, length).

    Raises:
        ValueError: as for `MaskInObservation`.
    """

    def __init__(
        self, env: VectorEnv[Any, Any, Any], obs_key: str = "observations", mask_key: str = "action_mask"
    ) -> None:
        super().__init__(env)
        self.autoreset_mode = env.metadata.get("autoreset_mode")
        self._keys = _checked_keys(obs_key, mask_key)
        single = _with_mask(env.single_observation_space, env.single_action_space, *self._keys)
        self.single_observation_space = single
        self.observation_space = batch_space(single, env.num_envs)
        self._last = np.zeros((env.num_envs, *single[mask_key].shape), dtype=np.int8)  # type: ignore[misc]

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the wrapped environment's, with the masks in the observation."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._join(obs, info), info

    def step(self, actions: Any) -> tuple[dict[str, Any], Any, Any, Any, dict[str, Any]]:
        """As the wrapped environment's, with the masks in the observation and in `final_obs`."""
        obs, rewards, terminated, truncated, info = self.env.step(actions)
        if "final_obs" in info:
            info = {**info, "final_obs": self._final(info)}
        return self._join(obs, info), rewards, terminated, truncated, info

    def _join(self, obs: Any, info: Mapping[str, Any]) -> dict[str, Any]:
        """An environment that a partial reset left alone may be missing in the info: its mask still holds."""
        mask, present = _mask_of(info), info.get(f"_{INFO_KEY}", np.ones(self.num_envs, dtype=bool))
        self._last = np.where(present[:, None], mask, self._last)
        return _joined(obs, self._last, *self._keys)

    def _final(self, info: Mapping[str, Any]) -> NDArray[np.object_]:
        joined = np.full(self.num_envs, None, dtype=object)
        masks = _mask_of(info["final_info"])
        for env in np.flatnonzero(info["_final_obs"]):
            joined[env] = _joined(info["final_obs"][env], masks[env], *self._keys)
        return joined


def _checked_keys(obs_key: str, mask_key: str) -> tuple[str, str]:
    for name, key in (("obs_key", obs_key), ("mask_key", mask_key)):
        if not isinstance(key, str) or not key:
            raise ValueError(f"{name}={key!r} is not allowed: a name is")
    if obs_key == mask_key:
        raise ValueError(f"obs_key and mask_key are both {obs_key!r}: they must differ")
    return obs_key, mask_key


def _with_mask(observation: gym.Space[Any], action: gym.Space[Any], obs_key: str, mask_key: str) -> Dict:
    if isinstance(action, MultiDiscrete):
        length = int(action.nvec.sum())
    elif isinstance(action, Discrete):
        length = int(action.n)
    else:
        raise ValueError(f"{action} has no flat mask: Discrete and MultiDiscrete action spaces have")
    return Dict({obs_key: observation, mask_key: Box(0, 1, (length,), np.int8)})


def _mask_of(info: Mapping[str, Any]) -> NDArray[np.int8]:
    if INFO_KEY not in info:
        raise ValueError(f"the info holds no {INFO_KEY!r}, only {sorted(info)}: there is no mask to show")
    return np.asarray(info[INFO_KEY], dtype=np.int8)


def _joined(obs: Any, mask: NDArray[np.int8], obs_key: str, mask_key: str) -> dict[str, Any]:
    return {obs_key: obs, mask_key: mask.copy()}
