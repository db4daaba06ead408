"""One network: the vector environment with `num_envs=1`, its axis taken off."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import ArrayLike, NDArray

from esper_env.mdp import infos
from esper_env.vector_env import EsperVectorEnv


class EsperEnv(gym.Env[NDArray[np.float32], NDArray[np.int64]]):
    """Grow a neural network while it trains."""

    metadata: dict[str, Any] = dict(EsperVectorEnv.metadata)  # noqa: RUF012  Gymnasium's form

    def __init__(self, preset: str = "cifar", **arguments: Any) -> None:
        for name in ("num_envs", "autoreset_mode"):
            if name in arguments:
                raise ValueError(f"{name}={arguments[name]!r} belongs to gymnasium.make_vec; gymnasium.make gives one network")
        self._envs = EsperVectorEnv(1, preset, autoreset_mode=AutoresetMode.DISABLED, **arguments)
        self.render_mode = self._envs.render_mode
        self.metadata = {**self.metadata, "gamma": self._envs.metadata["gamma"]}
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space
        for name in ("config", "facts", "features", "layout", "provenance"):
            setattr(self, name, getattr(self._envs, name))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode: the seed's first, or with None the next of the series that the last seed began.

        Raises:
            ValueError: a seed that is negative or not an integer, or an unknown option.
            ClosedEnvironmentError: after `close`.
        """
        super().reset(seed=seed)
        obs, info = self._envs.reset(seed=[seed], options=options)
        return obs[0], infos.single(info)

    def step(self, action: ArrayLike) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Train for one epoch under an action, integers of shape (8,); errors as in `EsperVectorEnv.step`."""
        obs, reward, terminated, truncated, info = self._envs.step(np.asarray(action)[None])
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), infos.single(info)

    def action_masks(self) -> NDArray[np.bool_]:
        """The flat mask of the last observation, (sum(nvec),)."""
        return self._envs.action_masks()[0]

    def sample_valid(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """A legal action, (8,): the op first, then the slot, then what the op reads."""
        return self._envs.sample_valid(rng)[0]

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """A picture of the episode so far, uint8 (height, width, 3); None without a render mode."""
        frames = self._envs.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Free the network."""
        self._envs.close()
