"""Environments of others, small and with a known best, on which our PPO is checked."""

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from sb3_contrib.common.envs import InvalidActionEnvMultiDiscrete


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


class NamedByMask(gym.Wrapper[Any, Any, Any, Any]):
    """sb3-contrib's `InvalidActionEnvMultiDiscrete`, with the state one-hot and the mask in info; counts.

    Args:
        sizes: Values of each head.
        illegal: How many of all values are illegal in a step.
    """

    def __init__(self, sizes: tuple[int, ...], illegal: int) -> None:
        super().__init__(InvalidActionEnvMultiDiscrete(list(sizes), n_invalid_actions=illegal))
        self._starts = np.cumsum([0, *sizes[:-1]])
        self.observation_space = spaces.Box(0, 1, (sum(sizes),), np.float32)
        self.played = self.illegal = 0

    def reset(
        self, *, seed: int | None = None, options: Any = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """See `gymnasium.Env`."""
        self.env.action_space.seed(seed)  # where the states are drawn from
        state, _ = self.env.reset(seed=seed)
        return self._see(state), {"action_mask": self.action_masks()}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env`."""
        self.played += 1
        self.illegal += not self.action_masks()[self._starts + action].all()
        state, reward, terminated, truncated, _ = self.env.step(action)
        seen = {"action_mask": self.action_masks()}
        return self._see(state), float(reward), terminated, truncated, seen

    def action_masks(self) -> NDArray[np.bool_]:
        """(value of any head,): what is legal now."""
        return np.array(self.env.unwrapped.action_masks())

    def _see(self, state: Any) -> NDArray[np.float32]:
        seen = np.zeros(self.observation_space.shape, dtype=np.float32)
        seen[self._starts + state] = 1
        return seen


def vector(make: Callable[[], gym.Env[Any, Any]], count: int) -> SyncVectorEnv:
    """As many, in the mode in which our learner plays."""
    return SyncVectorEnv([make] * count, autoreset_mode=AutoresetMode.SAME_STEP)


def cartpole() -> gym.Env[Any, Any]:
    """CartPole-v1."""
    return gym.make("CartPole-v1")


def masked_cartpole() -> gym.Env[Any, Any]:
    """The same without velocities."""
    return PositionsOnly(gym.make("CartPole-v1"))
