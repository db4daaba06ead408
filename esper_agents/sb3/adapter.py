"""The vector environment in the form in which Stable-Baselines3 wants it."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from esper_agents.episodes import Step
from esper_env import EsperVectorEnv

Indices = None | int | Iterable[int]
BATCHED = ("action_masks", "render", "sample_valid")
"""Methods that answer for all environments at once, one row for each."""


class EsperSb3VecEnv(VecEnv):
    """`EsperVectorEnv` as a `stable_baselines3.common.vec_env.VecEnv`.

    Info dicts are empty but for environments whose episode ended: those hold `terminal_observation`,
    `TimeLimit.truncated`, and every figure that was measured at the end, as plain floats.

    Args:
        envs: With autoreset SAME_STEP, which is how Stable-Baselines3 counts steps.

    Raises:
        ValueError: another autoreset mode.
    """

    last: Step
    """The last step, whole, for callbacks."""

    def __init__(self, envs: EsperVectorEnv) -> None:
        if envs.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                f"autoreset_mode={envs.autoreset_mode.value!r} is not allowed here: 'SameStep' is"
            )
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        """New episodes, with the seeds of the last `seed` call; observations (env, feature)."""
        if any(self._options):
            raise ValueError(f"options={self._options} are not allowed: Esper's reset takes none from here")
        given = any(seed is not None for seed in self._seeds)
        obs, _ = self.envs.reset(seed=self._seeds if given else None)
        self._reset_seeds()
        self._reset_options()
        return obs

    def seed_each(self, seeds: Sequence[int]) -> None:
        """Seeds for the next reset, one an environment (`seed` gives them consecutive ones)."""
        self._seeds = list(seeds)

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions (env, 8); `step_wait` plays them."""
        self._actions = np.asarray(actions)

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Observations, rewards float32, dones and info dicts of one step."""
        obs, rewards, terminated, truncated, info = self.envs.step(self._actions)
        dones = terminated | truncated
        seen = obs.copy()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for env in np.flatnonzero(dones).tolist():
            seen[env] = info["final_obs"][env]
            infos[env] = _end(info, env, bool(truncated[env] and not terminated[env]))
        self.last = Step(seen, self._actions, rewards, dones, info)
        return obs, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A picture of each environment's episode."""
        return self.envs.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of each environment; methods answer for their own one."""
        rows = self._get_indices(indices)
        if attr_name in BATCHED:
            return [partial(self._row, attr_name, env) for env in rows]
        return [getattr(self.envs, attr_name) for _ in rows]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Refused: the environments are one object."""
        raise AttributeError(f"{attr_name!r} can't be set: build the environment with what you need")

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """What one of the methods `BATCHED` answers, one row for each environment.

        Raises:
            AttributeError: any other method.
        """
        if method_name not in BATCHED:
            raise AttributeError(
                f"{method_name!r} can't be called through the adapter, only {list(BATCHED)} can"
            )
        method: Callable[..., Any] = getattr(self.envs, method_name)
        answers = method(*args, **kwargs)
        return [None if answers is None else answers[env] for env in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None
    ) -> list[bool]:
        """Never: wrappers go around the whole."""
        return [False for _ in self._get_indices(indices)]

    def _row(self, method_name: str, env: int, *args: Any, **kwargs: Any) -> Any:
        return self.env_method(method_name, *args, indices=[env], **kwargs)[0]


def _end(info: dict[str, Any], env: int, cut_off: bool) -> dict[str, Any]:
    """The info dict of an episode that ended."""
    figures = _plain(info["final_info"], env)
    return {**figures, "terminal_observation": info["final_obs"][env], "TimeLimit.truncated": cut_off}


def _plain(info: dict[str, Any], env: int) -> dict[str, Any]:
    """One environment's figures: what is present and a single value."""
    plain: dict[str, Any] = {}
    for key, value in info.items():
        if key.startswith("_") or not info[f"_{key}"][env]:
            continue
        if isinstance(value, dict):
            plain[key] = _plain(value, env)
        elif value.ndim == 1:
            plain[key] = value[env].item()
    return plain
