"""Environments of others, small and with a known best, on which our PPO is checked."""

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray


class PositionsOnly(gym.ObservationWrapper[Any, Any, Any]):
    """CartPole without its velocities: one observation does not say where the pole is going."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observation(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Position and angle."""
        return observation[[0, 2]]


class RepeatPrevious(gym.Env[NDArray[np.float32], int]):
    """Say which of four symbols was shown `delay` steps ago; 1 a right answer, 0 a wrong one.

    As RepeatPrevious of POPGym (S. Morad et al., 2023), with rewards that make the best mean exactly 1: the
    first `delay` steps, in which there is nothing to say, are not part of the mean. Guessing reaches 1/4.
    """

    symbols: ClassVar[int] = 4
    delay: ClassVar[int] = 4
    length: ClassVar[int] = 32

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 1, (self.symbols,), np.float32)
        self.action_space = spaces.Discrete(self.symbols)

    def reset(
        self, *, seed: int | None = None, options: Any = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """See `gymnasium.Env`."""
        super().reset(seed=seed)
        self._shown = self.np_random.integers(self.symbols, size=self.length + 1)
        self._step = 0
        return self._see(), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env`."""
        counts = self._step >= self.delay
        right = counts and int(action) == self._shown[self._step - self.delay]
        self._step += 1
        reward = float(right) / (self.length - self.delay)
        return self._see(), reward, self._step == self.length, False, {}

    def _see(self) -> NDArray[np.float32]:
        return np.eye(self.symbols, dtype=np.float32)[self._shown[self._step]]


def vector(make: Callable[[], gym.Env[Any, Any]], count: int) -> SyncVectorEnv:
    """As many, in the mode in which our learner plays."""
    return SyncVectorEnv([make] * count, autoreset_mode=AutoresetMode.SAME_STEP)


def cartpole() -> gym.Env[Any, Any]:
    """CartPole-v1."""
    return gym.make("CartPole-v1")


def masked_cartpole() -> gym.Env[Any, Any]:
    """The same without velocities."""
    return PositionsOnly(gym.make("CartPole-v1"))
